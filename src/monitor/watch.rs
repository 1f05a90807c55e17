//! Whether a process is ready and well: the settings, and the state machine that decides.
//!
//! It starts no check and reads no clock. The one rule: the machine is pure, and knows nothing of
//! restarts; it only says that a process has become ready, has a fault, or is to be checked.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::time::after;

/// How a monitor knows that a process is ready and well: see
/// [`ProcessMonitor::set_watch`](crate::ProcessMonitor::set_watch).
///
/// # Examples
///
/// ```
/// use childminder::{Check, Command, Probe, ProcessMonitor, Reactor, Ready, Watch};
/// use std::time::Duration;
///
/// let mut reactor = Reactor::new()?;
/// let mut monitor = ProcessMonitor::new();
/// monitor.add_process(&mut reactor, "db", Command::new("redis-server").args(["--port", "6380"]))?;
/// let mut watch = Watch::default();
/// watch.ready = Ready::Probe(Probe::new(Check::Tcp("127.0.0.1:6380".parse()?)));
/// watch.ready_timeout = Some(Duration::from_secs(30));
/// monitor.set_watch(&mut reactor, "db", watch)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch {
    /// What makes the process ready.
    pub ready: Ready,
    /// How long it may take to become ready. If it takes longer, its start has failed: it is
    /// stopped, and restarted as after an instant death. Without limit by default.
    pub ready_timeout: Option<Duration>,
    /// The longest time between two signs of life (`WATCHDOG=1`), counted from the moment at which
    /// it is ready. A process that gives none in time is stopped and restarted. It is told the
    /// interval in the variable `WATCHDOG_USEC`. None by default.
    pub watchdog: Option<Duration>,
    /// A check that is repeated as long as the process is ready. None by default.
    pub health: Option<Health>,
}

impl Watch {
    /// Whether the process is to get a socket for messages: see [`Ready::Notify`].
    pub(super) fn wants_messages(&self) -> bool {
        self.ready == Ready::Notify || self.watchdog.is_some()
    }
}

/// What makes a process ready.
///
/// # Examples
///
/// ```
/// use childminder::{Ready, Watch};
///
/// assert_eq!(Watch::default().ready, Ready::Threshold);
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ready {
    /// It has run for the [threshold](crate::Policy::threshold).
    #[default]
    Threshold,
    /// It was started.
    Started,
    /// It has written a newline to this file descriptor, which is a pipe to the monitor. This is
    /// the protocol of s6 (<https://skarnet.org/software/s6/notifywhenup.html>).
    Fd(i32),
    /// It has sent `READY=1` to its `NOTIFY_SOCKET`. This is the protocol of systemd:
    /// `sd_notify(3)`.
    Notify,
    /// A line of its output contains this text.
    Line(Vec<u8>),
    /// A check has passed.
    Probe(Probe),
}

/// A check that is repeated.
///
/// # Examples
///
/// ```
/// use childminder::{Check, Probe};
/// use std::time::Duration;
///
/// let probe = Probe::new(Check::Unix("/run/web.sock".into()));
/// assert_eq!((probe.interval, probe.timeout), (Duration::from_secs(1), Duration::from_secs(5)));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is checked.
    pub check: Check,
    /// The time from the end of a check to the next one. 1 s by default.
    pub interval: Duration,
    /// How long a check may take before it has failed. 5 s by default.
    pub timeout: Duration,
}

impl Probe {
    /// Makes a probe with the default times.
    #[must_use]
    pub fn new(check: Check) -> Self {
        Self { check, interval: Duration::from_secs(1), timeout: Duration::from_secs(5) }
    }
}

/// What a probe checks.
///
/// # Examples
///
/// ```
/// use childminder::Check;
///
/// let check = Check::Command(std::sync::Arc::new(vec!["pg_isready".into(), "--quiet".into()]));
/// assert_eq!(check.to_string(), "`pg_isready --quiet`");
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A server accepts connections at this address.
    Tcp(SocketAddr),
    /// A server accepts connections at this Unix socket.
    Unix(PathBuf),
    /// This program with these arguments exits with code 0. It runs with the settings of the
    /// process's own command, without output, and with the process's pid in the variable `MAINPID`.
    Command(Arc<Vec<OsString>>),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Command(words) => {
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
                write!(f, "`{}`", words.join(" "))
            }
        }
    }
}

/// A check of a process that is ready.
///
/// # Examples
///
/// ```
/// use childminder::{Check, Health, Probe};
///
/// let probe = Probe::new(Check::Tcp("127.0.0.1:80".parse()?));
/// let health = Health::new(probe, 3);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The check. After the first failure the process is not ready, until a check passes again.
    pub probe: Probe,
    /// The number of failures in a row after which the process is stopped and restarted. 0 counts
    /// as 1.
    pub failures: u32,
}

impl Health {
    /// Makes a check that fails for good after so many failures in a row.
    #[must_use]
    pub fn new(probe: Probe, failures: u32) -> Self {
        Self { probe, failures }
    }
}

/// Whether a process is ready.
///
/// # Examples
///
/// ```
/// use childminder::{Command, ProcessMonitor, Reactor, Readiness};
///
/// let mut reactor = Reactor::new()?;
/// let mut monitor = ProcessMonitor::new();
/// monitor.add_process(&mut reactor, "web", &Command::new("true"))?;
/// assert_eq!(monitor.status("web").unwrap().readiness, Readiness::Absent);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Readiness {
    /// There is no process, or whether it is ready is of no interest.
    #[default]
    Absent,
    /// It has been started and is not ready yet.
    Pending,
    /// It is ready.
    Ready,
    /// It was ready and is not ready any more.
    Lost,
}

/// Why a process that is alive has to be replaced.
///
/// # Examples
///
/// ```
/// use childminder::Fault;
/// use std::time::Duration;
///
/// let fault = Fault::Watchdog(Duration::from_secs(3));
/// assert_eq!(fault.to_string(), "it has given no sign of life for 3s");
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It was not ready after this time.
    NotReady(Duration),
    /// It gave no sign of life for this time.
    Watchdog(Duration),
    /// It has said itself that it does not work (`WATCHDOG=trigger`).
    Triggered,
    /// This many health checks in a row have failed.
    Unhealthy(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady(time) => write!(f, "it was not ready after {time:?}"),
            Self::Watchdog(time) => write!(f, "it has given no sign of life for {time:?}"),
            Self::Triggered => f.write_str("it has said itself that it does not work"),
            Self::Unhealthy(1) => f.write_str("a health check has failed"),
            Self::Unhealthy(count) => write!(f, "{count} health checks in a row have failed"),
        }
    }
}

/// What happens to a process, as far as it concerns whether it is ready and well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It was started, and its policy has this threshold.
    Spawned { threshold: Duration },
    /// It is gone or asked to stop.
    Gone,
    /// It has said that it is ready.
    Ready,
    /// It has said that it is not ready any more.
    Unready,
    /// It has given a sign of life.
    Alive,
    /// It gives its signs of life within this time from now on.
    Interval(Duration),
    /// It has said that it does not work.
    Triggered,
    /// It needs this much time from now on.
    Extend(Duration),
    /// The check has passed.
    Passed,
    /// The check has failed.
    Failed,
    /// The deadline has passed.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Report that it has become ready.
    Ready,
    /// Report that it is not ready any more.
    Lost,
    /// Replace it.
    Fault(Fault),
    /// Begin a check, and pass in [`Sign::Passed`] or [`Sign::Failed`].
    Check,
    /// End the check that is under way. If the process still runs, [`Sign::Failed`] follows.
    EndCheck,
}

/// The checks of a process: at most one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    Off,
    Due(Instant),
    UnderWay { until: Instant },
}

/// The state machine of one process.
#[derive(Debug)]
pub(super) struct Watcher {
    watch: Arc<Watch>,
    readiness: Readiness,
    /// When it becomes ready without a sign.
    ready_at: Option<Instant>,
    /// When it has to be ready.
    ready_until: Option<Instant>,
    /// When it has to have given a sign of life.
    alive_until: Option<Instant>,
    /// The longest time between two signs of life.
    interval: Duration,
    checks: Checks,
    /// The checks that have failed in a row.
    failures: u32,
    /// Whether it has said itself that it is not ready any more. A check does not know better.
    said_unready: bool,
}

impl Watcher {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            interval: watch.watchdog.unwrap_or_default(),
            watch,
            readiness: Readiness::Absent,
            ready_at: None,
            ready_until: None,
            alive_until: None,
            checks: Checks::Off,
            failures: 0,
            said_unready: false,
        }
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// Goes on with a process that was started at `since`, and was watched in another way before.
    pub(super) fn take_over(&mut self, now: Instant, since: Instant, threshold: Duration, readiness: Readiness) {
        if readiness != Readiness::Absent {
            self.spawned(now, threshold);
            self.ready_at = self.ready_at.map(|_| after(since, threshold));
        }
        if matches!(readiness, Readiness::Ready | Readiness::Lost) {
            self.become_ready(now);
        }
    }

    /// Returns when [`Sign::Timeout`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let check = match self.checks {
            Checks::Off => None,
            Checks::Due(at) | Checks::UnderWay { until: at } => Some(at),
        };
        [self.ready_at, self.ready_until, self.alive_until, check].into_iter().flatten().min()
    }

    /// Delays everything that is pending by the time for which the program was suspended.
    pub(super) fn put_off(&mut self, by: Duration) {
        for time in [&mut self.ready_at, &mut self.ready_until, &mut self.alive_until].into_iter().flatten() {
            *time = after(*time, by);
        }
        if let Checks::Due(at) | Checks::UnderWay { until: at } = &mut self.checks {
            *at = after(*at, by);
        }
    }

    /// Takes one sign and returns what to do. Signs that make no sense do nothing.
    pub(super) fn handle(&mut self, now: Instant, sign: Sign) -> Option<Effect> {
        match (self.readiness, sign) {
            (_, Sign::Spawned { threshold }) => self.spawned(now, threshold),
            (_, Sign::Gone) => {
                let under_way = matches!(self.checks, Checks::UnderWay { .. });
                *self = Self::new(Arc::clone(&self.watch));
                under_way.then_some(Effect::EndCheck)
            }
            (Readiness::Absent, _) => None,
            (_, Sign::Triggered) => Some(Effect::Fault(Fault::Triggered)),
            (Readiness::Pending | Readiness::Lost, Sign::Ready) => self.become_ready(now),
            (Readiness::Ready | Readiness::Lost, Sign::Unready) => {
                self.said_unready = true;
                let before = std::mem::replace(&mut self.readiness, Readiness::Lost);
                (before == Readiness::Ready).then_some(Effect::Lost)
            }
            (_, Sign::Ready | Sign::Unready) => None,
            (Readiness::Pending, Sign::Extend(time)) => {
                self.ready_until = self.ready_until.map(|until| until.max(after(now, time)));
                None
            }
            (_, Sign::Extend(time)) => {
                self.alive_until = self.alive_until.map(|until| until.max(after(now, time)));
                None
            }
            (_, Sign::Alive) => {
                self.alive_until = self.alive_until.map(|_| after(now, self.interval));
                None
            }
            (_, Sign::Interval(interval)) => {
                self.interval = interval;
                self.alive_until = self.alive_until.map(|_| after(now, interval));
                None
            }
            (_, Sign::Passed | Sign::Failed) if !matches!(self.checks, Checks::UnderWay { .. }) => None,
            (_, Sign::Passed) => {
                self.checks = Checks::Off;
                if self.said_unready {
                    self.failures = 0;
                    self.check_again(now);
                    return None;
                }
                let was_ready = self.readiness == Readiness::Ready;
                self.become_ready(now).filter(|_| !was_ready)
            }
            (Readiness::Pending, Sign::Failed) => {
                self.check_again(now);
                None
            }
            (_, Sign::Failed) => self.failed(now),
            (_, Sign::Timeout) => self.timeout(now),
        }
    }

    fn spawned(&mut self, now: Instant, threshold: Duration) -> Option<Effect> {
        *self = Self::new(Arc::clone(&self.watch));
        self.readiness = Readiness::Pending;
        match &self.watch.ready {
            Ready::Started => return self.become_ready(now),
            Ready::Threshold => self.ready_at = Some(after(now, threshold)),
            Ready::Probe(_) => self.checks = Checks::Due(now),
            Ready::Fd(_) | Ready::Notify | Ready::Line(_) => {}
        }
        self.ready_until = self.watch.ready_timeout.map(|timeout| after(now, timeout));
        None
    }

    fn become_ready(&mut self, now: Instant) -> Option<Effect> {
        (self.readiness, self.said_unready) = (Readiness::Ready, false);
        (self.ready_at, self.ready_until, self.failures) = (None, None, 0);
        if self.alive_until.is_none() {
            self.alive_until = self.watch.watchdog.map(|_| after(now, self.interval));
        }
        // A check that is under way goes on, so that there are never two.
        if !matches!(self.checks, Checks::UnderWay { .. }) {
            self.check_again(now);
        }
        Some(Effect::Ready)
    }

    /// The probe of the present phase.
    pub(super) fn probe(&self) -> Option<&Probe> {
        match (self.readiness, &self.watch.ready) {
            (Readiness::Pending, Ready::Probe(probe)) => Some(probe),
            (Readiness::Ready | Readiness::Lost, _) => self.watch.health.as_ref().map(|health| &health.probe),
            _ => None,
        }
    }

    fn check_again(&mut self, now: Instant) {
        self.checks = self.probe().map_or(Checks::Off, |probe| Checks::Due(after(now, probe.interval)));
    }

    fn failed(&mut self, now: Instant) -> Option<Effect> {
        self.failures = self.failures.saturating_add(1);
        self.check_again(now);
        let allowed = self.watch.health.as_ref().map_or(1, |health| health.failures.max(1));
        let was_ready = std::mem::replace(&mut self.readiness, Readiness::Lost) == Readiness::Ready;
        match self.failures >= allowed {
            true => Some(Effect::Fault(Fault::Unhealthy(self.failures))),
            false => was_ready.then_some(Effect::Lost),
        }
    }

    fn timeout(&mut self, now: Instant) -> Option<Effect> {
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_due(self.ready_at) {
            return self.become_ready(now);
        }
        if is_due(self.ready_until) {
            self.ready_until = None;
            return Some(Effect::Fault(Fault::NotReady(self.watch.ready_timeout.unwrap_or_default())));
        }
        if is_due(self.alive_until) {
            self.alive_until = None;
            return Some(Effect::Fault(Fault::Watchdog(self.interval)));
        }
        match self.checks {
            Checks::Due(at) if at <= now => {
                let timeout = self.probe().map_or(Duration::ZERO, |probe| probe.timeout);
                self.checks = Checks::UnderWay { until: after(now, timeout) };
                Some(Effect::Check)
            }
            Checks::UnderWay { until } if until <= now => Some(Effect::EndCheck),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
