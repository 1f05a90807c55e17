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
use super::share::{Share, Urgency};
use crate::command::Command;
use crate::contain::LAST_WAIT;
use crate::error::SignalError;
use crate::exit::Exit;
use crate::job::{DRAIN_TIME, PIPE};
use crate::lines::Escaped;
use crate::reactor::{Event, Reactor};
use crate::stdio::Stdio;
use crate::sys::clock;

/// The number of waiting bytes above which a write waits.
const HIGH_WATER: usize = 64 * 1024;

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
/// much while nothing is read does not stand still, and neither does a [`write`](Self::write) of
/// any size; [`set_buffer_limit`](Self::set_buffer_limit) bounds the memory for it.
///
/// When it is dropped while a process still runs, it kills the whole [tree](crate::Tree) and waits
/// until nothing of it is left, at most 2 s. What a process that has exited has left behind, such
/// as a daemon, goes on. A program that is killed itself does not get so far: see
/// [`Reactor::kill_trees_at_death`].
///
/// It takes about eleven descriptors, most of them for its reactor. To talk to hundreds at a time,
/// use [`Conversation`](crate::Conversation)s on one reactor.
#[derive(Debug)]
pub struct Child {
    /// The program, or the programs of the pipeline.
    programs: Vec<String>,
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

/// One of the outputs of a [`Child`]: see [`Child::stdout`]. It is also an [`io::Read`]; what a
/// reader on top of that keeps, such as a `BufReader`, these methods do not see.
#[derive(Debug, Clone, Copy)]
pub struct ChildOutput<'a> {
    child: &'a Child,
    fd: i32,
}

/// What a [`Child`] has written, and how it ended: see [`Child::output`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Captured {
    /// The program, or the programs of the pipeline in the order of its commands.
    pub programs: Vec<String>,
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
    /// last process without success counts, as with the shell's `pipefail`: also one that SIGPIPE
    /// has ended because the next one did not read all.
    ///
    /// # Errors
    ///
    /// [`TalkError::Failed`], which names the process.
    pub fn check(self) -> Result<Self, TalkError> {
        let failed = self.programs.iter().zip(&self.exits).rfind(|(_, exit)| !exit.success());
        match failed.map(|(program, exit)| (program.clone(), Box::new(*exit))) {
            Some((program, exit)) => Err(TalkError::Failed { program, exit, stderr: self.stderr }),
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
    /// pipe, whatever the commands set there. The stdin of the first is a pipe if it sets none, and
    /// the stderr of all arrives as one.
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
    /// [parent of its cgroups](Reactor::set_cgroup_parent). All its other events are dropped: those
    /// of other processes, and of signals that it watches.
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
        let names = commands.iter().map(|command| command.get_program().to_string_lossy().into_owned());
        let programs = names.collect();
        let waker = reactor.waker().map_err(TalkError::Wait)?;
        let conversation = Conversation::pipeline(&mut reactor, &commands)?;
        let driver = Driver { reactor, conversation, time_limit: None };
        Ok(Self { programs, share: Share::new(Box::new(driver), waker) })
    }

    /// The program, or the pipeline, for an error.
    fn program(&self) -> String {
        self.programs.join(" | ")
    }

    /// Sets how long a call may wait, for this and all other threads. There is no limit if none is
    /// set. What was waited for and what has come is in [`TalkError::TimedOut`].
    pub fn set_time_limit(&self, limit: Option<Duration>) {
        self.change(|driver| driver.time_limit = limit);
    }

    /// Sets how many bytes of each output are kept until they are taken. At the limit the process
    /// has to wait, as at a full pipe, and a call that waits for its exit waits with it. There is
    /// no limit if none is set.
    pub fn set_buffer_limit(&self, bytes: usize) {
        self.change(|driver| driver.conversation.set_buffer_limit(&mut driver.reactor, bytes));
    }

    /// Sets whether the noise of a terminal is taken out of what comes at stdout from now on:
    /// escape sequences (colours, titles, movements), carriage returns, and the echo of what is
    /// written, where the echo is the next that comes.
    ///
    /// Write to a program when its prompt has come. What is written earlier is echoed before the
    /// prompt, by the terminal, and often a second time by the program. `TERM=dumb` keeps many
    /// programs from redrawing their lines. A terminal that breaks a long line, because it is not
    /// wide enough, changes its echo. An echo is taken out only if the terminal was made to echo.
    pub fn set_plain(&self, plain: bool) {
        self.change(|driver| driver.conversation.set_plain(plain));
    }

    /// Waits until `look` has an answer. If the time is up, after at least one turn, it returns the
    /// limit as an error.
    fn wait_for<T>(
        &self,
        limit: Limit,
        mut look: impl FnMut(&mut Conversation, &mut Reactor) -> Poll<T>,
    ) -> Result<Result<T, Duration>, TalkError> {
        let (start, mut has_turned, mut has_passed) = (clock(), false, false);
        let mut driver = self.share.take(Urgency::AtOnce);
        loop {
            let Driver { reactor, conversation, time_limit } = &mut **driver;
            if let Poll::Ready(answer) = look(conversation, reactor) {
                return Ok(Ok(answer));
            }
            let limit = match limit {
                Limit::Set => *time_limit,
                Limit::Given(limit) => Some(limit),
            };
            let deadline = limit.and_then(|limit| start.checked_add(limit));
            let left = deadline.map(|at| at.saturating_duration_since(clock()));
            if let (Some(limit), Some(Duration::ZERO), true) = (limit, left, has_turned) {
                return Ok(Err(limit));
            }
            let is_wanted = driver.is_wanted();
            if is_wanted && !has_passed {
                driver = driver.pass(deadline.map_or(Urgency::Never, Urgency::At));
                has_passed = true;
            } else {
                // If others want it again and again, a turn comes in between all the same.
                let turned = driver.turn(if is_wanted { Some(Duration::ZERO) } else { left });
                if !matches!(turned, Ok(false)) {
                    driver.note_change();
                }
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
        self.wait_for(Limit::Set, look)?.map_err(|limit| self.timed_out(fd, wanted(), limit, 0))
    }

    fn timed_out(&self, fd: i32, wanted: String, limit: Duration, not_taken: usize) -> TalkError {
        let (unread, stderr) = self.with(|conversation, _| conversation.tails(fd));
        TalkError::TimedOut { program: self.program(), wanted, limit, unread, stderr, not_taken }
    }

    /// Changes what other threads may find.
    fn change(&self, act: impl FnOnce(&mut Driver)) {
        let mut driver = self.share.take(Urgency::AtOnce);
        act(&mut driver);
        driver.note_change();
    }

    /// Does something that needs no wait.
    fn with<T>(&self, act: impl FnOnce(&mut Conversation, &mut Reactor) -> T) -> T {
        let mut driver = self.share.take(Urgency::AtOnce);
        let Driver { reactor, conversation, .. } = &mut **driver;
        act(conversation, reactor)
    }

    /// Writes to its stdin, or to its terminal, and waits until at most 64 KiB of it wait for room
    /// in the pipe. These are written while other calls wait.
    ///
    /// The output is read and kept in the meantime. A terminal that hands on whole lines cuts those
    /// that are longer than 4,095 bytes (`termios(3)`).
    ///
    /// # Errors
    ///
    /// [`TalkError::Write`] if it has no stdin to be written to, or that is closed before all
    /// fitted into the pipe. [`TalkError::TimedOut`] tells how many bytes were not taken. Write
    /// these again, and not all.
    pub fn write(&self, data: impl AsRef<[u8]>) -> Result<(), TalkError> {
        let all = data.as_ref().len();
        let mut rest = data.as_ref();
        let written = self.wait_for(Limit::Set, |conversation, reactor| {
            // Piece by piece, so that little is kept of much.
            loop {
                match conversation.poll_written(reactor, HIGH_WATER) {
                    Poll::Ready(0) if rest.is_empty() => return Poll::Ready(0),
                    Poll::Ready(0) => {}
                    Poll::Ready(lost) => return Poll::Ready(lost + rest.len()),
                    Poll::Pending => return Poll::Pending,
                }
                let (piece, more) = rest.split_at(rest.len().min(HIGH_WATER));
                if conversation.write(reactor, piece).is_err() {
                    return Poll::Ready(rest.len());
                }
                rest = more;
            }
        })?;
        match written {
            Ok(0) => Ok(()),
            Ok(lost) => Err(TalkError::Write { program: self.program(), lost }),
            Err(limit) => {
                Err(self.timed_out(1, format!("room for {} of {all} bytes of input", rest.len()), limit, rest.len()))
            }
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
        Ok(self.wait_for(Limit::Given(timeout), |conversation, _| conversation.poll_exit())?.ok())
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

    /// Closes its stdin, and waits for the exit of each process of a pipeline. Returns how they
    /// ended, in the order of the commands.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`].
    pub fn wait_all(&self) -> Result<Vec<Exit>, TalkError> {
        self.close_stdin();
        self.until(1, &|| "the exit of all".into(), |conversation, _| conversation.poll_exits())
    }

    /// Closes its stdin, reads all that it writes, and waits for its exit. If other processes still
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
        // All is read, so a full buffer cannot keep it from its exit.
        self.set_buffer_limit(usize::MAX);
        let exits = self.wait_all()?;
        let closed = |conversation: &mut Conversation, _: &mut Reactor| match conversation.is_closed(1) {
            true if conversation.is_closed(2) => Poll::Ready(()),
            _ => Poll::Pending,
        };
        let mut is_closed = self.wait_for(Limit::Given(DRAIN_TIME), closed)?.is_ok();
        // What the processes have written is in the pipes, before all that others write.
        let mut late: u64 = 0;
        while !is_closed && late < 4 * PIPE {
            let unread = |conversation: &mut Conversation, _: &mut Reactor| {
                conversation.unread(1).len() + conversation.unread(2).len()
            };
            let before = self.with(unread);
            is_closed = self.wait_for(Limit::Given(Duration::ZERO), closed)?.is_ok();
            match self.with(unread) - before {
                0 => break,
                more => late += more as u64,
            }
        }
        let take = |fd| self.with(|conversation, reactor| conversation.poll_read(reactor, fd, usize::MAX));
        let all = |fd| match take(fd) {
            Poll::Ready(bytes) => bytes,
            Poll::Pending => Vec::new(),
        };
        let (stdout, stderr) = (all(1), all(2));
        let Some(exit) = exits.last().copied() else { unreachable!("a pipeline has at least one command") };
        Ok(Captured { programs: self.programs.clone(), exit, exits, stdout, stderr, pipes_left_open: !is_closed })
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
    /// their exit. It is no error if none is left.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], as [`Tree::kill`](crate::Tree::kill).
    pub fn kill(&self) -> Result<(), TalkError> {
        self.signalled(self.with(Conversation::kill)).or_else(none_left_is_fine)
    }

    /// Asks the processes and everything that they have started to end, by SIGTERM and SIGCONT, and
    /// kills what is left after `kill_time`. It returns when nothing is left.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], [`TalkError::Wait`], and [`TalkError::StillRunning`] if something is
    /// left two seconds after the kill.
    pub fn stop(&self, kill_time: Duration) -> Result<Exit, TalkError> {
        // What may not be signalled shows in the wait, and at the kill.
        let _ = self.with(Conversation::terminate);
        let gone = |conversation: &mut Conversation, _: &mut Reactor| match conversation.is_gone() {
            true => conversation.poll_exit(),
            false => Poll::Pending,
        };
        if let Ok(exit) = self.wait_for(Limit::Given(kill_time), gone)? {
            return Ok(exit);
        }
        self.kill()?;
        let exit = self.wait_for(Limit::Given(LAST_WAIT), gone)?;
        exit.map_err(|_| TalkError::StillRunning { program: self.program() })
    }

    fn signalled(&self, sent: Result<(), SignalError>) -> Result<(), TalkError> {
        sent.map_err(|error| TalkError::Signal { program: self.program(), error })
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

/// Takes it for a success that none is left to get a signal.
fn none_left_is_fine(error: TalkError) -> Result<(), TalkError> {
    match error {
        TalkError::Signal { error: SignalError::AlreadyExited, .. } => Ok(()),
        error => Err(error),
    }
}

impl Driver {
    /// Takes one turn, and tells whether anything happened but a wake-up by another thread.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let Self { reactor, conversation, .. } = self;
        let (waiting, mut has_events) = (conversation.waiting(reactor), false);
        reactor.turn(timeout, |reactor, event| {
            has_events |= !matches!(event, Event::Woken);
            conversation.handle(reactor, event);
        })?;
        Ok(has_events || conversation.waiting(reactor) != waiting)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What has exited, but was not reaped, has ended by itself.
        let _ = self.turn(Some(Duration::ZERO));
        if self.conversation.poll_exits().is_pending() {
            self.conversation.end(&mut self.reactor);
        }
    }
}

impl ChildOutput<'_> {
    /// Makes `None`, which means that the text cannot come, an error.
    fn found<T>(self, wanted: &dyn Fn() -> String, found: Option<T>) -> Result<T, TalkError> {
        if let Some(found) = found {
            return Ok(found);
        }
        let (program, wanted) = (self.child.program(), wanted());
        if !self.child.with(|conversation, _| conversation.is_closed(self.fd)) {
            let unread = self.child.with(|conversation, _| conversation.unread(self.fd).len());
            return Err(TalkError::Full { program, wanted, unread });
        }
        // As a rule the exit follows the end of the output.
        let exit = self.child.wait_timeout(DRAIN_TIME)?.map(Box::new);
        let (unread, stderr) = self.child.with(|conversation, _| conversation.tails(self.fd));
        Err(TalkError::Closed { program, wanted, exit, unread, stderr })
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

/// Writes to its stdin, for `writeln!` and [`io::copy`]: all of a buffer, or an error.
impl io::Write for &Child {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Child::write(self, data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
