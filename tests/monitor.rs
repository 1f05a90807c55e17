//! Tests the names of a monitor and their processes: add, remove, start, restart and back off. It
//! uses real programs.
//!
//! The one rule: the absence of a timer and of a process shows that nothing will happen later.

mod monitor_util;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use childminder::restart::State;
use childminder::{Command, Event, MonitorError, Policy, ProcessMonitor, Reactor, Restart, Service};
use monitor_util::{
    Diary, Dir, IDLE, STUBBORN, Told, WATCHDOG, World, all_instant_deaths, each_way, group, leaving, long_backoff,
    no_instant_deaths, now, sh,
};

#[test]
fn a_process_starts_with_the_service_or_when_it_is_added() {
    each_way(|world| {
        world.add("first", &sh(IDLE));
        assert_eq!(world.state("first"), State::Stopped);
        assert!(world.monitor.is_down() && !world.monitor.is_running());
        world.start();
        world.add("second", &sh(IDLE));
        assert!(world.monitor.is_running() && !world.monitor.is_down());
        world.until_ready("first", 1);
        world.until_ready("second", 1);
        assert_eq!((world.story("first"), world.story("second")), (vec!["started"], vec!["started"]));
    });
}

#[test]
fn a_second_start_of_the_service_starts_nothing() {
    let mut world = World::new();
    world.add("it", &sh(IDLE));
    world.start();
    let pid = world.pid("it");
    world.start();
    world.until_ready("it", 1);
    assert_eq!((world.pid("it"), world.story("it")), (pid, vec!["started"]));
}

#[test]
fn a_duplicate_changes_nothing() {
    let mut world = World::new();
    world.add("it", &sh(IDLE));
    world.start();
    let before = (world.pid("it"), format!("{:?}", world.monitor));
    let error = world.monitor.add_process(&mut world.reactor, "it", &sh("exit 1")).unwrap_err();
    assert_eq!(error, MonitorError::Duplicate("it".into()));
    assert_eq!(error.to_string(), "there is a process `it` already; remove it first");
    assert_eq!((world.pid("it"), format!("{:?}", world.monitor)), before);
    assert_eq!(world.story("it"), ["started"]);
}

#[test]
fn an_unknown_name_is_an_error_everywhere() {
    let mut world = World::new();
    world.add("gone", &sh(IDLE));
    world.remove("gone");
    for name in ["it", "", "gone"] {
        let (monitor, reactor) = (&mut world.monitor, &mut world.reactor);
        let unknown = Err(MonitorError::Unknown(name.into()));
        assert_eq!(monitor.start_process(reactor, name), unknown);
        assert_eq!(monitor.stop_process(reactor, name), unknown);
        assert_eq!(monitor.restart_process(reactor, name), unknown);
        assert_eq!(monitor.remove_process(reactor, name), unknown);
        assert_eq!(monitor.set_process_policy(reactor, name, Policy::default()), unknown);
        assert_eq!(monitor.status(name), None);
    }
}

#[test]
fn a_policy_that_makes_no_sense_is_refused() {
    let mut world = World::new();
    let mut bad = Policy::default();
    bad.stop_signal = 0;
    world.add("it", &sh(IDLE));
    let (monitor, reactor) = (&mut world.monitor, &mut world.reactor);
    assert!(matches!(monitor.set_policy(bad.clone()), Err(MonitorError::Policy(_))));
    assert!(matches!(monitor.set_process_policy(reactor, "it", bad.clone()), Err(MonitorError::Policy(_))));
    assert!(matches!(monitor.add_process_with(reactor, "new", &sh(IDLE), bad), Err(MonitorError::Policy(_))));
    assert_eq!(monitor.names().collect::<Vec<_>>(), ["it"]);
}

#[test]
fn names_come_in_the_order_in_which_they_were_added() {
    let mut world = World::new();
    for name in ["zoe", "adam", "mia"] {
        world.add(name, &sh(IDLE));
    }
    world.start();
    assert_eq!(world.monitor.names().collect::<Vec<_>>(), ["zoe", "adam", "mia"]);
    // This holds even if the name is added again while its old process is still there.
    world.remove("zoe");
    assert_eq!(world.monitor.names().collect::<Vec<_>>(), ["adam", "mia"]);
    world.add("zoe", &sh(IDLE));
    assert_eq!(world.monitor.names().collect::<Vec<_>>(), ["adam", "mia", "zoe"]);
    let statuses: Vec<_> = world.monitor.statuses().map(|status| status.name).collect();
    assert_eq!(statuses, ["adam", "mia", "zoe"]);
}

#[test]
fn debug_shows_what_twisted_shows() {
    let mut reactor = Reactor::new().unwrap();
    let mut monitor = ProcessMonitor::new();
    assert_eq!(format!("{monitor:?}"), "<ProcessMonitor>");
    let mut x = Command::new("x");
    monitor.add_process(&mut reactor, "a", x.clone().arg("y").uid(0)).unwrap();
    monitor.add_process(&mut reactor, "b", x.clone().gid(2)).unwrap();
    monitor.add_process(&mut reactor, "c", x.clone().uid(3).gid(4)).unwrap();
    monitor.add_process(&mut reactor, "d", x.env("SECRET", "1").current_dir("/")).unwrap();
    assert_eq!(
        format!("{monitor:?}"),
        r#"<ProcessMonitor 'a'(0): ["x", "y"] 'b'(:2): ["x"] 'c'(3:4): ["x"] 'd': ["x"]>"#
    );
}

#[test]
fn a_removed_process_is_stopped_and_forgotten() {
    each_way(|world| {
        world.add("it", &sh(IDLE));
        world.start();
        world.until_ready("it", 1);
        let pid = world.pid("it");
        world.remove("it");
        assert_eq!((world.monitor.names().count(), world.monitor.status("it")), (0, None));
        world.until_told("exited", "it", 1);
        assert_eq!(world.story("it"), ["started", "terminating", "exited"]);
        world.stop();
        world.until_down();
        assert_eq!(group(pid), []);
        world.expect_no_timer();
    });
}

// The service is not down while a removed process is still ending.
#[test]
fn a_removed_process_is_waited_for() {
    let mut world = World::new();
    world.add_with("it", &sh(STUBBORN), monitor_util::short_kill_time());
    world.start();
    world.until_ready("it", 1);
    let pid = world.pid("it");
    world.remove("it");
    world.stop();
    assert!(!world.monitor.is_down());
    world.until_down();
    assert_eq!((group(pid), world.story("it")), (vec![], vec!["started", "terminating", "killing", "exited"]));
}

// Only the new process starts, after the old one is gone.
#[test]
fn a_name_that_comes_back_waits_for_its_old_process() {
    each_way(|world| {
        world.add_with("it", &sh(STUBBORN), monitor_util::short_kill_time());
        world.start();
        world.until_ready("it", 1);
        let old = world.pid("it");
        world.remove("it");
        world.add("it", &sh("echo new; exec sleep 1000"));
        assert!(matches!(
            world.monitor.add_process(&mut world.reactor, "it", &sh(IDLE)),
            Err(MonitorError::Duplicate(_))
        ));
        world.until_told("started", "it", 2);
        assert_eq!(group(old), []);
        let story = ["started", "terminating", "killing", "exited", "restarting", "started"];
        assert_eq!(world.story("it"), story);
        world.until("the new one", |world| world.lines("it").last() == Some(&"[it] new"));
        let status = world.monitor.status("it").unwrap();
        assert_eq!((status.restarts, status.last_exit), (0, None), "the old one's do not count");
    });
}

// The name is added and removed several times in a row, and the last time counts.
#[test]
fn a_name_that_comes_back_and_goes_again() {
    let mut world = World::new();
    world.add("it", &sh("trap 'exec sleep 0.3' TERM; echo ready; while :; do sleep 0.01; done"));
    world.start();
    world.until_ready("it", 1);
    for word in ["second", "third"] {
        world.remove("it");
        world.add("it", &sh(&format!("echo {word}; exec sleep 1000")));
    }
    world.until_told("started", "it", 2);
    world.until("the third", |world| world.lines("it").contains(&"[it] third"));
    assert!(!world.lines("it").contains(&"[it] second"));
    world.remove("it");
    world.until_told("exited", "it", 2);
    assert_eq!((world.count("started", "it"), world.monitor.names().count()), (2, 0));
}

// With the service stopped, the name's process starts only with the next start of the service.
#[test]
fn a_name_that_comes_back_to_a_stopped_service_stays_down() {
    let mut world = World::new();
    world.add("it", &sh(IDLE));
    world.start();
    world.until_ready("it", 1);
    world.stop();
    world.remove("it");
    world.add("it", &sh(IDLE));
    world.until_down();
    assert_eq!((world.state("it"), world.count("started", "it")), (State::Stopped, 1));
    world.start();
    world.until_ready("it", 2);
}

#[test]
fn a_remove_in_backoff_leaves_nothing_behind() {
    each_way(|world| {
        world.add_with("it", &sh("exit 1"), long_backoff());
        world.start();
        world.until_told("restarting", "it", 1);
        assert!(matches!(world.state("it"), State::BackingOff { .. }));
        world.remove("it");
        world.expect_no_timer();
        world.stop();
        assert!(world.monitor.is_down());
        assert_eq!(world.story("it"), ["started", "exited", "restarting"]);
    });
}

#[test]
fn a_name_that_comes_back_in_backoff_starts_at_once_and_once() {
    let mut world = World::new();
    world.add_with("it", &sh("exit 1"), long_backoff());
    world.start();
    world.until_told("restarting", "it", 1);
    world.remove("it");
    world.add_with("it", &sh(IDLE), long_backoff());
    world.until_ready("it", 1);
    world.expect_no_timer();
    assert_eq!(world.count("started", "it"), 2);
    world.stop();
    world.until_down();
    world.expect_no_timer();
}

#[test]
fn a_stop_in_backoff_takes_the_restart_back() {
    let mut world = World::new();
    for name in ["one", "all"] {
        world.add_with(name, &sh("exit 1"), long_backoff());
    }
    world.start();
    world.until_told("restarting", "one", 1);
    world.until_told("restarting", "all", 1);
    world.stop_process("one");
    assert_eq!(world.state("one"), State::Stopped);
    world.stop();
    assert!(world.monitor.is_down());
    world.expect_no_timer();
}

// A start or a restart during a backoff does not wait.
#[test]
fn a_start_in_backoff_is_at_once() {
    let mut world = World::new();
    for name in ["start", "restart"] {
        world.add_with(name, &sh("exit 1"), long_backoff());
    }
    world.start();
    for name in ["start", "restart"] {
        world.until_told("restarting", name, 1);
    }
    world.start_process("start");
    world.monitor.restart_all(&mut world.reactor);
    assert_eq!((world.count("started", "start"), world.count("started", "restart")), (2, 2));
}

#[test]
fn a_process_can_be_started_without_the_service() {
    let mut world = World::new();
    world.add("it", &sh(IDLE));
    world.start_process("it");
    let pid = world.pid("it");
    world.start_process("it");
    assert_eq!((world.pid("it"), world.monitor.is_running()), (pid, false));
    assert!(!world.monitor.is_down(), "what runs is not down");
    world.start();
    assert_eq!(world.pid("it"), pid);
    world.stop();
    world.until_down();
    assert_eq!(world.story("it"), ["started", "terminating", "exited"]);
}

// A stopped process stays stopped, until it or the service is started.
#[test]
fn a_stopped_process_stays_stopped() {
    each_way(|world| {
        world.add("it", &sh(IDLE));
        world.add("other", &sh(IDLE));
        world.start();
        world.until_ready("it", 1);
        world.until_ready("other", 1);
        world.stop_process("it");
        world.until_stopped("it");
        world.monitor.restart_all(&mut world.reactor);
        world.until_ready("other", 2);
        world.start();
        assert_eq!((world.state("it"), world.count("started", "it")), (State::Stopped, 1));
        world.start_process("it");
        world.until_ready("it", 2);
        world.stop_process("it");
        world.until_stopped("it");
        world.stop();
        world.until_down();
        world.start();
        world.until_ready("it", 3);
    });
}

#[test]
fn a_start_while_it_is_dying_starts_it_again() {
    each_way(|world| {
        world.add("it", &sh(IDLE));
        world.start();
        world.until_ready("it", 1);
        world.stop_process("it");
        world.start_process("it");
        world.start_process("it");
        world.until_ready("it", 2);
        assert_eq!(world.story("it"), ["started", "terminating", "exited", "restarting", "started"]);
        assert_eq!(world.delays("it"), [Duration::ZERO]);
    });
}

#[test]
fn a_deliberate_restart_is_no_instant_death() {
    each_way(|world| {
        let dir = Dir::new("restart");
        let crash = dir.path("crash");
        world.add_with("it", &sh(&format!("[ -e {crash} ] && exit 1; {IDLE}")), all_instant_deaths());
        world.start();
        for count in 1..=3 {
            world.until_ready("it", count);
            world.restart_process("it");
        }
        world.until_ready("it", 4);
        assert_eq!(world.delays("it"), [Duration::ZERO; 3]);
        assert_eq!(world.monitor.status("it").unwrap().restarts, 3);
        fs::write(crash, "").unwrap();
        world.restart_process("it");
        world.until_told("restarting", "it", 5);
        assert_eq!(world.delays("it")[4], Duration::from_millis(20), "the first wait is still to come");
    });
}

#[test]
fn restart_all_restarts_what_is_up() {
    let mut world = World::new();
    let mut never = no_instant_deaths();
    never.restart = Restart::Never;
    world.add("up", &sh(IDLE));
    world.add("stopped", &sh(IDLE));
    world.add_with("over", &sh("exit 0"), never);
    world.start();
    world.until_ready("up", 1);
    world.stop_process("stopped");
    world.until_stopped("stopped");
    world.until("it is over", |world| world.state("over") == State::Exited);
    world.monitor.restart_all(&mut world.reactor);
    // A second one, while the first is under way, does nothing more.
    world.monitor.restart_all(&mut world.reactor);
    world.until_ready("up", 2);
    assert_eq!(world.story("up"), ["started", "terminating", "exited", "restarting", "started"]);
    assert_eq!((world.count("started", "stopped"), world.count("started", "over")), (1, 1));
}

#[test]
fn instant_deaths_double_the_wait() {
    each_way(|world| {
        world.add_with("it", &sh("exit 1"), all_instant_deaths());
        world.start();
        world.until_told("restarting", "it", 4);
        assert_eq!(world.delays("it"), [20, 40, 80, 160].map(Duration::from_millis));
    });
}

#[test]
fn a_long_run_is_restarted_at_once_whatever_its_end() {
    each_way(|world| {
        world.add("it", &sh("kill -9 $$"));
        world.add("done", &sh("exit 0"));
        world.start();
        world.until_told("started", "it", 3);
        world.until_told("started", "done", 3);
        assert!(world.delays("it").iter().chain(&world.delays("done")).all(Duration::is_zero));
        let status = world.monitor.status("it").unwrap();
        assert_eq!(status.last_exit.unwrap().signal(), Some(9));
    });
}

#[test]
fn the_restart_policy_is_each_process_own() {
    let mut world = World::new();
    let with = |restart| {
        let mut policy = all_instant_deaths();
        policy.restart = restart;
        policy
    };
    world.add_with("never", &sh("exit 1"), with(Restart::Never));
    world.add_with("failed", &sh("exit 1"), with(Restart::OnFailure));
    world.add_with("done", &sh("exit 0"), with(Restart::OnFailure));
    world.add_with("missing", &Command::new("/nonexistent/program"), with(Restart::Never));
    world.start();
    assert_eq!(world.state("missing"), State::Exited);
    world.until_told("started", "failed", 3);
    for name in ["never", "done"] {
        world.until("it is over", |world| world.state(name) == State::Exited);
        assert_eq!(world.story(name), ["started", "exited"]);
    }
    world.monitor.set_process_policy(&mut world.reactor, "failed", with(Restart::Never)).unwrap();
    world.until("it is over, too", |world| world.state("failed") == State::Exited);
    assert_eq!(world.monitor.status("never").unwrap().last_exit.unwrap().code(), Some(1));
    world.start_process("never");
    world.until_told("exited", "never", 2);
    world.stop();
    assert!(world.monitor.is_down());
}

#[test]
fn a_failed_spawn_holds_up_nobody_and_is_tried_again() {
    each_way(|world| {
        let dir = Dir::new("spawn");
        let program = dir.path("program");
        world.add_with("broken", &Command::new(&program), all_instant_deaths());
        world.add("fine", &sh(IDLE));
        world.start();
        world.until_ready("fine", 1);
        world.until_told("restarting", "broken", 3);
        assert_eq!(world.delays("broken")[..3], [20, 40, 80].map(Duration::from_millis));
        let Some((_, Told::StartFailed { why, .. })) = world.told("broken").next() else { panic!("no failure") };
        assert!(why.contains(&program) && why.contains("No such file"), "{why}");
        let status = world.monitor.status("broken").unwrap();
        assert_eq!((status.pid, status.restarts, status.last_exit), (None, 0, None));

        let written = dir.path("written");
        fs::write(&written, format!("#!/bin/sh\n{IDLE}\n")).unwrap();
        fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(written, program).unwrap();
        world.until_ready("broken", 1);
        assert_eq!(world.monitor.status("broken").unwrap().restarts, 0);

        world.stop();
        world.until_down();
        assert_eq!(world.story("fine"), ["started", "terminating", "exited"]);
    });
}

// A process that could not be started can be stopped, removed and restarted like any other.
#[test]
fn a_process_that_cannot_start_obeys() {
    let mut world = World::new();
    let missing = Command::new("/nonexistent/program");
    for name in ["stopped", "removed", "restarted"] {
        world.add_with(name, &missing, long_backoff());
    }
    world.start();
    world.stop_process("stopped");
    world.remove("removed");
    world.restart_process("restarted");
    assert_eq!(world.count("start failed", "restarted"), 2);
    assert_eq!(world.delays("restarted"), [1000, 2000].map(Duration::from_secs));
    world.stop();
    assert!(world.monitor.is_down());
    world.expect_no_timer();
}

// The exit counts, not the end of file, and later output is not lost.
#[test]
fn a_grandchild_with_the_pipe_delays_nothing() {
    each_way(|world| {
        let dir = Dir::new("grandchild");
        let (count, fifo) = (dir.path("count"), dir.path("fifo"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // Each of five runs leaves a process that holds the pipes for a minute, and the first one
        // leaves another that will write.
        let script = format!(
            "echo x >> {count}; runs=$(wc -l < {count}); [ $runs -gt 5 ] && exec sleep 1000; sleep 60 & \
             if [ $runs -eq 1 ]; then (read x < {fifo}; echo late $x) & fi; exit 0"
        );
        world.add_with("it", &sh(&script), leaving(no_instant_deaths()));
        world.start();
        world.until_told("started", "it", 6);
        let times: Vec<_> = world.told("it").filter(|(_, told)| !matches!(told, Told::Restarting { .. })).collect();
        let restarts =
            times.windows(2).filter(|pair| matches!(pair, [(_, Told::Exited { .. }), (_, Told::Started { .. })]));
        let gaps: Vec<Duration> = restarts.map(|pair| pair[1].0 - pair[0].0).collect();
        assert_eq!(gaps.len(), 5);
        // Only the shortest gap counts, because the machine may be busy at any one time.
        assert!(gaps.iter().min().unwrap() < &Duration::from_secs(5), "{gaps:?}");
        // It is opened for reading, too, so that the open does not wait.
        let mut fifo = fs::File::options().read(true).write(true).open(&fifo).unwrap();
        fifo.write_all(b"words\n").unwrap();
        world.until("the late words", |world| world.lines("it") == ["[it] late words"]);
        let Told::Line { fd, .. } = &world.told("it").last().unwrap().1 else { panic!("a line is the last") };
        assert_eq!(*fd, 1);
    });
}

#[test]
fn a_life_ends_with_the_exit_not_with_the_pipes() {
    let mut world = World::new();
    let mut policy = long_backoff();
    policy.threshold = Duration::from_secs(5);
    // It exits at once, and its pipes are held for longer than the threshold.
    world.add_with("it", &sh("sleep 1000 & exit 1"), leaving(policy));
    world.start();
    world.until_told("restarting", "it", 1);
    assert_eq!(world.delays("it"), [Duration::from_secs(1000)]);
}

#[test]
fn a_status_tells_all() {
    let mut world = World::new();
    world.add("it", &sh("read x; exit 7"));
    let status = world.monitor.status("it").unwrap();
    assert_eq!((status.name, status.state, status.process, status.pid), ("it", State::Stopped, None, None));
    let mut command = sh("echo ready; read x; exit 7");
    command.stdin(childminder::Stdio::piped());
    world.add_with("asks", &command, long_backoff());
    world.start();
    world.until_ready("asks", 1);
    let status = world.monitor.status("asks").unwrap();
    let process = status.process.unwrap();
    assert!(matches!(status.state, State::Running { .. }));
    assert_eq!((status.restarts, status.last_exit), (0, None));
    assert_eq!(world.reactor.process(process).unwrap().pid(), status.pid);
    // The host writes to it.
    assert!(world.reactor.process(process).unwrap().write(0, b"go\n").unwrap());
    world.until_told("exited", "asks", 1);
    let status = world.monitor.status("asks").unwrap();
    assert!(matches!(status.state, State::BackingOff { .. }));
    assert_eq!((status.process, status.pid, status.restarts), (None, None, 0));
    assert_eq!(status.last_exit.unwrap().code(), Some(7));
    world.start_process("asks");
    assert_eq!(world.monitor.status("asks").unwrap().restarts, 1);
}

// The slot of a process that has ended is used again before the host has passed the event on.
#[test]
fn an_end_is_the_monitors_even_if_something_was_started_before_it_hears_of_it() {
    let mut reactor = Reactor::new().unwrap();
    let mut monitor = ProcessMonitor::new();
    let mut once = Policy::default();
    once.restart = Restart::Never;
    monitor.set_policy(once).unwrap();
    monitor.add_process(&mut reactor, "short", &Command::new("true")).unwrap();
    monitor.add_process(&mut reactor, "long", &sh(IDLE)).unwrap();
    monitor.start_process(&mut reactor, "short").unwrap();
    let mut handled = None;
    let start = now();
    while handled.is_none() {
        assert!(start.elapsed() < WATCHDOG, "it has not ended");
        // A turn may also end without an event.
        let turn = reactor.turn(Some(WATCHDOG), |reactor, event| {
            if matches!(event, Event::Ended { .. }) {
                monitor.start_process(reactor, "long").unwrap();
                handled = Some(monitor.handle(reactor, &event));
            } else {
                monitor.handle(reactor, &event);
            }
        });
        turn.unwrap();
    }
    assert_eq!(handled, Some(true));
    monitor.kill_service(&mut reactor);
}

#[test]
fn a_monitor_can_go_to_another_thread() {
    fn send<T: Send>() {}
    send::<ProcessMonitor>();
    send::<ProcessMonitor<Diary>>();
    send::<Reactor>();
}
