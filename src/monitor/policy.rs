//! The figures that say how a monitored process is restarted and stopped.
//!
//! This file decides nothing; `restart` does. The one rule: a policy that passes
//! [`Policy::validate`] never makes a busy loop.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::exit::Exit;
use crate::io_error::into_io_error;

/// The wait after a second instant death is at least this long, and so is the upper limit of the
/// wait. With less, a program that cannot start would keep the machine busy.
const SHORTEST_GROWN_DELAY: Duration = Duration::from_millis(10);

/// The meaning of an exit.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Input, Lifecycle, Outcome, Policy, State};
/// use std::time::Instant;
///
/// let (now, mut web) = (Instant::now(), Lifecycle::new(Policy::default()));
/// let misconfigured = Input::Exited { outcome: Outcome::Fatal, group_left: false };
/// for input in [Input::Start, Input::Spawned, misconfigured] {
///     web.handle(now, input);
/// }
/// assert!(matches!(web.state(), State::Failed { .. }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with code 0, or another one of [`Policy::success_codes`].
    Success,
    /// It failed.
    Failure,
    /// It exited with one of [`Policy::fatal_codes`], so a restart would not help.
    Fatal,
}

/// The settings by which one process is restarted and stopped.
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
    /// The run time below which an exit is an instant death, whose restart has to wait. 1 s by
    /// default.
    ///
    /// The time is counted from the start of the process to its exit. A process that lived exactly
    /// this long has not died an instant death. With zero no exit is an instant death, and each
    /// restart is immediate.
    pub threshold: Duration,
    /// How long a process may take to stop after its stop signal before it is killed. 5 s by
    /// default.
    pub kill_time: Duration,
    /// The wait after the first instant death. It doubles with each further one. 1 s by default.
    /// With zero the first restart is immediate, and the wait grows from 10 ms on.
    pub min_restart_delay: Duration,
    /// The longest wait after an instant death. One hour by default, and 10 ms at least.
    pub max_restart_delay: Duration,
    /// The exits that are followed by a restart. All of them by default.
    pub restart: Restart,
    /// What happens to the leftover processes of a process that exits on its own. They are killed
    /// by default.
    pub leftovers: Leftovers,
    /// The signal that asks the process to stop. `SIGTERM` (15) by default.
    #[doc(alias = "SIGTERM")]
    pub stop_signal: i32,
    /// The processes that get the stop signal. All of the tree by default.
    pub stop_scope: StopScope,
    /// The steps of a stop, one after the other, before the kill. If there are none, which is the
    /// default, a stop has one step: `stop_signal`, `stop_scope` and `kill_time`.
    pub stop: Vec<StopStep>,
    /// How often the process may be started before it has failed for good. A restart on request
    /// does not count. Without limit by default.
    pub restart_limit: Option<StartLimit>,
    /// The exit codes that are a success beside 0.
    pub success_codes: Vec<i32>,
    /// The exit codes that mean that a restart would not help: the process has failed then.
    pub fatal_codes: Vec<i32>,
    /// A random part of the wait before a restart, in percent of it, that is added to it. A restart
    /// without a wait gets this part of the shortest wait. 0 by default, and 100 at most.
    pub jitter: u32,
}

/// A number of starts within a time.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Action, Input, Lifecycle, Policy, StartLimit, State};
/// use std::time::{Duration, Instant};
///
/// let mut policy = Policy::default();
/// policy.restart_limit = Some(StartLimit { starts: 2, within: Duration::from_secs(60) });
/// let (mut now, mut web) = (Instant::now(), Lifecycle::new(policy));
/// web.handle(now, Input::Start);
/// web.handle(now, Input::SpawnFailed);
/// now += Duration::from_secs(1);
/// assert_eq!(web.handle(now, Input::Timeout), Some(Action::Spawn));
/// web.handle(now, Input::SpawnFailed);
/// assert!(matches!(web.state(), State::Failed { .. }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartLimit {
    /// The number of starts that are allowed. 1 or more.
    pub starts: u32,
    /// The time in which they are counted. It slides: a start is forgotten this long after it.
    pub within: Duration,
}

/// One step of a stop.
///
/// # Examples
///
/// A graceful stop of the master, then SIGTERM for all:
///
/// ```
/// use childminder::restart::{Policy, StopAction, StopScope, StopStep};
/// use std::time::Duration;
///
/// let mut policy = Policy::default();
/// let quit = StopAction::Signal(3);
/// policy.stop = vec![
///     StopStep { action: quit, scope: StopScope::Main, wait: Duration::from_secs(30) },
///     StopStep { action: StopAction::Signal(15), scope: StopScope::All, wait: Duration::from_secs(5) },
/// ];
/// assert_eq!(policy.validate(), Ok(()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopStep {
    /// What asks the process to stop.
    pub action: StopAction,
    /// The processes that get the signal.
    pub scope: StopScope,
    /// How long the process may take to stop before the next step, or the kill, follows.
    pub wait: Duration,
}

/// What asks a process to stop.
///
/// # Examples
///
/// ```
/// use childminder::restart::StopAction;
/// use std::sync::Arc;
///
/// let stop = StopAction::Command(Arc::new(vec!["redis-cli".into(), "shutdown".into()]));
/// assert_ne!(stop, StopAction::Signal(15));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopAction {
    /// A signal, by its number.
    Signal(i32),
    /// A program and its arguments. It runs with the settings of the process's own command, with
    /// the process's pid in the variable `MAINPID`, and ends with the stop at the latest.
    Command(Arc<Vec<OsString>>),
}

/// The processes that get the signal of a stop.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Policy, StopScope};
///
/// assert_eq!(Policy::default().stop_scope, StopScope::All);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StopScope {
    /// The process and everything that it has started, as far as its containment reaches.
    #[default]
    All,
    /// The process alone, which ends the others itself. When it is gone, or the step's time is
    /// over, the rest of the stop applies to all.
    Main,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            threshold: Duration::from_secs(1),
            kill_time: Duration::from_secs(5),
            min_restart_delay: Duration::from_secs(1),
            max_restart_delay: Duration::from_secs(3600),
            restart: Restart::Always,
            leftovers: Leftovers::Kill,
            stop_signal: libc::SIGTERM,
            stop_scope: StopScope::All,
            stop: Vec::new(),
            restart_limit: None,
            success_codes: Vec::new(),
            fatal_codes: Vec::new(),
            jitter: 0,
        }
    }
}

impl Policy {
    /// Checks that the values make sense together.
    ///
    /// # Errors
    ///
    /// A [`PolicyError`] that names the first rule that is broken.
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
        } else if let Some(stop_signal) = self.signals().find(|signal| !(1..=64).contains(signal)) {
            Err(PolicyError::NotASignal { stop_signal })
        } else if self.stop.iter().any(|step| matches!(&step.action, StopAction::Command(words) if words.is_empty())) {
            Err(PolicyError::EmptyStopCommand)
        } else if self.restart_limit.is_some_and(|limit| limit.starts == 0) {
            Err(PolicyError::NoStarts)
        } else if self.jitter > 100 {
            Err(PolicyError::TooMuchJitter { jitter: self.jitter })
        } else {
            Ok(())
        }
    }

    fn signals(&self) -> impl Iterator<Item = i32> {
        let steps = self.stop.iter().filter_map(|step| match step.action {
            StopAction::Signal(signal) => Some(signal),
            StopAction::Command(_) => None,
        });
        std::iter::once(self.stop_signal).chain(steps)
    }

    /// Tells whether an exit is followed by a restart.
    pub(super) fn wants_restart(&self, outcome: Outcome) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => outcome != Outcome::Success,
            Restart::Never => false,
        }
    }

    /// What an exit means.
    pub(super) fn outcome(&self, exit: &Exit) -> Outcome {
        match exit.code() {
            Some(code) if self.fatal_codes.contains(&code) => Outcome::Fatal,
            Some(code) if code == 0 || self.success_codes.contains(&code) => Outcome::Success,
            _ => Outcome::Failure,
        }
    }

    /// A step of a stop, by its number from 0 on.
    pub(super) fn stop_step(&self, number: u32) -> Option<StopStep> {
        match (self.stop.is_empty(), number) {
            (true, 0) => {
                let action = StopAction::Signal(self.stop_signal);
                Some(StopStep { action, scope: self.stop_scope, wait: self.kill_time })
            }
            _ => self.stop.get(number as usize).cloned(),
        }
    }

    /// The time from the beginning of a stop to the end of this step.
    pub(super) fn stop_time(&self, number: u32) -> Duration {
        if self.stop.is_empty() {
            return self.kill_time;
        }
        let steps = self.stop.iter().take((number as usize).saturating_add(1));
        steps.fold(Duration::ZERO, |time, step| time.saturating_add(step.wait))
    }

    /// The wait after the first instant death. It is not above the maximum, even if the policy was
    /// not validated.
    pub(super) fn first_delay(&self) -> Duration {
        self.min_restart_delay.min(self.max_restart_delay)
    }

    /// The wait after an instant death that follows one with a wait of `delay`.
    pub(super) fn next_delay(&self, delay: Duration) -> Duration {
        let doubled = delay.saturating_mul(2);
        doubled.max(SHORTEST_GROWN_DELAY).min(self.max_restart_delay)
    }
}

/// The exits that are followed by a restart. All of them by default.
///
/// It applies to a process that exits on its own. A deliberate restart always starts the process
/// again.
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
    /// No exit: the process runs once.
    Never,
}

/// What happens to the leftover processes of a tree when its leader exits on its own. A stop always
/// ends the whole tree.
///
/// # Examples
///
/// ```
/// use childminder::restart::{Leftovers, Policy};
///
/// assert_eq!(Policy::default().leftovers, Leftovers::Kill);
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// They are killed, and a restart waits until they are gone, but not longer than two seconds.
    /// Otherwise a worker that outlives its master would keep the port.
    Kill,
    /// They go on, beside the next process, and end with a stop.
    ///
    /// They are watched by file descriptors, which are closed for all but the last eight exited
    /// processes that have left something behind. A stop does not reach leftover processes of a
    /// process group after that. It always reaches those in a cgroup.
    Leave,
    /// They have taken over, as after a program has replaced itself: nginx does that on SIGUSR2.
    /// The process counts as running until the last of them is gone. A stop ends them.
    ///
    /// Its exit status is that of the first process, because the system does not tell the others'.
    TakeOver,
}

/// The error of a [`Policy`] that is refused.
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
    /// The shortest wait is longer than the longest one.
    MinAboveMax {
        /// The value of `min_restart_delay`.
        min: Duration,
        /// The value of `max_restart_delay`.
        max: Duration,
    },
    /// The longest wait is below 10 ms, so a process that dies at once would be restarted without a
    /// pause.
    MaxTooShort {
        /// The value of `max_restart_delay`.
        max: Duration,
    },
    /// The stop signal is not in 1 to 64.
    NotASignal {
        /// The value of `stop_signal`, or of a step of the stop.
        stop_signal: i32,
    },
    /// A step of the stop is a command without a program.
    EmptyStopCommand,
    /// The limit of starts allows none.
    NoStarts,
    /// The jitter is above 100 percent.
    TooMuchJitter {
        /// The value of `jitter`.
        jitter: u32,
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
            Self::EmptyStopCommand => f.write_str("a step of stop is a command without a program"),
            Self::NoStarts => f.write_str("restart_limit allows no start"),
            Self::TooMuchJitter { jitter } => write!(f, "jitter {jitter} is above 100 percent"),
        }
    }
}

impl Error for PolicyError {}

into_io_error!(PolicyError, |_| std::io::ErrorKind::InvalidInput);
