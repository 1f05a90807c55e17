//! Tests children whose status cannot be known, because the host ignores SIGCHLD. It is one test in
//! a process of its own, because it changes the signal's action.

#![allow(unsafe_code)]

mod util;

use childminder::{Command, Stdio};
use util::{COMBINATIONS, World, sh};

fn ignore_sigchld() {
    // SAFETY: ignoring a signal touches no memory.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

// Each process has one exit, one end, and a status that is unknown. Twisted: WithWaitError,
// ErrorECHILDInReapProcess.
#[test]
fn unknown_but_not_lost() {
    // A reactor that sweeps takes SIGCHLD, and so learns the status.
    ignore_sigchld();
    for combination in [COMBINATIONS[1], COMBINATIONS[3]] {
        let mut world = World::new(combination);
        assert_eq!(world.run(&sh("exit 3")).exit.code(), Some(3));
    }
    for combination in [COMBINATIONS[0], COMBINATIONS[2]] {
        // With pidfds SIGCHLD is left alone, and the kernel reaps.
        ignore_sigchld();
        let mut world = World::new(combination);
        let ids: Vec<_> = (0..10).map(|code| world.spawn(&sh(&format!("echo {code}; exit {code}")))).collect();
        for (code, id) in ids.into_iter().enumerate() {
            let outcome = world.until_ended(id);
            // If the kernel had reaped the child before there was a pidfd, the sweep has taken
            // over, and some may have a status.
            assert!(outcome.exit.status.is_none() || outcome.exit.code() == Some(code as i32));
            assert_eq!(outcome.out, format!("{code}\n"));
        }
        let mut command = Command::new("cat");
        let id = world.spawn(command.stdin(Stdio::piped()));
        // A sweep may have taken SIGCHLD.
        ignore_sigchld();
        world.process(id).close_stdin();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.status, exit.success(), exit.code(), exit.signal()), (None, false, None, None));
        assert_eq!(exit.to_string(), "status unknown");
        assert_eq!(exit.usage, Default::default());
        // The error of a failed spawn is still the right one.
        let error = world.reactor.spawn_process(&Command::new("/no/such")).unwrap_err();
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOENT));
    }
}
