//! The portable way to start a child: `fork(2)`, and a close-on-exec pipe on which the child
//! reports a failure.
//!
//! It does not prepare the child. The one rule: end of file on that pipe means that the exec has
//! succeeded.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Instant;

use super::bound::Bound;
use super::child::{self, Closing};
use super::failure::Failure;
use super::plan::Plan;
use crate::error::Stage;
use crate::sys::{clock, cvt, fd, signal::BlockAll, wait};

/// Starts the child. Returns its pid, and the time just before its exec.
pub(super) fn spawn(plan: &mut Plan, bound: &mut Bound<'_>) -> Result<(i32, Option<Instant>), Failure> {
    // Without such memory the child has its program all the same.
    let stamp = Stamp::new();
    plan.stamp = stamp.as_ref().map_or(ptr::null_mut(), |stamp| stamp.0.as_ptr());
    let spawned = spawn_stamped(plan, bound);
    plan.stamp = ptr::null_mut();
    // A child that was given up has a mapping of its own.
    spawned.map(|pid| (pid, stamp.and_then(|stamp| stamp.read())))
}

/// Memory that a forked child shares with its parent, for the time of its exec.
struct Stamp(NonNull<Option<Instant>>);

impl Stamp {
    const SIZE: usize = size_of::<Option<Instant>>();

    fn new() -> Option<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANON;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let place =
            unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if place == libc::MAP_FAILED {
            return None;
        }
        let stamp = Self(NonNull::new(place.cast())?);
        // A `None` would leave most of the bytes uninitialised. Valgrind's memcheck would report the
        // time that the child writes there, because it does not see another process write.
        // SAFETY: the mapping is ours and large enough.
        unsafe { stamp.0.write(Some(clock())) };
        Some(stamp)
    }

    /// Reads what the child has written. The child is past its exec.
    fn read(&self) -> Option<Instant> {
        // SAFETY: the mapping is ours, and holds what this program has written, here or in the
        // child.
        unsafe { self.0.read_volatile() }
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::SIZE) };
    }
}

fn spawn_stamped(plan: &mut Plan, bound: &mut Bound<'_>) -> Result<i32, Failure> {
    let (status, theirs) = fd::pipe().map_err(|error| Failure::ours(Stage::Pipe, &error))?;
    let closing = Closing::Each(fd::highest_open());
    let blocked = BlockAll::new().map_err(|error| Failure::ours(Stage::Sigmask, &error))?;
    // SAFETY: the child does only what `child::run` may do, and ends by `_exit` if that returns.
    let forked = cvt(unsafe { libc::fork() });
    if matches!(forked, Ok(0)) {
        // SAFETY: this is the new child.
        unsafe { run_child(plan, closing, &theirs) }
    }
    drop(theirs);
    let waited = forked.as_ref().map(|pid| bound.wait(*pid, |time| fd::wait_readable(status.as_fd(), time)));
    let lifted = blocked.lift();
    let pid = *forked.as_ref().map_err(|error| Failure::ours(Stage::Clone, error))?;
    waited.unwrap_or(Ok(()))?;
    if let Err(error) = lifted {
        wait::kill_and_reap(pid);
        return Err(Failure::ours(Stage::Sigmask, &error));
    }
    match read_failure(&status) {
        None => Ok(pid),
        Some(failure) => Err(failure.of_ended(pid)),
    }
}

unsafe fn run_child(plan: &mut Plan, closing: Closing, status: &OwnedFd) -> ! {
    let mut keep = Some(status.as_raw_fd());
    // SAFETY: our caller keeps the conditions of `child::run`.
    let failure = unsafe { child::run(plan, closing, &mut keep) };
    let status = keep.unwrap_or(-1);
    // SAFETY: it reads a local. So few bytes are written at once or not at all.
    unsafe { libc::write(status, ptr::from_ref(&failure).cast(), size_of::<Failure>()) };
    // SAFETY: it ends the child without running the host's exit handlers.
    unsafe { libc::_exit(127) }
}

/// Returns the child's failure, or `None` once its exec has closed the pipe.
fn read_failure(status: &OwnedFd) -> Option<Failure> {
    let mut failure = Failure::new(Stage::Clone, 0, 0);
    // SAFETY: `failure` is three integers, for which any bytes are valid, and it is not used
    // otherwise in the meantime.
    let bytes = unsafe { slice::from_raw_parts_mut(ptr::from_mut(&mut failure).cast::<u8>(), size_of::<Failure>()) };
    let read = fd::read(status.as_fd(), bytes).unwrap_or(0);
    (read == size_of::<Failure>()).then_some(failure)
}
