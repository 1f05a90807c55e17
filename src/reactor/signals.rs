//! Signals as events: the self-pipe. Drain the pipe, then act.
//!
//! Handlers go through signal-hook, which calls those that the host had before. The one rule: a signal that nobody watches any
//! more does again what it did before, as far as the platform lets us see to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::FORBIDDEN;
use signal_hook::flag;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::map::Map;
use crate::{signal, sys};

/// The signals that one reactor watches.
#[derive(Debug)]
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    watched: Vec<i32>,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = sys::fd::socket_pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, [0_i32; 0])?;
        Ok(Self { delivery, watched: Vec::new() })
    }

    /// What becomes readable when a signal has come.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }

    pub(crate) fn watches(&self, number: i32) -> bool {
        self.watched.contains(&number)
    }

    pub(crate) fn watch(&mut self, number: i32) -> io::Result<()> {
        if !(1..=signal::max()).contains(&number) || FORBIDDEN.contains(&number) {
            let message = format!("signal {number} cannot be watched");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if !self.watched.contains(&number) {
            // Before the handler is there: afterwards nobody can tell what was.
            defaults::suspend(number)?;
            self.delivery.handle().add_signal(number).inspect_err(|_| defaults::resume(number))?;
            // Blocked in all threads it would never come.
            sys::signal::unblock(number).inspect_err(|_| defaults::resume(number))?;
            self.watched.push(number);
        }
        Ok(())
    }

    /// Whether the signal was watched.
    pub(crate) fn unwatch(&mut self, number: i32) -> bool {
        let before = self.watched.len();
        self.watched.retain(|watched| *watched != number);
        if self.watched.len() < before {
            defaults::resume(number);
        }
        self.watched.len() < before
    }

    /// Empties the pipe; what has come of what is watched, each signal once.
    pub(crate) fn drain(&mut self) -> Vec<i32> {
        let come = self.delivery.pending();
        come.filter(|number| self.watched.contains(number)).collect()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for number in std::mem::take(&mut self.watched) {
            defaults::resume(number);
        }
    }
}

/// Whether the signal would end this program now: its default action applies, and this thread lets it
/// through. A reactor of the program may carry out the default action for the host meanwhile.
pub(crate) fn ends_program(number: i32) -> bool {
    signal::ends_by_default(number) && !sys::signal::is_blocked(number) && defaults::applies(number)
}

/// Ends this program as the signal does by default; returns if somebody else still watches the signal.
pub(crate) fn end_program(number: i32) {
    if defaults::is_free(number) {
        sys::signal::end_self(number);
    }
}

/// signal-hook never takes its handler away again: a signal whose watchers are gone would be swallowed. Where the host had the
/// default action, a second handler carries it out while no reactor of the process watches.
mod defaults {
    use super::{Arc, AtomicBool, Map, Mutex, Ordering, PoisonError, flag, io, sys};

    struct Default {
        watchers: usize,
        acts: Arc<AtomicBool>,
        /// The host had the default action before the first reactor watched.
        was_default: bool,
    }

    static DEFAULTS: Mutex<Map<i32, Default>> = Mutex::new(Map::new());

    pub(super) fn suspend(number: i32) -> io::Result<()> {
        let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(default) = defaults.get_mut(&number) {
            default.watchers += 1;
            default.acts.store(false, Ordering::SeqCst);
            return Ok(());
        }
        let acts = Arc::new(AtomicBool::new(false));
        let was_default = sys::signal::is_default(number);
        // The default of SIGCHLD is to do nothing.
        if was_default && crate::signal::ends_by_default(number) {
            sys::signal::end_while(number, Arc::clone(&acts))?;
        } else if number != libc::SIGCHLD && was_default {
            flag::register_conditional_default(number, Arc::clone(&acts))?;
        }
        defaults.insert(number, Default { watchers: 1, acts, was_default });
        Ok(())
    }

    /// Whether the default action applies for the host, be it carried out by us.
    pub(super) fn applies(number: i32) -> bool {
        let defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        defaults.get(&number).map_or_else(|| sys::signal::is_default(number), |default| default.was_default)
    }

    /// Whether no reactor watches it.
    pub(super) fn is_free(number: i32) -> bool {
        let defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        defaults.get(&number).is_none_or(|default| default.watchers == 0)
    }

    pub(super) fn resume(number: i32) {
        let mut defaults = DEFAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(default) = defaults.get_mut(&number) {
            default.watchers = default.watchers.saturating_sub(1);
            default.acts.store(default.watchers == 0, Ordering::SeqCst);
        }
    }
}
