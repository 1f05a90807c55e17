//! Finds the socket of the supervisor that a client talks to. Connects to nothing.
//!
//! The one rule: a request goes to the socket that the user has named or that the file names, or to
//! no socket. It never goes to the default one because a file could not be read.

use std::path::PathBuf;

use crate::cli::config::{self, Config, FileName, NoSocket, SocketPath};
use crate::cli::failure::Failure;
use crate::cli::paths;

/// The socket at which a client looks for a supervisor.
#[derive(Debug)]
pub(super) struct Place {
    /// The path as it is written, because the full path may be too long for a socket.
    pub(super) path: PathBuf,
    /// The reason why this is the default path, if it is.
    pub(super) default_because: Option<String>,
}

impl Place {
    /// The socket of this path, or the one that the file sets.
    pub(super) fn find(socket: Option<PathBuf>, file: &FileName) -> Result<Self, Failure> {
        let place = match socket {
            Some(path) => Self { path, default_because: None },
            None => Self::in_file(file)?,
        };
        config::socket::check_length(&place.path).map_err(|what| Failure::Usage(format!("the socket is {what}")))?;
        Ok(place)
    }

    /// The place where the supervisor listens, according to its file or by default.
    fn in_file(file: &FileName) -> Result<Self, Failure> {
        let default = |why: String| Self { path: config::socket::default_path(), default_because: Some(why) };
        match Config::find_socket(file) {
            Ok((_, Some(SocketPath::At(path)))) => Ok(Self { path, default_because: None }),
            Ok((file, Some(SocketPath::None))) => {
                Err(Failure::Other(format!("no supervisor can be asked, as {} says `socket = false`", file.display())))
            }
            Ok((file, None)) => Ok(default(format!("{} sets no `socket`", file.display()))),
            Err(NoSocket::Unreadable(error)) if error.is_missing && !file.is_named() => {
                Ok(default(format!("there is no {}", error.path.display())))
            }
            Err(NoSocket::Unreadable(error)) => Err(Failure::Usage(error.to_string())),
            Err(NoSocket::Hidden(mistakes)) => Err(Failure::Usage(format!(
                "no supervisor can be asked ({}; so its socket is not known; use --socket PATH)",
                mistakes.to_string().lines().next().unwrap_or_default()
            ))),
        }
    }

    /// The full path, for messages.
    pub(super) fn shown(&self) -> String {
        match paths::absolute(&self.path) {
            Ok(path) => path.display().to_string(),
            Err(error) => format!("{} ({error})", self.path.display()),
        }
    }
}
