//! Writing to a child that is gone, in a host that would die of SIGPIPE.
//!
//! One test, in a process of its own: it is about the signal's disposition.

#![allow(unsafe_code)]

mod util;

use childminder::{Stdio, WriteError};
use util::{COMBINATIONS, World, sh};

// P22
#[test]
fn a_gone_child_does_not_kill_the_host() {
    // Rust ignores it in every program; this one is as C would have it.
    // SAFETY: the default touches no memory.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        let mut command = sh("exec 0<&-; echo closed; read go <&3");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        let mut told = false;
        while !told {
            // Without a turn, so that the write itself finds out; it may be too early for that, too.
            match world.process(id).write(0, &[0; 1000]) {
                Ok(true) => std::thread::yield_now(),
                Ok(false) if world.process(id).pending(0).is_some() => std::thread::yield_now(),
                Ok(false) => told = true,
                Err(error) => panic!("{error}"),
            }
            if world.process(id).pending(0).is_some_and(|pending| pending > 1 << 20) {
                // The shell has not come so far: let it be told by the turn.
                break;
            }
        }
        world.until(|log| log.closed(id, 0).is_some());
        assert!(world.log.closed(id, 0).unwrap() >= 1000 || !told);
        assert_eq!(world.process(id).write(0, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        world.process(id).write(3, b"go\n").unwrap();
        assert!(world.until_ended(id).exit.success());
        // Nothing is left of it that would come later.
        assert_eq!(util::status_field("thread-self", "SigPnd"), "0".repeat(16));
        assert_eq!(util::status_field("thread-self", "SigBlk"), "0".repeat(16));
    }
}
