//! What a child inherits of the environment: the same whether it is lent or copied, and never half changed.
//!
//! A process and a main of its own: an environment is the whole process's, and the test harness is never without threads.

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

/// How many bytes have been asked for so far.
struct Counting(AtomicUsize);

// SAFETY: the system's own, with a count.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting(AtomicUsize::new(0));

/// A variable that nobody would copy unasked.
const LARGE: usize = 100_000;

fn main() {
    with_odd_variables();
    // SAFETY: this thread is alone.
    unsafe { std::env::set_var("CHILDMINDER_LARGE", "x".repeat(LARGE)) };
    let (alone, lent) = (all_that_children_see(), bytes_of_a_spawn());
    assert_eq!(util::threads(), 1, "this was to be seen without another thread");
    let (among_others, copied) = std::thread::scope(|scope| {
        let (keep, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || wait.recv());
        let seen = (all_that_children_see(), bytes_of_a_spawn());
        drop(keep);
        seen
    });
    assert!(alone == among_others, "what is lent is not what is copied");
    assert!(copied > LARGE, "{copied} bytes for a copy");
    if cfg!(target_env = "gnu") {
        assert!(lent < LARGE, "{lent} bytes for what is lent");
    }
    // SAFETY: this thread is alone again.
    unsafe { std::env::remove_var("CHILDMINDER_LARGE") };
    a_child_never_sees_the_environment_half_changed();
    println!("ok");
}

/// Has this program run again with variables that no shell makes.
fn with_odd_variables() {
    if std::env::var_os("CHILDMINDER_ODD").is_some() {
        return;
    }
    let own = std::env::vars_os().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat());
    let odd: [&[u8]; 5] = [b"no equals sign", b"=hidden=1", b"", b"CHILDMINDER_ODD=\xff=", b"CHILDMINDER_EMPTY="];
    let strings =
        |all: Vec<Vec<u8>>| -> Vec<CString> { all.into_iter().map(|one| CString::new(one).unwrap()).collect() };
    let env = strings(own.chain(odd.map(<[u8]>::to_vec)).collect());
    let args = strings(std::env::args_os().map(OsString::into_vec).collect());
    let pointers = |all: &[CString]| -> Vec<_> { all.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect() };
    // SAFETY: C strings, and null-terminated arrays of them.
    unsafe { libc::execve(c"/proc/self/exe".as_ptr(), pointers(&args).as_ptr(), pointers(&env).as_ptr()) };
    panic!("{}", std::io::Error::last_os_error());
}

/// What children say of theirs, for each way of saying what it shall be and each way to start a child.
fn all_that_children_see() -> Vec<String> {
    let plain = Command::new("/usr/bin/env");
    let mut changed = Command::new("env");
    changed.env("CHILDMINDER_NEW", "1").env("CHILDMINDER_EMPTY", "no more").env_remove("CHILDMINDER_ODD");
    let mut elsewhere = Command::new("env");
    elsewhere.env("PATH", "/none:/usr/bin");
    let mut listening = Command::new("env");
    listening.env("LISTEN_FDS", "7").listen_fd("web", TcpListener::bind("127.0.0.1:0").unwrap());
    let mut cleared = Command::new("env");
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
        let count = |number: usize, line: &str| seen[number].lines().filter(|known| *known == line).count();
        assert!(seen[0].lines().eq(&own), "not the host's");
        assert_eq!([count(0, "CHILDMINDER_ODD=\u{fffd}="), count(0, "CHILDMINDER_EMPTY=")], [1, 1]);
        assert_eq!([count(1, "CHILDMINDER_NEW=1"), count(1, "CHILDMINDER_EMPTY=no more")], [1, 1]);
        assert_eq!([count(1, "CHILDMINDER_ODD=\u{fffd}="), count(1, "CHILDMINDER_EMPTY=")], [0, 0]);
        assert_eq!(count(2, "PATH=/none:/usr/bin"), 1);
        assert_eq!([count(3, "LISTEN_FDS=1"), count(3, "LISTEN_FDS=7")], [1, 0]);
        assert_eq!(seen[4], "CHILDMINDER_ONLY=1\n");
        // The one line that is each child's own.
        all.extend(
            seen.iter()
                .flat_map(|seen| seen.lines())
                .filter(|line| !line.starts_with("LISTEN_PID="))
                .map(str::to_owned),
        );
    }
    all
}

/// How much memory a spawn asks for.
fn bytes_of_a_spawn() -> usize {
    let mut world = World::new(COMBINATIONS[0]);
    let command = Command::new("/bin/true");
    let before = MEMORY.0.load(Ordering::Relaxed);
    let id = world.spawn(&command);
    let bytes = MEMORY.0.load(Ordering::Relaxed) - before;
    world.until_ended(id);
    bytes
}

/// Also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn a_child_never_sees_the_environment_half_changed() {
    // SAFETY: this thread is alone yet.
    unsafe { std::env::set_var("CHILDMINDER_STABLE", "yes") };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..200 {
                    // SAFETY: all others here read the environment through std alone, whose lock keeps them apart.
                    unsafe { std::env::set_var(format!("CHILDMINDER_{number}"), number.to_string()) };
                }
                for number in 0..200 {
                    // SAFETY: as above.
                    unsafe { std::env::remove_var(format!("CHILDMINDER_{number}")) };
                }
            }
        });
        let _stop = Stop(&stop);
        let mut command = Command::new("/usr/bin/env");
        command.env_remove("CHILDMINDER_ODD");
        for methods in COMBINATIONS {
            let mut world = World::new(methods);
            for _ in 0..100 {
                let said = world.output(&command);
                let names: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
                let mut once = names.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), names.len(), "twice: {said}");
                assert!(said.contains("CHILDMINDER_STABLE=yes\n"), "{said}");
            }
        }
    });
}
