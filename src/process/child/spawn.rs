//! The start of a child, and the end of one that the reactor cannot watch.
//!
//! It decides nothing about the containment, because the reactor does that. The one rule: a start
//! that fails leaves nothing behind.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use mio::Interest;

use super::Child;
use crate::command::Parts;
use crate::error::{SignalError, SpawnError, Stage};
use crate::limit::Limit;
use crate::process::cgroup::Cgroup;
use crate::process::notify::Inbox;
use crate::process::pipe::Pipe;
use crate::process::stdio::Files;
use crate::process::table;
use crate::slab::Key;
use crate::sources::{Source, Sources};
use crate::sys;
use crate::sys::spawn::{Born, Order, Spawner};

/// The parts of the reactor that a spawn needs.
pub(crate) struct Surroundings<'a> {
    pub(crate) spawner: &'a Spawner,
    pub(crate) sources: &'a mut Sources,
    pub(crate) nofile: Option<Limit>,
    pub(crate) pidfds: bool,
    /// The directory of the cgroup to start in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The socket of the guard to register with, and the child's number there.
    pub(crate) guard: Option<(BorrowedFd<'a>, u32)>,
    pub(crate) started: Instant,
    /// Tells whether a signal has arrived that asks the host to end.
    pub(crate) asked_to_end: &'a mut dyn FnMut() -> bool,
}
impl Child {
    /// Starts the command as process `key`. An error leaves nothing behind.
    pub(crate) fn spawn(command: &Parts, key: Key, around: &mut Surroundings<'_>) -> Result<Self, SpawnError> {
        let cannot_open = |error| SpawnError::new(command.program().to_owned(), Stage::Pipe, error);
        let inbox = command.attributes().notify.then(|| Inbox::open(key, around.sources)).transpose();
        let inbox = inbox.map_err(cannot_open)?;
        let spawned = Self::spawn_with(command, key, inbox.as_deref(), around);
        match (spawned, inbox) {
            (Ok(child), inbox) => Ok(Self { inbox, ..child }),
            (Err(error), inbox) => {
                inbox.into_iter().for_each(|inbox| around.sources.forget(inbox.source));
                Err(error)
            }
        }
    }

    fn spawn_with(
        command: &Parts,
        key: Key,
        inbox: Option<&Inbox>,
        around: &mut Surroundings<'_>,
    ) -> Result<Self, SpawnError> {
        let mut files = Files::open(command, around.spawner.null())?;
        let mut pipes = Vec::with_capacity(files.ours.len());
        let watched = files.ours.drain(..).try_for_each(|(fd, end, side)| {
            pipes.push((fd, Pipe::open(end, side, key, fd, around.sources)?));
            Ok(())
        });
        let spawned =
            watched.map_err(|error| SpawnError::new(command.program().to_owned(), Stage::Pipe, error)).and_then(|()| {
                let files_of_child = files.for_child();
                let order = Order {
                    command,
                    files: &files_of_child,
                    terminal: files.terminal,
                    nofile: around.nofile,
                    notify: inbox.map(Inbox::address),
                    cgroup: around.cgroup,
                    guard: around.guard,
                    pidfd: around.pidfds,
                    own_peak: command.attributes().own_peak,
                };
                around.spawner.spawn(&order, around.asked_to_end)
            });
        let Born { pid, pidfd, executed, own_peak, entered } = match spawned {
            Ok(born) => born,
            Err(error) => {
                for (_, pipe) in pipes {
                    around.sources.forget(pipe.source());
                }
                return Err(error);
            }
        };
        let pidfd = if around.pidfds { watch(pid, pidfd, key, around.sources) } else { None };
        let mut child = Self {
            pid,
            leads: command.group.leads() || files.terminal,
            terminal: files.terminal,
            own_peak,
            pidfd,
            pipes,
            inbox: None,
            unreported: 0,
            started: executed.unwrap_or(around.started),
            requested: None,
            kill_group_at_exit: false,
            hold_for_group: false,
            cgroup: None,
            rare: None,
            reason: entered.as_ref().map(Self::entry_reason),
            exit: None,
        };
        if child.pidfd.is_none() {
            child.rare().birth = table::start_time(pid).and_then(NonZeroU64::new);
        }
        Ok(child)
    }

    /// Kills it with its tree and reaps it without an event, for a child that could not be watched.
    /// Returns its cgroup, which has to be removed.
    pub(crate) fn abandon(mut self, sources: &mut Sources) -> Option<Cgroup> {
        self.forget_process_limit(sources);
        // If this fails, the child has exited, or is killed by its number below.
        let _ = match &self.cgroup {
            Some(cgroup) => cgroup.kill().map(drop).map_err(SignalError::Os),
            None if self.leads => self.signal_group(libc::SIGKILL),
            None => Ok(()),
        };
        sys::wait::kill_and_reap(self.pid);
        for (_, pipe) in self.pipes {
            sources.forget(pipe.source());
        }
        self.cgroup
    }
}

/// Returns a registered pidfd, or `None` if the system does not allow one. It may have been opened
/// with the spawn.
fn watch(pid: i32, given: Option<OwnedFd>, process: Key, sources: &mut Sources) -> Option<(OwnedFd, Key)> {
    let pidfd = given.map_or_else(|| sys::pidfd::open(pid), Ok).ok()?;
    let source = sources.register(pidfd.as_fd(), Interest::READABLE, Source::Pidfd { process }).ok()?;
    Some((pidfd, source))
}
