//! Tests the stop of processes: the group, the kill time, members that outlive their leader, and
//! the report of the end. It uses real programs.
//!
//! The one rule: a process that is reported as gone is gone from /proc, and no upper bound is
//! tight.

mod monitor_util;

use std::time::Duration;

use childminder::restart::State;
use childminder::{Restart, Service};
use monitor_util::{
    IDLE, KILL_TIME, STUBBORN, World, each_way, group, leaving, long_backoff, no_instant_deaths, now,
    reaches_leftovers, sh, short_kill_time,
};

/// Far above the kill time, and far below any time that would mean that the stop has failed.
const SOON: Duration = Duration::from_secs(10);

/// Keeps a shell busy until the process that has started it is gone.
const BUSY: &str = "while kill -0 $PPID; do :; done";

#[test]
fn a_stop_of_the_service_completes() {
    each_way(|world| {
        for name in ["one", "two"] {
            world.add(name, &sh(IDLE));
        }
        world.add_with("backs off", &sh("exit 1"), long_backoff());
        world.start();
        world.until_ready("one", 1);
        world.until_ready("two", 1);
        world.until_told("restarting", "backs off", 1);
        world.stop();
        assert!(!world.monitor.is_running() && !world.monitor.is_down());
        world.until_down();
        for name in ["one", "two"] {
            assert_eq!(world.story(name), ["started", "terminating", "exited"]);
        }
        world.expect_no_timer();
    });
}

// A process that ignores SIGTERM is killed at the kill time, with its group.
#[test]
fn the_stubborn_are_killed_at_the_kill_time_with_their_group() {
    each_way(|world| {
        world.add_with(
            "it",
            &sh("trap '' TERM; sleep 1000 & sh -c 'sleep 1000 & wait' & echo ready; wait"),
            short_kill_time(),
        );
        world.start();
        world.until_ready("it", 1);
        let pid = world.pid("it");
        world.until("its family", |_| group(pid).len() == 4);
        let asked = now();
        world.stop();
        world.until_down();
        assert!(now() - asked >= KILL_TIME && now() - asked < SOON, "{:?}", now() - asked);
        assert_eq!(world.story("it"), ["started", "terminating", "killing", "exited"]);
        assert_eq!(world.monitor.status("it").unwrap().last_exit.unwrap().signal(), Some(9));
        assert!(group(pid).is_empty(), "down means that nobody is left");
        world.expect_no_timer();
    });
}

// There is one signal and one kill timer, however often the process is stopped.
#[test]
fn a_second_stop_neither_signals_nor_waits_anew() {
    let mut world = World::new();
    // The script runs no other command, because the shell would report the end of that one.
    world.add_with("it", &sh(&format!("trap 'echo term' TERM; echo ready; {BUSY}")), short_kill_time());
    world.start();
    world.until_ready("it", 1);
    world.stop_process("it");
    world.until("it got the signal", |world| world.lines("it").contains(&"[it] term"));
    world.stop_process("it");
    world.stop();
    world.stop();
    world.until_down();
    assert_eq!(world.story("it"), ["started", "terminating", "killing", "exited"]);
    assert_eq!(world.lines("it"), ["[it] ready", "[it] term"]);
    let waited = world.last("killing", "it") - world.last("terminating", "it");
    assert!(waited < KILL_TIME + SOON, "{waited:?}");
}

#[test]
fn a_kill_of_the_service_does_not_wait() {
    each_way(|world| {
        // The kill time of this process is never reached.
        world.add("at once", &sh(STUBBORN));
        world.add("after a stop", &sh(STUBBORN));
        world.add_with("backs off", &sh("exit 1"), long_backoff());
        world.start();
        world.until_ready("at once", 1);
        world.until_ready("after a stop", 1);
        world.until_told("restarting", "backs off", 1);
        world.stop_process("after a stop");
        world.monitor.kill_service(&mut world.reactor);
        world.until_down();
        assert_eq!(world.story("at once"), ["started", "killing", "exited"]);
        assert_eq!(world.story("after a stop"), ["started", "terminating", "killing", "exited"]);
        world.expect_no_timer();
    });
}

#[test]
fn a_start_of_the_service_while_all_are_dying_starts_them_again() {
    each_way(|world| {
        world.add("it", &sh(IDLE));
        world.start();
        world.until_ready("it", 1);
        world.stop();
        world.start();
        world.until_ready("it", 2);
        assert_eq!(world.story("it"), ["started", "terminating", "exited", "restarting", "started"]);
        world.stop();
        world.start();
        world.stop();
        world.until_down();
        assert_eq!(world.count("started", "it"), 2);
    });
}

// The leader's exit is not the end of the stop (process-compose #520).
#[test]
fn those_who_outlive_a_stopped_leader_are_killed_at_the_kill_time() {
    each_way(|world| {
        let script = "(trap '' TERM; echo ready; exec sleep 1000) & exec sleep 1000";
        let mut policy = short_kill_time();
        // The one that is left must be seen before its kill.
        policy.kill_time = Duration::from_secs(2);
        world.add_with("it", &sh(script), policy.clone());
        world.start();
        world.until_ready("it", 1);
        let pid = world.pid("it");
        let asked = now();
        world.stop();
        world.until_dead(pid);
        let mut turned = false;
        world.until("a turn after its death", |_| std::mem::replace(&mut turned, true));
        assert_eq!((world.monitor.is_down(), group(pid).len()), (false, 1), "one is left");
        world.until_down();
        assert!(group(pid).is_empty(), "down means that nobody is left");
        assert!(now() - asked >= policy.kill_time, "{:?}", now() - asked);
        let story = match reaches_leftovers(world.reap) {
            true => ["started", "terminating", "exited", "killing"],
            false => ["started", "terminating", "killing", "exited"],
        };
        assert_eq!(world.story("it"), story);
        world.expect_no_timer();
    });
}

// The same holds for a restart: the new process starts when the old group is gone.
#[test]
fn a_restart_waits_for_the_old_group() {
    let mut world = World::new();
    let script = "(trap '' TERM; echo ready; exec sleep 1000) & exec sleep 1000";
    world.add_with("it", &sh(script), short_kill_time());
    world.start();
    world.until_ready("it", 1);
    let old = world.pid("it");
    world.restart_process("it");
    world.until_told("started", "it", 2);
    let end = match reaches_leftovers(world.reap) {
        true => ["exited", "killing"],
        false => ["killing", "exited"],
    };
    assert_eq!(world.story("it"), [&["started", "terminating"], &end[..], &["restarting", "started"]].concat());
    assert!(group(old).is_empty(), "the new one came before the old ones were gone");
}

// The group may end by itself before the kill time, and then nothing is killed.
#[test]
fn a_stop_ends_when_the_last_of_the_group_is_gone() {
    let mut world = World::new();
    // It ends when its descriptor 3 is closed, which is a pipe whose other end only we hold.
    let mut command = sh("(trap '' TERM; echo ready; read x <&3) & exec sleep 1000 3<&-");
    command.fd(3, childminder::Stdio::writer());
    world.add("it", &command);
    world.start();
    world.until_ready("it", 1);
    let (pid, process) = (world.pid("it"), world.monitor.status("it").unwrap().process.unwrap());
    world.stop();
    if reaches_leftovers(world.reap) {
        world.until_told("exited", "it", 1);
    } else {
        world.until_dead(pid);
    }
    assert_eq!((world.monitor.is_down(), group(pid).len()), (false, 1));
    world.reactor.process(process).unwrap().close(3);
    world.until_down();
    assert_eq!((group(pid), world.story("it")), (vec![], vec!["started", "terminating", "exited"]));
}

// A crash has left these processes behind. The stop comes while the successor runs, while it backs
// off, and after its last exit.
#[test]
fn those_who_outlived_a_crash_are_stopped_with_the_service() {
    let mut never = short_kill_time();
    never.restart = Restart::Never;
    let mut backs_off = long_backoff();
    backs_off.kill_time = KILL_TIME;
    for policy in [backs_off, never, short_kill_time()] {
        for stubborn in [false, true] {
            let mut world = World::new();
            let trap = if stubborn { "trap '' TERM" } else { ":" };
            let dir = monitor_util::Dir::new("crash");
            let again = dir.path("again");
            let script = format!(
                "[ -e {again} ] && exec sleep 1000; : > {again}; ({trap}; echo ready; exec sleep 1000) & read x; exit 1"
            );
            let mut command = sh(&script);
            command.stdin(childminder::Stdio::piped());
            world.add_with("it", &command, leaving(policy.clone()));
            world.start();
            world.until_ready("it", 1);
            let (pid, process) = (world.pid("it"), world.monitor.status("it").unwrap().process.unwrap());
            world.reactor.process(process).unwrap().close_stdin();
            world.until_told("exited", "it", 1);
            if policy == short_kill_time() {
                world.until_told("started", "it", 2);
            }
            assert_eq!(group(pid).len(), 1, "it is left alone at first");
            world.stop();
            world.until_down();
            let runs_again = policy == short_kill_time();
            if reaches_leftovers(world.reap) {
                world.until("it is gone", |_| group(pid).is_empty());
                assert_eq!(world.count("terminating", "it"), 1);
            } else {
                assert_eq!((group(pid).len(), world.count("terminating", "it")), (1, usize::from(runs_again)));
            }
            assert_eq!(world.state("it"), State::Stopped);
            world.expect_no_timer();
        }
    }
}

// The same holds for a kill, and when the process is removed.
#[test]
fn those_who_outlived_a_crash_are_killed_or_removed_with_it() {
    for kill in [false, true] {
        let mut world = World::new();
        let mut policy = long_backoff();
        policy.kill_time = KILL_TIME;
        world.add_with("it", &sh("(trap '' TERM; exec sleep 1000) & exit 1"), leaving(policy));
        world.start();
        let pid = world.pid("it");
        world.until_told("restarting", "it", 1);
        if kill {
            world.monitor.kill_service(&mut world.reactor);
        } else {
            world.remove("it");
            world.stop();
        }
        world.until_down();
        if reaches_leftovers(world.reap) {
            world.until("it is gone", |_| group(pid).is_empty());
        } else {
            assert_eq!(group(pid).len(), 1);
        }
        world.expect_no_timer();
    }
}

// If they have ended by themselves, a stop during the backoff signals no process.
#[test]
fn nobody_is_terminated_who_is_gone() {
    let mut world = World::new();
    let mut command = sh("(read x) <&3 & exit 1");
    command.fd(3, childminder::Stdio::writer());
    world.add_with("it", &command, leaving(long_backoff()));
    world.start();
    let (pid, process) = (world.pid("it"), world.monitor.status("it").unwrap().process.unwrap());
    world.until_told("restarting", "it", 1);
    let left = group(pid);
    assert_eq!(left.len(), 1);
    world.reactor.process(process).unwrap().close(3);
    // Init may take some time to reap it, and that of some containers never does.
    let gone = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z")))
    };
    world.until("they are gone", |_| left.iter().all(|pid| gone(*pid)));
    world.stop();
    assert!(world.monitor.is_down());
    assert_eq!(world.count("terminating", "it"), 0);
}

// A stopped child does not act on SIGTERM by itself.
#[test]
fn a_suspended_process_is_stopped_properly() {
    each_way(|world| {
        // The script does not use `read`: a signal that arrives between the shell's check of its
        // traps and the call is acted on only when the call returns.
        world.add("it", &sh(&format!("trap 'echo bye; exit 0' TERM; echo ready; {BUSY}")));
        world.start();
        world.until_ready("it", 1);
        let process = world.monitor.status("it").unwrap().process.unwrap();
        let pid = world.pid("it");
        world.reactor.process(process).unwrap().signal_group(19).unwrap();
        world.until("it is suspended", |_| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
        });
        world.stop();
        world.until_down();
        assert_eq!(world.story("it"), ["started", "terminating", "exited"]);
        assert_eq!(world.lines("it"), ["[it] ready", "[it] bye"]);
    });
}

#[test]
fn the_stop_signal_is_the_policy_s() {
    let mut policy = no_instant_deaths();
    policy.stop_signal = 2;
    let mut world = World::new();
    world.add_with("it", &sh(&format!("trap 'echo int; exit 0' INT; trap '' TERM; echo ready; {BUSY}")), policy);
    world.start();
    world.until_ready("it", 1);
    world.stop();
    world.until_down();
    assert_eq!(world.lines("it"), ["[it] ready", "[it] int"]);
}

// It exits by itself at the moment in which it is stopped. There is no restart and no error.
#[test]
fn a_stop_of_what_has_died_already() {
    each_way(|world| {
        world.add("it", &sh("exit 3"));
        world.start();
        let pid = world.pid("it");
        world.until_dead(pid);
        world.stop();
        world.until_down();
        assert_eq!(world.count("started", "it"), 1);
        assert_eq!(world.monitor.status("it").unwrap().last_exit.unwrap().code(), Some(3));
    });
}

// A pipe that another process holds does not keep the service up.
#[test]
fn a_stop_does_not_wait_for_pipes() {
    if monitor_util::in_cgroups() {
        monitor_util::left_out("in a cgroup, the stop also kills the process that would hold the pipe");
        return;
    }
    each_way(|world| {
        // A process that has left the group is not stopped. It ends when our end of its descriptor
        // 3 is closed.
        let mut command = sh("setsid sh -c 'echo ready; read x <&3; echo gone' & exec sleep 1000");
        command.fd(3, childminder::Stdio::writer());
        world.add("it", &command);
        world.start();
        world.until_ready("it", 1);
        let process = world.monitor.status("it").unwrap().process.unwrap();
        world.stop();
        world.until_down();
        assert_eq!(world.story("it"), ["started", "terminating", "exited"]);
        world.reactor.process(process).expect("it has not ended").close(3);
        world.until("its last words", |world| world.lines("it") == ["[it] ready", "[it] gone"]);
    });
}

// Also where nothing leads to what is left of a group.
#[test]
fn what_is_left_behind_is_killed() {
    each_way(|world| {
        world.add("it", &sh("sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exit 0"));
        world.start();
        world.until_told("started", "it", 2);
        let lines = world.lines("it");
        let pid = lines[0].strip_prefix("[it] ").unwrap().to_owned();
        world.until("its end", |_| !is_alive(&pid));
    });
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(" (sleep) ") && !stat.contains(") Z ")
}

// The stop is asked for outside of a turn, where nobody else shares a look at the system's
// processes.
#[test]
fn a_stop_of_many_looks_once_at_who_is_left() {
    const COUNT: usize = 20;
    let mut world = World::new();
    let mut policy = leaving(no_instant_deaths());
    policy.restart = Restart::Never;
    let names: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    for name in &names {
        world.add_with(name, &sh("sleep 1000 </dev/null >/dev/null 2>&1 & exit 0"), policy.clone());
    }
    world.start();
    world.until("all have exited", |world| names.iter().all(|name| world.state(name) == State::Exited));
    if monitor_util::in_cgroups() || names.iter().any(|name| world.monitor.status(name).unwrap().left.is_empty()) {
        monitor_util::left_out("what is left is not looked for in the process table of the system");
        return;
    }
    let (processes, before) = (std::fs::read_dir("/proc").unwrap().count(), reads());
    world.stop();
    let read = reads() - before;
    // A look reads a file for each process, or two; here may be twice as many as were counted.
    assert!(read < 8 * processes, "{read} reads, {processes} processes");
    world.until_down();
}

/// The calls of this thread that read something.
fn reads() -> usize {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse().ok()).unwrap()
}
