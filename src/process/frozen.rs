//! A tree that stands still, with what it takes to make it go on.
//!
//! The one rule: to thaw a cgroup takes no descriptor that is not held already, since there may be
//! none to be had then.

use std::os::fd::OwnedFd;

/// How a tree was made to stand still.
#[derive(Debug)]
pub(crate) enum Frozen {
    /// By SIGSTOP to its group.
    Stopped,
    /// By its `cgroup.freeze`, which is open here.
    Cgroup(OwnedFd),
}
