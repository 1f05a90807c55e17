//! What the kernel has here, as far as a sandbox lets it through. A test asserts what holds with
//! it, and otherwise what holds without it.

#![allow(dead_code, unsafe_code, reason = "each test uses a part of it")]

/// Whether a process can be born in a cgroup, which the library has written for these
/// architectures. On others it enters the cgroup before its exec.
pub(crate) const BORN_IN_CGROUP: bool = cfg!(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64"),
    target_arch = "riscv64"
));
/// Whether the peak memory of a process can be told from that of its host.
pub(crate) const OWN_PEAK: bool = cfg!(all(target_arch = "x86_64", target_pointer_width = "64"));
/// Whether there is a guard.
pub(crate) const GUARDED: bool = DISCARDS;
/// Whether another process takes messages with descriptors out of a queue, whose close may wait.
pub(crate) const DISCARDS: bool = cfg!(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64")
));

/// Whether a pidfd reaches the members of a group whose leader was reaped (Linux 6.9).
#[cfg(target_os = "linux")]
pub(crate) fn reaches_groups_by_pidfd() -> bool {
    const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
    // SAFETY: the call takes two integers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: signal 0 only asks, and a null siginfo is allowed.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, 0, no_info, PIDFD_SIGNAL_PROCESS_GROUP) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    if pidfd >= 0 {
        // SAFETY: the pidfd is ours, and nothing uses it any more.
        unsafe { libc::close(i32::try_from(pidfd).unwrap()) };
    }
    sent == 0 || errno == Some(libc::ESRCH)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn reaches_groups_by_pidfd() -> bool {
    false
}
