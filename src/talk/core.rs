//! What a child and its outputs share: the waits, on a reactor that one thread uses at a time.
//!
//! The one rule: a wait ends at its limit, whatever the other threads do.

use std::io;
use std::task::Poll;
use std::time::Duration;

use super::conversation::Conversation;
use super::error::TalkError;
use super::share::{Share, Urgency};
use crate::reactor::{Event, Reactor, Waker};
use crate::sys::clock;

/// How long a call may wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// As long as was set for all calls.
    Set,
    Given(Duration),
}

#[derive(Debug)]
pub(super) struct Driver {
    pub(super) reactor: Reactor,
    pub(super) conversation: Conversation,
    pub(super) time_limit: Option<Duration>,
}

/// A talk with one process or with a pipeline.
#[derive(Debug)]
pub(super) struct Core {
    /// The program, or the programs of the pipeline.
    pub(super) programs: Vec<String>,
    share: Share<Box<Driver>>,
}

impl Core {
    /// The waker must be that of the reactor.
    pub(super) fn new(programs: Vec<String>, reactor: Reactor, waker: Waker, conversation: Conversation) -> Self {
        let driver = Driver { reactor, conversation, time_limit: None };
        Self { programs, share: Share::new(Box::new(driver), waker) }
    }

    /// The program, or the pipeline, for an error.
    pub(super) fn program(&self) -> String {
        self.programs.join(" | ")
    }

    /// Waits until `look` has an answer. If the time is up, after at least one turn, it returns the
    /// limit as an error.
    pub(super) fn wait_for<T>(
        &self,
        limit: Limit,
        mut look: impl FnMut(&mut Conversation, &mut Reactor) -> Poll<T>,
    ) -> Result<Result<T, Duration>, TalkError> {
        let (start, mut has_turned, mut has_passed) = (clock(), false, false);
        let mut driver = self.share.take(Urgency::AtOnce);
        loop {
            let Driver { reactor, conversation, time_limit } = &mut **driver;
            if let Poll::Ready(answer) = look(conversation, reactor) {
                return Ok(Ok(answer));
            }
            let limit = match limit {
                Limit::Set => *time_limit,
                Limit::Given(limit) => Some(limit),
            };
            let deadline = limit.and_then(|limit| start.checked_add(limit));
            let left = deadline.map(|at| at.saturating_duration_since(clock()));
            if let (Some(limit), Some(Duration::ZERO), true) = (limit, left, has_turned) {
                return Ok(Err(limit));
            }
            let is_wanted = driver.is_wanted();
            if is_wanted && !has_passed {
                driver = driver.pass(deadline.map_or(Urgency::Never, Urgency::At));
                has_passed = true;
            } else {
                // If others want it again and again, a turn comes in between all the same.
                let turned = driver.turn(if is_wanted { Some(Duration::ZERO) } else { left });
                if !matches!(turned, Ok(false)) {
                    driver.note_change();
                }
                turned.map_err(TalkError::Wait)?;
                (has_turned, has_passed) = (true, false);
            }
        }
    }

    /// Waits until `look` has an answer, within the time limit that is set.
    pub(super) fn until<T>(
        &self,
        fd: i32,
        wanted: &dyn Fn() -> String,
        look: impl FnMut(&mut Conversation, &mut Reactor) -> Poll<T>,
    ) -> Result<T, TalkError> {
        self.wait_for(Limit::Set, look)?.map_err(|limit| self.timed_out(fd, wanted(), limit, 0))
    }

    pub(super) fn timed_out(&self, fd: i32, wanted: String, limit: Duration, not_taken: usize) -> TalkError {
        let (unread, stderr) = self.with(|conversation, _| conversation.tails(fd));
        TalkError::TimedOut { program: self.program(), wanted, limit, unread, stderr, not_taken }
    }

    /// Changes what other threads may find.
    pub(super) fn change(&self, act: impl FnOnce(&mut Driver)) {
        let mut driver = self.share.take(Urgency::AtOnce);
        act(&mut driver);
        driver.note_change();
    }

    /// Does something that needs no wait.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Conversation, &mut Reactor) -> T) -> T {
        let mut driver = self.share.take(Urgency::AtOnce);
        let Driver { reactor, conversation, .. } = &mut **driver;
        act(conversation, reactor)
    }
}

impl Driver {
    /// Takes one turn, and tells whether anything happened but a wake-up by another thread.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let Self { reactor, conversation, .. } = self;
        let (waiting, mut has_events) = (conversation.waiting(reactor), false);
        reactor.turn(timeout, |reactor, event| {
            has_events |= !matches!(event, Event::Woken);
            conversation.handle(reactor, event);
        })?;
        Ok(has_events || conversation.waiting(reactor) != waiting)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What has exited, but was not reaped, has ended by itself.
        self.reactor.look_for_exits();
        let _ = self.turn(Some(Duration::ZERO));
        if self.conversation.poll_exits().is_pending() {
            self.conversation.end(&mut self.reactor);
        }
    }
}
