//! Signals as events: the self-pipe. Drain the pipe, then act.
//!
//! The one rule: a signal that nobody watches any more does again what it did before.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::handler::{self, Inbox};
use crate::{signal, sys};

/// The signals that one reactor watches.
#[derive(Debug)]
pub(crate) struct Signals {
    inbox: Inbox,
    watched: Vec<i32>,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { inbox: Inbox::new()?, watched: Vec::new() })
    }

    /// What becomes readable when a signal has come.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.as_fd()
    }

    pub(crate) fn watches(&self, number: i32) -> bool {
        self.watched.contains(&number)
    }

    pub(crate) fn watch(&mut self, number: i32) -> io::Result<()> {
        if !self.watched.contains(&number) {
            self.inbox
                .listen(number)
                .map_err(|error| io::Error::new(error.kind(), format!("signal {number} cannot be watched: {error}")))?;
            // Blocked in all threads it would never come.
            sys::signal::unblock(number).inspect_err(|_| {
                self.inbox.leave(number);
            })?;
            self.watched.push(number);
        }
        Ok(())
    }

    /// Whether the signal was watched.
    pub(crate) fn unwatch(&mut self, number: i32) -> bool {
        self.watched.retain(|watched| *watched != number);
        self.inbox.leave(number)
    }

    /// Whether a signal that is watched has come and was not taken out by [`drain`](Self::drain). Makes no system call.
    pub(crate) fn has_come(&self, number: i32) -> bool {
        self.watches(number) && self.inbox.has_come(number)
    }

    /// Empties the pipe; what has come of what is watched, each signal once.
    pub(crate) fn drain(&mut self) -> Vec<i32> {
        let mut come = self.inbox.drain();
        come.retain(|number| self.watched.contains(number));
        come
    }

    /// Takes back the handlers of these, and then looks a last time what has come of all that was watched.
    pub(crate) fn release(&mut self, numbers: &[i32]) -> Vec<i32> {
        for number in numbers {
            self.inbox.leave(*number);
        }
        let come = self.drain();
        self.watched.retain(|watched| !numbers.contains(watched));
        come
    }
}

/// Whether the signal would end this program now: its default action applies, and this thread lets it
/// through. A reactor of the program may be in front of the default action meanwhile.
pub(crate) fn ends_program(number: i32) -> bool {
    signal::ends_by_default(number) && !sys::signal::is_blocked(number) && handler::default_applies(number)
}

/// Ends this program as the signal does by default; returns if somebody else watches or handles the signal.
pub(crate) fn end_program(number: i32) {
    if !handler::has_listeners(number) && handler::default_applies(number) {
        sys::signal::end_self(number);
    }
}
