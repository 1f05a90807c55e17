//! Tests the output of processes under `childminder up`: the bytes in files and on descriptors, and
//! the pieces that `logs` shows.
#![cfg(feature = "cli")]

mod up_util;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit};
use serde_json::Value;
use up_util::{Folder, PROGRAM, Up, text, until};

/// Starts `childminder up` by a line for the shell, in which it is `"$0"`.
#[track_caller]
fn start_by(folder: Folder, script: &str, processes: &str) -> Up {
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n\n{processes}"));
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM]).current_dir(&folder.0).stdin(Stdio::null());
    let child = command.spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    up
}

/// Waits until the file has exactly this content. A failure shows it with its long runs cut.
#[track_caller]
fn until_is(up: &Up, name: &str, expected: &str) {
    let show = |text: &str| if text.len() < 300 { text.to_owned() } else { format!("{} bytes", text.len()) };
    let what = format!("{name} to be {:?}", show(expected));
    until(&what, || (up.folder.read(name) == expected).then_some(()));
}

fn make_fifo(folder: &Folder, name: &str) -> std::path::PathBuf {
    assert!(Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
    folder.join(name)
}

/// The descriptors that the tests themselves were started with and that their children inherit.
fn inherited_by_children() -> Vec<i32> {
    let script = "for i in $(seq 3 39); do if [ -e /proc/$$/fd/$i ]; then echo $i; fi; done";
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    text(&output.stdout).lines().map(|number| number.parse().unwrap()).collect()
}

const WAIT: &str = "wait_for() { until [ -e $1 ]; do sleep 0.02; done; }; ";

// The next tests are about files.

#[test]
fn a_file_has_the_bytes_that_were_written() {
    let up = Up::start(
        "[process.long]\nshell = \"printf 'one\\\\n\\\\n'; head -c 40000 /dev/zero | tr '\\\\0' x; printf '\\\\nbytes \\\\377\\\\000\\\\r\\\\nlast words'\"\n\
         restart = \"never\"\nstdout = \"./long.log\"\n\
         [process.text]\nshell = \"i=0; while [ $i -lt 9000 ]; do printf €; i=$((i+1)); done; echo\"\nrestart = \"never\"\nstdout = \"./text.log\"\n",
    );
    let expected = [b"one\n\n", &[b'x'; 40_000][..], b"\nbytes \xff\0\r\nlast words"].concat();
    until("all of it", || (fs::read(up.folder.join("long.log")).unwrap_or_default() == expected).then_some(()));
    until_is(&up, "text.log", &("€".repeat(9000) + "\n"));
    up.until_state("long", "exited");
    up.shutdown();
}

#[test]
fn what_comes_between_is_a_line_of_its_own() {
    let up = Up::start(&format!(
        "[process.long]\nshell = \"{WAIT}head -c 20000 /dev/zero | tr '\\\\0' x; wait_for go-on; echo end; printf last\"\nrestart = \"never\"\nstdout = \"./log\"\nstderr = \"./log\"\n\
         [process.short]\nshell = \"{WAIT}wait_for between; echo out; echo err >&2; wait_for after; echo after\"\nrestart = \"never\"\nstdout = \"./log\"\nstderr = \"./log\"\n"
    ));
    let piece = "x".repeat(16_384);
    until_is(&up, "log", &piece);
    up.folder.write("between", "");
    until("what is between", || (up.folder.read("log").len() == piece.len() + 9).then_some(()));
    up.folder.write("go-on", "");
    up.until_state("long", "exited");
    let between = up.folder.read("log")[piece.len()..][..9].to_owned();
    assert!(between == "\nout\nerr\n" || between == "\nerr\nout\n", "{between:?}");
    let expected = format!("{piece}{between}{}end\nlast", "x".repeat(20_000 - 16_384));
    until_is(&up, "log", &expected);
    up.folder.write("after", "");
    until_is(&up, "log", &format!("{expected}\nafter\n"));
    // The same process runs again, and the next supervisor uses the same file.
    up.ok(&["start", "long", "--wait"]);
    up.until_state("long", "exited");
    until("the second time", || up.folder.read("log").ends_with("end\nlast").then_some(()));
    assert!(up.folder.read("log").starts_with(&format!("{expected}\nafter\nx")));
    let mut up = up;
    up.ok(&["shutdown", "--wait"]);
    up.wait();
    let folder = std::mem::replace(&mut up.folder, Folder::new());
    let up = Up::start_in(folder, "[process.next]\nshell = \"echo next; exec sleep 1000\"\nstdout = \"./log\"\n");
    until("the next life", || up.folder.read("log").ends_with("end\nlast\nnext\n").then_some(()));
}

#[test]
fn two_processes_of_one_name_are_two() {
    let folder = Folder::new();
    // The first process leaves another one behind, outside of its group, which holds its pipe.
    let write = |number: u8| format!("head -c 20000 /dev/zero | tr '\\0' {number}");
    folder.write("left-behind", &format!("{WAIT}touch left; wait_for first; {}; wait_for end; echo\n", write(1)));
    folder.write(
        "run",
        &format!(
            "{WAIT}if mkdir started; then setsid sh ./left-behind & wait_for left; exit; fi\n{}; wait_for second; echo; exec sleep 1000\n",
            write(2)
        ),
    );
    let up = Up::start_in(
        folder,
        "[process.a]\ncommand = [\"sh\", \"./run\"]\ndirectory = \".\"\nmin-restart-delay = \"10ms\"\nmax-restart-delay = \"10ms\"\nstdout = \"./log\"\ncontain = \"group\"\n",
    );
    let mut expected = "2".repeat(16_384);
    for (file, more) in [
        ("first", format!("\n{}", "1".repeat(16_384))),
        ("second", format!("\n{}\n", "2".repeat(20_000 - 16_384))),
        ("end", format!("{}\n", "1".repeat(20_000 - 16_384))),
    ] {
        until_is(&up, "log", &expected);
        up.folder.write(file, "");
        expected += &more;
    }
    until_is(&up, "log", &expected);
}

// This is what logrotate does. A process that writes again gets the new file, and a silent one
// keeps no old file open.
#[test]
fn moved_away_files_are_let_go_when_asked() {
    let up = Up::start(
        "[process.it]\nshell = \"for i in 1 2 3; do echo $i; until [ -e go$i ]; do sleep 0.02; done; done; exec sleep 1000\"\n\
         directory = \".\"\nstdout = \"./it.log\"\n",
    );
    let rename = |new: &str| fs::rename(up.folder.join("it.log"), up.folder.join(new)).unwrap();
    let holds = |name: &str| {
        let there = up.folder.join(name);
        let mut links = fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap();
        links.any(|link| fs::read_link(link.unwrap().path()).is_ok_and(|to| to == there))
    };
    until_is(&up, "it.log", "1\n");
    rename("first");
    assert!(holds("first"));
    assert_eq!(up.ok(&["reopen"]), "");
    assert!(!holds("first"));
    up.folder.write("go1", "");
    until_is(&up, "it.log", "2\n");
    // The signal has the same effect.
    rename("second");
    up.signal(rustix::process::Signal::USR2);
    until("the second file to be let go", || (!holds("second")).then_some(()));
    up.folder.write("go2", "");
    until_is(&up, "it.log", "3\n");
    assert_eq!((up.folder.read("first"), up.folder.read("second")), ("1\n".into(), "2\n".into()));
    assert_eq!(up.fails(&["reopen", "it"]).0, 2);
    up.shutdown();
}

#[test]
fn rotated_files_together_are_what_was_written() {
    let script = "for size in 40000 100 250000 7 99998 30000 30000 30000 30000; do head -c $size /dev/zero | tr '\\\\0' $((size % 9)); echo; done";
    let up = Up::start(&format!(
        "[process.a]\nshell = \"{script}\"\nrestart = \"never\"\nstdout = {{ file = \"./log\", max-size = 100000, keep = 50 }}\n"
    ));
    up.until_state("a", "exited");
    let sizes = [40_000, 100, 250_000, 7, 99_998, 30_000, 30_000, 30_000, 30_000];
    let expected: String = sizes.map(|size: usize| (size % 9).to_string().repeat(size) + "\n").concat();
    let read = || {
        let numbers = (1..50).rev().map(|number| up.folder.read(&format!("log.{number}")));
        numbers.chain([up.folder.read("log")]).filter(|file| !file.is_empty()).collect::<Vec<_>>()
    };
    until("all of it", || (read().concat() == expected).then_some(()));
    for file in read() {
        // Only a line that is longer than a file is cut. Any other may make a file larger than its
        // size.
        assert!(file.len() < 200_000, "{}", file.len());
        assert!(file.ends_with('\n') || file.ends_with('7'), "{}", file.len());
    }
    up.shutdown();
}

#[test]
fn a_named_pipe_makes_no_process_wait() {
    let folder = Folder::new();
    let pipe = make_fifo(&folder, "pipe");
    symlink("pipe", folder.join("link")).unwrap();
    folder.write(
        "run",
        &format!(
            "{WAIT}until [ -e heard ]; do echo is anybody there; sleep 0.05; done\n\
             wait_for flood; seq 100000; touch done; wait_for read\n\
             i=100000; until [ -e told ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end; exec sleep 1000\n"
        ),
    );
    let up = Up::start_in(
        folder,
        "[process.a]\ncommand = [\"sh\", \"./run\"]\ndirectory = \".\"\nstdout = { file = \"./link\", max-size = 10, keep = 1 }\n",
    );
    let err = up.until_read("err", "no process reads this named pipe");
    assert!(
        err.contains("/link: no process reads this named pipe; lines wait until it can be written, and are dropped if they become too many"),
        "{err}"
    );
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    let mut got = Vec::new();
    let mut read = || {
        let mut buffer = vec![0; 1 << 17];
        let count = reader.read(&mut buffer).unwrap_or(0);
        got.extend_from_slice(&buffer[..count]);
        text(&got)
    };
    up.until_read("err", "/link: can be written again; no line was dropped\n");
    up.folder.write("heard", "");
    // The pipe is not read now, and the process goes on nevertheless.
    up.folder.write("flood", "");
    until("the process to go on", || up.folder.join("done").exists().then_some(()));
    up.until_read(
        "err",
        "/link: it is read too slowly; lines wait until it can be written, and are dropped if they become too many",
    );
    up.folder.write("read", "");
    let told = until("the recovery", || {
        let (_, err) = (read(), up.folder.read("err"));
        (err.matches("can be written again").count() == 2).then_some(err)
    });
    up.folder.write("told", "");
    until("all of it", || read().contains("end\n").then_some(()));
    let dropped: usize =
        told.rsplit_once(" lines were dropped: ").unwrap().0.rsplit(' ').next().unwrap().parse().unwrap();
    let numbers: Vec<usize> = read().lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(Some(numbers.len() + dropped), numbers.last().copied());
    assert!(pipe.metadata().unwrap().file_type().is_fifo() && up.folder.join("link").is_symlink());
    assert!(!up.folder.join("link.1").exists() && !up.folder.join("pipe.1").exists());
    up.shutdown();
}

#[test]
fn what_was_dropped_is_told_at_the_end() {
    let why = "No space left on device (os error 28); lines ";
    let two = |to: &str| format!("[process.a]\nshell = \"echo 1; echo 2; exec sleep 1000\"\nstdout = \"{to}\"\n");
    let up = Up::start(&two("/dev/full"));
    up.until_read("err", &format!("/dev/full: {why}"));
    let err = up.shutdown();
    assert!(err.contains("childminder: /dev/full: 2 lines were dropped: 2 of a\n"), "{err}");

    // The same holds for an output of the command.
    let up = start_by(Folder::new(), "exec \"$0\" up >/dev/full 2>err", &two("/dev/stdout"));
    up.until_read("err", &format!("stdout: {why}"));
    let err = up.shutdown();
    assert!(
        err.ends_with("childminder: stdout: 2 lines were dropped: 2 of a\n") && err.matches(why).count() == 1,
        "{err}"
    );
}

#[test]
fn a_line_that_was_torn_is_not_glued_to_the_next() {
    let folder = Folder::new();
    folder.write(
        "run",
        &format!("{WAIT}wait_for go; seq 1000; wait_for room; until [ -e over ]; do echo next; sleep 0.05; done; exec sleep 1000\n"),
    );
    let process = |name: &str, to: &str| {
        format!("[process.{name}]\ncommand = [\"sh\", \"./run\"]\ndirectory = \".\"\nstdout = \"{to}\"\n")
    };
    let up = Up::start_in(folder, &[process("a", "/dev/stdout"), process("b", "./log")].concat());
    let limit = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Pid::from_raw(up.pid()), Resource::Fsize, limit).unwrap();
    };
    // The limit is in the middle of a number.
    limit(Some(1025));
    up.folder.write("go", "");
    let why = "File too large (os error 27); lines ";
    until("both to be full", || (up.folder.read("err").matches(why).count() == 2).then_some(()));
    limit(None);
    up.folder.write("room", "");
    let numbers: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    let written = up.until_read("out", "next\n");
    assert!(!numbers[..1025].ends_with('\n') && written.starts_with(&numbers[..1025]), "{written}");
    assert!(written[1025..].starts_with("\nnext\n"), "{written}");
    up.until_read("err", "stdout: can be written again; ");
    // Lines that could not be written to the file have waited, and the torn line goes on.
    let written = up.until_read("log", "next\n");
    assert!(written.starts_with(&format!("{numbers}next\n")), "{written}");
    up.until_read("err", "/log: can be written again; no line was dropped\n");
    up.folder.write("over", "");
    let lost = 1000 - numbers[..1025].matches('\n').count();
    let err = up.shutdown();
    assert!(err.contains(&format!("stdout: can be written again; {lost} lines were dropped: {lost} of a\n")), "{err}");
}

// The next tests are about the command's own descriptors.

#[test]
fn a_link_to_stdout_is_stdout() {
    let folder = Folder::new();
    symlink("/proc/self/fd/1", folder.join("link")).unwrap();
    let up = Up::start_in(
        folder,
        "[process.a]\nshell = \"seq 30; head -c 40000 /dev/zero | tr '\\\\0' x; echo; echo oops >&2; exec sleep 1000\"\n\
         stdout = { file = \"./link\", max-size = 100, keep = 2 }\nstderr = \"/dev/stderr\"\n",
    );
    let lines: String = (1..=30).map(|number| format!("{number}\n")).collect();
    until_is(&up, "out", &format!("{lines}{}\n", "x".repeat(40_000)));
    up.until_read("err", "\noops\n");
    assert!(up.folder.join("link").is_symlink() && !up.folder.join("link.1").exists());
    // The lines pass through the command.
    assert!(up.ok(&["logs", "a"]).contains("[a] oops\n"));
    up.shutdown();
}

#[test]
fn lines_with_and_without_a_mark_are_not_glued() {
    // stdout and stderr are one file.
    let up = start_by(
        Folder::new(),
        "exec \"$0\" up >both 2>&1",
        &format!(
            "[process.raw]\nshell = \"{WAIT}printf unfinished; wait_for go\"\nrestart = \"never\"\nstdout = \"/dev/stdout\"\nstderr = \"/dev/stderr\"\n\
             [process.marked]\nshell = \"{WAIT}wait_for words; echo between; touch said; exec sleep 1000\"\n"
        ),
    );
    up.folder.write("go", "");
    // The exit is reported on stderr.
    let both = up.until_read("both", "[raw] exited");
    assert!(both.contains("\nunfinished\nchildminder: [raw] exited"), "{both}");
    up.ok(&["start", "raw", "--wait"]);
    until("the second end", || (up.folder.read("both").matches("[raw] exited").count() == 2).then_some(()));
    up.folder.write("words", "");
    let both = up.until_read("both", "\n[marked] between\n");
    assert!(
        both.lines().all(|line| line == "unfinished" || line.starts_with("childminder: ") || line.starts_with('[')),
        "{both}"
    );
}

#[test]
fn a_socket_is_written_as_it_is() {
    let folder = Folder::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.raw]\nshell = \"echo raw; exec sleep 1000\"\nstdout = \"/dev/stdout\"\n\
         [process.direct]\nshell = \"echo direct; readlink /proc/self/fd/2; exec sleep 1000\"\nstdout = { file = \"/dev/stdout\", direct = true }\nstderr = { file = \"/dev/fd/1\", direct = true }\n",
    );
    let mut command = Command::new(PROGRAM);
    let err = File::create(folder.join("err")).unwrap();
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).stderr(err);
    let child = command.spawn().unwrap();
    drop(command);
    let mut up = Up { folder, child };
    up.wait_for_socket();
    ours.set_nonblocking(true).unwrap();
    let mut got = String::new();
    until("all three", || {
        let mut buffer = [0; 1000];
        let count = (&ours).read(&mut buffer).unwrap_or(0);
        got += &text(&buffer[..count]);
        ["raw\n", "direct\n", "socket:["].iter().all(|part| got.contains(part)).then_some(())
    });
    up.shutdown();
}

#[test]
fn an_inherited_descriptor_is_written_and_no_other_one() {
    let numbers = |numbers: &[i32], extra: &str| -> String {
        let one = |number: &i32| {
            format!(
                "[process.p{number}]\nshell = \"echo {number}; exec sleep 1000\"\nstdout = {{ file = \"/dev/fd/{number}\"{extra} }}\n"
            )
        };
        numbers.iter().map(one).collect()
    };
    let script = "exec \"$0\" up >out 2>err 7>>seven 9>>nine";
    for extra in ["", ", direct = true"] {
        let folder = Folder::new();
        // The file has content already, so that opening it anew would overwrite that.
        folder.write("seven", "before\n");
        let up = start_by(folder, script, &numbers(&[7, 9], extra));
        until_is(&up, "seven", "before\n7\n");
        until_is(&up, "nine", "9\n");
        up.write_file(&numbers(&[7, 8], extra));
        let (_, said) = up.fails(&["reload"]);
        let expected =
            "`stdout` is the file \"/dev/fd/8\", allowed is a descriptor that was open when this command was started";
        assert!(said.contains("childminder.toml:9:10: ") && said.contains(expected), "{said}");
        up.shutdown();

        // The descriptors that the supervisor has opened itself are among these numbers.
        let up = Up::start("[process]\n");
        let open = fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap().count();
        assert!((6..37).contains(&open), "{open}");
        let inherited = inherited_by_children();
        let all: Vec<i32> = (3..40).filter(|number| !inherited.contains(number)).collect();
        up.write_file(&numbers(&all, extra));
        let (_, said) = up.fails(&["reload"]);
        assert_eq!(said.matches("allowed is a descriptor that was open").count(), all.len(), "{said}");
        up.shutdown();
    }
    // `check` cannot know which descriptors are open for `up`.
    let folder = Folder::new();
    folder.write("childminder.toml", &numbers(&[8], ""));
    assert!(Command::new(PROGRAM).arg("check").current_dir(&folder.0).status().unwrap().success());
    let output = Command::new(PROGRAM).arg("up").current_dir(&folder.0).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn a_slow_reader_makes_only_its_own_writers_wait() {
    let folder = Folder::new();
    // Both are open here, and not read at first.
    let [pipe, mut out] = ["pipe", "out"].map(|name| {
        let flags = libc::O_NONBLOCK;
        File::options().read(true).write(true).custom_flags(flags).open(make_fifo(&folder, name)).unwrap()
    });
    let counts = |name: &str, to: &str| {
        format!(
            "[process.{name}]\nshell = \"i=0; while :; do i=$((i+1)); echo $i >{name}.count; seq 1000; done\"\nstdout = \"{to}\"\n"
        )
    };
    let up = start_by(
        folder,
        "exec \"$0\" up >out 2>err 7>pipe",
        &[counts("seven", "/dev/fd/7"), counts("raw", "/dev/stdout"), counts("filed", "/dev/null")].concat(),
    );
    let count = |name: &str| up.folder.read(&format!("{name}.count")).trim().parse::<u32>().unwrap_or(0);
    let stands_still = |name: &str| {
        let (mut last, mut same) = (0, 0);
        until(&format!("{name} to wait"), || {
            let now = count(name);
            same = if now == last && now > 0 { same + 1 } else { 0 };
            last = now;
            (same > 30).then_some(())
        });
    };
    stands_still("seven");
    stands_still("raw");
    let filed = count("filed");
    until("filed to go on", || (count("filed") > filed + 10).then_some(()));
    // A reader of stdout makes the writer of stdout go on, and not the other one.
    let (raw, seven) = (count("raw"), count("seven"));
    let mut got = Vec::new();
    until("raw to go on", || {
        let mut buffer = vec![0; 1 << 16];
        let length = out.read(&mut buffer).unwrap_or(0);
        got.extend_from_slice(&buffer[..length]);
        (count("raw") > raw + 200).then_some(())
    });
    assert_eq!(count("seven"), seven);
    // The lines are in order and whole.
    let got = text(&got);
    let lines: Vec<u32> = got.lines().filter_map(|line| line.parse().ok()).collect();
    let whole = &lines[..lines.len() - 1];
    assert!(whole.windows(2).all(|pair| pair[1] == pair[0] % 1000 + 1), "{whole:?}");
    drop(pipe);
}

// The next tests are about files that a process writes itself.

#[test]
fn a_direct_file_that_cannot_be_opened_concerns_its_process_alone() {
    let folder = Folder::new();
    let pipe = make_fifo(&folder, "pipe");
    let direct = |name: &str, file: &str| {
        format!(
            "[process.{name}]\nshell = \"echo {name}; exec sleep 1000\"\nstdout = {{ file = \"{file}\", direct = true }}\nmin-restart-delay = \"50ms\"\nmax-restart-delay = \"50ms\"\n"
        )
    };
    let good = "[process.good]\nshell = \"echo good; exec sleep 1000\"\n";
    let all = [direct("gone", "./no/log"), direct("pipe", "./pipe"), direct("folder", "."), good.to_owned()].concat();
    let up = Up::start_in(folder, &all);
    up.until_read("out", "[good] good\n");
    let why = |name: &str| up.status(name)["start_error"].as_str().unwrap_or_default().to_owned();
    let gone = why("gone");
    assert!(
        gone.starts_with("cannot start `/bin/sh`: open /")
            && gone.ends_with("/no/log: its folder does not exist; `make-folders = true` makes it"),
        "{gone}"
    );
    assert!(why("pipe").ends_with("(os error 6) (no process reads this named pipe)"), "{}", why("pipe"));
    assert!(why("folder").contains("Is a directory"), "{}", why("folder"));
    assert_eq!(up.status("gone")["state"], "backing-off");
    // The same holds at a reload, and the other processes run on.
    let pid = up.pid_of("good");
    up.write_file(&[&all, &direct("more", "./not/there")[..]].concat());
    assert_eq!(up.ok(&["reload"]), "added more\n");
    until("the new one to fail", || why("more").contains("not/there: its folder does not exist").then_some(()));
    assert_eq!(up.pid_of("good"), pid);
    // The process starts as soon as the file can be opened.
    fs::create_dir(up.folder.join("no")).unwrap();
    up.until_read("no/log", "gone\n");
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(pipe).unwrap();
    let mut got = [0; 5];
    until("the pipe's process", || (reader.read(&mut got).unwrap_or(0) == 5 && &got == b"pipe\n").then_some(()));
    up.until_state("gone", "running");
    assert_eq!(why("gone"), "");
    up.shutdown();
}

#[test]
fn a_direct_file_is_opened_at_each_start() {
    let up = Up::start(
        "[process.web]\nshell = \"echo start; echo too >&2; exec sleep 1000\"\nstdout = { file = \"./web.log\", direct = true }\nstderr = { file = \"./web.log\", direct = true }\n",
    );
    until_is(&up, "web.log", "start\ntoo\n");
    up.ok(&["restart", "web", "--wait"]);
    until_is(&up, "web.log", "start\ntoo\nstart\ntoo\n");
    fs::rename(up.folder.join("web.log"), up.folder.join("web.log.1")).unwrap();
    up.ok(&["restart", "web", "--wait"]);
    until_is(&up, "web.log", "start\ntoo\n");
    assert_eq!(up.folder.read("web.log.1").len(), 20);
    up.shutdown();
}

#[test]
fn two_direct_processes_have_the_file_each_for_itself() {
    let up = Up::start(
        "[process.a]\nshell = \"if mkdir first; then echo written; fi 2>/dev/null; exec sleep 1000\"\n\
         stdout = { file = \"./log\", direct = true }\ninstances = 2\n",
    );
    until_is(&up, "log", "written\n");
    let position = |name: &str| {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/1", up.pid_of(name))).unwrap();
        info.lines().find_map(|line| line.strip_prefix("pos:")).unwrap().trim().to_owned()
    };
    // These processes are instances of one table, with the same settings.
    let mut positions = ["a:1", "a:2"].map(position);
    positions.sort();
    assert_eq!(positions, ["0", "8"]);
}

// The next tests are about pieces in `logs`.

#[test]
fn logs_mark_the_pieces_of_a_line() {
    let up = Up::start(
        "[process.a]\nshell = \"head -c 36000 /dev/zero | tr '\\\\0' x; echo; echo short; exec sleep 1000\"\nstdout = \"./log\"\n\
         [process.b]\nshell = \"head -c 16384 /dev/zero | tr '\\\\0' y; echo; exec sleep 1000\"\n",
    );
    up.until_read("log", "short\n");
    up.until_read("out", "y\n");
    let parts = |line: &str| {
        let (mark, text) = line.split_once("] ").unwrap();
        (mark.to_owned(), text.len())
    };
    let lines: Vec<_> = up.ok(&["logs", "a"]).lines().map(parts).collect();
    assert_eq!(lines, [("[a+".into(), 36_000 - 2 * 16_384), ("[a".into(), 5)], "what there is room for");
    let lines: Vec<_> = up.ok(&["logs", "b"]).lines().map(parts).collect();
    assert_eq!(lines, [("[b".into(), 16_384)], "a whole piece");
    let json = |args: &[&str]| -> Vec<(usize, Value, Value)> {
        let objects = up.ok(args);
        let objects = objects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        objects
            .map(|line| (line["line"].as_str().unwrap().len(), line["continued"].clone(), line["cut"].clone()))
            .collect()
    };
    assert_eq!(
        json(&["logs", "--json", "a"]),
        [(36_000 - 2 * 16_384, Value::Bool(true), Value::Null), (5, Value::Null, Value::Null)]
    );

    // The pieces are shown as they come.
    up.write_file(&format!(
        "[process.c]\nshell = \"{WAIT}echo ready; wait_for go; head -c 36000 /dev/zero | tr '\\\\0' x; echo; exec sleep 1000\"\n"
    ));
    up.ok(&["reload", "--wait"]);
    up.until_read("out", "[c] ready\n");
    let mut follow = Command::new(PROGRAM);
    follow.args(["logs", "-f", "--json", "c"]).current_dir(&up.folder.0).stdout(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        (line["continued"] == true, line["cut"] == true)
    });
    // Earlier lines come first, and then the new ones.
    assert_eq!(lines.next(), Some((false, false)));
    up.folder.write("go", "");
    assert_eq!(
        [lines.next(), lines.next(), lines.next()].map(Option::unwrap),
        [(false, true), (true, true), (true, false)]
    );
    follow.kill().unwrap();
    follow.wait().unwrap();
}
