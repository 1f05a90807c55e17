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
mod value;
mod warnings;

use std::path::{Path, PathBuf};

use instances::Table;
pub(crate) use process::{Change, Commands, Mark, Output, ProcessConfig, Settings};
pub(crate) use report::Findings;
pub(crate) use source::Unreadable;
pub(crate) use value::parse_duration;

/// The file's name where none is given.
pub(crate) const DEFAULT_FILE: &str = "childminder.toml";

/// All that the file says.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where the control socket shall be, if the file says so. Absolute.
    pub(crate) socket: Option<PathBuf>,
    /// The folder that relative paths count from.
    base: PathBuf,
    tables: Vec<Table>,
}

impl Config {
    /// Reads a file. Relative paths in it count from its own folder.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub(crate) fn load(file: &Path) -> Result<Self, Findings> {
        let (path, bytes) = source::read(file).map_err(Findings::unreadable)?;
        Ok(read::config(file, folder_of(&path), &bytes, false)?.0)
    }

    /// [`load`](Self::load), with the warnings.
    ///
    /// # Errors
    ///
    /// All mistakes and warnings. A socket that the supervisor could not make now is a mistake
    /// here, too.
    pub(crate) fn check(file: &Path) -> Result<(Self, Findings), Findings> {
        let (path, bytes) = source::read(file).map_err(Findings::unreadable)?;
        read::config(file, folder_of(&path), &bytes, true)
    }

    /// The absolute path of a file, and the path of the socket if the file sets it. Other mistakes
    /// in the file are ignored, because a supervisor that has read an earlier version may still
    /// run.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(crate) fn find_socket(file: &Path) -> Result<(PathBuf, Option<PathBuf>), Unreadable> {
        let (path, bytes) = source::read(file)?;
        let socket = read::socket(folder_of(&path), &bytes);
        Ok((path, socket))
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

#[cfg(test)]
mod tests;
