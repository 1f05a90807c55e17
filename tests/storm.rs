//! Tests a host that spawns while its process group gets a storm of signals, as from the keys of a
//! terminal. The host is this file run once more, in a process group of its own, so that the storm
//! reaches only the host and the children that are on their way out of its group.

mod util;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{env, thread};

use childminder::{Exit, ReapMethod, SpawnMethod};
use rustix::process::{Pid, Signal, kill_process_group};
use util::{WATCHDOG, World, now};

const HOST: &str = "CHILDMINDER_TEST_STORM_HOST";
/// The variable with this name sets the number of spawns.
const SPAWNS: &str = "CHILDMINDER_TEST_STORM_SPAWNS";

/// The number of spawns at once.
const AT_ONCE: usize = 8;
/// The signals of the storm, again and again.
const ORDER: [Signal; 4] = [Signal::TSTP, Signal::CONT, Signal::INT, Signal::CONT];
/// The most signals while so many processes are spawned, after which the storm waits for them. On a
/// slow machine the host would otherwise be stopped nearly all the time.
const SIGNALS: usize = 1_000 * ORDER.len();

fn spawns() -> usize {
    env::var(SPAWNS).map_or(2_000, |count| count.parse::<usize>().unwrap()).next_multiple_of(AT_ONCE)
}

/// Spawns processes and prints how many have ended as they should. Ctrl-C has no effect on it, and
/// Ctrl-Z stops it as it stops any program.
fn host(method: SpawnMethod, in_its_group: bool) {
    let mut world = World::new((method, ReapMethod::Pidfd));
    world.reactor.watch_signal(libc::SIGINT).unwrap();
    println!("ready");
    let mut command = childminder::Command::new("true");
    if in_its_group {
        command.inherit_process_group();
    }
    let (mut well, mut spawned) = (0, 0);
    while spawned < spawns() {
        let ids: Vec<_> = (0..AT_ONCE).map(|_| world.spawn(&command)).collect();
        spawned += ids.len();
        world.until(|log| ids.iter().all(|id| log.ended(*id)));
        let exits = ids.iter().map(|id| world.log.exit(*id).unwrap());
        // Ctrl-C also ends a child in the host's group.
        let is_well = |exit: &Exit| exit.success() || in_its_group && exit.signal() == Some(libc::SIGINT);
        well += exits.filter(is_well).count();
        world.log.0.clear();
        println!("{spawned} so far");
    }
    println!("well {well} of {spawned}");
}

fn storm(method: &str) {
    // Only one storm runs at a time, because each one uses as many processes as a machine has room
    // for.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut itself = Command::new(env::current_exe().unwrap());
    itself.args(["--exact", method, "--nocapture"]).env(HOST, method).process_group(0);
    let mut host = itself.stdout(Stdio::piped()).spawn().unwrap();
    let group = Pid::from_raw(i32::try_from(host.id()).unwrap()).unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line == "ready"));

    let (progress, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let said = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut seen, mut since) = (0, now());
            let (mut sent, mut most) = (0, SIGNALS);
            while !over.load(Ordering::Relaxed) {
                let reached = progress.load(Ordering::Relaxed);
                if reached > seen {
                    (seen, since) = (reached, now());
                    most = (sent + SIGNALS).next_multiple_of(ORDER.len());
                }
                if since.elapsed() > WATCHDOG {
                    // The host hangs. The kill lets the reader below see its end.
                    let _ = kill_process_group(group, Signal::KILL);
                    break;
                }
                if sent < most {
                    let _ = kill_process_group(group, ORDER[sent % ORDER.len()]);
                    sent += 1;
                    // The host gets a chance to run between one stop and the next.
                    thread::yield_now();
                } else {
                    thread::park_timeout(Duration::from_millis(1));
                }
            }
            let _ = kill_process_group(group, Signal::CONT);
        });
        let said = lines.by_ref().find(|line| {
            progress.fetch_add(1, Ordering::Relaxed);
            line.starts_with("well ")
        });
        over.store(true, Ordering::Relaxed);
        said
    });
    let _ = host.wait();
    assert_eq!(said, Some(format!("well {0} of {0}", spawns())), "{method}: it hung, or children died of the storm");
}

fn either(method: SpawnMethod, in_its_group: bool, name: &str) {
    if env::var(HOST).is_ok() { host(method, in_its_group) } else { storm(name) }
}

#[test]
fn vfork() {
    either(SpawnMethod::Vfork, false, "vfork");
}

#[test]
fn fork() {
    either(SpawnMethod::Fork, false, "fork");
}

#[test]
fn vfork_into_the_hosts_group() {
    either(SpawnMethod::Vfork, true, "vfork_into_the_hosts_group");
}

#[test]
fn fork_into_the_hosts_group() {
    either(SpawnMethod::Fork, true, "fork_into_the_hosts_group");
}
