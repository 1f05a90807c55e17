//! Sending signals, and keeping them out for the length of a call.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::cvt;

/// Sends to one process. Only sound, in the sense of hitting the right one, while it is our unreaped child.
pub(crate) fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory.
    cvt(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Sends to all members of a process group. The same holds: only while its leader is our unreaped child.
pub(crate) fn send_to_group(pgid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: killpg touches no memory.
    cvt(unsafe { libc::killpg(pgid, signal) })?;
    Ok(())
}

/// Lets the signal through in this thread.
pub(crate) fn unblock(signal: i32) {
    let mut one = empty_set();
    // SAFETY: `one` is ours; a number that is no signal is refused.
    unsafe { libc::sigaddset(&raw mut one, signal) };
    // SAFETY: `one` is ours; the call changes this thread's mask alone.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const one, ptr::null_mut()) };
}

/// Whether the signal is at its default action in this process.
pub(crate) fn is_default(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_DFL)
}

/// Whether the signal is ignored in this process.
pub(crate) fn is_ignored(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_IGN)
}

/// The signal's action in this process; `None` for a number that is no signal.
fn disposition(signal: i32) -> Option<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only reads; `action` has room for the old one.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, whether or not the call has filled it in.
    let action = unsafe { action.assume_init() };
    (result == 0).then_some(action.sa_sigaction)
}

/// Puts the signal back to its default action. Touches no memory of the host's.
///
/// Past the C library, where that is possible: it keeps signals of its own out of everybody's reach (32 and 33 in glibc), which a
/// child may have inherited as ignored all the same.
pub(super) fn reset(signal: i32) {
    // Everywhere but where the call is of another form.
    #[cfg(all(target_os = "linux", not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))))]
    {
        // Handler, flags, restorer and mask, in whatever order: all zero is SIG_DFL without flags or mask.
        let default = [0_u64; 8];
        let no_old = ptr::null_mut::<u64>();
        // SAFETY: the kernel's sigaction is shorter than this, and its set of signals has 8 bytes.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, 8_usize) };
    }
    #[cfg(not(all(
        target_os = "linux",
        not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))
    )))]
    {
        // SAFETY: zeroed is SIG_DFL without flags or mask.
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: reads a local.
        unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
    }
}

/// An empty signal set.
pub(super) fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `set` has room for what sigemptyset writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset has initialised it.
    unsafe { set.assume_init() }
}

/// All signals are blocked in this thread from `new` until the drop.
pub(super) struct BlockAll {
    before: libc::sigset_t,
}

impl BlockAll {
    pub(super) fn new() -> Self {
        let (mut all, mut before) = (empty_set(), empty_set());
        // SAFETY: `all` is ours.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: both sets are ours; the call changes this thread's mask alone.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
        Self { before }
    }
}

impl Drop for BlockAll {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that `new` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

/// SIGPIPE is blocked in this thread from `new` until the drop.
pub(super) struct BlockPipe {
    pipe: libc::sigset_t,
    before: libc::sigset_t,
    /// The host itself keeps one back: it is not ours to take.
    pending_before: bool,
}

impl BlockPipe {
    pub(super) fn new() -> Self {
        let (mut pipe, mut before) = (empty_set(), empty_set());
        // SAFETY: `pipe` is ours.
        unsafe { libc::sigaddset(&raw mut pipe, libc::SIGPIPE) };
        // SAFETY: both sets are ours; the call changes this thread's mask alone.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, &raw mut before) };
        // Only what is blocked can be pending, so most hosts are spared the question.
        let pending_before = contains(&before, libc::SIGPIPE) && is_pending(libc::SIGPIPE);
        Self { pipe, before, pending_before }
    }

    /// Takes back the SIGPIPE that a failed write has raised for this thread.
    pub(super) fn swallow(&self) {
        if !self.pending_before && is_pending(libc::SIGPIPE) {
            let mut taken = 0;
            // SAFETY: both are ours; it does not block, since the signal is pending and blocked.
            unsafe { libc::sigwait(&raw const self.pipe, &raw mut taken) };
        }
    }
}

impl Drop for BlockPipe {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that `new` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

fn is_pending(signal: i32) -> bool {
    let mut pending = empty_set();
    // SAFETY: `pending` is ours.
    unsafe { libc::sigpending(&raw mut pending) };
    contains(&pending, signal)
}

fn contains(set: &libc::sigset_t, signal: i32) -> bool {
    // SAFETY: a reference is a valid set.
    unsafe { libc::sigismember(set, signal) == 1 }
}
