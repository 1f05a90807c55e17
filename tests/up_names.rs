//! Tests names, times and signals as people write them: on the command line, in the file, and in
//! messages about mistakes.
#![cfg(feature = "cli")]

mod up_util;

use std::process::Command;

use up_util::{Folder, PROGRAM, Up, run, text};

#[test]
fn an_unknown_name_is_told_with_the_nearest_known_one() {
    let up = Up::start(
        "[process.web-server]\ncommand = [\"sleep\", \"1000\"]\n[process.worker]\ncommand = [\"sleep\", \"1000\"]\ninstances = 2\n",
    );
    for (name, hint) in [
        ("web_server", "; the nearest one is `web-server`"),
        ("Web-Server", "; the nearest one is `web-server`"),
        ("worker:3", "; the nearest one is `worker:1`"),
        ("worker", "; its instances are `worker:*`"),
        ("wroker", "; the nearest one is `worker:*`"),
        ("database", ""),
    ] {
        let (code, said) = up.fails(&["restart", name]);
        assert_eq!((code, said.as_str()), (1, &*format!("childminder: there is no process `{name}`{hint}\n")));
    }
    up.shutdown();
}

#[test]
fn an_unknown_command_is_told_with_the_nearest_known_one() {
    let said = |args: &[&str]| text(&Command::new(PROGRAM).args(args).output().unwrap().stderr);
    assert_eq!(said(&["restrat"]), "childminder: no such command: restrat; the nearest one is `restart`; try --help\n");
    assert_eq!(said(&["launch-all"]), "childminder: no such command: launch-all; try --help\n");
}

#[test]
fn times_may_have_several_units_and_signals_may_be_numbers() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\nkill-time = \"1m30s\"\nmax-restart-delay = \"1h 30m\"\nstop-signal = 2\n",
    );
    let output = Command::new(PROGRAM).args(["check", "--effective"]).current_dir(&folder.0).output().unwrap();
    let said = text(&output.stdout);
    for line in ["kill-time = \"90s\"", "max-restart-delay = \"90m\"", "stop-signal = \"SIGINT\""] {
        assert!(said.contains(line), "{said}{}", text(&output.stderr));
    }
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"sleep\", \"1000\"]\nkill-time = \"30s1m\"\nstop-signal = 0\n",
    );
    let (code, said) = run(&folder, &["check"]);
    assert!(
        code == 2
            && said.contains("`kill-time` is \"30s1m\"")
            && said.contains("`stop-signal` is 0, allowed is a signal's name or number"),
        "{said}"
    );
    let output = Command::new(PROGRAM).args(["run", "-k", "1m30s", "-t", "10ms", "--restart=never", "true"]).output();
    assert_eq!(output.unwrap().status.code(), Some(0));
}
