//! Tests what a user expects of the types: conversions from and to the types of std, getters,
//! constructors for tests of a host.

mod util;

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process;
use std::time::Duration;

use childminder::simulation::{Refused, simulate_all};
use childminder::{
    AlreadyRegistered, Command, CpuSet, CpuSetError, Feed, HandleError, MonitorError, Order, OrderErrors, PolicyError,
    Reactor, ReadProducer, RunError, RunToEnd, SignalError, SpawnError, Stage, Stdio, TooFewCpus, Topology, When,
    WriteError,
};

/// Turns an error into an `io::Error` by `?`, as a function of a host does.
fn by_question_mark<T, E>(result: Result<T, E>) -> io::Error
where
    io::Error: From<E>,
{
    let inner = || -> io::Result<T> { Ok(result?) };
    match inner() {
        Ok(_) => panic!("no error"),
        Err(error) => error,
    }
}

/// The kind of the `io::Error` that `?` makes of this error, which keeps its message and stays
/// inside.
#[track_caller]
fn kind<E: Error + 'static>(error: E) -> ErrorKind
where
    io::Error: From<E>,
{
    let message = error.to_string();
    let error = by_question_mark::<(), E>(Err(error));
    assert_eq!(error.to_string(), message);
    assert!(error.get_ref().is_some_and(|inner| inner.is::<E>()), "{error:?}");
    error.kind()
}

fn not_started(command: &Command) -> SpawnError {
    Reactor::new().unwrap().spawn_process(command).unwrap_err()
}

#[test]
fn a_failed_spawn_is_an_io_error() {
    let missing = not_started(&Command::new("/no/such/program"));
    assert_eq!(kind(missing), ErrorKind::NotFound);
    let missing = by_question_mark(RunToEnd::new(&Command::new("/no/such/program")).run());
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().starts_with("cannot start `/no/such/program`: exec"), "{missing}");
    assert_eq!(kind(not_started(&Command::new("/etc/passwd"))), ErrorKind::PermissionDenied);
    assert_eq!(kind(not_started(&Command::new("nul\0"))), ErrorKind::InvalidInput);

    // The error itself is inside, for a host that asks for the step.
    let error = by_question_mark(Reactor::new().unwrap().spawn_process(Command::new("true").current_dir("/no/such")));
    let inner = error.downcast::<SpawnError>().unwrap();
    assert_eq!((inner.stage(), inner.io_error().raw_os_error()), (Stage::Chdir, Some(libc::ENOENT)));
}

#[test]
fn every_error_is_an_io_error() {
    let refused = || io::Error::from_raw_os_error(libc::EPERM);
    assert_eq!(kind(SignalError::AlreadyExited), ErrorKind::NotFound);
    assert_eq!(kind(SignalError::Os(refused())), ErrorKind::PermissionDenied);
    assert_eq!(kind(WriteError::NoPipe { fd: 0 }), ErrorKind::BrokenPipe);
    assert_eq!(kind(WriteError::Closing { fd: 0 }), ErrorKind::BrokenPipe);

    assert_eq!(kind(RunError::Input(refused())), ErrorKind::PermissionDenied);
    assert_eq!(kind(RunError::Wait(refused())), ErrorKind::PermissionDenied);
    assert_eq!(kind(RunError::StillRunning { pid: 1, refusal: None }), ErrorKind::TimedOut);
    assert_eq!(kind(RunError::StillRunning { pid: 1, refusal: Some(refused()) }), ErrorKind::PermissionDenied);
    // A caller takes `Interrupted` as a request to try again, and the run would be started again.
    assert_eq!(kind(RunError::Interrupted { signal: 15 }), ErrorKind::Other);
    assert_eq!(kind(RunError::NotStarted), ErrorKind::Other);

    let invalid = || PolicyError::NoStarts;
    assert_eq!(kind(invalid()), ErrorKind::InvalidInput);
    let unknown = || MonitorError::Unknown("web".into());
    assert_eq!(kind(unknown()), ErrorKind::NotFound);
    assert_eq!(kind(MonitorError::Duplicate("web".into())), ErrorKind::AlreadyExists);
    assert_eq!(kind(MonitorError::Policy(invalid())), ErrorKind::InvalidInput);
    assert_eq!(kind(MonitorError::Rolling), ErrorKind::ResourceBusy);
    let order_error = || -> OrderErrors { Order::new().after("a", "a", When::Started).check(|_| true).unwrap_err() };
    assert_eq!(kind(order_error()), ErrorKind::InvalidInput);
    assert_eq!(kind(MonitorError::Order(order_error())), ErrorKind::InvalidInput);
    assert_eq!(kind(HandleError::Monitor(unknown())), ErrorKind::NotFound);
    assert_eq!(kind(HandleError::Gone), ErrorKind::NotConnected);

    assert_eq!(kind::<CpuSetError>("x".parse::<CpuSet>().unwrap_err()), ErrorKind::InvalidInput);
    let one: CpuSet = Topology::of_this_machine().unwrap().cpus().iter().take(1).collect();
    let few = Topology::of_this_machine().unwrap().restricted_to(&one).split(2).unwrap_err();
    assert_eq!(kind::<TooFewCpus>(few), ErrorKind::InvalidInput);
    let refused = simulate_all([], Order::new().essential("nobody"), Duration::ZERO).unwrap_err();
    assert_eq!(kind::<Refused>(refused), ErrorKind::InvalidInput);
}

#[test]
fn a_second_producer_is_an_io_error() {
    let mut reactor = Reactor::new().unwrap();
    let cat = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
    let mut feed = Feed::new(cat, 0);
    // The first one stays because the pipe takes less than this.
    feed.register_producer(&mut reactor, ReadProducer::new(io::repeat(0))).unwrap();
    let second = feed.register_producer(&mut reactor, ReadProducer::new(io::repeat(0))).unwrap_err();
    assert_eq!(kind::<AlreadyRegistered>(second), ErrorKind::AlreadyExists);
    reactor.process(cat).unwrap().kill_group().unwrap();
}

#[test]
fn a_command_shows_what_it_is_set_to() {
    let mut command = Command::new("make");
    assert_eq!((command.get_envs().count(), command.get_env_clear(), command.get_current_dir()), (0, false, None));
    command.env("B", "1").env("A", "2").env_remove("C").env("B", "3").current_dir("src");
    let envs: Vec<_> = command.get_envs().collect();
    let expected = [("B", Some("3")), ("A", Some("2")), ("C", None)];
    assert_eq!(envs, expected.map(|(key, value)| (OsStr::new(key), value.map(OsStr::new))));
    assert_eq!(command.get_current_dir(), Some(Path::new("src")));
    command.env_clear();
    assert_eq!((command.get_envs().count(), command.get_env_clear()), (0, true));
}

#[test]
fn a_command_is_displayed_as_people_write_it() {
    let shown = |program: &str, args: &[&str]| Command::new(program).args(args).to_string();
    assert_eq!(shown("ls", &["-l", "/tmp", "--color=never"]), "ls -l /tmp --color=never");
    assert_eq!(shown("sh", &["-c", "echo $HOME"]), "sh -c 'echo $HOME'");
    assert_eq!(shown("a b", &["", "it's", "~", "*"]), r"'a b' '' 'it'\''s' '~' '*'");
    assert_eq!(shown("cat", &["two\nlines", "gr\u{fc}\u{df}e"]), "cat 'two\nlines' 'gr\u{fc}\u{df}e'");
    assert_eq!(shown("cat", &["\x1b[2Jx\u{9b}"]), r#"cat "$(printf '\033')"'[2Jx'"$(printf '\302\233')""#);
    // These would be the shell's own.
    assert_eq!(shown("echo", &["hello"]), "env echo hello");
    assert_eq!(shown("/bin/echo", &["hello"]), "/bin/echo hello");
    assert_eq!(shown("A=b", &[]), "'A=b'");
    let mut command = Command::new("make");
    command.env("CC", "clang -g").env_remove("MAKEFLAGS").current_dir("-");
    assert_eq!(command.to_string(), "(cd ./- && env -u MAKEFLAGS CC='clang -g' make)");
    assert_eq!(Command::new("true").env_clear().to_string(), "env -i true");
}

/// Runs what `sh` makes of a line. This is not done by this library.
#[track_caller]
fn by_shell(shell: &str, line: &str) -> Option<Vec<u8>> {
    // env(1) tells apart a shell that is not there, even where an emulator starts it.
    let output = process::Command::new("env").args(shell.split(' ')).arg("-c").arg(line).env("PARENT", "1").output();
    let output = output.unwrap();
    if output.status.code() == Some(127) && output.stderr.starts_with(b"env: ") {
        return None;
    }
    assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {line}: {output:?}");
    Some(output.stdout)
}

/// The command, if the host had the variable that [`by_shell`] sets.
fn with_parent(command: &Command) -> Command {
    let mut command = command.clone();
    if !command.get_env_clear() && command.get_envs().all(|(key, _)| key != "PARENT") {
        command.env("PARENT", "1");
    }
    command
}

#[test]
fn a_shell_runs_a_displayed_command() {
    let dir = util::TempDir::new("shown -'$(x)\n\u{1b}");
    let printer =
        dir.file("a=b 'c", "#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\" \"$(pwd)\" \"$SET\" \"$PARENT\"\n", 0o755);
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let every_byte: Vec<u8> = (1..=255).collect();
    for round in 0..60 {
        let mut command = Command::new(if round % 2 == 0 { printer.as_os_str() } else { OsStr::new("./a=b 'c") });
        if round % 3 != 0 || round % 2 == 1 {
            command.current_dir(&dir.0);
        }
        command.arg(OsStr::from_bytes(&every_byte));
        for end in ["\n", "\n\n", "\x1b", "\\", "-n", "!", "a\nb\n"] {
            command.arg(end);
        }
        for _ in 0..random(5) {
            let word: Vec<u8> =
                (0..random(20)).map(|_| b"\xff\xc3\xa9\n\t '\"$`\\!#&*-=0a\x01\x7f"[random(20) as usize]).collect();
            command.arg(OsStr::from_bytes(&word));
        }
        match round % 4 {
            0 => {}
            1 => _ = command.env("SET", OsStr::from_bytes(&every_byte)).env_remove("PARENT"),
            2 => _ = command.env_clear().env("-x", "y").env("SET", "it's\n"),
            _ => _ = command.env_clear(),
        }
        let line = command.to_string();
        assert!(line.chars().all(|shown| !shown.is_control() || matches!(shown, '\n' | '\t')), "{line:?}");
        let expected = RunToEnd::new(&with_parent(&command)).run().unwrap();
        assert!(expected.exit.success() && expected.stderr.is_empty(), "{expected:?}");
        for shell in ["sh", "bash", "busybox sh"] {
            if let Some(said) = by_shell(shell, &line) {
                assert_eq!(said, expected.stdout, "{shell}: {line}");
            }
        }
    }
}
