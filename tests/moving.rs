//! Runs the configurations of the guide that stand beside those of other tools, and checks that
//! they do what those do.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use up_util::{Folder, PROGRAM, Up, kill, until};

const CHAPTER: &str = include_str!("../src/guide/moving.md");

/// The file below this heading.
#[track_caller]
fn file(heading: &str) -> &'static str {
    let (_, after) = CHAPTER.split_once(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, block) = after.split_once("```toml\n").unwrap();
    block.split_once("```").unwrap().0
}

/// A folder with the file of this heading, and programs of these names: what each does after it has
/// noted its arguments in `calls`.
#[track_caller]
fn folder(heading: &str, programs: &[(&str, &str)]) -> Folder {
    let folder = Folder::new();
    let text = file(heading);
    let socket = "socket = \"s\"\n";
    let text = match text.contains("[monitor]\n") {
        _ if text.contains("socket = ") => text.to_owned(),
        true => text.replacen("[monitor]\n", &format!("[monitor]\n{socket}"), 1),
        false => format!("[monitor]\n{socket}\n{text}"),
    };
    folder.write("childminder.toml", &text);
    fs::create_dir(folder.join("bin")).unwrap();
    for (name, does) in programs {
        let calls = folder.join("calls");
        folder
            .write(&format!("bin/{name}"), &format!("#!/bin/sh\necho \"{name} $*\" >>'{}'\n{does}\n", calls.display()));
        fs::set_permissions(folder.join(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

const SLEEP: &str = "exec sleep 1000";

/// Starts `up` in the folder, with these options.
fn start(folder: Folder, args: &[&str]) -> Up {
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command
        .arg("up")
        .args(args)
        .current_dir(&folder.0)
        // Some of the files use it.
        .env("HOME", &folder.0)
        .stdin(Stdio::null())
        .stdout(output("out"))
        .stderr(output("err"));
    let child = command.spawn().unwrap();
    Up { folder, child }
}

#[track_caller]
fn start_and_wait(folder: Folder) -> Up {
    let mut up = start(folder, &[]);
    up.wait_for_socket();
    up
}

/// The calls so far, sorted, once there are so many.
#[track_caller]
fn calls(up: &Up, count: usize) -> Vec<String> {
    let lines = || up.folder.read("calls").lines().map(str::to_owned).collect::<Vec<_>>();
    let mut calls = until("the calls", || Some(lines()).filter(|calls| calls.len() >= count));
    calls.sort();
    calls
}

#[test]
fn a_web_server_with_a_rotated_log() {
    let web = format!("echo \"out $DEBUG\"; echo err >&2; trap 'exit 0' QUIT; while :; do sleep 0.05; done; {SLEEP}");
    let up = start_and_wait(folder("A web server with a rotated log", &[("web", &web)]));
    assert_eq!(calls(&up, 1), ["web --port 8000"]);
    let log = until("both lines", || Some(up.folder.read("log/web.log")).filter(|log| log.lines().count() == 2));
    assert!(log.contains("out 0\n") && log.contains("err\n"), "{log}");
    kill(up.pid_of("web"), Signal::KILL);
    assert_eq!(calls(&up, 2).len(), 2, "restarted");
    let _ = up.until_state("web", "running");
    up.ok(&["stop", "web", "--wait"]);
    up.shutdown();
}

#[test]
fn several_workers_that_may_end() {
    let worker = format!("[ \"$2\" = 2 ] && exit 3; [ \"$2\" = 3 ] && exit 1; {SLEEP}");
    let up = start_and_wait(folder("Several workers that may end", &[("worker", &worker)]));
    up.until_state("worker:1", "running");
    up.until_state("worker:2", "exited");
    let calls = calls(&up, 4);
    let of = |call: &str| calls.iter().filter(|known| *known == call).count();
    assert_eq!((of("worker --id 1"), of("worker --id 2")), (1, 1));
    assert!(of("worker --id 3") > 1, "{calls:?}");
    up.shutdown();
}

#[test]
fn a_socket_for_a_group_and_files_of_its_own() {
    let folder = folder("A socket for a group, and files of its own for each program", &[]);
    fs::create_dir(folder.join("conf.d")).unwrap();
    folder.write("conf.d/a.toml", "[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    if !rustix::process::geteuid().is_root() {
        let text = folder.read("childminder.toml").replace("socket-group = \"adm\"\n", "");
        folder.write("childminder.toml", &text);
    }
    let mut up = start(folder, &[]);
    up.wait_for_socket_at(&up.folder.join("supervisor.sock"));
    assert_eq!(fs::metadata(up.folder.join("supervisor.sock")).unwrap().permissions().mode() & 0o777, 0o660);
    up.until_state("a", "running");
    up.shutdown_at("supervisor.sock");
}

#[test]
fn a_master_that_stops_its_workers_itself() {
    let master = "sh -c 'trap \"echo TERM >>calls\" TERM; while :; do sleep 0.05; done' & trap 'kill -9 $!; exit 0' TERM; while :; do sleep 0.05; done";
    let up = start_and_wait(folder("A master that stops its workers itself", &[("master", master)]));
    calls(&up, 1);
    up.ok(&["stop", "app", "--wait"]);
    assert_eq!(calls(&up, 1), ["master "], "the worker was not asked");
    up.shutdown();
}

#[test]
fn everything_ends_with_the_first_that_ends() {
    let folder = folder(
        "Everything ends with the first that ends",
        &[
            ("web", "echo \"queue $QUEUE\" >>calls; exec sleep 1000"),
            ("worker", "while ! grep -q queue calls; do sleep 0.05; done; exit 4"),
        ],
    );
    folder.write(".env", "# .env\nPORT=5000\nQUEUE=mail\n");
    let mut up = start(folder, &["--exit-when", "first"]);
    assert_eq!(up.wait().code(), Some(4), "{}", up.folder.read("err"));
    assert_eq!(calls(&up, 3), ["queue mail", "web -p 5000", "worker "]);
}

#[test]
fn a_port_for_each_of_several_processes() {
    let up = start_and_wait(folder("A port for each of several processes", &[("web", SLEEP)]));
    assert_eq!(calls(&up, 2), ["web -p 5000", "web -p 5001"]);
    up.shutdown();
}

#[test]
fn an_application_that_waits_for_its_database() {
    let db = format!("read x <go; touch db-is-up; {SLEEP}");
    let web = format!("[ -e db-is-up ] && echo \"$MODE $DATABASE_URL\" >>calls; {SLEEP}");
    let folder = folder("An application that waits for its database", &[("db", &db), ("web", &web)]);
    folder.write("web.env", "MODE=live\n");
    assert!(Command::new("mkfifo").arg(folder.join("go")).status().unwrap().success());
    let up = start_and_wait(folder);
    assert_eq!(calls(&up, 1), ["db "]);
    assert_eq!(up.status("web")["state"], "waiting");
    fs::write(up.folder.join("go"), "\n").unwrap();
    assert_eq!(calls(&up, 3), ["db ", "live postgres://localhost/app", "web "]);
    up.shutdown();
}

#[test]
fn a_service_with_a_terminal_and_one_with_limits() {
    let game = "[ -t 0 ] && echo terminal; read line; echo \"game got $line\" >>calls; exec sleep 1000";
    let job = "ulimit -n >>calls; exit 1";
    let up = start_and_wait(folder(
        "A service with a terminal, and one with limits",
        &[
            ("game", &game.replace(">>calls", ">>\"${0%/bin/game}/calls\"")),
            ("job", &job.replace(">>calls", ">>\"${0%/bin/job}/calls\"")),
        ],
    ));
    up.until_read("out", "[game] terminal");
    let mut command = Command::new(PROGRAM);
    command.args(["send", "game"]).current_dir(&up.folder.0).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello\n").unwrap();
    assert!(child.wait().unwrap().success());
    up.until_read("calls", "game got hello\n");
    up.until_state("job", "failed");
    assert_eq!(up.folder.read("calls").matches("256\n").count(), 4, "one start and three more");
    up.shutdown();
}

#[test]
fn tests_that_end_everything() {
    let mut up =
        start(folder("Tests that end everything", &[("app", SLEEP), ("tests", "exit 9")]), &["--exit-when", "first"]);
    assert_eq!(up.wait().code(), Some(9));
    let said = up.folder.read("err");
    assert!(said.contains("[app] exited: signal 15"), "{said}");
}

#[test]
fn process_compose() {
    let api = format!("[ -e migrated ] && echo \"after the migration\" >>calls; {SLEEP}");
    let up = start_and_wait(folder("process-compose", &[("migrate", "sleep 0.2; touch migrated"), ("api", &api)]));
    assert_eq!(calls(&up, 3), ["after the migration", "api ", "migrate "]);
    up.until_state("migrate", "exited");
    up.ok(&["stop", "api", "--wait"]);
    assert_eq!(up.status("api")["last_exit"]["signal"], "SIGINT");
    up.shutdown();
}

#[test]
fn pm2() {
    let up = start_and_wait(folder("pm2", &[("api", &format!("echo \"mode $NODE_ENV\"; echo oops >&2; {SLEEP}"))]));
    let log = until("both lines", || Some(up.folder.read("api.log")).filter(|log| log.lines().count() == 2));
    for line in log.lines() {
        let (time, line) = line.split_once(' ').unwrap();
        assert!(time.len() > "2026-11-26T07:20:00.123".len() && line == "mode production", "{log}");
    }
    until("both errors", || (up.folder.read("api.err").lines().count() == 2).then_some(()));
    up.shutdown();
}

#[test]
fn systemd() {
    let daemon = format!("umask; echo out; echo err >&2; {SLEEP}");
    let up = start_and_wait(folder("systemd", &[("daemon", &daemon)]));
    assert_eq!(calls(&up, 1), ["daemon --foreground"]);
    assert_eq!(up.until_read("daemon.log", "err\n"), "0027\nout\nerr\n");
    kill(up.pid_of("daemon"), Signal::KILL);
    assert_eq!(calls(&up, 2).len(), 2, "restarted");
    up.shutdown();
}

#[test]
fn each_file_is_run() {
    let headings: Vec<&str> = CHAPTER.split("```toml\n").collect();
    assert_eq!(headings.len() - 1, 12);
}
