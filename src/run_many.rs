//! Runs many commands, so many at a time, and hands out each result as its run ends.
//!
//! It is a layer over a reactor: the host's, or one of its own in one blocking call. It does not
//! run a command twice, and decides nothing about a single run. The one rule: each command that the
//! iterator has given is reported exactly once, whether it was started or not.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::command::Command;
use crate::cpus::CpuSet;
use crate::error::RunError;
use crate::job::{Input, Job, Output, Settings};
use crate::job_control::{ENDING, Request, Requests};
use crate::limits::{EndedBy, Limits};
use crate::monitor::restart::Leftovers;
use crate::reactor::timers::TimerId;
use crate::reactor::{Event, Patience, Reactor, end_program, that_end_program};

/// How many starts may fail in a row before the results are handed out.
const FAILURES: usize = 64;

/// Runs the commands of an iterator, a number of them at a time, each to its end.
///
/// A slot that becomes free is filled with the next command at once. The results come in the order
/// in which the runs end. When a process has exited, everything that it has started is killed, and
/// its run is over when they are gone.
///
/// | | default |
/// | --- | --- |
/// | runs at a time | one |
/// | processors | each run may use all |
/// | limits, time-out | none |
/// | output that is kept | 16 MiB each of stdout and stderr; the rest is read, counted and dropped |
/// | from SIGTERM to SIGKILL | 5 s |
///
/// [The guide](crate::guide::harness) has a pool for eight of 500 jobs at a time.
///
/// It is used in one of two ways. [`run`](Self::run) is one blocking call:
///
/// ```
/// use childminder::{Command, RunMany};
///
/// let commands = (0..20).map(|number| {
///     let mut command = Command::new("sh");
///     command.args(["-c", &format!("exit {}", number % 2)]);
///     command
/// });
/// let mut failed = 0;
/// RunMany::new(commands).jobs(4).run(|finished| {
///     failed += usize::from(!finished.success());
/// })?;
/// assert_eq!(failed, 10);
/// # Ok::<(), childminder::RunError>(())
/// ```
///
/// In a loop of your own, [`start`](Self::start) begins, [`handle`](Self::handle) takes each event,
/// and [`next_finished`](Self::next_finished) returns the results:
///
/// ```
/// use childminder::{Command, Reactor, RunMany};
///
/// let mut reactor = Reactor::new()?;
/// let mut many = RunMany::new((0..5).map(|_| Command::new("true"))).jobs(2);
/// many.start(&mut reactor);
/// let mut done = Vec::new();
/// while !many.is_over() {
///     reactor.turn(None, |reactor, event| _ = many.handle(reactor, &event))?;
///     while let Some(finished) = many.next_finished() {
///         assert!(finished.success());
///         done.push(finished.index);
///     }
/// }
/// done.sort();
/// assert_eq!(done, [0, 1, 2, 3, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing runs before `run` or `start`"]
pub struct RunMany<I> {
    commands: Option<I>,
    settings: Settings,
    slots: Vec<Slot>,
    timeout: Option<Duration>,
    timer: Option<TimerId>,
    failures_left: Option<usize>,
    /// The number of the next command.
    next: usize,
    running: usize,
    /// Why no further run is started.
    stopping: Option<EndedBy>,
    killing: bool,
    finished: VecDeque<Finished>,
}

/// A place for one run at a time.
#[derive(Default)]
struct Slot {
    job: Option<(usize, Job<io::Empty>)>,
    cpus: Option<CpuSet>,
}

/// The result of one command: see [`RunMany`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished {
    /// The number of the command in the order of the iterator, from 0.
    pub index: usize,
    /// The number of the slot in which it ran, from 0. `None` if it was never started.
    pub slot: Option<usize>,
    /// How it ended. The error is [`RunError::NotStarted`] if it was never started.
    pub result: Result<Output, RunError>,
}

impl Finished {
    /// Tells whether the process exited with code 0, and no limit and no request has ended it.
    #[must_use]
    pub fn success(&self) -> bool {
        self.result.as_ref().is_ok_and(Output::success)
    }
}

impl<I: Iterator<Item = Command>> RunMany<I> {
    /// Prepares the runs of these commands. The iterator is asked for a command only when a slot is
    /// free.
    pub fn new(commands: impl IntoIterator<IntoIter = I>) -> Self {
        Self {
            commands: Some(commands.into_iter()),
            settings: Settings::new(Leftovers::Kill),
            slots: vec![Slot::default()],
            timeout: None,
            timer: None,
            failures_left: None,
            next: 0,
            running: 0,
            stopping: None,
            killing: false,
            finished: VecDeque::new(),
        }
    }

    /// Sets how many run at a time. Zero counts as one.
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.slots = (0..jobs.max(1)).map(|_| Slot::default()).collect();
        self
    }

    /// Runs as many at a time as there are sets, each on the processors of a set of its own: see
    /// [`Topology::split`](crate::Topology::split). The sets replace the number of
    /// [`jobs`](Self::jobs) and the processors that a command sets.
    pub fn cpu_sets(mut self, sets: Vec<CpuSet>) -> Self {
        self.slots = sets.into_iter().map(|cpus| Slot { job: None, cpus: Some(cpus) }).collect();
        if self.slots.is_empty() { self.jobs(1) } else { self }
    }

    /// Sets the limits of each run.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Sets how many bytes of stdout, and as many of stderr, are kept of each run.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.settings.output_limit = bytes;
        self
    }

    /// Sets how long the tree of a run that is asked to stop has until it is killed.
    pub fn kill_time(mut self, time: Duration) -> Self {
        self.settings.kill_time = time;
        self
    }

    /// Sets the time for all runs together, from the start of the first. After it the runs are
    /// stopped as by [`stop`](Self::stop).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Stops as [`stop`](Self::stop) does as soon as so many runs have failed. A run has failed if
    /// it is no [`success`](Finished::success). Zero counts as one.
    pub fn stop_after_failures(mut self, failures: usize) -> Self {
        self.failures_left = Some(failures.max(1));
        self
    }

    /// Starts the first runs on the host's reactor. From now on [`handle`](Self::handle) needs each
    /// event.
    pub fn start(&mut self, reactor: &mut Reactor) {
        self.timer = self.timeout.take().map(|timeout| reactor.call_later(timeout));
        self.fill(reactor);
        self.wake(reactor);
    }

    /// Takes an event, and returns whether it concerned one of the runs. Starts the next runs in
    /// the slots that are free.
    pub fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        if let Event::Timer(id) = event {
            if self.timer.take_if(|timer| timer == id).is_some() {
                if self.running > 0 || self.commands.is_some() {
                    self.halt(reactor, EndedBy::Asked);
                }
                return true;
            }
        }
        let is_meant = |slot: &&mut Slot| slot.job.as_ref().is_some_and(|(_, job)| job.is_meant(event));
        let Some((number, slot)) = self.slots.iter_mut().enumerate().find(|(_, slot)| is_meant(slot)) else {
            return false;
        };
        let Some((_, job)) = &mut slot.job else { return false };
        job.handle(reactor, event);
        if job.is_over() {
            self.take_result(reactor, number);
            self.fill(reactor);
        }
        true
    }

    /// Returns the next result.
    pub fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Tells whether all runs are over and all results were returned.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.commands.is_none() && self.finished.is_empty()
    }

    /// Returns how many runs are in progress.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Starts no further run, and ends those in progress: [`Request::Stop`] asks them to stop and
    /// kills them after the kill time, [`Request::Kill`] kills them at once. The commands that were
    /// not started are reported as [`RunError::NotStarted`], so the iterator must come to an end.
    pub fn stop(&mut self, reactor: &mut Reactor, request: Request) {
        self.end(reactor, request, EndedBy::Asked);
        self.wake(reactor);
    }

    fn end(&mut self, reactor: &mut Reactor, request: Request, reason: EndedBy) {
        if request == Request::Kill {
            self.killing = true;
        }
        self.halt(reactor, reason);
    }

    /// Stops or kills the runs in progress, and reports the others.
    fn halt(&mut self, reactor: &mut Reactor, reason: EndedBy) {
        self.stopping.get_or_insert(reason);
        for number in 0..self.slots.len() {
            let Some((_, job)) = &mut self.slots[number].job else { continue };
            match self.killing {
                true => job.kill(reactor, reason),
                false => job.stop(reactor, reason),
            }
            if job.is_over() {
                self.take_result(reactor, number);
            }
        }
        self.report_rest();
        self.finish(reactor);
    }

    fn report_rest(&mut self) {
        for _ in self.commands.take().into_iter().flatten() {
            let index = self.next;
            self.next += 1;
            self.finished.push_back(Finished { index, slot: None, result: Err(RunError::NotStarted) });
        }
    }

    /// Fills the free slots. A condition for the start of a further run, such as free memory, would
    /// be checked here.
    fn fill(&mut self, reactor: &mut Reactor) {
        let mut failed = 0;
        while self.stopping.is_none() {
            let Some(number) = self.slots.iter().position(|slot| slot.job.is_none()) else { return };
            let Some(mut command) = self.commands.as_mut().and_then(Iterator::next) else {
                self.commands = None;
                return self.finish(reactor);
            };
            let index = self.next;
            self.next += 1;
            if let Some(cpus) = &self.slots[number].cpus {
                command.cpus(cpus);
            }
            match Job::start(reactor, &command, &self.settings, Input::Empty(io::empty())) {
                Ok(job) => {
                    self.slots[number].job = Some((index, job));
                    self.running += 1;
                }
                Err(error) => {
                    self.note(reactor, Finished { index, slot: None, result: Err(error.into()) });
                    failed += 1;
                }
            }
            if failed >= FAILURES && self.running > 0 {
                // The next event of a run goes on.
                return;
            }
        }
    }

    fn take_result(&mut self, reactor: &mut Reactor, number: usize) {
        let Some((index, job)) = self.slots[number].job.take() else { return };
        self.running -= 1;
        let result = job.finish(reactor);
        self.note(reactor, Finished { index, slot: Some(number), result });
    }

    fn note(&mut self, reactor: &mut Reactor, finished: Finished) {
        let failed = !finished.success();
        self.finished.push_back(finished);
        if let (true, Some(left)) = (failed && self.stopping.is_none(), &mut self.failures_left) {
            *left -= 1;
            if *left == 0 {
                self.halt(reactor, EndedBy::Asked);
            }
        }
        self.finish(reactor);
    }

    /// Cancels the timer when nothing is left to do.
    fn finish(&mut self, reactor: &mut Reactor) {
        if self.running == 0 && self.commands.is_none() {
            if let Some(timer) = self.timer.take() {
                reactor.cancel_timer(timer);
            }
        }
    }

    /// Has the next turn return at once if all that is left to do is to take results. A host that
    /// takes them after each turn would wait for ever otherwise.
    fn wake(&mut self, reactor: &mut Reactor) {
        if self.running == 0 && !self.finished.is_empty() {
            self.timer = Some(reactor.call_later(Duration::ZERO));
        }
    }

    /// Runs all commands on a reactor of its own, and blocks until all runs are over. `each` gets
    /// every result as its run ends.
    ///
    /// Ctrl-C, SIGTERM, SIGQUIT and SIGHUP do what they do during [`RunToEnd::run`]: the first one
    /// stops all runs, a second one kills them, and then the signal ends this program, unless the
    /// program handles, ignores or blocks it.
    ///
    /// # Errors
    ///
    /// - [`RunError::Wait`] if the system refused what is needed to wait. All runs were killed.
    /// - [`RunError::Interrupted`] if a signal ended the runs, and this program goes on because
    ///   another part of it handles the signal.
    ///
    /// The error of a single run is in its [`Finished::result`].
    ///
    /// [`RunToEnd::run`]: crate::RunToEnd::run
    pub fn run(mut self, mut each: impl FnMut(Finished)) -> Result<(), RunError> {
        let mut reactor = Reactor::new().map_err(RunError::Wait)?;
        let signals = that_end_program(ENDING.into());
        let result = reactor.watch(&signals).and_then(|()| self.run_on(&mut reactor, &mut each));
        let late = reactor.release_signals(&signals);
        drop(reactor);
        let interrupted = result.map_err(RunError::Wait)?.or_else(|| late.first().copied());
        match interrupted {
            Some(signal) => {
                end_program(signal);
                Err(RunError::Interrupted { signal })
            }
            None => Ok(()),
        }
    }

    /// Returns the signal that has ended the runs.
    fn run_on(&mut self, reactor: &mut Reactor, each: &mut dyn FnMut(Finished)) -> io::Result<Option<i32>> {
        let (mut requests, mut interrupted, mut patience) = (Requests::default(), None, Patience::default());
        self.start(reactor);
        loop {
            while let Some(finished) = self.next_finished() {
                each(finished);
            }
            if self.is_over() {
                return Ok(interrupted);
            }
            let turned = reactor.turn_patiently(&mut patience, None, &mut |reactor, event| {
                let Event::Signal(signal) = event else {
                    self.handle(reactor, &event);
                    return;
                };
                if let Some(request) = requests.hear(reactor.now()) {
                    interrupted.get_or_insert(signal);
                    self.end(reactor, request, EndedBy::HostStopped);
                }
            });
            if let Err(error) = turned {
                self.end(reactor, Request::Kill, EndedBy::Asked);
                return Err(error);
            }
        }
    }
}

impl<I> fmt::Debug for RunMany<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunMany")
            .field("settings", &self.settings)
            .field("slots", &self.slots.len())
            .field("running", &self.running)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
