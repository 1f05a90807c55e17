//! Tests the warnings of `check`: problems that can be solved before the start, and that do not
//! keep `up` from starting the other processes.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use up_util::{Folder, Nobody, PROGRAM, Up, needs_root, run, text};

/// Checks that each line of the output of `check` contains the expected part, and that there are no
/// other lines.
#[track_caller]
fn expect(folder: &Folder, said: (i32, String), lines: &[(&str, &str)]) {
    let here = folder.0.display().to_string();
    let (code, said) = said;
    assert_eq!(code, 0, "{said}");
    let mut left: Vec<&str> = said.lines().collect();
    for (number, (line, expected)) in lines.iter().enumerate() {
        let place = format!("childminder.toml:{}:", number + 3);
        let (of_this, of_others) = left.into_iter().partition::<Vec<_>, _>(|line| line.starts_with(&place));
        left = of_others;
        let expected = expected.replace("HERE", &here);
        match &of_this[..] {
            [] => assert_eq!(expected, "", "{line}"),
            [one] => {
                let message = one.split_once(": warning: ").unwrap_or_else(|| panic!("{one}")).1;
                assert!(!expected.is_empty() && message.contains(&expected), "{line}: {one}\n{expected}");
            }
            more => panic!("{line}: {more:#?}"),
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

/// Writes a file with one process for each line, which is the inside of its inline table.
fn file(folder: &Folder, lines: &[(&str, &str)]) {
    let lines =
        lines.iter().enumerate().map(|(number, (line, _))| format!("p{number} = {{ {line}, autostart = false }}\n"));
    let text = format!("monitor.socket = \"s\"\n[process]\n{}", lines.collect::<String>());
    folder.write("childminder.toml", &text);
}

#[track_caller]
fn check(folder: &Folder, lines: &[(&str, &str)]) {
    file(folder, lines);
    expect(folder, run(folder, &["check"]), lines);
    // The file is accepted nevertheless.
    let (code, said) = run(folder, &["check", "--effective"]);
    assert_eq!(code, 0, "{said}");
}

fn script(folder: &Folder, name: &str, content: &str, mode: u32) {
    folder.write(name, content);
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_program_that_cannot_be_started() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("bin/folder")).unwrap();
    script(&folder, "bin/plain", "#!/bin/sh\n", 0o644);
    script(&folder, "bin/fine", "#!/bin/sh -e\n", 0o755);
    script(&folder, "bin/windows", "#!/bin/sh\r\n", 0o755);
    script(&folder, "bin/orphan", "#! /no/such/sh -e\n", 0o755);
    script(&folder, "bin/env", "#!/usr/bin/env fine\n", 0o755);
    script(&folder, "bin/env-split", "#!/usr/bin/env -S no-such-python -u\n", 0o755);
    script(&folder, "bin/none", "echo no first line\n", 0o755);
    script(&folder, "bin/empty", "", 0o755);
    assert!(Command::new("mkfifo").arg(folder.join("bin/pipe")).status().unwrap().success());
    fs::set_permissions(folder.join("bin/pipe"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("environment = {{ PATH = \"/no/such:{}/bin\" }}", folder.0.display());
    let with_path = |command: &str| format!("command = [\"{command}\"], {path}");
    let lines = [
        (
            "command = [\"no-such-program\"]".to_owned(),
            "`command` starts \"no-such-program\", which is in no folder of its PATH, ",
        ),
        ("command = [\"sleep\"]".into(), ""),
        (with_path("sleep"), "which is in no folder of its PATH, /no/such:HERE/bin"),
        (with_path("fine"), ""),
        (with_path("plain"), "`command` starts \"plain\", found as \"HERE/bin/plain\", which is not executable"),
        (with_path("folder"), "found as \"HERE/bin/folder\", which is a directory"),
        ("command = [\"sleep\"], clear-environment = true".into(), ""),
        ("command = [\"fine\"], environment = { PATH = \"\" }, directory = \"bin\"".into(), ""),
        ("command = [\"fine\"], environment = { PATH = \"bin\" }, directory = \".\"".into(), ""),
        (
            "command = [\"fine\"], environment = { PATH = \"bin\" }, directory = \"/\"".into(),
            "in no folder of its PATH, bin",
        ),
        ("command = [\"./bin/fine\"], directory = \"/\"".into(), ""),
        (
            "command = [\"./fine\"], directory = \"./bin\"".into(),
            "`command` starts \"HERE/fine\", which does not exist",
        ),
        ("command = [\"bin/fine/x\"]".into(), "which does not exist"),
        ("command = [\"bin/pipe\"]".into(), "which is not a regular file"),
        ("command = [\"bin/orphan\"]".into(), "which has the interpreter \"/no/such/sh\", which does not exist"),
        ("command = [\"bin/windows\"]".into(), "which has the interpreter \"/bin/sh\\r\", which does not exist"),
        ("command = [\"bin/env\"]".into(), "which has the interpreter \"fine\", which is in no folder of its PATH, "),
        (with_path("env"), ""),
        ("command = [\"bin/env-split\"]".into(), "which has the interpreter \"no-such-python\", which is in no folder"),
        ("command = [\"bin/none\"]".into(), "which is neither a program nor a script with a `#!` line"),
        ("command = [\"bin/empty\"]".into(), "which is neither a program nor a script with a `#!` line"),
        ("shell = \"no-such-program\"".into(), ""),
        (
            "command = [\"bin/{instance}\"], instances = 3".into(),
            "`command` starts \"HERE/bin/1\", which does not exist",
        ),
    ];
    let lines: Vec<_> = lines.iter().map(|(line, expected)| (line.as_str(), *expected)).collect();
    check(&folder, &lines);
}

#[test]
fn a_folder_that_is_missing() {
    let folder = Folder::new();
    folder.write("file", "");
    check(
        &folder,
        &[
            (
                "command = [\"true\"], directory = \"./no\"",
                "`directory` is \"HERE/no\", which does not exist: the process cannot be started there",
            ),
            ("command = [\"true\"], directory = \"file\"", "which is not a directory"),
            ("command = [\"true\"], directory = \".\"", ""),
            (
                "command = [\"true\"], stdout = \"./logs/x\"",
                "`stdout` is the file \"HERE/logs/x\", and its folder does not exist: its lines wait until it can be written, and are dropped if they become too many",
            ),
            (
                "command = [\"true\"], stderr = { file = \"file/x\", direct = true }",
                "`stderr` is the file \"HERE/file/x\", and its folder is not a directory: the process cannot be started until it can be written",
            ),
            (
                "command = [\"true\"], stderr = { file = \"{instance}/x\" }, instances = 2",
                "`stderr` is the file \"HERE/1/x\"",
            ),
            ("command = [\"true\"], stdout = \"/dev/null\"", ""),
            ("command = [\"true\"], stdout = \"./file\"", ""),
        ],
    );
}

#[test]
fn what_stays_as_it_is_written() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("~/$HOME")).unwrap();
    let variable = "stays as it is written: only `shell` and `environment` replace variables";
    let lines = [
        ("command = [\"echo\", \"a $HOME\"]", format!("`$HOME` {variable}")),
        ("command = [\"echo\", \"--port=${PORT:-80}\"]", format!("`${{PORT:-80}}` {variable}")),
        (
            "command = [\"echo\", \"$5\", \"a$\", \"pa$word\", '\\$HOME', \"$$HOME\", \"${\", \"$ {A B}\"]",
            String::new(),
        ),
        ("command = [\"sh\", \"-c\", \"echo $HOME ${PORT}\"]", String::new()),
        ("command = [\"env\", \"/bin/bash\", \"-c\", \"echo $HOME\"]", String::new()),
        ("command = [\"timeout\", \"5\", \"bash\", \"-elc\", \"echo $HOME\"]", String::new()),
        ("command = [\"sh\", \"./run.sh\", \"$PORT\"]", format!("`$PORT` {variable}")),
        ("command = [\"python3\", \"app.py\", \"--port\", \"$PORT\"]", format!("`$PORT` {variable}")),
        ("command = [\"perl\", \"-e\", \"print $ENV{x}\"]", String::new()),
        ("command = [\"cat\", \"-e\", \"$HOME/x\"]", format!("`$HOME` {variable}")),
        ("command = [\"awk\", \"{ print $NF }\"]", String::new()),
        ("command = [\"ssh\", \"host\", \"echo $HOME\"]", String::new()),
        ("command = [\"echo\"], environment = { PATH = \"/bin:$PATH\" }", String::new()),
        ("command = [\"echo\"], environment = { A = \"$(id)\" }", "`$(` stays as it is written: only".into()),
        ("command = [\"echo\"], directory = \"./~/$HOME\"", format!("`$HOME` {variable}")),
        ("command = [\"echo\"], directory = \"~\"", "`~` stays as it is written: only `shell` replaces it".into()),
        ("command = [\"echo\"], stdout = \"./~/$LOG\"", format!("`$LOG` {variable}")),
        ("command = [\"echo\"], stderr = { file = \"./~/${LOG}\" }", format!("`${{LOG}}` {variable}")),
        ("shell = \"echo $HOME ${PORT} ~\"", String::new()),
        ("shell = \"echo {instances}\"", "`{instances}` stays as it is written: only `{instance}` is replaced".into()),
        ("shell = \"echo {instance}\"", "`{instance}` stays as it is written: the table has no `instances`".into()),
        ("shell = \"echo {a,b} {name} ${instance}\"", String::new()),
        ("command = [\"echo\", \"{number}\"], instances = 1", "`{number}` stays as it is written: only".into()),
        (
            "command = [\"echo\", \"{instance}\", \"{}\", '{\"a\":1}', \"%{x}\", \"{{x}}\"], instances = 1",
            String::new(),
        ),
        ("command = [\"sh\", \"-c\", \"f() {x} {Instance}\"], instances = 1", "`{Instance}` stays".into()),
        ("command = [\"echo\"], environment = { N = \"{instance}\" }", "`{instance}` stays".into()),
        ("command = [\"echo\"], stdout = \"./{instance}\"", "`{instance}` stays".into()),
    ];
    let lines: Vec<_> = lines.iter().map(|(line, expected)| (*line, expected.as_str())).collect();
    // Some lines have a second warning, about a missing folder.
    file(&folder, &lines);
    let (code, said) = run(&folder, &["check"]);
    let of_texts: String = said.lines().filter(|line| line.contains("stays")).map(|line| format!("{line}\n")).collect();
    expect(&folder, (code, of_texts), &lines);
}

#[test]
fn a_user_who_is_not_in_the_database() {
    if !needs_root() {
        return;
    }
    check(
        &Folder::new(),
        &[
            (
                "command = [\"true\"], user = 4000000",
                "`user` is 4000000, which is not in the user database: it needs a `group`",
            ),
            ("command = [\"true\"], user = 4000000, group = 4000000", ""),
            ("command = [\"true\"], user = 0", ""),
        ],
    );
}

// A process is started as its own user, whatever user runs the supervisor.
#[test]
fn what_the_user_of_a_process_may_not_do() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    for (name, mode) in [("closed", 0o700), ("group", 0o710), ("listed", 0o700), ("open", 0o755)] {
        fs::create_dir(folder.join(name)).unwrap();
        script(&folder, &format!("{name}/program"), "#!/bin/sh\n", 0o755);
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(folder.join("group"), None, Some(65534)).unwrap();
    script(&folder, "open/mine", "#!/bin/sh\n", 0o700);
    script(
        &folder,
        "open/orphan",
        "#!HERE/closed/program\n".replace("HERE", &folder.0.display().to_string()).as_str(),
        0o755,
    );
    let has_list = Command::new("setfacl").args(["-m", "u:65534:x"]).arg(folder.join("listed")).status();
    let has_list = has_list.is_ok_and(|status| status.success());
    let user = "user = 65534, group = 65534";
    let denied = "which user id 65534 cannot reach, as it may not enter \"HERE/closed\"";
    let lines = [
        (format!("command = [\"closed/program\"], {user}"), format!("`command` starts \"HERE/closed/program\", {denied}")),
        ("command = [\"closed/program\"]".into(), String::new()),
        (format!("command = [\"closed/program\"], {}", user.replace("65534", "0")), String::new()),
        (
            format!("command = [\"program\"], {user}, environment = {{ PATH = \"{}/closed\" }}", folder.0.display()),
            format!("`command` starts \"program\", found as \"HERE/closed/program\", {denied}"),
        ),
        (format!("command = [\"group/program\"], {user}"), String::new()),
        (format!("command = [\"group/program\"], {user}, groups = []"), String::new()),
        (
            "command = [\"group/program\"], user = 65534, group = 1".into(),
            "which user id 65534 cannot reach, as it may not enter \"HERE/group\"".into(),
        ),
        ("command = [\"group/program\"], user = 65534, group = 1, groups = [65534]".into(), String::new()),
        (format!("command = [\"open/program\"], {user}"), String::new()),
        (format!("command = [\"open/mine\"], {user}"), "which user id 65534 may not execute".into()),
        (
            format!("command = [\"open/orphan\"], {user}"),
            format!("which has the interpreter \"HERE/closed/program\", {denied}"),
        ),
        (
            format!("command = [\"true\"], directory = \"closed\", {user}"),
            "`directory` is \"HERE/closed\", which may not be entered by user id 65534: the process is started there, and may not open anything in it".into(),
        ),
        (format!("command = [\"true\"], directory = \"group\", {user}"), String::new()),
        // The supervisor opens these files, with its own rights.
        (format!("command = [\"true\"], stdout = \"closed/log\", {user}"), String::new()),
        (
            format!("command = [\"listed/program\"], {user}"),
            if has_list { "" } else { "which user id 65534 cannot reach, as it may not enter \"HERE/listed\"" }.into(),
        ),
    ];
    let lines: Vec<_> = lines.iter().map(|(line, expected)| (line.as_str(), expected.as_str())).collect();
    check(&folder, &lines);
    // A root that may not become another user, as in a container, reports what it can find out.
    let mut command = Command::new("setpriv");
    let output = command.args(["--bounding-set=-setgid,-setuid", PROGRAM, "check"]).current_dir(&folder.0).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn what_only_root_may_do() {
    let Some(nobody) = Nobody::new() else { return };
    let folder = &nobody.folder;
    fs::create_dir(folder.join("roots")).unwrap();
    fs::set_permissions(folder.join("roots"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.join("closed")).unwrap();
    fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    folder.write("roots/log", "");
    script(folder, "roots/open.log", "", 0o666);
    script(folder, "roots/other.log", "", 0o666);
    script(folder, "roots/program", "#!/bin/sh\n", 0o700);
    let lines = [
        ("command = [\"true\"], user = \"root\"", "`user` is \"root\", and user id 65534 may not become another user"),
        ("command = [\"true\"], user = 65534", ""),
        (
            "command = [\"true\"], group = \"root\"",
            "`group` is \"root\", and user id 65534 may not take on another group",
        ),
        ("command = [\"true\"], groups = []", "`groups` is an empty list, and user id 65534 may not change its groups"),
        (
            "command = [\"true\"], stdout = \"roots/log\"",
            "`stdout` is the file \"HERE/roots/log\", and user id 65534 may not write to it: its lines",
        ),
        (
            "command = [\"true\"], stdout = \"roots/new\"",
            "and user id 65534 may not make files in its folder: its lines",
        ),
        (
            "command = [\"true\"], stdout = \"roots/open.log\"",
            "and user id 65534 may not make files in its folder: it cannot be rotated",
        ),
        ("command = [\"true\"], stdout = { file = \"roots/other.log\", direct = true }", ""),
        ("command = [\"true\"], stdout = \"closed/new\"", "and user id 65534 may not make files in its folder"),
        (
            "command = [\"true\"], directory = \"closed\"",
            "which may not be entered by user id 65534: the process cannot",
        ),
        ("command = [\"roots/program\"]", "which user id 65534 may not execute"),
        ("command = [\"closed/program\"]", "which user id 65534 cannot reach, as it may not enter \"HERE/closed\""),
        ("command = [\"true\"], limits = { nofile = 10 }", ""),
        (
            "command = [\"true\"], limits = { nofile = \"unlimited\" }",
            "`nofile` is \"unlimited\", and user id 65534 may not raise it above ",
        ),
    ];
    file(folder, &lines);
    expect(folder, nobody.run(&[], &["check"]), &lines);
}

// `up` starts what `check` accepts, except for the process that the warning is about.

#[test]
fn up_and_reload_start_all_the_others() {
    let up = Up::start(
        "[process.fine]\ncommand = [\"sleep\", \"1000\"]\n[process.program]\ncommand = [\"no-such-program\"]\n\
         [process.lost]\ncommand = [\"true\"]\ndirectory = \"./no/./where\"\n\
         [process.logged]\nshell = \"while :; do echo line; sleep 0.05; done\"\nstdout = \"./logs/log\"\n",
    );
    let here = up.folder.0.display().to_string();
    let (code, said) = run(&up.folder, &["check"]);
    assert_eq!((code, said.lines().count()), (0, 3), "{said}");
    up.until_state("fine", "running");
    up.until_state("logged", "running");
    up.until_read("err", &format!("[lost] could not start: cannot start `true`: chdir {here}/no/where: No such file"));
    up.until_read("err", &format!("childminder: {here}/logs/log: its folder does not exist"));
    for name in ["program", "lost"] {
        up.until_state(name, "backing-off");
    }
    fs::create_dir(up.folder.join("logs")).unwrap();
    up.until_read("logs/log", "line\n");
    let pid = up.pid_of("fine");
    up.write_file("[process.fine]\ncommand = [\"sleep\", \"1000\"]\n[process.new]\ncommand = [\"/no/such\"]\ndirectory = \"/no/such\"\nstdout = \"/no/such/log\"\n");
    assert_eq!(up.ok(&["reload"]), "added new\nremoved program, lost, logged\n");
    up.until_state("new", "backing-off");
    assert_eq!(up.pid_of("fine"), pid);
    up.shutdown();
}

#[test]
fn a_socket_that_up_can_never_make_is_a_mistake() {
    let folder = Folder::new();
    let here = folder.0.display().to_string();
    folder.write("file", "");
    for (socket, problem) in [("./no/s", "does not exist"), ("file/s", "is not a directory")] {
        // It may be made later.
        folder.write("childminder.toml", &format!("[monitor]\nsocket = \"{socket}\"\n[process]\n"));
        let (code, said) = run(&folder, &["check"]);
        let start = format!("childminder.toml:2:10: warning: `socket` is \"{here}/");
        assert!(code == 0 && said.starts_with(&start), "{said}");
        assert!(
            said.contains(&format!("its folder {problem}: no client reaches `up` until it can be made\n")),
            "{said}"
        );
    }
    for (socket, told) in [
        ("file", format!("`socket` is \"{here}/file\", and there is a file already, which is no socket")),
        (".", format!("`socket` is \"{here}\", and there is a file already, which is no socket")),
    ] {
        folder.write("childminder.toml", &format!("[monitor]\nsocket = \"{socket}\"\n[process]\n"));
        assert_eq!(run(&folder, &["check"]), (2, format!("childminder.toml:2:10: {told}\n")));
        assert_eq!(run(&folder, &["up"]), (2, format!("childminder.toml:2:10: {told}\n")));
    }
    folder.write("childminder.toml", "[monitor]\nsocket = \"~/{instance}-$HOME\"\n[process]\n");
    fs::create_dir(folder.join("~")).unwrap();
    let (code, said) = run(&folder, &["check"]);
    assert_eq!(code, 0, "{said}");
    for part in ["`~` stays", "`{instance}` stays", "`$HOME` stays"] {
        assert!(
            said.lines().any(|line| line.starts_with("childminder.toml:2:10: warning: ") && line.contains(part)),
            "{said}"
        );
    }

    let Some(nobody) = Nobody::new() else { return };
    nobody.folder.write("childminder.toml", "[monitor]\nsocket = \"/run/s\"\n[process]\n");
    let (code, said) = nobody.run(&[], &["check"]);
    let expected =
        "childminder.toml:2:10: warning: `socket` is \"/run/s\", and user id 65534 may not make files in its folder: ";
    assert!(code == 0 && said.starts_with(expected), "{said}");
    nobody.folder.write("childminder.toml", "[process]\n");
    let (code, said) = nobody.run(&[("XDG_RUNTIME_DIR", "/no/such")], &["check"]);
    let expected =
        "childminder.toml:1:1: warning: the default socket is \"/no/such/childminder.sock\", and its folder ";
    assert!(code == 0 && said.starts_with(expected), "{said}");
}

#[test]
fn a_descriptor_that_is_not_open() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("/dev/fd/7", folder.join("link")).unwrap();
    let warning = "is the descriptor 7, which is not open here: `up` does not start without it";
    let lines = [
        ("command = [\"true\"], stdout = \"/dev/fd/7\"", format!("`stdout` {warning}")),
        ("command = [\"true\"], stderr = \"./link\"", format!("`stderr` {warning}")),
        ("command = [\"true\"], stderr = { file = \"link\", direct = true }", format!("`stderr` {warning}")),
        ("command = [\"true\"], stdout = \"/dev/stderr\"", String::new()),
    ];
    let lines: Vec<_> = lines.iter().map(|(line, expected)| (*line, expected.as_str())).collect();
    check(&folder, &lines);
    let (code, said) = run(&folder, &["up"]);
    assert!(code == 2 && said.lines().count() == 3, "{code} {said}");
    // With the descriptor open, there is no warning.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" check 7>seven", PROGRAM]).current_dir(&folder.0);
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_log_that_is_a_folder_is_a_mistake() {
    let folder = Folder::new();
    fs::create_dir(folder.join("logs")).unwrap();
    for log in ["./logs", "./logs/", "./new/", "./new/.", "./logs/..", "./logs/../logs/."] {
        folder.write("childminder.toml", &format!("[process.a]\ncommand = [\"true\"]\nstdout = {log:?}\n"));
        for command in ["check", "up"] {
            let (code, said) = run(&folder, &[command]);
            assert!(
                code == 2
                    && said.starts_with("childminder.toml:3:10: `stdout` is the file ")
                    && said.contains("a file, not a directory"),
                "{log}: {said}"
            );
        }
    }
}

#[test]
fn mistakes_and_warnings_are_told_at_once_and_in_order() {
    let folder = Folder::new();
    let file =
        "[process.a]\nshell = \"true\"\ndirectory = \"/no\"\nstdout = \"/no/x\"\n[process.b]\ncommand = [\"/no\"]\n";
    folder.write("childminder.toml", file);
    let output = Command::new(PROGRAM).args(["check", "--effective"]).current_dir(&folder.0).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && text(&output.stdout).contains("\n[process.a]\n"));
    assert_eq!(said.lines().filter(|line| line.contains(": warning: ")).count(), 3, "{said}");
    assert_eq!(run(&folder, &["check"]), (0, said.clone()));
    // A table with a mistake has no warnings, because they might only follow from the mistake.
    folder.write("childminder.toml", &format!("{file}kill-time = -1\n"));
    let (code, said) = run(&folder, &["check"]);
    assert!(
        code == 2 && said.lines().count() == 3 && said.lines().nth(2).unwrap().contains("toml:7:13: `kill-time`"),
        "{said}"
    );
    let (code, said) = run(&folder, &["up"]);
    assert!(code == 2 && said.lines().count() == 1, "{said}");
}
