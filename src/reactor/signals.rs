//! The signals that one reactor watches, as events through a self-pipe.
//!
//! It hands out no events itself. The pipe is drained before its signals are handled. The one rule:
//! a signal that no reactor watches any more does again what it did before.

use std::io;
use std::os::fd::BorrowedFd;

use super::Reactor;
use crate::sources::Source;
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
    pub(crate) fn has_arrived(&self, number: i32) -> bool {
        self.watches(number) && self.inbox.has_arrived(number)
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

impl Reactor {
    /// Requests [`Event::Signal`](crate::Event::Signal) for a signal.
    ///
    /// A handler that the host had before is still called. The signal's default action is not
    /// carried out as long as a reactor watches it. The calling thread no longer blocks the signal.
    ///
    /// A signal that the kernel raises for a fault of the program (SIGSEGV, SIGABRT and the like)
    /// is reported only if a process has sent it. A fault still has the effect that it had before.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a number that is not a signal or that cannot be caught (SIGKILL,
    /// SIGSTOP).
    pub fn watch_signal(&mut self, signal: i32) -> io::Result<()> {
        self.watch(&[signal])?;
        self.sigchld.for_host |= signal == libc::SIGCHLD;
        Ok(())
    }

    /// Tells whether the host has asked for this signal.
    pub(crate) fn watches_signal(&self, signal: i32) -> bool {
        self.signals.as_ref().is_some_and(|signals| signals.watches(signal))
    }

    /// Watches these signals, or none of them if there is an error.
    pub(crate) fn watch(&mut self, signals: &[i32]) -> io::Result<()> {
        if self.signals.is_none() {
            let signals = Signals::new()?;
            self.sources.register(signals.as_fd(), mio::Interest::READABLE, Source::Signals)?;
            self.signals = Some(signals);
        }
        self.signals.as_mut().map_or(Ok(()), |known| known.watch(signals))
    }

    /// Tells whether this process ignores a signal, as one that nohup(1) has started ignores
    /// SIGHUP. A program should leave such a signal ignored.
    ///
    /// ```
    /// // Rust's runtime ignores it, so that a closed pipe is an error and not the end.
    /// assert!(childminder::Reactor::ignores_signal(libc::SIGPIPE));
    /// ```
    #[must_use]
    #[doc(alias = "SIG_IGN")]
    pub fn ignores_signal(signal: i32) -> bool {
        sys::signal::is_ignored(signal)
    }

    /// Undoes [`watch_signal`](Self::watch_signal). Returns whether the signal was watched.
    ///
    /// When no reactor of the process watches the signal any more, its action is again what it was
    /// before, unless the host has set another one in the meantime.
    pub fn unwatch_signal(&mut self, signal: i32) -> bool {
        if signal == libc::SIGCHLD {
            let watched = std::mem::take(&mut self.sigchld.for_host);
            if self.sigchld.for_children {
                return watched;
            }
        }
        self.signals.as_mut().is_some_and(|signals| signals.unwatch(signal))
    }

    /// Undoes [`watch`](Self::watch) for these signals. Returns the ones that have arrived and are
    /// not reported.
    pub(crate) fn release_signals(&mut self, numbers: &[i32]) -> Vec<i32> {
        self.arrived_signals.extend(self.signals.as_mut().map(|signals| signals.release(numbers)).unwrap_or_default());
        let (untold, arrived) =
            std::mem::take(&mut self.arrived_signals).into_iter().partition(|number| numbers.contains(number));
        self.arrived_signals = arrived;
        untold.into()
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
