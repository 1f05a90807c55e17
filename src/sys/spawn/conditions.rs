//! The conditions of a run in the kernel's form, and their setting in the child.
//!
//! It does not decide what they are. The one rule: the setting allocates nothing and cannot panic,
//! because it happens between fork and exec.

use super::failure::{Failure, check};
use crate::conditions::{self, IoPriority, Scheduler};
use crate::error::Stage;
use crate::sys::cpus::mask_of;

/// The kernel's mode that binds memory to nodes.
const MPOL_BIND: libc::c_int = 2;
/// The target of `ioprio_set(2)`: one process.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// The value with which `personality(2)` only returns the present one.
const QUERY: libc::c_ulong = 0xffff_ffff;

#[derive(Debug)]
pub(super) struct Conditions {
    /// The mask of the processors, and the room for the mask that the kernel has made of it.
    cpus: Option<(Vec<libc::c_ulong>, Vec<libc::c_ulong>)>,
    nodes: Option<Vec<libc::c_ulong>>,
    no_aslr: bool,
    scheduler: Option<(libc::c_int, libc::c_int)>,
    io_priority: Option<libc::c_int>,
    no_new_privs: bool,
}

/// The room for the mask of the largest machine, in longs. The kernel refuses a shorter one.
const MASK: usize = 8192 / libc::c_ulong::BITS as usize;

impl Conditions {
    /// Converts the conditions. The error says what is out of range.
    pub(super) fn new(wanted: &conditions::Conditions) -> Result<Self, &'static str> {
        let cpus = wanted.cpus.as_ref().map(|cpus| mask_of(cpus.iter()));
        if cpus.as_ref().is_some_and(Vec::is_empty) {
            return Err("an empty set of processors");
        }
        if cpus.as_ref().is_some_and(|mask| mask.len() > MASK) {
            return Err("a processor with a number above 8191");
        }
        let nodes = wanted.nodes.as_ref().map(|nodes| mask_of(nodes.iter()));
        if nodes.as_ref().is_some_and(Vec::is_empty) {
            return Err("an empty set of memory nodes");
        }
        let scheduler = wanted.scheduler.map(|scheduler| match scheduler {
            Scheduler::Other => (libc::SCHED_OTHER, 0),
            Scheduler::Batch => (libc::SCHED_BATCH, 0),
            Scheduler::Idle => (libc::SCHED_IDLE, 0),
            Scheduler::Fifo(priority) => (libc::SCHED_FIFO, priority.into()),
            Scheduler::RoundRobin(priority) => (libc::SCHED_RR, priority.into()),
        });
        if scheduler.is_some_and(|(policy, priority)| {
            matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR) && !(1..=99).contains(&priority)
        }) {
            return Err("a real-time priority outside 1 to 99");
        }
        let io_priority = wanted.io_priority.map(|priority| match priority {
            IoPriority::RealTime(level) => (1, level),
            IoPriority::BestEffort(level) => (2, level),
            IoPriority::Idle => (3, 0),
        });
        if io_priority.is_some_and(|(_, level)| level > 7) {
            return Err("an I/O priority level outside 0 to 7");
        }
        Ok(Self {
            cpus: cpus.map(|mask| (mask, vec![0; MASK])),
            nodes,
            no_aslr: wanted.no_aslr,
            scheduler,
            io_priority: io_priority.map(|(class, level)| class << 13 | libc::c_int::from(level)),
            no_new_privs: wanted.no_new_privs,
        })
    }

    /// Sets them for the calling process.
    ///
    /// # Safety
    ///
    /// The same as for `child::run`.
    pub(super) unsafe fn set(&mut self) -> Result<(), Failure> {
        if let Some((mask, got)) = &mut self.cpus {
            let size = size_of_val(&mask[..]);
            // SAFETY: the mask has so many bytes.
            let set = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size, mask.as_ptr()) };
            check(set, Stage::Affinity, 0)?;
            let size = size_of_val(&got[..]);
            // SAFETY: the room has so many bytes.
            let read = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size, got.as_mut_ptr()) };
            check(read, Stage::Affinity, 0)?;
            // The kernel leaves out the processors that this process may not use.
            if mask.iter().zip(got.iter()).any(|(wanted, got)| wanted != got) {
                return Err(Failure::new(Stage::Affinity, libc::EINVAL, 0));
            }
        }
        if let Some(nodes) = &self.nodes {
            // The kernel reads one bit less than it is told.
            let bits = size_of_val(&nodes[..]).wrapping_mul(8).wrapping_add(1);
            // SAFETY: the mask has that many bits.
            let set = unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_BIND, nodes.as_ptr(), bits) };
            check(set, Stage::MemoryPolicy, 0)?;
        }
        if self.no_aslr {
            // glibc's wrapper takes no result for an error, so that errno is an old one.
            // SAFETY: personality touches no memory.
            let present = check(unsafe { libc::syscall(libc::SYS_personality, QUERY) }, Stage::Personality, 0)?;
            #[allow(clippy::cast_sign_loss)] // the bits are the same
            let wanted = present as libc::c_ulong | libc::ADDR_NO_RANDOMIZE as libc::c_ulong;
            // SAFETY: personality touches no memory.
            check(unsafe { libc::syscall(libc::SYS_personality, wanted) }, Stage::Personality, 0)?;
        }
        if let Some((policy, priority)) = self.scheduler {
            // SAFETY: the kernel reads the one int of the struct.
            let set = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
            check(set, Stage::Scheduler, 0)?;
        }
        if let Some(priority) = self.io_priority {
            // SAFETY: it touches no memory.
            let set = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
            check(set, Stage::IoPriority, 0)?;
        }
        if self.no_new_privs {
            // SAFETY: it touches no memory.
            let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            check(set.into(), Stage::NoNewPrivs, 0)?;
        }
        Ok(())
    }
}
