//! Reads what the trees of the processes say of their own state, and reports it.
//!
//! It does not judge a sender, because `process` does. The one rule: a socket gets a fixed share of
//! a turn, so that a flood delays nothing else.

use super::{Event, Reactor};
use crate::notify::Notice;
use crate::process::ProcessId;
use crate::slab::Key;

/// The messages of one socket in one turn.
const MESSAGES: usize = 16;
/// The messages that are read when a process exits. The queue of a socket is not longer as a rule
/// (`net.unix.max_dgram_qlen`).
const LAST_MESSAGES: usize = 512;

/// The senders of a turn that were refused.
#[derive(Debug, Clone, Copy, Default)]
struct Refused {
    pid: Option<u32>,
    count: usize,
}

impl Reactor {
    /// Puts the socket of a process on the ready list.
    pub(super) fn notify_ready(&mut self, process: Key) {
        if let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut()) {
            if !std::mem::replace(&mut inbox.queued, true) {
                self.sources.push_ready(inbox.source);
            }
        }
    }

    /// Reads a socket on the ready list for its share of a turn.
    pub(super) fn read_notify(
        &mut self,
        process: Key,
        buffer: &mut [u8],
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) {
        let inbox = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut());
        // Otherwise it was read when its process exited.
        if inbox.is_some_and(|inbox| std::mem::take(&mut inbox.queued)) {
            self.read_messages(process, MESSAGES, buffer, handler);
        }
    }

    /// Reads what a process and its tree have said before its exit.
    pub(super) fn read_last_messages(
        &mut self,
        process: Key,
        buffer: &mut [u8],
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) {
        if let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut()) {
            inbox.queued = false;
            self.read_messages(process, LAST_MESSAGES, buffer, handler);
        }
    }

    fn read_messages(
        &mut self,
        process: Key,
        limit: usize,
        buffer: &mut [u8],
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) {
        self.hearing = Some(process);
        let mut refused = Refused::default();
        let drained = (0..limit).any(|_| !self.read_message(process, &mut refused, buffer, handler));
        self.hearing = None;
        if !drained {
            self.notify_ready(process);
        }
        if refused.count > 0 {
            let Refused { pid, count } = refused;
            handler(self, Event::NotifyRefused { process: ProcessId(process), pid, count });
        }
    }

    /// Reads one message. Returns whether there may be another one.
    fn read_message(
        &mut self,
        process: Key,
        refused: &mut Refused,
        buffer: &mut [u8],
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> bool {
        let Some(child) = self.processes.get(process) else { return false };
        let Some(inbox) = &child.inbox else { return false };
        // An error is that of a message that could not be received, and there may be another one.
        let Some(message) = inbox.socket.receive(buffer).transpose() else { return false };
        match message {
            Ok(message) if child.is_sender(&message) => {
                let notice = Notice::parse(message.text);
                if !notice.is_empty() {
                    handler(self, Event::Notified { process: ProcessId(process), notice: &notice });
                }
            }
            Ok(message) => {
                refused.pid = message.pid.map(i32::unsigned_abs);
                refused.count += 1;
            }
            Err(_) => {}
        }
        true
    }
}
