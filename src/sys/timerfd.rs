//! A file descriptor that becomes readable at a time (Linux, `timerfd_create(2)`). It is for hosts
//! whose loop can wait for descriptors but has no time-outs.
//!
//! The one rule: each setting replaces the one before it, and discards an expiry of that one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::cvt;
use super::fd::above_stdio;

/// A timer whose descriptor can be added to a poll set.
#[derive(Debug)]
pub(crate) struct Timerfd(OwnedFd);

impl Timerfd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: timerfd_create takes two integers.
        let fd = cvt(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
        // SAFETY: the kernel has just opened the descriptor for us.
        Ok(Self(above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })?))
    }

    /// Makes it readable once, after `delay`, or never.
    pub(crate) fn set(&self, delay: Option<Duration>) -> io::Result<()> {
        let mut time = libc::itimerspec { it_interval: ZERO, it_value: ZERO };
        if let Some(delay) = delay {
            // Zero would switch it off, so "at once" becomes a nanosecond.
            let delay = delay.max(Duration::from_nanos(1));
            // As much as a 32-bit `time_t` holds. A reactor that wakes too early waits again.
            let seconds = i32::try_from(delay.as_secs()).unwrap_or(i32::MAX);
            time.it_value.tv_sec = seconds.into();
            #[allow(clippy::cast_lossless)] // c_long is 32 bits wide on some, and the value is below 1e9
            let nanoseconds = delay.subsec_nanos() as libc::c_long;
            time.it_value.tv_nsec = nanoseconds;
        }
        // SAFETY: `time` is a local, and a null pointer is allowed for the old setting.
        cvt(unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const time, ptr::null_mut()) })?;
        Ok(())
    }
}

const ZERO: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

impl AsFd for Timerfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
