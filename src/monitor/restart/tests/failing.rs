//! Limits of starts, exit codes that settle it, jitter, and stops in steps, in virtual time.
//!
//! The one rule: what is expected is written as numbers, and not computed by the code's own
//! formula.

use super::*;
use crate::monitor::restart::{StartLimit, StopAction, StopScope, StopStep, WhyFailed};

fn limited(starts: u32, within: u64) -> Policy {
    let restart_limit = Some(StartLimit { starts, within: secs(within) });
    Policy { restart_limit, max_restart_delay: secs(1), ..Policy::default() }
}

const TOO_MANY: S = S::Failed { why: WhyFailed::TooManyStarts };

#[test]
fn the_starts_in_a_sliding_time_are_limited() {
    // Three starts within 10 s: at 0, 1 and 2. The fourth one would be at 3.
    let mut world = World::running(limited(3, 10));
    assert_eq!(world.waits_of_crashes(2), [1.0, 1.0]);
    world.tell(CRASH);
    assert_eq!((world.it.state(), world.it.deadline()), (TOO_MANY, None));
    // A start forgets the earlier ones.
    world.tell(I::Start);
    assert_eq!(world.waits_of_crashes(2), [1.0, 1.0]);
    world.tell(CRASH);
    assert_eq!(world.it.state(), TOO_MANY);
    // So does a reset, after which it is stopped.
    world.tell(I::Reset);
    assert_eq!(world.it.state(), S::Stopped);
}

#[test]
fn old_starts_do_not_count() {
    let mut world = World::running(limited(2, 10));
    for _ in 0..100 {
        // It lives for 5 s, so a third start is always 10 s after the first one.
        world.after(5.0).tell(CRASH);
        assert!(matches!(world.it.state(), S::Running { .. }), "{:?}", world.it.state());
    }
    world.after(4.9).tell(CRASH);
    assert_eq!(world.it.state(), TOO_MANY);
}

#[test]
fn failed_spawns_and_restarts_on_request_count_as_they_should() {
    let mut world = World::new(limited(2, 10));
    world.broken = true;
    world.tell(I::Start).wait();
    assert_eq!(world.it.state(), TOO_MANY);
    // Restarts on request are not limited, and do not count.
    let mut world = World::running(limited(2, 10));
    for _ in 0..5 {
        world.tell(I::Restart).tell(CRASH);
        assert!(matches!(world.it.state(), S::Running { .. }));
    }
    world.after(1.0).tell(CRASH);
    assert!(matches!(world.it.state(), S::Running { .. }));
    world.after(1.0).tell(CRASH);
    assert_eq!(world.it.state(), TOO_MANY);
    // A start after a stop is the first one.
    let mut world = World::running(limited(2, 10));
    world.tell(I::Stop).tell(I::Start).tell(CRASH).tell(CRASH).wait().tell(CRASH);
    assert_eq!(world.it.state(), TOO_MANY);
}

#[test]
fn a_suspension_does_not_make_starts_old() {
    let mut world = World::running(limited(2, 10));
    world.tell(CRASH).wait();
    world.now += secs(3600);
    world.it.put_off(secs(3600));
    world.tell(CRASH);
    assert_eq!(world.it.state(), TOO_MANY);
}

#[test]
fn a_fatal_exit_ends_it_whatever_the_policy() {
    let fatal = I::Exited { outcome: Outcome::Fatal, group_left: false };
    for restart in [Restart::Always, Restart::OnFailure, Restart::Never] {
        let mut world = World::running(with_restart(restart));
        world.after(60.0).tell(fatal);
        assert_eq!(world.it.state(), S::Failed { why: WhyFailed::FatalExit });
    }
    // What it leaves behind is killed.
    let mut world = World::running(Policy::default());
    world.tell(I::Exited { outcome: Outcome::Fatal, group_left: true });
    assert_eq!(world.log, [(0.0, Action::Kill)]);
}

#[test]
fn jitter_spreads_out_and_follows_the_seed() {
    let wait = |seed: u64, long: bool| {
        let mut world = World::running(Policy { jitter: 25, ..Policy::default() });
        world.it.set_seed(seed);
        world.after(if long { 60.0 } else { 0.0 }).tell(CRASH);
        (world.it.deadline().expect("it waits") - world.now).as_secs_f64()
    };
    let waits = |long| (0..1000).map(move |seed| wait(seed, long));
    // An instant death waits 1 s and up to a quarter more; a long life up to a quarter of a second.
    for (long, from, to) in [(false, 1.0, 1.25), (true, 0.0, 0.25)] {
        assert!(waits(long).all(|wait| (from..=to).contains(&wait)));
        for part in 0..10 {
            let (low, high) = (from + 0.025 * f64::from(part), from + 0.025 * f64::from(part + 1));
            let count = waits(long).filter(|wait| (low..high).contains(wait)).count();
            assert!((60..=140).contains(&count), "{count} of 1000 are between {low} and {high}");
        }
    }
    assert_eq!(wait(7, true), wait(7, true));
    let mut plain = World::running(Policy::default());
    plain.it.set_seed(7);
    assert_eq!(plain.waits_of_crashes(3), [1.0, 2.0, 4.0]);
}

#[test]
fn a_stop_takes_its_steps_and_then_kills() {
    let step = |signal, seconds| {
        let (action, scope) = (StopAction::Signal(signal), StopScope::All);
        StopStep { action, scope, wait: secs(seconds) }
    };
    let policy = Policy { stop: vec![step(3, 2), step(15, 3)], ..Policy::default() };
    let mut world = World::running(policy.clone());
    world.tell(I::Stop);
    assert_eq!(world.it.stop_step(), Some(step(3, 2)));
    world.wait();
    assert_eq!(world.it.stop_step(), Some(step(15, 3)));
    // A second stop changes nothing.
    world.tell(I::Stop).wait().wait().tell(CRASH);
    let [term, kill] = [Action::Terminate, Action::Kill];
    assert_eq!(world.log, [(0.0, term), (2.0, term), (5.0, kill), (6.0, kill)]);
    assert_eq!((world.it.state(), world.it.stop_step()), (S::Stopped, None));
    // It need not come so far.
    let mut world = World::running(policy);
    world.tell(I::Stop).wait().after(1.0).tell(CRASH);
    assert_eq!(world.log, [(0.0, term), (2.0, term)]);
}

#[test]
fn a_fault_is_a_crash_after_a_stop() {
    let fault = |never_ready| I::Fault { never_ready };
    // After a long life it is started at once, unless it was never ready.
    let mut world = World::running(Policy::default());
    world.after(60.0).tell(fault(false)).after(1.0).tell(CRASH);
    assert_eq!(world.log, [(60.0, Action::Terminate), (61.0, Action::Spawn)]);
    let mut world = World::running(Policy::default());
    world.after(60.0).tell(fault(true)).tell(CRASH);
    assert_eq!(world.it.deadline(), Some(world.now + secs(1)));
    // A request takes it over.
    let mut world = World::running(Policy::default());
    world.tell(fault(true)).tell(I::Restart).tell(CRASH);
    assert!(matches!(world.it.state(), S::Running { .. }));
    let mut world = World::running(Policy::default());
    world.tell(fault(true)).tell(I::Stop).tell(CRASH);
    assert_eq!(world.it.state(), S::Stopped);
    // A process that hangs is killed.
    let mut world = World::running(Policy::default());
    world.tell(fault(false)).wait().tell(CRASH);
    assert_eq!(world.log, [(0.0, Action::Terminate), (5.0, Action::Kill)]);
    assert!(matches!(world.it.state(), S::BackingOff { .. }));
}
