//! Tests the messages of `childminder up` and `run` about output that they cannot pass on.
#![cfg(feature = "cli")]

mod up_util;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use up_util::{Folder, PROGRAM, Up, needs_the_kernel, text, until};

#[test]
fn leftover_processes_do_not_take_all_descriptors() {
    let folder = Folder::new();
    folder.write(
        "leaver",
        "n=1; until mkdir $n 2>/dev/null; do n=$((n+1)); done\n\
         setsid sh -c \"mkdir left-$n; exec sleep 1000\" &\n\
         until [ -d left-$n ]; do sleep 0.01; done\n\
         [ $n -lt 30 ] || exec sleep 1000\n",
    );
    let up = Up::start_in(
        folder,
        "[process.leaver]\ncommand = [\"sh\", \"./leaver\"]\ndirectory = \".\"\nthreshold = 0\ncontain = \"group\"\n",
    );
    until_started(&up, 30);
    let open = fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap().count();
    assert!(open < 50, "{open}");
    let err = up.folder.read("err");
    let said = "childminder: [leaver] the pipes of an earlier process were still open and are closed now; ";
    assert_eq!(err.matches(said).count(), 29 - 8, "{err}");
}

fn until_started(up: &Up, count: usize) {
    until(&format!("{count} starts"), || (up.folder.read("err").matches("] started").count() >= count).then_some(()));
}

/// Starts `childminder up` with this stdout and stderr.
#[track_caller]
fn start_with(folder: Folder, processes: &str, out: impl Into<Stdio>, err: impl Into<Stdio>) -> Up {
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n\n{processes}"));
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).stdout(out).stderr(err);
    let child = command.spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    up
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer)
}

/// The number in front of this part of a text.
#[track_caller]
fn number_before(text: &str, part: &str) -> usize {
    let (before, _) = text.split_once(part).unwrap_or_else(|| panic!("no {part:?} in {text}"));
    before.rsplit(|char: char| !char.is_ascii_digit()).next().unwrap().parse().unwrap()
}

// The next tests are about files.

#[test]
fn a_log_that_fails_for_a_moment_loses_nothing() {
    let up = Up::start("[process.a]\nshell = \"seq 1000; exec sleep 1000\"\nstdout = \"./logs/log\"\n");
    up.until_read("err", "logs/log: its folder does not exist; `make-folders = true` makes it; ");
    fs::create_dir(up.folder.join("logs")).unwrap();
    // Nothing else happens that would cause another try.
    let expected: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    until("all of it", || (up.folder.read("logs/log") == expected).then_some(()));
    up.until_read("err", "logs/log: can be written again; no line was dropped\n");
    up.shutdown();
}

#[test]
fn lines_that_wait_for_a_log_are_bounded() {
    let up = Up::start(
        "[process.a]\nshell = \"seq 100000 199999; touch done; exec sleep 1000\"\ndirectory = \".\"\nstdout = \"./logs/log\"\n",
    );
    until("all to be written", || up.folder.join("done").exists().then_some(()));
    fs::create_dir(up.folder.join("logs")).unwrap();
    let err = up.until_read("err", "logs/log: can be written again; ");
    let dropped = number_before(&err, " lines were dropped: ");
    assert!(err.contains(&format!("{dropped} lines were dropped: {dropped} of a\n")), "{err}");
    // The first lines are there, in order and whole.
    let log = up.folder.read("logs/log");
    assert!((50_000..=65_536).contains(&log.len()), "{}", log.len());
    assert!(log.lines().zip(100_000..).all(|(line, number)| line == number.to_string()));
    assert_eq!(log.lines().count() + dropped, 100_000);
    up.shutdown();
}

#[test]
fn what_a_log_has_lost_is_told_by_process_at_the_end() {
    let process = |name: &str, lines: u32| {
        format!(
            "[process.{name}]\nshell = \"seq {lines}; exec sleep 1000\"\nstdout = \"./logs/log\"\nstderr = \"./logs/{name}\"\n"
        )
    };
    let up = Up::start(&[process("a", 3), process("b", 2), process("c", 0)].concat());
    up.until_read("err", "; lines wait until it can be written");
    until("all lines", || (up.ok(&["logs"]).lines().count() == 5).then_some(()));
    // One process is removed before the others, together with its file.
    up.write_file(&[process("a", 3), process("c", 0)].concat());
    up.ok(&["reload", "--wait"]);
    let err = up.shutdown();
    assert!(err.contains("logs/log: 5 lines were dropped: 3 of a, 2 of b\n"), "{err}");
}

// The next tests are about the command's own stdout and stderr.

#[test]
fn what_nobody_has_read_is_told_by_process_at_the_end() {
    let (mut reader, writer) = pipe();
    let folder = Folder::new();
    let err = File::create(folder.join("err")).unwrap();
    // This is more than all buffers hold, and the rest is still on its way at the end.
    let process = |name: &str, to: &str| {
        format!("[process.{name}]\nshell = \"seq 100000 115000\"\nrestart = \"never\"\nstdout = \"{to}\"\n")
    };
    let up = start_with(folder, &(process("raw", "/dev/stdout") + &process("marked", "prefix")), writer, err);
    up.until_state("raw", "exited");
    up.until_state("marked", "exited");
    let err = up.shutdown();
    let mut out = String::new();
    reader.read_to_string(&mut out).unwrap();
    let (raw, marked) = (out.matches("\n1").count(), out.matches("[marked] ").count());
    let raw = raw + usize::from(out.starts_with('1'));
    let all = number_before(&err, " lines were dropped: ");
    let (of_raw, of_marked) = (number_before(&err, " of raw"), number_before(&err, " of marked"));
    assert_eq!((raw + of_raw, marked + of_marked, of_raw + of_marked), (15_001, 15_001, all), "{err}");
    assert!(
        err.ends_with(&format!(
            "childminder: stdout: {all} lines were dropped: {of_marked} of marked, {of_raw} of raw\n"
        )),
        "{err}"
    );
}

#[test]
fn what_came_after_the_reader_had_gone_is_told_at_the_end() {
    let (reader, writer) = pipe();
    drop(reader);
    let folder = Folder::new();
    let err = File::create(folder.join("err")).unwrap();
    let up = start_with(folder, "[process.a]\nshell = \"seq 10; exec sleep 1000\"\n", writer, err);
    until("all lines", || (up.ok(&["logs"]).lines().count() == 10).then_some(()));
    let err = up.shutdown();
    assert!(err.ends_with("childminder: stdout: nobody reads it any more; 10 lines were dropped: 10 of a\n"), "{err}");
}

#[test]
fn run_tells_of_what_it_cannot_write() {
    let run = |out: Stdio| {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--restart", "never", "seq", "5"]).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        text(&output.stderr)
    };
    let said = run(File::options().write(true).open("/dev/full").unwrap().into());
    let why = "childminder: stdout: No space left on device (os error 28); lines are dropped until it can be written\n";
    assert!(said.contains(why) && said.ends_with("childminder: stdout: 5 lines were dropped: 5 of seq\n"), "{said}");
    let (reader, writer) = pipe();
    drop(reader);
    let said = run(writer.into());
    assert!(
        said.ends_with("childminder: stdout: nobody reads it any more; 5 lines were dropped: 5 of seq\n"),
        "{said}"
    );
}

#[test]
fn run_counts_the_lines_that_a_full_file_has_not() {
    if !needs_the_kernel("start below a limit of the size of files") {
        return;
    }
    let folder = Folder::new();
    let script = "ulimit -f 1; exec \"$0\" run --restart never -- sh -c 'seq 1000; sleep 0.1; seq 1000' >out 2>err";
    let mut command = Command::new("sh");
    assert!(command.args(["-c", script, PROGRAM]).current_dir(&folder.0).status().unwrap().success());
    let (out, err) = (folder.read("out"), folder.read("err"));
    assert!(!out.ends_with('\n'), "it ends within a line");
    let dropped = 2000 - out.matches('\n').count();
    assert!(err.ends_with(&format!("stdout: {dropped} lines were dropped: {dropped} of sh\n")), "{err}");
}

#[test]
fn run_that_is_told_to_end_tells_what_nobody_has_read() {
    let (mut reader, writer) = pipe();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "sh", "-c", "seq 100000 120000; echo done >&2; exec sleep 1000"]);
    let mut child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line == "[sh] done"));
    up_util::kill(child.id() as i32, rustix::process::Signal::TERM);
    let last = said.last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut out = String::new();
    reader.read_to_string(&mut out).unwrap();
    let dropped = number_before(&last, " lines were dropped: ");
    assert_eq!(out.lines().count() + dropped, 20_001, "{last}");
    assert_eq!(last, format!("childminder: stdout: {dropped} lines were dropped: {dropped} of sh"));
}
