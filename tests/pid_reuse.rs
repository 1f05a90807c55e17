//! Tests a child that other code in the process has reaped, and whose pid the host's next child
//! gets. The exit of that child belongs to the host.

#![cfg(target_os = "linux")]

#[path = "util/apart.rs"]
mod apart;
mod embed_util;

use std::fs;
use std::time::Duration;

use childminder::{Command, Event, Exit, ProcessId, Reactor, ReapMethod, SignalError, SpawnMethod, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use embed_util::{await_zombie, fork, now, wait_for, watchdog};

const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
/// Other processes on the machine start processes too, and may take the number first.
const TRIES: usize = 1_000;
/// Start times are given in hundredths of a second.
const TICKS: Duration = Duration::from_millis(30);

/// A child of ours that the host has reaped, and its pid.
fn stolen(reactor: &mut Reactor) -> (ProcessId, i32) {
    let id = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
    let mut cat = reactor.process(id).unwrap();
    let pid = i32::try_from(cat.pid().unwrap()).unwrap();
    cat.close_stdin();
    assert_eq!(wait_for(pid).unwrap(), 0, "stolen");
    (id, pid)
}

/// Gives this pid to the next process, unless another program starts one first. `false` without
/// root.
fn set_next(pid: i32) -> bool {
    let set = fs::write(LAST_PID, (pid - 1).to_string());
    if let Err(error) = &set {
        embed_util::left_out(&format!("the next pid cannot be set: {error}"));
    }
    set.is_ok()
}

fn until_ended(reactor: &mut Reactor) -> Exit {
    let (mut exit, mut ended) = (None, false);
    while !ended {
        let handler = |_: &mut Reactor, event: Event<'_>| match event {
            Event::Exited { exit: how, .. } => exit = Some(*how),
            Event::Ended { .. } => ended = true,
            _ => {}
        };
        reactor.turn(None, handler).unwrap();
    }
    exit.unwrap()
}

#[test]
fn a_reused_number_is_not_ours() {
    watchdog(300);
    let mut reactor = Reactor::with_methods(SpawnMethod::Vfork, ReapMethod::Pidfd).unwrap();
    for _ in 0..TRIES {
        let (_, pid) = stolen(&mut reactor);
        if !set_next(pid) {
            return;
        }
        let theirs = fork(|| 7);
        await_zombie(theirs);
        assert_eq!(until_ended(&mut reactor).status, None);
        assert_eq!(libc::WEXITSTATUS(wait_for(theirs).expect("it is the host's")), 7);
        if theirs == pid {
            return;
        }
    }
    embed_util::left_out("the number was never to be had");
}

// Without a pidfd, the start time of the pid's new owner shows the reuse.
#[test]
fn a_reused_number_is_not_ours_without_a_pidfd() {
    watchdog(300);
    let mut reactor = Reactor::with_methods(SpawnMethod::Vfork, ReapMethod::Sigchld).unwrap();
    for _ in 0..TRIES {
        let (id, pid) = stolen(&mut reactor);
        let start = now();
        while start.elapsed() < TICKS {
            std::thread::yield_now();
        }
        if !set_next(pid) {
            return;
        }
        let mut theirs = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let got = theirs.id() == pid.unsigned_abs();
        if got {
            // This process lives, and is not ours.
            for signal in [libc::SIGTERM, libc::SIGKILL] {
                let mut process = reactor.process(id).unwrap();
                assert!(matches!(process.signal(signal), Err(SignalError::AlreadyExited)));
                assert!(matches!(process.signal_group(signal), Err(SignalError::AlreadyExited)));
            }
        }
        drop(theirs.stdin.take());
        await_zombie(theirs.id().try_into().unwrap());
        assert_eq!(until_ended(&mut reactor).status, None);
        assert!(theirs.wait().expect("it is the host's").success());
        if got {
            return;
        }
    }
    embed_util::left_out("the number was never to be had");
}

// Without a free descriptor, the start times cannot be read. That is no sign of a new owner.
#[test]
fn what_cannot_be_read_tells_nothing() {
    apart::expect_apart("what_cannot_be_read_tells_nothing", || {
        let mut reactor = Reactor::with_methods(SpawnMethod::Vfork, ReapMethod::Sigchld).unwrap();
        let id = reactor.spawn_process(Command::new("sleep").arg("1000")).unwrap();
        let none = Rlimit { current: Some(0), maximum: getrlimit(Resource::Nofile).maximum };
        setrlimit(Resource::Nofile, none).unwrap();
        assert!(fs::read("/proc/self/stat").is_err());
        reactor.process(id).unwrap().signal(libc::SIGTERM).unwrap();
        assert_eq!(until_ended(&mut reactor).signal(), Some(libc::SIGTERM));
    });
}
