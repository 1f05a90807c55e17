//! The leftover members of a process group whose leader is gone.
//!
//! It waits for nothing, and reaches them by the leader's pidfd and never by a number. The one
//! rule: a zombie does not count as a member, because its parent, which is not us, may reap it
//! late, and the first process of a container may never do so.

use std::os::fd::OwnedFd;

use super::table::{self, Living, Moment};
use crate::contain::Member;
use crate::error::SignalError;
use crate::sys;

/// The leftover members of a process group after its leader was reaped. It reaches these and no
/// other process, even if the system has given the leader's number to another one since.
#[derive(Debug)]
pub(crate) struct ProcessGroup {
    pub(super) pidfd: OwnedFd,
    /// The number of the group, as long as it has members.
    pub(super) number: i32,
}

impl ProcessGroup {
    /// Tells whether a living member is left, or `None` if the system cannot tell. `living` is
    /// filled if it is needed and empty, so that many groups can share one scan. `killed` is when
    /// all members were killed.
    pub(crate) fn is_left(&self, living: &mut Option<Living>, killed: Option<Moment>) -> Option<bool> {
        if self.is_gone() {
            return Some(false);
        }
        let living = living.get_or_insert_with(Living::look);
        match living.has(self.number, killed) {
            // The kernel says that there is a member, and `/proc` shows none, not even a zombie.
            Some(false) if !living.has_dead(self.number) && !self.is_gone() => None,
            answer => answer,
        }
    }

    /// Tells whether the kernel knows no member any more, living or zombie.
    fn is_gone(&self) -> bool {
        sys::pidfd::send_to_group(&self.pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
    }

    /// Opens a pidfd of a living member, whose end is a reason to check again.
    pub(crate) fn open_member(&self, living: &Living) -> Option<OwnedFd> {
        let pid = living.member(self.number)?;
        let pidfd = sys::pidfd::open(pid).ok()?;
        // The number may belong to another process by now, which is then in another group.
        table::is_living_member(pid, self.number).then_some(pidfd)
    }

    /// Returns the living members, or `None` if the system cannot tell. `living` is as for
    /// [`is_left`](Self::is_left).
    pub(crate) fn members(&self, living: &mut Option<Living>) -> Option<Vec<Member>> {
        let members = living.get_or_insert_with(Living::look).members(self.number)?;
        // As long as the group has members, the number is its own.
        Some(if self.is_gone() { Vec::new() } else { members })
    }

    /// Sends a signal to all members. Zombies take it without effect.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), SignalError> {
        Ok(sys::pidfd::send_to_group(&self.pidfd, signal)?)
    }
}
