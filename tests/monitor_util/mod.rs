//! A monitor with real processes, and a diary of the events that it reports.
//!
//! The one rule: every wait has a watchdog, and no wait is a sleep.

#![allow(dead_code, unused_imports)] // Each test file takes what it needs.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use childminder::restart::State;
use childminder::{
    Command, Event, Exit, Fault, Leftovers, Line, Observer, Order, Policy, ProcessId, ProcessMonitor, Reactor,
    ReapMethod, Service, SpawnError, SpawnMethod, Watch,
};

#[path = "../util/kernel.rs"]
mod kernel;
#[path = "../util/mod.rs"]
mod util;
pub(crate) use util::contained;
#[allow(unused_imports)]
pub(crate) use util::{WATCHDOG, in_cgroups, left_out, needs_root, needs_the_kernel, now, sh};

/// A report of the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Line { name: String, fd: i32, text: String },
    Started { name: String, pid: u32 },
    StartFailed { name: String, why: String },
    Exited { name: String, exit: Exit },
    Restarting { name: String, delay: Duration },
    Terminating { name: String, signal: i32 },
    Killing { name: String },
    PipesClosed { name: String },
    TreeReleased { name: String },
    TreeUnknown { name: String },
    Ready { name: String },
    Unready { name: String },
    Fault { name: String, fault: Fault },
    HelperFailed { name: String },
    EssentialEnded { name: String, code: Option<i32> },
    GroupFailed { name: String },
    Rolled { name: String },
}

impl Told {
    fn name(&self) -> &str {
        match self {
            Self::Line { name, .. }
            | Self::Started { name, .. }
            | Self::StartFailed { name, .. }
            | Self::Exited { name, .. }
            | Self::Restarting { name, .. }
            | Self::Terminating { name, .. }
            | Self::Killing { name }
            | Self::PipesClosed { name }
            | Self::TreeReleased { name }
            | Self::TreeUnknown { name }
            | Self::Ready { name }
            | Self::Unready { name }
            | Self::Fault { name, .. }
            | Self::HelperFailed { name }
            | Self::EssentialEnded { name, .. }
            | Self::GroupFailed { name }
            | Self::Rolled { name } => name,
        }
    }

    /// The kind of the report, in one or two words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Line { .. } => "line",
            Self::Started { .. } => "started",
            Self::StartFailed { .. } => "start failed",
            Self::Exited { .. } => "exited",
            Self::Restarting { .. } => "restarting",
            Self::Terminating { .. } => "terminating",
            Self::Killing { .. } => "killing",
            Self::PipesClosed { .. } => "pipes closed",
            Self::TreeReleased { .. } => "tree released",
            Self::TreeUnknown { .. } => "tree unknown",
            Self::Ready { .. } => "ready",
            Self::Unready { .. } => "unready",
            Self::Fault { .. } => "fault",
            Self::HelperFailed { .. } => "helper failed",
            Self::EssentialEnded { .. } => "essential ended",
            Self::GroupFailed { .. } => "group failed",
            Self::Rolled { .. } => "rolled",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Diary(pub(crate) VecDeque<(Instant, Told)>);

impl Diary {
    fn note(&mut self, told: Told) {
        self.0.push_back((now(), told));
    }
}

impl Observer for Diary {
    fn line(&mut self, line: &Line<'_>) {
        self.note(Told::Line { name: line.name.into(), fd: line.fd, text: line.to_string() });
    }
    fn started(&mut self, name: &str, pid: u32) {
        self.note(Told::Started { name: name.into(), pid });
    }
    fn start_failed(&mut self, name: &str, error: &SpawnError) {
        self.note(Told::StartFailed { name: name.into(), why: error.to_string() });
    }
    fn exited(&mut self, name: &str, exit: &Exit) {
        self.note(Told::Exited { name: name.into(), exit: *exit });
    }
    fn restarting(&mut self, name: &str, delay: Duration) {
        self.note(Told::Restarting { name: name.into(), delay });
    }
    fn terminating(&mut self, name: &str, signal: i32) {
        self.note(Told::Terminating { name: name.into(), signal });
    }
    fn killing(&mut self, name: &str) {
        self.note(Told::Killing { name: name.into() });
    }
    fn pipes_closed(&mut self, name: &str, _: ProcessId) {
        self.note(Told::PipesClosed { name: name.into() });
    }
    fn tree_released(&mut self, name: &str, _: ProcessId) {
        self.note(Told::TreeReleased { name: name.into() });
    }
    fn ready(&mut self, name: &str) {
        self.note(Told::Ready { name: name.into() });
    }
    fn unready(&mut self, name: &str) {
        self.note(Told::Unready { name: name.into() });
    }
    fn fault(&mut self, name: &str, fault: &Fault) {
        self.note(Told::Fault { name: name.into(), fault: *fault });
    }
    fn helper_failed(&mut self, name: &str, _: &SpawnError) {
        self.note(Told::HelperFailed { name: name.into() });
    }
    fn essential_ended(&mut self, name: &str, exit: Option<&Exit>) {
        self.note(Told::EssentialEnded { name: name.into(), code: exit.and_then(Exit::code) });
    }
    fn group_failed(&mut self, group: &str) {
        self.note(Told::GroupFailed { name: group.into() });
    }
    fn rolled(&mut self, broken: Option<&str>) {
        self.note(Told::Rolled { name: broken.unwrap_or("nobody").into() });
    }
    fn tree_gone(&mut self, name: &str, certain: bool) {
        // One that is gone for certain is what every test expects.
        if !certain {
            self.note(Told::TreeUnknown { name: name.into() });
        }
    }
}

/// A reactor and a monitor.
pub(crate) struct World {
    pub(crate) reactor: Reactor,
    pub(crate) monitor: ProcessMonitor<Diary>,
    pub(crate) reap: ReapMethod,
}

/// Whether this world reaches the members of a group after its leader was reaped. If not, a stop
/// keeps the leader unreaped until its group is empty, and leftover processes that were left alone
/// are out of reach.
pub(crate) fn reaches_leftovers(reap: ReapMethod) -> bool {
    in_cgroups() || reap == ReapMethod::Pidfd && kernel::reaches_groups_by_pidfd()
}

/// Runs a test with each way to spawn and each way to reap.
pub(crate) fn each_way(test: impl Fn(&mut World)) {
    for spawn in [SpawnMethod::Vfork, SpawnMethod::Fork] {
        for reap in [ReapMethod::Pidfd, ReapMethod::Sigchld] {
            eprintln!("{spawn:?}, {reap:?}");
            let mut world = World::with(spawn, reap);
            test(&mut world);
            world.monitor.kill_service(&mut world.reactor);
            world.until("all is down at the end", |world| world.monitor.is_down());
        }
    }
}

/// Restart delays of 20 ms and more, no instant deaths, and a kill time that is never reached.
pub(crate) fn no_instant_deaths() -> Policy {
    let mut policy = Policy::default();
    policy.threshold = Duration::ZERO;
    policy.kill_time = Duration::from_secs(1000);
    policy.min_restart_delay = Duration::from_millis(20);
    policy
}

/// The same as `no_instant_deaths`, but each exit is an instant death.
pub(crate) fn all_instant_deaths() -> Policy {
    let mut policy = no_instant_deaths();
    policy.threshold = Duration::from_secs(1000);
    policy
}

/// The same as `all_instant_deaths`, but the first restart delay is never over within a test.
pub(crate) fn long_backoff() -> Policy {
    let mut policy = all_instant_deaths();
    policy.min_restart_delay = Duration::from_secs(1000);
    policy
}

/// The same policy, but leftover processes are left alone.
pub(crate) fn leaving(mut policy: Policy) -> Policy {
    policy.leftovers = Leftovers::Leave;
    policy
}

/// The same as `no_instant_deaths`, with a short kill time.
pub(crate) fn short_kill_time() -> Policy {
    let mut policy = no_instant_deaths();
    policy.kill_time = KILL_TIME;
    policy
}

pub(crate) const KILL_TIME: Duration = Duration::from_millis(300);

/// Writes "ready", then does nothing until it is stopped.
pub(crate) const IDLE: &str = "echo ready; exec sleep 1000";
/// Writes "ready", then does nothing, and ignores SIGTERM.
pub(crate) const STUBBORN: &str = "trap '' TERM; echo ready; exec sleep 1000";

impl World {
    pub(crate) fn new() -> Self {
        Self::with(SpawnMethod::default(), ReapMethod::default())
    }

    pub(crate) fn with(spawn: SpawnMethod, reap: ReapMethod) -> Self {
        let mut monitor = ProcessMonitor::with_observer(Diary::default());
        monitor.set_policy(no_instant_deaths()).unwrap();
        Self { reactor: Reactor::with_methods(spawn, reap).unwrap(), monitor, reap }
    }

    pub(crate) fn add(&mut self, name: &str, command: &Command) {
        self.monitor.add_process(&mut self.reactor, name, &contained(command)).unwrap();
    }

    pub(crate) fn add_with(&mut self, name: &str, command: &Command, policy: Policy) {
        self.monitor.add_process_with(&mut self.reactor, name, &contained(command), policy).unwrap();
    }

    pub(crate) fn start(&mut self) {
        self.monitor.start_service(&mut self.reactor);
    }

    pub(crate) fn stop(&mut self) {
        self.monitor.stop_service(&mut self.reactor);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.monitor.remove_process(&mut self.reactor, name).unwrap();
    }

    pub(crate) fn start_process(&mut self, name: &str) {
        self.monitor.start_process(&mut self.reactor, name).unwrap();
    }

    pub(crate) fn stop_process(&mut self, name: &str) {
        self.monitor.stop_process(&mut self.reactor, name).unwrap();
    }

    pub(crate) fn restart_process(&mut self, name: &str) {
        self.monitor.restart_process(&mut self.reactor, name).unwrap();
    }

    pub(crate) fn order(&mut self, order: &Order) {
        self.monitor.set_order(&mut self.reactor, order).unwrap();
    }

    pub(crate) fn watch(&mut self, name: &str, watch: Watch) {
        self.monitor.set_watch(&mut self.reactor, name, watch).unwrap();
    }

    #[track_caller]
    pub(crate) fn state(&self, name: &str) -> State {
        self.monitor.status(name).expect("a process of this name").state
    }

    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> u32 {
        self.monitor.status(name).expect("a process of this name").pid.expect("it runs")
    }

    /// Takes turns until `done`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = now() + WATCHDOG;
        while !done(self) {
            assert!(now() < end, "waited in vain: {what}; {:#?}", self.monitor.observer().0);
            let monitor = &mut self.monitor;
            let turn = |reactor: &mut Reactor, event: Event<'_>| _ = monitor.handle(reactor, &event);
            self.reactor.turn(Some(Duration::from_millis(100)), turn).unwrap();
        }
    }

    #[track_caller]
    pub(crate) fn until_down(&mut self) {
        self.until("the service is down", |world| world.monitor.is_down());
    }

    #[track_caller]
    pub(crate) fn until_stopped(&mut self, name: &str) {
        self.until("it has stopped", |world| world.state(name) == State::Stopped);
    }

    /// Takes turns until there are `count` reports of this kind about `name`.
    #[track_caller]
    pub(crate) fn until_told(&mut self, kind: &str, name: &str, count: usize) {
        self.until(&format!("{count} × {kind} {name}"), |world| world.count(kind, name) >= count);
    }

    /// Waits without a turn until the process is dead. It is a zombie then, and the reactor does
    /// not know.
    #[track_caller]
    pub(crate) fn until_dead(&mut self, pid: u32) {
        let end = now() + WATCHDOG;
        while group(pid).contains(&pid) {
            assert!(now() < end, "{pid} lives on");
            std::thread::yield_now();
        }
    }

    /// Takes turns until the process has written "ready" `count` times.
    #[track_caller]
    pub(crate) fn until_ready(&mut self, name: &str, count: usize) {
        let text = format!("[{name}] ready");
        self.until(&text, |world| world.lines(name).iter().filter(|line| **line == text).count() >= count);
    }

    pub(crate) fn count(&self, kind: &str, name: &str) -> usize {
        self.told(name).filter(|(_, told)| told.kind() == kind).count()
    }

    pub(crate) fn told(&self, name: &str) -> impl Iterator<Item = &(Instant, Told)> {
        self.monitor.observer().0.iter().filter(move |(_, told)| told.name() == name)
    }

    /// The kinds of all reports about a process, except its lines.
    pub(crate) fn story(&self, name: &str) -> Vec<&'static str> {
        self.told(name).map(|(_, told)| told.kind()).filter(|kind| *kind != "line").collect()
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<&str> {
        let told = self.told(name);
        told.filter_map(|(_, told)| if let Told::Line { text, .. } = told { Some(text.as_str()) } else { None })
            .collect()
    }

    pub(crate) fn delays(&self, name: &str) -> Vec<Duration> {
        let told = self.told(name);
        told.filter_map(|(_, told)| if let Told::Restarting { delay, .. } = told { Some(*delay) } else { None })
            .collect()
    }

    /// The time of the last report of this kind.
    #[track_caller]
    pub(crate) fn last(&self, kind: &str, name: &str) -> Instant {
        self.told(name).filter(|(_, told)| told.kind() == kind).last().expect("told").0
    }

    /// Checks that no timer is set, so that nothing happens by itself.
    #[track_caller]
    pub(crate) fn expect_no_timer(&mut self) {
        // Directories of cgroups are removed a little later.
        while in_cgroups() && self.reactor.next_deadline().is_some_and(|due| due < now() + Duration::from_millis(110)) {
            self.reactor.turn(None, |_, _| {}).unwrap();
        }
        let now = self.reactor.now();
        match self.reactor.next_deadline() {
            Some(deadline) if deadline > now => panic!("a timer is left, due in {:?}", deadline - now),
            _ => {}
        }
    }
}

/// A test that fails leaves nothing running.
impl Drop for World {
    fn drop(&mut self) {
        self.monitor.kill_service(&mut self.reactor);
    }
}

/// The living members of a process group, according to /proc.
pub(crate) fn group(pgid: u32) -> Vec<u32> {
    let member = |stat: &str| {
        let (pid, rest) = stat.split_once(' ')?;
        let rest: Vec<&str> = rest.rsplit_once(')')?.1.split_whitespace().collect();
        let dead = matches!(rest[0], "Z" | "X");
        (!dead && rest[2] == pgid.to_string()).then(|| pid.parse().unwrap())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(|stat| member(&stat)).collect()
}

/// A directory for one test alone. It is removed when this value is dropped.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let path = util::guard::folder().join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
