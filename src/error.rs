//! The errors of the library, one type for each operation of a caller.
//!
//! It decides nothing and retries nothing. The one rule: every message names what was tried, on
//! what, and why it failed.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::contain::LAST_WAIT;
use crate::escaped::Escaped;
use crate::exit::Exit;
use crate::io_error::into_io_error;
use crate::limits::EndedBy;

macro_rules! stages {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// The step at which a spawn failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Stage { $($(#[$doc])* $variant,)* }

        impl Stage {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The step's short name, which is the name of the system call if the step is one:
            /// `exec`, `chdir`, `setuid`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

stages! {
    /// Checking the command: it holds a NUL byte, an empty program or a number out of range.
    Command => "command",
    /// Looking up the groups of a user id.
    User => "user",
    /// Opening a pipe, `/dev/null` or a pseudo-terminal, or registering it for events.
    Pipe => "pipe",
    /// Blocking the signals of the host's thread while the child is made, or unblocking them again
    /// (`sigprocmask(2)`). If the unblocking fails, they stay blocked.
    Sigmask => "sigprocmask",
    /// Opening a file of the child: see [`Stdio::append`](crate::Stdio::append) and
    /// [`Stdio::open_with`](crate::Stdio::open_with).
    Open => "open",
    /// Making the child: `clone(2)` or `fork(2)`.
    Clone => "clone",
    /// Making a cgroup for the child, or starting the child in it: see
    /// [`Contain::Cgroup`](crate::Contain::Cgroup).
    Cgroup => "cgroup",
    /// Setting a limit of the whole tree, such as [`Command::memory_limit`](crate::Command), or
    /// checking that one can be had: see [`Limits`](crate::Limits). Nothing was started.
    Limit => "limit",
    /// Taking a table of open files of its own (`close_range(2)`).
    CloseRange => "close_range",
    /// Starting a new session.
    Setsid => "setsid",
    /// Setting the process group.
    Setpgid => "setpgid",
    /// Putting a file at its descriptor number in the child.
    Dup2 => "dup2",
    /// Setting the controlling terminal.
    Terminal => "terminal",
    /// Registering the child with the guard: see
    /// [`Reactor::kill_trees_at_death`](crate::Reactor::kill_trees_at_death).
    Guard => "guard",
    /// Binding the child to processors: see [`Command::cpus`](crate::Command::cpus).
    Affinity => "sched_setaffinity",
    /// Binding the child's memory to NUMA nodes.
    MemoryPolicy => "set_mempolicy",
    /// Turning off the randomisation of addresses.
    Personality => "personality",
    /// Setting the scheduling class.
    Scheduler => "sched_setscheduler",
    /// Setting the I/O priority.
    IoPriority => "ioprio_set",
    /// Renouncing further rights.
    NoNewPrivs => "no_new_privs",
    /// Setting the scheduling priority.
    Nice => "nice",
    /// Setting a resource limit.
    Rlimit => "setrlimit",
    /// Entering the working directory.
    Chdir => "chdir",
    /// Setting the supplementary groups.
    Setgroups => "setgroups",
    /// Setting the group.
    Setgid => "setgid",
    /// Setting the user.
    Setuid => "setuid",
    /// Asking for the signal at the parent's death.
    ParentDeath => "parent-death signal",
    /// Executing the program.
    Exec => "exec",
    /// Waiting for the exec. The child took longer than the timeout, was stopped on its way, or the
    /// host was asked to end in the meantime. See
    /// [`Reactor::set_spawn_timeout`](crate::Reactor::set_spawn_timeout).
    Wait => "wait for its exec",
}

/// The error of a spawn that failed. Nothing is left behind: no process, no zombie, no descriptor.
///
/// As all errors of this crate, it becomes an [`io::Error`] by `?`, with the same message, and the
/// kind of [`io_error`](Self::io_error).
///
/// ```
/// use childminder::{Command, Reactor, Stage};
///
/// let mut reactor = Reactor::new()?;
/// let error = reactor.spawn_process(Command::new("true").current_dir("/no/such")).unwrap_err();
/// assert_eq!(error.stage(), Stage::Chdir);
/// assert_eq!(error.io_error().kind(), std::io::ErrorKind::NotFound);
/// assert_eq!(error.to_string(), "cannot start `true`: chdir /no/such: No such file or directory (os error 2)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SpawnError {
    program: OsString,
    stage: Stage,
    subject: Option<PathBuf>,
    source: io::Error,
    hint: Option<String>,
}

impl SpawnError {
    pub(crate) fn new(program: OsString, stage: Stage, source: io::Error) -> Self {
        Self { program, stage, subject: None, source, hint: None }
    }

    /// Adds the file, directory or other object of the step.
    pub(crate) fn on(mut self, subject: impl Into<PathBuf>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds a hint that says more about the cause than the errno does.
    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// The step that failed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The program as the command named it.
    #[must_use]
    pub fn program(&self) -> &Path {
        Path::new(&self.program)
    }

    /// The system's error, with its errno.
    #[must_use]
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start `{}`: {}", self.program.to_string_lossy(), self.stage.name())?;
        if let Some(subject) = &self.subject {
            write!(f, " {}", subject.display())?;
        }
        write!(f, ": {}", self.source)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

into_io_error!(SpawnError, |error| error.source.kind());

/// The error of a signal that could not be sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SignalError {
    /// The process has exited, so there is nothing to send the signal to (Twisted's
    /// `ProcessExitedAlready`).
    AlreadyExited,
    /// The system refused: `EINVAL` for a number that is not a signal, `EPERM` if the right is
    /// missing.
    Os(io::Error),
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyExited => f.write_str("the process has already exited"),
            Self::Os(error) => write!(f, "cannot send the signal: {error}"),
        }
    }
}

impl Error for SignalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::AlreadyExited => None,
            Self::Os(error) => Some(error),
        }
    }
}

impl From<io::Error> for SignalError {
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(libc::ESRCH) { Self::AlreadyExited } else { Self::Os(error) }
    }
}

into_io_error!(SignalError, |error| match error {
    SignalError::AlreadyExited => ErrorKind::NotFound,
    SignalError::Os(error) => error.kind(),
});

/// An error of the system, preceded by what was tried.
#[derive(Debug)]
struct Explained {
    what: &'static str,
    source: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Puts what was tried in front of the system's error, which stays the source.
pub(crate) fn explain(what: &'static str, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), Explained { what, source })
}

/// The error of a write to a child that was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The child has no pipe for writing at this descriptor: it never had one, or the pipe is
    /// already closed.
    NoPipe {
        /// The descriptor's number in the child.
        fd: i32,
    },
    /// The pipe is closed for writing. What was written before is still being flushed.
    Closing {
        /// The descriptor's number in the child.
        fd: i32,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPipe { fd } => write!(f, "the child has no open pipe to be written to at descriptor {fd}"),
            Self::Closing { fd } => write!(f, "the pipe to the child's descriptor {fd} is being closed"),
        }
    }
}

impl Error for WriteError {}

into_io_error!(WriteError, |_| ErrorKind::BrokenPipe);

/// The error of a second producer for a pipe that already has one (Twisted's `RuntimeError`): see
/// [`Feed::register_producer`](crate::Feed::register_producer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlreadyRegistered;

impl fmt::Display for AlreadyRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pipe already has a producer: unregister that one first")
    }
}

impl Error for AlreadyRegistered {}

into_io_error!(AlreadyRegistered, |_| ErrorKind::AlreadyExists);

/// How much of what a process has written is in a message, in bytes.
const SHOWN: usize = 200;

/// The end of what a process has written.
pub(crate) struct Tail<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        let start = self.0.len().saturating_sub(SHOWN);
        let text = Escaped(&self.0[start..]).to_string();
        write!(f, "{}{text:?}", if start > 0 { "…" } else { "" })
    }
}

/// The error of [`RunToEnd::run`](crate::RunToEnd::run).
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The program could not be started.
    Spawn(SpawnError),
    /// The input could not be read. The process was killed with its group, because the output for a
    /// part of the input is worth nothing.
    Input(io::Error),
    /// The system refused to wait, usually because no descriptor is left. If a process ran, it was
    /// killed with its group.
    Wait(io::Error),
    /// This signal asked the program to end. The process was stopped with its group. The program
    /// goes on only because other code in it handles the signal.
    Interrupted {
        /// The number of the signal.
        signal: i32,
    },
    /// The command was not started, because [`RunMany`](crate::RunMany) was stopped before.
    NotStarted,
    /// The command was not started, because its run was [cancelled](crate::Cancel) before.
    Cancelled,
    /// The command was not started, because the signal that is to stop it does not exist, or one
    /// that is to interrupt the run cannot be caught.
    NotASignal {
        /// The number.
        signal: i32,
    },
    /// It ended without success: see [`Output::check`](crate::Output::check).
    Failed {
        /// How it ended.
        exit: Box<Exit>,
        /// Why it ended.
        ended_by: EndedBy,
        /// What it wrote to stderr.
        stderr: Vec<u8>,
    },
    /// The process was killed and is still there two seconds later: it has become another user's,
    /// or waits for a device in the kernel. It is left to itself.
    StillRunning {
        /// The process id.
        pid: u32,
        /// The error of sending SIGKILL, if that failed.
        refusal: Option<io::Error>,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => error.fmt(f),
            Self::Input(error) => write!(f, "cannot read the input: {error}"),
            Self::Wait(error) => write!(f, "cannot wait for the process: {error}"),
            Self::NotStarted => f.write_str("it was not started: all runs were stopped before"),
            Self::Cancelled => f.write_str("it was not started: it was cancelled before"),
            Self::NotASignal { signal } => write!(f, "it was not started: {signal} is not a signal for this"),
            Self::Failed { exit, ended_by, stderr } => {
                match ended_by {
                    EndedBy::Exit | EndedBy::Signal => write!(f, "it failed: {exit}")?,
                    limit => write!(f, "it was ended ({limit}): {exit}")?,
                }
                if stderr.is_empty() { Ok(()) } else { write!(f, "; stderr is {}", Tail(stderr)) }
            }
            Self::Interrupted { signal } => write!(f, "interrupted by signal {signal}"),
            Self::StillRunning { pid, refusal: Some(error) } => write!(f, "cannot kill process {pid}: {error}"),
            Self::StillRunning { pid, refusal: None } => {
                write!(f, "process {pid} is still there {} s after it was killed", LAST_WAIT.as_secs())
            }
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Spawn(error) => error.source(),
            Self::Input(error) | Self::Wait(error) => Some(error),
            Self::StillRunning { refusal, .. } => refusal.as_ref().map(|error| error as &dyn Error),
            Self::Interrupted { .. }
            | Self::NotStarted
            | Self::Cancelled
            | Self::NotASignal { .. }
            | Self::Failed { .. } => None,
        }
    }
}

impl From<SpawnError> for RunError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

into_io_error!(RunError, |error| match error {
    RunError::Spawn(error) => error.source.kind(),
    RunError::Input(error) | RunError::Wait(error) | RunError::StillRunning { refusal: Some(error), .. } =>
        error.kind(),
    RunError::StillRunning { refusal: None, .. } => ErrorKind::TimedOut,
    // The kind `Interrupted` would make a caller run the command again.
    RunError::Interrupted { .. } | RunError::NotStarted | RunError::Cancelled | RunError::Failed { .. } =>
        ErrorKind::Other,
    RunError::NotASignal { .. } => ErrorKind::InvalidInput,
});
