//! Tests the conditions of a run: each one is in force in the child, and one that cannot be had
//! fails the spawn at its own stage. The time of a run counts from the exec.
//!
//! The one rule: what was set is read from `/proc` in the child, and the host's own is unchanged.

#![cfg(target_os = "linux")]

mod util;

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use childminder::{Command, CpuSet, IoPriority, Scheduler, Stage, Stdio, Topology};
use util::{COMBINATIONS, World, field_of, needs_root, now, on_all_combinations, sh};

/// The status of a child that reads its own.
#[track_caller]
fn status(world: &mut World, set: impl FnOnce(&mut Command)) -> String {
    let mut command = Command::new("cat");
    command.arg("/proc/self/status");
    set(&mut command);
    world.output(&command)
}

/// A field of `/proc/self/stat`, by the number that `proc(5)` gives it.
#[track_caller]
fn stat(world: &mut World, field: usize, set: impl FnOnce(&mut Command)) -> i64 {
    let mut command = Command::new("cat");
    command.arg("/proc/self/stat");
    set(&mut command);
    let stat = world.output(&command);
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(field - 3).unwrap().trim().parse().unwrap()
}

#[track_caller]
fn refused(world: &mut World, set: impl FnOnce(&mut Command)) -> (Stage, String) {
    let mut command = Command::new("true");
    set(&mut command);
    let error = world.reactor.spawn_process(&command).unwrap_err();
    (error.stage(), error.to_string())
}

on_all_combinations! {
    fn the_child_is_bound_to_its_processors(world: &mut World) {
        let all = Topology::of_this_machine().unwrap().cpus();
        for cpu in all.iter() {
            let one: CpuSet = [cpu].into_iter().collect();
            let said = status(world, |command| _ = command.cpus(&one));
            assert_eq!(field_of(&said, "Cpus_allowed_list"), one.to_string());
        }
        let said = status(world, |command| _ = command.cpus(&all));
        assert_eq!(field_of(&said, "Cpus_allowed_list"), all.to_string());
        assert_eq!(Topology::of_this_machine().unwrap().cpus(), all);
    }

    fn processors_that_are_not_there_are_refused(world: &mut World) {
        let all = Topology::of_this_machine().unwrap().cpus();
        let beyond: CpuSet = all.iter().take(1).chain([8000]).collect();
        let (stage, said) = refused(world, |command| _ = command.cpus(&beyond));
        assert_eq!(stage, Stage::Affinity);
        assert!(said.contains(&format!("sched_setaffinity {beyond}: Invalid argument")), "{said}");
        for cpus in [CpuSet::default(), [9000].into_iter().collect()] {
            assert_eq!(refused(world, |command| _ = command.cpus(&cpus)).0, Stage::Command);
        }
    }

    fn memory_comes_from_the_nodes(world: &mut World) {
        if !util::needs_the_kernel("policies for memory") {
            return;
        }
        let mut command = sh("cat /proc/self/numa_maps");
        let said = world.output(command.memory_nodes(&[0]));
        assert!(said.lines().all(|line| line.contains(" bind:0")) && !said.is_empty(), "{said}");
        let (stage, said) = refused(world, |command| _ = command.memory_nodes(&[63]));
        assert_eq!(stage, Stage::MemoryPolicy, "{said}");
        assert_eq!(refused(world, |command| _ = command.memory_nodes(&[])).0, Stage::Command);
    }

    fn addresses_are_the_same_each_time(world: &mut World) {
        let mut command = Command::new("cat");
        command.arg("/proc/self/maps").no_aslr(true);
        let first = world.output(&command);
        assert_eq!(world.output(&command), first);
        let random = world.output(command.no_aslr(false));
        assert_ne!(world.output(&command), random, "the host's own setting has changed");
    }

    fn the_scheduling_class_is_set(world: &mut World) {
        for (scheduler, policy) in [(Scheduler::Batch, 3), (Scheduler::Idle, 5), (Scheduler::Other, 0)] {
            assert_eq!(stat(world, 41, |command| _ = command.scheduler(scheduler)), policy);
        }
        assert_eq!(stat(world, 19, |command| _ = command.scheduler(Scheduler::Batch).nice(7)), 7);
        if needs_root() && util::needs_the_kernel("right to real-time scheduling") {
            assert_eq!(stat(world, 41, |command| _ = command.scheduler(Scheduler::Fifo(3))), 1);
            assert_eq!(stat(world, 40, |command| _ = command.scheduler(Scheduler::RoundRobin(9))), 9);
        }
        for scheduler in [Scheduler::Fifo(0), Scheduler::RoundRobin(100)] {
            assert_eq!(refused(world, |command| _ = command.scheduler(scheduler)).0, Stage::Command);
        }
        assert_eq!(stat(world, 41, |_| {}), 0);
    }

    fn the_io_priority_is_set(world: &mut World) {
        for (priority, said) in [(IoPriority::Idle, "idle\n"), (IoPriority::BestEffort(6), "best-effort: prio 6\n")] {
            let mut command = Command::new("ionice");
            assert_eq!(world.output(command.io_priority(priority)), said);
        }
        assert_eq!(refused(world, |command| _ = command.io_priority(IoPriority::RealTime(8))).0, Stage::Command);
    }

    fn no_new_rights_are_given(world: &mut World) {
        let said = status(world, |command| _ = command.no_new_privs(true));
        assert_eq!(field_of(&said, "NoNewPrivs"), "1");
        assert_eq!(field_of(&status(world, |_| {}), "NoNewPrivs"), "0");
        assert_eq!(util::status_field("thread-self", "NoNewPrivs"), "0");
        if needs_root() {
            // It is set before the user changes.
            let said = status(world, |command| _ = command.no_new_privs(true).uid(65534).gid(65534));
            assert_eq!((field_of(&said, "NoNewPrivs"), &field_of(&said, "Uid")[..5]), ("1".into(), "65534"));
        }
    }

    fn the_time_counts_from_the_exec(world: &mut World) {
        let opened = Arc::new(Mutex::new(None));
        let note = Arc::clone(&opened);
        let mut command = Command::new("true");
        // The spawn waits for the file.
        command.stdin(Stdio::open_with("/dev/null", move |path| {
            let start = now();
            while start.elapsed() < Duration::from_millis(50) {}
            *note.lock().unwrap() = Some(now());
            Ok(File::open(path)?.into())
        }));
        let before = now();
        let id = world.spawn(&command);
        let started = world.process(id).started();
        let opened = opened.lock().unwrap().unwrap();
        assert!(started >= opened && opened - before >= Duration::from_millis(50));
        assert!(started <= now());
        let exit = world.until_ended(id).exit;
        assert!(exit.wall_time <= now() - opened, "{:?}", exit.wall_time);
    }
}

#[test]
fn a_busy_handler_is_not_in_the_wall_time() {
    const BUSY: Duration = Duration::from_millis(50);
    let mut fastest = Duration::MAX;
    // One undisturbed run is enough.
    for _ in 0..20 {
        let mut world = World::new(COMBINATIONS[0]);
        let timer = world.reactor.call_later(Duration::ZERO);
        let mut id = None;
        world.until_with(
            |reactor, event| {
                if matches!(event, childminder::Event::Timer(due) if *due == timer) {
                    let start = now();
                    while start.elapsed() < Duration::from_millis(50) {}
                    id = Some(reactor.spawn_process(&Command::new("true")).unwrap());
                }
            },
            |log| log.0.iter().any(|(_, what)| matches!(what, util::What::Ended(_))),
        );
        fastest = fastest.min(world.log.exit(id.unwrap()).unwrap().wall_time);
        if fastest < BUSY {
            break;
        }
    }
    println!("wall time {fastest:?}");
    assert!(fastest < BUSY, "{fastest:?}");
}
