//! Children whose status nobody can learn, because the host ignores SIGCHLD.
//!
//! One test, in a process of its own: it is about the signal's disposition.

#![allow(unsafe_code)]

mod util;

use childminder::{Command, Stdio};
use util::{COMBINATIONS, World, sh};

fn ignore_sigchld() {
    // SAFETY: ignoring a signal touches no memory.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

// P38, B15: one exit, one end, and a status that says that it is unknown; WithWaitError, ErrorECHILDInReapProcess
#[test]
fn unknown_but_not_lost() {
    // Whoever sweeps takes SIGCHLD, and so learns the status.
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
            // Where the kernel had reaped before there was a pidfd, the sweep has taken over, and some may have got a status.
            assert!(outcome.exit.status.is_none() || outcome.exit.code() == Some(code as i32));
            assert_eq!(outcome.out, format!("{code}\n"));
        }
        let mut command = Command::new("cat");
        let id = world.spawn(command.stdin(Stdio::piped()));
        // A sweep, too, has been known to ask for SIGCHLD.
        ignore_sigchld();
        world.process(id).close_stdin();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.status, exit.success(), exit.code(), exit.signal()), (None, false, None, None));
        assert_eq!(exit.to_string(), "status unknown");
        assert_eq!(exit.usage, Default::default());
        // A failure is still the right one.
        let error = world.reactor.spawn_process(&Command::new("/no/such")).unwrap_err();
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOENT));
    }
}
