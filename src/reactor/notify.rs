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
    /// The last one that is not of the tree. It need not be checked again in this turn.
    stranger: Option<i32>,
}

impl Reactor {
    /// Puts the socket of a process on the ready list.
    pub(super) fn notify_ready(&mut self, process: Key) {
        if let Some(inbox) = self.processes.get_mut(process).and_then(|child| child.inbox.as_mut()) {
            if !inbox.paused && !std::mem::replace(&mut inbox.queued, true) {
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
        let mut next = Next::Message;
        for _ in 0..limit {
            if next == Next::Message {
                next = self.read_message(process, &mut refused, buffer, handler);
            }
        }
        self.hearing = None;
        match next {
            Next::Message => self.notify_ready(process),
            Next::Queued => self.discard_message(process),
            Next::Nothing => {}
        }
        if refused.count > 0 {
            let Refused { pid, count, .. } = refused;
            handler(self, Event::NotifyRefused { process: ProcessId(process), pid, count });
        }
    }

    /// Reads one message.
    fn read_message(
        &mut self,
        process: Key,
        refused: &mut Refused,
        buffer: &mut [u8],
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Next {
        let Some(child) = self.processes.get(process) else { return Next::Nothing };
        let Some(inbox) = child.inbox.as_ref().filter(|inbox| !inbox.paused) else { return Next::Nothing };
        let message = match inbox.socket.receive(buffer) {
            Ok(Some(message)) => message,
            Ok(None) => return Next::Nothing,
            // There may be another message behind the one that could not be received.
            Err(_) => return Next::Message,
        };
        let next = if message.is_queued { Next::Queued } else { Next::Message };
        let notice = Notice::parse(message.text);
        if notice.is_empty() && message.is_queued && message.complete {
            // Anybody may ask for the end of a barrier.
        } else if message.pid.is_some() && message.pid == refused.stranger || !child.is_sender(&message) {
            if message.complete && !message.is_queued {
                refused.stranger = message.pid;
            }
            refused.pid = message.pid.map(i32::unsigned_abs);
            refused.count += 1;
        } else if !notice.is_empty() {
            handler(self, Event::Notified { process: ProcessId(process), notice: &notice });
        }
        next
    }
}

/// What follows a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There may be another one.
    Message,
    /// There is none.
    Nothing,
    /// It is still in the queue, because it came with descriptors.
    Queued,
}

/// On other systems there is no such socket.
#[cfg(not(target_os = "linux"))]
impl Reactor {
    pub(super) fn close_inbox(&mut self, _: Key) {}

    fn discard_message(&mut self, _: Key) {}
}
