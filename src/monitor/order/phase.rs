//! What an order sees of a process: one phase, made of the states of its machines.
//!
//! It decides nothing. The one rule: an order knows no more of a process than this.

use super::When;
use crate::monitor::restart::{Input, Next, Outcome, State};
use crate::monitor::watch::Readiness;

/// What a process is doing, as far as others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::monitor) enum Phase {
    /// Not started, or stopped on purpose.
    #[default]
    Down,
    /// It waits until it may start.
    Waiting,
    /// It is about to be started.
    Starting,
    /// It is started and not ready yet.
    Started,
    Ready,
    /// It was ready.
    Lost,
    BackingOff,
    Stopping,
    /// It has exited with success, and is not started again.
    Completed,
    /// It has exited without success, and is not started again.
    Exited,
    Failed,
}

impl Phase {
    /// The phase of a process whose machines are in these states.
    pub(in crate::monitor) fn of(state: State, readiness: Readiness, outcome: Outcome) -> Self {
        match (state, readiness) {
            (State::Stopped, _) => Self::Down,
            (State::Waiting { .. }, _) => Self::Waiting,
            (State::Starting, _) => Self::Starting,
            (State::Running { .. }, Readiness::Absent | Readiness::Pending) => Self::Started,
            (State::Running { .. }, Readiness::Ready) => Self::Ready,
            (State::Running { .. }, Readiness::Lost) => Self::Lost,
            (State::BackingOff { .. }, _) => Self::BackingOff,
            (State::Stopping { .. }, _) => Self::Stopping,
            (State::Exited, _) if outcome == Outcome::Success => Self::Completed,
            (State::Exited, _) => Self::Exited,
            (State::Failed { .. }, _) => Self::Failed,
        }
    }

    /// Whether there is a process.
    pub(super) fn is_up(self) -> bool {
        matches!(self, Self::Started | Self::Ready | Self::Lost | Self::Stopping)
    }

    /// Whether it is wanted, and is or will be there.
    pub(super) fn is_wanted(self) -> bool {
        matches!(self, Self::Waiting | Self::Starting | Self::Started | Self::Ready | Self::Lost | Self::BackingOff)
    }

    /// Whether the processes that require it can run.
    pub(super) fn carries(self) -> bool {
        matches!(self, Self::Started | Self::Ready | Self::Lost | Self::Completed)
    }

    pub(super) fn satisfies(self, when: When) -> bool {
        match when {
            When::Started => self.carries(),
            When::Ready => matches!(self, Self::Ready | Self::Completed),
            When::Completed => self == Self::Completed,
        }
    }
}

/// Whether a process that ran, or was to run, has died on its own, and will be started again or has
/// failed.
pub(in crate::monitor) fn is_death(before: State, input: Input, now: State) -> bool {
    match input {
        Input::Fault { .. } => matches!(before, State::Running { .. }),
        Input::Exited { .. } | Input::SpawnFailed | Input::GroupGone => match before {
            State::Running { .. } | State::Starting => {
                matches!(now, State::Starting | State::BackingOff { .. } | State::Failed { .. })
            }
            // Its fault was its death. What follows from it is known only now.
            State::Stopping { next: Next::Recover { .. }, .. } => matches!(now, State::Failed { .. }),
            _ => false,
        },
        _ => false,
    }
}
