//! The pending timers of a reactor: which one is next, and which are due.
//!
//! It is pure: time is an argument, and it neither reads a clock nor waits nor calls a handler. The
//! one rule: each active timer has exactly one heap entry with its present `seq`, and every other
//! entry is stale.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::slab::{Key, Slab};

/// This many stale entries are cheaper to keep than to sweep.
const DEAD_MIN: usize = 64;

/// From this number on, all timers are numbered anew at the next turn. Half of the numbers are left
/// for the timers that a turn sets.
const RENUMBER: u32 = u32::MAX / 2;

/// A deadline that is too far away to count. It never comes.
const NEVER: u64 = u64::MAX;

/// Names one timer of one reactor.
///
/// An id is generational: once its timer has fired or was cancelled, the id is stale for good and
/// can never reach a newer timer. The order of ids says nothing about time. It exists for sorted
/// maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId(Key);

/// The start of a turn. A timer that was set later does not fire in the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TurnStart(u32);

/// Timers by deadline. Those with equal deadlines are in the order in which they were set.
///
/// Instants are kept as nanoseconds since the base. Earlier ones count as the base itself, and
/// those more than 584 years after it never come.
#[derive(Debug)]
pub(crate) struct Timers {
    base: Instant,
    /// The last instant from which timers were counted, and its nanoseconds. It saves a conversion
    /// when many timers count from the same one.
    last: (Instant, u64),
    next_seq: u32,
    // These keys are never tokens, so they have all 32 bits on every target.
    active: Slab<Timer, { u32::MAX }>,
    heap: BinaryHeap<Reverse<Entry>>,
    /// Entries that are due but were set after `parked_in` began. They are kept apart from older
    /// ones until that turn is over.
    parked: Vec<Reverse<Entry>>,
    parked_in: TurnStart,
}

#[derive(Debug)]
struct Timer {
    deadline: u64,
    /// Not zero, so that a slot of the slab needs no extra word to mark that it is taken.
    seq: NonZeroU32,
}

/// A heap entry, ordered by deadline, then age.
#[derive(Debug)]
struct Entry {
    deadline: u64,
    seq: u32,
    slot: u32,
}

impl Entry {
    /// Returns its order as one number, which is compared without a branch. `seq` is unique.
    fn order(&self) -> u128 {
        u128::from(self.deadline) << 64 | u128::from(self.seq) << 32
    }

    /// Returns the key of its timer, if the timer still has this entry.
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
            parked_in: TurnStart(0),
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

    /// Cancels a timer. Returns false if it was not active.
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let cancelled = self.active.remove(id.0).is_some();
        self.compact();
        cancelled
    }

    /// Moves an active timer to `delay` after `from`, behind the ones that are already set for the
    /// same instant. Returns false if it was not active.
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

    /// Delays all timers by this time.
    pub(crate) fn put_off(&mut self, by: Duration) {
        // The deadlines are kept as distances from the base.
        self.base += by;
        self.last = (self.base, 0);
    }

    /// Returns the deadline of a timer, or `None` if it is not active because it has fired or was
    /// cancelled.
    pub(crate) fn deadline(&self, id: TimerId) -> Option<Instant> {
        let timer = self.active.get(id.0)?;
        Some(self.instant(timer.deadline))
    }

    /// Returns when the earliest active timer is due. Cancelled ones do not count, so they cause no
    /// wake-up.
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

    /// Begins a turn. The reactor calls it once a turn, before the first [`Timers::pop_due`].
    pub(crate) fn begin_turn(&mut self) -> TurnStart {
        if self.next_seq >= RENUMBER {
            self.renumber();
        }
        TurnStart(self.next_seq.saturating_add(1))
    }

    /// Returns the earliest timer that is due at `now` and was set before `mark`. The timer is no
    /// longer active.
    pub(crate) fn pop_due(&mut self, now: Instant, mark: TurnStart) -> Option<TimerId> {
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

    /// Numbers all timers anew, in the same order. Small numbers keep the heap small. They last for
    /// two thousand million timers.
    fn renumber(&mut self) {
        self.unpark();
        self.parked_in = TurnStart(0);
        self.next_seq = 0;
        // Removes all stale entries first, since one of them may have a number that is given out
        // again.
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

    /// Sweeps once the stale entries are in the majority, so that the calls that made them stale
    /// pay for it.
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
