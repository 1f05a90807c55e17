//! Tests a slow handler. Times that are set or started in it count from that moment, and events
//! that happened meanwhile count from their own time.

mod monitor_util;

use std::time::Duration;

use childminder::{Command, Event, Reactor, Service};
use monitor_util::{WATCHDOG, World, all_instant_deaths, each_way, group, no_instant_deaths, now, sh};

/// Keeps the thread busy, as a slow handler of a host does.
fn busy(time: Duration) {
    let start = now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

const BUSY: Duration = Duration::from_millis(600);

/// Takes turns until `handler` returns `true`.
fn run(reactor: &mut Reactor, mut handler: impl FnMut(&mut Reactor, Event<'_>) -> bool) {
    let start = now();
    let mut over = false;
    while !over {
        assert!(start.elapsed() < WATCHDOG, "nothing came of it");
        reactor.turn(Some(Duration::from_secs(1)), |reactor, event| over |= handler(reactor, event)).unwrap();
    }
}

#[test]
fn a_timer_counts_from_the_call() {
    let mut reactor = Reactor::new().unwrap();
    let first = reactor.call_later(Duration::ZERO);
    let mut set = None;
    run(&mut reactor, |reactor, event| match event {
        Event::Timer(id) if id == first => {
            busy(BUSY);
            let delay = Duration::from_millis(200);
            let before = now();
            let id = reactor.call_later(delay);
            assert!(reactor.timer_deadline(id).unwrap() >= before + delay);
            set = Some((id, before + delay));
            false
        }
        Event::Timer(id) => {
            let (expected, deadline) = set.unwrap();
            assert_eq!(id, expected);
            assert!(now() >= deadline, "{:?} early", deadline - now());
            true
        }
        _ => false,
    });
}

#[test]
fn a_process_lives_from_its_spawn() {
    let mut reactor = Reactor::new().unwrap();
    reactor.call_later(Duration::ZERO);
    let mut before = now();
    run(&mut reactor, |reactor, event| match event {
        Event::Timer(_) => {
            busy(BUSY);
            before = now();
            let id = reactor.spawn_process(&Command::new("true")).unwrap();
            let started = reactor.process(id).unwrap().started();
            assert!(before <= started && started <= now());
            false
        }
        Event::Exited { exit, .. } => {
            assert!(exit.wall_time <= now() - before, "{:?}", exit.wall_time);
            true
        }
        _ => false,
    });
}

#[test]
fn an_exit_counts_from_when_the_wait_told_of_it() {
    let mut reactor = Reactor::new().unwrap();
    let before = now();
    let id = reactor.spawn_process(&sh("echo word")).unwrap();
    // Both the word and the exit are there before the turn.
    until_dead(reactor.process(id).unwrap().pid().unwrap());
    let mut told = None;
    run(&mut reactor, |_, event| match event {
        Event::Data { .. } => {
            told.get_or_insert_with(now);
            busy(BUSY);
            false
        }
        Event::Exited { exit, .. } => {
            assert!(exit.wall_time <= told.unwrap() - before, "{:?}", exit.wall_time);
            true
        }
        _ => false,
    });
}

#[test]
fn a_stop_has_all_of_its_kill_time() {
    each_way(|world| {
        let kill_time = Duration::from_millis(500);
        let mut policy = no_instant_deaths();
        policy.kill_time = kill_time;
        let script = "trap '' TERM; echo ready; while :; do sleep 0.02; done";
        world.add_with("deaf", &sh(script), policy);
        world.start();
        world.until_ready("deaf", 1);
        let timer = world.reactor.call_later(Duration::ZERO);
        let World { reactor, monitor, .. } = world;
        let mut asked = None;
        run(reactor, |reactor, event| {
            if matches!(event, Event::Timer(id) if id == timer) {
                busy(BUSY);
                asked = Some(now());
                monitor.stop_service(reactor);
            }
            monitor.handle(reactor, &event);
            monitor.is_down() && asked.is_some()
        });
        let waited = world.last("killing", "deaf") - asked.unwrap();
        assert!(waited >= kill_time, "killed after {waited:?}");
    });
}

#[test]
fn an_instant_death_stays_one() {
    const THRESHOLD: Duration = Duration::from_secs(1);
    each_way(|world| {
        let mut policy = all_instant_deaths();
        policy.threshold = THRESHOLD;
        policy.min_restart_delay = Duration::from_secs(1000);
        world.start();
        // On a slow machine the process may live for longer than the threshold.
        for number in 0.. {
            let name = format!("brief-{number}");
            let began = now();
            world.add_with(&name, &sh("echo word"), policy.clone());
            until_dead(world.pid(&name));
            let is_instant = began.elapsed() < THRESHOLD;
            let World { reactor, monitor, .. } = world;
            run(reactor, |reactor, event| {
                if matches!(event, Event::Data { .. }) {
                    busy(THRESHOLD);
                }
                monitor.handle(reactor, &event);
                matches!(event, Event::Exited { .. })
            });
            if is_instant {
                assert_eq!(world.delays(&name), [Duration::from_secs(1000)]);
                return;
            }
            assert!(number < 20, "it always lives for {THRESHOLD:?}");
        }
    });
}

fn until_dead(pid: u32) {
    let start = now();
    while group(pid).contains(&pid) {
        assert!(start.elapsed() < WATCHDOG, "{pid} lives on");
        std::thread::yield_now();
    }
}
