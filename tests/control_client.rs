//! Tests the commands that talk to a supervisor against a supervisor that is stopped, one of
//! another user, and other programs that answer in its place.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use childminder::{Event, Exit, Reactor};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use up_util::{
    Folder, NOBODY, PROGRAM, Up, ask_on, connect, left_out, needs_descriptors, needs_root, now, on_a_terminal, run,
    text, until,
};

const SLEEPS: &str = "[process.web]\ncommand = [\"sleep\", \"1000\"]\n";

// The next tests are about a supervisor that is stopped.

/// More than the queue of a socket holds by default, which is 4,096 (net.core.somaxconn).
const WAITING: u64 = 5_000;

#[test]
fn every_command_tells_of_a_supervisor_that_stands_still() {
    let up = Up::start(SLEEPS);
    up.signal(Signal::STOP);
    let start = now();
    let commands: [&[&str]; 6] = [
        &["status"],
        &["status", "--watch"],
        &["logs"],
        &["logs", "-f"],
        &["restart", "web", "--wait", "--timeout", "10m"],
        &["shutdown", "--wait"],
    ];
    let asking: Vec<_> = commands
        .iter()
        .map(|args| {
            let mut command = Command::new(PROGRAM);
            command.args(*args).current_dir(&up.folder.0).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let socket = up.socket().display().to_string();
    let expected =
        format!("childminder: the supervisor at {socket} (pid {}) does not answer; it may be stopped\n", up.pid());
    for (child, args) in asking.into_iter().zip(commands) {
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(125), &*expected), "{args:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());

    // The same happens when so many clients wait that the kernel accepts no more.
    if !needs_descriptors(WAITING) {
        return;
    }
    let mut waiting = Vec::new();
    let stream = |nonblocking: bool| {
        let flags = if nonblocking { rustix::net::SocketFlags::NONBLOCK } else { rustix::net::SocketFlags::empty() };
        let socket =
            rustix::net::socket_with(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, flags, None)
                .unwrap();
        let address = rustix::net::SocketAddrUnix::new(up.socket()).unwrap();
        rustix::net::connect(&socket, &address).map(|()| socket)
    };
    while let Ok(socket) = stream(true) {
        waiting.push(socket);
    }
    let (code, said) = up.fails(&["status"]);
    let expected = format!("childminder: the supervisor at {socket} does not answer; it may be stopped\n");
    assert_eq!((code, said), (125, expected));
    // A second supervisor does not wait for it either.
    up.folder.write("other.toml", "[monitor]\nsocket = \"s\"\n[process]\n");
    assert_eq!(up.fails(&["up", "-c", "other.toml"]).0, 125);
    drop(waiting);
    up.signal(Signal::CONT);
    // The requests of clients that have given up are not carried out.
    let web = up.status("web");
    assert!(web["state"] == "running" && web["restarts"] == 0, "{web}");
    up.shutdown();
}

// The next tests are about programs that answer in the place of a supervisor.

/// Answers each request on `s` in the folder with what the function writes.
fn impostor(folder: &Folder, answer: impl Fn(&mut UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(folder.join("s")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            answer(&mut stream);
        }
    });
}

/// Runs a command to its end. Returns its exit with its resource usage.
fn measure(folder: &Path, args: &[&str]) -> Exit {
    let mut reactor = Reactor::new().unwrap();
    let mut command = childminder::Command::new(PROGRAM);
    command.args(args).current_dir(folder);
    reactor.spawn_process(&command).unwrap();
    let mut ended = None;
    let start = now();
    while ended.is_none() {
        assert!(start.elapsed() < up_util::WATCHDOG, "it goes on");
        let handler = |_: &mut Reactor, event: Event<'_>| {
            if let Event::Exited { exit, .. } = event {
                ended = Some(*exit);
            }
        };
        reactor.turn(Some(Duration::from_secs(1)), handler).unwrap();
    }
    ended.unwrap()
}

#[test]
fn an_answer_without_an_end_takes_little_memory() {
    let folder = Folder::new();
    impostor(&folder, |stream| while stream.write_all(&[b'['; 64 * 1024]).is_ok() {});
    for args in
        [&["status", "--socket", "s"][..], &["logs", "-f", "--socket", "s"], &["status", "--watch", "--socket", "s"]]
    {
        let exit = measure(&folder.0, args);
        assert_eq!(exit.code(), Some(125), "{args:?}");
        assert!(exit.usage.max_rss < 64 << 20, "{args:?}: {} bytes", exit.usage.max_rss);
    }
    let (_, said) = run(&folder, &["status", "--socket", "s"]);
    assert!(said.contains("s: its answer is longer than "), "{said}");
    // The limit holds after the answer to a shutdown, too.
    let folder = Folder::new();
    impostor(&folder, |stream| {
        let _ = stream.write_all(b"{\"ok\":true,\"version\":1}\n");
        while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    });
    let exit = measure(&folder.0, &["shutdown", "--wait", "--timeout", "1s", "--socket", "s"]);
    assert_eq!(exit.code(), Some(1));
    assert!(exit.usage.max_rss < 64 << 20, "{} bytes", exit.usage.max_rss);
}

#[test]
fn an_answer_that_stands_for_much_takes_little_memory() {
    // These values, rows and columns take far more memory than their text.
    for value in ["0,", "{\"\":0},", "{\"name\":\"a\"},", "[[]],", "{},"] {
        let folder = Folder::new();
        impostor(&folder, move |stream| {
            let piece = value.repeat(64 * 1024 / value.len());
            let _ = stream.write_all(b"{\"ok\":true,\"processes\":[");
            (0..240).for_each(|_| drop(stream.write_all(piece.as_bytes())));
            let _ = stream.write_all(b"0]}\n");
        });
        for args in [&["status", "--socket", "s"][..], &["status", "--json", "--socket", "s"]] {
            let exit = measure(&folder.0, args);
            assert_eq!(exit.code(), Some(125), "{args:?} {value}");
            assert!(exit.usage.max_rss < 64 << 20, "{args:?} {value}: {} bytes", exit.usage.max_rss);
        }
    }
    // This is the greatest number of rows, and one of them is wide.
    let folder = Folder::new();
    impostor(&folder, |stream| {
        let _ = stream.write_all(b"{\"ok\":true,\"processes\":[");
        (0..90).for_each(|_| drop(stream.write_all("{},".repeat(1000).as_bytes())));
        let _ = stream.write_all(b"{\"name\":\"");
        (0..8).for_each(|_| drop(stream.write_all(&vec![b'x'; 1 << 20])));
        let _ = stream.write_all(b"\"}]}\n");
    });
    let exit = measure(&folder.0, &["status", "--socket", "s"]);
    assert!(exit.usage.max_rss < 256 << 20, "{} bytes", exit.usage.max_rss);
}

#[test]
fn an_answer_without_processes_is_no_status() {
    for processes in ["", ",\"processes\":1", ",\"processes\":[1]", ",\"processes\":[{\"name\":\"a\"},null]"] {
        let folder = Folder::new();
        impostor(&folder, move |stream| drop(writeln!(stream, "{{\"ok\":true{processes}}}")));
        for args in [
            &["status", "--socket", "s"][..],
            &["status", "--json", "--socket", "s"],
            &["status", "--watch", "--socket", "s"],
        ] {
            let (code, said) = run(&folder, args);
            assert!(
                code == 125 && said.ends_with("s: what answers there is no supervisor\n"),
                "{args:?} {code} {said}"
            );
        }
    }
}

#[test]
fn a_text_that_is_wider_than_any_column_is_cut() {
    let folder = Folder::new();
    impostor(&folder, |stream| {
        let process = format!("{{\"name\":\"web\",\"state\":\"{}\"}}", "x".repeat(100_000));
        let _ = writeln!(stream, "{{\"ok\":true,\"processes\":[{process}]}}");
    });
    let output = Command::new(PROGRAM).args(["status", "--socket", "s"]).current_dir(&folder.0).output().unwrap();
    let said = text(&output.stdout);
    assert!(
        output.status.code() == Some(3) && said.contains("\nweb   xxxxx") && said.len() < 500,
        "{said} {}",
        text(&output.stderr)
    );
}

#[test]
fn an_answer_that_comes_drop_by_drop_is_not_waited_for() {
    let folder = Folder::new();
    impostor(&folder, |stream| {
        while stream.write_all(b" ").is_ok() {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
    let start = now();
    let (code, said) = run(&folder, &["status", "--socket", "s"]);
    assert!(code == 125 && said.contains("does not answer"), "{code} {said}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn no_answer_writes_control_characters_to_a_terminal() {
    const EVIL: &str = r"\u001b]0;owned\u0007\u009b31m\nchildminder: [root] started\u007f";
    let object = format!(
        "{{\"name\":\"{EVIL}\",\"state\":\"{EVIL}\",\"pid\":1,\"restarts\":0,\"last_exit\":{{\"signal\":\"{EVIL}\"}},\"line\":\"{EVIL}\"}}"
    );
    for (args, answer) in [
        (&["status", "--socket", "s"][..], format!("{{\"ok\":true,\"processes\":[{object}]}}\n")),
        (&["status", "--json", "--socket", "s"], format!("{{\"ok\":true,\"processes\":[{object}]}}\n")),
        (&["status", "--watch", "--socket", "s"], format!("{{\"ok\":true,\"processes\":[{object}]}}\n")),
        (&["logs", "--socket", "s"], format!("{object}\n{{\"ok\":true}}\n")),
        (&["logs", "--json", "--socket", "s"], format!("{object}\n{{\"ok\":true}}\n")),
        (&["reload", "--socket", "s"], format!("{{\"ok\":true,\"added\":[\"{EVIL}\"],\"notes\":[\"{EVIL}\"]}}\n")),
        (&["reload", "--json", "--socket", "s"], format!("{{\"ok\":true,\"added\":[\"{EVIL}\"]}}\n")),
        (&["reload", "--socket", "s"], format!("{{\"ok\":false,\"error\":\"{EVIL}\",\"errors\":[\"{EVIL}\"]}}\n")),
        (&["reload", "--json", "--socket", "s"], format!("{{\"ok\":false,\"error\":\"{EVIL}\"}}\n")),
        (&["status", "--watch", "--socket", "s"], format!("{{\"ok\":false,\"error\":\"{EVIL}\"}}\n")),
    ] {
        let folder = Folder::new();
        impostor(&folder, move |stream| {
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.read(&mut [0; 100]);
        });
        let drawn = on_a_terminal(&folder.0, args, &["owned"]);
        assert!(drawn.contains("owned"), "{args:?}: {drawn:?}");
        for evil in ["\x1b]0", "\x07", "\u{9b}", "\nchildminder: [root]", "\x7f"] {
            assert!(!drawn.contains(evil), "{args:?}: {evil:?} in {drawn:?}");
        }
    }
    // A program gets the text as it was written.
    let folder = Folder::new();
    impostor(&folder, |stream| {
        let _ = stream.write_all(b"{\"name\":\"a\",\"line\":\"\\u001b[1mbold\"}\n{\"ok\":true}\n");
    });
    let output = Command::new(PROGRAM).args(["logs", "--socket", "s"]).current_dir(&folder.0).output().unwrap();
    assert_eq!(text(&output.stdout), "[a] \x1b[1mbold\n");
}

// The next tests are about the user at the other end.

#[test]
fn root_does_not_talk_to_another_user_s_supervisor_by_mistake() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    std::os::unix::fs::chown(&folder.0, Some(NOBODY), Some(NOBODY)).unwrap();
    let script = "
import socket
s = socket.socket(socket.AF_UNIX)
s.bind('s')
s.listen()
print('ready', flush=True)
while True:
    c, _ = s.accept()
    try:
        if c.recv(1000):
            c.sendall(b'{\"ok\":true,\"processes\":[]}\\n')
    except OSError:
        pass
";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).current_dir(&folder.0).uid(NOBODY).gid(NOBODY);
    let Ok(mut python) = python.stdout(Stdio::piped()).spawn() else {
        left_out("there is no python3");
        return;
    };
    let mut ready = String::new();
    BufReader::new(python.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let socket = folder.join("s").display().to_string();
    let (code, said) = run(&folder, &["status", "--socket", "s"]);
    let expected = format!(
        "childminder: {socket}: user id 65534 listens there, pid {}, who is neither you nor root; with `--owner 65534` you trust that user\n",
        python.id()
    );
    assert_eq!((code, said), (125, expected));
    for owner in ["65534", "nobody"] {
        assert_eq!(run(&folder, &["status", "--socket", "s", "--owner", owner]), (0, String::new()));
    }
    let (code, said) = run(&folder, &["status", "--socket", "s", "--owner", "daemon"]);
    assert!(code == 125 && said.contains("user id 65534 listens there"), "{code} {said}");
    let (code, said) = run(&folder, &["status", "--socket", "s", "--owner", "no-such-user"]);
    assert_eq!((code, &*said), (2, "childminder: --owner no-such-user: no user `no-such-user`\n"));
    python.kill().unwrap();
    python.wait().unwrap();
}

#[test]
fn a_client_outside_of_the_supervisor_s_pid_namespace_is_served() {
    let folder = Folder::new();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{SLEEPS}"));
    let mut command = Command::new("unshare");
    command.args(["-p", "-f", "--kill-child", PROGRAM, "up"]).current_dir(&folder.0).stdin(Stdio::null());
    let mut child = Kill(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let listens = || UnixStream::connect(folder.join("s")).is_ok();
    until("the socket", || (listens() || child.0.try_wait().unwrap().is_some()).then_some(()));
    if !listens() {
        left_out("no namespaces can be made");
        return;
    }
    let output = Command::new(PROGRAM).args(["status"]).current_dir(&folder.0).output().unwrap();
    assert!(text(&output.stdout).contains("web"), "{output:?}");
    assert_eq!(run(&folder, &["shutdown", "--wait"]), (0, String::new()));
}

/// A helper of a test, which is killed when this value is dropped.
struct Kill(std::process::Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// The next test is about a supervisor without a free descriptor.

#[test]
fn clients_are_answered_when_no_descriptor_is_left() {
    let up = Up::start(&format!("{SLEEPS}[process.more]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n"));
    up.until_state("web", "running");
    // Clients that follow the logs take one descriptor each, until all below the limit are taken.
    let pid = rustix::process::Pid::from_raw(up.pid()).unwrap();
    let limit = 64;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    let taken = || {
        let entries = fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap();
        let numbers = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap());
        numbers.filter(|number| *number < limit).count() as u64
    };
    let mut followers = Vec::new();
    while taken() < limit {
        let mut follower = connect(&up.socket());
        assert!(ask_on(&follower, r#"{"version":1,"command":"status","names":[]}"#).is_some(), "it was accepted");
        follower.write_all(b"{\"version\":1,\"command\":\"logs\",\"names\":[],\"follow\":true}\n").unwrap();
        followers.push(follower);
    }
    // One that would take the last descriptor for good is refused.
    let answer = Command::new(PROGRAM).args(["logs", "-f"]).current_dir(&up.folder.0).output().unwrap();
    assert!(text(&answer.stderr).contains("no file descriptor left for a client that stays"), "{answer:?}");
    up.ok(&["start", "more"]);
    up.until_read("err", &format!("(os error {})", libc::EMFILE));
    for _ in 0..3 {
        let statuses = up.statuses();
        assert_eq!(statuses.len(), 2);
    }
    // Clients that stay connected do not keep others out either.
    let idle: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(up.socket()).unwrap()).collect();
    for _ in 0..3 {
        up.ok(&["status"]);
    }
    drop(idle);
    up.ok(&["stop", "--all", "--wait"]);
    up.shutdown();
}
