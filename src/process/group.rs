//! What is left of a process group whose leader is gone.
//!
//! Reached by a handle, never by number. The one rule: a zombie is nobody. Its parent, which is not us, may take its time to
//! reap it, and the first process of a container may never do so.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

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
        !self.is_left(&mut None)
    }

    /// Whether anybody is left; `living` is looked up if it is needed and not there, so that many groups can share one look.
    pub(crate) fn is_left(&self, living: &mut Option<Living>) -> bool {
        let gone =
            sys::pidfd::send_to_group(&self.pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        !gone && living.get_or_insert_with(Living::look).has(self.number)
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

/// The process groups that have a member which is no zombie, at one moment. A member that comes later is the child of one
/// that was there, so a group that is not among them is over, unless its leader was started after the look.
#[derive(Debug)]
pub(crate) struct Living(io::Result<HashSet<i32>>);

impl Living {
    pub(crate) fn look() -> Self {
        Self(fs::read_dir("/proc").map(|processes| {
            let stats = processes.flatten().filter_map(|process| {
                process.file_name().to_str()?.parse::<u32>().ok()?;
                fs::read(process.path().join("stat")).ok()
            });
            stats.filter_map(|stat| group_of_living(&stat)).collect()
        }))
    }

    /// Where nobody can tell, there may be somebody.
    fn has(&self, group: i32) -> bool {
        self.0.as_ref().map_or(true, |groups| groups.is_empty() || groups.contains(&group))
    }
}

/// The process group that a line of `/proc/PID/stat` tells of (`proc_pid_stat(5)`), unless it is a dead one's.
fn group_of_living(stat: &[u8]) -> Option<i32> {
    // The name may hold anything, but nothing after it holds a parenthesis.
    let after_name = stat.rsplit(|byte| *byte == b')').next()?;
    let mut fields = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_group_of_a_living_one() {
        assert_eq!(group_of_living(b"17 (a) b) S 1 42 42 0 -1"), Some(42));
        assert_eq!(group_of_living(b"17 (a) Z 1 42 42 0 -1"), None);
        assert_eq!(group_of_living(b""), None);
        assert_eq!(group_of_living(b"17 (a) S"), None);
    }
}
