//! A child to talk to in plain calls that wait, from one thread or several.
//!
//! It is a layer over a reactor of its own. The one rule: a call waits at most for the time limit,
//! and all output is read while any call waits, so a child never waits for this program because two
//! pipes are full at the same time.

use std::io;
use std::task::Poll;
use std::time::Duration;

use super::conversation::{Conversation, Found};
use super::core::{Core, Limit};
use super::error::TalkError;
use super::output::{Captured, ChildOutput};
use crate::command::Command;
use crate::contain::LAST_WAIT;
use crate::error::SignalError;
use crate::exit::Exit;
use crate::job::{DRAIN_TIME, PIPE};
use crate::reactor::Reactor;
use crate::stdio::Stdio;

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
pub struct Child(Core);

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
        Ok(Self(Core::new(programs, reactor, waker, conversation)))
    }

    /// Sets how long a call may wait, for this and all other threads. There is no limit if none is
    /// set. What was waited for and what has come is in [`TalkError::TimedOut`].
    pub fn set_time_limit(&self, limit: Option<Duration>) {
        self.0.change(|driver| driver.time_limit = limit);
    }

    /// Sets how many bytes of each output are kept until they are taken. At the limit the process
    /// has to wait, as at a full pipe, and a call that waits for its exit waits with it. There is
    /// no limit if none is set.
    pub fn set_buffer_limit(&self, bytes: usize) {
        self.0.change(|driver| driver.conversation.set_buffer_limit(&mut driver.reactor, bytes));
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
        self.0.change(|driver| driver.conversation.set_plain(plain));
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
        let written = self.0.wait_for(Limit::Set, |conversation, reactor| {
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
            Ok(lost) => Err(TalkError::Write { program: self.0.program(), lost }),
            Err(limit) => {
                Err(self.0.timed_out(1, format!("room for {} of {all} bytes of input", rest.len()), limit, rest.len()))
            }
        }
    }

    /// Closes its stdin after everything that was written. A terminal gets its end-of-file
    /// character (Ctrl-D).
    pub fn close_stdin(&self) {
        self.0.with(Conversation::close_stdin);
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
        ChildOutput::new(&self.0, fd)
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
        self.0.with(|conversation, reactor| reactor.process(conversation.processes().last()?)?.pid())
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
        Ok(self.0.wait_for(Limit::Given(timeout), |conversation, _| conversation.poll_exit())?.ok())
    }

    /// Closes its stdin, as std does, and waits for its exit. Of a pipeline the last process
    /// counts. Its output can be read afterwards.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`].
    pub fn wait(&self) -> Result<Exit, TalkError> {
        self.close_stdin();
        self.0.until(1, &|| "its exit".into(), |conversation, _| conversation.poll_exit())
    }

    /// Closes its stdin, and waits for the exit of each process of a pipeline. Returns how they
    /// ended, in the order of the commands.
    ///
    /// # Errors
    ///
    /// [`TalkError::TimedOut`], [`TalkError::Wait`].
    pub fn wait_all(&self) -> Result<Vec<Exit>, TalkError> {
        self.close_stdin();
        self.0.until(1, &|| "the exit of all".into(), |conversation, _| conversation.poll_exits())
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
        let mut is_closed = self.0.wait_for(Limit::Given(DRAIN_TIME), closed)?.is_ok();
        // What the processes have written is in the pipes, before all that others write.
        let mut late: u64 = 0;
        while !is_closed && late < 4 * PIPE {
            let unread = |conversation: &mut Conversation, _: &mut Reactor| {
                conversation.unread(1).len() + conversation.unread(2).len()
            };
            let before = self.0.with(unread);
            is_closed = self.0.wait_for(Limit::Given(Duration::ZERO), closed)?.is_ok();
            match self.0.with(unread) - before {
                0 => break,
                more => late += more as u64,
            }
        }
        let all = |fd| self.0.with(|conversation, reactor| conversation.take_unread(reactor, fd));
        let (stdout, stderr) = (all(1), all(2));
        let Some(exit) = exits.last().copied() else { unreachable!("a pipeline has at least one command") };
        Ok(Captured { programs: self.0.programs.clone(), exit, exits, stdout, stderr, pipes_left_open: !is_closed })
    }

    /// Sends a signal to the processes and to everything that they have started.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], as [`Tree::signal`](crate::Tree::signal).
    pub fn signal(&self, signal: i32) -> Result<(), TalkError> {
        self.signalled(self.0.with(|conversation, reactor| conversation.signal(reactor, signal)))
    }

    /// Kills the processes and everything that they have started (SIGKILL). It does not wait for
    /// their exit. It is no error if none is left.
    ///
    /// # Errors
    ///
    /// [`TalkError::Signal`], as [`Tree::kill`](crate::Tree::kill).
    pub fn kill(&self) -> Result<(), TalkError> {
        self.signalled(self.0.with(Conversation::kill)).or_else(none_left_is_fine)
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
        let _ = self.0.with(Conversation::terminate);
        let gone = |conversation: &mut Conversation, _: &mut Reactor| match conversation.is_gone() {
            true => conversation.poll_exit(),
            false => Poll::Pending,
        };
        if let Ok(exit) = self.0.wait_for(Limit::Given(kill_time), gone)? {
            return Ok(exit);
        }
        self.kill()?;
        let exit = self.0.wait_for(Limit::Given(LAST_WAIT), gone)?;
        exit.map_err(|_| TalkError::StillRunning { program: self.0.program() })
    }

    fn signalled(&self, sent: Result<(), SignalError>) -> Result<(), TalkError> {
        sent.map_err(|error| TalkError::Signal { program: self.0.program(), error })
    }

    /// Sets a new size of its terminal: see [`Process::resize`](crate::Process::resize).
    ///
    /// # Errors
    ///
    /// As [`Process::resize`](crate::Process::resize).
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.0.with(|conversation, reactor| {
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
