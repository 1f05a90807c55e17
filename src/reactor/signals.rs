//! The signals that one reactor watches, as events through a self-pipe.
//!
//! It hands out no events itself. The pipe is drained before its signals are handled. The one rule:
//! a signal that no reactor watches any more does again what it did before.

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

    /// The descriptor that becomes readable when a signal has arrived.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.as_fd()
    }

    pub(crate) fn watches(&self, number: i32) -> bool {
        self.watched.contains(&number)
    }

    /// Watches these signals as well, or none of them if there is an error.
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
            // A signal that all threads block would never arrive.
            sys::signal::unblock(&self.watched[known..]).inspect_err(|_| self.forget(known))?;
        }
        Ok(())
    }

    /// Stops watching all signals but the first `known` ones.
    fn forget(&mut self, known: usize) {
        for number in self.watched.drain(known..) {
            self.inbox.leave(number);
        }
    }

    /// Stops watching a signal. Returns whether it was watched.
    pub(crate) fn unwatch(&mut self, number: i32) -> bool {
        self.watched.retain(|watched| *watched != number);
        self.inbox.leave(number)
    }

    /// Whether a watched signal has arrived and was not taken out by [`drain`](Self::drain). Makes
    /// no system call.
    pub(crate) fn has_come(&self, number: i32) -> bool {
        self.watches(number) && self.inbox.has_come(number)
    }

    /// Empties the pipe. Returns the watched signals that have arrived, each once.
    pub(crate) fn drain(&mut self) -> Vec<i32> {
        let mut arrived = self.inbox.drain();
        arrived.retain(|number| self.watched.contains(number));
        arrived
    }

    /// Removes the handlers of these signals, and then returns for the last time all watched
    /// signals that have arrived.
    pub(crate) fn release(&mut self, numbers: &[i32]) -> Vec<i32> {
        for number in numbers {
            self.inbox.leave(*number);
        }
        let arrived = self.drain();
        self.watched.retain(|watched| !numbers.contains(watched));
        arrived
    }
}

/// Returns those of the signals that would end this program now: their default action applies, and
/// this thread does not block them. A reactor of the program may watch them in place of the default
/// action for the time being.
pub(crate) fn that_end_program(mut numbers: Vec<i32>) -> Vec<i32> {
    numbers.retain(|number| signal::ends_by_default(*number));
    let mut numbers = sys::signal::not_blocked(numbers);
    numbers.retain(|number| handler::default_applies(*number));
    numbers
}

/// Ends this program as the signal does by default. It returns if other code watches or handles the
/// signal.
pub(crate) fn end_program(number: i32) {
    if !handler::has_listeners(number) && handler::default_applies(number) {
        sys::signal::end_self(number);
    }
}
