//! The file of `childminder up`, as plain settings. Starts nothing and changes nothing.
//!
//! The one rule: all mistakes of the file are found here, at once and each with its place, so that
//! the settings are sound afterwards. What the machine is not ready for yet is a warning, and
//! warnings are looked for only when the caller asks for them.

mod instances;
mod process;
mod program;
mod read;
mod render;
mod report;
mod rights;
mod section;
pub(crate) mod socket;
mod source;
mod syntax;
mod text;
mod trust;
mod value;
mod warnings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use instances::Table;
pub(crate) use process::{Change, Commands, Mark, Output, ProcessConfig, Settings};
pub(crate) use render::Values;
pub(crate) use report::Findings;
use source::Source;
pub(crate) use source::{FileName, Unreadable};
pub(crate) use value::{parse_contain, parse_duration};

/// The file's name where none is given.
pub(crate) const DEFAULT_FILE: &str = "childminder.toml";

/// All that the file says.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where the control socket shall be, if the file says so. Absolute.
    pub(crate) socket: Option<PathBuf>,
    /// Whether the processes are killed if the supervisor is.
    pub(crate) kills_at_death: bool,
    /// Where the cgroups of the processes shall be made, if the file says so. Absolute.
    pub(crate) cgroup: Option<PathBuf>,
    /// How long something that is asked to end has until it is killed, unless it is a process with a time of its own.
    pub(crate) kill_time: Duration,
    /// The folder that relative paths count from.
    base: PathBuf,
    tables: Vec<Table>,
}

/// What is looked at beside the text of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Nothing.
    Text,
    /// What the supervisor needs for its own start: the place of its socket.
    Start,
    /// All that the processes need, too, for the warnings.
    Machine,
}

impl Config {
    /// Reads a file. Relative paths in it count from its own folder. With it come the warnings.
    ///
    /// # Errors
    ///
    /// All mistakes and warnings.
    pub(crate) fn load(file: &FileName, look: Look) -> Result<(Self, Findings), Findings> {
        let Source { path, bytes, warning } = source::read(file).map_err(Findings::unreadable)?;
        let (config, mut findings) = read::config(file.path(), folder_of(&path), &bytes, look)?;
        findings.warn_first(warning);
        Ok((config, findings))
    }

    /// The absolute path of a file, and the path of the socket if the file sets it. Mistakes that
    /// have nothing to do with the socket are ignored, because a supervisor that has read an earlier
    /// version may still run.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or mistakes in it hide the socket.
    pub(crate) fn find_socket(file: &FileName) -> Result<(PathBuf, Option<PathBuf>), NoSocket> {
        let Source { path, bytes, .. } = source::read(file).map_err(NoSocket::Unreadable)?;
        let socket = read::socket(file.path(), folder_of(&path), &bytes).map_err(NoSocket::Hidden)?;
        Ok((path, socket))
    }
}

/// The reason why the socket that a file sets is not known.
#[derive(Debug)]
pub(crate) enum NoSocket {
    Unreadable(Unreadable),
    Hidden(Findings),
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

#[cfg(test)]
mod tests;
