//! A rolling restart: one process after the other, the next one when the last one is ready.
//!
//! It restarts nothing itself. The one rule: it ends when a process does not come back.

use std::collections::VecDeque;

use super::phase::Phase;

/// A rolling restart that is under way.
#[derive(Debug)]
pub(super) struct Rolling {
    left: VecDeque<u64>,
    current: Option<u64>,
    /// Whether the present process has been away since it was asked to restart.
    was_away: bool,
}

/// What follows a change of a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Restart(u64),
    /// All are done.
    Done,
    /// This process has not come back.
    Broken(u64),
}

impl Rolling {
    pub(super) fn new(keys: Vec<u64>) -> Self {
        Self { left: keys.into(), current: None, was_away: false }
    }

    /// Begins with the first process, or goes on with the next one.
    pub(super) fn next(&mut self) -> Step {
        self.current = self.left.pop_front();
        self.was_away = false;
        self.current.map_or(Step::Done, Step::Restart)
    }

    /// Leaves out a process that is not to run any more.
    pub(super) fn skip(&mut self, key: u64) {
        self.left.retain(|left| *left != key);
    }

    pub(super) fn told(&mut self, key: u64, phase: Phase) -> Step {
        if self.current != Some(key) {
            return Step::Nothing;
        }
        match phase {
            Phase::Ready if self.was_away => self.next(),
            Phase::Ready | Phase::Started | Phase::Lost => Step::Nothing,
            Phase::Stopping | Phase::Waiting | Phase::Starting => {
                self.was_away = true;
                Step::Nothing
            }
            Phase::BackingOff | Phase::Down | Phase::Completed | Phase::Exited | Phase::Failed => Step::Broken(key),
        }
    }
}
