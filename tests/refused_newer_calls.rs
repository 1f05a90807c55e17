//! Tests sandboxes that refuse newer system calls to the whole process, one after the other and all
//! together, by each errno that is in use. Everything works without them. Each test is a process of
//! its own, because a refusal is remembered for good.

#![cfg(all(target_os = "linux", target_endian = "little"))]

#[path = "util/apart.rs"]
mod apart;
mod monitor_util;
#[path = "util/seccomp.rs"]
mod seccomp;

use std::time::Duration;

use apart::expect_apart;
use childminder::{Command, RunMany, RunToEnd, Stdio};
use monitor_util::{STUBBORN, each_way, group, no_instant_deaths, sh, short_kill_time};
use seccomp::{Refused, refuse};

/// Starts, watches, signals and stops processes in each way.
fn everything_works() {
    each_way(|world| {
        let mut command = Command::new("cat");
        let output = RunToEnd::new(command.stdin(Stdio::piped())).input(&b"said"[..]).run().unwrap();
        assert!(output.exit.success() && output.stdout == b"said");
        let output = RunToEnd::new(Command::new("sleep").arg("1000")).timeout(Duration::from_millis(50)).run();
        assert!(output.unwrap().timed_out);
        let mut runs = Vec::new();
        let many = RunMany::new([sh("sleep 1000 >/dev/null & echo $$")]);
        many.run(|finished| runs.push(finished.result.unwrap())).unwrap();
        let leader = String::from_utf8_lossy(&runs[0].stdout).trim().parse().unwrap();
        world.until("the rest of the run is gone", |_| group(leader).is_empty());
        let error = world.reactor.spawn_process(&Command::new("/no/such")).unwrap_err();
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOENT), "{error}");

        world.add_with("brief", &sh("echo word; exit 7"), no_instant_deaths());
        world.add_with("stubborn", &sh(STUBBORN), short_kill_time());
        world.add_with("family", &sh("sleep 1000 & echo ready; exec sleep 1000"), no_instant_deaths());
        world.start();
        world.until_ready("stubborn", 1);
        world.until_ready("family", 1);
        world.until_told("exited", "brief", 3);
        let (stubborn, family) = (world.pid("stubborn"), world.pid("family"));
        // What is left of it goes before the restart.
        let id = world.monitor.status("family").unwrap().process.unwrap();
        world.reactor.process(id).unwrap().signal(libc::SIGKILL).unwrap();
        world.until_ready("family", 2);
        // The killed processes may take a moment to go.
        world.until("the old family is gone", |_| group(family).is_empty());
        let family = world.pid("family");
        world.stop();
        world.until_down();
        world.until("both groups are gone", |_| group(stubborn).is_empty() && group(family).is_empty());
        // On a busy machine a killed process may exit so late that it is killed once more.
        let mut story = world.story("stubborn");
        story.dedup();
        assert_eq!(story, ["started", "terminating", "killing", "exited"]);
        let codes = world.told("brief").filter_map(|(_, told)| match told {
            monitor_util::Told::Exited { exit, .. } => Some(exit.code()),
            _ => None,
        });
        assert!(codes.take(3).all(|code| code == Some(7)));
    });
}

/// Makes two tests for each list of calls: `name::enosys` as by an old kernel, and `name::eperm` as
/// by a container.
macro_rules! without {
    ($($name:ident: [$($call:ident),*];)*) => { $(
        mod $name {
            use super::*;
            const CALLS: &[libc::c_long] = &[$(libc::$call),*];
            fn refused(test: &str, errno: i32) {
    if !monitor_util::needs_the_kernel("seccomp filters") {
        return;
    }
                expect_apart(&format!("{}::{test}", stringify!($name)), || {
                    // With it, glibc's opendir(3) fails on i686, which the tests need.
                    let is_meant =
                        |call: &i64| cfg!(not(target_arch = "x86")) || errno != libc::EPERM || *call != i64::from(libc::SYS_statx);
                    let calls = CALLS.iter().filter(|call| is_meant(&i64::from(**call)));
                    let refused: Vec<Refused> = calls.map(|call| (*call, None, errno)).collect();
                    refuse(&refused);
                    everything_works();
                });
            }
            #[test]
            fn enosys() { refused("enosys", libc::ENOSYS) }
            #[test]
            fn eperm() { refused("eperm", libc::EPERM) }
        }
    )* };
}

without! {
    clone3: [SYS_clone3];
    close_range: [SYS_close_range];
    memfd_create: [SYS_memfd_create];
    pidfd_open: [SYS_pidfd_open];
    pidfd_send_signal: [SYS_pidfd_send_signal];
    prlimit: [SYS_prlimit64];
    waitid: [SYS_waitid];
    waitid_and_pidfds: [SYS_waitid, SYS_pidfd_open];
    all_of_them: [
        SYS_clone3, SYS_close_range, SYS_memfd_create, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_prlimit64,
        SYS_waitid, SYS_epoll_pwait2, SYS_openat2, SYS_statx, SYS_faccessat2, SYS_inotify_init1, SYS_timerfd_create
    ];
}
