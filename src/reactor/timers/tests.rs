//! Tests the timers with fixed cases, and against a naive model.
//!
//! They wait for nothing. The one rule: time is a number, so no test depends on the clock.

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

    fn pop(&mut self, mark: TurnStart) -> Option<TimerId> {
        self.it.pop_due(self.at(self.now), mark)
    }

    /// Returns everything that fires in one turn at `millis`.
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
    // A reset puts a timer last, even if its instant stays the same.
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
    // A timer that is due before the new base is due at once.
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
    // These timers take over the slots of the other two.
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
    // A watchdog that resets its timer has the same effect.
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
    let id = world.insert(30); // it has number 1, and is stale soon
    assert!(world.reset(id, 10)); // this is the first one that is renumbered
    world.it.next_seq = RENUMBER;
    assert_eq!(world.turn(9), []);
    assert_eq!((world.it.next_seq, world.entries()), (1, 1));
    assert_eq!(world.turn(10), [id]);
}

/// A timer of the naive model, whose list is in the order in which the timers were set.
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

/// Makes the same random call on the world and the model.
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
    // Miri takes minutes for what takes a second otherwise.
    for turn in 1..=if cfg!(miri) { 50 } else { 10_000 } {
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
        // Some turns end before everything that is due has fired.
        for _ in 0..random.below(40) {
            let due = (0..model.len())
                .filter(|at| model[*at].mark < turn && model[*at].deadline <= world.now)
                .min_by_key(|at| model[*at].deadline);
            assert_eq!(world.pop(mark), due.map(|at| model.remove(at).id));
            if random.below(2) == 0 {
                step(&mut world, &mut model, &mut known, turn, &mut random);
            }
            // Sometimes nearly all timers are cancelled at once, which causes a sweep.
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
