//! Starts the guard, whose program is in `sys::guard`. It does not talk to it.
//!
//! The one rule: the guard has a session of its own, and no descriptor of the host's but its
//! socket.

use std::io;
use std::os::fd::OwnedFd;

use super::program;
use crate::limit::{Limit, Resource};
use crate::sys;
use crate::sys::guard::PROGRAM;
use crate::sys::spawn::Spawner;

/// A guard that is running.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The host's end of the socket.
    pub(crate) socket: OwnedFd,
    /// The guard can keep descriptors below this number.
    pub(crate) numbers: u32,
}

/// Starts a guard. This needs `/proc`, `memfd_create(2)` and pidfds, and an architecture for which
/// the guard is written.
pub(crate) fn start(spawner: &Spawner) -> io::Result<Started> {
    let (socket, theirs) = sys::guard::socket_pair()?;
    let hard = sys::limit::get(Resource::OpenFiles)?.hard;
    let limit = Limit { soft: hard, hard };
    let (pid, pidfd) =
        program::start(spawner, "childminder-guard", (PROGRAM, sys::guard::program()?), theirs, |command| {
            command.rlimit(Resource::OpenFiles, limit);
        })?;
    let numbers = hard.map_or(u32::MAX, |hard| u32::try_from(hard).unwrap_or(u32::MAX));
    Ok(Started { pid, pidfd, socket, numbers })
}
