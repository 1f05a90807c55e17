//! Starts the guard, whose program is in `sys::guard`. It does not talk to it.
//!
//! The one rule: the guard has a session of its own, and no descriptor of the host's but its
//! socket.

use std::io;
use std::os::fd::OwnedFd;

use super::stdio::Files;
use crate::command::Command;
use crate::limit::{Limit, Resource};
use crate::stdio::Stdio;
use crate::sys;
use crate::sys::guard::PROGRAM;
use crate::sys::spawn::{Order, Spawner};

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
    let mut command = Command::new(format!("/proc/self/fd/{PROGRAM}"));
    command.arg0("childminder-guard").env_clear().current_dir("/").setsid(true);
    command.rlimit(Resource::OpenFiles, Limit { soft: hard, hard });
    command.stdin(theirs).stdout(Stdio::closed()).stderr(Stdio::closed()).fd(PROGRAM, sys::guard::program()?);
    let parts = command.parts();
    let files = Files::open(parts, spawner.null()).map_err(io::Error::other)?;
    let files = files.for_child();
    let order = Order {
        command: parts,
        files: &files,
        terminal: false,
        nofile: None,
        notify: None,
        cgroup: None,
        guard: None,
        pidfd: true,
        own_peak: false,
    };
    let born = spawner.spawn(&order, &mut || false).map_err(io::Error::other)?;
    let pidfd = sys::pidfd::open(born.pid).inspect_err(|_| {
        sys::wait::kill_and_reap(born.pid);
    })?;
    let numbers = hard.map_or(u32::MAX, |hard| u32::try_from(hard).unwrap_or(u32::MAX));
    Ok(Started { pid: born.pid, pidfd, socket, numbers })
}
