//! Tests of the state machine in virtual time: Twisted's own tests, the waits, and every state with
//! every input.
//!
//! They spawn nothing. The one rule: every loop has a bound, so that a broken machine fails its
//! test instead of hanging it.

mod failing;
mod pairs;
mod random;

use super::{Action, Input as I, Leader, Leftovers, Lifecycle, Next, Outcome, Policy, PolicyError, State as S};
use super::{Duration, Instant, Restart};

const CRASH: I = exited(false, false);
const CRASH_LEFT: I = exited(false, true);
const DONE: I = exited(true, false);
const DONE_LEFT: I = exited(true, true);
const SPAWN: Option<Action> = Some(Action::Spawn);
const TERM: Option<Action> = Some(Action::Terminate);
const KILL: Option<Action> = Some(Action::Kill);

const fn exited(success: bool, group_left: bool) -> I {
    let outcome = if success { Outcome::Success } else { Outcome::Failure };
    I::Exited { outcome, group_left }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A threshold of 10 s and waits of 2 to 10 s, as in Twisted's tests of its monitor.
fn twisted() -> Policy {
    Policy { threshold: secs(10), min_restart_delay: secs(2), max_restart_delay: secs(10), ..Policy::default() }
}

fn with_restart(restart: Restart) -> Policy {
    Policy { restart, ..Policy::default() }
}

/// One process in virtual time. A spawn takes no time, and works unless `broken`.
struct World {
    epoch: Instant,
    now: Instant,
    it: Lifecycle,
    broken: bool,
    /// The actions, each with its time in seconds.
    log: Vec<(f64, Action)>,
}

impl World {
    #[allow(clippy::disallowed_methods)]
    fn new(policy: Policy) -> Self {
        let epoch = Instant::now();
        Self { epoch, now: epoch, it: Lifecycle::new(policy), broken: false, log: Vec::new() }
    }

    /// A world in which the process runs from the start, with an empty log.
    fn running(policy: Policy) -> Self {
        let mut world = Self::new(policy);
        world.tell(I::Start);
        world.log.clear();
        world
    }

    fn seconds(&self) -> f64 {
        (self.now - self.epoch).as_secs_f64()
    }

    /// Passes in an input, carries out a spawn, and logs the action.
    fn tell(&mut self, input: I) -> &mut Self {
        if let Some(action) = self.it.handle(self.now, input) {
            self.log.push((self.seconds(), action));
            if action == Action::Spawn {
                let broken = self.broken;
                return self.tell(if broken { I::SpawnFailed } else { I::Spawned });
            }
        }
        self
    }

    fn after(&mut self, seconds: f64) -> &mut Self {
        self.now += Duration::from_secs_f64(seconds);
        self
    }

    /// Lets time pass until the deadline.
    fn wait(&mut self) -> &mut Self {
        let before = self.it.state();
        self.now = self.it.deadline().expect("nothing to wait for");
        self.tell(I::Timeout);
        assert_ne!(self.it.state(), before, "the time has come, and nothing has happened");
        self
    }

    /// The waits of this many instant deaths, in seconds.
    fn waits_of_crashes(&mut self, count: usize) -> Vec<f64> {
        let mut waits = Vec::new();
        for _ in 0..count {
            let died = self.tell(CRASH).now;
            waits.push((self.wait().now - died).as_secs_f64());
        }
        waits
    }
}

// Twisted's tests of its monitor.

#[test]
fn start_process() {
    let mut world = World::new(twisted());
    world.tell(I::Start);
    assert_eq!(world.log, [(0.0, Action::Spawn)]);
    assert_eq!(world.it.state(), S::Running { since: world.now });
}

#[test]
fn start_process_already_started() {
    let mut world = World::running(twisted());
    world.after(3.0).tell(I::Start);
    assert_eq!(world.log, []);
}

#[test]
fn stop_process_natural_termination() {
    let mut world = World::running(twisted());
    world.after(10.0).tell(I::Restart).after(1.0).tell(CRASH);
    assert_eq!(world.log, [(10.0, Action::Terminate), (11.0, Action::Spawn)]);
}

#[test]
fn stop_process_forced_kill() {
    let mut world = World::running(twisted());
    world.after(10.0).tell(I::Restart);
    world.after(4.0).tell(I::Timeout);
    assert_eq!(world.log, [(10.0, Action::Terminate)]);
    world.after(1.0).tell(I::Timeout).tell(CRASH);
    assert_eq!(world.log[1..], [(15.0, Action::Kill), (15.0, Action::Spawn)]);
}

#[test]
fn stop_process_already_stopped() {
    let mut world = World::new(twisted());
    world.tell(I::Stop).tell(I::Stop).tell(I::Kill);
    assert_eq!((world.it.state(), &world.log[..]), (S::Stopped, &[][..]));
}

#[test]
fn connection_lost_long_lived_process() {
    let mut world = World::running(twisted());
    world.after(10.0).tell(CRASH);
    assert_eq!(world.log, [(10.0, Action::Spawn)]);
}

#[test]
fn connection_lost_murder_cancel() {
    let mut world = World::running(twisted());
    world.tell(I::Stop).after(1.0).tell(CRASH);
    assert_eq!((world.it.deadline(), world.it.state()), (None, S::Stopped));
    world.after(4.0).tell(I::Timeout);
    assert_eq!(world.log, [(0.0, Action::Terminate)]);
}

#[test]
fn connection_lost_min_max_restart_delay() {
    let mut world = World::running(twisted());
    assert_eq!(world.waits_of_crashes(5), [2.0, 4.0, 8.0, 10.0, 10.0], "doubled, and capped");
}

#[test]
fn stop_service_kills_and_restarts_nothing() {
    let mut world = World::running(twisted());
    world.tell(I::Stop).wait().after(1.0).tell(CRASH);
    assert_eq!(world.log, [(0.0, Action::Terminate), (5.0, Action::Kill)]);
    assert_eq!((world.it.deadline(), world.it.state()), (None, S::Stopped));
}

#[test]
fn stop_service_cancels_a_pending_restart() {
    let mut world = World::running(twisted());
    world.tell(CRASH).after(1.0).tell(I::Stop);
    world.after(1.0).tell(I::Timeout).after(9.0).tell(I::Timeout);
    assert_eq!((world.it.deadline(), &world.log[..]), (None, &[][..]));
}

#[test]
fn restart_all_terminates() {
    let mut world = World::running(twisted());
    world.after(1.0).tell(I::Restart);
    assert_eq!(world.log, [(1.0, Action::Terminate)]);
}

#[test]
fn a_failed_spawn_backs_off() {
    let mut world = World::new(twisted());
    world.broken = true;
    world.tell(I::Start).wait().wait().wait();
    world.broken = false;
    world.wait();
    let spawns = [0.0, 2.0, 6.0, 14.0, 24.0].map(|at| (at, Action::Spawn));
    assert_eq!(world.log, spawns);
    assert_eq!(world.it.state(), S::Running { since: world.now });
}

// The waits.

#[test]
fn the_wait_doubles_up_to_an_hour() {
    let mut world = World::running(Policy::default());
    assert_eq!(
        world.waits_of_crashes(14),
        [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 3600.0, 3600.0]
    );
}

#[test]
fn a_run_of_exactly_the_threshold_is_long() {
    let mut world = World::running(Policy::default());
    world.after(1.0).tell(CRASH);
    assert_eq!(world.log, [(1.0, Action::Spawn)]);
    world.after(0.999_999_999).tell(CRASH);
    assert_eq!(world.it.deadline(), Some(world.now + secs(1)));
}

#[test]
fn a_long_run_starts_the_waits_anew() {
    let mut world = World::running(Policy::default());
    assert_eq!(world.waits_of_crashes(3), [1.0, 2.0, 4.0]);
    world.after(1.0).tell(DONE);
    assert_eq!(world.waits_of_crashes(2), [1.0, 2.0]);
}

#[test]
fn a_wait_of_zero_grows_nevertheless() {
    let mut world = World::running(Policy {
        min_restart_delay: secs(0),
        max_restart_delay: Duration::from_millis(35),
        ..Policy::default()
    });
    assert_eq!(world.waits_of_crashes(5), [0.0, 0.010, 0.020, 0.035, 0.035]);
}

#[test]
fn a_threshold_of_zero_still_backs_off_from_a_failed_spawn() {
    let mut world = World::new(Policy { threshold: secs(0), ..Policy::default() });
    world.tell(I::Start).tell(CRASH);
    world.broken = true;
    world.tell(CRASH).wait();
    assert_eq!(world.log, [0.0, 0.0, 0.0, 1.0].map(|at| (at, Action::Spawn)));
    assert_eq!(world.it.deadline(), Some(world.now + secs(2)));
}

#[test]
fn a_year_of_crash_loops() {
    let mut world = World::new(Policy::default());
    world.tell(I::Start);
    let year = secs(365 * 24 * 3600);
    for _ in 0..10_000 {
        if world.tell(CRASH).it.deadline().unwrap() - world.epoch > year {
            break;
        }
        world.wait();
    }
    // 4095 s of doubling with 13 spawns, then one an hour.
    assert_eq!(world.log.len(), 13 + (31_536_000 - 4095) / 3600);
    assert!(world.log.iter().all(|(_, action)| *action == Action::Spawn));
}

#[test]
fn an_early_timeout_does_nothing() {
    let mut world = World::running(Policy::default());
    world.tell(CRASH).after(0.999).tell(I::Timeout);
    assert_eq!(world.log, []);
    world.wait().tell(I::Timeout).tell(I::Stop);
    world.after(4.999).tell(I::Timeout);
    assert_eq!(world.log, [(1.0, Action::Spawn), (1.0, Action::Terminate)]);
}

// Deliberate stops and restarts.

#[test]
fn a_stop_in_backoff_leaves_no_restart_behind() {
    let mut world = World::running(Policy::default());
    world.tell(CRASH).after(0.5).tell(I::Stop).tell(I::Start);
    world.tell(I::Stop).tell(CRASH);
    world.after(0.5).tell(I::Timeout).after(60.0).tell(I::Timeout);
    assert_eq!(world.log, [(0.5, Action::Spawn), (0.5, Action::Terminate)]);
}

#[test]
fn a_start_while_it_is_dying_starts_it_again() {
    let mut world = World::running(Policy::default());
    world.tell(I::Stop).tell(I::Start).after(2.0).tell(CRASH);
    assert_eq!(world.log, [(0.0, Action::Terminate), (2.0, Action::Spawn)]);
}

#[test]
fn a_stop_takes_a_restart_back() {
    let mut world = World::running(Policy::default());
    world.tell(I::Restart).tell(I::Stop).after(2.0).tell(CRASH);
    assert_eq!(world.log, [(0.0, Action::Terminate)]);
    assert_eq!(world.it.state(), S::Stopped);
}

#[test]
fn a_second_restart_or_stop_does_not_signal_again() {
    for input in [I::Restart, I::Stop] {
        let mut world = World::running(Policy::default());
        world.tell(input).after(2.0).tell(input).wait();
        assert_eq!(world.log, [(0.0, Action::Terminate), (5.0, Action::Kill)]);
    }
}

#[test]
fn a_deliberate_restart_is_no_instant_death() {
    let mut world = World::running(Policy::default());
    world.tell(CRASH).wait().tell(I::Restart).tell(CRASH);
    assert_eq!(world.waits_of_crashes(1), [2.0], "the wait is kept");
    world.tell(CRASH).tell(I::Restart);
    assert_eq!(world.waits_of_crashes(1), [8.0], "and in backoff, too");
}

#[test]
fn a_start_after_a_stop_begins_anew() {
    for input in [I::Start, I::Restart] {
        let mut world = World::running(Policy::default());
        world.waits_of_crashes(3);
        world.tell(I::Stop).tell(DONE).tell(input);
        assert_eq!(world.waits_of_crashes(2), [1.0, 2.0]);
        world.tell(I::Stop).tell(input).tell(DONE);
        assert_eq!(world.waits_of_crashes(2), [1.0, 2.0], "also while it dies");
    }
}

#[test]
fn kill_escalates() {
    let mut world = World::running(Policy::default());
    world.tell(I::Stop).after(1.0).tell(I::Kill).tell(I::Kill);
    assert_eq!(world.log, [(0.0, Action::Terminate), (1.0, Action::Kill), (1.0, Action::Kill)]);
    assert_eq!(world.tell(CRASH).it.state(), S::Stopped);
    assert_eq!(world.it.deadline(), None);
}

#[test]
fn a_kill_is_repeated_until_nobody_is_left() {
    let mut world = World::running(Policy::default());
    world.tell(I::Stop);
    for _ in 0..9 {
        world.wait();
    }
    let kills = [5.0, 6.0, 8.0, 12.0, 20.0, 36.0, 68.0, 128.0, 188.0];
    assert_eq!(world.log[1..], kills.map(|at| (at, Action::Kill)));
    world.tell(CRASH_LEFT).wait();
    assert_eq!(world.log.last(), Some(&(248.0, Action::Kill)), "also for members that outlive the process");
    assert_eq!(world.tell(I::GroupGone).it.state(), S::Stopped);
}

#[test]
fn kill_takes_a_restart_back() {
    let mut world = World::running(Policy::default());
    world.tell(I::Restart).tell(I::Kill).tell(CRASH);
    assert_eq!(world.log, [(0.0, Action::Terminate), (0.0, Action::Kill)]);
    assert_eq!(world.it.state(), S::Stopped);
}

#[test]
fn a_stop_waits_for_stragglers() {
    let mut world = World::running(Policy::default());
    world.tell(I::Stop).after(1.0).tell(DONE_LEFT);
    assert_eq!(world.it.deadline(), Some(world.epoch + secs(5)));
    world.after(1.0).tell(I::GroupGone);
    assert_eq!((world.it.deadline(), world.it.state()), (None, S::Stopped));
    assert_eq!(world.log, [(0.0, Action::Terminate)]);
}

#[test]
fn a_restart_waits_for_stragglers_and_kills_them() {
    let mut world = World::running(Policy::default());
    world.tell(I::Restart).after(1.0).tell(DONE_LEFT);
    world.after(1.0).tell(I::GroupGone);
    assert_eq!(world.log, [(0.0, Action::Terminate), (2.0, Action::Spawn)]);
    world.tell(I::Restart).tell(DONE_LEFT).wait().after(0.5).tell(I::GroupGone);
    assert_eq!(world.log[2..], [(2.0, Action::Terminate), (7.0, Action::Kill), (7.5, Action::Spawn)]);
}

// Leftover processes are killed, and the next process waits for their end.

#[test]
fn the_next_one_starts_when_the_leftovers_are_gone() {
    let mut world = World::running(Policy::default());
    world.after(60.0).tell(CRASH_LEFT).after(0.5).tell(I::GroupGone);
    assert_eq!(world.log, [(60.0, Action::Kill), (60.5, Action::Spawn)]);
    // An instant death has its own wait as well.
    world.after(0.5).tell(CRASH_LEFT).after(0.25).tell(I::GroupGone);
    assert_eq!(world.it.deadline(), Some(world.epoch + secs(62)));
    world.wait();
    assert_eq!(world.log[2..], [(61.0, Action::Kill), (62.0, Action::Spawn)]);
}

#[test]
fn leftovers_that_cannot_be_killed_hold_it_up_for_two_seconds() {
    let mut world = World::running(Policy::default());
    world.after(60.0).tell(CRASH_LEFT).wait();
    assert_eq!(world.log, [(60.0, Action::Kill), (62.0, Action::Spawn)]);
    assert_eq!(world.tell(I::GroupGone).it.state(), S::Running { since: world.now });
    // A stop is for them too, and a policy of shorter waits does not shorten their time.
    world.after(60.0).tell(CRASH_LEFT);
    world.it.set_policy(twisted());
    assert_eq!(world.it.deadline(), Some(world.now + secs(2)));
    world.it.put_off(secs(100));
    world.after(100.0).tell(I::Stop).tell(I::GroupGone);
    assert_eq!(world.it.state(), S::Stopped);
}

// The policy.

#[test]
fn never_runs_once() {
    for end in [DONE, CRASH] {
        let mut world = World::running(with_restart(Restart::Never));
        world.after(60.0).tell(end).tell(I::Timeout);
        assert_eq!((world.it.state(), &world.log[..]), (S::Exited, &[][..]));
        world.tell(I::Start);
        assert_eq!(world.log, [(60.0, Action::Spawn)]);
    }
    let mut world = World::new(with_restart(Restart::Never));
    world.broken = true;
    assert_eq!(world.tell(I::Start).it.state(), S::Exited);
}

#[test]
fn on_failure_restarts_after_a_failure_only() {
    let mut world = World::running(with_restart(Restart::OnFailure));
    world.after(60.0).tell(CRASH).tell(CRASH).wait();
    assert_eq!(world.log, [(60.0, Action::Spawn), (61.0, Action::Spawn)]);
    assert_eq!(world.tell(DONE).it.state(), S::Exited);
    world.tell(I::Start).after(60.0);
    assert_eq!(world.tell(DONE).it.state(), S::Exited);
    world.broken = true;
    world.tell(I::Start);
    assert_eq!(world.it.deadline(), Some(world.now + secs(1)));
}

#[test]
fn a_deliberate_restart_goes_before_the_policy() {
    for restart in [Restart::Never, Restart::OnFailure] {
        let mut world = World::running(with_restart(restart));
        world.tell(I::Restart).tell(DONE);
        assert_eq!(world.log, [(0.0, Action::Terminate), (0.0, Action::Spawn)]);
    }
}

#[test]
fn a_new_policy_keeps_the_state_and_clamps_the_wait() {
    let mut world = World::running(Policy::default());
    world.waits_of_crashes(3);
    let deadline = world.tell(CRASH).it.deadline();
    world.it.set_policy(twisted());
    assert_eq!(world.it.deadline(), deadline);
    assert_eq!(world.it.policy(), &twisted());
    world.wait();
    assert_eq!(world.waits_of_crashes(2), [10.0, 10.0]);
    let longer = Policy { min_restart_delay: secs(60), ..Policy::default() };
    world.it.set_policy(longer);
    assert_eq!(world.waits_of_crashes(2), [60.0, 120.0]);
}

#[test]
fn what_is_pending_follows_a_new_policy() {
    let policy = |min, max| Policy { min_restart_delay: secs(min), max_restart_delay: secs(max), ..Policy::default() };
    let mut world = World::running(policy(100, 3600));
    world.tell(CRASH).after(2.0);
    for (min, max, wait) in [(1, 30, 30), (60, 3600, 30), (1, 10, 10), (1, 1, 1)] {
        world.it.set_policy(policy(min, max));
        assert_eq!(world.it.deadline(), Some(world.epoch + secs(wait)), "counted from its beginning");
    }
    world.tell(I::Timeout);
    assert_eq!(world.log, [(2.0, Action::Spawn)], "one that is over is followed by the start");

    for (end, restart, waits) in [
        (CRASH, Restart::Never, false),
        (DONE, Restart::Never, false),
        (DONE, Restart::OnFailure, false),
        (CRASH, Restart::OnFailure, true),
    ] {
        let mut world = World::running(Policy::default());
        world.tell(end).it.set_policy(with_restart(restart));
        let deadline = waits.then_some(world.epoch + secs(1));
        assert_eq!(world.it.deadline(), deadline, "{end:?} and {restart:?}");
        assert_eq!(world.it.state() == S::Exited, !waits);
    }

    let mut world = World::running(Policy::default());
    world.tell(I::Stop).after(2.0);
    for (kill_time, kill) in [(4, 4), (60, 4), (3, 3), (1, 1)] {
        world.it.set_policy(Policy { kill_time: secs(kill_time), ..Policy::default() });
        assert_eq!(world.it.deadline(), Some(world.epoch + secs(kill)), "{kill_time}");
    }
    world.tell(I::Timeout);
    world.it.set_policy(Policy { kill_time: secs(0), ..Policy::default() });
    assert_eq!(world.it.deadline(), Some(world.now + secs(1)), "it has been killed already");
}

#[test]
fn validate_names_what_is_wrong() {
    let refused = |change: fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.validate().map_err(|error| error.to_string())
    };
    assert_eq!(refused(|_| ()), Ok(()));
    assert_eq!(
        refused(|policy| policy.min_restart_delay = secs(3601)),
        Err("min_restart_delay 3601s is above max_restart_delay 3600s".to_owned())
    );
    let short = |policy: &mut Policy| {
        policy.min_restart_delay = secs(0);
        policy.max_restart_delay = Duration::from_millis(9);
    };
    assert_eq!(refused(short), Err("max_restart_delay 9ms is below 10ms".to_owned()));
    for stop_signal in [0, 65, -1, i32::MIN, i32::MAX] {
        let policy = Policy { stop_signal, ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::NotASignal { stop_signal }));
    }
    for stop_signal in [1, 64] {
        let policy = Policy {
            stop_signal,
            min_restart_delay: secs(0),
            max_restart_delay: Duration::from_millis(10),
            ..Policy::default()
        };
        assert_eq!(policy.validate(), Ok(()));
    }
}

#[test]
fn values_beyond_the_clock_mean_the_far_future() {
    let forever = Policy {
        threshold: Duration::MAX,
        kill_time: Duration::MAX,
        min_restart_delay: Duration::MAX,
        max_restart_delay: Duration::MAX,
        ..Policy::default()
    };
    let century = secs(100 * 365 * 24 * 3600);
    let mut world = World::running(forever);
    world.tell(CRASH);
    assert!(world.it.deadline().unwrap() > world.now + century);
    world.wait().tell(I::Stop);
    assert!(world.it.deadline().unwrap() >= world.now);
    world.wait();
    assert_eq!(world.log.last().unwrap().1, Action::Kill);
}

#[test]
fn a_policy_nobody_validated_is_harmless() {
    let bad = Policy { max_restart_delay: Duration::from_millis(500), ..Policy::default() };
    let mut world = World::running(bad.clone());
    assert_eq!(world.waits_of_crashes(2), [0.5, 0.5]);
    world.it.set_policy(bad);
    assert_eq!(world.waits_of_crashes(1), [0.5]);
}
