//! How a monitored process is restarted and stopped: the figures.
//! Decides nothing; `restart` does. The rule: a policy that passes [`Policy::validate`] never makes a busy loop.

use std::error::Error;
use std::fmt;
use std::time::Duration;

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
    /// What becomes of those that a process which ends by itself leaves behind. They are killed by default.
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

    /// Whether an exit with or without success is followed by a restart.
    pub(super) fn wants_restart(&self, success: bool) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => !success,
            Restart::Never => false,
        }
    }

    /// The wait after the first instant death. Not above the maximum, even if nobody has validated.
    pub(super) fn first_delay(&self) -> Duration {
        self.min_restart_delay.min(self.max_restart_delay)
    }

    /// The wait after an instant death that follows one with a wait of `delay`.
    pub(super) fn next_delay(&self, delay: Duration) -> Duration {
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

/// What becomes of the rest of a process's tree when the process ends by itself. A stop always ends the whole tree.
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
    /// It is killed, and a restart waits until it is gone, though not longer than two seconds: a worker that outlives its master
    /// would keep the port.
    Kill,
    /// It goes on, beside the next process, and ends with a stop. It is watched by file descriptors; of all but the last eight
    /// processes that have left something behind these are closed, after which a stop does not reach what is left in a
    /// process group. What is left in a cgroup is always reached.
    Leave,
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
