//! Tests who may use the control socket of `childminder up`, what happens without one, and the
//! events that it tells.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use up_util::{Folder, NOBODY, Nobody, PROGRAM, Up, connect, run, text, until};

const SLEEPER: &str = "[process.a]\ncommand = [\"sleep\", \"1000\"]\n";

/// Starts `up` in the folder without waiting for its socket.
fn start(folder: Folder) -> Up {
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
    let child = command.spawn().unwrap();
    Up { folder, child }
}

#[test]
fn the_socket_has_the_mode_and_the_group_of_the_file() {
    let Some(nobody) = Nobody::new() else { return };
    fs::set_permissions(&nobody.folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&nobody.folder.0, Some(0), Some(0)).unwrap();
    let folder = Folder::new();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\nsocket-group = {NOBODY}\n{SLEEPER}"));
    let mut up = start(folder);
    up.wait_for_socket();
    let there = fs::metadata(up.socket()).unwrap();
    assert_eq!((there.mode() & 0o777, there.uid(), there.gid()), (0o660, 0, NOBODY));
    let socket = up.socket().display().to_string();
    let as_user = |uid: u32, gid: u32| {
        let mut command = Command::new(&nobody.program);
        command.args(["status", "--socket", &socket]).current_dir("/").uid(uid).gid(gid).output().unwrap()
    };
    // A member of the group may, and another user may not.
    let output = as_user(12_345, NOBODY);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = as_user(12_345, 12_345);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(125) && said.contains("Permission denied"), "{said}");
    // It is the same when the socket is made again.
    fs::remove_file(up.socket()).unwrap();
    until("it again", || {
        fs::metadata(up.socket()).ok().filter(|there| there.gid() == NOBODY && there.mode() & 0o777 == 0o660)
    });
    up.shutdown();

    let folder = Folder::new();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\nsocket-mode = \"0666\"\n{SLEEPER}"));
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    let mut up = start(folder);
    up.wait_for_socket();
    let socket = up.socket().display().to_string();
    let mut command = Command::new(&nobody.program);
    let output =
        command.args(["stop", "a", "--wait", "--socket", &socket]).current_dir("/").uid(NOBODY).gid(NOBODY).output();
    assert_eq!(output.unwrap().status.code(), Some(0));
    up.shutdown();
}

#[test]
fn there_may_be_no_socket() {
    let folder = Folder::new();
    folder
        .write("childminder.toml", &format!("[monitor]\nsocket = false\n{}", SLEEPER.replace("\"1000\"", "\"2000\"")));
    assert_eq!(run(&folder, &["check"]), (0, String::new()));
    let mut up = start(folder);
    up.until_read("err", "[a] started");
    let (code, said) = up.fails(&["status"]);
    assert!(code == 125 && said.contains("childminder.toml says `socket = false`"), "{said}");
    let names: Vec<_> = fs::read_dir(&up.folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    // It is controlled by signals.
    up.signal(Signal::HUP);
    up.until_read("err", "reloaded: nothing has changed");
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
    let (code, said) = run(&up.folder, &["check", "--effective"]);
    assert_eq!(code, 0, "{said}");
    up.folder.write("childminder.toml", &format!("[monitor]\nsocket = true\nsocket-mode = \"0778\"\n{SLEEPER}"));
    let (code, said) = run(&up.folder, &["check"]);
    assert!(code == 2 && said.contains("`socket` is true, allowed is a path, or false for none"), "{said}");
    assert!(said.contains("`socket-mode` is \"0778\""), "{said}");
}

#[test]
fn a_socket_that_cannot_be_made_is_told_and_supervision_goes_on() {
    let folder = Folder::new();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"no/s\"\n{SLEEPER}"));
    let up = start(folder);
    up.until_read("err", "[a] started");
    let said = up.until_read("err", "no/s cannot be used: ");
    assert!(said.contains("it is tried again"), "{said}");
    // It is there as soon as it can be made, at the latest with SIGHUP.
    fs::create_dir(up.folder.join("no")).unwrap();
    up.signal(Signal::HUP);
    up.until_read("err", "no/s is there");
    assert_eq!(up.ok(&["status", "a"]).lines().count(), 2);
    up.shutdown_at("no/s");
}

/// A client that hears events.
struct Listener(Child, BufReader<std::process::ChildStdout>);

impl Listener {
    fn new(up: &Up, args: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("events").args(args).current_dir(&up.folder.0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    /// The next event of this kind, and whether the numbers are those of the events in order.
    #[track_caller]
    fn until(&mut self, event: &str) -> Value {
        loop {
            let next = self.next();
            if next["event"] == event {
                return next;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_change_is_an_event_with_a_number() {
    let up = Up::start(&format!("{SLEEPER}[process.b]\nshell = \"exit 3\"\nrestart = \"never\"\nautostart = false\n"));
    let mut all = Listener::new(&up, &[]);
    let mut of_b = Listener::new(&up, &["b*"]);
    let first = all.next();
    assert_eq!(first["event"], "listening");
    let mut number = first["sequence"].as_u64().unwrap();
    assert_eq!(of_b.next()["event"], "listening");
    let pid = up.pid_of("a");
    up.ok(&["start", "b"]);
    up.until_state("b", "exited");
    up.ok(&["restart", "a", "--wait"]);
    let mut seen = Vec::new();
    while !seen.iter().any(|event: &Value| event["name"] == "a" && event["event"] == "started") {
        let event = all.next();
        number += 1;
        assert_eq!(event["sequence"], number, "{event}");
        assert!(event["time"].as_str().unwrap().ends_with('Z') && event.get("version").is_none(), "{event}");
        seen.push(event);
    }
    let of = |name: &str| seen.iter().filter(|event| event["name"] == name).collect::<Vec<_>>();
    let kinds =
        |name: &str| of(name).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(kinds("b"), ["started", "state", "exited", "state"]);
    let b = of("b");
    assert_eq!(
        (&b[1]["state"], &b[2]["code"], &b[2]["signal"], &b[3]["state"]),
        (&"running".into(), &3.into(), &Value::Null, &"exited".into())
    );
    assert_eq!(kinds("a")[..3], ["terminating", "state", "exited"]);
    let a = of("a");
    assert_eq!(
        (&a[0]["signal"], &a[1]["state"], &a[2]["signal"]),
        (&"SIGTERM".into(), &"stopping".into(), &"SIGTERM".into())
    );
    assert_eq!(a[2]["pid"], pid);
    let started = of_b.until("started");
    assert!(started["name"] == "b" && started["pid"].is_u64(), "{started}");
    up.write_file(&format!("{SLEEPER}[process.c]\ncommand = [\"/no/such\"]\n"));
    up.ok(&["reload"]);
    let reloaded = all.until("reloaded");
    assert_eq!((&reloaded["added"][0], &reloaded["removed"][0]), (&"c".into(), &"b".into()));
    let failed = all.until("start-failed");
    assert!(failed["name"] == "c" && failed["error"].as_str().unwrap().contains("/no/such"), "{failed}");
    up.shutdown();
}

#[test]
fn the_request_is_as_documented() {
    let up = Up::start(SLEEPER);
    let stream = connect(&up.socket());
    writeln!(&stream, "{{\"version\":1,\"command\":\"events\"}}").unwrap();
    let mut lines = BufReader::new(&stream).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["version"]), (&"listening".into(), &1.into()));
    up.ok(&["stop", "a"]);
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(event["sequence"], first["sequence"].as_u64().unwrap() + 1);
    let (code, said) = up.fails(&["events", "nobody"]);
    assert!(code == 1 && said.contains("no process `nobody`"), "{said}");
    up.shutdown();
}
