//! The portable way to start a child: `fork(2)`, and a close-on-exec pipe on which the child
//! reports a failure.
//!
//! It does not prepare the child. The one rule: end of file on that pipe means that the exec has
//! succeeded.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::slice;

use super::Failure;
use super::bound::Bound;
use super::child::{self, Closing};
use super::plan::Plan;
use crate::error::Stage;
use crate::sys::{cvt, fd, signal::BlockAll, wait};

pub(super) fn spawn(plan: &mut Plan, bound: &mut Bound<'_>) -> Result<i32, Failure> {
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
