//! The limit of the time that a child may take to reach its exec.
//!
//! Between its birth and its exec a child can be held up by a file system that does not answer, or
//! by a process that may signal the user that the child has become. The one rule: the host waits
//! for the child no longer than it has said, whatever holds the child up.

use std::time::Duration;

use super::failure::Failure;
use crate::error::Stage;
use crate::sys::{signal, wait};

/// The time after which a child that stands still is checked, and after which it is checked once
/// more.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// The time between two checks from then on.
const LOOK: Duration = Duration::from_millis(50);
/// The time that a slow child has even if the host is asked to end.
const GRACE: Duration = Duration::from_secs(2);
/// The stops that a terminal sends to whole process groups.
const JOB_CONTROL: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// The longest time that a killed child may take to exit.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The limits of the host's wait for a child before its exec.
pub(super) struct Bound<'a> {
    pub(super) timeout: Duration,
    /// Whether the child is in the host's process group.
    pub(super) shares_group: bool,
    /// Returns whether a signal has arrived that asks the host to end.
    pub(super) asked_to_end: &'a mut dyn FnMut() -> bool,
}

impl Bound<'_> {
    /// Waits until `over` returns true. `over` itself waits up to the given time. A child that
    /// takes too long is killed. If it still exists after that, because the kernel does not let go
    /// of it or refuses to kill it, [`Failure::stuck`] names it. The caller has blocked all signals
    /// of this thread.
    ///
    /// Ctrl-Z also stops a child in the host's group. That would hold the host for as long as the
    /// stop lasts, and the host itself can only stop after this call. So such a child is continued,
    /// and stopped again when it has its program.
    ///
    /// A child in the host's memory has the same `errno` as this thread, and may be about to read
    /// it. So while the child may run, this thread makes no system call that writes to `errno`, and
    /// depends on no `errno` that the child may have set.
    ///
    /// Time is counted in checks, so that the time in which this process itself is stopped does not
    /// count.
    pub(super) fn wait(&mut self, pid: i32, mut over: impl FnMut(Duration) -> bool) -> Result<(), Failure> {
        let (mut waited, mut pause, mut was_stopped, mut held) = (Duration::ZERO, FIRST_LOOK, false, None);
        let errno = loop {
            if over(pause) {
                if let Some(number) = held {
                    // The report that it was continued is discarded.
                    let _ = wait::stop_change(pid);
                    if signal::is_still_stopping(number) {
                        // This fails only if the child is gone already.
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
            // The signal is blocked in this thread, or another thread has received it.
            if waited >= GRACE && (signal::asks_to_end() || (self.asked_to_end)()) {
                break libc::EINTR;
            }
            // A SIGCONT for the child may be under way: if both processes were stopped, this one
            // may be the first to go on.
            pause = if stopped || held.is_some() { FIRST_LOOK } else { LOOK };
            was_stopped = stopped;
        };
        let _ = signal::send(pid, libc::SIGKILL);
        over(LAST_WAIT);
        let gone = wait::reap_soon(pid);
        Err(Failure::new(Stage::Wait, errno, if gone { 0 } else { pid }))
    }
}
