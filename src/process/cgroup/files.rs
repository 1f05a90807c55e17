//! Directories of cgroups below an open one: their members, and their removal.
//!
//! It knows no reactor. The one rule: a path is relative to an open directory, so that no rename
//! leads elsewhere.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::sys::cgroup;

/// The depth to which cgroups are removed that a process has made itself.
const DEPTH: usize = 64;
/// Tells whether an error means that the directory was removed, before or after its file was
/// opened.
pub(in crate::process) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Converts a path of ours, which never holds a NUL.
pub(super) fn c_string(path: impl Into<PathBuf>) -> CString {
    CString::new(path.into().into_os_string().into_vec()).unwrap_or_default()
}

/// Returns the names of the directories in a directory.
pub(super) fn names_in(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(path);
    let entries = fs::read_dir(listed)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(entries.map(|entry| PathBuf::from(entry.file_name())).collect())
}

fn has_subdirs(dir: BorrowedFd<'_>, path: &Path) -> bool {
    cgroup::subdirs(dir, &c_string(path)).is_ok_and(|count| count > 0)
}

pub(super) fn collect_pids(dir: BorrowedFd<'_>, path: &Path, depth: usize, pids: &mut Vec<i32>) -> io::Result<()> {
    match cgroup::read_at(dir, &c_string(path.join("cgroup.procs"))) {
        // The zeros stand for processes that have no number in our PID namespace.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // The cgroup above lists the members of a threaded cgroup.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    if depth < DEPTH && has_subdirs(dir, path) {
        for name in names_in(dir, path)? {
            match collect_pids(dir, &path.join(name), depth + 1, pids) {
                Err(error) if !is_gone(&error) => return Err(error),
                // It was removed in the meantime.
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes a directory and the ones below it, the lowest first.
pub(super) fn remove_all(dir: BorrowedFd<'_>, path: &Path, depth: usize) -> io::Result<()> {
    let remove = || match cgroup::remove_dir_at(dir, &c_string(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let removed = remove();
    if removed.is_ok() || depth >= DEPTH || !has_subdirs(dir, path) {
        return removed;
    }
    for name in names_in(dir, path)? {
        remove_all(dir, &path.join(name), depth + 1)?;
    }
    remove()
}

/// Removes the directories in a directory that have no members.
pub(super) fn remove_unpopulated(dir: BorrowedFd<'_>) -> io::Result<()> {
    for name in names_in(dir, Path::new(""))? {
        let events = cgroup::read_at(dir, &c_string(name.join("cgroup.events")));
        if events.is_ok_and(|events| !is_populated(&events)) {
            let _ = remove_all(dir, &name, 0);
        }
    }
    Ok(())
}

/// Tells by the text of `cgroup.events` whether a cgroup may have members.
pub(super) fn is_populated(events: &str) -> bool {
    !events.lines().any(|line| line == "populated 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_word_is_empty() {
        assert!(!is_populated("populated 0\nfrozen 0\n"));
        assert!(is_populated("populated 1\nfrozen 0\n"));
        assert!(is_populated(""));
    }
}
