//! Reads the file of `childminder up` into plain settings. Starts nothing and changes nothing.
//!
//! The one rule: every mistake in the file is found here, in one pass and with its place, so that
//! the settings need no further check. What the machine is not ready for yet is a warning, and
//! warnings are looked for only when the caller asks for them.

mod care;
mod configuration;
mod documents;
mod env_file;
mod environment;
mod expand;
mod file_name;
mod fingerprint;
mod instances;
mod links;
mod listen;
mod policy;
mod process;
mod program;
mod read;
mod render;
mod report;
mod rights;
mod section;
mod show;
pub(crate) mod socket;
mod source;
mod stdio;
mod syntax;
mod table;
mod text;
mod trust;
mod value;
mod warnings;

use std::path::PathBuf;

pub(crate) use configuration::Config;
pub(crate) use file_name::FileName;
pub(crate) use fingerprint::{Change, Fingerprint};
pub(crate) use process::{Commands, Look, Output, ProcessConfig, Rotation, Stdin};
pub(crate) use read::Scope;
pub(crate) use render::Values;
pub(crate) use report::{Findings, nearest};
pub(crate) use socket::{Access, SocketPath};
pub(crate) use source::Unreadable;
pub(crate) use value::{parse_contain, parse_duration, parse_size};

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
