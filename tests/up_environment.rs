//! Tests the environment that a process of `up` and `run` gets, and the output that shows it.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, Stdio};

use up_util::{Folder, PROGRAM, Up, needs_root, run, text};

/// The variables that systemd sets for the supervisor. The next list has those of the session in
/// which it was started.
const OWN: [&str; 8] = [
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
];
const SESSION: [&str; 6] =
    ["SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SUDO_UID", "XDG_CONFIG_HOME", "MAIL"];
const OTHERS: [&str; 3] = ["TOKEN", "LISTEN_ADDR", "LANG"];

fn set_all(command: &mut Command) -> &mut Command {
    let folder = std::env::temp_dir();
    for name in OWN.iter().chain(&SESSION).chain(&OTHERS) {
        // The command itself reads some of these variables.
        command.env(name, if *name == "XDG_RUNTIME_DIR" { folder.as_os_str() } else { "0".as_ref() });
    }
    command.stdin(Stdio::null())
}

/// The names of the variables of [`set_all`] in the output of env(1).
fn names(out: &str) -> Vec<String> {
    let all = || OWN.iter().chain(&SESSION).chain(&OTHERS);
    let names = out.lines().filter_map(|line| line.split_once("] ")?.1.split_once('=')).map(|(name, _)| name);
    names.filter(|name| all().any(|known| known == name)).map(str::to_owned).collect()
}

#[track_caller]
fn expect(mut seen: Vec<String>, parts: &[&[&str]]) {
    let mut expected = parts.concat();
    expected.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn what_is_the_supervisor_s_own_reaches_no_process() {
    let run = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--restart", "never"]).args(args).arg("env");
        names(&text(&set_all(&mut command).output().unwrap().stdout))
    };
    expect(run(&[]), &[&SESSION, &OTHERS]);
    expect(run(&["--env", "NOTIFY_SOCKET=theirs"]), &[&SESSION, &OTHERS, &["NOTIFY_SOCKET"]]);
    let is_root = needs_root();
    if is_root {
        // Another user must not use the session of root.
        expect(run(&["--user", "nobody"]), &[&OTHERS]);
        expect(run(&["--user", "nobody", "--env", "MAIL=theirs"]), &[&OTHERS, &["MAIL"]]);
        expect(run(&["--user", "root"]), &[&SESSION, &OTHERS]);
    }

    let up = |more: &str| {
        let folder = Folder::new();
        folder.write(
            "childminder.toml",
            &format!(
                "[monitor]\nsocket = \"s\"\n[process.a]\nshell = \"env; echo END\"\nrestart = \"never\"\n{more}\n"
            ),
        );
        let mut command = Command::new(PROGRAM);
        command.arg("up").current_dir(&folder.0).stderr(Stdio::null());
        command.stdout(std::fs::File::create(folder.join("out")).unwrap());
        let mut up = Up { child: set_all(&mut command).spawn().unwrap(), folder };
        let out = up.until_read("out", "[a] END");
        up.signal(rustix::process::Signal::TERM);
        up.wait();
        names(&out)
    };
    expect(up(""), &[&SESSION, &OTHERS]);
    expect(up("environment = { LISTEN_FDS = \"1\" }"), &[&SESSION, &OTHERS, &["LISTEN_FDS"]]);
    expect(up("clear-environment = true"), &[]);
    if is_root {
        expect(up("user = \"nobody\""), &[&OTHERS]);
        expect(up("user = \"nobody\"\nenvironment = { MAIL = \"theirs\" }"), &[&OTHERS, &["MAIL"]]);
        expect(up("user = 0"), &[&SESSION, &OTHERS]);
    }
}

#[test]
fn values_are_shown_only_if_they_are_asked_for() {
    let folder = Folder::new();
    let file = "[process.a]\ncommand = [\"true\"]\nenvironment = { TOKEN = \"s3cret\", EMPTY = \"\", N = \"ä{instance}\" }\ninstances = 1\n";
    folder.write("childminder.toml", file);
    let effective = |args: &[&str]| {
        let output = Command::new(PROGRAM).args(["check", "--effective"]).args(args).current_dir(&folder.0).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let said = effective(&[]);
    let expected = "environment = {\"EMPTY\" = \"(0 bytes)\", \"N\" = \"(3 bytes)\", \"TOKEN\" = \"(6 bytes)\"}\n";
    assert!(said.contains(expected) && !said.contains("s3cret"), "{said}");
    assert!(said.starts_with("# Of variables only the lengths are shown, as --show-environment was not given.\n"));
    let said = effective(&["--show-environment"]);
    assert!(said.contains("\"N\" = \"ä1\", \"TOKEN\" = \"s3cret\"}\n") && said.starts_with("[monitor]"), "{said}");
    assert_eq!(run(&folder, &["check", "--show-environment"]).0, 2, "it goes with --effective");

    // A message about a mistake does not show them either.
    for (value, kind) in [
        ("5477", "a number"),
        ("5.477", "a number"),
        ("2024-05-06", "a date or time"),
        ("[\"5477\"]", "a list"),
        ("{ a = \"5477\" }", "a table"),
        ("\"5477\\u0000\"", "a string with NUL"),
    ] {
        folder.write(
            "childminder.toml",
            &format!("[process.a]\ncommand = [\"true\"]\nenvironment = {{ TOKEN = {value} }}\n"),
        );
        let (code, said) = run(&folder, &["check"]);
        let expected = format!(": `TOKEN` is {kind}, allowed is a string without NUL\n");
        assert!(code == 2 && said.ends_with(&expected) && !said.contains("5477"), "{value}: {said}");
    }
}
