//! The life of one monitored process: when to start, restart, back off, terminate and kill.
//! Spawns nothing, signals nobody and reads no clock. The rule: pure, time is an argument; what is pending
//! lives in the state, so that leaving the state is what cancels it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::contain::LAST_WAIT;

pub use super::policy::{Leftovers, Policy, PolicyError, Restart};

/// From the first kill to the second one.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// From one kill to the next, at most.
const KILL_AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// What has happened to a process, or is wanted of it: the input of [`Lifecycle::handle`].
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
    /// It shall run.
    Start,
    /// It shall stop: the stop signal first, and a kill after the kill time.
    Stop,
    /// It shall stop as by `Stop`, and then run again.
    Restart,
    /// It shall stop at once.
    Kill,
    /// [`Action::Spawn`] has been carried out.
    Spawned,
    /// [`Action::Spawn`] has failed; there is no process.
    SpawnFailed,
    /// The process has exited (it has been reaped; its pipes may still be open).
    Exited {
        /// It ended with exit code 0.
        success: bool,
        /// Other members of its process group are still alive.
        group_left: bool,
    },
    /// The last member of its process group is gone.
    GroupGone,
    /// The [deadline](Lifecycle::deadline) has come. Too early or without a deadline it does nothing.
    Timeout,
}

/// What is to be done now: the output of [`Lifecycle::handle`].
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
    /// Spawn the process, then feed [`Input::Spawned`] or [`Input::SpawnFailed`] before any other input.
    Spawn,
    /// Send the policy's stop signal.
    Terminate,
    /// Kill the process, or what is left of its group.
    #[doc(alias = "SIGKILL")]
    Kill,
}

/// Where a process is in its life.
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
    /// [`Action::Spawn`] has been given, its result is awaited.
    Starting,
    /// Alive.
    Running {
        /// When it was spawned.
        since: Instant,
    },
    /// Dead by an instant death, or waiting for the end of those whom it has left behind; it will be started again.
    BackingOff {
        /// When the wait began.
        since: Instant,
        /// When it will be started.
        until: Instant,
    },
    /// Asked to stop, and not gone yet.
    Stopping {
        /// When it was asked to.
        since: Instant,
        /// When it will be killed, or killed again.
        kill_at: Instant,
        /// How often it has been killed. A kill can fail, and a process in an uninterruptible sleep
        /// survives it for as long as it sleeps, so the kill is repeated until the process is gone.
        kills: u32,
        /// What comes after.
        next: Next,
        /// Whether the process itself is still there, or only others of its group.
        leader: Leader,
    },
    /// Ended by itself, and its [restart policy](Restart) wants no more of it.
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
    /// Nothing: it stays stopped.
    Stay,
    /// A start, at once.
    Start,
}

/// Whether the process that was spawned, the leader of its group, is still there.
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
    /// Not known to have exited.
    Alive,
    /// Exited; other members of its group have not.
    Gone,
}

/// The life of one process: a state machine without I/O.
///
/// It is told what happens and says what to do. The caller carries out each action, feeds the result of a
/// spawn with a fresh `now`, and keeps one timer for [`deadline`](Self::deadline). The monitor works so, and
/// so can a test of a policy, with years of restarts in no time:
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
    /// Most processes of a monitor have the same one.
    policy: Arc<Policy>,
    state: State,
    /// The wait after the next instant death.
    delay: Duration,
    /// Members of its group are known to have outlived it.
    group_left: bool,
    /// It ended with exit code 0 when it ended last.
    succeeded: bool,
    /// While it backs off for the sake of those whom it has left behind: when it would start without them.
    ready: Option<Instant>,
}

impl Lifecycle {
    /// A process that is stopped.
    ///
    /// The policy is not [validated](Policy::validate) here; with a bad one the machine still works, but a
    /// crash loop may run without pauses.
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

    /// The policy in force.
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

    /// Replaces the policy. What is pending follows the new one, so look at the
    /// [deadline](Self::deadline) again.
    ///
    /// A wait that is longer than the new policy allows is shortened, counted from its beginning, and it is
    /// given up if the new policy wants no restart. A kill comes no later than the new kill time after the
    /// request to stop. Nothing that is pending is put off. The wait that follows the next instant death is
    /// brought into the range of the new policy.
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
                // Those who are being killed have their time, whatever the policy.
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

    /// Puts off all that is pending, and moves what has begun, by the time that the program stood still: so
    /// that time counts for nothing.
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

    /// Where the process is in its life.
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

    /// While it backs off for the sake of those whom it has left behind: when it would start without them.
    pub(super) fn ready(&self) -> Option<Instant> {
        self.ready
    }

    /// Nobody is left of its group, before anything else is told.
    pub(super) fn forget_group(&mut self) {
        self.group_left = false;
    }

    /// When [`Input::Timeout`] is due: the end of a wait, or the time to kill.
    ///
    /// It changes with any input, so look again after each. A time beyond what the clock can tell is some
    /// time in the far future.
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

    /// Takes one input and says what to do.
    ///
    /// - An exit after a run of at least the threshold is followed by a restart at once, an earlier one by a
    ///   wait, which doubles from one instant death to the next and starts anew after a long run (as in
    ///   Twisted). A failed spawn counts as an instant death.
    /// - A deliberate stop or restart is never an instant death. A restart keeps the wait reached; a start of
    ///   a stopped process begins anew. A stop ends a wait, and nothing of it is left.
    /// - A second stop does not signal again and does not put off the kill. A start or restart while the
    ///   process is stopping starts it once it is gone, a stop takes that back.
    /// - A stop ends when the process and the members of its group are gone. They are killed at the kill
    ///   time, and again after 1, 2, 4… seconds, at most a minute apart, for as long as any of them is there.
    /// - Those that outlive a process which ended by itself are killed, and a restart waits for their end, two
    ///   seconds at most. With [`Leftovers::Leave`] they are left alone; a stop is for them, too.
    ///
    /// Inputs that make no sense in a state do nothing, except for a process that was spawned though it is
    /// not wanted any more: it is terminated.
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

    /// Every pair of state and input: the state that follows, and what to do.
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
            // Somebody stopped it between the spawn and its result.
            (State::Stopped | State::Exited, Input::Spawned) => self.terminate(now, Next::Stay, Leader::Alive),
            (
                State::Stopped | State::Exited,
                Input::SpawnFailed | Input::Exited { .. } | Input::GroupGone | Input::Timeout,
            ) => unchanged,

            (State::Starting, Input::Start | Input::Restart) => unchanged,
            (State::Starting, Input::Stop | Input::Kill) => (State::Stopped, None),
            (State::Starting, Input::Spawned) => (State::Running { since: now }, None),
            // An instant death whatever the threshold: with zero it would be tried again without end.
            (State::Starting, Input::SpawnFailed) => self.died(now, false, true),
            (State::Starting, Input::Exited { success, group_left }) => {
                let died = self.died(now, success, true);
                self.clear_up(now, group_left, died)
            }
            (State::Starting, Input::GroupGone | Input::Timeout) => unchanged,

            (State::Running { .. }, Input::Stop) => self.terminate(now, Next::Stay, Leader::Alive),
            (State::Running { .. }, Input::Restart) => self.terminate(now, Next::Start, Leader::Alive),
            (State::Running { .. }, Input::Kill) => kill(now, now, 0, Next::Stay, Leader::Alive),
            (State::Running { since }, Input::Exited { success, group_left }) => {
                let lived = now.saturating_duration_since(since);
                let died = self.died(now, success, lived < self.policy.threshold);
                self.clear_up(now, group_left, died)
            }
            (
                State::Running { .. },
                Input::Start | Input::Spawned | Input::SpawnFailed | Input::GroupGone | Input::Timeout,
            ) => unchanged,

            (State::BackingOff { .. }, Input::Start) => self.start_afresh(),
            (State::BackingOff { .. }, Input::Stop | Input::Kill) => (State::Stopped, None),
            (State::BackingOff { .. }, Input::Restart) => start(),
            // It lives and is wanted; another one must not be spawned beside it.
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
                // As if it had come after the stop, unless it is being restarted already.
                if next == Next::Stay {
                    self.delay = self.policy.first_delay();
                }
                (stopping(Next::Start, leader), None)
            }
            (Input::Stop, _) => (stopping(Next::Stay, leader), None),
            (Input::Kill, _) => kill(now, since, kills, Next::Stay, leader),
            // A process nobody wants any more, in place of the one that is gone.
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

    /// A deliberate start: what was before does not count.
    fn start_afresh(&mut self) -> (State, Option<Action>) {
        self.delay = self.policy.first_delay();
        start()
    }

    fn terminate(&self, now: Instant, next: Next, leader: Leader) -> (State, Option<Action>) {
        let kill_at = after(now, self.policy.kill_time);
        (State::Stopping { since: now, kill_at, kills: 0, next, leader }, Some(Action::Terminate))
    }

    /// It has ended by itself, or could not be spawned.
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

    /// It has ended by itself, and those whom it has left behind are to go before anything else happens.
    fn clear_up(&mut self, now: Instant, group_left: bool, died: (State, Option<Action>)) -> (State, Option<Action>) {
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

/// Kills, and again after a time that doubles with each kill.
fn kill(now: Instant, since: Instant, kills: u32, next: Next, leader: Leader) -> (State, Option<Action>) {
    let pause = KILL_AGAIN.saturating_mul(1 << kills.min(16)).min(KILL_AGAIN_AT_MOST);
    let (kill_at, kills) = (after(now, pause), kills.saturating_add(1));
    (State::Stopping { since, kill_at, kills, next, leader }, Some(Action::Kill))
}

/// `now + delay`; if that is more than an `Instant` can hold, some time in the far future.
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
