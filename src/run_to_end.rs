//! One blocking call that runs a command, feeds it, collects its output and returns how it ended.
//!
//! It is a layer over a reactor of its own, for harnesses and scripts. It is not for a host that
//! has a reactor. The one rule: the call returns in bounded time after the exit of the process or
//! the time-out, even if other processes still hold its pipes.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::command::Command;
use crate::error::RunError;
use crate::job::{Input, Job, Output, Settings};
use crate::job_control::{ENDING, Request, Requests};
use crate::limits::{EndedBy, Limits};
use crate::monitor::restart::Leftovers;
use crate::reactor::{Event, Patience, Reactor, ReapMethod, end_program, that_end_program};
use crate::signal;
use crate::sys::spawn::SpawnMethod;

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
    settings: Settings,
    methods: (SpawnMethod, ReapMethod),
    /// The signals that interrupt the run.
    signals: Vec<i32>,
    cancel: Option<Cancel>,
}

impl<'a> RunToEnd<'a> {
    /// Prepares a run of `command`.
    pub fn new(command: &'a Command) -> Self {
        Self {
            command,
            input: None,
            settings: Settings::new(Leftovers::Leave),
            methods: Default::default(),
            signals: ENDING.into(),
            cancel: None,
        }
    }

    /// Sets what the process reads from stdin: bytes, a file, or anything else that can be read. It
    /// replaces the stdin that the command sets.
    ///
    /// The input is read as the process takes it, so it can be of any size. A source that blocks
    /// holds up everything, including the time-out. So give a pipe, a socket or a terminal to the
    /// process itself, by [`Command::stdin`]: then nothing is copied, and an input that never comes
    /// holds up nothing.
    ///
    /// A pseudo-terminal cannot be closed. End its input with the terminal's end-of-file character,
    /// `\x04` (Ctrl-D): once after a newline, and twice in the middle of a line.
    pub fn input(mut self, input: impl Read + 'a) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// Sets how many bytes of stdout, and as many of stderr, are kept.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.settings.output_limit = bytes;
        self
    }

    /// Sets how long the process may run. After that its whole [tree](crate::Tree) gets SIGTERM and
    /// SIGCONT, and SIGKILL after the [`kill_time`](Self::kill_time). The command determines what
    /// its tree is: see [`Command::contain`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.limits.wall_time = Some(timeout);
        self
    }

    /// Sets the limits of the run. They replace the [`timeout`](Self::timeout), which is the limit
    /// of the wall time.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets the signal that asks its tree to exit, in place of SIGTERM.
    pub fn stop_signal(mut self, signal: i32) -> Self {
        self.settings.stop_signal = signal;
        self
    }

    /// Sets the signals that interrupt the run, in place of SIGTERM, SIGINT, SIGQUIT and SIGHUP:
    /// see [`run`](Self::run). With none of them, the run goes on after the program has ended.
    pub fn interrupted_by(mut self, signals: &[i32]) -> Self {
        self.signals = signals.to_vec();
        self
    }

    /// Lets another thread end the run. Its tree is asked to exit, as after a time-out, and
    /// [`Output::ended_by`] is [`EndedBy::Asked`].
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Sets how long its tree has to exit on its own after the time-out.
    pub fn kill_time(mut self, time: Duration) -> Self {
        self.settings.kill_time = time;
        self
    }

    /// Sets how long other processes that hold its pipes may go on writing after it has exited.
    /// After a time-out this is at least 1 s, and those in its tree have been killed by then.
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.settings.drain_time = time;
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
    /// A time-out is not an error: the output reports it, and
    /// [`Exit::requested`](crate::Exit::requested) holds the signal
    /// that was sent last. Output at descriptors other than 1 and 2 is read and dropped. What
    /// remains of the tree is killed after a time-out, and is left running after an exit in time:
    /// see [`Output::remains`].
    ///
    /// # Errors
    ///
    /// - [`RunError::Spawn`] if the command could not be started.
    /// - [`RunError::Cancelled`] if it was cancelled before, and [`RunError::NotASignal`] if the
    ///   [`stop_signal`](Self::stop_signal) or a signal that [interrupts](Self::interrupted_by) the
    ///   run does not exist, or cannot be caught. Nothing was started.
    /// - [`RunError::Input`] if the input could not be read.
    /// - [`RunError::Wait`] if the system refused what is needed to wait.
    /// - [`RunError::Interrupted`] if a signal ended the run, and this program goes on because
    ///   another part of it handles the signal.
    /// - [`RunError::StillRunning`] if the process still exists two seconds after it was killed.
    pub fn run(mut self) -> Result<Output, RunError> {
        let (spawn, reap) = self.methods;
        let exists = |signal: &i32| (1..=signal::max()).contains(signal);
        let can_be_caught = |signal: &i32| exists(signal) && ![libc::SIGKILL, libc::SIGSTOP].contains(signal);
        let stop_signal = Some(self.settings.stop_signal).filter(|signal| !exists(signal));
        if let Some(signal) = stop_signal.or_else(|| self.signals.iter().copied().find(|signal| !can_be_caught(signal)))
        {
            return Err(RunError::NotASignal { signal });
        }
        let mut reactor = Reactor::with_methods(spawn, reap).map_err(RunError::Wait)?;
        let cancel = self.cancel.take();
        let _registered = match &cancel {
            Some(cancel) => Some(cancel.register(reactor.waker().map_err(RunError::Wait)?)),
            None => None,
        };
        let signals = that_end_program(std::mem::take(&mut self.signals));
        let result =
            reactor.watch(&signals).map_err(RunError::Wait).and_then(|()| self.run_on(&mut reactor, cancel.as_ref()));
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

    fn run_on(&mut self, reactor: &mut Reactor, cancel: Option<&Cancel>) -> Result<Output, RunError> {
        let is_cancelled = || cancel.is_some_and(Cancel::is_cancelled);
        if is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let input = self.input.take();
        let input = input.map_or_else(|| Input::Empty(Box::new(io::empty()) as Box<dyn Read>), Input::Given);
        let mut job = Job::start(reactor, self.command, &self.settings, input)?;
        let (mut requests, mut interrupted, mut patience) = (Requests::default(), None, Patience::default());
        while !job.is_over() {
            // An exit that came before is the end of the run all the same.
            if job.is_running() && is_cancelled() {
                job.stop(reactor, EndedBy::Asked);
            }
            let turned = reactor.turn_patiently(&mut patience, None, &mut |reactor, event| match event {
                Event::Signal(signal) => match requests.hear(reactor.now()) {
                    Some(Request::Stop) => {
                        interrupted = Some(signal);
                        job.stop(reactor, EndedBy::HostStopped);
                    }
                    Some(Request::Kill) => job.kill(reactor, EndedBy::HostStopped),
                    None => {}
                },
                event if job.is_meant(&event) => job.handle(reactor, &event),
                _ => {}
            });
            if let Err(error) = turned {
                job.kill(reactor, EndedBy::Asked);
                return Err(RunError::Wait(error));
            }
        }
        let result = job.finish(reactor);
        interrupted.map_or(result, |signal| Err(RunError::Interrupted { signal }))
    }
}

impl fmt::Debug for RunToEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToEnd")
            .field("command", self.command)
            .field("settings", &self.settings)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}
