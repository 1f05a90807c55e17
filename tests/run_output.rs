//! Tests the output that `childminder run` passes on, also of floods, and what happens to it
//! without a reader.
#![cfg(feature = "cli")]

mod run_util;

#[path = "run_util/terminal.rs"]
mod terminal;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread;

use run_util::*;
use terminal::Terminal;

// The next tests are about output.

#[test]
fn a_megabyte_without_newline_comes_in_marked_pieces() {
    let script = r"head -c 1000000 /dev/zero | tr '\0' x; echo; echo end";
    let (code, out, _) = run(&["--restart", "never", "sh", "-c", script]);
    assert_eq!(code, Some(0));
    let (last, pieces) = out.split_last().unwrap();
    assert_eq!(last, "[sh] end");
    assert_eq!(pieces.len(), 62);
    let first = pieces[0].strip_prefix("[sh] ").unwrap().len();
    let others: usize = pieces[1..].iter().map(|piece| piece.strip_prefix("[sh+] ").unwrap().len()).sum();
    assert_eq!((first, first + others), (16384, 1_000_000));
}

#[test]
fn bytes_are_bytes() {
    let script = r"printf 'nul \000, bad \377\376, cr \r\n\n last'";
    let output = command(&["--restart", "never", "--name", "n", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.stdout.escape_ascii().to_string(), r"[n] nul \x00, bad \xff\xfe, cr \r\n[n] \n[n]  last\n");
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let (code, out, err) = run(&["--restart", "never", "sh", "-c", "echo good; echo bad >&2; printf tail >&2"]);
    assert_eq!(code, Some(0));
    assert_eq!(out, ["[sh] good"]);
    let words: Vec<_> = err.iter().filter(|line| !line.starts_with("childminder: ")).collect();
    assert_eq!(words, ["[sh] bad", "[sh] tail"]);
    assert!(err.last().unwrap().contains("exited: exit status 0"), "its end comes after its last words: {err:?}");
}

#[test]
fn a_hundred_megabytes_are_all_there_and_take_no_memory() {
    const LINE: &[u8] = b"[sh] y\n";
    // An emulator is slow, too.
    let native = needs_the_kernel("memory of its own processes alone");
    let lines = if native { 50_000_000 } else { 500_000 };
    let script = format!("yes | head -c {}", 2 * lines);
    let mut child = command(&["-t", "3600", "-m", "3000", "sh", "-c", &script]).spawn().unwrap();
    let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let pattern = LINE.repeat(10_000);
    let counter = thread::spawn(move || {
        let (mut total, mut buffer) = (0_usize, vec![0; pattern.len() / 2]);
        loop {
            let len = out.read(&mut buffer).unwrap();
            if len == 0 {
                return total;
            }
            let offset = total % LINE.len();
            assert!(buffer[..len] == pattern[offset..offset + len], "a wrong byte after {total}");
            total += len;
        }
    });
    let mut said = Vec::new();
    for line in BufReader::new(err).lines() {
        said.push(line.unwrap());
        if said.last().is_some_and(|line| line.contains("restarting in 3000 s")) {
            break;
        }
    }
    assert!(matches!(child.try_wait(), Ok(None)), "{:?}, having said {said:#?}", child.try_wait());
    let peak = peak_memory(child.id());
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(counter.join().unwrap(), lines * LINE.len());
    assert!(!native || peak < 16 * 1024, "{peak} kB");
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let mut child = command(&["-m", "0.01", "-M", "0.05", "sh", "-c", "echo a; echo b"]).spawn().unwrap();
    let first = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(first, "[sh] a");
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    for _ in 0..10 {
        assert!(said.any(|line| line.contains("exited: exit status 0")), "the child gets no SIGPIPE");
    }
    // From now on, nothing reads the output.
    drop(said);
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let mut seen = Vec::new();
    assert!(eventually(|| {
        let child = fs::read_to_string(&children).unwrap_or_default();
        if !child.is_empty() && !seen.contains(&child) {
            seen.push(child);
        }
        seen.len() > 5 || !Path::new(&children).exists()
    }));
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn a_full_device_ends_nothing() {
    let full = || OwnedFd::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut running =
        Running::of(command(&["-m", "0.01", "-M", "0.05", "echo", "lost"]).stdout(full()).stderr(Stdio::piped()));
    starts(&mut running, 5);
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));

    let status = command(&["--restart", "never", "sh", "-c", "exit 4"]).stdout(full()).stderr(full()).status();
    assert_eq!(status.unwrap().code(), Some(4));
}

#[test]
fn a_closed_stdout_ends_nothing() {
    let script = r#"exec "$0" run --restart never -- sh -c 'echo lost; ls /proc/self/fd >&2; exit 5' >&-"#;
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_childminder")]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{err}");
    assert_eq!(output.stdout, b"");
}

/// Starts the command with a child that floods its output, and waits until both have come to a
/// standstill.
fn flood(args: &[&str], redirect: &str, mark: &str) -> (Child, Option<ChildStdout>, Option<ChildStderr>) {
    let script = format!("trap '' TERM; exec yes {redirect}");
    let all = [args, &["--env", mark, "--", "sh", "-c", &script]].concat();
    let mut child = command(&all).spawn().unwrap();
    let pid = child.id();
    assert!(eventually(|| matches!(marked(mark)[..], [yes] if all_sleep(&[pid, yes]) && status(yes, "Name") == "yes")));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    (child, out, err)
}

#[test]
fn an_output_that_nobody_reads_keeps_nobody_from_stopping() {
    for redirect in ["", ">&2"] {
        let mark = format!("UNREAD={}{}", std::process::id(), redirect.len());
        let (mut child, _out, _err) = flood(&["-k", "0.3"], redirect, &mark);
        let asked = now();
        send("TERM", &child.id().to_string());
        assert!(eventually(|| marked(&mark).is_empty()));
        let took = now() - asked;
        assert!(took >= ms(295) && took < ms(300) + SLACK, "{took:?}");
        assert_eq!(wait(&mut child).code(), Some(0));
        let took = now() - asked;
        assert!(took < ms(1300) + SLACK, "its last words take a second at most: {took:?}");
    }
}

#[test]
fn an_output_that_nobody_reads_keeps_nobody_from_restarting() {
    let mark = format!("UNREAD_RESTART={}", std::process::id());
    let (mut child, _out, err) = flood(&["-k", "0.1"], "", &mark);
    send("HUP", &child.id().to_string());
    let mut said = BufReader::new(err.unwrap()).lines().map_while(Result::ok);
    for word in ["started", "terminating", "killed", "exited: signal 9", "restarting now", "started"] {
        let line = said.next().unwrap();
        assert!(line.contains(word), "{line} instead of {word}");
    }
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn who_was_told_to_end_does_not_wait_for_the_reader() {
    let mark = format!("UNREAD_NEVER={}", std::process::id());
    let (mut child, out, _err) = flood(&["--restart", "never"], "", &mark);
    let yes = marked(&mark)[0];
    send("KILL", &yes.to_string());
    assert!(eventually(|| is_reaped(yes)));
    assert!(child.try_wait().unwrap().is_none(), "as any filter, it waits for its reader");
    let asked = now();
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(137), "its child's");
    assert!(now() - asked < ms(1000) + SLACK);
    drop(out);
}

// There is no child any more that SIGHUP could restart.
#[test]
fn a_hangup_ends_who_waits_for_its_reader_alone() {
    let mark = format!("UNREAD_HANGUP={}", std::process::id());
    let (mut child, _out, _err) = flood(&["--restart", "never"], "", &mark);
    let killed = marked(&mark);
    killed.iter().for_each(|yes| send("KILL", &yes.to_string()));
    // The command has seen the exit of its child, and the turn with the exit is over.
    assert!(eventually(|| killed.iter().all(|yes| is_reaped(*yes)) && all_sleep(&[child.id()])));
    send("HUP", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(137), "its child's");

    // When only the rest of the output is left, the command obeys signals as any filter does.
    use std::os::unix::process::ExitStatusExt;
    if !needs_the_kernel("handlers for the signals that its program handles alone") {
        return;
    }
    for (name, number) in [("TERM", libc::SIGTERM), ("HUP", libc::SIGHUP)] {
        // These lines are more than a pipe holds, and fewer than those for which the command stops
        // reading the child's pipe.
        let mut child = command(&["--restart", "never", "sh", "-c", "yes | head -c 60000"]).spawn().unwrap();
        let pid = child.id();
        let said = child.stderr.take().unwrap();
        assert!(BufReader::new(said).lines().map_while(Result::ok).any(|line| line.contains("exited")));
        // After the child's exit, only signals with a request have a handler.
        let is_heard = |signal: i32| {
            let heard = u64::from_str_radix(&status(pid, "SigCgt"), 16).unwrap();
            heard & 1 << (signal - 1) != 0
        };
        let released = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP];
        assert!(eventually(|| !released.into_iter().any(is_heard)));
        assert!(is_heard(libc::SIGUSR1) && is_heard(libc::SIGUSR2));
        send("USR1", &pid.to_string());
        assert!(child.try_wait().unwrap().is_none(), "it waits for its reader");
        send(name, &pid.to_string());
        assert_eq!(wait(&mut child).signal(), Some(number), "{name}");
    }
}

#[test]
fn a_slow_reader_gets_whole_lines_to_the_end() {
    let mut child = command(&["--restart", "never", "seq", "100000"]).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    // The child has exited, and its output is in three places: its pipe, the command and our pipe.
    assert!(eventually(|| status(pid, "State").starts_with('S')));
    let mut numbers = 1..=100_000;
    let mut out = BufReader::with_capacity(512, child.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        assert_eq!(line, format!("[seq] {}\n", numbers.next().unwrap()));
        line.clear();
    }
    assert_eq!(numbers.next(), None);
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn a_log_at_its_size_limit_ends_nothing() {
    if !needs_the_kernel("start below a limit of the size of files") {
        return;
    }
    let scratch = Scratch::new("limit");
    let script = r#"ulimit -f 1; exec "$0" run --restart never -- sh -c 'seq 100000 2>/dev/null; exit 3' > "$1""#;
    let log = scratch.path("log");
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_childminder"), &log]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn who_was_told_to_end_still_reads_what_its_child_has_left() {
    let mut child = command(&["-t", "3600", "-m", "3000", "seq", "38000"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // The last output is in the child's pipe, and there is no room for it yet.
    assert!(said.any(|line| line.contains("restarting in 3000 s")));
    send("TERM", &child.id().to_string());
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(out.ends_with("[seq] 38000\n"), "{} lines", out.lines().count());
    assert_eq!(wait(&mut child).code(), Some(0));
}

// The next tests are about a terminal.

#[test]
fn ctrl_c_at_the_terminal_is_for_the_command_alone() {
    let script = "trap 'echo interrupted' INT; trap 'echo asked; exit' TERM; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start("run", &["sh", "-c", script]);
    terminal.until(|terminal| terminal.said.contains("[sh] ready\r\n"));
    terminal.type_in(b"\x03");
    terminal.until(|terminal| terminal.code.is_some());
    assert_eq!(terminal.code, Some(0));
    assert!(terminal.said.contains("[sh] asked\r\n"), "{}", terminal.said);
    assert!(!terminal.said.contains("interrupted"), "{}", terminal.said);
}

#[test]
fn a_terminal_that_stands_still_keeps_nobody_from_stopping() {
    let mark = format!("TERMINAL={}", std::process::id());
    // The lines have such lengths that the terminal's buffer can be full at any place in one.
    let script = "trap '' TERM; exec yes 12345678901234567";
    let mut terminal = Terminal::start("run", &["-k", "0.3", "--env", &mark, "sh", "-c", script]);
    terminal.reactor.process(terminal.process).unwrap().pause_all();
    let pid = terminal.pid();
    assert!(eventually(
        || matches!(marked(&mark)[..], [yes] if all_sleep(&[pid, yes]) && status(yes, "Name") == "yes")
    ));
    send("TERM", &pid.to_string());
    assert!(eventually(|| marked(&mark).is_empty()), "it is stuck in {}", status(pid, "State"));
    terminal.until(|terminal| terminal.code.is_some());
    assert_eq!(terminal.code, Some(0));
}
