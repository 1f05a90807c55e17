//! Tests the command in sandboxes that refuse newer system calls: what it can do less there is told
//! once, and nothing is told that is not so. The filters are in use on x86-64 and aarch64 alike.

#![cfg(all(feature = "cli", target_os = "linux", target_endian = "little"))]

#[path = "util/seccomp.rs"]
mod seccomp;
mod up_util;

use up_util::{Folder, Nobody, PROGRAM, text};

/// Runs the command on a thread to which these calls are refused. Returns its exit code and stderr.
fn run_without(calls: &[libc::c_long], errno: i32, folder: &Folder, args: &[&str]) -> (Option<i32>, String) {
    let thread = || {
        seccomp::refuse(&calls.iter().map(|call| (*call, None, errno)).collect::<Vec<_>>());
        let mut command = std::process::Command::new(PROGRAM);
        let output = command.args(args).current_dir(&folder.0).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

// The guard takes a pidfd and a file in memory. An architecture without a guard is in the
// documentation, so only there nothing is told.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn no_guard_is_told_once() {
    if !up_util::needs_the_kernel("seccomp filters") {
        return;
    }
    for calls in [&[libc::SYS_pidfd_open][..], &[libc::SYS_memfd_create]] {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let run = ["run", "--restart", "never", "--", "sh", "-c", "exit 7"];
            let (code, said) = run_without(calls, errno, &Folder::new(), &run);
            let why = std::io::Error::from_raw_os_error(errno);
            let expected = format!("childminder: cannot start the guard: {why}; ");
            assert_eq!((code, said.matches(&expected).count()), (Some(7), 1), "{said}");
        }
    }
}

// Container runtimes refuse calls that they do not know by EPERM, which is no answer about a file.
#[test]
fn a_check_takes_no_refusal_for_an_answer() {
    if !up_util::needs_the_kernel("seccomp filters") {
        return;
    }
    let folder = Folder::new();
    folder.write("childminder.toml", "[monitor]\nsocket = \"s\"\n[process.it]\ncommand = [\"sh\"]\n");
    for errno in [libc::ENOSYS, libc::EPERM] {
        let checked = run_without(&[libc::SYS_faccessat2], errno, &folder, &["check"]);
        assert_eq!(checked, (Some(0), String::new()));
    }
}

#[test]
fn a_check_goes_on_without_the_limits() {
    if !up_util::needs_the_kernel("seccomp filters") {
        return;
    }
    let Some(nobody) = Nobody::new() else { return };
    let file = "[monitor]\nsocket = \"s\"\n[process.it]\ncommand = [\"sh\"]\nlimits = { core = 0 }\n";
    nobody.folder.write("childminder.toml", file);
    let thread = || {
        seccomp::refuse(&[(libc::SYS_prlimit64, None, libc::EPERM)]);
        nobody.run(&[], &["check"])
    };
    assert_eq!(std::thread::scope(|scope| scope.spawn(thread).join().unwrap()), (0, String::new()));
}
