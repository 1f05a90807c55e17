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
