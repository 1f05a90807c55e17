//! Tests mistakes in the file that depend on its surroundings: an empty file, a file that cannot be
//! read, and paths that are relative or too long. `check`, `up`, a reload and the clients have to
//! agree about them.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use up_util::{Folder, Nobody, PROGRAM, Up, run, text, until};

// The next tests are about a file that is missing, or is not what it should be.

const SLEEPS: &str = "[process.web]\ncommand = [\"sleep\", \"1000\"]\n[process.db]\ncommand = [\"sleep\", \"1000\"]\n";

#[test]
fn a_file_without_a_process_is_a_mistake_and_stops_nothing() {
    let up = Up::start(SLEEPS);
    let pids = [up.pid_of("web"), up.pid_of("db")];
    for (file, place) in [("", "1:1"), ("\n# cut\n", "3:1"), ("[monitor]\nsocket = \"s\"\n", "3:1")] {
        up.folder.write("childminder.toml", file);
        let message = format!("childminder.toml:{place}: there is no process in the file; ");
        for command in ["check", "up"] {
            let (code, said) = run(&up.folder, &[command]);
            assert!(code == 2 && said.starts_with(&message) && said.contains("[process]"), "{command}: {code} {said}");
        }
        let (code, said) = run(&up.folder, &["reload", "--socket", "s"]);
        assert!(code == 1 && said.contains(&message), "{code} {said}");
        assert_eq!([up.pid_of_at("s", "web"), up.pid_of_at("s", "db")], pids);
    }
    // An explicit, empty table asks for no processes.
    up.write_file("[process]\n");
    assert_eq!(run(&up.folder, &["check"]), (0, String::new()));
    assert_eq!(up.ok(&["check", "--effective"]).lines().last(), Some("[process]"));
    assert_eq!(up.ok(&["reload", "--wait"]), "removed web, db\n");
    up.shutdown();
}

#[test]
fn only_a_regular_file_is_read_and_nothing_waits_for_one() {
    let folder = Folder::new();
    let here = folder.0.display().to_string();
    let file = folder.join("childminder.toml");
    let commands: [&[&str]; 4] = [&["check"], &["up"], &["status"], &["status", "-c", "childminder.toml"]];
    let expect = |what: &str| {
        for args in commands {
            let (code, said) = run(&folder, args);
            assert!(code == 2 && said.contains(&format!("{here}/childminder.toml: {what}")), "{args:?}: {code} {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    };
    fs::create_dir(&file).unwrap();
    // A folder is a configuration only if it is named.
    for args in &commands[..3] {
        let (code, said) = run(&folder, args);
        assert!(
            code == 2 && said.contains(&format!("{here}/childminder.toml: is a directory, not")),
            "{args:?}: {said}"
        );
    }
    let (code, said) = run(&folder, commands[3]);
    assert!(code == 2 && said.contains("is a directory, and no file in it is named *.toml"), "{said}");
    fs::remove_dir(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    expect("is a named pipe, not a regular file (it is read again at each reload)");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/dev/null", &file).unwrap();
    expect("is a device, not a regular file (it is read again at each reload)");
    fs::remove_file(&file).unwrap();
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    expect("has 1099511627776 bytes, allowed are at most 4194304");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("childminder.toml", &file).unwrap();
    expect(&format!("cannot be read: {}", std::io::Error::from_raw_os_error(libc::ELOOP)));
}

#[test]
fn a_reload_never_waits_for_the_file() {
    let up = Up::start(SLEEPS);
    let pid = up.pid_of("web");
    let file = up.folder.join("childminder.toml");
    fs::remove_file(&file).unwrap();
    let reload = |why: &str| {
        let (code, said) = up.fails(&["reload", "--socket", "s"]);
        assert!(code == 1 && said.contains(&format!("{}: {why}", file.display())), "{code} {said}");
    };
    reload("there is no such file");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    reload("is a named pipe, not a regular file (it is read again at each reload)");
    assert_eq!(up.pid_of_at("s", "web"), pid);
    fs::remove_file(&file).unwrap();
    up.write_file(SLEEPS);
    up.shutdown();
}

#[test]
fn a_file_that_grows_while_it_is_read_is_refused() {
    let folder = Folder::new();
    // The file is so long that it is being written while it is read.
    folder.write("childminder.toml", &format!("{SLEEPS}{}", "# a comment\n".repeat(10_000)));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(folder.join("childminder.toml")).unwrap();
            let length = file.metadata().unwrap().len();
            while !over.load(Ordering::Relaxed) {
                file.write_all(b"\n").unwrap();
                file.set_len(length).unwrap();
            }
        });
        let said = until("a refusal", || {
            let (code, said) = run(&folder, &["check"]);
            (code != 0).then_some(said)
        });
        over.store(true, Ordering::Relaxed);
        assert!(said.contains("/childminder.toml: is being written"), "{said}");
    });
    assert_eq!(run(&folder, &["check"]).0, 0);
}

#[test]
fn a_file_that_is_missing_is_named_in_full() {
    let folder = Folder::new();
    let here = folder.0.display().to_string();
    let hint = "; -c FILE names another one";
    for (args, name, hint) in [
        (&["check"][..], "childminder.toml", hint),
        (&["up"], "childminder.toml", hint),
        (&["check", "-c", "./other/../x.toml"], "other/../x.toml", ""),
        (&["up", "-c", "/no//such/./file"], "/no/such/file", ""),
        (&["status", "-c", "x.toml"], "x.toml", ""),
    ] {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{here}/{name}") };
        let (code, said) = run(&folder, args);
        assert_eq!(code, 2, "{said}");
        assert!(said.ends_with(&format!("{path}: there is no such file{hint}\n")), "{args:?}: {said}");
    }
}

/// Runs the command in a current folder that has been deleted.
fn run_nowhere(args: &str) -> (i32, String) {
    let folder = Folder::new();
    let script = format!("mkdir gone && cd gone && rmdir ../gone && exec {PROGRAM} {args}");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&folder.0).stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn a_current_folder_that_is_gone_is_told() {
    let message = "childminder.toml: cannot be looked for, as the current folder is gone; -c FILE names another one\n";
    for command in ["check", "up", "status"] {
        let (code, said) = run_nowhere(command);
        assert!(code == 2 && said.ends_with(message) && said.lines().count() == 1, "{command}: {code} {said}");
    }
    let (code, said) = run_nowhere("status --socket s");
    assert_eq!((code, &*said), (125, "childminder: no supervisor is running at s (the current folder is gone)\n"));
    let other = Folder::new();
    other.write("childminder.toml", "[process.a]\ncommand = [\"true\"]\nrestart = \"never\"\n");
    let file = other.join("childminder.toml");
    assert_eq!(run_nowhere(&format!("check -c {}", file.display())), (0, String::new()));
}

// The next tests are about paths.

#[test]
fn everything_counts_from_the_folder_of_the_file() {
    let folder = Folder::new();
    fs::create_dir_all(folder.join("app/bin")).unwrap();
    fs::create_dir(folder.join("app/data")).unwrap();
    std::os::unix::fs::symlink("/bin/pwd", folder.join("app/bin/where")).unwrap();
    folder.write(
        "app/childminder.toml",
        "[monitor]\nsocket = \"./s\"\n[process.here]\ncommand = [\"./bin/where\"]\ndirectory = \"./data\"\nrestart = \"never\"\n\
         stdout = \"./here.log\"\n[process.gone]\ncommand = [\"./bin/./gone\"]\ndirectory = \"/\"\n",
    );
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.args(["up", "-c", "./app/childminder.toml"]).current_dir(&folder.0).stdin(Stdio::null());
    let child = command.stdout(output("out")).stderr(output("err")).spawn().unwrap();
    let mut up = Up { folder, child };
    let here = up.folder.0.display().to_string();
    assert_eq!(up.until_read("app/here.log", "\n"), format!("{here}/app/data\n"));
    // The program is relative to the folder of the file, and not to the `directory`.
    up.until_read("err", &format!("[gone] could not start: cannot start `{here}/app/bin/gone`: exec: No such file"));
    let (_, said) = run(&up.folder, &["up", "-c", "app/childminder.toml"]);
    assert!(
        said.starts_with(&format!("childminder: {here}/app/childminder.toml: another instance is running, pid ")),
        "{said}"
    );
    up.ok(&["shutdown", "--wait", "-c", "app/../app/childminder.toml"]);
    assert_eq!(up.wait().code(), Some(0));
    let (_, said) = run(&up.folder, &["status", "-c", "app/childminder.toml"]);
    assert_eq!(said, format!("childminder: no supervisor is running at {here}/app/s\n"));
    let (_, said) = run(&up.folder, &["status", "--socket", "./x/../s"]);
    assert_eq!(said, format!("childminder: no supervisor is running at {here}/x/../s\n"));
}

#[test]
fn a_socket_s_path_that_is_too_long_is_told_by_all() {
    let folder = Folder::new();
    let limit = size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path) - 1;
    let here = folder.0.display().to_string();
    let longest = "s".repeat(limit - here.len() - 1);
    let file =
        |socket: &str| folder.write("childminder.toml", &format!("[monitor]\nsocket = \"./{socket}\"\n[process]\n"));
    file(&format!("{longest}s"));
    let path = format!("the path \"{here}/{longest}s\" of {} bytes, allowed are at most {limit}\n", limit + 1);
    for command in ["check", "up"] {
        assert_eq!(run(&folder, &[command]), (2, format!("childminder.toml:2:10: `socket` is {path}")));
    }
    assert_eq!(run(&folder, &["status"]), (2, format!("childminder: the socket is {path}")));
    let socket = format!("{here}/{longest}s");
    assert_eq!(run(&folder, &["status", "--socket", &socket]), (2, format!("childminder: the socket is {path}")));
    // The relative path is short enough, and is used as it is written.
    let (code, said) = run(&folder, &["status", "--socket", &format!("{longest}s")]);
    assert_eq!((code, said), (125, format!("childminder: no supervisor is running at {here}/{longest}s\n")));

    // The longest allowed path works.
    file(&longest);
    assert_eq!(run(&folder, &["check"]), (0, String::new()));
    let child = Command::new(PROGRAM).arg("up").current_dir(&folder.0).stderr(Stdio::null()).spawn().unwrap();
    let mut up = Up { folder, child };
    until("the socket", || up.folder.join(&longest).exists().then_some(()));
    assert_eq!(up.ok(&["status", "--json"]), "[]\n");
    up.ok(&["shutdown", "--wait"]);
    up.wait();
}

#[test]
fn a_default_socket_s_path_that_is_too_long_is_told_by_all() {
    let Some(nobody) = Nobody::new() else { return };
    let deep = format!("/tmp/{}", "d".repeat(100));
    for (file, place) in [("[process]\n", "1:1"), ("# a file\n[monitor]\nkill-time = 3\n[process]\n", "2:2")] {
        nobody.folder.write("childminder.toml", file);
        let path = format!("the path \"{deep}/childminder.sock\" of 122 bytes, allowed are at most ");
        for command in ["check", "up"] {
            let (code, said) = nobody.run(&[("XDG_RUNTIME_DIR", &deep)], &[command]);
            let expected = format!("childminder.toml:{place}: the default socket, by XDG_RUNTIME_DIR, is {path}");
            assert!(code == 2 && said.starts_with(&expected) && said.contains("`socket`"), "{said}");
        }
        let (code, said) = nobody.run(&[("XDG_RUNTIME_DIR", &deep)], &["status"]);
        assert!(code == 2 && said.starts_with(&format!("childminder: the socket is {path}")), "{said}");
    }
}

// A supervisor that has read an earlier version of the file may listen at any path.
#[test]
fn a_file_that_hides_its_socket_names_none() {
    let up = Up::start(SLEEPS);
    for (file, told) in [
        ("[monitor\nsocket = \"s\"\n[process]\n", "1:1: unclosed table"),
        ("[monitor]\nsocket = \"s\n[process]\n", "2:12: invalid basic string"),
        ("[monitor]\nsocket = 3\n[process]\n", "2:10: `socket` is 3, allowed is a path, or false for none"),
        (
            "[monitor]\nsokcet = \"s\"\n[process]\n",
            "2:1: unknown key `sokcet` in [monitor], the nearest known one is `socket`",
        ),
        ("[mointor]\nsocket = \"s\"\n[process]\n", "1:2: unknown key `mointor` in the file"),
        ("monitor = 3\n[process]\n", "1:11: `monitor` is 3, allowed is a table"),
    ] {
        up.folder.write("childminder.toml", file);
        for args in [&["status"][..], &["status", "-c", "childminder.toml"]] {
            let (code, said) = up.fails(args);
            let start = format!("childminder: no supervisor can be asked (childminder.toml:{told}");
            let end = "; so its socket is not known; use --socket PATH)\n";
            assert!(code == 2 && said.starts_with(&start) && said.ends_with(end), "{code} {said}");
        }
        up.ok(&["status", "--socket", "s"]);
    }
    // Other mistakes do not hide the socket.
    up.write_file("[process.web]\ncommand = 3\n[process.db\n");
    up.ok(&["status"]);
    up.folder.write("childminder.toml", "[process.web]\ncommand = 3\n");
    assert!(up.fails(&["status"]).1.contains("no supervisor is running at "));
    up.ok(&["shutdown", "--socket", "s"]);
}

#[test]
fn a_file_from_another_program_is_refused_with_the_reason() {
    let folder = Folder::new();
    let script = format!("{PROGRAM} check -c <(echo '[process]')");
    let output = Command::new("bash").args(["-c", &script]).current_dir(&folder.0).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.ends_with(" is a named pipe, not a regular file (it is read again at each reload)\n"), "{said}");
    for args in [["check", "-c", ""], ["up", "-c", ""], ["status", "-c", ""]] {
        assert_eq!(run(&folder, &args), (2, "childminder: --config is empty\n".into()), "{args:?}");
    }
    assert_eq!(run(&folder, &["status", "--socket", ""]), (2, "childminder: --socket is empty\n".into()));
}

// A name that contains a newline or an escape sequence must not look like a message of ours.
#[test]
fn no_name_forges_a_line() {
    const EVIL: &str = "evil\nchildminder: [root] started\u{1b}[2J";
    let is_clean = |said: &str| {
        assert!(said.contains("evil\\nchildminder: [root] started\\x1b[2J"), "{said}");
        assert!(
            !said.contains('\u{1b}') && !said.lines().any(|line| line.starts_with("childminder: [root]")),
            "{said}"
        );
    };
    let folder = Folder::new();
    fs::create_dir(folder.join(EVIL)).unwrap();
    let file = format!("{EVIL}/childminder.toml");
    for (content, code) in
        [("x = 1\n[process]\n", 2), ("[process.a]\ncommand = [\"./missing\"]\nstdout = \"./no/log\"\n", 0)]
    {
        folder.write(&file, content);
        let (ended, said) = run(&folder, &["check", "-c", &file]);
        assert_eq!(ended, code, "{said}");
        is_clean(&said);
    }
    fs::remove_file(folder.join(&file)).unwrap();
    for command in ["check", "up", "status"] {
        is_clean(&run(&folder, &[command, "-c", &file]).1);
    }
    let socket = format!("{EVIL}/s");
    is_clean(&run(&folder, &["status", "--socket", &socket]).1);
    is_clean(&run(&folder, &["run", "--restart", "never", &format!("./{EVIL}/program")]).1);

    // The supervisor has a program, a log and a socket that cannot be used.
    let quoted = EVIL.replace('\n', "\\n").replace('\u{1b}', "\\u001b");
    let up = Up::start(&format!(
        "[process.a]\ncommand = [\"./{quoted}/program\"]\n[process.b]\nshell = \"echo line; exec sleep 1000\"\nstdout = \"./{quoted}/no/log\"\n"
    ));
    up.until_read("err", "[a] could not start");
    up.until_read("err", "no/log: ");
    up.folder.write("childminder.toml", &format!("[monitor]\nsocket = \"{quoted}/s\"\n[process]\n"));
    let output = up.command(&["reload", "--socket", "s"]);
    is_clean(&text(&output.stderr));
    up.signal(rustix::process::Signal::HUP);
    up.until_read("err", "the socket stays at ");
    is_clean(&up.folder.read("err"));
    up.ok(&["shutdown", "--wait", "--socket", "s"]);
}
