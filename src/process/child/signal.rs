//! Signals to a child and to its group.
//!
//! The one rule: no signal is ever sent to a number that may belong to another process by now.

use std::io;

use super::Child;
use crate::error::SignalError;
use crate::process::table::Moment;
use crate::sys;

impl Child {
    /// Stops it with its group, or continues them. An error means that it is gone.
    pub(crate) fn stop_or_continue(&self, signal: i32) {
        let _ = match self.leads {
            true => self.signal_group(signal),
            false => self.by_number(|| sys::signal::send(self.pid, signal)),
        };
    }

    pub(in crate::process) fn send(&mut self, signal: i32) -> Result<(), SignalError> {
        if self.exit.is_some() {
            return Err(SignalError::AlreadyExited);
        }
        let by_number = || sys::signal::send(self.pid, signal);
        match &self.pidfd {
            Some((pidfd, _)) => self.either_way(sys::pidfd::send(pidfd, signal), by_number)?,
            None => self.by_number(by_number)?,
        }
        self.note_request(signal);
        Ok(())
    }

    pub(in crate::process) fn send_to_group(&mut self, signal: i32) -> Result<(), SignalError> {
        if !self.leads {
            return self.send(signal);
        }
        self.signal_group(signal)?;
        self.note_request(signal);
        if signal == libc::SIGKILL {
            self.rare().group_killed = Some(Moment::now());
        }
        Ok(())
    }

    pub(super) fn signal_group(&self, signal: i32) -> Result<(), SignalError> {
        let by_number = || sys::signal::send_to_group(self.pid, signal);
        match &self.pidfd {
            Some((pidfd, _)) if sys::pidfd::group_supported(pidfd) => {
                self.either_way(sys::pidfd::send_to_group(pidfd, signal), by_number)
            }
            _ => self.by_number(by_number),
        }
    }

    /// Sends a signal by the number if it could not be sent by the pidfd, as long as the number is
    /// the child's own. A sandbox may refuse the one and allow the other.
    fn either_way(
        &self,
        by_pidfd: io::Result<()>,
        by_number: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), SignalError> {
        let Err(error) = by_pidfd else { return Ok(()) };
        if self.holds_number() { Ok(by_number()?) } else { Err(error.into()) }
    }

    fn by_number(&self, send: impl FnOnce() -> io::Result<()>) -> Result<(), SignalError> {
        if self.holds_number() { Ok(send()?) } else { Err(SignalError::AlreadyExited) }
    }

    /// Only a signal that could have ended it was a request to end.
    pub(in crate::process) fn note_request(&mut self, signal: i32) {
        if crate::signal::ends_by_default(signal) {
            self.requested = Some(signal);
        }
    }
}
