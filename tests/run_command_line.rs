//! Tests the command line of `childminder run`: its mistakes, programs that cannot be started, and
//! the child's environment and rights.
#![cfg(feature = "cli")]

mod run_util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use run_util::*;

// The next tests are about programs that cannot be started.

#[test]
fn what_cannot_be_started_is_said_with_the_reason_and_tried_again() {
    let scratch = Scratch::new("cannot");
    let plain = scratch.file("plain", "echo hello\n", 0o644);
    let orphan = scratch.file("orphan", "#!/no/such/interpreter\n", 0o755);
    let garbage = scratch.file("garbage", "\u{1}\u{2}\u{3}\n", 0o755);
    let directory = scratch.path("");
    let missing = scratch.path("missing");
    let cases: &[(&[&str], &str, i32)] = &[
        (&[&missing], "No such file", 127),
        (&["childminder-no-such-program"], "No such file", 127),
        (&[&directory], "it is a directory", 126),
        (&[&plain], "not executable", 126),
        (&[&orphan], "/no/such/interpreter", 127),
        (&[&garbage], "Exec format error", 126),
        (&["--cwd", &missing, "true"], "chdir", 125),
    ];
    for (args, reason, code) in cases {
        let with = |more: &[&'static str]| -> Vec<&str> { [more, args].concat() };
        let mut running = start(&with(&["-m", "0.05", "-M", "0.1"]));
        for wait in ["0.05 s", "0.1 s", "0.1 s"] {
            let said = running.expect(ERR, "could not start: ");
            assert!(said.text.contains(reason), "{said:?}");
            running.expect(ERR, &format!("restarting in {wait}"));
        }
        running.signal("TERM");
        assert_eq!(running.finish().0, Some(0), "{args:?}");

        let (ended, out, err) = run(&with(&["--restart", "never"]));
        assert_eq!((ended, out.len(), err.len()), (Some(*code), 0, 1), "{args:?}: {err:?}");
        if *code != 125 {
            assert_eq!(run(&with(&["--restart", "on-failure"])).0, Some(*code), "{args:?}");
        }
    }
}

#[test]
fn what_a_user_may_not_execute_is_said_with_the_user_and_the_folder() {
    if !needs_root() {
        return;
    }
    let scratch = Scratch::new("denied");
    fs::create_dir(scratch.path("closed")).unwrap();
    scratch.file("closed/program", "#!/bin/sh\n", 0o755);
    scratch.file("program", "#!/bin/sh\n", 0o700);
    fs::set_permissions(scratch.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let denied = |program: &str, hint: &str| {
        let path = scratch.path(program);
        let (code, out, err) = run(&["--restart", "never", "--user", "65534:65534", &path]);
        let said = format!("cannot start `{path}`: exec: Permission denied (os error 13) ({hint})");
        assert_eq!((code, out.len()), (Some(126), 0));
        assert!(err.len() == 1 && err[0].ends_with(&said), "{err:?}\n{said}");
    };
    let closed = scratch.path("closed");
    denied("closed/program", &format!("as user id 65534; the folder {closed} may not be entered"));
    denied("program", "as user id 65534, who may not execute it");
    // With the group it may execute the program.
    std::os::unix::fs::chown(&closed, None, Some(65534)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o710)).unwrap();
    assert_eq!(run(&["--restart", "never", "--user", "65534:65534", &scratch.path("closed/program")]).0, Some(0));
}

#[test]
fn without_the_right_nobody_becomes_somebody_else() {
    let scratch = Scratch::new("user");
    let copy = scratch.path("childminder");
    fs::copy(env!("CARGO_BIN_EXE_childminder"), &copy).unwrap();
    let run = ["run", "-m", "0.05", "-M", "0.1", "--user", "root", "true"];
    let mut command = if is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", &copy]).args(run);
        setpriv
    } else {
        let mut plain = Command::new(&copy);
        plain.args(run);
        plain
    };
    let mut running = Running::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    for _ in 0..3 {
        let said = running.expect(ERR, "could not start: ");
        assert!(said.text.contains("Operation not permitted"), "{said:?}");
    }
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

#[test]
fn what_can_be_started_later_is() {
    let scratch = Scratch::new("later");
    let program = scratch.path("program");
    for restart in ["always", "on-failure"] {
        let cwd = scratch.path(restart);
        let mut running = start(&["-m", "0.05", "-M", "0.1", "--restart", restart, "--cwd", &cwd, "sh", "-c", "pwd"]);
        running.expect(ERR, "could not start: ");
        fs::create_dir(&cwd).unwrap();
        running.expect(OUT, &format!("[sh] {cwd}"));
    }
    let mut running = start(&["-m", "0.05", "-M", "0.1", &program]);
    running.expect(ERR, "could not start: ");
    fs::rename(scratch.file("made", "#!/bin/sh\necho here\n", 0o755), &program).unwrap();
    running.expect(OUT, "[program] here");
}

// The next tests are about the command line.

#[test]
fn a_mistake_in_the_command_line_is_one_clear_line() {
    let scratch = Scratch::new("usage");
    let trace = scratch.path("trace");
    let touch = ["touch", trace.as_str()];
    let delays = ["-1", "-0.5", "nan", "NaN", "inf", "-inf", "infinity", "1e400", "", "abc", "0x1", "1,5"];
    let mut mistakes: Vec<(Vec<&str>, &str)> = Vec::new();
    for option in ["-t", "-k", "-m", "-M", "--threshold", "--killtime", "--minrestartdelay", "--maxrestartdelay"] {
        mistakes.extend(delays.iter().map(|delay| (vec![option, delay], "seconds")));
    }
    let others: &[(&[&str], &str)] = &[
        (&["-t-1"], "--threshold"),
        (&["--killtime=-1"], "--killtime"),
        (&["-m", "2", "-M", "1"], "--minrestartdelay 2s is above --maxrestartdelay 1s"),
        (&["-m", "0", "-M", "0.001"], "--maxrestartdelay 1ms is too short"),
        (&["-M", "0.5"], "--minrestartdelay 1s (the default) is above --maxrestartdelay 500ms; give -m, too"),
        (&["-m", "7200"], "--minrestartdelay 7200s is above --maxrestartdelay 3600s (the default); give -M, too"),
        (&["--name", ""], "--name is empty"),
        (&["--name="], "--name is empty"),
        (&["--name", "a\nb"], "--name `a\\nb` has control characters in it"),
        (&["--cwd", ""], "--cwd is empty"),
        (&["--user", "childminder-no-such-user"], "no user `childminder-no-such-user`"),
        (&["--user", "root:childminder-no-such-group"], "no group `childminder-no-such-group`"),
        (&["--user", "4000000"], "--user 4000000: it is not in the user database; give its group, too: 4000000:GROUP"),
        (&["--user", "4294967295:0"], "4294967295"),
        (&["--user", ""], "--user : the user is empty"),
        (&["--user", ":root"], "--user :root: the user is empty"),
        (&["--user", "root:"], "--user root:: the group is empty"),
        (&["--env", "NOVALUE"], "KEY=VALUE"),
        (&["--env", "=value"], "KEY=VALUE"),
        (&["--restart", "sometimes"], "sometimes"),
        (&["--clear-env=yes"], "--clear-env"),
        (&["--nonsense"], "--nonsense"),
        (&["--non\nsense"], "--non"),
        (&["-x"], "-x"),
        (&["-c"], "try --help"),
    ];
    mistakes.extend(others.iter().map(|(args, word)| (args.to_vec(), *word)));
    for (args, word) in mistakes {
        let (code, out, err) = run(&[&args[..], &touch].concat());
        assert_eq!((code, out.len(), err.len()), (Some(2), 0, 1), "{args:?}: {err:?}");
        assert!(err[0].starts_with("childminder: ") && err[0].contains(word), "{args:?}: {err:?}");
    }
    for args in [&["-t"][..], &["--env"], &["--user"], &[], &["--"], &["-t", "1"], &[""]] {
        let (code, _, err) = run(args);
        assert_eq!((code, err.len()), (Some(2), 1), "{args:?}: {err:?}");
    }
    assert!(!Path::new(&trace).exists(), "something was started");
}

#[test]
fn options_may_be_written_in_all_ways() {
    for options in [
        &["-t0.5", "-k0.5", "-m0.5", "-M0.5"][..],
        &["-t=0.5", "-k=0.5", "-m=0.5", "-M=0.5"],
        &["-t", "0", "-k", "1e-3", "-m", ".5", "-M", "1."],
        &["--threshold=1", "--killtime", "0", "--minrestartdelay=0", "--maxrestartdelay", "86400"],
        &["-M", "1e9", "-k", "1e12", "-t", "1e18"],
    ] {
        let (code, out, err) = run(&[options, &["--restart=never", "--", "echo", "fine"]].concat());
        assert_eq!((code, &out[..]), (Some(0), &["[echo] fine".to_owned()][..]), "{options:?}: {err:?}");
    }
}

#[test]
fn options_end_at_the_command() {
    for (args, said) in [
        (&["echo", "-t", "--name", "x", "--", "-c"][..], "[echo] -t --name x -- -c"),
        (&["--", "echo", "--", "-t"], "[echo] -- -t"),
        (&["--name", "my name", "echo", "--name"], "[my name] --name"),
        (&["/bin/echo", "by path"], "[echo] by path"),
        (&["sh", "-c", "echo $0", "-k"], "[sh] -k"),
    ] {
        let (code, out, err) = run(&[&["--restart", "never"], args].concat());
        assert_eq!((code, &out[..]), (Some(0), &[said.to_owned()][..]), "{args:?}: {err:?}");
    }
}

#[test]
fn help_says_what_signals_do_and_where_stdin_leads() {
    for command in ["run", "up"] {
        let output = Command::new(env!("CARGO_BIN_EXE_childminder")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let words = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGTSTP", "closed terminal", "/dev/null"];
        for word in words.into_iter().chain((command == "up").then_some("SIGUSR2")) {
            assert!(help.contains(word), "{command}: {word}");
        }
        let long: Vec<_> = help.lines().filter(|line| line.chars().count() > 120).collect();
        assert!(long.is_empty(), "{long:#?}");
    }
    for command in ["status", "start", "stop", "restart", "signal", "reload", "reopen", "shutdown", "logs", "events"] {
        let output = Command::new(env!("CARGO_BIN_EXE_childminder")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        for option in ["--socket PATH", "--owner USER", "--config FILE", "--json"] {
            assert!(help.contains(option), "{command}: {option}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
        assert_eq!(help.contains("--all"), !["reopen", "shutdown"].contains(&command), "{command}");
    }
}

#[test]
fn help_and_version_are_answered_on_stdout() {
    for args in [&["--help"][..], &["-h"], &["run", "--help"], &["run", "-h"], &["run", "-t", "1", "--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_childminder")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("usage: childminder run "), "{args:?}");
        assert_eq!(output.stderr, b"", "{args:?}");
    }
    for arg in ["--version", "-V"] {
        let output = Command::new(env!("CARGO_BIN_EXE_childminder")).arg(arg).output().unwrap();
        assert_eq!(output.stdout, format!("childminder {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    }
}

// The next tests are about what the child gets.

#[test]
fn the_environment_is_added_to_or_made_anew() {
    let said = |args: &[&str]| {
        let mut command = command(&[&["--restart", "never"], args, &["--", "/usr/bin/env"]].concat());
        let output = command.env("INHERITED", "1").output().unwrap();
        let mut lines: Vec<_> = output.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    let added = said(&["--env", "A=1", "--env", "B=x=y", "--env", "INHERITED=2", "--env", "E="]);
    for line in ["[env] A=1", "[env] B=x=y", "[env] INHERITED=2", "[env] E="] {
        assert!(added.contains(&line.into()), "{line}");
    }
    assert!(said(&[]).contains(&b"[env] INHERITED=1".to_vec()));
    assert_eq!(said(&["--env", "A=1", "--clear-env"]), [b"".to_vec(), b"[env] A=1".to_vec()]);
}

#[test]
fn a_variable_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = command(&["--restart", "never", "--env"]);
    command.arg(std::ffi::OsStr::from_bytes(b"RAW=\xff")).args(["sh", "-c", "printf '%s' \"$RAW\""]);
    let output = command.output().unwrap();
    assert_eq!(output.stdout, b"[sh] \xff\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_program_is_found_without_a_path() {
    assert_eq!(run(&["--restart", "never", "--clear-env", "true"]).0, Some(0));
}

#[test]
fn the_child_has_no_stdin_and_nothing_else_of_ours() {
    let mut command = command(&["--restart", "never", "sh", "-c", "readlink /proc/$$/fd/0; ls -x /proc/$$/fd; wc -c"]);
    let output = command.stdin(Stdio::piped()).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out, "[sh] /dev/null\n[sh] 0  1  2\n[sh] 0\n");
}

#[test]
fn the_directory_is_the_childs() {
    let (_, out, _) = run(&["--restart", "never", "--cwd", "/", "sh", "-c", "pwd"]);
    assert_eq!(out, ["[sh] /"]);
}

// All relative paths of the command line start from the current folder, and none from --cwd.
#[test]
fn paths_count_from_the_current_folder() {
    let scratch = Scratch::new("relative");
    scratch.file("program", "#!/bin/sh\npwd\n", 0o755);
    fs::create_dir(scratch.path("inner")).unwrap();
    let here = scratch.path("");
    let here = here.trim_end_matches('/');
    let run = |args: &[&str]| {
        let output = command(&[&["--restart", "never"], args].concat()).current_dir(here).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), said(&output.stdout), said(&output.stderr))
    };
    assert_eq!(run(&["--cwd", "./inner", "./program"]).1, format!("[program] {here}/inner\n"));
    assert_eq!(run(&["--cwd", "inner/..", "./inner/../program"]).1, format!("[program] {here}\n"));
    let (code, _, err) = run(&["--cwd", "./nowhere", "true"]);
    assert_eq!(code, Some(125));
    assert!(err.contains(&format!("cannot start `true`: chdir {here}/nowhere: No such file")), "{err}");
    let (code, _, err) = run(&["./missing"]);
    assert_eq!(code, Some(127));
    assert!(err.contains(&format!("cannot start `{here}/missing`: exec: No such file")), "{err}");
}

#[test]
fn a_current_folder_that_is_gone_is_told() {
    let scratch = Scratch::new("gone");
    for (args, told) in [
        ("--cwd x true", "--cwd x: the current folder is gone"),
        ("./program", "./program: the current folder is gone"),
    ] {
        let program = env!("CARGO_BIN_EXE_childminder");
        let script = format!("mkdir gone && cd gone && rmdir ../gone && exec {program} run {args}");
        let output = Command::new("sh").args(["-c", &script]).current_dir(scratch.path("")).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*err), (Some(125), &*format!("childminder: {told}\n")));
    }
    let script = format!(
        "mkdir gone && cd gone && rmdir ../gone && exec {} run --restart never --cwd / pwd",
        env!("CARGO_BIN_EXE_childminder")
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(scratch.path("")).output().unwrap();
    assert_eq!(output.stdout, b"[pwd] /\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_user_is_the_childs() {
    if !needs_root() {
        return;
    }
    for (user, said) in [
        ("nobody", "65534:65534:65534"),
        ("65534", "65534:65534:65534"),
        ("nobody:root", "65534:0:0 65534"),
        ("65534:0", "65534:0:0 65534"),
        ("4000000:4000001", "4000000:4000001:4000001"),
    ] {
        let (code, out, err) =
            run(&["--restart", "never", "--user", user, "sh", "-c", "echo $(id -u):$(id -g):$(id -G)"]);
        assert_eq!((code, &out[..]), (Some(0), &[format!("[sh] {said}")][..]), "{user}: {err:?}");
    }
}
