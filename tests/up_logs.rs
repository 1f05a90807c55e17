//! Tests `childminder logs`: which lines it prints, with which times, and how many are remembered.
#![cfg(feature = "cli")]

mod up_util;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use up_util::{PROGRAM, Up, text, until};

const NUMBERS: &str = "[process.a]\nshell = \"seq 1 20; seq 21 25 >&2; exec sleep 1000\"\n";

#[track_caller]
fn lines(up: &Up, args: &[&str]) -> Vec<String> {
    up.ok(&[&["logs"], args].concat()).lines().map(str::to_owned).collect()
}

#[test]
fn chooses_lines_by_number_stream_and_time() {
    let up = Up::start(NUMBERS);
    until("all lines", || (lines(&up, &["a"]).len() == 25).then_some(()));
    assert_eq!(lines(&up, &["-n", "2", "--stdout", "a"]), ["[a] 19", "[a] 20"]);
    assert_eq!(lines(&up, &["--lines=1", "--stderr"]), ["[a] 25"]);
    assert_eq!(lines(&up, &["--stdout", "--stderr"]).len(), 25);
    assert_eq!(lines(&up, &["-n", "0"]), [""; 0]);
    assert_eq!(lines(&up, &["--since", "1h"]).len(), 25);
    assert_eq!(lines(&up, &["--since", "2026-01-01"]).len(), 25);
    assert_eq!(lines(&up, &["--since", "2200-01-01T00:00:00Z"]), [""; 0]);
    // The time of a line is known to the millisecond.
    let stamped = lines(&up, &["--timestamps=utc", "-n", "1", "--stdout"]);
    let (time, rest) = stamped[0].split_once(' ').unwrap();
    assert_eq!(rest, "[a] 20");
    assert!(time.len() == "2026-11-26T07:20:00.123Z".len() && time.ends_with('Z'), "{time}");
    assert!(lines(&up, &["--stdout", "--since", time]).contains(&"[a] 20".to_owned()));
    let output = Command::new(PROGRAM)
        .args(["logs", "--timestamps", "-n", "1", "--stdout"])
        .current_dir(&up.folder.0)
        .env("TZ", "BRT+03")
        .output()
        .unwrap();
    assert!(text(&output.stdout).contains("-03:00 [a] 20\n"), "{}", text(&output.stdout));
    assert!(lines(&up, &["--json", "-n", "1"])[0].contains("\"time\":\"2"));
    for (args, said) in [
        (&["-n", "x"][..], "-n wants a number of lines, not `x`"),
        (&["--since", "noon"], "--since wants a time such as"),
        (&["--timestamps=monotonic"], "--timestamps wants local or utc here, not `monotonic`"),
    ] {
        let (code, err) = up.fails(&[&["logs"], args].concat());
        assert!(code == 2 && err.contains(said), "{err}");
    }
    up.shutdown();
}

/// A client that follows, and its lines.
struct Follower(Child, BufReader<std::process::ChildStdout>);

impl Follower {
    fn new(up: &Up, args: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["logs", "-f"]).args(args).current_dir(&up.folder.0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn follows_processes_that_come_later() {
    let up = Up::start(NUMBERS);
    until("all lines", || (lines(&up, &["a"]).len() == 25).then_some(()));
    let mut last = Follower::new(&up, &["-n", "1", "--stdout", "*"]);
    assert_eq!(last.line(), "[a] 20\n");
    let mut later = Follower::new(&up, &["late*"]);
    // Its request has been carried out when it gets the line of a process that starts after that.
    until("the follower", || {
        let late = "[process.late]\nshell = \"echo oops >&2; echo here; exec sleep 1000\"\n";
        up.write_file(&format!("{NUMBERS}{late}"));
        up.ok(&["reload", "--wait"]);
        up.write_file(NUMBERS);
        up.ok(&["reload", "--wait"]);
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(later.1.get_ref(), rustix::event::PollFlags::IN)],
            Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 }),
        )
        .is_ok_and(|ready| ready > 0)
        .then_some(())
    });
    assert!(["[late] oops\n", "[late] here\n"].contains(&later.line().as_str()));
    assert_eq!(last.line(), "[late] here\n");
    let (code, said) = up.fails(&["logs", "late*"]);
    assert!(code == 1 && said.contains("no process `late*`"), "{said}");
    up.shutdown();
}

#[test]
fn remembers_as_much_as_the_file_says() {
    let shell = "yes 0123456789 | head -n 10000; echo end; exec sleep 1000";
    let file = |a: &str| {
        format!(
            "[process.a]\nshell = \"{shell}\"\n{a}[process.b]\nshell = \"{shell}\"\n[process.c]\nshell = \"{shell}\"\nrecent = 0\n"
        )
    };
    let up = Up::start(&file("recent = \"64KiB\"\n"));
    until("the end", || (lines(&up, &["a"]).last() == Some(&"[a] end".to_owned())).then_some(()));
    until("the end", || (lines(&up, &["b"]).last() == Some(&"[b] end".to_owned())).then_some(()));
    up.until_read("out", "[c] end");
    // A line has 11 bytes with its newline.
    assert_eq!(lines(&up, &["a"]).len(), 1 + (65_536 - 3) / 11);
    assert_eq!((lines(&up, &["b"]).len(), lines(&up, &["c"]).len()), (100, 0));
    let pid = up.pid_of("a");
    up.write_file(&file("recent = \"16KiB\"\n"));
    assert_eq!(up.ok(&["reload", "--wait"]), "updated a\n");
    assert_eq!((up.pid_of("a"), lines(&up, &["a"]).len()), (pid, 1 + (16_384 - 3) / 11));
    up.write_file(&file("recent = \"1KiB\"\n"));
    let (code, said) = up.fails(&["check"]);
    assert!(
        code == 2 && said.contains("`recent` is \"1KiB\", allowed is 0 or a size from \"16KiB\" to \"64MiB\""),
        "{said}"
    );
    up.shutdown();
}
