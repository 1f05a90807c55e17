//! Measures millions of timers that are used like kill timers: set, and nearly always cancelled.
//! They are set within a turn, as a handler does. The limit is a bare `BinaryHeap` of deadlines,
//! which can cancel nothing, and a reading of the clock for each, because a delay counts from now.

mod support;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::Duration;

use childminder::{Event, Reactor, TimerId};
use support::{Bench, Target, raw};

/// Spreads delays over an hour, in random order.
struct Random(u64);

impl Random {
    fn delay(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_nanos((self.0 >> 20) % 3_600_000_000_000 + 60_000_000_000)
    }
}

/// This thread's processor time since `start`, in nanoseconds. There is nothing to wait for here.
fn nanos(start: Duration) -> f64 {
    (raw::thread_cpu() - start).as_secs_f64() * 1e9
}

/// Calls `work` from a handler, in the middle of a turn.
fn in_a_turn(reactor: &mut Reactor, mut work: impl FnMut(&mut Reactor)) {
    let soon = reactor.call_later(Duration::ZERO);
    let mut done = false;
    while !done {
        let turned = reactor.turn(None, |reactor, event| {
            if matches!(event, Event::Timer(id) if id == soon) {
                work(reactor);
                done = true;
            }
        });
        turned.expect("turn");
    }
}

fn filled(pending: usize) -> (Reactor, Vec<TimerId>) {
    let mut reactor = Reactor::new().expect("reactor");
    let mut random = Random(1);
    let mut ids = Vec::new();
    in_a_turn(&mut reactor, |reactor| {
        ids = (0..pending).map(|_| reactor.call_later(random.delay())).collect();
    });
    (reactor, ids)
}

/// Two times in nanoseconds: of an insert, and of an insert with its cancel, beside `pending` other
/// timers.
fn ours(pending: usize, count: usize) -> [f64; 2] {
    let (mut reactor, _) = filled(pending);
    let mut random = Random(2);
    let mut times = [0.0; 2];
    // The first round allocates the memory, which a program has done when it has run for a while.
    for _ in 0..2 {
        in_a_turn(&mut reactor, |reactor| {
            let start = raw::thread_cpu();
            let ids: Vec<TimerId> = (0..count).map(|_| reactor.call_later(random.delay())).collect();
            times[0] = nanos(start);
            for id in black_box(ids) {
                reactor.cancel_timer(id);
            }
            times[1] = nanos(start);
        });
    }
    times.map(|time| time / count as f64)
}

fn bare(pending: usize, count: usize) -> [f64; 2] {
    let mut random = Random(1);
    let mut heap: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut push = |random: &mut Random, number: usize| {
        let deadline = raw::monotonic() + random.delay().as_nanos() as u64;
        heap.push(Reverse((deadline, number as u64)));
    };
    for number in 0..pending + count {
        push(&mut random, number);
    }
    let start = raw::thread_cpu();
    for number in 0..count {
        push(&mut random, number);
    }
    let time = nanos(start) / count as f64;
    black_box(heap);
    [time; 2]
}

/// The longest single cancel in milliseconds, while all of `pending` timers are cancelled one after
/// another.
fn longest_cancel(pending: usize) -> f64 {
    let (mut reactor, ids) = filled(pending);
    let mut longest: f64 = 0.0;
    in_a_turn(&mut reactor, |reactor| {
        for id in &ids {
            let start = raw::thread_cpu();
            reactor.cancel_timer(*id);
            longest = longest.max(nanos(start) / 1e6);
        }
    });
    longest
}

fn main() {
    let mut bench = Bench::new("timers");
    let pending = bench.size(1_000_000, 1000);
    let count = bench.size(100_000, 100);
    let [inserts, both] = bench.contest(
        ["an insert beside 1,000,000 timers, ns", "an insert and its cancel beside 1,000,000 timers, ns"],
        9,
        &mut [
            ("childminder", &mut || ours(pending, count)),
            ("bare BinaryHeap push with the clock", &mut || bare(pending, count)),
        ],
    );
    bench.ratio(&inserts, "childminder", "bare BinaryHeap push with the clock", Target::AtMost(1.5));
    bench.ratio(&both, "childminder", "bare BinaryHeap push with the clock", Target::AtMost(1.5));

    let rounds = bench.size(9, 1);
    let pending = bench.size(100_000, 1000);
    let longest: Vec<f64> = (0..rounds).map(|_| longest_cancel(pending)).collect();
    bench.figure("longest compaction of 100,000 timers", "childminder", "ms", &longest, Target::AtMost(1.0));
    bench.finish();
}
