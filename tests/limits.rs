//! Tests the limits of a run: each one ends a program that was made for it, with its own reason,
//! and nothing of the tree is left.
//!
//! The one rule: a limit that cannot be had is refused, and nothing is started.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/programs.rs"]
mod programs;

use std::fs;
use std::time::Duration;

use cgroups::{Part, with_part};
use childminder::{
    Command, Contain, Covers, EndedBy, Event, Finished, Limits, Reactor, Remains, RunError, RunMany, RunToEnd, Stage,
    Stdio,
};
use programs::program;
use util::{WATCHDOG, now, sh};

const SECOND: Duration = Duration::from_secs(1);

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// Runs a test in a process that has a part of the hierarchy for itself. The controllers are on for
/// the part, if the hierarchy has them.
#[track_caller]
fn in_a_cgroup(name: &str, test: impl FnOnce(&Part)) {
    with_part(name, |part| {
        part.switch_on();
        test(part);
        part.expect_no_homes(name);
    });
}

/// Whether the version 2 hierarchy of this machine has a controller. If not, it records that a part
/// of a test is left out.
#[track_caller]
fn has(part: &Part, controller: &str) -> bool {
    let known = fs::read_to_string(part.0.join("cgroup.controllers")).unwrap();
    let has = known.split_whitespace().any(|known| known == controller);
    if !has {
        util::left_out(&format!("the controller {controller} is not available in version 2"));
    }
    has
}

/// Whether this kernel keeps the peak of a controller (`memory` from Linux 5.19 on, `pids` from 6.1
/// on).
#[track_caller]
fn has_peak(part: &Part, controller: &str) -> bool {
    let probe = part.0.join("probe");
    let enabled = fs::write(part.0.join("cgroup.subtree_control"), format!("+{controller}"));
    fs::create_dir(&probe).unwrap();
    let has = probe.join(format!("{controller}.peak")).exists();
    fs::remove_dir(&probe).unwrap();
    if !has {
        util::left_out(&format!("the kernel has no {controller}.peak ({enabled:?})"));
    }
    has
}

/// Runs the commands in cgroups below the part, and returns the results in the order of the
/// commands.
#[track_caller]
fn run(part: &Part, limits: Limits, commands: Vec<Command>) -> Vec<Finished> {
    let mut reactor = part.reactor();
    let commands = commands.into_iter().map(|mut command| {
        command.contain(Contain::Cgroup);
        command
    });
    let mut many = RunMany::new(commands).jobs(2).limits(limits).kill_time(2 * SECOND);
    let (mut finished, end) = (Vec::new(), now() + WATCHDOG);
    many.start(&mut reactor);
    while !many.is_over() {
        assert!(now() < end, "the runs do not end");
        reactor.turn(Some(SECOND), |reactor, event| _ = many.handle(reactor, &event)).unwrap();
        finished.extend(std::iter::from_fn(|| many.next_finished()));
    }
    assert!(part.is_empty(), "a process is left");
    finished.sort_by_key(|finished| finished.index);
    finished
}

#[track_caller]
fn reasons(finished: &[Finished]) -> Vec<EndedBy> {
    let output = |finished: &Finished| finished.result.as_ref().expect("a run").ended_by;
    finished.iter().map(output).collect()
}

#[test]
fn a_run_without_limits_tells_how_it_ended() {
    let output = |script: &str| RunToEnd::new(&sh(script)).run().unwrap();
    assert_eq!(output("exit 3").ended_by, EndedBy::Exit);
    assert_eq!(output("kill -SEGV $$").ended_by, EndedBy::Signal);
}

#[test]
fn the_wall_time_ends_a_sleeper_and_its_tree() {
    let limits = limits(|it| it.wall_time = Some(Duration::from_millis(50)));
    let output = RunToEnd::new(&sh("sleep 1000 & sleep 1000")).limits(limits).run().unwrap();
    assert_eq!((output.ended_by, output.exit.signal()), (EndedBy::WallTime, Some(libc::SIGTERM)));
    assert!(output.timed_out && output.remains == Remains::Nobody, "{output:?}");
}

#[test]
fn what_does_not_stop_is_killed() {
    let limits = limits(|it| it.output = Some(0));
    // It ignores the signal by the time that it reaches the limit.
    let stubborn = sh("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    let output = RunToEnd::new(&stubborn).limits(limits).kill_time(Duration::from_millis(50)).run().unwrap();
    assert_eq!((output.ended_by, output.exit.signal()), (EndedBy::Output, Some(libc::SIGKILL)));
}

#[test]
fn the_output_limit_ends_a_flood() {
    let limits = limits(|it| it.output = Some(100_000));
    let flood = sh("yes & yes >&2 & wait");
    let output = RunToEnd::new(&flood).limits(limits).output_limit(10).run().unwrap();
    assert_eq!(output.ended_by, EndedBy::Output);
    // Only one of the two may have run.
    let kept = output.stdout.len() + output.stderr.len();
    assert!(output.stdout.len() <= 10 && output.stderr.len() <= 10 && kept >= 10, "{output:?}");
    assert!(kept as u64 + output.stdout_dropped + output.stderr_dropped > 100_000, "{output:?}");
    // Exactly the limit is no more than the limit.
    let output = RunToEnd::new(&sh("head -c 100000 /dev/zero")).limits(limits).run().unwrap();
    assert_eq!((output.ended_by, output.stdout.len()), (EndedBy::Exit, 100_000));
}

#[test]
fn a_limit_that_cannot_be_had_is_refused_before_anything_starts() {
    let folder = util::TempDir::new("refused");
    let witness = folder.0.join("it-ran");
    let command = |contain| {
        let mut command = Command::new("touch");
        command.arg(&witness).contain(contain);
        command
    };
    let all: [Limits; 4] = [
        limits(|it| it.cpu_time = Some(SECOND)),
        limits(|it| it.soft_cpu_time = Some(SECOND)),
        limits(|it| it.memory = Some(1 << 30)),
        limits(|it| it.processes = Some(10)),
    ];
    for limits in all {
        match RunToEnd::new(&command(Contain::Group)).limits(limits).run() {
            Err(RunError::Spawn(error)) => {
                assert_eq!(error.stage(), Stage::Limit);
                assert!(error.to_string().contains("it needs a cgroup (the command asks for no cgroup"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let mut reactor = Reactor::new().unwrap();
        reactor.set_cgroup_parent("/no/such/directory");
        let mut many = RunMany::new([command(Contain::Auto)]).limits(limits);
        many.start(&mut reactor);
        match many.next_finished().map(|finished| finished.result) {
            Some(Err(RunError::Spawn(error))) => {
                assert_eq!(error.stage(), Stage::Limit);
                assert!(error.to_string().contains("cannot use /no/such/directory"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert!(many.is_over());
    }
    assert!(!witness.exists());
}

#[test]
fn a_missing_controller_is_named() {
    in_a_cgroup("a_missing_controller_is_named", |part| {
        let mut reactor = part.reactor();
        for (controller, mut command) in [("memory", sh("exit")), ("pids", sh("exit"))] {
            if fs::read_to_string(part.0.join("cgroup.controllers")).unwrap().contains(controller) {
                continue;
            }
            command.contain(Contain::Auto);
            let command = if controller == "memory" { command.memory_limit(1 << 30) } else { command.process_limit(9) };
            let error = reactor.spawn_process(command).unwrap_err();
            assert_eq!(error.stage(), Stage::Limit);
            assert!(error.to_string().contains(&format!("the controller `{controller}` is not available")), "{error}");
        }
        assert!(part.cgroups().is_empty() && part.is_empty());
    });
}

#[test]
fn the_cpu_time_ends_four_threads() {
    in_a_cgroup("the_cpu_time_ends_four_threads", |part| {
        let finished = run(part, limits(|it| it.cpu_time = Some(SECOND)), vec![program("burn 4")]);
        let output = finished[0].result.as_ref().unwrap();
        assert_eq!((output.ended_by, output.exit.signal()), (EndedBy::CpuTime, Some(libc::SIGKILL)));
        let cpu = output.used.cpu_time().unwrap();
        println!("{:?} of CPU, {:?} of wall", cpu.value, output.exit.wall_time);
        assert_eq!(cpu.covers, Covers::Tree);
        // A busy machine delays the timer.
        assert!(cpu.value >= SECOND && cpu.value < 2 * SECOND, "{cpu:?}");
    });
}

#[test]
fn the_soft_cpu_time_lets_a_program_write_its_result() {
    in_a_cgroup("the_soft_cpu_time_lets_a_program_write_its_result", |part| {
        let limits = limits(|it| (it.soft_cpu_time, it.cpu_time) = (Some(SECOND / 2), Some(2 * SECOND)));
        let polite = sh("trap 'echo result; exit 7' TERM; while :; do :; done");
        let stubborn = sh("trap '' TERM; while :; do :; done");
        let finished = run(part, limits, vec![polite, stubborn]);
        assert_eq!(reasons(&finished), [EndedBy::SoftCpuTime, EndedBy::CpuTime]);
        let output = finished[0].result.as_ref().unwrap();
        assert_eq!((output.exit.code(), &output.stdout[..]), (Some(7), &b"result\n"[..]));
    });
}

/// A daemon burns the time, and the leader sleeps.
#[test]
fn the_cpu_time_of_a_daemon_counts() {
    in_a_cgroup("the_cpu_time_of_a_daemon_counts", |part| {
        let daemon = sh("(setsid sh -c 'while :; do :; done' &); exec sleep 1000");
        let finished = run(part, limits(|it| it.cpu_time = Some(SECOND / 5)), vec![daemon]);
        assert_eq!(reasons(&finished), [EndedBy::CpuTime]);
    });
}

#[test]
fn a_sleeper_with_a_cpu_limit_wakes_nobody_often() {
    in_a_cgroup("a_sleeper_with_a_cpu_limit_wakes_nobody_often", |part| {
        let before = switches();
        let finished = run(part, limits(|it| it.cpu_time = Some(10 * SECOND)), vec![sh("sleep 1")]);
        assert_eq!(reasons(&finished), [EndedBy::Exit]);
        let wakes = switches() - before;
        assert!(wakes < 30, "{wakes} wake-ups");
    });
}

/// How often this thread has waited.
fn switches() -> u64 {
    util::status_field("thread-self", "voluntary_ctxt_switches").parse().unwrap()
}

#[test]
fn too_much_memory_ends_the_tree() {
    in_a_cgroup("too_much_memory_ends_the_tree", |part| {
        if !has(part, "memory") {
            return;
        }
        let limits = limits(|it| it.memory = Some(64 << 20));
        let in_a_child = sh("sh -c 'exec sleep 1000' & \"$0\" \"$@\"; wait");
        let child = programs::after(in_a_child, "touch 200");
        let finished = run(part, limits, vec![program("touch 200"), child, program("touch 10")]);
        assert_eq!(reasons(&finished), [EndedBy::Memory, EndedBy::Memory, EndedBy::Exit]);
        for finished in &finished {
            let peak = finished.result.as_ref().unwrap().used.peak_memory.unwrap();
            if has_peak(part, "memory") {
                assert!(peak.covers == Covers::Tree && peak.value <= 64 << 20, "{peak:?}");
            } else {
                // The kernel counts each process rounded up.
                assert!(peak.covers == Covers::Reaped && peak.value <= 80 << 20, "{peak:?}");
            }
        }
    });
}

/// As in a cgroup that a service manager has made for one program.
#[test]
fn a_program_that_is_alone_in_its_cgroup_makes_room_for_controllers() {
    in_a_cgroup("a_program_that_is_alone_in_its_cgroup_makes_room_for_controllers", |part| {
        let own = || fs::read_to_string("/proc/self/cgroup").unwrap().lines().last().unwrap().to_owned();
        let _ = fs::write(part.0.join("cgroup.subtree_control"), "+memory");
        let service = part.delegate(0);
        let before = own();
        assert!(before.ends_with("/service"), "{before}");
        let mut reactor = Reactor::new().unwrap();
        reactor.enter_leaf_cgroup().unwrap();
        assert!(own().starts_with(&before) && own().ends_with("/host"), "{}", own());
        reactor.enter_leaf_cgroup().unwrap();
        let mut command = program("touch 200");
        command.contain(Contain::Cgroup);
        let mut many = RunMany::new([command]);
        if has(part, "memory") {
            many = many.limits(limits(|it| it.memory = Some(64 << 20)));
        }
        many.start(&mut reactor);
        while !many.is_over() {
            reactor.turn(Some(WATCHDOG), |reactor, event| _ = many.handle(reactor, &event)).unwrap();
            while let Some(finished) = many.next_finished() {
                let output = finished.result.unwrap();
                let expected = if has(part, "memory") { EndedBy::Memory } else { EndedBy::Exit };
                assert_eq!((output.ended_by, output.used.cpu_time().unwrap().covers), (expected, Covers::Tree));
            }
        }
        drop(reactor);
        assert_eq!(own(), before);
        let left: Vec<_> = fs::read_dir(&service).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fs::read_to_string(service.join("cgroup.subtree_control")).unwrap().trim(), "");

        // Beside others it stays where it is.
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let error = reactor.enter_leaf_cgroup().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(own(), before);
        drop(reactor);
        fs::write("/mnt/cgroup.procs", "0").unwrap();
        fs::remove_dir(service).unwrap();
    });
}

#[test]
fn a_fork_bomb_ends() {
    in_a_cgroup("a_fork_bomb_ends", |part| {
        if !has(part, "pids") {
            return;
        }
        let bomb = sh("b() { b | b & }; b; sleep 1000");
        let modest = sh("sleep 0 & sleep 0 & wait");
        let finished = run(part, limits(|it| it.processes = Some(20)), vec![bomb, modest]);
        assert_eq!(reasons(&finished), [EndedBy::Processes, EndedBy::Exit]);
        let peak = finished[0].result.as_ref().unwrap().used.peak_processes;
        let peak = peak.map(|peak| (peak.value, peak.covers));
        assert_eq!(peak, has_peak(part, "pids").then_some((20, Covers::Tree)));
    });
}

/// An event tells the host of a plain spawn, once.
#[test]
fn the_limit_of_processes_is_an_event() {
    in_a_cgroup("the_limit_of_processes_is_an_event", |part| {
        if !has(part, "pids") {
            return;
        }
        let mut reactor = part.reactor();
        let mut command = sh("for i in 1 2 3 4 5 6; do sleep 1000 & done; sleep 1000");
        command.stderr(Stdio::null()).contain(Contain::Cgroup).process_limit(4);
        let id = reactor.spawn_process(&command).unwrap();
        let (mut told, mut gone, end) = (0, false, now() + WATCHDOG);
        while !gone {
            assert!(now() < end);
            let turned = reactor.turn(Some(SECOND), |reactor, event| match event {
                Event::ProcessLimit { process } => {
                    assert_eq!(process, id);
                    told += 1;
                    reactor.tree(id).unwrap().kill().unwrap();
                }
                Event::TreeGone { .. } => gone = true,
                _ => {}
            });
            turned.unwrap();
        }
        assert_eq!(told, 1);
    });
}
