//! Answers that are sent when processes reach a state. Only processes that have changed are
//! checked, and only in the waits for them.
//!
//! The one rule: each wait ends. It ends when its goals are reached or impossible, or at its
//! timeout.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use childminder::restart::{Next, State};
use childminder::{ProcessId, Reactor, Readiness, TimerId};

use super::Up;
use crate::cli::control::ClientId;
use crate::cli::control::protocol::{self, Object};
use crate::cli::words;

/// The state that a process is to reach.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// The process runs, is not the process `instead_of`, and has passed the time of an instant
    /// death. Or it has exited with success, and the policy wants no more of it.
    Running { instead_of: Option<ProcessId> },
    /// The same, when its turn comes in a rolling restart.
    Rolled { instead_of: Option<ProcessId> },
    /// The process is down or removed, and `process` has exited.
    Down { process: Option<ProcessId> },
}

enum Progress {
    Reached,
    /// It will be reached at this time if nothing changes until then.
    ReachedAt(Instant),
    Pending,
    /// It cannot be reached, with the reason.
    Impossible(String),
}

/// All waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    waits: HashMap<u64, Wait>,
    next: u64,
    /// The waits in which the goal of a process is pending.
    by_name: HashMap<String, Vec<u64>>,
    by_timer: HashMap<TimerId, u64>,
}

impl Waits {
    fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Adds a wait that has more to wait for.
    fn put(&mut self, number: u64, wait: Wait) {
        for timer in wait.ripe.into_iter().chain([wait.timer]) {
            self.by_timer.insert(timer, number);
        }
        self.waits.insert(number, wait);
    }

    /// Takes a wait out, so that it can be checked.
    fn take(&mut self, number: u64) -> Option<Wait> {
        let wait = self.waits.remove(&number)?;
        for timer in wait.ripe.into_iter().chain([wait.timer]) {
            self.by_timer.remove(&timer);
        }
        Some(wait)
    }

    /// The changed processes of each wait that waits for any of them, by the number of the wait.
    fn concerned(&self, changed: &[String]) -> BTreeMap<u64, Vec<String>> {
        let mut concerned = BTreeMap::<_, Vec<_>>::new();
        for name in changed {
            for number in self.by_name.get(name).into_iter().flatten() {
                concerned.entry(*number).or_default().push(name.clone());
            }
        }
        concerned
    }

    /// Notes that the goal of this process is no longer pending in this wait.
    fn forget(&mut self, number: u64, name: &str) {
        if let Some(numbers) = self.by_name.get_mut(name) {
            numbers.retain(|known| *known != number);
            if numbers.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

/// A wait of one client.
#[derive(Debug)]
struct Wait {
    number: u64,
    client: ClientId,
    /// The goals that are neither reached nor impossible.
    pending: HashMap<String, Goal>,
    /// The number of goals at the start.
    all: usize,
    reached: usize,
    impossible: Vec<String>,
    /// When goals will be reached if nothing changes, the earliest first, and the timer for the
    /// earliest one.
    ripening: BinaryHeap<Reverse<(Instant, String)>>,
    ripe: Option<TimerId>,
    answer: Object,
    timeout: Duration,
    timer: TimerId,
    /// Whether the client gets reports of progress: one at once, and one for each goal that is
    /// reached.
    progress: bool,
    /// The number of goals that were reached at the last report.
    told: Option<usize>,
}

impl Up {
    /// Answers the client when all of these goals are reached.
    pub(super) fn wait(
        &mut self,
        reactor: &mut Reactor,
        client: ClientId,
        goals: Vec<(String, Goal)>,
        answer: Object,
        (timeout, progress): (Duration, bool),
    ) {
        let all = goals.len();
        let number = self.waits.next;
        self.waits.next += 1;
        let mut wait = Wait {
            number,
            client,
            pending: HashMap::with_capacity(all),
            all,
            reached: 0,
            impossible: Vec::new(),
            ripening: BinaryHeap::new(),
            ripe: None,
            answer,
            timeout,
            timer: reactor.call_later(timeout),
            progress,
            told: None,
        };
        for (name, goal) in goals {
            wait.pending.insert(name.clone(), goal);
            self.waits.by_name.entry(name.clone()).or_default().push(number);
            self.look(reactor, &mut wait, &name);
        }
        self.settle_wait(reactor, wait);
        self.reporter().awaited |= !self.waits.is_empty();
    }

    /// Updates the waits for the processes that have changed, and answers those waits that are
    /// complete.
    pub(super) fn settle_waits(&mut self, reactor: &mut Reactor) {
        let changed = std::mem::take(&mut self.reporter().changed);
        if let Some(broken) = self.reporter().broken.take() {
            self.break_off(reactor, &broken);
        }
        for (number, names) in self.waits.concerned(&changed) {
            let Some(mut wait) = self.waits.take(number) else { continue };
            for name in &names {
                self.look(reactor, &mut wait, name);
            }
            self.settle_wait(reactor, wait);
        }
        self.reporter().awaited = !self.waits.is_empty();
    }

    /// Ends the waits for the processes that a rolling restart has not reached.
    fn break_off(&mut self, reactor: &mut Reactor, broken: &str) {
        let mut numbers: Vec<u64> = self.waits.waits.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(mut wait) = self.waits.take(number) else { continue };
            let is_left = |(name, goal): (&String, &Goal)| match goal {
                Goal::Rolled { instead_of } if name != broken => self.is_still(name, *instead_of).then(|| name.clone()),
                _ => None,
            };
            let mut left: Vec<String> = wait.pending.iter().filter_map(is_left).collect();
            left.sort_unstable();
            for name in left {
                wait.pending.remove(&name);
                self.waits.forget(number, &name);
                wait.impossible.push(format!("{name} is not restarted, because {broken} has not come back"));
            }
            self.settle_wait(reactor, wait);
        }
    }

    /// Whether the process of this name is still this one.
    fn is_still(&self, name: &str, process: Option<ProcessId>) -> bool {
        process.is_some() && self.process(name) == process
    }

    /// Checks the goal of this process.
    fn look(&mut self, reactor: &mut Reactor, wait: &mut Wait, name: &str) {
        let Some(goal) = wait.pending.get(name) else { return };
        match self.progress(reactor, name, *goal) {
            Progress::Pending => return,
            Progress::ReachedAt(time) => {
                wait.ripening.push(Reverse((time, name.to_owned())));
                return;
            }
            Progress::Reached => wait.reached += 1,
            Progress::Impossible(why) => wait.impossible.push(format!("{name} {why}")),
        }
        wait.pending.remove(name);
        self.waits.forget(wait.number, name);
    }

    fn progress(&self, reactor: &mut Reactor, name: &str, goal: Goal) -> Progress {
        let status = self.monitor.status(name);
        let impossible = |why: &str| Progress::Impossible(why.to_owned());
        match goal {
            Goal::Running { instead_of } | Goal::Rolled { instead_of } => {
                let Some(status) = status else { return impossible("was removed") };
                match status.state {
                    State::Running { .. } if instead_of.is_some() && status.process == instead_of => Progress::Pending,
                    State::Running { .. } if status.readiness == Readiness::Ready => Progress::Reached,
                    State::Running { .. } if status.readiness != Readiness::Absent => Progress::Pending,
                    State::Running { since } => {
                        let threshold = self.monitor.process_policy(name).map_or(Duration::ZERO, |it| it.threshold);
                        let now = reactor.now();
                        match since.checked_add(threshold) {
                            Some(time) if time > now => Progress::ReachedAt(time),
                            _ => Progress::Reached,
                        }
                    }
                    State::Stopped | State::Stopping { next: Next::Stay, .. } => impossible("was stopped"),
                    State::Failed { why } => Progress::Impossible(format!("has failed: {why}")),
                    State::Exited | State::BackingOff { .. } => {
                        if let Some(fault) = self.monitor.observer().fault(name) {
                            return Progress::Impossible(format!("does not work: {fault}"));
                        }
                        let error = self.monitor.observer().start_error(name);
                        match (error, status.last_exit, status.state) {
                            // The error is newer than the last exit, because a start that succeeds
                            // clears it.
                            (Some(error), ..) => Progress::Impossible(format!("could not be started: {error}")),
                            (None, Some(exit), State::Exited) if self.is_success(name, exit) => Progress::Reached,
                            (None, Some(exit), _) => Progress::Impossible(words::exited(exit)),
                            (None, None, _) => impossible("has ended"),
                        }
                    }
                    _ => Progress::Pending,
                }
            }
            Goal::Down { process } => {
                let down = status
                    .is_none_or(|status| matches!(status.state, State::Stopped | State::Exited | State::Failed { .. }));
                // A process that was removed has no status and may still be exiting.
                let gone = process.and_then(|id| reactor.process(id)).is_none_or(|process| process.exit().is_some());
                match status.map(|status| status.state) {
                    _ if down && gone => Progress::Reached,
                    // The stop is over, and another request has started the process again.
                    Some(State::Running { .. } | State::BackingOff { .. }) if gone => impossible("was started again"),
                    _ => Progress::Pending,
                }
            }
        }
    }

    /// Reports the progress of a wait, and answers it or keeps it.
    fn settle_wait(&mut self, reactor: &mut Reactor, mut wait: Wait) {
        let now = reactor.now();
        if wait.progress && wait.told != Some(wait.reached) {
            wait.told = Some(wait.reached);
            self.server.send_before(wait.client, protocol::progress(wait.reached, wait.all), now);
        }
        if let Some(ripe) = wait.ripe.take() {
            reactor.cancel_timer(ripe);
        }
        if !wait.pending.is_empty() {
            let next = wait.ripening.peek().map(|Reverse((time, _))| time.saturating_duration_since(now));
            wait.ripe = next.map(|delay| reactor.call_later(delay));
            return self.waits.put(wait.number, wait);
        }
        reactor.cancel_timer(wait.timer);
        let answer = match wait.impossible.is_empty() {
            true => wait.answer,
            false => protocol::failed(wait.answer, &wait.impossible.join(", ")),
        };
        self.server.answer(wait.client, answer, now);
    }

    /// Handles a timer that has expired. `false` if it belongs to no wait.
    pub(super) fn wait_timer(&mut self, reactor: &mut Reactor, timer: TimerId) -> bool {
        let number = self.waits.by_timer.get(&timer).copied();
        let Some(mut wait) = number.and_then(|number| self.waits.take(number)) else { return false };
        if wait.timer == timer {
            self.time_is_up(reactor, wait);
            return true;
        }
        let now = reactor.now();
        while let Some(Reverse((_, name))) = wait.ripening.peek().filter(|Reverse((time, _))| *time <= now).cloned() {
            wait.ripening.pop();
            self.look(reactor, &mut wait, &name);
        }
        self.settle_wait(reactor, wait);
        true
    }

    fn readiness(&self, name: &str) -> Readiness {
        self.monitor.status(name).map_or(Readiness::Absent, |status| status.readiness)
    }

    fn time_is_up(&mut self, reactor: &mut Reactor, wait: Wait) {
        if let Some(ripe) = wait.ripe {
            reactor.cancel_timer(ripe);
        }
        for name in wait.pending.keys() {
            self.waits.forget(wait.number, name);
        }
        let missing = wait.pending.iter().map(|(name, goal)| match self.monitor.status(name).map(|it| it.state) {
            Some(State::Waiting { .. }) => {
                format!("{name} waits for {}", self.monitor.waits_for(name).join("; "))
            }
            Some(State::Running { .. }) if self.readiness(name) == Readiness::Pending => {
                format!("{name} is not ready yet")
            }
            Some(State::Running { .. }) if matches!(goal, Goal::Rolled { instead_of } if self.is_still(name, *instead_of)) => {
                format!("{name} is not restarted yet")
            }
            Some(State::Running { since }) if !matches!(goal, Goal::Down { .. }) => {
                let lived = words::seconds(reactor.now().saturating_duration_since(since));
                format!("{name} has run for {lived} s only, less than its threshold")
            }
            Some(state) => format!("{name} is {}", words::state_name(state, self.readiness(name))),
            None => format!("{name} is on its way out"),
        });
        let mut missing: Vec<String> = missing.chain(wait.impossible.iter().cloned()).collect();
        missing.sort_unstable();
        let error = format!("not reached within {} s: {}", words::seconds(wait.timeout), missing.join(", "));
        self.server.answer(wait.client, protocol::failed(wait.answer, &error), reactor.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_only_the_waits_for_its_process() {
        let mut waits = Waits::default();
        for number in 0..1000 {
            waits.by_name.insert(format!("web:{number}"), vec![number % 10, 10]);
        }
        let changed = ["web:7", "web:17", "db", "web:8"].map(str::to_owned);
        let concerned: Vec<_> =
            waits.concerned(&changed).into_iter().map(|(number, names)| (number, names.join(" "))).collect();
        assert_eq!(concerned, [(7, "web:7 web:17".into()), (8, "web:8".into()), (10, "web:7 web:17 web:8".into())]);
        waits.forget(7, "web:7");
        waits.forget(10, "web:7");
        assert!(!waits.by_name.contains_key("web:7"));
        assert!(waits.concerned(&changed[..1]).is_empty());
    }
}
