//! Takes messages that came with descriptors out of the queues of sockets, by a process for each.
//!
//! Reads nothing. The one rule: a socket is not read while such a process has it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Interest;

use super::{Reactor, clock};
use crate::process::discard::start;
use crate::slab::Key;
use crate::sources::Source;
use crate::sys;

/// How long such a process may take before it is killed. It takes much less, unless the close of a
/// descriptor waits.
const PATIENCE: Duration = Duration::from_millis(200);

/// The processes that take messages out of queues.
#[derive(Debug, Default)]
pub(super) struct Discards {
    running: Vec<Discard>,
    /// Whether the poll has reported that one of them has ended.
    pub(super) stirred: bool,
}

#[derive(Debug)]
struct Discard {
    /// The process whose socket it has.
    process: Key,
    pid: i32,
    pidfd: OwnedFd,
    source: Key,
    /// When it is killed, unless that has been done.
    kill_at: Option<Instant>,
}

impl Discards {
    /// Returns when one of them is to be killed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.running.iter().filter_map(|discard| discard.kill_at).min()
    }
}

impl Discard {
    /// Reaps it if it has ended, and returns whether it has.
    fn has_ended(&self) -> bool {
        let state = sys::wait::try_wait_exactly(self.pidfd.as_fd(), self.pid);
        !matches!(state, sys::wait::Wait::Running | sys::wait::Wait::Unknown)
    }
}

impl Drop for Discard {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = sys::pidfd::send(&self.pidfd, libc::SIGKILL);
            sys::wait::reap_soon(self.pid);
        }
    }
}

impl Reactor {
    /// Has the first message taken out of the queue of a process's socket. The socket is read again
    /// afterwards.
    pub(super) fn discard_message(&mut self, process: Key) {
        let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut()) else { return };
        let socket = inbox.socket.fd().and_then(|socket| socket.try_clone_to_owned().ok());
        inbox.paused = true;
        if socket.is_some_and(|socket| self.start_discard(process, socket)) {
            return;
        }
        if let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut()) {
            inbox.socket.drop_message();
            inbox.paused = false;
            self.notify_ready(process);
        }
    }

    /// Closes the socket of a process.
    pub(super) fn close_inbox(&mut self, process: Key) {
        let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.take()) else { return };
        self.sources.forget(inbox.source);
        if let Some(unread) = inbox.socket.close() {
            // The end of that process closes it, and never waits.
            self.start_discard(process, unread);
        }
    }

    fn start_discard(&mut self, process: Key, socket: OwnedFd) -> bool {
        let Ok((pid, pidfd)) = start(&self.spawner, socket) else { return false };
        let Ok(source) = self.sources.register(pidfd.as_fd(), Interest::READABLE, Source::Discard) else {
            sys::wait::kill_and_reap(pid);
            return false;
        };
        self.discards.running.push(Discard { process, pid, pidfd, source, kill_at: Some(clock() + PATIENCE) });
        true
    }

    /// Reaps the processes that have ended, and reads the sockets again that they had.
    pub(super) fn settle_discards(&mut self) {
        if std::mem::take(&mut self.discards.stirred) {
            while let Some(index) = self.discards.running.iter().position(Discard::has_ended) {
                let Discard { process, source, .. } = &self.discards.running[index];
                let (process, source) = (*process, *source);
                self.sources.forget(source);
                self.discards.running.swap_remove(index);
                if let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut()) {
                    inbox.paused = false;
                    self.notify_ready(process);
                }
            }
        }
        for discard in &mut self.discards.running {
            if discard.kill_at.take_if(|at| *at <= self.woke).is_some() {
                let _ = sys::pidfd::send(&discard.pidfd, libc::SIGKILL);
            }
        }
    }
}
