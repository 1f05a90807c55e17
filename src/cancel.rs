//! A request to end a run, made from any thread.
//!
//! It knows neither processes nor reactors. The one rule: a request is never lost, whether it comes
//! before, during or after the run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::reactor::Waker;

/// Ends runs from another thread: see [`RunToEnd::cancelled_by`](crate::RunToEnd::cancelled_by).
///
/// All clones are the same. One can end several runs, and it cannot be taken back.
///
/// ```
/// use childminder::{Cancel, Command, EndedBy, RunToEnd};
///
/// let cancel = Cancel::new();
/// let output = std::thread::scope(|scope| {
///     scope.spawn(|| cancel.cancel());
///     RunToEnd::new(Command::new("sleep").arg("1000")).cancelled_by(&cancel).run()
/// });
/// match output {
///     Ok(output) => assert_eq!(output.ended_by, EndedBy::Asked),
///     // It came before the start.
///     Err(error) => assert_eq!(error.to_string(), "it was not started: it was cancelled before"),
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requested: AtomicBool,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

/// Wakes a reactor when the request is made, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Registered<'a> {
    cancel: &'a Cancel,
    waker: Arc<Waker>,
}

impl Cancel {
    /// Makes a request that was not made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the request. It does not wait for the end of a run.
    pub fn cancel(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        for waker in &*self.wakers() {
            // No cause of an error is known.
            let _ = waker.wake();
        }
    }

    /// Tells whether the request was made.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    pub(crate) fn register(&self, waker: Waker) -> Registered<'_> {
        let waker = Arc::new(waker);
        self.wakers().push(waker.clone());
        Registered { cancel: self, waker }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Arc<Waker>>> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.cancel.wakers().retain(|waker| !Arc::ptr_eq(waker, &self.waker));
    }
}
