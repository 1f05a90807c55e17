//! Several processes in virtual time: the real state machines of each, and of their order, against
//! imaginary processes.
//!
//! It decides nothing. The one rule: the machines are asked in the order in which the monitor asks
//! them.

use std::sync::Arc;
use std::time::Instant;

use crate::monitor::order::Order;
use crate::monitor::order::machine::{Machine, Request};
use crate::monitor::order::phase::{Phase, is_death};
use crate::monitor::restart::{Action, Input, Lifecycle, Policy, State};
use crate::monitor::watch::{Effect, Readiness, Sign, Watch, Watcher};

/// The world of the processes.
pub(in crate::monitor) trait Kernel {
    /// Starts a process. Returns whether that works.
    fn spawn(&mut self, key: u64, now: Instant) -> bool;
    /// Asks a process to stop, or what it has left behind.
    fn terminate(&mut self, key: u64, now: Instant);
    /// Kills a process, or what it has left behind.
    fn kill(&mut self, key: u64, now: Instant);
    /// Begins a check of a process, or ends one.
    fn check(&mut self, key: u64, begins: bool);
    /// Notes a request of the order that concerns no single process.
    fn note(&mut self, request: Request);
    /// Notes that the state of a process has changed.
    fn changed(&mut self, key: u64, now: Instant, state: State, readiness: Readiness);
}

#[derive(Debug)]
pub(in crate::monitor) struct Actor {
    pub(in crate::monitor) life: Lifecycle,
    pub(in crate::monitor) watcher: Watcher,
}

impl Actor {
    fn phase(&self) -> Phase {
        Phase::of(self.life.state(), self.watcher.readiness(), self.life.outcome())
    }
}

/// Processes with the keys from 0 on, and their order.
#[derive(Debug)]
pub(in crate::monitor) struct Crew<K> {
    pub(in crate::monitor) actors: Vec<Actor>,
    pub(in crate::monitor) machine: Machine,
    pub(in crate::monitor) kernel: K,
}

impl<K: Kernel> Crew<K> {
    pub(in crate::monitor) fn new(
        actors: impl IntoIterator<Item = (Arc<Policy>, Arc<Watch>)>,
        order: &Order,
        key_of: impl Fn(&str) -> Option<u64>,
        kernel: K,
    ) -> Self {
        let actor = |(number, (policy, watch)): (usize, (Arc<Policy>, Arc<Watch>))| {
            let mut life = Lifecycle::new(policy);
            life.set_seed(number as u64);
            Actor { life, watcher: Watcher::new(watch) }
        };
        let actors = actors.into_iter().enumerate().map(actor).collect();
        Self { actors, machine: Machine::new(order, key_of), kernel }
    }

    /// Passes on a request of the host for one process, or all that follows from it.
    pub(in crate::monitor) fn request(&mut self, now: Instant, key: u64, input: Input) {
        match input {
            Input::Start => self.machine.start(now, key),
            Input::Stop => self.machine.stop(key),
            Input::Restart => self.machine.restart(key),
            _ => self.tell_at(now, key, input),
        }
        self.settle(now);
    }

    pub(in crate::monitor) fn stop_all(&mut self, now: Instant) {
        let keys: Vec<u64> = (0..self.actors.len() as u64).collect();
        self.machine.stop_all(&keys);
        self.settle(now);
    }

    #[cfg(test)]
    pub(in crate::monitor) fn kill_all(&mut self, now: Instant) {
        let keys: Vec<u64> = (0..self.actors.len() as u64).collect();
        self.machine.kill_all(&keys);
        keys.into_iter().for_each(|key| self.tell_at(now, key, Input::Kill));
        self.settle(now);
    }

    pub(in crate::monitor) fn tell(&mut self, now: Instant, key: u64, input: Input) {
        self.tell_at(now, key, input);
        self.settle(now);
    }

    pub(in crate::monitor) fn sign(&mut self, now: Instant, key: u64, sign: Sign) {
        let mut sign = Some(sign);
        while let Some(said) = sign.take() {
            let actor = &mut self.actors[key as usize];
            match actor.watcher.handle(now, said) {
                Some(Effect::Ready | Effect::Lost) => {
                    self.kernel.changed(key, now, actor.life.state(), actor.watcher.readiness());
                    self.machine.told(now, key, actor.phase(), false);
                    self.settle(now);
                }
                Some(Effect::Fault(fault)) => {
                    let never_ready = matches!(fault, crate::monitor::watch::Fault::NotReady(_));
                    self.tell(now, key, Input::Fault { never_ready });
                }
                Some(Effect::Check) => self.kernel.check(key, true),
                Some(Effect::EndCheck) => {
                    self.kernel.check(key, false);
                    sign = Some(Sign::Failed);
                }
                None => {}
            }
        }
    }

    /// The time of the next thing that happens by itself.
    pub(in crate::monitor) fn deadline(&self) -> Option<Instant> {
        let each = self.actors.iter().flat_map(|actor| [actor.life.deadline(), actor.watcher.deadline()]);
        each.flatten().chain(self.machine.deadline()).min()
    }

    /// Does what is due by now.
    pub(in crate::monitor) fn timeout(&mut self, now: Instant) {
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_due(self.machine.deadline()) {
            self.machine.timeout(now);
            self.settle(now);
        }
        for key in 0..self.actors.len() {
            if is_due(self.actors[key].life.deadline()) {
                self.tell(now, key as u64, Input::Timeout);
            }
            if is_due(self.actors[key].watcher.deadline()) {
                self.sign(now, key as u64, Sign::Timeout);
            }
        }
    }

    fn settle(&mut self, now: Instant) {
        while let Some(request) = self.machine.pop() {
            match request {
                Request::Start(key) => self.tell_at(now, key, Input::Start),
                Request::Release(key) => self.tell_at(now, key, Input::Released),
                Request::Stop(key) => self.tell_at(now, key, Input::Stop),
                Request::Restart(key) => self.tell_at(now, key, Input::Restart),
                Request::GiveUp(key) => self.tell_at(now, key, Input::GiveUp),
                Request::GroupFailed(_) | Request::GroupEnded(..) | Request::Rolled(_) => self.kernel.note(request),
            }
        }
    }

    fn tell_at(&mut self, now: Instant, key: u64, input: Input) {
        let Some(actor) = self.actors.get_mut(key as usize) else { return };
        let (first, mut input, mut started) = (actor.life.state(), input, false);
        loop {
            let before = actor.life.state();
            let action = actor.life.handle(now, input);
            let after = actor.life.state();
            let is_running = |state| matches!(state, State::Running { .. });
            match (is_running(before), is_running(after)) {
                (false, true) => {
                    started = true;
                    let threshold = actor.life.policy().threshold;
                    actor.watcher.handle(now, Sign::Spawned { threshold });
                }
                (true, false) => {
                    let effect = actor.watcher.handle(now, Sign::Gone);
                    effect.into_iter().for_each(|_| self.kernel.check(key, false));
                }
                _ => {}
            }
            self.machine.told(now, key, actor.phase(), is_death(before, input, after));
            match action {
                Some(Action::Spawn) => {
                    input = match self.machine.may_start(now, key) {
                        false => Input::Held,
                        true if self.kernel.spawn(key, now) => Input::Spawned,
                        true => Input::SpawnFailed,
                    };
                    continue;
                }
                Some(Action::Terminate) => self.kernel.terminate(key, now),
                Some(Action::Kill) => self.kernel.kill(key, now),
                None => {}
            }
            break;
        }
        if started || actor.life.state() != first {
            self.kernel.changed(key, now, actor.life.state(), actor.watcher.readiness());
        }
    }
}
