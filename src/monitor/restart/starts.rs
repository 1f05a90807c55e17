//! The latest starts of one process, by which its restarts are limited.
//!
//! It decides nothing. The one rule: it holds no memory unless the policy limits the starts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::monitor::policy::StartLimit;
use crate::monitor::time::after;

/// The times of the latest starts.
#[derive(Debug, Default)]
pub(super) struct Starts(Option<Box<Times>>);

/// The earliest first. A box of its own, because most processes have no limit.
#[derive(Debug, Default)]
struct Times {
    all: VecDeque<Instant>,
}

impl Starts {
    /// Notes a start at this time, and forgets the starts that no longer count.
    pub(super) fn note(&mut self, now: Instant, limit: Option<StartLimit>) {
        let Some(limit) = limit else { return self.forget() };
        let times = &mut self.0.get_or_insert_default().all;
        times.push_back(now);
        while times.len() > limit.starts as usize {
            times.pop_front();
        }
    }

    /// Whether a further start at this time would be above the limit.
    pub(super) fn is_full(&self, at: Instant, limit: Option<StartLimit>) -> bool {
        let (Some(limit), Some(times)) = (limit, &self.0) else { return false };
        let counted = times.all.iter().filter(|time| after(**time, limit.within) > at).count();
        counted >= limit.starts as usize
    }

    pub(super) fn are_forgotten(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    pub(super) fn put_off(&mut self, by: Duration) {
        for time in self.0.iter_mut().flat_map(|times| times.all.iter_mut()) {
            *time = after(*time, by);
        }
    }
}
