//! How a process ended. Plain data; the reaper fills it in.
//!
//! The one rule: a status that nobody could learn is *unknown*, never a success and never "still running".

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::signal;

/// How a process ended, and what it used while it lived.
///
/// Made when the process is reaped (`wait4(2)`), and lent by [`Event::Exited`](crate::Event::Exited).
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The status as `wait4(2)` gave it; `None` if it is unknown, because somebody else reaped the process or the
    /// host ignores SIGCHLD (`ECHILD`).
    pub status: Option<ExitStatus>,
    /// What the process and those of its children that it waited for have used; all zero if the status is unknown.
    pub usage: Usage,
    /// From just before the spawn to the reap, on the monotonic clock.
    pub wall_time: Duration,
    /// The last signal that was sent to it through this library and whose default action ends a process,
    /// if there was one: it may be why the process has ended. Signals that stop or continue a process, or
    /// do nothing to it (SIGWINCH, SIGURG, SIGCHLD), do not count.
    pub requested: Option<i32>,
}

impl Exit {
    /// Whether it exited by itself with code 0. An unknown status is no success.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The exit code, if it exited by itself.
    #[must_use]
    #[doc(alias = "WEXITSTATUS")]
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// The signal that ended it, if one did.
    #[must_use]
    #[doc(alias = "WTERMSIG")]
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }

    /// Whether the signal that ended it also wrote a core file.
    #[must_use]
    #[doc(alias = "WCOREDUMP")]
    pub fn core_dumped(&self) -> bool {
        self.status.is_some_and(|status| status.core_dumped())
    }
}

/// `exit status 3`, `signal 9 (SIGKILL)`, `signal 11 (SIGSEGV), core dumped` or `status unknown`.
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

/// What a process used: the figures of `getrusage(2)` that Linux keeps.
///
/// Peak memory is the kernel's figure for the process since its *spawn*, not since its exec: a vfork-like or forked
/// child starts with its parent's peak, so nothing below the host's own resident size can be seen in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time in user mode.
    pub user_time: Duration,
    /// CPU time in the kernel.
    pub system_time: Duration,
    /// Peak resident memory in bytes (of the largest process, where it waited for children of its own).
    #[doc(alias = "ru_maxrss")]
    pub max_rss: u64,
    /// Page faults that needed no I/O.
    #[doc(alias = "ru_minflt")]
    pub minor_faults: u64,
    /// Page faults that needed I/O.
    #[doc(alias = "ru_majflt")]
    pub major_faults: u64,
    /// Context switches because it waited for something.
    #[doc(alias = "ru_nvcsw")]
    pub voluntary_switches: u64,
    /// Context switches because its time was up or somebody more important came.
    #[doc(alias = "ru_nivcsw")]
    pub involuntary_switches: u64,
    /// Times the file system had to read (512-byte blocks on Linux).
    #[doc(alias = "ru_inblock")]
    pub block_input: u64,
    /// Times the file system had to write (512-byte blocks on Linux).
    #[doc(alias = "ru_oublock")]
    pub block_output: u64,
}

impl Usage {
    /// User and system time together.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.user_time + self.system_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(raw: Option<i32>) -> Exit {
        Exit {
            status: raw.map(ExitStatus::from_raw),
            usage: Usage::default(),
            wall_time: Duration::ZERO,
            requested: None,
        }
    }

    #[test]
    fn says_how_it_ended() {
        let said: Vec<String> =
            [Some(0), Some(3 << 8), Some(9), Some(11 | 0x80), Some(34), None].map(|raw| exit(raw).to_string()).into();
        assert_eq!(
            said,
            [
                "exit status 0",
                "exit status 3",
                "signal 9 (SIGKILL)",
                "signal 11 (SIGSEGV), core dumped",
                "signal 34 (SIGRTMIN)",
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
