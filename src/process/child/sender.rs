//! The proof that a message about the state of a child comes from its tree.
//!
//! It reads no message. The one rule: who sends is what the kernel says, and a number is believed
//! only as long as it certainly belongs to the sender.

use super::Child;
use crate::notify::Received;
use crate::process::table;
use crate::sys;

/// The longest chain of parents from a sender to the child.
const GENERATIONS: u32 = 32;

impl Child {
    /// Tells whether the sender of a message is the child, or belongs to its tree.
    pub(crate) fn is_sender(&self, message: &Received<'_>) -> bool {
        let Some(pid) = message.pid.filter(|_| message.complete) else { return false };
        if pid == self.pid {
            return self.holds_number();
        }
        let pidfd = message.pidfd.as_ref();
        if pidfd.is_none() && message.has_pidfds {
            // It is gone, or the message came with descriptors. Its number alone proves nothing.
            return false;
        }
        if let Some(cgroup) = &self.cgroup {
            if pidfd.is_some_and(|pidfd| cgroup.has_id_of(pidfd)) {
                return true;
            }
        }
        // The numbers of the child and of its group are its own as long as it is not reaped.
        let is_found = self.holds_number()
            && (self.leads && sys::signal::group_of(pid) == Some(self.pid)
                || self.cgroup.as_ref().is_some_and(|cgroup| cgroup.has(pid, self.pid))
                || table::descends(pid, self.pid, GENERATIONS));
        // If the sender still has its number, it had it all the time.
        is_found && pidfd.is_none_or(sys::pidfd::is_unreaped)
    }
}
