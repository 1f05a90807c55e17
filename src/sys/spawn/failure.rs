//! A failure between the birth of a child and its exec.
//!
//! The one rule: nothing that the child calls here allocates or can panic.

use std::io;

use crate::error::Stage;
use crate::sys::wait;

/// A failure of the child, as it comes back to the parent: three integers, for either way of
/// starting it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Failure {
    stage: i32,
    pub(super) errno: i32,
    /// What it failed on, by its number: at [`Stage::Exec`] a path of the plan, at [`Stage::Dup2`]
    /// a descriptor, at [`Stage::Rlimit`] a resource, and at [`Stage::Wait`] the pid of a child
    /// that still exists. 0 at the other stages. It is no enum, because any bytes of the child's
    /// have to be valid.
    pub(super) subject: i32,
}

impl Failure {
    pub(super) fn new(stage: Stage, errno: i32, subject: i32) -> Self {
        Self { stage: stage as i32, errno, subject }
    }

    /// A failure of the parent itself.
    pub(super) fn ours(stage: Stage, error: &io::Error) -> Self {
        Self::new(stage, error.raw_os_error().unwrap_or(libc::EIO), 0)
    }

    /// Whether the kernel, or a sandbox, does not let a child start in a cgroup.
    #[cfg(target_os = "linux")]
    pub(super) fn is_refused_clone3(self) -> bool {
        let refusals = [libc::ENOSYS, libc::EPERM, libc::EINVAL, libc::E2BIG];
        self.stage() == Stage::Cgroup && refusals.contains(&self.errno)
    }

    /// Returns the failure that a child has reported. The child ends now and is reaped. Its own
    /// user may have stopped it once more.
    pub(super) fn of_ended(self, pid: i32) -> Self {
        if wait::kill_and_reap(pid) { self } else { Self::new(Stage::Wait, libc::ETIMEDOUT, pid) }
    }

    /// Returns the pid of a child that was killed and still exists.
    pub(super) fn stuck(self) -> Option<i32> {
        (self.stage() == Stage::Wait && self.subject > 0).then_some(self.subject)
    }

    pub(super) fn stage(self) -> Stage {
        usize::try_from(self.stage).ok().and_then(|index| Stage::ALL.get(index)).copied().unwrap_or(Stage::Clone)
    }
}

/// The errno of the last call.
pub(super) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The result of a call of the child, or the failure that it is.
pub(super) fn check(result: libc::c_long, stage: Stage, subject: i32) -> Result<i32, Failure> {
    #[allow(clippy::cast_possible_truncation)] // descriptors, pids and zeros
    if result == -1 { Err(Failure::new(stage, errno(), subject)) } else { Ok(result as i32) }
}
