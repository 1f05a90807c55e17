//! A child process and the calls of a host on it: the transport.
//!
//! It waits for nothing and delivers no events; the reactor does both. Exited means reaped. Ended
//! means exited and every pipe closed. The one rule: a call takes effect at once, and its results
//! are events of a later turn.

pub(crate) mod cgroup;
mod child;
#[cfg(target_os = "linux")]
pub(crate) mod discard;
mod frozen;
mod group;
#[cfg(target_os = "linux")]
pub(crate) mod guard;
mod killed;
mod left;
mod notify;
mod pipe;
#[cfg(target_os = "linux")]
mod program;
mod stdio;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) mod table;
mod tree;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::error::{SignalError, WriteError};
use crate::exit::Exit;
use crate::slab::Key;
use crate::sources::Sources;
use crate::sys;
use crate::used::Used;
pub(crate) use child::{Child, Reap, Surroundings};
pub(crate) use left::{Fate, Left};
use pipe::{Flush, Pipe};
pub(crate) use pipe::{LARGE_PIPE, Notice, Read};
pub(crate) use table::Living;
pub use tree::Tree;
pub(crate) use tree::{Agenda, Stem, Sweep};

/// The id of a process in one reactor. It is never reused: the id of a process that has ended
/// reaches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub(crate) Key);

impl ProcessId {
    /// Makes an id that no reactor gives to a process, for tests of a host. Equal numbers make
    /// equal ids.
    ///
    /// ```
    /// use childminder::{ProcessId, Reactor};
    ///
    /// assert_ne!(ProcessId::dummy(1), ProcessId::dummy(2));
    /// assert!(Reactor::new()?.process(ProcessId::dummy(1)).is_none());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn dummy(number: u32) -> Self {
        Self(Key::unused(number))
    }
}

/// A process of a reactor: see [`Reactor::process`](crate::Reactor::process).
///
/// ```
/// use childminder::{Command, Event, Reactor, Stdio};
///
/// let mut reactor = Reactor::new()?;
/// let id = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped()))?;
/// let mut cat = reactor.process(id).expect("it has not ended");
/// cat.write(0, b"hello")?;
/// cat.close_stdin();
/// let (mut said, mut ended) = (Vec::new(), false);
/// while !ended {
///     reactor.turn(None, |_, event| match event {
///         Event::Data { data, .. } => said.extend_from_slice(data),
///         Event::Ended { .. } => ended = true,
///         _ => {}
///     })?;
/// }
/// assert_eq!(said, b"hello");
/// assert!(reactor.process(id).is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Process<'a> {
    pub(crate) id: ProcessId,
    pub(crate) child: &'a mut Child,
    pub(crate) sources: &'a mut Sources,
    pub(crate) notices: &'a mut VecDeque<Notice>,
}

impl Process<'_> {
    /// Returns its id in the reactor.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns its process id, or `None` once it has been reaped, because the number can then
    /// belong to another process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.exit.is_none().then(|| self.child.pid.unsigned_abs())
    }

    /// Returns the time just before its exec, from which [`Exit::wall_time`] counts.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.child.started
    }

    /// Returns what the process itself has used up to now, without its children, as far as `/proc`
    /// shows it: CPU time, peak memory and page faults. It reads two files. Once the process has
    /// exited, nothing is known here any more, and [`Exit::usage`] tells it.
    ///
    /// What everything together has used that it has started is told by
    /// [`Tree::used`](crate::Tree::used).
    ///
    /// ```
    /// use childminder::{Command, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.spawn_process(Command::new("sleep").arg("1000"))?;
    /// let mut process = reactor.process(id).expect("it runs");
    /// if let Some(time) = process.used().user_time {
    ///     println!("{:?} in user mode", time.value);
    /// }
    /// process.signal(9)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn used(&self) -> Used {
        self.child.used()
    }

    /// Returns how it ended, once it has exited.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.child.exit()
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    ///
    /// [`SignalError::AlreadyExited`] after it was reaped. Nothing is sent then, even if another
    /// process has its number now. This also holds if the host itself has reaped it. Without a
    /// pidfd, the start time in `/proc`, where that is shown, tells it apart from the new owner of
    /// its number. `EINVAL` for a number that is not a signal, `EPERM` if it runs as a user whose
    /// processes the host may not signal (`kill(2)`).
    pub fn signal(&mut self, signal: i32) -> Result<(), SignalError> {
        self.child.send(signal)
    }

    /// Sends a signal to the process group that it leads.
    ///
    /// If it leads none, the signal goes to the process alone (see
    /// [`Command::inherit_process_group`](crate::Command::inherit_process_group)).
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal). On Linux 6.9 and later with pidfds, the signal still reaches
    /// the members of the group that outlive their leader, and only these. Elsewhere a call after
    /// the leader's exit returns [`SignalError::AlreadyExited`].
    #[doc(alias = "killpg")]
    pub fn signal_group(&mut self, signal: i32) -> Result<(), SignalError> {
        self.child.send_to_group(signal)
    }

    /// Asks the group to end: sends `signal` (usually SIGTERM), then SIGCONT, because a stopped
    /// process would not act on the signal.
    ///
    /// # Errors
    ///
    /// As [`signal_group`](Self::signal_group).
    #[doc(alias = "SIGTERM")]
    pub fn terminate_group(&mut self, signal: i32) -> Result<(), SignalError> {
        self.signal_group(signal)?;
        // If the group has ended in between, there is nothing to continue.
        let _ = self.signal_group(libc::SIGCONT);
        Ok(())
    }

    /// Kills the group (SIGKILL).
    ///
    /// # Errors
    ///
    /// As [`signal_group`](Self::signal_group).
    #[doc(alias = "SIGKILL")]
    pub fn kill_group(&mut self) -> Result<(), SignalError> {
        self.signal_group(libc::SIGKILL)
    }

    /// Sets whether the rest of its process group is killed (SIGKILL) when it exits. The default is
    /// no.
    ///
    /// The kill happens just before the process is reaped, while its number is still its own.
    pub fn kill_group_at_exit(&mut self, kill: bool) {
        self.child.kill_group_at_exit = kill;
    }

    /// [`kill_group_at_exit`](Self::kill_group_at_exit), but only if nothing reaches the leftover
    /// processes after this process was reaped.
    pub(crate) fn kill_unreachable_at_exit(&mut self, kill: bool) {
        self.child.kill_group_at_exit = kill && self.child.cgroup.is_none() && !self.child.group_outlives_leader();
    }

    /// Writes to the child's descriptor `fd`: as much as fits now, and the rest as soon as there is
    /// room.
    ///
    /// All of `data` is taken. `false` means that more than the high-water mark is waiting, so that
    /// a producer should rest until [`Event::Drained`](crate::Event::Drained).
    ///
    /// # Errors
    ///
    /// [`WriteError::NoPipe`] if there is no open pipe of ours to that descriptor,
    /// [`WriteError::Closing`] after [`close_after_flush`](Self::close_after_flush). A child that
    /// has closed its end is not an error here: [`Event::FdClosed`](crate::Event::FdClosed) reports
    /// the number of lost bytes.
    pub fn write(&mut self, fd: i32, data: &[u8]) -> Result<bool, WriteError> {
        self.write_vectored(fd, &[IoSlice::new(data)])
    }

    /// Writes several pieces, as [`write`](Self::write) does, in one system call if they fit.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    #[doc(alias = "writeSequence")]
    pub fn write_vectored(&mut self, fd: i32, pieces: &[IoSlice<'_>]) -> Result<bool, WriteError> {
        let writer = self.child.writer(fd).ok_or(WriteError::NoPipe { fd })?;
        if writer.closing {
            return Err(WriteError::Closing { fd });
        }
        if writer.write(pieces) == Flush::Broken {
            self.close(fd);
            return Ok(false);
        }
        Ok(writer.may_go_on())
    }

    /// Returns how many bytes are waiting to be written to the child's descriptor `fd`, or `None`
    /// if there is no pipe.
    #[must_use]
    pub fn pending(&mut self, fd: i32) -> Option<usize> {
        self.child.writer(fd).map(|writer| writer.pending())
    }

    /// Sets the high-water mark: the number of waiting bytes above which [`write`](Self::write)
    /// asks to rest. The default is 64 KiB.
    ///
    /// # Errors
    ///
    /// [`WriteError::NoPipe`].
    pub fn set_high_water(&mut self, fd: i32, bytes: usize) -> Result<(), WriteError> {
        self.child.writer(fd).ok_or(WriteError::NoPipe { fd })?.set_high_water(bytes);
        Ok(())
    }

    /// Requests [`Event::Drained`](crate::Event::Drained) for the moment when everything that is
    /// waiting for the child's descriptor `fd` is written, even below the high-water mark.
    ///
    /// Returns whether anything is waiting. If not, no event comes.
    ///
    /// # Errors
    ///
    /// [`WriteError::NoPipe`].
    pub fn notify_drained(&mut self, fd: i32) -> Result<bool, WriteError> {
        Ok(self.child.writer(fd).ok_or(WriteError::NoPipe { fd })?.rest())
    }

    /// Closes the child's stdin after everything that was written has been flushed.
    pub fn close_stdin(&mut self) {
        self.close_after_flush(0);
    }

    /// Closes our end of the child's descriptor `fd` once everything that was written has been
    /// flushed.
    ///
    /// It is closed at once if nothing is waiting or if we read it. Writing to it is an error from
    /// now on. This has no effect if there is no pipe.
    pub fn close_after_flush(&mut self, fd: i32) {
        match self.child.writer(fd) {
            Some(writer) if writer.pending() > 0 => writer.closing = true,
            _ => self.close(fd),
        }
    }

    /// Closes our end of the child's descriptor `fd` at once.
    ///
    /// What was not written yet is lost, and [`Event::FdClosed`](crate::Event::FdClosed) reports
    /// how much. If we read it, the child gets `EPIPE` or SIGPIPE from now on. This has no effect
    /// if there is no pipe.
    #[doc(alias = "closeChildFD")]
    pub fn close(&mut self, fd: i32) {
        if let Some(lost) = self.child.close(fd, self.sources) {
            self.child.unreported += 1;
            self.notices.push_back(Notice::Closed { process: self.id.0, fd, lost });
        }
    }

    /// Closes all pipes. The ones that we write are flushed first (Twisted's `loseConnection`, but
    /// for every descriptor).
    #[doc(alias = "loseConnection")]
    pub fn close_all(&mut self) {
        let fds: Vec<i32> = self.child.pipes.iter().map(|(fd, _)| *fd).collect();
        for fd in fds {
            self.close_after_flush(fd);
        }
    }

    /// Closes every pipe, as [`close`](Self::close) does.
    pub(crate) fn close_all_at_once(&mut self) {
        let fds: Vec<i32> = self.child.pipes.iter().map(|(fd, _)| *fd).collect();
        fds.into_iter().for_each(|fd| self.close(fd));
    }

    /// Stops reading the child's descriptor `fd`, so that a child that goes on writing has to wait.
    ///
    /// The reactor still sees its exit, and also an end of file if nothing is left to read before
    /// it. This has no effect if there is no pipe.
    #[doc(alias = "pauseProducing")]
    pub fn pause(&mut self, fd: i32) {
        if let Some(reader) = self.child.reader(fd) {
            reader.paused = true;
            if reader.is_over() && !reader.queued {
                // The poll has already reported its end.
                reader.queued = true;
                self.sources.push_ready(reader.source);
            }
        }
    }

    /// Reads the child's descriptor `fd` again.
    #[doc(alias = "resumeProducing")]
    pub fn resume(&mut self, fd: i32) {
        if let Some(reader) = self.child.reader(fd) {
            reader.paused = false;
            if !reader.queued {
                reader.queued = true;
                self.sources.push_ready(reader.source);
            }
        }
    }

    /// Pauses every descriptor that we read, as [`pause`](Self::pause) does.
    pub fn pause_all(&mut self) {
        for fd in self.child.readers().collect::<Vec<_>>() {
            self.pause(fd);
        }
    }

    /// Resumes every descriptor that we read, as [`resume`](Self::resume) does.
    pub fn resume_all(&mut self) {
        for fd in self.child.readers().collect::<Vec<_>>() {
            self.resume(fd);
        }
    }

    /// Returns how many bytes have been read from the child's descriptor `fd` so far, or `None` if
    /// there is no open pipe.
    #[must_use]
    pub fn bytes_read(&mut self, fd: i32) -> Option<u64> {
        self.child.reader(fd).map(|reader| reader.bytes())
    }

    /// Tells whether everything was read that was in the pipe of the child's descriptor `fd` at the
    /// last read.
    pub(crate) fn is_drained(&mut self, fd: i32) -> bool {
        self.child.reader(fd).is_none_or(|reader| !reader.queued && !reader.paused)
    }

    /// Sets a new size of the child's pseudo-terminal. The foreground group gets SIGWINCH.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the child has no terminal or it is closed, and otherwise the error of
    /// `ioctl(2)`.
    #[doc(alias = "TIOCSWINSZ")]
    pub fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        sys::pty::resize(self.terminal().ok_or(io::ErrorKind::NotConnected)?, rows, columns)
    }

    /// Returns our end of the child's pseudo-terminal, to ask for and set what `termios(3)` and
    /// `ioctl_tty(2)` have: its modes, its size, its foreground process group. `None` if the child
    /// has no terminal or it is closed.
    ///
    /// The reactor reads and writes it, and needs it non-blocking.
    ///
    /// ```
    /// use childminder::{Command, Event, Pty, Reactor};
    /// use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp, tcgetwinsize};
    ///
    /// # if !cfg!(target_os = "linux") { return Ok(()); }
    /// let mut reactor = Reactor::new()?;
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "stty -echo; echo ready; exec sleep 60"]).pty(Pty::new().size(50, 100));
    /// let id = reactor.spawn_process(&command)?;
    /// let mut ready = false;
    /// while !ready {
    ///     reactor.turn(None, |_, event| ready |= matches!(event, Event::Data { .. }))?;
    /// }
    /// let mut process = reactor.process(id).expect("it has not ended");
    /// let terminal = process.terminal().expect("it is open");
    /// assert!(!tcgetattr(terminal)?.local_modes.contains(LocalModes::ECHO)); // it asks for a password
    /// assert_eq!(tcgetwinsize(terminal)?.ws_col, 100);
    /// assert_eq!(tcgetpgrp(terminal)?.as_raw_nonzero().get().unsigned_abs(), process.pid().unwrap());
    /// # process.kill_group()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[doc(alias = "tcgetattr")]
    #[doc(alias = "tcgetpgrp")]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.child.pipes.iter().find_map(|(_, pipe)| match pipe {
            Pipe::Reader(reader) => reader.terminal(),
            Pipe::Writer(_) => None,
        })
    }
}

impl fmt::Debug for Process<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pipes: Vec<i32> = self.child.pipes.iter().map(|(fd, _)| *fd).collect();
        f.debug_struct("Process")
            .field("id", &self.id)
            .field("pid", &self.pid())
            .field("pipes", &pipes)
            .field("exit", &self.child.exit)
            .finish()
    }
}
