//! Tests the command as the first process of a container: it is the parent of orphans, and ends all
//! of them when it ends.
//!
//! The one rule: each container is a PID namespace, so that nothing in it outlives its first
//! process.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

#[path = "util/kernel.rs"]
mod kernel;

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use up_util::{Folder, PROGRAM, kill, needs_root, text, until};

const CONTAINER: [&str; 4] = ["-p", "-f", "--mount-proc", "--kill-child"];
/// The variable with this name raises the number of orphans.
const ORPHANS: &str = "CHILDMINDER_TEST_ORPHANS";

/// A script that makes orphans that end when the FIFO `gate` is opened, and one that outlives them.
fn script() -> (String, usize) {
    let count: usize = std::env::var(ORPHANS).map_or(50, |count| count.parse().unwrap());
    let orphans = format!("mkfifo gate; i=0; while [ $i -lt {count} ]; do (read line < gate &); i=$((i+1)); done");
    let last = "(setsid sh -c 'trap \\\"echo asked > asked; exit\\\" TERM; : >heeds; while :; do sleep 0.01; done' &)";
    let heeds = "until [ -e heeds ]; do sleep 0.01; done";
    (format!("{orphans}; {last}; {heeds}; echo made; exec sleep 1000"), count)
}

/// A container. It ends with `unshare`, which passes no signal on.
struct Container {
    folder: Folder,
    child: Child,
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `up` in a container. Returns its pid outside of it, too.
fn start() -> (Container, i32, usize) {
    let folder = Folder::new();
    let (script, count) = script();
    folder.write(
        "childminder.toml",
        &format!("[monitor]\nsocket = \"s\"\n[process.it]\nshell = \"{script}\"\ncontain = \"group\"\n"),
    );
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new("unshare");
    command.args(CONTAINER).args([PROGRAM, "up"]).current_dir(&folder.0).stdin(Stdio::null());
    let child = command.stdout(output("out")).stderr(output("err")).spawn().unwrap();
    let container = Container { folder, child };
    until("all orphans", || container.folder.read("out").contains("[it] made").then_some(()));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", container.child.id())).unwrap();
    (container, children.trim().parse().unwrap(), count)
}

/// The number of children of a process, and the number of zombies among them.
fn children(pid: i32) -> (usize, usize) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_dead = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    (children.split_whitespace().count(), children.split_whitespace().filter(is_dead).count())
}

#[test]
fn orphans_are_named_reaped_and_ended() {
    if !needs_root() {
        return;
    }
    let (mut container, pid, count) = start();
    let told = |said: &str| said.matches(" has lost its parent, and is reaped here when it ends\n").count();
    // The kernel has no event for a child that gets a new parent.
    kill(pid, Signal::CHILD);
    until("all are named", || (told(&container.folder.read("err")) > count).then_some(()));
    // All orphans wait at the gate.
    drop(fs::File::options().write(true).open(container.folder.join("gate")).unwrap());
    // These are its process, the last orphan, and perhaps the guard.
    let last = 2 + usize::from(kernel::GUARDED);
    until("the end of the others", || (children(pid) == (last, 0)).then_some(()));
    let said = container.folder.read("err");
    assert_eq!(told(&said), count + 1, "{said}");
    kill(pid, Signal::TERM);
    let status = until("the end of the container", || container.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{}", container.folder.read("err"));
    assert_eq!(container.folder.read("asked"), "asked\n");
}

#[test]
fn run_ends_with_the_code_of_its_child() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    for (script, code) in [("exit 7", 7), ("(sleep 0.05 &); sleep 0.2; exit 3", 3), ("(sleep 1000 &); exit 4", 4)] {
        let mut command = Command::new("unshare");
        command.args(CONTAINER).args([PROGRAM, "run", "--restart", "never", "--", "sh", "-c", script]);
        let output = command.current_dir(&folder.0).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
}
