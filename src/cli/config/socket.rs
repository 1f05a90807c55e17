//! Where the control socket is if the file does not say so, and how long its path may be. Makes no socket.
//!
//! The one rule: supervisor and clients ask here, so that they look at the same place.

use std::mem::offset_of;
use std::path::{Path, PathBuf};

use crate::cli::paths;

/// The most bytes that this system takes as the path of a socket, without the NUL at its end.
pub(super) const LONGEST: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

/// The variable that says where a user's sockets are.
const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// Where the socket is by default.
pub(crate) fn default_path() -> PathBuf {
    let uid = rustix::process::geteuid();
    match std::env::var_os(RUNTIME_DIR).filter(|dir| Path::new(dir).is_absolute()) {
        _ if uid.is_root() => "/run/childminder.sock".into(),
        Some(dir) => paths::resolve(Path::new(&dir), Path::new("childminder.sock")),
        None => format!("/tmp/childminder-{}.sock", uid.as_raw()).into(),
    }
}

/// What is wrong with the path of a socket that is too long.
pub(crate) fn check_length(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length <= LONGEST {
        return Ok(());
    }
    Err(format!("the path {:?} of {length} bytes, allowed are at most {LONGEST}", path.display()))
}

/// The default path, or what is wrong with it.
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
