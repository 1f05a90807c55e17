//! Tests processes in cgroups of their own: they start there, they are killed there, and the kernel
//! reports the members that are left. Each test is a process of its own, in a mount namespace with
//! a cgroup v2 hierarchy.
//!
//! The one rule: a tree that is reported as gone is gone from the hierarchy.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/kernel.rs"]
mod kernel;

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use cgroups::{Part, with_part};
use childminder::{
    Command, Contain, Event, ProcessId, Reactor, ReapMethod, Remains, SpawnMethod, Stage, Stdio, Strength,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use util::{COMBINATIONS, World, sh};

/// Runs a test for each way to spawn and to reap. The test has a part of the hierarchy for itself.
#[track_caller]
fn in_cgroups(name: &str, test: impl Fn(&mut World, &Part)) {
    with_part(name, |part| {
        for combination in COMBINATIONS {
            let mut world = World::new(combination);
            world.reactor.set_cgroup_parent(&part.0);
            test(&mut world, part);
            drop(world);
            part.expect_no_homes(&format!("{combination:?}"));
        }
    });
}

fn contained(mut command: Command) -> Command {
    command.contain(Contain::Cgroup);
    command
}

/// Takes turns until the tree of this process is gone. Returns whether that was certain.
#[track_caller]
fn until_gone(world: &mut World, id: ProcessId) -> bool {
    let gone = RefCell::new(None);
    let hook = |_: &mut Reactor, event: &Event<'_>| match *event {
        Event::TreeGone { process, certain } if process == id => {
            assert!(gone.replace(Some(certain)).is_none(), "told twice");
        }
        _ => {}
    };
    world.until_with(hook, |_| gone.borrow().is_some());
    assert!(world.reactor.tree(id).is_none());
    gone.into_inner().unwrap()
}

/// Takes turns until the condition is true, for states that no event announces.
#[track_caller]
fn until_true(world: &mut World, mut is_so: impl FnMut(&mut World) -> bool) {
    let end = util::now() + util::WATCHDOG;
    while !is_so(world) {
        assert!(util::now() < end, "waited in vain");
        world.turn_with(std::time::Duration::from_millis(2), |_, _| {});
    }
}

/// Waits without a turn until the leader is dead.
#[track_caller]
fn until_dead(world: &mut World, id: ProcessId) {
    let pid = world.process(id).pid().unwrap().to_string();
    until_true_alone(|| util::status_field(&pid, "State").starts_with('Z'));
}

/// The same as [`until_true`], without a turn.
#[track_caller]
fn until_true_alone(mut is_so: impl FnMut() -> bool) {
    let end = util::now() + util::WATCHDOG;
    while !is_so() {
        assert!(util::now() < end, "waited in vain");
        std::thread::yield_now();
    }
}

/// The names of the living members of a tree.
fn names(world: &mut World, id: ProcessId) -> Vec<String> {
    let Remains::Members(members) = world.reactor.tree(id).expect("somebody is left").members() else {
        panic!("members")
    };
    assert!(members.iter().all(|member| member.state != 'Z'), "{members:?}");
    members.into_iter().map(|member| member.name).collect()
}

fn cgroup_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

const MOMENT: std::time::Duration = std::time::Duration::from_millis(100);

/// A daemon that leaves its process group and ignores SIGTERM.
const DAEMON: &str = "setsid sh -c 'trap \"\" TERM; (setsid sleep 1000 &) ; echo ready; exec sleep 1000' & ";

#[test]
fn born_in_a_cgroup_of_its_own() {
    in_cgroups("born_in_a_cgroup_of_its_own", |world, part| {
        let command = contained(sh("cat /proc/$$/cgroup; exec sleep 1000"));
        let foreseen = world.reactor.containment(&command);
        let id = world.spawn(&command);
        let tree = world.reactor.tree(id).unwrap();
        assert_eq!(tree.containment(), foreseen);
        assert_eq!(foreseen.strength(), Strength::Cgroup);
        world.until_said(id, 1, "0::");
        let pid = world.process(id).pid().unwrap();
        let own = cgroup_of(pid);
        assert!(
            own.starts_with(part.0.strip_prefix("/mnt").unwrap().to_str().unwrap().trim_end_matches('/'))
                || own.contains("childminder-"),
            "{own}"
        );
        assert!(world.log.text(id, 1).contains(&own), "its program has been there from the start");
        world.reactor.tree(id).unwrap().kill().unwrap();
        assert!(until_gone(world, id), "certain");
        let exit = world.log.exit(id).expect("told before");
        assert_eq!((exit.signal(), exit.requested), (Some(9), Some(9)));
        until_true(world, |_| part.cgroups().is_empty());
    });
}

// The containment says so if the child has to enter the cgroup itself.
#[test]
fn without_clone3_it_enters_before_its_exec() {
    in_cgroups("without_clone3_it_enters_before_its_exec", |world, _| {
        let command = contained(Command::new("true"));
        let reason = world.reactor.containment(&command).reason().map(str::to_owned);
        let id = world.spawn(&command);
        let containment = world.reactor.tree(id).unwrap().containment();
        assert_eq!(containment.reason().map(str::to_owned), reason);
        let is_ours = |reason: String| {
            reason.contains("clone3: the host starts processes by fork")
                || !kernel::BORN_IN_CGROUP && reason.contains("clone3: Function not implemented")
        };
        assert!(reason.is_none_or(is_ours));
        until_gone(world, id);
    });
}

#[test]
fn whoever_leaves_the_group_stays_in_the_cgroup() {
    in_cgroups("whoever_leaves_the_group_stays_in_the_cgroup", |world, part| {
        let id = world.spawn(&contained(sh(&format!("{DAEMON} read x; exit 3"))));
        // Its stdin is empty, so it exits at once, and the daemon goes on.
        world.until(|log| log.exit(id).is_some());
        world.until_said(id, 1, "ready");
        assert!(!world.reactor.tree(id).expect("somebody is left").is_empty());
        until_true(world, |world| names(world, id) == ["sleep", "sleep"]);
        // The kernel counts memory in batches, so a process that has just started shows none at
        // first.
        until_true(world, |world| {
            let Remains::Members(members) = world.reactor.tree(id).unwrap().members() else { panic!("members") };
            members.iter().any(|member| member.memory > 100 * 1024)
        });
        let mut tree = world.reactor.tree(id).unwrap();
        tree.terminate(libc::SIGTERM).unwrap();
        world.settle();
        let mut tree = world.reactor.tree(id).expect("who ignores SIGTERM is left");
        tree.kill().unwrap();
        assert!(until_gone(world, id));
        assert!(part.is_empty());
        world.until_ended(id);
    });
}

#[test]
fn a_signal_reaches_all_and_each_once() {
    in_cgroups("a_signal_reaches_all_and_each_once", |world, _| {
        let script = "trap 'echo got' USR1; (trap 'echo got' USR1; echo ready; while :; do sleep 0.01; done) & \
                      setsid sh -c \"trap 'echo got' USR1; echo ready; while :; do sleep 0.01; done\" & \
                      echo ready; while :; do sleep 0.01; done";
        // The `sleep`s are killed by the signal.
        let id = world.spawn(&contained(sh(script)));
        world.until(|log| log.text(id, 1).matches("ready").count() == 3);
        world.reactor.tree(id).unwrap().signal(libc::SIGUSR1).unwrap();
        world.until(|log| log.text(id, 1).matches("got").count() == 3);
        for _ in 0..10 {
            world.settle();
        }
        assert_eq!(world.log.text(id, 1).matches("got").count(), 3);
        world.reactor.tree(id).unwrap().kill().unwrap();
        assert!(until_gone(world, id));
    });
}

// In a turn all trees share a look, which may be older than a process.
#[test]
fn a_process_of_this_very_turn_is_a_member() {
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        let early = world.spawn(&sh("exec sleep 1000"));
        let mut late = None;
        world.reactor.call_later(std::time::Duration::ZERO);
        while late.is_none() {
            let spawn = |reactor: &mut Reactor, event: Event<'_>| {
                if let Event::Timer(_) = event {
                    let seen = |reactor: &mut Reactor, id| reactor.tree(id).unwrap().members();
                    assert!(matches!(seen(reactor, early), Remains::Members(members) if members.len() == 1));
                    let id = reactor.spawn_process(&sh("exec sleep 1000")).unwrap();
                    assert!(matches!(seen(reactor, id), Remains::Members(members) if members.len() == 1));
                    late = Some(id);
                }
            };
            world.reactor.turn(None, spawn).unwrap();
        }
        for id in [early, late.unwrap()] {
            world.reactor.tree(id).unwrap().kill().unwrap();
        }
        world.settle();
    }
}

#[test]
fn frozen_and_thawed() {
    in_cgroups("frozen_and_thawed", |world, part| {
        let id = world.spawn(&contained(sh("while :; do echo x; sleep 0.005; done")));
        world.until_said(id, 1, "x");
        world.reactor.tree(id).unwrap().freeze().unwrap();
        let [cgroup] = &part.cgroups()[..] else { panic!("one cgroup") };
        let events = cgroup.join("cgroup.events");
        until_true(world, |_| fs::read_to_string(&events).unwrap().contains("frozen 1"));
        world.settle();
        let before = world.log.text(id, 1).len();
        world.turn_with(std::time::Duration::from_millis(50), |_, _| {});
        assert_eq!(world.log.text(id, 1).len(), before, "it stands still");
        world.reactor.tree(id).unwrap().thaw().unwrap();
        world.until(|log| log.text(id, 1).len() > before);
        // The tree is frozen again, and a stop thaws it.
        world.reactor.tree(id).unwrap().freeze().unwrap();
        world.reactor.tree(id).unwrap().terminate(libc::SIGTERM).unwrap();
        assert!(until_gone(world, id));
        assert_eq!(world.log.exit(id).unwrap().signal(), Some(libc::SIGTERM));
    });
}

// A descriptor cannot be had, and what stands still goes on all the same.
#[test]
fn thawed_without_a_descriptor() {
    in_cgroups("thawed_without_a_descriptor", |world, _| {
        let id = world.spawn(&contained(sh("while :; do echo x; sleep 0.005; done")));
        world.until_said(id, 1, "x");
        world.reactor.tree(id).unwrap().freeze().unwrap();
        without_descriptors(|| world.reactor.tree(id).unwrap().thaw()).unwrap();
        let before = world.log.text(id, 1).len();
        world.until(|log| log.text(id, 1).len() > before + 10);
        world.reactor.tree(id).unwrap().freeze().unwrap();
        world.reactor.tree(id).unwrap().freeze().unwrap();
        without_descriptors(|| world.reactor.tree(id).unwrap().terminate(libc::SIGTERM)).unwrap();
        assert!(until_gone(world, id));
        assert_eq!(world.log.exit(id).unwrap().signal(), Some(libc::SIGTERM));
    });
}

#[test]
fn killed_to_the_last_without_a_descriptor() {
    in_cgroups("killed_to_the_last_without_a_descriptor", |world, part| {
        if !part.0.join("cgroup.kill").exists() {
            return util::left_out("before Linux 5.14 each member is killed by a pidfd, which takes a descriptor");
        }
        let id = world.spawn(&contained(sh("trap '' TERM; setsid sleep 1000 & sleep 1000")));
        until_true(world, |world| names(world, id).len() == 3);
        without_descriptors(|| {
            world.reactor.tree(id).unwrap().kill().unwrap();
            assert!(until_gone(world, id));
        });
        assert_eq!(world.log.exit(id).unwrap().signal(), Some(libc::SIGKILL));
        until_true(world, |_| part.cgroups().is_empty());
    });
}

/// Does something while no file descriptor is free.
fn without_descriptors<T>(body: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), ..before }).unwrap();
    let taken: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    assert!(taken.len() < 128);
    let result = body();
    drop(taken);
    setrlimit(Resource::Nofile, before).unwrap();
    result
}

#[test]
fn cgroups_that_it_has_made_itself_go_with_it() {
    in_cgroups("cgroups_that_it_has_made_itself_go_with_it", |world, part| {
        let script = "cd /mnt$(sed -n s/0:://p /proc/$$/cgroup) && mkdir -p a/b c && \
                      (echo 0 > a/b/cgroup.procs; exec sleep 1000) & sleep 1000 & wait";
        let id = world.spawn(&contained(sh(script)));
        until_true(world, |_| part.cgroups().iter().any(|cgroup| cgroup.join("a/b").is_dir()));
        until_true(world, |world| names(world, id).len() == 3);
        let [cgroup] = &part.cgroups()[..] else { panic!("one cgroup") };
        until_true(world, |_| !cgroups::is_empty(&cgroup.join("a/b")));
        world.reactor.tree(id).unwrap().signal(libc::SIGTERM).unwrap();
        assert!(until_gone(world, id));
        until_true(world, |_| part.cgroups().is_empty());
    });
}

#[test]
fn what_dead_reactors_have_left_is_swept() {
    in_cgroups("what_dead_reactors_have_left_is_swept", |world, part| {
        let populated = part.0.join("childminder-1-0");
        for path in ["childminder-1-0/0", "childminder-1-1/5/nested", "childminder-1-2", "other-1-0"] {
            fs::create_dir_all(part.0.join(path)).unwrap();
        }
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(populated.join("0/cgroup.procs"), sleep.id().to_string()).unwrap();
        // The cgroup of a living reactor stays, even if it is empty.
        let mut other = part.reactor();
        assert_eq!(other.containment(&contained(Command::new("true"))).strength(), Strength::Cgroup);
        let id = world.spawn(&contained(Command::new("true")));
        until_gone(world, id);
        let mut names: Vec<_> = part.homes().iter().map(|home| home.file_name().unwrap().to_owned()).collect();
        names.retain(|name| !name.to_string_lossy().starts_with(&format!("childminder-{}-", std::process::id())));
        names.sort_unstable();
        assert_eq!(names, ["childminder-1-0", "other-1-0"]);
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        let mut third = part.reactor();
        third.containment(&contained(Command::new("true")));
        assert!(!populated.exists(), "nobody is in it any more");
        fs::remove_dir(part.0.join("other-1-0")).unwrap();
        assert_eq!(part.homes().len(), 3, "those of the living");
    });
}

#[test]
fn a_directory_that_somebody_has_removed_is_made_again() {
    in_cgroups("a_directory_that_somebody_has_removed_is_made_again", |world, part| {
        let id = world.spawn(&contained(Command::new("true")));
        until_gone(world, id);
        until_true(world, |_| part.cgroups().is_empty());
        fs::remove_dir(&part.homes()[0]).unwrap();
        let id = world.spawn(&contained(Command::new("true")));
        until_gone(world, id);
    });
}

// Another process with the right to do so has moved the last member elsewhere, and removed the
// directory.
#[test]
fn a_cgroup_that_somebody_has_removed_is_empty() {
    in_cgroups("a_cgroup_that_somebody_has_removed_is_empty", |world, part| {
        let mut command = contained(sh("sleep 1000 >/dev/null 2>&1 & echo $!; read -r line"));
        let id = world.spawn(command.stdin(Stdio::piped()));
        world.until_said(id, 1, "\n");
        let pid = world.log.text(id, 1);
        let cgroup = part.cgroups().remove(0);
        // The leader ends only now, so that no turn has seen its end before the cgroup is removed.
        world.process(id).close_stdin();
        until_dead(world, id);
        fs::write("/mnt/cgroup.procs", pid.trim()).unwrap();
        until_true_alone(|| fs::remove_dir(&cgroup).is_ok());
        assert!(until_gone(world, id));
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
}

#[test]
fn after_a_failed_start_nothing_is_left() {
    in_cgroups("after_a_failed_start_nothing_is_left", |world, part| {
        for (command, stage) in [("/no/such", Stage::Exec), ("/", Stage::Exec)] {
            let error = world.reactor.spawn_process(&contained(Command::new(command))).unwrap_err();
            assert_eq!(error.stage(), stage);
        }
        assert_eq!(part.cgroups(), [] as [PathBuf; 0]);
        assert_eq!(util::children(), []);
    });
}

// If there can be no cgroup, the spawn fails with its stage, or the process group is used and the
// reason is given.
#[test]
fn without_a_cgroup_it_is_refused_or_the_group_is_taken() {
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        world.reactor.set_cgroup_parent("/no/such/cgroup");
        let error = world.reactor.spawn_process(&contained(Command::new("true"))).unwrap_err();
        assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Cgroup, Some(libc::ENOENT)));
        let said = "cannot start `true`: cgroup: No such file or directory (os error 2) \
                    (cannot use /no/such/cgroup: No such file or directory (os error 2))";
        assert_eq!(error.to_string(), said);
        let mut command = sh("sleep 1000 & exec sleep 1000");
        command.contain(Contain::Auto);
        let foreseen = world.reactor.containment(&command);
        let id = world.spawn(&command);
        let mut tree = world.reactor.tree(id).unwrap();
        assert_eq!(tree.containment(), foreseen);
        assert_eq!(tree.containment().strength(), Strength::Group);
        assert!(tree.containment().reason().unwrap().contains("cannot use /no/such/cgroup"));
        tree.kill().unwrap();
        assert!(until_gone(&mut world, id));
        command.inherit_process_group();
        assert_eq!(world.reactor.containment(&command).strength(), Strength::Process);
    }
}

// So no wake-up is needed only for that. The figures can still be read when the end is told.
#[test]
fn a_single_cgroup_is_removed_in_the_turn_in_which_its_end_is_told() {
    in_cgroups("a_single_cgroup_is_removed_in_the_turn_in_which_its_end_is_told", |world, part| {
        for script in ["exit 1", "sleep 0.05 & exit"] {
            let id = world.spawn(&contained(sh(script)));
            let cgroups = RefCell::new(None);
            let hook = |_: &mut Reactor, event: &Event<'_>| {
                if matches!(*event, Event::TreeGone { process, .. } if process == id) {
                    cgroups.replace(Some(part.cgroups()));
                }
            };
            world.until_with(hook, |_| cgroups.borrow().is_some());
            assert_eq!(cgroups.into_inner().unwrap().len(), 1, "{script}");
            assert_eq!(part.cgroups(), [] as [PathBuf; 0], "{script}");
            world.until(|log| log.ended(id));
            assert!(world.reactor.next_deadline().is_none(), "{script}: nothing is left to do");
        }
    });
}

#[test]
fn each_tree_s_end_is_told_once_after_its_exit() {
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        for script in ["exit 1", "sleep 0.05 & exit", "(sleep 0.02; exec sleep 0.02) & exit"] {
            let id = world.spawn(&sh(script));
            let (exited, mut gone) = (std::cell::Cell::new(false), 0);
            let outlives = combination.1 == ReapMethod::Pidfd && kernel::reaches_groups_by_pidfd();
            let hook = |_: &mut Reactor, event: &Event<'_>| match *event {
                Event::Exited { process, .. } if process == id => exited.set(true),
                Event::TreeGone { process, certain } if process == id => {
                    assert!(exited.get());
                    assert_eq!(certain, outlives, "only a pidfd can tell, from Linux 6.9 on");
                    gone += 1;
                }
                _ => {}
            };
            world.until_with(hook, |log| log.ended(id) && exited.get());
            if gone == 0 {
                until_gone(&mut world, id);
            }
        }
        assert!(world.reactor.next_deadline().is_none(), "nothing is left to do");
    }
}

#[test]
fn a_time_out_takes_the_tree() {
    in_cgroups("a_time_out_takes_the_tree", |world, part| {
        // `RunToEnd` has a reactor of its own, which uses the cgroup that the program is in.
        let service = part.0.join("service");
        let _ = fs::create_dir(&service);
        fs::write(service.join("cgroup.procs"), "0").unwrap();
        let command = contained(sh(&format!("{DAEMON} exec sleep 1000")));
        // By then even a slow machine has started the daemon.
        let time_out = std::time::Duration::from_secs(2);
        let run = childminder::RunToEnd::new(&command).timeout(time_out).kill_time(MOMENT);
        let start = util::now();
        let output = run.run().unwrap();
        assert!(output.timed_out && start.elapsed() >= time_out + MOMENT, "the daemon ignores SIGTERM");
        assert_eq!((output.remains, output.exit.signal()), (Remains::Nobody, Some(libc::SIGTERM)));
        assert!(output.pipes_left_open || output.stdout == b"ready\n");
        // After an exit in time, the remaining members are reported and left alone.
        let command = contained(sh("setsid sleep 1000 & exit"));
        let output = childminder::RunToEnd::new(&command).run().unwrap();
        let Remains::Members(members) = &output.remains else { panic!("{output:?}") };
        assert_eq!(members.len(), 1, "{members:?}");
        // Their directory stays as long as they live.
        let homes = || fs::read_dir(&service).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        let home = homes().next().expect("it is there");
        // There is no `cgroup.kill` before Linux 5.14.
        let pid = rustix::process::Pid::from_raw(i32::try_from(members[0].pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until_true(world, |_| cgroups::is_empty(&home));
        assert!(childminder::RunToEnd::new(&contained(Command::new("true"))).run().unwrap().exit.success());
        assert_eq!(homes().count(), 0);
        fs::write("/mnt/cgroup.procs", "0").unwrap();
        fs::remove_dir(&service).unwrap();
    });
}

// An unprivileged program runs below a directory that was delegated to it.
#[test]
fn in_a_delegated_subtree() {
    const NOBODY: u32 = 65_534;
    with_part("in_a_delegated_subtree", |part| {
        let own = part.delegate(NOBODY);
        let path = part.0.clone();
        nobody::as_nobody(move || {
            for (parent, spawn) in [(&path, SpawnMethod::Vfork), (&own, SpawnMethod::Vfork), (&path, SpawnMethod::Fork)]
            {
                let mut world = World::new((spawn, ReapMethod::Pidfd));
                world.reactor.set_cgroup_parent(parent);
                let id = world.spawn(&contained(sh(&format!("{DAEMON} wait"))));
                world.until_said(id, 1, "ready");
                world.reactor.tree(id).unwrap().kill().unwrap();
                assert!(until_gone(&mut world, id));
            }
            // Outside of that directory, a cgroup is refused, and that is known beforehand.
            let mut world = World::new(COMBINATIONS[0]);
            world.reactor.set_cgroup_parent("/mnt");
            let command = contained(Command::new("true"));
            let reason = world.reactor.containment(&command).reason().unwrap().to_owned();
            assert!(reason.contains("/mnt") && reason.contains("Permission denied"), "{reason}");
            assert_eq!(world.reactor.spawn_process(&command).unwrap_err().stage(), Stage::Cgroup);
        });
    });
}

#[path = "util/nobody.rs"]
mod nobody;
