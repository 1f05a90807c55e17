//! Tests the times in front of lines, and lines as JSON, on the console and in files.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, Stdio};

use serde_json::Value;
use up_util::{Folder, PROGRAM, Up, on_a_terminal, run, text, until};

/// The line without the time in front. The time must be one of RFC 3339 with milliseconds, and this
/// zone.
#[track_caller]
fn without_time<'l>(line: &'l str, zone: &str) -> &'l str {
    let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
    let shape: String = time.chars().map(|char| if char.is_ascii_digit() { '9' } else { char }).collect();
    let zone: String = zone.chars().map(|char| if char.is_ascii_digit() { '9' } else { char }).collect();
    assert_eq!(shape, format!("9999-99-99T99:99:99.999{zone}"), "{line:?}");
    rest
}

/// Starts `up` with these options, and variables for its environment.
#[track_caller]
fn start(file: &str, args: &[&str], variables: &[(&str, &str)]) -> Up {
    let folder = Folder::new();
    folder.write("childminder.toml", file);
    let output = |name: &str| Stdio::from(std::fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").args(args).current_dir(&folder.0).stdin(Stdio::null()).envs(variables.iter().copied());
    let child = command.stdout(output("out")).stderr(output("err")).spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    up
}

const SHELL: &str = "echo one; echo two >&2; printf 'three\\\\nfo'; sleep 0.1; echo ur; exec sleep 1000";

#[test]
fn lines_and_messages_have_a_time_on_request() {
    let file = format!(
        "[monitor]\nsocket = \"s\"\n[process.a]\nshell = \"{SHELL}\"\n[process.b]\nshell = \"{SHELL}\"\ntimestamps = false\n\
         [process.c]\nshell = \"{SHELL}\"\ntimestamps = \"utc\"\nstdout = \"./c.log\"\n[process.d]\nshell = \"{SHELL}\"\n\
         timestamps = \"monotonic\"\n"
    );
    let up = start(&file, &["--timestamps"], &[("TZ", "IST-05:30")]);
    for name in ["a", "b", "d"] {
        up.until_read("out", &format!("[{name}] four"));
    }
    up.until_read("c.log", "four\n");
    let out = up.folder.read("out");
    let of = |name: &str| {
        out.lines().filter(|line| line.contains(&format!("[{name}]"))).map(str::to_owned).collect::<Vec<_>>()
    };
    for (line, expected) in of("a").iter().zip(["one", "three", "four"]) {
        assert_eq!(without_time(line, "+05:30"), format!("[a] {expected}"));
    }
    assert_eq!(of("b"), ["[b] one", "[b] three", "[b] four"]);
    let log = up.folder.read("c.log");
    for (line, expected) in log.lines().zip(["one", "three", "four"]) {
        assert_eq!(without_time(line, "Z"), expected);
    }
    assert_eq!(log.lines().count(), 3);
    for line in of("d") {
        let (time, _) = line.split_once(" [d] ").unwrap();
        let (seconds, millis) = time.split_once('.').unwrap();
        assert!(seconds.parse::<u64>().is_ok() && millis.len() == 3, "{line}");
    }
    let err = up.folder.read("err");
    let others =
        err.lines().filter(|line| !line.starts_with("[b] ") && !line.contains(" [c] ") && !line.contains(" [d] "));
    let others: Vec<_> = others.map(|line| without_time(line, "+05:30")).collect();
    assert!(others[0].starts_with("childminder: [a] started, pid ") && others.contains(&"[a] two"), "{err}");
    // It can be changed while the process runs.
    let pid = up.pid_of("b");
    up.folder.write("childminder.toml", &file.replace("timestamps = false", "timestamps = true"));
    assert_eq!(up.ok(&["reload", "--wait"]), "updated b\n");
    assert_eq!(up.pid_of("b"), pid);
    up.shutdown();
}

#[test]
fn lines_are_json_on_request() {
    let file = format!(
        "[monitor]\nsocket = \"s\"\nformat = \"json\"\n[process.a]\nshell = \"printf 'x\\\\033[1m\\\\377\\\"\\\\n'; {SHELL}\"\n\
         [process.b]\nshell = \"{SHELL}\"\nformat = \"text\"\n[process.c]\nshell = \"{SHELL}\"\nstdout = \"./c.log\"\nstderr = \"./c.log\"\n\
         timestamps = \"local\"\n"
    );
    let up = start(&file, &[], &[("TZ", "IST-05:30")]);
    up.until_read("out", "\"line\":\"four\"");
    up.until_read("out", "[b] four\n");
    up.until_read("c.log", "\"line\":\"four\"");
    let parse =
        |text: &str| -> Vec<Value> { text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    let (out, err, log) = (up.folder.read("out"), up.folder.read("err"), up.folder.read("c.log"));
    let lines = parse(&out);
    assert_eq!(out.lines().count(), lines.len() + 3, "{out}");
    let texts: Vec<_> = lines.iter().map(|line| line["line"].as_str().unwrap()).collect();
    assert_eq!(texts, ["x\x1b[1m\\xff\"", "one", "three", "four"]);
    for line in &lines {
        assert_eq!((&line["name"], &line["stream"]), (&"a".into(), &"stdout".into()));
        assert_eq!(line["pid"], up.pid_of("a"));
        without_time(&format!("{} ", line["time"].as_str().unwrap()), "Z");
        let keys: Vec<_> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["line", "name", "pid", "stream", "time"]);
    }
    // All of stderr is JSON, too, but for the lines of b.
    let messages = parse(&err);
    assert_eq!(err.lines().count(), messages.len() + 1, "{err}");
    let started =
        messages.iter().find(|message| message["line"].as_str().unwrap().starts_with("[a] started, pid ")).unwrap();
    assert_eq!((&started["name"], &started["stream"]), (&Value::Null, &"childminder".into()));
    assert!(messages.iter().any(|line| line["stream"] == "stderr" && line["line"] == "two" && line["name"] == "a"));
    let logged = parse(&log);
    assert_eq!((logged.len(), log.lines().count()), (4, 4), "{log}");
    assert!(logged.iter().all(|line| line["time"].as_str().unwrap().ends_with("+05:30")), "{log}");
    up.shutdown();
}

#[test]
fn pieces_of_a_line_have_one_time_in_a_file_and_say_so_in_json() {
    let shell = "head -c 40000 /dev/zero | tr '\\\\0' x; echo; exec sleep 1000";
    let up = Up::start(&format!(
        "[process.a]\nshell = \"{shell}\"\nstdout = \"./a.log\"\ntimestamps = \"utc\"\n\
         [process.b]\nshell = \"{shell}\"\nstdout = \"./b.log\"\nformat = \"json\"\n"
    ));
    let log = up.until_read("a.log", "\n");
    assert_eq!(without_time(log.trim_end(), "Z"), "x".repeat(40_000));
    let lines = until("the last piece", || {
        let log = up.folder.read("b.log");
        (log.lines().count() == 3)
            .then(|| log.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>())
    });
    let marks: Vec<_> = lines.iter().map(|line| (line.get("continued").is_some(), line.get("cut").is_some())).collect();
    assert_eq!(marks, [(false, true), (true, true), (true, false)]);
    up.shutdown();
}

#[test]
fn run_has_them_too() {
    let output = Command::new(PROGRAM)
        .args(["run", "--timestamps=utc", "--restart", "never", "sh", "-c", "echo hello; echo oops >&2"])
        .output()
        .unwrap();
    assert_eq!(without_time(text(&output.stdout).trim_end(), "Z"), "[sh] hello");
    let err = text(&output.stderr);
    let err: Vec<_> = err.lines().map(|line| without_time(line, "Z")).collect();
    assert!(err.contains(&"[sh] oops") && err[0].starts_with("childminder: [sh] started"), "{err:?}");
    let output = Command::new(PROGRAM).args(["run", "--timestamps=noon", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--timestamps wants local, utc or monotonic, not `noon`"));
}

#[test]
fn mistakes_are_told() {
    let folder = Folder::new();
    folder.write("childminder.toml", "[process.a]\ncommand = [\"true\"]\ntimestamps = \"gmt\"\nformat = \"xml\"\n");
    let (code, said) = run(&folder, &["check"]);
    let allowed = [
        "`timestamps` is \"gmt\", allowed is true, false, \"local\", \"utc\" or \"monotonic\"",
        "`format` is \"xml\", allowed is \"text\" or \"json\"",
    ];
    assert!(code == 2 && allowed.iter().all(|allowed| said.contains(allowed)), "{said}");
}

#[test]
fn a_terminal_has_colours_behind_the_time() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\ntimestamps = \"utc\"\n[process.a]\nshell = \"echo hello; exec sleep 1000\"\n",
    );
    let drawn = on_a_terminal(&folder.0, &["up"], &["hello\r\n"]);
    let line = drawn.split("\r\n").find(|line| line.ends_with("hello")).unwrap();
    assert_eq!(without_time(line, "Z"), "\x1b[36m[a]\x1b[0m hello");
    // No control character of a line gets to the terminal.
    folder.write("childminder.toml", "[monitor]\nsocket = \"s\"\nformat = \"json\"\n[process.a]\nshell = \"printf '\\\\033[2Jx\\\\302\\\\2332Jhello\\\\n'; exec sleep 1000\"\n");
    let drawn = on_a_terminal(&folder.0, &["up"], &["hello\""]);
    assert!(drawn.contains("\"line\":\"\\u001b[2Jx\\u009b2Jhello\""), "{drawn:?}");
}
