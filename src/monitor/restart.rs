//! The state machine of one monitored process: when to start, restart, back off, terminate and
//! kill.
//!
//! This file has its inputs, actions and states; `decide` has the decision for each pair. It spawns
//! nothing, sends no signal and reads no clock. The one rule: the machine is pure, and time is an
//! argument. Everything that is pending is kept in the state, so leaving the state cancels it.

mod decide;
mod starts;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::contain::LAST_WAIT;

pub use super::policy::{
    Leftovers, Outcome, Policy, PolicyError, Restart, StartLimit, StopAction, StopScope, StopStep,
};
pub use super::policy_builder::PolicyBuilder;
use super::time::after;
use starts::Starts;

/// An event of a process or a request to it: the input of [`Lifecycle::handle`].
///
/// # Examples
///
/// ```
/// use childminder::restart::{Input, Outcome};
///
/// let crash = Input::Exited { outcome: Outcome::Failure, group_left: false };
/// assert_ne!(crash, Input::Exited { outcome: Outcome::Success, group_left: false });
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A request to run.
    Start,
    /// A request to stop: the stop signal first, and a kill after the kill time.
    Stop,
    /// A request to stop as by `Stop`, and then to run again.
    Restart,
    /// A request to stop at once.
    Kill,
    /// [`Action::Spawn`] has been carried out.
    Spawned,
    /// [`Action::Spawn`] has failed, so there is no process.
    SpawnFailed,
    /// [`Action::Spawn`] cannot be carried out yet, because the process has to wait for others.
    Held,
    /// The process need not wait for others any longer.
    Released,
    /// The process has exited. It has been reaped, and its pipes may still be open.
    Exited {
        /// What the exit means.
        outcome: Outcome,
        /// Whether other members of its process group are still alive.
        group_left: bool,
    },
    /// The last member of its process group is gone.
    GroupGone,
    /// The [deadline](Lifecycle::deadline) has passed. This does nothing if it is too early or if
    /// there is no deadline.
    Timeout,
    /// The process is alive but does not work, so it has to be replaced. It is stopped, and what
    /// follows is what follows a crash.
    Fault {
        /// Whether it never became ready. This counts as an instant death, however long it lived.
        never_ready: bool,
    },
    /// The group of the process has given up, so the process is stopped and has failed.
    GiveUp,
    /// A request to forget earlier failures. A process that has failed is stopped afterwards.
    Reset,
}

/// An action to carry out now: the output of [`Lifecycle::handle`].
///
/// # Examples
///
/// ```
/// use childminder::restart::{Action, Input, Lifecycle, Policy};
/// use std::time::Instant;
///
/// let mut web = Lifecycle::new(Policy::default());
/// assert_eq!(web.handle(Instant::now(), Input::Start), Some(Action::Spawn));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Spawn the process, then pass in [`Input::Spawned`], [`Input::SpawnFailed`] or
    /// [`Input::Held`] before any other input.
    Spawn,
    /// Carry out the step of the stop that [`Lifecycle::stop_step`] returns.
    Terminate,
    /// Kill the process, or the leftover members of its group.
    #[doc(alias = "SIGKILL")]
    Kill,
}

/// The states of a process.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Lifecycle, Policy, State};
///
/// assert_eq!(Lifecycle::new(Policy::default()).state(), State::Stopped);
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started yet, or stopped on purpose.
    Stopped,
    /// The process will be started when what it waits for is there.
    Waiting {
        /// When the wait began.
        since: Instant,
    },
    /// [`Action::Spawn`] has been returned, and its result is awaited.
    Starting,
    /// The process is alive.
    Running {
        /// When it was spawned.
        since: Instant,
    },
    /// The process will be started again after a wait: it died an instant death, or its leftover
    /// processes have not ended yet.
    BackingOff {
        /// When the wait began.
        since: Instant,
        /// When the process will be started.
        until: Instant,
    },
    /// The process was asked to stop, and is not gone yet.
    Stopping {
        /// When it was asked to stop.
        since: Instant,
        /// How many steps of the stop came before the present one.
        step: u32,
        /// When the next step follows, or it will be killed, or killed again.
        kill_at: Instant,
        /// How often it has been killed. A kill can fail, and a process in an uninterruptible sleep
        /// does not die before the sleep ends, so the kill is repeated until the process is gone.
        kills: u32,
        /// What follows the stop.
        next: Next,
        /// Whether the process itself is still there, or only other members of its group.
        leader: Leader,
    },
    /// The process exited on its own, and its [restart policy](Restart) does not start it again.
    Exited,
    /// The process is not started again without a request, because that would not help.
    Failed {
        /// Why not.
        why: WhyFailed,
    },
}

/// Why a process has failed for good.
///
/// # Examples
///
/// ```
/// use childminder::restart::WhyFailed;
///
/// assert_eq!(WhyFailed::FatalExit.to_string(), "its exit code says that a restart would not help");
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyFailed {
    /// It was started as often as its [limit](Policy::restart_limit) allows.
    TooManyStarts,
    /// It exited with one of [`Policy::fatal_codes`].
    FatalExit,
    /// Its group has given up.
    Group,
}

impl fmt::Display for WhyFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyStarts => "it was started too often",
            Self::FatalExit => "its exit code says that a restart would not help",
            Self::Group => "its group has given up",
        })
    }
}

/// What follows a stop.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Input, Lifecycle, Next, Policy, State};
/// use std::time::Instant;
///
/// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
/// for input in [Input::Start, Input::Spawned, Input::Restart] {
///     web.handle(now, input);
/// }
/// assert!(matches!(web.state(), State::Stopping { next: Next::Start, .. }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// The process stays stopped.
    Stay,
    /// The process starts at once.
    Start,
    /// What follows a crash: a restart at once, a wait, or an end.
    Recover {
        /// Whether the crash counts as an instant death.
        instantly: bool,
    },
    /// The process has failed, because its group has given up.
    Fail,
}

/// Tells whether the process that was spawned, the leader of its group, is still there.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Input, Leader, Lifecycle, Outcome, Policy, State};
/// use std::time::Instant;
///
/// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
/// let exited = Input::Exited { outcome: Outcome::Success, group_left: true };
/// for input in [Input::Start, Input::Spawned, Input::Stop, exited] {
///     web.handle(now, input);
/// }
/// assert!(matches!(web.state(), State::Stopping { leader: Leader::Gone, .. }));
/// web.handle(now, Input::GroupGone);
/// assert_eq!(web.state(), State::Stopped);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// The leader is not known to have exited.
    Alive,
    /// The leader has exited, and other members of its group have not.
    Gone,
}

/// The state machine of one process, without I/O.
///
/// It takes inputs and returns actions. The caller carries out each action, passes in the result of
/// a spawn with a fresh `now`, and keeps one timer for [`deadline`](Self::deadline). The monitor
/// works in this way. A test of a policy can do the same and run through years of restarts in no
/// time:
///
/// # Examples
///
/// ```
/// use childminder::restart::{Action, Input, Lifecycle, Outcome, Policy};
/// use std::time::{Duration, Instant};
///
/// let mut now = Instant::now();
/// let mut web = Lifecycle::new(Policy::default());
/// let crash = Input::Exited { outcome: Outcome::Failure, group_left: false };
///
/// web.handle(now, Input::Start);
/// for seconds in [1, 2, 4, 8] {
///     web.handle(now, Input::Spawned);
///     assert_eq!(web.handle(now, crash), None); // an instant death: it has to wait
///     assert_eq!(web.deadline(), Some(now + Duration::from_secs(seconds)));
///     now += Duration::from_secs(seconds);
///     assert_eq!(web.handle(now, Input::Timeout), Some(Action::Spawn));
/// }
/// web.handle(now, Input::Spawned);
/// now += Duration::from_secs(60);
/// assert_eq!(web.handle(now, crash), Some(Action::Spawn)); // a long run: restarted at once
/// ```
#[derive(Debug)]
pub struct Lifecycle {
    /// Shared, because most processes of a monitor have the same policy.
    policy: Arc<Policy>,
    state: State,
    /// The wait after the next instant death.
    delay: Duration,
    /// Whether members of its group are known to have outlived it.
    group_left: bool,
    /// Whether the process has exited while it runs on as the members of its group that have taken
    /// over.
    taken_over: bool,
    /// How the last process ended.
    outcome: Outcome,
    /// While a restart waits for leftover processes: when the process would start without them.
    ready: Option<Instant>,
    /// The latest starts, if the policy limits them.
    starts: Starts,
    /// The source of [`Policy::jitter`].
    random: u64,
}

impl Lifecycle {
    /// Makes the state machine of a process that is stopped.
    ///
    /// The policy is not [validated](Policy::validate) here. With an invalid one the machine still
    /// works, but a crash loop may run without pauses.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Lifecycle, Policy};
    ///
    /// assert_eq!(Lifecycle::new(Policy::default()).deadline(), None);
    /// ```
    pub fn new(policy: impl Into<Arc<Policy>>) -> Self {
        let policy = policy.into();
        let delay = policy.first_delay();
        Self {
            policy,
            state: State::Stopped,
            delay,
            group_left: false,
            taken_over: false,
            outcome: Outcome::Failure,
            ready: None,
            starts: Starts::default(),
            random: 0,
        }
    }

    /// Sets the seed of [`Policy::jitter`]. Machines with equal seeds and inputs make equal
    /// decisions.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Input, Lifecycle, Policy};
    /// use std::time::{Duration, Instant};
    ///
    /// let mut policy = Policy::default();
    /// policy.jitter = 25;
    /// let mut web = Lifecycle::new(policy);
    /// web.set_seed(7);
    /// let now = Instant::now();
    /// web.handle(now, Input::Start);
    /// web.handle(now, Input::SpawnFailed);
    /// let wait = web.deadline().unwrap() - now;
    /// assert!(Duration::from_secs(1) <= wait && wait <= Duration::from_millis(1250));
    /// ```
    pub fn set_seed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// Returns the policy in force.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Lifecycle, Policy};
    ///
    /// assert_eq!(*Lifecycle::new(Policy::default()).policy(), Policy::default());
    /// ```
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Replaces the policy. Everything that is pending follows the new one, so read the
    /// [deadline](Self::deadline) again.
    ///
    /// A wait that is longer than the new policy allows is shortened, counted from its beginning,
    /// and it is cancelled if the new policy does not restart the process. A kill happens no later
    /// than the new kill time after the request to stop. Nothing that is pending is delayed. The
    /// wait after the next instant death is brought into the range of the new policy.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Input, Lifecycle, Policy};
    /// use std::time::{Duration, Instant};
    ///
    /// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
    /// for input in [Input::Start, Input::Spawned, Input::Stop] {
    ///     web.handle(now, input);
    /// }
    /// let mut impatient = Policy::default();
    /// impatient.kill_time = Duration::from_secs(1);
    /// web.set_policy(impatient);
    /// assert_eq!(web.deadline(), Some(now + Duration::from_secs(1)));
    /// ```
    pub fn set_policy(&mut self, policy: impl Into<Arc<Policy>>) {
        let policy = policy.into();
        match &mut self.state {
            State::BackingOff { .. } if !policy.wants_restart(self.outcome) => self.state = State::Exited,
            State::BackingOff { since, until } => {
                let latest = after(*since, policy.max_restart_delay);
                self.ready = self.ready.map(|ready| ready.min(latest));
                // The leftover processes that are being killed have their time, whatever the
                // policy.
                let cleared = self.ready.map_or(latest, |_| latest.max(after(*since, LAST_WAIT)));
                *until = (*until).min(cleared);
            }
            State::Stopping { since, step, kill_at, kills: 0, .. } => {
                *kill_at = (*kill_at).min(after(*since, policy.stop_time(*step)));
            }
            _ => {}
        }
        // Not `Duration::clamp`, which panics if min > max.
        self.delay = self.delay.max(policy.min_restart_delay).min(policy.max_restart_delay);
        self.policy = policy;
    }

    /// Delays everything that is pending, and moves the start of what is running, by the time for
    /// which the program was suspended. That time then does not count.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Input, Lifecycle, Policy};
    /// use std::time::{Duration, Instant};
    ///
    /// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
    /// for input in [Input::Start, Input::Spawned, Input::Stop] {
    ///     web.handle(now, input);
    /// }
    /// let night = Duration::from_secs(8 * 3600);
    /// web.put_off(night);
    /// assert_eq!(web.deadline(), Some(now + night + Policy::default().kill_time));
    /// ```
    pub fn put_off(&mut self, by: Duration) {
        self.starts.put_off(by);
        match &mut self.state {
            State::Running { since } | State::Waiting { since } => *since = after(*since, by),
            State::BackingOff { since, until: deadline } | State::Stopping { since, kill_at: deadline, .. } => {
                *since = after(*since, by);
                *deadline = after(*deadline, by);
                self.ready = self.ready.map(|ready| after(ready, by));
            }
            State::Stopped | State::Starting | State::Exited | State::Failed { .. } => {}
        }
    }

    /// Returns the state of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Input, Lifecycle, Policy, State};
    /// use std::time::Instant;
    ///
    /// let mut web = Lifecycle::new(Policy::default());
    /// web.handle(Instant::now(), Input::Start);
    /// assert_eq!(web.state(), State::Starting);
    /// ```
    pub fn state(&self) -> State {
        self.state
    }

    /// How the last process ended.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns when the process would start without its leftover processes, while a restart waits
    /// for these.
    pub(super) fn ready(&self) -> Option<Instant> {
        self.ready
    }

    /// Notes that no member of the group is left, before the next input.
    pub(super) fn forget_group(&mut self) {
        self.group_left = false;
    }

    /// Returns when [`Input::Timeout`] is due: the end of a wait, or the time to kill.
    ///
    /// Any input can change it, so read it again after each. A time that the clock cannot represent
    /// becomes some time in the far future.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Input, Lifecycle, Policy};
    /// use std::time::Instant;
    ///
    /// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
    /// for input in [Input::Start, Input::Spawned, Input::Stop] {
    ///     web.handle(now, input);
    /// }
    /// assert_eq!(web.deadline(), Some(now + Policy::default().kill_time));
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::BackingOff { until, .. } => Some(until),
            State::Stopping { kill_at, .. } => Some(kill_at),
            _ => None,
        }
    }

    /// Returns the step of the stop that [`Action::Terminate`] is about, while the process is
    /// stopping.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Input, Lifecycle, Policy, StopAction};
    /// use std::time::Instant;
    ///
    /// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
    /// for input in [Input::Start, Input::Spawned, Input::Stop] {
    ///     web.handle(now, input);
    /// }
    /// assert_eq!(web.stop_step().unwrap().action, StopAction::Signal(15));
    /// ```
    pub fn stop_step(&self) -> Option<StopStep> {
        match self.state {
            State::Stopping { step, .. } => self.policy.stop_step(step),
            _ => None,
        }
    }

    /// Takes one input and returns what to do.
    ///
    /// - An exit after a run of at least the threshold is followed by a restart at once. An earlier
    ///   exit is followed by a wait, which doubles from one instant death to the next and starts
    ///   anew after a long run (as in Twisted). A failed spawn counts as an instant death.
    /// - A deliberate stop or restart is never an instant death. A restart keeps the wait that was
    ///   reached. A start of a stopped process begins with the shortest wait. A stop cancels a
    ///   wait.
    /// - A second stop does not signal again and does not delay the kill. A start or restart of a
    ///   process that is stopping starts it once it is gone. A stop takes that back.
    /// - A stop ends when the process and the members of its group are gone. The steps of the stop
    ///   come first. They are killed when the last step has had its time, and again after 1, 2, 4…
    ///   seconds, at most a minute apart, until all are gone.
    /// - When a process exits on its own, its leftover processes are killed, and a restart waits
    ///   until they are gone, but two seconds at most. With [`Leftovers::Leave`] they are left
    ///   alone. A later stop ends them too.
    ///
    /// - A process that was started as often as [`Policy::restart_limit`] allows, or whose exit
    ///   code is one of [`Policy::fatal_codes`], has failed. Only a request starts it again, which
    ///   also forgets the earlier starts.
    ///
    /// Inputs that make no sense in a state do nothing, with one exception: a process that was
    /// spawned although it is no longer wanted is terminated.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Action, Input, Lifecycle, Outcome, Policy, State};
    /// use std::time::{Duration, Instant};
    ///
    /// let now = Instant::now();
    /// let mut web = Lifecycle::new(Policy::default());
    /// web.handle(now, Input::Start);
    /// web.handle(now, Input::Spawned);
    /// assert_eq!(web.handle(now, Input::Stop), Some(Action::Terminate));
    ///
    /// let later = now + Duration::from_secs(5);
    /// assert_eq!(web.handle(later, Input::Timeout), Some(Action::Kill));
    /// web.handle(later, Input::Exited { outcome: Outcome::Failure, group_left: false });
    /// assert_eq!(web.state(), State::Stopped);
    /// ```
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Action> {
        match input {
            Input::Exited { outcome, group_left } => (self.outcome, self.group_left) = (outcome, group_left),
            Input::SpawnFailed => self.outcome = Outcome::Failure,
            Input::GroupGone => self.group_left = false,
            _ => {}
        }
        let (state, action) = self.decide(now, input);
        self.group_left &= state != State::Stopped;
        self.taken_over &= matches!(state, State::Running { .. });
        if !matches!(state, State::BackingOff { .. }) {
            self.ready = None;
        }
        self.state = state;
        action
    }
}

#[cfg(test)]
mod tests;
