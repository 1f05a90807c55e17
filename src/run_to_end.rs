//! One blocking call that runs a command, feeds it, collects its output and returns how it ended.
//!
//! It is a layer over a reactor of its own, for harnesses and scripts. It is not for a host that
//! has a reactor. The one rule: the call returns in bounded time after the exit of the process or
//! the time-out, even if other processes still hold its pipes.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::command::Command;
use crate::contain::{LAST_WAIT, Remains};
use crate::error::{RunError, SignalError};
use crate::exit::Exit;
use crate::job_control::{ENDING, Request, Requests};
use crate::process::ProcessId;
use crate::producer::{Feed, ReadProducer};
use crate::reactor::timers::TimerId;
use crate::reactor::{Event, Patience, Reactor, ReapMethod, end_program, that_end_program};
use crate::stdio::Stdio;
use crate::sys::spawn::SpawnMethod;

/// The default limit of what is kept of each output, in bytes.
const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;
/// The default time from SIGTERM to SIGKILL, which is Twisted's.
const KILL_TIME: Duration = Duration::from_secs(5);
/// The default time for which other processes may go on writing after the exit.
const DRAIN_TIME: Duration = Duration::from_millis(20);
/// The minimum of that time when the whole tree was killed and only needs the time to exit.
const KILLED_DRAIN_TIME: Duration = Duration::from_secs(1);
/// The pause before a kill that was refused is tried again.
const POLL: Duration = Duration::from_millis(10);
/// The most that a pipe of ours can hold, in bytes. What comes after that was written after the
/// exit.
const PIPE: u64 = 1024 * 1024;

/// Runs a command to its end in one blocking call, and collects its output.
///
/// | | default |
/// | --- | --- |
/// | input | none: end of file at once, or the stdin that the command sets |
/// | output that is kept | 16 MiB each of stdout and stderr; the rest is read, counted and dropped |
/// | time-out | none |
/// | from SIGTERM to SIGKILL | 5 s |
/// | wait for the output of other processes after the exit | 20 ms |
///
/// What a program has printed when it exits is always returned (up to the limit). If other
/// processes still hold its pipes then, such as a daemon that it started, they get a moment to
/// close them and are left running: see [`Output::pipes_left_open`].
///
/// ```
/// use childminder::{Command, RunToEnd};
/// use std::time::Duration;
///
/// let output = RunToEnd::new(Command::new("sort").arg("-n"))
///     .input("30\n4\n".as_bytes())
///     .timeout(Duration::from_secs(10))
///     .run()?;
/// assert!(output.exit.success());
/// assert_eq!(output.stdout, b"4\n30\n");
/// println!("{:?} of CPU, {} bytes at most", output.exit.usage.cpu_time(), output.exit.usage.max_rss);
/// # Ok::<(), childminder::RunError>(())
/// ```
#[must_use = "nothing runs before `run`"]
pub struct RunToEnd<'a> {
    command: &'a Command,
    input: Option<Box<dyn Read + 'a>>,
    output_limit: usize,
    timeout: Option<Duration>,
    kill_time: Duration,
    drain_time: Duration,
    methods: (SpawnMethod, ReapMethod),
}

/// The result of a command that has ended: see [`RunToEnd::run`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Output {
    /// The exit status, and the resources that the process used.
    pub exit: Exit,
    /// What it wrote to stdout, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, up to the limit.
    pub stderr: Vec<u8>,
    /// The number of bytes of stdout that came after the limit was reached and were dropped.
    pub stdout_dropped: u64,
    /// The number of bytes of stderr that came after the limit was reached and were dropped.
    pub stderr_dropped: u64,
    /// Whether the time was up before it exited. It was then asked to end, and killed if it did
    /// not.
    pub timed_out: bool,
    /// What remains of its tree. After a time-out, that is only processes that still existed two
    /// seconds after SIGKILL. After an exit in time, leftover processes are not signalled.
    pub remains: Remains,
    /// Whether other processes still held its pipes when reading stopped. Some of their output may
    /// then be missing. The output of the process itself is complete.
    pub pipes_left_open: bool,
}

impl<'a> RunToEnd<'a> {
    /// Prepares a run of `command`.
    pub fn new(command: &'a Command) -> Self {
        Self {
            command,
            input: None,
            output_limit: OUTPUT_LIMIT,
            timeout: None,
            kill_time: KILL_TIME,
            drain_time: DRAIN_TIME,
            methods: Default::default(),
        }
    }

    /// Sets what the process reads from stdin: bytes, a file, or anything else that can be read. It
    /// replaces the stdin that the command sets.
    ///
    /// The input is read as the process takes it, so it can be of any size. A source that blocks
    /// holds up everything, including the time-out. A pseudo-terminal cannot be closed, so there
    /// the input ends with the terminal's end-of-file character (Ctrl-D).
    pub fn input(mut self, input: impl Read + 'a) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// Sets how many bytes of stdout, and as many of stderr, are kept.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Sets how long the process may run. After that its whole [tree](crate::Tree) gets SIGTERM and
    /// SIGCONT, and SIGKILL after the [`kill_time`](Self::kill_time). The command determines what
    /// its tree is: see [`Command::contain`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how long its tree has to exit on its own after the time-out.
    pub fn kill_time(mut self, time: Duration) -> Self {
        self.kill_time = time;
        self
    }

    /// Sets how long other processes that hold its pipes may go on writing after it has exited.
    /// After a time-out this is at least 1 s, and those in its tree have been killed by then.
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// Sets how the process is started and reaped, as in [`Reactor::with_methods`]. The defaults
    /// are the best methods that the system has.
    pub fn methods(mut self, spawn: SpawnMethod, reap: ReapMethod) -> Self {
        self.methods = (spawn, reap);
        self
    }

    /// Runs the command, and blocks until it has exited. After a time-out, it blocks until the
    /// whole tree is gone, but at most for two seconds after SIGKILL.
    ///
    /// Ctrl-C, SIGTERM, SIGQUIT and SIGHUP do not leave the process running without this program.
    /// The call watches those of these signals that would end this program. When one arrives, the
    /// tree gets SIGTERM and SIGCONT, and SIGKILL after the [`kill_time`](Self::kill_time) or at a
    /// second signal. Then the signal ends this program. Signals that the program handles, ignores
    /// or blocks are left to it.
    ///
    /// A time-out is not an error: the output reports it, and [`Exit::requested`] holds the signal
    /// that was sent last. Output at descriptors other than 1 and 2 is read and dropped. What
    /// remains of the tree is killed after a time-out, and is left running after an exit in time:
    /// see [`Output::remains`].
    ///
    /// # Errors
    ///
    /// - [`RunError::Spawn`] if the command could not be started.
    /// - [`RunError::Input`] if the input could not be read.
    /// - [`RunError::Wait`] if the system refused what is needed to wait.
    /// - [`RunError::Interrupted`] if a signal ended the run, and this program goes on because
    ///   another part of it handles the signal.
    /// - [`RunError::StillRunning`] if the process still exists two seconds after it was killed.
    pub fn run(mut self) -> Result<Output, RunError> {
        let (spawn, reap) = self.methods;
        let mut reactor = Reactor::with_methods(spawn, reap).map_err(RunError::Wait)?;
        let signals = that_end_program(ENDING.into());
        let result = reactor.watch(&signals).map_err(RunError::Wait).and_then(|()| self.run_on(&mut reactor));
        // The signals are released after an error, too. A signal that came too late for the process
        // is still meant for this program.
        let late = reactor.release_signals(&signals);
        let interrupted = match &result {
            Err(RunError::Interrupted { signal }) => Some(*signal),
            _ => late.first().copied(),
        };
        drop(reactor);
        if let Some(signal) = interrupted {
            end_program(signal);
            return Err(RunError::Interrupted { signal });
        }
        result
    }

    fn run_on(&mut self, reactor: &mut Reactor) -> Result<Output, RunError> {
        let mut command = self.command.clone();
        if self.input.is_some() && command.parts().attributes().pty.is_none() {
            command.stdin(Stdio::piped());
        }
        let process = reactor.spawn_process(&command)?;
        let mut run = Run {
            process,
            feed: Feed::new(process, 0),
            input_error: None,
            output_limit: self.output_limit,
            stdout: Capture::default(),
            stderr: Capture::default(),
            late: 0,
            time_out: self.timeout.map(|timeout| reactor.call_later(timeout)),
            kill_time: self.kill_time,
            kill: None,
            drained: None,
            timed_out: false,
            requests: Requests::default(),
            interrupted: None,
            last_moment: None,
            refusal: None,
            gone: None,
            exit: None,
            ended: false,
            patience: Patience::default(),
        };
        let input = self.input.take().unwrap_or_else(|| Box::new(io::empty()));
        let result = run.finish(reactor, input, self.drain_time);
        if result.is_err() {
            run.kill_tree(reactor);
        }
        if let Some(signal) = run.interrupted {
            return Err(RunError::Interrupted { signal });
        }
        let Some(exit) = result.map_err(RunError::Wait)? else {
            let pid = reactor.process(process).and_then(|process| process.pid()).unwrap_or_default();
            return Err(RunError::StillRunning { pid, refusal: run.refusal });
        };
        if let Some(error) = run.input_error {
            return Err(RunError::Input(error));
        }
        let remains = run.remains(reactor);
        Ok(Output {
            exit,
            stdout: run.stdout.kept,
            stderr: run.stderr.kept,
            stdout_dropped: run.stdout.dropped,
            stderr_dropped: run.stderr.dropped,
            timed_out: run.timed_out,
            remains,
            pipes_left_open: !run.ended,
        })
    }
}

impl fmt::Debug for RunToEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToEnd")
            .field("command", self.command)
            .field("output_limit", &self.output_limit)
            .field("timeout", &self.timeout)
            .field("kill_time", &self.kill_time)
            .field("drain_time", &self.drain_time)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// A run that is in progress.
struct Run<'a> {
    process: ProcessId,
    feed: Feed<ReadProducer<Box<dyn Read + 'a>>>,
    input_error: Option<io::Error>,
    output_limit: usize,
    stdout: Capture,
    stderr: Capture,
    /// The number of bytes that came after the exit.
    late: u64,
    time_out: Option<TimerId>,
    kill_time: Duration,
    kill: Option<TimerId>,
    /// The timer until which other processes may go on writing.
    drained: Option<TimerId>,
    timed_out: bool,
    requests: Requests,
    /// The signal that asked this program to end.
    interrupted: Option<i32>,
    /// The time until which a killed process may take to exit.
    last_moment: Option<Instant>,
    /// The reason why it could not be killed.
    refusal: Option<io::Error>,
    /// Set when its tree is gone, to whether that is certain.
    gone: Option<bool>,
    exit: Option<Exit>,
    ended: bool,
    patience: Patience,
}

/// The kept part of one output.
#[derive(Default)]
struct Capture {
    kept: Vec<u8>,
    dropped: u64,
}

impl<'a> Run<'a> {
    /// Waits for the exit, and returns it. It returns `None` if the process could not be killed.
    fn finish(
        &mut self,
        reactor: &mut Reactor,
        input: Box<dyn Read + 'a>,
        drain_time: Duration,
    ) -> io::Result<Option<Exit>> {
        // This cannot fail, because the feed has no other producer.
        let _ = self.feed.register_producer(reactor, ReadProducer::new(input));
        while self.exit.is_none() {
            let time_left = self.last_moment.map(|at| at.saturating_duration_since(reactor.now()));
            if time_left == Some(Duration::ZERO) {
                return Ok(None);
            }
            if self.refusal.is_some() {
                // The refusal may have been temporary.
                self.kill_tree(reactor);
            }
            let pause = self.refusal.as_ref().map(|_| POLL);
            self.turn(reactor, time_left.into_iter().chain(pause).min())?;
        }
        self.end_tree(reactor)?;
        self.drain(reactor, drain_time)?;
        Ok(self.exit)
    }

    /// Waits for the rest of the tree after a time-out. The tree has the rest of the kill time, and
    /// the wait for killed processes is bounded.
    fn end_tree(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        while (self.was_stopped() || self.last_moment.is_some()) && self.gone.is_none() {
            let time_left = self.last_moment.map(|at| at.saturating_duration_since(reactor.now()));
            if time_left == Some(Duration::ZERO) {
                break;
            }
            self.turn(reactor, time_left)?;
        }
        Ok(())
    }

    fn remains(&self, reactor: &mut Reactor) -> Remains {
        match (self.gone, reactor.tree(self.process)) {
            (Some(false), _) => Remains::Unknown,
            (Some(true), _) | (None, None) => Remains::Nobody,
            (None, Some(mut tree)) => tree.members(),
        }
    }

    /// Reads what is left in the pipes, and for a moment what other processes still write to them.
    fn drain(&mut self, reactor: &mut Reactor, drain_time: Duration) -> io::Result<()> {
        let killed = self.was_stopped() || self.last_moment.is_some();
        self.drained = Some(reactor.call_later(if killed { drain_time.max(KILLED_DRAIN_TIME) } else { drain_time }));
        while !self.ended && self.drained.is_some() {
            self.turn(reactor, None)?;
        }
        // Even if this program runs late, the output of the process is in the pipe, before all that
        // other processes have written since. A turn reads a share of each pipe, so a pipe that
        // never runs dry does not keep the others from being read.
        let mut before = None;
        while !self.ended && before != Some(self.late) && self.late < 2 * PIPE {
            before = Some(self.late);
            self.turn(reactor, Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn turn(&mut self, reactor: &mut Reactor, timeout: Option<Duration>) -> io::Result<()> {
        let mut patience = std::mem::take(&mut self.patience);
        let turned = reactor.turn_patiently(&mut patience, timeout, &mut |reactor, event| self.handle(reactor, &event));
        self.patience = patience;
        turned?;
        if let Some(error) = self.feed.producer_mut().and_then(ReadProducer::take_error) {
            self.input_error = Some(error);
            self.kill_tree(reactor);
        }
        Ok(())
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) {
        if self.feed.handle(reactor, event) {
            return;
        }
        match *event {
            Event::Data { fd, data, .. } => self.collect(fd, data),
            Event::Exited { exit, .. } => self.exit = Some(*exit),
            Event::TreeGone { certain, .. } => self.gone = Some(certain),
            Event::Ended { .. } => self.ended = true,
            Event::Timer(id) if Some(id) == self.time_out && self.exit.is_none() => {
                self.timed_out = true;
                self.stop(reactor);
            }
            Event::Signal(signal) => match self.requests.hear(reactor.now()) {
                Some(Request::Stop) => {
                    self.interrupted = Some(signal);
                    self.stop(reactor);
                }
                Some(Request::Kill) => self.kill_tree(reactor),
                None => {}
            },
            Event::Timer(id) if Some(id) == self.kill => self.kill_tree(reactor),
            Event::Timer(id) if Some(id) == self.drained => self.drained = None,
            _ => {}
        }
    }

    fn collect(&mut self, fd: i32, data: &[u8]) {
        if self.exit.is_some() {
            self.late += data.len() as u64;
        }
        let capture = match fd {
            1 => &mut self.stdout,
            2 => &mut self.stderr,
            _ => return,
        };
        let room = self.output_limit - capture.kept.len();
        let kept = data.len().min(room);
        capture.kept.extend_from_slice(&data[..kept]);
        capture.dropped += (data.len() - kept) as u64;
    }

    /// Whether the process was asked to end.
    fn was_stopped(&self) -> bool {
        self.timed_out || self.interrupted.is_some()
    }

    fn stop(&mut self, reactor: &mut Reactor) {
        if let Some(mut tree) = reactor.tree(self.process) {
            // An error means that the process has just exited, or that a part of the tree belongs
            // to another user. That part is killed later.
            let _ = tree.terminate(libc::SIGTERM);
        }
        self.kill.get_or_insert_with(|| reactor.call_later(self.kill_time));
    }

    fn kill_tree(&mut self, reactor: &mut Reactor) {
        self.last_moment.get_or_insert(reactor.now() + LAST_WAIT);
        if let Some(mut tree) = reactor.tree(self.process) {
            self.refusal = match tree.kill() {
                Err(SignalError::Os(error)) => Some(error),
                Err(SignalError::AlreadyExited) | Ok(()) => None,
            };
        }
    }
}
