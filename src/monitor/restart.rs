//! The policy and the life of one monitored process: when to start, restart, back off, terminate and kill.
//! Spawns nothing, signals nobody and reads no clock. The rule: pure, time is an argument; what is pending
//! lives in the state, so that leaving the state is what cancels it.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

/// What the wait after an instant death grows to at least, and the least that its upper limit may be: with
/// less, a program that cannot start keeps the machine busy.
const SHORTEST_GROWN_DELAY: Duration = Duration::from_millis(10);

/// How one process is restarted and stopped.
///
/// The names and the default values are those of Twisted's `ProcessMonitor`.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Policy, Restart};
/// use std::time::Duration;
///
/// let mut policy = Policy::default();
/// policy.kill_time = Duration::from_secs(20);
/// policy.restart = Restart::OnFailure;
/// assert_eq!(policy.validate(), Ok(()));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A process that lived less than this, from its start to its exit, has died an instant death, and its
    /// restart has to wait. One that lived exactly this long has not. 1 s by default. With zero no exit is
    /// an instant death, and each restart is immediate.
    pub threshold: Duration,
    /// How long a process may take to stop after its stop signal until it is killed. 5 s by default.
    pub kill_time: Duration,
    /// The wait after the first instant death; it doubles with each further one. 1 s by default. With zero
    /// the first restart is immediate, and the wait grows from 10 ms on.
    pub min_restart_delay: Duration,
    /// The longest wait after an instant death. One hour by default, 10 ms at least.
    pub max_restart_delay: Duration,
    /// Which exits are followed by a restart. All of them by default.
    pub restart: Restart,
    /// The signal that asks the process to stop. `SIGTERM` (15) by default.
    #[doc(alias = "SIGTERM")]
    pub stop_signal: i32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            threshold: Duration::from_secs(1),
            kill_time: Duration::from_secs(5),
            min_restart_delay: Duration::from_secs(1),
            max_restart_delay: Duration::from_secs(3600),
            restart: Restart::Always,
            stop_signal: libc::SIGTERM,
        }
    }
}

impl Policy {
    /// Checks that the values make sense together.
    ///
    /// # Errors
    ///
    /// The first rule that is broken: see [`PolicyError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::Policy;
    /// use std::time::Duration;
    ///
    /// let mut policy = Policy::default();
    /// policy.max_restart_delay = Duration::from_millis(500);
    /// let error = policy.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "min_restart_delay 1s is above max_restart_delay 500ms");
    /// ```
    pub fn validate(&self) -> Result<(), PolicyError> {
        let (min, max) = (self.min_restart_delay, self.max_restart_delay);
        if min > max {
            Err(PolicyError::MinAboveMax { min, max })
        } else if max < SHORTEST_GROWN_DELAY {
            Err(PolicyError::MaxTooShort { max })
        } else if !(1..=64).contains(&self.stop_signal) {
            Err(PolicyError::NotASignal { stop_signal: self.stop_signal })
        } else {
            Ok(())
        }
    }

    /// The wait after the first instant death. Not above the maximum, even if nobody has validated.
    fn first_delay(&self) -> Duration {
        self.min_restart_delay.min(self.max_restart_delay)
    }

    /// The wait after an instant death that follows one with a wait of `delay`.
    fn next_delay(&self, delay: Duration) -> Duration {
        let doubled = delay.saturating_mul(2);
        doubled.max(SHORTEST_GROWN_DELAY).min(self.max_restart_delay)
    }
}

/// Which exits are followed by a restart.
///
/// It decides about a process that ends by itself; a deliberate restart always starts it again.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Policy, Restart};
///
/// assert_eq!(Policy::default().restart, Restart::Always);
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every exit, as in Twisted.
    Always,
    /// Every exit without success, and every failed spawn.
    OnFailure,
    /// None: the process runs once.
    Never,
}

/// Why a [`Policy`] is refused.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Policy, PolicyError};
///
/// let mut policy = Policy::default();
/// policy.stop_signal = 0;
/// assert_eq!(policy.validate(), Err(PolicyError::NotASignal { stop_signal: 0 }));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyError {
    /// The shortest wait is longer than the longest.
    MinAboveMax {
        /// The value of `min_restart_delay`.
        min: Duration,
        /// The value of `max_restart_delay`.
        max: Duration,
    },
    /// The longest wait is below 10 ms: a process that dies at once would be restarted without a pause.
    MaxTooShort {
        /// The value of `max_restart_delay`.
        max: Duration,
    },
    /// The stop signal is not in 1 to 64.
    NotASignal {
        /// The value of `stop_signal`.
        stop_signal: i32,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinAboveMax { min, max } => write!(f, "min_restart_delay {min:?} is above max_restart_delay {max:?}"),
            Self::MaxTooShort { max } => write!(f, "max_restart_delay {max:?} is below {SHORTEST_GROWN_DELAY:?}"),
            Self::NotASignal { stop_signal } => {
                write!(f, "stop_signal {stop_signal} is not in 1 to 64")
            }
        }
    }
}

impl Error for PolicyError {}

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
    /// Dead by an instant death; it will be started again.
    BackingOff {
        /// When it will be started.
        until: Instant,
    },
    /// Asked to stop, and not gone yet.
    Stopping {
        /// When it will be killed; `None` once it has been.
        kill_at: Option<Instant>,
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
    policy: Policy,
    state: State,
    /// The wait after the next instant death.
    delay: Duration,
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
    pub fn new(policy: Policy) -> Self {
        Self { state: State::Stopped, delay: policy.first_delay(), policy }
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

    /// Replaces the policy from the next input on.
    ///
    /// The state stays, with any deadline under way. The wait that follows the next instant death is brought
    /// into the range of the new policy.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Lifecycle, Policy, Restart};
    ///
    /// let mut web = Lifecycle::new(Policy::default());
    /// let mut once = Policy::default();
    /// once.restart = Restart::Never;
    /// web.set_policy(once);
    /// assert_eq!(web.policy().restart, Restart::Never);
    /// ```
    pub fn set_policy(&mut self, policy: Policy) {
        // Not `Duration::clamp`, which panics if min > max.
        self.delay = self.delay.max(policy.min_restart_delay).min(policy.max_restart_delay);
        self.policy = policy;
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
            State::BackingOff { until } => Some(until),
            State::Stopping { kill_at, .. } => kill_at,
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
    /// - If members of its group outlive a process that was told to stop, the stop goes on until they are
    ///   gone or the kill time has come.
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
        let (state, action) = self.decide(now, input);
        self.state = state;
        action
    }

    /// Every pair of state and input: the state that follows, and what to do.
    fn decide(&mut self, now: Instant, input: Input) -> (State, Option<Action>) {
        let unchanged = (self.state, None);
        match (self.state, input) {
            (State::Stopped | State::Exited, Input::Start | Input::Restart) => self.start_afresh(),
            (State::Stopped | State::Exited, Input::Stop | Input::Kill) => (State::Stopped, None),
            // Somebody stopped it between the spawn and its result.
            (State::Stopped | State::Exited, Input::Spawned) => self.terminate(now, Next::Stay),
            (
                State::Stopped | State::Exited,
                Input::SpawnFailed | Input::Exited { .. } | Input::GroupGone | Input::Timeout,
            ) => unchanged,

            (State::Starting, Input::Start | Input::Restart) => unchanged,
            (State::Starting, Input::Stop | Input::Kill) => (State::Stopped, None),
            (State::Starting, Input::Spawned) => (State::Running { since: now }, None),
            // An instant death whatever the threshold: with zero it would be tried again without end.
            (State::Starting, Input::SpawnFailed) => self.died(now, false, true),
            (State::Starting, Input::Exited { success, .. }) => self.died(now, success, true),
            (State::Starting, Input::GroupGone | Input::Timeout) => unchanged,

            (State::Running { .. }, Input::Stop) => self.terminate(now, Next::Stay),
            (State::Running { .. }, Input::Restart) => self.terminate(now, Next::Start),
            (State::Running { .. }, Input::Kill) => killed(Next::Stay),
            (State::Running { since }, Input::Exited { success, .. }) => {
                let lived = now.saturating_duration_since(since);
                self.died(now, success, lived < self.policy.threshold)
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
            (State::BackingOff { until }, Input::Timeout) if now >= until => start(),
            (
                State::BackingOff { .. },
                Input::SpawnFailed | Input::Exited { .. } | Input::GroupGone | Input::Timeout,
            ) => unchanged,

            (State::Stopping { kill_at, next, leader }, input) => {
                self.decide_stopping(now, input, kill_at, next, leader)
            }
        }
    }

    /// The part of `decide` for a process that is stopping.
    fn decide_stopping(
        &mut self,
        now: Instant,
        input: Input,
        kill_at: Option<Instant>,
        next: Next,
        leader: Leader,
    ) -> (State, Option<Action>) {
        let unchanged = (self.state, None);
        let stopping = |next, leader| State::Stopping { kill_at, next, leader };
        match (input, leader) {
            (Input::Start | Input::Restart, _) => {
                // As if it had come after the stop, unless it is being restarted already.
                if next == Next::Stay {
                    self.delay = self.policy.first_delay();
                }
                (stopping(Next::Start, leader), None)
            }
            (Input::Stop, _) => (stopping(Next::Stay, leader), None),
            (Input::Kill, Leader::Alive) => killed(Next::Stay),
            (Input::Kill, Leader::Gone) => (State::Stopped, Some(Action::Kill)),
            // A process nobody wants any more, in place of the one that is gone.
            (Input::Spawned, Leader::Gone) => (stopping(next, Leader::Alive), Some(Action::Terminate)),
            (Input::Spawned, Leader::Alive) | (Input::SpawnFailed, _) => unchanged,
            // Once the whole group has been killed there is nothing left to wait for.
            (Input::Exited { group_left, .. }, _) if group_left && kill_at.is_some() => {
                (stopping(next, Leader::Gone), None)
            }
            (Input::Exited { .. }, _) | (Input::GroupGone, Leader::Gone) => match next {
                Next::Stay => (State::Stopped, None),
                Next::Start => start(),
            },
            (Input::GroupGone, Leader::Alive) => unchanged,
            (Input::Timeout, _) if kill_at.is_none_or(|kill_at| now < kill_at) => unchanged,
            (Input::Timeout, Leader::Alive) => killed(next),
            // One action at a time: the kill now, the spawn by the next time-out, which is due already.
            (Input::Timeout, Leader::Gone) => match next {
                Next::Stay => (State::Stopped, Some(Action::Kill)),
                Next::Start => (State::BackingOff { until: now }, Some(Action::Kill)),
            },
        }
    }

    /// A deliberate start: what was before does not count.
    fn start_afresh(&mut self) -> (State, Option<Action>) {
        self.delay = self.policy.first_delay();
        start()
    }

    fn terminate(&self, now: Instant, next: Next) -> (State, Option<Action>) {
        let stopping =
            State::Stopping { kill_at: Some(after(now, self.policy.kill_time)), next, leader: Leader::Alive };
        (stopping, Some(Action::Terminate))
    }

    /// It has ended by itself, or could not be spawned.
    fn died(&mut self, now: Instant, success: bool, instantly: bool) -> (State, Option<Action>) {
        match self.policy.restart {
            Restart::Never => return (State::Exited, None),
            Restart::OnFailure if success => return (State::Exited, None),
            Restart::OnFailure | Restart::Always => {}
        }
        if !instantly {
            return self.start_afresh();
        }
        let until = after(now, self.delay);
        self.delay = self.policy.next_delay(self.delay);
        (State::BackingOff { until }, None)
    }
}

fn start() -> (State, Option<Action>) {
    (State::Starting, Some(Action::Spawn))
}

fn killed(next: Next) -> (State, Option<Action>) {
    let stopping = State::Stopping { kill_at: None, next, leader: Leader::Alive };
    (stopping, Some(Action::Kill))
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
mod tests {
    use super::{Action, Input as I, Leader, Lifecycle, Next, Policy, PolicyError, State as S};
    use super::{Duration, Instant, Restart};

    const CRASH: I = exited(false, false);
    const CRASH_LEFT: I = exited(false, true);
    const DONE: I = exited(true, false);
    const DONE_LEFT: I = exited(true, true);
    const SPAWN: Option<Action> = Some(Action::Spawn);
    const TERM: Option<Action> = Some(Action::Terminate);
    const KILL: Option<Action> = Some(Action::Kill);

    const fn exited(success: bool, group_left: bool) -> I {
        I::Exited { success, group_left }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Threshold 10 s, waits of 2 to 10 s, as in Twisted's tests of its monitor.
    fn twisted() -> Policy {
        Policy { threshold: secs(10), min_restart_delay: secs(2), max_restart_delay: secs(10), ..Policy::default() }
    }

    fn with_restart(restart: Restart) -> Policy {
        Policy { restart, ..Policy::default() }
    }

    /// One process in virtual time. Spawning takes none, and works unless `broken`.
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

        /// With the process running from the start, and nothing in the log.
        fn running(policy: Policy) -> Self {
            let mut world = Self::new(policy);
            world.tell(I::Start);
            world.log.clear();
            world
        }

        fn seconds(&self) -> f64 {
            (self.now - self.epoch).as_secs_f64()
        }

        /// Feeds an input, carries out a spawn, and logs what was to be done.
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
            self.now = self.it.deadline().expect("nothing to wait for");
            self.tell(I::Timeout)
        }

        /// The waits of so many instant deaths, in seconds.
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
        while world.tell(CRASH).it.deadline().unwrap() - world.epoch <= year {
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
        assert_eq!(world.it.deadline(), None);
        assert_eq!(world.tell(CRASH).it.state(), S::Stopped);
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
        world.tell(I::Restart).tell(DONE_LEFT).wait().wait();
        assert_eq!(world.log[2..], [(2.0, Action::Terminate), (7.0, Action::Kill), (7.0, Action::Spawn)]);
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

    // Every pair.

    /// The wait after the next instant death, in seconds, in the tables: it was 4.
    const KEPT: u64 = 4;
    const FRESH: u64 = 1;
    const GROWN: u64 = 8;

    /// One line of a table: an input, the state that follows, what is to be done, the next wait.
    type Row = (I, S, Option<Action>, u64);

    /// Checks what each input does to `state` at `now`.
    #[track_caller]
    fn check(policy: &Policy, now: Instant, state: S, rows: &[Row]) {
        for &(input, next_state, action, delay) in rows {
            let mut it = Lifecycle { policy: policy.clone(), state, delay: secs(KEPT) };
            let found = (it.handle(now, input), it.state(), it.delay);
            let expected = (action, next_state, secs(delay));
            assert_eq!(found, expected, "{state:?} and {input:?}");
        }
    }

    /// As `check`, with the default policy; the rows must be all inputs.
    #[track_caller]
    fn check_all(now: Instant, state: S, rows: [Row; 12]) {
        let inputs = rows.map(|(input, ..)| input);
        let all = [
            I::Start,
            I::Stop,
            I::Restart,
            I::Kill,
            I::Spawned,
            I::SpawnFailed,
            CRASH,
            CRASH_LEFT,
            DONE,
            DONE_LEFT,
            I::GroupGone,
            I::Timeout,
        ];
        assert_eq!(inputs, all);
        check(&Policy::default(), now, state, &rows);
    }

    fn stopping(kill_at: Option<Instant>, next: Next, leader: Leader) -> S {
        S::Stopping { kill_at, next, leader }
    }

    #[test]
    fn every_pair_of_a_process_that_is_not_there() {
        let now = World::new(Policy::default()).now;
        let unwanted = stopping(Some(now + secs(5)), Next::Stay, Leader::Alive);
        let backing_off = S::BackingOff { until: now + secs(4) };
        check_all(
            now,
            S::Stopped,
            [
                (I::Start, S::Starting, SPAWN, FRESH),
                (I::Stop, S::Stopped, None, KEPT),
                (I::Restart, S::Starting, SPAWN, FRESH),
                (I::Kill, S::Stopped, None, KEPT),
                (I::Spawned, unwanted, TERM, KEPT),
                (I::SpawnFailed, S::Stopped, None, KEPT),
                (CRASH, S::Stopped, None, KEPT),
                (CRASH_LEFT, S::Stopped, None, KEPT),
                (DONE, S::Stopped, None, KEPT),
                (DONE_LEFT, S::Stopped, None, KEPT),
                (I::GroupGone, S::Stopped, None, KEPT),
                (I::Timeout, S::Stopped, None, KEPT),
            ],
        );
        check_all(
            now,
            S::Exited,
            [
                (I::Start, S::Starting, SPAWN, FRESH),
                (I::Stop, S::Stopped, None, KEPT),
                (I::Restart, S::Starting, SPAWN, FRESH),
                (I::Kill, S::Stopped, None, KEPT),
                (I::Spawned, unwanted, TERM, KEPT),
                (I::SpawnFailed, S::Exited, None, KEPT),
                (CRASH, S::Exited, None, KEPT),
                (CRASH_LEFT, S::Exited, None, KEPT),
                (DONE, S::Exited, None, KEPT),
                (DONE_LEFT, S::Exited, None, KEPT),
                (I::GroupGone, S::Exited, None, KEPT),
                (I::Timeout, S::Exited, None, KEPT),
            ],
        );
        check_all(
            now,
            S::Starting,
            [
                (I::Start, S::Starting, None, KEPT),
                (I::Stop, S::Stopped, None, KEPT),
                (I::Restart, S::Starting, None, KEPT),
                (I::Kill, S::Stopped, None, KEPT),
                (I::Spawned, S::Running { since: now }, None, KEPT),
                (I::SpawnFailed, backing_off, None, GROWN),
                (CRASH, backing_off, None, GROWN),
                (CRASH_LEFT, backing_off, None, GROWN),
                (DONE, backing_off, None, GROWN),
                (DONE_LEFT, backing_off, None, GROWN),
                (I::GroupGone, S::Starting, None, KEPT),
                (I::Timeout, S::Starting, None, KEPT),
            ],
        );
    }

    #[test]
    fn every_pair_of_a_running_process() {
        let since = World::new(Policy::default()).now;
        let running = S::Running { since };

        let now = since + secs(1); // a long run
        let terminated = |next| stopping(Some(now + secs(5)), next, Leader::Alive);
        let killed = stopping(None, Next::Stay, Leader::Alive);
        check_all(
            now,
            running,
            [
                (I::Start, running, None, KEPT),
                (I::Stop, terminated(Next::Stay), TERM, KEPT),
                (I::Restart, terminated(Next::Start), TERM, KEPT),
                (I::Kill, killed, KILL, KEPT),
                (I::Spawned, running, None, KEPT),
                (I::SpawnFailed, running, None, KEPT),
                (CRASH, S::Starting, SPAWN, FRESH),
                (CRASH_LEFT, S::Starting, SPAWN, FRESH),
                (DONE, S::Starting, SPAWN, FRESH),
                (DONE_LEFT, S::Starting, SPAWN, FRESH),
                (I::GroupGone, running, None, KEPT),
                (I::Timeout, running, None, KEPT),
            ],
        );

        let now = since + Duration::from_millis(999); // an instant death
        let terminated = |next| stopping(Some(now + secs(5)), next, Leader::Alive);
        let backing_off = S::BackingOff { until: now + secs(4) };
        check_all(
            now,
            running,
            [
                (I::Start, running, None, KEPT),
                (I::Stop, terminated(Next::Stay), TERM, KEPT),
                (I::Restart, terminated(Next::Start), TERM, KEPT),
                (I::Kill, killed, KILL, KEPT),
                (I::Spawned, running, None, KEPT),
                (I::SpawnFailed, running, None, KEPT),
                (CRASH, backing_off, None, GROWN),
                (CRASH_LEFT, backing_off, None, GROWN),
                (DONE, backing_off, None, GROWN),
                (DONE_LEFT, backing_off, None, GROWN),
                (I::GroupGone, running, None, KEPT),
                (I::Timeout, running, None, KEPT),
            ],
        );
    }

    #[test]
    fn every_pair_of_a_process_that_backs_off() {
        let now = World::new(Policy::default()).now;
        let until = now + secs(2);
        let backing_off = S::BackingOff { until };
        check_all(
            now,
            backing_off,
            [
                (I::Start, S::Starting, SPAWN, FRESH),
                (I::Stop, S::Stopped, None, KEPT),
                (I::Restart, S::Starting, SPAWN, KEPT),
                (I::Kill, S::Stopped, None, KEPT),
                (I::Spawned, S::Running { since: now }, None, KEPT),
                (I::SpawnFailed, backing_off, None, KEPT),
                (CRASH, backing_off, None, KEPT),
                (CRASH_LEFT, backing_off, None, KEPT),
                (DONE, backing_off, None, KEPT),
                (DONE_LEFT, backing_off, None, KEPT),
                (I::GroupGone, backing_off, None, KEPT),
                (I::Timeout, backing_off, None, KEPT), // too early
            ],
        );
        for due in [until, until + secs(1)] {
            let rows = [(I::Timeout, S::Starting, SPAWN, KEPT)];
            check(&Policy::default(), due, backing_off, &rows);
        }
    }

    #[test]
    fn every_pair_of_a_process_that_was_terminated() {
        let now = World::new(Policy::default()).now;
        let kill_at = now + secs(2);
        let alive = |next| stopping(Some(kill_at), next, Leader::Alive);
        let gone = |next| stopping(Some(kill_at), next, Leader::Gone);
        let killed = |next| stopping(None, next, Leader::Alive);
        check_all(
            now,
            alive(Next::Stay),
            [
                (I::Start, alive(Next::Start), None, FRESH),
                (I::Stop, alive(Next::Stay), None, KEPT),
                (I::Restart, alive(Next::Start), None, FRESH),
                (I::Kill, killed(Next::Stay), KILL, KEPT),
                (I::Spawned, alive(Next::Stay), None, KEPT),
                (I::SpawnFailed, alive(Next::Stay), None, KEPT),
                (CRASH, S::Stopped, None, KEPT),
                (CRASH_LEFT, gone(Next::Stay), None, KEPT),
                (DONE, S::Stopped, None, KEPT),
                (DONE_LEFT, gone(Next::Stay), None, KEPT),
                (I::GroupGone, alive(Next::Stay), None, KEPT),
                (I::Timeout, alive(Next::Stay), None, KEPT), // too early
            ],
        );
        check_all(
            now,
            alive(Next::Start),
            [
                (I::Start, alive(Next::Start), None, KEPT),
                (I::Stop, alive(Next::Stay), None, KEPT),
                (I::Restart, alive(Next::Start), None, KEPT),
                (I::Kill, killed(Next::Stay), KILL, KEPT),
                (I::Spawned, alive(Next::Start), None, KEPT),
                (I::SpawnFailed, alive(Next::Start), None, KEPT),
                (CRASH, S::Starting, SPAWN, KEPT),
                (CRASH_LEFT, gone(Next::Start), None, KEPT),
                (DONE, S::Starting, SPAWN, KEPT),
                (DONE_LEFT, gone(Next::Start), None, KEPT),
                (I::GroupGone, alive(Next::Start), None, KEPT),
                (I::Timeout, alive(Next::Start), None, KEPT), // too early
            ],
        );
        check_all(
            now,
            gone(Next::Stay),
            [
                (I::Start, gone(Next::Start), None, FRESH),
                (I::Stop, gone(Next::Stay), None, KEPT),
                (I::Restart, gone(Next::Start), None, FRESH),
                (I::Kill, S::Stopped, KILL, KEPT),
                (I::Spawned, alive(Next::Stay), TERM, KEPT),
                (I::SpawnFailed, gone(Next::Stay), None, KEPT),
                (CRASH, S::Stopped, None, KEPT),
                (CRASH_LEFT, gone(Next::Stay), None, KEPT),
                (DONE, S::Stopped, None, KEPT),
                (DONE_LEFT, gone(Next::Stay), None, KEPT),
                (I::GroupGone, S::Stopped, None, KEPT),
                (I::Timeout, gone(Next::Stay), None, KEPT), // too early
            ],
        );
        check_all(
            now,
            gone(Next::Start),
            [
                (I::Start, gone(Next::Start), None, KEPT),
                (I::Stop, gone(Next::Stay), None, KEPT),
                (I::Restart, gone(Next::Start), None, KEPT),
                (I::Kill, S::Stopped, KILL, KEPT),
                (I::Spawned, alive(Next::Start), TERM, KEPT),
                (I::SpawnFailed, gone(Next::Start), None, KEPT),
                (CRASH, S::Starting, SPAWN, KEPT),
                (CRASH_LEFT, gone(Next::Start), None, KEPT),
                (DONE, S::Starting, SPAWN, KEPT),
                (DONE_LEFT, gone(Next::Start), None, KEPT),
                (I::GroupGone, S::Starting, SPAWN, KEPT),
                (I::Timeout, gone(Next::Start), None, KEPT), // too early
            ],
        );
        for due in [kill_at, kill_at + secs(1)] {
            let again = S::BackingOff { until: due };
            for (state, next_state) in [
                (alive(Next::Stay), killed(Next::Stay)),
                (alive(Next::Start), killed(Next::Start)),
                (gone(Next::Stay), S::Stopped),
                (gone(Next::Start), again),
            ] {
                let rows = [(I::Timeout, next_state, KILL, KEPT)];
                check(&Policy::default(), due, state, &rows);
            }
        }
    }

    #[test]
    fn every_pair_of_a_process_that_was_killed() {
        let now = World::new(Policy::default()).now;
        let alive = |next| stopping(None, next, Leader::Alive);
        check_all(
            now,
            alive(Next::Stay),
            [
                (I::Start, alive(Next::Start), None, FRESH),
                (I::Stop, alive(Next::Stay), None, KEPT),
                (I::Restart, alive(Next::Start), None, FRESH),
                (I::Kill, alive(Next::Stay), KILL, KEPT),
                (I::Spawned, alive(Next::Stay), None, KEPT),
                (I::SpawnFailed, alive(Next::Stay), None, KEPT),
                (CRASH, S::Stopped, None, KEPT),
                (CRASH_LEFT, S::Stopped, None, KEPT),
                (DONE, S::Stopped, None, KEPT),
                (DONE_LEFT, S::Stopped, None, KEPT),
                (I::GroupGone, alive(Next::Stay), None, KEPT),
                (I::Timeout, alive(Next::Stay), None, KEPT),
            ],
        );
        check_all(
            now,
            alive(Next::Start),
            [
                (I::Start, alive(Next::Start), None, KEPT),
                (I::Stop, alive(Next::Stay), None, KEPT),
                (I::Restart, alive(Next::Start), None, KEPT),
                (I::Kill, alive(Next::Stay), KILL, KEPT),
                (I::Spawned, alive(Next::Start), None, KEPT),
                (I::SpawnFailed, alive(Next::Start), None, KEPT),
                (CRASH, S::Starting, SPAWN, KEPT),
                (CRASH_LEFT, S::Starting, SPAWN, KEPT),
                (DONE, S::Starting, SPAWN, KEPT),
                (DONE_LEFT, S::Starting, SPAWN, KEPT),
                (I::GroupGone, alive(Next::Start), None, KEPT),
                (I::Timeout, alive(Next::Start), None, KEPT),
            ],
        );
        // No input leads here: with the group killed, the exit of its leader ends the stop.
        let gone = |next| stopping(None, next, Leader::Gone);
        check_all(
            now,
            gone(Next::Stay),
            [
                (I::Start, gone(Next::Start), None, FRESH),
                (I::Stop, gone(Next::Stay), None, KEPT),
                (I::Restart, gone(Next::Start), None, FRESH),
                (I::Kill, S::Stopped, KILL, KEPT),
                (I::Spawned, alive(Next::Stay), TERM, KEPT),
                (I::SpawnFailed, gone(Next::Stay), None, KEPT),
                (CRASH, S::Stopped, None, KEPT),
                (CRASH_LEFT, S::Stopped, None, KEPT),
                (DONE, S::Stopped, None, KEPT),
                (DONE_LEFT, S::Stopped, None, KEPT),
                (I::GroupGone, S::Stopped, None, KEPT),
                (I::Timeout, gone(Next::Stay), None, KEPT),
            ],
        );
        check_all(
            now,
            gone(Next::Start),
            [
                (I::Start, gone(Next::Start), None, KEPT),
                (I::Stop, gone(Next::Stay), None, KEPT),
                (I::Restart, gone(Next::Start), None, KEPT),
                (I::Kill, S::Stopped, KILL, KEPT),
                (I::Spawned, alive(Next::Start), TERM, KEPT),
                (I::SpawnFailed, gone(Next::Start), None, KEPT),
                (CRASH, S::Starting, SPAWN, KEPT),
                (CRASH_LEFT, S::Starting, SPAWN, KEPT),
                (DONE, S::Starting, SPAWN, KEPT),
                (DONE_LEFT, S::Starting, SPAWN, KEPT),
                (I::GroupGone, S::Starting, SPAWN, KEPT),
                (I::Timeout, gone(Next::Start), None, KEPT),
            ],
        );
    }

    #[test]
    fn every_end_under_the_other_policies() {
        let now = World::new(Policy::default()).now;
        let later = now + secs(1);
        let running = S::Running { since: now };
        let backing_off = S::BackingOff { until: now + secs(4) };

        let never = with_restart(Restart::Never);
        let over = [
            (CRASH, S::Exited, None, KEPT),
            (CRASH_LEFT, S::Exited, None, KEPT),
            (DONE, S::Exited, None, KEPT),
            (DONE_LEFT, S::Exited, None, KEPT),
        ];
        check(&never, now, running, &over);
        check(&never, later, running, &over);
        check(&never, now, S::Starting, &over);
        let failed = [(I::SpawnFailed, S::Exited, None, KEPT)];
        check(&never, now, S::Starting, &failed);

        let on_failure = with_restart(Restart::OnFailure);
        let instant = [
            (CRASH, backing_off, None, GROWN),
            (CRASH_LEFT, backing_off, None, GROWN),
            (DONE, S::Exited, None, KEPT),
            (DONE_LEFT, S::Exited, None, KEPT),
        ];
        check(&on_failure, now, running, &instant);
        check(&on_failure, now, S::Starting, &instant);
        let failed = [(I::SpawnFailed, backing_off, None, GROWN)];
        check(&on_failure, now, S::Starting, &failed);
        let long = [
            (CRASH, S::Starting, SPAWN, FRESH),
            (CRASH_LEFT, S::Starting, SPAWN, FRESH),
            (DONE, S::Exited, None, KEPT),
            (DONE_LEFT, S::Exited, None, KEPT),
        ];
        check(&on_failure, later, running, &long);
    }

    // Whatever happens.

    /// Knuth's linear congruential generator.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % limit
        }

        fn flip(&mut self) -> bool {
            self.below(2) == 0
        }

        fn pick<T: Copy>(&mut self, from: &[T]) -> T {
            from[self.below(from.len() as u64) as usize]
        }

        fn policy(&mut self) -> Policy {
            Policy {
                restart: self.pick(&[Restart::Always, Restart::OnFailure, Restart::Never]),
                threshold: secs(self.below(3)),
                kill_time: secs(self.below(4)),
                min_restart_delay: secs(self.below(3)),
                max_restart_delay: secs(2 + self.below(9)),
                ..Policy::default()
            }
        }
    }

    /// What holds in any state.
    fn check_state(it: &Lifecycle) {
        let has_deadline = match it.state() {
            S::BackingOff { .. } => true,
            S::Stopping { kill_at, leader, .. } => {
                assert!(leader == Leader::Alive || kill_at.is_some());
                kill_at.is_some()
            }
            S::Stopped | S::Starting | S::Running { .. } | S::Exited => false,
        };
        assert_eq!(it.deadline().is_some(), has_deadline);
        assert!(it.delay >= it.policy.min_restart_delay);
        assert!(it.delay <= it.policy.max_restart_delay);
    }

    /// A process, and what is left of its group, as the kernel would have them.
    struct Kernel {
        alive: bool,
        /// The group of a process that was told to stop outlives it.
        stragglers: bool,
    }

    /// Feeds one input that the kernel's state allows, and carries out what follows from it.
    fn step(it: &mut Lifecycle, now: Instant, input: I, kernel: &mut Kernel, random: &mut Random) {
        let mut input = Some(input);
        while let Some(told) = input.take() {
            match told {
                I::Exited { .. } => kernel.alive = false,
                I::Spawned => kernel.alive = true,
                _ => {}
            }
            match it.handle(now, told) {
                Some(Action::Spawn) => {
                    assert!(!kernel.alive, "a second process beside a living one");
                    assert_eq!(it.state(), S::Starting);
                    input = Some(random.pick(&[I::Spawned, I::Spawned, I::SpawnFailed]));
                }
                Some(Action::Terminate) => assert!(kernel.alive, "nobody to terminate"),
                Some(Action::Kill) => assert!(kernel.alive || kernel.stragglers),
                None => {}
            }
        }
        check_state(it);
        let (runs, lingers) = match it.state() {
            S::Running { .. } => (true, false),
            S::Stopping { leader, .. } => (leader == Leader::Alive, leader == Leader::Gone),
            _ => (false, false),
        };
        assert_eq!(runs, kernel.alive, "{:?}", it.state());
        kernel.stragglers = lingers;
    }

    #[test]
    fn a_random_life_keeps_its_invariants() {
        let mut random = Random(1);
        for _ in 0..300 {
            let mut it = Lifecycle::new(random.policy());
            let mut now = World::new(Policy::default()).now;
            let mut kernel = Kernel { alive: false, stragglers: false };
            for _ in 0..200 {
                now += Duration::from_millis(500 * random.below(4));
                if let (Some(deadline), true) = (it.deadline(), random.flip()) {
                    now = now.max(deadline);
                }
                let mut possible = vec![I::Start, I::Stop, I::Restart, I::Kill];
                possible.extend([I::Timeout; 4]);
                if kernel.alive {
                    possible.extend([exited(random.flip(), random.flip()); 6]);
                }
                if kernel.stragglers {
                    possible.extend([I::GroupGone; 3]);
                }
                let input = random.pick(&possible);
                step(&mut it, now, input, &mut kernel, &mut random);
                if random.below(50) == 0 {
                    it.set_policy(random.policy());
                    check_state(&it);
                }
            }
            // A stop leads to `Stopped` once the process is gone, and nothing is started on the way.
            step(&mut it, now, I::Stop, &mut kernel, &mut random);
            if kernel.alive && random.flip() {
                now = it.deadline().map_or(now, |deadline| now.max(deadline));
                step(&mut it, now, I::Timeout, &mut kernel, &mut random);
            }
            if kernel.alive {
                let end = exited(random.flip(), random.flip());
                step(&mut it, now, end, &mut kernel, &mut random);
            }
            if kernel.stragglers {
                now = now.max(it.deadline().unwrap());
                let end = random.pick(&[I::GroupGone, I::Timeout]);
                step(&mut it, now, end, &mut kernel, &mut random);
            }
            assert_eq!((it.state(), it.deadline()), (S::Stopped, None));
        }
    }

    #[test]
    fn impossible_inputs_do_no_harm() {
        let inputs = [
            I::Start,
            I::Stop,
            I::Restart,
            I::Kill,
            I::Spawned,
            I::SpawnFailed,
            CRASH,
            CRASH_LEFT,
            DONE,
            DONE_LEFT,
            I::GroupGone,
            I::Timeout,
        ];
        let mut random = Random(2);
        for _ in 0..100 {
            let mut it = Lifecycle::new(random.policy());
            let epoch = World::new(Policy::default()).now;
            for _ in 0..500 {
                // Not even the clock is in order.
                let now = epoch + Duration::from_millis(random.below(20_000));
                it.handle(now, random.pick(&inputs));
                check_state(&it);
            }
        }
    }
}
