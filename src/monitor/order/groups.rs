//! What the death of a process means for the groups that it is in.
//!
//! It knows no phases and asks for nothing itself. The one rule: a group that has given up stays so
//! until one of its processes is started on request; it counts deaths anew from then on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Order, Strategy};
use crate::monitor::restart::StartLimit;
use crate::monitor::time::after;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Process(u64),
    Group(usize),
}

#[derive(Debug)]
struct State {
    name: String,
    members: Vec<Member>,
    strategy: Strategy,
    limit: Option<StartLimit>,
    essential: bool,
    parent: Option<usize>,
    /// The latest deaths, the earliest first.
    deaths: VecDeque<Instant>,
    /// The processes that have to stop before any of the group is started again.
    draining: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    states: Vec<State>,
    of: HashMap<u64, usize>,
}

/// What follows from a death.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Death {
    /// These are stopped and started again.
    pub(super) restart: Vec<u64>,
    /// These are stopped and have failed.
    pub(super) give_up: Vec<u64>,
    /// These groups have given up.
    pub(super) failed: Vec<usize>,
}

impl Groups {
    pub(super) fn new(order: &Order, key_of: impl Fn(&str) -> Option<u64>) -> Self {
        let numbers = order.group_numbers();
        let (mut of, mut parents) = (HashMap::new(), HashMap::new());
        let mut states = Vec::new();
        for (number, group) in order.groups.iter().enumerate() {
            let member = |name: &String| {
                let inner = numbers.get(&**name).copied();
                inner.map(Member::Group).or_else(|| key_of(name).map(Member::Process))
            };
            let members: Vec<_> = group.members.iter().filter_map(member).collect();
            for member in &members {
                match member {
                    Member::Process(key) => drop(of.insert(*key, number)),
                    Member::Group(inner) => drop(parents.insert(*inner, number)),
                }
            }
            let essential = order.essential.contains(&group.name);
            let (strategy, limit) = (group.strategy, group.limit);
            let (deaths, draining) = (VecDeque::new(), BTreeSet::new());
            let name = group.name.clone();
            states.push(State { name, members, strategy, limit, essential, parent: None, deaths, draining });
        }
        for (inner, parent) in parents {
            states[inner].parent = Some(parent);
        }
        Self { states, of }
    }

    pub(super) fn is_essential(&self, group: usize) -> bool {
        self.states.get(group).is_some_and(|state| state.essential)
    }

    /// Goes on with the deaths, and with the processes that have to stop, of the groups of an
    /// earlier order that have the same names.
    pub(super) fn take_over(&mut self, old: Self) {
        let mut before: HashMap<String, State> =
            old.states.into_iter().map(|state| (state.name.clone(), state)).collect();
        for number in 0..self.states.len() {
            let Some(earlier) = before.remove(&self.states[number].name) else { continue };
            let members: BTreeSet<u64> = self.processes(number).into_iter().collect();
            let state = &mut self.states[number];
            state.deaths = earlier.deaths;
            state.draining = earlier.draining.into_iter().filter(|key| members.contains(key)).collect();
        }
    }

    /// The essential groups around a process of which all processes are over.
    pub(super) fn essential_of(&self, key: u64, is_over: impl Fn(u64) -> bool) -> Vec<usize> {
        let essential = self.above(key).filter(|group| self.states[*group].essential);
        essential.filter(|group| self.processes(*group).into_iter().all(&is_over)).collect()
    }

    /// Whether others wait until this process has stopped.
    pub(super) fn drains(&self, key: u64) -> bool {
        self.above(key).any(|group| self.states[group].draining.contains(&key))
    }

    /// Whether a process has to wait until others of its groups have stopped.
    pub(super) fn is_draining(&self, key: u64) -> bool {
        self.above(key).any(|group| !self.states[group].draining.is_empty())
    }

    /// Notes that these have to stop before any of the group of `key` starts again.
    pub(super) fn drain(&mut self, key: u64, others: &[u64]) {
        if let Some(group) = self.of.get(&key) {
            self.states[*group].draining.extend(others);
        }
    }

    /// Notes that a process is gone. Returns the processes that may have waited for that.
    pub(super) fn gone(&mut self, key: u64) -> Vec<u64> {
        let groups: Vec<usize> = self.above(key).collect();
        let mut free = Vec::new();
        for group in groups {
            let draining = &mut self.states[group].draining;
            if draining.remove(&key) && draining.is_empty() {
                free.extend(self.processes(group));
            }
        }
        free
    }

    /// Gives a process another key.
    pub(super) fn rename(&mut self, old: u64, new: u64) {
        let Some(group) = self.of.remove(&old) else { return };
        self.of.insert(new, group);
        for state in &mut self.states {
            state.members.iter_mut().filter(|member| **member == Member::Process(old)).for_each(|member| {
                *member = Member::Process(new);
            });
            if state.draining.remove(&old) {
                state.draining.insert(new);
            }
        }
    }

    pub(super) fn put_off(&mut self, by: Duration) {
        for death in self.states.iter_mut().flat_map(|state| state.deaths.iter_mut()) {
            *death = after(*death, by);
        }
    }

    /// The groups that a process is in, the innermost first.
    fn above(&self, key: u64) -> impl Iterator<Item = usize> {
        std::iter::successors(self.of.get(&key).copied(), |group| self.states[*group].parent)
    }

    /// All processes of a group, in order.
    fn processes(&self, group: usize) -> Vec<u64> {
        self.flatten(&self.states[group].members)
    }

    fn flatten(&self, members: &[Member]) -> Vec<u64> {
        let mut all = Vec::new();
        let mut work: Vec<Member> = members.iter().rev().copied().collect();
        while let Some(member) = work.pop() {
            match member {
                Member::Process(key) => all.push(key),
                Member::Group(inner) => work.extend(self.states[inner].members.iter().rev()),
            }
        }
        all
    }

    /// The processes of a group that come after this member.
    fn rest(&self, group: usize, member: Member) -> Vec<u64> {
        let members = &self.states[group].members;
        let place = members.iter().position(|other| *other == member);
        place.map(|place| self.flatten(&members[place + 1..])).unwrap_or_default()
    }

    /// Counts a death. Returns whether the group does not bear it.
    fn count(&mut self, group: usize, now: Instant) -> bool {
        let state = &mut self.states[group];
        let Some(limit) = state.limit else { return false };
        state.deaths.retain(|death| after(*death, limit.within) > now);
        state.deaths.push_back(now);
        let is_too_many = state.deaths.len() > limit.starts as usize;
        if is_too_many {
            state.deaths.clear();
        }
        is_too_many
    }
}

/// What follows from the death of a process: it will be started again, or has failed for good. A
/// death that is not new has been counted before.
pub(super) fn death(groups: &mut Groups, now: Instant, key: u64, failed: bool, is_new: bool) -> Death {
    let mut death = Death::default();
    let Some(mut group) = groups.of.get(&key).copied() else { return death };
    let mut member = Member::Process(key);
    let (mut failed, mut counts) = (failed, is_new);
    loop {
        let too_many = std::mem::replace(&mut counts, true) && groups.count(group, now);
        let strategy = groups.states[group].strategy;
        if too_many || failed && strategy == Strategy::All {
            groups.states[group].draining.clear();
            death.give_up.extend(groups.processes(group).into_iter().filter(|other| *other != key || !failed));
            death.failed.push(group);
            member = Member::Group(group);
            failed = true;
            match groups.states[group].parent {
                Some(parent) => group = parent,
                None => return death,
            }
            continue;
        }
        match (strategy, failed) {
            (Strategy::Each, _) => {}
            (Strategy::All, _) => {
                death.restart = groups.processes(group).into_iter().filter(|other| *other != key).collect();
            }
            (Strategy::Rest, false) => death.restart = groups.rest(group, member),
            (Strategy::Rest, true) => death.give_up.extend(groups.rest(group, member)),
        }
        return death;
    }
}
