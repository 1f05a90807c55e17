//! Tests when real processes are ready and well: by a descriptor, a message, a line, a socket and a
//! command; time limits, watchdogs and health checks; and stops in steps.
//!
//! The one rule: a lower bound of a time is exact, and an upper bound is far away, except where the
//! test says what it allows.

mod monitor_util;
#[path = "util/speaker.rs"]
#[cfg(target_os = "linux")]
mod speaker;

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use childminder::restart::{State, StopAction, StopScope, StopStep};
use childminder::{Check, Fault, Health, Order, Probe, Readiness, Ready, Service, Watch, When};
use monitor_util::{
    Dir, IDLE, STUBBORN, Told, World, all_instant_deaths, each_way, group, no_instant_deaths, now, sh, short_kill_time,
};

#[cfg(target_os = "linux")]
mod children {
    /// The program that speaks, for the children of the tests.
    #[test]
    fn speaker() {
        super::speaker::run();
    }
}

fn ready_by(ready: Ready) -> Watch {
    let mut watch = Watch::default();
    watch.ready = ready;
    watch
}

fn probe(check: Check) -> Probe {
    let mut probe = Probe::new(check);
    probe.interval = Duration::from_millis(5);
    probe
}

fn words(words: &[&str]) -> Arc<Vec<OsString>> {
    Arc::new(words.iter().map(OsString::from).collect())
}

fn shell(script: &str) -> Check {
    Check::Command(words(&["sh", "-c", script]))
}

fn readiness(world: &World, name: &str) -> Readiness {
    world.monitor.status(name).unwrap().readiness
}

/// The faults of a process, each with the time from its last start.
fn faults(world: &World, name: &str) -> Vec<(Duration, Fault)> {
    let mut started = None;
    let mut faults = Vec::new();
    for (time, told) in world.told(name) {
        match told {
            Told::Started { .. } => started = Some(*time),
            Told::Fault { fault, .. } => faults.push((*time - started.unwrap(), *fault)),
            _ => {}
        }
    }
    faults
}

#[test]
fn a_newline_at_a_descriptor() {
    each_way(|world| {
        world.add(
            "it",
            sh("printf half >&4; echo ready; read it; echo >&4; read it").stdin(childminder::Stdio::piped()),
        );
        world.watch("it", ready_by(Ready::Fd(4)));
        world.start();
        world.until_ready("it", 1);
        assert_eq!(readiness(world, "it"), Readiness::Pending);
        let process = world.monitor.status("it").unwrap().process.unwrap();
        world.reactor.process(process).unwrap().write(0, b"\n").unwrap();
        world.until_told("ready", "it", 1);
        assert_eq!(world.lines("it"), ["[it] ready"]);
        world.stop();
        world.until_down();
    });
}

#[test]
fn a_line_of_its_output() {
    each_way(|world| {
        world.add("it", &sh("echo starting; echo 'listening on 80' >&2; exec sleep 1000"));
        world.watch("it", ready_by(Ready::Line(b"listening".to_vec())));
        world.start();
        world.until_told("ready", "it", 1);
        assert_eq!(world.lines("it").len(), 2, "the lines are passed on all the same");
        world.restart_process("it");
        world.until_told("ready", "it", 2);
        world.stop();
        world.until_down();
    });
}

#[test]
fn the_threshold_and_the_start() {
    let mut world = World::new();
    let mut policy = no_instant_deaths();
    policy.threshold = Duration::from_millis(100);
    for name in ["by threshold", "at once"] {
        world.add_with(name, &sh(IDLE), policy.clone());
    }
    world.watch("by threshold", Watch::default());
    world.watch("at once", ready_by(Ready::Started));
    world.start();
    assert_eq!(
        (readiness(&world, "by threshold"), readiness(&world, "at once")),
        (Readiness::Pending, Readiness::Ready)
    );
    world.until_told("ready", "by threshold", 1);
    let (start, ready) = (world.last("started", "by threshold"), world.last("ready", "by threshold"));
    assert!(ready - start >= Duration::from_millis(99), "{:?}", ready - start);
}

#[test]
fn sockets() {
    each_way(|world| {
        let dir = Dir::new("readiness-sockets");
        let path = dir.path("socket");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for name in ["tcp", "unix"] {
            world.add(name, &sh(IDLE));
        }
        world.watch("tcp", ready_by(Ready::Probe(probe(Check::Tcp(port)))));
        world.watch("unix", ready_by(Ready::Probe(probe(Check::Unix(path.clone().into())))));
        world.start();
        for name in ["tcp", "unix"] {
            world.until_ready(name, 1);
            assert_eq!(readiness(world, name), Readiness::Pending);
        }
        let _tcp = TcpListener::bind(port).unwrap();
        world.until_told("ready", "tcp", 1);
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        world.until_told("ready", "unix", 1);
        world.stop();
        world.until_down();
    });
}

#[test]
fn a_command_succeeds() {
    each_way(|world| {
        let dir = Dir::new("readiness-succeeds");
        let path = dir.path("it is there");
        world.add("it", sh(IDLE).env("WANTED", &path));
        // It runs with the environment of the process, and knows its pid.
        let check = shell("test -n \"$MAINPID\" && kill -0 $MAINPID && test -e \"$WANTED\"");
        world.watch("it", ready_by(Ready::Probe(probe(check))));
        world.start();
        world.until_ready("it", 1);
        assert_eq!(readiness(world, "it"), Readiness::Pending);
        fs::write(&path, "").unwrap();
        world.until_told("ready", "it", 1);
        world.stop();
        world.until_down();
    });
}

#[test]
fn a_check_that_cannot_be_started_is_told_and_has_failed() {
    let mut world = World::new();
    world.add("it", &sh(IDLE));
    world.watch("it", ready_by(Ready::Probe(probe(Check::Command(words(&["/nowhere/at/all"]))))));
    world.start();
    world.until_told("helper failed", "it", 2);
    assert_eq!(readiness(&world, "it"), Readiness::Pending);
}

#[test]
fn a_check_that_hangs_is_ended_with_its_tree() {
    each_way(|world| {
        let dir = Dir::new("readiness-hangs");
        let path = dir.path("pids");
        world.add("it", &sh(IDLE));
        let script = format!("sleep 1000 & echo $$ $! >>{path}; wait");
        let mut slow = probe(shell(&script));
        slow.timeout = Duration::from_millis(30);
        world.watch("it", ready_by(Ready::Probe(slow)));
        world.start();
        let text = || fs::read_to_string(&path).unwrap_or_default();
        world.until("three checks", |_| text().lines().count() >= 3);
        world.stop();
        world.until_down();
        for line in text().lines() {
            let leader: u32 = line.split_whitespace().next().unwrap().parse().unwrap();
            world.until("nobody of it is left", |_| group(leader).is_empty());
        }
    });
}

#[test]
fn who_is_not_ready_in_time_has_failed_to_start() {
    let mut world = World::new();
    let mut policy = no_instant_deaths();
    policy.min_restart_delay = Duration::from_millis(10);
    world.add_with("it", &sh("exec sleep 1000"), policy);
    let mut watch = ready_by(Ready::Fd(3));
    watch.ready_timeout = Some(Duration::from_millis(50));
    world.watch("it", watch);
    world.start();
    world.until_told("fault", "it", 3);
    for (time, fault) in faults(&world, "it") {
        assert_eq!(fault, Fault::NotReady(Duration::from_millis(50)));
        assert!(time >= Duration::from_millis(49), "{time:?}");
    }
    let delays: Vec<_> = world.delays("it").iter().map(Duration::as_millis).collect();
    assert_eq!(delays[..2], [10, 20], "each is an instant death");
}

#[test]
fn failing_health_checks_replace_a_process() {
    each_way(|world| {
        let dir = Dir::new("readiness-ill");
        let path = dir.path("ill");
        world.add("it", sh(IDLE).env("ILL", &path));
        let mut watch = ready_by(Ready::Started);
        watch.health = Some(Health::new(probe(shell("test ! -e \"$ILL\"")), 3));
        world.watch("it", watch);
        world.start();
        world.until_ready("it", 1);
        fs::write(&path, "").unwrap();
        world.until_told("unready", "it", 1);
        world.until_told("fault", "it", 1);
        fs::remove_file(&path).unwrap();
        assert_eq!(faults(world, "it")[0].1, Fault::Unhealthy(3));
        world.until_ready("it", 2);
        assert_eq!(readiness(world, "it"), Readiness::Ready);
        world.stop();
        world.until_down();
    });
}

#[test]
fn one_success_makes_up_for_failures() {
    let mut world = World::new();
    let dir = Dir::new("readiness-mended");
    let path = dir.path("ill");
    world.add("it", sh(IDLE).env("ILL", &path));
    let mut watch = ready_by(Ready::Started);
    watch.health = Some(Health::new(probe(shell("test ! -e \"$ILL\"")), 1_000_000));
    world.watch("it", watch);
    world.start();
    fs::write(&path, "").unwrap();
    world.until_told("unready", "it", 1);
    assert_eq!(readiness(&world, "it"), Readiness::Lost);
    fs::remove_file(&path).unwrap();
    world.until_told("ready", "it", 2);
    assert_eq!(world.count("fault", "it"), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn what_it_says_of_itself() {
    each_way(|world| {
        let steps =
            ["say STATUS=loading", "say READY=1;STATUS=up", "say RELOADING=1", "say READY=1", "say FDSTORE=1", "stay"];
        world.add("it", &speaker::speaker(&steps));
        world.watch("it", ready_by(Ready::Notify));
        world.start();
        world.until_told("ready", "it", 2);
        assert_eq!(world.count("unready", "it"), 1);
        assert_eq!(world.monitor.status("it").unwrap().said, Some("up"));
        world.stop();
        world.until_down();
    });
}

#[cfg(target_os = "linux")]
#[test]
fn what_others_say_in_its_name_is_dropped_and_counted() {
    let mut world = World::new();
    let mut watch = ready_by(Ready::Notify);
    watch.watchdog = Some(Duration::from_millis(300));
    world.add("it", &sh("echo ready; echo $NOTIFY_SOCKET; exec sleep 1000"));
    world.watch("it", watch);
    world.start();
    world.until("its address", |world| world.lines("it").len() == 2);
    let address = world.lines("it")[1].trim_start_matches("[it] ").to_owned();
    world.add("other", &speaker::speaker(&["say READY=1", "say WATCHDOG=1", "stay"]));
    // Its own socket is not the one of the other process.
    let mut other = speaker::speaker(&["say READY=1", "say WATCHDOG=1", "stay"]);
    other.notify(false).env("NOTIFY_SOCKET", &address);
    world.add("stranger", &other);
    world.start_process("stranger");
    world.until("they are counted", |world| world.monitor.status("it").unwrap().foreign_messages == 2);
    assert_eq!(readiness(&world, "it"), Readiness::Pending);
}

#[cfg(target_os = "linux")]
#[test]
fn a_watchdog_ends_a_hung_process_in_time() {
    let mut world = World::new();
    let interval = Duration::from_millis(500);
    let mut watch = ready_by(Ready::Notify);
    watch.watchdog = Some(interval);
    world.add("it", &speaker::speaker(&["say READY=1", "say WATCHDOG=1", "stay"]));
    world.watch("it", watch);
    world.start();
    world.until_told("fault", "it", 3);
    for (index, (_, fault)) in faults(&world, "it").into_iter().enumerate() {
        assert_eq!(fault, Fault::Watchdog(interval));
        let times = |kind| world.told("it").filter(move |(_, told)| told.kind() == kind).map(|(time, _)| *time);
        let silent = times("fault").nth(index).unwrap() - times("ready").nth(index).unwrap();
        assert!(silent >= interval, "{silent:?}");
        assert!(silent <= 10 * interval, "{silent:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn it_can_ask_for_its_own_end() {
    let mut world = World::new();
    world.add("it", &speaker::speaker(&["say READY=1;WATCHDOG=trigger", "stay"]));
    world.watch("it", ready_by(Ready::Notify));
    world.start();
    world.until_told("fault", "it", 1);
    assert_eq!(faults(&world, "it")[0].1, Fault::Triggered);
}

#[test]
fn a_stop_in_steps() {
    each_way(|world| {
        let mut policy = short_kill_time();
        let step = |action, scope, milliseconds| StopStep { action, scope, wait: Duration::from_millis(milliseconds) };
        policy.stop = vec![
            step(StopAction::Signal(libc::SIGUSR1), StopScope::Main, 300),
            step(
                StopAction::Command(words(&["sh", "-c", "kill -USR2 $MAINPID; exec sleep 1000"])),
                StopScope::All,
                // Enough for its start on an emulated processor.
                3_000,
            ),
            step(StopAction::Signal(libc::SIGTERM), StopScope::All, 10_000),
        ];
        // A shell that is late runs its traps in the order of their numbers.
        let script = "trap 'echo one' USR1; trap 'echo two' USR2; trap 'exit' TERM
                      (trap 'echo wrong' USR1; trap - TERM; sleep 1000 & wait) &
                      echo ready; while :; do wait; done";
        world.add_with("it", &sh(script), policy);
        world.start();
        world.until_ready("it", 1);
        let asked = now();
        world.stop();
        world.until_down();
        assert!(now() - asked >= Duration::from_secs(1));
        assert_eq!(world.lines("it"), ["[it] ready", "[it] one", "[it] two"]);
        assert_eq!(world.story("it"), ["started", "terminating", "terminating", "exited"]);
        world.expect_no_timer();
    });
}

#[test]
fn a_stop_in_steps_ends_with_a_kill() {
    let mut world = World::new();
    let mut policy = all_instant_deaths();
    let step = |signal| StopStep {
        action: StopAction::Signal(signal),
        scope: StopScope::All,
        wait: Duration::from_millis(50),
    };
    policy.stop = vec![step(libc::SIGTERM), step(libc::SIGTERM)];
    world.add_with("it", &sh(STUBBORN), policy);
    world.start();
    world.until_ready("it", 1);
    let asked = now();
    world.stop();
    world.until_down();
    assert!(now() - asked >= Duration::from_millis(100));
    assert_eq!(world.story("it"), ["started", "terminating", "terminating", "killing", "exited"]);
}

#[test]
fn a_watch_can_change_while_the_process_runs() {
    let mut world = World::new();
    world.add("db", &sh(IDLE));
    world.add("web", &sh(IDLE));
    world.watch("db", ready_by(Ready::Line(b"never".to_vec())));
    let mut order = Order::new();
    order.after("web", "db", When::Ready);
    world.order(&order);
    world.start();
    world.until_ready("db", 1);
    assert!(matches!(world.state("web"), State::Waiting { .. }));
    world.watch("db", ready_by(Ready::Started));
    world.until_ready("web", 1);
    // What was ready stays so.
    world.watch("db", ready_by(Ready::Line(b"never".to_vec())));
    assert_eq!(readiness(&world, "db"), Readiness::Ready);
    assert!(!world.monitor.is_down());
}
