//! A child process and the pipes to it: the transport.
//!
//! Waits for nothing and hands out no events; the reactor does. Exited = reaped. Ended = exited and every pipe closed. The
//! one rule: no signal is ever sent to a number that may be somebody else's by now.

mod pipe;
mod stdio;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use mio::Interest;

use crate::command::{Command, Limit};
use crate::error::{SignalError, SpawnError, Stage, WriteError};
use crate::exit::{Exit, Usage};
use crate::slab::Key;
use crate::sources::{Source, Sources};
use crate::sys::wait::{State, Wait};
use crate::sys::{self, spawn::Spawner};
pub(crate) use pipe::{Flush, Read};
use pipe::{Reader, Writer};
use stdio::{Files, Side};

/// A process of one reactor. Never reused: an id of a process that has ended reaches nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub(crate) Key);

/// Something that a call has brought about and that an event must tell of, in a later turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice {
    /// A pipe is closed; so many bytes were taken and not delivered.
    Closed { process: Key, fd: i32, lost: usize },
    /// A producer may go on.
    Drained { process: Key, fd: i32 },
}

/// What the reactor keeps of a child.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    /// Its pid is also the number of its process group.
    leads: bool,
    /// It is on a pseudo-terminal: descriptor 1 is read from it and descriptor 0 written to it.
    terminal: bool,
    pidfd: Option<(OwnedFd, Key)>,
    pipes: Vec<(i32, Pipe)>,
    /// Closed pipes that no event has told of yet.
    unreported: usize,
    started: Instant,
    requested: Option<i32>,
    /// Without a pidfd nobody can signal a group safely once its leader is reaped: so it is killed just before.
    kill_group_at_exit: bool,
    exit: Option<Box<Exit>>,
}

#[derive(Debug)]
enum Pipe {
    Reader(Reader),
    /// Boxed, since most pipes are readers, which are half as large.
    Writer(Box<Writer>),
}

/// What a spawn needs of the reactor.
pub(crate) struct Surroundings<'a> {
    pub(crate) spawner: &'a Spawner,
    pub(crate) sources: &'a mut Sources,
    pub(crate) nofile: Option<Limit>,
    pub(crate) pidfds: bool,
    pub(crate) started: Instant,
}

impl Child {
    /// Starts the command as process `key`. After an error nothing of it is left.
    pub(crate) fn spawn(command: &Command, key: Key, around: &mut Surroundings<'_>) -> Result<Self, SpawnError> {
        let mut files = Files::open(command, around.spawner.null())?;
        let mut pipes = Vec::with_capacity(files.ours.len());
        let watched = files.ours.drain(..).try_for_each(|(fd, end, side)| {
            pipes.push((fd, Pipe::open(end, side, key, fd, around.sources)?));
            Ok(())
        });
        let spawned = watched
            .map_err(|error| SpawnError::new(command.program.clone(), Stage::Pipe, error))
            .and_then(|()| around.spawner.spawn(command, &files.for_child(), files.terminal, around.nofile));
        let pid = match spawned {
            Ok(pid) => pid,
            Err(error) => {
                for (_, pipe) in pipes {
                    around.sources.forget(pipe.source());
                }
                return Err(error);
            }
        };
        let pidfd = if around.pidfds { watch(pid, key, around.sources) } else { None };
        Ok(Self {
            pid,
            leads: command.group.leads() || files.terminal,
            terminal: files.terminal,
            pidfd,
            pipes,
            unreported: 0,
            started: around.started,
            requested: None,
            kill_group_at_exit: false,
            exit: None,
        })
    }

    /// Ends it without a word: for a child that nobody could watch.
    pub(crate) fn abandon(self, sources: &mut Sources) {
        let _ = sys::signal::send(self.pid, libc::SIGKILL);
        sys::wait::reap_killed(self.pid);
        for (_, pipe) in self.pipes {
            sources.forget(pipe.source());
        }
    }

    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.as_deref()
    }

    /// Whether only SIGCHLD can tell of its death.
    pub(crate) fn needs_sweep(&self) -> bool {
        self.exit.is_none() && self.pidfd.is_none()
    }

    /// Whether it has died without our having told so.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.is_none() && sys::wait::state(self.pid) != State::Running
    }

    /// Whether its pid certainly is its own: not if somebody else has reaped it.
    fn holds_number(&self) -> bool {
        self.exit.is_none() && sys::wait::state(self.pid) != State::Lost
    }

    /// Exited, every pipe closed, and every close told of.
    pub(crate) fn is_over(&self) -> bool {
        self.exit.is_some() && self.pipes.is_empty() && self.unreported == 0
    }

    /// Reaps it if it has died; `None` if it lives, or was reaped before.
    pub(crate) fn reap(&mut self, now: Instant, sources: &mut Sources) -> Option<Exit> {
        if self.exit.is_some() {
            return None;
        }
        let may_kill = self.kill_group_at_exit && self.leads && !self.group_outlives_leader();
        if may_kill && sys::wait::state(self.pid) == State::Zombie {
            // The zombie still holds the number.
            let _ = sys::signal::send_to_group(self.pid, libc::SIGKILL);
        }
        let wait = match &self.pidfd {
            Some((pidfd, _)) => sys::wait::try_wait_exactly(pidfd.as_fd(), self.pid),
            None => sys::wait::try_wait(self.pid),
        };
        let (status, usage) = match wait {
            Wait::Running => return None,
            Wait::Reaped(status, usage) => (Some(status), usage),
            Wait::Lost => (None, Usage::default()),
        };
        let wall_time = now.saturating_duration_since(self.started);
        let exit = Exit { status, usage, wall_time, requested: self.requested };
        self.exit = Some(Box::new(exit));
        if let Some((_, source)) = &self.pidfd {
            sources.forget(*source);
        }
        Some(exit)
    }

    pub(crate) fn readers(&self) -> impl Iterator<Item = i32> {
        self.pipes.iter().filter(|(_, pipe)| matches!(pipe, Pipe::Reader(_))).map(|(fd, _)| *fd)
    }

    pub(crate) fn reader(&mut self, fd: i32) -> Option<&mut Reader> {
        match self.pipe(fd)? {
            Pipe::Reader(reader) => Some(reader),
            Pipe::Writer(_) => None,
        }
    }

    /// The terminal of a child that is reaped, to be read to its end.
    pub(crate) fn hung_up_terminal(&mut self) -> Option<&mut Reader> {
        if self.terminal { self.reader(1) } else { None }
    }

    fn writer(&mut self, fd: i32) -> Option<&mut Writer> {
        match self.pipe(fd)? {
            Pipe::Writer(writer) => Some(writer),
            Pipe::Reader(_) => None,
        }
    }

    fn pipe(&mut self, fd: i32) -> Option<&mut Pipe> {
        self.pipes.iter_mut().find(|(number, _)| *number == fd).map(|(_, pipe)| pipe)
    }

    /// Closes our end. What the child has not taken is lost: how much that is, or `None` if there was no pipe.
    pub(crate) fn close(&mut self, fd: i32, sources: &mut Sources) -> Option<usize> {
        let index = self.pipes.iter().position(|(number, _)| *number == fd)?;
        let (_, pipe) = self.pipes.remove(index);
        sources.forget(pipe.source());
        match pipe {
            Pipe::Writer(writer) => Some(writer.pending()),
            Pipe::Reader(_) => Some(0),
        }
    }

    /// The poll says that a writer can be written to, or that its reader is gone.
    pub(crate) fn flush(&mut self, fd: i32, reader_gone: bool, sources: &mut Sources) -> Option<Notice> {
        // Nobody has the terminal open now, and yet it can be opened again.
        let reader_gone = reader_gone && !(self.terminal && fd == 0);
        let writer = self.writer(fd)?;
        let source = writer.source;
        let flush = if reader_gone { Flush::Broken } else { writer.flush() };
        let closing = writer.closing;
        let Some(Source::Pipe { process, .. }) = sources.get(source) else { return None };
        match flush {
            Flush::Pending => None,
            Flush::Done { .. } if closing => Some(Notice::Closed { process, fd, lost: self.close(fd, sources)? }),
            Flush::Done { rested: true } => Some(Notice::Drained { process, fd }),
            Flush::Done { rested: false } => None,
            Flush::Broken => Some(Notice::Closed { process, fd, lost: self.close(fd, sources)? }),
        }
    }

    /// An event has told of a close that was asked for by a call.
    pub(crate) fn reported(&mut self) {
        self.unreported = self.unreported.saturating_sub(1);
    }

    /// Whether the kernel lets us reach the group's members by the leader's pidfd, reaped or not.
    fn group_outlives_leader(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|(pidfd, _)| sys::pidfd::group_supported(pidfd))
    }

    fn send(&mut self, signal: i32) -> Result<(), SignalError> {
        if self.exit.is_some() {
            return Err(SignalError::AlreadyExited);
        }
        match &self.pidfd {
            Some((pidfd, _)) => sys::pidfd::send(pidfd, signal)?,
            None if self.holds_number() => sys::signal::send(self.pid, signal)?,
            None => return Err(SignalError::AlreadyExited),
        }
        self.note_request(signal);
        Ok(())
    }

    fn send_to_group(&mut self, signal: i32) -> Result<(), SignalError> {
        if !self.leads {
            return self.send(signal);
        }
        match &self.pidfd {
            Some((pidfd, _)) if sys::pidfd::group_supported(pidfd) => sys::pidfd::send_to_group(pidfd, signal)?,
            _ if self.holds_number() => sys::signal::send_to_group(self.pid, signal)?,
            _ => return Err(SignalError::AlreadyExited),
        }
        self.note_request(signal);
        Ok(())
    }

    /// Signal 0 only asks, and SIGCONT ends nothing.
    fn note_request(&mut self, signal: i32) {
        if signal != 0 && signal != libc::SIGCONT {
            self.requested = Some(signal);
        }
    }
}

impl Pipe {
    fn open(end: OwnedFd, side: Side, process: Key, fd: i32, sources: &mut Sources) -> io::Result<Self> {
        sys::fd::set_nonblocking(end.as_fd())?;
        let interest = if side == Side::Writer { Interest::WRITABLE } else { Interest::READABLE };
        let source = sources.register(end.as_fd(), interest, Source::Pipe { process, fd })?;
        Ok(match side {
            Side::Writer => Self::Writer(Box::new(Writer::new(end, source))),
            Side::Reader => Self::Reader(Reader::new(end, source, false)),
            Side::Terminal => Self::Reader(Reader::new(end, source, true)),
        })
    }

    fn source(&self) -> Key {
        match self {
            Self::Reader(reader) => reader.source,
            Self::Writer(writer) => writer.source,
        }
    }
}

/// A pidfd in the poll set, or nothing where the system has none for us.
fn watch(pid: i32, process: Key, sources: &mut Sources) -> Option<(OwnedFd, Key)> {
    let pidfd = sys::pidfd::open(pid).ok()?;
    let source = sources.register(pidfd.as_fd(), Interest::READABLE, Source::Pidfd { process }).ok()?;
    Some((pidfd, source))
}

/// A process of a reactor, to be talked to: see [`Reactor::process`](crate::Reactor::process).
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
    /// Its id in the reactor.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Its number in the system; `None` once it has been reaped, because the number may be somebody else's then.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.exit.is_none().then(|| self.child.pid.unsigned_abs())
    }

    /// How it ended, once it has exited.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.child.exit()
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    ///
    /// [`SignalError::AlreadyExited`] after it was reaped: nothing is sent then, whoever has its number now. `EINVAL` for a
    /// number that is no signal, `EPERM` if it runs as somebody whom the host may not signal (`kill(2)`).
    pub fn signal(&mut self, signal: i32) -> Result<(), SignalError> {
        self.child.send(signal)
    }

    /// Sends a signal to the process group that it leads; to itself alone if it leads none (see
    /// [`Command::inherit_process_group`]).
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal). On Linux 6.9 and later with pidfds, members of the group that outlive their leader are still
    /// reached after its exit, and only they; elsewhere that is [`SignalError::AlreadyExited`].
    #[doc(alias = "killpg")]
    pub fn signal_group(&mut self, signal: i32) -> Result<(), SignalError> {
        self.child.send_to_group(signal)
    }

    /// Asks the group to end: `signal` (SIGTERM, usually), then SIGCONT, since a stopped process does not act on it otherwise.
    ///
    /// # Errors
    ///
    /// As [`signal_group`](Self::signal_group).
    #[doc(alias = "SIGTERM")]
    pub fn terminate_group(&mut self, signal: i32) -> Result<(), SignalError> {
        self.signal_group(signal)?;
        // It may have ended in between: then there is nobody to continue.
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

    /// Sees to it that nobody of its group outlives it unseen: where [`leftover_group`](Self::leftover_group) will not be able
    /// to reach them (no pidfd, or a kernel before Linux 6.9), they are killed in the moment before it is reaped, while its number still is its own.
    pub fn kill_group_at_exit(&mut self) {
        self.child.kill_group_at_exit = true;
    }

    /// The members of its process group that are still there after it has exited, if there are any and the kernel
    /// can reach them safely (Linux 6.9, with a pidfd).
    #[must_use]
    pub fn leftover_group(&self) -> Option<ProcessGroup> {
        let (pidfd, _) = self.child.pidfd.as_ref()?;
        if self.child.exit.is_none() || !self.child.leads || !self.child.group_outlives_leader() {
            return None;
        }
        sys::pidfd::send_to_group(pidfd, 0).ok()?;
        Some(ProcessGroup { pidfd: pidfd.try_clone().ok()? })
    }

    /// Writes to the child's descriptor `fd`: what there is room for now, and the rest as soon as there is. All of
    /// `data` is taken. `false` says that more than the high-water mark is waiting, so that a producer should rest until
    /// [`Event::Drained`](crate::Event::Drained).
    ///
    /// # Errors
    ///
    /// [`WriteError::NoPipe`] if there is no open pipe of ours to that descriptor, [`WriteError::Closing`] after
    /// [`close_after_flush`](Self::close_after_flush). A child that has closed its end is no error here: the loss is told in bytes by
    /// [`Event::FdClosed`](crate::Event::FdClosed).
    pub fn write(&mut self, fd: i32, data: &[u8]) -> Result<bool, WriteError> {
        self.write_vectored(fd, &[IoSlice::new(data)])
    }

    /// [`write`](Self::write) of several pieces, in one system call where they fit.
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

    /// What is waiting to be written to the child's descriptor `fd`, in bytes; `None` if there is no pipe.
    #[must_use]
    pub fn pending(&mut self, fd: i32) -> Option<usize> {
        self.child.writer(fd).map(|writer| writer.pending())
    }

    /// From how many waiting bytes on [`write`](Self::write) asks to rest: 64 KiB, unless set here.
    ///
    /// # Errors
    ///
    /// [`WriteError::NoPipe`].
    pub fn set_high_water(&mut self, fd: i32, bytes: usize) -> Result<(), WriteError> {
        self.child.writer(fd).ok_or(WriteError::NoPipe { fd })?.set_high_water(bytes);
        Ok(())
    }

    /// Has [`Event::Drained`](crate::Event::Drained) come once all is written that is waiting for the child's descriptor `fd`,
    /// also below the high-water mark. Whether anything is waiting: if not, no event comes.
    ///
    /// # Errors
    ///
    /// [`WriteError::NoPipe`].
    pub fn notify_drained(&mut self, fd: i32) -> Result<bool, WriteError> {
        Ok(self.child.writer(fd).ok_or(WriteError::NoPipe { fd })?.rest())
    }

    /// Closes the child's stdin after all that was written has been flushed.
    pub fn close_stdin(&mut self) {
        self.close_after_flush(0);
    }

    /// Closes our end of the child's descriptor `fd` once all that was written has been flushed; at once if nothing
    /// waits or it is one that we read. Writing to it is an error from now on. No pipe, no effect.
    pub fn close_after_flush(&mut self, fd: i32) {
        match self.child.writer(fd) {
            Some(writer) if writer.pending() > 0 => writer.closing = true,
            _ => self.close(fd),
        }
    }

    /// Closes our end of the child's descriptor `fd` at once. What was not written yet is lost, and told so by
    /// [`Event::FdClosed`](crate::Event::FdClosed); if we read it, the child gets `EPIPE` or SIGPIPE from now on. No pipe, no effect.
    #[doc(alias = "closeChildFD")]
    pub fn close(&mut self, fd: i32) {
        if let Some(lost) = self.child.close(fd, self.sources) {
            self.child.unreported += 1;
            self.notices.push_back(Notice::Closed { process: self.id.0, fd, lost });
        }
    }

    /// Closes all pipes, those that are written after a flush (Twisted's `loseConnection`, but for every descriptor).
    #[doc(alias = "loseConnection")]
    pub fn close_all(&mut self) {
        let fds: Vec<i32> = self.child.pipes.iter().map(|(fd, _)| *fd).collect();
        for fd in fds {
            self.close_after_flush(fd);
        }
    }

    /// Stops reading the child's descriptor `fd`, so that a child that goes on writing has to wait. Its exit is seen all the same,
    /// and so is an end of file before which nothing is left to read. No pipe, no effect.
    #[doc(alias = "pauseProducing")]
    pub fn pause(&mut self, fd: i32) {
        if let Some(reader) = self.child.reader(fd) {
            reader.paused = true;
            if reader.is_over() && !reader.queued {
                // The poll has told of its end before.
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

    /// [`pause`](Self::pause) for every descriptor that we read.
    pub fn pause_all(&mut self) {
        for fd in self.child.readers().collect::<Vec<_>>() {
            self.pause(fd);
        }
    }

    /// [`resume`](Self::resume) for every descriptor that we read.
    pub fn resume_all(&mut self) {
        for fd in self.child.readers().collect::<Vec<_>>() {
            self.resume(fd);
        }
    }

    /// How many bytes have been read from the child's descriptor `fd` so far; `None` if there is no open pipe.
    #[must_use]
    pub fn bytes_read(&mut self, fd: i32) -> Option<u64> {
        self.child.reader(fd).map(|reader| reader.bytes())
    }

    /// Whether everything was read from the child's descriptor `fd` that was there at the last look.
    pub(crate) fn is_drained(&mut self, fd: i32) -> bool {
        self.child.reader(fd).is_none_or(|reader| !reader.queued && !reader.paused)
    }

    /// Tells the child's pseudo-terminal its new size; the foreground group gets SIGWINCH.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the child has no terminal or it is closed; else what `ioctl(2)` says.
    #[doc(alias = "TIOCSWINSZ")]
    pub fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        let terminal = self.child.pipes.iter().find_map(|(_, pipe)| match pipe {
            Pipe::Reader(reader) => reader.terminal(),
            Pipe::Writer(_) => None,
        });
        sys::pty::resize(terminal.ok_or(io::ErrorKind::NotConnected)?, rows, columns)
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

/// What is left of a process group after its leader was reaped. It reaches the group's members and nobody else, whatever
/// the system has done with the leader's number since.
#[derive(Debug)]
pub struct ProcessGroup {
    pidfd: OwnedFd,
}

impl ProcessGroup {
    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        sys::pidfd::send_to_group(&self.pidfd, 0).is_err()
    }

    /// Sends a signal to all members.
    ///
    /// # Errors
    ///
    /// [`SignalError::AlreadyExited`] if nobody is left, or what `kill(2)` says.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        Ok(sys::pidfd::send_to_group(&self.pidfd, signal)?)
    }
}
