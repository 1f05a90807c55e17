//! Tests a host without stdin, stdout or stderr, as a daemon may be. None of our own descriptors
//! may ever get one of these numbers, because a child that inherits it would be given our
//! descriptor. Each case is a process of its own: this file runs itself.

#![allow(unsafe_code)] // descriptors are closed by number

mod util;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::{env, fs, panic, process};

use childminder::{Controlled, ProcessMonitor, Pty, Stage};
use util::{COMBINATIONS, TempDir, World, open_fds};

const CASE: &str = "CHILDMINDER_TEST_CLOSED";

/// Opens descriptors in every possible way, with these numbers closed, by one of the four ways to
/// run a child.
fn host(closed: &[i32], way: usize) {
    for fd in closed {
        // SAFETY: no other code uses this descriptor. std opens closed ones only at the start of a
        // program.
        drop(unsafe { OwnedFd::from_raw_fd(*fd) });
    }
    let free = |when: &str| {
        let open = open_fds();
        let taken: Vec<_> = closed.iter().filter(|fd| open.contains(fd)).collect();
        assert!(taken.is_empty(), "{when}: {taken:?} of {closed:?} are taken");
    };
    let mut world = World::new(COMBINATIONS[way]);
    free("after the reactor");
    world.reactor.waker().unwrap();
    free("after the waker");
    world.reactor.watch_signal(libc::SIGUSR1).unwrap();
    free("after a signal");
    world.reactor.arm_fd().unwrap();
    free("after the alarm");
    let controlled = Controlled::new(&mut world.reactor, ProcessMonitor::new()).unwrap();
    free("after a handle");
    let mut command = childminder::Command::new("cat");
    let id = world.spawn(command.stdin(childminder::Stdio::piped()).fd(5, childminder::Stdio::reader()));
    free("after a spawn");
    let mut command = childminder::Command::new("cat");
    let on_terminal = world.spawn(command.pty(Pty::new()));
    free("after a spawn on a terminal");
    world.process(id).close_stdin();
    assert!(world.until_ended(id).exit.success());
    world.process(on_terminal).close_all();
    world.until(|log| log.ended(on_terminal));
    free("after all that");

    // A descriptor that is closed in the host is an error of the spawn, the same one each time.
    for fd in 0..=2 {
        let mut command = childminder::Command::new("true");
        command.fd(fd, childminder::Stdio::inherit());
        match world.reactor.spawn_process(&command) {
            Ok(id) => {
                assert!(!closed.contains(&fd), "{fd} was something else's");
                assert!(world.until_ended(id).exit.success());
            }
            Err(error) => {
                assert!(closed.contains(&fd), "{error}");
                assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Dup2, Some(libc::EBADF)));
                let said = error.to_string();
                assert!(said.contains(&format!("descriptor {fd}")), "{said}");
            }
        }
        free("after an inheriting child");
    }
    drop(controlled);
}

#[test]
fn the_numbers_stay_free() {
    if let Ok(case) = env::var(CASE) {
        let (set, rest) = case.split_once('/').unwrap();
        let (way, report) = rest.split_once('/').unwrap();
        let closed: Vec<i32> = set.bytes().map(|digit| i32::from(digit - b'0')).collect();
        // The report goes to a file, because there may be no stderr.
        let report = report.to_owned();
        let end = move |said: &str| {
            fs::write(&report, said).unwrap();
            process::exit(0)
        };
        let hook = end.clone();
        panic::set_hook(Box::new(move |info| hook(&info.to_string())));
        host(&closed, way.parse().unwrap());
        end("right");
    }
    let folder = TempDir::new("closed");
    for set in ["0", "1", "2", "01", "02", "12", "012"] {
        for (way, combination) in COMBINATIONS.iter().enumerate() {
            let report = folder.0.join(format!("{set}-{way}"));
            let mut itself = Command::new(env::current_exe().unwrap());
            itself.args(["--exact", "the_numbers_stay_free", "--nocapture", "--test-threads=1"]);
            itself.env(CASE, format!("{set}/{way}/{}", report.display()));
            let _ = itself.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            let said = fs::read_to_string(&report).unwrap_or_default();
            assert_eq!(said, "right", "without {set}, {combination:?}");
        }
    }
}
