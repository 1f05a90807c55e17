//! Tests what a host can ask of a process that has ended, and until when.

mod util;

use std::time::Duration;

use childminder::{Event, Exit, ProcessId, Reactor, Stdio};
use util::{COMBINATIONS, World, on_all_combinations, sh};

/// What is known of its exit now.
fn code(reactor: &Reactor, id: ProcessId) -> Option<i32> {
    reactor.exit_of(id).and_then(Exit::code)
}

on_all_combinations! {
    // Its exit can be asked from the exit on: in its last event, after that turn, and in the next
    // turn, but not after it.
    fn until_the_end_of_the_next_turn(world: &mut World) {
        let id = world.spawn(sh("read x; exit 3").stdin(Stdio::piped()));
        assert_eq!(world.reactor.exit_of(id), None);
        world.process(id).close_stdin();
        let mut seen = Vec::new();
        world.until_with(
            |reactor, event| match event {
                Event::Exited { exit, .. } => {
                    assert_eq!(reactor.exit_of(id), Some(*exit));
                    seen.push("exited");
                }
                Event::Ended { exit, .. } => {
                    assert_eq!(reactor.exit_of(id), Some(*exit));
                    assert!(reactor.process(id).is_none());
                    seen.push("ended");
                }
                _ => {}
            },
            |log| log.ended(id),
        );
        assert_eq!(seen, ["exited", "ended"]);
        for _ in 0..3 {
            assert_eq!(code(&world.reactor, id), Some(3), "no turn has begun");
        }
        world.reactor.call_later(Duration::ZERO);
        let mut in_timer = None;
        while in_timer.is_none() {
            assert_eq!(code(&world.reactor, id), Some(3));
            world.turn_with(Duration::from_secs(30), |reactor, event| {
                if matches!(event, Event::Timer(_)) {
                    in_timer = code(reactor, id);
                }
            });
        }
        assert_eq!(in_timer, Some(3));
        assert_eq!(world.reactor.exit_of(id), None);
    }

    // A loop that goes on as long as there is a process ends with it. It must not wait in another
    // turn.
    fn a_loop_ends_with_its_process(world: &mut World) {
        let id = world.spawn(&sh("exit 3"));
        while world.reactor.process(id).is_some() {
            world.turn_with(Duration::from_secs(30), |_, _| {});
        }
        assert_eq!(code(&world.reactor, id), Some(3));
        assert_eq!(world.reactor.processes().count(), 0);
    }

    // Whether its exit and its end come in one turn or in two changes no answer: in the turn after
    // its exit it can be asked in any case.
    fn one_turn_or_two(world: &mut World) {
        for (held, script) in [(false, "exit 3"), (true, "cat <&3 & exit 3")] {
            let id = world.spawn(sh(script).fd(3, Stdio::writer()));
            world.until(|log| log.exit(id).is_some());
            assert!(!(held && world.log.ended(id)));
            assert_eq!(code(&world.reactor, id), Some(3));
            let waker = world.reactor.waker().unwrap();
            waker.wake().unwrap();
            let mut in_next = None;
            world.turn_with(Duration::from_secs(30), |reactor, _| in_next = in_next.or(code(reactor, id)));
            assert_eq!(in_next, Some(3));
            if held {
                world.process(id).close(3);
            }
            world.until(|log| log.ended(id));
        }
    }

    // The members of its group that are left can be found and reached after its end as before it.
    fn its_group_is_left(world: &mut World) {
        let id = world.spawn(&sh("sleep 1000 >/dev/null 2>&1 & echo $!; exit 3"));
        // Where the kernel does not reach them, it does so neither before nor after the end.
        let ask = |reactor: &mut Reactor| {
            reactor.tree(id).map(|mut tree| (tree.is_empty(), tree.signal(0).is_ok()))
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
        if after.is_some() {
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
        world.until(|log| log.ended(id));
        assert!(world.reactor.tree(id).is_none(), "nobody is left");
    }

    // Each of many is told from the others, and an id of another reactor is not known.
    fn many_at_once(world: &mut World) {
        let ids: Vec<_> = (0..20).map(|number| world.spawn(&sh(&format!("exit {number}")))).collect();
        let mut told = vec![None; ids.len()];
        while told.contains(&None) {
            world.turn_with(Duration::from_secs(30), |_, _| {});
            for (number, id) in ids.iter().enumerate() {
                told[number] = told[number].or(code(&world.reactor, *id));
            }
        }
        assert!(told.into_iter().eq((0..20).map(Some)));
        assert_eq!(world.reactor.exit_of(ProcessId::dummy(0)), None);
    }
}
