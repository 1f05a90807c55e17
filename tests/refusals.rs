//! Tests commands that cannot be started. Each step fails with the right error, the same on both
//! spawn paths, and leaves nothing behind. It is one test in a process of its own, because it
//! counts the open descriptors of the whole process and lowers its limits.

#![allow(unsafe_code)]

#[path = "util/nobody.rs"]
mod nobody;
mod util;

use std::net::TcpListener;
use std::path::PathBuf;

use childminder::{Command, Limit, Pty, Resource, Stage, Stdio};
use nobody::as_nobody;
use rustix::process::{Resource as Kind, Rlimit, getrlimit, setrlimit};
use util::{COMBINATIONS, TempDir, World, needs_root, open_fds, sh};

/// A command, the step that refuses it, the errno (0 if the error is ours), and a part of the
/// message.
type Refusal = (Command, Stage, i32, String);

fn change(mut command: Command, how: impl FnOnce(&mut Command) -> &mut Command) -> Command {
    how(&mut command);
    command
}

/// Commands that fail for every user, even root. The error is the same whatever else the command
/// asks for.
fn refusals(dir: &TempDir) -> Vec<Refusal> {
    let mut all: Vec<Refusal> = Vec::new();
    let mut add = |command: Command, stage, errno, message: &str| all.push((command, stage, errno, message.into()));
    let ok = || Command::new("true");
    let path = |path: PathBuf| path.display().to_string();

    // These errors are ours, before there is a child.
    add(Command::new(""), Stage::Command, 0, "empty");
    add(Command::new("a\0b"), Stage::Command, 0, "NUL");
    add(change(ok(), |c| c.arg("a\0b")), Stage::Command, 0, "a NUL byte in an argument");
    add(change(ok(), |c| c.arg0("a\0b")), Stage::Command, 0, "NUL");
    add(change(ok(), |c| c.env("A", "a\0b")), Stage::Command, 0, "NUL byte in the environment variable \"A\"");
    add(change(ok(), |c| c.env("A\0", "b")), Stage::Command, 0, "NUL");
    add(change(ok(), |c| c.env("", "b")), Stage::Command, 0, "environment variable with the name \"\"");
    add(change(ok(), |c| c.env("A=B", "b")), Stage::Command, 0, "environment variable");
    add(change(ok(), |c| c.current_dir("a\0b")), Stage::Command, 0, "NUL byte in the working directory");
    add(change(ok(), |c| c.fd(-1, Stdio::null())), Stage::Command, 0, "negative");
    add(change(ok(), |c| c.process_group(-5)), Stage::Command, 0, "negative process group");
    add(change(ok(), |c| c.nice(20)), Stage::Command, 0, "nice");
    add(change(ok(), |c| c.parent_death_signal(0)), Stage::Command, 0, "signal");
    add(change(ok(), |c| c.parent_death_signal(65)), Stage::Command, 0, "signal");
    add(change(ok(), |c| c.stderr(Stdio::same_as(7))), Stage::Command, 0, "the same");
    add(change(ok(), |c| c.stderr(Stdio::same_as(2))), Stage::Command, 0, "the same");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let socket = || socket.try_clone().expect("its duplicate");
    add(change(ok(), |c| c.listen_fd("a:b", socket())), Stage::Command, 0, "colon");
    add(change(ok(), |c| c.listen_fd("a\0b", socket())), Stage::Command, 0, "NUL");
    add(change(ok(), |c| c.listen_fd("a", socket()).fd(3, Stdio::null())), Stage::Command, 0, "listening");
    add(change(ok(), |c| c.pty(Pty::new()).stdin(Stdio::null())), Stage::Command, 0, "pseudo-terminal");

    // These errors come from the system, in each step.
    add(change(ok(), |c| c.stderr(Stdio::append("/no/such"))), Stage::Open, libc::ENOENT, "open /no/such");
    add(change(ok(), |c| c.stderr(Stdio::append("a\0b"))), Stage::Open, 0, "open a\0b");
    add(change(ok(), |c| c.fd(9999, Stdio::inherit())), Stage::Dup2, libc::EBADF, "dup2");
    add(change(ok(), |c| c.fd(i32::MAX, Stdio::null())), Stage::Dup2, libc::EBADF, "to descriptor 2147483647");
    add(change(ok(), |c| c.process_group(i32::MAX)), Stage::Setpgid, libc::EPERM, "setpgid");
    let limit = Limit { soft: Some(2), hard: Some(1) };
    add(change(ok(), |c| c.rlimit(Resource::Core, limit)), Stage::Rlimit, libc::EINVAL, "setrlimit core");
    add(change(ok(), |c| c.current_dir("/no/such")), Stage::Chdir, libc::ENOENT, "chdir /no/such");
    add(change(ok(), |c| c.current_dir("/dev/null")), Stage::Chdir, libc::ENOTDIR, "chdir /dev/null");

    // These errors are about the program. Twisted: executionError, test_errorDuringExec.
    add(
        Command::new("/no/such/program"),
        Stage::Exec,
        libc::ENOENT,
        "cannot start `/no/such/program`: exec: No such file",
    );
    add(Command::new("no-such-program"), Stage::Exec, libc::ENOENT, "in no directory of its PATH");
    add(Command::new("./no-such-program"), Stage::Exec, libc::ENOENT, "No such file");
    add(Command::new("/etc/passwd/x"), Stage::Exec, libc::ENOTDIR, "");
    add(Command::new("/tmp"), Stage::Exec, libc::EACCES, "it is a directory");
    let plain = dir.file("bin/plain", "#!/bin/sh\n", 0o644);
    add(Command::new(&plain), Stage::Exec, libc::EACCES, "not executable");
    let lost = dir.file("bin/lost", "#!/no/such/interpreter -x\n", 0o755);
    add(Command::new(&lost), Stage::Exec, libc::ENOENT, "its interpreter `/no/such/interpreter` is not");
    let from_elsewhere = dir.file("bin/crlf", "#! /bin/sh\r\nexit\r\n", 0o755);
    add(Command::new(from_elsewhere), Stage::Exec, libc::ENOENT, "its interpreter `/bin/sh\\r` is not");
    let text = dir.file("bin/text", "echo hello\n", 0o755);
    add(Command::new(&text), Stage::Exec, libc::ENOEXEC, "`#!` line");
    add(change(ok(), |c| c.arg("x".repeat(3 << 20))), Stage::Exec, libc::E2BIG, "exec");
    // The search in the PATH finds these files, and their errors are the same.
    let bin = format!("/no/such:{}", path(dir.0.join("bin")));
    for (name, errno, message) in [
        ("plain", libc::EACCES, format!("exec {}", plain.display())),
        ("lost", libc::ENOENT, "interpreter".into()),
        ("text", libc::ENOEXEC, format!("exec {}", text.display())),
    ] {
        add(change(Command::new(name), |c| c.env("PATH", &bin)), Stage::Exec, errno, &message);
    }
    if needs_root() {
        let id = u32::MAX;
        add(change(ok(), |c| c.gid(id)), Stage::Setgid, libc::EINVAL, "setgid");
        add(change(ok(), |c| c.uid(id).gid(7)), Stage::Setuid, libc::EINVAL, "setuid");
        add(change(ok(), |c| c.groups(&[7; 70_000])), Stage::Setgroups, libc::EINVAL, "setgroups");
    }
    // The errors are the same beside everything else that a command can ask for.
    for (command, stage, errno, message) in all.clone() {
        let mut more = command.clone();
        if stage != Stage::Command {
            more.setsid(true).umask(0o22).stdin(Stdio::piped()).fd(30, Stdio::reader()).fd(31, Stdio::writer());
        }
        if stage == Stage::Exec {
            more.current_dir("/");
        }
        if stage != Stage::Setpgid {
            all.push((more, stage, errno, message));
        }
    }
    all
}

fn set_limit(resource: Kind, soft: Option<u64>) -> Option<u64> {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: soft, ..before }).unwrap();
    before.current
}

fn expect_refusals(world: &mut World, all: &[Refusal]) {
    for (command, stage, errno, message) in all {
        let error = world.reactor.spawn_process(command).expect_err("a refusal");
        assert_eq!(error.stage(), *stage, "{error}");
        assert_eq!(error.io_error().raw_os_error().unwrap_or(0), *errno, "{error}");
        assert!(error.to_string().contains(message), "{error} | {message}");
        assert!(error.to_string().starts_with("cannot start `") && error.program() == command.get_program());
    }
    world.settle();
    assert!(world.log.0.is_empty(), "{:?}", world.log);
    assert_eq!(world.reactor.processes().count(), 0);
}

/// A spawn that fails for want of descriptors leaves nothing behind. Twisted: ForkErrorCloseFDs,
/// GivenFDs, ClosePTY, PTYGivenFDs, ErrorInPipe, WithForkError.
fn expect_whole_at_the_limit(world: &mut World) {
    let commands = [
        sh("echo $0; exit 7"),
        change(sh("exit 7"), |c| c.stdin(Stdio::piped()).fd(4, Stdio::reader())),
        change(sh("exit 7"), |c| c.pty(Pty::new())),
    ];
    let mut outcomes = [0, 0];
    for command in &commands {
        for room in 0..16 {
            let before = open_fds();
            let mut id = None;
            let highest = before.last().copied().unwrap_or(0) as u64;
            // There are no free numbers below, so that the limit is the room that is left.
            let fillers: Vec<std::fs::File> = (0..)
                .map_while(|_| {
                    let file = std::fs::File::open("/dev/null").ok()?;
                    (std::os::fd::AsRawFd::as_raw_fd(&file) as u64 <= highest).then_some(file)
                })
                .collect();
            let usual = set_limit(Kind::Nofile, Some(highest + 1 + room));
            match world.reactor.spawn_process(command) {
                Ok(started) => id = Some(started),
                Err(error) => {
                    assert!(matches!(error.stage(), Stage::Pipe | Stage::Dup2), "{error}");
                    assert_eq!(error.io_error().raw_os_error(), Some(libc::EMFILE), "{error}");
                }
            }
            set_limit(Kind::Nofile, usual);
            drop(fillers);
            outcomes[usize::from(id.is_some())] += 1;
            if let Some(id) = id {
                assert_eq!(world.until_ended(id).exit.code(), Some(7));
            } else {
                world.settle();
                let now = open_fds();
                // The self-pipe of the signals may have been opened for good.
                assert!(now.len() <= before.len() + 2, "{before:?} {now:?}");
            }
            assert_eq!(util::children(), []);
        }
    }
    assert!(outcomes[0] > 3 && outcomes[1] > 3, "{outcomes:?}");
}

#[test]
fn nothing_is_left_of_a_failure() {
    let dir = TempDir::new("refusals");
    let all = refusals(&dir);
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        // This opens what is opened once and kept.
        assert!(world.run(&Command::new("true")).exit.success());
        world.log.0.clear();
        let before = (open_fds(), util::threads());
        for _ in 0..3 {
            expect_refusals(&mut world, &all);
            assert_eq!((open_fds(), util::threads()), before);
            assert_eq!(util::children(), []);
        }
        assert_eq!(world.output(&sh("echo still works")), "still works\n");
        assert_eq!(open_fds(), before.0);
        expect_whole_at_the_limit(&mut world);
        assert_eq!(world.output(&sh("echo still works")), "still works\n");
    }
    if !needs_root() {
        return;
    }
    for combination in COMBINATIONS {
        as_nobody(move || {
            let mut world = World::new(combination);
            assert!(world.run(&Command::new("true")).exit.success());
            world.log.0.clear();
            let before = open_fds();
            let ok = || Command::new("true");
            let limit = Limit { soft: Some(1 << 30), hard: Some(1 << 30) };
            let all = [
                (change(ok(), |c| c.nice(-5)), Stage::Nice, libc::EACCES, "nice".into()),
                (change(ok(), |c| c.rlimit(Resource::OpenFiles, limit)), Stage::Rlimit, libc::EPERM, "nofile".into()),
                (change(ok(), |c| c.current_dir("/root")), Stage::Chdir, libc::EACCES, "/root".into()),
                (change(ok(), |c| c.uid(1)), Stage::Setgroups, libc::EPERM, "may not become another user".into()),
            ];
            expect_refusals(&mut world, &all);
            // The user may have no more processes, so both ways to spawn fail with EAGAIN.
            let usual = set_limit(Kind::Nproc, Some(0));
            let refused =
                world.reactor.spawn_process(&ok()).map_err(|error| (error.stage(), error.io_error().raw_os_error()));
            set_limit(Kind::Nproc, usual);
            assert_eq!(refused, Err((Stage::Clone, Some(libc::EAGAIN))));
            assert_eq!(open_fds(), before);
            assert_eq!(util::children(), []);
            assert_eq!(world.output(&sh("echo still works")), "still works\n");
        });
    }
}
