//! The tools that the tests of embedding share: the methods, a watchdog, readers of /proc, and what
//! a host may do without telling the library. It is the only file of these tests with `unsafe`
//! code.
//!
//! The one rule: it calls the C library as hosts do, not as this crate would.

#![allow(dead_code, unused_imports, unsafe_code)] // each test file takes what it needs; hosts call libc

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use childminder::{Command, Event, Exit, ProcessId, Reactor};

#[path = "../util/mod.rs"]
mod util;
pub(crate) use util::{COMBINATIONS as METHODS, children, left_out, needs_the_kernel, now, open_fds, threads};

/// The number of rounds of each case. The variable `CHILDMINDER_TEST_ROUNDS` sets another one, for
/// a machine on which a spawn takes long.
pub(crate) fn rounds() -> usize {
    std::env::var("CHILDMINDER_TEST_ROUNDS").map_or(100, |rounds| rounds.parse().expect("a number"))
}

/// Ends the whole process by SIGALRM after this time, even if it hangs.
pub(crate) fn watchdog(seconds: u32) {
    // SAFETY: alarm touches no memory.
    unsafe { libc::alarm(seconds) };
}

/// Runs a command to its end.
pub(crate) fn run(reactor: &mut Reactor, command: &Command) -> Exit {
    let id = reactor.spawn_process(command).unwrap();
    finish(reactor, id)
}

/// Takes turns until a process has ended.
pub(crate) fn finish(reactor: &mut Reactor, id: ProcessId) -> Exit {
    let mut how = None;
    while how.is_none() {
        let handler = |_: &mut Reactor, event: Event<'_>| match event {
            Event::Ended { process, exit } if process == id => how = Some(*exit),
            _ => {}
        };
        reactor.turn(None, handler).unwrap();
    }
    how.unwrap()
}

/// A command that exits with this code. It needs no shell if there is a program with that exit
/// code.
pub(crate) fn exits_with(code: i32) -> Command {
    match code {
        0 => Command::new("true"),
        1 => Command::new("false"),
        code => util::sh(&format!("exit {code}")),
    }
}

/// The resident memory of this process, in KiB.
pub(crate) fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The handler (0 for the default, 1 for ignored) and the flags of each signal.
pub(crate) fn dispositions() -> Vec<(i32, usize, i32)> {
    /// A flag that the C library adds to every action.
    const SA_RESTORER: i32 = 0x0400_0000;
    let shown = |signal| action(signal).map(|it| (signal, it.sa_sigaction, it.sa_flags & !SA_RESTORER));
    (1..=64).filter_map(shown).collect()
}

/// Whether the signal has a handler.
pub(crate) fn is_handled(signal: i32) -> bool {
    action(signal).is_some_and(|action| action.sa_sigaction > 1)
}

fn action(signal: i32) -> Option<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action the call only reads, and `action` has room for the old one.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction.
    (result == 0).then(|| unsafe { action.assume_init() })
}

/// Calls `body` with all signals blocked in this thread.
pub(crate) fn with_all_blocked(body: impl FnOnce()) {
    // SAFETY: zeroed is a valid set.
    let (mut all, mut before) = unsafe { std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>() };
    // SAFETY: the set is a local.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets are locals.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) }, 0);
    body();
    // SAFETY: this is the mask from before.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) }, 0);
}

/// Sets the action of a signal as C programs do, and returns the handler from before.
pub(crate) fn set_action(signal: i32, handler: usize, flags: i32) -> usize {
    let mut new = action(signal).unwrap();
    let before = new.sa_sigaction;
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    // SAFETY: `new` is a valid action, and the handlers of these tests only use atomics.
    let result = unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) };
    assert_eq!(result, 0);
    before
}

/// Calls a handler that was there before, as a well-behaved host does.
pub(crate) fn call_handler(handler: usize, signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    if handler > 1 {
        // SAFETY: signal-hook installed this handler with SA_SIGINFO, so it has this signature.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(signal, info, context);
    }
}

/// Reaps any child with `waitpid(-1)`. `None` if there is no child at all.
pub(crate) fn steal() -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is a local.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
    (pid > 0).then_some(pid)
}

/// Waits for one child. Returns its raw status, or the errno.
pub(crate) fn wait_for(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a local.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Waits until a child has ended, and leaves it unreaped.
pub(crate) fn await_zombie(pid: i32) {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = pid.unsigned_abs();
    // SAFETY: `info` has room for what waitid writes.
    let result = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
    assert_eq!(result, 0);
}

/// Blocks or unblocks a signal in this thread.
pub(crate) fn mask(how: i32, signals: &[i32]) {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` has room for what sigemptyset writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: sigemptyset has initialised it.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: the set is ours; the call changes this thread's mask alone.
    unsafe { libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut()) };
}

/// Forks without an exec. `in_child` runs in the child, which then ends with its result. It may
/// allocate whatever glibc allows after a fork, which is anything if the process has a single
/// thread at that moment.
pub(crate) fn fork(in_child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: glibc makes its allocator usable in the child, and the child ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let code = in_child();
        // SAFETY: _exit ends the child alone, without the exit handlers of the test harness.
        unsafe { libc::_exit(code) };
    }
    pid
}

/// Runs, in a forked child, the destructor of a value that the parent goes on using in its own
/// memory.
pub(crate) fn drop_copy<T>(value: &T) {
    // SAFETY: this is only called in a forked child, which ends right afterwards without touching
    // the original.
    drop(unsafe { ptr::read(value) });
}

/// Loads shared libraries with `dlopen(3)`.
pub(crate) mod plugin {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    pub(crate) struct Plugin(usize);

    pub(crate) fn load(path: &Path) -> Plugin {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in NUL, and the library's constructors are those of Rust's std.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        Plugin(handle as usize)
    }

    impl Plugin {
        /// Calls a function without arguments that returns an int.
        pub(crate) fn call(&self, name: &str) -> i32 {
            let name = CString::new(name).unwrap();
            // SAFETY: the handle is open until the drop.
            let function = unsafe { libc::dlsym(self.0 as *mut libc::c_void, name.as_ptr()) };
            assert!(!function.is_null());
            // SAFETY: the library's function has this signature.
            let function = unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> i32>(function) };
            function()
        }
    }

    impl Drop for Plugin {
        fn drop(&mut self) {
            // SAFETY: the handle is open, and no code of the library runs any more.
            let result = unsafe { libc::dlclose(self.0 as *mut libc::c_void) };
            assert_eq!(result, 0);
        }
    }
}
