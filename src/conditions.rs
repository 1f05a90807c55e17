//! The conditions under which a program runs, so that they are the same each time: processors,
//! memory nodes, addresses, scheduling and I/O priority. Plain data, which binds nothing.
//!
//! The one rule: a condition that cannot be had fails the spawn, with a stage of its own.

use crate::cpus::CpuSet;

/// The conditions that a command sets.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    pub(crate) cpus: Option<CpuSet>,
    pub(crate) nodes: Option<CpuSet>,
    pub(crate) no_aslr: bool,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) io_priority: Option<IoPriority>,
    pub(crate) no_new_privs: bool,
}

/// The conditions of a command that sets none.
pub(crate) const NONE: Conditions =
    Conditions { cpus: None, nodes: None, no_aslr: false, scheduler: None, io_priority: None, no_new_privs: false };

impl Conditions {
    /// Tells whether any condition is set.
    pub(crate) fn are_any(&self) -> bool {
        let Self { cpus, nodes, no_aslr, scheduler, io_priority, no_new_privs } = self;
        let flags = *no_aslr || *no_new_privs;
        flags || cpus.is_some() || nodes.is_some() || scheduler.is_some() || io_priority.is_some()
    }
}

/// The scheduling class of a process (`sched(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheduler {
    /// The ordinary class (`SCHED_OTHER`), in which the nice value counts.
    Other,
    /// The ordinary class for programs that compute without interaction (`SCHED_BATCH`).
    Batch,
    /// The class for programs that run only when nothing else does (`SCHED_IDLE`).
    Idle,
    /// A real-time class, with a priority from 1 (lowest) to 99 (`SCHED_FIFO`).
    Fifo(u8),
    /// A real-time class in which programs of equal priority take turns, with a priority from 1
    /// (lowest) to 99 (`SCHED_RR`).
    RoundRobin(u8),
}

/// The I/O priority of a process (`ioprio_set(2)`). Only some of the kernel's I/O schedulers
/// respect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoPriority {
    /// Before all others, with a level from 0 (highest) to 7.
    RealTime(u8),
    /// The ordinary class, with a level from 0 (highest) to 7.
    BestEffort(u8),
    /// Only when no other process uses the disk.
    Idle,
}
