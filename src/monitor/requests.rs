//! Requests of the host that concern more than one process: order, groups, readiness.
//!
//! It decides nothing; `order` does. The one rule: a request for one process goes through the
//! order, if there is one, so that the processes that depend on it come first.

use std::collections::HashSet;
use std::sync::Arc;

use super::entry::Watched;
use super::observer::Observer;
use super::order::machine::{Machine, Obstacle, Request};
use super::order::phase::Phase;
use super::order::{Order, When};
use super::restart::{Input, Lifecycle, Policy, State};
use super::watch::{Ready, Watch};
use super::{MonitorError, Ordered, ProcessMonitor};
use crate::command::Command;
use crate::reactor::Reactor;
use crate::reactor::timers::TimerId;
use crate::stdio::Stdio;

impl<O: Observer> ProcessMonitor<O> {
    /// Sets the order in which the processes start and stop. It replaces the earlier order. What
    /// runs already goes on, even if the new order would not have started it yet.
    ///
    /// The order refers to processes by name, so they are added first. A process that is added
    /// later waits for no other.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Order`] with all mistakes: unknown names, cycles, and the like. Nothing has
    /// changed then.
    pub fn set_order(&mut self, reactor: &mut Reactor, order: &Order) -> Result<(), MonitorError> {
        order.check(|name| self.key(name).is_ok()).map_err(MonitorError::Order)?;
        let old = self.order.take();
        if old.is_none() && order.is_empty() {
            return Ok(());
        }
        let now = reactor.now();
        let mut machine = Machine::new(order, |name| self.key(name).ok());
        let timer = old.and_then(|old| {
            machine.take_over(now, old.machine);
            old.timer
        });
        let (awaited, all) = (order.awaited(), order.counts_starts_under_way());
        for (key, entry) in &mut self.entries {
            if entry.watched.is_none() && (all || awaited.contains(&*entry.name)) {
                entry.watched = Some(Watched::new(Arc::default()));
                entry.begin_watch(now);
                entry.arm(reactor, *key, &mut self.timers);
            }
            machine.told(now, *key, entry.phase(), false);
        }
        let awaited = awaited.into_iter().map(str::to_owned).collect();
        self.order = Some(Box::new(Ordered { order: order.clone(), machine, awaited, timer }));
        self.settle_order(reactor);
        Ok(())
    }

    /// Sets how the monitor knows that a process is ready and well, or with `None` that this is of
    /// no interest. [`Ready::Fd`], [`Ready::Notify`] and [`Watch::watchdog`] apply from its next
    /// start on.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    pub fn set_watch(
        &mut self,
        reactor: &mut Reactor,
        name: &str,
        watch: impl Into<Option<Watch>>,
    ) -> Result<(), MonitorError> {
        let key = self.key(name)?;
        let awaited = self
            .order
            .as_ref()
            .is_some_and(|ordered| ordered.order.counts_starts_under_way() || ordered.awaited.contains(name));
        let watch: Option<Watch> = watch.into().or_else(|| awaited.then(Watch::default));
        let Some(entry) = self.entries.get_mut(&key) else { return Ok(()) };
        let (check, readiness) = (entry.take_check(), entry.readiness());
        if let Some(check) = check {
            self.helpers.end(reactor, check);
        }
        entry.watched = None;
        if let Some(watch) = watch {
            prepare(&mut entry.command, &watch);
            let mut watched = Watched::new(Arc::new(watch));
            if let State::Running { since } = entry.life.state() {
                let threshold = entry.life.policy().threshold;
                watched.watcher.take_over(reactor.now(), since, threshold, readiness);
            }
            entry.watched = Some(watched);
            if readiness == super::Readiness::Absent {
                entry.begin_watch(reactor.now());
            }
        }
        entry.arm(reactor, key, &mut self.timers);
        self.tell_order(reactor, key);
        Ok(())
    }

    /// Sets the command of a process, from its next start on. A process that runs goes on.
    /// Everything else of the name stays as it is: its state and its backoff, its policy and its
    /// watch, the count of its restarts and its last exit.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::{Command, ProcessMonitor, Reactor, Service};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let mut monitor = ProcessMonitor::new();
    /// monitor.add_process(&mut reactor, "web", Command::new("sleep").arg("60"))?;
    /// monitor.start_service(&mut reactor);
    /// monitor.set_command("web", Command::new("sleep").arg("90"))?;
    /// monitor.restart_process(&mut reactor, "web")?;
    /// while monitor.status("web").expect("it is there").restarts == 0 {
    ///     reactor.turn(None, |reactor, event| _ = monitor.handle(reactor, &event))?;
    /// }
    /// # monitor.kill_service(&mut reactor);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_command(&mut self, name: &str, command: &Command) -> Result<(), MonitorError> {
        let key = self.key(name)?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.command = command.clone();
            if let Some(watched) = &entry.watched {
                prepare(&mut entry.command, watched.watcher.watch());
            }
        }
        Ok(())
    }

    /// Sets the seed of the [jitter](Policy::jitter) of all processes that are added from now on.
    /// The seed of each process depends on its name as well. Equal seeds make equal decisions. The
    /// default is 0.
    pub fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Resets a process: its earlier failures are forgotten, and if it has
    /// [failed](crate::restart::State::Failed), it is stopped.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    pub fn reset_process(&mut self, reactor: &mut Reactor, name: &str) -> Result<(), MonitorError> {
        let key = self.key(name)?;
        self.tell(reactor, key, Input::Reset);
        Ok(())
    }

    /// Restarts these processes one after the other: the next one when the last one is ready. It is
    /// broken off if one does not come back. [`Observer::rolled`] reports the end.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`], or [`MonitorError::Rolling`]. Nothing is restarted then.
    pub fn restart_rolling(&mut self, reactor: &mut Reactor, names: &[&str]) -> Result<(), MonitorError> {
        let keys = names.iter().map(|name| self.key(name)).collect::<Result<Vec<_>, _>>()?;
        if self.order.as_ref().is_some_and(|ordered| ordered.machine.is_rolling()) {
            return Err(MonitorError::Rolling);
        }
        let now = reactor.now();
        for key in &keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            if entry.watched.is_none() {
                entry.watched = Some(Watched::new(Arc::default()));
                entry.begin_watch(now);
                entry.arm(reactor, *key, &mut self.timers);
            }
        }
        if self.order.is_none() {
            let mut machine = Machine::default();
            self.entries.iter().for_each(|(key, entry)| machine.told(now, *key, entry.phase(), false));
            self.order = Some(Box::new(Ordered { order: Order::new(), machine, awaited: HashSet::new(), timer: None }));
        }
        if let Some(ordered) = &mut self.order {
            ordered.machine.roll(keys);
        }
        self.settle_order(reactor);
        Ok(())
    }

    /// Whether a process waits for another one that will not come without a request: it is stopped,
    /// or has ended, or waits in vain itself.
    #[must_use]
    pub fn waits_in_vain(&self, name: &str) -> bool {
        let (Ok(key), Some(ordered)) = (self.key(name), &self.order) else { return false };
        ordered.machine.waits_in_vain(key)
    }

    /// Returns what keeps a process from starting, or from being stopped, in words. It is empty if
    /// the process waits for nothing.
    #[must_use]
    pub fn waits_for(&self, name: &str) -> Vec<String> {
        let (Ok(key), Some(ordered)) = (self.key(name), &self.order) else { return Vec::new() };
        let name_of = |key: u64| self.entries.get(&key).map_or("a removed process", |entry| &entry.name);
        let obstacles = ordered.machine.waits_for(key);
        let starts = obstacles.into_iter().map(|obstacle| match obstacle {
            Obstacle::Process(on, when, phase) => format!("{}, which {}", name_of(on), lacks(when, phase)),
            Obstacle::Group => "other members of its group, which have to stop first".to_owned(),
            Obstacle::Turn => "its turn, because few processes may start at once".to_owned(),
        });
        let stops = ordered.machine.stops_after(key);
        let stops = stops.into_iter().map(|other| format!("{}, which has to stop first", name_of(other)));
        starts.chain(stops).collect()
    }

    /// The state machine of a new process.
    pub(super) fn lifecycle(&self, name: &str, policy: Arc<Policy>) -> Lifecycle {
        let mut life = Lifecycle::new(policy);
        // FNV-1a, so that the seeds are the same on every system.
        let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        life.set_seed(name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ self.seed, hash));
        life
    }

    pub(super) fn request_by_name(
        &mut self,
        reactor: &mut Reactor,
        name: &str,
        input: Input,
    ) -> Result<(), MonitorError> {
        let key = self.key(name)?;
        self.request(reactor, key, input);
        Ok(())
    }

    /// Passes on a request for one process: a start, a stop or a restart.
    pub(super) fn request(&mut self, reactor: &mut Reactor, key: u64, input: Input) {
        match (&mut self.order, input) {
            (Some(ordered), Input::Start) => ordered.machine.start(reactor.now(), key),
            (Some(ordered), Input::Stop) => ordered.machine.stop(key),
            (Some(ordered), Input::Restart) => ordered.machine.restart(key),
            _ => self.tell_at(reactor, key, input, reactor.now()),
        }
        self.settle_order(reactor);
    }

    /// Tells the order what a process is doing now, and does what follows.
    pub(super) fn tell_order(&mut self, reactor: &mut Reactor, key: u64) {
        if let (Some(ordered), Some(entry)) = (&mut self.order, self.entries.get(&key)) {
            ordered.machine.told(reactor.now(), key, entry.phase(), false);
        }
        self.settle_order(reactor);
    }

    /// Carries out what the order asks for.
    pub(super) fn settle_order(&mut self, reactor: &mut Reactor) {
        while let Some(request) = self.order.as_mut().and_then(|ordered| ordered.machine.pop()) {
            let (key, input) = match request {
                Request::Start(key) => (key, Input::Start),
                Request::Release(key) => (key, Input::Released),
                Request::Stop(key) => (key, Input::Stop),
                Request::Restart(key) => (key, Input::Restart),
                Request::GiveUp(key) => (key, Input::GiveUp),
                Request::GroupFailed(group) => {
                    self.report_failed_group(group);
                    continue;
                }
                Request::GroupEnded(group, key) => {
                    let name = self.order.as_ref().and_then(|ordered| ordered.order.group_name(group));
                    let exit = self.entries.get(&key).and_then(|entry| entry.past().last_exit.as_ref());
                    if let Some(name) = name {
                        self.observer.essential_ended(name, exit);
                    }
                    continue;
                }
                Request::Rolled(broken) => {
                    let name = broken.and_then(|key| self.entries.get(&key)).map(|entry| &*entry.name);
                    self.observer.rolled(name);
                    continue;
                }
            };
            self.tell_at(reactor, key, input, reactor.now());
        }
        let Some(ordered) = &mut self.order else { return };
        let deadline = ordered.machine.deadline();
        if ordered.timer.map(|(_, armed)| armed) == deadline {
            return;
        }
        if let Some((timer, _)) = ordered.timer.take() {
            reactor.cancel_timer(timer);
        }
        ordered.timer = deadline.map(|deadline| (reactor.call_at(deadline), deadline));
    }

    fn report_failed_group(&mut self, number: usize) {
        let Some(ordered) = &self.order else { return };
        let Some(name) = ordered.order.group_name(number) else { return };
        self.observer.group_failed(name);
        if ordered.machine.is_essential_group(number) {
            self.observer.essential_ended(name, None);
        }
    }

    /// Handles the timer of the order. Returns `false` if it is another one.
    pub(super) fn order_timer(&mut self, reactor: &mut Reactor, id: TimerId) -> bool {
        let Some(ordered) = self.order.as_mut().filter(|ordered| ordered.timer.is_some_and(|(timer, _)| timer == id))
        else {
            return false;
        };
        ordered.timer = None;
        ordered.machine.timeout(reactor.now());
        self.settle_order(reactor);
        true
    }
}

/// Has a command start its process in such a way that the process can tell its state.
fn prepare(command: &mut Command, watch: &Watch) {
    if let Ready::Fd(fd) = watch.ready {
        command.fd(fd, Stdio::reader());
    }
    if watch.wants_messages() {
        command.notify(true);
    }
    if let Some(interval) = watch.watchdog {
        command.watchdog(interval);
    }
}

/// What a process lacks that another one waits for.
fn lacks(when: When, phase: Phase) -> &'static str {
    match (phase, when) {
        (Phase::Down, _) => "is stopped",
        (Phase::Waiting, _) => "waits itself",
        (Phase::BackingOff, _) => "is backing off",
        (Phase::Stopping, _) => "is stopping",
        (Phase::Failed, _) => "has failed",
        (Phase::Exited, _) => "has exited without success",
        (_, When::Started) => "is not started yet",
        (_, When::Ready) => "is not ready yet",
        (_, When::Completed) => "has not completed yet",
    }
}
