//! Tests what a child inherits from an untidy host: blocked and ignored signals, handlers, raised
//! limits, an odd umask, a thousand inheritable descriptors, and no stdin, stdout and stderr. It is
//! one test in a process of its own, because all of that belongs to the process.

#![allow(unsafe_code)]

mod util;

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};

use childminder::{Command, Stdio};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use util::{COMBINATIONS, World, field_of, needs_descriptors, sh};

const ZERO: &str = "0000000000000000";

fn soft_limit() -> u64 {
    getrlimit(Resource::Nofile).current.expect("a limit")
}

fn set_soft_limit(soft: u64) {
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) }).unwrap();
}

extern "C" fn handler(_: i32) {}

/// Opens a file without close-on-exec.
fn inheritable(at_least: i32) -> i32 {
    let file = File::open("/dev/zero").unwrap();
    // SAFETY: F_DUPFD takes an int.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, at_least) };
    assert!(fd >= at_least);
    fd
}

// Twisted: test_openFileDescriptors, childSignalHandling, GetFileActionsTests.
#[test]
fn a_messy_host() {
    if !needs_descriptors(16_000) {
        return;
    }
    // Threads that are made from now on inherit the mask, which applies to this thread, too.
    // SAFETY: zeroed is a valid set.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a local.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: the set is a local, and the call changes this thread's mask.
    assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut()) }, 0);
    for signal in [libc::SIGPIPE, libc::SIGUSR1, libc::SIGHUP, libc::SIGINT, libc::SIGRTMIN() + 3] {
        // SAFETY: ignoring a signal touches no memory.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR2, handler as extern "C" fn(i32) as libc::sighandler_t) };
    // SAFETY: umask touches no memory.
    unsafe { libc::umask(0o137) };

    let usual = soft_limit();
    set_soft_limit(256.min(usual));
    let mut worlds = COMBINATIONS.map(World::new);
    for world in &mut worlds {
        let before = soft_limit();
        let raised = world.reactor.raise_fd_limit().unwrap();
        assert!(raised.is_none_or(|raised| raised >= before && raised == soft_limit()));
        // A second call changes nothing, and children do not get the raised limit.
        world.reactor.raise_fd_limit().unwrap();
        let said = world.output(&sh("ulimit -n"));
        assert_eq!(said, format!("{before}\n"));
        set_soft_limit(before);
    }
    set_soft_limit(usual);

    let mut kept: Vec<i32> = (0..1000).map(|_| inheritable(3)).collect();
    kept.extend([4000, 9000, 15_000].map(inheritable));
    for world in &mut worlds {
        let mut status = Command::new("cat");
        status.arg("/proc/self/status");
        let said = world.output(&status);
        for field in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
            assert_eq!(field_of(&said, field), ZERO, "{field} in {said}");
        }
        assert_eq!(world.output(&sh("umask; ls -1v /proc/$$/fd; :")), "0137\n0\n1\n2\n");
        // The child gets some descriptors at the host's own numbers.
        let mut command = sh("ls -1v /proc/$$/fd; readlink /proc/$$/fd/7; :");
        command.fd(7, Stdio::null()).fd(kept[500], Stdio::inherit()).fd(300, Stdio::reader()).fd(4, Stdio::writer());
        let mut expected = [0, 1, 2, 4, 7, 300, kept[500]];
        expected.sort_unstable();
        let expected: String = expected.iter().map(|fd| format!("{fd}\n")).collect();
        assert_eq!(world.output(&command), format!("{expected}/dev/null\n"));
        // A signal that the host ignores ends the child. Twisted: childSignalHandling.
        let mut command = Command::new("sleep");
        let id = world.spawn(command.arg("1000"));
        world.process(id).signal(libc::SIGUSR1).unwrap();
        assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGUSR1));
        // The host itself is as untidy as before.
        assert!(kept.iter().all(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()));
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let blocked = u64::from_str_radix(&field_of(&own, "SigBlk"), 16).unwrap();
        let usr1 = 1 << (libc::SIGUSR1 - 1);
        assert_ne!(blocked & usr1, 0);
    }
    without_the_usual_three(&mut worlds);
}

/// The host has no stdin, stdout and stderr, so its pipes get these numbers.
fn without_the_usual_three(worlds: &mut [World]) {
    // SAFETY: F_DUPFD_CLOEXEC takes an int.
    let saved = [0, 1, 2].map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) });
    let close = || {
        for fd in 0..3 {
            // SAFETY: duplicates of these are kept, and no other code of this process uses them
            // now.
            unsafe { libc::close(fd) };
        }
    };
    let restore = || {
        for (fd, saved) in (0..).zip(saved) {
            // SAFETY: both descriptors are ours.
            unsafe { libc::dup2(saved, fd) };
        }
    };
    let mut said = Vec::new();
    for world in worlds {
        for stdin in [Stdio::null(), Stdio::piped()] {
            close();
            let mut command = sh("echo out; echo err >&2; cat; ls -1v /proc/$$/fd; :");
            command.stdin(stdin.clone());
            let id = world.reactor.spawn_process(&command);
            if let Some(mut process) = id.as_ref().ok().and_then(|id| world.reactor.process(*id)) {
                process.close_stdin();
            }
            // Our descriptors may be 0, 1 and 2 by now. They have to be closed before this process
            // writes a message there.
            let ended = id.map_err(|error| error.to_string()).map(|id| {
                world.until(|log| log.ended(id));
                (world.log.text(id, 1), world.log.text(id, 2))
            });
            restore();
            said.push(ended);
        }
    }
    for one in said {
        assert_eq!(one, Ok(("out\n0\n1\n2\n".to_owned(), "err\n".to_owned())));
    }
    // It is kept open to the end of the process, like all the others.
    let _ = File::open("/dev/null").unwrap().into_raw_fd();
}
