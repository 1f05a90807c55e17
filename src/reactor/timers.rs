//! Pending timers: which is next, which are due.
//!
//! Pure: time is an argument. It neither reads a clock nor waits nor calls anybody.
//! The rule: each active timer has exactly one heap entry with its present `seq`; every other entry is dead.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::slab::{Key, Slab};

/// This many dead entries are cheaper kept than swept.
const DEAD_MIN: usize = 64;

/// From this number on all timers are numbered anew at the next turn: half of the numbers are left for what a turn sets.
const RENUMBER: u32 = u32::MAX / 2;

/// A deadline too far to count: it never comes.
const NEVER: u64 = u64::MAX;

/// Names one timer of one reactor.
///
/// Generational: once its timer has fired or was cancelled, an id is stale for good and can never reach a newer timer.
/// The order of ids says nothing about time; it is there for the sake of sorted maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(Key);

/// The start of a turn: what was set later does not fire in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u32);

/// Timers by deadline; equal deadlines in the order in which they were set.
///
/// Instants are kept as nanoseconds since the base: those before it count as the base itself,
/// those more than 584 years after it never come.
#[derive(Debug)]
pub(crate) struct Timers {
    base: Instant,
    /// The last instant that timers were counted from, and its nanoseconds: within a turn it is always the same.
    last: (Instant, u64),
    next_seq: u32,
    // These keys are never tokens, so they have all 32 bits on every target.
    active: Slab<Timer, { u32::MAX }>,
    heap: BinaryHeap<Reverse<Entry>>,
    /// Due, but set after `parked_in` began: out of the way of older ones until that turn is over.
    parked: Vec<Reverse<Entry>>,
    parked_in: Mark,
}

#[derive(Debug)]
struct Timer {
    deadline: u64,
    /// Not zero, so that a slot of the slab needs no word to say that it is taken.
    seq: NonZeroU32,
}

/// Ordered by deadline, then age.
#[derive(Debug)]
struct Entry {
    deadline: u64,
    seq: u32,
    slot: u32,
}

impl Entry {
    /// As one number, which is compared without a branch. `seq` is unique.
    fn order(&self) -> u128 {
        u128::from(self.deadline) << 64 | u128::from(self.seq) << 32
    }

    /// The key of its timer, if it is still this one's.
    fn live(&self, active: &Slab<Timer, { u32::MAX }>) -> Option<Key> {
        active.in_slot(self.slot).filter(|(_, timer)| timer.seq.get() == self.seq).map(|(key, _)| key)
    }

    fn is_live(&self, active: &Slab<Timer, { u32::MAX }>) -> bool {
        self.live(active).is_some()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl Timers {
    pub(crate) const fn new(base: Instant) -> Self {
        Self {
            base,
            last: (base, 0),
            next_seq: 0,
            active: Slab::new(),
            heap: BinaryHeap::new(),
            parked: Vec::new(),
            parked_in: Mark(0),
        }
    }

    /// Sets a timer for `delay` after `from`.
    pub(crate) fn insert(&mut self, from: Instant, delay: Duration) -> TimerId {
        let timer = self.stamp(from, delay);
        let (deadline, seq) = (timer.deadline, timer.seq.get());
        let key = self.active.insert(timer);
        self.heap.push(Reverse(Entry { deadline, seq, slot: key.slot() }));
        TimerId(key)
    }

    /// False if the timer was not active.
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let cancelled = self.active.remove(id.0).is_some();
        self.compact();
        cancelled
    }

    /// Moves an active timer to `delay` after `from`, behind those already set for the same instant. False if it was not active.
    pub(crate) fn reset(&mut self, id: TimerId, from: Instant, delay: Duration) -> bool {
        let new = self.stamp(from, delay);
        let (deadline, seq) = (new.deadline, new.seq.get());
        let Some(timer) = self.active.get_mut(id.0) else {
            return false;
        };
        *timer = new;
        self.heap.push(Reverse(Entry { deadline, seq, slot: id.0.slot() }));
        self.compact();
        true
    }

    /// Puts off all timers by so much.
    pub(crate) fn put_off(&mut self, by: Duration) {
        // They are kept as distances from the base.
        self.base += by;
        self.last = (self.base, 0);
    }

    /// `None` if the timer is not active: it has fired or was cancelled.
    pub(crate) fn deadline(&self, id: TimerId) -> Option<Instant> {
        let timer = self.active.get(id.0)?;
        Some(self.instant(timer.deadline))
    }

    /// When the earliest active timer is due. Not for cancelled ones: they cause no wake-up.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        self.unpark();
        while let Some(Reverse(top)) = self.heap.peek() {
            if top.is_live(&self.active) {
                return Some(self.instant(top.deadline));
            }
            self.heap.pop();
        }
        None
    }

    /// The number of active timers.
    pub(crate) const fn len(&self) -> usize {
        self.active.len()
    }

    /// To be asked for once a turn, before the first [`Timers::pop_due`].
    pub(crate) fn begin_turn(&mut self) -> Mark {
        if self.next_seq >= RENUMBER {
            self.renumber();
        }
        Mark(self.next_seq.saturating_add(1))
    }

    /// The earliest timer that is due at `now` and was set before `mark`. It is no longer active.
    pub(crate) fn pop_due(&mut self, now: Instant, mark: Mark) -> Option<TimerId> {
        if mark != self.parked_in {
            self.unpark();
            self.parked_in = mark;
        }
        let now = self.nanos(now);
        while let Some(Reverse(top)) = self.heap.peek() {
            if top.deadline > now || top.deadline == NEVER {
                break;
            }
            let Some(Reverse(entry)) = self.heap.pop() else {
                break;
            };
            let Some(key) = entry.live(&self.active) else { continue };
            if entry.seq >= mark.0 {
                self.parked.push(Reverse(entry));
                continue;
            }
            self.active.remove(key);
            self.compact();
            return Some(TimerId(key));
        }
        None
    }

    fn stamp(&mut self, from: Instant, delay: Duration) -> Timer {
        if self.next_seq == u32::MAX {
            self.renumber();
        }
        let seq = self.number();
        if from != self.last.0 {
            self.last = (from, self.nanos(from));
        }
        Timer { deadline: self.last.1.saturating_add(nanos(delay)), seq }
    }

    fn nanos(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.base))
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.base + Duration::from_nanos(nanos)
    }

    fn number(&mut self) -> NonZeroU32 {
        let seq = NonZeroU32::MIN.saturating_add(self.next_seq);
        self.next_seq = seq.get();
        seq
    }

    /// Numbers all timers anew, in the same order. Small numbers keep the heap small; they last for two thousand million timers.
    fn renumber(&mut self) {
        self.unpark();
        self.parked_in = Mark(0);
        self.next_seq = 0;
        // All the dead first: one of them may have a number that is given out again.
        self.sweep();
        let latest_first = std::mem::take(&mut self.heap).into_sorted_vec();
        for Reverse(mut entry) in latest_first.into_iter().rev() {
            let Some(key) = entry.live(&self.active) else { continue };
            let seq = self.number();
            entry.seq = seq.get();
            if let Some(timer) = self.active.get_mut(key) {
                timer.seq = seq;
            }
            self.heap.push(Reverse(entry));
        }
    }

    fn sweep(&mut self) {
        let active = &self.active;
        self.heap.retain(|Reverse(entry)| entry.is_live(active));
        self.parked.retain(|Reverse(entry)| entry.is_live(active));
    }

    fn unpark(&mut self) {
        self.heap.extend(self.parked.drain(..));
    }

    /// Sweeps once the dead are in the majority, so that each is paid for by the call that made it one.
    fn compact(&mut self) {
        let all = self.heap.len() + self.parked.len();
        let dead = all - self.active.len();
        if dead > DEAD_MIN && dead > all / 2 {
            self.sweep();
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests;
