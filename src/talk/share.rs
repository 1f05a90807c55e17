//! Something that only one thread can use at a time, and that waits while it is used: each thread
//! that wants it gets it in its turn.
//!
//! It knows nothing of processes. The one rule: when something has happened, every thread that
//! waits for it has a look before one of them waits again. A thread that arrives interrupts that
//! wait once.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::reactor::Waker;
use crate::sys::clock;

#[derive(Debug)]
pub(super) struct Share<D> {
    queue: Mutex<Queue<D>>,
    moved: Condvar,
    waker: Waker,
}

#[derive(Debug)]
struct Queue<D> {
    /// `None` while a thread has it.
    shared: Option<D>,
    /// The number of the next thread that arrives.
    next: u64,
    /// The number of the thread whose turn it is.
    serving: u64,
    /// How many threads in the queue have looked at all that has happened.
    idle: usize,
    /// How many have not, or want to do something.
    urgent: usize,
    /// How often something has happened.
    changes: u64,
}

/// When a thread in the queue interrupts the wait of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// At once: it has not looked at what has happened, or wants to do something.
    AtOnce,
    At(Instant),
    Never,
}

/// What is shared, as long as one thread has it.
#[derive(Debug)]
pub(super) struct Turn<'a, D> {
    share: &'a Share<D>,
    shared: Option<D>,
}

impl<D> Share<D> {
    /// The waker must end the wait of the thread that has `shared`.
    pub(super) fn new(shared: D, waker: Waker) -> Self {
        let queue = Queue { shared: Some(shared), next: 0, serving: 0, idle: 0, urgent: 0, changes: 0 };
        Self { queue: Mutex::new(queue), moved: Condvar::new(), waker }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<D>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, queue: &mut Queue<D>, shared: Option<D>) {
        queue.shared = shared;
        queue.serving += 1;
        // As a rule there is no other thread, and this is a system call.
        if queue.next != queue.serving {
            self.moved.notify_all();
        }
    }

    /// Waits until it is this thread's turn.
    pub(super) fn take(&self, urgency: Urgency) -> Turn<'_, D> {
        self.wait(self.lock(), urgency)
    }

    fn wait<'a>(&'a self, mut queue: MutexGuard<'a, Queue<D>>, urgency: Urgency) -> Turn<'a, D> {
        let ticket = queue.next;
        queue.next += 1;
        queue.idle += 1;
        let (seen, mut woke) = (queue.changes, false);
        loop {
            let is_urgent = woke || queue.changes != seen;
            if queue.serving == ticket {
                if let Some(shared) = queue.shared.take() {
                    let counted = if is_urgent { &mut queue.urgent } else { &mut queue.idle };
                    *counted -= 1;
                    return Turn { share: self, shared: Some(shared) };
                }
            }
            let left = match urgency {
                _ if woke => None,
                Urgency::Never => None,
                Urgency::AtOnce => Some(Duration::ZERO),
                Urgency::At(time) => Some(time.saturating_duration_since(clock())),
            };
            if left == Some(Duration::ZERO) {
                woke = true;
                if !is_urgent {
                    queue.idle -= 1;
                    queue.urgent += 1;
                }
                // If it fails, this thread gets its turn after the next event.
                let _ = self.waker.wake();
                continue;
            }
            queue = match left {
                Some(time) => self.moved.wait_timeout(queue, time).unwrap_or_else(PoisonError::into_inner).0,
                None => self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl<'a, D> Turn<'a, D> {
    /// Lets the others have it first. Nothing can happen between the last look of this thread and
    /// its place in the queue.
    pub(super) fn pass(mut self, urgency: Urgency) -> Self {
        let mut queue = self.share.lock();
        self.share.give_back(&mut queue, self.shared.take());
        self.share.wait(queue, urgency)
    }

    /// Notes that something may have happened that the others have not seen.
    pub(super) fn note_change(&self) {
        let mut queue = self.share.lock();
        queue.changes += 1;
        queue.urgent += std::mem::take(&mut queue.idle);
    }

    /// Tells whether another thread needs it first, so that this one must not wait with it.
    pub(super) fn is_wanted(&self) -> bool {
        self.share.lock().urgent > 0
    }
}

impl<D> Deref for Turn<'_, D> {
    type Target = D;

    fn deref(&self) -> &D {
        self.shared.as_ref().expect("it is given back only at the end")
    }
}

impl<D> DerefMut for Turn<'_, D> {
    fn deref_mut(&mut self) -> &mut D {
        self.shared.as_mut().expect("it is given back only at the end")
    }
}

impl<D> Drop for Turn<'_, D> {
    fn drop(&mut self) {
        // It was given back if it was passed on.
        if let Some(shared) = self.shared.take() {
            let mut queue = self.share.lock();
            self.share.give_back(&mut queue, Some(shared));
        }
    }
}
