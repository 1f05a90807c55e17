//! Reads the file of `childminder up` into plain settings. Starts nothing and changes nothing.
//!
//! The one rule: every mistake in the file is found here, in one pass and with its place, so that
//! the settings need no further check. What the machine is not ready for yet is a warning, and
//! warnings are looked for only when the caller asks for them.

mod care;
mod documents;
mod env_file;
mod environment;
mod expand;
mod instances;
mod links;
mod listen;

mod process;
mod program;
mod read;
mod render;
mod report;
mod rights;
mod section;
pub(crate) mod socket;
mod source;
mod stdin;
mod syntax;
mod text;
mod trust;
mod value;
mod warnings;

use std::path::PathBuf;
use std::time::Duration;

use childminder::Order;
use instances::Table;
use links::Links;
pub(crate) use process::{Change, Commands, Fingerprint, Look, Output, ProcessConfig, Rotation, Settings};
pub(crate) use render::Values;
pub(crate) use report::{Findings, nearest};
pub(crate) use socket::{Access, SocketPath};
pub(crate) use source::{FileName, Unreadable};
pub(crate) use stdin::Stdin;
pub(crate) use value::{parse_contain, parse_duration, parse_size};

/// The name of the file if the command line gives none.
pub(crate) const DEFAULT_FILE: &str = "childminder.toml";

/// The settings of the whole file.
#[derive(Debug)]
pub(crate) struct Config {
    /// The file itself, or the first one of a folder. Absolute.
    pub(crate) file: PathBuf,
    /// The control socket, if the file sets it.
    pub(crate) socket: Option<SocketPath>,
    /// Who may use it besides root and our own user.
    pub(crate) access: Access,
    /// Whether the processes are killed if the supervisor is.
    pub(crate) kills_at_death: bool,
    /// The directory in which the cgroups of the processes are made, if the file sets it. Absolute.
    pub(crate) cgroup: Option<PathBuf>,
    /// The time between the request to stop and SIGKILL for everything that has no kill time of its
    /// own.
    pub(crate) kill_time: Duration,
    /// How our own messages are written, and the lines of processes that do not say it.
    pub(crate) look: Look,
    /// The order of the processes.
    pub(crate) order: Order,
    links: Links,
    tables: Vec<Table>,
}

/// What is checked besides the text of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Only the text.
    Text,
    /// Also what the supervisor needs for its own start: the place of its socket.
    Start,
    /// Also everything that the processes need, for the warnings.
    Machine,
}

impl Config {
    /// Reads a file, or all files of a folder, and returns the settings and the warnings. Relative
    /// paths in a file start from its own folder.
    ///
    /// # Errors
    ///
    /// All mistakes and warnings, if there is at least one mistake or the file cannot be read.
    pub(crate) fn load(file: &FileName, scope: Scope) -> Result<(Self, Findings), Findings> {
        read::config(&documents::all(file)?, scope)
    }

    /// The absolute path of a file, and the path of the socket if the file sets it. Mistakes that
    /// have nothing to do with the socket are ignored, because a supervisor that has read an
    /// earlier version may still run.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or mistakes in it hide the socket.
    pub(crate) fn find_socket(file: &FileName) -> Result<(PathBuf, Option<SocketPath>), NoSocket> {
        let (path, documents) = documents::named(file).map_err(NoSocket::Unreadable)?;
        let socket = read::socket(&documents).map_err(NoSocket::Hidden)?;
        Ok((path, socket))
    }
}

/// The reason why the socket that a file sets is not known.
#[derive(Debug)]
pub(crate) enum NoSocket {
    Unreadable(Unreadable),
    Hidden(Findings),
}

#[cfg(test)]
mod tests;
