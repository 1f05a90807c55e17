//! Turns until something has happened.

use std::io;
use std::task::Poll;
use std::time::Duration;

use super::{Event, Reactor};
use crate::sys::clock;

impl Reactor {
    /// Takes turns until `done` has an answer, at most for `timeout` (without a limit if `None`).
    ///
    /// `done` is asked before the first turn and after each turn, and `handler` is called for each
    /// event as in [`turn`](Self::turn). Both work on `state`. A turn is always taken to its end,
    /// so no event is lost when the answer is there. With a time-out of zero one turn is taken.
    ///
    /// ```
    /// use childminder::{Command, Event, Exit, Reactor};
    /// use std::task::Poll;
    /// use std::time::Duration;
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.spawn_process(Command::new("sh").args(["-c", "exit 3"]))?;
    /// let mut exit: Option<Exit> = None;
    /// let handler = |exit: &mut Option<Exit>, _: &mut Reactor, event: Event<'_>| {
    ///     if let Event::Exited { exit: how, .. } = event {
    ///         *exit = Some(*how);
    ///     }
    /// };
    /// let done = |exit: &mut Option<Exit>, _: &mut Reactor| exit.map_or(Poll::Pending, Poll::Ready);
    /// let exit = reactor.turn_until(Some(Duration::from_secs(10)), &mut exit, handler, done)?;
    /// assert_eq!(exit.expect("it exits at once").code(), Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Returns `None` if the time is up.
    ///
    /// # Errors
    ///
    /// As [`turn`](Self::turn).
    pub fn turn_until<S: ?Sized, T>(
        &mut self,
        timeout: Option<Duration>,
        state: &mut S,
        mut handler: impl FnMut(&mut S, &mut Self, Event<'_>),
        mut done: impl FnMut(&mut S, &mut Self) -> Poll<T>,
    ) -> io::Result<Option<T>> {
        let deadline = timeout.and_then(|timeout| clock().checked_add(timeout));
        let mut left = timeout;
        loop {
            if let Poll::Ready(answer) = done(state, self) {
                return Ok(Some(answer));
            }
            self.turn(left, |reactor, event| handler(state, reactor, event))?;
            if let Some(at) = deadline {
                left = Some(at.saturating_duration_since(clock()));
                if left == Some(Duration::ZERO) {
                    return Ok(match done(state, self) {
                        Poll::Ready(answer) => Some(answer),
                        Poll::Pending => None,
                    });
                }
            }
        }
    }
}
