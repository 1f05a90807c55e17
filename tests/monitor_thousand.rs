//! Tests a thousand processes that are killed at once, again and again. All are restarted, and
//! nothing is left behind. It is the only test of its file, because it counts the descriptors and
//! the children of this process.

#[path = "util/guard.rs"]
mod guard;

use std::fs;
use std::time::{Duration, Instant};

use childminder::{Command, Line, Observer, Policy, ProcessMonitor, Reactor, ReapMethod, Service, SpawnMethod, Stdio};

const COUNT: usize = 1000;

/// The number of rounds. The variable `CHILDMINDER_TEST_ROUNDS` sets a lower one, for a machine on
/// which a spawn takes long.
fn rounds() -> usize {
    std::env::var("CHILDMINDER_TEST_ROUNDS").map_or(10, |rounds| rounds.parse::<usize>().expect("a number").min(10))
}

#[derive(Default)]
struct Count {
    started: Vec<u32>,
    exited: usize,
}

impl Observer for Count {
    fn line(&mut self, _: &Line<'_>) {}
    fn started(&mut self, _: &str, pid: u32) {
        self.started.push(pid);
    }
    fn exited(&mut self, _: &str, _: &childminder::Exit) {
        self.exited += 1;
    }
    fn restarting(&mut self, _: &str, _: Duration) {}
    fn killing(&mut self, _: &str) {}
    fn terminating(&mut self, _: &str, _: i32) {}
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[allow(clippy::disallowed_methods)]
fn until(
    reactor: &mut Reactor,
    monitor: &mut ProcessMonitor<Count>,
    done: impl Fn(&mut Reactor, &ProcessMonitor<Count>) -> bool,
) {
    let watchdog = Instant::now() + Duration::from_secs(600);
    while !done(reactor, monitor) {
        let count = monitor.observer();
        assert!(Instant::now() < watchdog, "{} started, {} exited", count.started.len(), count.exited);
        let timeout = Some(Duration::from_millis(100));
        reactor.turn(timeout, |reactor, event| _ = monitor.handle(reactor, &event)).unwrap();
    }
}

#[test]
fn a_thousand_come_back_and_leave_nothing_behind() {
    let mut reactor = Reactor::with_methods(SpawnMethod::default(), ReapMethod::default()).unwrap();
    // Each process needs one pidfd, and one for the group of the process before it.
    let limit = reactor.raise_fd_limit().unwrap();
    assert!(limit.is_none_or(|limit| limit > 2 * COUNT as u64), "the hard limit is {limit:?}");
    let mut monitor = ProcessMonitor::with_observer(Count::default());
    let mut policy = Policy::default();
    policy.threshold = Duration::ZERO;
    monitor.set_policy(policy).unwrap();
    let mut command = Command::new("sleep");
    command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
    // Without pidfds, the first child that lives makes the reactor listen to SIGCHLD from then on.
    let first = reactor.spawn_process(Command::new("sleep").arg("1000")).unwrap();
    reactor.process(first).unwrap().signal(libc::SIGKILL).unwrap();
    until(&mut reactor, &mut monitor, |reactor, _| reactor.process(first).is_none());
    let before = (descriptors(), children());
    for number in 0..COUNT {
        monitor.add_process(&mut reactor, number.to_string(), &command).unwrap();
    }
    monitor.start_service(&mut reactor);
    let mut up = 0;
    let rounds = rounds();
    for round in 1..=rounds {
        let pids: Vec<String> = monitor.observer().started[up..].iter().map(u32::to_string).collect();
        up = monitor.observer().started.len();
        assert_eq!(pids.len(), COUNT, "round {round}");
        let killed = std::process::Command::new("kill").arg("-9").args(&pids).status().unwrap();
        assert!(killed.success());
        until(&mut reactor, &mut monitor, |_, monitor| monitor.observer().started.len() == (round + 1) * COUNT);
        assert_eq!(monitor.observer().exited, round * COUNT);
        assert_eq!(children().len(), COUNT, "round {round}");
        assert!(descriptors() <= before.0 + 2 * COUNT, "round {round}: {}", descriptors());
        assert!(monitor.statuses().all(|status| status.pid.is_some() && status.restarts == round as u64));
    }
    monitor.stop_service(&mut reactor);
    until(&mut reactor, &mut monitor, |_, monitor| monitor.is_down());
    assert_eq!((descriptors(), children()), before);
    assert_eq!(monitor.observer().exited, (rounds + 1) * COUNT);
}
