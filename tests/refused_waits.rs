//! Tests a refusal of the wait itself, as by a broken kernel or a sandbox. Everything goes on, and
//! ends in order.

#![cfg(all(target_os = "linux", target_endian = "little"))]

mod monitor_util;
#[path = "util/seccomp.rs"]
mod seccomp;

use std::thread;
use std::time::Duration;

use childminder::{Command, ReapMethod, RunToEnd, Service, SpawnMethod, Stdio};
use monitor_util::{STUBBORN, Told, World, group, no_instant_deaths, sh, short_kill_time};
use seccomp::{Refused, refuse};

/// mio uses one of these calls. Newer architectures do not have the oldest one.
const WAITS: &[Refused] = &[
    #[cfg(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm"))]
    (libc::SYS_epoll_wait, None, libc::EIO),
    (libc::SYS_epoll_pwait, None, libc::EIO),
    (libc::SYS_epoll_pwait2, None, libc::EIO),
];

#[test]
fn a_service_is_stopped_without_the_wait() {
    if !monitor_util::needs_the_kernel("seccomp filters") {
        return;
    }
    thread::scope(|scope| {
        for reap in [ReapMethod::Pidfd, ReapMethod::Sigchld] {
            scope.spawn(move || {
                let mut world = World::with(SpawnMethod::Vfork, reap);
                world.add_with("stubborn", &sh(STUBBORN), short_kill_time());
                world.add_with("brief", &sh("echo word; exit 1"), no_instant_deaths());
                world.start();
                world.until_ready("stubborn", 1);
                let pid = world.pid("stubborn");
                let before = world.count("started", "brief");
                refuse(WAITS);
                let error = world.reactor.run_service(&mut world.monitor).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!("cannot wait for events: {}", std::io::Error::from_raw_os_error(libc::EIO))
                );
                assert!(world.monitor.is_down() && group(pid).is_empty(), "somebody is left");
                // On a busy machine a killed process may exit so late that it is killed once more.
                let mut story = world.story("stubborn");
                story.dedup();
                assert_eq!(story, ["started", "terminating", "killing", "exited"]);
                // Before that, it was restarted as usual for five seconds.
                let (starts, exits) = (world.count("started", "brief"), world.count("exited", "brief"));
                assert!(starts > before + 3 && starts == exits, "{starts} starts, {exits} exits");
                let ended_well =
                    |told: &&(_, Told)| matches!(&told.1, Told::Exited { exit, .. } if exit.code() == Some(1));
                let whole = world.told("brief").filter(ended_well).count();
                assert!(world.lines("brief").len() >= whole, "words are lost");
            });
        }
    });
}

#[test]
fn a_run_to_the_end_comes_to_its_end() {
    if !monitor_util::needs_the_kernel("seccomp filters") {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            refuse(WAITS);
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped());
            // More than a pipe holds, and little enough for five seconds of a slow machine.
            let text = "x".repeat(1 << 17);
            let output = RunToEnd::new(&command).input(text.as_bytes()).run().unwrap();
            assert!(output.exit.success() && output.stdout == text.as_bytes());
            let mut command = Command::new("sleep");
            let output = RunToEnd::new(command.arg("1000")).timeout(Duration::from_millis(50)).run().unwrap();
            assert!(output.timed_out);
        });
    });
}
