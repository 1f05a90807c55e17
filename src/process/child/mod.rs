//! A child in the reactor: the process itself, our ends of its pipes, and what keeps its tree
//! together.
//!
//! It delivers no events: each call returns its result. The one rule: what is asked about a number
//! is answered only if the number still belongs to the child.

mod pipes;
mod reap;
mod sender;
mod signal;
mod spawn;

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::cgroup::{CHANGES, Cgroup, refused_processes};
use super::frozen::Frozen;
use super::group::ProcessGroup;
use super::killed::Killed;
use super::notify::Inbox;
use super::pipe::Pipe;
use super::table::{self, Living, Moment};
use crate::contain::{Containment, Member, Reason, Strength};
use crate::exit::Exit;
use crate::slab::Key;
use crate::sources::{Source, Sources};
use crate::sys;
use crate::sys::wait::State;
use crate::used::Used;
pub(crate) use reap::Reap;
pub(crate) use spawn::Surroundings;

/// A child process and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Child {
    pub(super) pid: i32,
    /// Whether its pid is also the number of its process group.
    pub(super) leads: bool,
    /// Whether it is on a pseudo-terminal, which is read as descriptor 1 and written as descriptor
    /// 0.
    terminal: bool,
    /// Whether its peak memory is certainly its own.
    own_peak: bool,
    pub(super) pidfd: Option<(OwnedFd, Key)>,
    pub(super) pipes: Vec<(i32, Pipe)>,
    /// The socket on which its tree tells its state.
    pub(crate) inbox: Option<Box<Inbox>>,
    /// The number of closed pipes that no event has reported yet.
    pub(super) unreported: u32,
    pub(super) started: Instant,
    requested: Option<i32>,
    /// Whether the rest of its group is killed just before it is reaped.
    pub(super) kill_group_at_exit: bool,
    /// Whether it is not reaped before the rest of its group is gone, if the group could not be
    /// reached afterwards.
    pub(super) hold_for_group: bool,
    /// The cgroup in which it was started.
    pub(super) cgroup: Option<Cgroup>,
    /// What few children have. Boxed because the others pay 8 bytes for it.
    pub(super) rare: Option<Box<Rare>>,
    /// Why its containment is not stronger.
    pub(super) reason: Option<Reason>,
    pub(super) exit: Option<Box<Exit>>,
}

/// What is known of a child that is frozen, killed, reaped late, limited, or without a pidfd.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The start time, by the system's clock, if there is no pidfd. If the host reaps the child
    /// itself, another process can get its number.
    birth: Option<NonZeroU64>,
    /// The file that reports that its tree has reached its limit of processes.
    process_limit: Option<(OwnedFd, Key)>,
    /// When it was first seen to have exited, if its reaping is delayed.
    died: Option<Instant>,
    /// When its group was killed.
    group_killed: Option<Moment>,
    /// Its tree was frozen.
    pub(super) frozen: Option<Frozen>,
    /// When its tree was killed.
    pub(super) tree_killed: Option<Killed>,
}

impl Child {
    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.as_deref()
    }

    pub(crate) fn into_exit(self) -> Option<Box<Exit>> {
        self.exit
    }

    /// Tells whether it has exited, every pipe is closed, and every close has been reported.
    pub(crate) fn is_over(&self) -> bool {
        self.exit.is_some() && self.pipes.is_empty() && self.unreported == 0
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Tells whether it was started on a pseudo-terminal.
    pub(crate) fn is_on_terminal(&self) -> bool {
        self.terminal
    }

    /// Notes that an event has reported a close that a call has made.
    pub(crate) fn reported(&mut self) {
        self.unreported = self.unreported.saturating_sub(1);
    }

    /// Returns the reason for which a child enters its cgroup by itself.
    pub(crate) fn entry_reason(error: &io::Error) -> Reason {
        Arc::new(format!("entered before its exec, not at its birth: clone3: {error}").into())
    }

    /// Sets the cgroup in which it was started, or the reason for which there is none.
    pub(crate) fn set_containment(&mut self, cgroup: Option<Cgroup>, reason: Option<Reason>) {
        self.cgroup = cgroup;
        self.reason = reason.or(self.reason.take());
    }

    /// Tells whether its peak memory is certainly its own, and not the host's.
    pub(crate) fn has_own_peak(&self) -> bool {
        self.own_peak
    }

    /// Returns what the process itself has used up to now, as far as `/proc` shows it.
    pub(super) fn used(&self) -> Used {
        let used = table::used(self.pid);
        // Otherwise another process may have its number.
        if self.holds_number() { used } else { Used::default() }
    }

    /// Returns the cgroup in which it was started, until it is reaped. The cgroup then stays for a
    /// while after the end of the tree.
    pub(crate) fn lend_cgroup(&mut self) -> Option<Cgroup> {
        self.cgroup.as_mut().map(Cgroup::lend)
    }

    /// Tells whether it was asked to end. The replacement of a child that has exited by itself
    /// should not wait for the removal of the cgroup.
    pub(super) fn was_asked_to_end(&self) -> bool {
        self.exit.as_ref().is_some_and(|exit| exit.requested.is_some())
    }

    /// Watches the limit of processes of its cgroup.
    pub(crate) fn watch_process_limit(&mut self, process: Key, sources: &mut Sources) -> io::Result<()> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        let events = cgroup.open_process_events()?;
        let source = sources.register(events.as_fd(), CHANGES, Source::Limit { process })?;
        self.rare().process_limit = Some((events, source));
        Ok(())
    }

    /// Returns the file that reports its limit of processes, if that is watched.
    pub(crate) fn process_limit(&self) -> Option<BorrowedFd<'_>> {
        self.rare.as_ref()?.process_limit.as_ref().map(|(events, _)| events.as_fd())
    }

    /// Tells whether its tree has reached the limit of processes. It says so once.
    pub(crate) fn has_reached_process_limit(&mut self, sources: &mut Sources) -> bool {
        let reached = self.process_limit().is_some_and(|events| refused_processes(events) > 0);
        if reached {
            self.forget_process_limit(sources);
        }
        reached
    }

    fn forget_process_limit(&mut self, sources: &mut Sources) {
        if let Some((_, source)) = self.rare.as_mut().and_then(|rare| rare.process_limit.take()) {
            sources.forget(source);
        }
    }

    /// Returns what keeps it together with everything that it starts.
    pub(crate) fn containment(&self) -> Containment {
        let strength = match self.cgroup {
            Some(_) => Strength::Cgroup,
            None if self.leads => Strength::Group,
            None => Strength::Process,
        };
        Containment::new(strength, self.reason.clone())
    }

    /// Returns its pid as long as it is not reaped.
    pub(crate) fn unreaped_pid(&self) -> Option<i32> {
        self.exit.is_none().then_some(self.pid)
    }

    /// Returns a pidfd for the guard, unless the child is in a cgroup or gone.
    pub(crate) fn handle(&self) -> Option<OwnedFd> {
        let number = || self.holds_number().then(|| sys::pidfd::open(self.pid).ok()).flatten();
        match &self.pidfd {
            _ if self.cgroup.is_some() || self.exit.is_some() => None,
            Some((pidfd, _)) => pidfd.try_clone().ok(),
            None => number(),
        }
    }

    /// Returns the members of its group, or itself alone, as long as it holds its number. `None` if
    /// the system cannot tell. `living` is looked up if it is needed and missing.
    pub(super) fn members(&self, living: &mut Option<Living>) -> Option<Vec<Member>> {
        let mut members = match self.leads {
            true => living.get_or_insert_with(Living::look).members(self.pid)?,
            false => table::members(&[self.pid]),
        };
        if self.leads && members.is_empty() && self.state() == State::Running {
            // It was started after the look.
            members = living.insert(Living::look()).members(self.pid)?;
        }
        Some(if self.holds_number() { members } else { Vec::new() })
    }

    /// Returns the members of its group that are left after it was reaped, if the kernel can reach
    /// them. It takes the pidfd if there is no descriptor left for another one.
    pub(super) fn take_leftover_group(&mut self) -> Option<ProcessGroup> {
        let (pidfd, source) = self.pidfd.take()?;
        if !self.has_leftovers(&pidfd) {
            self.pidfd = Some((pidfd, source));
            return None;
        }
        let number = self.pid;
        Some(match pidfd.try_clone() {
            Ok(copy) => {
                self.pidfd = Some((pidfd, source));
                ProcessGroup { pidfd: copy, number }
            }
            Err(_) => ProcessGroup { pidfd, number },
        })
    }

    fn has_leftovers(&self, pidfd: &OwnedFd) -> bool {
        let gone = || sys::pidfd::send_to_group(pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        self.exit.is_some() && self.leads && sys::pidfd::group_supported(pidfd) && !gone()
    }

    /// Tells whether the kernel can reach the group's members by the leader's pidfd, whether the
    /// leader is reaped or not.
    pub(super) fn group_outlives_leader(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|(pidfd, _)| sys::pidfd::group_supported(pidfd))
    }
}
