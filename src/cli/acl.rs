//! Tells whether a file has an access control list (acl(5)), which may let users other than its
//! owner and its group write to it. Does not read the list.
//!
//! The one rule: the result counts only together with the write bit of the group, which limits what
//! the list grants to anybody.

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CStr;
    use std::fs::File;
    use std::path::Path;

    use rustix::fs::{fgetxattr, getxattr};
    use rustix::io::Errno;

    const NAME: &CStr = c"system.posix_acl_access";

    pub(crate) fn is_on(path: &Path) -> bool {
        answer(getxattr(path, NAME, &mut [0; 0]))
    }

    pub(crate) fn is_on_open(file: &File) -> bool {
        answer(fgetxattr(file, NAME, &mut [0; 0]))
    }

    /// `false` if the file has no list or the file system has no lists. If the system does not
    /// tell, there may be a list.
    fn answer(size: Result<usize, Errno>) -> bool {
        !matches!(size, Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS))
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{is_on, is_on_open};

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_on(_: &std::path::Path) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_on_open(_: &std::fs::File) -> bool {
    false
}
