//! Describes how a process ended: plain data, which the reaper fills in.
//!
//! It reaps nothing. The one rule: a status that could not be learned is *unknown*, never a success
//! and never "still running".

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::signal;

/// The exit status of a process, and the resources that it used.
///
/// It is made when the process is reaped (`wait4(2)`), and lent by
/// [`Event::Exited`](crate::Event::Exited).
///
/// ```
/// use childminder::{Command, Event, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// reactor.spawn_process(Command::new("sh").args(["-c", "exit 3"]))?;
/// let mut exit = None;
/// while exit.is_none() {
///     reactor.turn(None, |_, event| {
///         if let Event::Exited { exit: how, .. } = event {
///             exit = Some(*how);
///         }
///     })?;
/// }
/// let exit = exit.unwrap();
/// assert_eq!(exit.code(), Some(3));
/// assert_eq!(exit.to_string(), "exit status 3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A test of a host can make one: from an [`ExitStatus`], or with [`default`](Self::default), whose
/// status is unknown. It has used nothing and took no time, unless the test sets that.
///
/// ```
/// use std::os::unix::process::ExitStatusExt;
/// use std::process::ExitStatus;
/// use std::time::Duration;
///
/// use childminder::Exit;
///
/// let mut exit = Exit::from(ExitStatus::from_raw(libc::SIGKILL));
/// exit.wall_time = Duration::from_secs(3);
/// assert_eq!(exit.signal(), Some(9));
/// assert_eq!(Exit::from(ExitStatus::from_raw(3 << 8)).code(), Some(3));
/// assert!(!Exit::default().success());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The status as `wait4(2)` gave it. It is `None` if it is unknown, because other code reaped
    /// the process or the host ignores SIGCHLD (`ECHILD`).
    pub status: Option<ExitStatus>,
    /// The resources used by the process and by the children that it waited for. All zero if the
    /// status is unknown.
    pub usage: Usage,
    /// The time from just before its exec to the reap, on the monotonic clock. The child itself
    /// reads the clock before its exec, so the time that the spawn took is not in it.
    pub wall_time: Duration,
    /// The last signal sent to it through this library whose default action ends a process, if
    /// there was one.
    ///
    /// It may be the reason why the process ended. Signals that stop or continue a process, or do
    /// nothing to it (SIGWINCH, SIGURG, SIGCHLD), do not count.
    pub requested: Option<i32>,
}

impl Exit {
    /// Tells whether it exited with code 0. An unknown status is not a success.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Returns the exit code, or `None` if a signal ended it or the status is unknown.
    #[must_use]
    #[doc(alias = "WEXITSTATUS")]
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// Returns the signal that ended it, if one did.
    #[must_use]
    #[doc(alias = "WTERMSIG")]
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }

    /// Tells whether the signal that ended it also wrote a core file.
    #[must_use]
    #[doc(alias = "WCOREDUMP")]
    pub fn core_dumped(&self) -> bool {
        self.status.is_some_and(|status| status.core_dumped())
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { status: Some(status), ..Self::default() }
    }
}

/// Displayed as `exit status 3`, `signal 9 (SIGKILL)`, `signal 11 (SIGSEGV), core dumped` or
/// `status unknown`.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self.signal()) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(number)) => {
                write!(f, "signal {number}")?;
                if let Some(name) = signal::name(number) {
                    write!(f, " ({name})")?;
                }
                f.write_str(if self.core_dumped() { ", core dumped" } else { "" })
            }
            (None, None) => f.write_str("status unknown"),
        }
    }
}

/// The resources that a process used: the figures of `getrusage(2)` that Linux keeps.
///
/// The peak memory is the kernel's figure since the *spawn* of the process, not since its exec. A
/// child of `vfork` or `fork` starts with its parent's peak, so the figure is never below the
/// host's own resident size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time in user mode.
    pub user_time: Duration,
    /// CPU time in the kernel.
    pub system_time: Duration,
    /// Peak resident memory in bytes. If the process waited for children of its own, this is the
    /// peak of the largest one.
    #[doc(alias = "ru_maxrss")]
    pub max_rss: u64,
    /// Page faults that needed no I/O.
    #[doc(alias = "ru_minflt")]
    pub minor_faults: u64,
    /// Page faults that needed I/O.
    #[doc(alias = "ru_majflt")]
    pub major_faults: u64,
    /// Context switches because the process waited for something.
    #[doc(alias = "ru_nvcsw")]
    pub voluntary_switches: u64,
    /// Context switches because its time slice was over or a process of higher priority was ready.
    #[doc(alias = "ru_nivcsw")]
    pub involuntary_switches: u64,
    /// Number of times the file system had to read (512-byte blocks on Linux).
    #[doc(alias = "ru_inblock")]
    pub block_input: u64,
    /// Number of times the file system had to write (512-byte blocks on Linux).
    #[doc(alias = "ru_oublock")]
    pub block_output: u64,
}

impl Usage {
    /// Returns the user and system time together.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.user_time + self.system_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(raw: Option<i32>) -> Exit {
        raw.map(ExitStatus::from_raw).map(Exit::from).unwrap_or_default()
    }

    #[test]
    fn says_how_it_ended() {
        // Its number differs between C libraries.
        let first = libc::SIGRTMIN();
        let raw = [Some(0), Some(3 << 8), Some(9), Some(11 | 0x80), Some(first), None];
        let said: Vec<String> = raw.map(|raw| exit(raw).to_string()).into();
        assert_eq!(
            said,
            [
                "exit status 0",
                "exit status 3",
                "signal 9 (SIGKILL)",
                "signal 11 (SIGSEGV), core dumped",
                &format!("signal {first} (SIGRTMIN)"),
                "status unknown",
            ]
        );
    }

    #[test]
    fn unknown_is_no_success() {
        assert!(exit(Some(0)).success());
        assert!(!exit(None).success());
        assert!(!exit(Some(15)).success());
    }
}
