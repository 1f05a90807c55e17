//! Tests what `childminder up` reads besides its file: environment files, included files and whole
//! folders.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, Stdio};

use up_util::{Folder, PROGRAM, Up, now, run, text, until};

/// Runs `check` in the folder. Returns its exit code and its stderr, without the folder's path.
#[track_caller]
fn check(folder: &Folder) -> (i32, String) {
    let (code, said) = run(folder, &["check"]);
    (code, said.replace(&format!("{}/", folder.0.display()), ""))
}

#[test]
fn an_environment_file_is_read_as_elsewhere() {
    let folder = Folder::new();
    folder.write(
        "app.env",
        "# a comment\n; another\n\nPLAIN=some words\nexport EXPORTED=1\nEMPTY=\nSINGLE='a $b \\n'\n\
         DOUBLE=\"tab\\tquote\\\" \\$x\"\nLINES=\"one\ntwo\"\nHASH=a#b\nLATER=first\nURL=postgres://u:p@h/db?a=b\n",
    );
    folder.write("last.env", "LATER=second\nTHIRD=x\r\n");
    let keys = "environment-file = [\"app.env\", \"?none.env\", \"last.env\"]\nenvironment = { THIRD = \"table\" }\n";
    let shell = "for n in PLAIN EXPORTED EMPTY SINGLE DOUBLE LINES HASH LATER URL THIRD; do eval \\\"printf '%s=%s|' $n \\\\\\\"\\\\$$n\\\\\\\"\\\"; done; echo; exec sleep 1000";
    let up = Up::start_in(folder, &format!("[process.a]\nshell = \"{shell}\"\n{keys}stdout = \"./log\"\n"));
    let said = up.until_read("log", "THIRD=table|\n");
    assert_eq!(
        said,
        "PLAIN=some words|EXPORTED=1|EMPTY=|SINGLE=a $b \\n|DOUBLE=tab\tquote\" $x|LINES=one\ntwo|HASH=a#b|LATER=second|\
         URL=postgres://u:p@h/db?a=b|THIRD=table|\n"
    );
    // A reload sees what has changed in it, and touches nothing else.
    let pid = up.pid_of("a");
    assert_eq!(up.ok(&["reload", "--wait"]), "");
    assert_eq!(up.pid_of("a"), pid);
    up.folder.write("none.env", "LATER=optional\n");
    up.folder.write("last.env", "");
    assert_eq!(up.ok(&["reload", "--wait"]), "restarted a\n");
    up.until_read("log", "LATER=optional|");
    up.shutdown();
}

#[test]
fn mistakes_in_an_environment_file_have_their_place() {
    let folder = Folder::new();
    let process = "[process.a]\ncommand = [\"sleep\", \"1\"]\n";
    folder.write("childminder.toml", &format!("{process}environment-file = \"a.env\"\n"));
    let missing = check(&folder);
    assert_eq!(missing.0, 2);
    assert!(
        missing.1.contains("childminder.toml:3:20: `environment-file` is \"a.env\", which cannot be read: "),
        "{missing:?}"
    );
    assert!(missing.1.contains("\"?a.env\" may be missing"), "{missing:?}");
    folder.write("a.env", "OK=1\nno assignment\n2X=1\nA = b\nB='open\n");
    let (code, said) = check(&folder);
    assert_eq!(code, 2);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    for (line, start) in lines.iter().zip(["a.env:2:1: ", "a.env:3:1: ", "a.env:4:1: ", "a.env:5:3: "]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert!(!said.contains("open"), "no value is shown: {said}");
    // What others would do otherwise is told.
    folder.write("a.env", "A=x # not a comment everywhere\n");
    let (code, said) = check(&folder);
    assert!(code == 2 && said.starts_with("a.env:1:3: ") && said.contains("quotes"), "{said}");
    folder.write("a.env", "A=$HOME/x\n");
    let (code, said) = check(&folder);
    assert!(code == 0 && said.starts_with("a.env:1:3: warning: `$HOME` stays as it is written"), "{said}");
    // A running supervisor keeps what it has.
    folder.write("a.env", "A=1\n");
    let up = Up::start_in(folder, "[process.a]\ncommand = [\"sleep\", \"1000\"]\nenvironment-file = [\"a.env\"]\n");
    let pid = up.pid_of("a");
    up.folder.write("a.env", "A\n");
    let (code, said) = up.fails(&["reload"]);
    assert!(code == 1 && said.contains("a.env:1:1: "), "{said}");
    assert_eq!(up.pid_of("a"), pid);
    up.shutdown();
}

#[test]
fn variables_are_expanded_from_what_stands_before() {
    let folder = Folder::new();
    folder.write("a.env", "BASE=/srv\n");
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.a]\nshell = \"echo $ZERO $FULL $PART $PRICE $FALLBACK $OWN; exec sleep 1000\"\n\
         environment-file = \"a.env\"\nstdout = \"./log\"\n\
         environment = { ZERO = \"$BASE/0\", FULL = \"${ZERO}/full\", PART = \"x${FULL}y$ZERO\", PRICE = \"5$$\", \
         FALLBACK = \"${NOT_SET_ANYWHERE:-it-is-${ZERO}}\", OWN = \"$OUR_OWN\" }\n",
    );
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).env("OUR_OWN", "ours").stdout(Stdio::null());
    let child = command.stderr(std::fs::File::create(folder.join("err")).unwrap()).spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    let said = up.until_read("log", "\n");
    assert_eq!(said, "/srv/0 /srv/0/full x/srv/0/fully/srv/0 5$ it-is-/srv/0 ours\n");
    up.shutdown();

    let folder = Folder::new();
    let one = |value: &str| {
        folder.write(
            "childminder.toml",
            &format!("[process.a]\ncommand = [\"sleep\", \"1\"]\nenvironment = {{ A = \"{value}\" }}\n"),
        );
        check(&folder)
    };
    let (code, said) = one("$NOT_SET_ANYWHERE");
    assert!(
        code == 2 && said.contains("childminder.toml:3:21: `A` uses `$NOT_SET_ANYWHERE`, which is not set"),
        "{said}"
    );
    let (code, said) = one("${A");
    assert!(code == 2 && said.contains("3:21: `A` has a `${` without"), "{said}");
    let (code, said) = one("$(date)");
    assert!(code == 0 && said.contains("3:21: warning: `$(` stays as it is written"), "{said}");
    assert_eq!(one("5$$ and $$HOME and a $ too"), (0, String::new()));
    // What is shown reads back as the same value.
    let output =
        Command::new(PROGRAM).args(["check", "--effective", "--show-environment"]).current_dir(&folder.0).output();
    assert!(text(&output.unwrap().stdout).contains("\"5$$ and $$HOME and a $$ too\""));
}

#[test]
fn other_files_are_included_each_with_its_own_folder() {
    let folder = Folder::new();
    std::fs::create_dir(folder.join("conf.d")).unwrap();
    folder.write(
        "conf.d/b.toml",
        "[process.b]\nshell = \"pwd; exec sleep 1000\"\ndirectory = \".\"\nstdout = \"./log\"\n",
    );
    folder.write("conf.d/a.toml", "[process.a]\ncommand = [\"sleep\", \"1000\"]\n");
    folder.write("conf.d/.hidden.toml", "not read");
    folder.write("conf.d/a.toml~", "not read");
    folder.write(
        "childminder.toml",
        "include = [\"conf.d/*.toml\"]\n[monitor]\nsocket = \"s\"\nrestart = \"never\"\n[process.main]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    let output = |name: &str| Stdio::from(std::fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
    let child = command.spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    let names: Vec<_> = up.statuses().iter().map(|status| status["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["main", "a", "b"]);
    let folder_of_b = up.until_read("conf.d/log", "\n");
    assert!(folder_of_b.ends_with("/conf.d\n"), "{folder_of_b}");
    assert!(up.ok(&["check", "--effective"]).matches("restart = \"never\"").count() == 3);

    // A reload sees new, changed and removed files.
    up.folder.write("conf.d/c.toml", "[process.c]\ncommand = [\"sleep\", \"1000\"]\n");
    up.folder.write("conf.d/a.toml", "[process.a]\ncommand = [\"sleep\", \"1001\"]\n");
    std::fs::remove_file(up.folder.join("conf.d/b.toml")).unwrap();
    assert_eq!(up.ok(&["reload", "--wait"]), "added c\nremoved b\nrestarted a\n");

    // Mistakes are located in their file.
    up.folder.write("conf.d/c.toml", "[process.a]\ncommand = [\"sleep\", \"1000\"]\nkil-time = 1\n");
    up.folder.write("conf.d/d.toml", "include = [\"x\"]\n[monitor]\nthreshold = 1\n");
    let (code, said) = up.fails(&["check"]);
    assert_eq!(code, 2);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(
        lines[0].starts_with("conf.d/c.toml:1:10: the name `a` again") && lines[0].contains("conf.d/a.toml"),
        "{said}"
    );
    assert!(lines[1].starts_with("conf.d/c.toml:3:1: unknown key `kil-time`"), "{said}");
    assert!(lines[2].starts_with("conf.d/d.toml:1:1: `include`"), "{said}");
    assert!(lines[3].starts_with("conf.d/d.toml:2:2: [monitor]"), "{said}");
    assert_eq!(up.fails(&["reload"]).0, 1);
    std::fs::remove_file(up.folder.join("conf.d/c.toml")).unwrap();
    std::fs::remove_file(up.folder.join("conf.d/d.toml")).unwrap();
    up.folder.write(
        "childminder.toml",
        "include = [\"no.toml\"]\n[monitor]\nsocket = \"s\"\n[process.main]\ncommand = [\"sleep\", \"1\"]\n",
    );
    let (code, said) = up.fails(&["check"]);
    assert!(code == 2 && said.contains("no.toml: there is no such file"), "{said}");
    up.shutdown();
}

#[test]
fn a_folder_is_a_configuration() {
    let folder = Folder::new();
    std::fs::create_dir(folder.join("services")).unwrap();
    let (code, said) = run(&folder, &["check", "-c", "services"]);
    assert!(code == 2 && said.contains("services: ") && said.contains("no file in it is named *.toml"), "{said}");
    folder.write("services/10-web.toml", "[process.web]\nshell = \"exec sleep 1000\"\nkill-time = 7\n");
    folder.write("services/20-worker.toml", "[process.worker]\ncommand = [\"sleep\", \"1000\"]\n");
    folder.write("services/99-monitor.toml", "[monitor]\nsocket = \"../s\"\nthreshold = \"7ms\"\n");
    let output = |name: &str| Stdio::from(std::fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.args(["up", "-c", "services"]).current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out"));
    let child = command.stderr(output("err")).spawn().unwrap();
    let mut up = Up { folder, child };
    let start = now();
    until("an answer", || {
        assert!(
            up.child.try_wait().unwrap().is_none() && start.elapsed() < up_util::WATCHDOG,
            "{}",
            up.folder.read("err")
        );
        (up.command(&["status", "-c", "services"]).status.code() == Some(0)).then_some(())
    });
    assert_eq!(up.ok(&["check", "-c", "services", "--effective"]).matches("threshold = \"7ms\"").count(), 2);
    up.folder.write("services/10-web.toml", "");
    assert_eq!(up.ok(&["reload", "-c", "services", "--wait"]), "removed web\n");
    // No second supervisor runs the folder.
    let (code, said) = up.fails(&["up", "-c", "services"]);
    assert!(code == 125 && said.contains("another instance is running"), "{said}");
    up.folder.write("services/00.toml", "[monitor]\n");
    let (code, said) = up.fails(&["check", "-c", "services"]);
    assert!(code == 2 && said.contains("services/99-monitor.toml:1:2: [monitor] again"), "{said}");
    up.ok(&["shutdown", "--socket", "s", "--wait"]);
    assert_eq!(up.wait().code(), Some(0));
}
