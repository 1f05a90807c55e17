//! Measures the restart policy alone: restarts of one process in virtual time.
//!
//! The one rule: no process is started, so that only decisions are measured.

mod support;

use std::hint::black_box;
use std::time::Duration;

use childminder::restart::{Action, Input, Lifecycle, Outcome, Policy};
use support::{Bench, Target, clock, raw};

const CRASH: Input = Input::Exited { outcome: Outcome::Failure, group_left: false };

/// Millions of restarts a second, each after a run of `lived`. After an instant death, the restart
/// delay passes first.
fn restarts(count: usize, lived: Duration) -> f64 {
    let mut life = Lifecycle::new(Policy::default());
    let (start, mut now) = (raw::thread_cpu(), clock());
    assert_eq!(life.handle(now, Input::Start), Some(Action::Spawn));
    for _ in 0..count {
        life.handle(now, Input::Spawned);
        now += lived;
        if black_box(life.handle(now, CRASH)).is_none() {
            now = life.deadline().expect("it waits");
            assert_eq!(life.handle(now, Input::Timeout), Some(Action::Spawn));
        }
    }
    count as f64 / (raw::thread_cpu() - start).as_secs_f64() / 1e6
}

fn main() {
    let mut bench = Bench::new("monitor");
    let count = bench.size(1_000_000, 1000);
    for (what, lived) in [("restarts at once", Duration::from_secs(60)), ("restarts after a wait", Duration::ZERO)] {
        let rates: Vec<f64> = (0..bench.size(9, 1)).map(|_| restarts(count, lived)).collect();
        bench.figure(what, "childminder", "million a second", &rates, Target::AtLeast(1.0));
    }
    bench.finish();
}
