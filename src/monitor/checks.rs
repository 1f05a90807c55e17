//! Carries out what shows whether processes are ready and well: checks, messages and faults.
//!
//! It decides nothing; `watch` does. The one rule: a check is ended, with all that it has started,
//! before another one of the same process begins, and when the process goes.

use std::sync::Arc;
use std::time::Instant;

use super::ProcessMonitor;
use super::connect::{Connect, Progress};
use super::entry::{Entry, RunningCheck, Watched};
use super::observer::Observer;
use super::restart::{Input, State};
use super::watch::{Check, Effect, Fault, Readiness, Ready, Sign, Watch, Watcher};
use crate::exit::Exit;
use crate::notify::{Notice, Watchdog};
use crate::process::ProcessId;
use crate::reactor::{Reactor, SourceId};

impl Watched {
    pub(super) fn new(watch: Arc<Watch>) -> Box<Self> {
        Box::new(Self { watcher: Watcher::new(watch), check: None, said: None, foreign: 0 })
    }
}

impl Entry {
    /// Lets the watcher know when the process comes and goes.
    pub(super) fn watch_state(&mut self, now: Instant, before: State) -> Option<Effect> {
        let watched = self.watched.as_mut()?;
        match (is_running(before), is_running(self.life.state())) {
            (false, true) => {
                watched.said = None;
                let threshold = self.life.policy().threshold;
                watched.watcher.handle(now, Sign::Spawned { threshold })
            }
            (true, false) => watched.watcher.handle(now, Sign::Gone),
            _ => None,
        }
    }

    /// Takes the check that is under way, which is to be ended.
    pub(super) fn take_check(&mut self) -> Option<RunningCheck> {
        self.watched.as_mut()?.check.take()
    }

    /// Begins to watch a process that runs already.
    pub(super) fn begin_watch(&mut self, now: Instant) {
        if let (State::Running { since }, Some(watched)) = (self.life.state(), &mut self.watched) {
            let threshold = self.life.policy().threshold;
            watched.watcher.handle(since, Sign::Spawned { threshold });
            if watched.watcher.watch().ready == Ready::Threshold {
                watched.watcher.handle(now, Sign::Timeout);
            }
        }
    }
}

fn is_running(state: State) -> bool {
    matches!(state, State::Running { .. })
}

/// Whether `text` is somewhere in `bytes`.
pub(super) fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

impl<O: Observer> ProcessMonitor<O> {
    /// Tells the watcher of a process about a sign, and does what follows.
    pub(super) fn sign(&mut self, reactor: &mut Reactor, key: u64, sign: Sign) {
        let mut sign = Some(sign);
        while let Some(now) = sign.take() {
            let Some(entry) = self.entries.get_mut(&key) else { return };
            let Some(watched) = &mut entry.watched else { return };
            let effect = watched.watcher.handle(reactor.now(), now);
            match effect {
                Some(Effect::Ready) => {
                    self.observer.ready(&entry.name);
                    self.observer.changed(&entry.name, entry.life.state());
                    self.tell_order(reactor, key);
                }
                Some(Effect::Lost) => {
                    self.observer.unready(&entry.name);
                    self.observer.changed(&entry.name, entry.life.state());
                    self.tell_order(reactor, key);
                }
                Some(Effect::Fault(fault)) => {
                    self.observer.fault(&entry.name, &fault);
                    self.tell(reactor, key, Input::Fault { never_ready: matches!(fault, Fault::NotReady(_)) });
                }
                Some(Effect::Check) => sign = self.begin_check(reactor, key),
                Some(Effect::EndCheck) => {
                    self.observer.check_failed(&entry.name, &"it took too long");
                    if let Some(check) = entry.take_check() {
                        self.helpers.end(reactor, check);
                    }
                    sign = Some(Sign::Failed);
                }
                None => {}
            }
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.arm(reactor, key, &mut self.timers);
        }
    }

    /// Begins a check. Returns its result if that is known already.
    fn begin_check(&mut self, reactor: &mut Reactor, key: u64) -> Option<Sign> {
        let entry = self.entries.get_mut(&key)?;
        let watched = entry.watched.as_mut()?;
        let progress = match &watched.watcher.probe()?.check {
            Check::Command(words) => {
                let Some(command) = entry.command.helper(words, entry.pid) else { return Some(Sign::Failed) };
                return match reactor.spawn_process(&command) {
                    Ok(process) => {
                        self.helpers.commands.insert(process, Some(key));
                        watched.check = Some(RunningCheck::Command(process));
                        None
                    }
                    Err(error) => {
                        self.observer.helper_failed(&entry.name, &error);
                        Some(Sign::Failed)
                    }
                };
            }
            Check::Tcp(address) => Connect::tcp(reactor, *address),
            Check::Unix(path) => Connect::unix(reactor, path),
        };
        self.note_progress(key, progress)
    }

    /// Notes how far a connection is. Returns the result if that is known.
    fn note_progress(&mut self, key: u64, progress: Progress) -> Option<Sign> {
        match progress {
            Progress::Accepted => Some(Sign::Passed),
            Progress::Refused(error) => {
                let entry = self.entries.get(&key)?;
                self.observer.check_failed(&entry.name, &error);
                Some(Sign::Failed)
            }
            Progress::Pending(connect) => {
                let watched = self.entries.get_mut(&key)?.watched.as_mut()?;
                self.helpers.connects.insert(connect.source(), key);
                watched.check = Some(RunningCheck::Connect(connect));
                None
            }
        }
    }

    /// Handles the answer of a server. Returns `false` if the source is not one of ours.
    pub(super) fn answered(&mut self, reactor: &mut Reactor, source: SourceId) -> bool {
        let Some(key) = self.helpers.connects.remove(&source) else { return false };
        let check = self.entries.get_mut(&key).and_then(|entry| entry.take_check());
        if let Some(RunningCheck::Connect(connect)) = check {
            let progress = connect.look(reactor);
            if let Some(sign) = self.note_progress(key, progress) {
                self.sign(reactor, key, sign);
            }
        }
        true
    }

    /// Handles the exit of a command that checks or stops a process.
    pub(super) fn helper_exited(&mut self, reactor: &mut Reactor, process: ProcessId, exit: &Exit) {
        let key = self.helpers.commands.remove(&process).flatten();
        if let Some(mut tree) = reactor.tree(process) {
            // What it has left behind. The reactor watches it until it is gone.
            let _ = tree.kill();
        }
        let Some((key, entry)) = key.and_then(|key| Some((key, self.entries.get_mut(&key)?))) else { return };
        if self.helpers.stops.get(&key) == Some(&process) {
            self.helpers.stops.remove(&key);
        }
        let check = entry.watched.as_ref().and_then(|watched| watched.check.as_ref());
        if matches!(check, Some(RunningCheck::Command(checking)) if *checking == process) {
            entry.take_check();
            if !exit.success() {
                self.observer.check_failed(&entry.name, exit);
            }
            self.sign(reactor, key, if exit.success() { Sign::Passed } else { Sign::Failed });
        }
    }

    /// Handles what a process has said of its state. Returns `false` if it is not one of ours.
    pub(super) fn notified(&mut self, reactor: &mut Reactor, process: ProcessId, notice: &Notice) -> bool {
        let Some(key) = self.outputs.get(&process).map(|output| output.entry) else { return false };
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.process == Some(process)) else {
            return true;
        };
        let Some(watched) = &mut entry.watched else { return true };
        if let Some(status) = &notice.status {
            watched.said = (!status.is_empty()).then(|| status.as_str().into());
            self.observer.said(&entry.name, status);
        }
        if notice.store {
            self.observer.store_refused(&entry.name);
        }
        let speaks_of_readiness = watched.watcher.watch().ready == Ready::Notify;
        let watchdog = notice.watchdog.map(|watchdog| match watchdog {
            Watchdog::Alive => Sign::Alive,
            Watchdog::Trigger => Sign::Triggered,
        });
        let signs = [
            notice.watchdog_interval.map(Sign::Interval),
            notice.extend_timeout.map(Sign::Extend),
            (notice.ready && speaks_of_readiness).then_some(Sign::Ready),
            ((notice.reloading || notice.stopping) && !notice.ready && speaks_of_readiness).then_some(Sign::Unready),
            watchdog,
        ];
        signs.into_iter().flatten().for_each(|sign| self.sign(reactor, key, sign));
        true
    }

    /// Counts messages of other processes. Returns `false` if the socket is not one of ours.
    pub(super) fn notify_refused(&mut self, process: ProcessId, count: usize) -> bool {
        let Some(output) = self.outputs.get(&process) else { return false };
        if let Some(entry) = self.entries.get_mut(&output.entry) {
            if let Some(watched) = &mut entry.watched {
                watched.foreign = watched.foreign.saturating_add(count as u64);
            }
            self.observer.message_refused(&entry.name, count);
        }
        true
    }

    /// Handles a newline at the descriptor by which a process says that it is ready.
    pub(super) fn said_ready_at(&mut self, reactor: &mut Reactor, process: ProcessId, key: u64, fd: i32) {
        if let Some(mut process) = reactor.process(process) {
            process.close(fd);
        }
        let entry = self.entries.get(&key).filter(|entry| entry.process == Some(process));
        if entry.is_some_and(|entry| entry.readiness() == Readiness::Pending) {
            self.sign(reactor, key, Sign::Ready);
        }
    }
}
