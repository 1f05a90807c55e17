//! Keeps processes running: their names, the processes, and the lines that these write.
//!
//! This file has the methods that a host calls. What happens to the processes comes in through
//! `events`. It decides nothing; `restart` does. The one rule: a request to start or stop a process
//! becomes an input of the entry's `Lifecycle`, and no method here starts or signals a process
//! itself.

mod checks;
mod connect;
mod entry;
mod events;
mod helpers;
mod observer;
mod order;
mod policy;
mod policy_builder;
mod requests;
pub mod restart;
pub mod simulation;
pub(crate) mod streams;
mod time;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use crate::command::Command;
use crate::io_error::into_io_error;
use crate::lines::MAX_LINE;
use crate::process::ProcessId;
use crate::reactor::Reactor;
use crate::reactor::timers::TimerId;
pub use entry::Status;
use entry::{Entry, Output};
use helpers::Helpers;
pub use observer::{Line, Lines, Log, Observer};
use order::machine::Machine;
pub use order::{Group, Order, OrderError, OrderErrors, Strategy, When};
use restart::{Input, Next, Policy, PolicyError, State};
pub use watch::{Check, Fault, Health, Probe, Readiness, Ready, Watch};

/// Keeps processes running: starts each one, restarts it after an exit, backs off when that happens
/// too fast, and stops them all with the whole of their process groups. This is Twisted's
/// `ProcessMonitor`.
///
/// It is a [`Service`](crate::Service): [`Reactor::run_service`] runs it, or a host's own loop
/// passes events to [`Service::handle`](crate::Service::handle). What it does and what the
/// processes write goes to its [`Observer`], which by default is the `log` crate.
///
/// ```
/// use childminder::{Command, Event, ProcessMonitor, Reactor, Service};
///
/// let mut reactor = Reactor::new()?;
/// let mut monitor = ProcessMonitor::new();
/// monitor.add_process(&mut reactor, "web", Command::new("sleep").arg("60"))?;
/// monitor.start_service(&mut reactor);
/// assert!(monitor.status("web").is_some_and(|web| web.pid.is_some()));
///
/// monitor.stop_service(&mut reactor);
/// while !monitor.is_down() {
///     reactor.turn(None, |reactor, event| {
///         monitor.handle(reactor, &event);
///     })?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ProcessMonitor<O = Log> {
    observer: O,
    policy: Arc<Policy>,
    max_line: usize,
    running: bool,
    /// The entries, in the order in which they were added.
    entries: BTreeMap<u64, Box<Entry>>,
    /// How many entries are not down. This is asked for in each turn.
    up: usize,
    next_key: u64,
    names: HashMap<Arc<str>, u64>,
    /// The output of every process of ours that has not ended, including exited ones whose pipes
    /// other processes still hold.
    outputs: HashMap<ProcessId, Output>,
    timers: HashMap<TimerId, u64>,
    /// Our exited processes, until the reactor reports the end of their tree.
    trees: HashMap<ProcessId, u64>,
    /// The order of the processes, if there is one.
    order: Option<Box<Ordered>>,
    helpers: Helpers,
    /// The seed of all jitter.
    seed: u64,
}

/// The order of the processes.
#[derive(Debug)]
struct Ordered {
    order: Order,
    machine: Machine,
    /// The names of the processes that others wait for to be ready.
    awaited: HashSet<String>,
    timer: Option<(TimerId, Instant)>,
}

/// The error of a request that a monitor refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorError {
    /// There already is a process of this name. Remove it first.
    Duplicate(String),
    /// There is no process of this name.
    Unknown(String),
    /// The policy is not valid.
    Policy(PolicyError),
    /// The order is not valid.
    Order(OrderErrors),
    /// A rolling restart is under way already.
    Rolling,
}

impl fmt::Display for MonitorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(name) => write!(f, "there is a process `{name}` already; remove it first"),
            Self::Unknown(name) => write!(f, "there is no process `{name}`"),
            Self::Policy(error) => error.fmt(f),
            Self::Order(errors) => errors.fmt(f),
            Self::Rolling => f.write_str("a rolling restart is under way already"),
        }
    }
}

impl Error for MonitorError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Policy(error) => Some(error),
            Self::Order(errors) => Some(errors),
            Self::Rolling | Self::Duplicate(_) | Self::Unknown(_) => None,
        }
    }
}

impl MonitorError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Duplicate(_) => ErrorKind::AlreadyExists,
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Policy(_) | Self::Order(_) => ErrorKind::InvalidInput,
            Self::Rolling => ErrorKind::ResourceBusy,
        }
    }
}

into_io_error!(MonitorError, MonitorError::kind);

impl From<PolicyError> for MonitorError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

impl ProcessMonitor {
    /// Makes a monitor without processes, with the default [`Policy`], that reports to the `log`
    /// crate.
    #[must_use]
    pub fn new() -> Self {
        Self::with_observer(Log)
    }
}

impl Default for ProcessMonitor {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Observer> ProcessMonitor<O> {
    /// Makes a monitor that reports to `observer`.
    #[must_use]
    pub fn with_observer(observer: O) -> Self {
        Self {
            observer,
            policy: Arc::default(),
            max_line: MAX_LINE,
            running: false,
            entries: BTreeMap::new(),
            up: 0,
            next_key: 0,
            names: HashMap::new(),
            outputs: HashMap::new(),
            timers: HashMap::new(),
            trees: HashMap::new(),
            order: None,
            helpers: Helpers::default(),
            seed: 0,
        }
    }

    /// The observer that receives this monitor's events.
    #[must_use]
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// The observer that receives this monitor's events.
    pub fn observer_mut(&mut self) -> &mut O {
        &mut self.observer
    }

    /// Returns the policy of processes that are added without one of their own.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Sets the policy of processes that are added from now on without one of their own.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Policy`] if it is not valid.
    pub fn set_policy(&mut self, policy: impl Into<Arc<Policy>>) -> Result<(), MonitorError> {
        let policy = policy.into();
        policy.validate()?;
        self.policy = policy;
        Ok(())
    }

    /// Sets the policy of one process. Everything that is pending follows it: see
    /// [`Lifecycle::set_policy`](restart::Lifecycle::set_policy).
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`], or [`MonitorError::Policy`] if it is not valid.
    pub fn set_process_policy(
        &mut self,
        reactor: &mut Reactor,
        name: &str,
        policy: impl Into<Arc<Policy>>,
    ) -> Result<(), MonitorError> {
        let policy = policy.into();
        policy.validate()?;
        let key = self.key(name)?;
        if let Some(entry) = self.entries.get_mut(&key) {
            let (before, was_down) = (entry.life.state(), entry.is_down());
            entry.life.set_policy(policy);
            entry.prepare_exit(reactor);
            self.settle_entry(reactor, key, (before, was_down), reactor.now());
        }
        self.tell_order(reactor, key);
        Ok(())
    }

    /// Returns the policy of one process, or `None` if there is none of this name.
    #[must_use]
    pub fn process_policy(&self, name: &str) -> Option<&Policy> {
        self.key(name).ok().and_then(|key| self.entries.get(&key)).map(|entry| entry.life.policy())
    }

    /// Sets how long a line may be, in bytes, before it is handed on in pieces. The default is 16
    /// KiB. It applies to processes started from now on.
    ///
    /// A piece is up to three bytes shorter if the limit is in the middle of a UTF-8 character. A
    /// character of more bytes than the limit is cut.
    pub fn set_max_line(&mut self, bytes: usize) {
        self.max_line = bytes;
    }

    /// Adds a process, which is started at once if the service is running.
    ///
    /// If a process of the same name was removed and is still stopping, the new one starts when
    /// that one is gone.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Duplicate`] if there already is a process of this name.
    pub fn add_process(
        &mut self,
        reactor: &mut Reactor,
        name: impl Into<Arc<str>>,
        command: &Command,
    ) -> Result<(), MonitorError> {
        let policy = Arc::clone(&self.policy);
        self.add_process_with(reactor, name, command, policy)
    }

    /// Adds a process with a policy of its own: see [`add_process`](Self::add_process).
    ///
    /// # Errors
    ///
    /// [`MonitorError::Duplicate`], or [`MonitorError::Policy`] if the policy is not valid.
    pub fn add_process_with(
        &mut self,
        reactor: &mut Reactor,
        name: impl Into<Arc<str>>,
        command: &Command,
        policy: impl Into<Arc<Policy>>,
    ) -> Result<(), MonitorError> {
        let (name, policy) = (name.into(), policy.into());
        policy.validate()?;
        let key = match self.names.get(&name) {
            Some(key) if self.entries.get(key).is_some_and(|entry| entry.removed) => {
                self.reuse(reactor, *key, command, policy)
            }
            Some(_) => return Err(MonitorError::Duplicate(name.to_string())),
            None => self.insert(name, command, policy, reactor.now()),
        };
        if self.running {
            self.request(reactor, key, Input::Start);
        }
        Ok(())
    }

    /// Stops a process and removes it. Its name is free at once, although the process may take its
    /// kill time to stop. The observer still receives the lines that its leftover processes write
    /// to its pipes.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    pub fn remove_process(&mut self, reactor: &mut Reactor, name: &str) -> Result<(), MonitorError> {
        let key = self.key(name)?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.removed = true;
        }
        self.request(reactor, key, Input::Stop);
        Ok(())
    }

    /// Starts a process, whether or not the service is running. This has no effect if the process
    /// runs. A process that is backing off is started now, and one that is stopping is started when
    /// it is gone.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    pub fn start_process(&mut self, reactor: &mut Reactor, name: &str) -> Result<(), MonitorError> {
        self.request_by_name(reactor, name, Input::Start)
    }

    /// Stops a process, which stays stopped until [`start_process`](Self::start_process) or the
    /// next start of the service. Its process group gets the stop signal (then SIGCONT), and
    /// SIGKILL after the kill time.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    pub fn stop_process(&mut self, reactor: &mut Reactor, name: &str) -> Result<(), MonitorError> {
        self.request_by_name(reactor, name, Input::Stop)
    }

    /// Stops a process and starts it again as soon as it is gone (Twisted's `stopProcess`). This
    /// does not count as an instant death. A process that is not running is started.
    ///
    /// # Errors
    ///
    /// [`MonitorError::Unknown`].
    pub fn restart_process(&mut self, reactor: &mut Reactor, name: &str) -> Result<(), MonitorError> {
        self.request_by_name(reactor, name, Input::Restart)
    }

    /// Restarts all processes, as [`restart_process`](Self::restart_process) does, except for
    /// stopped, stopping and exited ones.
    pub fn restart_all(&mut self, reactor: &mut Reactor) {
        for key in self.keys() {
            let up = self.entries.get(&key).is_some_and(|entry| match entry.life.state() {
                State::Stopped | State::Exited | State::Failed { .. } => false,
                State::Stopping { next, .. } => matches!(next, Next::Start | Next::Recover { .. }),
                State::Waiting { .. } | State::Starting | State::Running { .. } | State::BackingOff { .. } => true,
            });
            if up {
                self.request(reactor, key, Input::Restart);
            }
        }
    }

    /// Returns the line that a process has begun on one of its descriptors, without a newline yet,
    /// or `None` if there is none. It is passed to the observer when it is complete, or at the end
    /// of the stream: this shows a prompt before that.
    ///
    /// Of a line that is longer than [`set_max_line`](Self::set_max_line), only the part is here
    /// that has not been passed on.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::{Command, ProcessMonitor, Reactor, Service};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let mut monitor = ProcessMonitor::new();
    /// monitor.add_process(&mut reactor, "ask", Command::new("sh").args(["-c", "printf 'name? '; sleep 60"]))?;
    /// monitor.start_service(&mut reactor);
    /// let process = monitor.status("ask").and_then(|status| status.process).unwrap();
    /// while monitor.unfinished_line(process, 1).is_none() {
    ///     reactor.turn(None, |reactor, event| {
    ///         monitor.handle(reactor, &event);
    ///     })?;
    /// }
    /// assert_eq!(monitor.unfinished_line(process, 1), Some(&b"name? "[..]));
    /// # monitor.kill_service(&mut reactor);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unfinished_line(&self, process: ProcessId, fd: i32) -> Option<&[u8]> {
        self.outputs.get(&process)?.streams.unfinished(fd)
    }

    /// Returns the names, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.values().filter(|entry| !entry.removed).map(|entry| &*entry.name)
    }

    /// Returns the status of a process, or `None` if there is none of this name.
    #[must_use]
    pub fn status(&self, name: &str) -> Option<Status<'_>> {
        self.key(name).ok().and_then(|key| self.entries.get(&key)).map(|entry| entry.status())
    }

    /// Returns the status of all processes, in the order in which they were added.
    pub fn statuses(&self) -> impl Iterator<Item = Status<'_>> {
        self.entries.values().filter(|entry| !entry.removed).map(|entry| entry.status())
    }

    fn keys(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }

    /// Returns the entry of a name that has not been removed.
    fn key(&self, name: &str) -> Result<u64, MonitorError> {
        let key = self.names.get(name).filter(|key| self.entries.get(key).is_some_and(|entry| !entry.removed));
        key.copied().ok_or_else(|| MonitorError::Unknown(name.to_owned()))
    }

    fn insert(&mut self, name: Arc<str>, command: &Command, policy: Arc<Policy>, now: Instant) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.names.insert(Arc::clone(&name), key);
        let life = self.lifecycle(&name, policy);
        let entry = Entry::new(name, command.clone(), life, now);
        self.entries.insert(key, Box::new(entry));
        key
    }

    /// Adds a name again while its old process is still stopping. The entry becomes the new one's,
    /// and moves to the last place.
    fn reuse(&mut self, reactor: &mut Reactor, old: u64, command: &Command, policy: Arc<Policy>) -> u64 {
        let Some(mut entry) = self.entries.remove(&old) else { return old };
        let key = self.next_key;
        self.next_key += 1;
        entry.command = command.clone();
        entry.life.set_policy(policy);
        entry.removed = false;
        if let Some(ordered) = &mut self.order {
            ordered.machine.renew(old, key);
        }
        if let Some(check) = entry.take_check() {
            self.helpers.end(reactor, check);
        }
        entry.watched = None;
        entry.starts = 0;
        entry.past_mut().last_exit = None;
        self.names.insert(Arc::clone(&entry.name), key);
        let past = entry.past();
        for id in entry.process.iter().chain(&past.unended).chain(&past.left) {
            if let Some(output) = self.outputs.get_mut(id) {
                output.entry = key;
            }
            if let Some(owner) = self.trees.get_mut(id) {
                *owner = key;
            }
        }
        if let Some((timer, _)) = entry.timer {
            self.timers.insert(timer, key);
        }
        self.entries.insert(key, entry);
        key
    }
}

/// Displayed as in Twisted: `<ProcessMonitor 'web'(33:33): ["nginx"] 'ping': ["ping", "::1"]>`,
/// where the numbers are user and group.
impl<O> fmt::Debug for ProcessMonitor<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<ProcessMonitor")?;
        for entry in self.entries.values().filter(|entry| !entry.removed) {
            let command = &entry.command;
            write!(f, " '{}'", entry.name)?;
            match (command.get_uid(), command.get_gid()) {
                (None, None) => {}
                (Some(uid), None) => write!(f, "({uid})")?,
                (None, Some(gid)) => write!(f, "(:{gid})")?,
                (Some(uid), Some(gid)) => write!(f, "({uid}:{gid})")?,
            }
            let argv: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
            write!(f, ": {argv:?}")?;
        }
        f.write_str(">")
    }
}
