//! Tests the end of the processes and their descendants when the command is killed by SIGKILL.
//!
//! The one rule: a process is checked by its pid only while something in the test keeps the pid
//! from being reused.
#![cfg(all(feature = "cli", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod up_util;

#[path = "util/kernel.rs"]
mod kernel;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use up_util::{Folder, PROGRAM, Up, is_alive, kill, left_out, until};

/// A process that has started another one, and has written down its pid.
const SCRIPT: &str = "sleep 1000 & echo $! > pid.new; mv pid.new pid; wait";

fn start(command: &str, monitor: &str) -> (Up, i32) {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        &format!("[monitor]\nsocket = \"s\"\n{monitor}\n[process.it]\nshell = \"{SCRIPT}\"\n"),
    );
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut program = Command::new(PROGRAM);
    program.arg(command).current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
    if command == "run" {
        program.args(["sh", "-c", SCRIPT]);
    }
    let child = program.spawn().unwrap();
    let up = Up { folder, child };
    let pid = until("what the process has started", || up.folder.read("pid").trim().parse().ok());
    (up, pid)
}

fn children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Whether the guard reaches what this child of the command has started: by its cgroup from Linux
/// 5.14 on, and by its group from 6.9 on.
fn reaches_descendants(child: i32) -> bool {
    let cgroup = |pid: &str| {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        lines.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned))
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let (own, of_child) = (cgroup("self"), cgroup(&child.to_string()));
    let can_be_killed =
        |(mount, path): (&str, &String)| own != of_child && Path::new(mount).join(path).join("cgroup.kill").exists();
    kernel::reaches_groups_by_pidfd() || mount.zip(of_child.as_ref()).is_some_and(can_be_killed)
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[test]
fn what_processes_have_started_is_killed_too() {
    for command in ["up", "run"] {
        let (mut up, pid) = start(command, "");
        let children = children(up.pid());
        let reaches_all = children.iter().all(|child| reaches_descendants(*child) || name(*child) == "child-guard");
        up.signal(Signal::KILL);
        up.wait();
        if !reaches_all {
            left_out("the guard reaches a cgroup from Linux 5.14 on, and a group from 6.9 on");
            kill(pid, Signal::KILL);
        }
        until("its end", || (!is_alive(pid)).then_some(()));
        for child in children {
            until("the end of its children, and of the guard", || (!is_alive(child)).then_some(()));
        }
    }
}

#[test]
fn they_are_left_alone_if_the_file_says_so() {
    let (mut up, pid) = start("up", "when-killed = \"leave\"");
    let children = children(up.pid());
    assert_eq!(children.len(), 1, "there is no guard");
    up.signal(Signal::KILL);
    up.wait();
    // Its parent would have got the signal before this command ends.
    up.ok(&["check"]);
    assert!(is_alive(pid) && is_alive(children[0]));
    kill(pid, Signal::KILL);
    until("its end", || (!is_alive(children[0])).then_some(()));
}

#[test]
fn a_clean_end_leaves_no_guard() {
    for command in ["up", "run"] {
        let (mut up, pid) = start(command, "");
        let children = children(up.pid());
        assert!(children.iter().any(|child| name(*child) == "child-guard"), "{children:?}");
        up.signal(Signal::TERM);
        assert_eq!(up.wait().code(), Some(0));
        assert!(!is_alive(pid) && !children.iter().any(|child| is_alive(*child)));
    }
}

#[test]
fn a_reload_tells_that_it_takes_a_new_start() {
    let (up, _) = start("up", "");
    let file = up.folder.read("childminder.toml").replace("socket", "when-killed = \"leave\"\nsocket");
    up.folder.write("childminder.toml", &file);
    up.ok(&["reload"]);
    up.until_read("err", "`when-killed` has changed, and takes effect at the next start");
    up.shutdown();
}
