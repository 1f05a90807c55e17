//! Who died? Waits, without blocking, for exactly our own children.
//!
//! A pidfd in the poll set says which one; where there is none, SIGCHLD says that it may be any of those without. The one rule:
//! what was written before a death is read before the death is told, as far as a turn's share goes.

use std::time::{Duration, Instant};

use super::{Event, Reactor};
use crate::command::Command;
use crate::error::{SpawnError, Stage};
use crate::process::{Child, Process, ProcessId, Reap};
use crate::slab::Key;

/// A child is looked at again for the first time after this pause.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// And after no longer pause than this one.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A child that is dead and cannot be reaped yet.
#[derive(Debug)]
pub(super) struct Again {
    process: Key,
    pub(super) at: Instant,
    pause: Duration,
}

/// How the death of a child is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ReapMethod {
    /// By a pidfd for each child (Linux 5.3): the same cost however many there are, and SIGCHLD is left alone. A child that can have
    /// none (old kernel, sandbox, no descriptor left) is reaped as by [`Sigchld`](Self::Sigchld).
    #[default]
    Pidfd,
    /// By SIGCHLD, at which each child is asked after. The host's own handler for it is still called; a host that ignores it
    /// no longer does, nor does the thread that spawns first block it.
    ///
    /// A host that installs a handler of its own *afterwards* must call the one that it replaces: nothing else would wake the reactor.
    Sigchld,
}

impl Reactor {
    /// Has SIGCHLD wake the reactor.
    pub(super) fn watch_children(&mut self, command: &Command) -> Result<(), SpawnError> {
        if !self.sigchld.for_children {
            let watched = self.watch(&[libc::SIGCHLD]);
            watched.map_err(|error| SpawnError::new(command.get_program().to_owned(), Stage::Pipe, error))?;
            self.sigchld.for_children = true;
        }
        Ok(())
    }

    /// A child that can neither be watched nor be left unwatched: it is killed and reaped here.
    pub(super) fn give_up(&mut self, process: Key, error: SpawnError) -> Result<(), SpawnError> {
        if let Some(child) = self.processes.remove(process) {
            child.abandon(&mut self.sources);
        }
        Err(error)
    }

    /// Adds those of our children to the dead that no event of the poll tells of: those without a pidfd,
    /// and those that were to be looked at again. They are dead by now: what is read of them after is all.
    pub(super) fn find_dead(&mut self) {
        let died = |child: &Child| child.needs_sweep() && child.has_ended();
        if std::mem::take(&mut self.sweep) {
            self.newborn.clear();
            self.dead.extend(self.processes.iter().filter(|(_, child)| died(child)).map(|(key, _)| key));
        } else {
            let newborn = self.newborn.drain(..);
            self.dead.extend(newborn.filter(|key| self.processes.get(*key).is_some_and(died)));
        }
        let now = self.woke;
        self.dead.extend(self.again.iter().filter(|again| again.at <= now).map(|again| again.process));
    }

    /// Reads what a dead child has left in its pipes, reaps it and tells; also that it has ended, if that is all.
    pub(super) fn bury(&mut self, process: Key, buffer: &mut [u8], handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        let Some(child) = self.processes.get(process) else { return };
        for fd in child.readers().collect::<Vec<_>>() {
            if let Some(reader) = self.processes.get_mut(process).and_then(|child| child.reader(fd)) {
                reader.queued = false;
            }
            self.read(process, fd, buffer, handler);
        }
        let Some(child) = self.processes.get_mut(process) else { return };
        match child.reap(self.woke, &mut self.sources, &mut self.living) {
            Reap::Nothing => {}
            Reap::Later => return self.look_again(process),
            Reap::Exited(exit) => {
                self.again.retain(|again| again.process != process);
                self.hang_up(process);
                self.leader_gone(process);
                handler(self, Event::Exited { process: ProcessId(process), exit: &exit });
                self.tell_gone(handler);
            }
        }
        self.end_if_over(process, handler);
    }

    /// Has the child be looked at once more, after a pause that doubles each time.
    fn look_again(&mut self, process: Key) {
        let known = self.again.iter().position(|again| again.process == process);
        let pause = known.map_or(FIRST_PAUSE, |index| (2 * self.again[index].pause).min(LONGEST_PAUSE));
        let again = Again { process, at: self.woke + pause, pause };
        match known {
            // One that is not due yet has come by a sweep.
            Some(index) if self.again[index].at > self.woke => {}
            Some(index) => self.again[index] = again,
            None => self.again.push(again),
        }
    }

    /// A terminal ends with its child, whoever else still has it: the system has hung up on them.
    fn hang_up(&mut self, process: Key) {
        let Some(child) = self.processes.get_mut(process) else { return };
        let Some(terminal) = child.hung_up_terminal() else { return };
        terminal.last_words();
        let mut child =
            Process { id: ProcessId(process), child, sources: &mut self.sources, notices: &mut self.notices };
        child.close(0);
        self.read_again(process, 1);
    }
}
