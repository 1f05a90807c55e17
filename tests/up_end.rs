//! Tests how `childminder up` ends by itself, what it says when nothing is left to do, and what
//! `status` tells of processes that have exited.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, ExitStatus, Stdio};

use up_util::{Folder, PROGRAM, Up, text, until};

/// Runs `up` with these options until it ends by itself. Returns its exit status and its stderr.
#[track_caller]
fn run_up(args: &[&str], processes: &str) -> (ExitStatus, String) {
    let folder = Folder::new();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{processes}"));
    let mut command = Command::new(PROGRAM);
    command.arg("up").args(args).current_dir(&folder.0).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(std::fs::File::create(folder.join("err")).unwrap()).spawn().unwrap();
    let mut up = Up { folder, child };
    (up.wait(), up.folder.read("err"))
}

const SLEEPER: &str = "[process.sleeper]\ncommand = [\"sleep\", \"1000\"]\n";

#[test]
fn status_tells_by_its_exit_code_whether_all_are_up() {
    let up = Up::start(&format!("{SLEEPER}[process.lazy]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n"));
    let code = |args: &[&str]| up.command(args).status.code();
    assert_eq!(code(&["status", "sleeper"]), Some(0));
    assert_eq!(code(&["status", "lazy"]), Some(3));
    assert_eq!(code(&["status"]), Some(3), "one of all is not up");
    assert_eq!(code(&["status", "--json", "lazy"]), Some(3));
    assert_eq!(code(&["status", "nobody"]), Some(1));
    up.ok(&["start", "lazy", "--wait"]);
    assert_eq!(code(&["status"]), Some(0));
    up.ok(&["stop", "sleeper", "--wait"]);
    assert_eq!((code(&["status", "lazy"]), code(&["status", "lazy", "sleeper"])), (Some(0), Some(3)));
    let mut up = up;
    up.ok(&["shutdown", "--wait"]);
    up.wait();
    assert_eq!(up.command(&["status"]).status.code(), Some(125));
}

#[test]
fn of_those_that_have_exited_it_tells_when_and_what_they_used() {
    let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exit 3";
    let up = Up::start(&format!("{SLEEPER}[process.a]\nshell = \"{burn}\"\nrestart = \"never\"\n"));
    let a = up.until_state("a", "exited");
    let last = &a["last_exit"];
    assert_eq!((&last["code"], &last["text"]), (&3.into(), &"exit status 3".into()), "{a}");
    let time = last["time"].as_str().unwrap();
    assert!(time.len() == "2026-11-26T07:20:00.123Z".len() && time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert!(last["cpu"].as_f64().unwrap() > 0.0 && last["peak_memory"].as_u64().unwrap() > 100_000, "{a}");
    assert!(last["ago"].as_f64().unwrap() >= 0.0, "{a}");
    assert!(up.status("sleeper")["last_exit"].is_null());
    let table = text(&up.command(&["status", "a"]).stdout);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let [name, state, pid, time, ago, restarts, code, number, cpu, peak] = row[..] else { panic!("{table}") };
    assert_eq!([name, state, pid, ago, restarts, code, number], ["a", "exited", "-", "ago", "0", "code", "3"]);
    assert!(time.ends_with('s') && cpu.ends_with('s') && peak.ends_with(['K', 'M']), "{table}");
}

#[test]
fn ends_when_all_have_ended_with_the_code_of_the_first_that_failed() {
    let all = ["--exit-when", "all"];
    let once = |name: &str, shell: &str| format!("[process.{name}]\nshell = \"{shell}\"\nrestart = \"never\"\n");
    let (status, said) = run_up(&all, &(once("a", "exit 0") + &once("b", "exit 0")));
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("all processes have ended"), "{said}");
    // The second one waits for the first one, so that it is clear which one fails first.
    let files = once("a", "exit 4") + &once("b", "sleep 0.2; exit 5") + &once("c", "exit 0");
    let (status, said) = run_up(&all, &files);
    assert_eq!(status.code(), Some(4), "{said}");
    assert_eq!(run_up(&all, &once("a", "kill -9 $$")).0.code(), Some(137));
    let (status, said) = run_up(&all, "[process.a]\ncommand = [\"/no/such\"]\nrestart = \"never\"\n");
    assert_eq!(status.code(), Some(127), "{said}");
}

#[test]
fn ends_with_the_first_that_ends_or_fails() {
    let once = |name: &str, shell: &str| format!("[process.{name}]\nshell = \"{shell}\"\nrestart = \"never\"\n");
    let (status, said) = run_up(&["--exit-when", "first"], &(SLEEPER.to_owned() + &once("a", "exit 0")));
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("[a] has ended") && said.contains("[sleeper] exited: signal 15"), "{said}");
    let files = SLEEPER.to_owned() + &once("good", "exit 0") + &once("bad", "exit 7");
    let (status, said) = run_up(&["--exit-when=failed"], &files);
    assert_eq!(status.code(), Some(7), "{said}");
    assert!(said.contains("[bad] has failed"), "{said}");
    // A restart is no end, and a process that a client stops has not ended by itself.
    let restarted = "[process.b]\nshell = \"sleep 0.05; exit 1\"\nmin-restart-delay = 0.01\nmax-restart-delay = 0.01\n";
    let folder = Folder::new();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{SLEEPER}{restarted}"));
    let mut command = Command::new(PROGRAM);
    command.args(["up", "--exit-when", "first"]).current_dir(&folder.0).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(std::fs::File::create(folder.join("err")).unwrap()).spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    until("restarts", || up.status("b")["restarts"].as_u64().filter(|restarts| *restarts > 2));
    up.ok(&["stop", "--all", "--wait"]);
    assert_eq!(up.status("sleeper")["state"], "stopped");
    up.shutdown();
    let output = Command::new(PROGRAM).args(["up", "--exit-when", "soon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--exit-when wants all, first or failed, not `soon`"));
}

#[test]
fn says_when_nothing_is_left_to_do() {
    const SAID: &str = "no process runs, and none will be started by itself";
    let up = Up::start("[process.a]\nshell = \"exit 3\"\nrestart = \"never\"\n");
    up.until_read("err", SAID);
    up.ok(&["start", "a"]);
    up.until_state("a", "exited");
    until("the message again", || (up.folder.read("err").matches(SAID).count() == 2).then_some(()));
    let said = up.shutdown();
    assert_eq!(said.matches(SAID).count(), 2, "{said}");
    let up = Up::start("[process.a]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n");
    up.until_read("err", SAID);
    up.ok(&["start", "a"]);
    // A stop of all is not what a shutdown says.
    let said = up.shutdown();
    assert_eq!(said.matches(SAID).count(), 1, "{said}");
}
