//! Tests children that other code in this process has reaped first. It is one test in a process of
//! its own, because it waits for any child.

#![allow(unsafe_code)]

mod util;

use std::time::Duration;

use childminder::{Event, Reactor, SignalError, Stdio};
use util::{COMBINATIONS, World, sh};

/// Reaps the child of this process that exits next. `false` if there is none.
fn steal() -> bool {
    // SAFETY: with a null status, nothing is written.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) > 0 }
}

// Each process has one exit, one end, and a status that is unknown. Twisted:
// ErrorECHILDInReapProcess.
#[test]
fn unknown_but_not_lost() {
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        let mut command = sh("sleep 1000 >/dev/null 2>&1 & echo $!; read go; exit 3");
        let id = world.spawn(command.stdin(Stdio::piped()));
        world.until_said(id, 1, "\n");
        world.process(id).kill_group_at_exit(true);
        world.process(id).write(0, b"go\n").unwrap();
        assert!(steal());
        // The pid is not ours any more, so no signal is sent to it.
        assert!(matches!(world.process(id).signal(libc::SIGTERM), Err(SignalError::AlreadyExited)));
        let outcome = world.until_ended(id);
        assert_eq!((outcome.exit.status, outcome.exit.requested), (None, None));
        world.settle();
        assert!(world.log.ended(id));
        // No signal is sent to the group of that number either, even after a kill was requested.
        let left: i32 = outcome.out.trim().parse().unwrap();
        let state = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap();
        assert!(!state.rsplit_once(") ").unwrap().1.starts_with('Z'), "{state}");
        // SAFETY: kill touches no memory. The process is ours, and nothing has waited for it
        // before.
        assert_eq!(unsafe { libc::kill(left, libc::SIGKILL) }, 0);
        // While one of its group lives, the group is not called empty, although the leader was to
        // be held until then.
        let id = world.spawn(command.stdin(Stdio::piped()));
        world.until_said(id, 1, "\n");
        let left = world.log.text(id, 1).trim().parse().unwrap();
        world.reactor.tree(id).unwrap().terminate(libc::SIGURG).unwrap();
        world.process(id).write(0, b"go\n").unwrap();
        assert!(steal());
        let expect_doubt = |_: &mut Reactor, event: &Event<'_>| {
            assert!(!matches!(event, Event::TreeGone { process, certain: true } if *process == id), "it lives");
        };
        world.until_with(expect_doubt, |log| log.exit(id).is_some());
        world.turn_with(Duration::ZERO, expect_doubt);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::kill(left, libc::SIGKILL) }, 0);
        // The exit of a second child is reaped, too.
        let id = world.spawn(&sh("exit 4"));
        assert!(steal());
        let other = world.spawn(&sh("exit 5"));
        assert_eq!(world.until_ended(id).exit.status, None);
        assert_eq!(world.until_ended(other).exit.code(), Some(5));
    }
}
