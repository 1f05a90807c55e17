//! The file of `childminder up`, as plain settings. Starts nothing; looks up users, groups and folders, and no more.
//!
//! The one rule: all that can be wrong with the file is found here, at once and with its place; afterwards the settings
//! are sound.

mod instances;
mod process;
mod read;
mod render;
mod report;
mod section;
mod source;
mod syntax;
mod value;

use std::fs;
use std::path::{Path, PathBuf};

use instances::Table;
pub(crate) use process::{Change, Commands, Mark, Output, ProcessConfig, Settings};
pub(crate) use report::Errors;
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
    pub(crate) fn load(file: &Path) -> Result<Self, Errors> {
        let bytes = fs::read(file).map_err(|error| Errors::unreadable(file, format!("cannot be read: {error}")))?;
        Self::parse(file, &bytes)
    }

    /// The settings in the text of a file, which need not be there.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Errors> {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let base = absolute.parent().unwrap_or(Path::new("/"));
        read::config(file, base, bytes)
    }
}

#[cfg(test)]
mod tests;
