//! Tests a sandbox that refuses the system calls that keep processes together. The next weaker
//! containment is used, its reason is reported, and its promises hold. Each case is a process of
//! its own, because a refusal cannot be undone.
//!
//! The one rule: each call is refused by `ENOSYS` and by `EPERM`.

#![cfg(all(target_os = "linux", target_endian = "little"))]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/kernel.rs"]
mod kernel;
#[path = "util/marked.rs"]
mod marked;
#[path = "util/seccomp.rs"]
mod seccomp;

use std::cell::Cell;
use std::time::Duration;

use cgroups::{Part, with_part};
use childminder::{Contain, Event, Reactor, Remains, SignalError, SpawnMethod, Stage, Stdio, Strength};
use marked::{MARK, marked, until_gone};
use seccomp::{Refused, refuse};
use util::{COMBINATIONS, WATCHDOG, World, sh};

/// A tree that a process group holds together.
const IN_GROUP: &str = "trap '' TERM; sleep 1000 & (sleep 1000 & sleep 1000) & echo ready; read x; exit 3";
/// A tree that only a cgroup holds together.
const ANYWHERE: &str =
    "trap '' TERM; setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &); echo ready; read x; exit 3";

/// The flags with which the library opens the files of a cgroup for writing. No other call uses
/// them. musl adds the flag for large files.
const WRITES: u32 = (libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | LARGE) as u32;
const LARGE: i32 = if cfg!(target_env = "musl") { libc::O_LARGEFILE } else { 0 };

type Case = (&'static str, fn(i32) -> Vec<Refused>, Option<Strength>, &'static str);

/// The reason for no cgroup if its members could not be killed.
const UNKILLABLE: &str = "neither cgroup.kill nor a pidfd";

const CASES: [Case; 7] = [
    ("clone3", |errno| vec![(libc::SYS_clone3, None, errno)], Some(Strength::Cgroup), "clone3: "),
    // `cgroup.kill` and `cgroup.freeze` are refused, so each member is killed by its pidfd, again
    // and again.
    ("cgroup.kill", |errno| vec![(libc::SYS_openat, Some((2, WRITES)), errno)], Some(Strength::Cgroup), ""),
    ("pidfds", |errno| pidfds(errno), Some(Strength::Cgroup), ""),
    ("cgroups", |errno| vec![(libc::SYS_mkdirat, None, errno)], Some(Strength::Group), "cannot make a cgroup in "),
    (
        "cgroups and pidfds",
        |errno| [vec![(libc::SYS_mkdirat, None, errno)], pidfds(errno)].concat(),
        Some(Strength::Group),
        "cannot make a cgroup in ",
    ),
    // Both ways to enter a cgroup are refused.
    (
        "clone3 and cgroup.procs",
        |errno| vec![(libc::SYS_clone3, None, errno), (libc::SYS_openat, Some((2, WRITES)), errno)],
        Some(Strength::Group),
        "no process can start in ",
    ),
    (
        "cgroup.kill and pidfds",
        |errno| [vec![(libc::SYS_openat, Some((2, WRITES)), errno)], pidfds(errno)].concat(),
        Some(Strength::Group),
        UNKILLABLE,
    ),
];

fn pidfds(errno: i32) -> Vec<Refused> {
    [libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal].map(|call| (call, None, errno)).to_vec()
}

fn play(part: &Part, (name, refused, strength, reason): Case, errno: i32) {
    // Before Linux 5.14 only pidfds reach the members of a cgroup. On some architectures, no
    // process is born in a cgroup.
    let (strength, reason) = match name {
        "cgroup.kill" if !kernel::BORN_IN_CGROUP => (Some(Strength::Group), "no process can start in "),
        "pidfds" if !kernel::BORN_IN_CGROUP => (Some(Strength::Cgroup), "clone3: "),
        "pidfds" if !part.0.join("cgroup.kill").exists() => (Some(Strength::Group), UNKILLABLE),
        _ => (strength, reason),
    };
    let mark = format!("{name}-{errno}-{}", std::process::id());
    refuse(&refused(errno));
    for combination in COMBINATIONS {
        if name == "cgroup.kill" && combination.0 == SpawnMethod::Fork {
            // Its `cgroup.procs` is refused as well.
            continue;
        }
        let mut world = World::new(combination);
        world.reactor.set_cgroup_parent(&part.0);
        for stopped in [true, false] {
            let what = format!("{name}, {errno}, {combination:?}, {stopped}");
            let mut command = sh(IN_GROUP);
            command.contain(Contain::Auto).env(MARK, &mark).stdin(Stdio::piped());
            if strength == Some(Strength::Cgroup) {
                command = sh(ANYWHERE);
                command.contain(Contain::Auto).env(MARK, &mark).stdin(Stdio::piped());
            }
            let id = world.spawn(&command);
            let containment = world.reactor.tree(id).unwrap().containment();
            assert_eq!(Some(containment.strength()), strength, "{what}: {containment}");
            if combination.0 == SpawnMethod::Vfork || strength != Some(Strength::Cgroup) {
                assert!(containment.reason().unwrap_or_default().contains(reason), "{what}: {containment}");
                assert_eq!(containment.reason().is_some(), !reason.is_empty(), "{what}: {containment}");
            }
            // The first answer may not hold yet, but the next ones agree with it.
            assert_eq!(world.reactor.containment(&command), containment, "{what}");
            if containment.strength() == Strength::Group {
                command.contain(Contain::Cgroup);
                let error = world.reactor.spawn_process(&command).unwrap_err();
                assert_eq!(error.stage(), Stage::Cgroup, "{what}: {error}");
            }
            world.until_said(id, 1, "ready");
            if !stopped {
                // It ends by itself.
                world.process(id).close_stdin();
                world.until(|log| log.exit(id).is_some());
                assert_eq!(world.log.exit(id).unwrap().code(), Some(3), "{what}");
                if world.reactor.tree(id).is_none() {
                    // Without a pidfd of the leader, the other members cannot be reached.
                    assert_eq!(containment.strength(), Strength::Group, "{what}");
                    while !marked(&mark).is_empty() {
                        for pid in marked(&mark) {
                            let pid = rustix::process::Pid::from_raw(pid).unwrap();
                            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                        }
                    }
                    world.until_ended(id);
                    continue;
                }
            }
            let mut tree = world.reactor.tree(id).expect("somebody is there");
            assert!(matches!(tree.members(), Remains::Members(_)), "{what}");
            match tree.terminate(libc::SIGTERM) {
                // Members that neither a pidfd nor the leader's pid reaches can only be killed.
                Err(SignalError::Os(error)) if name == "pidfds" && !stopped => {
                    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{what}");
                }
                sent => sent.unwrap(),
            }
            world.reactor.tree(id).expect("they ignore it").kill().unwrap();
            let gone = Cell::new(None);
            let hook = |_: &mut Reactor, event: &Event<'_>| {
                if let Event::TreeGone { certain, .. } = event {
                    gone.set(Some(*certain));
                }
            };
            world.until_with(hook, |log| gone.get().is_some() && log.exit(id).is_some());
            assert_eq!(gone.get(), Some(true), "{what}");
            until_gone(&mark, Duration::ZERO);
        }
        drop(world);
        part.expect_no_homes(&format!("{name}, {combination:?}"));
    }
    until_gone(&mark, WATCHDOG);
}

fn each_errno(name: &str, case: usize) {
    if !util::needs_the_kernel("seccomp filters") {
        return;
    }
    with_part(name, |part| {
        // The refusal applies to a thread and to everything that it starts.
        for errno in [libc::ENOSYS, libc::EPERM] {
            std::thread::scope(|scope| {
                if let Err(panic) = scope.spawn(|| play(part, CASES[case], errno)).join() {
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
}

// The check for clone3 succeeds, and then the call is refused. The descriptors that were put at low
// numbers for the first attempt are there for the second one.
#[test]
fn a_late_refusal_loses_no_output() {
    if !util::needs_the_kernel("seccomp filters") {
        return;
    }
    with_part("a_late_refusal_loses_no_output", |part| {
        let many: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        refuse(&[(libc::SYS_clone3, None, libc::EINVAL)]);
        let mut world = World::new(COMBINATIONS[0]);
        world.reactor.set_cgroup_parent(&part.0);
        let mut command = sh("echo out; echo err >&2");
        command.contain(Contain::Cgroup);
        for _ in 0..2 {
            let outcome = world.run(&command);
            assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("out\n", "err\n"));
        }
        drop(many);
    });
}

macro_rules! cases {
    ($($name:ident: $case:literal)*) => { $(
        #[test]
        fn $name() { each_errno(stringify!($name), $case) }
    )* };
}

cases! {
    without_clone3: 0
    without_cgroup_kill: 1
    without_pidfds: 2
    without_cgroups: 3
    without_cgroups_and_pidfds: 4
    without_any_way_into_a_cgroup: 5
    without_cgroup_kill_and_pidfds: 6
}
