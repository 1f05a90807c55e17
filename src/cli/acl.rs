//! Asks whether a file has an access control list (acl(5)), by which others than its owner and its group
//! may write to it. Does not read the list.
//!
//! The one rule: it counts only together with the write bit of the group, which is the most that the list
//! gives to anybody.

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CStr;
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::{fgetxattr, getxattr};
    use rustix::io::Errno;

    const NAME: &CStr = c"system.posix_acl_access";

    pub(crate) fn is_on(path: &Path) -> io::Result<bool> {
        answer(getxattr(path, NAME, &mut [0; 0]))
    }

    pub(crate) fn is_on_open(file: &File) -> io::Result<bool> {
        answer(fgetxattr(file, NAME, &mut [0; 0]))
    }

    fn answer(size: Result<usize, Errno>) -> io::Result<bool> {
        match size {
            Ok(_) => Ok(true),
            // The file has none, or the file system has no such lists.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{is_on, is_on_open};

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_on(_: &std::path::Path) -> std::io::Result<bool> {
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_on_open(_: &std::fs::File) -> std::io::Result<bool> {
    Ok(false)
}
