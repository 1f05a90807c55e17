//! A thread without rights in a process that keeps its own. Needs root.
//!
//! The one rule: the raw system calls change the thread that makes them, and no other.

#![allow(unsafe_code)]

pub(crate) const NOBODY: u32 = 65_534;

/// Runs `body` on a thread that is user and group [`NOBODY`], while all others stay what they are.
pub(crate) fn as_nobody(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: reads an empty list.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) }, 0);
        // SAFETY: touches no memory.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) }, 0);
        // SAFETY: touches no memory.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
        // The change has cleared it, and /proc/self is root's without it.
        // SAFETY: touches no memory.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }, 0);
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
