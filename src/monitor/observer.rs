//! The observer: the trait that receives a monitor's events and the output of its processes.
//!
//! It stores nothing. The one rule: each event is passed on as it happens and is only lent, so that
//! nothing queues up.

use std::fmt;
use std::io;
use std::time::Duration;

use log::{debug, error, info, warn};

use super::restart::State;
use super::watch::Fault;
use crate::contain::Remains;
use crate::error::SpawnError;
use crate::escaped::Escaped;
use crate::exit::Exit;
use crate::lines::each_line;
use crate::process::ProcessId;
use crate::signal;

/// Receives the events of a [`ProcessMonitor`](crate::ProcessMonitor).
///
/// The default of each method logs with the `log` crate. Lines go to the target
/// `childminder::process`, with `name`, `stream` and `line` as key-values, and everything else goes
/// to `childminder::monitor`.
///
/// ```
/// use childminder::{Command, Exit, Line, Observer, ProcessMonitor, Reactor, Service};
///
/// #[derive(Default)]
/// struct Diary(Vec<String>);
///
/// impl Observer for Diary {
///     fn line(&mut self, line: &Line<'_>) {
///         self.0.push(line.to_string());
///     }
///     fn exited(&mut self, name: &str, exit: &Exit) {
///         self.0.push(format!("{name}: {exit}"));
///     }
/// }
///
/// let mut reactor = Reactor::new()?;
/// let mut monitor = ProcessMonitor::with_observer(Diary::default());
/// monitor.add_process(&mut reactor, "greeter", Command::new("sh").args(["-c", "echo hello; exit 3"]))?;
/// monitor.start_service(&mut reactor);
/// while monitor.observer().0.len() < 2 {
///     reactor.turn(None, |reactor, event| {
///         monitor.handle(reactor, &event);
///     })?;
/// }
/// assert_eq!(monitor.observer().0, ["[greeter] hello", "greeter: exit status 3"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer {
    /// A process has written a line.
    fn line(&mut self, line: &Line<'_>) {
        let text = Escaped(line.bytes);
        info!(target: "childminder::process", name = line.name, stream = line.stream(), line:% = text; "{line}");
    }

    /// A process has written these lines, one after the other. The default calls
    /// [`line`](Self::line) for each of them. An observer that only copies bytes can implement this
    /// method to take them all at once. A line that is longer than the limit, or that arrives in
    /// several reads, is always passed to [`line`](Self::line).
    fn lines(&mut self, lines: &Lines<'_>) {
        lines.for_each(|line| self.line(&line));
    }

    /// A process was started.
    fn started(&mut self, name: &str, pid: u32) {
        info!(target: "childminder::monitor", name, pid; "[{name}] started, pid {pid}");
    }

    /// A process could not be started.
    fn start_failed(&mut self, name: &str, error: &SpawnError) {
        warn!(target: "childminder::monitor", name; "[{name}] {error}");
    }

    /// A process has exited.
    fn exited(&mut self, name: &str, exit: &Exit) {
        info!(target: "childminder::monitor", name; "[{name}] exited: {exit}, after {:.3?}", exit.wall_time);
    }

    /// A process was stopped by this signal, such as SIGTTIN because it read from the terminal. The
    /// monitor calls this only if the reactor [watches stops](crate::Reactor::watch_stops).
    fn stopped(&mut self, name: &str, signal: i32) {
        let signal = signal::name(signal).unwrap_or_else(|| signal.to_string());
        warn!(target: "childminder::monitor", name; "[{name}] stopped by {signal}");
    }

    /// A process that was stopped has been continued.
    fn continued(&mut self, name: &str) {
        info!(target: "childminder::monitor", name; "[{name}] continued");
    }

    /// A process will be started again after `delay`, or at once if that is zero.
    fn restarting(&mut self, name: &str, delay: Duration) {
        debug!(target: "childminder::monitor", name; "[{name}] restarting in {delay:?}");
    }

    /// A process was asked to stop with this signal.
    fn terminating(&mut self, name: &str, signal: i32) {
        let signal = signal::name(signal).unwrap_or_else(|| signal.to_string());
        info!(target: "childminder::monitor", name; "[{name}] terminating ({signal})");
    }

    /// A process has become ready: see [`Watch`](crate::Watch).
    fn ready(&mut self, name: &str) {
        info!(target: "childminder::monitor", name; "[{name}] ready");
    }

    /// A process is not ready any more.
    fn unready(&mut self, name: &str) {
        warn!(target: "childminder::monitor", name; "[{name}] not ready any more");
    }

    /// A process is alive but has to be replaced. It is stopped, and what follows is what follows a
    /// crash.
    fn fault(&mut self, name: &str, fault: &Fault) {
        warn!(target: "childminder::monitor", name; "[{name}] does not work: {fault}");
    }

    /// A process has said in its own words what it does: `STATUS=` of `sd_notify(3)`. The text has
    /// no control characters.
    fn said(&mut self, name: &str, status: &str) {
        debug!(target: "childminder::monitor", name; "[{name}] says: {status}");
    }

    /// A process has asked for the safe-keeping of its file descriptors (`FDSTORE=1`), which does
    /// not exist here. They were closed.
    fn store_refused(&mut self, name: &str) {
        warn!(target: "childminder::monitor", name; "[{name}] FDSTORE=1: descriptors are not kept");
    }

    /// Messages to the socket of a process were dropped, because they did not come from its tree.
    fn message_refused(&mut self, name: &str, count: usize) {
        warn!(target: "childminder::monitor", name; "[{name}] dropped {count} messages that others have sent in its name");
    }

    /// A check of a process has failed: see [`Probe`](crate::Probe).
    fn check_failed(&mut self, name: &str, why: &dyn fmt::Display) {
        debug!(target: "childminder::monitor", name; "[{name}] check failed: {why}");
    }

    /// A command that belongs to a process could not be started: one that checks it, or a step of
    /// its stop.
    fn helper_failed(&mut self, name: &str, error: &SpawnError) {
        warn!(target: "childminder::monitor", name; "[{name}] {error}");
    }

    /// A process [failed for good](State::Failed), or an [essential](crate::Order::essential) one
    /// has ended. The host may end now. `exit` is its last exit, if it has run at all; it is `None`
    /// for a group.
    fn essential_ended(&mut self, name: &str, exit: Option<&Exit>) {
        let _ = exit;
        error!(target: "childminder::monitor", name; "[{name}] is essential and has ended");
    }

    /// A [group](crate::Group) has given up. All its processes are stopped and have failed.
    fn group_failed(&mut self, group: &str) {
        error!(target: "childminder::monitor", group; "group {group} has given up");
    }

    /// A [rolling restart](crate::ProcessMonitor::restart_rolling) is over. `broken` is the process
    /// that has not become ready again; those after it were not restarted.
    fn rolled(&mut self, broken: Option<&str>) {
        match broken {
            None => info!(target: "childminder::monitor", "rolling restart done"),
            Some(name) => {
                warn!(target: "childminder::monitor", name; "rolling restart broken off: [{name}] has not come back");
            }
        }
    }

    /// A process is killed with its tree, because it did not stop in time or a kill was requested.
    fn killing(&mut self, name: &str) {
        warn!(target: "childminder::monitor", name; "[{name}] killing");
    }

    /// The monitor has closed the pipes of an earlier process of this name. Its leftover processes
    /// still held them, and what they write from now on is lost. This happens to the earliest
    /// process when more than eight of one name have exited and still have open pipes.
    fn pipes_closed(&mut self, name: &str, process: ProcessId) {
        let _ = process;
        warn!(target: "childminder::monitor", name; "[{name}] closed the pipes of an earlier process");
    }

    /// The monitor has closed the file descriptors by which it watched the leftover processes of an
    /// earlier process of this name. This happens to the earliest process when more than eight of
    /// one name have exited and left processes behind. Leftover processes in a cgroup are checked
    /// once a second from now on, and still end with the service. Leftover processes in a process
    /// group can no longer be reached: [`tree_gone`](Self::tree_gone) follows with `certain` false.
    fn tree_released(&mut self, name: &str, process: ProcessId) {
        let _ = process;
        warn!(target: "childminder::monitor", name; "[{name}] more than eight earlier processes have left processes behind; those of the earliest one are not watched any more");
    }

    /// A process has exited on its own, and its leftover processes are killed. `leftovers` lists
    /// them as far as they are known. See [`Leftovers::Kill`](super::restart::Leftovers::Kill).
    fn killing_leftovers(&mut self, name: &str, leftovers: &Remains) {
        match leftovers {
            Remains::Members(_) => {
                info!(target: "childminder::monitor", name; "[{name}] killing the processes that it left behind: {leftovers}");
            }
            _ => info!(target: "childminder::monitor", name; "[{name}] killing what it may have left behind"),
        }
    }

    /// The tree of a process that has exited is empty now. If `certain` is false, the system cannot
    /// tell.
    fn tree_gone(&mut self, name: &str, certain: bool) {
        match certain {
            true => {
                debug!(target: "childminder::monitor", name; "[{name}] all processes that it left behind are gone");
            }
            false => {
                warn!(target: "childminder::monitor", name; "[{name}] cannot tell whether all processes that it left behind are gone");
            }
        }
    }

    /// These processes still exist two seconds after a process was killed with its tree. They stay
    /// watched.
    fn tree_remains(&mut self, name: &str, remains: &Remains) {
        match remains {
            Remains::Members(_) => {
                warn!(target: "childminder::monitor", name; "[{name}] still there 2 s after SIGKILL: {remains}");
            }
            _ => {
                warn!(target: "childminder::monitor", name; "[{name}] cannot tell whether all of its processes are gone 2 s after SIGKILL");
            }
        }
    }

    /// The state of a process has changed, or whether it is ready. The monitor calls this after the
    /// events that led to the change. It does not report a state that does not last until the end
    /// of a call.
    fn changed(&mut self, name: &str, state: State) {
        let _ = (name, state);
    }

    /// The signal of the event just before could not be sent to all of the process, for example
    /// because it runs as a user whose processes we may not signal. It is killed again after a
    /// while.
    fn signal_refused(&mut self, name: &str, signal: i32, error: &io::Error) {
        let signal = signal::name(signal).unwrap_or_else(|| signal.to_string());
        warn!(target: "childminder::monitor", name; "[{name}] cannot send {signal}: {error}");
    }
}

/// The observer that logs every event with the `log` crate.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Log;

impl Observer for Log {}

/// A line that a process has written, or a piece of a line that was too long.
///
/// It is displayed as `[name] line`, and a piece that continues the one before as `[name+] piece`.
/// Bytes that are not UTF-8 appear as `\xNN`.
///
/// The `bytes` of all lines of a stream, each followed by a newline where `newline` is true, are
/// exactly what the process has written. This observer copies it:
///
/// ```
/// use childminder::{Line, Observer};
///
/// #[derive(Default)]
/// struct Copy(Vec<u8>);
///
/// impl Observer for Copy {
///     fn line(&mut self, line: &Line<'_>) {
///         self.0.extend_from_slice(line.bytes);
///         if line.newline {
///             self.0.push(b'\n');
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line<'a> {
    /// The name of the process.
    pub name: &'a str,
    /// The process. Two processes of one name can write at the same time: an earlier one has
    /// exited, but a process that it started still holds its pipe.
    pub process: ProcessId,
    /// The file descriptor that the process has written to: 1 is stdout, 2 is stderr.
    pub fd: i32,
    /// The bytes as they arrived, without the newline.
    pub bytes: &'a [u8],
    /// Whether this piece continues the previous piece of the same process and descriptor.
    pub continued: bool,
    /// Whether the line goes on in the next piece.
    pub cut: bool,
    /// Whether a newline followed these bytes. If not, the line is [`cut`](Self::cut) here, or
    /// these are the last bytes of a stream that does not end with a newline.
    pub newline: bool,
}

/// Whole lines that a process has written one after the other: see [`Observer::lines`].
///
/// This observer counts bytes without looking at each line:
///
/// ```
/// use childminder::{Line, Lines, Observer};
///
/// #[derive(Default)]
/// struct Bytes(usize);
///
/// impl Observer for Bytes {
///     fn line(&mut self, line: &Line<'_>) {
///         self.0 += line.bytes.len() + usize::from(line.newline);
///     }
///     fn lines(&mut self, lines: &Lines<'_>) {
///         self.0 += lines.bytes.len();
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lines<'a> {
    /// The name of the process.
    pub name: &'a str,
    /// The process, as in [`Line::process`].
    pub process: ProcessId,
    /// The file descriptor that the process has written to: 1 is stdout, 2 is stderr.
    pub fd: i32,
    /// The bytes as they arrived: at least one line, each with its newline.
    pub bytes: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Makes lines of a process, for a test of an observer. Each line in `bytes` ends with a
    /// newline. A last one without a newline is not passed on.
    ///
    /// ```
    /// use childminder::{Lines, ProcessId};
    ///
    /// let mut said = Vec::new();
    /// Lines::new("web", ProcessId::dummy(1), 1, b"one\ntwo\n").for_each(|line| said.push(line.to_string()));
    /// assert_eq!(said, ["[web] one", "[web] two"]);
    /// ```
    #[must_use]
    pub fn new(name: &'a str, process: ProcessId, fd: i32, bytes: &'a [u8]) -> Self {
        Self { name, process, fd, bytes }
    }

    /// Calls `each` with every line, in order.
    #[inline]
    pub fn for_each(&self, mut each: impl FnMut(Line<'a>)) {
        let Self { name, process, fd, .. } = *self;
        each_line(self.bytes, |bytes| {
            each(Line::new(name, process, fd, bytes));
        });
    }
}

impl<'a> Line<'a> {
    /// Makes a whole line that ends with a newline, which is not among its `bytes`, for a test of
    /// an observer.
    ///
    /// ```
    /// use childminder::{Line, Observer, ProcessId};
    ///
    /// #[derive(Default)]
    /// struct Errors(usize);
    ///
    /// impl Observer for Errors {
    ///     fn line(&mut self, line: &Line<'_>) {
    ///         self.0 += usize::from(line.stream() == "stderr");
    ///     }
    /// }
    ///
    /// let (mut errors, process) = (Errors::default(), ProcessId::dummy(1));
    /// errors.line(&Line::new("web", process, 1, b"hello"));
    /// errors.line(&Line::new("web", process, 2, b"no memory"));
    /// assert_eq!(errors.0, 1);
    /// ```
    #[must_use]
    pub fn new(name: &'a str, process: ProcessId, fd: i32, bytes: &'a [u8]) -> Self {
        Self { name, process, fd, bytes, continued: false, cut: false, newline: true }
    }

    /// Returns `stdout`, `stderr`, or `other` for any other descriptor.
    #[must_use]
    pub fn stream(&self) -> &'static str {
        match self.fd {
            1 => "stdout",
            2 => "stderr",
            _ => "other",
        }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.continued { "+" } else { "" };
        write!(f, "[{}{mark}] {}", self.name, Escaped(self.bytes))
    }
}
