//! Our own file descriptors: the paths that mean one, and the descriptors that were open when the
//! command was started. Opens none for the caller.
//!
//! The one rule: a path that means one of our own descriptors is never opened. Opening it would
//! make a second open file with a position of its own, and would fail for a socket.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The number of our own descriptor that this entry of a folder stands for, as the entries of
/// `/proc/self/fd` do. `folder` is a path without links.
pub(crate) fn own(folder: &Path, name: &OsStr) -> Option<i32> {
    number(name).filter(|_| is_own(folder))
}

/// Whether the entries of a folder are our own descriptors. The path has links only if /proc is
/// missing.
fn is_own(folder: &Path) -> bool {
    static OWN: OnceLock<[Option<PathBuf>; 2]> = OnceLock::new();
    let [process, descriptors] = OWN.get_or_init(|| ["/proc/self", "/dev/fd"].map(|own| fs::canonicalize(own).ok()));
    // Each thread has such a folder, too.
    let is_of_process = process.as_ref().is_some_and(|process| folder.starts_with(process) && folder.ends_with("fd"));
    is_of_process
        || descriptors.as_deref() == Some(folder)
        || ["/proc/self/fd", "/dev/fd"].map(Path::new).contains(&folder)
}

/// The number that a file's name stands for, as the kernel reads it: without a sign and without a
/// leading zero.
pub(crate) fn number(name: &OsStr) -> Option<i32> {
    let name = name.to_str()?;
    name.parse().ok().filter(|number: &i32| number.to_string() == name)
}

static INHERITED: OnceLock<Vec<i32>> = OnceLock::new();

/// Notes the descriptors that are open now. Call it before the command opens anything.
pub(crate) fn note_inherited() {
    INHERITED.get_or_init(|| {
        let entries = fs::read_dir("/dev/fd").into_iter().flatten().flatten();
        let mut open: Vec<i32> = entries.filter_map(|entry| number(&entry.file_name())).collect();
        // One of the numbers was the descriptor of the folder itself, which is closed now.
        open.retain(|number| *number <= 2 || fs::symlink_metadata(format!("/dev/fd/{number}")).is_ok());
        open
    });
}

/// Whether this descriptor was open when the command was started. The answer is true for every
/// number if [`note_inherited`] was not called, because it is not known then.
pub(crate) fn is_inherited(number: i32) -> bool {
    INHERITED.get().is_none_or(|open| number <= 2 || open.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_a_number_as_the_kernel_writes_it_is_a_descriptor() {
        let own = |name: &str| own(Path::new("/proc/self/fd"), OsStr::new(name));
        assert_eq!((own("1"), own("70000")), (Some(1), Some(70_000)), "open or not");
        for name in ["01", "+1", "-0", "1 ", "", "x"] {
            assert_eq!(own(name), None, "{name:?}");
        }
    }

    #[test]
    fn stdin_stdout_and_stderr_are_always_inherited() {
        let later = fs::File::open("/dev/null").unwrap();
        // In this test nothing is noted, or only what was open before the file.
        assert!(is_inherited(1) && (INHERITED.get().is_none() || !is_inherited(later.as_raw_fd())));
    }
}
