//! Tests trees that do all they can to outlive their stop, and reads of groups that keep changing.
//! Each test is a process of its own.
//!
//! The one rule: a tree with a living member is never reported as gone.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/nobody.rs"]
mod nobody;

use std::env;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apart::expect_apart_in;
use cgroups::{can_mount, is_empty, with_part};
use childminder::{
    Contain, Event, Exit, Observer, Orphans, Policy, ProcessMonitor, Reactor, ReapMethod, Restart, Service,
    SpawnMethod, Stdio, TimerId,
};
use util::{WATCHDOG, World, now, sh};

/// The variable with this name raises the number of stops.
const STOPS: &str = "CHILDMINDER_TEST_STOPS";
const KILL_TIME: Duration = Duration::from_millis(50);
/// The longest time from the kill time until all members are gone, on a machine that has nothing
/// else to do.
const IN_TIME: Duration = Duration::from_millis(100);

/// A script that forks twice, makes sessions of its own, ignores SIGTERM, and goes on forking.
const HOSTILE: &str = "trap '' TERM HUP INT; \
    fork() { i=0; while [ $i -lt 60 ]; do (sleep 1000 & :) & i=$((i+1)); done; exec sleep 1000; }; \
    (setsid sh -c 'trap \"\" TERM HUP; (setsid sh -c \"trap : TERM; sleep 1000 & wait; sleep 1000\" &); exec sleep 1000' &); \
    echo ready; (fork &) ; (fork &) ; fork";

fn stops() -> usize {
    env::var(STOPS).map_or(25, |count| count.parse().unwrap())
}

/// Notes the times of events.
#[derive(Default)]
struct Diary {
    ready: bool,
    terminated: Option<Instant>,
}

impl Observer for Diary {
    fn line(&mut self, line: &childminder::Line<'_>) {
        self.ready |= line.bytes == b"ready";
    }
    fn started(&mut self, _: &str, _: u32) {}
    fn exited(&mut self, _: &str, _: &Exit) {}
    fn terminating(&mut self, _: &str, _: i32) {
        self.terminated = Some(now());
    }
    fn killing(&mut self, _: &str) {
        println!("killing after {:?}", self.terminated.unwrap().elapsed());
    }
}

/// Stops one hostile tree after another.
fn stop_hostile_trees(parent: &Path, own: &Path) {
    let mut policy = Policy::default();
    policy.kill_time = KILL_TIME;
    policy.restart = Restart::Never;
    let mut command = sh(HOSTILE);
    // Other programs on this machine shall not be measured, and the tree shall not delay its host.
    let _ = rustix::process::setpriority_process(None, -15);
    command.contain(Contain::Cgroup).stderr(Stdio::null()).nice(0);
    let mut slowest = Duration::ZERO;
    for round in 0..stops() {
        let mut reactor = Reactor::new().unwrap();
        // So many orphans exit that the first process of the machine may be too slow to reap them.
        reactor.adopt_orphans(Orphans::Leave).unwrap();
        reactor.set_cgroup_parent(parent);
        let mut monitor = ProcessMonitor::with_observer(Diary::default());
        monitor.add_process_with(&mut reactor, "it", &command, policy.clone()).unwrap();
        monitor.start_service(&mut reactor);
        let homes: Vec<PathBuf> = fs::read_dir(parent).unwrap().flatten().map(|entry| entry.path()).collect();
        let home = homes.iter().find(|path| path.is_dir() && *path != own).expect("a directory of the reactor");
        let cgroup = home.join("0");
        assert!(!is_empty(&cgroup));
        let end = now() + WATCHDOG;
        let (mut told, mut timer): (bool, Option<TimerId>) = (false, None);
        while !monitor.is_down() {
            assert!(now() < end, "round {round}: it is not down");
            let turned = reactor.turn(Some(Duration::from_millis(100)), |reactor, event| {
                if let Event::TreeGone { certain, .. } = event {
                    // The kernel removes no directory that has a member.
                    assert!(certain && (!cgroup.exists() || is_empty(&cgroup)));
                    told = true;
                }
                monitor.handle(reactor, &event);
                if monitor.observer().ready && timer.is_none() {
                    // The stop comes a little later, while the tree forks.
                    timer = Some(reactor.call_later(Duration::from_millis(round as u64 % 20)));
                }
                if matches!(event, Event::Timer(id) if Some(id) == timer) {
                    monitor.stop_service(reactor);
                }
            });
            turned.unwrap();
        }
        let took = monitor.observer().terminated.expect("it was asked to end").elapsed();
        assert!(told && took >= KILL_TIME, "{took:?}");
        // Other programs may use this machine, unless the full number of stops was asked for.
        let in_time = if env::var_os(STOPS).is_some() { IN_TIME } else { 20 * IN_TIME };
        assert!(took < KILL_TIME + in_time, "round {round}: down after {took:?}");
        slowest = slowest.max(took);
        drop(reactor);
        assert!(!home.exists(), "a directory is left");
    }
    println!("{} of {}, the slowest after {slowest:?}", stops(), stops());
}

#[test]
fn a_stop_ends_hostile_trees() {
    with_part("a_stop_ends_hostile_trees", |part| {
        stop_hostile_trees(&part.0, Path::new("/"));
        assert!(part.is_empty());
    });
}

#[test]
fn without_any_right_but_to_a_subtree() {
    with_part("without_any_right_but_to_a_subtree", |part| {
        let own = part.delegate(nobody::NOBODY);
        let path = part.0.clone();
        let _ = rustix::process::setpriority_process(None, -15);
        nobody::as_nobody(move || stop_hostile_trees(&path, &own));
    });
}

/// A namespace in which the pids start anew after a hundred of them.
const FEW_NUMBERS: [&str; 6] =
    ["unshare", "-pf", "--mount-proc", "sh", "-c", "echo 400 > /proc/sys/kernel/pid_max && \"$0\" \"$@\""];

/// A chain in which each member forks the next one and exits, N times.
const CHAIN: &str = "f() { [ $1 -gt 0 ] || exit; f $(($1 - 1)) & }; f $N & exit";

/// Whether a process has the other end of the pipe open.
fn is_held(pipe: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).unwrap();
    !polled[0].revents().contains(PollFlags::HUP)
}

#[test]
fn a_group_that_is_never_still_is_never_empty() {
    if !can_mount() {
        return;
    }
    if !fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| has_own_numbers(&release)) {
        util::left_out("a PID namespace has no numbers of its own before Linux 6.14");
        return;
    }
    expect_apart_in(&FEW_NUMBERS, "a_group_that_is_never_still_is_never_empty", || {
        let mut storm = std::process::Command::new("sh");
        let mut storm = storm.args(["-c", "while :; do : & : & wait; done"]).spawn().unwrap();
        let (mut looks, mut seen_empty) = (0_u64, 0);
        for round in 0..stops() {
            // One of the two cases has a zombie that is not reaped, which could be taken for the
            // whole group.
            for reap in [ReapMethod::Pidfd, ReapMethod::Sigchld] {
                let mut world = World::new((SpawnMethod::Vfork, reap));
                let (held, holder) = rustix::pipe::pipe().unwrap();
                let mut command = sh(CHAIN);
                command.env("N", (100 + 20 * (round % 10)).to_string());
                command.stdout(Stdio::null()).stderr(Stdio::null()).fd(3, holder);
                let id = world.spawn(&command);
                drop(command);
                // Its exit waits for the end of a group that has no other pidfd.
                let waits = reap == ReapMethod::Sigchld && !util::in_cgroups();
                if waits {
                    let _ = world.reactor.tree(id).unwrap().terminate(libc::SIGURG);
                }
                let (end, mut gone) = (now() + WATCHDOG, false);
                while !gone {
                    assert!(now() < end, "round {round}: it is never gone");
                    world.turn_with(Duration::from_millis(1), |_, event| match event {
                        Event::Exited { .. } if waits => assert!(!is_held(&held), "{round}"),
                        Event::TreeGone { certain, .. } => {
                            assert!(*certain && !is_held(&held), "round {round}: somebody lives");
                            gone = true;
                        }
                        _ => {}
                    });
                    if let Some(mut tree) = world.reactor.tree(id) {
                        looks += 1;
                        if tree.is_empty() {
                            seen_empty += 1;
                            assert!(!is_held(&held), "round {round}: somebody lives");
                        }
                    }
                }
                world.until(|log| log.exit(id).is_some());
            }
        }
        println!("{looks} looks, {seen_empty} of them at nobody");
        storm.kill().unwrap();
        storm.wait().unwrap();
    });
}

fn has_own_numbers(release: &str) -> bool {
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}
