//! What a process and everything that it started has used: plain data.
//!
//! It reads nothing. The one rule: each figure says which processes it covers, and a figure that
//! could not be had is absent.

use std::fmt;
use std::time::Duration;

use crate::exit::Usage;

/// The processes that a figure covers, from the fewest to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Covers {
    /// The process itself, with all its threads.
    Leader,
    /// The process, and those of its descendants that were reaped, each by its own parent
    /// (`wait4(2)`). A descendant that was never waited for is left out with all that it started.
    Reaped,
    /// The process and all its descendants (`cgroups(7)`).
    Tree,
}

/// Displayed as `leader`, `reaped` or `tree`.
impl fmt::Display for Covers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leader => "leader",
            Self::Reaped => "reaped",
            Self::Tree => "tree",
        })
    }
}

/// A figure, and the processes that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs)] // there is nothing to add
pub struct Figure<T> {
    /// The value.
    pub value: T,
    /// The processes that it covers.
    pub covers: Covers,
}

/// The time for which at least one process of the tree had to wait for a resource: the `some total`
/// of pressure stall information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Pressure {
    /// It waited for a processor. A run that shows much of it was disturbed by others, or has more
    /// runnable threads than processors.
    pub cpu: Duration,
    /// It waited for memory: the kernel was reclaiming pages or swapping.
    pub memory: Duration,
    /// It waited for a disk.
    pub io: Duration,
}

/// What a process and everything that it started has used: see [`Output::used`](crate::Output) and
/// [`Tree::used`](crate::Tree::used).
///
/// The figures of a whole tree need a cgroup ([`Command::contain`](crate::Command::contain)).
/// Without one, and for the figures that no cgroup has, they are those of `wait4(2)`. [The
/// guide](crate::guide::figures) says what each one means, when it is absent, and what spoils it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Used {
    /// CPU time in user mode.
    #[doc(alias = "cpu.stat")]
    pub user_time: Option<Figure<Duration>>,
    /// CPU time in the kernel.
    pub system_time: Option<Figure<Duration>>,
    /// Peak memory in bytes. Of a [`Tree`](Covers::Tree) it is that of all processes together
    /// (`memory.peak`, Linux 5.19), with the page cache and the kernel's own memory for them.
    /// Otherwise it is the peak resident memory of the largest single process. It is absent if the
    /// kernel counts the peak of the host as the child's: see [`Usage::max_rss`].
    #[doc(alias = "memory.peak")]
    #[doc(alias = "VmHWM")]
    pub peak_memory: Option<Figure<u64>>,
    /// The largest number of processes and threads at the same time (`pids.peak`, Linux 6.1).
    #[doc(alias = "pids.peak")]
    pub peak_processes: Option<Figure<u64>>,
    /// Page faults that needed no I/O.
    pub minor_faults: Option<Figure<u64>>,
    /// Page faults that needed I/O.
    pub major_faults: Option<Figure<u64>>,
    /// Context switches because a process waited for something.
    pub voluntary_switches: Option<Figure<u64>>,
    /// Context switches because a process had used up its time slice, or a more urgent one was
    /// ready.
    pub involuntary_switches: Option<Figure<u64>>,
    /// Bytes read from disks. What the page cache already had is not counted.
    #[doc(alias = "io.stat")]
    pub bytes_read: Option<Figure<u64>>,
    /// Bytes written to disks, or to be written: without the controller, the kernel counts a page
    /// when it gets dirty.
    pub bytes_written: Option<Figure<u64>>,
    /// How long the tree had to wait for a resource. It covers the tree.
    #[doc(alias = "PSI")]
    pub pressure: Option<Pressure>,
}

/// The unit of `ru_inblock` and `ru_oublock` on Linux.
const BLOCK: u64 = 512;

impl Used {
    /// Returns the figures of `wait4(2)`, without the peak memory.
    pub(crate) fn of_reaped(usage: &Usage) -> Self {
        fn reaped<T>(value: T) -> Option<Figure<T>> {
            Some(Figure { value, covers: Covers::Reaped })
        }
        Self {
            user_time: reaped(usage.user_time),
            system_time: reaped(usage.system_time),
            peak_memory: None,
            peak_processes: None,
            minor_faults: reaped(usage.minor_faults),
            major_faults: reaped(usage.major_faults),
            voluntary_switches: reaped(usage.voluntary_switches),
            involuntary_switches: reaped(usage.involuntary_switches),
            bytes_read: reaped(usage.block_input * BLOCK).filter(|_| cfg!(target_os = "linux")),
            bytes_written: reaped(usage.block_output * BLOCK).filter(|_| cfg!(target_os = "linux")),
            pressure: None,
        }
    }

    /// Returns the user and system time together.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Figure<Duration>> {
        let (user, system) = (self.user_time?, self.system_time?);
        Some(Figure { value: user.value + system.value, covers: user.covers.min(system.covers) })
    }

    /// Returns the processes that both the CPU time and the peak memory cover, as far as these
    /// figures are there.
    #[must_use]
    pub fn covers(&self) -> Option<Covers> {
        let (cpu, memory) = (self.cpu_time().map(|cpu| cpu.covers), self.peak_memory.map(|peak| peak.covers));
        cpu.into_iter().chain(memory).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weakest_figure_counts() {
        let figure = |value, covers| Some(Figure { value, covers });
        let mut used = Used::of_reaped(&Usage::default());
        assert_eq!(used.covers(), Some(Covers::Reaped));
        used.user_time = figure(Duration::from_secs(2), Covers::Tree);
        used.system_time = figure(Duration::from_secs(1), Covers::Tree);
        assert_eq!(used.cpu_time(), figure(Duration::from_secs(3), Covers::Tree));
        assert_eq!(used.covers(), Some(Covers::Tree));
        used.peak_memory = Some(Figure { value: 1, covers: Covers::Reaped });
        assert_eq!(used.covers(), Some(Covers::Reaped));
        assert_eq!(Used::default().covers(), None);
        assert_eq!(format!("{:>7}", Covers::Tree), "   tree");
    }
}
