//! Shows what a policy does to a service, in virtual time: it runs the real state machine against
//! an imaginary process.
//!
//! It starts nothing and waits for nothing. The one rule: every decision comes from `restart`, and
//! none is made here.

pub(super) mod crew;
mod several;

use std::fmt;
use std::time::{Duration, Instant};

use super::restart::{Action, Input, Lifecycle, Outcome, Policy, PolicyError, State, WhyFailed};

pub use several::{Course, Imagined, Refused, simulate_all};

/// What one run of the imaginary process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Run {
    /// It exits without success after this time.
    Fails(Duration),
    /// It exits with code 0 after this time.
    Succeeds(Duration),
    /// It cannot be started.
    CannotStart,
    /// It runs for ever.
    Stays,
}

/// A step of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A run is started. The first one is number 1.
    Start {
        /// The number of the run.
        run: u64,
    },
    /// The run could not be started.
    StartFailed,
    /// The run exits.
    Exit {
        /// The time from the start to the exit.
        lived: Duration,
        /// Whether it exits with code 0.
        success: bool,
    },
    /// The next run is delayed by this time.
    Wait(Duration),
    /// The policy does not restart the process any more.
    Over,
    /// It waits for others before it starts.
    Held,
    /// It is ready.
    Ready,
    /// It is asked to stop.
    Stop,
    /// It is killed.
    Kill,
    /// It has failed for good.
    Failed(WhyFailed),
    /// The group has given up.
    GaveUp,
}

/// The steps of a simulation and their times: see [`simulate`].
///
/// Displayed as a table, one step a line, with the time since the first start in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    steps: Vec<(Duration, Step)>,
}

/// Tries a policy on an imaginary process, for `runs` runs at most. `run` tells what each run does,
/// by its number from 1 on.
///
/// The simulation uses the monitor's own state machine. So the monitor would do the same, except
/// that a real start takes time.
///
/// # Errors
///
/// [`PolicyError`] if the policy is not valid.
///
/// # Examples
///
/// This service crashes half a second after each start, and recovers after three crashes:
///
/// ```
/// use std::time::Duration;
///
/// use childminder::Policy;
/// use childminder::simulation::{Run, simulate};
///
/// let crash = Run::Fails(Duration::from_millis(500));
/// let timeline = simulate(&Policy::default(), 5, |run| if run <= 3 { crash } else { Run::Stays })?;
/// assert_eq!(format!("\n{timeline}"), "
///        0.000  start 1
///        0.500  exit, failed after 0.500 s
///        0.500  wait 1.000 s
///        1.500  start 2
///        2.000  exit, failed after 0.500 s
///        2.000  wait 2.000 s
///        4.000  start 3
///        4.500  exit, failed after 0.500 s
///        4.500  wait 4.000 s
///        8.500  start 4
/// ");
/// assert_eq!(timeline.downtime(), Duration::from_secs(7));
///
/// // And one that crashes every 3 s? That is no instant death: it is started again at once, each time.
/// let timeline = simulate(&Policy::default(), 1000, |_| Run::Fails(Duration::from_secs(3)))?;
/// assert_eq!(timeline.downtime(), Duration::ZERO);
/// # Ok::<(), childminder::PolicyError>(())
/// ```
pub fn simulate(policy: &Policy, runs: u64, mut run: impl FnMut(u64) -> Run) -> Result<Timeline, PolicyError> {
    policy.validate()?;
    let mut world = World::new(policy);
    world.tell(Input::Start);
    let mut number = 0;
    while world.life.state() == State::Starting && number < runs {
        number += 1;
        world.log(Step::Start { run: number });
        let (lived, success) = match run(number) {
            Run::Fails(lived) => (lived, false),
            Run::Succeeds(lived) => (lived, true),
            Run::CannotStart => {
                world.log(Step::StartFailed);
                world.tell(Input::SpawnFailed);
                world.wait();
                continue;
            }
            Run::Stays => {
                world.tell(Input::Spawned);
                break;
            }
        };
        world.tell(Input::Spawned);
        world.pass(lived);
        world.log(Step::Exit { lived, success });
        let outcome = if success { Outcome::Success } else { Outcome::Failure };
        world.tell(Input::Exited { outcome, group_left: false });
        world.wait();
    }
    if world.life.state() == State::Exited {
        world.log(Step::Over);
    }
    Ok(Timeline { steps: world.steps })
}

/// The state machine and its virtual time. An `Instant` has no number, so the time is counted from
/// an arbitrary one.
struct World {
    life: Lifecycle,
    base: Instant,
    time: Duration,
    steps: Vec<(Duration, Step)>,
}

impl World {
    fn new(policy: &Policy) -> Self {
        #[allow(clippy::disallowed_methods)] // any instant will do, and this is the only way to get one
        let base = Instant::now();
        Self { life: Lifecycle::new(policy.clone()), base, time: Duration::ZERO, steps: Vec::new() }
    }

    /// The virtual time, as far as an `Instant` can hold it. After some centuries it does not
    /// advance any more.
    fn now(&self) -> Instant {
        self.base.checked_add(self.time).unwrap_or(self.base)
    }

    fn pass(&mut self, time: Duration) {
        let later = self.time.saturating_add(time);
        if self.base.checked_add(later).is_some() {
            self.time = later;
        }
    }

    fn log(&mut self, step: Step) {
        self.steps.push((self.time, step));
    }

    fn tell(&mut self, input: Input) -> Option<Action> {
        self.life.handle(self.now(), input)
    }

    /// Lets the time pass until the machine's deadline, if it has one.
    fn wait(&mut self) {
        if let State::BackingOff { until, .. } = self.life.state() {
            let delay = until.saturating_duration_since(self.now());
            self.log(Step::Wait(delay));
            self.pass(delay);
            self.tell(Input::Timeout);
        }
    }
}

impl Timeline {
    /// Returns each step with its time since the first start.
    #[must_use]
    pub fn steps(&self) -> &[(Duration, Step)] {
        &self.steps
    }

    /// Returns how long the process was not running: the sum of all waits.
    #[must_use]
    pub fn downtime(&self) -> Duration {
        let waits =
            self.steps.iter().filter_map(|(_, step)| if let Step::Wait(delay) = step { Some(*delay) } else { None });
        waits.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Returns the length of the whole simulation.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |(time, step)| match step {
            Step::Wait(delay) => time.saturating_add(*delay),
            _ => *time,
        })
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (time, step) in &self.steps {
            writeln!(f, "{:>12.3}  {step}", time.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { run } => write!(f, "start {run}"),
            Self::StartFailed => f.write_str("could not be started"),
            Self::Exit { lived, success } => {
                let how = if *success { "done" } else { "failed" };
                write!(f, "exit, {how} after {:.3} s", lived.as_secs_f64())
            }
            Self::Wait(delay) => write!(f, "wait {:.3} s", delay.as_secs_f64()),
            Self::Over => f.write_str("over"),
            Self::Held => f.write_str("waits"),
            Self::Ready => f.write_str("ready"),
            Self::Stop => f.write_str("asked to stop"),
            Self::Kill => f.write_str("killed"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::GaveUp => f.write_str("gives up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::restart::Restart;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn starts(timeline: &Timeline) -> Vec<u64> {
        let is_start = |step: &Step| matches!(step, Step::Start { .. });
        timeline.steps.iter().filter(|(_, step)| is_start(step)).map(|(time, _)| time.as_secs()).collect()
    }

    #[test]
    fn failed_starts_back_off_too() {
        let timeline = simulate(&Policy::default(), 5, |_| Run::CannotStart).unwrap();
        assert_eq!(starts(&timeline), [0, 1, 3, 7, 15]);
        assert_eq!(timeline.length(), 31 * SECOND);
        assert_eq!(timeline.downtime(), 31 * SECOND);
    }

    #[test]
    fn a_long_run_forgives() {
        let run = |number| Run::Fails(if number == 3 { 60 * SECOND } else { Duration::ZERO });
        let timeline = simulate(&Policy::default(), 5, run).unwrap();
        assert_eq!(starts(&timeline), [0, 1, 3, 63, 64]);
    }

    #[test]
    fn ends_when_the_policy_does() {
        let mut policy = Policy { restart: Restart::OnFailure, ..Policy::default() };
        let run = |number| if number < 3 { Run::Fails(2 * SECOND) } else { Run::Succeeds(2 * SECOND) };
        let timeline = simulate(&policy, 100, run).unwrap();
        assert_eq!(starts(&timeline), [0, 2, 4]);
        assert_eq!(timeline.steps().last(), Some(&(6 * SECOND, Step::Over)));
        policy.max_restart_delay = Duration::ZERO;
        assert!(simulate(&policy, 1, |_| Run::Stays).is_err());
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(simulate(&Policy::default(), 0, |_| Run::Stays).unwrap().to_string(), "");
        // There is no pause between the runs, and the simulation still ends.
        let policy = Policy { threshold: Duration::ZERO, ..Policy::default() };
        let timeline = simulate(&policy, 10_000, |_| Run::Fails(Duration::ZERO)).unwrap();
        assert_eq!((timeline.length(), timeline.downtime()), (Duration::ZERO, Duration::ZERO));
        simulate(&policy, 10, |_| Run::Fails(Duration::MAX)).unwrap();
    }
}
