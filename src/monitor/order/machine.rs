//! The state machine of an order: who may start now, who has to go down, and in which order.
//!
//! It sees each process only as a [`Phase`] and answers with [`Request`]s for single processes. It
//! knows nothing of restarts, signals and time, except for the rate of starts. The one rule: a
//! change costs what it concerns: the process, its neighbours, and its groups.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::groups::{self, Death, Groups};
use super::phase::Phase;
use super::rate::Rate;
use super::rolling::{Rolling, Step};
use super::{Order, When};

/// What is to be done with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Request {
    Start(u64),
    /// It was held back, and may start now.
    Release(u64),
    Stop(u64),
    Restart(u64),
    /// Its group has given up.
    GiveUp(u64),
    /// Report that this group has given up.
    GroupFailed(usize),
    /// Report that all processes of this essential group have ended, the last one of them this one.
    GroupEnded(usize, u64),
    /// Report that a rolling restart is over. The process is the one that has not come back.
    Rolled(Option<u64>),
}

/// Why a process does not start: see [`Machine::waits_for`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::monitor) enum Obstacle {
    /// This process has to reach this first, and does this now.
    Process(u64, When, Phase),
    /// Other members of its group have to stop first.
    Group,
    /// It is in the queue of the processes that may start.
    Turn,
}

/// Whether a process is to go down, when the processes that depend on it have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Stop,
    Restart,
}

#[derive(Debug, Default)]
struct Node {
    waits: Vec<(u64, When)>,
    requires: Vec<u64>,
    /// The processes that wait for it, each once.
    dependents: Vec<u64>,
    requirers: Vec<u64>,
    phase: Phase,
    held: bool,
    queued: bool,
    /// It may start: its turn has come.
    granted: bool,
    /// It counts as a start under way.
    counted: bool,
    leaving: Option<Leaving>,
    /// Whether it has been asked to leave.
    asked: bool,
    /// Whether the process that is there is that of a removed one, whose name was added again.
    renewed: bool,
}

impl Node {
    /// Whether there is nothing to know of it.
    fn is_idle(&self) -> bool {
        self.phase == Phase::Down && self.leaving.is_none()
    }

    /// Refers to a neighbour by another key.
    fn rename(&mut self, old: u64, new: u64) {
        let lists = [&mut self.requires, &mut self.dependents, &mut self.requirers].into_iter().flatten();
        lists.chain(self.waits.iter_mut().map(|(on, _)| on)).filter(|key| **key == old).for_each(|key| *key = new);
    }
}

#[derive(Debug, Default)]
pub(in crate::monitor) struct Machine {
    nodes: HashMap<u64, Node>,
    groups: Groups,
    essential: HashSet<u64>,
    rate: Rate,
    /// The processes that may start as soon as the rate allows it.
    queue: VecDeque<u64>,
    rolling: Option<Rolling>,
    requests: VecDeque<Request>,
}

impl Machine {
    /// Makes the machine of an order without mistakes. `key_of` finds a process by its name.
    pub(in crate::monitor) fn new(order: &Order, key_of: impl Fn(&str) -> Option<u64>) -> Self {
        let mut machine = Self {
            groups: Groups::new(order, &key_of),
            essential: order.essential.iter().filter_map(|name| key_of(name)).collect(),
            rate: Rate::new(order.starts_per_second, order.starts_under_way),
            ..Self::default()
        };
        for edge in &order.edges {
            let (Some(key), Some(on)) = (key_of(&edge.name), key_of(&edge.on)) else { continue };
            let node = machine.nodes.entry(key).or_default();
            node.waits.push((on, edge.when));
            if edge.requires {
                node.requires.push(on);
            }
            let other = machine.nodes.entry(on).or_default();
            other.dependents.push(key);
            if edge.requires {
                other.requirers.push(key);
            }
        }
        for node in machine.nodes.values_mut() {
            for list in [&mut node.requires, &mut node.dependents, &mut node.requirers] {
                let mut seen = HashSet::new();
                list.retain(|key| seen.insert(*key));
            }
        }
        machine
    }

    /// Takes over what the machine of an earlier order knows of the processes that are under way.
    pub(in crate::monitor) fn take_over(&mut self, now: Instant, old: Self) {
        for (key, before) in old.nodes {
            if before.is_idle() && !self.nodes.contains_key(&key) {
                continue;
            }
            let node = self.nodes.entry(key).or_default();
            (node.phase, node.held) = (before.phase, before.held);
            (node.leaving, node.asked, node.renewed) = (before.leaving, before.asked, before.renewed);
            if before.counted {
                node.counted = true;
                self.rate.count();
            }
        }
        self.rolling = old.rolling;
        self.groups.take_over(old.groups);
        self.rate.take_over(&old.rate);
        // Processes that wait for their turn keep it.
        let mut keys: Vec<u64> = self.nodes.keys().copied().collect();
        keys.sort_unstable();
        let keys: Vec<u64> = old.queue.into_iter().chain(keys).collect();
        for key in keys {
            self.look(now, key);
            // The processes that had to go before it may not depend on it any more.
            self.ask_to_leave(key);
        }
    }

    /// Notes that a removed process was added again under this key before it was gone. Whatever is
    /// asked for from now on, its present process has to go.
    pub(in crate::monitor) fn renew(&mut self, old: u64, new: u64) {
        let Some(mut node) = self.nodes.remove(&old) else { return };
        node.renewed = true;
        let others: Vec<u64> = node.waits.iter().map(|(on, _)| *on).chain(node.dependents.iter().copied()).collect();
        others.into_iter().for_each(|key| self.nodes.entry(key).or_default().rename(old, new));
        self.nodes.insert(new, node);
        self.groups.rename(old, new);
        if self.essential.remove(&old) {
            self.essential.insert(new);
        }
    }

    /// The next request, until there is none.
    pub(in crate::monitor) fn pop(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    pub(in crate::monitor) fn is_essential(&self, key: u64) -> bool {
        self.essential.contains(&key)
    }

    pub(in crate::monitor) fn is_essential_group(&self, group: usize) -> bool {
        self.groups.is_essential(group)
    }

    /// Asks for a start, and before it for the start of what it requires.
    pub(in crate::monitor) fn start(&mut self, now: Instant, key: u64) {
        let (mut order, mut seen) = (Vec::new(), HashSet::from([key]));
        let mut work = vec![key];
        while let Some(key) = work.pop() {
            order.push(key);
            let Some(node) = self.nodes.get(&key) else { continue };
            let missing = node.requires.iter().filter(|on| self.phase(**on) == Phase::Down);
            work.extend(missing.filter(|on| seen.insert(**on)));
        }
        for key in order.into_iter().rev() {
            self.take_stop_back(now, key);
            self.requests.push_back(Request::Start(key));
        }
    }

    /// Takes back a stop that has not been carried out yet.
    fn take_stop_back(&mut self, now: Instant, key: u64) {
        let Some(node) = self.nodes.get(&key) else { return };
        if node.leaving != Some(Leaving::Stop) || node.asked && node.phase.is_up() {
            return;
        }
        // It still has to go down if what it requires does.
        let carried = node.requires.iter().all(|on| self.satisfies(*on, When::Started));
        let dependents = node.dependents.clone();
        let drains = self.groups.drains(key);
        if let Some(node) = self.nodes.get_mut(&key) {
            let has_to_go = node.phase.is_up() && (node.renewed || !carried || drains);
            node.leaving = has_to_go.then_some(Leaving::Restart);
            node.asked = false;
        }
        dependents.into_iter().for_each(|other| self.look(now, other));
    }

    /// Asks for a stop, after the processes that require it.
    pub(in crate::monitor) fn stop(&mut self, key: u64) {
        if let Some(rolling) = &mut self.rolling {
            rolling.skip(key);
        }
        self.leave_all(&[key], Leaving::Stop);
    }

    pub(in crate::monitor) fn restart(&mut self, key: u64) {
        if let Some(node) = self.nodes.get_mut(&key).filter(|node| node.leaving == Some(Leaving::Stop)) {
            // The request takes a stop back.
            (node.leaving, node.asked) = (Some(Leaving::Restart), false);
        }
        self.leave_all(&[key], Leaving::Restart);
    }

    /// Asks for a stop of all these, in reverse order.
    pub(in crate::monitor) fn stop_all(&mut self, keys: &[u64]) {
        self.rolling = None;
        self.leave_all(keys, Leaving::Stop);
    }

    /// Notes that all these are killed now, even if others depend on them.
    pub(in crate::monitor) fn kill_all(&mut self, keys: &[u64]) {
        self.rolling = None;
        self.requests.clear();
        for key in keys {
            if let Some(node) = self.nodes.get_mut(key).filter(|node| node.phase != Phase::Down) {
                (node.leaving, node.asked) = (Some(Leaving::Stop), true);
            }
        }
    }

    pub(in crate::monitor) fn is_rolling(&self) -> bool {
        self.rolling.is_some()
    }

    /// Asks for a restart of these, one after the other.
    pub(in crate::monitor) fn roll(&mut self, keys: Vec<u64>) {
        let mut rolling = Rolling::new(keys);
        let step = rolling.next();
        self.rolling = Some(rolling);
        self.roll_on(step);
    }

    fn roll_on(&mut self, step: Step) {
        match step {
            Step::Nothing => return,
            Step::Restart(key) => return self.restart(key),
            Step::Done => self.requests.push_back(Request::Rolled(None)),
            Step::Broken(key) => self.requests.push_back(Request::Rolled(Some(key))),
        }
        self.rolling = None;
    }

    /// Whether a process may be started now. If not, a request releases it later.
    pub(in crate::monitor) fn may_start(&mut self, now: Instant, key: u64) -> bool {
        let is_free = self.obstacle(key).is_none();
        let limited = self.rate.is_limited();
        let node = self.nodes.entry(key).or_default();
        let granted = std::mem::take(&mut node.granted);
        if is_free && (granted || !limited) {
            node.held = false;
            return true;
        }
        node.held = true;
        if granted {
            self.uncount(key);
        }
        if is_free {
            if self.queue.is_empty() && self.rate.take(now) {
                let node = self.nodes.entry(key).or_default();
                (node.held, node.counted) = (false, true);
                return true;
            }
            self.enqueue(key);
        }
        false
    }

    /// Notes what a process is doing now. `died` tells whether it has died on its own and will be
    /// started again, or has failed.
    pub(in crate::monitor) fn told(&mut self, now: Instant, key: u64, phase: Phase, died: bool) {
        let node = self.nodes.entry(key).or_default();
        let before = std::mem::replace(&mut node.phase, phase);
        if phase != Phase::Waiting && phase != Phase::Starting {
            (node.held, node.granted) = (false, false);
        }
        if !phase.is_up() {
            node.renewed = false;
            if node.asked || node.leaving == Some(Leaving::Restart) {
                (node.leaving, node.asked) = (None, false);
            }
        }
        let is_under_way = matches!(phase, Phase::Starting | Phase::Started) || node.granted;
        if !is_under_way {
            self.uncount(key);
        }
        if died {
            self.died(now, key, phase == Phase::Failed, before != Phase::Stopping);
        }
        if before != phase {
            self.changed(now, key, before, phase);
        }
        if before != phase && matches!(phase, Phase::Completed | Phase::Exited | Phase::Failed) {
            let is_over = |other: u64| matches!(self.phase(other), Phase::Completed | Phase::Exited | Phase::Failed);
            let over = self.groups.essential_of(key, is_over);
            self.requests.extend(over.into_iter().map(|group| Request::GroupEnded(group, key)));
        }
        if let Some(step) = self.rolling.as_mut().map(|rolling| rolling.told(key, phase)) {
            self.roll_on(step);
        }
        self.pump(now);
    }

    /// When [`timeout`](Self::timeout) is due.
    pub(in crate::monitor) fn deadline(&self) -> Option<Instant> {
        (!self.queue.is_empty()).then(|| self.rate.deadline()).flatten()
    }

    pub(in crate::monitor) fn timeout(&mut self, now: Instant) {
        self.pump(now);
    }

    pub(in crate::monitor) fn put_off(&mut self, by: Duration) {
        self.rate.put_off(by);
        self.groups.put_off(by);
    }

    /// Forgets a process that was removed.
    pub(in crate::monitor) fn forget(&mut self, now: Instant, key: u64) {
        self.told(now, key, Phase::Down, false);
        if self.nodes.get(&key).is_some_and(|node| node.dependents.is_empty() && node.waits.is_empty()) {
            self.nodes.remove(&key);
        }
    }

    /// All that keeps a process from starting.
    pub(in crate::monitor) fn waits_for(&self, key: u64) -> Vec<Obstacle> {
        let Some(node) = self.nodes.get(&key).filter(|node| node.held) else { return Vec::new() };
        let missing = node.waits.iter().filter(|(on, when)| !self.satisfies(*on, *when));
        let mut all: Vec<_> = missing.map(|(on, when)| Obstacle::Process(*on, *when, self.phase(*on))).collect();
        if self.groups.is_draining(key) {
            all.push(Obstacle::Group);
        }
        if all.is_empty() && node.queued {
            all.push(Obstacle::Turn);
        }
        all
    }

    /// Whether a process waits for one that will not come without a request.
    pub(in crate::monitor) fn waits_in_vain(&self, key: u64) -> bool {
        let (mut seen, mut work) = (HashSet::new(), vec![key]);
        while let Some(key) = work.pop() {
            let Some(node) = self.nodes.get(&key).filter(|node| node.held) else { continue };
            for (on, _) in node.waits.iter().filter(|(on, when)| !self.satisfies(*on, *when)) {
                match self.phase(*on) {
                    Phase::Down | Phase::Completed | Phase::Exited | Phase::Failed => return true,
                    Phase::Waiting if seen.insert(*on) => work.push(*on),
                    _ => {}
                }
            }
        }
        false
    }

    /// The processes that have to be gone before this one is stopped.
    pub(in crate::monitor) fn stops_after(&self, key: u64) -> Vec<u64> {
        let node = self.nodes.get(&key).filter(|node| node.leaving.is_some() && !node.asked);
        node.map(|_| self.blockers(key).collect()).unwrap_or_default()
    }

    fn phase(&self, key: u64) -> Phase {
        self.nodes.get(&key).map_or(Phase::Down, |node| node.phase)
    }

    /// Whether others that wait for this process can start.
    fn satisfies(&self, key: u64, when: When) -> bool {
        self.nodes.get(&key).is_some_and(|node| node.phase.satisfies(when) && node.leaving.is_none())
    }

    /// The first thing that keeps a process from starting, apart from the rate.
    fn obstacle(&self, key: u64) -> Option<Obstacle> {
        let node = self.nodes.get(&key)?;
        let missing = node.waits.iter().find(|(on, when)| !self.satisfies(*on, *when));
        if let Some((on, when)) = missing {
            return Some(Obstacle::Process(*on, *when, self.phase(*on)));
        }
        (node.leaving.is_some() || self.groups.is_draining(key)).then_some(Obstacle::Group)
    }

    /// Does what follows from a change of a process for its neighbours.
    fn changed(&mut self, now: Instant, key: u64, before: Phase, phase: Phase) {
        let Some(node) = self.nodes.get(&key) else { return };
        let (dependents, requirers) = (node.dependents.clone(), node.requirers.clone());
        if before.carries() && !phase.carries() {
            let up = |other: &u64| self.phase(*other).is_wanted() && self.phase(*other) != Phase::Waiting;
            let concerned: Vec<u64> = requirers.into_iter().filter(up).collect();
            self.leave_all(&concerned, Leaving::Restart);
        }
        if phase.carries() {
            dependents.iter().for_each(|other| self.look(now, *other));
        }
        if !phase.is_up() {
            self.ask_to_leave(key);
            // One that was not there before has kept no other from leaving.
            if before.is_up() {
                let before: Vec<u64> = self.through_absent(key, |node| node.waits.iter().map(|(on, _)| *on)).collect();
                before.into_iter().for_each(|on| self.ask_to_leave(on));
            }
            self.groups.gone(key).into_iter().for_each(|member| self.look(now, member));
        }
    }

    /// Lets a process that is held back start, if nothing is in its way any more.
    fn look(&mut self, now: Instant, key: u64) {
        if !self.nodes.get(&key).is_some_and(|node| node.held && !node.granted) || self.obstacle(key).is_some() {
            return;
        }
        if self.rate.is_limited() {
            self.enqueue(key);
            self.pump(now);
        } else if let Some(node) = self.nodes.get_mut(&key) {
            node.granted = true;
            self.requests.push_back(Request::Release(key));
        }
    }

    fn enqueue(&mut self, key: u64) {
        let node = self.nodes.entry(key).or_default();
        if !std::mem::replace(&mut node.queued, true) {
            self.queue.push_back(key);
        }
    }

    /// Releases those at the head of the queue, as far as the rate allows it.
    fn pump(&mut self, now: Instant) {
        while let Some(key) = self.queue.front().copied() {
            let is_ready = self.nodes.get(&key).is_some_and(|node| node.held) && self.obstacle(key).is_none();
            if is_ready && !self.rate.take(now) {
                return;
            }
            self.queue.pop_front();
            if let Some(node) = self.nodes.get_mut(&key) {
                node.queued = false;
                if is_ready {
                    (node.granted, node.counted) = (true, true);
                    self.requests.push_back(Request::Release(key));
                }
            }
        }
    }

    fn uncount(&mut self, key: u64) {
        if self.nodes.get_mut(&key).is_some_and(|node| std::mem::take(&mut node.counted)) {
            self.rate.give_back();
        }
    }

    /// Lets processes go down, and before them the processes that require them.
    fn leave_all(&mut self, keys: &[u64], leaving: Leaving) {
        let mut work: VecDeque<(u64, Leaving)> = keys.iter().map(|key| (*key, leaving)).collect();
        let mut concerned = Vec::new();
        while let Some((key, leaving)) = work.pop_front() {
            let node = self.nodes.entry(key).or_default();
            concerned.push(key);
            let known = node.leaving;
            // A stop stays a stop. It is asked for again, because it may have been taken back
            // since.
            if known != Some(Leaving::Stop) {
                node.leaving = Some(leaving);
            }
            node.asked &= known == Some(Leaving::Restart) && leaving == Leaving::Restart;
            if known.is_none() {
                let requirers = node.requirers.clone();
                let wanted = requirers.into_iter().filter(|other| self.phase(*other).is_wanted());
                work.extend(wanted.map(|other| (other, Leaving::Restart)).collect::<Vec<_>>());
            }
        }
        concerned.into_iter().for_each(|key| self.ask_to_leave(key));
    }

    /// The processes that have to be gone before this one goes down.
    fn blockers(&self, key: u64) -> impl Iterator<Item = u64> {
        self.through_absent(key, |node| node.dependents.iter().copied()).filter(|other| self.blocks(*other))
    }

    /// The neighbours of a process, and the neighbours of those of them that are not there.
    fn through_absent<'a, N: Iterator<Item = u64> + 'a>(
        &'a self,
        key: u64,
        neighbours: impl Fn(&'a Node) -> N + 'a,
    ) -> impl Iterator<Item = u64> + 'a {
        let mut seen = HashSet::new();
        let mut work: Vec<N> = self.nodes.get(&key).map(&neighbours).into_iter().collect();
        std::iter::from_fn(move || {
            loop {
                let Some(next) = work.last_mut()?.next() else {
                    work.pop();
                    continue;
                };
                if seen.insert(next) {
                    let absent = self.nodes.get(&next).filter(|node| !node.phase.is_up());
                    work.extend(absent.map(&neighbours));
                    return Some(next);
                }
            }
        })
    }

    /// Whether others have to wait until this one is gone.
    fn blocks(&self, key: u64) -> bool {
        let node = self.nodes.get(&key);
        node.is_some_and(|node| node.phase == Phase::Stopping || node.phase.is_up() && node.leaving.is_some())
    }

    /// Asks a process to go down, if it is to do so and no other has to go before it.
    fn ask_to_leave(&mut self, key: u64) {
        let Some(node) = self.nodes.get(&key) else { return };
        let Some(leaving) = node.leaving.filter(|_| !node.asked) else { return };
        if node.phase.is_up() && self.blockers(key).next().is_some() {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&key) {
            // One that is not there does not go down any more. A stop is remembered, so that the
            // process is not started before it is carried out.
            let is_over = node.phase == Phase::Down || !node.phase.is_up() && leaving == Leaving::Restart;
            (node.leaving, node.asked) = if is_over { (None, false) } else { (Some(leaving), true) };
        }
        self.requests.push_back(match leaving {
            Leaving::Stop => Request::Stop(key),
            Leaving::Restart => Request::Restart(key),
        });
    }

    /// Does what the strategies of its groups ask for.
    fn died(&mut self, now: Instant, key: u64, failed: bool, is_new: bool) {
        let Death { restart, give_up, failed } = groups::death(&mut self.groups, now, key, failed, is_new);
        let restart: Vec<u64> = restart.into_iter().filter(|other| self.phase(*other).is_up()).collect();
        self.groups.drain(key, &restart);
        self.leave_all(&restart, Leaving::Restart);
        for other in give_up {
            let phase = self.phase(other);
            if let Some(node) = self.nodes.get_mut(&other).filter(|_| phase.is_wanted() || phase == Phase::Stopping) {
                // Until then it is not started.
                (node.leaving, node.asked) = (Some(Leaving::Stop), true);
                self.requests.push_back(Request::GiveUp(other));
            }
        }
        self.requests.extend(failed.into_iter().map(Request::GroupFailed));
    }
}
