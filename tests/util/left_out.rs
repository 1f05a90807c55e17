//! Records what a test leaves out on this system, and why.
//!
//! The one rule: a test that returns early, or checks less than on another system, records it here.
//! The records are counted at the end of `cargo test` by `zz_left_out.rs`.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;
use std::path::PathBuf;

use childminder::{Limit, Resource};
use rustix::process::{Rlimit, setrlimit};

/// The variable that names the file of the records. Its default is a file beside the folder of the
/// test's program.
pub(crate) const FILE: &str = "CHILDMINDER_LEFT_OUT";

pub(crate) fn file() -> PathBuf {
    std::env::var_os(FILE).map_or_else(
        || {
            let test = std::env::current_exe().unwrap_or_default();
            test.ancestors().nth(2).unwrap_or(&test).join("left-out.log")
        },
        PathBuf::from,
    )
}

/// Records that the running test leaves something out.
#[track_caller]
pub(crate) fn left_out(why: &str) {
    let place = Location::caller();
    let thread = std::thread::current();
    // A test has a thread of its own with its name, unless there is only one thread.
    let name = thread.name().filter(|name| *name != "main").map_or_else(String::new, |name| format!(" {name}"));
    eprintln!("left out: {why}");
    let line = format!("{}:{}{name}: {}\n", place.file(), place.line(), why.replace('\n', " "));
    let recorded = OpenOptions::new().append(true).create(true).open(file()).and_then(|mut file| {
        // One call, so that the lines of several tests do not mix.
        file.write_all(line.as_bytes())
    });
    if let Err(error) = recorded {
        eprintln!("cannot record that in {}: {error}", file().display());
    }
}

/// Whether this process has root's rights over all users. If not, it records that the test is left
/// out.
#[track_caller]
pub(crate) fn needs_root() -> bool {
    if !rustix::process::geteuid().is_root() {
        left_out("it takes root");
        return false;
    }
    // The lines of the map end with the number of users, of which a namespace has a few only.
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = users.split_whitespace().last().is_none_or(|count| count == "4294967295");
    if !all {
        left_out("it takes root outside of a user namespace");
    }
    all
}

/// Raises the limit of open file descriptors of this process to this number, if it is lower. If it
/// may not be raised so far, it records that the test is left out.
#[track_caller]
pub(crate) fn needs_descriptors(number: u64) -> bool {
    let Ok(Limit { soft, hard }) = Resource::OpenFiles.current_limit() else {
        left_out("the limit of file descriptors cannot be read");
        return false;
    };
    if soft.is_none_or(|soft| soft >= number) {
        return true;
    }
    let raised = setrlimit(rustix::process::Resource::Nofile, Rlimit { current: Some(number), maximum: hard }).is_ok();
    if !raised {
        left_out(&format!("it takes {number} file descriptors"));
    }
    raised
}

/// Whether a new pipe has its usual size. If the other pipes of this user leave no room for that,
/// it records that the test is left out.
#[cfg(target_os = "linux")]
#[track_caller]
pub(crate) fn needs_a_usual_pipe(pipe: &impl std::os::fd::AsFd) -> bool {
    let usual = rustix::pipe::fcntl_getpipe_size(pipe).is_ok_and(|size| size >= 64 * 1024);
    if !usual {
        left_out("the other pipes of this user leave room for small ones only");
    }
    usual
}

/// Whether limits can be set. If not, it records that the test is left out.
#[track_caller]
pub(crate) fn needs_limits() -> bool {
    let can = Resource::Core.current_limit().is_ok();
    if !can {
        left_out("a sandbox refuses prlimit64");
    }
    can
}

/// The variable that is set when an emulator runs this program (`.ci/suite-for`).
const EMULATED: &str = "CHILDMINDER_TEST_EMULATED";

/// Whether the kernel itself gets the system calls of this program. Under an emulator, which does
/// not have `what`, it records that the test is left out.
#[track_caller]
pub(crate) fn needs_the_kernel(what: &str) -> bool {
    let emulated = std::env::var_os(EMULATED).is_some();
    if emulated {
        left_out(&format!("the emulator has no {what}"));
    }
    !emulated
}
