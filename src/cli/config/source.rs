//! Reads the file and makes a text of it. Does not interpret the text.
//!
//! The one rule: a file is read whole or not at all, and reading never blocks, because the
//! supervisor reads the file while it watches its processes.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file_name::FileName;
use super::trust::{self, Doubt};
use crate::cli::paths;

/// The size of the largest file that is read, in bytes. A file with 10,000 tables is smaller.
const LARGEST: u64 = 4 << 20;

/// The error for a file that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// Absolute, unless the current folder has been deleted.
    pub(crate) path: PathBuf,
    pub(super) message: String,
    /// Whether there is no file at this path.
    pub(crate) is_missing: bool,
}

impl Unreadable {
    pub(super) fn new(path: &Path, message: String) -> Self {
        Self { path: path.to_owned(), message, is_missing: false }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// A file that has been read.
#[derive(Debug)]
pub(super) struct Source {
    /// Absolute.
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// What root should know before running the file.
    pub(super) warning: Option<String>,
}

/// Reads a file.
pub(super) fn read(file: &FileName) -> Result<Source, Unreadable> {
    // The hint only helps a user who named no file.
    let hint = if file.is_named() { "" } else { "; -c FILE names another one" };
    let path = paths::absolute(file.path()).map_err(|error| Unreadable {
        path: file.path().to_owned(),
        message: format!("cannot be looked for, as {error}{hint}"),
        is_missing: false,
    })?;
    match read_whole(&path, file.is_named()) {
        Ok((bytes, warning)) => Ok(Source { path, bytes, warning }),
        Err(Refusal::Missing) => {
            Err(Unreadable { path, message: format!("there is no such file{hint}"), is_missing: true })
        }
        Err(Refusal::Other(message)) => Err(Unreadable { path, message, is_missing: false }),
    }
}

enum Refusal {
    Missing,
    Other(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Other(format!("cannot be read: {error}")),
        }
    }
}

/// The content of a file, and a warning about the file.
fn read_whole(path: &Path, is_named: bool) -> Result<(Vec<u8>, Option<String>), Refusal> {
    if let Some(what) = kind_of(fs::metadata(path)?.file_type()) {
        // A shell's `<(…)` is a pipe, for example.
        let why = if what == DIRECTORY { "" } else { " (it is read again at each reload)" };
        return Err(Refusal::Other(format!("is {what}, not a regular file{why}")));
    }
    // The path may lead to a named pipe by now, and opening one would block.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let before = file.metadata()?;
    let warning = match trust::doubt(path, &file, is_named)? {
        Some(Doubt::Refusal(message)) => return Err(Refusal::Other(message)),
        Some(Doubt::Warning(message)) => Some(message),
        None => None,
    };
    let mut bytes = Vec::new();
    (&file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if count > LARGEST {
        let size = after.len().max(count);
        return Err(Refusal::Other(format!("has {size} bytes, allowed are at most {LARGEST}")));
    }
    if stamp(&before) != stamp(&after) || count < after.len() {
        return Err(Refusal::Other("is being written; try again when that is done".into()));
    }
    Ok((bytes, warning))
}

const DIRECTORY: &str = "a directory";

/// A description of a file that is not a regular file.
fn kind_of(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some(DIRECTORY)
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// The size and the time of the last change, which differ once a file has been written to.
fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// The error for bytes that are not valid UTF-8.
pub(super) struct NotText<'t> {
    /// The text up to the first invalid byte.
    pub(super) before: Cow<'t, str>,
    pub(super) message: &'static str,
}

/// The text in these bytes, as an editor shows it: without a byte-order mark, and with LF at the
/// end of each line.
///
/// The parser would keep the CR of a CRLF within a string of several lines, and a shell would take
/// it for a part of the line.
pub(super) fn text(bytes: &[u8]) -> Result<Cow<'_, str>, NotText<'_>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(plain(text)),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let message = if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
                "text in UTF-16, allowed is text in UTF-8"
            } else {
                "bytes that are no UTF-8, allowed is text in UTF-8"
            };
            Err(NotText { before: plain(std::str::from_utf8(before).unwrap_or_default()), message })
        }
    }
}

fn plain(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.contains('\r') {
        return text.into();
    }
    // A text that was converted twice has more than one CR in front of each LF.
    text.split('\n').map(|line| line.trim_end_matches('\r')).collect::<Vec<_>>().join("\n").into()
}
