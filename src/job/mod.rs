//! One run of a command inside a reactor, from its start until its output is read and its tree is
//! settled. [`RunToEnd`](crate::RunToEnd) has one, and [`RunMany`](crate::RunMany) has many.
//!
//! It never waits: it is told each event, and keeps one timer for all that it waits for. The one
//! rule: it is over in bounded time after the exit of the process or its kill, even if other
//! processes still hold its pipes.

mod enforcer;

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::command::Command;
use crate::contain::{Contain, Containment, LAST_WAIT, Remains, Strength};
use crate::error::{RunError, SignalError, SpawnError};
use crate::exit::Exit;
use crate::limits::{EndedBy, Limits};
use crate::monitor::restart::Leftovers;
use crate::process::ProcessId;
use crate::process::cgroup::Cgroup;
use crate::producer::{Feed, ReadProducer};
use crate::reactor::timers::TimerId;
use crate::reactor::{Event, Reactor};
use crate::stdio::Stdio;
use crate::sys;
use crate::used::{Covers, Figure, Used};
use enforcer::{Action, Enforcer};

/// The default limit of what is kept of each output, in bytes.
const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;
/// The default time from SIGTERM to SIGKILL, which is Twisted's.
const KILL_TIME: Duration = Duration::from_secs(5);
/// The default time for which other processes may go on writing after the exit.
pub(crate) const DRAIN_TIME: Duration = Duration::from_millis(20);
/// The minimum of that time when the whole tree was killed and only needs the time to exit.
const KILLED_DRAIN_TIME: Duration = Duration::from_secs(1);
/// The pause before a kill that was refused is tried again.
const POLL: Duration = Duration::from_millis(10);
/// The most that a pipe of ours can hold, in bytes. What comes after that was written after the
/// exit.
pub(crate) const PIPE: u64 = 1024 * 1024;

/// The settings that all runs have.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) output_limit: usize,
    pub(crate) stop_signal: i32,
    pub(crate) kill_time: Duration,
    pub(crate) drain_time: Duration,
    pub(crate) limits: Limits,
    pub(crate) leftovers: Leftovers,
}

impl Settings {
    pub(crate) fn new(leftovers: Leftovers) -> Self {
        Self {
            output_limit: OUTPUT_LIMIT,
            stop_signal: libc::SIGTERM,
            kill_time: KILL_TIME,
            drain_time: DRAIN_TIME,
            limits: Limits::default(),
            leftovers,
        }
    }
}

/// The result of a command that has ended: see [`RunToEnd::run`](crate::RunToEnd::run) and
/// [`RunMany`](crate::RunMany).
#[derive(Debug)]
#[non_exhaustive]
pub struct Output {
    /// The exit status, and the resources that the process used.
    pub exit: Exit,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// What the tree of the process has used, until it was gone or the run was over.
    pub used: Used,
    /// What kept the tree together.
    pub containment: Containment,
    /// What it wrote to stdout, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, up to the limit.
    pub stderr: Vec<u8>,
    /// The number of bytes of stdout that came after the limit was reached and were dropped.
    pub stdout_dropped: u64,
    /// The number of bytes of stderr that came after the limit was reached and were dropped.
    pub stderr_dropped: u64,
    /// Whether the wall time was up before it exited. It was then asked to end, and killed if it
    /// did not.
    pub timed_out: bool,
    /// What remains of its tree. After a stop or a kill, that is only processes that still existed
    /// two seconds after SIGKILL. Otherwise leftover processes of a [`RunToEnd`](crate::RunToEnd)
    /// are not signalled.
    pub remains: Remains,
    /// Whether other processes still held its pipes when reading stopped. Some of their output may
    /// then be missing. The output of the process itself is complete.
    pub pipes_left_open: bool,
}

impl Output {
    /// Tells whether the process exited with code 0, and no limit and no request has ended it.
    #[must_use]
    pub fn success(&self) -> bool {
        self.exit.success() && self.ended_by == EndedBy::Exit
    }

    /// Makes a run without success an error: one whose exit code is not 0, or that a limit or a
    /// request has ended. The error shows the end of stderr.
    ///
    /// ```
    /// use childminder::{Command, RunToEnd};
    ///
    /// let output = RunToEnd::new(Command::new("echo").arg("hello")).run()?.check()?;
    /// assert_eq!(output.stdout, b"hello\n");
    /// let failed = RunToEnd::new(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).run()?.check();
    /// assert_eq!(failed.unwrap_err().to_string(), r#"it failed: exit status 3; stderr is "why\n""#);
    /// # Ok::<(), childminder::RunError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RunError::Failed`].
    pub fn check(self) -> Result<Self, RunError> {
        match self.success() {
            true => Ok(self),
            false => Err(RunError::Failed { exit: Box::new(self.exit), ended_by: self.ended_by, stderr: self.stderr }),
        }
    }
}

/// A run that is in progress.
pub(crate) struct Job<R> {
    process: ProcessId,
    settings: Settings,
    feed: Option<Box<Feed<ReadProducer<R>>>>,
    input_error: Option<io::Error>,
    stdout: Capture,
    stderr: Capture,
    /// The number of bytes that came after the exit.
    late: u64,
    enforcer: Enforcer,
    cgroup: Option<Cgroup>,
    containment: Containment,
    timer: Option<(TimerId, Instant)>,
    drain: Drain,
    /// The time until which a killed tree may take to be gone.
    last_moment: Option<Instant>,
    /// The reason why it could not be killed, and when that is tried again.
    refusal: Option<(io::Error, Instant)>,
    /// Set when its tree is gone, to whether that is certain.
    gone: Option<bool>,
    exit: Option<Exit>,
    used: Option<Used>,
    has_own_peak: bool,
    has_memory_limit: bool,
    ran_out_of_memory: bool,
    ended: bool,
    is_over: bool,
}

/// What the process reads from stdin.
pub(crate) enum Input<R> {
    /// It replaces the stdin of the command.
    Given(R),
    /// It has nothing in it, and is for a pipe that the command has at its stdin.
    Empty(R),
}

/// How far the reading of the pipes is after the exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    NotYet,
    /// Until this time other processes may go on writing.
    Until(Instant),
    /// The time was up when so many bytes had come late. What is in the pipes is still read.
    Rest(u64),
    Done,
}

/// The kept part of one output.
#[derive(Debug, Default)]
struct Capture {
    kept: Vec<u8>,
    dropped: u64,
}

impl<R: Read> Job<R> {
    /// Starts the command. An input that is `None` is empty if the command has a pipe at its stdin.
    pub(crate) fn start(
        reactor: &mut Reactor,
        command: &Command,
        settings: &Settings,
        input: Input<R>,
    ) -> Result<Self, SpawnError> {
        let limits = settings.limits;
        let mut command = command.clone();
        if matches!(input, Input::Given(_)) && command.parts().attributes().pty.is_none() {
            command.stdin(Stdio::piped());
        }
        if command.parts().contain() != Contain::Group {
            command.measured();
        }
        if let Some(bytes) = limits.memory {
            command.memory_limit(bytes);
        }
        if let Some(count) = limits.processes {
            command.process_limit(count);
        }
        let limits_cpu = limits.cpu_time.is_some() || limits.soft_cpu_time.is_some();
        if limits_cpu {
            reactor.check_measurable(&command)?;
        }
        let process = reactor.spawn_process(&command)?;
        let started = reactor.process(process).map(|process| process.started());
        let started = started.unwrap_or_else(|| reactor.now());
        let containment = reactor.tree(process).map(|tree| tree.containment());
        let cpus = if limits_cpu { cpus_of(&command) } else { 1 };
        let mut job = Self {
            process,
            settings: settings.clone(),
            feed: None,
            input_error: None,
            stdout: Capture::default(),
            stderr: Capture::default(),
            late: 0,
            enforcer: Enforcer::new(limits, settings.kill_time, cpus, started),
            cgroup: reactor.cgroup_of(process),
            containment: containment.unwrap_or_else(|| Containment::new(Strength::Process, None)),
            timer: None,
            drain: Drain::NotYet,
            last_moment: None,
            refusal: None,
            gone: None,
            exit: None,
            used: None,
            has_own_peak: reactor.has_own_peak(process),
            has_memory_limit: command.parts().attributes().tree_limits.memory.is_some(),
            ran_out_of_memory: false,
            ended: false,
            is_over: false,
        };
        if let Some(mut process) = reactor.process(process) {
            // Otherwise they are killed once its exit is reported.
            process.kill_unreachable_at_exit(settings.leftovers == Leftovers::Kill);
        }
        let has_pipe = reactor.process(process).is_some_and(|mut process| process.pending(0).is_some());
        let (Input::Given(input) | Input::Empty(input)) = input;
        if has_pipe {
            let mut feed = Box::new(Feed::new(process, 0));
            // This cannot fail, because the feed has no other producer.
            let _ = feed.register_producer(reactor, ReadProducer::new(input));
            job.feed = Some(feed);
            job.check_input(reactor);
        }
        job.go_on(reactor);
        Ok(job)
    }

    /// Tells whether the event concerns this run.
    pub(crate) fn is_meant(&self, event: &Event<'_>) -> bool {
        match *event {
            Event::Data { process, .. }
            | Event::FdClosed { process, .. }
            | Event::Drained { process, .. }
            | Event::Exited { process, .. }
            | Event::Ended { process, .. }
            | Event::TreeGone { process, .. }
            | Event::TreeRemains { process, .. }
            | Event::ProcessLimit { process }
            | Event::Stopped { process, .. }
            | Event::Continued { process } => process == self.process,
            // The feed has timers of its own.
            Event::Timer(id) => self.feed.is_some() || self.is_our_timer(id),
            _ => false,
        }
    }

    fn is_our_timer(&self, id: TimerId) -> bool {
        self.timer.is_some_and(|(timer, _)| timer == id)
    }

    /// Takes an event that concerns this run.
    pub(crate) fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) {
        if let Some(feed) = &mut self.feed {
            let taken = feed.handle(reactor, event);
            self.check_input(reactor);
            if taken {
                return self.go_on(reactor);
            }
        }
        match *event {
            Event::Data { fd, data, .. } => {
                self.collect(fd, data);
                if self.settings.limits.output.is_some() && self.exit.is_none() {
                    let action = self.enforcer.written(reactor.now(), self.written());
                    self.carry_out(reactor, action);
                    self.go_on(reactor);
                }
                return;
            }
            Event::Exited { exit, .. } => self.exited(reactor, *exit),
            Event::TreeGone { certain, .. } => {
                self.gone = Some(certain);
                self.measure();
            }
            Event::Ended { .. } => self.ended = true,
            Event::ProcessLimit { .. } => {
                let action = self.enforcer.kill(EndedBy::Processes);
                self.carry_out(reactor, action);
            }
            Event::Timer(id) if self.is_our_timer(id) => {
                self.timer = None;
                self.time_has_come(reactor);
            }
            _ => return,
        }
        self.go_on(reactor);
    }

    /// Asks the tree to stop, and kills it after the kill time.
    pub(crate) fn stop(&mut self, reactor: &mut Reactor, reason: EndedBy) {
        let action = self.enforcer.stop(reactor.now(), reason);
        self.carry_out(reactor, action);
        self.go_on(reactor);
    }

    /// Kills the tree.
    pub(crate) fn kill(&mut self, reactor: &mut Reactor, reason: EndedBy) {
        match self.enforcer.kill(reason) {
            Some(action) => self.carry_out(reactor, Some(action)),
            // An earlier kill may have been refused.
            None => self.kill_tree(reactor),
        }
        self.go_on(reactor);
    }

    /// Tells whether its process has not exited.
    pub(crate) fn is_running(&self) -> bool {
        self.exit.is_none()
    }

    /// Tells whether there is nothing more to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the result of a run that is over.
    pub(crate) fn finish(mut self, reactor: &mut Reactor) -> Result<Output, RunError> {
        self.cancel_timer(reactor);
        let Some(exit) = self.exit else {
            let pid = reactor.process(self.process).and_then(|process| process.pid()).unwrap_or_default();
            return Err(RunError::StillRunning { pid, refusal: self.refusal.map(|(error, _)| error) });
        };
        if let Some(error) = self.input_error {
            return Err(RunError::Input(error));
        }
        self.measure();
        let ended_by = self.enforcer.reason().unwrap_or(match exit.signal() {
            Some(_) if self.ran_out_of_memory => EndedBy::Memory,
            Some(_) => EndedBy::Signal,
            None => EndedBy::Exit,
        });
        let remains = match (self.gone, reactor.tree(self.process)) {
            (Some(false), _) => Remains::Unknown,
            (Some(true), _) | (None, None) => Remains::Nobody,
            (None, Some(mut tree)) => tree.members(),
        };
        Ok(Output {
            exit,
            ended_by,
            used: self.used.unwrap_or_default(),
            containment: self.containment,
            stdout: self.stdout.kept,
            stderr: self.stderr.kept,
            stdout_dropped: self.stdout.dropped,
            stderr_dropped: self.stderr.dropped,
            timed_out: ended_by == EndedBy::WallTime,
            remains,
            pipes_left_open: !self.ended,
        })
    }

    fn check_input(&mut self, reactor: &mut Reactor) {
        let producer = self.feed.as_mut().and_then(|feed| feed.producer_mut());
        if let Some(error) = producer.and_then(ReadProducer::take_error) {
            self.input_error = Some(error);
            self.kill_tree(reactor);
        }
    }

    fn exited(&mut self, reactor: &mut Reactor, exit: Exit) {
        self.exit = Some(exit);
        self.enforcer.over();
        if self.settings.leftovers == Leftovers::Kill && reactor.tree(self.process).is_some() {
            self.kill_tree(reactor);
        }
    }

    /// Tells whether nothing more is expected of the tree.
    fn is_settled(&self, now: Instant) -> bool {
        let is_ending = self.enforcer.was_stopped() || self.last_moment.is_some();
        !is_ending || self.gone.is_some() || self.last_moment.is_some_and(|at| at <= now)
    }

    fn time_has_come(&mut self, reactor: &mut Reactor) {
        let now = reactor.now();
        while let Some(action) = self.enforcer.due(now) {
            self.carry_out(reactor, Some(action));
        }
        if self.exit.is_none() && self.refusal.as_ref().is_some_and(|(_, again)| *again <= now) {
            self.kill_tree(reactor);
        }
        // Even if this program runs late, the output of the process is in the pipe, before all that
        // other processes have written since. A turn reads a share of each pipe, so a pipe that
        // never runs dry does not keep the others from being read.
        self.drain = match self.drain {
            Drain::Until(at) if at <= now => Drain::Rest(self.late),
            Drain::Rest(before) if before == self.late || self.late >= 2 * PIPE => Drain::Done,
            Drain::Rest(_) => Drain::Rest(self.late),
            other => other,
        };
    }

    /// Looks whether the run is over, and sets the timer for what comes next.
    fn go_on(&mut self, reactor: &mut Reactor) {
        if self.exit.is_some() && self.ended && (self.gone.is_some() || !self.enforcer.was_stopped()) {
            // As a rule nothing is left, and the clock need not be read.
            if self.gone.is_some() || self.last_moment.is_none() {
                return self.end(reactor);
            }
        }
        let now = reactor.now();
        if self.exit.is_none() {
            if self.last_moment.is_some_and(|at| at <= now) {
                return self.end(reactor);
            }
        } else if self.is_settled(now) {
            if self.ended || self.drain == Drain::Done {
                return self.end(reactor);
            }
            if self.drain == Drain::NotYet {
                let was_killed = self.enforcer.was_stopped() || self.last_moment.is_some();
                let time = self.settings.drain_time;
                self.drain = Drain::Until(now + if was_killed { time.max(KILLED_DRAIN_TIME) } else { time });
            }
        }
        let drain = match self.drain {
            Drain::Until(at) => Some(at),
            // A turn that does not wait reads what is there.
            Drain::Rest(_) => Some(now),
            Drain::NotYet | Drain::Done => None,
        };
        let last = self.last_moment.filter(|at| *at > now);
        let again = self.refusal.as_ref().filter(|_| self.exit.is_none()).map(|(_, again)| *again);
        let next = [self.enforcer.deadline(), last, drain, again].into_iter().flatten().min();
        if self.timer.map(|(_, at)| at) != next {
            self.cancel_timer(reactor);
            self.timer = next.map(|at| (reactor.call_at(at), at));
        }
    }

    fn end(&mut self, reactor: &mut Reactor) {
        self.cancel_timer(reactor);
        self.is_over = true;
    }

    fn cancel_timer(&mut self, reactor: &mut Reactor) {
        if let Some((timer, _)) = self.timer.take() {
            reactor.cancel_timer(timer);
        }
    }

    fn written(&self) -> u64 {
        let kept = self.stdout.kept.len() + self.stderr.kept.len();
        kept as u64 + self.stdout.dropped + self.stderr.dropped
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
        let room = self.settings.output_limit - capture.kept.len();
        let kept = data.len().min(room);
        capture.kept.extend_from_slice(&data[..kept]);
        capture.dropped += (data.len() - kept) as u64;
    }

    fn carry_out(&mut self, reactor: &mut Reactor, action: Option<Action>) {
        match action {
            None => {}
            Some(Action::Kill) => self.kill_tree(reactor),
            Some(Action::Terminate) => {
                if let Some(mut tree) = reactor.tree(self.process) {
                    // An error means that the process has just exited, or that a part of the tree
                    // belongs to another user. That part is killed later.
                    let _ = tree.terminate(self.settings.stop_signal);
                }
            }
            Some(Action::ReadCpu) => {
                let used = self.cgroup.as_ref().and_then(Cgroup::cpu_time).map(|(user, system)| user + system);
                let action = self.enforcer.cpu_used(reactor.now(), used);
                self.carry_out(reactor, action);
            }
        }
    }

    fn kill_tree(&mut self, reactor: &mut Reactor) {
        let now = reactor.now();
        self.last_moment.get_or_insert(now + LAST_WAIT);
        if let Some(mut tree) = reactor.tree(self.process) {
            self.refusal = match tree.kill() {
                Err(SignalError::Os(error)) => Some((error, now + POLL)),
                Err(SignalError::AlreadyExited) | Ok(()) => None,
            };
        }
    }

    /// Reads what the tree has used, if that was not read before.
    fn measure(&mut self) {
        let Some(exit) = self.exit.filter(|_| self.used.is_none()) else { return };
        let mut used = match exit.status {
            Some(_) => Used::of_reaped(&exit.usage),
            None => Used::default(),
        };
        if let Some(cgroup) = &self.cgroup {
            cgroup.measure(&mut used);
            let was_killed = exit.signal() == Some(libc::SIGKILL) && self.has_memory_limit;
            self.ran_out_of_memory = was_killed && cgroup.oom_kills() > 0;
        }
        if used.peak_memory.is_none() {
            let peak = match self.has_own_peak {
                true => Some(exit.usage.max_rss),
                false => sys::memory::own_peak(exit.usage.max_rss),
            };
            used.peak_memory = peak.map(|value| Figure { value, covers: Covers::Reaped });
        }
        self.used = Some(used);
    }
}

/// Returns the number of processors on which a process of this command can run.
fn cpus_of(command: &Command) -> u32 {
    let set = command.parts().attributes().conditions.cpus.as_ref().map(|cpus| cpus.len());
    let count = set.or_else(|| sys::cpus::own().ok().map(|cpus| cpus.len()));
    let count = count.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(1)
}
