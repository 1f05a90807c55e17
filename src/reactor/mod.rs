//! The reactor: it waits for everything at once, and then delivers the events.
//!
//! It knows no services and no policy. Above `sys`, only the reactor's files read the clock. The
//! end of a turn's wait decides which timers are due. A timer or a process counts from the clock at
//! the moment when it is set or started. The one rule: an event is never delivered from inside a
//! call, only from a turn.

#[cfg(target_os = "linux")]
mod discards;
mod event;
#[cfg(target_os = "linux")]
mod guard;
mod hosts;
mod nesting;
mod notify;
#[cfg(target_os = "linux")]
mod orphans;
#[cfg(not(target_os = "linux"))]
#[path = "no_orphans.rs"]
mod orphans;
mod patience;
mod reaper;
mod signals;
mod spawn;
mod stops;
pub(crate) mod timers;
mod trees;
mod turn;
mod until;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::command::Command;
use crate::error::SpawnError;
use crate::exit::Exit;
use crate::limit::{Limit, Resource};
use crate::process::{Child, Living, Notice, Process, ProcessId};
use crate::slab::{Key, Slab};
use crate::sources::Sources;
use crate::sys;
use crate::sys::clock;
use crate::sys::spawn::{SpawnMethod, Spawner};
pub use event::{Event, Interest, SourceId, Waker};
#[cfg(target_os = "linux")]
pub use orphans::Orphans;
pub(crate) use patience::Patience;
pub use reaper::ReapMethod;
use reaper::Recheck;
use signals::Signals;
pub(crate) use signals::{end_program, that_end_program};
use stops::Stops;
use timers::{TimerId, Timers};
use trees::Trees;
use turn::{Ready, Turn};

/// The number of events of one poll. Further ones come with the next poll.
const EVENTS: usize = 1024;

/// Waits for child processes, their pipes, timers, signals and the host's own descriptors, on the
/// thread that calls it.
///
/// Events are delivered only in [`turn`](Self::turn) (or [`run`](Self::run), which is a loop of
/// turns). There is no thread in the background, and no signal handler unless it is needed. The
/// reactor is `Send`: it may be made on one thread and used on another.
///
/// When it is dropped, its pipes are closed and its children go on running without supervision.
/// Children that end later stay zombies until the host ends, as with [`std::process::Child`].
/// [`run_service`](Self::run_service) stops them before that. The drop also restores the actions of
/// the signals that it watched (SIGCHLD among them with [`ReapMethod::Sigchld`]), unless the host
/// has set another action in the meantime. [The guide](crate::guide::embedding) has the details.
///
/// ```
/// use childminder::{Command, Event, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// reactor.spawn_process(Command::new("echo").arg("hello"))?;
/// let mut said = String::new();
/// reactor.run(|reactor, event| match event {
///     Event::Data { data, .. } => said += &String::from_utf8_lossy(data),
///     Event::Ended { exit, .. } => {
///         assert!(exit.success());
///         reactor.stop();
///     }
///     _ => {}
/// })?;
/// assert_eq!(said, "hello\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reactor {
    poll: Poll,
    /// `events` and `buffer` are taken out while a turn runs.
    events: Option<Events>,
    buffer: Vec<u8>,
    sources: Sources,
    processes: Slab<Child>,
    // These lists hold what the reactor knows and has not reported yet. An entry is taken out only
    // when it is handled, because a handler may panic.
    ready: VecDeque<Ready>,
    reading: Option<(Key, i32)>,
    /// The process whose messages are being read.
    hearing: Option<Key>,
    notices: VecDeque<Notice>,
    /// Processes that have exited, or ended.
    exited: VecDeque<Key>,
    /// How the processes exited whose end was reported in this turn or the one before it, the
    /// earliest first.
    ended: Vec<(Key, Box<Exit>)>,
    sweep: bool,
    /// Processes that were started without a pidfd and not checked since.
    newborn: Vec<Key>,
    /// Processes that have exited and cannot be reaped yet.
    rechecks: Vec<Recheck>,
    /// A scan for living processes, which all users in a turn share.
    living: Option<Living>,
    trees: Trees,
    #[cfg(target_os = "linux")]
    guard: guard::Guarding,
    #[cfg(target_os = "linux")]
    orphans: Option<orphans::Orphanage>,
    #[cfg(target_os = "linux")]
    discards: discards::Discards,
    stops: Stops,
    /// How long the program was suspended, until that is reported.
    resumed: Option<Duration>,
    /// How often the program had been suspended when this reactor waited last.
    suspensions: u64,
    /// Watched signals that have arrived and are not reported yet.
    arrived_signals: VecDeque<i32>,
    spawner: Spawner,
    pidfds: bool,
    nofile: Option<Limit>,
    timers: Timers,
    signals: Option<Signals>,
    sigchld: Sigchld,
    hosts: Vec<(Key, Box<dyn AsFd + Send>)>,
    waker: Option<Waker>,
    /// The timer for hosts that nest the reactor by its descriptor alone.
    #[cfg(target_os = "linux")]
    alarm: Option<sys::timerfd::Timerfd>,
    /// Whether the last poll had no room for more events, so that there may be some that it has not
    /// reported.
    full: bool,
    /// The time at which the wait of the present or last turn ended.
    woke: Instant,
    stopping: bool,
}

/// Who has asked for SIGCHLD.
#[derive(Debug, Default)]
struct Sigchld {
    for_host: bool,
    for_children: bool,
}

impl Reactor {
    /// Makes a reactor with the fastest mechanisms that the system has.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE` if there are not enough descriptors left (it takes eight at most), or
    /// another error of the system.
    pub fn new() -> io::Result<Self> {
        Self::with_methods(SpawnMethod::default(), ReapMethod::default())
    }

    /// Makes a reactor that starts and reaps children by the given methods.
    ///
    /// The methods to spawn differ in speed. The methods to reap differ in speed, and in this:
    ///
    /// | | [`ReapMethod::Pidfd`] | [`ReapMethod::Sigchld`] |
    /// | --- | --- | --- |
    /// | SIGCHLD | is left alone | has a handler from the first spawn until the reactor is dropped |
    /// | members of a group that outlive a stopped leader | are reached by its pidfd after it was reaped (Linux 6.9) | are reached while the leader is held unreaped |
    /// | a child that the host reaps itself, and whose number another child of the host gets | is told from it by the pidfd | is told from it by the time at which it was started, which `/proc` shows in hundredths of a second; its exit is reported when that other child has ended |
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_methods(spawn: SpawnMethod, reap: ReapMethod) -> io::Result<Self> {
        let spawner = Spawner::new(spawn)?;
        let poll = sys::fd::with_stdio_taken(Poll::new)?;
        let sources = Sources::new(poll.registry().try_clone()?);
        let now = clock();
        Ok(Self {
            poll,
            events: Some(Events::with_capacity(EVENTS)),
            buffer: Vec::new(),
            sources,
            processes: Slab::new(),
            ready: VecDeque::new(),
            reading: None,
            hearing: None,
            notices: VecDeque::new(),
            exited: VecDeque::new(),
            ended: Vec::new(),
            sweep: false,
            newborn: Vec::new(),
            rechecks: Vec::new(),
            living: None,
            trees: Trees::default(),
            #[cfg(target_os = "linux")]
            guard: guard::Guarding::default(),
            #[cfg(target_os = "linux")]
            orphans: None,
            #[cfg(target_os = "linux")]
            discards: discards::Discards::default(),
            stops: None,
            resumed: None,
            suspensions: stops::suspensions(),
            arrived_signals: VecDeque::new(),
            spawner,
            pidfds: reap == ReapMethod::Pidfd,
            nofile: None,
            timers: Timers::new(now),
            signals: None,
            sigchld: Sigchld::default(),
            hosts: Vec::new(),
            waker: None,
            #[cfg(target_os = "linux")]
            alarm: None,
            full: false,
            woke: now,
            stopping: false,
        })
    }

    /// Waits until something happens, at most for `timeout` (for ever if `None`), and delivers the
    /// events.
    ///
    /// `handler` is called once for each event, with the reactor itself, so that it can start
    /// processes, send signals and set timers. The order within a turn is: stopped processes, ready
    /// descriptors, exits (each after the child's own data), the data of other children, signals,
    /// timers. [The guide](crate::guide::design) has it in full. A turn without any event is
    /// normal.
    ///
    /// # Errors
    ///
    /// The system's error of the wait. An interruption by a signal is not an error. After an error
    /// the reactor has checked everything once without the wait, so nothing is lost, and the next
    /// turn may work. The error is `Other` if a handler calls this method.
    pub fn turn(&mut self, timeout: Option<Duration>, mut handler: impl FnMut(&mut Self, Event<'_>)) -> io::Result<()> {
        self.turn_dyn(timeout, &mut handler)
    }

    /// Takes turns until [`stop`](Self::stop) is called. If the system refuses a wait, it is tried
    /// again for five seconds, with a pause that grows from 1 ms to 0.5 s.
    ///
    /// # Errors
    ///
    /// As [`turn`](Self::turn), if the last attempt has also failed.
    pub fn run(&mut self, mut handler: impl FnMut(&mut Self, Event<'_>)) -> io::Result<()> {
        let mut patience = Patience::default();
        while !std::mem::take(&mut self.stopping) {
            self.turn_patiently(&mut patience, None, &mut handler)?;
        }
        Ok(())
    }

    /// Takes a turn. Its failure is an error only after many attempts.
    pub(crate) fn turn_patiently(
        &mut self,
        patience: &mut Patience,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> io::Result<()> {
        match self.turn_dyn(timeout, handler) {
            Ok(()) => patience.succeeded(),
            // A handler has called it, and a later attempt would fail too.
            Err(error) if self.events.is_none() => return Err(error),
            Err(error) => match patience.failed(clock()) {
                Some(pause) => sys::fd::pause(pause),
                None => return Err(error),
            },
        }
        Ok(())
    }

    /// Makes [`run`](Self::run) return after this turn, or at once if it is called later.
    /// [`run_service`](Self::run_service) stops its service first.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Tells whether [`stop`](Self::stop) was called, and resets this.
    pub(crate) fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.stopping)
    }

    /// Returns the time of the clock by which timers and processes are measured
    /// (`CLOCK_MONOTONIC`). The clock goes on while a handler works, so a timer or a process counts
    /// from the moment at which the handler sets or starts it.
    #[must_use]
    pub fn now(&self) -> Instant {
        clock()
    }

    /// Sets how long a child may take from its birth to its exec. The default is 10 s.
    ///
    /// A start takes well below a millisecond, unless the file system of the program, its directory
    /// or its files does not answer. A child that takes longer is killed. A child that a signal has
    /// stopped on its way is killed at once, because a process of the same user might try to block
    /// the host in this way. A SIGTERM, SIGINT, SIGQUIT or SIGHUP for the host also ends the wait,
    /// after a second. In each case the error's stage is [`Stage::Wait`](crate::Stage::Wait).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let mut reactor = childminder::Reactor::new()?;
    /// reactor.set_spawn_timeout(Duration::from_secs(2));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_spawn_timeout(&mut self, timeout: Duration) {
        self.spawner.set_timeout(timeout);
    }

    /// Requests one [`Event::Timer`], `delay` from [`now`](Self::now), and never in this turn.
    /// Timers with equal times fire in the order in which they were set.
    pub fn call_later(&mut self, delay: Duration) -> TimerId {
        self.timers.insert(self.now(), delay)
    }

    /// Sets a timer at an absolute time, as [`call_later`](Self::call_later) does for a delay.
    pub(crate) fn call_at(&mut self, deadline: Instant) -> TimerId {
        self.timers.insert(deadline, Duration::ZERO)
    }

    /// Cancels a timer. Returns whether it was still to fire.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.timers.cancel(id)
    }

    /// Makes a timer fire `delay` from now instead. Returns whether it was still to fire.
    pub fn reset_timer(&mut self, id: TimerId, delay: Duration) -> bool {
        self.timers.reset(id, self.now(), delay)
    }

    /// Makes a timer fire `delay` later than it would have. Returns whether it was still to fire.
    pub fn delay_timer(&mut self, id: TimerId, delay: Duration) -> bool {
        match self.timers.deadline(id) {
            Some(deadline) => self.timers.reset(id, deadline, delay),
            None => false,
        }
    }

    /// Returns when a timer will fire, or `None` if it has fired or was cancelled. It is `None`
    /// also within the timer's own event.
    #[must_use]
    pub fn timer_deadline(&self, id: TimerId) -> Option<Instant> {
        self.timers.deadline(id)
    }

    /// Starts a process. No event is delivered from inside this call, even if the process has
    /// already exited.
    ///
    /// The call waits until the program runs or has failed to start, at most for the
    /// [timeout](Self::set_spawn_timeout). That is how it can return the error.
    ///
    /// # Errors
    ///
    /// [`SpawnError`] says which step failed, on what, and why. Nothing is left behind then.
    pub fn spawn_process(&mut self, command: &Command) -> Result<ProcessId, SpawnError> {
        if !self.pidfds {
            // The handler must be installed before the child can exit.
            self.watch_children(command)?;
        }
        let key = self.processes.next_key();
        let child = self.start(command, key)?;
        let needs_sweep = child.needs_sweep();
        // If the host ignores SIGCHLD, or another thread of it waits for any child, the child may
        // be gone before it could have a pidfd.
        let gone = needs_sweep && child.has_ended();
        let inserted = self.processes.insert(child);
        debug_assert_eq!(key, inserted);
        if needs_sweep {
            // It has no pidfd, and it may have exited already: check it in the next turn.
            self.newborn.push(key);
        }
        if needs_sweep && !gone {
            self.watch_children(command).or_else(|error| self.give_up(key, error))?;
        }
        Ok(ProcessId(key))
    }

    /// Returns the process of this id, or `None` once it has ended.
    #[must_use]
    pub fn process(&mut self, id: ProcessId) -> Option<Process<'_>> {
        let child = self.processes.get_mut(id.0)?;
        Some(Process { id, child, sources: &mut self.sources, notices: &mut self.notices })
    }

    /// Returns how a process has exited, or `None` if it has not.
    ///
    /// It can be asked until the end of the turn after the one that has delivered its
    /// [`Event::Ended`]; from then on the result is `None`. So a host that asks in the turn after
    /// the exit or after the end gets the answer, whether the two came in one turn or not. What is
    /// left of its group is its [`tree`](Self::tree), which is there until the last member is gone.
    ///
    /// ```
    /// use childminder::{Command, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.spawn_process(Command::new("sh").args(["-c", "exit 3"]))?;
    /// while reactor.process(id).is_some() {
    ///     reactor.turn(None, |_, _| {})?;
    /// }
    /// assert_eq!(reactor.exit_of(id).and_then(|exit| exit.code()), Some(3));
    /// assert!(reactor.tree(id).is_none(), "nobody of its group is left");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn exit_of(&self, id: ProcessId) -> Option<&Exit> {
        match self.processes.get(id.0) {
            Some(child) => child.exit(),
            None => self.ended.iter().rev().find(|(key, _)| *key == id.0).map(|(_, exit)| &**exit),
        }
    }

    /// Returns the processes that have not ended.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.processes.iter().map(|(key, _)| ProcessId(key))
    }

    /// Raises this process's limit of open files as far as possible, and starts children with the
    /// limit from before. Returns the new soft limit, where `None` means no limit.
    ///
    /// # Errors
    ///
    /// The error of `setrlimit(2)`.
    #[doc(alias = "RLIMIT_NOFILE")]
    pub fn raise_fd_limit(&mut self) -> io::Result<Option<u64>> {
        let before = sys::limit::get(Resource::OpenFiles)?;
        sys::limit::set(Resource::OpenFiles, Limit { soft: before.hard, hard: before.hard })?;
        self.nofile.get_or_insert(before);
        Ok(before.hard)
    }

    fn turn_dyn(&mut self, timeout: Option<Duration>, handler: &mut dyn FnMut(&mut Self, Event<'_>)) -> io::Result<()> {
        let Some(events) = self.events.take() else {
            return Err(io::Error::other("a turn cannot be taken from within a turn"));
        };
        let buffer = std::mem::take(&mut self.buffer);
        // They are put back in any case, since a handler may panic and the host may catch it.
        let mut turn = Turn { reactor: self, events: Some(events), buffer };
        let result = turn.take(timeout, handler);
        drop(turn);
        #[cfg(target_os = "linux")]
        if self.alarm.is_some() {
            return result.and(self.arm_fd());
        }
        result
    }

    /// Returns when a timer is due, or a child must be checked again.
    fn next_due(&mut self) -> Option<Instant> {
        let looks = self.rechecks.iter().map(|recheck| recheck.at).chain(self.trees.next_due());
        #[cfg(target_os = "linux")]
        let looks = looks.chain(self.discards.due());
        #[cfg(target_os = "linux")]
        let looks = looks.chain(self.guard.due()).chain(self.orphans.as_ref().and_then(orphans::Orphanage::due));
        looks.chain(self.timers.next_deadline()).min()
    }

    /// Tells whether a turn has something to do without waiting.
    fn has_work(&self) -> bool {
        self.full
            || self.sweep
            || self.resumed.is_some()
            || !self.newborn.is_empty()
            || self.trees.has_news()
            || self.has_orphans_to_look_for()
            || self.sources.ready_len() > 0
            || !(self.ready.is_empty()
                && self.notices.is_empty()
                && self.exited.is_empty()
                && self.arrived_signals.is_empty())
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("processes", &self.processes.len())
            .field("timers", &self.timers.len())
            .field("hosts", &self.hosts.len())
            .field("woke", &self.woke)
            .finish_non_exhaustive()
    }
}
