//! Starting a process, in two ways that mean the same.
//!
//! Everything is computed beforehand in the parent ([`plan`]); what happens between the birth of the child and its exec
//! is one function ([`child`]); [`vfork`] and [`fork`] differ only in how the child is made and how its errno comes back.
//! The one rule: after a failure nothing is left, no process and no descriptor.

mod child;
mod environment;
mod fork;
mod plan;
#[cfg(target_os = "linux")]
mod vfork;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fd;
use crate::command::Parts;
use crate::error::{SpawnError, Stage};
use crate::limit::Limit;
use plan::Plan;

/// How a child is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SpawnMethod {
    /// `clone(CLONE_VM | CLONE_VFORK)`: the child borrows the host's memory until its exec, so that a spawn costs the same
    /// whatever the host's size. Linux; elsewhere this is [`Fork`](Self::Fork).
    #[default]
    Vfork,
    /// `fork(2)`: portable, and slow in a host with much memory.
    Fork,
}

/// A child's descriptor and the one of ours that it is made from.
pub(crate) type ChildFile<'a> = (i32, BorrowedFd<'a>);

/// Starts processes; holds what can be kept from one spawn to the next.
#[derive(Debug)]
pub(crate) struct Spawner {
    null: OwnedFd,
    #[cfg(target_os = "linux")]
    vfork: Option<vfork::Vfork>,
}

impl Spawner {
    pub(crate) fn new(method: SpawnMethod) -> io::Result<Self> {
        let null = fd::null()?;
        #[cfg(target_os = "linux")]
        let vfork = match method {
            SpawnMethod::Vfork => Some(vfork::Vfork::new(null.as_fd())?),
            SpawnMethod::Fork => None,
        };
        #[cfg(not(target_os = "linux"))]
        let _ = method;
        Ok(Self {
            null,
            #[cfg(target_os = "linux")]
            vfork,
        })
    }

    /// `/dev/null`, for a child's descriptors.
    pub(crate) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Starts the command with these files, and with `nofile` as its limit of open files unless it names one itself. `terminal`:
    /// its descriptor 0 becomes its controlling terminal.
    ///
    /// Returns when the program runs or has failed to: until then this thread stands still.
    pub(crate) fn spawn(
        &self,
        command: &Parts,
        files: &[ChildFile<'_>],
        terminal: bool,
        nofile: Option<Limit>,
    ) -> Result<i32, SpawnError> {
        let mut plan = Plan::new(command, files, terminal, nofile)?;
        #[cfg(target_os = "linux")]
        let result = match &self.vfork {
            Some(vfork) => vfork.spawn(&mut plan, self.null.as_fd()),
            None => fork::spawn(&mut plan),
        };
        #[cfg(not(target_os = "linux"))]
        let result = fork::spawn(&mut plan);
        result.map_err(|failure| plan.explain(command, failure))
    }
}

/// What the child could not do, as it comes back to the parent: three integers, whichever way they travel.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Failure {
    stage: i32,
    errno: i32,
    /// Which of several: the number of the path, the limit or the descriptor.
    which: i32,
}

impl Failure {
    fn new(stage: Stage, errno: i32, which: i32) -> Self {
        Self { stage: stage as i32, errno, which }
    }

    /// Something that the parent itself could not do.
    fn ours(stage: Stage, error: &io::Error) -> Self {
        Self::new(stage, error.raw_os_error().unwrap_or(libc::EIO), 0)
    }

    fn stage(self) -> Stage {
        usize::try_from(self.stage).ok().and_then(|index| Stage::ALL.get(index)).copied().unwrap_or(Stage::Clone)
    }
}
