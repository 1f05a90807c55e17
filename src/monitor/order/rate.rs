//! How many processes may start in a second, and at the same time.
//!
//! It knows no processes. The one rule: without a limit it answers yes, and never has a deadline.

use std::time::{Duration, Instant};

use crate::monitor::time::after;

/// The time by which a start may come too early, to make up for a timer that was late.
pub(super) const CATCH_UP: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Rate {
    interval: Option<Duration>,
    /// When the next start is due.
    next: Option<Instant>,
    most_under_way: Option<usize>,
    under_way: usize,
}

impl Rate {
    pub(super) fn new(per_second: Option<u32>, under_way: Option<u32>) -> Self {
        let interval = per_second.map(|starts| Duration::from_secs(1) / starts.max(1));
        Self { interval, next: None, most_under_way: under_way.map(|starts| starts.max(1) as usize), under_way: 0 }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.interval.is_some() || self.most_under_way.is_some()
    }

    /// Takes the right to start one process now, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.most_under_way.is_some_and(|most| self.under_way >= most) {
            return false;
        }
        if let Some(interval) = self.interval {
            if self.next.is_some_and(|next| next > now) {
                return false;
            }
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            self.next = Some(self.next.map_or(now, |next| next.max(earliest)) + interval);
        }
        self.under_way += 1;
        true
    }

    /// Goes on from where the rate of an earlier order was.
    pub(super) fn take_over(&mut self, old: &Self) {
        self.next = old.next.filter(|_| self.interval.is_some());
    }

    /// Counts a start that is under way already.
    pub(super) fn count(&mut self) {
        self.under_way += 1;
    }

    /// A start that was under way is over.
    pub(super) fn give_back(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// When a start is allowed again, if it is only a matter of time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| self.most_under_way.is_none_or(|most| self.under_way < most))
    }

    pub(super) fn put_off(&mut self, by: Duration) {
        self.next = self.next.map(|next| after(next, by));
    }
}
