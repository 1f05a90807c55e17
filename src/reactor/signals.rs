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

    /// Watches these signals, too, or none of them if there is an error.
    pub(crate) fn watch(&mut self, numbers: &[i32]) -> io::Result<()> {
        let known = self.watched.len();
        for number in numbers {
            if !self.watched.contains(number) {
                if let Err(error) = self.inbox.listen(*number) {
                    self.forget(known);
                    return Err(io::Error::new(error.kind(), format!("signal {number} cannot be watched: {error}")));
                }
                self.watched.push(*number);
            }
        }
        if self.watched.len() > known {
            // Blocked in all threads they would never come.
            sys::signal::unblock(&self.watched[known..]).inspect_err(|_| self.forget(known))?;
        }
        Ok(())
    }

    /// Takes back all but the first ones.
    fn forget(&mut self, known: usize) {
        for number in self.watched.drain(known..) {
            self.inbox.leave(number);
        }
    }

    /// Whether the signal was watched.
    pub(crate) fn unwatch(&mut self, number: i32) -> bool {
        self.watched.retain(|watched| *watched != number);
        self.inbox.leave(number)
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

/// Those of the signals that would end this program now: their default action applies, and this thread lets
/// them through. A reactor of the program may be in front of the default action meanwhile.
pub(crate) fn that_end_program(mut numbers: Vec<i32>) -> Vec<i32> {
    numbers.retain(|number| signal::ends_by_default(*number));
    let mut numbers = sys::signal::not_blocked(numbers);
    numbers.retain(|number| handler::default_applies(*number));
    numbers
}

/// Ends this program as the signal does by default; returns if somebody else watches or handles the signal.
pub(crate) fn end_program(number: i32) {
    if !handler::has_listeners(number) && handler::default_applies(number) {
        sys::signal::end_self(number);
    }
}
