//! Sends signals, changes their actions, and blocks them for the length of a call. Decides nothing.
//!
//! The one rule: nothing here installs a signal handler.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::cvt;

/// Sends a signal to one process. Only while that is our unreaped child is it certain that the
/// signal reaches the right process.
pub(crate) fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory.
    cvt(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Sends a signal to all members of a process group. Only while its leader is our unreaped child is
/// it certain that the signal reaches the right group.
pub(crate) fn send_to_group(pgid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: killpg touches no memory.
    cvt(unsafe { libc::killpg(pgid, signal) })?;
    Ok(())
}

/// Returns the process group of a process, if it exists.
pub(crate) fn group_of(pid: i32) -> Option<i32> {
    // SAFETY: getpgid touches no memory.
    cvt(unsafe { libc::getpgid(pid) }).ok()
}

/// Stops this process as the signal's default action would (SIGTSTP), and returns when it is
/// continued. It returns at once if the kernel discards the signal. That happens in a process group
/// in whose session no other process could continue it (POSIX: an orphaned process group).
pub(crate) fn stop_self(signal: i32) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is SIG_DFL without flags and with an empty mask.
    let default = unsafe { std::mem::zeroed::<libc::sigaction>() };
    // SAFETY: the call reads a local, and `action` has room for the old action.
    cvt(unsafe { libc::sigaction(signal, &raw const default, action.as_mut_ptr()) })?;
    // The signal goes to this thread, so that the whole process has stopped before this thread
    // continues.
    // SAFETY: raise touches no memory.
    let raised = cvt(unsafe { libc::raise(signal) });
    // SAFETY: the first sigaction has filled it in.
    let action = unsafe { action.assume_init() };
    // SAFETY: this is the action that was in place before.
    cvt(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    raised.map(drop)
}

/// Ends this process by the signal, whose default action does that, as soon as it is not blocked.
pub(crate) fn end_self(signal: i32) {
    set_action(signal, libc::SIG_DFL);
    // SAFETY: raise touches no memory.
    unsafe { libc::raise(signal) };
}

/// Unblocks the signals in this thread.
pub(crate) fn unblock(signals: &[i32]) -> io::Result<()> {
    let mut set = empty_set();
    for signal in signals {
        // SAFETY: `set` is a local, and a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    change_mask(libc::SIG_UNBLOCK, &set).map(drop)
}

/// Whether the signal has its default action in this process.
pub(crate) fn is_default(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_DFL)
}

/// Returns those of the signals that are not blocked in this thread.
pub(crate) fn not_blocked(mut signals: Vec<i32>) -> Vec<i32> {
    // An empty set adds nothing to the mask.
    if let Ok(mask) = change_mask(libc::SIG_BLOCK, &empty_set()) {
        signals.retain(|signal| !contains(&mask, *signal));
    }
    signals
}

/// Whether the signal has a handler in this process.
pub(super) fn has_handler(signal: i32) -> bool {
    disposition(signal).is_some_and(|action| action != libc::SIG_DFL && action != libc::SIG_IGN)
}

/// Whether the signal is ignored in this process.
pub(crate) fn is_ignored(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_IGN)
}

/// The signal's action in this process; `None` for a number that is no signal.
fn disposition(signal: i32) -> Option<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action the call only reads, and `action` has room for the old one.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, whether or not the call has filled it in.
    let action = unsafe { action.assume_init() };
    (result == 0).then_some(action.sa_sigaction)
}

/// Sets the signal to its default action. Touches no memory of the host.
pub(super) fn reset(signal: i32) {
    set_action(signal, libc::SIG_DFL);
}

/// Discards the signals that are pending and blocked, and sets them to their default action.
/// Touches no memory of the host.
pub(super) fn discard_pending() {
    let mut pending = empty_set();
    // SAFETY: `pending` is a local.
    unsafe { libc::sigpending(&raw mut pending) };
    for signal in 1..=crate::signal::max() {
        if contains(&pending, signal) {
            // POSIX: a pending signal is discarded when its action is set to ignore.
            set_action(signal, libc::SIG_IGN);
            set_action(signal, libc::SIG_DFL);
        }
    }
}

/// Sets an action that is no handler, for this process alone.
///
/// If possible, it bypasses the C library. The C library refuses to change some signals (32 and 33
/// in glibc), and a child may have inherited these as ignored.
fn set_action(signal: i32, action: libc::sighandler_t) {
    // On the excluded architectures, the system call has another form.
    #[cfg(all(target_os = "linux", not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))))]
    {
        // The handler comes first. Flags, restorer and mask follow in whatever order, and are all
        // zero.
        let action: [usize; 8] = [action, 0, 0, 0, 0, 0, 0, 0];
        let no_old = ptr::null_mut::<usize>();
        // SAFETY: the kernel's sigaction is shorter than `action`, and its set of signals has 8
        // bytes.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), no_old, 8_usize) };
    }
    #[cfg(not(all(
        target_os = "linux",
        not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))
    )))]
    {
        // SAFETY: zeroed is an action without flags and with an empty mask.
        let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
        new.sa_sigaction = action;
        // SAFETY: the call reads a local.
        unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) };
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

/// Blocks all signals in this thread from `new` until [`lift`](Self::lift).
#[must_use]
pub(super) struct BlockAll {
    before: libc::sigset_t,
}

impl BlockAll {
    pub(super) fn new() -> io::Result<Self> {
        let mut all = empty_set();
        // SAFETY: `all` is a local.
        unsafe { libc::sigfillset(&raw mut all) };
        Ok(Self { before: change_mask(libc::SIG_BLOCK, &all)? })
    }

    /// Restores the mask that `new` found. After an error, this thread's signals stay blocked.
    pub(super) fn lift(self) -> io::Result<()> {
        change_mask(libc::SIG_SETMASK, &self.before).map(drop)
    }
}

/// Blocks SIGPIPE in this thread from `new` until [`lift`](Self::lift).
#[must_use]
pub(super) struct BlockPipe {
    pipe: libc::sigset_t,
    before: libc::sigset_t,
    /// Whether the host had a SIGPIPE pending already. That one must not be discarded.
    pending_before: bool,
}

impl BlockPipe {
    pub(super) fn new() -> io::Result<Self> {
        let mut pipe = empty_set();
        // SAFETY: `pipe` is a local.
        unsafe { libc::sigaddset(&raw mut pipe, libc::SIGPIPE) };
        let before = change_mask(libc::SIG_BLOCK, &pipe)?;
        // Only a blocked signal can be pending, so most hosts are spared this system call.
        let pending_before = contains(&before, libc::SIGPIPE) && is_pending(libc::SIGPIPE);
        Ok(Self { pipe, before, pending_before })
    }

    /// Discards the SIGPIPE that a failed write has raised for this thread.
    pub(super) fn swallow(&self) {
        if !self.pending_before && is_pending(libc::SIGPIPE) {
            let mut taken = 0;
            // SAFETY: both pointers are to values of ours, and the call does not block, because the
            // signal is pending and blocked.
            unsafe { libc::sigwait(&raw const self.pipe, &raw mut taken) };
        }
    }

    /// Restores the mask that `new` found. After an error, SIGPIPE stays blocked.
    pub(super) fn lift(self) -> io::Result<()> {
        change_mask(libc::SIG_SETMASK, &self.before).map(drop)
    }
}

/// The number of tries to change a mask. A thread whose signals stay blocked is worse than a short
/// delay.
const TRIES: usize = 3;

/// Changes the mask of this thread alone. Returns the mask that it had before.
fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = empty_set();
    let mut errno = 0;
    for _ in 0..TRIES {
        // SAFETY: `set` is a reference to a valid set, and `before` has room for another.
        errno = unsafe { libc::pthread_sigmask(how, set, &raw mut before) };
        if errno == 0 {
            return Ok(before);
        }
    }
    Err(io::Error::from_raw_os_error(errno))
}

/// Whether a signal that asks this program to end is pending for this thread, which has blocked it.
pub(super) fn asks_to_end() -> bool {
    let counts = |signal: &i32| is_pending(*signal) && disposition(*signal) != Some(libc::SIG_IGN);
    crate::signal::ASK_TO_END.iter().any(counts)
}

/// Whether a stop signal that was sent to this process's group, and that this thread has blocked,
/// still holds. If the signal has its default action, it is either still pending or SIGCONT has
/// discarded it (POSIX). If another thread let it through, SIGCONT has ended that stop already.
pub(super) fn is_still_stopping(signal: i32) -> bool {
    is_pending(signal) || !is_default(signal)
}

fn is_pending(signal: i32) -> bool {
    let mut pending = empty_set();
    // SAFETY: `pending` is a local.
    unsafe { libc::sigpending(&raw mut pending) };
    contains(&pending, signal)
}

fn contains(set: &libc::sigset_t, signal: i32) -> bool {
    // SAFETY: `set` is a reference to a valid set.
    unsafe { libc::sigismember(set, signal) == 1 }
}
