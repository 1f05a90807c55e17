//! A word of our memory that the kernel sets to zero when a child lets go of this memory
//! (`CLONE_CHILD_CLEARTID`), and the wait for that.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use super::{clock, fd};

const IN_USE: i32 = 1;

/// Whether a child uses our memory.
#[derive(Debug)]
pub(super) struct Hold(Box<AtomicI32>);

impl Hold {
    pub(super) fn new() -> Self {
        Self(Box::new(AtomicI32::new(0)))
    }

    /// A child is about to be made. What is returned goes to `clone(2)` as the child's `ctid`; it is valid as long as this value
    /// lives, which has to be at least until [`is_over`](Self::is_over).
    pub(super) fn begin(&self) -> *mut i32 {
        self.0.store(IN_USE, Ordering::Relaxed);
        self.0.as_ptr()
    }

    /// The child has let go: it has its own program, or has ended.
    ///
    /// A kernel before 4.8 does not tell of one that was killed, and none tells of one that dumps core.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) != IN_USE
    }

    /// Waits for that, up to this time. Whether it is over.
    ///
    /// Looks at nobody's errno: the child writes to the same one.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let start = clock();
        let mut left = time;
        loop {
            #[allow(clippy::cast_possible_wrap)] // below 10^9
            let timeout = [left.as_secs().try_into().unwrap_or(libc::c_long::MAX), left.subsec_nanos() as libc::c_long];
            // SAFETY: the word lives as long as we do, and this kernel's old timespec is two longs.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, IN_USE, timeout.as_ptr()) };
            if self.is_over() {
                return true;
            }
            let waited = clock().saturating_duration_since(start);
            left = time.saturating_sub(waited);
            if left.is_zero() {
                return false;
            }
            // Woken for nothing, or refused by a sandbox.
            fd::pause(Duration::from_millis(1).min(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                // SAFETY: the word lives; it wakes whoever waits.
                unsafe { libc::syscall(libc::SYS_futex, hold.0.as_ptr(), libc::FUTEX_WAKE, 1) };
            });
            assert!(hold.wait(Duration::from_secs(1000)));
        });
    }
}
