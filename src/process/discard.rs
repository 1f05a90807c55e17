//! Starts the program that takes a message out of the queue of a socket. The program is in
//! `sys::discard`.
//!
//! The one rule: the program has no descriptor but the socket.

use std::io;
use std::os::fd::OwnedFd;

use super::stdio::Files;
use crate::command::Command;
use crate::stdio::Stdio;
use crate::sys;
use crate::sys::spawn::{Order, Spawner};

/// The number of the descriptor of the program itself. It is closed when the program ends.
const PROGRAM: i32 = 3;

/// Starts the program. Returns its pid and a pidfd of it.
pub(crate) fn start(spawner: &Spawner, socket: OwnedFd) -> io::Result<(i32, OwnedFd)> {
    let mut command = Command::new(format!("/proc/self/fd/{PROGRAM}"));
    command.arg0("childminder-discard").env_clear().current_dir("/").setsid(true).stdin(socket);
    command.stdout(Stdio::closed()).stderr(Stdio::closed()).fd(PROGRAM, sys::discard::program()?);
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
    let pidfd = born.pidfd.map_or_else(|| sys::pidfd::open(born.pid), Ok);
    let pidfd = pidfd.inspect_err(|_| {
        sys::wait::kill_and_reap(born.pid);
    })?;
    Ok((born.pid, pidfd))
}
