//! The output of processes as lines, for a host that runs them without a monitor.
//!
//! It is a layer over the events of a reactor, which does not know it. It reads nothing and stores
//! nothing but lines that have begun. The one rule: the lines are those of the monitor, cut and
//! ended by the same rules.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lines::{MAX_LINE, Run};
use crate::monitor::Line;
use crate::monitor::streams::{Streams, Writer};
use crate::process::ProcessId;
use crate::reactor::{Event, Reactor};

/// Splits the output of processes into lines, as a [`ProcessMonitor`](crate::ProcessMonitor) does:
/// Twisted's `LineReceiver`.
///
/// Only `\n` ends a line. A line that is longer than the [limit](Self::set_max_line) comes in
/// pieces. A last line without a newline comes when the descriptor is closed, or when the process
/// exits and everything that it wrote was read.
///
/// ```
/// use childminder::{Command, Event, LineReceiver, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// let mut lines = LineReceiver::new();
/// let id = reactor.spawn_process(Command::new("sh").args(["-c", "echo one; echo two >&2; printf last"]))?;
/// lines.add(id, "it");
/// let mut said = Vec::new();
/// while reactor.processes().next().is_some() {
///     reactor.turn(None, |reactor, event| {
///         if lines.handle(reactor, &event, |line| said.push((line.fd, line.to_string()))) {
///             return;
///         }
///         if let Event::Ended { exit, .. } = event {
///             assert!(exit.success());
///         }
///     })?;
/// }
/// said.sort();
/// assert_eq!(said, [(1, "[it] last".into()), (1, "[it] one".into()), (2, "[it] two".into())]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LineReceiver {
    max_line: usize,
    processes: HashMap<ProcessId, (Arc<str>, Streams)>,
}

impl LineReceiver {
    /// Makes one without processes.
    #[must_use]
    pub fn new() -> Self {
        Self { max_line: MAX_LINE, processes: HashMap::new() }
    }

    /// Sets how long a line may be, in bytes, before it comes in pieces. The default is 16 KiB. It
    /// applies to processes that are added from now on. A piece is up to three bytes shorter if the
    /// limit is in the middle of a UTF-8 character.
    pub fn set_max_line(&mut self, bytes: usize) {
        self.max_line = bytes;
    }

    /// Splits the output of this process into lines that bear this name, until the process has
    /// ended. Call it before the first turn after the start of the process.
    pub fn add(&mut self, process: ProcessId, name: impl Into<Arc<str>>) {
        self.processes.insert(process, (name.into(), Streams::new(self.max_line)));
    }

    /// Takes an event, and calls `each` with every line that it completes, in order.
    ///
    /// Returns `true` if the event was output of one of these processes, which needs no further
    /// care. The other events of a process are for the host, too, and `false` is returned.
    pub fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>, mut each: impl FnMut(&Line<'_>)) -> bool {
        let (Event::Data { process, .. }
        | Event::FdClosed { process, .. }
        | Event::Exited { process, .. }
        | Event::Ended { process, .. }) = *event
        else {
            return false;
        };
        let Some((name, streams)) = self.processes.get_mut(&process) else { return false };
        let writer = Writer { name, process };
        match *event {
            Event::Data { fd, data, .. } => {
                streams.push(fd, data, &mut |run| match run {
                    Run::Lines(lines) => writer.lines(fd, lines).for_each(|line| each(&line)),
                    Run::Piece(piece) => each(&writer.line(fd, piece)),
                });
                return true;
            }
            Event::FdClosed { fd, .. } => {
                streams.finish(|number| number == fd, |fd, piece| each(&writer.line(fd, piece)));
            }
            Event::Exited { .. } => {
                // Another process may hold the pipe for long. If something is left to be read, the
                // rest of the line is still to come.
                let exited = &mut reactor.process(process);
                let is_drained = |fd| exited.as_mut().is_none_or(|process| process.is_drained(fd));
                streams.finish(is_drained, |fd, piece| each(&writer.line(fd, piece)));
            }
            _ => drop(self.processes.remove(&process)),
        }
        false
    }

    /// Returns the line that a process has begun on one of its descriptors, without a newline yet,
    /// or `None` if there is none. This shows a prompt.
    ///
    /// ```
    /// use childminder::{Command, LineReceiver, Reactor};
    ///
    /// let (mut reactor, mut lines) = (Reactor::new()?, LineReceiver::new());
    /// let ask = reactor.spawn_process(Command::new("sh").args(["-c", "printf 'name? '; exec sleep 60"]))?;
    /// lines.add(ask, "ask");
    /// while lines.unfinished_line(ask, 1) != Some(b"name? ") {
    ///     reactor.turn(None, |reactor, event| _ = lines.handle(reactor, &event, |line| println!("{line}")))?;
    /// }
    /// # reactor.process(ask).expect("it runs").kill_group()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unfinished_line(&self, process: ProcessId, fd: i32) -> Option<&[u8]> {
        self.processes.get(&process)?.1.unfinished(fd)
    }
}

impl Default for LineReceiver {
    fn default() -> Self {
        Self::new()
    }
}
