//! Runs a thread without rights in a process that keeps its own rights. Needs root.
//!
//! The one rule: the raw system calls change only the thread that makes them.

#![allow(unsafe_code)]

pub(crate) const NOBODY: u32 = 65_534;

/// Runs `body` on a thread whose user and group are [`NOBODY`]. All other threads keep their user.
pub(crate) fn as_nobody(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: the call reads an empty list.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) }, 0);
        // SAFETY: setresgid touches no memory.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) }, 0);
        // SAFETY: setresuid touches no memory.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
        // The change of user has cleared the dumpable flag, and without it /proc/self belongs to
        // root.
        // SAFETY: prctl touches no memory here.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }, 0);
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
