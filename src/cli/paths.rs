//! Paths as people write them, made absolute. Looks at nothing but the current folder.
//!
//! The one rule: a path keeps its meaning. `.` and doubled slashes are left out; `..` stays, because what is in front of it may
//! be a symbolic link.

use std::io;
use std::path::{Path, PathBuf};

/// The path, which counts from `folder` if it is relative.
pub(crate) fn resolve(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path).components().collect()
}

/// The path, which counts from the current folder if it is relative.
///
/// # Errors
///
/// The current folder has been deleted, or cannot be told.
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
