//! The default path of the control socket, and the longest path that a socket may have. Makes no
//! socket.
//!
//! The one rule: the supervisor and its clients both take the path from here, so that they use the
//! same one.

use std::mem::offset_of;
use std::path::{Path, PathBuf};

use crate::cli::paths;

/// The length of the longest path of a socket on this system, in bytes, without the NUL at its end.
pub(super) const LONGEST: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

/// The environment variable that names the folder for a user's sockets.
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// What a file says of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SocketPath {
    /// `false`: there is none.
    None,
    /// Absolute, but as it is written until the file has been read.
    At(PathBuf),
}

impl SocketPath {
    /// The path, where a file has been read or not.
    pub(crate) fn of(setting: Option<Self>) -> Option<PathBuf> {
        match setting {
            None => Some(default_path()),
            Some(Self::None) => None,
            Some(Self::At(path)) => Some(path),
        }
    }
}

/// Who may use the socket besides root and our own user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// The mode of its file; 0660 if there is a group, and 0600 otherwise.
    pub(crate) mode: Option<u32>,
    pub(crate) gid: Option<u32>,
}

impl Access {
    pub(crate) fn mode(self) -> u32 {
        self.mode.unwrap_or(if self.gid.is_some() { 0o660 } else { 0o600 })
    }

    /// Whether other users than root and our own may connect.
    pub(crate) fn is_open(self) -> bool {
        self.mode() & 0o077 != 0
    }
}

/// The path of the socket if neither the file nor the command line sets one.
pub(crate) fn default_path() -> PathBuf {
    let uid = rustix::process::geteuid();
    match std::env::var_os(RUNTIME_DIR).filter(|dir| Path::new(dir).is_absolute()) {
        _ if uid.is_root() => "/run/childminder.sock".into(),
        Some(dir) => paths::resolve(Path::new(&dir), Path::new("childminder.sock")),
        None => format!("/tmp/childminder-{}.sock", uid.as_raw()).into(),
    }
}

/// Checks that a path is short enough. The error names the path, its length and the limit.
pub(crate) fn check_length(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length <= LONGEST {
        return Ok(());
    }
    Err(format!("the path {:?} of {length} bytes, allowed are at most {LONGEST}", path.display()))
}

/// The default path, if it is short enough. The error is a whole message.
pub(super) fn check_default() -> Result<PathBuf, String> {
    let path = default_path();
    match check_length(&path) {
        Ok(()) => Ok(path),
        Err(what) => Err(format!(
            "the default socket, by {RUNTIME_DIR}, is {what}; a shorter one can be said by `socket` in [monitor]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_limit_is_the_kernels() {
        assert_eq!(LONGEST, 107);
    }
}
