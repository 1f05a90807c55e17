//! A talk with one process, or with the processes of a pipeline, on the host's own reactor.
//!
//! It keeps what the processes have written until it is taken, and never waits: it is told each
//! event. The one rule: no answer depends on which events came in the same turn.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::task::Poll;

use super::inbox::{Inbox, Place};
use super::plain::Plain;
use crate::command::Command;
use crate::contain::LAST_WAIT;
use crate::error::{SignalError, SpawnError, Stage, WriteError};
use crate::exit::Exit;
use crate::process::{ProcessId, Tree};
use crate::pty::Pty;
use crate::reactor::{Event, Reactor};
use crate::stdio::Stdio;
use crate::sys;

/// What one process, or a pipeline, has written, and how it ended: on your own reactor.
///
/// Hand it every event. [`Reactor::turn_until`] waits for one of its answers. If you have no
/// reactor, a [`Child`](crate::Child) is simpler.
///
/// ```
/// use childminder::{Command, Conversation, Reactor, Stdio};
/// use std::time::Duration;
///
/// let mut reactor = Reactor::new()?;
/// let mut command = Command::new("sh");
/// command.args(["-c", "read a; echo got $a; exit 3"]).stdin(Stdio::piped());
/// let mut shell = Conversation::new(&mut reactor, &command)?;
/// shell.write(&mut reactor, b"it\n")?;
/// let limit = Some(Duration::from_secs(10));
/// let line = reactor.turn_until(limit, &mut shell, Conversation::handle, |shell, reactor| shell.poll_line(reactor, 1))?;
/// assert_eq!(line, Some(Some("got it".to_string())));
/// let exit = reactor.turn_until(limit, &mut shell, Conversation::handle, |shell, _| shell.poll_exit())?;
/// assert_eq!(exit.unwrap().code(), Some(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Conversation {
    stages: Vec<Member>,
    inboxes: Vec<(i32, Inbox)>,
    buffer_limit: usize,
    /// The number of bytes that the first process has not taken, once its stdin is closed.
    lost: Option<usize>,
    /// The terminal of the first process, if it has one.
    terminal: Option<Terminal>,
}

/// What a terminal takes for the end of the input, if it cannot be asked.
const END_OF_FILE: u8 = 4;

/// How much of what is unread is in an error, in bytes.
const TAIL: usize = 4096;

/// A text that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Its place in the list of texts that were waited for, from 0.
    pub index: usize,
    /// What came before it.
    pub before: Vec<u8>,
}

impl Found {
    /// Returns what came before it as text. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.before)
    }
}

/// What was written to a terminal.
#[derive(Debug)]
struct Terminal {
    pty: Pty,
    /// Whether the last byte has ended a line.
    at_line_start: bool,
    /// Whether its input was ended, and nothing was written since.
    ended: bool,
}

impl Terminal {
    fn new(pty: Pty) -> Self {
        Self { pty, at_line_start: true, ended: false }
    }
}

/// One of the processes.
#[derive(Debug)]
struct Member {
    process: ProcessId,
    exit: Option<Exit>,
    /// The descriptors of it that are still read.
    open: Vec<i32>,
    tree_gone: bool,
}

impl Conversation {
    /// Starts a command.
    ///
    /// # Errors
    ///
    /// As [`Reactor::spawn_process`].
    pub fn new(reactor: &mut Reactor, command: &Command) -> Result<Self, SpawnError> {
        Self::pipeline(reactor, std::slice::from_ref(command))
    }

    /// Starts several commands, each with its stdout connected to the stdin of the next one by a
    /// pipe, like `a | b | c` of a shell. What the commands say of these descriptors is replaced.
    ///
    /// Each command has a process group of its own.
    ///
    /// # Errors
    ///
    /// As [`Reactor::spawn_process`], for the first command that cannot be started. Those before it
    /// were killed and reaped then. `InvalidInput` if there is no command.
    pub fn pipeline(reactor: &mut Reactor, commands: &[Command]) -> Result<Self, SpawnError> {
        let mut conversation = Self {
            stages: Vec::with_capacity(commands.len()),
            inboxes: Vec::new(),
            buffer_limit: usize::MAX,
            lost: None,
            terminal: commands.first().and_then(|command| command.parts().attributes().pty).map(Terminal::new),
        };
        let started = conversation.start(reactor, commands);
        if started.is_err() {
            conversation.stages.iter().for_each(|stage| reactor.abandon(stage.process));
        }
        started.map(|()| conversation)
    }

    fn start(&mut self, reactor: &mut Reactor, commands: &[Command]) -> Result<(), SpawnError> {
        let Some((last, others)) = commands.split_last() else {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the pipeline has no command");
            return Err(SpawnError::new(Default::default(), Stage::Command, error));
        };
        let mut input = None;
        for command in others {
            let pipe = sys::fd::pipe();
            let (reader, writer) =
                pipe.map_err(|error| SpawnError::new(command.get_program().to_owned(), Stage::Pipe, error))?;
            self.start_one(reactor, command, input.replace(reader), Some(writer))?;
        }
        self.start_one(reactor, last, input, None)
    }

    fn start_one(
        &mut self,
        reactor: &mut Reactor,
        command: &Command,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<(), SpawnError> {
        let is_last = output.is_none();
        // Once this clone is dropped, only the child has these ends of the pipes.
        let mut command = command.clone();
        if let Some(input) = input {
            command.stdin(Stdio::from(input));
        }
        if let Some(output) = output {
            command.stdout(Stdio::from(output));
        }
        let process = reactor.spawn_process(&command)?;
        let mut open = Vec::new();
        if let Some(mut running) = reactor.process(process) {
            let set = command.parts().fds.iter().map(|(fd, _)| *fd).filter(|fd| *fd > 2);
            let read = [1, 2].into_iter().chain(set);
            open.extend(read.filter(|fd| running.bytes_read(*fd).is_some() && (is_last || *fd == 2)));
        }
        for fd in &open {
            self.inbox(*fd).writers += 1;
        }
        self.stages.push(Member { process, exit: None, open, tree_gone: false });
        Ok(())
    }

    fn inbox(&mut self, fd: i32) -> &mut Inbox {
        let index = self.inboxes.iter().position(|(known, _)| *known == fd).unwrap_or_else(|| {
            self.inboxes.push((fd, Inbox::default()));
            self.inboxes.len() - 1
        });
        &mut self.inboxes[index].1
    }

    /// Sets how many bytes of each descriptor are kept until they are taken. At the limit the
    /// process has to wait, as at a full pipe. There is no limit if none is set.
    ///
    /// Up to 256 KiB more may be kept, because the limit is checked after a read.
    pub fn set_buffer_limit(&mut self, reactor: &mut Reactor, bytes: usize) {
        self.buffer_limit = bytes;
        let fds: Vec<i32> = self.inboxes.iter().map(|(fd, _)| *fd).collect();
        fds.into_iter().for_each(|fd| self.go_on(reactor, fd));
    }

    /// Sets whether the noise of a terminal is taken out of what comes from now on: see
    /// [`Child::set_plain`](crate::Child::set_plain).
    pub fn set_plain(&mut self, plain: bool) {
        let inbox = self.inbox(1);
        inbox.finish();
        inbox.plain = plain.then(Plain::default);
    }

    /// Takes an event. It has no effect if it does not concern these processes.
    pub fn handle(&mut self, reactor: &mut Reactor, event: Event<'_>) {
        let (Event::Data { process, .. }
        | Event::FdClosed { process, .. }
        | Event::Exited { process, .. }
        | Event::TreeGone { process, .. }) = event
        else {
            return;
        };
        let Some(stage) = self.stages.iter().position(|stage| stage.process == process) else { return };
        match event {
            Event::Data { fd, data, .. } if self.stages[stage].open.contains(&fd) => {
                let limit = self.buffer_limit;
                let inbox = self.inbox(fd);
                inbox.push(data);
                if inbox.unread().len() > limit {
                    inbox.paused = true;
                    if let Some(mut process) = reactor.process(process) {
                        process.pause(fd);
                    }
                }
            }
            Event::FdClosed { fd: 0, lost, .. } if stage == 0 => self.lost = Some(lost),
            Event::FdClosed { fd, .. } => {
                let open = &mut self.stages[stage].open;
                let Some(index) = open.iter().position(|open| *open == fd) else { return };
                open.swap_remove(index);
                let inbox = self.inbox(fd);
                inbox.writers -= 1;
                inbox.finish();
            }
            Event::Exited { exit, .. } => self.stages[stage].exit = Some(*exit),
            Event::TreeGone { .. } => self.stages[stage].tree_gone = true,
            _ => {}
        }
    }

    /// Writes to the stdin of the first process, as [`Process::write`](crate::Process::write) does.
    ///
    /// # Errors
    ///
    /// As [`Process::write`](crate::Process::write).
    pub fn write(&mut self, reactor: &mut Reactor, data: &[u8]) -> Result<bool, WriteError> {
        let process = self.stages.first().and_then(|stage| reactor.process(stage.process));
        let mut process = process.ok_or(WriteError::NoPipe { fd: 0 })?;
        // How the terminal is set can change with each program that reads it.
        let input = process.terminal().and_then(|terminal| sys::pty::input(terminal).ok());
        let may_go_on = process.write(0, data)?;
        if let (Some(terminal), Some(last)) = (&mut self.terminal, data.last()) {
            (terminal.at_line_start, terminal.ended) = (*last == b'\n', false);
            // A terminal that hands on lines without an echo reads a password. One that hands on
            // single bytes belongs to a program that shows them itself.
            let shows = input.is_some_and(|input| input.echoes || !input.by_lines) && terminal.pty.shows_input();
            let plain = self.inboxes.iter_mut().find(|(fd, _)| *fd == 1).and_then(|(_, inbox)| inbox.plain.as_mut());
            if let (true, Some(plain)) = (shows, plain) {
                plain.typed(data, input.is_some_and(|input| input.echoes));
            }
        }
        Ok(may_go_on)
    }

    /// Closes the stdin of the first process after everything that was written. A terminal gets its
    /// end-of-file character (Ctrl-D) instead, once until more is written, and twice after a line
    /// that has no newline. A raw terminal has none: see [`Pty::raw`].
    pub fn close_stdin(&mut self, reactor: &mut Reactor) {
        let Some(mut process) = self.stages.first().and_then(|stage| reactor.process(stage.process)) else { return };
        let Some(terminal) = &mut self.terminal else { return process.close_stdin() };
        if terminal.pty.raw || std::mem::replace(&mut terminal.ended, true) {
            return;
        }
        let input = process.terminal().and_then(|terminal| sys::pty::input(terminal).ok());
        let end = input.map_or(END_OF_FILE, |input| input.end);
        let times = if terminal.at_line_start || input.is_some_and(|input| !input.by_lines) { 1 } else { 2 };
        // The terminal may be closed already.
        let _ = process.write(0, &[end, end][..times]);
    }

    /// Returns how many bytes of what was written wait for room in the pipe.
    pub(super) fn waiting(&self, reactor: &mut Reactor) -> usize {
        let waiting = self.stages.first().and_then(|stage| reactor.process(stage.process)?.pending(0));
        waiting.unwrap_or_default()
    }

    /// Waits until at most `most` bytes of what was written wait for room in the pipe, or until the
    /// pipe is closed. It returns how many bytes were lost because the process has closed its stdin
    /// or has exited.
    pub fn poll_written(&mut self, reactor: &mut Reactor, most: usize) -> Poll<usize> {
        let waiting = self.stages.first().and_then(|stage| reactor.process(stage.process)?.pending(0));
        match (self.lost, waiting) {
            (Some(lost), _) => Poll::Ready(lost),
            (None, Some(waiting)) if waiting <= most => Poll::Ready(0),
            // If it is closed, the event that tells what was lost is still to come.
            (None, _) => Poll::Pending,
        }
    }

    /// Returns what has come from a descriptor and was not taken yet: from 1, which is the stdout
    /// of the last process, from 2, which is the stderr of all, or from another one of the last
    /// process.
    #[must_use]
    pub fn unread(&self, fd: i32) -> &[u8] {
        self.known(fd).map_or(&[], Inbox::unread)
    }

    /// Tells whether nothing more comes from a descriptor, because every process that could write
    /// to it has closed it. There may still be something unread.
    #[must_use]
    pub fn is_closed(&self, fd: i32) -> bool {
        self.known(fd).is_none_or(|inbox| inbox.writers == 0)
    }

    /// The end of what was not taken yet, and that of stderr, for an error.
    pub(super) fn tails(&self, fd: i32) -> (Vec<u8>, Vec<u8>) {
        let tail = |fd| self.known(fd).map_or_else(Vec::new, |inbox| inbox.tail(TAIL));
        (tail(fd), if fd == 2 { Vec::new() } else { tail(2) })
    }

    fn known(&self, fd: i32) -> Option<&Inbox> {
        self.inboxes.iter().find(|(known, _)| *known == fd).map(|(_, inbox)| inbox)
    }

    /// Takes what has come from a descriptor, at least one byte and at most as many as fit into the
    /// buffer, and returns how many. It is zero if nothing more comes.
    pub fn poll_read(&mut self, reactor: &mut Reactor, fd: i32, buffer: &mut [u8]) -> Poll<usize> {
        let unread = self.unread(fd);
        let count = unread.len().min(buffer.len());
        if count == 0 && !buffer.is_empty() && !self.is_closed(fd) {
            return Poll::Pending;
        }
        buffer[..count].copy_from_slice(&unread[..count]);
        self.inbox(fd).skip(count);
        self.go_on(reactor, fd);
        Poll::Ready(count)
    }

    /// Takes all that has come from a descriptor and was not taken yet.
    pub fn take_unread(&mut self, reactor: &mut Reactor, fd: i32) -> Vec<u8> {
        let count = self.unread(fd).len();
        self.take(reactor, fd, count)
    }

    /// Takes the next line, without its newline. A last line without a newline counts, too. Bytes
    /// that are not UTF-8 become U+FFFD. `None` if no line can come any more, because the stream
    /// has ended or the [limit](Self::set_buffer_limit) is reached.
    pub fn poll_line(&mut self, reactor: &mut Reactor, fd: i32) -> Poll<Option<String>> {
        let text = |mut line: Vec<u8>| {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            String::from_utf8(line).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        };
        match self.find(reactor, fd, &[b"\n"]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(place)) => Poll::Ready(Some(text(self.take(reactor, fd, place.end)))),
            Poll::Ready(None) => {
                let rest = self.unread(fd).len();
                let has_ended = self.is_closed(fd) && rest > 0;
                Poll::Ready(has_ended.then(|| text(self.take(reactor, fd, rest))))
            }
        }
    }

    /// Takes everything up to the end of the text that is complete first. Of several that are
    /// complete at the same byte, the first in the list counts. `None` if none of them can come,
    /// because the stream has ended or the [limit](Self::set_buffer_limit) is reached; nothing is
    /// taken then.
    pub fn poll_text(&mut self, reactor: &mut Reactor, fd: i32, wanted: &[&[u8]]) -> Poll<Option<Found>> {
        self.find(reactor, fd, wanted).map(|place| {
            let Place { index, start, end } = place?;
            let mut before = self.take(reactor, fd, end);
            before.truncate(start);
            Some(Found { index, before })
        })
    }

    fn find(&mut self, reactor: &mut Reactor, fd: i32, wanted: &[&[u8]]) -> Poll<Option<Place>> {
        let limit = self.buffer_limit;
        let inbox = self.inbox(fd);
        let found = inbox.find(wanted);
        if found == Poll::Ready(None) && inbox.writers > 0 && inbox.unread().len() <= limit {
            // It was paused, and there is room again.
            self.read_on(reactor, fd);
            return Poll::Pending;
        }
        found
    }

    /// Takes everything that comes until the stream ends, whatever the
    /// [limit](Self::set_buffer_limit) is.
    pub fn poll_to_end(&mut self, reactor: &mut Reactor, fd: i32) -> Poll<Vec<u8>> {
        if !self.is_closed(fd) {
            self.read_on(reactor, fd);
            return Poll::Pending;
        }
        Poll::Ready(self.take_unread(reactor, fd))
    }

    fn take(&mut self, reactor: &mut Reactor, fd: i32, count: usize) -> Vec<u8> {
        let taken = self.inbox(fd).take(count);
        self.go_on(reactor, fd);
        taken
    }

    /// Reads a descriptor again that was paused, if there is room.
    fn go_on(&mut self, reactor: &mut Reactor, fd: i32) {
        if self.unread(fd).len() <= self.buffer_limit / 2 {
            self.read_on(reactor, fd);
        }
    }

    /// Reads a descriptor again that was paused.
    fn read_on(&mut self, reactor: &mut Reactor, fd: i32) {
        if std::mem::take(&mut self.inbox(fd).paused) {
            for stage in &self.stages {
                if let Some(mut process) = reactor.process(stage.process) {
                    process.resume(fd);
                }
            }
        }
    }

    /// Returns how the last process has ended, as soon as it is reaped.
    pub fn poll_exit(&self) -> Poll<Exit> {
        self.stages.last().and_then(|stage| stage.exit).map_or(Poll::Pending, Poll::Ready)
    }

    /// Returns how each process has ended, as soon as all are reaped.
    pub fn poll_exits(&self) -> Poll<Vec<Exit>> {
        let exits = self.stages.iter().map(|stage| stage.exit).collect::<Option<Vec<_>>>();
        exits.map_or(Poll::Pending, Poll::Ready)
    }

    /// Tells whether every process has been reaped and nothing that they have started is left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.stages.iter().all(|stage| stage.exit.is_some() && stage.tree_gone)
    }

    /// Returns the ids of the processes, in the order of the commands.
    pub fn processes(&self) -> impl ExactSizeIterator<Item = ProcessId> {
        self.stages.iter().map(|stage| stage.process)
    }

    /// Sends a signal to all processes and to everything that they have started, as
    /// [`Tree::signal`] does.
    ///
    /// # Errors
    ///
    /// The first error of [`Tree::signal`]; the others have got the signal.
    /// [`SignalError::AlreadyExited`] only if none is left.
    pub fn signal(&mut self, reactor: &mut Reactor, signal: i32) -> Result<(), SignalError> {
        self.each_tree(reactor, |mut tree| tree.signal(signal))
    }

    /// Sends SIGTERM and SIGCONT, as [`Tree::terminate`] does.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    pub fn terminate(&mut self, reactor: &mut Reactor) -> Result<(), SignalError> {
        self.each_tree(reactor, |mut tree| tree.terminate(libc::SIGTERM))
    }

    /// Kills all processes and everything that they have started, as [`Tree::kill`] does.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    pub fn kill(&mut self, reactor: &mut Reactor) -> Result<(), SignalError> {
        self.each_tree(reactor, |mut tree| tree.kill())
    }

    fn each_tree(
        &mut self,
        reactor: &mut Reactor,
        mut act: impl FnMut(Tree<'_>) -> Result<(), SignalError>,
    ) -> Result<(), SignalError> {
        let mut result = Err(SignalError::AlreadyExited);
        for stage in &self.stages {
            let acted = reactor.tree(stage.process).map_or(Err(SignalError::AlreadyExited), &mut act);
            // One that may not be signalled does not protect the others.
            result = match (result, acted) {
                (result, Err(SignalError::AlreadyExited)) | (result @ Err(SignalError::Os(_)), _) => result,
                (_, acted) => acted,
            };
        }
        result
    }

    /// Kills everything and closes all pipes, and waits until nothing is left, at most for
    /// [`LAST_WAIT`].
    pub(super) fn end(&mut self, reactor: &mut Reactor) {
        // An error shows again in the wait.
        let _ = self.kill(reactor);
        for stage in &self.stages {
            if let Some(mut process) = reactor.process(stage.process) {
                process.close_all_at_once();
            }
        }
        let gone = |this: &mut Self, _: &mut Reactor| if this.is_gone() { Poll::Ready(()) } else { Poll::Pending };
        let _ = reactor.turn_until(Some(LAST_WAIT), self, Self::handle, gone);
    }
}
