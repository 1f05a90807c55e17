//! How long a child may take to its exec.
//!
//! Between its birth and its exec a child can be held up: by a file system that does not answer, or by
//! whoever may signal the user that it has become. The one rule: the host waits for it no longer than it
//! has said, whoever holds it up and however.

use std::time::Duration;

use super::Failure;
use crate::error::Stage;
use crate::sys::{signal, wait};

/// A child that stands still is looked at after this time, and once more after as long.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// From then on between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// A child that is merely slow has so much time even if the host is asked to end.
const GRACE: Duration = Duration::from_secs(2);
/// The stops that a terminal sends to whole groups.
const JOB_CONTROL: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// So long a child that was killed may take to go.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What ends the host's wait for a child before its exec.
pub(super) struct Bound<'a> {
    pub(super) timeout: Duration,
    /// The child is in the host's process group.
    pub(super) shares_group: bool,
    /// Whether a signal has come that asks the host to end.
    pub(super) asked_to_end: &'a mut dyn FnMut() -> bool,
}

impl Bound<'_> {
    /// Waits until `over`, which itself waits up to the given time, says so. A child that takes too long is
    /// killed; [`Failure::stuck`] names one that is not gone even then, since the kernel does not let go of it or
    /// refuses to kill it. The caller has blocked all signals of this thread.
    ///
    /// Ctrl-Z stops a child in the host's group, too, and would hold the host for as long as it lasts, which itself
    /// can only stop after this. So such a child is continued, and stopped again when it has its program.
    ///
    /// A child in the host's memory has the same `errno` as this thread, and may be about to read it. So as long as the
    /// child may run, this thread makes no system call that can fail, and reads no `errno` that the child can have set to
    /// another answer: what can fail in [`wait::standing`] fails when the child is gone, or always.
    ///
    /// Time is counted in looks, so that the time in which this process itself is stopped does not count.
    pub(super) fn wait(&mut self, pid: i32, mut over: impl FnMut(Duration) -> bool) -> Result<(), Failure> {
        let (mut waited, mut pause, mut was_stopped, mut held) = (Duration::ZERO, FIRST_LOOK, false, None);
        let errno = loop {
            if over(pause) {
                if let Some(number) = held {
                    // That it was continued is nobody's business.
                    let _ = wait::stop_change(pid);
                    if signal::is_still_stopping(number) {
                        // It fails only if the child is gone already.
                        let _ = signal::send(pid, number);
                    }
                }
                return Ok(());
            }
            waited += pause;
            let stopped = match wait::standing(pid) {
                wait::Standing::Gone => return Ok(()),
                wait::Standing::Stopped(number) if self.shares_group && JOB_CONTROL.contains(&number) => {
                    held = Some(number);
                    let _ = signal::send(pid, libc::SIGCONT);
                    false
                }
                wait::Standing::Stopped(_) => true,
                wait::Standing::Going => false,
            };
            if stopped && was_stopped {
                break libc::ECANCELED;
            }
            if waited >= self.timeout {
                break libc::ETIMEDOUT;
            }
            // Blocked in this thread, or heard by another one.
            if waited >= GRACE && (signal::asks_to_end() || (self.asked_to_end)()) {
                break libc::EINTR;
            }
            // What continues it may be under way: if both of us were stopped, we may be the first to go on.
            pause = if stopped || held.is_some() { FIRST_LOOK } else { LOOK };
            was_stopped = stopped;
        };
        let _ = signal::send(pid, libc::SIGKILL);
        over(LAST_WAIT);
        let gone = wait::reap_soon(pid);
        Err(Failure::new(Stage::Wait, errno, if gone { 0 } else { pid }))
    }
}
