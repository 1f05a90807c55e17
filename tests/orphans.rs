//! Tests a program that is the parent of orphans, as their subreaper or as the first process of a
//! container. Each test is a process of its own.
//!
//! The one rule: at the end this process has no child, living or zombie.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;

#[path = "util/kernel.rs"]
mod kernel;
#[path = "util/seccomp.rs"]
mod seccomp;

use std::collections::HashMap;
use std::time::Duration;

use apart::expect_apart_in;
use childminder::{Command, Event, Orphans, Policy, ProcessMonitor, Reactor, Service};
use util::{WATCHDOG, children, needs_root, needs_the_kernel, now, sh};

const CONTAINER: [&str; 4] = ["unshare", "-p", "-f", "--mount-proc"];
/// The variable with this name raises the number of orphans.
const ORPHANS: &str = "CHILDMINDER_TEST_ORPHANS";

/// The call that makes a program the parent of orphans.
const CALL: &str = "prctl(PR_SET_CHILD_SUBREAPER)";
const REFUSED: [seccomp::Refused; 1] =
    [(libc::SYS_prctl, Some((0, libc::PR_SET_CHILD_SUBREAPER as u32)), libc::EINVAL)];

/// Takes turns until `done`. Counts the reports of each orphan.
fn turn_until(
    reactor: &mut Reactor,
    told: &mut HashMap<(u32, String), usize>,
    mut done: impl FnMut(&Event<'_>) -> bool,
) {
    let (end, mut over) = (now() + WATCHDOG, false);
    while !over {
        assert!(now() < end, "waited in vain: {told:?}");
        let turned = reactor.turn(Some(Duration::from_millis(20)), |_, event| {
            if let Event::Orphan { pid, name } = event {
                *told.entry((pid, name.to_owned())).or_default() += 1;
            }
            over |= done(&event);
        });
        turned.unwrap();
        over |= done(&Event::Woken);
    }
}

#[test]
fn orphans_are_named_once_and_reaped() {
    if !needs_the_kernel(CALL) {
        return;
    }
    expect_apart_in(&["env"], "orphans_are_named_once_and_reaped", || {
        let mut reactor = Reactor::new().unwrap();
        reactor.adopt_orphans(Orphans::Leave).unwrap();
        assert_eq!(reactor.kill_trees_at_death(true).is_ok(), kernel::GUARDED);
        let mut told = HashMap::new();
        // It does not end before both of its children are what they are to become.
        let script = "setsid sleep 1000 & one=$!; setsid sleep 1000 & two=$!
            for child in $one $two; do until [ $(cat /proc/$child/comm) = sleep ]; do :; done; done; exit 7";
        let id = reactor.spawn_process(&sh(script)).unwrap();
        let mut code = None;
        turn_until(&mut reactor, &mut told, |event| {
            if let Event::Exited { process, exit } = event {
                assert_eq!(*process, id);
                code = exit.code();
            }
            code.is_some()
        });
        while told.len() < 2 {
            turn_until(&mut reactor, &mut told, |event| matches!(event, Event::Orphan { .. }));
        }
        for (pid, _) in told.keys() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        // The guard is left, where there is one.
        turn_until(&mut reactor, &mut told, |_| children().len() == usize::from(kernel::GUARDED));
        assert_eq!(code, Some(7), "its own exits are its own");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|((_, name), count)| *count == 1 && name == "sleep"), "{told:?}");
        drop(reactor);
        assert_eq!(children(), [], "the guard is none of them");
    });
}

#[test]
fn the_first_process_of_a_container_leaves_no_zombies() {
    if !needs_root() {
        return;
    }
    expect_apart_in(&CONTAINER, "the_first_process_of_a_container_leaves_no_zombies", || {
        assert_eq!(std::process::id(), 1);
        let count: usize = std::env::var(ORPHANS).map_or(200, |count| count.parse().unwrap());
        let mut reactor = Reactor::new().unwrap();
        reactor.adopt_orphans(Orphans::Leave).unwrap();
        let script = format!("i=0; while [ $i -lt {count} ]; do (sleep 0.0$((i % 10)) &); i=$((i+1)); done");
        reactor.spawn_process(&sh(&script)).unwrap();
        let (mut told, mut ended) = (HashMap::new(), false);
        turn_until(&mut reactor, &mut told, |event| {
            ended |= matches!(event, Event::Ended { .. });
            ended && children().is_empty()
        });
        assert!(told.values().all(|count| *count == 1), "{told:?}");
        assert!(told.len() > count * 9 / 10, "{} of {count}", told.len());
        assert!(reactor.next_deadline().is_none_or(|due| due <= reactor.now()));
    });
}

// An emulator, for one, does not know the call.
#[test]
fn the_first_process_of_a_container_has_orphans_without_the_call() {
    const NAME: &str = "the_first_process_of_a_container_has_orphans_without_the_call";
    if !needs_root() || !needs_the_kernel("seccomp filters") {
        return;
    }
    expect_apart_in(&CONTAINER, NAME, || {
        seccomp::refuse(&REFUSED);
        let mut reactor = Reactor::new().unwrap();
        reactor.adopt_orphans(Orphans::Leave).unwrap();
        reactor.spawn_process(&sh("setsid sleep 0.1 & exit")).unwrap();
        let mut told = HashMap::new();
        turn_until(&mut reactor, &mut told, |event| matches!(event, Event::Orphan { .. }));
        turn_until(&mut reactor, &mut told, |_| children().is_empty());
    });
}

#[test]
fn a_refusal_changes_nothing() {
    if !needs_the_kernel("seccomp filters") {
        return;
    }
    expect_apart_in(&["env"], "a_refusal_changes_nothing", || {
        let handled = || util::field_of(&std::fs::read_to_string("/proc/self/status").unwrap(), "SigCgt");
        seccomp::refuse(&REFUSED);
        let mut reactor = Reactor::new().unwrap();
        let before = handled();
        let error = reactor.adopt_orphans(Orphans::Leave).unwrap_err();
        assert_eq!((error.raw_os_error(), handled()), (Some(libc::EINVAL), before));
        // The host watches the signal itself, and goes on watching it.
        reactor.watch_signal(libc::SIGCHLD).unwrap();
        let watched = handled();
        reactor.adopt_orphans(Orphans::Leave).unwrap_err();
        assert_eq!(handled(), watched);
        assert!(reactor.unwatch_signal(libc::SIGCHLD));
    });
}

/// A service that raises a signal when its process writes "ready".
struct Asked(ProcessMonitor, rustix::process::Signal);

impl Service for Asked {
    fn is_running(&self) -> bool {
        self.0.is_running()
    }

    fn is_down(&self) -> bool {
        self.0.is_down()
    }

    fn start_service(&mut self, reactor: &mut Reactor) {
        self.0.start_service(reactor);
    }

    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.0.stop_service(reactor);
    }

    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.0.kill_service(reactor);
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        if matches!(event, Event::Data { data, .. } if data.windows(5).any(|word| word == b"ready")) {
            let pid = rustix::process::getpid();
            rustix::process::kill_process(pid, self.1).unwrap();
        }
        self.0.handle(reactor, event)
    }
}

fn end_in_order() {
    let mut reactor = Reactor::new().unwrap();
    let kill_time = Duration::from_millis(300);
    reactor.adopt_orphans(Orphans::End(kill_time)).unwrap();
    let mut monitor = ProcessMonitor::new();
    monitor.set_policy(Policy::default()).unwrap();
    // These are daemons outside of the group: one that ends at SIGTERM, one that has to be killed,
    // and one whose child has to be killed.
    let script = "setsid sleep 1000 & setsid sh -c 'trap \"\" TERM; sleep 1000' & \
                  setsid sh -c '(trap \"\" TERM; sleep 1000 & sleep 1000) & exec sleep 1000' & \
                  sleep 0.1; echo ready; exec sleep 1000";
    monitor.add_process(&mut reactor, "it", &sh(script)).unwrap();
    let mut service = Asked(monitor, rustix::process::Signal::TERM);
    let start = now();
    reactor.run_service(&mut service).unwrap();
    assert!(start.elapsed() >= kill_time && start.elapsed() < WATCHDOG, "{:?}", start.elapsed());
    assert_eq!(children(), [], "nobody is left");
}

#[test]
fn orphans_end_with_the_service() {
    if needs_the_kernel(CALL) {
        expect_apart_in(&["env"], "orphans_end_with_the_service", end_in_order);
    }
}

#[test]
fn a_signal_ends_all_of_a_container_in_order() {
    if needs_root() {
        expect_apart_in(&CONTAINER, "a_signal_ends_all_of_a_container_in_order", end_in_order);
    }
}

// Children of other code are reaped only if the host has asked for that.
#[test]
#[allow(clippy::zombie_processes, reason = "it is waited for")]
fn without_a_word_of_the_host_nobody_is_reaped() {
    expect_apart_in(&["env"], "without_a_word_of_the_host_nobody_is_reaped", || {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.spawn_process(&Command::new("true")).unwrap();
        let mut told = HashMap::new();
        turn_until(&mut reactor, &mut told, |event| matches!(event, Event::Ended { .. }));
        turn_until(&mut reactor, &mut told, |_| children() == [(child.id() as i32, 'Z')]);
        assert!(child.wait().unwrap().success());
        assert!(told.is_empty());
    });
}
