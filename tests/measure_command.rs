//! Tests the command `childminder measure` as a user sees it: the table, the JSON, the exit codes,
//! the limits and the keys of a terminal.
//!
//! The one rule: the JSON is read by a parser, and never searched for words.
#![cfg(feature = "cli")]

mod run_util;

#[path = "run_util/terminal.rs"]
mod terminal;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use run_util::{Scratch, WATCHDOG};
use serde_json::Value;
use terminal::Terminal;

/// The command with these arguments, on pipes.
fn measure(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_childminder"));
    command.arg("measure").args(args).stdin(Stdio::null());
    command
}

#[track_caller]
fn run(args: &[&str]) -> Output {
    measure(args).output().expect("the command")
}

/// The runs in the JSON on stdout.
#[track_caller]
fn runs(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("UTF-8");
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    value.as_array().expect("an array").clone()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_is_passed_through_and_measured() {
    let mut child = measure(&["--json", "-", "--", "sh", "-c", "cat; echo err >&2; exit 3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let [run] = &runs(&output)[..] else { panic!("one run") };
    assert_eq!((&run["ended_by"], &run["code"], &run["signal"]), (&"exit".into(), &3.into(), &Value::Null));
    for key in ["wall_s", "cpu_s", "user_s", "system_s"] {
        assert!(run[key].as_f64().is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{key}: {run}");
    }
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        assert!(run["peak_memory"].as_u64().is_some_and(|bytes| (100_000..100 << 20).contains(&bytes)), "{run}");
    }
    assert!(["tree", "reaped", "leader"].map(Value::from).contains(&run["covers"]), "{run}");
    assert!(["cgroup", "group"].map(Value::from).contains(&run["containment"]), "{run}");
    // Its stdout is on our stderr, because the JSON has our stdout.
    let err = text(&output.stderr);
    assert!(err.starts_with("input\nerr\n   run  ended by "), "{err}");
    assert!(err.contains("\n     1  exit 3  "), "{err}");
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let code = |args: &[&str]| run(args).status.code();
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["sh", "-c", "exit 42"]), Some(42));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["--wall", "0.05", "sleep", "1000"]), Some(124));
    assert_eq!(code(&["/no/such/program"]), Some(127));
    assert_eq!(code(&["/etc/passwd"]), Some(126));
    assert_eq!(code(&["--nonsense", "true"]), Some(2));
    assert_eq!(code(&["--runs", "3", "true"]), Some(0));
    let scratch = Scratch::new("codes");
    let once = scratch.path("once");
    assert_eq!(code(&["--runs", "3", "--", "sh", "-c", "mkdir \"$0\" 2>/dev/null", &once]), Some(1));
}

#[test]
fn a_limit_that_cannot_be_had_starts_nothing() {
    let scratch = Scratch::new("refused");
    let there = scratch.path("there");
    // More than any machine can have, so that it cannot be a limit, or no controller.
    let output = run(&["--processes", "18446744073709551615", "touch", &there]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).starts_with("childminder: cannot start `touch`: limit: "), "{}", text(&output.stderr));
    assert!(fs::metadata(&there).is_err());
}

#[test]
fn every_limit_has_its_own_reason() {
    let reason = |args: &[&str]| runs(&run(args)).first().map(|run| run["ended_by"].clone());
    assert_eq!(reason(&["--json", "-", "--wall", "0.05", "sleep", "1000"]), Some("wall".into()));
    assert_eq!(reason(&["--json", "-", "--output-limit", "100", "yes"]), Some("output".into()));
    assert_eq!(reason(&["--json", "-", "sh", "-c", "kill -SEGV $$"]), Some("signal".into()));
    let spin = ["--json", "-", "--cpu", "0.1", "--", "sh", "-c", "while :; do :; done"];
    let output = run(&spin);
    // Without a cgroup it is refused.
    if output.status.code() != Some(125) {
        assert_eq!(runs(&output)[0]["ended_by"], "cpu");
        let soft = ["--json", "-", "--cpu", "1:20", "--", "sh", "-c", "trap 'exit 7' TERM; while :; do :; done"];
        let output = run(&soft);
        assert_eq!(
            (runs(&output)[0]["ended_by"].clone(), runs(&output)[0]["code"].clone()),
            ("cpu-soft".into(), 7.into())
        );
        assert_eq!(output.status.code(), Some(124));
    }
}

/// Whatever the program writes, and whatever bytes are in its name.
#[test]
fn the_json_is_valid_whatever_is_written() {
    let scratch = Scratch::new("json");
    let file = scratch.path("figures");
    let noise = "head -c 100000 /dev/urandom; printf '\"}]\\n\\0\\377' >&2; exit 1";
    for target in ["-", &file] {
        let mut command = measure(&["--json", target, "--runs", "3", "--output-limit", "1M"]);
        let output = command.args(["--", "sh", "-c", noise]).output().unwrap();
        let json = if target == "-" { output.stdout } else { fs::read(&file).unwrap() };
        let value: Value = serde_json::from_slice(&json).expect("valid JSON");
        assert_eq!(value.as_array().unwrap().len(), 3);
        assert!(value.as_array().unwrap().iter().all(|run| run["code"] == 1));
    }
    // A program that is not there is reported in it, too.
    let output = run(&["--json", "-", "/no/such/\u{1b}program"]);
    assert!(runs(&output)[0]["error"].as_str().unwrap().contains("/no/such/"));
}

#[test]
fn files_are_read_anew_and_written_in_a_row() {
    let scratch = Scratch::new("files");
    let [input, out, err] = ["input", "out", "err"].map(|name| scratch.path(name));
    fs::write(&input, "word\n").unwrap();
    fs::write(&out, "old\n").unwrap();
    let args = ["--runs", "3", "--quiet", "--input", &input, "--stdout", &out, "--stderr", &err];
    let output = measure(&args).args(["--", "sh", "-c", "cat; echo err >&2"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "word\nword\nword\n");
    assert_eq!(fs::read_to_string(&err).unwrap(), "err\nerr\nerr\n");
    let output = run(&["--input", "/no/such/file", "true"]);
    assert_eq!((output.status.code(), text(&output.stderr).contains("/no/such/file: ")), (Some(125), true));
}

#[test]
fn the_output_limit_passes_on_what_is_below_it() {
    let output = run(&["--quiet", "--output-limit", "10", "--", "sh", "-c", "printf 12345; sleep 1000 >&2 & yes"]);
    assert!(output.stdout.starts_with(b"12345y\ny\ny") && output.stdout.len() == 10, "{}", text(&output.stdout));
    let output = run(&["--quiet", "--output-limit", "10", "--", "sh", "-c", "printf 12345; printf 67890 >&2"]);
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"12345"[..], &b"67890"[..]));
    assert!(output.status.success());
}

#[test]
fn a_run_that_a_limit_ended_has_not_succeeded() {
    let polite = "trap 'exit 0' TERM; echo too much; while :; do sleep 0.01; done";
    let output = run(&["--json", "-", "--output-limit", "1", "--", "sh", "-c", polite]);
    let run = &runs(&output)[0];
    assert_eq!((run["ended_by"].as_str(), run["code"].as_i64()), (Some("output"), Some(0)));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn jobs_have_cores_of_their_own() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        return;
    }
    let args = ["--json", "-", "--runs", "6", "--jobs", "2", "nproc"];
    let output = run(&args);
    let runs = runs(&output);
    let mut sets: Vec<String> = runs.iter().map(|run| run["cores"].as_str().unwrap().to_owned()).collect();
    sets.sort();
    sets.dedup();
    assert_eq!((runs.len(), sets.len()), (6, 2), "{sets:?}");
    let output = run_args(&["--jobs", "100000", "--runs", "100000", "true"]);
    assert_eq!((output.0, output.1.contains("--jobs: 100000 jobs side by side need")), (Some(2), true), "{}", output.1);
    let output = run_args(&["--cores", "9000", "true"]);
    assert_eq!(output.0, Some(125), "{}", output.1);
}

fn run_args(args: &[&str]) -> (Option<i32>, String) {
    let output = run(args);
    (output.status.code(), text(&output.stderr))
}

#[test]
fn the_table_fits_a_terminal() {
    let output = run(&["--runs", "12", "--", "sh", "-c", "exit 255"]);
    let err = text(&output.stderr);
    assert_eq!(err.lines().count(), 1 + 12 + 3, "{err}");
    assert!(err.lines().all(|line| line.len() <= 80), "{err}");
    let names: Vec<&str> = err.lines().skip(13).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["min", "med", "max"]);
}

/// A tree that ends at SIGTERM with a word, in a session of its own.
const POLITE: &str = "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
const STUBBORN: &str = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done";

#[test]
fn ctrl_c_ends_it_in_order() {
    let mut terminal = Terminal::start("measure", &["--", "sh", "-c", POLITE]);
    terminal.expect("ready", 1);
    terminal.type_in(b"\x03");
    assert_eq!(terminal.wait(), Some(9));
    assert!(terminal.said.contains("asked\r\n") && terminal.said.contains("     1  asked  "), "{}", terminal.said);
}

#[test]
fn a_second_ctrl_c_kills() {
    let mut terminal = Terminal::start("measure", &["--kill-time", "1000", "--", "sh", "-c", STUBBORN]);
    terminal.expect("ready", 1);
    terminal.type_in(b"\x03");
    terminal.expect("asked", 1);
    // An echo of the first one within 0.2 s does not count.
    let end = terminal.reactor.now() + WATCHDOG;
    while terminal.code.is_none() {
        assert!(terminal.reactor.now() < end, "{}", terminal.said);
        terminal.type_in(b"\x03");
        terminal.turn(std::time::Duration::from_millis(50));
    }
    assert_eq!(terminal.code, Some(137));
}

#[test]
fn the_progress_is_shown_on_a_terminal_and_goes() {
    let mut terminal = Terminal::start("measure", &["--runs", "3", "--", "sh", "-c", "sleep 0.05"]);
    assert_eq!(terminal.wait(), Some(0));
    assert!(terminal.said.contains("0 of 3 runs are over, 1 in progress"), "{}", terminal.said);
    assert!(terminal.said.contains("\r\x1b[K   run  ended by"), "{}", terminal.said);
    let table = terminal.said.rsplit("\x1b[K").next().unwrap();
    assert!(table.lines().count() == 7 && table.lines().all(|line| line.len() <= 80), "{table}");
}

#[test]
fn what_a_run_writes_without_a_newline_stays_on_the_terminal() {
    for args in [&["--runs", "2", "--", "printf", "written"][..], &["--", "printf", "written"]] {
        let mut terminal = Terminal::start("measure", args);
        assert_eq!(terminal.wait(), Some(0));
        let (line, table) = terminal.said.rsplit_once("\r\x1b[K").unwrap();
        assert!(table.starts_with("   run  ended by"), "{}", terminal.said);
        // Spaces up to the right edge take the cursor to the next line, unless it is in the first
        // column.
        assert!(line.contains("written") && line.ends_with(&" ".repeat(79)), "{}", terminal.said);
        for after in terminal.said.split("written").skip(1) {
            let kept = after.split("\x1b[K").next().unwrap();
            assert!(kept == after || !kept.ends_with('\r') || kept.contains(&" ".repeat(79)), "{after:?}");
        }
    }
}

#[test]
fn a_terminal_is_no_input() {
    let mut terminal = Terminal::start("measure", &["--", "sh", "-c", "cat; tty || :"]);
    assert_eq!(terminal.wait(), Some(0));
    assert!(terminal.said.contains("not a tty"), "{}", terminal.said);
}

#[test]
fn a_mistake_is_one_line() {
    for args in [&["--wall", "x", "true"][..], &["--runs", "0", "true"], &[], &["--cpu", "2:1", "true"]] {
        let (code, said) = run_args(args);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    }
    let help = run(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).lines().all(|line| line.len() <= 120));
}
