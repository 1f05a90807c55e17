//! A child to talk to in plain calls that wait, from one thread or several.
//!
//! It is a layer over a reactor of its own. The one rule: a call waits at most for the time limit,
//! and all output is read while any call waits, so a child never waits for this program because two
//! pipes are full at the same time.

use std::io;
use std::task::Poll;
use std::time::Duration;

use super::conversation::{Conversation, Found};
use super::error::TalkError;
use super::share::{Press, Share};
use crate::command::Command;
use crate::contain::LAST_WAIT;
use crate::error::SignalError;
use crate::exit::Exit;
use crate::lines::Escaped;
use crate::reactor::Reactor;
use crate::stdio::Stdio;
use crate::sys::clock;

/// The number of waiting bytes above which a write waits.
const HIGH_WATER: usize = 64 * 1024;
/// How long other processes may hold the pipes after the exit.
const DRAIN_TIME: Duration = Duration::from_millis(20);
/// The most that a pipe of ours can hold, in bytes.
const PIPE: usize = 1024 * 1024;

/// A running process, or a pipeline, to talk to in blocking calls.
///
/// ```
/// use childminder::{Child, Command};
/// use std::time::Duration;
///
/// let bc = Child::spawn(Command::new("sh").args(["-c", "while read a b; do echo $((a + b)); done"]))?;
/// bc.set_time_limit(Some(Duration::from_secs(10)));
/// bc.write("20 22\n")?;
/// assert_eq!(bc.read_line()?.as_deref(), Some("42"));
/// assert!(bc.wait()?.success()); // closes its stdin first
/// # Ok::<(), childminder::TalkError>(())
/// ```
///
/// The methods take `&self`, and several threads can wait for, write to and signal the same child
/// at the same time. There is no thread behind it: one of the waiting threads does the work for
/// all.
///
/// All output is read while any call waits, and is kept until it is taken. So a child that writes
/// much while nobody reads does not stand still, and neither does a [`write`](Self::write) of any
/// size; the memory for it is bounded by [`set_buffer_limit`](Self::set_buffer_limit) only.
///
/// When it is dropped while a process still runs, it kills the whole [tree](crate::Tree) and waits
/// until nothing of it is left, at most 2 s. What a process that has exited has left behind, such
/// as a daemon, goes on. A program that is killed itself does not get so far: see
/// [`Reactor::kill_trees_at_death`].
#[derive(Debug)]
pub struct Child {
    /// The program, or the programs of the pipeline.
    program: String,
    share: Share<Box<Driver>>,
}

/// How long a call may wait.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// As long as was set for all calls.
    Set,
    Given(Duration),
}

#[derive(Debug)]
struct Driver {
    reactor: Reactor,
    conversation: Conversation,
    time_limit: Option<Duration>,
}

/// One of the outputs of a [`Child`]: see [`Child::stdout`]. It is also an [`io::Read`].
#[derive(Debug, Clone, Copy)]
pub struct ChildOutput<'a> {
    child: &'a Child,
    fd: i32,
}

/// What a [`Child`] has said, and how it ended: see [`Child::output`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// The program, or the programs of the pipeline.
    pub program: String,
    /// How the process ended, or the last one of a pipeline.
    pub exit: Exit,
    /// How each process of a pipeline ended, in the order of its commands.
    pub exits: Vec<Exit>,
    /// What was not read before of the stdout of the process, or of the last one of a pipeline.
    pub stdout: Vec<u8>,
    /// What was not read before of the stderr of all processes.
    pub stderr: Vec<u8>,
    /// Whether other processes still held the pipes 20 ms after the exit. Some of their output may
    /// be missing then. The output of the processes themselves is complete.
    pub pipes_left_open: bool,
}

impl Captured {
    /// Makes an exit without success an error, which shows the end of stderr. Of a pipeline, the
    /// last process without success counts, as with the shell's `pipefail`.
    ///
    /// # Errors
    ///
    /// [`TalkError::Failed`].
    pub fn check(self) -> Result<Self, TalkError> {
        match self.exits.iter().rfind(|exit| !exit.success()) {
            Some(exit) => Err(TalkError::Failed { program: self.program, exit: Box::new(*exit), stderr: self.stderr }),
            None => Ok(self),
        }
    }
}

impl Child {
    /// Starts a command. Its stdin is a pipe if the command sets none.
    ///
    /// # Errors
    ///
    /// [`TalkError::Spawn`] if it cannot be started, [`TalkError::Wait`] if there is no reactor to
    /// be had, because a descriptor is missing for example.
    pub fn spawn(command: &Command) -> Result<Self, TalkError> {
        Self::pipeline(std::slice::from_ref(command))
    }

    /// Starts several commands as one, each with its stdout connected to the stdin of the next by a
    /// pipe. The stdin of the first is a pipe if it sets none, and the stderr of all arrives as
    /// one.
    ///
    /// ```
    /// use childminder::{Child, Command};
    ///
    /// let mut seq = Command::new("seq");
    /// let mut grep = Command::new("grep");
    /// let mut wc = Command::new("wc");
    /// let said = Child::pipeline(&[seq.arg("100").clone(), grep.arg("7").clone(), wc.arg("-l").clone()])?.output()?.check()?;
    /// assert_eq!(said.stdout, b"19\n");
    /// # Ok::<(), childminder::TalkError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn). The error names the command that could not be started, and those
    /// before it were killed and reaped.
    pub fn pipeline(commands: &[Command]) -> Result<Self, TalkError> {
        Self::on(Reactor::new().map_err(TalkError::Wait)?, commands)
    }

    /// Does what [`pipeline`](Self::pipeline) does on a reactor that was made elsewhere, for one
    /// with other [methods](Reactor::with_methods), a [guard](Reactor::kill_trees_at_death) or a
    /// [parent of its cgroups](Reactor::set_cgroup_parent). Events of other processes on it are
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`pipeline`](Self::pipeline).
    pub fn on(mut reactor: Reactor, commands: &[Command]) -> Result<Self, TalkError> {
        let mut commands = commands.to_vec();
        if let Some(first) = commands.first_mut().filter(|first| first.parts().attributes().pty.is_none()) {
            if !first.parts().fds.iter().any(|(fd, _)| *fd == 0) {
                first.stdin(Stdio::piped());
            }
        }
        let names: Vec<_> = commands.iter().map(|command| command.get_program().to_string_lossy()).collect();
        let program = names.join(" | ");
        let waker = reactor.waker().map_err(TalkError::Wait)?;
        let conversation = Conversation::pipeline(&mut reactor, &commands)?;
        let driver = Driver { reactor, conversation, time_limit: None };
        Ok(Self { program, share: Share::new(Box::new(driver), waker) })
    }

    /// Sets how long a call may wait, for this and all other threads. There is no limit if none is
    /// set. What was waited for and what has come is in [`TalkError::TimedOut`].
    pub fn set_time_limit(&self, limit: Option<Duration>) {
        let mut driver = self.share.take(Press::AtOnce);
        driver.time_limit = limit;
        driver.has_news();
    }

    /// Sets how many bytes of each output are kept until they are taken. At the limit the process
    /// has to wait, as at a full pipe, and a call that waits for its exit waits with it. There is
    /// no limit if none is set.
    pub fn set_buffer_limit(&self, bytes: usize) {
        self.with(|conversation, reactor| conversation.set_buffer_limit(reactor, bytes));
    }

    /// Sets whether the noise of a terminal is taken out of what comes at stdout from now on:
    /// escape sequences (colours, titles, movements), carriage returns, and the echo of what is
    /// written, where the echo is the next that comes.
    ///
    /// Write to a program when its prompt has come. What is written earlier is echoed before the
    /// prompt, by the terminal, and often a second time by the program. `TERM=dumb` keeps many
    /// programs from redrawing their lines.
    pub fn set_plain(&self, plain: bool) {
        self.with(|conversation, _| conversation.set_plain(plain));
    }

    /// Waits until `look` has an answer. `None` if the time is up, after at least one turn.
    fn wait_for<T>(
        &self,
        limit: Limit,
        mut look: impl FnMut(&mut Conversation, &mut Reactor) -> Poll<T>,
    ) -> Result<Option<T>, TalkError> {
        let (start, mut has_turned, mut has_passed) = (clock(), false, false);
        let mut driver = self.share.take(Press::AtOnce);
        loop {
            let Driver { reactor, conversation, time_limit } = &mut **driver;
            if let Poll::Ready(answer) = look(conversation, reactor) {
                return Ok(Some(answer));
            }
            let limit = match limit {
                Limit::Set => *time_limit,
                Limit::Given(limit) => Some(limit),
            };
            let deadline = limit.and_then(|limit| start.checked_add(limit));
            let left = deadline.map(|at| at.saturating_duration_since(clock()));
            if left == Some(Duration::ZERO) && has_turned {
                return Ok(None);
            }
            let is_pressed = driver.is_pressed();
            if is_pressed && !has_passed {
                driver = driver.pass(deadline.map_or(Press::Never, Press::At));
                has_passed = true;
            } else {
                // If others want it again and again, a turn comes in between all the same.
                let turned = driver.turn(if is_pressed { Some(Duration::ZERO) } else { left });
                driver.has_news();
                turned.map_err(TalkError::Wait)?;
                (has_turned, has_passed) = (true, false);
            }
        }
    }

    /// Waits until `look` has an answer, within the time limit that is set.
    fn until<T>(
        &self,
        fd: i32,
        wanted: &dyn Fn() -> String,
        look: impl FnMut(&mut Conversation, &mut Reactor) -> Poll<T>,
    ) -> Result<T, TalkError> {
        self.wait_for(Limit::Set, look)?.ok_or_else(|| {
            let driver = self.share.take(Press::AtOnce);
            TalkError::TimedOut {
                program: self.program.clone(),
                wanted: wanted(),
                limit: driver.time_limit.unwrap_or_default(),
                unread: driver.conversation.unread(fd).to_vec(),
            }
        })
    }

    /// Does something that needs no wait.
    fn with<T>(&self, act: impl FnOnce(&mut Conversation, &mut Reactor) -> T) -> T {
        let mut driver = self.share.take(Press::AtOnce);
        let Driver { reactor, conversation, .. } = &mut **driver;
        act(conversation, reactor)
    }

    /// Writes to its stdin, or to its terminal, and waits until at most 64 KiB of it wait for room
    /// in the pipe. The rest is written while other calls wait.
    ///
    /// The output is read and kept in the meantime.
    ///
    /// # Errors
    ///
    /// [`TalkError::Write`] if it has no stdin to be written to, or that is closed before all fitted
    /// into the pipe.
    /// [`TalkError::TimedOut`]: what was not written yet is still to be written then.
    pub fn write(&self, data: impl AsRef<[u8]>) -> Result<(), TalkError> {
        let data = data.as_ref();
        let closed = |lost| TalkError::Write { program: self.program.clone(), lost };
        if self.with(|conversation, reactor| conversation.write(reactor, data)).is_err() {
            return Err(closed(data.len()));
        }
        let wanted = || format!("room for {} bytes of input", data.len());
        match self.until(1, &wanted, |conversation, reactor| conversation.poll_written(reactor, HIGH_WATER))? {
            0 => Ok(()),
            lost => Err(closed(lost)),
        }
    }

    /// Closes its stdin after everything that was written. A terminal gets its end-of-file
    /// character (Ctrl-D).
    pub fn close_stdin(&self) {
        self.with(Conversation::close_stdin);
    }

    /// Returns its stdout, or its terminal.
    #[must_use]
    pub fn stdout(&self) -> ChildOutput<'_> {
        self.fd(1)
    }

    /// Returns its stderr, or that of all processes of a pipeline.
    #[must_use]
    pub fn stderr(&self) -> ChildOutput<'_> {
        self.fd(2)
    }

    /// Returns what it writes to one of its descriptors: see [`Command::fd`].
    #[must_use]
    pub fn fd(&self, fd: i32) -> ChildOutput<'_> {
        ChildOutput { child: self, fd }
    }

    /// Reads a line of its stdout: see [`ChildOutput::read_line`].
    ///
    /// # Errors
    ///
    /// As [`ChildOutput::read_line`].
    pub fn read_line(&self) -> Result<Option<String>, TalkError> {
        self.stdout().read_line()
    }

    /// Reads its stdout up to a text: see [`ChildOutput::read_until`].
    ///
    /// # Errors
    ///
    /// As [`ChildOutput::read_until`].
    pub fn read_until(&self, text: impl AsRef<[u8]>) -> Result<Vec<u8>, TalkError> {
        self.stdout().read_until(text)
    }

    /// Reads its stdout up to one of several texts: see [`ChildOutput::expect`].
    ///
    /// # Errors
    ///
    /// As [`ChildOutput::expect`].
    pub fn expect(&self, texts: &[&str]) -> Result<Found, TalkError> {
        self.stdout().expect(texts)
    }

    /// Returns the process id, until the process is reaped. Of a pipeline the last process counts.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.with(|conversation, reactor| reactor.process(conversation.processes().last()?)?.pid())
    }

    /// Returns how it ended, if it has exited. It does not wait. Of a pipeline the last process
    /// counts.
    ///
    /// # Errors
    ///
    /// [`TalkError::Wait`].
    pub fn try_wait(&self) -> Result<Option<Exit>, TalkError> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Waits for its exit, at most for `timeout`, whatever the time limit is. Of a pipeline the
    /// last process counts. Its output can be read afterwards.
    ///
    /// # Errors
    ///
    /// [`TalkError::Wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Exit>, TalkError> {
        self.wait_for(Limit::Given(timeout), |conversation, _| conversation.poll_exit())
    }

    /// Closes its stdin, as std does, and waits for its exit. Of a pipeline the last process
    /// counts. Its output can be read afterwards.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`].
    pub fn wait(&self) -> Result<Exit, TalkError> {
        self.close_stdin();
        self.until(1, &|| "its exit".into(), |conversation, _| conversation.poll_exit())
    }

    /// Closes its stdin, reads all that it says, and waits for its exit. If other processes still
    /// hold its pipes when it has exited, such as a daemon, they get 20 ms to close them.
    ///
    /// ```
    /// use childminder::{Child, Command, TalkError};
    ///
    /// let said = Child::spawn(Command::new("echo").arg("hello"))?.output()?;
    /// assert_eq!(said.stdout, b"hello\n");
    /// let failed = Child::spawn(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))?.output()?.check();
    /// assert_eq!(failed.unwrap_err().to_string(), r#"`sh` failed: exit status 3; stderr is "why\n""#);
    /// # Ok::<(), TalkError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`]. The processes are killed then.
    pub fn output(self) -> Result<Captured, TalkError> {
        self.close_stdin();
        // All is read, so a full buffer cannot keep it from its exit.
        self.set_buffer_limit(usize::MAX);
        let exits = self.until(1, &|| "its exit".into(), |conversation, _| conversation.poll_exits())?;
        let closed = |conversation: &mut Conversation, _: &mut Reactor| match conversation.is_closed(1) {
            true if conversation.is_closed(2) => Poll::Ready(()),
            _ => Poll::Pending,
        };
        let mut is_closed = self.wait_for(Limit::Given(DRAIN_TIME), closed)?.is_some();
        // What the processes have written is in the pipes, before all that others write.
        let mut late = 0;
        while !is_closed && late < PIPE {
            let unread = |conversation: &mut Conversation, _: &mut Reactor| {
                conversation.unread(1).len() + conversation.unread(2).len()
            };
            let before = self.with(unread);
            is_closed = self.wait_for(Limit::Given(Duration::ZERO), closed)?.is_some();
            match self.with(unread) - before {
                0 => break,
                more => late += more,
            }
        }
        let take = |fd| self.with(|conversation, reactor| conversation.poll_read(reactor, fd, usize::MAX));
        let all = |fd| match take(fd) {
            Poll::Ready(bytes) => bytes,
            Poll::Pending => Vec::new(),
        };
        let (stdout, stderr) = (all(1), all(2));
        let Some(exit) = exits.last().copied() else { unreachable!("a pipeline has at least one command") };
        Ok(Captured { program: self.program.clone(), exit, exits, stdout, stderr, pipes_left_open: !is_closed })
    }

    /// Sends a signal to the processes and to everything that they have started.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], as [`Tree::signal`](crate::Tree::signal).
    pub fn signal(&self, signal: i32) -> Result<(), TalkError> {
        self.signalled(self.with(|conversation, reactor| conversation.signal(reactor, signal)))
    }

    /// Kills the processes and everything that they have started (SIGKILL). It does not wait for
    /// their exit. It is no error if nobody is left.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], as [`Tree::kill`](crate::Tree::kill).
    pub fn kill(&self) -> Result<(), TalkError> {
        self.signalled(self.with(Conversation::kill)).or_else(nobody_is_fine)
    }

    /// Asks the processes and everything that they have started to end, by SIGTERM and SIGCONT, and
    /// kills what is left after `kill_time`. It returns when nothing is left.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], [`TalkError::Wait`], and [`TalkError::StillRunning`] if something is
    /// left two seconds after the kill.
    pub fn stop(&self, kill_time: Duration) -> Result<Exit, TalkError> {
        self.signalled(self.with(Conversation::terminate)).or_else(nobody_is_fine)?;
        let gone = |conversation: &mut Conversation, _: &mut Reactor| match conversation.is_gone() {
            true => conversation.poll_exit(),
            false => Poll::Pending,
        };
        if let Some(exit) = self.wait_for(Limit::Given(kill_time), gone)? {
            return Ok(exit);
        }
        self.kill()?;
        let exit = self.wait_for(Limit::Given(LAST_WAIT), gone)?;
        exit.ok_or_else(|| TalkError::StillRunning { program: self.program.clone() })
    }

    fn signalled(&self, sent: Result<(), SignalError>) -> Result<(), TalkError> {
        sent.map_err(|error| TalkError::Signal { program: self.program.clone(), error })
    }

    /// Sets a new size of its terminal: see [`Process::resize`](crate::Process::resize).
    ///
    /// # Errors
    ///
    /// As [`Process::resize`](crate::Process::resize).
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.with(|conversation, reactor| {
            let process = conversation.processes().last().and_then(|process| reactor.process(process));
            process.ok_or(io::ErrorKind::NotConnected)?.resize(rows, columns)
        })
    }
}

/// Takes it for a success that nobody is left to get a signal.
fn nobody_is_fine(error: TalkError) -> Result<(), TalkError> {
    match error {
        TalkError::Signal { error: SignalError::AlreadyExited, .. } => Ok(()),
        error => Err(error),
    }
}

impl Driver {
    /// Takes one turn.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let conversation = &mut self.conversation;
        self.reactor.turn(timeout, |reactor, event| conversation.handle(reactor, event))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.conversation.poll_exits().is_pending() {
            self.conversation.end(&mut self.reactor);
        }
    }
}

impl ChildOutput<'_> {
    /// Makes `None`, which means that the text cannot come, an error.
    fn found<T>(self, wanted: &dyn Fn() -> String, found: Option<T>) -> Result<T, TalkError> {
        found.ok_or_else(|| {
            let (program, wanted) = (self.child.program.clone(), wanted());
            self.child.with(|conversation, _| {
                let unread = conversation.unread(self.fd);
                let exit = match conversation.poll_exit() {
                    Poll::Ready(exit) => Some(Box::new(exit)),
                    Poll::Pending => None,
                };
                match conversation.is_closed(self.fd) {
                    true => TalkError::Closed { program, wanted, exit, unread: unread.to_vec() },
                    false => TalkError::Full { program, wanted, unread: unread.len() },
                }
            })
        })
    }

    /// Reads a line, without its newline. A last line without a newline counts, too. Bytes that are
    /// not UTF-8 become U+FFFD; [`read_until`](Self::read_until) gives the bytes as they are.
    /// `None` at the end of the output.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Full`], [`TalkError::Wait`].
    pub fn read_line(self) -> Result<Option<String>, TalkError> {
        let wanted = || "a line".into();
        let look = |conversation: &mut Conversation, reactor: &mut Reactor| conversation.poll_line(reactor, self.fd);
        match self.child.until(self.fd, &wanted, look)? {
            None if !self.child.with(|conversation, _| conversation.is_closed(self.fd)) => self.found(&wanted, None),
            line => Ok(line),
        }
    }

    /// Reads up to a text, and returns all that came, the text included.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Full`], [`TalkError::Wait`], and
    /// [`TalkError::Closed`] if the output ends without the text.
    pub fn read_until(self, text: impl AsRef<[u8]>) -> Result<Vec<u8>, TalkError> {
        let text = text.as_ref();
        let mut found = self.first_of(&[text])?.before;
        found.extend_from_slice(text);
        Ok(found)
    }

    /// Reads up to the text that is complete first, and tells which one it was and what came before
    /// it. Of several that are complete at the same byte, the first in the list counts. An empty
    /// text is found at once.
    ///
    /// # Errors
    ///
    /// As [`read_until`](Self::read_until).
    pub fn expect(self, texts: &[&str]) -> Result<Found, TalkError> {
        let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        self.first_of(&texts)
    }

    fn first_of(self, texts: &[&[u8]]) -> Result<Found, TalkError> {
        let wanted = || {
            let quoted: Vec<String> = texts.iter().map(|text| format!("{:?}", Escaped(text).to_string())).collect();
            if quoted.is_empty() { "one of no texts".into() } else { quoted.join(" or ") }
        };
        let look =
            |conversation: &mut Conversation, reactor: &mut Reactor| conversation.poll_text(reactor, self.fd, texts);
        let found = self.child.until(self.fd, &wanted, look)?;
        self.found(&wanted, found)
    }

    /// Reads all that comes until the output ends.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`].
    pub fn read_to_end(self) -> Result<Vec<u8>, TalkError> {
        let wanted = || "the end of the output".into();
        self.child.until(self.fd, &wanted, |conversation, reactor| conversation.poll_to_end(reactor, self.fd))
    }
}

/// The errors are those of [`ChildOutput::read_line`].
impl io::Read for ChildOutput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = || "output".into();
        let bytes = self
            .child
            .until(self.fd, &wanted, |conversation, reactor| conversation.poll_read(reactor, self.fd, buffer.len()))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}
