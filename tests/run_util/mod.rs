//! Runs `childminder run` under test: it reads the command's lines as they come, and its processes
//! from /proc.
//!
//! The one rule: every wait is for an action of the command or its child, under a watchdog, and
//! nothing outlives its test.

#![allow(dead_code)] // each test file takes what it needs

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../util/guard.rs"]
mod guard;
#[path = "../util/left_out.rs"]
pub(crate) mod left_out;

#[allow(unused_imports)]
pub(crate) use left_out::{left_out, needs_descriptors, needs_root, needs_the_kernel};

/// Longer than any wait here takes on the slowest machine.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);
/// The longest time that something may happen later than planned on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

pub(crate) const OUT: u8 = 1;
pub(crate) const ERR: u8 = 2;

#[allow(clippy::disallowed_methods)] // a test measures
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The command with these arguments.
#[allow(unsafe_code)]
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_childminder"));
    let listen_to_hup = || {
        // SAFETY: signal is async-signal-safe, and takes no pointer here.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
        Ok(())
    };
    // nohup(1) may have started the tests with SIGHUP ignored, and the command would leave it
    // ignored.
    // SAFETY: the closure makes only the call above.
    unsafe { command.pre_exec(listen_to_hup) };
    command.arg("run").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A line of output, with its time and its stream.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) at: Instant,
    pub(crate) stream: u8,
    pub(crate) text: String,
}

/// The running command.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) lines: Receiver<Said>,
    /// The lines that have come so far.
    pub(crate) log: Vec<Said>,
    /// For each stream, the number of lines of the log that `expect` has gone past.
    pub(crate) passed: [usize; 3],
}

impl Drop for Running {
    fn drop(&mut self) {
        // A second signal makes the command kill its child and end.
        let ended = eventually(|| {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if !ended {
                self.signal("TERM");
                self.signal("CONT");
            }
            ended
        });
        if !ended {
            let _ = self.child.kill();
        }
    }
}

pub(crate) fn start(args: &[&str]) -> Running {
    Running::of(&mut command(args))
}

impl Running {
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the command can be started");
        let (sender, lines) = channel();
        let listen = |stream: u8, pipe: Box<dyn Read + Send>| {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    if sender.send(Said { at: now(), stream, text }).is_err() {
                        return;
                    }
                }
            });
        };
        if let Some(pipe) = child.stdout.take() {
            listen(OUT, Box::new(pipe));
        }
        if let Some(pipe) = child.stderr.take() {
            listen(ERR, Box::new(pipe));
        }
        Self { child, lines, log: Vec::new(), passed: [0; 3] }
    }

    /// Waits for the next line of the stream that contains `part`, and goes past it.
    #[track_caller]
    pub(crate) fn expect(&mut self, stream: u8, part: &str) -> Said {
        let end = now() + WATCHDOG;
        let mut next = self.passed[usize::from(stream)];
        loop {
            while next < self.log.len() {
                next += 1;
                let said = &self.log[next - 1];
                if said.stream == stream && said.text.contains(part) {
                    self.passed[usize::from(stream)] = next;
                    return said.clone();
                }
            }
            match self.lines.recv_timeout(end.saturating_duration_since(now())) {
                Ok(said) => self.log.push(said),
                Err(why) => panic!("`{part}` never came on {stream} ({why}); what did: {:#?}", self.log),
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        send(name, &self.child.id().to_string());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Waits for the command's end. Returns its exit code and all its lines.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        let end = now() + WATCHDOG;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(now())) {
                Ok(said) => self.log.push(said),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it did not end; what it said: {:#?}", self.log),
            }
        }
        let code = self.wait().code();
        let of = |stream| self.log.iter().filter(|said| said.stream == stream).map(|said| said.text.clone()).collect();
        (code, of(OUT), of(ERR))
    }
}

pub(crate) fn send(name: &str, to: &str) {
    // The shell's built-in `kill` exists on every system.
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {to} 2>/dev/null")]).status();
}

/// Waits for a child's end, and kills the child if the end does not come.
#[track_caller]
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    let ended = eventually(|| {
        status = child.try_wait().expect("it can be waited for");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        panic!("process {} did not end", child.id());
    }
    status.expect("it has ended")
}

/// Asks again and again until the answer is true, for states that no event announces. `false` if it
/// never is.
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let (end, (_nobody, pause)) = (now() + WATCHDOG, channel::<()>());
    while !is_so() {
        if now() > end {
            return false;
        }
        let _ = pause.recv_timeout(ms(5));
    }
    true
}

/// Runs the command to its end. Returns the exit code, stdout and stderr.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> (Option<i32>, Vec<String>, Vec<String>) {
    start(args).finish()
}

/// The living processes that have this variable in their environment.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let is_marked = |path: &Path| {
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten().map(|entry| entry.path());
    let pids = entries.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)));
    pids.filter(|(_, path)| is_marked(path)).map(|(pid, _)| pid).collect()
}

/// A field of `/proc/PID/status`, without its name.
pub(crate) fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

pub(crate) fn peak_memory(pid: u32) -> u64 {
    status(pid, "VmHWM").trim_end_matches(" kB").parse().expect("a number of kB")
}

/// Whether a process is reaped, so that not even its exit status is left.
pub(crate) fn is_reaped(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether all of these processes sleep. If one writes and another should read, the pipes are full
/// then.
pub(crate) fn all_sleep(pids: &[u32]) -> bool {
    pids.iter().all(|pid| status(*pid, "State").starts_with('S'))
}

/// A directory for one test alone, which every user may enter.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = guard::folder().join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory can be made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the path is text").to_owned()
    }

    pub(crate) fn file(&self, name: &str, content: &str, mode: u32) -> String {
        let path = self.path(name);
        // A child writes the file, because a program that another test's child still has open for
        // writing cannot be executed.
        let mut cat =
            Command::new("sh").args(["-c", r#"cat > "$0""#, &path]).stdin(Stdio::piped()).spawn().expect("sh");
        cat.stdin.take().expect("it is piped").write_all(content.as_bytes()).expect("cat reads");
        assert!(cat.wait().expect("it can be waited for").success());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn is_root() -> bool {
    status(std::process::id(), "Uid").starts_with("0\t")
}

/// Checks the gaps between starts that were reported at `times`. `before` is a time before the
/// first start.
#[track_caller]
pub(crate) fn assert_gaps(before: Instant, times: &[Instant], planned: &[u64]) {
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps.len(), planned.len());
    let mut sum = Duration::ZERO;
    for ((gap, time), planned) in gaps.iter().zip(&times[1..]).zip(planned) {
        sum += ms(*planned);
        // A line that is read late makes the next gap look short, so only the sum is certain.
        assert!(*time - before + ms(5) >= sum, "too early: {gaps:?} instead of {planned:?}");
        assert!(*gap <= ms(*planned) + SLACK, "too late: {gaps:?} instead of {planned:?}");
    }
}

/// The times at which the starts were reported.
pub(crate) fn starts(running: &mut Running, count: usize) -> Vec<Instant> {
    (0..count).map(|_| running.expect(ERR, "started, pid ").at).collect()
}
