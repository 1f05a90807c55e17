//! The reactor as a part of another loop: when it has something to do, and the descriptor that says
//! so.
//!
//! It waits for nothing. The one rule: a loop that waits for the descriptor and the deadline misses
//! nothing.

#[cfg(target_os = "linux")]
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::Reactor;
#[cfg(target_os = "linux")]
use crate::sources::Source;
use crate::sys;
#[cfg(target_os = "linux")]
use crate::sys::clock;

impl Reactor {
    /// Returns when a turn has something to do even if no descriptor becomes ready, for nesting in
    /// another loop.
    ///
    /// The time is now or in the past if there is something to do at once, and `None` if there is
    /// nothing to wait for.
    #[must_use]
    pub fn next_deadline(&mut self) -> Option<Instant> {
        if self.has_work() { Some(self.woke) } else { self.next_due() }
    }

    /// Makes the reactor's descriptor ([`AsFd`]) readable at [`next_deadline`](Self::next_deadline)
    /// too, for loops that know descriptors and no timeouts.
    ///
    /// From now on each turn sets it anew. Call this again after calls outside of a turn that may
    /// bring the deadline forward (a spawn, a timer, any call on a [`Process`](crate::Process)). It
    /// exists on Linux only, and takes a `timerfd_create(2)`.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, the first time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use childminder::Reactor;
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.call_later(Duration::from_millis(20));
    /// reactor.arm_fd()?;
    /// // Now `poll(2)` without a time-out would return when the timer is due.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(target_os = "linux")]
    pub fn arm_fd(&mut self) -> io::Result<()> {
        if self.alarm.is_none() {
            let alarm = sys::timerfd::Timerfd::new()?;
            self.sources.register(alarm.as_fd(), mio::Interest::READABLE, Source::Alarm)?;
            self.alarm = Some(alarm);
        }
        let delay = self.next_deadline().map(|deadline| deadline.saturating_duration_since(clock()));
        self.alarm.as_ref().map_or(Ok(()), |alarm| alarm.set(delay))
    }
}

/// The descriptor is readable when a turn has something to do, except for what only
/// [`next_deadline`](Self::next_deadline) knows. After `arm_fd` (Linux) it includes that.
///
/// To nest the reactor in another loop, watch the descriptor for reading, by level or by edge. Wait
/// no longer than until [`next_deadline`](Self::next_deadline). Then take one turn without a wait:
/// `turn(Some(Duration::ZERO), …)`.
///
/// ```
/// use std::os::fd::AsFd;
/// use std::time::Duration;
///
/// use childminder::{Command, Event, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// reactor.spawn_process(&Command::new("true"))?;
/// let mut host = mio::Poll::new()?; // in place of the loop that the host has anyway
/// let fd = reactor.as_fd().try_clone_to_owned()?;
/// let source = &mut mio::unix::SourceFd(&std::os::fd::AsRawFd::as_raw_fd(&fd));
/// host.registry().register(source, mio::Token(0), mio::Interest::READABLE)?;
/// let (mut events, mut ended) = (mio::Events::with_capacity(8), false);
/// while !ended {
///     let timeout = reactor.next_deadline().map(|deadline| deadline.saturating_duration_since(reactor.now()));
///     host.poll(&mut events, timeout)?;
///     reactor.turn(Some(Duration::ZERO), |_, event| ended |= matches!(event, Event::Ended { .. }))?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::fd::borrow(&self.poll)
    }
}
