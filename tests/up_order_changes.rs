//! Tests what becomes of a box of `childminder up` when its file changes, and what is told of those
//! that fail.
//!
//! The one rule: a state is waited for, and each change is made by a client, as a user makes it.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::process::{Command, Stdio};

use up_util::{Folder, PROGRAM, Up, run, until};

#[test]
fn a_reload_replaces_what_others_require() {
    let text = |version: &str| {
        format!(
            "[process.db]\nshell = \"echo {version}; exec sleep 1000\"\nready = \"started\"\n\
             [process.web]\nshell = \"exec sleep 1000\"\nrequires = [\"db\"]\n"
        )
    };
    let up = Up::start(&text("first"));
    up.until_state("web", "running");
    let (db, web) = (up.pid_of("db"), up.pid_of("web"));
    up.write_file(&text("second"));
    up.ok(&["reload"]);
    until("both are others", || {
        let is_other = |name, old| up.status(name)["pid"].as_i64().is_some_and(|pid| pid != i64::from(old));
        (is_other("db", db) && is_other("web", web)).then_some(())
    });
    up.until_read("out", "second");
    // One that is removed goes, too.
    let db = up.pid_of("db");
    up.write_file("[process.web]\nshell = \"exec sleep 1000\"\n");
    up.ok(&["reload"]);
    until("it is gone", || (!up_util::is_alive(db)).then_some(()));
    up.shutdown();
}

#[test]
fn a_reload_may_end_a_wait_for_a_restart() {
    let text = "[process.crashes]\nshell = \"exit 3\"\nmin-restart-delay = \"50s\"\n";
    let up = Up::start(text);
    up.until_state("crashes", "backing-off");
    up.write_file(&format!("{text}restart = \"never\"\n"));
    up.ok(&["reload"]);
    up.until_state("crashes", "exited");
    up.shutdown();
}

#[test]
fn those_that_a_broken_rolling_restart_does_not_reach_are_told_at_once() {
    let up = Up::start(
        "[process.web]\nshell = \"test ! -e bad || exit 3; echo up; exec sleep 1000\"\ninstances = 3\n\
         ready = { line = \"up\" }\n",
    );
    up.until_state("web:3", "ready");
    fs::write(up.folder.join("bad"), "").unwrap();
    let (code, error) = up.fails(&["restart", "--rolling", "--wait", "--timeout", "20s", "--all"]);
    assert_eq!(code, 1);
    assert!(!error.contains("not reached within"), "{error}");
    assert!(error.contains("web:1 exited"), "{error}");
    for name in ["web:2", "web:3"] {
        assert!(error.contains(&format!("{name} is not restarted, because web:1 has not come back")), "{error}");
    }
    up.shutdown();
}

/// The exit code of `up` with this file.
fn code_of(processes: &str, args: &[&str]) -> Option<i32> {
    let folder = Folder::new();
    folder.write("childminder.toml", processes);
    let mut command = Command::new(PROGRAM);
    command
        .arg("up")
        .args(args)
        .current_dir(&folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    Up { folder, child }.wait().code()
}

#[test]
fn a_process_that_has_failed_ends_the_supervisor_with_an_error() {
    let failing = "[monitor]\nsocket = \"s\"\nmin-restart-delay = 0\n\
                   [process.succeeds]\nshell = \"exit 0\"\nrestart-limit = { starts = 2, within = \"1m\" }\n";
    assert_eq!(code_of(failing, &["--exit-when", "failed"]), Some(1));
    assert_eq!(code_of(&format!("{failing}essential = true\n"), &[]), Some(1));
}

#[test]
fn a_code_that_counts_as_success_is_no_failure() {
    let fine = "[monitor]\nsocket = \"s\"\n\
                [process.fine]\nshell = \"exit 5\"\nsuccess-codes = [5]\nrestart = \"on-failure\"\n";
    assert_eq!(code_of(fine, &["--exit-when", "all"]), Some(0));
    let up =
        Up::start("[process.fine]\nshell = \"exit 5\"\nsuccess-codes = [5]\nrestart = \"never\"\nautostart = false\n");
    up.ok(&["start", "fine", "--wait"]);
    up.shutdown();
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let mistakes = [
        ("watchdog = 0", "3:12: `watchdog` is 0, allowed is a duration above zero"),
        ("ready-timeout = \"0s\"", "3:17: `ready-timeout` is \"0s\", allowed is a duration above zero"),
        ("health = { command = [\"true\"], interval = 0 }", "3:43: `interval` is 0, allowed is a duration above zero"),
        ("restart-limit = { starts = 1, within = 0 }", "3:40: `within` is 0, allowed is a duration above zero"),
        ("ready = { line = \"up\", tcp = \":80\" }", "3:9: `ready` has another key beside `line`"),
    ];
    for (line, message) in mistakes {
        folder.write("childminder.toml", &format!("[process.a]\ncommand = [\"sleep\", \"1\"]\n{line}\n"));
        let (code, said) = run(&folder, &["check"]);
        assert!(code == 2 && said.contains(message), "{line}: {code} {said}");
    }
}

#[test]
fn the_command_that_stops_an_instance_has_its_number() {
    let up = Up::start(
        "[process.web]\nshell = \"exec sleep 1000\"\ninstances = 2\n\
         stop = [{ command = [\"touch\", \"stopped-{instance}\"], wait = \"1s\" }]\n",
    );
    up.ok(&["stop", "web:2", "--wait"]);
    assert!(up.folder.join("stopped-2").exists());
    up.shutdown();
}
