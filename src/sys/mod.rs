//! All `unsafe` code of this crate, in thin and safe wrappers that are named by their meaning.
//! Decides nothing, and keeps no state except which system calls the kernel refuses.
//!
//! The one rule: each `unsafe` block holds one operation and says why *this* call is sound.

#![allow(unsafe_code)]

pub(crate) mod bytes;
pub(crate) mod cgroup;
#[cfg(target_os = "linux")]
mod clone;
pub(crate) mod cpus;
#[cfg(target_os = "linux")]
pub(crate) mod discard;
pub(crate) mod fd;
#[cfg(target_os = "linux")]
mod futex;
#[cfg(target_os = "linux")]
pub(crate) mod guard;
pub(crate) mod handler;
pub(crate) mod heap;
pub(crate) mod limit;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod notify;
pub(crate) mod pidfd;
#[cfg(target_os = "linux")]
mod program;
pub(crate) mod pty;
#[cfg(target_os = "linux")]
mod raw;
pub(crate) mod signal;
pub(crate) mod spawn;
#[cfg(target_os = "linux")]
pub(crate) mod timerfd;
pub(crate) mod user;
pub(crate) mod wait;

use std::io;
use std::time::Instant;

/// Reads the clock. No other place in the crate does.
#[allow(clippy::disallowed_methods)]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// The size of a page of memory, in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf touches no memory.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The number of clock ticks in a second, in which `/proc` counts CPU time.
pub(crate) fn clock_ticks() -> u64 {
    // SAFETY: sysconf touches no memory.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(0).max(1)
}

/// Asks `faccessat(2)` for the rights of the effective user. Android asks for those of the real
/// one.
#[cfg(not(target_os = "android"))]
const BY_EFFECTIVE_USER: i32 = libc::AT_EACCESS;
#[cfg(target_os = "android")]
const BY_EFFECTIVE_USER: i32 = 0;

/// Turns a result of -1 into the error of errno.
fn cvt<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same as [`cvt`], but repeats the call as long as a signal interrupts it.
fn cvt_retry<T: PartialEq + From<i8>>(mut call: impl FnMut() -> T) -> io::Result<T> {
    loop {
        match cvt(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
