//! The error of a talk with a child. It decides nothing.
//!
//! The one rule: the message names the program, what was tried, and the end of what the program has
//! said.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::error::{SignalError, SpawnError, Tail};
use crate::exit::Exit;
use crate::io_error::into_io_error;

/// The error of a call of [`Child`](crate::Child).
///
/// It converts into an [`io::Error`] of the fitting kind, which keeps the message. Its `Debug` is
/// the message, too, so that an `unwrap` does not print all that is unread.
#[non_exhaustive]
pub enum TalkError {
    /// A program could not be started. Nothing of a pipeline runs then.
    Spawn(SpawnError),
    /// The time limit was up: see [`Child::set_time_limit`](crate::Child::set_time_limit). Nothing
    /// was taken from the output, so a read can be tried again.
    TimedOut {
        /// The program, or the pipeline.
        program: String,
        /// What was waited for.
        wanted: String,
        /// The time limit.
        limit: Duration,
        /// How many bytes of a write were not taken: these have to be written again, and not all.
        not_taken: usize,
        /// The last 4 KiB of what has come and was not taken yet.
        unread: Vec<u8>,
        /// The same of stderr, if the call was about another output.
        stderr: Vec<u8>,
    },
    /// The output has ended without the text that was waited for.
    Closed {
        /// The program, or the pipeline.
        program: String,
        /// What was waited for.
        wanted: String,
        /// How the program ended, if it was reaped by then.
        exit: Option<Box<Exit>>,
        /// The last 4 KiB of what has come and was not taken yet.
        unread: Vec<u8>,
        /// The same of stderr, if the call was about another output.
        stderr: Vec<u8>,
    },
    /// The text that was waited for cannot come, because so much is unread that the process has to
    /// wait: see [`Child::set_buffer_limit`](crate::Child::set_buffer_limit).
    Full {
        /// The program, or the pipeline.
        program: String,
        /// What was waited for.
        wanted: String,
        /// The number of unread bytes.
        unread: usize,
    },
    /// The stdin of the process is closed, by it or by us, or it has exited, or it never had a pipe
    /// or terminal to be written to.
    Write {
        /// The program, or the pipeline.
        program: String,
        /// The number of bytes that did not fit into the pipe before.
        lost: usize,
    },
    /// The signal could not be sent.
    Signal {
        /// The program, or the pipeline.
        program: String,
        /// The cause.
        error: SignalError,
    },
    /// It was killed, and is still there two seconds later.
    StillRunning {
        /// The program, or the pipeline.
        program: String,
    },
    /// It ended without success: see [`Captured::check`](crate::Captured::check).
    Failed {
        /// The program, or the pipeline.
        program: String,
        /// How it ended.
        exit: Box<Exit>,
        /// What it wrote to stderr.
        stderr: Vec<u8>,
    },
    /// The system refused to wait.
    Wait(io::Error),
}

impl fmt::Debug for TalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TalkError({self})")
    }
}

fn of_stderr(stderr: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if stderr.is_empty() { Ok(()) } else { write!(f, "; stderr is {}", Tail(stderr)) }
}

impl fmt::Display for TalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => error.fmt(f),
            Self::TimedOut { program, wanted, limit, unread, stderr, .. } => {
                write!(f, "`{program}`: {wanted} did not come within {limit:?}; unread is {}", Tail(unread))?;
                of_stderr(stderr, f)
            }
            Self::Closed { program, wanted, exit, unread, stderr } => {
                write!(f, "`{program}`: the output has ended without {wanted}")?;
                if let Some(exit) = exit {
                    write!(f, " ({exit})")?;
                }
                write!(f, "; unread is {}", Tail(unread))?;
                of_stderr(stderr, f)
            }
            Self::Full { program, wanted, unread } => {
                write!(f, "`{program}`: {wanted} is not in the {unread} unread bytes, which is as much as may be kept")
            }
            Self::Write { program, lost } => {
                write!(f, "cannot write to `{program}`: it has no open stdin; {lost} bytes were not taken")
            }
            Self::Signal { program, error } => write!(f, "`{program}`: {error}"),
            Self::StillRunning { program } => write!(f, "`{program}` was killed and is still there 2 s later"),
            Self::Failed { program, exit, stderr } => {
                write!(f, "`{program}` failed: {exit}")?;
                of_stderr(stderr, f)
            }
            Self::Wait(error) => write!(f, "cannot wait for the process: {error}"),
        }
    }
}

impl Error for TalkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Spawn(error) => error.source(),
            Self::Signal { error, .. } => error.source(),
            Self::Wait(error) => Some(error),
            _ => None,
        }
    }
}

impl From<SpawnError> for TalkError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}

into_io_error!(TalkError, |error| match error {
    TalkError::Spawn(error) => error.io_error().kind(),
    TalkError::Signal { error: SignalError::AlreadyExited, .. } => io::ErrorKind::NotFound,
    TalkError::Signal { error: SignalError::Os(error), .. } => error.kind(),
    TalkError::TimedOut { .. } | TalkError::StillRunning { .. } => io::ErrorKind::TimedOut,
    TalkError::Closed { .. } => io::ErrorKind::UnexpectedEof,
    TalkError::Write { .. } => io::ErrorKind::BrokenPipe,
    TalkError::Wait(error) => error.kind(),
    TalkError::Full { .. } | TalkError::Failed { .. } => io::ErrorKind::Other,
});
