//! Tests many runs in one `RunMany`: so many at a time, each result once, and nothing left behind,
//! however they end.
//!
//! The one rule: the children are counted in the process table and not by what the library tells.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/kernel.rs"]
mod kernel;

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apart::apart;
use childminder::{
    Command, CpuSet, EndedBy, Event, Finished, Limits, Reactor, Remains, Request, RunError, RunMany, Stage, Stdio,
};
use util::{WATCHDOG, children, field_of, now, sh};

/// Waits until no other test has children.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes turns until all is over, and returns the results in the order in which they came. `each`
/// is called after each turn.
#[track_caller]
fn finish<I: Iterator<Item = Command>>(
    reactor: &mut Reactor,
    many: &mut RunMany<I>,
    mut each: impl FnMut(&mut Reactor, &mut RunMany<I>, &[Finished]),
) -> Vec<Finished> {
    let (mut all, mut end) = (Vec::new(), now() + WATCHDOG);
    many.start(reactor);
    while !many.is_over() {
        assert!(now() < end, "they do not end: {many:?}");
        reactor.turn(Some(WATCHDOG), |reactor, event| _ = many.handle(reactor, &event)).unwrap();
        let before = all.len();
        all.extend(std::iter::from_fn(|| many.next_finished()));
        if all.len() > before {
            // Each result shows that they go on.
            end = now() + WATCHDOG;
        }
        each(reactor, many, &all);
    }
    all
}

fn indices(all: &[Finished]) -> Vec<usize> {
    let mut indices: Vec<usize> = all.iter().map(|finished| finished.index).collect();
    indices.sort_unstable();
    indices
}

fn reason(finished: &Finished) -> Option<EndedBy> {
    finished.result.as_ref().ok().map(|output| output.ended_by)
}

#[test]
fn never_more_than_the_slots_and_each_result_once() {
    let _alone = alone();
    const COUNT: usize = 300;
    let mut reactor = Reactor::new().unwrap();
    let asked = Cell::new(0);
    let commands = (0..COUNT).map(|number| {
        asked.set(asked.get() + 1);
        sh(&format!("echo {number}; exit {}", number % 3))
    });
    let mut many = RunMany::new(commands).jobs(8);
    let mut most = 0;
    let all = finish(&mut reactor, &mut many, |_, many, all| {
        let alive = children().iter().filter(|(_, state)| *state != 'Z').count();
        most = most.max(alive);
        assert!(alive <= 8 && many.running() <= 8, "{alive}");
        assert!(asked.get() <= all.len() + 8, "a command is asked for when a slot is free");
    });
    assert_eq!(indices(&all), (0..COUNT).collect::<Vec<_>>());
    for finished in all {
        let output = finished.result.as_ref().unwrap();
        assert_eq!(output.stdout, format!("{}\n", finished.index).as_bytes());
        assert_eq!(output.exit.code(), i32::try_from(finished.index % 3).ok());
        assert_eq!(finished.success(), finished.index % 3 == 0);
        assert!(finished.slot.is_some_and(|slot| slot < 8));
    }
    assert_eq!(children(), []);
    println!("at most {most} alive");
}

#[test]
fn it_stops_at_the_third_failure() {
    let _alone = alone();
    let mut reactor = Reactor::new().unwrap();
    // The first one runs until it is stopped.
    let script = |number| if number == 0 { "exec sleep 1000".to_owned() } else { format!("exit {}", number % 2) };
    let commands = (0..20).map(|number| sh(&script(number)));
    let mut many = RunMany::new(commands).jobs(2).stop_after_failures(3);
    let all = finish(&mut reactor, &mut many, |_, _, _| {});
    assert_eq!(indices(&all), (0..20).collect::<Vec<_>>());
    let failed = all.iter().filter(|finished| reason(finished) == Some(EndedBy::Exit) && !finished.success()).count();
    assert_eq!(failed, 3);
    let stopped: Vec<usize> =
        all.iter().filter(|finished| reason(finished) == Some(EndedBy::Asked)).map(|finished| finished.index).collect();
    assert_eq!(stopped, [0]);
    let never = all.iter().filter(|finished| matches!(finished.result, Err(RunError::NotStarted)));
    assert_eq!(never.map(|finished| finished.index).collect::<Vec<_>>(), (6..20).collect::<Vec<_>>());
    assert_eq!(children(), []);
}

#[test]
fn the_time_out_is_for_all_together() {
    let _alone = alone();
    let mut reactor = Reactor::new().unwrap();
    let mut many = RunMany::new((0..5).map(|_| sh("sleep 1000"))).jobs(2).timeout(Duration::from_millis(100));
    let all = finish(&mut reactor, &mut many, |_, _, _| {});
    let reasons: Vec<_> = all.iter().map(reason).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == Some(EndedBy::Asked)).count(), 2);
    assert_eq!(all.iter().filter(|finished| finished.slot.is_none()).count(), 3);
    assert_eq!(reactor.next_deadline(), None, "no timer is left");
}

#[test]
fn a_stop_asks_and_a_second_one_kills() {
    let _alone = alone();
    let mut reactor = Reactor::new().unwrap();
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done";
    let mut many = RunMany::new((0..3).map(|_| sh(script))).jobs(2);
    let (mut ready, mut asked, end) = (0, 0, now() + WATCHDOG);
    let mut all = Vec::new();
    many.start(&mut reactor);
    while !many.is_over() {
        assert!(now() < end);
        let turned = reactor.turn(Some(WATCHDOG), |reactor, event| {
            if let Event::Data { data, .. } = &event {
                let text = String::from_utf8_lossy(data).into_owned();
                ready += text.matches("ready").count();
                asked += text.matches("asked").count();
            }
            assert!(many.handle(reactor, &event));
        });
        turned.unwrap();
        match (ready, asked) {
            (2, 0) => many.stop(&mut reactor, Request::Stop),
            (2, 2) => many.stop(&mut reactor, Request::Kill),
            _ => {}
        }
        all.extend(std::iter::from_fn(|| many.next_finished()));
    }
    assert_eq!(indices(&all), [0, 1, 2]);
    for finished in &all {
        match &finished.result {
            Ok(output) => {
                assert_eq!((output.ended_by, output.exit.signal()), (EndedBy::Asked, Some(libc::SIGKILL)));
                assert_eq!(output.stdout, b"ready\nasked\n");
            }
            Err(RunError::NotStarted) => assert_eq!(finished.index, 2),
            other => panic!("{other:?}"),
        }
    }
}

/// A turn that begins after the last result must not wait for ever.
#[test]
fn results_before_the_first_turn_end_the_loop() {
    let _alone = alone();
    let mut reactor = Reactor::new().unwrap();
    let mut many = RunMany::new((0..200).map(|_| Command::new("/no/such/program"))).jobs(3);
    let all = finish(&mut reactor, &mut many, |_, _, _| {});
    assert_eq!(all.len(), 200);
    assert!(
        all.iter()
            .all(|finished| matches!(&finished.result, Err(RunError::Spawn(error)) if error.stage() == Stage::Exec))
    );
    let mut many = RunMany::new([]);
    assert!(finish(&mut reactor, &mut many, |_, _, _| {}).is_empty());
    let mut many = RunMany::new([sh("exit")]);
    many.stop(&mut reactor, Request::Stop);
    assert!(matches!(many.next_finished().unwrap().result, Err(RunError::NotStarted)));
}

#[test]
fn what_a_run_has_left_behind_is_killed() {
    let _alone = alone();
    let mut found = Vec::new();
    let many = RunMany::new((0..3).map(|_| sh("sleep 1000 & echo $!"))).jobs(2);
    many.run(|finished| found.push(finished.result.unwrap())).unwrap();
    assert_eq!(found.len(), 3);
    // Nothing leads to a group without its leader before Linux 6.9.
    let remains = if kernel::reaches_groups_by_pidfd() { Remains::Nobody } else { Remains::Unknown };
    for output in found {
        assert_eq!((output.ended_by, &output.remains), (EndedBy::Exit, &remains));
        let pid = String::from_utf8(output.stdout).unwrap();
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        assert!(state.is_err() || state.unwrap().contains(") Z "), "{pid} is alive");
    }
}

#[test]
fn each_slot_has_processors_of_its_own() {
    let _alone = alone();
    let all = childminder::Topology::of_this_machine().unwrap().cpus();
    let sets: Vec<CpuSet> = all.iter().take(2).map(|cpu| [cpu].into_iter().collect()).collect();
    let mut status = Command::new("cat");
    status.arg("/proc/self/status");
    let mut used = vec![0; sets.len()];
    let many = RunMany::new((0..10).map(|_| status.clone())).cpu_sets(sets.clone());
    many.run(|finished| {
        let said = String::from_utf8(finished.result.unwrap().stdout).unwrap();
        let slot = finished.slot.unwrap();
        assert_eq!(field_of(&said, "Cpus_allowed_list"), sets[slot].to_string());
        used[slot] += 1;
    })
    .unwrap();
    assert!(used.iter().all(|runs| *runs > 0), "{used:?}");
}

#[test]
fn limits_are_for_each_run() {
    let _alone = alone();
    let mut limits = Limits::default();
    limits.output = Some(3);
    let mut reasons = Vec::new();
    let many = RunMany::new(["echo ab", "echo abc", "echo a"].map(sh)).limits(limits).output_limit(0);
    many.run(|finished| reasons.push((finished.index, reason(&finished).unwrap()))).unwrap();
    assert_eq!(reasons, [(0, EndedBy::Exit), (1, EndedBy::Output), (2, EndedBy::Exit)]);
}

/// The host's own processes, timers and signals go on beside the runs.
#[test]
fn the_hosts_own_events_are_left_to_it() {
    let _alone = alone();
    let mut reactor = Reactor::new().unwrap();
    let own = reactor.spawn_process(&sh("echo mine; exit 9")).unwrap();
    let timer = reactor.call_later(Duration::ZERO);
    let mut many = RunMany::new((0..5).map(|_| Command::new("true"))).jobs(2);
    let (mut code, mut fired, mut results, end) = (None, false, 0, now() + WATCHDOG);
    many.start(&mut reactor);
    while !many.is_over() || code.is_none() || !fired {
        assert!(now() < end);
        let turned = reactor.turn(Some(WATCHDOG), |reactor, event| {
            if many.handle(reactor, &event) {
                return;
            }
            match event {
                Event::Ended { process, exit } if process == own => code = exit.code(),
                Event::Timer(id) => fired |= id == timer,
                _ => {}
            }
        });
        turned.unwrap();
        results += std::iter::from_fn(|| many.next_finished()).count();
    }
    assert_eq!((code, results), (Some(9), 5));
}

/// A signal for the program stops the runs, and then ends the program.
#[test]
fn a_signal_for_the_host_stops_all() {
    let _alone = alone();
    let name = "a_signal_for_the_host_stops_all";
    let script = "trap 'echo stopped >&2; exit' TERM; kill -TERM $PPID; while :; do sleep 0.01; done";
    let status = apart(name, || {
        let mut command = sh(script);
        command.stderr(Stdio::inherit());
        let _ = RunMany::new(std::iter::repeat_n(command, 4)).jobs(2).run(|_| {});
        std::process::exit(3);
    });
    if let Some(status) = status {
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM), "{status:?}");
    }
}
