//! The limits of a run, and the reason why a run ended: plain data.
//!
//! It enforces nothing. The one rule: every limit covers the whole tree of the process.

use std::fmt;
use std::time::Duration;

/// The limits of a run, each for the process with everything that it starts: see
/// [`RunToEnd::limits`](crate::RunToEnd::limits) and [`RunMany::limits`](crate::RunMany::limits).
///
/// | limit | at the limit | needs |
/// | --- | --- | --- |
/// | wall time | the tree is asked to stop, and killed after the kill time | nothing |
/// | soft CPU time | the tree is asked to stop, and killed at the (hard) CPU time, or without one after the kill time | a cgroup |
/// | CPU time | the tree is killed | a cgroup |
/// | memory | the kernel kills the tree | a cgroup with the controller `memory` |
/// | processes | no further process or thread can be started, and the tree is killed | a cgroup with the controller `pids` |
/// | output | the tree is asked to stop, and killed after the kill time | pipes at stdout and stderr |
///
/// A limit that cannot be had is refused before anything is started: the error is a
/// [`SpawnError`](crate::SpawnError) of the stage [`Limit`](crate::Stage::Limit).
///
/// ```
/// use std::time::Duration;
///
/// use childminder::{Command, EndedBy, Limits, RunToEnd};
///
/// let mut limits = Limits::default();
/// limits.wall_time = Some(Duration::from_millis(50));
/// let output = RunToEnd::new(Command::new("sleep").arg("1000")).limits(limits).run()?;
/// assert_eq!(output.ended_by, EndedBy::WallTime);
/// # Ok::<(), childminder::RunError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The time from the exec.
    pub wall_time: Option<Duration>,
    /// The CPU time of the tree at which it is asked to stop.
    pub soft_cpu_time: Option<Duration>,
    /// The CPU time of the tree at which it is killed. A timer is armed for the earliest moment at
    /// which the tree can have used it up on its processors, and armed anew from what is left then.
    /// It is overshot by about 10 ms, and by what the kernel takes to kill the tree.
    pub cpu_time: Option<Duration>,
    /// The memory of the tree in bytes, without swap: see
    /// [`Command::memory_limit`](crate::Command::memory_limit).
    pub memory: Option<u64>,
    /// The number of processes and threads of the tree at the same time: see
    /// [`Command::process_limit`](crate::Command::process_limit).
    pub processes: Option<u64>,
    /// The number of bytes that the tree writes to stdout and stderr, if these are pipes.
    pub output: Option<u64>,
}

/// The reason why a run ended: see [`Output::ended_by`](crate::Output::ended_by).
///
/// Displayed as the word in the table, which is also that of `childminder measure --json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndedBy {
    /// `exit`: it exited by itself, or how it ended is not known.
    Exit,
    /// `signal`: a signal ended it that was not sent because of a limit or a request.
    Signal,
    /// `wall`: the wall time was up.
    WallTime,
    /// `cpu-soft`: the soft CPU time was used up, and it ended before the CPU time was.
    SoftCpuTime,
    /// `cpu`: the CPU time was used up.
    CpuTime,
    /// `memory`: it needed more memory than its limit.
    Memory,
    /// `processes`: it tried to start more processes than its limit.
    Processes,
    /// `output`: it wrote more than its limit.
    Output,
    /// `asked`: the host asked for its end.
    Asked,
    /// `host-stopped`: a signal has asked the host itself to end.
    HostStopped,
}

impl EndedBy {
    /// Tells whether one of the [`Limits`] was reached.
    #[must_use]
    pub fn is_limit(self) -> bool {
        !matches!(self, Self::Exit | Self::Signal | Self::Asked | Self::HostStopped)
    }
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::WallTime => "wall",
            Self::SoftCpuTime => "cpu-soft",
            Self::CpuTime => "cpu",
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Output => "output",
            Self::Asked => "asked",
            Self::HostStopped => "host-stopped",
        })
    }
}
