//! The figures that say how a monitored process is restarted and stopped.
//!
//! This file decides nothing; `restart` does. The one rule: a policy that passes
//! [`Policy::validate`] never makes a busy loop.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// The wait after a second instant death is at least this long, and so is the upper limit of the
/// wait. With less, a program that cannot start would keep the machine busy.
const SHORTEST_GROWN_DELAY: Duration = Duration::from_millis(10);

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
        } else if !(1..=64).contains(&self.stop_signal) {
            Err(PolicyError::NotASignal { stop_signal: self.stop_signal })
        } else {
            Ok(())
        }
    }

    /// Tells whether an exit with or without success is followed by a restart.
    pub(super) fn wants_restart(&self, success: bool) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => !success,
            Restart::Never => false,
        }
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
