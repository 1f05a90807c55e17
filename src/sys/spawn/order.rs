//! What to start, and what was started: plain data.
//!
//! The one rule: what is lent for a start is not kept after it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::command::Parts;
use crate::limit::Limit;

/// A descriptor of the child, and the descriptor of ours that it is made from.
pub(crate) type ChildFile<'a> = (i32, BorrowedFd<'a>);

/// The description of a process to start.
pub(crate) struct Order<'a> {
    pub(crate) command: &'a Parts,
    pub(crate) files: &'a [ChildFile<'a>],
    /// Whether descriptor 0 of the child becomes its controlling terminal.
    pub(crate) terminal: bool,
    /// The limit of open files of the child, unless the command sets one.
    pub(crate) nofile: Option<Limit>,
    /// The address of the socket on which the child can tell its state.
    pub(crate) notify: Option<&'a OsStr>,
    /// The directory of the cgroup that the child starts in, if that is not the host's.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The socket of the guard that the child registers with, and its number there.
    pub(crate) guard: Option<(BorrowedFd<'a>, u32)>,
    /// Whether a pidfd is wanted, if the child can have one from its birth on.
    pub(crate) pidfd: bool,
    /// Whether its peak memory is to be its own, if that can be had.
    pub(crate) own_peak: bool,
}

/// A child that runs its program.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) pid: i32,
    /// Its pidfd, if the kernel has returned one with the child.
    pub(crate) pidfd: Option<OwnedFd>,
    /// The time just before its exec, or `None` if the child could not report it.
    pub(crate) executed: Option<Instant>,
    /// Whether its peak memory is certainly its own.
    pub(crate) own_peak: bool,
    /// The reason why the child entered its cgroup itself before its exec, if it was not born
    /// there.
    pub(crate) entered: Option<io::Error>,
}
