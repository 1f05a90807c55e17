//! The entry of a monitor: what the monitor knows of one name, and of the output of one process.
//!
//! It carries out actions and decides nothing. The one rule: leftover processes are reached through
//! their tree, never by a pid.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use super::connect::Connect;
use super::observer::Observer;
use super::order::phase::Phase;
use super::restart::{Leftovers, Lifecycle, State, StopScope};
use super::streams::Streams;
use super::watch::{Readiness, Ready, Watch, Watcher};
use crate::command::Command;
use crate::contain::{Containment, Remains};
use crate::error::SignalError;
use crate::exit::Exit;
use crate::process::{ProcessId, Tree};
use crate::reactor::Reactor;
use crate::reactor::timers::TimerId;

/// The number of exited processes of a name whose pipes stay open while leftover processes hold
/// them, and the number of those whose leftover processes are watched by file descriptors. Without
/// a limit, a service that leaves a process behind at each restart would take all descriptors in
/// time.
const KEPT_OPEN: usize = 8;

/// One name, and everything that is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) command: Command,
    pub(super) life: Lifecycle,
    pub(super) process: Option<ProcessId>,
    pub(super) pid: Option<NonZeroU32>,
    pub(super) timer: Option<(TimerId, Instant)>,
    /// How its process, or its last one, is kept together with all that it starts.
    pub(super) containment: Option<Containment>,
    /// Whether it is to be dropped as soon as it is down. Its name is free already.
    pub(super) removed: bool,
    pub(super) starts: u64,
    /// What is known of earlier processes. Boxed because most processes are the first ones.
    past: Option<Box<Past>>,
    /// When its state changed last.
    pub(super) changed: Instant,
    /// What tells whether it is ready and well, if anybody asks.
    pub(super) watched: Option<Box<Watched>>,
}

/// What is known of the earlier processes of a name, and of the attempts to end one.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The processes that have exited while their pipes are still open, the earliest first.
    pub(super) unended: VecDeque<ProcessId>,
    /// The processes that have leftover processes, the earliest first. All but the last
    /// [`KEPT_OPEN`] hold no descriptors.
    pub(super) left: Vec<ProcessId>,
    /// The reason why the last signal of a stop could not be sent.
    pub(super) refusal: Option<Box<str>>,
    pub(super) last_exit: Option<Exit>,
}

/// What tells whether a process is ready and well.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) watcher: Watcher,
    /// The check that is under way.
    pub(super) check: Option<RunningCheck>,
    /// What the process has said about itself: `STATUS=` of `sd_notify(3)`.
    pub(super) said: Option<Box<str>>,
    /// The messages that were dropped because others had sent them.
    pub(super) foreign: u64,
}

/// A check that is under way.
#[derive(Debug)]
pub(super) enum RunningCheck {
    Command(ProcessId),
    Connect(Connect),
}

/// The output of a process, and its entry.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) entry: u64,
    /// The name. It may no longer be the entry's: the leftover processes of a removed process may
    /// still write.
    pub(super) name: Arc<str>,
    pub(super) streams: Streams,
    /// What is looked for in it, if the output tells whether the process is ready.
    pub(super) awaited: Option<Arc<Watch>>,
}

/// The status of one process: see [`ProcessMonitor::status`](crate::ProcessMonitor::status).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is doing, and since when or until when.
    pub state: State,
    /// When its state changed last.
    pub since: Instant,
    /// Whether it is ready. [`Readiness::Absent`] if that is of no interest: it has no
    /// [`Watch`](crate::Watch), and no other process waits for it.
    pub readiness: Readiness,
    /// What it has said about itself: the last `STATUS=` of `sd_notify(3)`.
    pub said: Option<&'a str>,
    /// The messages to its `NOTIFY_SOCKET` that were dropped because processes outside its tree had
    /// sent them.
    pub foreign_messages: u64,
    /// Its process, while there is one.
    pub process: Option<ProcessId>,
    /// The pid of the process, while there is one.
    pub pid: Option<u32>,
    /// How the process is kept together with all that it starts. While there is none, this is that
    /// of the last one.
    pub containment: Option<&'a Containment>,
    /// Earlier processes of this name that have exited and have leftover processes: see
    /// [`Reactor::tree`](crate::Reactor::tree).
    pub left: &'a [ProcessId],
    /// How often it has been started again, for any reason.
    pub restarts: u64,
    /// How its last process exited.
    pub last_exit: Option<&'a Exit>,
    /// The reason why the last signal of a stop could not be sent to all of it. It is set only
    /// while the process is stopping, and the signal is sent again.
    pub refusal: Option<&'a str>,
}

/// What is known of the earlier processes of a name that has had none.
static NO_PAST: Past = Past { unended: VecDeque::new(), left: Vec::new(), refusal: None, last_exit: None };

impl Entry {
    /// An entry whose process has not been started.
    pub(super) fn new(name: Arc<str>, command: Command, life: Lifecycle, now: Instant) -> Self {
        Self {
            name,
            command,
            life,
            process: None,
            pid: None,
            timer: None,
            containment: None,
            removed: false,
            starts: 0,
            past: None,
            changed: now,
            watched: None,
        }
    }

    pub(super) fn past(&self) -> &Past {
        self.past.as_deref().unwrap_or(&NO_PAST)
    }

    pub(super) fn past_mut(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    /// Whether nothing of it runs, and nothing will be started without a request.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.life.state(), State::Stopped | State::Exited | State::Failed { .. })
    }

    pub(super) fn status(&self) -> Status<'_> {
        Status {
            name: &self.name,
            state: self.life.state(),
            since: self.changed,
            readiness: self.readiness(),
            said: self.watched.as_ref().and_then(|watched| watched.said.as_deref()),
            foreign_messages: self.watched.as_ref().map_or(0, |watched| watched.foreign),
            process: self.process,
            pid: self.pid.map(NonZeroU32::get),
            containment: self.containment.as_ref(),
            left: &self.past().left,
            restarts: self.starts.saturating_sub(1),
            last_exit: self.past().last_exit.as_ref(),
            refusal: self.past().refusal.as_deref(),
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.watched.as_ref().map_or(Readiness::Absent, |watched| watched.watcher.readiness())
    }

    /// What its output is searched for.
    pub(super) fn awaited_output(&self) -> Option<Arc<Watch>> {
        let watch = self.watched.as_ref()?.watcher.watch();
        matches!(watch.ready, Ready::Fd(_) | Ready::Line(_)).then(|| Arc::clone(watch))
    }

    /// What it is doing, as far as others wait for it.
    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.life.state(), self.readiness(), self.life.outcome())
    }

    /// Whether the trees of its earlier processes are certain to be empty. When all entries are
    /// stopped outside of a turn, they share the last scan of the process table.
    pub(super) fn is_gone(&self, reactor: &mut Reactor) -> bool {
        self.past().left.iter().all(|id| reactor.tree_as_seen(*id).is_none_or(|mut tree| tree.is_empty()))
    }

    /// Prepares the exit of a running process. If leftover processes are to be killed, and nothing
    /// could reach them after the process is reaped, they are killed before that. A stop gives them
    /// their kill time instead.
    pub(super) fn prepare_exit(&self, reactor: &mut Reactor) {
        let kill = self.life.policy().leftovers == Leftovers::Kill;
        let running = self.process.filter(|_| matches!(self.life.state(), State::Running { .. }));
        if let Some(mut process) = running.and_then(|id| reactor.process(id)) {
            process.kill_unreachable_at_exit(kill);
        }
    }

    /// Returns what remains of the trees of its earlier processes.
    pub(super) fn leftovers(&self, reactor: &mut Reactor) -> Remains {
        let mut all = Vec::new();
        for id in &self.past().left {
            match reactor.tree_as_seen(*id).map(|mut tree| tree.members()) {
                Some(Remains::Members(members)) => all.extend(members),
                Some(Remains::Unknown) => return Remains::Unknown,
                Some(Remains::Nobody) | None => {}
            }
        }
        if all.is_empty() { Remains::Nobody } else { Remains::Members(all) }
    }

    /// Asks the trees of all its processes to end, or the main process alone while it is there. An
    /// error means that a permission is missing. A process that has exited in the meantime is no
    /// error, because its event is on the way.
    pub(super) fn terminate(&mut self, reactor: &mut Reactor, signal: i32, scope: StopScope) -> io::Result<()> {
        match self.process.filter(|_| scope == StopScope::Main).and_then(|id| reactor.process(id)) {
            Some(mut main) => match main.signal(signal).and_then(|()| main.signal(libc::SIGCONT)) {
                Err(SignalError::Os(error)) => Err(error),
                _ => Ok(()),
            },
            None => self.tell_trees(reactor, |tree| tree.terminate(signal)),
        }
    }

    /// Kills the trees of all its processes. The errors are those of
    /// [`terminate`](Self::terminate).
    pub(super) fn kill(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        self.tell_trees(reactor, |tree| tree.kill())
    }

    fn tell_trees(
        &self,
        reactor: &mut Reactor,
        tell: impl Fn(&mut Tree<'_>) -> Result<(), SignalError>,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for id in self.process.iter().chain(&self.past().left) {
            match reactor.tree_as_seen(*id).map(|mut tree| tell(&mut tree)) {
                Some(Err(SignalError::Os(error))) if result.is_ok() => result = Err(error),
                _ => {}
            }
        }
        result
    }

    /// Notes that a process has exited. If there are too many such processes, it closes the pipes
    /// of the earliest one, and the descriptors by which its leftover processes are watched.
    pub(super) fn note_exit(&mut self, reactor: &mut Reactor, observer: &mut impl Observer, process: ProcessId) {
        let past = self.past.get_or_insert_default();
        past.unended.push_back(process);
        if past.unended.len() > KEPT_OPEN {
            let earliest = past.unended.pop_front();
            if let Some(mut earliest) = earliest.and_then(|id| reactor.process(id)) {
                earliest.close_all_at_once();
                observer.pipes_closed(&self.name, earliest.id());
            }
        }
        if reactor.tree(process).is_some() {
            past.left.push(process);
        }
        if let Some(earliest) = past.left.iter().rev().nth(KEPT_OPEN).copied() {
            if reactor.release_tree(earliest) {
                observer.tree_released(&self.name, earliest);
            }
        }
    }

    /// Notes whether a signal of a stop could be sent.
    pub(super) fn note(&mut self, observer: &mut impl Observer, signal: i32, sent: io::Result<()>) {
        match sent {
            Ok(()) => self.forget_refusal(),
            Err(error) => {
                observer.signal_refused(&self.name, signal, &error);
                self.past_mut().refusal = Some(error.to_string().into());
            }
        }
    }

    pub(super) fn forget_refusal(&mut self) {
        if let Some(past) = &mut self.past {
            past.refusal = None;
        }
    }

    /// Arms exactly one timer if the machine waits for something, and none otherwise.
    pub(super) fn arm(&mut self, reactor: &mut Reactor, key: u64, timers: &mut HashMap<TimerId, u64>) {
        let watch = self.watched.as_ref().and_then(|watched| watched.watcher.deadline());
        let deadline = self.life.deadline().into_iter().chain(watch).min();
        if self.timer.map(|(_, armed)| armed) == deadline {
            return;
        }
        if let Some((id, _)) = self.timer.take() {
            reactor.cancel_timer(id);
            timers.remove(&id);
        }
        if let Some(deadline) = deadline {
            let id = reactor.call_at(deadline);
            timers.insert(id, key);
            self.timer = Some((id, deadline));
        }
    }
}
