//! Tests the environment that a child inherits. It is the same whether it is lent or copied, and no
//! child ever sees it half changed.
//!
//! This test has its own process and its own `main`, because the environment belongs to the whole
//! process, and the test harness always has several threads.

#![allow(unsafe_code)] // set_var, execve, and an allocator that counts

mod util;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, OsString};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use childminder::Command;
use util::{COMBINATIONS, World};

/// An allocator that counts the bytes that were allocated so far.
struct Counting(AtomicUsize);

// SAFETY: this is the system's allocator with a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: our caller keeps the conditions of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: our caller keeps the conditions of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting(AtomicUsize::new(0));

/// The length of a variable that makes a copy of the environment visible in the count, in bytes.
const LARGE: usize = 100_000;

fn main() {
    if !util::needs_the_kernel("environment with a variable that is there twice") {
        return;
    }
    with_odd_variables();
    // SAFETY: there is no other thread.
    unsafe { std::env::set_var("CHILDMINDER_LARGE", "x".repeat(LARGE)) };
    let (alone, lent) = (all_that_children_see(), bytes_of_a_spawn());
    if cfg!(target_os = "linux") {
        assert_eq!(util::threads(), 1, "this was to be seen without another thread");
    }
    let (among_others, copied) = std::thread::scope(|scope| {
        let (keep, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || wait.recv());
        let seen = (all_that_children_see(), bytes_of_a_spawn());
        drop(keep);
        seen
    });
    assert!(alone == among_others, "what is lent is not what is copied");
    assert!(copied > LARGE, "{copied} bytes for a copy");
    if tells_of_threads() {
        assert!(lent < LARGE, "{lent} bytes for what is lent");
    }
    // SAFETY: there is no other thread any more.
    unsafe { std::env::remove_var("CHILDMINDER_LARGE") };
    a_child_never_sees_the_environment_half_changed();
    println!("ok");
}

/// Whether the C library tells that there is a single thread. glibc does from 2.32 on, if it is a
/// shared library.
fn tells_of_threads() -> bool {
    // SAFETY: the call looks up a constant C string.
    let flag = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    cfg!(target_os = "linux") && !flag.is_null()
}

/// Runs this program again with variables that a shell rarely or never makes.
fn with_odd_variables() {
    if std::env::var_os("CHILDMINDER_ODD").is_some() {
        return;
    }
    let own = std::env::vars_os().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat());
    let odd: [&[u8]; 8] = [
        b"no equals sign",
        b"=hidden=1",
        b"",
        b"CHILDMINDER_ODD=\xff=\r\nCHILDMINDER_EMPTY=\r",
        b"CHILDMINDER_EMPTY=",
        b"CHILDMINDER_TWICE=1",
        b"CHILDMINDER_TWICE=2",
        b"PATH=/none",
    ];
    let strings =
        |all: Vec<Vec<u8>>| -> Vec<CString> { all.into_iter().map(|one| CString::new(one).unwrap()).collect() };
    let env = strings(own.chain(odd.map(<[u8]>::to_vec)).collect());
    let args = strings(std::env::args_os().map(OsString::into_vec).collect());
    let pointers = |all: &[CString]| -> Vec<_> { all.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect() };
    let own_path = CString::new(std::env::current_exe().unwrap().into_os_string().into_vec()).unwrap();
    // SAFETY: the arguments are a C string and two null-terminated arrays of C strings.
    unsafe { libc::execve(own_path.as_ptr(), pointers(&args).as_ptr(), pointers(&env).as_ptr()) };
    panic!("{}", std::io::Error::last_os_error());
}

/// The command env(1) alone. It writes a NUL after each variable.
fn env() -> Command {
    let mut command = Command::new("env");
    command.arg("-0");
    command
}

/// The variables in its output.
fn variables(said: &str) -> impl Iterator<Item = &str> {
    said.split_terminator('\0')
}

/// The environments that children report, for each way to set the environment and each way to start
/// a child.
fn all_that_children_see() -> Vec<String> {
    // The first command uses the host's PATH, because the PATH of the others would not find the
    // program.
    let plain = env();
    let mut changed = env();
    changed.env("CHILDMINDER_NEW", "1").env("CHILDMINDER_EMPTY", "no more").env("CHILDMINDER_TWICE", "3");
    changed.env_remove("CHILDMINDER_ODD");
    let mut elsewhere = env();
    elsewhere.env("PATH", "/none:/usr/bin");
    let mut listening = env();
    listening.env("LISTEN_FDS", "7").listen_fd("web", TcpListener::bind("127.0.0.1:0").unwrap());
    let mut cleared = env();
    cleared.env_clear().env("CHILDMINDER_ONLY", "1");
    let own: Vec<String> = std::env::vars_os()
        .filter(|(key, _)| !key.as_bytes().starts_with(b"="))
        .map(|(key, value)| format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
        .collect();
    let mut all = Vec::new();
    for methods in COMBINATIONS {
        let mut world = World::new(methods);
        let seen = [&plain, &changed, &elsewhere, &listening, &cleared].map(|command| {
            let id = world.spawn(command);
            world.until(|log| log.ended(id));
            String::from_utf8_lossy(&world.log.data(id, 1)).into_owned()
        });
        let all_of = |number: usize, name: &str| -> Vec<&str> {
            variables(&seen[number]).filter_map(|one| one.strip_prefix(name)?.strip_prefix('=')).collect()
        };
        assert!(variables(&seen[0]).eq(&own), "not the host's");
        assert_eq!(all_of(0, "CHILDMINDER_ODD"), ["\u{fffd}=\r\nCHILDMINDER_EMPTY=\r"]);
        assert_eq!(all_of(0, "CHILDMINDER_EMPTY"), [""]);
        assert_eq!(all_of(0, "CHILDMINDER_TWICE"), ["1", "2"]);
        assert_eq!((all_of(0, "PATH").len(), all_of(0, "PATH")[1]), (2, "/none"));
        assert_eq!(all_of(1, "CHILDMINDER_NEW"), ["1"]);
        assert_eq!(all_of(1, "CHILDMINDER_EMPTY"), ["no more"]);
        assert_eq!(all_of(1, "CHILDMINDER_TWICE"), ["3"]);
        assert_eq!(all_of(1, "CHILDMINDER_ODD").len(), 0);
        assert_eq!(all_of(2, "PATH"), ["/none:/usr/bin"]);
        assert_eq!(all_of(3, "LISTEN_FDS"), ["1"]);
        assert_eq!(seen[4], "CHILDMINDER_ONLY=1\0");
        // LISTEN_PID is different in each child, so it is left out.
        let common = seen.iter().flat_map(|seen| variables(seen)).filter(|one| !one.starts_with("LISTEN_PID="));
        all.extend(common.map(str::to_owned));
    }
    all
}

/// The number of bytes that a spawn allocates.
fn bytes_of_a_spawn() -> usize {
    let mut world = World::new(COMBINATIONS[0]);
    let command = Command::new("/bin/true");
    let before = MEMORY.0.load(Ordering::Relaxed);
    let id = world.spawn(&command);
    let bytes = MEMORY.0.load(Ordering::Relaxed) - before;
    world.until_ended(id);
    bytes
}

/// Stops the threads, even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn a_child_never_sees_the_environment_half_changed() {
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var("CHILDMINDER_STABLE", "yes") };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..200 {
                    // SAFETY: all other threads read the environment through std alone, whose lock
                    // keeps them apart.
                    unsafe { std::env::set_var(format!("CHILDMINDER_{number}"), number.to_string()) };
                }
                for number in 0..200 {
                    // SAFETY: all other threads read the environment through std alone, whose lock
                    // keeps them apart.
                    unsafe { std::env::remove_var(format!("CHILDMINDER_{number}")) };
                }
            }
        });
        let _stop = Stop(&stop);
        let mut command = env();
        for odd in ["CHILDMINDER_ODD", "CHILDMINDER_TWICE", "PATH"] {
            command.env_remove(odd);
        }
        for methods in COMBINATIONS {
            let mut world = World::new(methods);
            for _ in 0..100 {
                let said = world.output(&command);
                let names: Vec<&str> = variables(&said).filter_map(|one| Some(one.split_once('=')?.0)).collect();
                let mut once = names.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), names.len(), "twice: {said}");
                assert!(variables(&said).any(|one| one == "CHILDMINDER_STABLE=yes"), "{said}");
            }
        }
    });
}
