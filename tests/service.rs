//! Tests services, and `run_service` with them: start, signals, stop and end. Signals belong to the
//! whole process.
//!
//! The one rule: a test that raises a signal runs in a process of its own.

#[path = "util/apart.rs"]
mod apart;
mod monitor_util;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apart::{apart, expect_apart};
use childminder::{Event, Interest, MultiService, ProcessMonitor, Reactor, ReapMethod, Service, SpawnMethod};
use monitor_util::{Diary, IDLE, STUBBORN, Told, WATCHDOG, World, no_instant_deaths, now, sh};

const SIGINT: i32 = 2;
const SIGUSR1: i32 = 10;
const SIGTERM: i32 = 15;

fn raise(signal: i32) {
    signal_hook::low_level::raise(signal).unwrap();
}

/// A monitor with actions of the test: one when its process is ready, and one when it has been told
/// to stop.
struct Scripted {
    monitor: ProcessMonitor<Diary>,
    ready: Option<fn(&mut Reactor)>,
    stopping: Option<fn(&mut Reactor)>,
    /// The action at a timer that is not the monitor's.
    late: Option<fn(&mut Reactor)>,
}

impl Scripted {
    fn new(reactor: &mut Reactor, script: &str, ready: fn(&mut Reactor)) -> Self {
        let mut monitor = ProcessMonitor::with_observer(Diary::default());
        monitor.set_policy(no_instant_deaths()).unwrap();
        monitor.add_process(reactor, "it", &sh(script)).unwrap();
        Self { monitor, ready: Some(ready), stopping: None, late: None }
    }

    fn story(&self) -> Vec<Told> {
        self.monitor.observer().0.iter().map(|(_, told)| told.clone()).collect()
    }
}

impl Service for Scripted {
    fn is_running(&self) -> bool {
        self.monitor.is_running()
    }
    fn is_down(&self) -> bool {
        self.monitor.is_down()
    }
    fn start_service(&mut self, reactor: &mut Reactor) {
        self.monitor.start_service(reactor);
    }
    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.monitor.stop_service(reactor);
        if let Some(act) = self.stopping.take() {
            act(reactor);
        }
    }
    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.monitor.kill_service(reactor);
    }
    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        let mine = self.monitor.handle(reactor, event);
        let ready = self.monitor.observer().0.iter().any(|(_, told)| matches!(told, Told::Line { .. }));
        if let (Some(act), true) = (self.ready, ready) {
            self.ready = None;
            act(reactor);
        }
        if let (Some(act), Event::Timer(_), false) = (self.late, event, mine) {
            act(reactor);
        }
        mine
    }
}

fn is_story(story: &[Told], expected: &[&str]) {
    assert_eq!(story.iter().map(Told::kind).collect::<Vec<_>>(), expected);
}

const STOPPED: [&str; 4] = ["started", "line", "terminating", "exited"];

fn each_reactor(test: impl Fn(Reactor)) {
    for spawn in [SpawnMethod::Vfork, SpawnMethod::Fork] {
        for reap in [ReapMethod::Pidfd, ReapMethod::Sigchld] {
            test(Reactor::with_methods(spawn, reap).unwrap());
        }
    }
}

#[test]
fn each_signal_that_ends_a_program_stops_the_service() {
    expect_apart("each_signal_that_ends_a_program_stops_the_service", || {
        let raisers: [fn(&mut Reactor); 7] = [
            |_| raise(SIGTERM),
            |_| raise(SIGINT),
            |_| raise(libc::SIGQUIT),
            |_| raise(libc::SIGHUP),
            |_| raise(SIGUSR1),
            |_| raise(libc::SIGALRM),
            |_| raise(libc::SIGRTMIN() + 3),
        ];
        for ready in raisers {
            each_reactor(|mut reactor| {
                let mut service = Scripted::new(&mut reactor, IDLE, ready);
                reactor.run_service(&mut service).unwrap();
                assert!(service.is_down());
                is_story(&service.story(), &STOPPED);
                assert_eq!(reactor.next_deadline(), None);
            });
        }
    });
}

// This is as under nohup, or in the background of a shell script.
#[test]
fn what_was_ignored_stays_ignored() {
    const NAME: &str = "what_was_ignored_stays_ignored";
    expect_apart(NAME, || {
        if !Reactor::ignores_signal(SIGINT) {
            let mut ignoring = std::process::Command::new("sh");
            ignoring.args(["-c", r#"trap '' INT QUIT HUP; exec "$0" --exact "$1" --nocapture"#]);
            let status = ignoring.arg(std::env::current_exe().unwrap()).arg(NAME).status().unwrap();
            assert!(status.success());
            return;
        }
        each_reactor(|mut reactor| {
            let mut service = Scripted::new(&mut reactor, IDLE, |reactor| {
                for signal in [SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                    raise(signal);
                }
                reactor.call_later(Duration::from_millis(100));
            });
            service.late = Some(|_| raise(SIGTERM));
            let start = now();
            reactor.run_service(&mut service).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(100), "one of them was heard");
            is_story(&service.story(), &STOPPED);
            assert!(Reactor::ignores_signal(SIGINT) && Reactor::ignores_signal(libc::SIGHUP));
        });
    });
}

#[test]
fn a_second_signal_kills_at_once() {
    expect_apart("a_second_signal_kills_at_once", || {
        for second in [(|_| raise(SIGTERM)) as fn(&mut Reactor), |_| raise(SIGINT)] {
            each_reactor(|mut reactor| {
                let mut service = Scripted::new(&mut reactor, STUBBORN, |_| raise(SIGTERM));
                service.stopping = Some(|reactor| _ = reactor.call_later(Duration::from_millis(300)));
                service.late = Some(second);
                reactor.run_service(&mut service).unwrap();
                is_story(&service.story(), &["started", "line", "terminating", "killing", "exited"]);
            });
        }
    });
}

/// A service that is never down.
struct Undying(u32);

impl Service for Undying {
    fn is_running(&self) -> bool {
        self.0 == 0
    }
    fn is_down(&self) -> bool {
        false
    }
    fn start_service(&mut self, reactor: &mut Reactor) {
        raise(SIGTERM);
        reactor.call_later(Duration::from_millis(300));
    }
    fn stop_service(&mut self, _: &mut Reactor) {
        self.0 += 1;
    }
    fn kill_service(&mut self, _: &mut Reactor) {
        self.0 += 1;
    }
    fn handle(&mut self, _: &mut Reactor, event: &Event<'_>) -> bool {
        if let Event::Timer(_) = event {
            assert_eq!(self.0, 1);
            raise(SIGINT);
        }
        true
    }
}

#[test]
fn a_second_signal_ends_the_program_whatever_is_left() {
    expect_apart("a_second_signal_ends_the_program_whatever_is_left", || {
        let (mut reactor, mut service, start) = (Reactor::new().unwrap(), Undying(0), now());
        let error = reactor.run_service(&mut service).unwrap_err();
        assert_eq!((error.kind(), service.0), (io::ErrorKind::TimedOut, 2), "{error}");
        let time = start.elapsed();
        assert!(time >= Duration::from_millis(2300) && time < WATCHDOG, "{time:?}");
    });
}

// timeout(1) sends one signal to the process, and one to its group.
#[test]
fn a_signal_that_comes_twice_leaves_the_time_to_stop() {
    expect_apart("a_signal_that_comes_twice_leaves_the_time_to_stop", || {
        each_reactor(|mut reactor| {
            // The process ignores SIGTERM and ends at the timer's SIGUSR1.
            let script = "trap '' TERM; trap 'exit 0' USR1; echo ready; while :; do sleep 0.01; done";
            let mut service = Scripted::new(&mut reactor, script, |_| raise(SIGTERM));
            service.stopping = Some(|reactor| {
                raise(SIGTERM);
                reactor.call_later(Duration::from_millis(50));
            });
            service.late = Some(|reactor| {
                let all: Vec<_> = reactor.processes().collect();
                for id in all {
                    reactor.process(id).unwrap().signal(SIGUSR1).unwrap();
                }
            });
            reactor.run_service(&mut service).unwrap();
            is_story(&service.story(), &STOPPED);
        });
    });
}

#[test]
fn stop_stops_the_service_and_a_signal_then_kills_it() {
    expect_apart("stop_stops_the_service_and_a_signal_then_kills_it", || {
        each_reactor(|mut reactor| {
            let mut service = Scripted::new(&mut reactor, IDLE, Reactor::stop);
            // A second call has no effect.
            service.stopping = Some(Reactor::stop);
            reactor.run_service(&mut service).unwrap();
            is_story(&service.story(), &STOPPED);

            let mut service = Scripted::new(&mut reactor, STUBBORN, Reactor::stop);
            service.stopping = Some(|_| raise(SIGTERM));
            reactor.run_service(&mut service).unwrap();
            is_story(&service.story(), &["started", "line", "terminating", "killing", "exited"]);
        });
    });
}

// The handlers are restored.
#[test]
fn afterwards_sigterm_ends_the_program_again() {
    let status = apart("afterwards_sigterm_ends_the_program_again", || {
        for _ in 0..2 {
            let mut reactor = Reactor::new().unwrap();
            let mut service = Scripted::new(&mut reactor, IDLE, |_| raise(SIGTERM));
            reactor.run_service(&mut service).unwrap();
        }
        raise(SIGTERM);
        std::process::exit(3);
    });
    assert!(status.is_none_or(|status| status.signal() == Some(SIGTERM)), "{status:?}");
}

#[test]
fn a_handler_of_the_host_is_called_during_and_after() {
    expect_apart("a_handler_of_the_host_is_called_during_and_after", || {
        // This is the signal-hook crate's own safe interface: a pipe with a byte for each signal.
        let (mut read, write) = UnixStream::pair().unwrap();
        signal_hook::low_level::pipe::register(SIGTERM, write).unwrap();
        read.set_read_timeout(Some(WATCHDOG)).unwrap();
        let mut hear = || read.read_exact(&mut [0]).expect("the handler was called");
        let mut reactor = Reactor::new().unwrap();
        let mut service = Scripted::new(&mut reactor, IDLE, |_| raise(SIGTERM));
        reactor.run_service(&mut service).unwrap();
        hear();
        raise(SIGTERM);
        hear();
    });
}

// A signal that the host watches already ends the service, too, and goes to the host afterwards.
#[test]
fn a_signal_that_the_host_watches_stays_watched() {
    expect_apart("a_signal_that_the_host_watches_stays_watched", || {
        let mut reactor = Reactor::new().unwrap();
        reactor.watch_signal(SIGTERM).unwrap();
        let mut service = Scripted::new(&mut reactor, IDLE, |_| raise(SIGTERM));
        reactor.run_service(&mut service).unwrap();
        raise(SIGTERM);
        let mut heard = Vec::new();
        let end = now() + WATCHDOG;
        while heard.is_empty() {
            assert!(now() < end);
            let note = |_: &mut Reactor, event: Event<'_>| {
                if let Event::Signal(signal) = event {
                    heard.push(signal);
                }
            };
            reactor.turn(Some(Duration::from_millis(100)), note).unwrap();
        }
        assert_eq!(heard, [SIGTERM]);
        assert!(reactor.unwatch_signal(SIGTERM) && !reactor.unwatch_signal(SIGINT));
    });
}

type Calls = Arc<Mutex<Vec<String>>>;

/// Notes the calls that it gets.
struct Recorder {
    name: &'static str,
    calls: Calls,
    running: bool,
    refuses: bool,
}

impl Recorder {
    fn new(name: &'static str, calls: &Calls) -> Self {
        Self { name, calls: Arc::clone(calls), running: false, refuses: false }
    }

    fn note(&self, what: &str) {
        self.calls.lock().unwrap().push(format!("{what} {}", self.name));
    }
}

impl Service for Recorder {
    fn name(&self) -> Option<&str> {
        Some(self.name)
    }
    fn is_running(&self) -> bool {
        self.running
    }
    fn is_down(&self) -> bool {
        !self.running
    }
    fn privileged_start_service(&mut self, _: &mut Reactor) -> io::Result<()> {
        self.note("bind");
        if self.refuses { Err(io::Error::other("the port is taken")) } else { Ok(()) }
    }
    fn start_service(&mut self, _: &mut Reactor) {
        self.note("start");
        self.running = true;
    }
    fn stop_service(&mut self, _: &mut Reactor) {
        self.note("stop");
        self.running = false;
    }
    fn kill_service(&mut self, _: &mut Reactor) {
        self.note("kill");
        self.running = false;
    }
    fn handle(&mut self, _: &mut Reactor, event: &Event<'_>) -> bool {
        if let Event::Woken = event {
            self.note("wake");
        }
        self.name == "second" && matches!(event, Event::Woken)
    }
}

#[test]
fn services_start_in_order_and_stop_in_reverse() {
    let calls = Calls::default();
    let mut reactor = Reactor::new().unwrap();
    let mut all = MultiService::new();
    for name in ["first", "second", "third"] {
        all.add_service(&mut reactor, Recorder::new(name, &calls));
    }
    assert!(all.is_down() && !all.is_running());
    let all_of = |what: &str, names: [&str; 3]| names.map(|name| format!("{what} {name}"));
    let (order, reverse) = (["first", "second", "third"], ["third", "second", "first"]);
    all.privileged_start_service(&mut reactor).unwrap();
    assert_eq!(calls.lock().unwrap().split_off(0), all_of("bind", order));
    all.start_service(&mut reactor);
    assert_eq!(calls.lock().unwrap().split_off(0), all_of("start", order));
    assert!(all.is_running() && !all.is_down());
    // An event goes to the first service that takes it.
    assert!(all.handle(&mut reactor, &Event::Woken));
    assert_eq!(calls.lock().unwrap().split_off(0), ["wake first", "wake second"]);
    all.stop_service(&mut reactor);
    assert_eq!(calls.lock().unwrap().split_off(0), all_of("stop", reverse));
    assert!(all.is_down());
    all.kill_service(&mut reactor);
    assert_eq!(calls.lock().unwrap().split_off(0), all_of("kill", reverse));

    all.start_service(&mut reactor);
    all.add_service(&mut reactor, Recorder::new("late", &calls));
    assert_eq!(calls.lock().unwrap().last().unwrap(), "start late");
    assert!(all.service_named("late").is_some_and(|late| late.is_running()));
    assert!(all.service_named("later").is_none());
    assert!(format!("{all:?}").contains("late"));
}

#[test]
fn a_privileged_start_that_fails_starts_nothing() {
    let calls = Calls::default();
    let mut reactor = Reactor::new().unwrap();
    let mut all = MultiService::new();
    all.add_service(&mut reactor, Recorder::new("first", &calls));
    all.add_service(&mut reactor, Recorder { refuses: true, ..Recorder::new("second", &calls) });
    all.add_service(&mut reactor, Recorder::new("third", &calls));
    let error = reactor.run_service(&mut all).unwrap_err();
    assert_eq!(error.to_string(), "the port is taken");
    assert_eq!(*calls.lock().unwrap(), ["bind first", "bind second"]);
}

#[test]
fn a_service_is_started_with_its_rights_before_it_runs() {
    let calls = Calls::default();
    let mut reactor = Reactor::new().unwrap();
    let mut service = Recorder::new("it", &calls);
    reactor.stop();
    reactor.run_service(&mut service).unwrap();
    assert_eq!(*calls.lock().unwrap(), ["bind it", "start it", "stop it"]);
}

/// The number of timer events in each turn.
#[derive(Default)]
struct Turns {
    running: bool,
    now: usize,
    all: Vec<usize>,
}

impl Service for Turns {
    fn is_running(&self) -> bool {
        self.running
    }
    fn is_down(&self) -> bool {
        !self.running
    }
    fn start_service(&mut self, reactor: &mut Reactor) {
        self.running = true;
        for _ in 0..100 {
            reactor.call_later(Duration::ZERO);
        }
    }
    fn stop_service(&mut self, _: &mut Reactor) {
        self.running = false;
    }
    fn kill_service(&mut self, _: &mut Reactor) {}
    fn handle(&mut self, reactor: &mut Reactor, _: &Event<'_>) -> bool {
        self.now += 1;
        if self.now == 100 {
            reactor.stop();
        }
        true
    }
    fn turn_ended(&mut self, _: &mut Reactor) {
        self.all.push(std::mem::take(&mut self.now));
    }
}

#[test]
fn the_end_of_a_turn_comes_once_for_all_of_its_events() {
    let mut reactor = Reactor::new().unwrap();
    let mut all = Turns::default();
    reactor.run_service(&mut all).unwrap();
    // The numbers are for the start, the turn, and the stop.
    assert_eq!(all.all, [0, 100, 0]);
}

// Monitors of one program do not take each other's events, and one of them may take longer to stop.
#[test]
fn two_monitors_in_one_program() {
    expect_apart("two_monitors_in_one_program", || {
        each_reactor(|mut reactor| {
            let first = Scripted::new(&mut reactor, IDLE, |_| ());
            let mut second = Scripted::new(&mut reactor, STUBBORN, |_| raise(SIGTERM));
            second.monitor.set_process_policy(&mut reactor, "it", monitor_util::short_kill_time()).unwrap();
            let mut all = MultiService::new();
            all.add_service(&mut reactor, first);
            all.add_service(&mut reactor, second);
            reactor.run_service(&mut all).unwrap();
            assert!(all.is_down());
            assert_eq!(reactor.processes().count(), 0);
        });
    });
}

// The host's own timer, descriptor and process are in the monitor's loop.
#[test]
fn the_host_s_own_things_in_the_same_loop() {
    monitor_util::each_way(|world| {
        let World { reactor, monitor, .. } = world;
        let mut policy = no_instant_deaths();
        policy.min_restart_delay = Duration::ZERO;
        monitor.set_policy(policy).unwrap();
        monitor.add_process(reactor, "it", &sh("echo it; exit 1")).unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let source = reactor.register(ours.try_clone().unwrap(), Interest::Readable).unwrap();
        let timer = reactor.call_later(Duration::from_millis(30));
        let process = reactor.spawn_process(&sh("echo mine; exit 5")).unwrap();
        monitor.start_service(reactor);
        theirs.write_all(b"!").unwrap();
        let (mut fired, mut read, mut said, mut code) = (0, Vec::new(), Vec::new(), None);
        let end = now() + WATCHDOG;
        while fired == 0 || read.is_empty() || code.is_none() || monitor.observer().0.len() < 20 {
            assert!(now() < end, "{fired} {read:?} {said:?} {code:?}");
            let handle = |reactor: &mut Reactor, event: Event<'_>| {
                if monitor.handle(reactor, &event) {
                    return;
                }
                match event {
                    Event::Timer(id) if id == timer => fired += 1,
                    Event::Ready { source: of, readable: true, .. } if of == source => {
                        let mut byte = [0];
                        ours.read_exact(&mut byte).unwrap();
                        read.extend(byte);
                    }
                    Event::Data { process: of, fd: 1, data } if of == process => said.extend_from_slice(data),
                    Event::Exited { process: of, exit } if of == process => code = exit.code(),
                    Event::FdClosed { process: of, .. }
                    | Event::Ended { process: of, .. }
                    | Event::TreeGone { process: of, .. }
                        if of == process => {}
                    other => panic!("nobody's: {other:?}"),
                }
            };
            reactor.turn(Some(Duration::from_millis(100)), handle).unwrap();
        }
        assert_eq!((fired, &read[..], &said[..], code), (1, &b"!"[..], &b"mine\n"[..], Some(5)));
    });
}
