//! Answers that come when a state is reached.
//!
//! The one rule: each wait ends: by its goals, by what makes them impossible, or by its time.

use std::time::Duration;

use childminder::restart::State;
use childminder::{ProcessId, ProcessMonitor, Reactor, TimerId};

use super::voice::Voice;
use super::{Up, status};
use crate::cli::control::ClientId;
use crate::cli::control::protocol::{self, Object};
use crate::cli::words;

/// What a process shall come to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// It runs, and as another process than this one.
    Running { instead_of: Option<ProcessId> },
    /// It is down or gone, and this process with it.
    Down { process: Option<ProcessId> },
}

enum Progress {
    Reached,
    Pending,
    /// Never, and why.
    Impossible(&'static str),
}

impl Goal {
    fn progress(self, name: &str, monitor: &ProcessMonitor<Voice>, reactor: &mut Reactor) -> Progress {
        let status = monitor.status(name);
        match self {
            Self::Running { instead_of } => match status {
                None => Progress::Impossible("was removed"),
                Some(status) => match status.state {
                    State::Running { .. } if instead_of.is_none() || status.process != instead_of => Progress::Reached,
                    State::Stopped => Progress::Impossible("was stopped"),
                    State::Exited => Progress::Impossible("has exited"),
                    _ => Progress::Pending,
                },
            },
            Self::Down { process } => {
                let down = status.is_none_or(|status| matches!(status.state, State::Stopped | State::Exited));
                // One that was removed has no status any more, and may still be on its way out.
                let gone = process.and_then(|id| reactor.process(id)).is_none_or(|process| process.exit().is_some());
                match status.map(|status| status.state) {
                    _ if down && gone => Progress::Reached,
                    // Its stop is over: this is another one's start.
                    Some(State::Running { .. } | State::BackingOff { .. }) if gone => {
                        Progress::Impossible("was started again")
                    }
                    _ => Progress::Pending,
                }
            }
        }
    }
}

/// One answer that is due.
#[derive(Debug)]
pub(super) struct Wait {
    client: ClientId,
    goals: Vec<(String, Goal)>,
    answer: Object,
    timeout: Duration,
    timer: TimerId,
    /// How many goals were reached when it was last told, if it is to be told.
    told: Option<usize>,
}

impl Wait {
    pub(super) fn new(
        reactor: &mut Reactor,
        client: ClientId,
        goals: Vec<(String, Goal)>,
        answer: Object,
        timeout: Duration,
        progress: bool,
    ) -> Self {
        let timer = reactor.call_later(timeout);
        Self { client, goals, answer, timeout, timer, told: progress.then_some(0) }
    }
}

impl Up {
    /// Answers what is reached or out of reach.
    pub(super) fn settle_waits(&mut self, reactor: &mut Reactor) {
        let mut waits = std::mem::take(&mut self.waits);
        waits.retain_mut(|wait| {
            let (mut reached, mut pending, mut impossible) = (0, 0, Vec::new());
            for (name, goal) in &wait.goals {
                match goal.progress(name, &self.monitor, reactor) {
                    Progress::Reached => reached += 1,
                    Progress::Pending => pending += 1,
                    Progress::Impossible(why) => impossible.push(format!("{name} {why}")),
                }
            }
            if wait.told.is_some_and(|told| told != reached) {
                wait.told = Some(reached);
                self.server.send_before(wait.client, protocol::progress(reached, wait.goals.len()), reactor.now());
            }
            if pending > 0 {
                return true;
            }
            reactor.cancel_timer(wait.timer);
            let answer = std::mem::take(&mut wait.answer);
            let answer = if impossible.is_empty() { answer } else { protocol::refused(&impossible.join(", ")) };
            self.server.answer(wait.client, answer, reactor.now());
            false
        });
        self.waits = waits;
    }

    /// The time of a wait has come. `false` if this is no wait's timer.
    pub(super) fn wait_is_over(&mut self, reactor: &mut Reactor, timer: TimerId) -> bool {
        let Some(index) = self.waits.iter().position(|wait| wait.timer == timer) else { return false };
        let wait = self.waits.swap_remove(index);
        let mut missing = Vec::new();
        for (name, goal) in &wait.goals {
            if !matches!(goal.progress(name, &self.monitor, reactor), Progress::Reached) {
                let state =
                    self.monitor.status(name).map_or("on its way out", |status| status::state_name(status.state));
                missing.push(format!("{name} is {state}"));
            }
        }
        let error = format!("not reached within {} s: {}", words::seconds(wait.timeout), missing.join(", "));
        self.server.answer(wait.client, protocol::refused(&error), reactor.now());
        true
    }
}
