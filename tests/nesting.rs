//! Runs the same scenario in our own loop and inside foreign ones: poll(2), mio, calloop, and
//! prepare/check as in GLib.
//!
//! The one rule: a driver may wait in any way and then takes a turn of no length, and it knows
//! nothing of the scenario.

mod embed_util;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use childminder::restart::{Policy, State};
use childminder::{
    Command, Event, Exit, Interest, Line, Observer, ProcessMonitor, Reactor, ReapMethod, Service, SpawnMethod,
};
use rustix::event::{PollFd, PollFlags, poll};

use embed_util::{METHODS, now, watchdog};

const ALL: usize = 20;
const KILLED: usize = 5;

/// Counts the ends of processes.
#[derive(Default)]
struct Exits {
    killed: usize,
    terminated: usize,
    other: usize,
}

impl Observer for Exits {
    fn line(&mut self, _: &Line<'_>) {}
    fn exited(&mut self, _: &str, exit: &Exit) {
        match exit.signal() {
            Some(libc::SIGKILL) => self.killed += 1,
            Some(libc::SIGTERM) => self.terminated += 1,
            _ => self.other += 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Starting,
    Restarting,
    Stopping,
    Done,
}

/// The scenario: 20 processes are started, 5 are killed from outside and restarted after a delay,
/// and all are stopped.
struct Scenario {
    reactor: Reactor,
    monitor: ProcessMonitor<Exits>,
    step: Step,
    by_fd: bool,
}

impl Scenario {
    fn new((spawn, reap): (SpawnMethod, ReapMethod), by_fd: bool) -> Self {
        let mut reactor = Reactor::with_methods(spawn, reap).unwrap();
        let mut monitor = ProcessMonitor::with_observer(Exits::default());
        let mut policy = Policy::default();
        policy.min_restart_delay = Duration::from_millis(20);
        monitor.set_policy(policy).unwrap();
        for number in 0..ALL {
            monitor.add_process(&mut reactor, number.to_string(), Command::new("sleep").arg("1000")).unwrap();
        }
        monitor.start_service(&mut reactor);
        let mut scenario = Self { reactor, monitor, step: Step::Starting, by_fd };
        scenario.go_on();
        scenario
    }

    fn turn(&mut self, timeout: Option<Duration>) {
        let monitor = &mut self.monitor;
        let handler = |reactor: &mut Reactor, event: Event<'_>| {
            monitor.handle(reactor, &event);
        };
        self.reactor.turn(timeout, handler).unwrap();
        self.go_on();
    }

    /// The host's work between turns.
    fn go_on(&mut self) {
        let running = |state| matches!(state, State::Running { .. });
        let all_run = self.monitor.statuses().filter(|status| running(status.state)).count() == ALL;
        let restarts: u64 = self.monitor.statuses().map(|status| status.restarts).sum();
        match self.step {
            Step::Starting if all_run => {
                for status in self.monitor.statuses().take(KILLED) {
                    self.reactor.process(status.process.unwrap()).unwrap().signal(libc::SIGKILL).unwrap();
                }
                self.step = Step::Restarting;
            }
            Step::Restarting if all_run && restarts == KILLED as u64 => {
                self.monitor.stop_service(&mut self.reactor);
                self.step = Step::Stopping;
            }
            Step::Stopping if self.monitor.is_down() && self.reactor.processes().next().is_none() => {
                let exits = self.monitor.observer();
                assert_eq!((exits.killed, exits.terminated, exits.other), (KILLED, ALL, 0));
                self.step = Step::Done;
            }
            _ => {}
        }
        if self.by_fd {
            self.reactor.arm_fd().unwrap();
        }
    }

    fn done(&self) -> bool {
        self.step == Step::Done
    }

    /// The longest time that a foreign loop may wait. There is no limit if the descriptor announces
    /// everything.
    fn timeout(&mut self) -> Option<Duration> {
        if self.by_fd {
            return None;
        }
        self.reactor.next_deadline().map(|deadline| deadline.saturating_duration_since(now()))
    }
}

/// Runs the scenario with all methods, once by the descriptor and the deadline and once by the
/// descriptor alone.
fn everywhere(drive: impl Fn(&mut Scenario)) {
    watchdog(60);
    for methods in METHODS {
        for by_fd in [false, true] {
            let mut scenario = Scenario::new(methods, by_fd);
            drive(&mut scenario);
            assert!(scenario.done());
        }
    }
}

#[test]
fn in_our_own_loop() {
    everywhere(|scenario| {
        while !scenario.done() {
            scenario.turn(None);
        }
    });
}

/// Waits until the reactor's descriptor is readable. A signal (SIGCHLD, for example) ends the wait,
/// as in any host.
fn wait(reactor: &Reactor, timeout: Option<Duration>) -> bool {
    let mut fds = [PollFd::new(reactor, PollFlags::IN)];
    let timeout = timeout.map(|timeout| timeout.try_into().unwrap());
    match poll(&mut fds, timeout.as_ref()) {
        Err(rustix::io::Errno::INTR) => false,
        count => count.unwrap() > 0,
    }
}

#[test]
fn in_poll() {
    everywhere(|scenario| {
        while !scenario.done() {
            let timeout = scenario.timeout();
            wait(&scenario.reactor, timeout);
            scenario.turn(Some(Duration::ZERO));
        }
    });
}

/// A GSource: `prepare` says how long it can wait, and `check` whether it is to be dispatched.
#[test]
fn in_prepare_and_check() {
    everywhere(|scenario| {
        while !scenario.done() {
            let deadline = if scenario.by_fd { None } else { scenario.reactor.next_deadline() };
            let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now());
            let mut ready = due(deadline);
            if !ready {
                let timeout = scenario.timeout();
                ready = wait(&scenario.reactor, timeout) || due(deadline);
            }
            if ready {
                scenario.turn(Some(Duration::ZERO));
            }
        }
    });
}

#[test]
fn in_mio() {
    everywhere(|scenario| {
        let mut host = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(8);
        let raw = scenario.reactor.as_fd().as_raw_fd();
        let source = &mut mio::unix::SourceFd(&raw);
        host.registry().register(source, mio::Token(7), mio::Interest::READABLE).unwrap();
        while !scenario.done() {
            let timeout = scenario.timeout();
            match host.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result.unwrap(),
            }
            scenario.turn(Some(Duration::ZERO));
        }
    });
}

#[test]
fn in_calloop() {
    for mode in [calloop::Mode::Level, calloop::Mode::Edge] {
        everywhere(|scenario| {
            let mut host = calloop::EventLoop::<Scenario>::try_new().unwrap();
            let fd: OwnedFd = scenario.reactor.as_fd().try_clone_to_owned().unwrap();
            let source = calloop::generic::Generic::new(fd, calloop::Interest::READ, mode);
            let handle = host.handle();
            let take_turn = |_, _: &mut _, scenario: &mut Scenario| {
                scenario.turn(Some(Duration::ZERO));
                Ok(calloop::PostAction::Continue)
            };
            handle.insert_source(source, take_turn).unwrap();
            while !scenario.done() {
                let timeout = scenario.timeout();
                host.dispatch(timeout, scenario).unwrap();
                if scenario.timeout() == Some(Duration::ZERO) {
                    scenario.turn(Some(Duration::ZERO));
                }
            }
        });
    }
}

/// More sources are ready than one poll can report, and an edge-triggered host would not learn of
/// the rest.
#[test]
fn says_that_there_is_more_than_one_turn_can_tell() {
    const COUNT: usize = 1_500;
    watchdog(60);
    let mut reactor = Reactor::new().unwrap();
    reactor.raise_fd_limit().unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&writer, b"x").unwrap();
    for _ in 0..COUNT {
        reactor.register(reader.try_clone().unwrap(), Interest::Readable).unwrap();
    }
    let mut ready = 0;
    while ready < COUNT {
        assert!(ready == 0 || reactor.next_deadline().is_some_and(|deadline| deadline <= now()));
        reactor
            .turn(Some(Duration::ZERO), |_, event| ready += usize::from(matches!(event, Event::Ready { .. })))
            .unwrap();
    }
    // One more turn may be needed to learn that nothing is left.
    reactor.turn(Some(Duration::ZERO), |_, _| {}).unwrap();
    assert_eq!(reactor.next_deadline(), None);
}

/// An action between turns has its event in a later turn, and the descriptor alone announces it.
#[test]
fn the_descriptor_tells_of_what_was_done_between_turns() {
    watchdog(60);
    for methods in METHODS {
        let mut reactor = Reactor::with_methods(methods.0, methods.1).unwrap();
        let id = reactor.spawn_process(Command::new("cat").stdin(childminder::Stdio::piped())).unwrap();
        assert!(reactor.process(id).unwrap().write(0, b"x").unwrap());
        reactor.process(id).unwrap().close_stdin();
        reactor.arm_fd().unwrap();
        let mut ended = false;
        let mut fds_closed = 0;
        while !ended {
            wait(&reactor, None);
            let handler = |_: &mut Reactor, event: Event<'_>| match event {
                Event::FdClosed { .. } => fds_closed += 1,
                Event::Ended { .. } => ended = true,
                _ => {}
            };
            reactor.turn(Some(Duration::ZERO), handler).unwrap();
        }
        assert_eq!(fds_closed, 3);
        // One timer is in the future, and one is due at once.
        for delay in [Duration::from_millis(5), Duration::ZERO] {
            let timer = reactor.call_later(delay);
            reactor.arm_fd().unwrap();
            let mut fired = false;
            while !fired {
                wait(&reactor, None);
                let is_ours = |event: Event<'_>| matches!(event, Event::Timer(id) if id == timer);
                reactor.turn(Some(Duration::ZERO), |_, event| fired |= is_ours(event)).unwrap();
            }
        }
        assert_eq!(reactor.next_deadline(), None);
    }
}
