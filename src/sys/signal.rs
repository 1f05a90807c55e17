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

/// Stops this process as the signal's default action would (SIGTSTP), and returns when it is continued. It
/// returns at once where the kernel discards the signal: in a process group without anybody in its session
/// who could continue it (POSIX: an orphaned process group).
pub(crate) fn stop_self(signal: i32) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is SIG_DFL without flags and mask.
    let default = unsafe { std::mem::zeroed::<libc::sigaction>() };
    // SAFETY: reads a local, and `action` has room for the old one.
    cvt(unsafe { libc::sigaction(signal, &raw const default, action.as_mut_ptr()) })?;
    // To this thread, so that all stand still before it goes on.
    // SAFETY: touches no memory.
    let raised = cvt(unsafe { libc::raise(signal) });
    // SAFETY: the first call has filled it in.
    let action = unsafe { action.assume_init() };
    // SAFETY: it is the action that was there before.
    cvt(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    raised.map(drop)
}

/// Ends this process by the signal, whose default action does that, as soon as it is not blocked.
pub(crate) fn end_self(signal: i32) {
    set_action(signal, libc::SIG_DFL);
    // SAFETY: touches no memory.
    unsafe { libc::raise(signal) };
}

/// Lets the signals through in this thread.
pub(crate) fn unblock(signals: &[i32]) -> io::Result<()> {
    let mut set = empty_set();
    for signal in signals {
        // SAFETY: `set` is ours; a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    change_mask(libc::SIG_UNBLOCK, &set).map(drop)
}

/// Whether the signal is at its default action in this process.
pub(crate) fn is_default(signal: i32) -> bool {
    disposition(signal) == Some(libc::SIG_DFL)
}

/// Those of the signals that are not blocked in this thread.
pub(crate) fn not_blocked(mut signals: Vec<i32>) -> Vec<i32> {
    // Nothing is added to the mask.
    if let Ok(mask) = change_mask(libc::SIG_BLOCK, &empty_set()) {
        signals.retain(|signal| !contains(&mask, *signal));
    }
    signals
}

/// Whether somebody handles the signal in this process.
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
    // SAFETY: a null new action only reads; `action` has room for the old one.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction, whether or not the call has filled it in.
    let action = unsafe { action.assume_init() };
    (result == 0).then_some(action.sa_sigaction)
}

/// Puts the signal back to its default action. Touches no memory of the host's.
pub(super) fn reset(signal: i32) {
    set_action(signal, libc::SIG_DFL);
}

/// Takes away the signals that are pending and blocked, and leaves them at their default action. Touches no memory of
/// the host's.
pub(super) fn discard_pending() {
    let mut pending = empty_set();
    // SAFETY: `pending` is ours.
    unsafe { libc::sigpending(&raw mut pending) };
    for signal in 1..=crate::signal::max() {
        if contains(&pending, signal) {
            // POSIX: a pending signal is discarded when it is set to be ignored.
            set_action(signal, libc::SIG_IGN);
            set_action(signal, libc::SIG_DFL);
        }
    }
}

/// Sets an action that is no handler, for this process alone.
///
/// It goes past the C library where that is possible. The C library keeps some signals out of
/// everybody's reach (32 and 33 in glibc), and a child may have inherited those as ignored.
fn set_action(signal: i32, action: libc::sighandler_t) {
    // Everywhere but where the call is of another form.
    #[cfg(all(target_os = "linux", not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))))]
    {
        // The handler comes first; flags, restorer and mask, in whatever order, are all zero.
        let action: [usize; 8] = [action, 0, 0, 0, 0, 0, 0, 0];
        let no_old = ptr::null_mut::<usize>();
        // SAFETY: the kernel's sigaction is shorter than this, and its set of signals has 8 bytes.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), no_old, 8_usize) };
    }
    #[cfg(not(all(
        target_os = "linux",
        not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))
    )))]
    {
        // SAFETY: zeroed has no flags and no mask.
        let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
        new.sa_sigaction = action;
        // SAFETY: reads a local.
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

/// All signals are blocked in this thread from `new` until [`lift`](Self::lift).
#[must_use]
pub(super) struct BlockAll {
    before: libc::sigset_t,
}

impl BlockAll {
    pub(super) fn new() -> io::Result<Self> {
        let mut all = empty_set();
        // SAFETY: `all` is ours.
        unsafe { libc::sigfillset(&raw mut all) };
        Ok(Self { before: change_mask(libc::SIG_BLOCK, &all)? })
    }

    /// Puts back the mask that `new` found. An error says that this thread's signals stay blocked.
    pub(super) fn lift(self) -> io::Result<()> {
        change_mask(libc::SIG_SETMASK, &self.before).map(drop)
    }
}

/// SIGPIPE is blocked in this thread from `new` until [`lift`](Self::lift).
#[must_use]
pub(super) struct BlockPipe {
    pipe: libc::sigset_t,
    before: libc::sigset_t,
    /// The host itself keeps one back: it is not ours to take.
    pending_before: bool,
}

impl BlockPipe {
    pub(super) fn new() -> io::Result<Self> {
        let mut pipe = empty_set();
        // SAFETY: `pipe` is ours.
        unsafe { libc::sigaddset(&raw mut pipe, libc::SIGPIPE) };
        let before = change_mask(libc::SIG_BLOCK, &pipe)?;
        // Only what is blocked can be pending, so most hosts are spared the question.
        let pending_before = contains(&before, libc::SIGPIPE) && is_pending(libc::SIGPIPE);
        Ok(Self { pipe, before, pending_before })
    }

    /// Takes back the SIGPIPE that a failed write has raised for this thread.
    pub(super) fn swallow(&self) {
        if !self.pending_before && is_pending(libc::SIGPIPE) {
            let mut taken = 0;
            // SAFETY: both are ours; it does not block, since the signal is pending and blocked.
            unsafe { libc::sigwait(&raw const self.pipe, &raw mut taken) };
        }
    }

    /// Puts back the mask that `new` found. An error says that SIGPIPE stays blocked.
    pub(super) fn lift(self) -> io::Result<()> {
        change_mask(libc::SIG_SETMASK, &self.before).map(drop)
    }
}

/// How often a mask is changed before a refusal is taken for an answer: a thread that stays deaf to
/// signals is worse than a moment lost.
const TRIES: usize = 3;

/// Changes the mask of this thread alone. The mask that it had before.
fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = empty_set();
    let mut errno = 0;
    for _ in 0..TRIES {
        // SAFETY: a reference is a valid set, and `before` has room for another.
        errno = unsafe { libc::pthread_sigmask(how, set, &raw mut before) };
        if errno == 0 {
            return Ok(before);
        }
    }
    Err(io::Error::from_raw_os_error(errno))
}

/// Whether a signal that asks this program to end waits for this thread, which has blocked it.
pub(super) fn asks_to_end() -> bool {
    let counts = |signal: &i32| is_pending(*signal) && disposition(*signal) != Some(libc::SIG_IGN);
    crate::signal::ASK_TO_END.iter().any(counts)
}

/// Whether a stop that was sent to this process's group, and that this thread has blocked, has not been undone. Where it
/// has its default action it is pending, or SIGCONT has come: that takes it back (POSIX), or has ended it already if another
/// thread let it through.
pub(super) fn is_still_stopping(signal: i32) -> bool {
    is_pending(signal) || !is_default(signal)
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
