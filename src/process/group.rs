//! What is left of a process group whose leader is gone.
//!
//! Reached by a handle, never by number. The one rule: a zombie is nobody. Its parent, which is not us, may take its time to
//! reap it, and the first process of a container may never do so.

use std::os::fd::OwnedFd;

use super::table::Living;
use crate::error::SignalError;
use crate::sys;

/// What is left of a process group after its leader was reaped. It reaches the group's members and nobody else, whatever
/// the system has done with the leader's number since.
#[derive(Debug)]
pub struct ProcessGroup {
    pub(super) pidfd: OwnedFd,
    /// The group's, as long as it has members.
    pub(super) number: i32,
}

impl ProcessGroup {
    /// Whether nobody is left. Members that have died and that their parent has not reaped are nobody, where `/proc` can tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_left(&mut None) == Some(false)
    }

    /// Whether anybody is left, or `None` where that cannot be told. `living` is looked up if it is needed and not there, so
    /// that many groups can share one look.
    pub(crate) fn is_left(&self, living: &mut Option<Living>) -> Option<bool> {
        let gone =
            sys::pidfd::send_to_group(&self.pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        if gone { Some(false) } else { living.get_or_insert_with(Living::look).has(self.number) }
    }

    /// Sends a signal to all members. Dead ones that nobody has reaped take it, without effect.
    ///
    /// # Errors
    ///
    /// [`SignalError::AlreadyExited`] if there are no members, or what `kill(2)` says.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        Ok(sys::pidfd::send_to_group(&self.pidfd, signal)?)
    }
}
