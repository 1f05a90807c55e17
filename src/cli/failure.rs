//! The reason why a command was not carried out, with the exit code for it. Prints nothing.
//!
//! The one rule: a mistake of the user is told apart from anything else that failed.

use std::fmt;

/// The exit code for a failure of our own.
pub(super) const FAILURE: u8 = 125;

/// The reason why the command was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// Something failed.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Other(message) => f.write_str(message),
        }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(format!("{error}; try --help"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}
