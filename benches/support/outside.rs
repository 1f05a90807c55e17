//! Measures a process from outside, without asking the process itself.
//!
//! The one rule: a measurement does not wake the process.

use std::fs;
use std::path::{Path, PathBuf};

/// Private dirty memory and PSS, in KiB.
pub(crate) fn memory(pid: i32) -> [f64; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    ["Private_Dirty:", "Pss:"].map(|name| number(&text, name))
}

/// Private memory, clean or dirty, in KiB.
pub(crate) fn private(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    number(&text, "Private_Dirty:") + number(&text, "Private_Clean:")
}

/// The number of context switches of its threads so far, voluntary or not.
pub(crate) fn switches(pid: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("task");
    let of = |thread: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(thread.expect("thread").path().join("status")).expect("status");
        number(&text, "voluntary_ctxt_switches:") + number(&text, "nonvoluntary_ctxt_switches:")
    };
    threads.map(of).sum()
}

/// The directory of the cgroup v2 of a process.
pub(crate) fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4));
    points.map(|point| Path::new(point).join(&cgroup)).find(|path| path.is_dir())
}

/// The number after `name`, on the line that begins with `name`.
fn number(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}

/// The path of the command, if it has been built as it is installed.
pub(crate) fn binary() -> Option<PathBuf> {
    if cfg!(feature = "cli") {
        eprintln!("run this bench without --features cli: cargo has put a command there that is built for speed");
        return None;
    }
    let own = std::env::current_exe().ok()?;
    let path = Some(own.parent()?.parent()?.join("childminder")).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("the command is not built: cargo build --release --features cli");
    }
    path
}
