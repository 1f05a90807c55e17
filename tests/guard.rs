//! Tests hosts that are killed: their guard kills the processes that they leave behind. Each host
//! is a process of its own, which this file starts again and again.
//!
//! The one rule: the processes that the guard must kill are gone from /proc in time, whatever
//! killed the host.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

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

use std::collections::HashSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use apart::expect_apart_in;
use cgroups::with_part;
use childminder::{Command, Contain, Event, ProcessId, Reactor, ReapMethod, SpawnMethod, Stage};
use marked::{MARK, marked, until_gone};
use rustix::process::Signal;
use util::{WATCHDOG, now, sh};

/// The variable that makes this program a host: `strength trees parent end`.
const HOST: &str = "CHILDMINDER_TEST_GUARDED_HOST";
/// The variables with these names raise the numbers of kills, and of trees of a host.
const KILLS: &str = "CHILDMINDER_TEST_KILLS";
const TREES: &str = "CHILDMINDER_TEST_TREES";
/// The longest time until all processes of a killed host are gone, on a machine that has nothing
/// else to do.
const IN_TIME: Duration = Duration::from_millis(200);

/// The guards whose parent is this process, or was.
fn guards() -> HashSet<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_guard = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(child-guard) ") && !stat.contains("(child-guard) Z")
    };
    pids.filter(is_guard).collect()
}

/// A host, which is killed with the test.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    fn start(test: &str, role: &str, mark: &str) -> Self {
        let mut host = std::process::Command::new(env::current_exe().unwrap());
        host.args(["--exact", test, "--nocapture"]).env(HOST, role).env(MARK, mark).stdout(Stdio::piped());
        Self(host.spawn().unwrap())
    }

    fn until_said(&mut self, what: &str) {
        let mut reader = BufReader::new(self.0.stdout.as_mut().unwrap());
        let mut line = String::new();
        while line.trim_end() != what {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "it has ended without saying {what}");
        }
    }
}

/// A tree that stays in its group, and one with members in other sessions.
const IN_GROUP: &str = "trap '' TERM HUP; sleep 1000 & (sleep 1000 & sleep 1000) & exit";
const ANYWHERE: &str =
    "trap '' TERM HUP; setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &) ; exec sleep 1000";

/// Plays a host. It is no test by itself.
fn play(role: &str) {
    let mut words = role.split(' ');
    let mut word = || words.next().unwrap();
    let (strength, trees, parent, end) = (word(), word().parse::<usize>().unwrap(), word(), word());
    let mut reactor = Reactor::new().unwrap();
    reactor.kill_trees_at_death(true).unwrap();
    let mut command = if strength == "cgroup" {
        reactor.set_cgroup_parent(parent);
        let mut command = sh(ANYWHERE);
        command.contain(Contain::Cgroup);
        command
    } else {
        sh(IN_GROUP)
    };
    command.stdout(childminder::Stdio::null()).stderr(childminder::Stdio::null());
    println!("starts");
    let (mut ids, mut gone) = (Vec::new(), 0);
    let mut turn = |reactor: &mut Reactor, timeout| {
        reactor.turn(timeout, |_, event| gone += usize::from(matches!(event, Event::TreeGone { .. }))).unwrap();
        gone
    };
    for _ in 0..trees {
        ids.push(reactor.spawn_process(&command).unwrap());
        turn(&mut reactor, Some(Duration::ZERO));
    }
    println!("ready");
    match end {
        "clean" => {
            for id in &ids {
                if let Some(mut tree) = reactor.tree(*id) {
                    let _ = tree.kill();
                }
            }
            // Before Linux 6.9 a tree may be told to be gone, without certainty, as soon as its
            // leader has ended.
            while turn(&mut reactor, Some(WATCHDOG)) < ids.len() {}
            drop(reactor);
        }
        "panic" => panic!("as planned"),
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        _ => reactor.run(|_, _| {}).unwrap(),
    }
}

fn kills() -> usize {
    env::var(KILLS).map_or(12, |count| count.parse().unwrap())
}

fn trees() -> usize {
    env::var(TREES).map_or(20, |count| count.parse().unwrap())
}

/// Kills the processes that a host leaves because the kernel gives it no way to reach them: the
/// members of a cgroup that has no `cgroup.kill`, and those of a group that has lost its leader,
/// before Linux 6.9.
fn kill_those_out_of_reach(mark: &str, part: Option<&Path>) {
    let reaches_all = part.map_or_else(kernel::reaches_groups_by_pidfd, |part| part.join("cgroup.kill").exists());
    if !reaches_all {
        util::left_out("a cgroup can be reached from Linux 5.14 on, and a group without its leader from 6.9 on");
        while !marked(mark).is_empty() {
            for pid in marked(mark) {
                let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
    }
}

/// Waits until the guard of a killed host has done its work.
fn until_killed(mark: &str, part: Option<&Path>, limit: Duration) {
    kill_those_out_of_reach(mark, part);
    until_gone(mark, limit);
}

/// Starts hosts and kills them at random moments.
fn kill_hosts(test: &str, strength: &str, parent: &str) {
    let mut random = 7_u64;
    for round in 0..kills() {
        let mark = format!("{test}-{}-{round}", std::process::id());
        let mut host = Host::start(test, &format!("{strength} {} {parent} run", trees()), &mark);
        host.until_said("starts");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The kill comes while the host starts its trees, or after.
        std::thread::park_timeout(Duration::from_micros((random >> 33) % (2_000 * trees() as u64)));
        host.0.kill().unwrap();
        assert_eq!(host.0.wait().unwrap().signal(), Some(9));
        // Other programs may use this machine, unless the full number of kills was asked for.
        let limit = if env::var_os(KILLS).is_some() { IN_TIME } else { 20 * IN_TIME };
        until_killed(&mark, (strength == "cgroup").then(|| Path::new(parent)), limit);
    }
}

#[test]
fn a_killed_host_leaves_nobody_of_its_groups() {
    if let Ok(role) = env::var(HOST) {
        return play(&role);
    }
    kill_hosts("a_killed_host_leaves_nobody_of_its_groups", "group", "-");
}

#[test]
fn a_killed_host_leaves_nobody_in_its_cgroups() {
    const NAME: &str = "a_killed_host_leaves_nobody_in_its_cgroups";
    if let Ok(role) = env::var(HOST) {
        return play(&role);
    }
    with_part(NAME, |part| {
        kill_hosts(NAME, "cgroup", part.0.to_str().unwrap());
        assert!(part.is_empty());
        // The next reactor removes the directories that they have left.
        let mut reactor = part.reactor();
        let mut command = Command::new("true");
        reactor.containment(command.contain(Contain::Cgroup));
        assert_eq!(part.homes().len(), 1);
    });
}

#[test]
fn other_ends_that_are_not_planned() {
    if let Ok(role) = env::var(HOST) {
        return play(&role);
    }
    for end in ["panic", "exit", "abort"] {
        let mark = format!("{end}-{}", std::process::id());
        let mut host = Host::start("other_ends_that_are_not_planned", &format!("group 3 - {end}"), &mark);
        host.until_said("ready");
        // This reads the rest of the output.
        let _ = host.0.stdout.take().unwrap().read_to_end(&mut Vec::new());
        host.0.wait().unwrap();
        until_killed(&mark, None, WATCHDOG);
    }
}

#[test]
fn after_a_clean_end_no_guard_is_left() {
    if let Ok(role) = env::var(HOST) {
        return play(&role);
    }
    for round in 0..kills() {
        let mark = format!("clean-{}-{round}", std::process::id());
        let mut host = Host::start("after_a_clean_end_no_guard_is_left", "group 3 - clean", &mark);
        host.until_said("ready");
        let pid = host.0.id().to_string();
        assert!(host.0.wait().unwrap().success());
        kill_those_out_of_reach(&mark, None);
        assert_eq!(marked(&mark), HashSet::new());
        // A guard that was left would have the session that its host has given it, and init as its
        // parent.
        let of_this_host = |guard: &i32| {
            fs::read_to_string(format!("/proc/{guard}/stat")).is_ok_and(|stat| stat.contains(&format!(" {pid} ")))
        };
        assert!(!guards().iter().any(of_this_host));
    }
}

fn guard_of_this_process() -> Vec<i32> {
    let ours: Vec<i32> = util::children().iter().map(|(pid, _)| *pid).collect();
    guards().into_iter().filter(|guard| ours.contains(guard)).collect()
}

/// Kills a tree, and waits until it is gone.
fn end_tree(reactor: &mut Reactor, id: ProcessId) {
    reactor.tree(id).unwrap().kill().unwrap();
    let (mut gone, mut ended) = (false, false);
    while !gone || !ended {
        let told = |_: &mut Reactor, event: Event<'_>| match event {
            Event::TreeGone { process, .. } if process == id => gone = true,
            Event::Ended { process, .. } if process == id => ended = true,
            _ => {}
        };
        reactor.turn(None, told).unwrap();
    }
}

/// This process is the host. It tests what the host sees of its guard, and that a killed guard is
/// replaced.
#[test]
fn a_guard_that_is_killed_comes_back_and_goes_with_its_reactor() {
    const NAME: &str = "a_guard_that_is_killed_comes_back_and_goes_with_its_reactor";
    expect_apart_in(&["env"], NAME, || {
        for reap in [ReapMethod::Pidfd, ReapMethod::Sigchld] {
            let before = util::open_fds();
            let mut reactor = Reactor::with_methods(SpawnMethod::Vfork, reap).unwrap();
            let mut sleep = Command::new("sleep");
            let early = reactor.spawn_process(sleep.arg("1000")).unwrap();
            reactor.kill_trees_at_death(true).unwrap();
            reactor.kill_trees_at_death(true).unwrap();
            let end = now() + WATCHDOG;
            while guard_of_this_process().is_empty() {
                assert!(now() < end, "no guard");
            }
            let [guard] = guard_of_this_process()[..] else { panic!("one guard") };
            let late = reactor.spawn_process(&sleep).unwrap();
            let files = || fs::read_dir(format!("/proc/{guard}/fd")).unwrap().count();
            while files() != 3 {
                assert!(now() < end, "its socket and two pidfds: {}", files());
            }
            assert_eq!(reactor.processes().count(), 2, "the guard is none of them");
            // The guard has a session of its own, and ignores signals.
            let stat = fs::read_to_string(format!("/proc/{guard}/stat")).unwrap();
            assert_eq!(stat.split(' ').nth(5).unwrap(), guard.to_string());
            kill(guard, Signal::TERM);
            assert_eq!(guard_of_this_process(), [guard]);
            kill(guard, Signal::KILL);
            let mut again = Vec::new();
            while again.is_empty() || again == [guard] {
                assert!(now() < end, "no other guard");
                reactor.turn(Some(Duration::from_millis(10)), |_, _| {}).unwrap();
                again = guard_of_this_process();
            }
            let files = || fs::read_dir(format!("/proc/{}/fd", again[0])).unwrap().count();
            while files() != 3 {
                assert!(now() < end, "its socket and two pidfds: {}", files());
            }
            // What is kept of a process that has ended makes room for the next one.
            end_tree(&mut reactor, early);
            let next = reactor.spawn_process(&sleep).unwrap();
            let handle = |number| fs::read_to_string(format!("/proc/{}/fdinfo/{number}", again[0])).unwrap();
            let pid = reactor.process(next).unwrap().pid().unwrap();
            while !(3..=4).any(|number| handle(number).contains(&format!("Pid:\t{pid}\n"))) {
                assert!(now() < end, "{}{}", handle(3), handle(4));
            }
            assert_eq!(files(), 3, "its socket and two pidfds");
            // Otherwise it goes a while later.
            end_tree(&mut reactor, next);
            while files() != 2 {
                assert!(now() < end, "its socket and a pidfd: {}", files());
                reactor.turn(Some(Duration::from_millis(10)), |_, _| {}).unwrap();
            }
            assert!(reactor.next_deadline().is_none(), "nothing is left to say");
            if util::needs_the_kernel("memory of its own processes alone") {
                assert!(private_memory(again[0]) <= 150, "{} KiB", private_memory(again[0]));
            }
            end_tree(&mut reactor, late);
            drop(reactor);
            assert_eq!(guard_of_this_process(), [] as [i32; 0]);
            assert_eq!(util::children(), []);
            assert_eq!(util::open_fds(), before);
        }
    });
}

// If there can be no guard, the host is told, and nothing has changed.
#[test]
fn without_a_guard_the_host_is_told() {
    if !util::needs_the_kernel("seccomp filters") {
        return;
    }
    expect_apart_in(&["env"], "without_a_guard_the_host_is_told", || {
        for (call, errno) in [libc::SYS_memfd_create, libc::SYS_pidfd_open, libc::SYS_socketpair]
            .into_iter()
            .flat_map(|call| [(call, libc::ENOSYS), (call, libc::EPERM)])
        {
            let refused = move || {
                let mut world = util::World::new(util::COMBINATIONS[0]);
                let before = util::open_fds();
                seccomp::refuse(&[(call, None, errno)]);
                let error = world.reactor.kill_trees_at_death(true).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(errno), "{call}: {error}");
                assert_eq!((util::open_fds(), util::children()), (before, Vec::new()), "{call}");
                assert!(world.run(&Command::new("true")).exit.success());
            };
            std::thread::spawn(refused).join().unwrap();
        }
    });
}

// A process that nobody could watch is ended, and the guard, the cgroups and the system forget it.
#[test]
fn nothing_is_kept_of_a_process_that_cannot_be_watched() {
    const NAME: &str = "nothing_is_kept_of_a_process_that_cannot_be_watched";
    if !util::needs_the_kernel("seccomp filters") {
        return;
    }
    with_part(NAME, |part| {
        for contain in [Contain::Group, Contain::Cgroup] {
            let refused = || {
                let mark = format!("{NAME}-{contain:?}-{}", std::process::id());
                let mut reactor = part.reactor();
                reactor.kill_trees_at_death(true).unwrap();
                let mut command = sh("sleep 1000 & sleep 1000");
                command.contain(contain).env(MARK, &mark).stdin(childminder::Stdio::null());
                command.stdout(childminder::Stdio::null()).stderr(childminder::Stdio::null());
                let kept = reactor.spawn_process(&command).unwrap();
                let end = now() + WATCHDOG;
                // It has its name a moment after its start.
                while guard_of_this_process().is_empty() {
                    assert!(now() < end, "no guard");
                }
                let guard = guard_of_this_process()[0];
                let files = || fs::read_dir(format!("/proc/{guard}/fd")).unwrap().count();
                // Before Linux 5.14 the guard can do nothing about cgroups.
                let kept_files = 1 + usize::from(contain == Contain::Group || part.0.join("cgroup.kill").exists());
                while files() != kept_files {
                    assert!(now() < end, "its socket, and a pidfd or a directory of cgroups: {}", files());
                }
                seccomp::refuse(&[(libc::SYS_epoll_ctl, None, libc::ENOSPC)]);
                for _ in 0..5 {
                    let error = reactor.spawn_process(&command).unwrap_err();
                    assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Pipe, Some(libc::ENOSPC)));
                }
                while files() != kept_files || part.cgroups().len() > usize::from(contain == Contain::Cgroup) {
                    assert!(now() < end, "the guard keeps {} files, and {:?}", files(), part.cgroups());
                    reactor.turn(Some(Duration::from_millis(10)), |_, _| {}).unwrap();
                }
                reactor.tree(kept).unwrap().kill().unwrap();
                until_gone(&mark, WATCHDOG);
            };
            std::thread::scope(|scope| scope.spawn(refused).join().unwrap());
        }
    });
}

/// The private memory of a process, in KiB.
fn private_memory(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}
