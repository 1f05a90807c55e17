//! Reaps the exited children of this reactor, and no others. It never blocks.
//!
//! A pidfd in the poll set tells which child has exited. SIGCHLD tells only that it may be any of
//! the children without a pidfd. The one rule: the data that a child wrote before its exit is read
//! before the exit is reported, as far as one turn's share of a source goes.

use std::time::{Duration, Instant};

use super::{Event, Reactor, clock};
use crate::command::Command;
use crate::error::{SpawnError, Stage};
use crate::process::{Child, Process, ProcessId, Reap};
use crate::slab::Key;

/// The first pause before a child is checked again.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause before a child is checked again.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A child that has exited and cannot be reaped yet.
#[derive(Debug)]
pub(super) struct Recheck {
    process: Key,
    pub(super) at: Instant,
    pause: Duration,
}

/// The mechanism by which the exit of a child is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ReapMethod {
    /// A pidfd for each child (Linux 5.3). The cost is the same however many children there are,
    /// and SIGCHLD is left alone. A child that cannot have a pidfd (old kernel, sandbox, no
    /// descriptor left) is reaped as with [`Sigchld`](Self::Sigchld).
    #[default]
    Pidfd,
    /// SIGCHLD, after which each child is checked. The host's own handler for it is still called. A
    /// host that ignores SIGCHLD does not ignore it as long as the reactor exists, and the first
    /// thread that spawns no longer blocks it.
    ///
    /// A host that installs a handler of its own *afterwards* must call the one that it replaces.
    /// Otherwise nothing wakes the reactor.
    Sigchld,
}

impl Reactor {
    /// Makes SIGCHLD wake the reactor.
    pub(super) fn watch_children(&mut self, command: &Command) -> Result<(), SpawnError> {
        if !self.sigchld.for_children {
            let watched = self.watch(&[libc::SIGCHLD]);
            watched.map_err(|error| SpawnError::new(command.get_program().to_owned(), Stage::Pipe, error))?;
            self.sigchld.for_children = true;
        }
        Ok(())
    }

    /// Kills and reaps a child that cannot be watched.
    pub(super) fn give_up(&mut self, process: Key, error: SpawnError) -> Result<(), SpawnError> {
        self.abandon(ProcessId(process));
        Err(error)
    }

    /// Kills a process with its tree and reaps it, without an event.
    pub(crate) fn abandon(&mut self, ProcessId(process): ProcessId) {
        self.close_inbox(process);
        if let Some(child) = self.processes.remove(process) {
            let cgroup = child.abandon(&mut self.sources);
            self.trees.remove_later(cgroup, clock());
        }
        #[cfg(target_os = "linux")]
        self.guard.forget(process, false);
    }

    /// Lists the exited children that no event of the poll reports: the ones without a pidfd, and
    /// the ones that were to be checked again. They have exited by now, so a later read of their
    /// pipes finds everything that they wrote.
    pub(super) fn find_exited(&mut self) {
        let died = |child: &Child| child.needs_sweep() && child.may_have_ended();
        if std::mem::take(&mut self.sweep) {
            self.newborn.clear();
            self.exited.extend(self.processes.iter().filter(|(_, child)| died(child)).map(|(key, _)| key));
        } else {
            let newborn = self.newborn.drain(..);
            self.exited.extend(newborn.filter(|key| self.processes.get(*key).is_some_and(died)));
        }
        let now = self.woke;
        self.exited.extend(self.rechecks.iter().filter(|recheck| recheck.at <= now).map(|recheck| recheck.process));
    }

    /// Has the next turn check every child, even if the signal of its exit has not arrived yet.
    pub(crate) fn look_for_exits(&mut self) {
        self.sweep = true;
    }

    /// Reads the data that an exited child has left in its pipes, then reaps it and reports its
    /// exit. It also reports its end, if nothing else is left.
    pub(super) fn reap(&mut self, process: Key, buffer: &mut [u8], handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        let Some(child) = self.processes.get(process) else { return };
        for fd in child.readers().collect::<Vec<_>>() {
            if let Some(reader) = self.processes.get_mut(process).and_then(|child| child.reader(fd)) {
                reader.queued = false;
            }
            self.read(process, fd, buffer, handler);
        }
        self.read_last_messages(process, buffer, handler);
        let Some(child) = self.processes.get_mut(process) else { return };
        match child.reap(self.woke, &mut self.sources, &mut self.living) {
            Reap::Nothing => {}
            Reap::Later => return self.check_again(process),
            Reap::Exited(exit) => {
                self.rechecks.retain(|recheck| recheck.process != process);
                self.hang_up(process);
                self.close_inbox(process);
                self.leader_gone(process);
                handler(self, Event::Exited { process: ProcessId(process), exit: &exit });
                self.tell_gone(handler);
            }
        }
        self.end_if_over(process, handler);
    }

    /// Schedules a further check of the child, after a pause that doubles each time.
    fn check_again(&mut self, process: Key) {
        let known = self.rechecks.iter().position(|recheck| recheck.process == process);
        let pause = known.map_or(FIRST_PAUSE, |index| (2 * self.rechecks[index].pause).min(LONGEST_PAUSE));
        let recheck = Recheck { process, at: self.woke + pause, pause };
        match known {
            // A sweep has found a child that is not due yet.
            Some(index) if self.rechecks[index].at > self.woke => {}
            Some(index) => self.rechecks[index] = recheck,
            None => self.rechecks.push(recheck),
        }
    }

    /// Ends a terminal with its child, even if other processes still have it open: the system has
    /// hung up on them.
    fn hang_up(&mut self, process: Key) {
        let Some(child) = self.processes.get_mut(process).filter(|child| child.is_on_terminal()) else { return };
        // The host may have closed the one and not the other.
        if let Some(terminal) = child.reader(1) {
            terminal.child_reaped();
        }
        let mut child =
            Process { id: ProcessId(process), child, sources: &mut self.sources, notices: &mut self.notices };
        child.close(0);
        self.read_again(process, 1);
    }
}
