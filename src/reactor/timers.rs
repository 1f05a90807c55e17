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
mod tests {
    use super::*;

    /// Virtual time, in milliseconds since the base.
    struct World {
        base: Instant,
        now: u64,
        it: Timers,
    }

    impl World {
        #[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
        fn new() -> Self {
            let base = Instant::now();
            Self { base, now: 0, it: Timers::new(base) }
        }

        fn at(&self, millis: u64) -> Instant {
            self.base + Duration::from_millis(millis)
        }

        fn insert(&mut self, millis: u64) -> TimerId {
            self.it.insert(self.at(millis), Duration::ZERO)
        }

        fn reset(&mut self, id: TimerId, millis: u64) -> bool {
            self.it.reset(id, self.at(millis), Duration::ZERO)
        }

        fn deadline(&self, id: TimerId) -> Option<u64> {
            let deadline = self.it.deadline(id)?;
            Some((deadline - self.base).as_millis() as u64)
        }

        fn next_deadline(&mut self) -> Option<u64> {
            let deadline = self.it.next_deadline()?;
            Some((deadline - self.base).as_millis() as u64)
        }

        fn pop(&mut self, mark: Mark) -> Option<TimerId> {
            self.it.pop_due(self.at(self.now), mark)
        }

        /// All that fires in one turn at `millis`.
        fn turn(&mut self, millis: u64) -> Vec<TimerId> {
            self.now = millis;
            let mark = self.it.begin_turn();
            std::iter::from_fn(|| self.pop(mark)).collect()
        }

        fn entries(&self) -> usize {
            self.it.heap.len() + self.it.parked.len()
        }
    }

    #[test]
    fn heap_entries_are_small() {
        assert_eq!(size_of::<Reverse<Entry>>(), 16);
    }

    #[test]
    fn earliest_first_and_never_early() {
        let mut world = World::new();
        let late = world.insert(30);
        let early = world.insert(10);
        assert_eq!(world.turn(9), []);
        assert_eq!(world.turn(10), [early]);
        assert_eq!(world.turn(29), []);
        assert_eq!(world.turn(1000), [late]);
        assert_eq!(world.it.len(), 0);
    }

    #[test]
    fn equal_deadlines_fire_in_the_order_they_were_set() {
        let mut world = World::new();
        let mut ids: Vec<_> = (0..100).map(|_| world.insert(10)).collect();
        // A reset puts a timer last, also one to the same instant.
        assert!(world.reset(ids[0], 10));
        ids.rotate_left(1);
        assert_eq!(world.turn(10), ids);
    }

    #[test]
    fn what_is_set_in_a_turn_waits_for_the_next_and_blocks_nobody() {
        let mut world = World::new();
        let [first, second, third] = [10, 20, 20].map(|millis| world.insert(millis));
        world.now = 50;
        let mark = world.it.begin_turn();
        assert_eq!(world.pop(mark), Some(first));
        let overdue = world.insert(5);
        let due = world.insert(50);
        assert!(world.reset(third, 1));
        assert_eq!(world.pop(mark), Some(second));
        assert_eq!(world.pop(mark), None);
        assert_eq!(world.pop(mark), None);
        assert_eq!(world.it.len(), 3);
        assert_eq!(world.next_deadline(), Some(1));
        assert_eq!(world.pop(mark), None);
        assert_eq!(world.turn(50), [third, overdue, due]);
    }

    #[test]
    fn all_are_put_off_together() {
        let mut world = World::new();
        let [first, second] = [10, 20].map(|millis| world.insert(millis));
        world.it.put_off(Duration::from_millis(100));
        let between = world.insert(115);
        assert_eq!(world.deadline(first), Some(110));
        assert_eq!(world.turn(109), []);
        assert_eq!(world.turn(119), [first, between]);
        // What is due before the new base is due at once.
        let overdue = world.insert(5);
        assert_eq!(world.turn(120), [overdue, second]);
    }

    #[test]
    fn an_abandoned_turn_loses_nothing() {
        let mut world = World::new();
        let old = [world.insert(10), world.insert(20)];
        world.now = 20;
        let mark = world.it.begin_turn();
        let new = world.insert(5);
        assert_eq!(world.pop(mark), Some(old[0]));
        assert_eq!(world.turn(20), [new, old[1]]);
    }

    #[test]
    fn parked_timers_can_be_cancelled_and_moved() {
        let mut world = World::new();
        world.insert(10);
        world.now = 10;
        let mark = world.it.begin_turn();
        let [cancelled, moved, kept] = [1, 2, 3].map(|millis| world.insert(millis));
        assert!(world.pop(mark).is_some());
        assert_eq!(world.pop(mark), None);
        assert!(world.it.cancel(cancelled));
        assert!(world.reset(moved, 40));
        assert_eq!(world.next_deadline(), Some(3));
        assert_eq!(world.turn(10), [kept]);
        assert_eq!(world.turn(40), [moved]);
    }

    #[test]
    fn cancelled_and_fired_timers_are_inactive() {
        let mut world = World::new();
        let [cancelled, fired] = [10, 20].map(|millis| world.insert(millis));
        assert_eq!(world.deadline(cancelled), Some(10));
        assert!(world.it.cancel(cancelled));
        assert_eq!(world.turn(20), [fired]);
        // These take over the slots of the other two.
        let newer = [30, 40].map(|millis| world.insert(millis));
        for stale in [cancelled, fired] {
            assert_eq!(world.deadline(stale), None);
            assert!(!world.it.cancel(stale));
            assert!(!world.reset(stale, 0));
        }
        assert_eq!(world.turn(40), newer);
    }

    #[test]
    fn reset_moves_both_ways_and_fires_once() {
        let mut world = World::new();
        let [later, earlier] = [10, 100].map(|millis| world.insert(millis));
        assert!(world.reset(later, 50));
        assert!(world.reset(earlier, 20));
        assert_eq!(world.deadline(later), Some(50));
        assert_eq!(world.next_deadline(), Some(20));
        assert_eq!(world.turn(20), [earlier]);
        assert_eq!(world.turn(1000), [later]);
        assert_eq!(world.turn(2000), []);
    }

    #[test]
    fn a_cancelled_timer_causes_no_wake_up() {
        let mut world = World::new();
        assert_eq!(world.next_deadline(), None);
        let [early, moved, last] = [10, 20, 30].map(|millis| world.insert(millis));
        world.it.cancel(early);
        world.reset(moved, 40);
        assert_eq!(world.next_deadline(), Some(30));
        world.it.cancel(last);
        assert_eq!(world.next_deadline(), Some(40));
        world.it.cancel(moved);
        assert_eq!(world.next_deadline(), None);
        assert_eq!(world.entries(), 0);
    }

    #[test]
    fn a_million_cancelled_kill_timers_leave_nothing() {
        let mut world = World::new();
        let running: Vec<_> = (0..100).map(|_| world.insert(u64::from(u32::MAX))).collect();
        for millis in 0..1_000_000 {
            let kill = world.insert(millis + 5_000);
            assert!(world.it.cancel(kill));
        }
        assert_eq!(world.it.len(), running.len());
        assert!(world.entries() <= 2 * running.len() + 1);
        assert!(world.it.heap.capacity() < 1_000);
        // The same by resets, as a watchdog does it.
        for millis in 0..1_000_000 {
            assert!(world.reset(running[0], millis));
        }
        assert!(world.entries() <= 2 * running.len() + 1);
        assert!(world.it.heap.capacity() < 1_000);
    }

    #[test]
    fn instants_outside_the_range_saturate() {
        let mut world = World::new();
        let second = Duration::from_secs(1);
        let before = world.base - second;
        let past = world.it.insert(before, Duration::ZERO);
        assert_eq!(world.it.deadline(past), Some(world.base));
        let mark = world.it.begin_turn();
        assert_eq!(world.it.pop_due(before, mark), Some(past));

        let last = world.base + Duration::from_nanos(u64::MAX);
        let never = world.it.insert(last + second, Duration::ZERO);
        let mark = world.it.begin_turn();
        assert_eq!(world.it.deadline(never), Some(last));
        assert_eq!(world.it.pop_due(last, mark), None);
        assert_eq!(world.it.pop_due(last + second / 2, mark), None);
        assert!(world.it.cancel(never));
    }

    #[test]
    fn numbers_that_come_to_their_end_begin_anew() {
        let mut world = World::new();
        let first = world.insert(20);
        world.it.next_seq = u32::MAX - 2;
        let [second, moved, third, fourth] = [20, 5, 20, 20].map(|millis| world.insert(millis));
        assert!(world.it.next_seq < 10);
        assert!(world.reset(moved, 20));
        assert_eq!(world.turn(19), []);
        world.it.next_seq = RENUMBER;
        assert_eq!(world.turn(20), [first, second, third, fourth, moved]);
        assert_eq!((world.it.next_seq, world.entries()), (5, 0));
    }

    #[test]
    fn the_dead_do_not_come_back_with_a_number_that_is_given_out_again() {
        let mut world = World::new();
        let id = world.insert(30); // number 1, and dead soon
        assert!(world.reset(id, 10)); // the first that is numbered anew
        world.it.next_seq = RENUMBER;
        assert_eq!(world.turn(9), []);
        assert_eq!((world.it.next_seq, world.entries()), (1, 1));
        assert_eq!(world.turn(10), [id]);
    }

    /// A timer of the naive model; the list of them is in the order in which they were set.
    struct Plain {
        id: TimerId,
        deadline: u64,
        mark: u64,
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % end
        }
    }

    /// One random call, made on both.
    fn step(world: &mut World, model: &mut Vec<Plain>, known: &mut Vec<TimerId>, turn: u64, random: &mut Random) {
        let millis = (world.now + random.below(300)).saturating_sub(30);
        let any = known.get(random.below(200) as usize).copied();
        let place = any.and_then(|id| model.iter().position(|plain| plain.id == id));
        match (random.below(6), any) {
            (0..=2, _) | (_, None) => {
                let id = world.insert(millis);
                assert!(!known.contains(&id));
                known.insert(0, id);
                known.truncate(200);
                let (deadline, mark) = (millis, turn);
                model.push(Plain { id, deadline, mark });
            }
            (3, Some(id)) => {
                assert_eq!(world.it.cancel(id), place.is_some());
                place.map(|place| model.remove(place));
            }
            (4, Some(id)) => {
                assert_eq!(world.reset(id, millis), place.is_some());
                if let Some(place) = place {
                    model.remove(place);
                    let (deadline, mark) = (millis, turn);
                    model.push(Plain { id, deadline, mark });
                }
            }
            (_, Some(id)) => {
                assert_eq!(world.deadline(id), place.map(|place| model[place].deadline));
            }
        }
    }

    #[test]
    fn agrees_with_a_naive_model() {
        let mut world = World::new();
        let mut random = Random(1);
        let (mut model, mut known): (Vec<Plain>, Vec<TimerId>) = (Vec::new(), Vec::new());
        for turn in 1..=10_000 {
            for _ in 0..random.below(8) {
                step(&mut world, &mut model, &mut known, turn - 1, &mut random);
            }
            if random.below(2) == 0 {
                let expected = model.iter().map(|plain| plain.deadline).min();
                assert_eq!(world.next_deadline(), expected);
            }
            world.now += random.below(12);
            if random.below(100) == 0 {
                world.it.next_seq = [RENUMBER, u32::MAX - 3][random.below(2) as usize];
            }
            let mark = world.it.begin_turn();
            // Some turns end before all that is due has fired.
            for _ in 0..random.below(40) {
                let due = (0..model.len())
                    .filter(|at| model[*at].mark < turn && model[*at].deadline <= world.now)
                    .min_by_key(|at| model[*at].deadline);
                assert_eq!(world.pop(mark), due.map(|at| model.remove(at).id));
                if random.below(2) == 0 {
                    step(&mut world, &mut model, &mut known, turn, &mut random);
                }
                // Now and then nearly all go at once, for the sake of the sweep.
                if random.below(500) == 0 {
                    model.retain(|plain| random.below(8) == 0 || !world.it.cancel(plain.id));
                }
                if random.below(50) == 0 {
                    let expected = model.iter().map(|plain| plain.deadline).min();
                    assert_eq!(world.next_deadline(), expected);
                }
            }
            assert_eq!(world.it.len(), model.len());
            let dead = world.entries() - model.len();
            assert!(dead <= DEAD_MIN || dead <= world.entries() / 2);
        }
    }
}
