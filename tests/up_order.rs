//! Tests order, readiness, health, groups and limits of `childminder up`, as the file says them,
//! and what clients see of them.
//!
//! The one rule: a state is waited for, and the order of events is read from what was written.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;
use up_util::{Folder, PROGRAM, Up, kill, run, text, until};

/// The `[name]` of each line with this text, in order.
fn told(log: &str, text: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(text));
    lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
}

const BOX: &str = "
[process.web]
shell = \"echo up; exec sleep 1000\"
after = [\"app\", { name = \"migrate\", when = \"completed\" }]
ready = \"started\"

[process.app]
shell = \"while ! test -e go; do sleep 0.02; done; echo >&3; exec sleep 1000\"
requires = [\"db\"]
ready = \"fd:3\"

[process.db]
shell = \"exec sleep 1000\"
ready = { command = [\"test\", \"-e\", \"db-is-up\"], interval = \"10ms\" }

[process.migrate]
shell = \"exit 0\"
restart = \"never\"
";

#[test]
fn a_box_comes_up_and_goes_down_in_order() {
    let mut up = Up::start(BOX);
    let state = |up: &Up, name: &str| up.status(name)["state"].as_str().unwrap().to_owned();
    up.until_state("migrate", "exited");
    assert_eq!(["db", "app", "web"].map(|name| state(&up, name)), ["starting", "waiting", "waiting"]);
    assert_eq!(up.status("app")["reason"], "waits for db, which is not ready yet");
    let waiting = up.command(&["status", "--waiting"]);
    assert_eq!(waiting.status.code(), Some(3));
    assert_eq!(
        text(&waiting.stdout),
        "web waits for app, which waits itself\napp waits for db, which is not ready yet\n"
    );
    let (code, error) = up.fails(&["start", "web", "--wait", "--timeout", "200ms"]);
    assert_eq!(code, 1);
    assert!(error.contains("web waits for app, which waits itself"), "{error}");

    fs::write(up.folder.join("db-is-up"), "").unwrap();
    up.until_state("app", "starting");
    assert_eq!(up.status("db")["ready"], true);
    fs::write(up.folder.join("go"), "").unwrap();
    up.until_state("web", "ready");
    assert_eq!(run(&up.folder, &["status"]).0, 3, "the job has exited");
    assert_eq!(run(&up.folder, &["status", "web", "app", "db"]).0, 0);

    let is_another = |name: &str, pid: i32| {
        let status = up.status(name);
        status["state"] == "ready" && status["pid"] != pid
    };
    // What requires it goes down with it and comes back after it.
    let (app, web) = (up.pid_of("app"), up.pid_of("web"));
    kill(up.pid_of("db"), Signal::KILL);
    until("app is another one", || is_another("app", app).then_some(()));
    assert_eq!(up.pid_of("web"), web);
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
    let log = up.folder.read("err");
    let exits = told(&log, "exited");
    assert_eq!(exits[exits.len() - 3..], ["web", "app", "db"], "{log}");
}

#[test]
fn start_wait_comes_back_when_it_is_ready() {
    let up = Up::start(
        "[process.slow]\nshell = \"sleep 0.3; echo >&3; exec sleep 1000\"\nready = \"fd:3\"\nautostart = false\n\
         [process.never]\nshell = \"exec sleep 1000\"\nready = { line = \"up\" }\nready-timeout = \"100ms\"\n\
         autostart = false\n",
    );
    up.ok(&["start", "slow", "--wait"]);
    assert_eq!(up.status("slow")["state"], "ready");
    let (code, error) = up.fails(&["start", "never", "--wait"]);
    assert_eq!(code, 1);
    assert!(error.contains("never does not work: it was not ready after 100ms"), "{error}");
    up.shutdown();
}

#[test]
fn a_process_that_fails_too_often_and_its_reset() {
    let up = Up::start(
        "[process.crashes]\nshell = \"exit 3\"\nrestart-limit = { starts = 3, within = \"1m\" }\nmin-restart-delay = 0\n\
         [process.fatal]\nshell = \"exit 78\"\nfatal-codes = [78]\n\
         [process.fine]\nshell = \"exit 5\"\nsuccess-codes = [5]\nrestart = \"on-failure\"\n",
    );
    up.until_state("crashes", "failed");
    assert_eq!(up.status("crashes")["restarts"], 2);
    assert_eq!(up.status("crashes")["reason"], "it was started too often");
    up.until_state("fatal", "failed");
    up.until_state("fine", "exited");
    up.ok(&["reset", "crashes"]);
    assert_eq!(up.status("crashes")["state"], "stopped");
    up.ok(&["start", "crashes"]);
    up.until_state("crashes", "failed");
    assert_eq!(up.status("crashes")["restarts"], 5);
    up.shutdown();
}

#[test]
fn an_essential_process_ends_the_supervisor_with_its_code() {
    let mut up = Up::start(
        "[process.main]\nshell = \"while ! test -e go; do sleep 0.01; done; exit 7\"\nrestart = \"never\"\nessential = true\n\
         [process.side]\nshell = \"exec sleep 1000\"\n",
    );
    fs::write(up.folder.join("go"), "").unwrap();
    assert_eq!(up.wait().code(), Some(7));
    assert!(up.folder.read("err").contains("[main] is essential and has ended"));
}

#[test]
fn a_group_that_gives_up_ends_the_supervisor() {
    let mut up = Up::start(
        "[process.a]\nshell = \"exit 1\"\nmin-restart-delay = 0\n[process.b]\nshell = \"exec sleep 1000\"\n\
         [group.pair]\nmembers = [\"a\", \"b\"]\nstrategy = \"all\"\nessential = true\n\
         restart-limit = { starts = 2, within = \"1m\" }\n",
    );
    assert_eq!(up.wait().code(), Some(1));
    let log = up.folder.read("err");
    assert!(log.contains("group pair has given up"), "{log}");
    assert_eq!(told(&log, "started, pid").iter().filter(|name| *name == "a").count(), 3, "{log}");
}

#[test]
fn health_and_line_and_socket() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let up = Up::start(&format!(
        "[process.web]\nshell = \"echo listening; exec sleep 1000\"\nready = {{ line = \"listening\" }}\n\
         health = {{ command = [\"test\", \"!\", \"-e\", \"ill\"], interval = \"10ms\", failures = 2 }}\n\
         [process.tcp]\nshell = \"exec sleep 1000\"\nready = {{ tcp = \"{address}\" }}\n\
         [process.unix]\nshell = \"exec sleep 1000\"\nready = {{ unix = \"s.sock\", interval = \"10ms\" }}\n"
    ));
    up.until_state("tcp", "ready");
    up.until_state("web", "ready");
    assert_eq!(up.status("unix")["state"], "starting");
    let _unix = std::os::unix::net::UnixListener::bind(up.folder.join("s.sock")).unwrap();
    up.until_state("unix", "ready");
    let web = up.pid_of("web");
    fs::write(up.folder.join("ill"), "").unwrap();
    up.until_read("err", "[web] does not work: 2 health checks in a row have failed");
    fs::remove_file(up.folder.join("ill")).unwrap();
    up.until_state("web", "ready");
    assert_ne!(up.pid_of("web"), web);
    up.shutdown();
}

#[test]
fn a_rolling_restart_and_a_reload_by_signal() {
    let up = Up::start(
        "[process.web]\nshell = \"trap 'echo reloaded' HUP; echo >&3; echo up; while :; do sleep 1000 & wait; done\"\n\
         ready = \"fd:3\"\ninstances = 3\nreload-signal = \"HUP\"\n[process.other]\nshell = \"exec sleep 1000\"\n",
    );
    for number in 1..=3 {
        up.until_state(&format!("web:{number}"), "ready");
    }
    let before = [1, 2, 3].map(|number| up.pid_of(&format!("web:{number}")));
    up.ok(&["restart", "web:*", "--rolling", "--wait"]);
    let after = [1, 2, 3].map(|number| up.pid_of(&format!("web:{number}")));
    assert!(before.iter().all(|pid| !after.contains(pid)));
    let log = up.folder.read("err");
    let (mut away, mut most) = (0, 0);
    for line in log.lines().skip_while(|line| !line.contains("terminating")) {
        away += i32::from(line.contains("terminating")) - i32::from(line.ends_with("ready"));
        most = most.max(away);
    }
    assert_eq!((away, most), (0, 1), "{log}");
    up.ok(&["reload", "web:2"]);
    up.until_read("out", "[web:2] reloaded");
    assert_eq!(up.pid_of("web:2"), after[1]);
    let (code, error) = up.fails(&["reload", "other"]);
    assert_eq!(code, 1);
    assert!(error.contains("other has no `reload-signal` in the file"), "{error}");
    up.shutdown();
}

#[test]
fn mistakes_have_their_places() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"true\"]\nafter = [\"b\"]\nready = \"fd:2\"\n[process.b]\ncommand = [\"true\"]\n\
         requires = [{ name = \"c\", when = \"later\" }]\nhealth = { interval = \"1s\" }\nstop = [\"TERM\", { whom = \"main\" }]\n",
    );
    let (code, told) = run(&folder, &["check"]);
    assert_eq!(code, 2);
    let expected = [
        "childminder.toml:4:9: `ready` is \"fd:2\", allowed is",
        "childminder.toml:7:34: `when` is \"later\", allowed is \"ready\", \"started\" or \"completed\"",
        "childminder.toml:8:10: `health` checks nothing, or more than one thing",
        "childminder.toml:9:17: `stop` has a step with neither or both",
    ];
    for part in expected {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"true\"]\nafter = [\"b\"]\n[process.b]\ncommand = [\"true\"]\nrequires = [\"c\"]\n\
         [process.c]\ncommand = [\"true\"]\ninstances = 2\nafter = [\"a\", \"x\"]\n[group.g]\nmembers = [\"a\", \"y\"]\n",
    );
    let (code, told) = run(&folder, &["check"]);
    assert_eq!(code, 2);
    let expected = [
        "childminder.toml:10:15: `after` names `x`, which is no process of the file",
        "childminder.toml:12:17: `members` names `y`, which is no process and no group of the file",
        ": these wait for each other: `a` for `b` for `c:1` for `a`",
    ];
    for part in expected {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

#[test]
fn the_effective_file_reads_back() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nstart-limit = { per-second = 50, at-once = 4 }\njitter = 25\n\
         [process.db]\ncommand = [\"true\"]\ninstances = 2\nready = { tcp = \":54{instance}\", interval = \"2s\" }\n\
         watchdog = \"3s\"\nready-timeout = 5\nsuccess-codes = [3]\nfatal-codes = [4, 5]\nreload-signal = \"USR1\"\n\
         restart-limit = { starts = 5, within = \"1m\" }\nhealth = { command = [\"./ok\", \"{instance}\"], failures = 4 }\n\
         stop = [{ signal = \"QUIT\", whom = \"main\", wait = \"9s\" }, { command = [\"bin/stop\"] }, \"INT\"]\n\
         [process.web]\ncommand = [\"true\"]\nrequires = [\"db\"]\nafter = [{ name = \"db\", when = \"started\" }]\nessential = true\n\
         [group.all]\nmembers = [\"db\", \"web\"]\nstrategy = \"rest\"\nrestart-limit = { starts = 2, within = 9 }\n",
    );
    let effective = || {
        let output = Command::new(PROGRAM).args(["check", "--effective"]).current_dir(&folder.0).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let first = effective();
    assert!(first.contains("ready = { tcp = \"127.0.0.1:542\", interval = \"2s\", timeout = \"5s\" }"), "{first}");
    folder.write("childminder.toml", &first);
    assert_eq!(effective(), first);
}

#[test]
fn a_reload_changes_order_and_health_and_lets_processes_run() {
    let up = Up::start(
        "[process.db]\nshell = \"exec sleep 1000\"\nready = \"started\"\n[process.web]\nshell = \"exec sleep 1000\"\n",
    );
    up.until_state("db", "ready");
    let (db, web) = (up.pid_of("db"), up.pid_of("web"));
    up.write_file(
        "[process.db]\nshell = \"exec sleep 1000\"\nready = \"started\"\n\
         health = { command = [\"false\"], interval = \"1ms\", failures = 1000000 }\n\
         [process.web]\nshell = \"exec sleep 1000\"\nrequires = [\"db\"]\n\
         [process.late]\nshell = \"exec sleep 1000\"\nafter = [\"db\", \"web\"]\n",
    );
    up.ok(&["reload"]);
    assert_eq!((up.pid_of("db"), up.pid_of("web")), (db, web));
    up.until_state("db", "running");
    up.ok(&["stop", "db", "--wait"]);
    up.until_state("web", "waiting");
    assert_eq!(up.status("web")["reason"], "waits for db, which is stopped");
    up.shutdown();
}

#[test]
fn the_reason_of_a_failing_check_is_told() {
    let up = Up::start(
        "[process.web]\nshell = \"exec sleep 1000\"\nready = { command = [\"false\"], interval = \"10ms\" }\n",
    );
    until("a check has failed", || {
        (up.status("web")["reason"] == "its last check has failed: exit status 1").then_some(())
    });
    up.shutdown();
}

#[test]
fn all_have_ended_if_the_rest_waits_in_vain() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.job]\nshell = \"exit 6\"\nrestart = \"never\"\n\
         [process.web]\nshell = \"exec sleep 1000\"\nafter = [{ name = \"job\", when = \"completed\" }]\n",
    );
    let (code, said) = run(&folder, &["up", "--exit-when", "all"]);
    assert_eq!(code, 6, "{said}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = Folder::new();
    let process = "[process.a]\ncommand = [\"true\"]\n";
    for (keys, part) in [
        ("reload-signal = \"KILL\"", "`reload-signal` is \"KILL\", allowed is a signal that a process can act on"),
        ("success-codes = [3]\nfatal-codes = [3]", "the exit code 3 is a success and fatal"),
        ("ready = { line = \"up\" }\nstdout = \"null\"\nstderr = \"inherit\"", "only where we read its output"),
    ] {
        folder.write("childminder.toml", &format!("{process}{keys}\n"));
        let (code, told) = run(&folder, &["check"]);
        assert!(code == 2 && told.contains(part), "{part} is not in\n{told}");
    }
}
