//! Tests that the command keeps its processes in cgroups: by the file, by the command line, and on
//! a machine without cgroups. The tests with cgroups are processes of their own, in a mount
//! namespace with a cgroup v2 hierarchy.
//!
//! The one rule: a tree that is reported as gone is gone from the hierarchy.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;
/// The module `cgroups` uses this path.
mod util {
    pub(crate) use crate::up_util::{guard, left_out, needs_root};
}

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/kernel.rs"]
mod kernel;

use std::fs;
use std::path::PathBuf;

use cgroups::{Part, can_mount, with_part};
use rustix::process::Signal;
use serde_json::Value;
use up_util::{Folder, PROGRAM, Up, is_alive, kill, left_out, run, text, until};

/// A process that has started a daemon, which leaves the process group and ignores SIGTERM.
const DAEMON: &str = "setsid sh -c 'trap \\\"\\\" TERM; echo $$ > pid.new; mv pid.new pid; exec sleep 1000' & ";

#[track_caller]
fn in_cgroups(name: &str, test: impl Fn(&Part)) {
    with_part(name, |part| {
        test(part);
        part.expect_no_homes(name);
    });
}

fn start(part: &Part, monitor: &str, process: &str) -> (Up, i32) {
    let folder = Folder::new();
    let file = format!("[process.it]\nshell = \"{DAEMON}exec sleep 1000\"\nkill-time = \"100ms\"\n{process}\n");
    let file = format!("cgroup = {:?}\n{monitor}\n{file}", part.0);
    let up = Up::start_in(folder, &file);
    let pid = until("the daemon", || up.folder.read("pid").trim().parse().ok());
    (up, pid)
}

#[test]
fn a_stop_takes_all_that_a_process_has_started() {
    in_cgroups("a_stop_takes_all_that_a_process_has_started", |part| {
        let (up, pid) = start(part, "", "");
        assert_eq!(part.cgroups().len(), 1);
        up.ok(&["stop", "it", "--wait"]);
        assert!(!is_alive(pid) && part.is_empty());
        up.shutdown();
    });
}

#[test]
fn the_status_shows_what_belongs_to_a_process() {
    in_cgroups("the_status_shows_what_belongs_to_a_process", |part| {
        let (up, pid) = start(part, "", "restart = \"never\"\nleftovers = \"leave\"");
        let status = up.status("it");
        assert_eq!(status["containment"]["strength"], "cgroup");
        assert_eq!(status["containment"]["reason"].is_null(), kernel::BORN_IN_CGROUP, "{status}");
        assert_eq!(status["tree"], Value::Null);
        let leader = up.pid_of("it");
        let tree = |names: &[&str]| {
            let said: Value = serde_json::from_str(&up.ok(&["status", "it", "--tree", "--json"])).unwrap();
            let members = said[0]["tree"].as_array().unwrap().clone();
            (members.iter().all(|member| names.contains(&member["name"].as_str().unwrap()))).then_some(members)
        };
        let sleeping = |members: &Vec<Value>| members.iter().all(|member| member["state"] == "S");
        let members = until("both to sleep", || tree(&["sleep"]).filter(sleeping));
        let pids: Vec<i64> = members.iter().map(|member| member["pid"].as_i64().unwrap()).collect();
        assert_eq!(pids.len(), 2, "{members:?}");
        assert!([leader, pid].iter().all(|pid| pids.contains(&i64::from(*pid))), "{members:?}");
        assert!(members.iter().all(|member| member["state"] == "S" && member["memory"].is_u64()), "{members:?}");
        let shown = up.ok(&["status", "it", "--tree"]);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines.len() == 6 && lines[2].starts_with("    kept together by a cgroup"), "{shown}");
        assert!(lines[4].contains("sleep"), "{shown}");
        // A member that is left belongs to it, too.
        kill(leader, Signal::KILL);
        up.until_state("it", "exited");
        let members = tree(&["sleep"]).unwrap();
        assert_eq!((members.len(), members[0]["pid"].as_i64()), (1, Some(pid.into())));
        let (code, said) = up.fails(&["status", "--tree"]);
        assert_eq!((code, said.as_str()), (2, "childminder: --tree of which processes? NAME… or --all\n"));
        kill(pid, Signal::KILL);
        up.shutdown();
    });
}

#[test]
fn a_kill_of_the_supervisor_takes_all() {
    in_cgroups("a_kill_of_the_supervisor_takes_all", |part| {
        let (mut up, pid) = start(part, "", "");
        up.signal(Signal::KILL);
        up.wait();
        if !kernel::GUARDED || !part.0.join("cgroup.kill").exists() {
            left_out("the guard reaches cgroups on x86-64 and aarch64, from Linux 5.14 on");
            kill(pid, Signal::KILL);
        }
        until("its end", || (!is_alive(pid) && part.is_empty()).then_some(()));
        // The next supervisor removes the directories that this one has left.
        let next = up.folder.read("childminder.toml") + "contain = \"cgroup\"\nautostart = false";
        let next = Up::start_in(Folder::new(), next.split_once("\"s\"\n").unwrap().1);
        next.shutdown();
        let said = std::process::Command::new(PROGRAM).args(["check"]).current_dir(&up.folder.0).output().unwrap();
        assert_eq!(text(&said.stderr), "");
    });
}

#[test]
fn the_file_can_want_process_groups() {
    in_cgroups("the_file_can_want_process_groups", |part| {
        for (monitor, process) in [("contain = \"group\"", ""), ("contain = \"cgroup\"", "contain = \"group\"")] {
            let (up, pid) = start(part, monitor, process);
            assert_eq!(part.cgroups(), [] as [PathBuf; 0]);
            up.ok(&["stop", "it", "--wait"]);
            assert!(is_alive(pid), "it has left the group");
            kill(pid, Signal::KILL);
            up.shutdown();
        }
    });
}

#[test]
fn leftovers_are_killed_or_left() {
    for (leftovers, left) in [("", false), ("leftovers = \"leave\"", true)] {
        let folder = Folder::new();
        let shell = "sleep 1000 & echo $! > pid.new; mv pid.new pid; read x < go";
        let process =
            format!("[process.it]\nshell = \"{shell}\"\nrestart = \"never\"\ncontain = \"group\"\n{leftovers}\n");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.join("go"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let up = Up::start_in(folder, &process);
        let pid = until("its child", || up.folder.read("pid").trim().parse().ok());
        let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        until("its program", || (name() == "sleep\n").then_some(()));
        fs::write(up.folder.join("go"), "go\n").unwrap();
        up.until_state("it", "exited");
        if left {
            assert!(is_alive(pid));
            kill(pid, Signal::KILL);
        }
        until("its end", || (!is_alive(pid)).then_some(()));
        let said = up.folder.read("err");
        let killing = format!("[it] killing the processes that it left behind: pid {pid} (sleep)\n");
        // Before Linux 6.9 they are killed before the exit is seen, and not told.
        let told = !left && kernel::reaches_groups_by_pidfd();
        assert_eq!(said.matches(&killing).count(), usize::from(told), "{said}");
        up.shutdown();
    }
}

#[test]
fn run_takes_what_it_is_told() {
    in_cgroups("run_takes_what_it_is_told", |part| {
        let service = part.0.join("service");
        fs::create_dir(&service).unwrap();
        let folder = Folder::new();
        let run = |contain: &[&str]| {
            let script = format!(
                "echo $$ > {}/cgroup.procs; exec {PROGRAM} run --restart never {} -- sed -n s/0:://p /proc/self/cgroup",
                service.display(),
                contain.join(" ")
            );
            let output =
                std::process::Command::new("sh").args(["-c", &script]).current_dir(&folder.0).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        for (contain, contained) in [
            (&[][..], true),
            (&["--contain", "auto"], true),
            (&["--contain=cgroup"], true),
            (&["--contain=group"], false),
        ] {
            let said = run(contain);
            assert_eq!(said.contains("/service/childminder-"), contained, "{contain:?}: {said}");
        }
        fs::remove_dir(service).unwrap();
    });
}

// Neither command starts a process.
#[test]
fn what_cannot_be_had_is_told() {
    let folder = Folder::new();
    let (code, said) = run(&folder, &["run", "--contain", "jail", "true"]);
    assert_eq!((code, said.as_str()), (2, "childminder: --contain wants auto, cgroup or group, not `jail`\n"));
    if !can_mount() {
        return;
    }
    let bare = ["unshare", "-m", "sh", "-c", "umount -a -t cgroup2; exec \"$0\" \"$@\""];
    let output = std::process::Command::new(bare[0])
        .args(&bare[1..])
        .args([PROGRAM, "run", "--contain", "cgroup", "touch", "made"])
        .current_dir(&folder.0)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.starts_with("childminder: --contain cgroup: ") && said.contains("cgroup v2"), "{said}");
    assert!(!folder.join("made").exists());
}

#[test]
fn check_warns_of_cgroups_that_cannot_be_had() {
    let folder = Folder::new();
    let process = "[process.a]\ncommand = [\"true\"]\n";
    folder.write("childminder.toml", &format!("[monitor]\ncgroup = \"none\"\n{process}contain = \"cgroup\"\n"));
    let (code, said) = run(&folder, &["check"]);
    let reason = format!("cannot use {}: No such file or directory (os error 2)", folder.join("none").display());
    let expected = [
        format!("childminder.toml:2:10: warning: `cgroup` is \"none\", and no process can have one there: {reason}"),
        format!(
            "childminder.toml:5:11: warning: `contain` is \"cgroup\", and no process can be started in one here: {reason}"
        ),
    ];
    assert_eq!((code, said.trim_end()), (0, expected.join("\n").as_str()));
    folder.write("childminder.toml", &format!("{process}contain = \"auto\"\n[monitor]\ncontain = \"group\"\n"));
    assert_eq!(run(&folder, &["check"]), (0, String::new()));
    for (monitor, allowed) in [
        ("contain = \"jail\"", "`contain` is \"jail\", allowed is \"auto\", \"cgroup\" or \"group\""),
        ("leftovers = 1", "`leftovers` is 1, allowed is \"kill\" or \"leave\""),
        ("when-killed = true", "`when-killed` is true, allowed is \"kill\" or \"leave\""),
        ("cgroup = \"\"", "`cgroup` is \"\", allowed is a string that is not empty"),
    ] {
        folder.write("childminder.toml", &format!("[monitor]\n{monitor}\n{process}"));
        let (code, said) = run(&folder, &["check"]);
        let column = monitor.find('=').unwrap() + 3;
        assert_eq!((code, said.trim_end()), (2, format!("childminder.toml:2:{column}: {allowed}").as_str()));
    }
}
