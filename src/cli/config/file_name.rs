//! The name of the file on the command line, and the name that it has without one. Reads nothing.
//!
//! The one rule: it stays known whether a user has named the file, because only then another user
//! may have written it.

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::paths;

/// The name of the file if the command line gives none.
pub(super) const DEFAULT_FILE: &str = "childminder.toml";

/// The name of a file, as it is on the command line.
#[derive(Debug, Clone)]
pub(crate) struct FileName {
    path: PathBuf,
    /// Whether the user has named the file. Otherwise it is the default one in the current folder.
    is_named: bool,
}

impl Default for FileName {
    fn default() -> Self {
        Self { path: DEFAULT_FILE.into(), is_named: false }
    }
}

impl FileName {
    pub(crate) fn named(path: PathBuf) -> Self {
        Self { path, is_named: true }
    }

    /// The same file with an absolute path.
    ///
    /// # Errors
    ///
    /// The current folder has been deleted.
    pub(crate) fn absolute(&self) -> io::Result<Self> {
        Ok(Self { path: paths::absolute(&self.path)?, is_named: self.is_named })
    }

    /// The path as it is written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_named(&self) -> bool {
        self.is_named
    }
}
