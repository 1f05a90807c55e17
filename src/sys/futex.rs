//! A word of our memory that the kernel sets to zero when a child stops using this memory
//! (`CLONE_CHILD_CLEARTID`), and the wait for that. Starts no child.
//!
//! The one rule: errno is never read here, because a child that uses the memory writes to the same
//! one.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::{clock, fd, raw};

const IN_USE: i32 = 1;

/// Tells whether a child still uses our memory.
#[derive(Debug)]
pub(super) struct Hold(Box<AtomicI32>);

impl Hold {
    pub(super) fn new() -> Self {
        Self(Box::new(AtomicI32::new(0)))
    }

    /// Marks the memory as used by a child that is about to be made. The caller passes the returned
    /// pointer to `clone(2)` as the child's `ctid`. The pointer is valid as long as this value
    /// lives, which must be at least until [`is_over`](Self::is_over).
    pub(super) fn begin(&self) -> *mut i32 {
        self.0.store(IN_USE, Ordering::Relaxed);
        self.0.as_ptr()
    }

    /// Whether the child has stopped using the memory, because it has executed its program or has
    /// ended.
    ///
    /// A kernel before 4.8 does not clear the word for a child that was killed, and no kernel does
    /// for one that dumps core.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) != IN_USE
    }

    /// Waits at most `time` until the child has stopped using the memory. Returns whether it has.
    ///
    /// The child has the same `errno` as this thread, so nothing here reads it. Nothing writes to
    /// it either: the child may be between a failed system call and reading its errno.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let start = clock();
        let mut left = time;
        loop {
            #[allow(clippy::cast_possible_wrap)] // below 10^9
            let timeout = [left.as_secs().try_into().unwrap_or(libc::c_long::MAX), left.subsec_nanos() as libc::c_long];
            wait_while(&self.0, IN_USE, &timeout);
            if self.is_over() {
                return true;
            }
            let waited = clock().saturating_duration_since(start);
            left = time.saturating_sub(waited);
            if left.is_zero() {
                return false;
            }
            // The wait was interrupted, or a sandbox has refused it.
            fd::pause(Duration::from_millis(1).min(left));
        }
    }
}

/// `FUTEX_WAIT`, whatever comes of it.
fn wait_while(word: &AtomicI32, value: i32, timeout: &[libc::c_long; 2]) {
    #[allow(clippy::cast_sign_loss)] // the kernel takes the low 32 bits
    let arguments = [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, value as usize, timeout.as_ptr() as usize, 0];
    // SAFETY: the word and the time, the kernel's old timespec of two longs, live through the call,
    // which writes to no memory.
    let _ = unsafe { raw::call(libc::SYS_futex, arguments) };
}

#[cfg(test)]
mod tests {
    use super::*;

    // A child of which nothing is heard yet may be about to read it.
    #[test]
    fn leaves_errno_alone() {
        if !crate::sys::clone::KNOWN_HERE {
            return;
        }
        let hold = Hold::new();
        hold.begin();
        // SAFETY: a descriptor that nobody has.
        unsafe { libc::close(-1) };
        assert!(!hold.wait(Duration::from_millis(5)));
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn waits_for_its_time_and_no_longer_than_needed() {
        let hold = Hold::new();
        assert!(hold.is_over() && hold.wait(Duration::from_secs(1000)));
        hold.begin();
        let start = clock();
        assert!(!hold.wait(Duration::from_millis(30)));
        assert!(start.elapsed() >= Duration::from_millis(30));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                fd::pause(Duration::from_millis(20));
                hold.0.store(0, Ordering::Release);
                // SAFETY: the word lives through the call, which only wakes a waiter.
                unsafe { libc::syscall(libc::SYS_futex, hold.0.as_ptr(), libc::FUTEX_WAKE, 1) };
            });
            assert!(hold.wait(Duration::from_secs(1000)));
        });
    }
}
