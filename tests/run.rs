//! The command `childminder run`, as a user sees it: real programs, its lines, its exit codes.
//!
//! Looks at nothing inside. The one rule: every wait is for something that the command or its child does, under a watchdog, and
//! nothing outlives its test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use childminder::{Event, ProcessId, Pty, Reactor};

/// Longer than anything here takes on the slowest machine.
const WATCHDOG: Duration = Duration::from_secs(60);
/// How much later than planned something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

const OUT: u8 = 1;
const ERR: u8 = 2;

#[allow(clippy::disallowed_methods)] // a test measures
fn now() -> Instant {
    Instant::now()
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The command, with all that can be said of it on its command line.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_childminder"));
    command.arg("run").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A line, when it came and where.
#[derive(Debug, Clone)]
struct Said {
    at: Instant,
    stream: u8,
    text: String,
}

/// The command under way.
struct Running {
    child: Child,
    lines: Receiver<Said>,
    /// What has come so far.
    log: Vec<Said>,
    /// How much of it `expect` has gone past, for each stream.
    passed: [usize; 3],
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Twice: it kills its child before it goes.
            self.signal("TERM");
            self.signal("TERM");
            self.signal("CONT");
            let _ = self.wait();
        }
    }
}

fn start(args: &[&str]) -> Running {
    Running::of(&mut command(args))
}

impl Running {
    fn of(command: &mut Command) -> Self {
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

    /// Waits for the next line of the stream that has `part` in it, and goes past it.
    #[track_caller]
    fn expect(&mut self, stream: u8, part: &str) -> Said {
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

    fn signal(&self, name: &str) {
        send(name, &self.child.id().to_string());
    }

    fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Waits for its end; its exit code, and all its lines.
    #[track_caller]
    fn finish(&mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
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

fn send(name: &str, to: &str) {
    // The shell has a `kill` everywhere.
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {to} 2>/dev/null")]).status();
}

/// Waits for a child's end, and kills it if it does not come.
#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
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

/// Asks again and again, where nothing tells, until it is so. `false` if it never is.
fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let (end, (_nobody, pause)) = (now() + WATCHDOG, channel::<()>());
    while !is_so() {
        if now() > end {
            return false;
        }
        let _ = pause.recv_timeout(ms(5));
    }
    true
}

/// Runs to the end: the exit code, stdout, stderr.
#[track_caller]
fn run(args: &[&str]) -> (Option<i32>, Vec<String>, Vec<String>) {
    start(args).finish()
}

/// The living processes that have this in their environment.
fn marked(mark: &str) -> Vec<u32> {
    let is_marked = |path: &Path| {
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten().map(|entry| entry.path());
    let pids = entries.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)));
    pids.filter(|(_, path)| is_marked(path)).map(|(pid, _)| pid).collect()
}

/// A line of `/proc/PID/status`, without its name.
fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

fn peak_memory(pid: u32) -> u64 {
    status(pid, "VmHWM").trim_end_matches(" kB").parse().expect("a number of kB")
}

/// Whether all of them sleep: where one writes and the other should read, the pipes are full.
fn all_sleep(pids: &[u32]) -> bool {
    pids.iter().all(|pid| status(*pid, "State").starts_with('S'))
}

/// A directory of the test's own, that everybody may enter.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("childminder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory can be made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the path is text").to_owned()
    }

    fn file(&self, name: &str, content: &str, mode: u32) -> String {
        let path = self.path(name);
        // By a child, and not by us: a program that another test's child still has open for writing cannot be executed.
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

fn is_root() -> bool {
    status(std::process::id(), "Uid").starts_with("0\t")
}

#[track_caller]
fn assert_gaps(times: &[Instant], planned: &[u64]) {
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps.len(), planned.len());
    let mut late = Duration::ZERO;
    for (gap, planned) in gaps.iter().zip(planned) {
        // A line that came late makes the next gap look short.
        assert!(*gap + late + ms(5) >= ms(*planned), "too early: {gaps:?} instead of {planned:?}");
        assert!(*gap <= ms(*planned) + SLACK, "too late: {gaps:?} instead of {planned:?}");
        late = gap.saturating_sub(ms(*planned));
    }
}

/// When each start was reported.
fn starts(running: &mut Running, count: usize) -> Vec<Instant> {
    (0..count).map(|_| running.expect(ERR, "started, pid ").at).collect()
}

// Restarts.

#[test]
fn a_long_run_is_followed_by_a_restart_at_once() {
    let mut running = start(&["-t", "0.3", "-m", "60", "--", "sh", "-c", "echo up; exec sleep 0.4"]);
    let times = starts(&mut running, 4);
    assert_gaps(&times, &[400, 400, 400]);
    let exited = running.expect(ERR, "exited: exit status 0, after ");
    assert!(exited.text.starts_with("childminder: [sh] "), "{exited:?}");
    running.expect(ERR, "[sh] restarting now");
    for _ in 0..3 {
        running.expect(OUT, "[sh] up");
    }
}

#[test]
fn instant_deaths_are_followed_by_growing_waits() {
    let mut running = start(&["sh", "-c", "exit 1"]);
    let mut times = starts(&mut running, 1);
    for wait in ["1 s", "2 s"] {
        running.expect(ERR, "exited: exit status 1, after 0.");
        running.expect(ERR, &format!("restarting in {wait}"));
        times.extend(starts(&mut running, 1));
    }
    assert_gaps(&times, &[1000, 2000]);
}

#[test]
fn the_waits_go_from_the_shortest_to_the_longest() {
    let mut running = start(&["-m", "0.1", "-M", "0.4", "sh", "-c", "exit 1"]);
    let times = starts(&mut running, 6);
    assert_gaps(&times, &[100, 200, 400, 400, 400]);
}

#[test]
fn a_grandchild_that_holds_the_pipes_delays_no_restart() {
    let scratch = Scratch::new("holder");
    let fifo = scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = r#"
        if [ -e "$0.again" ]; then echo again; exec sleep 1000; fi
        : > "$0.again"
        (read word < "$0"; echo "grandchild says $word") &
        echo parent; exec sleep 0.2
    "#;
    let mut running = start(&["-t", "0.1", "--", "sh", "-c", script, &fifo]);
    let exited = running.expect(ERR, "exited: exit status 0");
    let started = running.expect(ERR, "started, pid ");
    assert!(started.at - exited.at < SLACK, "{:?}", started.at - exited.at);
    running.expect(OUT, "[sh] again");
    // It still waits for this, so it cannot have ended before.
    fs::write(&fifo, "hello\n").unwrap();
    running.expect(OUT, "[sh] grandchild says hello");
}

// Stops.

/// Takes a child that ignores SIGTERM, and one of its own that does so too.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done";

#[test]
fn a_child_that_ignores_sigterm_is_killed_with_its_group() {
    let mark = format!("STUBBORN={}", std::process::id());
    let mut running = start(&["-k", "0.5", "--env", &mark, "sh", "-c", STUBBORN]);
    running.expect(OUT, "[sh] ready");
    assert!(eventually(|| marked(&mark).len() == 3), "{:?}", marked(&mark));
    let asked = now();
    running.signal("TERM");
    let (code, _, err) = running.finish();
    let took = now() - asked;
    assert_eq!(code, Some(0));
    assert!(took >= ms(500) && took < ms(500) + SLACK, "{took:?}");
    assert!(eventually(|| marked(&mark).is_empty()), "{:?}", marked(&mark));
    let words: Vec<_> = err.iter().filter_map(|line| line.strip_prefix("childminder: [sh] ")).collect();
    assert!(words[0].starts_with("started, pid "), "{words:?}");
    assert_eq!(words[1..3], ["terminating, SIGTERM sent", "killed, SIGKILL sent"]);
    assert!(words[3].starts_with("exited: signal 9 (SIGKILL), after "), "{words:?}");
    assert_eq!(words.len(), 4);
}

#[test]
fn a_second_signal_kills_at_once() {
    for second in ["TERM", "INT"] {
        let mut running = start(&["-k", "3600", "sh", "-c", STUBBORN]);
        running.expect(OUT, "[sh] ready");
        running.signal("TERM");
        running.expect(ERR, "terminating, SIGTERM sent");
        running.signal(second);
        running.expect(ERR, "killed, SIGKILL sent");
        assert_eq!(running.finish().0, Some(0));
    }
}

#[test]
fn sigint_stops_as_sigterm_does() {
    for signal in ["INT", "TERM"] {
        let mut running = start(&["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done"]);
        running.expect(OUT, "[sh] ready");
        running.signal(signal);
        running.expect(OUT, "[sh] bye");
        let (code, _, err) = running.finish();
        assert_eq!(code, Some(0), "whatever the child's code");
        assert!(err.last().unwrap().contains("exited: exit status 7"), "{err:?}");
    }
}

#[test]
fn a_stop_ends_a_wait() {
    let mut running = start(&["-m", "3000", "false"]);
    running.expect(ERR, "restarting in 3000 s");
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

#[test]
fn sighup_restarts() {
    // Not an instant death: it comes back at once, and again.
    let mut running = start(&["-m", "3000", "sh", "-c", "echo ready; exec sleep 1000"]);
    for _ in 0..3 {
        running.expect(OUT, "[sh] ready");
        running.signal("HUP");
        running.expect(ERR, "terminating, SIGTERM sent");
        running.expect(ERR, "exited: signal 15 (SIGTERM)");
        running.expect(ERR, "restarting now");
        running.expect(ERR, "started");
    }
}

#[test]
fn sighup_ends_a_wait() {
    let mut running = start(&["-m", "3000", "false"]);
    running.expect(ERR, "restarting in 3000 s");
    running.signal("HUP");
    running.expect(ERR, "started");
}

#[test]
fn a_stopped_child_can_be_stopped() {
    let mut running = start(&["-k", "3600", "sh", "-c", "echo ready; kill -STOP $$; sleep 1000"]);
    running.expect(OUT, "[sh] ready");
    running.signal("TERM");
    running.expect(ERR, "exited: signal 15 (SIGTERM)");
    assert_eq!(running.finish().0, Some(0));
}

// Output.

#[test]
fn a_megabyte_without_newline_comes_in_marked_pieces() {
    let script = r"head -c 1000000 /dev/zero | tr '\0' x; echo; echo end";
    let (code, out, _) = run(&["--restart", "never", "sh", "-c", script]);
    assert_eq!(code, Some(0));
    let (last, pieces) = out.split_last().unwrap();
    assert_eq!(last, "[sh] end");
    assert_eq!(pieces.len(), 62);
    let first = pieces[0].strip_prefix("[sh] ").unwrap().len();
    let others: usize = pieces[1..].iter().map(|piece| piece.strip_prefix("[sh+] ").unwrap().len()).sum();
    assert_eq!((first, first + others), (16384, 1_000_000));
}

#[test]
fn bytes_are_bytes() {
    let script = r"printf 'nul \000, bad \377\376, cr \r\n\n last'";
    let output = command(&["--restart", "never", "--name", "n", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.stdout.escape_ascii().to_string(), r"[n] nul \x00, bad \xff\xfe, cr \r\n[n] \n[n]  last\n");
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let (code, out, err) = run(&["--restart", "never", "sh", "-c", "echo good; echo bad >&2; printf tail >&2"]);
    assert_eq!(code, Some(0));
    assert_eq!(out, ["[sh] good"]);
    let words: Vec<_> = err.iter().filter(|line| !line.starts_with("childminder: ")).collect();
    assert_eq!(words, ["[sh] bad", "[sh] tail"]);
    assert!(err.last().unwrap().contains("exited: exit status 0"), "its end comes after its last words: {err:?}");
}

#[test]
fn a_hundred_megabytes_are_all_there_and_take_no_memory() {
    const LINE: &[u8] = b"[sh] y\n";
    let mut child = command(&["-t", "3600", "-m", "3000", "sh", "-c", "yes | head -c 100000000"]).spawn().unwrap();
    let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let pattern = LINE.repeat(10_000);
    let counter = thread::spawn(move || {
        let (mut total, mut buffer) = (0_usize, vec![0; pattern.len() / 2]);
        loop {
            let len = out.read(&mut buffer).unwrap();
            if len == 0 {
                return total;
            }
            let offset = total % LINE.len();
            assert!(buffer[..len] == pattern[offset..offset + len], "a wrong byte after {total}");
            total += len;
        }
    });
    let mut said = Vec::new();
    for line in BufReader::new(err).lines() {
        said.push(line.unwrap());
        if said.last().is_some_and(|line| line.contains("restarting in 3000 s")) {
            break;
        }
    }
    assert!(matches!(child.try_wait(), Ok(None)), "{:?}, having said {said:#?}", child.try_wait());
    let peak = peak_memory(child.id());
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(counter.join().unwrap(), 50_000_000 * LINE.len());
    assert!(peak < 16 * 1024, "{peak} kB");
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let mut child = command(&["-m", "0.01", "-M", "0.05", "sh", "-c", "echo a; echo b"]).spawn().unwrap();
    let first = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(first, "[sh] a");
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    for _ in 0..10 {
        assert!(said.any(|line| line.contains("exited: exit status 0")), "the child gets no SIGPIPE");
    }
    // Now nobody hears anything any more.
    drop(said);
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let mut seen = Vec::new();
    assert!(eventually(|| {
        let child = fs::read_to_string(&children).unwrap_or_default();
        if !child.is_empty() && !seen.contains(&child) {
            seen.push(child);
        }
        seen.len() > 5 || !Path::new(&children).exists()
    }));
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn a_full_device_ends_nothing() {
    let full = || OwnedFd::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut running =
        Running::of(command(&["-m", "0.01", "-M", "0.05", "echo", "lost"]).stdout(full()).stderr(Stdio::piped()));
    starts(&mut running, 5);
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));

    let status = command(&["--restart", "never", "sh", "-c", "exit 4"]).stdout(full()).stderr(full()).status();
    assert_eq!(status.unwrap().code(), Some(4));
}

#[test]
fn a_closed_stdout_ends_nothing() {
    let script = r#"exec "$0" run --restart never -- sh -c 'echo lost; ls /proc/self/fd >&2; exit 5' >&-"#;
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_childminder")]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{err}");
    assert_eq!(output.stdout, b"");
}

/// Starts it with a flooding child, and waits until nothing goes on any more.
fn flood(args: &[&str], redirect: &str, mark: &str) -> (Child, Option<ChildStdout>, Option<ChildStderr>) {
    let script = format!("trap '' TERM; exec yes {redirect}");
    let all = [args, &["--env", mark, "--", "sh", "-c", &script]].concat();
    let mut child = command(&all).spawn().unwrap();
    let pid = child.id();
    assert!(eventually(|| matches!(marked(mark)[..], [yes] if all_sleep(&[pid, yes]) && status(yes, "Name") == "yes")));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    (child, out, err)
}

#[test]
fn an_output_that_nobody_reads_keeps_nobody_from_stopping() {
    for redirect in ["", ">&2"] {
        let mark = format!("UNREAD={}{}", std::process::id(), redirect.len());
        let (mut child, _out, _err) = flood(&["-k", "0.3"], redirect, &mark);
        let asked = now();
        send("TERM", &child.id().to_string());
        assert!(eventually(|| marked(&mark).is_empty()));
        let took = now() - asked;
        assert!(took >= ms(295) && took < ms(300) + SLACK, "{took:?}");
        assert_eq!(wait(&mut child).code(), Some(0));
        let took = now() - asked;
        assert!(took < ms(1300) + SLACK, "its last words take a second at most: {took:?}");
    }
}

#[test]
fn an_output_that_nobody_reads_keeps_nobody_from_restarting() {
    let mark = format!("UNREAD_RESTART={}", std::process::id());
    let (mut child, _out, err) = flood(&["-k", "0.1"], "", &mark);
    send("HUP", &child.id().to_string());
    let mut said = BufReader::new(err.unwrap()).lines().map_while(Result::ok);
    for word in ["started", "terminating", "killed", "exited: signal 9", "restarting now", "started"] {
        let line = said.next().unwrap();
        assert!(line.contains(word), "{line} instead of {word}");
    }
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn who_was_told_to_end_does_not_wait_for_the_reader() {
    let mark = format!("UNREAD_NEVER={}", std::process::id());
    let (mut child, out, _err) = flood(&["--restart", "never"], "", &mark);
    let yes = marked(&mark)[0];
    send("KILL", &yes.to_string());
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    assert!(eventually(|| fs::read_to_string(&children).unwrap_or_default().is_empty()));
    assert!(child.try_wait().unwrap().is_none(), "as any filter, it waits for its reader");
    let asked = now();
    send("TERM", &child.id().to_string());
    assert_eq!(wait(&mut child).code(), Some(137), "its child's");
    assert!(now() - asked < ms(1000) + SLACK);
    drop(out);
}

#[test]
fn a_slow_reader_gets_whole_lines_to_the_end() {
    let mut child = command(&["--restart", "never", "seq", "100000"]).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    // The child is over, and what it wrote is in three places: its pipe, the command and our pipe.
    assert!(eventually(|| status(pid, "State").starts_with('S')));
    let mut numbers = 1..=100_000;
    let mut out = BufReader::with_capacity(512, child.stdout.take().unwrap());
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        assert_eq!(line, format!("[seq] {}\n", numbers.next().unwrap()));
        line.clear();
    }
    assert_eq!(numbers.next(), None);
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn a_log_at_its_size_limit_ends_nothing() {
    let scratch = Scratch::new("limit");
    let script = r#"ulimit -f 1; exec "$0" run --restart never -- sh -c 'seq 100000 2>/dev/null; exit 3' > "$1""#;
    let log = scratch.path("log");
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_childminder"), &log]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn who_was_told_to_end_still_reads_what_its_child_has_left() {
    let mut child = command(&["-t", "3600", "-m", "3000", "seq", "38000"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // Its last words are in its pipe, and there is no room for them yet.
    assert!(said.any(|line| line.contains("restarting in 3000 s")));
    send("TERM", &child.id().to_string());
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(out.ends_with("[seq] 38000\n"), "{} lines", out.lines().count());
    assert_eq!(wait(&mut child).code(), Some(0));
}

// Whoever starts it.

/// By a shell that does something else before.
fn start_after(before: &str, args: &[&str]) -> Running {
    let script = format!("{before}; exec \"$0\" run \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_childminder")]).args(args).stdin(Stdio::null());
    Running::of(shell.stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn an_ignored_hangup_stays_ignored_and_not_for_the_child() {
    let script = "trap 'echo hangup; exit' HUP; echo ready; kill -HUP $PPID $$; while :; do sleep 0.1; done";
    let mut running = start_after("trap '' HUP", &["-t", "0", "sh", "-c", script]);
    running.expect(OUT, "[sh] ready");
    running.expect(OUT, "[sh] hangup");
    running.expect(ERR, "exited: exit status 0");
    running.signal("TERM");
    let (code, _, err) = running.finish();
    assert_eq!(code, Some(0));
    assert_eq!(err.iter().filter(|line| line.contains("terminating")).count(), 1, "{err:?}");
}

#[test]
fn an_ignored_sigchld_hides_no_exit_status() {
    assert_eq!(start_after("trap '' CHLD", &["--restart", "never", "sh", "-c", "exit 3"]).finish().0, Some(3));
}

#[test]
fn a_blocked_sigterm_is_let_through() {
    let can = Command::new("env").args(["--block-signal=TERM", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return; // not GNU's
    }
    let mut env = Command::new("env");
    env.args(["--block-signal", env!("CARGO_BIN_EXE_childminder"), "run", "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut running = Running::of(env.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    running.expect(OUT, "[sh] ready");
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

// On a terminal.

struct Terminal {
    reactor: Reactor,
    process: ProcessId,
    said: String,
    code: Option<i32>,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let mut reactor = Reactor::new().unwrap();
        let mut command = childminder::Command::new(env!("CARGO_BIN_EXE_childminder"));
        command.arg("run").args(args).pty(Pty::new());
        let process = reactor.spawn_process(&command).unwrap();
        Self { reactor, process, said: String::new(), code: None }
    }

    fn pid(&mut self) -> u32 {
        self.reactor.process(self.process).and_then(|process| process.pid()).unwrap()
    }

    #[track_caller]
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = self.reactor.now() + WATCHDOG;
        while !done(self) {
            let left = end.saturating_duration_since(self.reactor.now());
            assert!(!left.is_zero(), "it said: {}", self.said);
            let (said, code) = (&mut self.said, &mut self.code);
            self.reactor
                .turn(Some(left), |_, event| match event {
                    Event::Data { data, .. } => said.push_str(&String::from_utf8_lossy(data)),
                    Event::Exited { exit, .. } => *code = exit.code().or(Some(-1)),
                    _ => {}
                })
                .unwrap();
        }
    }
}

#[test]
fn ctrl_c_at_the_terminal_is_for_the_command_alone() {
    let script = "trap 'echo interrupted' INT; trap 'echo asked; exit' TERM; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&["sh", "-c", script]);
    terminal.until(|terminal| terminal.said.contains("[sh] ready\r\n"));
    let mut process = terminal.reactor.process(terminal.process).unwrap();
    process.write(0, b"\x03").unwrap();
    terminal.until(|terminal| terminal.code.is_some());
    assert_eq!(terminal.code, Some(0));
    assert!(terminal.said.contains("[sh] asked\r\n"), "{}", terminal.said);
    assert!(!terminal.said.contains("interrupted"), "{}", terminal.said);
}

#[test]
fn a_terminal_that_stands_still_keeps_nobody_from_stopping() {
    let mark = format!("TERMINAL={}", std::process::id());
    // All lengths of line, so that the terminal's buffer is full at any place of one.
    let script = "trap '' TERM; exec yes 12345678901234567";
    let mut terminal = Terminal::start(&["-k", "0.3", "--env", &mark, "sh", "-c", script]);
    terminal.reactor.process(terminal.process).unwrap().pause_all();
    let pid = terminal.pid();
    assert!(eventually(
        || matches!(marked(&mark)[..], [yes] if all_sleep(&[pid, yes]) && status(yes, "Name") == "yes")
    ));
    send("TERM", &pid.to_string());
    assert!(eventually(|| marked(&mark).is_empty()), "it is stuck in {}", status(pid, "State"));
    terminal.until(|terminal| terminal.code.is_some());
    assert_eq!(terminal.code, Some(0));
}

// What cannot be started.

#[test]
fn what_cannot_be_started_is_said_with_the_reason_and_tried_again() {
    let scratch = Scratch::new("cannot");
    let plain = scratch.file("plain", "echo hello\n", 0o644);
    let orphan = scratch.file("orphan", "#!/no/such/interpreter\n", 0o755);
    let garbage = scratch.file("garbage", "\u{1}\u{2}\u{3}\n", 0o755);
    let directory = scratch.path("");
    let missing = scratch.path("missing");
    let cases: &[(&[&str], &str, i32)] = &[
        (&[&missing], "No such file", 127),
        (&["childminder-no-such-program"], "No such file", 127),
        (&[&directory], "it is a directory", 126),
        (&[&plain], "not executable", 126),
        (&[&orphan], "/no/such/interpreter", 127),
        (&[&garbage], "Exec format error", 126),
        (&["--cwd", &missing, "true"], "chdir", 125),
    ];
    for (args, reason, code) in cases {
        let with = |more: &[&'static str]| -> Vec<&str> { [more, args].concat() };
        let mut running = start(&with(&["-m", "0.05", "-M", "0.1"]));
        for wait in ["0.05 s", "0.1 s", "0.1 s"] {
            let said = running.expect(ERR, "could not start: ");
            assert!(said.text.contains(reason), "{said:?}");
            running.expect(ERR, &format!("restarting in {wait}"));
        }
        running.signal("TERM");
        assert_eq!(running.finish().0, Some(0), "{args:?}");

        let (ended, out, err) = run(&with(&["--restart", "never"]));
        assert_eq!((ended, out.len(), err.len()), (Some(*code), 0, 1), "{args:?}: {err:?}");
        if *code != 125 {
            assert_eq!(run(&with(&["--restart", "on-failure"])).0, Some(*code), "{args:?}");
        }
    }
}

#[test]
fn without_the_right_nobody_becomes_somebody_else() {
    let scratch = Scratch::new("user");
    let copy = scratch.path("childminder");
    fs::copy(env!("CARGO_BIN_EXE_childminder"), &copy).unwrap();
    let run = ["run", "-m", "0.05", "-M", "0.1", "--user", "root", "true"];
    let mut command = if is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", &copy]).args(run);
        setpriv
    } else {
        let mut plain = Command::new(&copy);
        plain.args(run);
        plain
    };
    let mut running = Running::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    for _ in 0..3 {
        let said = running.expect(ERR, "could not start: ");
        assert!(said.text.contains("Operation not permitted"), "{said:?}");
    }
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

#[test]
fn what_can_be_started_later_is() {
    let scratch = Scratch::new("later");
    let program = scratch.path("program");
    for restart in ["always", "on-failure"] {
        let cwd = scratch.path(restart);
        let mut running = start(&["-m", "0.05", "-M", "0.1", "--restart", restart, "--cwd", &cwd, "sh", "-c", "pwd"]);
        running.expect(ERR, "could not start: ");
        fs::create_dir(&cwd).unwrap();
        running.expect(OUT, &format!("[sh] {cwd}"));
    }
    let mut running = start(&["-m", "0.05", "-M", "0.1", &program]);
    running.expect(ERR, "could not start: ");
    fs::rename(scratch.file("made", "#!/bin/sh\necho here\n", 0o755), &program).unwrap();
    running.expect(OUT, "[program] here");
}

// How it ends.

#[test]
fn with_never_the_command_ends_as_its_child() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        assert_eq!(run(&["--restart", "never", "sh", "-c", script]).0, Some(code), "{script}");
    }
}

#[test]
fn with_on_failure_the_command_ends_with_its_childs_success() {
    let scratch = Scratch::new("failure");
    let count = scratch.path("count");
    let script = r#"echo x >> "$0"; [ $(wc -l < "$0") -ge 3 ]"#;
    let (code, _, err) = run(&["-m", "0.05", "--restart", "on-failure", "sh", "-c", script, &count]);
    assert_eq!(code, Some(0));
    assert_eq!(err.iter().filter(|line| line.contains("started, pid")).count(), 3, "{err:?}");
}

#[test]
fn with_on_failure_what_is_not_there_is_not_announced_again() {
    let (code, _, err) = run(&["--restart", "on-failure", "/no/such/program"]);
    assert_eq!(code, Some(127));
    assert_eq!(err.len(), 1, "{err:?}");
    assert!(err[0].contains("could not start"), "{err:?}");
}

#[test]
fn the_command_ends_with_its_child_whoever_holds_the_pipes() {
    let mark = format!("HOLDS={}", std::process::id());
    let script = "sleep 1000 & echo done; exit 6";
    let (code, out, _) = run(&["--restart", "never", "--env", &mark, "sh", "-c", script]);
    assert_eq!((code, &out[..]), (Some(6), &["[sh] done".to_owned()][..]));
    for pid in marked(&mark) {
        send("KILL", &pid.to_string());
    }
}

#[test]
fn all_that_the_child_wrote_is_there_when_the_command_ends() {
    let (code, out, _) = run(&["--restart", "never", "seq", "200000"]);
    assert_eq!(code, Some(0));
    assert_eq!(out.len(), 200_000);
    assert!(out.iter().zip(1..).all(|(line, number)| *line == format!("[seq] {number}")));
}

#[test]
fn a_restart_by_sighup_is_no_end() {
    let mut running = start(&["--restart", "never", "sh", "-c", "echo ready; exec sleep 1000"]);
    running.expect(OUT, "ready");
    running.signal("HUP");
    running.expect(OUT, "ready");
    running.signal("TERM");
    assert_eq!(running.finish().0, Some(0));
}

// The command line.

#[test]
fn a_mistake_in_the_command_line_is_one_clear_line() {
    let scratch = Scratch::new("usage");
    let trace = scratch.path("trace");
    let touch = ["touch", trace.as_str()];
    let delays = ["-1", "-0.5", "nan", "NaN", "inf", "-inf", "infinity", "1e400", "", "abc", "1s", "0x1", "1,5"];
    let mut mistakes: Vec<(Vec<&str>, &str)> = Vec::new();
    for option in ["-t", "-k", "-m", "-M", "--threshold", "--killtime", "--minrestartdelay", "--maxrestartdelay"] {
        mistakes.extend(delays.iter().map(|delay| (vec![option, delay], "seconds")));
    }
    let others: &[(&[&str], &str)] = &[
        (&["-t-1"], "--threshold"),
        (&["--killtime=-1"], "--killtime"),
        (&["-m", "2", "-M", "1"], "--minrestartdelay 2s is above --maxrestartdelay 1s"),
        (&["-m", "0", "-M", "0.001"], "--maxrestartdelay 1ms is too short"),
        (&["--name", ""], "NAME"),
        (&["--name="], "NAME"),
        (&["--name", "a\nb"], "NAME"),
        (&["--user", "childminder-no-such-user"], "no user `childminder-no-such-user`"),
        (&["--user", "root:childminder-no-such-group"], "no group `childminder-no-such-group`"),
        (&["--user", "4000000"], "4000000"),
        (&["--user", "4294967295:0"], "4294967295"),
        (&["--user", ""], "no user"),
        (&["--user", ":root"], "no user"),
        (&["--user", "root:"], "no group"),
        (&["--env", "NOVALUE"], "KEY=VALUE"),
        (&["--env", "=value"], "KEY=VALUE"),
        (&["--restart", "sometimes"], "sometimes"),
        (&["--clear-env=yes"], "--clear-env"),
        (&["--nonsense"], "--nonsense"),
        (&["--non\nsense"], "--non"),
        (&["-x"], "-x"),
        (&["-c"], "try --help"),
    ];
    mistakes.extend(others.iter().map(|(args, word)| (args.to_vec(), *word)));
    for (args, word) in mistakes {
        let (code, out, err) = run(&[&args[..], &touch].concat());
        assert_eq!((code, out.len(), err.len()), (Some(2), 0, 1), "{args:?}: {err:?}");
        assert!(err[0].starts_with("childminder: ") && err[0].contains(word), "{args:?}: {err:?}");
    }
    for args in [&["-t"][..], &["--env"], &["--user"], &[], &["--"], &["-t", "1"], &[""]] {
        let (code, _, err) = run(args);
        assert_eq!((code, err.len()), (Some(2), 1), "{args:?}: {err:?}");
    }
    assert!(!Path::new(&trace).exists(), "something was started");
}

#[test]
fn options_may_be_written_in_all_ways() {
    for options in [
        &["-t0.5", "-k0.5", "-m0.5", "-M0.5"][..],
        &["-t=0.5", "-k=0.5", "-m=0.5", "-M=0.5"],
        &["-t", "0", "-k", "1e-3", "-m", ".5", "-M", "1."],
        &["--threshold=1", "--killtime", "0", "--minrestartdelay=0", "--maxrestartdelay", "86400"],
        &["-M", "1e9", "-k", "1e12", "-t", "1e18"],
    ] {
        let (code, out, err) = run(&[options, &["--restart=never", "--", "echo", "fine"]].concat());
        assert_eq!((code, &out[..]), (Some(0), &["[echo] fine".to_owned()][..]), "{options:?}: {err:?}");
    }
}

#[test]
fn options_end_at_the_command() {
    for (args, said) in [
        (&["echo", "-t", "--name", "x", "--", "-c"][..], "[echo] -t --name x -- -c"),
        (&["--", "echo", "--", "-t"], "[echo] -- -t"),
        (&["--name", "my name", "echo", "--name"], "[my name] --name"),
        (&["/bin/echo", "by path"], "[echo] by path"),
        (&["sh", "-c", "echo $0", "-k"], "[sh] -k"),
    ] {
        let (code, out, err) = run(&[&["--restart", "never"], args].concat());
        assert_eq!((code, &out[..]), (Some(0), &[said.to_owned()][..]), "{args:?}: {err:?}");
    }
}

#[test]
fn help_and_version_are_answered_on_stdout() {
    for args in [&["--help"][..], &["-h"], &["run", "--help"], &["run", "-h"], &["run", "-t", "1", "--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_childminder")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("usage: childminder run "), "{args:?}");
        assert_eq!(output.stderr, b"", "{args:?}");
    }
    for arg in ["--version", "-V"] {
        let output = Command::new(env!("CARGO_BIN_EXE_childminder")).arg(arg).output().unwrap();
        assert_eq!(output.stdout, format!("childminder {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    }
}

// What the child gets.

#[test]
fn the_environment_is_added_to_or_made_anew() {
    let said = |args: &[&str]| {
        let mut command = command(&[&["--restart", "never"], args, &["--", "/usr/bin/env"]].concat());
        let output = command.env("INHERITED", "1").output().unwrap();
        let mut lines: Vec<_> = output.stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    let added = said(&["--env", "A=1", "--env", "B=x=y", "--env", "INHERITED=2", "--env", "E="]);
    for line in ["[env] A=1", "[env] B=x=y", "[env] INHERITED=2", "[env] E="] {
        assert!(added.contains(&line.into()), "{line}");
    }
    assert!(said(&[]).contains(&b"[env] INHERITED=1".to_vec()));
    assert_eq!(said(&["--env", "A=1", "--clear-env"]), [b"".to_vec(), b"[env] A=1".to_vec()]);
}

#[test]
fn a_variable_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = command(&["--restart", "never", "--env"]);
    command.arg(std::ffi::OsStr::from_bytes(b"RAW=\xff")).args(["sh", "-c", "printf '%s' \"$RAW\""]);
    let output = command.output().unwrap();
    assert_eq!(output.stdout, b"[sh] \xff\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_program_is_found_without_a_path() {
    assert_eq!(run(&["--restart", "never", "--clear-env", "true"]).0, Some(0));
}

#[test]
fn the_child_has_no_stdin_and_nothing_else_of_ours() {
    let mut command = command(&["--restart", "never", "sh", "-c", "readlink /proc/$$/fd/0; ls -x /proc/$$/fd; wc -c"]);
    let output = command.stdin(Stdio::piped()).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(out, "[sh] /dev/null\n[sh] 0  1  2\n[sh] 0\n");
}

#[test]
fn the_directory_is_the_childs() {
    let (_, out, _) = run(&["--restart", "never", "--cwd", "/", "sh", "-c", "pwd"]);
    assert_eq!(out, ["[sh] /"]);
}

#[test]
fn the_user_is_the_childs() {
    if !is_root() {
        return;
    }
    for (user, said) in [
        ("nobody", "65534:65534:65534"),
        ("65534", "65534:65534:65534"),
        ("nobody:root", "65534:0:0 65534"),
        ("65534:0", "65534:0:0 65534"),
        ("4000000:4000001", "4000000:4000001:4000001"),
    ] {
        let (code, out, err) =
            run(&["--restart", "never", "--user", user, "sh", "-c", "echo $(id -u):$(id -g):$(id -G)"]);
        assert_eq!((code, &out[..]), (Some(0), &[format!("[sh] {said}")][..]), "{user}: {err:?}");
    }
}
