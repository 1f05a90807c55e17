//! Every state with every input, in tables: the next state, the action, and the wait after the next
//! instant death.
//!
//! These tests check single steps only. The one rule: a table names all inputs, in one order.

mod stopping;

use super::*;
use crate::monitor::restart::WhyFailed;

/// The wait after the next instant death, in seconds, in the tables. Before the step it was 4.
const KEPT: u64 = 4;
const FRESH: u64 = 1;
const GROWN: u64 = 8;

const FAULT: I = I::Fault { never_ready: false };
const NEVER_READY: I = I::Fault { never_ready: true };
const GROUP_FAILED: S = S::Failed { why: WhyFailed::Group };

/// A row of a table: an input, the next state, the action, and the next wait.
type Row = (I, S, Option<Action>, u64);

/// Checks what each input does to `state` at `now`.
#[track_caller]
fn check(policy: &Policy, now: Instant, state: S, rows: &[Row]) {
    for &(input, next_state, action, delay) in rows {
        let mut it = Lifecycle { state, delay: secs(KEPT), ..Lifecycle::new(policy.clone()) };
        let found = (it.handle(now, input), it.state(), it.delay);
        let expected = (action, next_state, secs(delay));
        assert_eq!(found, expected, "{state:?} and {input:?}");
    }
}

/// As `check`, with the default policy. The rows must be all inputs.
#[track_caller]
fn check_all(now: Instant, state: S, rows: [Row; 18]) {
    let inputs = rows.map(|(input, ..)| input);
    let all = [
        I::Start,
        I::Stop,
        I::Restart,
        I::Kill,
        I::Spawned,
        I::SpawnFailed,
        CRASH,
        CRASH_LEFT,
        DONE,
        DONE_LEFT,
        I::GroupGone,
        I::Timeout,
        I::Held,
        I::Released,
        FAULT,
        NEVER_READY,
        I::GiveUp,
        I::Reset,
    ];
    assert_eq!(inputs, all);
    check(&Policy::default(), now, state, &rows);
}

fn stopping(since: Instant, kill_at: Instant, kills: u32, next: Next, leader: Leader) -> S {
    S::Stopping { since, step: 0, kill_at, kills, next, leader }
}

#[test]
fn every_pair_of_a_process_that_is_not_there() {
    let now = World::new(Policy::default()).now;
    let unwanted = stopping(now, now + secs(5), 0, Next::Stay, Leader::Alive);
    let backing_off = S::BackingOff { since: now, until: now + secs(4) };
    check_all(
        now,
        S::Stopped,
        [
            (I::Start, S::Starting, SPAWN, FRESH),
            (I::Stop, S::Stopped, None, KEPT),
            (I::Restart, S::Starting, SPAWN, FRESH),
            (I::Kill, S::Stopped, None, KEPT),
            (I::Spawned, unwanted, TERM, KEPT),
            (I::SpawnFailed, S::Stopped, None, KEPT),
            (CRASH, S::Stopped, None, KEPT),
            (CRASH_LEFT, S::Stopped, None, KEPT),
            (DONE, S::Stopped, None, KEPT),
            (DONE_LEFT, S::Stopped, None, KEPT),
            (I::GroupGone, S::Stopped, None, KEPT),
            (I::Timeout, S::Stopped, None, KEPT),
            (I::Held, S::Stopped, None, KEPT),
            (I::Released, S::Stopped, None, KEPT),
            (FAULT, S::Stopped, None, KEPT),
            (NEVER_READY, S::Stopped, None, KEPT),
            (I::GiveUp, S::Stopped, None, KEPT),
            (I::Reset, S::Stopped, None, FRESH),
        ],
    );
    check_all(
        now,
        S::Exited,
        [
            (I::Start, S::Starting, SPAWN, FRESH),
            (I::Stop, S::Stopped, None, KEPT),
            (I::Restart, S::Starting, SPAWN, FRESH),
            (I::Kill, S::Stopped, None, KEPT),
            (I::Spawned, unwanted, TERM, KEPT),
            (I::SpawnFailed, S::Exited, None, KEPT),
            (CRASH, S::Exited, None, KEPT),
            (CRASH_LEFT, S::Exited, None, KEPT),
            (DONE, S::Exited, None, KEPT),
            (DONE_LEFT, S::Exited, None, KEPT),
            (I::GroupGone, S::Exited, None, KEPT),
            (I::Timeout, S::Exited, None, KEPT),
            (I::Held, S::Exited, None, KEPT),
            (I::Released, S::Exited, None, KEPT),
            (FAULT, S::Exited, None, KEPT),
            (NEVER_READY, S::Exited, None, KEPT),
            (I::GiveUp, S::Exited, None, KEPT),
            (I::Reset, S::Exited, None, FRESH),
        ],
    );
    check_all(
        now,
        S::Starting,
        [
            (I::Start, S::Starting, None, KEPT),
            (I::Stop, S::Stopped, None, KEPT),
            (I::Restart, S::Starting, None, KEPT),
            (I::Kill, S::Stopped, None, KEPT),
            (I::Spawned, S::Running { since: now }, None, KEPT),
            (I::SpawnFailed, backing_off, None, GROWN),
            (CRASH, backing_off, None, GROWN),
            (CRASH_LEFT, backing_off, KILL, GROWN),
            (DONE, backing_off, None, GROWN),
            (DONE_LEFT, backing_off, KILL, GROWN),
            (I::GroupGone, S::Starting, None, KEPT),
            (I::Timeout, S::Starting, None, KEPT),
            (I::Held, S::Waiting { since: now }, None, KEPT),
            (I::Released, S::Starting, None, KEPT),
            (FAULT, S::Starting, None, KEPT),
            (NEVER_READY, S::Starting, None, KEPT),
            (I::GiveUp, GROUP_FAILED, None, KEPT),
            (I::Reset, S::Starting, None, FRESH),
        ],
    );
}

#[test]
fn every_pair_of_a_running_process() {
    let since = World::new(Policy::default()).now;
    let running = S::Running { since };

    let now = since + secs(1); // a long run
    let terminated = |next| stopping(now, now + secs(5), 0, next, Leader::Alive);
    let clearing_up = S::BackingOff { since: now, until: now + secs(2) };
    let killed = |now| stopping(now, now + secs(1), 1, Next::Stay, Leader::Alive);
    check_all(
        now,
        running,
        [
            (I::Start, running, None, KEPT),
            (I::Stop, terminated(Next::Stay), TERM, KEPT),
            (I::Restart, terminated(Next::Start), TERM, KEPT),
            (I::Kill, killed(now), KILL, KEPT),
            (I::Spawned, running, None, KEPT),
            (I::SpawnFailed, running, None, KEPT),
            (CRASH, S::Starting, SPAWN, FRESH),
            (CRASH_LEFT, clearing_up, KILL, FRESH),
            (DONE, S::Starting, SPAWN, FRESH),
            (DONE_LEFT, clearing_up, KILL, FRESH),
            (I::GroupGone, running, None, KEPT),
            (I::Timeout, running, None, KEPT),
            (I::Held, running, None, KEPT),
            (I::Released, running, None, KEPT),
            (FAULT, terminated(Next::Recover { instantly: false }), TERM, KEPT),
            (NEVER_READY, terminated(Next::Recover { instantly: true }), TERM, KEPT),
            (I::GiveUp, terminated(Next::Fail), TERM, KEPT),
            (I::Reset, running, None, FRESH),
        ],
    );

    let now = since + Duration::from_millis(999); // an instant death
    let terminated = |next| stopping(now, now + secs(5), 0, next, Leader::Alive);
    let backing_off = S::BackingOff { since: now, until: now + secs(4) };
    check_all(
        now,
        running,
        [
            (I::Start, running, None, KEPT),
            (I::Stop, terminated(Next::Stay), TERM, KEPT),
            (I::Restart, terminated(Next::Start), TERM, KEPT),
            (I::Kill, killed(now), KILL, KEPT),
            (I::Spawned, running, None, KEPT),
            (I::SpawnFailed, running, None, KEPT),
            (CRASH, backing_off, None, GROWN),
            (CRASH_LEFT, backing_off, KILL, GROWN),
            (DONE, backing_off, None, GROWN),
            (DONE_LEFT, backing_off, KILL, GROWN),
            (I::GroupGone, running, None, KEPT),
            (I::Timeout, running, None, KEPT),
            (I::Held, running, None, KEPT),
            (I::Released, running, None, KEPT),
            (FAULT, terminated(Next::Recover { instantly: true }), TERM, KEPT),
            (NEVER_READY, terminated(Next::Recover { instantly: true }), TERM, KEPT),
            (I::GiveUp, terminated(Next::Fail), TERM, KEPT),
            (I::Reset, running, None, FRESH),
        ],
    );
}

#[test]
fn every_pair_of_a_process_that_backs_off() {
    let now = World::new(Policy::default()).now;
    let until = now + secs(2);
    let backing_off = S::BackingOff { since: now, until };
    check_all(
        now,
        backing_off,
        [
            (I::Start, S::Starting, SPAWN, FRESH),
            (I::Stop, S::Stopped, None, KEPT),
            (I::Restart, S::Starting, SPAWN, KEPT),
            (I::Kill, S::Stopped, None, KEPT),
            (I::Spawned, S::Running { since: now }, None, KEPT),
            (I::SpawnFailed, backing_off, None, KEPT),
            (CRASH, backing_off, None, KEPT),
            (CRASH_LEFT, backing_off, None, KEPT),
            (DONE, backing_off, None, KEPT),
            (DONE_LEFT, backing_off, None, KEPT),
            (I::GroupGone, backing_off, None, KEPT),
            (I::Timeout, backing_off, None, KEPT), // too early
            (I::Held, backing_off, None, KEPT),
            (I::Released, backing_off, None, KEPT),
            (FAULT, backing_off, None, KEPT),
            (NEVER_READY, backing_off, None, KEPT),
            (I::GiveUp, GROUP_FAILED, None, KEPT),
            (I::Reset, backing_off, None, FRESH),
        ],
    );
    for due in [until, until + secs(1)] {
        let rows = [(I::Timeout, S::Starting, SPAWN, KEPT)];
        check(&Policy::default(), due, backing_off, &rows);
    }
}

#[test]
fn every_pair_of_a_process_that_waits_for_others() {
    let now = World::new(Policy::default()).now;
    let waiting = S::Waiting { since: now };
    check_all(
        now + secs(1),
        waiting,
        [
            (I::Start, waiting, None, KEPT),
            (I::Stop, S::Stopped, None, KEPT),
            (I::Restart, waiting, None, KEPT),
            (I::Kill, S::Stopped, None, KEPT),
            (I::Spawned, S::Running { since: now + secs(1) }, None, KEPT),
            (I::SpawnFailed, waiting, None, KEPT),
            (CRASH, waiting, None, KEPT),
            (CRASH_LEFT, waiting, None, KEPT),
            (DONE, waiting, None, KEPT),
            (DONE_LEFT, waiting, None, KEPT),
            (I::GroupGone, waiting, None, KEPT),
            (I::Timeout, waiting, None, KEPT),
            (I::Held, waiting, None, KEPT),
            (I::Released, S::Starting, SPAWN, KEPT),
            (FAULT, waiting, None, KEPT),
            (NEVER_READY, waiting, None, KEPT),
            (I::GiveUp, GROUP_FAILED, None, KEPT),
            (I::Reset, waiting, None, FRESH),
        ],
    );
}

#[test]
fn every_pair_of_a_process_that_has_failed() {
    let now = World::new(Policy::default()).now;
    let unwanted = stopping(now, now + secs(5), 0, Next::Stay, Leader::Alive);
    for why in [WhyFailed::TooManyStarts, WhyFailed::FatalExit, WhyFailed::Group] {
        let failed = S::Failed { why };
        check_all(
            now,
            failed,
            [
                (I::Start, S::Starting, SPAWN, FRESH),
                (I::Stop, S::Stopped, None, KEPT),
                (I::Restart, S::Starting, SPAWN, FRESH),
                (I::Kill, S::Stopped, None, KEPT),
                (I::Spawned, unwanted, TERM, KEPT),
                (I::SpawnFailed, failed, None, KEPT),
                (CRASH, failed, None, KEPT),
                (CRASH_LEFT, failed, None, KEPT),
                (DONE, failed, None, KEPT),
                (DONE_LEFT, failed, None, KEPT),
                (I::GroupGone, failed, None, KEPT),
                (I::Timeout, failed, None, KEPT),
                (I::Held, failed, None, KEPT),
                (I::Released, failed, None, KEPT),
                (FAULT, failed, None, KEPT),
                (NEVER_READY, failed, None, KEPT),
                (I::GiveUp, failed, None, KEPT),
                (I::Reset, S::Stopped, None, FRESH),
            ],
        );
    }
}

#[test]
fn every_pair_of_a_process_that_is_replaced_or_given_up() {
    let since = World::new(Policy::default()).now;
    let now = since + secs(1);
    let kill_at = now + secs(2);
    let alive = |next| stopping(since, kill_at, 0, next, Leader::Alive);
    let gone = |next| stopping(since, kill_at, 0, next, Leader::Gone);
    let killed = |next, leader| stopping(since, now + secs(1), 1, next, leader);
    let backing_off = S::BackingOff { since: now, until: now + secs(4) };
    for (next, end, taken_back) in [
        (Next::Recover { instantly: true }, (backing_off, None, GROWN), KEPT),
        (Next::Recover { instantly: false }, (S::Starting, SPAWN, FRESH), KEPT),
        (Next::Fail, (GROUP_FAILED, None, KEPT), FRESH),
    ] {
        for (state, leader) in [(alive(next), Leader::Alive), (gone(next), Leader::Gone)] {
            let with = |next| stopping(since, kill_at, 0, next, leader);
            let (end_state, end_action, end_delay) = end;
            let (group_gone, spawned) = match leader {
                Leader::Alive => ((I::GroupGone, state, None, KEPT), (I::Spawned, state, None, KEPT)),
                Leader::Gone => {
                    ((I::GroupGone, end_state, end_action, end_delay), (I::Spawned, alive(next), TERM, KEPT))
                }
            };
            check_all(
                now,
                state,
                [
                    (I::Start, with(Next::Start), None, taken_back),
                    (I::Stop, with(Next::Stay), None, KEPT),
                    (I::Restart, with(Next::Start), None, taken_back),
                    (I::Kill, killed(Next::Stay, leader), KILL, KEPT),
                    spawned,
                    (I::SpawnFailed, state, None, KEPT),
                    (CRASH, end_state, end_action, end_delay),
                    (CRASH_LEFT, gone(next), None, KEPT),
                    (DONE, end_state, end_action, end_delay),
                    (DONE_LEFT, gone(next), None, KEPT),
                    group_gone,
                    (I::Timeout, state, None, KEPT), // too early
                    (I::Held, state, None, KEPT),
                    (I::Released, state, None, KEPT),
                    (FAULT, state, None, KEPT),
                    (NEVER_READY, state, None, KEPT),
                    (I::GiveUp, with(Next::Fail), None, KEPT),
                    (I::Reset, state, None, FRESH),
                ],
            );
        }
    }
}

#[test]
fn every_end_under_the_other_policies() {
    let now = World::new(Policy::default()).now;
    let later = now + secs(1);
    let running = S::Running { since: now };
    let backing_off = S::BackingOff { since: now, until: now + secs(4) };

    let never = with_restart(Restart::Never);
    let over = [
        (CRASH, S::Exited, None, KEPT),
        (CRASH_LEFT, S::Exited, KILL, KEPT),
        (DONE, S::Exited, None, KEPT),
        (DONE_LEFT, S::Exited, KILL, KEPT),
    ];
    check(&never, now, running, &over);
    check(&never, later, running, &over);
    check(&never, now, S::Starting, &over);
    let failed = [(I::SpawnFailed, S::Exited, None, KEPT)];
    check(&never, now, S::Starting, &failed);

    let on_failure = with_restart(Restart::OnFailure);
    let instant = [
        (CRASH, backing_off, None, GROWN),
        (CRASH_LEFT, backing_off, KILL, GROWN),
        (DONE, S::Exited, None, KEPT),
        (DONE_LEFT, S::Exited, KILL, KEPT),
    ];
    check(&on_failure, now, running, &instant);
    check(&on_failure, now, S::Starting, &instant);
    let failed = [(I::SpawnFailed, backing_off, None, GROWN)];
    check(&on_failure, now, S::Starting, &failed);
    let long = [
        (CRASH, S::Starting, SPAWN, FRESH),
        (CRASH_LEFT, S::BackingOff { since: later, until: later + secs(2) }, KILL, FRESH),
        (DONE, S::Exited, None, KEPT),
        (DONE_LEFT, S::Exited, KILL, KEPT),
    ];
    check(&on_failure, later, running, &long);
}

#[test]
fn every_end_of_one_whose_leftovers_stay() {
    let now = World::new(Policy::default()).now;
    let later = now + secs(1);
    let running = S::Running { since: now };
    let backing_off = S::BackingOff { since: now, until: now + secs(4) };
    let leave = Policy { leftovers: Leftovers::Leave, ..Policy::default() };
    let instant = [(CRASH_LEFT, backing_off, None, GROWN), (DONE_LEFT, backing_off, None, GROWN)];
    check(&leave, now, running, &instant);
    check(&leave, now, S::Starting, &instant);
    let long = [(CRASH_LEFT, S::Starting, SPAWN, FRESH), (DONE_LEFT, S::Starting, SPAWN, FRESH)];
    check(&leave, later, running, &long);
    let never = Policy { restart: Restart::Never, ..leave };
    let over = [(CRASH_LEFT, S::Exited, None, KEPT), (DONE_LEFT, S::Exited, None, KEPT)];
    check(&never, later, running, &over);
}

#[test]
fn a_stop_is_also_for_those_who_outlived_a_crash() {
    let now = World::new(Policy::default()).now;
    let told = |state, inputs: &[I]| {
        let mut it = Lifecycle { state, delay: secs(KEPT), group_left: true, ..Lifecycle::new(Policy::default()) };
        let action = inputs.iter().map(|input| it.handle(now, *input)).last().flatten();
        (action, it.state(), it.group_left)
    };
    let terminated = stopping(now, now + secs(5), 0, Next::Stay, Leader::Gone);
    for state in [S::Exited, S::BackingOff { since: now, until: now + secs(2) }] {
        assert_eq!(told(state, &[I::Stop]), (TERM, terminated, true));
        let killed = stopping(now, now + secs(1), 1, Next::Stay, Leader::Gone);
        assert_eq!(told(state, &[I::Kill]), (KILL, killed, true));
        assert_eq!(told(state, &[I::Kill, I::GroupGone]), (None, S::Stopped, false));
        assert_eq!(told(state, &[I::GroupGone, I::Stop]), (None, S::Stopped, false));
        assert_eq!(told(state, &[I::GroupGone, I::Kill]), (None, S::Stopped, false));
        assert_eq!(told(state, &[I::Stop, I::GroupGone]), (None, S::Stopped, false));
        assert_eq!(told(state, &[I::Start]), (SPAWN, S::Starting, true));
    }
}
