//! Runs what the chapters on systemd, containers and clusters print: the unit is verified, the
//! files are run, and the commands of probes and entry points do what the chapters say of them.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use up_util::{Folder, PROGRAM, Up, kill, left_out, text, until};

const SYSTEMD: &str = include_str!("../src/guide/systemd.md");
const CONTAINERS: &str = include_str!("../src/guide/containers.md");
const CLUSTERS: &str = include_str!("../src/guide/clusters.md");

fn block(chapter: &'static str, language: &str) -> &'static str {
    let (_, after) = chapter.split_once(&format!("```{language}\n")).unwrap();
    after.split_once("```").unwrap().0
}

/// The lists of words in a text: `["childminder", "status"]`.
fn lists(text: &str) -> Vec<Vec<String>> {
    let lists = text.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    lists.filter_map(|(list, _)| serde_json::from_str(&format!("[{list}]")).ok()).collect()
}

fn program(folder: &Folder, name: &str, does: &str) {
    folder.write(name, &format!("#!/bin/sh\n{does}\n"));
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs such a list in the folder. Its file is the one there.
fn run_list(folder: &Folder, list: &[String]) -> Output {
    let words = list.iter().map(|word| match word.as_str() {
        word if word.ends_with("childminder.toml") => "childminder.toml".to_owned(),
        word => word.to_owned(),
    });
    let words: Vec<String> = words.collect();
    let mut command = Command::new(PROGRAM);
    command.args(words.iter().skip(usize::from(words[0] == "childminder"))).current_dir(&folder.0);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_unit_is_one_for_systemd() {
    let folder = Folder::new();
    let file = folder.join("childminder.service");
    let complaints = |unit: &str| {
        folder.write("childminder.service", unit);
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().ok()?;
        let said = text(&output.stderr);
        let about = said.lines().filter(|line| line.contains("childminder.service")).map(str::to_owned);
        Some(about.collect::<Vec<_>>())
    };
    let unit = block(SYSTEMD, "ini").replace("/usr/local/bin/childminder", PROGRAM);
    let Some(mut said) = complaints(&unit) else {
        left_out("there is no systemd-analyze");
        return;
    };
    // Before version 253, systemd does not know this type.
    if said.len() == 1 && said[0].contains("notify-reload") {
        said = complaints(&unit.replace("notify-reload", "notify")).unwrap();
    }
    assert_eq!(said, [""; 0]);
}

/// Starts `up` in the folder with the words of this list.
fn start(folder: Folder, list: &[String]) -> Up {
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let args: Vec<&str> =
        list.iter().map(|word| if word.ends_with(".toml") { "childminder.toml" } else { word }).collect();
    let mut command = Command::new(PROGRAM);
    command.args(args).current_dir(&folder.0).stdin(Stdio::null());
    command.env("PATH", format!("{}:{}", folder.0.display(), std::env::var("PATH").unwrap()));
    let child = command.stdout(output("out")).stderr(output("err")).spawn().unwrap();
    Up { folder, child }
}

#[test]
fn a_container_of_one_process_ends_with_its_code() {
    let all = lists(CONTAINERS);
    let entry = all.iter().find(|list| list.get(1).is_some_and(|word| word == "run")).unwrap();
    let folder = Folder::new();
    program(&folder, "app", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done");
    let mut up = start(folder, &entry[1..]);
    up.until_read("out", "[app] up");
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(7));
}

#[test]
fn a_container_of_several_processes_has_a_health_check_and_json() {
    let folder = Folder::new();
    folder.write("childminder.toml", &block(CONTAINERS, "toml").replace("/run/childminder.sock", "./s"));
    program(&folder, "app", "echo \"app $*\"; exec sleep 1000");
    program(&folder, "worker", "echo oops >&2; exec sleep 1000");
    let all = lists(CONTAINERS);
    let of = |word: &str| all.iter().find(|list| list.get(1).is_some_and(|known| known == word)).unwrap();
    let mut up = start(folder, &of("up")[1..]);
    up.wait_for_socket();
    until("health", || (run_list(&up.folder, of("status")).status.code() == Some(0)).then_some(()));
    up.until_read("out", "\"line\":\"app --port 8080\"");
    until("both workers", || (up.folder.read("err").matches("\"line\":\"oops\"").count() == 2).then_some(()));
    for line in (up.folder.read("out") + &up.folder.read("err")).lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(object["time"].is_string() && object["line"].is_string(), "{line}");
    }
    up.ok(&["stop", "app", "--wait"]);
    assert_eq!(run_list(&up.folder, of("status")).status.code(), Some(3));
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
    assert_eq!(run_list(&up.folder, of("status")).status.code(), Some(125));
}

#[test]
fn probes_of_a_cluster_tell_how_it_is() {
    let folder = Folder::new();
    folder.write("childminder.toml", &block(CLUSTERS, "toml").replace("./childminder.sock", "./s"));
    program(&folder, "web", "while ! [ -e go ]; do sleep 0.02; done; echo listening; exec sleep 1000");
    program(&folder, "worker", "[ -e bad ] && exit 3; exec sleep 1000");
    let pod = lists(block(CLUSTERS, "yaml"));
    let of = |word: &str, last: &str| {
        pod.iter().find(|list| list.iter().any(|known| known == word) && list.last().unwrap().ends_with(last)).unwrap()
    };
    let (startup, ready, live) = (of("status", ".toml"), of("status", "web"), of("logs", "0"));
    let task = lists(CLUSTERS);
    let entry = task.iter().find(|list| list.iter().any(|word| word == "--exit-when")).unwrap();
    let check = task.iter().find(|list| list[0] == "status").unwrap();
    let mut up = start(folder, entry);
    up.wait_for_socket();
    let code = |list: &[String]| run_list(&up.folder, list).status.code();
    assert_eq!((code(live), code(ready), code(startup), code(check)), (Some(0), Some(3), Some(3), Some(3)));
    up.folder.write("go", "");
    until("readiness", || (code(ready) == Some(0)).then_some(()));
    assert_eq!((code(startup), code(check)), (Some(0), Some(0)));
    // A process that fails for good ends the task.
    up.folder.write("bad", "");
    kill(up.pid_of("worker"), Signal::KILL);
    assert_eq!(up.wait().code(), Some(3), "{}", up.folder.read("err"));
    assert_eq!(run_list(&up.folder, live).status.code(), Some(125));
}
