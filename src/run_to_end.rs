//! One blocking call: run a command, feed it, collect what it says, and come back with how it ended.
//!
//! A layer over a reactor of its own, for harnesses and scripts; a host that has a reactor uses that. The one rule: it comes
//! back in bounded time after the process's exit or the time-out, whoever else holds its pipes.

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

/// What is kept of each output, unless said otherwise.
const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;
/// From SIGTERM to SIGKILL: Twisted's figure.
const KILL_TIME: Duration = Duration::from_secs(5);
/// How long others may go on writing after the exit.
const DRAIN_TIME: Duration = Duration::from_millis(20);
/// The same where the whole group was killed, and only needs to be given the time to die.
const KILLED_DRAIN_TIME: Duration = Duration::from_secs(1);
/// How often a kill is tried again that was refused.
const POLL: Duration = Duration::from_millis(10);
/// The most that a pipe of ours can hold: what is behind that was written after the exit.
const PIPE: u64 = 1024 * 1024;

/// Runs a command to its end, and collects its outputs: the whole life of a process in one call that blocks.
///
/// | | unless said otherwise |
/// | --- | --- |
/// | input | none: end of file at once, or what the command says of stdin |
/// | output that is kept | 16 MiB each of stdout and stderr; the rest is read, counted and dropped |
/// | time-out | none |
/// | from SIGTERM to SIGKILL | 5 s |
/// | wait for others' output after the exit | 20 ms |
///
/// What a program has printed when it exits is always returned (up to the limit). If somebody else then still holds its pipes,
/// such as a daemon that it has started, they get a moment to close them and are left to themselves: see
/// [`Output::pipes_left_open`].
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

/// How a command ended, and what it said: see [`RunToEnd::run`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended, and what it used.
    pub exit: Exit,
    /// What it wrote to stdout, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, up to the limit.
    pub stderr: Vec<u8>,
    /// How many bytes of stdout came after the limit was reached, and were dropped.
    pub stdout_dropped: u64,
    /// How many bytes of stderr came after the limit was reached, and were dropped.
    pub stderr_dropped: u64,
    /// The time was up before it exited: it was asked to end, and killed if it did not.
    pub timed_out: bool,
    /// Who is left of all that it has started. After a time-out that is nobody, but for those who were still there two seconds
    /// after SIGKILL; after an exit in time they were left alone.
    pub remains: Remains,
    /// Somebody else still held its pipes when we stopped reading, so not all that was written may be here. All that the
    /// process itself wrote is.
    pub pipes_left_open: bool,
}

impl<'a> RunToEnd<'a> {
    /// Will run `command`.
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

    /// What the process reads from stdin, whatever the command says of that: bytes, a file, anything that can be read. It is
    /// read as the process takes it, so it can be of any size. A source that blocks holds up everything, the time-out too.
    ///
    /// On a pseudo-terminal, where nothing can be closed, the end of the input is what the terminal takes for it (Ctrl-D).
    pub fn input(mut self, input: impl Read + 'a) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// How many bytes of stdout, and as many of stderr, are kept.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// How long it may run. Then its whole [tree](crate::Tree) gets SIGTERM and SIGCONT, and SIGKILL after the
    /// [`kill_time`](Self::kill_time). What the tree is the command says: see [`Command::contain`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long its tree has, after the time-out, to end by itself.
    pub fn kill_time(mut self, time: Duration) -> Self {
        self.kill_time = time;
        self
    }

    /// How long others that hold its pipes may go on writing after it has exited; at least 1 s after a time-out, where they have been
    /// killed if they were of its tree.
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// How it is started and reaped, as in [`Reactor::with_methods`]; the defaults are the best that the system has.
    pub fn methods(mut self, spawn: SpawnMethod, reap: ReapMethod) -> Self {
        self.methods = (spawn, reap);
        self
    }

    /// Runs it, and blocks until it has exited; after a time-out until its whole tree is gone, at most for two seconds after SIGKILL.
    ///
    /// Ctrl-C, SIGTERM, SIGQUIT and SIGHUP do not leave the process to itself. Those of them that would end
    /// this program are watched for the length of the call. When one comes, the tree gets SIGTERM
    /// and SIGCONT, and SIGKILL after the [`kill_time`](Self::kill_time) or at a second signal. Then this
    /// program ends as the signal has it. Signals that the program handles, ignores or blocks are its own
    /// business.
    ///
    /// A time-out is no error: the output says so, and [`Exit::requested`] which signal was sent last. Output at
    /// other descriptors than 1 and 2 is read and dropped. What is left of the tree after a time-out is killed, what is left
    /// after an exit in time is left alone: see [`Output::remains`].
    ///
    /// # Errors
    ///
    /// [`RunError::Spawn`] if it could not be started, [`RunError::Input`] if the input could not be read, [`RunError::Wait`] if
    /// the system refused what is needed to wait, [`RunError::Interrupted`] if a signal ended it, and this
    /// program goes on since another part of it handles the signal, [`RunError::StillRunning`] if it is still there
    /// two seconds after it was killed.
    pub fn run(mut self) -> Result<Output, RunError> {
        let (spawn, reap) = self.methods;
        let mut reactor = Reactor::with_methods(spawn, reap).map_err(RunError::Wait)?;
        let signals = that_end_program(ENDING.into());
        let result = reactor.watch(&signals).map_err(RunError::Wait).and_then(|()| self.run_on(&mut reactor));
        // Also after an error. What has come too late for the process is still meant for this program.
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

/// A run under way.
struct Run<'a> {
    process: ProcessId,
    feed: Feed<ReadProducer<Box<dyn Read + 'a>>>,
    input_error: Option<io::Error>,
    output_limit: usize,
    stdout: Capture,
    stderr: Capture,
    /// How many bytes came after the exit.
    late: u64,
    time_out: Option<TimerId>,
    kill_time: Duration,
    kill: Option<TimerId>,
    /// While others may go on writing.
    drained: Option<TimerId>,
    timed_out: bool,
    requests: Requests,
    /// The signal that asked this program to end.
    interrupted: Option<i32>,
    /// It was killed, and has so long to go.
    last_moment: Option<Instant>,
    /// Why it could not be killed.
    refusal: Option<io::Error>,
    /// The last of its tree is gone, and whether that is certain.
    gone: Option<bool>,
    exit: Option<Exit>,
    ended: bool,
    patience: Patience,
}

/// An output, as far as it is kept.
#[derive(Default)]
struct Capture {
    kept: Vec<u8>,
    dropped: u64,
}

impl<'a> Run<'a> {
    /// How it has exited; `None` if it could not be killed.
    fn finish(
        &mut self,
        reactor: &mut Reactor,
        input: Box<dyn Read + 'a>,
        drain_time: Duration,
    ) -> io::Result<Option<Exit>> {
        // The first and only one.
        let _ = self.feed.register_producer(reactor, ReadProducer::new(input));
        while self.exit.is_none() {
            let time_left = self.last_moment.map(|at| at.saturating_duration_since(reactor.now()));
            if time_left == Some(Duration::ZERO) {
                return Ok(None);
            }
            if self.refusal.is_some() {
                // It may have been refused by chance.
                self.kill_tree(reactor);
            }
            let pause = self.refusal.as_ref().map(|_| POLL);
            self.turn(reactor, time_left.into_iter().chain(pause).min())?;
        }
        self.end_tree(reactor)?;
        self.drain(reactor, drain_time)?;
        Ok(self.exit)
    }

    /// After a time-out, the rest of the tree has what is left of the kill time. What does not go when it is killed is not waited
    /// for without end.
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

    /// Reads what is left in the pipes, and for a moment what others still write to them.
    fn drain(&mut self, reactor: &mut Reactor, drain_time: Duration) -> io::Result<()> {
        let killed = self.was_stopped() || self.last_moment.is_some();
        self.drained = Some(reactor.call_later(if killed { drain_time.max(KILLED_DRAIN_TIME) } else { drain_time }));
        while !self.ended && self.drained.is_some() {
            self.turn(reactor, None)?;
        }
        // However late we are ourselves, what the process has written is there, and before all that others wrote since.
        // A turn reads from each pipe its share, so none is forgotten for the sake of one that never runs dry.
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

    /// Whether it was asked to end.
    fn was_stopped(&self) -> bool {
        self.timed_out || self.interrupted.is_some()
    }

    fn stop(&mut self, reactor: &mut Reactor) {
        if let Some(mut tree) = reactor.tree(self.process) {
            // An error says that it has just exited, or that some of it are another user's, who is killed later.
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
