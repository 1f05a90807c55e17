//! The decisions of the machine: what each input does in each state.
//!
//! It is pure, as all of the machine. The one rule: every pair of state and input is decided here,
//! by one total match for each state.

use std::time::{Duration, Instant};

use super::{Action, Input, Leader, Leftovers, Lifecycle, Next, Outcome, State, WhyFailed};
use crate::contain::LAST_WAIT;
use crate::monitor::time::after;

/// The time from the first kill to the second one.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// The longest time from one kill to the next.
const KILL_AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// The next state, and what to do.
type Decision = (State, Option<Action>);

impl Lifecycle {
    /// Decides for every pair of state and input.
    pub(super) fn decide(&mut self, now: Instant, input: Input) -> Decision {
        if matches!(input, Input::Reset) {
            self.forget_failures();
        }
        match self.state {
            State::Stopped | State::Exited | State::Failed { .. } => self.decide_down(now, input),
            State::Waiting { .. } => self.decide_waiting(now, input),
            State::Starting => self.decide_starting(now, input),
            State::Running { since } => self.decide_running(now, input, since),
            State::BackingOff { since, until } => self.decide_backing_off(now, input, since, until),
            State::Stopping { .. } => self.decide_stopping(now, input),
        }
    }

    /// For a process that is not there and is not to be started.
    fn decide_down(&mut self, now: Instant, input: Input) -> Decision {
        match input {
            Input::Start | Input::Restart => self.start_on_request(now),
            Input::Stop if self.group_left => self.terminate(now, Next::Stay, Leader::Gone),
            Input::Kill if self.group_left => kill_now(self.stop_of(now, Next::Stay, Leader::Gone), now),
            Input::Stop | Input::Kill => (State::Stopped, None),
            // It was stopped between the spawn and its result.
            Input::Spawned => self.terminate(now, Next::Stay, Leader::Alive),
            Input::Reset if matches!(self.state, State::Failed { .. }) => self.decide_down(now, Input::Stop),
            Input::SpawnFailed
            | Input::Held
            | Input::Released
            | Input::Exited { .. }
            | Input::GroupGone
            | Input::Timeout
            | Input::Fault { .. }
            | Input::GiveUp
            | Input::Reset => (self.state, None),
        }
    }

    /// For a process that waits for others.
    fn decide_waiting(&mut self, now: Instant, input: Input) -> Decision {
        match input {
            Input::Stop | Input::Kill => self.decide_down(now, input),
            Input::Released => start(),
            Input::GiveUp => self.fail(now),
            // The process is alive and wanted, so another one must not be spawned beside it.
            Input::Spawned => Self::spawned(now),
            Input::Start
            | Input::Restart
            | Input::SpawnFailed
            | Input::Held
            | Input::Exited { .. }
            | Input::GroupGone
            | Input::Timeout
            | Input::Fault { .. }
            | Input::Reset => (self.state, None),
        }
    }

    /// For a process whose spawn is under way.
    fn decide_starting(&mut self, now: Instant, input: Input) -> Decision {
        match input {
            Input::Stop | Input::Kill => (State::Stopped, None),
            Input::GiveUp => (State::Failed { why: WhyFailed::Group }, None),
            Input::Held => (State::Waiting { since: now }, None),
            Input::Spawned => Self::spawned(now),
            // This is an instant death whatever the threshold. Otherwise a threshold of zero would
            // try again without end.
            Input::SpawnFailed => self.died(now, Outcome::Failure, true),
            Input::Exited { outcome, group_left } => {
                let died = self.died(now, outcome, true);
                self.kill_leftovers(now, group_left, died)
            }
            Input::Start
            | Input::Restart
            | Input::Released
            | Input::GroupGone
            | Input::Timeout
            | Input::Fault { .. }
            | Input::Reset => (self.state, None),
        }
    }

    /// For a process that is alive.
    fn decide_running(&mut self, now: Instant, input: Input, since: Instant) -> Decision {
        let lived = now.saturating_duration_since(since);
        let instantly = lived < self.policy.threshold;
        let leader = if self.taken_over { Leader::Gone } else { Leader::Alive };
        match input {
            Input::Stop => self.terminate(now, Next::Stay, leader),
            Input::Restart => self.terminate(now, Next::Start, leader),
            Input::Kill => kill_now(self.stop_of(now, Next::Stay, leader), now),
            Input::GiveUp => self.terminate(now, Next::Fail, leader),
            Input::Fault { never_ready } => {
                self.outcome = Outcome::Failure;
                self.terminate(now, Next::Recover { instantly: instantly || never_ready }, leader)
            }
            Input::Exited { group_left: true, .. } if self.policy.leftovers == Leftovers::TakeOver => {
                self.taken_over = true;
                (self.state, None)
            }
            Input::GroupGone if self.taken_over => self.died(now, self.outcome, instantly),
            Input::Exited { outcome, group_left } => {
                let died = self.died(now, outcome, instantly);
                self.kill_leftovers(now, group_left, died)
            }
            Input::Start
            | Input::Spawned
            | Input::SpawnFailed
            | Input::Held
            | Input::Released
            | Input::GroupGone
            | Input::Timeout
            | Input::Reset => (self.state, None),
        }
    }

    /// For a process that will be started after a wait.
    fn decide_backing_off(&mut self, now: Instant, input: Input, since: Instant, until: Instant) -> Decision {
        match input {
            Input::Start => self.start_on_request(now),
            Input::Stop | Input::Kill => self.decide_down(now, input),
            Input::GiveUp => self.fail(now),
            Input::Restart => start(),
            // The process is alive and wanted, so another one must not be spawned beside it.
            Input::Spawned => Self::spawned(now),
            Input::Timeout if now >= until => start(),
            Input::GroupGone => match self.ready.take() {
                Some(ready) if now >= ready => start(),
                Some(until) => (State::BackingOff { since, until }, None),
                None => (self.state, None),
            },
            Input::SpawnFailed
            | Input::Held
            | Input::Released
            | Input::Exited { .. }
            | Input::Timeout
            | Input::Fault { .. }
            | Input::Reset => (self.state, None),
        }
    }

    /// For a process that is stopping.
    fn decide_stopping(&mut self, now: Instant, input: Input) -> Decision {
        let State::Stopping { next, kill_at, leader, .. } = self.state else { return (self.state, None) };
        match (input, leader) {
            (Input::Start | Input::Restart, _) => {
                // As if the start had been requested after the stop, unless the process is already
                // being restarted.
                if matches!(next, Next::Stay | Next::Fail) {
                    self.forget_failures();
                }
                (self.stopping(Next::Start, leader), None)
            }
            (Input::Stop, _) => (self.stopping(Next::Stay, leader), None),
            (Input::Kill, _) => kill_now(self.stopping(Next::Stay, leader), now),
            (Input::GiveUp, _) if next != Next::Stay => (self.stopping(Next::Fail, leader), None),
            // A process that is no longer wanted has taken the place of the one that is gone.
            (Input::Spawned, Leader::Gone) => (self.stopping(next, Leader::Alive), Some(Action::Terminate)),
            (Input::Exited { group_left: true, .. }, _) => (self.stopping(next, Leader::Gone), None),
            (Input::Exited { .. }, _) | (Input::GroupGone, Leader::Gone) => match next {
                Next::Stay => (State::Stopped, None),
                Next::Start => self.start_next(now),
                Next::Recover { instantly } => {
                    // A process that exits with success when it is stopped has not completed.
                    self.outcome = Outcome::Failure;
                    self.died(now, Outcome::Failure, instantly)
                }
                Next::Fail => (State::Failed { why: WhyFailed::Group }, None),
            },
            (Input::Timeout, _) if now >= kill_at => self.next_step(now),
            (
                Input::Spawned
                | Input::SpawnFailed
                | Input::Held
                | Input::Released
                | Input::GroupGone
                | Input::Timeout
                | Input::Fault { .. }
                | Input::GiveUp
                | Input::Reset,
                _,
            ) => (self.state, None),
        }
    }

    /// The state of a stop that goes on with another end.
    fn stopping(&self, next: Next, leader: Leader) -> State {
        match self.state {
            State::Stopping { since, step, kill_at, kills, .. } => {
                State::Stopping { since, step, kill_at, kills, next, leader }
            }
            state => state,
        }
    }

    /// The state of a stop that begins now.
    fn stop_of(&self, now: Instant, next: Next, leader: Leader) -> State {
        let kill_at = after(now, self.policy.stop_time(0));
        State::Stopping { since: now, step: 0, kill_at, kills: 0, next, leader }
    }

    fn terminate(&self, now: Instant, next: Next, leader: Leader) -> Decision {
        (self.stop_of(now, next, leader), Some(Action::Terminate))
    }

    /// Goes on with the next step of a stop, or kills if there is none.
    fn next_step(&self, now: Instant) -> Decision {
        let State::Stopping { since, step, kills: 0, next, leader, .. } = self.state else {
            return kill_now(self.state, now);
        };
        match self.policy.stop_step(step.saturating_add(1)) {
            Some(following) => {
                let (step, kill_at) = (step + 1, after(now, following.wait));
                (State::Stopping { since, step, kill_at, kills: 0, next, leader }, Some(Action::Terminate))
            }
            None => kill_now(self.state, now),
        }
    }

    /// Gives up a process that is not there. Its leftover processes are stopped first.
    fn fail(&self, now: Instant) -> Decision {
        match self.group_left {
            true => self.terminate(now, Next::Fail, Leader::Gone),
            false => (State::Failed { why: WhyFailed::Group }, None),
        }
    }

    fn spawned(now: Instant) -> Decision {
        (State::Running { since: now }, None)
    }

    /// Starts on request: earlier failures do not count.
    fn start_on_request(&mut self, now: Instant) -> Decision {
        self.forget_failures();
        self.starts.note(now, self.policy.restart_limit);
        start()
    }

    /// Starts after a stop. Such a start counts only if it is the first one after a request.
    fn start_next(&mut self, now: Instant) -> Decision {
        if self.starts.are_forgotten() {
            self.starts.note(now, self.policy.restart_limit);
        }
        start()
    }

    fn forget_failures(&mut self) {
        self.delay = self.policy.first_delay();
        self.starts.forget();
    }

    /// Handles an exit of the process on its own, or a failed spawn.
    fn died(&mut self, now: Instant, outcome: Outcome, instantly: bool) -> Decision {
        if outcome == Outcome::Fatal {
            return (State::Failed { why: WhyFailed::FatalExit }, None);
        }
        if !self.policy.wants_restart(outcome) {
            return (State::Exited, None);
        }
        let delay = match instantly {
            true => self.delay,
            false => Duration::ZERO,
        };
        self.delay = match instantly {
            true => self.policy.next_delay(self.delay),
            false => self.policy.first_delay(),
        };
        let until = after(now, delay.saturating_add(self.jitter(delay)));
        if self.starts.is_full(until, self.policy.restart_limit) {
            return (State::Failed { why: WhyFailed::TooManyStarts }, None);
        }
        self.starts.note(until, self.policy.restart_limit);
        match instantly || until > now {
            true => (State::BackingOff { since: now, until }, None),
            false => start(),
        }
    }

    /// A random part of the wait, so that processes that died together do not come back together.
    fn jitter(&mut self, delay: Duration) -> Duration {
        if self.policy.jitter == 0 {
            return Duration::ZERO;
        }
        // SplitMix64, by Sebastiano Vigna.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = f64::from((mixed >> 32) as u32) / f64::from(u32::MAX);
        let most = delay.max(self.policy.first_delay()).saturating_mul(self.policy.jitter.min(100)) / 100;
        most.mul_f64(share)
    }

    /// Kills the leftover processes after such an exit, before anything else happens.
    fn kill_leftovers(&mut self, now: Instant, group_left: bool, died: Decision) -> Decision {
        if !group_left || self.policy.leftovers != Leftovers::Kill {
            return died;
        }
        let ready = match died.0 {
            State::Starting => now,
            State::BackingOff { until, .. } => until,
            state => return (state, Some(Action::Kill)),
        };
        self.ready = Some(ready);
        (State::BackingOff { since: now, until: ready.max(after(now, LAST_WAIT)) }, Some(Action::Kill))
    }
}

fn start() -> Decision {
    (State::Starting, Some(Action::Spawn))
}

/// Kills what is being stopped, and sets the time of the next kill, which doubles with each kill.
fn kill_now(stopping: State, now: Instant) -> Decision {
    let State::Stopping { since, step, kills, next, leader, .. } = stopping else { return (stopping, None) };
    let pause = KILL_AGAIN.saturating_mul(1 << kills.min(16)).min(KILL_AGAIN_AT_MOST);
    let (kill_at, kills) = (after(now, pause), kills.saturating_add(1));
    (State::Stopping { since, step, kill_at, kills, next, leader }, Some(Action::Kill))
}
