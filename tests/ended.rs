//! Tests what a host can ask of a process that has ended, and until when.

mod util;

use std::time::Duration;

use childminder::{Event, Exit, ProcessId, Reactor, SignalError, Stdio, WriteError};
use util::{COMBINATIONS, World, on_all_combinations, sh};

/// Takes turns up to and including the one in which the process ends.
#[track_caller]
fn until_ended(world: &mut World, id: ProcessId) {
    world.until(|log| log.ended(id));
}

/// What is known of its exit now.
fn code(reactor: &mut Reactor, id: ProcessId) -> Option<i32> {
    reactor.process(id)?.exit().and_then(Exit::code)
}

on_all_combinations! {
    // It can be asked in its last event, after that turn, and in the next turn, but not after it.
    fn until_the_end_of_the_next_turn(world: &mut World) {
        let id = world.spawn(&sh("exit 3"));
        let mut at_end = None;
        world.until_with(
            |reactor, event| {
                if matches!(event, Event::Ended { .. }) {
                    at_end = Some((code(reactor, id), reactor.processes().count()));
                }
            },
            |log| log.ended(id),
        );
        assert_eq!(at_end, Some((Some(3), 0)), "it is not listed any more");
        for _ in 0..3 {
            assert_eq!(code(&mut world.reactor, id), Some(3), "no turn has begun");
        }
        world.reactor.call_later(Duration::ZERO);
        let mut in_timer = None;
        world.turn_with(Duration::from_secs(30), |reactor, event| {
            if matches!(event, Event::Timer(_)) {
                in_timer = code(reactor, id);
            }
        });
        assert_eq!(in_timer, Some(3));
        assert!(world.reactor.process(id).is_none());
    }

    // The answers are those of a process that has exited and whose pipes are closed.
    fn it_takes_nothing_any_more(world: &mut World) {
        let id = world.spawn(sh("exec cat").stdin(Stdio::piped()));
        world.process(id).close_stdin();
        until_ended(world, id);
        let mut process = world.process(id);
        assert_eq!((process.id(), process.pid()), (id, None));
        assert_eq!(process.write(0, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        assert_eq!((process.pending(0), process.bytes_read(1)), (None, None));
        for fd in 0..3 {
            process.pause(fd);
            process.resume(fd);
            process.close(fd);
        }
        process.close_all();
        assert!(matches!(process.signal(libc::SIGTERM), Err(SignalError::AlreadyExited)));
        assert!(matches!(process.kill_group(), Err(SignalError::AlreadyExited)));
        assert!(process.resize(1, 1).is_err() && process.terminal().is_none());
        world.settle();
        // Nothing of it is reported again.
        world.log.expect_in_order(id);
    }

    // Whether its exit and its end come in one turn or in two changes no answer: in the turn after
    // its exit it can be asked in any case.
    fn one_turn_or_two(world: &mut World) {
        for (held, script) in [(false, "exit 3"), (true, "cat <&3 & exit 3")] {
            let id = world.spawn(sh(script).fd(3, Stdio::writer()));
            world.until(|log| log.exit(id).is_some());
            assert!(!(held && world.log.ended(id)));
            assert_eq!(code(&mut world.reactor, id), Some(3));
            world.turn_with(Duration::ZERO, |_, _| {});
            if held {
                world.process(id).close(3);
            }
            until_ended(world, id);
        }
    }

    // The members of its group that are left can be found and reached after its end, too.
    fn its_group_is_left(world: &mut World) {
        let id = world.spawn(&sh("sleep 1000 >/dev/null 2>&1 & echo $!; exit 3"));
        // Where the kernel does not reach them, it does so neither before nor after the end.
        let ask = |reactor: &mut Reactor| {
            let reached = reactor.process(id).is_some_and(|mut process| process.signal_group(0).is_ok());
            (reached, reactor.tree(id).is_some_and(|mut tree| !tree.is_empty()))
        };
        let mut before = None;
        world.until_with(
            |reactor, event| {
                if matches!(event, Event::Exited { .. }) {
                    before = Some(ask(reactor));
                }
            },
            |log| log.ended(id),
        );
        let after = ask(&mut world.reactor);
        assert_eq!(Some(after), before);
        if after.1 {
            world.reactor.tree(id).unwrap().kill().unwrap();
            let mut gone = None;
            while gone.is_none() {
                world.turn_with(Duration::from_secs(30), |_, event| match event {
                    Event::TreeGone { process, certain } if *process == id => gone = Some(*certain),
                    _ => {}
                });
            }
            assert_eq!(gone, Some(true));
            assert!(world.reactor.tree(id).is_none());
        } else {
            let pid = world.log.text(id, 1);
            assert!(world.run(&sh(&format!("kill -9 {pid}"))).exit.success());
        }

        let id = world.spawn(&sh("exit 3"));
        until_ended(world, id);
        assert!(world.reactor.tree(id).is_none(), "nobody is left");
    }
}
