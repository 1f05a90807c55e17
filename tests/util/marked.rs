//! Finds the processes that a test has started, by a variable in their environment, whatever group
//! or session they are in.
//!
//! The one rule: a zombie does not count.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

/// The variable in the environment of every process that a test starts.
pub(crate) const MARK: &str = "CHILDMINDER_TEST_MARK";

/// The living processes with this mark, except this one.
pub(crate) fn marked(mark: &str) -> HashSet<i32> {
    let (mark, own) = (format!("{MARK}={mark}"), std::process::id().to_string());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_meant = |pid: &i32| {
        let environ = environ(*pid);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let dead = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        !dead && pid.to_string() != own && environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(is_meant).collect()
}

/// The environment of a process. In the middle of an exec it is empty for a moment, as the command
/// line is, so this looks again then.
fn environ(pid: i32) -> Vec<u8> {
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}"));
    let is_in_exec = || {
        let stat = read("stat").unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        let (state, rest) = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split_once(' ')).unwrap_or_default();
        let flags = rest.split(' ').nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(KERNEL_THREAD);
        let runs = !matches!(state, "Z" | "X") && flags & KERNEL_THREAD == 0;
        runs && read("cmdline").is_ok_and(|line| line.is_empty())
    };
    let mut environ = read("environ");
    for _ in 0..50 {
        if environ.as_ref().map_or(true, |environ| !environ.is_empty()) || !is_in_exec() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(2));
        environ = read("environ");
    }
    environ.unwrap_or_default()
}

/// Fails if a process with this mark is still there after `limit`.
#[track_caller]
#[allow(clippy::disallowed_methods)] // the watchdog's clock
pub(crate) fn until_gone(mark: &str, limit: Duration) {
    let start = Instant::now();
    loop {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        let stat = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let described: Vec<String> = left.iter().map(stat).collect();
        assert!(start.elapsed() < limit, "left after {:?}: {described:?}", start.elapsed());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
