//! Directories and files of a cgroup v2 hierarchy (`cgroups(7)`), reached from an open directory.
//! Decides nothing: `process::cgroup` knows what the files mean.
//!
//! The one rule: a path starts from a directory that is held open, so that no mount and no rename
//! can lead it elsewhere.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{BY_EFFECTIVE_USER, cvt, cvt_retry, fd};

/// The file system type that `fstatfs(2)` returns for a cgroup v2 hierarchy.
#[cfg(target_os = "linux")]
const MAGIC: u64 = 0x6367_7270;

/// Opens a directory by its path.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    fd::above_stdio(file.into())
}

/// Opens a directory below another one.
pub(crate) fn open_dir_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    open_at(dir, path, libc::O_RDONLY | libc::O_DIRECTORY)
}

/// Opens a file below a directory.
pub(crate) fn open_at(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `path` is a C string that lives through the call.
    let opened = cvt_retry(|| unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags) })?;
    // SAFETY: openat has just opened the descriptor for us.
    fd::above_stdio(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Makes a directory below another one.
pub(crate) fn make_dir_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is a C string that lives through the call.
    cvt(unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), 0o755) })?;
    Ok(())
}

/// Removes a directory below another one. The kernel refuses one that has members or subdirectories
/// (`EBUSY`).
pub(crate) fn remove_dir_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is a C string that lives through the call.
    cvt(unsafe { libc::unlinkat(dir.as_raw_fd(), path.as_ptr(), libc::AT_REMOVEDIR) })?;
    Ok(())
}

/// Reads the whole of a file below a directory.
pub(crate) fn read_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<String> {
    let mut text = String::new();
    File::from(open_at(dir, path, libc::O_RDONLY)?).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes to a file below a directory, in one call.
pub(crate) fn write_at(dir: BorrowedFd<'_>, path: &CStr, text: &[u8]) -> io::Result<()> {
    write(open_at(dir, path, libc::O_WRONLY)?.as_fd(), text)
}

/// Writes to a file that is open, in one call.
pub(crate) fn write(file: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
    // SAFETY: the text has so many bytes.
    cvt_retry(|| unsafe { libc::write(file.as_raw_fd(), text.as_ptr().cast(), text.len()) })?;
    Ok(())
}

/// Reads the start of an open file, from its first byte on.
pub(crate) fn read_again(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer has room for `buffer.len()` bytes.
    let read = cvt_retry(|| unsafe { libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })?;
    #[allow(clippy::cast_sign_loss)] // -1 is the error above
    Ok(read as usize)
}

/// Checks whether this process may write to a file below a directory, with its present rights.
pub(crate) fn may_write_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is a C string that lives through the call.
    cvt(unsafe { libc::faccessat(dir.as_raw_fd(), path.as_ptr(), libc::W_OK, BY_EFFECTIVE_USER) })?;
    Ok(())
}

/// Takes the lock of a directory (`flock(2)`). The lock ends when the last copy of this descriptor
/// is closed. Returns whether the lock was free.
pub(crate) fn lock(dir: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: flock touches no memory.
    match cvt_retry(|| unsafe { libc::flock(dir.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a descriptor belongs to a cgroup v2 hierarchy.
#[cfg(target_os = "linux")]
pub(crate) fn is_version_2(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `stat` has room for what fstatfs writes.
    cvt_retry(|| unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid statfs, and the call has filled it in.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)] // its type differs between architectures
    Ok(stat.f_type as u64 & 0xffff_ffff == MAGIC)
}

/// Returns `false`, because only Linux has cgroups.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_version_2(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// The number of subdirectories of a directory, according to its link count.
pub(crate) fn subdirs(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<u64> {
    #[allow(clippy::unnecessary_cast)] // its type differs between architectures
    stat_at(dir, path).map(|stat| (stat.st_nlink as u64).saturating_sub(2))
}

/// The inode number of a directory, by which the kernel names its cgroup.
pub(crate) fn id(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<u64> {
    #[allow(clippy::unnecessary_cast)] // its type differs between systems
    stat_at(dir, path).map(|stat| stat.st_ino as u64)
}

fn stat_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `path` is a C string that lives through the call, and `stat` has room for what
    // fstatat writes.
    cvt(unsafe { libc::fstatat(dir.as_raw_fd(), path.as_ptr(), stat.as_mut_ptr(), 0) })?;
    // SAFETY: zeroed is a valid stat, and the call has filled it in.
    Ok(unsafe { stat.assume_init() })
}
