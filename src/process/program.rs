//! Starts a program of our own that is kept in memory (`sys::program`). It does not talk to it.
//!
//! The one rule: the program has a session of its own, and only the descriptors that its caller
//! names.

use std::io;
use std::os::fd::OwnedFd;

use super::stdio::Files;
use crate::command::Command;
use crate::stdio::Stdio;
use crate::sys;
use crate::sys::spawn::{Order, Spawner};

/// Starts a program that is `fd` there, with this descriptor as its stdin. `set` sets what else is
/// special about it. Returns its pid and a pidfd of it.
pub(super) fn start(
    spawner: &Spawner,
    name: &str,
    (fd, program): (i32, OwnedFd),
    stdin: OwnedFd,
    set: impl FnOnce(&mut Command),
) -> io::Result<(i32, OwnedFd)> {
    let mut command = Command::new(format!("/proc/self/fd/{fd}"));
    command.arg0(name).env_clear().current_dir("/").setsid(true);
    command.stdin(stdin).stdout(Stdio::closed()).stderr(Stdio::closed()).fd(fd, program);
    set(&mut command);
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
    let pidfd = born.pidfd.map_or_else(|| sys::pidfd::open(born.pid), Ok).inspect_err(|_| {
        sys::wait::kill_and_reap(born.pid);
    })?;
    Ok((born.pid, pidfd))
}
