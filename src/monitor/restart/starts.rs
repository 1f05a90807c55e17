//! The latest starts of one process, by which its restarts are limited.
//!
//! It decides nothing. The one rule: it holds no memory unless the policy limits the starts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{StartLimit, after};

/// The times of the latest starts, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Starts(VecDeque<Instant>);

impl Starts {
    /// Notes a start at this time, and forgets those that no longer count.
    pub(super) fn note(&mut self, now: Instant, limit: Option<StartLimit>) {
        let Some(limit) = limit else { return self.forget() };
        self.0.push_back(now);
        while self.0.len() > limit.starts as usize {
            self.0.pop_front();
        }
    }

    /// Whether a further start at this time would be above the limit.
    pub(super) fn is_full(&self, at: Instant, limit: Option<StartLimit>) -> bool {
        let Some(limit) = limit else { return false };
        let counted = self.0.iter().filter(|time| after(**time, limit.within) > at).count();
        counted >= limit.starts as usize
    }

    pub(super) fn forget(&mut self) {
        self.0 = VecDeque::new();
    }

    pub(super) fn put_off(&mut self, by: Duration) {
        for time in &mut self.0 {
            *time = after(*time, by);
        }
    }
}
