//! Tests what processes of `childminder up` have as their stdin, terminals of their own, and the
//! commands that write to them or attach a terminal to them.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use childminder::{Event, Pty, Reactor};
use up_util::{Folder, PROGRAM, Up, needs_the_kernel, now, run, text, until};

/// Runs `childminder send` with this stdin. Returns its exit code and its stderr.
#[track_caller]
fn send(up: &Up, args: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    command.arg("send").args(args).current_dir(&up.folder.0).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stderr))
}

#[test]
fn stdin_is_what_the_file_says() {
    let folder = Folder::new();
    folder.write("input", "from a file\n");
    let cat = |name: &str, stdin: &str| {
        format!(
            "[process.{name}]\nshell = \"cat; echo end of {name}; exec sleep 1000\"\n{stdin}stdout = \"./{name}.log\"\n"
        )
    };
    let text = cat("null", "")
        + &cat("file", "stdin = \"./input\"\n")
        + &cat("ours", "stdin = \"inherit\"\n")
        + &cat("pipe", "stdin = \"pipe\"\n");
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{text}"));
    folder.write("ours", "from the supervisor's stdin\n");
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdin(fs::File::open(folder.join("ours")).unwrap());
    let child = command.stdout(output("out")).stderr(output("err")).spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    assert_eq!(up.until_read("null.log", "end of null\n"), "end of null\n");
    assert_eq!(up.until_read("file.log", "end of file\n"), "from a file\nend of file\n");
    assert_eq!(up.until_read("ours.log", "end of ours\n"), "from the supervisor's stdin\nend of ours\n");
    assert_eq!(send(&up, &["pipe"], b"one\n"), (Some(0), String::new()));
    up.until_read("pipe.log", "one\n");
    // What is sent stays in order, and its bytes are the bytes that were sent.
    assert_eq!(send(&up, &["--close", "pipe"], b"tw\xffo \xc3\xa4\n"), (Some(0), String::new()));
    let log = until("the end of the pipe", || {
        fs::read(up.folder.join("pipe.log")).ok().filter(|log| log.ends_with(b"end of pipe\n"))
    });
    assert_eq!(log, b"one\ntw\xffo \xc3\xa4\nend of pipe\n");
    let (code, said) = send(&up, &["pipe"], b"three\n");
    assert!(code == Some(1) && said.contains("pipe has closed its stdin"), "{said}");
    let (code, said) = send(&up, &["null"], b"x\n");
    assert!(code == Some(1) && said.contains("nothing can be sent to null: its stdin is neither a pipe"), "{said}");
    // A restart makes a new pipe.
    up.ok(&["restart", "pipe", "--wait"]);
    assert_eq!(send(&up, &["pipe"], b"again\n").0, Some(0));
    until("the new pipe", || fs::read(up.folder.join("pipe.log")).ok().filter(|log| log.ends_with(b"again\n")));
    up.ok(&["stop", "pipe", "--wait"]);
    let (code, said) = send(&up, &["pipe"], b"x\n");
    assert!(code == Some(1) && said.contains("pipe is not running"), "{said}");
    up.shutdown();
}

#[test]
fn a_process_that_does_not_read_costs_no_more_than_so_much() {
    let up = Up::start("[process.a]\ncommand = [\"sleep\", \"1000\"]\nstdin = \"pipe\"\n");
    let (code, said) = send(&up, &["a"], &vec![b'x'; 4 << 20]);
    assert!(code == Some(1) && said.contains("a does not read its stdin: "), "{code:?} {said}");
    up.shutdown();
}

#[test]
fn a_process_may_have_a_terminal() {
    let shell =
        "if [ -t 0 ] && [ -t 1 ] && [ -t 2 ]; then echo terminal; fi; stty size; read x; echo got $x; exec sleep 1000";
    let up = Up::start(&format!("[process.a]\nshell = \"{shell}\"\ntty = true\nstdout = \"./a.log\"\n"));
    assert_eq!(up.until_read("a.log", "24 80\n"), "terminal\n24 80\n", "without any CR");
    assert_eq!(send(&up, &["a"], b"hello\n").0, Some(0));
    // A terminal echoes what is typed.
    assert_eq!(up.until_read("a.log", "got hello\n"), "terminal\n24 80\nhello\ngot hello\n");
    up.shutdown();
}

#[test]
fn mistakes_are_told() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"true\"]\nstdin = \"tty\"\n[process.b]\ncommand = [\"true\"]\ntty = true\nstdin = \"pipe\"\nstdout = \"null\"\n",
    );
    let (code, said) = run(&folder, &["check"]);
    assert_eq!(code, 2);
    for part in [
        ":3:9: `stdin` is \"tty\", allowed is \"null\", \"inherit\", \"pipe\", or the path of a file with a slash in it",
        ":7:1: both `tty` and `stdin`, allowed is one of them",
        ":8:10: `tty` with such a `stdout`, allowed are \"prefix\" and a file that we write",
    ] {
        assert!(said.contains(part), "{said}");
    }
    folder.write("childminder.toml", "[process.a]\ncommand = [\"true\"]\nstdin = \"./none\"\n");
    let (code, said) = run(&folder, &["check"]);
    assert!(
        code == 0 && said.contains("`stdin` is the file ") && said.contains("cannot be read: No such file"),
        "{said}"
    );
}

/// Runs `attach` on a terminal of this size, and types each text as soon as the one before it has
/// been answered. Returns what was drawn, and the exit code.
#[track_caller]
fn attach(up: &Up, name: &str, (rows, columns): (u16, u16), talk: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut reactor = Reactor::new().unwrap();
    let mut command = childminder::Command::new(PROGRAM);
    command.args(["attach", name]).current_dir(&up.folder.0).pty(Pty::new().size(rows, columns));
    let id = reactor.spawn_process(&command).unwrap();
    let (mut drawn, mut over, mut code) = (Vec::new(), false, None);
    let mut talk = talk.iter();
    let mut next = talk.next();
    let (start, mut seen) = (now(), 0);
    while !over {
        assert!(start.elapsed() < up_util::WATCHDOG, "{}", text(&drawn));
        reactor
            .turn(Some(Duration::from_secs(1)), |_, event| match event {
                Event::Data { data, .. } => drawn.extend_from_slice(data),
                Event::Exited { exit, .. } => code = exit.code(),
                Event::Ended { .. } => over = true,
                _ => {}
            })
            .unwrap();
        while let Some((answer, typed)) = next.filter(|(answer, _)| text(&drawn[seen..]).contains(answer)) {
            seen = drawn.len();
            if let Some(mut process) = reactor.process(id) {
                process.write(0, typed.as_bytes()).unwrap();
            }
            next = talk.next();
            if answer.is_empty() {
                break;
            }
        }
    }
    (text(&drawn), code)
}

#[test]
fn attach_is_a_terminal_of_a_process() {
    if !needs_the_kernel("ioctl TCGETS2, which rustix uses") {
        return;
    }
    let shell = "while printf 'name? ' && read x; do echo hello $x; stty size; done; exec sleep 1000";
    let process = format!("shell = \"trap 'echo interrupted' INT; {shell}\"\ntty = true\nstdout = \"./a.log\"\n");
    let up = Up::start(&format!("[process.a]\n{process}"));
    for (rows, columns) in [(10, 40), (24, 80), (50, 200)] {
        let pid = up.pid_of("a");
        let size = format!("{rows} {columns}\r\n");
        let leaves = "attached to a; Ctrl-P Ctrl-Q leaves";
        let talk = [(leaves, "ann\r"), (size.as_str(), "\x03"), ("interrupted\r\n", "\x10\x11")];
        let (drawn, code) = attach(&up, "a", (rows, columns), &talk);
        assert_eq!(code, Some(0), "{drawn:?}");
        assert!(drawn.contains("ann\r\nhello ann\r\n") && drawn.ends_with("childminder: left a\r\n"), "{drawn:?}");
        assert_eq!(up.pid_of("a"), pid);
        up.ok(&["restart", "a", "--wait"]);
    }
    up.shutdown();
}

#[test]
fn attach_talks_through_pipes_and_shows_what_has_none() {
    if !needs_the_kernel("ioctl TCGETS2, which rustix uses") {
        return;
    }
    let up = Up::start(
        "[process.a]\nshell = \"while read x; do printf \\\"hello $x> \\\"; done\"\nstdin = \"pipe\"\n\
         [process.b]\nshell = \"while :; do echo tick; sleep 0.1; done\"\n",
    );
    let (drawn, code) =
        attach(&up, "a", (24, 80), &[("leaves", "ann\r"), ("hello ann> ", "bob\r"), ("hello bob> ", "\x10\x11")]);
    assert_eq!(code, Some(0), "{drawn:?}");
    assert_eq!(up.status("a")["restarts"], 0);
    let (drawn, _) =
        attach(&up, "b", (24, 80), &[("it has no input from here; Ctrl-C leaves", ""), ("tick\r\n", "\x03")]);
    assert!(drawn.contains("tick\r\n"), "{drawn:?}");
    let (code, said) = up.fails(&["attach", "nobody"]);
    assert!(code == 1 && said.contains("there is no process `nobody`"), "{said}");
    assert_eq!(up.status("b")["state"], "running");
    up.shutdown();
}
