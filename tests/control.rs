//! Tests the control of `childminder up` from the shell: its commands, their answers and exit
//! codes, and the users who may use the socket.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use up_util::{Folder, PROGRAM, Up, is_alive, left_out, needs_root, now, text, until};

const PYTHON: &str = "/usr/bin/python3";
const SLEEPS: &str = "
[process.web]
command = [\"sleep\", \"1000\"]
[process.worker]
command = [\"sleep\", \"1000\"]
instances = 2
[process.lazy]
command = [\"sleep\", \"1000\"]
autostart = false
";

fn states(up: &Up) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    up.statuses().iter().map(|status| (word(&status["name"]), word(&status["state"]))).collect()
}

#[track_caller]
fn assert_states(up: &Up, expected: [&str; 4]) {
    let names = ["web", "worker:1", "worker:2", "lazy"];
    let expected: Vec<_> = names.into_iter().zip(expected).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    assert_eq!(states(up), expected);
}

#[test]
fn starts_stops_and_restarts_what_is_named() {
    let up = Up::start(SLEEPS);
    assert_states(&up, ["running", "running", "running", "stopped"]);
    let web = up.pid_of("web");
    up.ok(&["stop", "worker:*", "--wait"]);
    assert_states(&up, ["running", "stopped", "stopped", "stopped"]);
    up.ok(&["start", "worker:?", "lazy", "--wait", "--timeout", "30s"]);
    assert_states(&up, ["running", "running", "running", "running"]);
    assert_eq!(up.pid_of("web"), web);

    up.ok(&["restart", "web", "--wait"]);
    assert_ne!(up.pid_of("web"), web);
    let status = up.status("web");
    assert_eq!((&status["restarts"], &status["last_exit"]["signal"]), (&1.into(), &"SIGTERM".into()));
    up.ok(&["stop", "--all", "--wait"]);
    assert_states(&up, ["stopped"; 4]);
    up.shutdown();
}

#[test]
fn says_in_json_what_a_program_wants() {
    let up = Up::start("[process.a]\nshell = \"exit 3\"\nrestart = \"never\"\n[process.b]\ncommand = [\"false\"]\n");
    let a = up.until_state("a", "exited");
    let last = &a["last_exit"];
    assert_eq!([&last["code"], &last["signal"], &last["text"]], [&3.into(), &Value::Null, &"exit status 3".into()]);
    assert!(a["pid"].is_null() && a["uptime"].is_null(), "{a}");
    let b = up.until_state("b", "backing-off");
    assert!(b["retry_in"].as_f64().is_some(), "{b}");
    up.ok(&["stop", "b"]);
    assert_eq!(up.status("b")["state"], "stopped");
}

#[test]
fn says_why_a_start_failed_until_one_succeeds() {
    let up = Up::start(
        "[process.a]\nshell = \"exec ./program 1000\"\n[process.b]\ncommand = [\"./program\", \"1000\"]\nmin-restart-delay = 0.05\nmax-restart-delay = 0.05\n",
    );
    assert!(up.status("a")["start_error"].is_null());
    let b = up.until_state("b", "backing-off");
    let error = b["start_error"].as_str().unwrap();
    assert!(
        error.contains(&format!("`{}`", up.folder.join("program").display())) && error.contains("No such file"),
        "{error}"
    );
    assert!(up.ok(&["status", "b"]).contains("no start"));
    std::os::unix::fs::symlink("/bin/sleep", up.folder.join("program")).unwrap();
    let b = up.until_state("b", "running");
    assert!(b["start_error"].is_null(), "{b}");
}

// This is like a container that may not signal the processes of other users, and has no cgroups.
// The kernel would kill the members of a cgroup whatever their user is.
#[test]
fn says_why_what_is_stopping_is_still_there() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.other]\nshell = \"echo $$; read x <wait\"\ndirectory = \".\"\nuser = \"nobody\"\nkill-time = \"20ms\"\ncontain = \"group\"\n",
    );
    assert!(Command::new("mkfifo").args(["-m", "666"]).arg(folder.join("wait")).status().unwrap().success());
    let (out, err) = (fs::File::create(folder.join("out")).unwrap(), fs::File::create(folder.join("err")).unwrap());
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-kill", "--inh-caps=-kill", PROGRAM, "up"]).current_dir(&folder.0);
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    let pid: i32 = up.until_read("out", "\n").trim_start_matches("[other] ").trim().parse().unwrap();
    assert!(up.status("other")["stop_error"].is_null());
    assert_eq!(up.fails(&["stop", "other", "--wait", "--timeout", "100ms"]).0, 1);
    let other = up.status("other");
    let error = other["stop_error"].as_str().unwrap_or_else(|| panic!("{other}"));
    assert!(other["state"] == "unkillable" && error.contains("Operation not permitted"), "{other}");
    assert!(is_alive(pid));
    up.until_read("err", &format!("[other] still there 2 s after SIGKILL: pid {pid} (sh)\n"));
    fs::write(up.folder.join("wait"), "end\n").unwrap();
    assert!(up.until_state("other", "stopped")["stop_error"].is_null());
    up.shutdown();
}

#[test]
fn sends_signals() {
    let up = Up::start(
        "[process.a]\nshell = \"trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.05; done\"\n[process.b]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n",
    );
    up.until_read("out", "[a] ready");
    up.ok(&["signal", "usr1", "a"]);
    up.until_read("out", "[a] got usr1");
    assert_eq!(up.fails(&["signal", "SIGUSR1", "b"]), (1, "childminder: b is not running\n".into()));
    up.ok(&["stop", "a", "--wait"]);
    let expected = "childminder: a is not running, b is not running\n";
    assert_eq!(up.fails(&["signal", "SIGUSR1", "--all"]), (1, expected.into()));
    up.ok(&["start", "a"]);
    up.ok(&["signal", "9", "a"]);
    until("a restart", || (up.status("a")["restarts"] == 1).then_some(()));
}

#[test]
fn refuses_in_words_and_by_exit_code() {
    let up = Up::start(SLEEPS);
    let before = up.statuses().iter().map(|status| status["pid"].clone()).collect::<Vec<_>>();
    for (args, code, part) in [
        (&["stop"][..], 2, "which processes?"),
        (&["stop", "web", "--all"], 2, "either NAME… or --all"),
        (&["stop", "web", "--timeout", "1s"], 2, "--timeout goes with --wait"),
        (&["stop", "web", "--wait", "--timeout", "soon"], 2, "--timeout wants a duration"),
        (&["signal", "web"], 2, "unknown signal `web`"),
        (&["signal"], 2, "which signal?"),
        (&["shutdown", "web"], 2, "unexpected argument"),
        (&["status", "--follow"], 2, "invalid option"),
        (&["stop", "nobody"], 1, "there is no process `nobody`"),
        (&["stop", "web", "nob*"], 1, "there is no process `nob*`"),
        (&["start", "worker"], 1, "there is no process `worker`; its instances are `worker:*`\n"),
        (&["status", "--socket", "/etc/passwd"], 125, "/etc/passwd is no socket\n"),
        (&["status", "--socket", "/"], 125, "/ is no socket\n"),
        (&["status", "nobody"], 1, "there is no process `nobody`"),
        (&["status", "--socket", "/no/such/socket"], 125, "no supervisor is running at /no/such/socket"),
        (&["status", "-c", "nothing.toml"], 2, "nothing.toml"),
    ] {
        let (exit, said) = up.fails(args);
        assert_eq!(exit, code, "{args:?} {said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{args:?} {said}");
    }
    let after = up.statuses().iter().map(|status| status["pid"].clone()).collect::<Vec<_>>();
    assert_eq!(before, after, "refused, and done all the same");
    up.shutdown();
}

#[test]
fn a_wait_ends_with_its_time_or_when_it_is_in_vain() {
    let up = Up::start(
        "[process.stubborn]\nshell = \"trap '' TERM; echo ready; while :; do sleep 0.05; done\"\nkill-time = \"1h\"\n[process.missing]\ncommand = [\"/no/such/program\"]\n[process.other]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    up.until_read("out", "[stubborn] ready");
    let (code, said) = up.fails(&["stop", "stubborn", "other", "--wait", "--timeout", "2s"]);
    assert_eq!((code, &*said), (1, "childminder: not reached within 2 s: stubborn is stopping\n"));
    // A start that has failed is reported at once, even if it will be tried again.
    let (code, said) = up.fails(&["start", "missing", "--wait"]);
    let why = "cannot start `/no/such/program`: exec: No such file or directory (os error 2)";
    assert_eq!((code, said), (1, format!("childminder: missing could not be started: {why}\n")));

    let mut waiting = Command::new(PROGRAM);
    waiting.args(["restart", "stubborn", "--wait"]).current_dir(&up.folder.0).stderr(Stdio::piped());
    let waiting = waiting.spawn().unwrap();
    // The wait has begun when the restart can be seen.
    until("the restart", || (up.status("stubborn")["state"] == "stopping").then_some(()));
    up.ok(&["stop", "stubborn"]);
    up.ok(&["start", "other", "--wait"]);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(1), "childminder: stubborn was stopped\n"));
}

// A start is done when the process has lived longer than an instant death, or has succeeded.
#[test]
fn a_wait_for_a_start_tells_the_truth() {
    let up = Up::start(
        "[process.web]\nshell = \"sleep 0.05; echo mistake >&2; exit 3\"\nautostart = false\n\
         [process.job]\nshell = \"sleep 0.05\"\nrestart = \"never\"\nautostart = false\n\
         [process.failing]\nshell = \"sleep 0.05; exit 4\"\nrestart = \"never\"\nautostart = false\n\
         [process.slow]\nshell = \"exec sleep 1000\"\nautostart = false\nthreshold = \"700ms\"\n",
    );
    for command in ["start", "restart"] {
        let (code, said) = up.fails(&[command, "web", "--wait"]);
        assert_eq!(code, 1);
        assert!(said.starts_with("childminder: web exited: exit status 3, after 0."), "{said}");
        up.ok(&["stop", "web", "--wait"]);
        up.ok(&[command, "job", "--wait"]);
        let (code, said) = up.fails(&[command, "failing", "--wait"]);
        assert!(code == 1 && said.starts_with("childminder: failing exited: exit status 4, after 0."), "{said}");
        let before = now();
        up.ok(&[command, "slow", "--wait"]);
        assert!(before.elapsed() >= Duration::from_millis(700), "before its threshold: {:?}", before.elapsed());
    }
    let (_, said) = up.fails(&["restart", "slow", "--wait", "--timeout", "100ms"]);
    assert!(said.starts_with("childminder: not reached within 0.1 s: slow "), "{said}");
    // With several processes, each one has its own reason.
    let (_, said) = up.fails(&["restart", "web", "failing", "slow", "--wait"]);
    assert!(said.contains("web exited: exit status 3") && said.contains("failing exited: exit status 4"), "{said}");
    // This holds after a reload, too, which first reports its changes.
    up.write_file("[process.new]\nshell = \"sleep 0.05; exit 5\"\n");
    let output = up.command(&["reload", "--wait"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "added new\nremoved web, job, failing, slow\n");
    let said = text(&output.stderr);
    assert!(said.starts_with("childminder: new exited: exit status 5") && said.lines().count() == 1, "{said}");
    up.write_file("[process.new]\nshell = \"sleep 1000\"\nthreshold = \"1h\"\n");
    let output = up.command(&["reload", "--wait", "--timeout", "100ms"]);
    assert_eq!(text(&output.stdout), "restarted new\n");
    assert!(text(&output.stderr).starts_with("childminder: not reached within 0.1 s: new "));
}

#[test]
fn a_start_that_fails_after_a_success_is_no_success() {
    let up = Up::start("[process.job]\ncommand = [\"./job\"]\nrestart = \"never\"\nautostart = false\n");
    let program = up.folder.join("job");
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    up.ok(&["start", "job", "--wait"]);
    fs::remove_file(&program).unwrap();
    for command in ["start", "restart"] {
        let (code, said) = up.fails(&[command, "job", "--wait"]);
        assert!(code == 1 && said.starts_with("childminder: job could not be started: cannot start "), "{said}");
        assert!(up.ok(&["status", "job"]).contains("no start"));
    }
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    up.ok(&["start", "job", "--wait"]);
    assert!(up.ok(&["status", "job"]).contains("code 0"));
}

#[test]
fn a_reload_tells_that_the_socket_stays() {
    let up = Up::start(SLEEPS);
    let reload = || {
        let output = up.command(&["reload", "--socket", "s"]);
        assert!(output.status.success());
        (text(&output.stdout), text(&output.stderr))
    };
    let (old, new) = (up.socket().display().to_string(), up.folder.join("moved").display().to_string());
    let note = format!("childminder: the socket stays at {old} until the next start, although the file says {new}\n");
    up.folder.write("childminder.toml", &format!("[monitor]\nsocket = \"moved\"\n{SLEEPS}"));
    // The note comes as long as the socket is not where the file says.
    for _ in 0..2 {
        assert_eq!(reload(), (String::new(), note.clone()));
    }
    up.signal(Signal::HUP);
    until("it on stderr", || (up.folder.read("err").matches(&*note).count() == 3).then_some(()));
    let (_, answer) = (up.socket(), up.ok(&["reload", "--json", "--socket", "s"]));
    assert!(answer.contains("\"notes\":[\"the socket stays at "), "{answer}");
    up.write_file(SLEEPS);
    assert_eq!(reload(), (String::new(), String::new()));
    up.shutdown();
}

#[test]
fn shows_the_last_lines_and_those_to_come() {
    let up = Up::start(
        "[process.a]\nshell = \"seq 1 150; echo err >&2; while [ ! -e go ]; do sleep 0.02; done; echo new; exec sleep 1000\"\ndirectory = \".\"\n[process.b]\nshell = \"echo other; exec sleep 1000\"\nstdout = \"null\"\n",
    );
    up.until_read("err", "[a] started");
    up.until_read("out", "[a] 150");
    up.until_read("err", "[a] err");
    let lines = up.ok(&["logs", "a"]);
    assert_eq!(lines.lines().count(), 100);
    assert!(lines.contains("[a] 150\n") && lines.contains("[a] err\n") && !lines.contains("[a] 50\n"), "{lines}");
    assert_eq!(up.ok(&["logs", "b"]), "");

    let mut follow = Command::new(PROGRAM);
    follow.args(["logs", "-f", "--json", "a"]).current_dir(&up.folder.0).stdout(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let mut out = follow.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !text(&seen).contains("\"line\":\"err\"") {
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", text(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    up.folder.write("go", "");
    while !text(&seen).contains("\"line\":\"new\"") {
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", text(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(text(&seen).lines().count(), 101);
    // When the supervisor ends, there is nothing more to follow.
    up.shutdown();
    assert_eq!(follow.wait().unwrap().code(), Some(125));
}

#[test]
fn one_instance_per_socket_and_a_dead_ones_is_replaced() {
    let mut up = Up::start(SLEEPS);
    let mode = fs::metadata(up.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let (code, said) = up.fails(&["up"]);
    assert_eq!(code, 125);
    assert!(said.ends_with(&format!("/childminder.toml: another instance is running, pid {}\n", up.pid())), "{said}");
    // Another file with the same socket is refused, too, whether or not the socket is there.
    up.folder.write("other.toml", "[monitor]\nsocket = \"s\"\n[process]\n");
    for _ in 0..2 {
        let (code, said) = up.fails(&["up", "-c", "other.toml"]);
        assert_eq!(code, 125);
        assert!(said.ends_with(&format!("/s: another instance is running, pid {}\n", up.pid())), "{said}");
        let _ = fs::remove_file(up.socket());
    }
    up.wait_for_socket();
    assert_states(&up, ["running", "running", "running", "stopped"]);

    let pids = [up.pid_of("web"), up.pid_of("worker:1"), up.pid_of("worker:2")];
    up.signal(Signal::KILL);
    up.wait();
    assert!(up.socket().exists(), "left behind by the dead one");
    for pid in pids {
        up_util::kill(pid, Signal::KILL);
    }
    let folder = std::mem::replace(&mut up.folder, Folder::new());
    Up::start_in(folder, SLEEPS).shutdown();
}

#[test]
fn of_many_that_start_at_once_one_runs() {
    let folder = Folder::new();
    folder.write("childminder.toml", "[monitor]\nsocket = \"s\"\n[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    drop(std::os::unix::net::UnixListener::bind(folder.join("s")).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdout(Stdio::null()).stderr(Stdio::null());
    let mut all: Vec<_> = (0..6).map(|_| command.spawn().unwrap()).collect();
    let mut codes = Vec::new();
    until("all but one to give up", || {
        all.retain_mut(|child| match child.try_wait().unwrap() {
            Some(status) => {
                codes.push(status.code());
                false
            }
            None => true,
        });
        (all.len() == 1).then_some(())
    });
    assert_eq!(codes, [Some(125); 5]);
    let mut up = Up { folder, child: all.remove(0) };
    up.wait_for_socket();
    up.shutdown();
}

#[test]
fn another_user_is_refused() {
    if !needs_root() {
        return;
    }
    let up = Up::start(SLEEPS);
    // The modes are as open as a mistake could make them. The user at the other end still counts.
    let open = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(&up.folder.0, 0o755);
    open(&up.socket(), 0o777);
    let program = up.folder.join("childminder");
    fs::copy(PROGRAM, &program).unwrap();
    open(&program, 0o755);
    // The supervisor may have answered and closed before the request is sent.
    let script = format!(
        "import socket
s = socket.socket(socket.AF_UNIX)
s.connect({:?})
try:
    s.sendall(b'{{\"version\":1,\"command\":\"shutdown\"}}\\n')
except BrokenPipeError:
    pass
print(s.recv(1000).decode())",
        up.socket()
    );
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).args(args);
        command.output().unwrap()
    };
    if std::path::Path::new(PYTHON).exists() {
        let output = as_nobody(&[PYTHON, "-c", &script]);
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(said.contains("you are neither root nor the user"), "{said}{errors}");
    } else {
        left_out("there is no python3 to ask as another user");
    }
    let socket = up.socket();
    let shutdown = [program.to_str().unwrap(), "shutdown", "--socket", socket.to_str().unwrap()];
    let output = as_nobody(&shutdown);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("you are neither root nor the user"), "{said}");
    // This is the mode with which the socket is made.
    open(&up.socket(), 0o600);
    let output = as_nobody(&shutdown);
    let expected = format!(
        "childminder: {}: Permission denied (os error 13); only root and the supervisor's own user may talk to it\n",
        up.socket().display()
    );
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(125), expected));
    assert_states(&up, ["running", "running", "running", "stopped"]);
    up.shutdown();
}

#[test]
fn without_a_file_the_socket_is_the_user_s() {
    let folder = Folder::new();
    let program = folder.join("childminder");
    // A child copies the file, because a file that another test's child has open for writing cannot
    // be executed.
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
    let own = rustix::process::geteuid();
    // In a user namespace, root may not become every user.
    if own.is_root() && !needs_root() {
        return;
    }
    let uid = if own.is_root() { 65534 } else { own.as_raw() };
    let where_it_is = |runtime_dir: Option<&str>| {
        let mut command = Command::new(&program);
        command.arg("status").current_dir(&folder.0).env_remove("XDG_RUNTIME_DIR");
        command.envs(runtime_dir.map(|dir| ("XDG_RUNTIME_DIR", dir)));
        if own.is_root() {
            command.uid(uid).gid(uid);
        }
        text(&command.output().unwrap().stderr)
    };
    let file = folder.join("childminder.toml");
    let none_at = |path: &str| {
        let why = format!("the default, as there is no {}", file.display());
        format!("childminder: no supervisor is running at {path} ({why})\n")
    };
    assert_eq!(where_it_is(Some("/no/such/folder")), none_at("/no/such/folder/childminder.sock"));
    let default = format!("/tmp/childminder-{uid}.sock");
    assert_eq!(where_it_is(None), none_at(&default));
    folder.write("childminder.toml", "[monitor]\n");
    let expected = format!(
        "childminder: no supervisor is running at {default} (the default, as {} sets no `socket`)\n",
        file.display()
    );
    assert_eq!(where_it_is(None), expected);
}

// An answer that could not be written is a failure. A reader that has closed the pipe is not.
#[test]
fn an_answer_that_is_lost_is_told() {
    let up = Up::start("[process.a]\nshell = \"echo line; exec sleep 1000\"\n");
    up.until_read("out", "[a] line\n");
    let run = |args: &[&str], stdout: Stdio| {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(&up.folder.0).stdin(Stdio::null()).stdout(stdout).output().unwrap()
    };
    let all: [&[&str]; 6] = [
        &["--help"],
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["logs", "a"],
        &["check", "--effective"],
    ];
    for args in all {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = run(args, full.into());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {said}");
        assert!(said.starts_with("childminder: cannot write to stdout: No space left"), "{args:?}: {said}");

        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let output = run(args, writer.into());
        assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""), "{args:?}");
    }
}
