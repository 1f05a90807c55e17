//! Tells the service manager that has started this command how the command is: ready, reloading,
//! stopping, how many processes run, and that it is alive.
//!
//! Decides nothing. The one rule: without `NOTIFY_SOCKET` in the environment it does nothing at
//! all.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use childminder::restart::State;
use childminder::{Reactor, Readiness, TimerId, notify_parent, parent_watchdog};
use rustix::time::{ClockId, clock_gettime};

use super::{Stage, Up};

/// The pause before a message is sent again for which the manager had no room.
const PAUSE: Duration = Duration::from_millis(100);
/// The number of messages that wait for room.
const WAITING: usize = 8;

/// What the service manager knows.
#[derive(Debug)]
pub(super) struct Parent {
    ready: bool,
    /// The processes that start by themselves and are not up yet.
    awaited: Vec<Arc<str>>,
    stopping: bool,
    /// How many processes run, of how many.
    counts: Option<(usize, usize)>,
    waiting: VecDeque<String>,
    retry: Option<TimerId>,
    /// The timer for the next sign of life, and the pause between two of them.
    watchdog: Option<(TimerId, Duration)>,
}

impl Parent {
    /// Returns `None` without a service manager that wants to know.
    pub(super) fn new(reactor: &mut Reactor) -> Option<Box<Self>> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = parent_watchdog().map(|within| (reactor.call_later(within / 2), within / 2));
        Some(Box::new(Self {
            ready: false,
            awaited: Vec::new(),
            stopping: false,
            counts: None,
            waiting: VecDeque::new(),
            retry: None,
            watchdog,
        }))
    }

    /// Sends a message, or keeps it until there is room. The error means that it cannot be told.
    fn say(&mut self, reactor: &mut Reactor, state: String) -> io::Result<()> {
        let is_status = |state: &String| state.starts_with("STATUS=");
        if is_status(&state) {
            // Only the last status counts.
            self.waiting.retain(|waiting| !is_status(waiting));
        }
        self.waiting.push_back(state);
        if self.waiting.len() > WAITING {
            self.waiting.pop_front();
        }
        if self.retry.is_some() { Ok(()) } else { self.send(reactor) }
    }

    fn send(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        while let Some(state) = self.waiting.front() {
            match notify_parent(state) {
                Ok(_) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.retry = Some(reactor.call_later(PAUSE));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Handles a timer. Returns `None` if it is none of these.
    fn timer(&mut self, reactor: &mut Reactor, id: TimerId) -> Option<io::Result<()>> {
        if self.retry.take_if(|retry| *retry == id).is_some() {
            return Some(self.send(reactor));
        }
        let (timer, pause) = self.watchdog.as_mut().filter(|(timer, _)| *timer == id)?;
        *timer = reactor.call_later(*pause);
        // A sign of life that comes late is none, so it does not wait.
        Some(match notify_parent("WATCHDOG=1") {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        })
    }
}

impl Up {
    /// Handles a timer that belongs to the messages to the service manager. Returns whether it did.
    pub(super) fn parent_timer(&mut self, reactor: &mut Reactor, id: TimerId) -> bool {
        let Some(said) = self.parent.as_mut().and_then(|parent| parent.timer(reactor, id)) else { return false };
        self.unless_deaf(said);
        true
    }

    /// Tells the service manager at the end of a turn what has changed.
    pub(super) fn settle_parent(&mut self, reactor: &mut Reactor) {
        if self.parent.is_none() {
            return;
        }
        let counts = (self.reporter().alive, self.processes.len());
        let (is_ready, is_stopping) = (self.is_ready(), matches!(self.stage, Stage::Stopping | Stage::Over));
        let Some(parent) = &mut self.parent else { return };
        let mut state = String::new();
        if is_stopping && !std::mem::replace(&mut parent.stopping, true) {
            state += "STOPPING=1\n";
        }
        if is_ready && !std::mem::replace(&mut parent.ready, true) {
            state += "READY=1\n";
        }
        if parent.counts.replace(counts) != Some(counts) {
            let (running, all) = counts;
            state += &format!("STATUS={running} of {all} processes run");
        }
        if !state.is_empty() {
            let said = parent.say(reactor, state);
            self.unless_deaf(said);
        }
    }

    /// Notes that we are ready when these processes are up.
    pub(super) fn parent_awaits(&mut self, names: &[Arc<str>]) {
        if let Some(parent) = &mut self.parent {
            parent.awaited = names.to_vec();
        }
    }

    /// Whether all processes are up that start by themselves. A process that has failed, or backs
    /// off, or waits for one that will not come, does not keep us from being ready for all others.
    fn is_ready(&mut self) -> bool {
        let monitor = &self.monitor;
        let Some(parent) = &mut self.parent else { return false };
        let is_awaited = |name: &Arc<str>| {
            monitor.status(name).is_some_and(|status| match status.state {
                State::Waiting { .. } => !monitor.waits_in_vain(name),
                State::Starting => true,
                State::Running { .. } => status.readiness == Readiness::Pending,
                _ => false,
            })
        };
        // The first one that is not up is enough, so that a start of many stays cheap.
        while parent.awaited.last().is_some_and(|name| !is_awaited(name)) {
            parent.awaited.pop();
        }
        self.stage == Stage::Running && parent.awaited.is_empty()
    }

    /// Tells the service manager that the file is read again.
    pub(super) fn parent_reloading(&mut self, reactor: &mut Reactor) {
        let Some(parent) = self.parent.as_mut().filter(|parent| parent.ready) else { return };
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        // It is ready again at the end of the turn.
        parent.ready = false;
        let said = parent.say(reactor, format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
        self.unless_deaf(said);
    }

    /// Tells the service manager nothing any more if it does not hear it.
    fn unless_deaf(&mut self, said: io::Result<()>) {
        if let Err(error) = said {
            self.parent = None;
            self.reporter().say(&format!("cannot tell the state to the service manager at NOTIFY_SOCKET: {error}"));
        }
    }
}
