//! The reactor: one wait for everything, then what happened is handed out.
//!
//! Knows no services and no policy. The only file that reads the clock. What is due is decided once a
//! turn, at the end of its wait; what is set or started counts from the clock at that moment. The one
//! rule: an event is never delivered from inside a call, only from a turn.

mod event;
#[cfg(target_os = "linux")]
mod guard;
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

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::command::Command;
use crate::error::SpawnError;
use crate::limit::{Limit, Resource};
use crate::process::{Child, Living, Notice, Process, ProcessId};
use crate::slab::{Key, Slab};
use crate::sources::{Source, Sources};
use crate::sys;
use crate::sys::clock;
use crate::sys::spawn::{SpawnMethod, Spawner};
pub use event::{Event, Interest, SourceId, Waker};
#[cfg(target_os = "linux")]
pub use orphans::Orphans;
pub(crate) use patience::Patience;
use reaper::Again;
pub use reaper::ReapMethod;
use signals::Signals;
pub(crate) use signals::{end_program, that_end_program};
use stops::Stops;
use timers::{TimerId, Timers};
use trees::Trees;
use turn::{Ready, Turn};

/// Events of one poll; those above it come with the next.
const EVENTS: usize = 1024;

/// Waits for child processes, their pipes, timers, signals and the host's own descriptors, on the thread that calls it.
///
/// Nothing happens but in [`turn`](Self::turn) (or [`run`](Self::run), which is a loop of turns): there is no thread behind
/// it, and no signal handler unless it is needed. `Send`: it may be made on one thread and used on another.
///
/// When it is dropped its pipes are closed and its children go on running, unsupervised; those that end later stay zombies
/// until the host does, as with [`std::process::Child`]. [`run_service`](Self::run_service) stops them before.
/// Nothing else is left of it, but for the handlers of signals that it watched (SIGCHLD among them with [`ReapMethod::Sigchld`]): they
/// stay, since others may have chained themselves to them, and do what was done before. [The guide](crate::guide::embedding) has the details.
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
    /// Both are out while a turn runs.
    events: Option<Events>,
    buffer: Vec<u8>,
    sources: Sources,
    processes: Slab<Child>,
    // What is known and not told yet. Nothing is taken out before its turn has come: a handler may panic.
    ready: VecDeque<Ready>,
    reading: Option<(Key, i32)>,
    notices: VecDeque<Notice>,
    /// Those that have died, or ended.
    dead: VecDeque<Key>,
    sweep: bool,
    /// Started without a pidfd, and not looked after since.
    newborn: Vec<Key>,
    /// Those that are dead and cannot be reaped yet.
    again: Vec<Again>,
    /// A look at who lives, for all that need it in a turn.
    living: Option<Living>,
    trees: Trees,
    #[cfg(target_os = "linux")]
    guard: guard::Guarding,
    #[cfg(target_os = "linux")]
    orphans: Option<orphans::Orphanage>,
    stops: Stops,
    /// How long the program stood still, until that is told.
    resumed: Option<Duration>,
    /// How often the program had been suspended when this reactor waited last.
    suspensions: u64,
    come: VecDeque<i32>,
    spawner: Spawner,
    pidfds: bool,
    nofile: Option<Limit>,
    timers: Timers,
    signals: Option<Signals>,
    sigchld: Sigchld,
    hosts: Vec<(Key, Box<dyn AsFd + Send>)>,
    waker: Option<Waker>,
    /// For hosts that nest by the descriptor alone.
    #[cfg(target_os = "linux")]
    alarm: Option<sys::timerfd::Timerfd>,
    /// The last poll had no room for more events: there may be some that it has not told.
    full: bool,
    /// When the wait of the present turn ended, or of the last one.
    woke: Instant,
    stopping: bool,
}

/// Who wants to know of SIGCHLD.
#[derive(Debug, Default)]
struct Sigchld {
    for_host: bool,
    for_children: bool,
}

impl Reactor {
    /// A reactor with the fastest mechanisms that the system has.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE` if there are not enough descriptors left (it takes eight at most), or what else the system says.
    pub fn new() -> io::Result<Self> {
        Self::with_methods(SpawnMethod::default(), ReapMethod::default())
    }

    /// A reactor that starts and reaps children in the given ways.
    ///
    /// The ways to spawn differ in speed. The ways to reap differ in speed, and in this:
    ///
    /// | | [`ReapMethod::Pidfd`] | [`ReapMethod::Sigchld`] |
    /// | --- | --- | --- |
    /// | SIGCHLD | is left alone | gets a handler, which stays |
    /// | members of a group that outlive a stopped leader | are reached by its pidfd after it was reaped (Linux 6.9) | are reached while the leader is held unreaped |
    /// | a child that the host reaps itself, and whose number another child of the host gets | is told from it by the pidfd | is told from it by the time at which it was started, which `/proc` shows in hundredths of a second; its exit is told when that other child has ended |
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
            notices: VecDeque::new(),
            dead: VecDeque::new(),
            sweep: false,
            newborn: Vec::new(),
            again: Vec::new(),
            living: None,
            trees: Trees::default(),
            #[cfg(target_os = "linux")]
            guard: guard::Guarding::default(),
            #[cfg(target_os = "linux")]
            orphans: None,
            stops: None,
            resumed: None,
            suspensions: stops::suspensions(),
            come: VecDeque::new(),
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

    /// Waits until something happens, at most for `timeout` (for ever if `None`), and hands out what happened.
    ///
    /// `handler` is called once for each event, with the reactor itself, so that it can start, signal and stop things. The
    /// order within a turn: data and closed pipes, exits, signals, timers. A turn without any event is normal.
    ///
    /// # Errors
    ///
    /// What the system says of the wait; being interrupted by a signal is no error. After such an error
    /// everything was looked at once without the wait, so nothing is lost, and the next turn may work.
    /// `Other` if it is called by a handler.
    pub fn turn(&mut self, timeout: Option<Duration>, mut handler: impl FnMut(&mut Self, Event<'_>)) -> io::Result<()> {
        self.turn_dyn(timeout, &mut handler)
    }

    /// Turns until [`stop`](Self::stop) is called. A wait that the system refuses is tried again for five
    /// seconds, with a pause that grows from 1 ms to 0.5 s.
    ///
    /// # Errors
    ///
    /// As [`turn`](Self::turn), if the last attempt has failed, too.
    pub fn run(&mut self, mut handler: impl FnMut(&mut Self, Event<'_>)) -> io::Result<()> {
        let mut patience = Patience::default();
        while !std::mem::take(&mut self.stopping) {
            self.turn_patiently(&mut patience, None, &mut handler)?;
        }
        Ok(())
    }

    /// A turn whose failures are errors only when patience has come to its end.
    pub(crate) fn turn_patiently(
        &mut self,
        patience: &mut Patience,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> io::Result<()> {
        match self.turn_dyn(timeout, handler) {
            Ok(()) => patience.succeeded(),
            // Called by a handler: no time would help.
            Err(error) if self.events.is_none() => return Err(error),
            Err(error) => match patience.failed(clock()) {
                Some(pause) => sys::fd::pause(pause),
                None => return Err(error),
            },
        }
        Ok(())
    }

    /// Makes [`run`](Self::run) return after this turn (or at once, if it is called later);
    /// [`run_service`](Self::run_service) stops its service first.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether [`stop`](Self::stop) was called; forgets it.
    pub(crate) fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.stopping)
    }

    /// The time now, by the clock that timers and processes are measured by (`CLOCK_MONOTONIC`). It goes
    /// on while a handler works, so what the handler sets or starts counts from that moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        clock()
    }

    /// When a turn has something to do even if no descriptor becomes ready: for nesting in another loop. In the past (or now) if
    /// there is something to do at once, `None` if never.
    #[must_use]
    pub fn next_deadline(&mut self) -> Option<Instant> {
        if self.has_work() { Some(self.woke) } else { self.next_due() }
    }

    /// Has the reactor's descriptor ([`AsFd`]) become readable at [`next_deadline`](Self::next_deadline) too: for loops that know
    /// descriptors and no time-outs. Each turn sets it anew from now on; call this again after calls from outside of a turn
    /// that may bring the deadline forward (a spawn, a timer, anything done to a [`Process`]). Linux only; it takes a `timerfd_create(2)`.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, the first time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use childminder::Reactor;
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.call_later(Duration::from_millis(20));
    /// reactor.arm_fd()?;
    /// // Now `poll(2)` without a time-out would return when the timer is due.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(target_os = "linux")]
    pub fn arm_fd(&mut self) -> io::Result<()> {
        if self.alarm.is_none() {
            let alarm = sys::timerfd::Timerfd::new()?;
            self.sources.register(alarm.as_fd(), mio::Interest::READABLE, Source::Alarm)?;
            self.alarm = Some(alarm);
        }
        let delay = self.next_deadline().map(|deadline| deadline.saturating_duration_since(clock()));
        self.alarm.as_ref().map_or(Ok(()), |alarm| alarm.set(delay))
    }

    /// How long a child may take from its birth to its exec: 10 s unless set. It takes well below a millisecond, unless
    /// the file system of its program, its directory or its files does not answer. One that takes longer is killed, and so is, at once,
    /// one that stands still because a signal has stopped it: a process of the same user might try to hold up the host so. A
    /// SIGTERM, SIGINT, SIGQUIT or SIGHUP for the host ends the wait as well, after a second. In each case the error's stage is
    /// [`Stage::Wait`](crate::Stage::Wait).
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

    /// Has [`Event::Timer`] come once, `delay` from [`now`](Self::now), and never in this turn. Equal times fire in the order
    /// in which they were asked for.
    pub fn call_later(&mut self, delay: Duration) -> TimerId {
        self.timers.insert(self.now(), delay)
    }

    /// As [`call_later`](Self::call_later), at a time that was reckoned before.
    pub(crate) fn call_at(&mut self, deadline: Instant) -> TimerId {
        self.timers.insert(deadline, Duration::ZERO)
    }

    /// Takes back a timer. Whether it was still to fire.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.timers.cancel(id)
    }

    /// Has a timer fire `delay` from now instead. Whether it was still to fire.
    pub fn reset_timer(&mut self, id: TimerId, delay: Duration) -> bool {
        self.timers.reset(id, self.now(), delay)
    }

    /// Has a timer fire `delay` later than it would have. Whether it was still to fire.
    pub fn delay_timer(&mut self, id: TimerId, delay: Duration) -> bool {
        match self.timers.deadline(id) {
            Some(deadline) => self.timers.reset(id, deadline, delay),
            None => false,
        }
    }

    /// When a timer will fire; `None` if it has fired or was cancelled, also within its own event.
    #[must_use]
    pub fn timer_deadline(&self, id: TimerId) -> Option<Instant> {
        self.timers.deadline(id)
    }

    /// Starts a process. Nothing is delivered from inside this call, even if the process is dead already.
    ///
    /// The thread stands still until the program runs or has failed to, at most for the
    /// [time-out](Self::set_spawn_timeout): that is how the error can be returned here.
    ///
    /// # Errors
    ///
    /// [`SpawnError`] says which step failed, on what, and why; nothing is left behind then.
    pub fn spawn_process(&mut self, command: &Command) -> Result<ProcessId, SpawnError> {
        if !self.pidfds {
            // The handler must be there before the child can die.
            self.watch_children(command)?;
        }
        let key = self.processes.next_key();
        let child = self.start(command, key)?;
        let needs_sweep = child.needs_sweep();
        // Where the host ignores SIGCHLD, or another thread of it waits for anybody, it may be gone before it could have a pidfd.
        let gone = needs_sweep && child.has_ended();
        let inserted = self.processes.insert(child);
        debug_assert_eq!(key, inserted);
        if needs_sweep {
            // Its pidfd could not be had, and it may be dead already: look in the next turn.
            self.newborn.push(key);
        }
        if needs_sweep && !gone {
            self.watch_children(command).or_else(|error| self.give_up(key, error))?;
        }
        Ok(ProcessId(key))
    }

    /// The process of this id, to be talked to; `None` once it has ended.
    #[must_use]
    pub fn process(&mut self, id: ProcessId) -> Option<Process<'_>> {
        let child = self.processes.get_mut(id.0)?;
        Some(Process { id, child, sources: &mut self.sources, notices: &mut self.notices })
    }

    /// The processes that have not ended.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.processes.iter().map(|(key, _)| ProcessId(key))
    }

    /// Has [`Event::Signal`] come for a signal. A handler that the host had before is still called; the signal's default
    /// action is not carried out as long as a reactor watches it. In the thread that calls, the signal is no longer blocked.
    ///
    /// A signal that the kernel raises for a fault of the program (SIGSEGV, SIGABRT and the like) is told only if a process
    /// has sent it; a fault still does what it did.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a number that is no signal or that cannot be caught (SIGKILL, SIGSTOP).
    pub fn watch_signal(&mut self, signal: i32) -> io::Result<()> {
        self.watch(&[signal])?;
        self.sigchld.for_host |= signal == libc::SIGCHLD;
        Ok(())
    }

    /// Whether the host has asked for this signal.
    pub(crate) fn watches_signal(&self, signal: i32) -> bool {
        self.signals.as_ref().is_some_and(|signals| signals.watches(signal))
    }

    /// Watches these signals, or none of them if there is an error.
    pub(crate) fn watch(&mut self, signals: &[i32]) -> io::Result<()> {
        if self.signals.is_none() {
            let signals = Signals::new()?;
            self.sources.register(signals.as_fd(), mio::Interest::READABLE, Source::Signals)?;
            self.signals = Some(signals);
        }
        self.signals.as_mut().map_or(Ok(()), |known| known.watch(signals))
    }

    /// Whether this process ignores a signal, as one that nohup(1) has started ignores SIGHUP: a program should leave it so.
    ///
    /// ```
    /// // Rust's runtime ignores it, so that a closed pipe is an error and not the end.
    /// assert!(childminder::Reactor::ignores_signal(libc::SIGPIPE));
    /// ```
    #[must_use]
    #[doc(alias = "SIG_IGN")]
    pub fn ignores_signal(signal: i32) -> bool {
        sys::signal::is_ignored(signal)
    }

    /// Takes back [`watch_signal`](Self::watch_signal). When no reactor of the process watches the signal any more, its action is again
    /// what it was before, unless the host has set another one meanwhile. Whether the signal was watched.
    pub fn unwatch_signal(&mut self, signal: i32) -> bool {
        if signal == libc::SIGCHLD {
            let watched = std::mem::take(&mut self.sigchld.for_host);
            if self.sigchld.for_children {
                return watched;
            }
        }
        self.signals.as_mut().is_some_and(|signals| signals.unwatch(signal))
    }

    /// Takes back [`watch`](Self::watch) for these signals. Those of them that have come and that nobody was told of.
    pub(crate) fn release_signals(&mut self, numbers: &[i32]) -> Vec<i32> {
        self.come.extend(self.signals.as_mut().map(|signals| signals.release(numbers)).unwrap_or_default());
        let (untold, come) = std::mem::take(&mut self.come).into_iter().partition(|number| numbers.contains(number));
        self.come = come;
        untold.into()
    }

    /// Has [`Event::Ready`] come for a descriptor of the host's: anything that has one, such as an
    /// `Arc<TcpListener>` of which the host keeps a clone. Make it non-blocking.
    ///
    /// # Errors
    ///
    /// What the system says: `EPERM` for a regular file, which is always ready.
    pub fn register(&mut self, fd: impl AsFd + Send + 'static, interest: Interest) -> io::Result<SourceId> {
        let wanted = match interest {
            Interest::Readable => mio::Interest::READABLE,
            Interest::Writable => mio::Interest::WRITABLE,
            Interest::Both => mio::Interest::READABLE | mio::Interest::WRITABLE,
        };
        let key = self.sources.register(fd.as_fd(), wanted, Source::Host)?;
        self.hosts.push((key, Box::new(fd)));
        Ok(SourceId(key))
    }

    /// Takes back [`register`](Self::register) and drops what was given. Whether it was registered.
    pub fn deregister(&mut self, id: SourceId) -> bool {
        let Some(index) = self.hosts.iter().position(|(key, _)| *key == id.0) else { return false };
        let (key, fd) = self.hosts.swap_remove(index);
        // The kernel has forgotten it already if the host closed it behind our back.
        let _ = self.sources.deregister(key, fd.as_fd());
        true
    }

    /// What wakes this reactor from another thread.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, the first time.
    pub fn waker(&mut self) -> io::Result<Waker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let make = |registry: &mio::Registry, token| sys::fd::with_stdio_taken(|| mio::Waker::new(registry, token));
        let waker = self.sources.register_with(Source::Waker, make)?;
        let waker = Waker(Arc::new(waker));
        self.waker = Some(waker.clone());
        Ok(waker)
    }

    /// Raises this process's limit of open files as far as it goes, and has children start with the one from before. The new soft
    /// limit; `None` is none.
    ///
    /// # Errors
    ///
    /// What `setrlimit(2)` says.
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
        // Put back whatever happens: a handler may panic, and the host may catch it.
        let mut turn = Turn { reactor: self, events: Some(events), buffer };
        let result = turn.take(timeout, handler);
        drop(turn);
        #[cfg(target_os = "linux")]
        if self.alarm.is_some() {
            return result.and(self.arm_fd());
        }
        result
    }

    /// When a timer is due, or a child is to be looked at again.
    fn next_due(&mut self) -> Option<Instant> {
        let looks = self.again.iter().map(|again| again.at).chain(self.trees.next_due());
        #[cfg(target_os = "linux")]
        let looks = looks.chain(self.guard.retry_at).chain(self.orphans.as_ref().and_then(orphans::Orphanage::due));
        looks.chain(self.timers.next_deadline()).min()
    }

    /// Whether a turn has something to do without waiting.
    fn has_work(&self) -> bool {
        self.full
            || self.sweep
            || self.resumed.is_some()
            || !self.newborn.is_empty()
            || self.trees.has_news()
            || self.has_orphans_to_look_for()
            || self.sources.ready_len() > 0
            || !(self.ready.is_empty() && self.notices.is_empty() && self.dead.is_empty() && self.come.is_empty())
    }
}

/// Readable when a turn has something to do, except for what [`next_deadline`](Self::next_deadline) knows; after
/// `arm_fd` (Linux) including that.
///
/// To nest in another loop, watch it for reading, by level or by edge; wait no longer than until
/// [`next_deadline`](Self::next_deadline); then take one turn of no length: `turn(Some(Duration::ZERO), …)`.
///
/// ```
/// use std::os::fd::AsFd;
/// use std::time::Duration;
///
/// use childminder::{Command, Event, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// reactor.spawn_process(&Command::new("true"))?;
/// let mut host = mio::Poll::new()?; // in place of the loop that the host has anyway
/// let fd = reactor.as_fd().try_clone_to_owned()?;
/// let source = &mut mio::unix::SourceFd(&std::os::fd::AsRawFd::as_raw_fd(&fd));
/// host.registry().register(source, mio::Token(0), mio::Interest::READABLE)?;
/// let (mut events, mut ended) = (mio::Events::with_capacity(8), false);
/// while !ended {
///     let timeout = reactor.next_deadline().map(|deadline| deadline.saturating_duration_since(reactor.now()));
///     host.poll(&mut events, timeout)?;
///     reactor.turn(Some(Duration::ZERO), |_, event| ended |= matches!(event, Event::Ended { .. }))?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::fd::borrow(&self.poll)
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
