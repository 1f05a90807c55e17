//! The state machine of one monitored process: when to start, restart, back off, terminate and
//! kill.
//!
//! It spawns nothing, sends no signal and reads no clock. The one rule: the machine is pure, and
//! time is an argument. Everything that is pending is kept in the state, so leaving the state
//! cancels it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::contain::LAST_WAIT;

pub use super::policy::{Leftovers, Policy, PolicyError, Restart};

/// The time from the first kill to the second one.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// The longest time from one kill to the next.
const KILL_AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// An event of a process or a request to it: the input of [`Lifecycle::handle`].
///
/// # Examples
///
/// ```
/// use childminder::restart::Input;
///
/// let crash = Input::Exited { success: false, group_left: false };
/// assert_ne!(crash, Input::Exited { success: true, group_left: false });
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
    /// The process has exited. It has been reaped, and its pipes may still be open.
    Exited {
        /// Whether it exited with code 0.
        success: bool,
        /// Whether other members of its process group are still alive.
        group_left: bool,
    },
    /// The last member of its process group is gone.
    GroupGone,
    /// The [deadline](Lifecycle::deadline) has passed. This does nothing if it is too early or if
    /// there is no deadline.
    Timeout,
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
    /// Spawn the process, then pass in [`Input::Spawned`] or [`Input::SpawnFailed`] before any
    /// other input.
    Spawn,
    /// Send the policy's stop signal.
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
        /// When it will be killed, or killed again.
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
pub enum Next {
    /// The process stays stopped.
    Stay,
    /// The process starts at once.
    Start,
}

/// Tells whether the process that was spawned, the leader of its group, is still there.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Input, Leader, Lifecycle, Policy, State};
/// use std::time::Instant;
///
/// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
/// let exited = Input::Exited { success: true, group_left: true };
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
/// use childminder::restart::{Action, Input, Lifecycle, Policy};
/// use std::time::{Duration, Instant};
///
/// let mut now = Instant::now();
/// let mut web = Lifecycle::new(Policy::default());
/// let crash = Input::Exited { success: false, group_left: false };
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
    /// Whether the last exit was with code 0.
    succeeded: bool,
    /// While a restart waits for leftover processes: when the process would start without them.
    ready: Option<Instant>,
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
        Self { policy, state: State::Stopped, delay, group_left: false, succeeded: false, ready: None }
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
            State::BackingOff { .. } if !policy.wants_restart(self.succeeded) => self.state = State::Exited,
            State::BackingOff { since, until } => {
                let latest = after(*since, policy.max_restart_delay);
                self.ready = self.ready.map(|ready| ready.min(latest));
                // The leftover processes that are being killed have their time, whatever the
                // policy.
                let cleared = self.ready.map_or(latest, |_| latest.max(after(*since, LAST_WAIT)));
                *until = (*until).min(cleared);
            }
            State::Stopping { since, kill_at, kills: 0, .. } => {
                *kill_at = (*kill_at).min(after(*since, policy.kill_time));
            }
            State::Stopping { .. } | State::Stopped | State::Starting | State::Running { .. } | State::Exited => {}
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
        match &mut self.state {
            State::Running { since } => *since = after(*since, by),
            State::BackingOff { since, until: deadline } | State::Stopping { since, kill_at: deadline, .. } => {
                *since = after(*since, by);
                *deadline = after(*deadline, by);
                self.ready = self.ready.map(|ready| after(ready, by));
            }
            State::Stopped | State::Starting | State::Exited => {}
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
            State::Stopped | State::Starting | State::Running { .. } | State::Exited => None,
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
    /// - A stop ends when the process and the members of its group are gone. They are killed at the
    ///   kill time, and again after 1, 2, 4… seconds, at most a minute apart, until all are gone.
    /// - When a process exits on its own, its leftover processes are killed, and a restart waits
    ///   until they are gone, but two seconds at most. With [`Leftovers::Leave`] they are left
    ///   alone. A later stop ends them too.
    ///
    /// Inputs that make no sense in a state do nothing, with one exception: a process that was
    /// spawned although it is no longer wanted is terminated.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Action, Input, Lifecycle, Policy, State};
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
    /// web.handle(later, Input::Exited { success: false, group_left: false });
    /// assert_eq!(web.state(), State::Stopped);
    /// ```
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Action> {
        match input {
            Input::Exited { success, group_left } => (self.succeeded, self.group_left) = (success, group_left),
            Input::SpawnFailed => self.succeeded = false,
            Input::GroupGone => self.group_left = false,
            _ => {}
        }
        let (state, action) = self.decide(now, input);
        self.group_left &= state != State::Stopped;
        if !matches!(state, State::BackingOff { .. }) {
            self.ready = None;
        }
        self.state = state;
        action
    }

    /// Decides for every pair of state and input: returns the next state and what to do.
    fn decide(&mut self, now: Instant, input: Input) -> (State, Option<Action>) {
        let unchanged = (self.state, None);
        match (self.state, input) {
            (State::Stopped | State::Exited, Input::Start | Input::Restart) => self.start_afresh(),
            (State::Exited | State::BackingOff { .. }, Input::Stop) if self.group_left => {
                self.terminate(now, Next::Stay, Leader::Gone)
            }
            (State::Exited | State::BackingOff { .. }, Input::Kill) if self.group_left => {
                kill(now, now, 0, Next::Stay, Leader::Gone)
            }
            (State::Stopped | State::Exited, Input::Stop | Input::Kill) => (State::Stopped, None),
            // It was stopped between the spawn and its result.
            (State::Stopped | State::Exited, Input::Spawned) => self.terminate(now, Next::Stay, Leader::Alive),
            (
                State::Stopped | State::Exited,
                Input::SpawnFailed | Input::Exited { .. } | Input::GroupGone | Input::Timeout,
            ) => unchanged,

            (State::Starting, Input::Start | Input::Restart) => unchanged,
            (State::Starting, Input::Stop | Input::Kill) => (State::Stopped, None),
            (State::Starting, Input::Spawned) => (State::Running { since: now }, None),
            // This is an instant death whatever the threshold. Otherwise a threshold of zero would
            // try again without end.
            (State::Starting, Input::SpawnFailed) => self.died(now, false, true),
            (State::Starting, Input::Exited { success, group_left }) => {
                let died = self.died(now, success, true);
                self.kill_leftovers(now, group_left, died)
            }
            (State::Starting, Input::GroupGone | Input::Timeout) => unchanged,

            (State::Running { .. }, Input::Stop) => self.terminate(now, Next::Stay, Leader::Alive),
            (State::Running { .. }, Input::Restart) => self.terminate(now, Next::Start, Leader::Alive),
            (State::Running { .. }, Input::Kill) => kill(now, now, 0, Next::Stay, Leader::Alive),
            (State::Running { since }, Input::Exited { success, group_left }) => {
                let lived = now.saturating_duration_since(since);
                let died = self.died(now, success, lived < self.policy.threshold);
                self.kill_leftovers(now, group_left, died)
            }
            (
                State::Running { .. },
                Input::Start | Input::Spawned | Input::SpawnFailed | Input::GroupGone | Input::Timeout,
            ) => unchanged,

            (State::BackingOff { .. }, Input::Start) => self.start_afresh(),
            (State::BackingOff { .. }, Input::Stop | Input::Kill) => (State::Stopped, None),
            (State::BackingOff { .. }, Input::Restart) => start(),
            // The process is alive and wanted, so another one must not be spawned beside it.
            (State::BackingOff { .. }, Input::Spawned) => (State::Running { since: now }, None),
            (State::BackingOff { until, .. }, Input::Timeout) if now >= until => start(),
            (State::BackingOff { since, .. }, Input::GroupGone) => match self.ready.take() {
                Some(ready) if now >= ready => start(),
                Some(until) => (State::BackingOff { since, until }, None),
                None => unchanged,
            },
            (State::BackingOff { .. }, Input::SpawnFailed | Input::Exited { .. } | Input::Timeout) => unchanged,

            (State::Stopping { since, kill_at, kills, next, leader }, input) => {
                self.decide_stopping(now, input, (since, kill_at, kills), next, leader)
            }
        }
    }

    /// The part of `decide` for a process that is stopping.
    fn decide_stopping(
        &mut self,
        now: Instant,
        input: Input,
        (since, kill_at, kills): (Instant, Instant, u32),
        next: Next,
        leader: Leader,
    ) -> (State, Option<Action>) {
        let unchanged = (self.state, None);
        let stopping = |next, leader| State::Stopping { since, kill_at, kills, next, leader };
        match (input, leader) {
            (Input::Start | Input::Restart, _) => {
                // As if the start had been requested after the stop, unless the process is already
                // being restarted.
                if next == Next::Stay {
                    self.delay = self.policy.first_delay();
                }
                (stopping(Next::Start, leader), None)
            }
            (Input::Stop, _) => (stopping(Next::Stay, leader), None),
            (Input::Kill, _) => kill(now, since, kills, Next::Stay, leader),
            // A process that is no longer wanted has taken the place of the one that is gone.
            (Input::Spawned, Leader::Gone) => (stopping(next, Leader::Alive), Some(Action::Terminate)),
            (Input::Spawned, Leader::Alive) | (Input::SpawnFailed, _) => unchanged,
            (Input::Exited { group_left: true, .. }, _) => (stopping(next, Leader::Gone), None),
            (Input::Exited { .. }, _) | (Input::GroupGone, Leader::Gone) => match next {
                Next::Stay => (State::Stopped, None),
                Next::Start => start(),
            },
            (Input::GroupGone, Leader::Alive) => unchanged,
            (Input::Timeout, _) if now < kill_at => unchanged,
            (Input::Timeout, _) => kill(now, since, kills, next, leader),
        }
    }

    /// Starts on request: earlier instant deaths do not count.
    fn start_afresh(&mut self) -> (State, Option<Action>) {
        self.delay = self.policy.first_delay();
        start()
    }

    fn terminate(&self, now: Instant, next: Next, leader: Leader) -> (State, Option<Action>) {
        let kill_at = after(now, self.policy.kill_time);
        (State::Stopping { since: now, kill_at, kills: 0, next, leader }, Some(Action::Terminate))
    }

    /// Handles an exit of the process on its own, or a failed spawn.
    fn died(&mut self, now: Instant, success: bool, instantly: bool) -> (State, Option<Action>) {
        if !self.policy.wants_restart(success) {
            return (State::Exited, None);
        }
        if !instantly {
            return self.start_afresh();
        }
        let until = after(now, self.delay);
        self.delay = self.policy.next_delay(self.delay);
        (State::BackingOff { since: now, until }, None)
    }

    /// Kills the leftover processes after such an exit, before anything else happens.
    fn kill_leftovers(
        &mut self,
        now: Instant,
        group_left: bool,
        died: (State, Option<Action>),
    ) -> (State, Option<Action>) {
        if !group_left || self.policy.leftovers == Leftovers::Leave {
            return died;
        }
        let ready = match died.0 {
            State::Starting => now,
            State::BackingOff { until, .. } => until,
            state => return (state, Some(Action::Kill)),
        };
        self.ready = Some(ready);
        (State::BackingOff { since: now, until: ready.max(after(now, LAST_WAIT)) }, Some(Action::Kill))
    }
}

fn start() -> (State, Option<Action>) {
    (State::Starting, Some(Action::Spawn))
}

/// Kills, and sets the time of the next kill, which doubles with each kill.
fn kill(now: Instant, since: Instant, kills: u32, next: Next, leader: Leader) -> (State, Option<Action>) {
    let pause = KILL_AGAIN.saturating_mul(1 << kills.min(16)).min(KILL_AGAIN_AT_MOST);
    let (kill_at, kills) = (after(now, pause), kills.saturating_add(1));
    (State::Stopping { since, kill_at, kills, next, leader }, Some(Action::Kill))
}

/// Returns `now + delay`. If that is more than an `Instant` can hold, it returns some time in the
/// far future.
fn after(now: Instant, mut delay: Duration) -> Instant {
    loop {
        match now.checked_add(delay) {
            Some(deadline) => return deadline,
            None => delay /= 2,
        }
    }
}

#[cfg(test)]
mod tests;
