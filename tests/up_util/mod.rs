//! Starts a supervisor in a folder of its own, and runs the commands that talk to it.
//!
//! The one rule: every wait is for a state that can be seen, under a watchdog, and nothing outlives
//! its test.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use childminder::{Event, Pty, Reactor};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "../util/guard.rs"]
pub(crate) mod guard;
#[path = "../util/left_out.rs"]
pub(crate) mod left_out;

#[allow(unused_imports)]
pub(crate) use left_out::{left_out, needs_descriptors, needs_root, needs_the_kernel};

/// Longer than any wait here takes on the slowest machine.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_childminder");

#[allow(clippy::disallowed_methods)] // a test measures
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Calls `look` again and again until it returns a value.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < WATCHDOG, "never seen: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A folder that is removed at the end of the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = guard::folder().join(format!("up-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `childminder up`. Its stdout and stderr are the files `out` and `err` of the folder.
pub(crate) struct Up {
    pub(crate) folder: Folder,
    pub(crate) child: Child,
}

impl Up {
    /// Starts it with a file that consists of a `[monitor]` with a socket `s`, and `processes`.
    #[track_caller]
    pub(crate) fn start(processes: &str) -> Self {
        Self::start_in(Folder::new(), processes)
    }

    #[track_caller]
    pub(crate) fn start_in(folder: Folder, processes: &str) -> Self {
        folder.write("childminder.toml", &file(processes));
        let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
        let mut command = Command::new(PROGRAM);
        command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
        let child = command.spawn().unwrap();
        let mut up = Self { folder, child };
        up.wait_for_socket();
        up
    }

    #[track_caller]
    pub(crate) fn wait_for_socket(&mut self) {
        self.wait_for_socket_at(&self.socket());
    }

    #[track_caller]
    pub(crate) fn wait_for_socket_at(&mut self, socket: &Path) {
        until("an answer from the socket", || {
            assert!(self.child.try_wait().unwrap().is_none(), "{}", self.folder.read("err"));
            UnixStream::connect(socket).ok().filter(|stream| {
                stream.set_read_timeout(Some(WATCHDOG)).unwrap();
                ask_on(stream, r#"{"version":1,"command":"status","names":[]}"#).is_some()
            })
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Replaces the file, as in [`start`](Self::start).
    pub(crate) fn write_file(&self, processes: &str) {
        self.folder.write("childminder.toml", &file(processes));
    }

    /// Runs one of the other commands.
    #[track_caller]
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(&self.folder.0).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output. `status` may say that some processes
    /// are not up.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let is_told = args.first() == Some(&"status") && output.status.code() == Some(3);
        assert!(
            output.status.success() || is_told,
            "{args:?}: {} {out}{err}\n{}",
            output.status,
            self.folder.read("err")
        );
        out
    }

    /// Runs a command that must fail. Returns its exit code and its stderr.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args);
        assert!(!output.status.success(), "{args:?}: {}", text(&output.stdout));
        (output.status.code().unwrap(), text(&output.stderr))
    }

    #[track_caller]
    pub(crate) fn statuses(&self) -> Vec<Value> {
        let Ok(Value::Array(statuses)) = serde_json::from_str(&self.ok(&["status", "--json"])) else {
            panic!("status is no array");
        };
        statuses
    }

    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> Value {
        let mut statuses = self.statuses();
        let index = statuses.iter().position(|status| status["name"] == name);
        index.map_or(Value::Null, |index| statuses.swap_remove(index))
    }

    #[track_caller]
    pub(crate) fn pid_of(&self, name: &str) -> i32 {
        self.status(name)["pid"].as_i64().unwrap_or_else(|| panic!("{name} is not running")) as i32
    }

    /// The same as [`pid_of`](Self::pid_of), if the file does not set the socket.
    #[track_caller]
    pub(crate) fn pid_of_at(&self, socket: &str, name: &str) -> i32 {
        let said = self.ok(&["status", "--socket", socket, "--json", name]);
        let statuses: Value = serde_json::from_str(&said).unwrap();
        statuses[0]["pid"].as_i64().unwrap_or_else(|| panic!("{name} is not running")) as i32
    }

    /// Waits for a state of a process.
    #[track_caller]
    pub(crate) fn until_state(&self, name: &str, state: &str) -> Value {
        until(&format!("{name} {state}"), || Some(self.status(name)).filter(|status| status["state"] == state))
    }

    /// Waits for a text in one of the folder's files.
    #[track_caller]
    pub(crate) fn until_read(&self, name: &str, part: &str) -> String {
        until(&format!("{part:?} in {name}"), || Some(self.folder.read(name)).filter(|text| text.contains(part)))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < WATCHDOG, "the supervisor does not end:\n{}", self.folder.read("err"));
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    #[track_caller]
    pub(crate) fn shutdown(self) -> String {
        self.shutdown_at("s")
    }

    /// The same as [`shutdown`](Self::shutdown), if the file sets another socket.
    #[track_caller]
    pub(crate) fn shutdown_at(mut self, socket: &str) -> String {
        self.ok(&["shutdown", "--wait"]);
        assert_eq!(self.wait().code(), Some(0));
        assert!(!self.folder.join(socket).exists());
        self.folder.read("err")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let start = now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() < WATCHDOG {
                // The second signal kills the processes that are left.
                self.signal(Signal::TERM);
                self.signal(Signal::CONT);
            } else {
                self.signal(Signal::KILL);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn file(processes: &str) -> String {
    format!("[monitor]\nsocket = \"s\"\n\n{processes}")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// Whether there is a process with this pid that is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Runs a command in the folder. Returns its exit code and its stderr.
#[track_caller]
pub(crate) fn run(folder: &Folder, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    command.args(args).current_dir(&folder.0).stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

/// A user who is not root, in a folder of its own.
pub(crate) struct Nobody {
    pub(crate) folder: Folder,
    pub(crate) program: PathBuf,
}

impl Nobody {
    /// Returns `None`, and records it, if this process cannot become another user.
    #[track_caller]
    pub(crate) fn new() -> Option<Self> {
        if !needs_root() {
            return None;
        }
        let folder = Folder::new();
        std::os::unix::fs::chown(&folder.0, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.join("childminder");
        // A child copies the file, because a file that another test's child has open for writing
        // cannot be executed.
        assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
        Some(Self { folder, program })
    }

    #[track_caller]
    pub(crate) fn run(&self, variables: &[(&str, &str)], args: &[&str]) -> (i32, String) {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.folder.0).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), text(&output.stderr))
    }
}

pub(crate) const NOBODY: u32 = 65534;

/// Connects to the socket.
pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.set_write_timeout(Some(WATCHDOG)).unwrap();
    stream
}

/// Sends a line and reads one. `None` if the other end has closed.
pub(crate) fn ask_on(mut stream: &UnixStream, line: &str) -> Option<Value> {
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let mut answer = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}

/// Runs the command on a terminal of its own until its picture contains all `parts`, then ends it
/// by Ctrl-C. Returns everything that it drew.
pub(crate) fn on_a_terminal(folder: &Path, args: &[&str], parts: &[&str]) -> String {
    on_a_terminal_of(folder, args, parts, 80)
}

/// The same as [`on_a_terminal`], for a terminal of so many columns.
pub(crate) fn on_a_terminal_of(folder: &Path, args: &[&str], parts: &[&str], columns: u16) -> String {
    let steps: Vec<(&str, &dyn Fn())> = parts.iter().map(|part| (*part, &(|| {}) as &dyn Fn())).collect();
    draw_on_a_terminal(folder, args, &steps, columns, false)
}

/// Runs the command on a terminal, and does each step as soon as its text has been drawn behind the
/// one before it. Ends the command by Ctrl-C after the last one. Returns everything that was drawn.
pub(crate) fn steps_on_a_terminal(folder: &Path, args: &[&str], steps: &[(&str, &dyn Fn())], columns: u16) -> String {
    draw_on_a_terminal(folder, args, steps, columns, true)
}

fn draw_on_a_terminal(
    folder: &Path,
    args: &[&str],
    steps: &[(&str, &dyn Fn())],
    columns: u16,
    in_order: bool,
) -> String {
    let mut reactor = Reactor::new().unwrap();
    let mut command = childminder::Command::new(PROGRAM);
    command.args(args).current_dir(folder).env("TERM", "xterm").env_remove("NO_COLOR");
    command.pty(Pty::new().size(24, columns));
    let id = reactor.spawn_process(&command).unwrap();
    let (mut drawn, mut over, mut asked) = (Vec::new(), false, false);
    let (mut done, mut seen) = (0, 0);
    let start = now();
    while !over {
        assert!(start.elapsed() < WATCHDOG, "{:?} of {}", steps.get(done).map(|step| step.0), text(&drawn));
        reactor
            .turn(Some(Duration::from_secs(1)), |_, event| match event {
                Event::Data { data, .. } => drawn.extend_from_slice(data),
                Event::Ended { .. } => over = true,
                _ => {}
            })
            .unwrap();
        let drawn = text(&drawn);
        while let (true, Some((part, step))) = (in_order, steps.get(done)) {
            let Some(at) = drawn[seen..].find(part) else { break };
            (done, seen) = (done + 1, seen + at + part.len());
            step();
        }
        let is_done = if in_order { done == steps.len() } else { steps.iter().all(|(part, _)| drawn.contains(part)) };
        if !asked && is_done {
            asked = true;
            // It may have ended by itself.
            if let Some(mut process) = reactor.process(id) {
                let _ = process.write(0, b"\x03");
            }
        }
    }
    text(&drawn)
}
