//! What is left of a process group whose leader is gone.
//!
//! Reached by a handle, never by number. The one rule: a zombie is nobody. Its parent, which is not us, may take its time to
//! reap it, and the first process of a container may never do so.

use std::os::fd::OwnedFd;

use super::table::{self, Living, Moment};
use crate::contain::Member;
use crate::error::SignalError;
use crate::sys;

/// What is left of a process group after its leader was reaped. It reaches the group's members and nobody else, whatever
/// the system has done with the leader's number since.
#[derive(Debug)]
pub(crate) struct ProcessGroup {
    pub(super) pidfd: OwnedFd,
    /// The group's, as long as it has members.
    pub(super) number: i32,
}

impl ProcessGroup {
    /// Whether anybody is left, or `None` where that cannot be told. `living` is looked up if it is needed and not there, so
    /// that many groups can share one look. `killed` is when all members were killed.
    pub(crate) fn is_left(&self, living: &mut Option<Living>, killed: Option<Moment>) -> Option<bool> {
        if self.is_gone() {
            return Some(false);
        }
        let living = living.get_or_insert_with(Living::look);
        match living.has(self.number, killed) {
            // The kernel says that there is a member, and `/proc` shows none, not even a dead one.
            Some(false) if !living.has_dead(self.number) && !self.is_gone() => None,
            answer => answer,
        }
    }

    /// Whether the kernel knows no member any more, dead or alive.
    fn is_gone(&self) -> bool {
        sys::pidfd::send_to_group(&self.pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
    }

    /// A pidfd of a living member, whose end is a reason to look again.
    pub(crate) fn open_member(&self, living: &Living) -> Option<OwnedFd> {
        let pid = living.member(self.number)?;
        let pidfd = sys::pidfd::open(pid).ok()?;
        // The number may be somebody else's by now: then it is in another group.
        table::is_living_member(pid, self.number).then_some(pidfd)
    }

    /// The living members, or `None` where that cannot be told. `living` as of [`is_left`](Self::is_left).
    pub(crate) fn members(&self, living: &mut Option<Living>) -> Option<Vec<Member>> {
        let members = living.get_or_insert_with(Living::look).members(self.number)?;
        // As long as it has members, the number is its own.
        Some(if self.is_gone() { Vec::new() } else { members })
    }

    /// Sends a signal to all members. Dead ones that nobody has reaped take it, without effect.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), SignalError> {
        Ok(sys::pidfd::send_to_group(&self.pidfd, signal)?)
    }
}
