//! The tables of a process that is stopping: one that was terminated, and one that was killed.
//!
//! The one rule: a table names all inputs, in one order.

use super::*;

#[test]
fn every_pair_of_a_process_that_was_terminated() {
    let since = World::new(Policy::default()).now;
    let now = since + secs(1);
    let kill_at = now + secs(2);
    let alive = |next| stopping(since, kill_at, 0, next, Leader::Alive);
    let gone = |next| stopping(since, kill_at, 0, next, Leader::Gone);
    let killed = |now, next, leader| stopping(since, now + secs(1), 1, next, leader);
    check_all(
        now,
        alive(Next::Stay),
        [
            (I::Start, alive(Next::Start), None, FRESH),
            (I::Stop, alive(Next::Stay), None, KEPT),
            (I::Restart, alive(Next::Start), None, FRESH),
            (I::Kill, killed(now, Next::Stay, Leader::Alive), KILL, KEPT),
            (I::Spawned, alive(Next::Stay), None, KEPT),
            (I::SpawnFailed, alive(Next::Stay), None, KEPT),
            (CRASH, S::Stopped, None, KEPT),
            (CRASH_LEFT, gone(Next::Stay), None, KEPT),
            (DONE, S::Stopped, None, KEPT),
            (DONE_LEFT, gone(Next::Stay), None, KEPT),
            (I::GroupGone, alive(Next::Stay), None, KEPT),
            (I::Timeout, alive(Next::Stay), None, KEPT), // too early
            (I::Held, alive(Next::Stay), None, KEPT),
            (I::Released, alive(Next::Stay), None, KEPT),
            (FAULT, alive(Next::Stay), None, KEPT),
            (NEVER_READY, alive(Next::Stay), None, KEPT),
            (I::GiveUp, alive(Next::Stay), None, KEPT),
            (I::Reset, alive(Next::Stay), None, FRESH),
        ],
    );
    check_all(
        now,
        alive(Next::Start),
        [
            (I::Start, alive(Next::Start), None, KEPT),
            (I::Stop, alive(Next::Stay), None, KEPT),
            (I::Restart, alive(Next::Start), None, KEPT),
            (I::Kill, killed(now, Next::Stay, Leader::Alive), KILL, KEPT),
            (I::Spawned, alive(Next::Start), None, KEPT),
            (I::SpawnFailed, alive(Next::Start), None, KEPT),
            (CRASH, S::Starting, SPAWN, KEPT),
            (CRASH_LEFT, gone(Next::Start), None, KEPT),
            (DONE, S::Starting, SPAWN, KEPT),
            (DONE_LEFT, gone(Next::Start), None, KEPT),
            (I::GroupGone, alive(Next::Start), None, KEPT),
            (I::Timeout, alive(Next::Start), None, KEPT), // too early
            (I::Held, alive(Next::Start), None, KEPT),
            (I::Released, alive(Next::Start), None, KEPT),
            (FAULT, alive(Next::Start), None, KEPT),
            (NEVER_READY, alive(Next::Start), None, KEPT),
            (I::GiveUp, alive(Next::Fail), None, KEPT),
            (I::Reset, alive(Next::Start), None, FRESH),
        ],
    );
    check_all(
        now,
        gone(Next::Stay),
        [
            (I::Start, gone(Next::Start), None, FRESH),
            (I::Stop, gone(Next::Stay), None, KEPT),
            (I::Restart, gone(Next::Start), None, FRESH),
            (I::Kill, killed(now, Next::Stay, Leader::Gone), KILL, KEPT),
            (I::Spawned, alive(Next::Stay), TERM, KEPT),
            (I::SpawnFailed, gone(Next::Stay), None, KEPT),
            (CRASH, S::Stopped, None, KEPT),
            (CRASH_LEFT, gone(Next::Stay), None, KEPT),
            (DONE, S::Stopped, None, KEPT),
            (DONE_LEFT, gone(Next::Stay), None, KEPT),
            (I::GroupGone, S::Stopped, None, KEPT),
            (I::Timeout, gone(Next::Stay), None, KEPT), // too early
            (I::Held, gone(Next::Stay), None, KEPT),
            (I::Released, gone(Next::Stay), None, KEPT),
            (FAULT, gone(Next::Stay), None, KEPT),
            (NEVER_READY, gone(Next::Stay), None, KEPT),
            (I::GiveUp, gone(Next::Stay), None, KEPT),
            (I::Reset, gone(Next::Stay), None, FRESH),
        ],
    );
    check_all(
        now,
        gone(Next::Start),
        [
            (I::Start, gone(Next::Start), None, KEPT),
            (I::Stop, gone(Next::Stay), None, KEPT),
            (I::Restart, gone(Next::Start), None, KEPT),
            (I::Kill, killed(now, Next::Stay, Leader::Gone), KILL, KEPT),
            (I::Spawned, alive(Next::Start), TERM, KEPT),
            (I::SpawnFailed, gone(Next::Start), None, KEPT),
            (CRASH, S::Starting, SPAWN, KEPT),
            (CRASH_LEFT, gone(Next::Start), None, KEPT),
            (DONE, S::Starting, SPAWN, KEPT),
            (DONE_LEFT, gone(Next::Start), None, KEPT),
            (I::GroupGone, S::Starting, SPAWN, KEPT),
            (I::Timeout, gone(Next::Start), None, KEPT), // too early
            (I::Held, gone(Next::Start), None, KEPT),
            (I::Released, gone(Next::Start), None, KEPT),
            (FAULT, gone(Next::Start), None, KEPT),
            (NEVER_READY, gone(Next::Start), None, KEPT),
            (I::GiveUp, gone(Next::Fail), None, KEPT),
            (I::Reset, gone(Next::Start), None, FRESH),
        ],
    );
    for due in [kill_at, kill_at + secs(1)] {
        for next in [Next::Stay, Next::Start] {
            for (state, leader) in [(alive(next), Leader::Alive), (gone(next), Leader::Gone)] {
                let rows = [(I::Timeout, killed(due, next, leader), KILL, KEPT)];
                check(&Policy::default(), due, state, &rows);
            }
        }
    }
}

#[test]
fn every_pair_of_a_process_that_was_killed() {
    let since = World::new(Policy::default()).now;
    let now = since + secs(1);
    let kill_at = now + secs(2);
    let alive = |next| stopping(since, kill_at, 3, next, Leader::Alive);
    let gone = |next| stopping(since, kill_at, 3, next, Leader::Gone);
    let again = |now, next, leader| stopping(since, now + secs(8), 4, next, leader);
    check_all(
        now,
        alive(Next::Stay),
        [
            (I::Start, alive(Next::Start), None, FRESH),
            (I::Stop, alive(Next::Stay), None, KEPT),
            (I::Restart, alive(Next::Start), None, FRESH),
            (I::Kill, again(now, Next::Stay, Leader::Alive), KILL, KEPT),
            (I::Spawned, alive(Next::Stay), None, KEPT),
            (I::SpawnFailed, alive(Next::Stay), None, KEPT),
            (CRASH, S::Stopped, None, KEPT),
            (CRASH_LEFT, gone(Next::Stay), None, KEPT),
            (DONE, S::Stopped, None, KEPT),
            (DONE_LEFT, gone(Next::Stay), None, KEPT),
            (I::GroupGone, alive(Next::Stay), None, KEPT),
            (I::Timeout, alive(Next::Stay), None, KEPT), // too early
            (I::Held, alive(Next::Stay), None, KEPT),
            (I::Released, alive(Next::Stay), None, KEPT),
            (FAULT, alive(Next::Stay), None, KEPT),
            (NEVER_READY, alive(Next::Stay), None, KEPT),
            (I::GiveUp, alive(Next::Stay), None, KEPT),
            (I::Reset, alive(Next::Stay), None, FRESH),
        ],
    );
    check_all(
        now,
        alive(Next::Start),
        [
            (I::Start, alive(Next::Start), None, KEPT),
            (I::Stop, alive(Next::Stay), None, KEPT),
            (I::Restart, alive(Next::Start), None, KEPT),
            (I::Kill, again(now, Next::Stay, Leader::Alive), KILL, KEPT),
            (I::Spawned, alive(Next::Start), None, KEPT),
            (I::SpawnFailed, alive(Next::Start), None, KEPT),
            (CRASH, S::Starting, SPAWN, KEPT),
            (CRASH_LEFT, gone(Next::Start), None, KEPT),
            (DONE, S::Starting, SPAWN, KEPT),
            (DONE_LEFT, gone(Next::Start), None, KEPT),
            (I::GroupGone, alive(Next::Start), None, KEPT),
            (I::Timeout, alive(Next::Start), None, KEPT), // too early
            (I::Held, alive(Next::Start), None, KEPT),
            (I::Released, alive(Next::Start), None, KEPT),
            (FAULT, alive(Next::Start), None, KEPT),
            (NEVER_READY, alive(Next::Start), None, KEPT),
            (I::GiveUp, alive(Next::Fail), None, KEPT),
            (I::Reset, alive(Next::Start), None, FRESH),
        ],
    );
    check_all(
        now,
        gone(Next::Stay),
        [
            (I::Start, gone(Next::Start), None, FRESH),
            (I::Stop, gone(Next::Stay), None, KEPT),
            (I::Restart, gone(Next::Start), None, FRESH),
            (I::Kill, again(now, Next::Stay, Leader::Gone), KILL, KEPT),
            (I::Spawned, alive(Next::Stay), TERM, KEPT),
            (I::SpawnFailed, gone(Next::Stay), None, KEPT),
            (CRASH, S::Stopped, None, KEPT),
            (CRASH_LEFT, gone(Next::Stay), None, KEPT),
            (DONE, S::Stopped, None, KEPT),
            (DONE_LEFT, gone(Next::Stay), None, KEPT),
            (I::GroupGone, S::Stopped, None, KEPT),
            (I::Timeout, gone(Next::Stay), None, KEPT), // too early
            (I::Held, gone(Next::Stay), None, KEPT),
            (I::Released, gone(Next::Stay), None, KEPT),
            (FAULT, gone(Next::Stay), None, KEPT),
            (NEVER_READY, gone(Next::Stay), None, KEPT),
            (I::GiveUp, gone(Next::Stay), None, KEPT),
            (I::Reset, gone(Next::Stay), None, FRESH),
        ],
    );
    check_all(
        now,
        gone(Next::Start),
        [
            (I::Start, gone(Next::Start), None, KEPT),
            (I::Stop, gone(Next::Stay), None, KEPT),
            (I::Restart, gone(Next::Start), None, KEPT),
            (I::Kill, again(now, Next::Stay, Leader::Gone), KILL, KEPT),
            (I::Spawned, alive(Next::Start), TERM, KEPT),
            (I::SpawnFailed, gone(Next::Start), None, KEPT),
            (CRASH, S::Starting, SPAWN, KEPT),
            (CRASH_LEFT, gone(Next::Start), None, KEPT),
            (DONE, S::Starting, SPAWN, KEPT),
            (DONE_LEFT, gone(Next::Start), None, KEPT),
            (I::GroupGone, S::Starting, SPAWN, KEPT),
            (I::Timeout, gone(Next::Start), None, KEPT), // too early
            (I::Held, gone(Next::Start), None, KEPT),
            (I::Released, gone(Next::Start), None, KEPT),
            (FAULT, gone(Next::Start), None, KEPT),
            (NEVER_READY, gone(Next::Start), None, KEPT),
            (I::GiveUp, gone(Next::Fail), None, KEPT),
            (I::Reset, gone(Next::Start), None, FRESH),
        ],
    );
    for due in [kill_at, kill_at + secs(1)] {
        for next in [Next::Stay, Next::Start] {
            for (state, leader) in [(alive(next), Leader::Alive), (gone(next), Leader::Gone)] {
                let rows = [(I::Timeout, again(due, next, leader), KILL, KEPT)];
                check(&Policy::default(), due, state, &rows);
            }
        }
    }
}
