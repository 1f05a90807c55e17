//! Tests the command `childminder run` as a user sees it: when it restarts, stops and ends. It uses
//! real programs and looks at nothing inside.
#![cfg(feature = "cli")]

mod run_util;

use std::fs;
use std::process::{Command, Stdio};

use run_util::*;

// The next tests are about restarts.

#[test]
fn a_long_run_is_followed_by_a_restart_at_once() {
    let before = now();
    let mut running = start(&["-t", "0.3", "-m", "60", "--", "sh", "-c", "echo up; exec sleep 0.4"]);
    let times = starts(&mut running, 4);
    assert_gaps(before, &times, &[400, 400, 400]);
    let exited = running.expect(ERR, "exited: exit status 0, after ");
    assert!(exited.text.starts_with("childminder: [sh] "), "{exited:?}");
    running.expect(ERR, "[sh] restarting now");
    for _ in 0..3 {
        running.expect(OUT, "[sh] up");
    }
}

#[test]
fn instant_deaths_are_followed_by_growing_waits() {
    let before = now();
    let mut running = start(&["sh", "-c", "exit 1"]);
    let mut times = starts(&mut running, 1);
    for wait in ["1 s", "2 s"] {
        running.expect(ERR, "exited: exit status 1, after 0.");
        running.expect(ERR, &format!("restarting in {wait}"));
        times.extend(starts(&mut running, 1));
    }
    assert_gaps(before, &times, &[1000, 2000]);
}

#[test]
fn the_waits_go_from_the_shortest_to_the_longest() {
    let before = now();
    let mut running = start(&["-m", "0.1", "-M", "0.4", "sh", "-c", "exit 1"]);
    let times = starts(&mut running, 6);
    assert_gaps(before, &times, &[100, 200, 400, 400, 400]);
}

#[test]
fn a_grandchild_that_holds_the_pipes_delays_no_restart() {
    let scratch = Scratch::new("holder");
    let fifo = scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = r#"
        if [ -e "$0.again" ]; then echo again; exec sleep 1000; fi
        : > "$0.again"
        (read word < "$0"; echo "grandchild says $word") &
        echo parent; exec sleep 0.2
    "#;
    let mut running = start(&["-t", "0.1", "--", "sh", "-c", script, &fifo]);
    let exited = running.expect(ERR, "exited: exit status 0");
    let started = running.expect(ERR, "started, pid ");
    assert!(started.at - exited.at < SLACK, "{:?}", started.at - exited.at);
    running.expect(OUT, "[sh] again");
    // The grandchild still waits for this, so it cannot have ended before.
    fs::write(&fifo, "hello\n").unwrap();
    running.expect(OUT, "[sh] grandchild says hello");
}

// The next tests are about stops.

/// A child that ignores SIGTERM, and has a child of its own that ignores it too.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done";

#[test]
fn a_child_that_ignores_sigterm_is_killed_with_its_group() {
    let mark = format!("STUBBORN={}", std::process::id());
    let mut running = start(&["-k", "0.5", "--env", &mark, "sh", "-c", STUBBORN]);
    running.expect(OUT, "[sh] ready");
    assert!(eventually(|| marked(&mark).len() == 3), "{:?}", marked(&mark));
    let asked = now();
    running.signal("TERM");
    let (code, _, err) = running.finish();
    let took = now() - asked;
    assert_eq!(code, Some(0));
    assert!(took >= ms(500) && took < ms(500) + SLACK, "{took:?}");
    assert!(eventually(|| marked(&mark).is_empty()), "{:?}", marked(&mark));
    let words: Vec<_> = err.iter().filter_map(|line| line.strip_prefix("childminder: [sh] ")).collect();
    assert!(words[0].starts_with("started, pid "), "{words:?}");
    assert_eq!(words[1..3], ["terminating, SIGTERM sent", "killed, SIGKILL sent"]);
    assert!(words[3].starts_with("exited: signal 9 (SIGKILL), after "), "{words:?}");
    assert_eq!(words.len(), 4);
}

#[test]
fn a_second_signal_kills_at_once() {
    for second in ["TERM", "INT"] {
        let mut running = start(&["-k", "3600", "sh", "-c", STUBBORN]);
        running.expect(OUT, "[sh] ready");
        running.signal("TERM");
        running.expect(ERR, "terminating, SIGTERM sent");
        // It comes too late to count as the second half of the first signal.
        assert!(eventually(|| {
            running.signal(second);
            !matches!(running.child.try_wait(), Ok(None))
        }));
        running.expect(ERR, "killed, SIGKILL sent");
        assert_eq!(running.finish().0, Some(0));
    }
}

#[test]
fn sigint_stops_as_sigterm_does() {
    for signal in ["INT", "TERM"] {
        let mut running = start(&["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done"]);
        running.expect(OUT, "[sh] ready");
        running.signal(signal);
        running.expect(OUT, "[sh] bye");
        let (code, _, err) = running.finish();
        assert_eq!(code, Some(0), "whatever the child's code");
        assert!(err.last().unwrap().contains("exited: exit status 7"), "{err:?}");
    }
}

#[test]
fn a_stop_ends_a_wait() {
    let mut running = start(&["-m", "3000", "false"]);
    running.expect(ERR, "restarting in 3000 s");
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

#[test]
fn sighup_restarts() {
    // It is no instant death, so the child is restarted at once, each time.
    let mut running = start(&["-m", "3000", "sh", "-c", "echo ready; exec sleep 1000"]);
    for _ in 0..3 {
        running.expect(OUT, "[sh] ready");
        running.signal("HUP");
        running.expect(ERR, "terminating, SIGTERM sent");
        running.expect(ERR, "exited: signal 15 (SIGTERM)");
        running.expect(ERR, "restarting now");
        running.expect(ERR, "started");
    }
}

#[test]
fn sighup_ends_a_wait() {
    let mut running = start(&["-m", "3000", "false"]);
    running.expect(ERR, "restarting in 3000 s");
    running.signal("HUP");
    running.expect(ERR, "started");
}

#[test]
fn a_stopped_child_can_be_stopped() {
    let mut running = start(&["-k", "3600", "sh", "-c", "echo ready; kill -STOP $$; sleep 1000"]);
    running.expect(OUT, "[sh] ready");
    running.signal("TERM");
    running.expect(ERR, "exited: signal 15 (SIGTERM)");
    assert_eq!(running.finish().0, Some(0));
}

// The next tests are about the program that starts the command.

/// Starts the command from a shell that runs `before` first.
fn start_after(before: &str, args: &[&str]) -> Running {
    let script = format!("{before}; exec \"$0\" run \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_childminder")]).args(args).stdin(Stdio::null());
    Running::of(shell.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn an_ignored_hangup_stays_ignored_and_not_for_the_child() {
    let script = "trap 'echo hangup; exit' HUP; echo ready; kill -HUP $PPID $$; while :; do sleep 0.1; done";
    let mut running = start_after("trap '' HUP", &["-t", "0", "sh", "-c", script]);
    running.expect(OUT, "[sh] ready");
    running.expect(OUT, "[sh] hangup");
    running.expect(ERR, "exited: exit status 0");
    running.signal("TERM");
    let (code, _, err) = running.finish();
    assert_eq!(code, Some(0));
    assert_eq!(err.iter().filter(|line| line.contains("terminating")).count(), 1, "{err:?}");
}

#[test]
fn an_ignored_sigchld_hides_no_exit_status() {
    assert_eq!(start_after("trap '' CHLD", &["--restart", "never", "sh", "-c", "exit 3"]).finish().0, Some(3));
}

#[test]
fn a_blocked_sigterm_is_let_through() {
    let can = Command::new("env").args(["--block-signal=TERM", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        left_out("this env is not that of GNU");
        return;
    }
    let mut env = Command::new("env");
    env.args(["--block-signal", env!("CARGO_BIN_EXE_childminder"), "run", "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut running = Running::of(env.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    running.expect(OUT, "[sh] ready");
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

// The next tests are about the end of the command.

#[test]
fn with_never_the_command_ends_as_its_child() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        assert_eq!(run(&["--restart", "never", "sh", "-c", script]).0, Some(code), "{script}");
    }
}

#[test]
fn with_on_failure_the_command_ends_with_its_childs_success() {
    let scratch = Scratch::new("failure");
    let count = scratch.path("count");
    let script = r#"echo x >> "$0"; [ $(wc -l < "$0") -ge 3 ]"#;
    let (code, _, err) = run(&["-m", "0.05", "--restart", "on-failure", "sh", "-c", script, &count]);
    assert_eq!(code, Some(0));
    assert_eq!(err.iter().filter(|line| line.contains("started, pid")).count(), 3, "{err:?}");
}

#[test]
fn with_on_failure_what_is_not_there_is_not_announced_again() {
    let (code, _, mut err) = run(&["--restart", "on-failure", "/no/such/program"]);
    assert_eq!(code, Some(127));
    // A sandbox may refuse the guard, which is told first.
    err.retain(|line| !line.contains("cannot start the guard"));
    assert_eq!(err.len(), 1, "{err:?}");
    assert!(err[0].contains("could not start"), "{err:?}");
}

#[test]
fn the_command_ends_with_its_child_whoever_holds_the_pipes() {
    let mark = format!("HOLDS={}", std::process::id());
    let script = "sleep 1000 & echo done; exit 6";
    let (code, out, _) = run(&["--restart", "never", "--env", &mark, "sh", "-c", script]);
    assert_eq!((code, &out[..]), (Some(6), &["[sh] done".to_owned()][..]));
    for pid in marked(&mark) {
        send("KILL", &pid.to_string());
    }
}

#[test]
fn all_that_the_child_wrote_is_there_when_the_command_ends() {
    let (code, out, _) = run(&["--restart", "never", "seq", "200000"]);
    assert_eq!(code, Some(0));
    assert_eq!(out.len(), 200_000);
    assert!(out.iter().zip(1..).all(|(line, number)| *line == format!("[seq] {number}")));
}

#[test]
fn a_restart_by_sighup_is_no_end() {
    let mut running = start(&["--restart", "never", "sh", "-c", "echo ready; exec sleep 1000"]);
    running.expect(OUT, "ready");
    running.signal("HUP");
    running.expect(OUT, "ready");
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(143));
}

// As when a whole control group is asked to end.
#[test]
fn the_exit_code_is_the_child_s_if_a_signal_comes_together_with_its_exit() {
    let mark = format!("TOGETHER={}", std::process::id());
    let mut child = command(&["--restart", "never", "--env", &mark, "sleep", "1000"]).spawn().unwrap();
    let pid = child.id();
    let started = || marked(&mark).into_iter().find(|found| status(*found, "Name") == "sleep");
    assert!(eventually(|| started().is_some()));
    let sleep = started().unwrap();
    send("STOP", &pid.to_string());
    assert!(eventually(|| status(pid, "State").starts_with('T')));
    send("TERM", &sleep.to_string());
    assert!(eventually(|| status(sleep, "State").starts_with('Z')));
    send("TERM", &pid.to_string());
    send("CONT", &pid.to_string());
    assert_eq!(wait(&mut child).code(), Some(128 + 15));
}
