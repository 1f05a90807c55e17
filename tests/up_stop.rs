//! Tests which processes `childminder up` asks to stop, processes that leave a successor, and the
//! exit code of `run` after a signal.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use up_util::{Folder, PROGRAM, Up, is_alive, kill, run, text, until};

/// A master that ends its worker itself, and notes how the worker has ended.
const MASTER: &str = "#!/bin/sh
sh -c 'trap \"echo worker got TERM >>log; exit 0\" TERM; trap \"exit 0\" WINCH; echo ready >>log; while :; do sleep 0.05; done' &
worker=$!
trap 'kill -WINCH $worker; wait $worker; echo graceful >>log; exit 0' TERM
wait
";

#[test]
fn a_graceful_master_ends_its_workers_itself() {
    let folder = Folder::new();
    folder.write("master", MASTER);
    let process = |scope: &str| {
        format!("[process.a]\ncommand = [\"sh\", \"./master\"]\ndirectory = \".\"\nkill-time = 60\n{scope}")
    };
    let up = Up::start_in(folder, &process("stop-scope = \"main\"\n"));
    up.until_read("log", "ready");
    up.ok(&["stop", "a", "--wait"]);
    assert_eq!(up.folder.read("log"), "ready\ngraceful\n");
    // The default asks the whole group.
    fs::remove_file(up.folder.join("log")).unwrap();
    up.write_file(&process("stop-scope = \"group\"\n"));
    up.ok(&["reload", "--wait"]);
    up.ok(&["start", "a"]);
    up.until_read("log", "ready");
    up.ok(&["stop", "a", "--wait"]);
    assert!(up.folder.read("log").contains("worker got TERM"), "{}", up.folder.read("log"));
    up.shutdown();
}

#[test]
fn what_a_main_process_leaves_behind_is_killed_in_time() {
    let up = Up::start(
        "[process.a]\nshell = \"trap 'exit 0' TERM; sleep 1000 & echo $! >pid; wait\"\ndirectory = \".\"\nstop-scope = \"main\"\nkill-time = 0.1\n",
    );
    let pid: i32 = up.until_read("pid", "\n").trim().parse().unwrap();
    up.ok(&["stop", "a", "--wait"]);
    assert!(!is_alive(pid));
    up.shutdown();
}

#[test]
fn a_successor_in_the_group_takes_over() {
    let shell = "trap 'sleep 1000 & echo $! >next; exit 0' USR2; echo ready >ready; while :; do sleep 0.02; done";
    let process = |more: &str| format!("[process.a]\nshell = \"{shell}\"\ndirectory = \".\"\nthreshold = 0\n{more}");
    let up = Up::start(&process("successor = true\n"));
    let hand_over = || -> i32 {
        up.until_read("ready", "ready");
        up.ok(&["signal", "USR2", "a"]);
        let next = up.until_read("next", "\n").trim().parse().unwrap();
        fs::remove_file(up.folder.join("next")).unwrap();
        fs::remove_file(up.folder.join("ready")).unwrap();
        next
    };
    let next = hand_over();
    until("the exit of the first one", || up.status("a")["pid"].is_null().then_some(()));
    let status = up.status("a");
    assert_eq!((&status["state"], &status["restarts"]), (&"running".into(), &0.into()), "{status}");
    assert!(is_alive(next));
    // Its end is that of the process.
    kill(next, Signal::KILL);
    let status = until("the restart", || Some(up.status("a")).filter(|status| status["restarts"] == 1));
    assert_eq!(status["state"], "running");
    // A stop ends the successor.
    let next = hand_over();
    until("the exit of the second one", || up.status("a")["pid"].is_null().then_some(()));
    assert!(is_alive(next));
    up.ok(&["stop", "a", "--wait"]);
    assert!(!is_alive(next));
    // So does a restart, which starts the program anew.
    up.ok(&["start", "a"]);
    let next = hand_over();
    until("the exit of the third one", || up.status("a")["pid"].is_null().then_some(()));
    up.ok(&["restart", "a", "--wait"]);
    assert!(!is_alive(next) && up.pid_of("a") != next);
    up.shutdown();
}

#[test]
fn mistakes_are_told() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"true\"]\nstop-scope = \"tree\"\nsuccessor = true\nleftovers = \"kill\"\n",
    );
    let (code, said) = run(&folder, &["check"]);
    assert_eq!(code, 2);
    assert!(said.contains(":3:14: `stop-scope` is \"tree\", allowed is \"group\" or \"main\""), "{said}");
    assert!(said.contains(":4:1: both `successor` and `leftovers`, allowed is one of them"), "{said}");
}

#[test]
fn run_that_never_restarts_ends_with_its_child_after_a_signal_too() {
    for (shell, restart, code) in [
        ("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", "never", 7),
        ("echo ready; exec sleep 1000", "never", 143),
        ("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", "always", 0),
    ] {
        let folder = Folder::new();
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--restart", restart, "sh", "-c", shell]).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.stdout(fs::File::create(folder.join("out")).unwrap()).spawn().unwrap();
        let mut up = Up { folder, child };
        up.until_read("out", "ready");
        up.signal(Signal::TERM);
        assert_eq!(up.wait().code(), Some(code), "{shell} {restart}");
    }
    let output = Command::new(PROGRAM).args(["run", "--help"]).output().unwrap();
    assert!(text(&output.stdout).contains("also if a signal has ended it"));
}
