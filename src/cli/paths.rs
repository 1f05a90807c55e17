//! Makes the paths that users write absolute, and tells what they say. Reads nothing but the
//! current folder.
//!
//! The one rule: a path keeps its meaning. `.` and doubled slashes are removed, and `..` stays,
//! because the name in front of it may be a symbolic link.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The absolute form of a path that is relative to `folder`, or is absolute already.
pub(crate) fn resolve(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path).components().collect()
}

/// The absolute form of a path that is relative to the current folder, or is absolute already.
///
/// # Errors
///
/// The current folder has been deleted, or the system does not tell it.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    if path.is_absolute() {
        return Ok(resolve(Path::new("/"), path));
    }
    match std::env::current_dir() {
        Ok(folder) => Ok(resolve(&folder, path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), "the current folder is gone"))
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("the current folder cannot be told: {error}"))),
    }
}

/// Whether the path ends in a way that only a folder's path does.
pub(crate) fn is_folder(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes.ends_with(b"/..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_go_and_double_dots_stay() {
        for (path, expected) in [
            ("x", "/a/b/x"),
            ("./x", "/a/b/x"),
            ("x/./y//z/", "/a/b/x/y/z"),
            (".", "/a/b"),
            ("", "/a/b"),
            ("../x", "/a/b/../x"),
            ("./../x/..", "/a/b/../x/.."),
            ("/x/./../y", "/x/../y"),
            ("//x", "/x"),
            ("/", "/"),
        ] {
            assert_eq!(resolve(Path::new("/a/b"), Path::new(path)).to_str(), Some(expected), "{path:?}");
        }
        assert_eq!(absolute(Path::new("/x//./y")).unwrap().to_str(), Some("/x/y"));
        assert_eq!(absolute(Path::new("./x")).unwrap(), std::env::current_dir().unwrap().join("x"));
    }
}
