//! Tests a write to a child that is gone, in a host that SIGPIPE would kill. It is one test in a
//! process of its own, because it changes the signal's action.

#![allow(unsafe_code)]

mod util;

use childminder::{Stdio, WriteError};
use util::{COMBINATIONS, World, sh};

#[test]
fn a_gone_child_does_not_kill_the_host() {
    // Rust ignores SIGPIPE in every program. This one has the default action, as a C program has.
    // SAFETY: the default action touches no memory.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        let mut command = sh("exec 0<&-; echo closed; read go <&3");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        let mut told = false;
        while !told {
            // There is no turn, so that the write itself finds the closed pipe. It may come too
            // early for that, too.
            match world.process(id).write(0, &[0; 1000]) {
                Ok(true) => std::thread::yield_now(),
                Ok(false) if world.process(id).pending(0).is_some() => std::thread::yield_now(),
                Ok(false) => told = true,
                Err(error) => panic!("{error}"),
            }
            if world.process(id).pending(0).is_some_and(|pending| pending > 1 << 20) {
                // The shell has not closed its stdin yet, so the turn reports it.
                break;
            }
        }
        world.until(|log| log.closed(id, 0).is_some());
        assert!(world.log.closed(id, 0).unwrap() >= 1000 || !told);
        assert_eq!(world.process(id).write(0, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        world.process(id).write(3, b"go\n").unwrap();
        assert!(world.until_ended(id).exit.success());
        // No signal is left pending.
        assert_eq!(util::status_field("thread-self", "SigPnd"), "0".repeat(16));
        assert_eq!(util::status_field("thread-self", "SigBlk"), "0".repeat(16));
    }
}
