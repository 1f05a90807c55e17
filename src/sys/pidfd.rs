//! A handle to a process that can never mean another process (Linux 5.3, `pidfd_open(2)`). Reaps
//! nothing. If there can be no handle (old kernel, sandbox, no descriptor left), the reaper checks
//! the child at each SIGCHLD instead.
//!
//! The one rule: a pid is used only to open a handle, and every signal goes through the handle.

use std::io;
use std::os::fd::OwnedFd;

#[cfg(target_os = "linux")]
pub(crate) use linux::{cgroup_id, group_supported, is_unreaped, open, send, send_to_group};

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::size_of;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::ptr;
    use std::sync::OnceLock;

    use super::super::cvt;
    use super::super::fd::above_stdio;
    use super::*;

    /// The flag to signal the group that the process leads (Linux 6.9). The libc crate does not
    /// know it yet.
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

    /// Opens a handle to the process that has this pid now. An unreaped child of ours keeps its
    /// pid, so it is certain to be meant. For any other process, the caller has to check afterwards
    /// that the pid still belongs to it.
    pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_open takes two integers. The descriptor is close-on-exec by definition.
        let fd = cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        #[allow(clippy::cast_possible_truncation)] // a descriptor is an int
        // SAFETY: the kernel has just opened the descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        above_stdio(pidfd)
    }

    /// Sends a signal to the process. The error is `ESRCH` once it is reaped.
    pub(crate) fn send(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
        send_flags(pidfd, signal, 0)
    }

    /// Sends a signal to the group that the process leads or led. It reaches the members that are
    /// left after the leader was reaped, and never another group that has got the same number
    /// since. The error is `ESRCH` if there are none.
    pub(crate) fn send_to_group(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
        send_flags(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
    }

    /// Whether this kernel has [`send_to_group`]. Each call asks with the given pidfd until there
    /// is a clear answer.
    pub(crate) fn group_supported(pidfd: &OwnedFd) -> bool {
        static SUPPORTED: OnceLock<bool> = OnceLock::new();
        if let Some(supported) = SUPPORTED.get() {
            return *supported;
        }
        // Signal 0 only asks.
        let supported = match send_to_group(pidfd, 0).map_err(|error| error.raw_os_error()) {
            Ok(()) | Err(Some(libc::ESRCH)) => true,
            Err(Some(libc::EINVAL | libc::ENOSYS)) => false,
            // The answer comes from a sandbox, or the group may not be signalled.
            Err(_) => return false,
        };
        *SUPPORTED.get_or_init(|| supported)
    }

    /// Tells whether the process is alive, or a zombie. Its pid is its own then.
    pub(crate) fn is_unreaped(pidfd: &OwnedFd) -> bool {
        // Signal 0 only asks.
        send(pidfd, 0).map_or_else(|error| error.raw_os_error() == Some(libc::EPERM), |()| true)
    }

    /// What `PIDFD_GET_INFO` returns (Linux 6.13). The libc crate does not know it yet.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        rest: [u32; 12],
    }

    const PIDFD_INFO_CGROUPID: u64 = 1 << 2;
    /// Asks for what is kept of a reaped process, too (Linux 6.15).
    const PIDFD_INFO_EXIT: u64 = 1 << 3;

    /// Returns the id of the cgroup v2 of the process, which is the inode number of its directory.
    /// For a reaped process it is the last one, if the kernel has kept it.
    pub(crate) fn cgroup_id(pidfd: &OwnedFd) -> Option<u64> {
        const { assert!(size_of::<Info>() == 64, "the first published size") };
        let mut info = Info { mask: PIDFD_INFO_CGROUPID | PIDFD_INFO_EXIT, ..Info::default() };
        let request = libc::_IOWR::<Info>(0xff, 11);
        // SAFETY: the call writes at most the size that the request holds, and `info` is a local.
        cvt(unsafe { libc::ioctl(pidfd.as_raw_fd(), request, &raw mut info) }).ok()?;
        (info.mask & PIDFD_INFO_CGROUPID != 0).then_some(info.cgroup)
    }

    fn send_flags(pidfd: &OwnedFd, signal: i32, flags: libc::c_uint) -> io::Result<()> {
        let no_info = ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo is allowed, and sends the same as kill(2).
        cvt(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, flags) })?;
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{cgroup_id, group_supported, is_unreaped, open, send, send_to_group};

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::*;

    pub(crate) fn open(_: i32) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn send(_: &OwnedFd, _: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn send_to_group(_: &OwnedFd, _: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn group_supported(_: &OwnedFd) -> bool {
        false
    }

    pub(crate) fn is_unreaped(_: &OwnedFd) -> bool {
        false
    }

    pub(crate) fn cgroup_id(_: &OwnedFd) -> Option<u64> {
        None
    }
}
