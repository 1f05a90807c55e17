//! The state of a child, and its reaping.
//!
//! It never blocks. The one rule: a number is believed only as long as it certainly belongs to the
//! child.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::Child;
use crate::exit::{Exit, Usage};
use crate::process::table::{self, Living};
use crate::sources::Sources;
use crate::sys;
use crate::sys::wait::{State, StopChange, Wait};

/// The result of an attempt to reap a child.
#[derive(Debug)]
pub(crate) enum Reap {
    /// The child is alive, or was reaped before.
    Nothing,
    /// The child must be checked again after a while: it waits for its group, or the system could
    /// not tell its state.
    Later,
    /// The child has exited, and is reaped.
    Exited(Exit),
}

impl Child {
    /// Tells whether only SIGCHLD can report its exit.
    pub(crate) fn needs_sweep(&self) -> bool {
        self.exit.is_none() && self.pidfd.is_none()
    }

    /// Tells whether it has exited and no event has reported this.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.is_none() && matches!(self.reported_state(), State::Zombie | State::Lost)
    }

    /// The same as [`has_ended`](Self::has_ended), but also `true` if only an attempt to reap it
    /// can tell.
    pub(crate) fn may_have_ended(&self) -> bool {
        self.exit.is_none() && self.reported_state() != State::Running
    }

    /// Returns the last stop or continuation since the last call.
    pub(crate) fn stop_change(&self) -> Option<StopChange> {
        if self.holds_number() { sys::wait::stop_change(self.pid) } else { None }
    }

    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|(pidfd, _)| pidfd.as_fd())
    }

    /// Returns the state of the child with its number, as the wait reports it. A sandbox may refuse
    /// the wait that does not reap, and then the process table has the state.
    fn reported_state(&self) -> State {
        let state = sys::wait::state(self.pidfd(), self.pid);
        if state != State::Unknown {
            return state;
        }
        match table::is_zombie(self.pid) {
            Some(true) => State::Zombie,
            Some(false) => State::Running,
            None => State::Unknown,
        }
    }

    /// Returns its state. It is `Lost` also if its number belongs to another child of the host by
    /// now.
    pub(super) fn state(&self) -> State {
        let state = self.reported_state();
        let is_anothers = || {
            let birth = self.rare.as_ref()?.birth?;
            Some(table::start_time(self.pid)? != birth.get())
        };
        // A start time that cannot be read does not prove that it is another process.
        if state != State::Lost && is_anothers() == Some(true) { State::Lost } else { state }
    }

    /// Tells whether its number certainly is its own. It is not if other code has reaped it.
    pub(in crate::process) fn holds_number(&self) -> bool {
        self.exit.is_none() && self.state() != State::Lost
    }

    /// Reaps it if it has exited. `living` is filled if it is needed and empty.
    pub(crate) fn reap(&mut self, now: Instant, sources: &mut Sources, living: &mut Option<Living>) -> Reap {
        if self.exit.is_some() {
            return Reap::Nothing;
        }
        let waits_for_group = self.hold_for_group && !self.group_outlives_leader();
        if self.leads && (self.kill_group_at_exit || waits_for_group) && self.state() == State::Zombie {
            self.rare().died.get_or_insert(now);
            if self.kill_group_at_exit {
                // An error means that no other process is in the group.
                let _ = self.signal_group(libc::SIGKILL);
            } else {
                let group_killed = self.rare().group_killed;
                match living.get_or_insert_with(Living::look).has(self.pid, group_killed) {
                    Some(true) => return Reap::Later,
                    Some(false) => {}
                    None => {
                        let _ = self.signal_group(libc::SIGKILL);
                        // Nothing tells whether the group is empty now.
                        self.hold_for_group = false;
                    }
                }
            }
        }
        let wait = match &self.pidfd {
            Some((pidfd, _)) => sys::wait::try_wait_exactly(pidfd.as_fd(), self.pid),
            // The number belongs to another child of the host, which must not be reaped.
            None if self.state() == State::Lost => Wait::Lost,
            None => sys::wait::try_wait(self.pid),
        };
        let (status, usage) = match wait {
            Wait::Running => return Reap::Nothing,
            Wait::Unknown => return Reap::Later,
            Wait::Reaped(status, usage) => (Some(status), usage),
            Wait::Lost => {
                // Other code has reaped the leader, so it was not held until its group was empty.
                self.hold_for_group = false;
                (None, Usage::default())
            }
        };
        let died = self.rare.as_ref().and_then(|rare| rare.died);
        let wall_time = died.unwrap_or(now).saturating_duration_since(self.started);
        let exit = Exit { status, usage, wall_time, requested: self.requested };
        self.exit = Some(Box::new(exit));
        self.forget_process_limit(sources);
        if let Some((_, source)) = &self.pidfd {
            sources.forget(*source);
        }
        Reap::Exited(exit)
    }
}
