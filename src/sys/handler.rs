//! Handlers of signals, installed only as long as there is a listener.
//!
//! A handler notes its signal in the inbox of each listener, wakes the listener with a byte, and
//! calls the former handler. It decides nothing else, with one exception: it raises a signal again
//! that no longer has a listener and whose default action applies.
//!
//! The one rule: when the last listener of a signal leaves, the action of the signal is what it was
//! before the first listener came. If other code has installed a handler in the meantime, that
//! handler stays, and ours remains in its chain and only calls the former one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{cvt, fd, signal};

/// More signals than any system has.
const SIGNALS: usize = 128;
/// The signals that the kernel sends for a fault of the program itself. Such a signal is passed to
/// the listeners only if a process has sent it.
const FAULTS: [i32; 7] =
    [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// What the handler calls for each signal afterwards: the function, or `SIG_DFL` or `SIG_IGN`.
static FORMER: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(libc::SIG_DFL) }; SIGNALS];
/// Whether that function takes three arguments.
static FORMER_TAKES_INFO: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];
/// The inboxes: a list that grows at its head, and whose nodes are never freed.
static INBOXES: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());
/// The installed handlers.
static INSTALLED: Mutex<Vec<Installed>> = Mutex::new(Vec::new());

struct Installed {
    number: i32,
    listeners: usize,
    before: libc::sigaction,
}

/// The part of an inbox that the handler sees.
#[derive(Debug)]
struct Node {
    next: Option<&'static Self>,
    taken: AtomicBool,
    /// One bit for each signal.
    wanted: [AtomicU64; 2],
    arrived: [AtomicU64; 2],
    /// The file descriptor to write the byte to, or -1.
    wake: AtomicI32,
    /// The number of handlers that are using it.
    inside: AtomicUsize,
}

fn bit(number: i32) -> Option<(usize, u64)> {
    let index = usize::try_from(number).ok()?.checked_sub(1).filter(|index| *index < SIGNALS - 1)?;
    Some((index / 64, 1 << (index % 64)))
}

/// Receives the signals that one listener has asked for.
#[derive(Debug)]
pub(crate) struct Inbox {
    node: &'static Node,
    read: OwnedFd,
    _write: UnixStream,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = fd::socket_pair()?;
        let node = free_node().unwrap_or_else(new_node);
        node.wake.store(write.as_raw_fd(), SeqCst);
        Ok(Self { node, read: read.into(), _write: write })
    }

    /// Returns the descriptor that becomes readable when a signal has arrived.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// Starts to listen to a signal. It is an error if the number is not that of a signal that can
    /// be caught.
    pub(crate) fn listen(&self, number: i32) -> io::Result<()> {
        let Some((word, bit)) = bit(number) else { return Err(io::ErrorKind::InvalidInput.into()) };
        // This comes before the handler is installed, because the handler treats a signal that is
        // not wanted as one without a listener.
        if self.node.wanted[word].fetch_or(bit, SeqCst) & bit == 0 {
            add_listener(number).inspect_err(|_| {
                self.node.wanted[word].fetch_and(!bit, SeqCst);
            })?;
        }
        Ok(())
    }

    /// Stops listening, and returns whether it listened. Signals from before that stay in the
    /// inbox.
    pub(crate) fn leave(&self, number: i32) -> bool {
        let Some((word, bit)) = bit(number) else { return false };
        let listened = self.node.wanted[word].load(SeqCst) & bit != 0;
        if listened {
            // For the same reason the handler is removed first.
            remove_listener(number);
            self.node.wanted[word].fetch_and(!bit, SeqCst);
        }
        listened
    }

    /// Whether a signal has arrived since the last [`drain`](Self::drain). This makes no system
    /// call.
    pub(crate) fn has_arrived(&self, number: i32) -> bool {
        bit(number).is_some_and(|(word, bit)| self.node.arrived[word].load(SeqCst) & bit != 0)
    }

    /// Returns the signals that have arrived since the last call, each of them once.
    pub(crate) fn drain(&mut self) -> Vec<i32> {
        // The bytes are read first. A signal that arrives in between is then returned now, and
        // causes one more wake-up without a signal.
        let mut bytes = [0; 64];
        while fd::read(self.as_fd(), &mut bytes).is_ok_and(|length| length == bytes.len()) {}
        let words = [0, 1].map(|word: usize| self.node.arrived[word].swap(0, SeqCst));
        let numbers =
            (1..=crate::signal::max()).filter(|number| bit(*number).is_some_and(|(word, bit)| words[word] & bit != 0));
        if words == [0, 0] { Vec::new() } else { numbers.collect() }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for number in 1..=crate::signal::max() {
            self.leave(number);
        }
        self.node.wake.store(-1, SeqCst);
        // A handler in another thread may be about to write to the descriptor that is closed next.
        // It is done in a moment.
        while self.node.inside.load(SeqCst) > 0 {
            std::hint::spin_loop();
        }
        for word in &self.node.arrived {
            word.store(0, SeqCst);
        }
        self.node.taken.store(false, SeqCst);
    }
}

fn nodes() -> impl Iterator<Item = &'static Node> {
    std::iter::successors(first_node(), |node| node.next)
}

fn first_node() -> Option<&'static Node> {
    // SAFETY: it is null, or a node that was leaked.
    unsafe { INBOXES.load(SeqCst).as_ref() }
}

fn free_node() -> Option<&'static Node> {
    nodes().find(|node| node.taken.compare_exchange(false, true, SeqCst, SeqCst).is_ok())
}

fn new_node() -> &'static Node {
    let node = Box::leak(Box::new(Node {
        next: None,
        taken: AtomicBool::new(true),
        wanted: Default::default(),
        arrived: Default::default(),
        wake: AtomicI32::new(-1),
        inside: AtomicUsize::new(0),
    }));
    // The lock is held so that no node is lost. Only handlers read the list without it.
    let _alone = installed();
    node.next = first_node();
    INBOXES.store(node, SeqCst);
    node
}

fn installed() -> MutexGuard<'static, Vec<Installed>> {
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add_listener(number: i32) -> io::Result<()> {
    let mut all = installed();
    if let Some(known) = all.iter_mut().find(|known| known.number == number) {
        // Our handler is installed, or in the chain of a later one, unless the host has removed
        // them all.
        if known.listeners == 0 && !signal::has_handler(number) {
            known.before = install(number)?;
        }
        known.listeners += 1;
        return Ok(());
    }
    let before = install(number)?;
    all.push(Installed { number, listeners: 1, before });
    Ok(())
}

/// Installs our handler, and returns the action that was there before.
fn install(number: i32) -> io::Result<libc::sigaction> {
    let before = action(number)?;
    let index = usize::try_from(number).unwrap_or_default();
    FORMER[index].store(before.sa_sigaction, SeqCst);
    FORMER_TAKES_INFO[index].store(before.sa_flags & libc::SA_SIGINFO != 0, SeqCst);
    // SAFETY: a zeroed sigaction is valid and has an empty mask.
    let mut ours = unsafe { std::mem::zeroed::<libc::sigaction>() };
    ours.sa_sigaction = handle as *const () as usize;
    // It uses the alternate stack only if the former handler relies on it: the one that std gives a
    // thread may be as small as the frame of a single signal.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | (before.sa_flags & libc::SA_ONSTACK);
    // SAFETY: the mask is ours. It blocks all signals, so that only one frame is on the stack at a
    // time, but not the faults, because a fault of the program itself in a handler cannot be
    // deferred.
    unsafe { libc::sigfillset(&raw mut ours.sa_mask) };
    for fault in FAULTS {
        // SAFETY: the same holds as above.
        unsafe { libc::sigdelset(&raw mut ours.sa_mask, fault) };
    }
    // SAFETY: it reads a local. The handler is a function for SA_SIGINFO, and does only what
    // handlers may do.
    cvt(unsafe { libc::sigaction(number, &raw const ours, ptr::null_mut()) })?;
    Ok(before)
}

fn remove_listener(number: i32) {
    let mut all = installed();
    let Some(at) = all.iter().position(|known| known.number == number) else { return };
    all[at].listeners = all[at].listeners.saturating_sub(1);
    if all[at].listeners > 0 {
        return;
    }
    match action(number) {
        Ok(now) if now.sa_sigaction == handle as *const () as usize => {
            // SAFETY: it is the action that the system has returned for this signal.
            unsafe { libc::sigaction(number, &raw const all[at].before, ptr::null_mut()) };
            all.swap_remove(at);
        }
        // A later handler was installed, and may call ours.
        _ => {}
    }
}

/// Returns the present action of a signal.
fn action(number: i32) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only reads, and `action` has room for the old one.
    cvt(unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: a zeroed sigaction is valid, and the call has filled it in.
    Ok(unsafe { action.assume_init() })
}

/// Whether the host has the default action for a signal, whether or not our handler is in front of
/// it.
pub(crate) fn default_applies(number: i32) -> bool {
    let all = installed();
    let Ok(now) = action(number) else { return false };
    let ours = now.sa_sigaction == handle as *const () as usize;
    let known = all.iter().find(|known| ours && known.number == number);
    known.map_or(now.sa_sigaction, |known| known.before.sa_sigaction) == libc::SIG_DFL
}

/// Whether a signal has a listener.
pub(crate) fn has_listeners(number: i32) -> bool {
    installed().iter().any(|known| known.number == number && known.listeners > 0)
}

/// The handler. It uses only atomics and calls that POSIX allows in a handler. None of them fails,
/// so errno stays as it is.
extern "C" fn handle(number: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let fault = FAULTS.contains(&number) && !was_sent(info);
    let heard = !fault && tell(number);
    let index = usize::try_from(number).unwrap_or_default();
    let Some((former, takes_info)) = FORMER.get(index).zip(FORMER_TAKES_INFO.get(index)) else { return };
    match former.load(SeqCst) {
        libc::SIG_IGN => {}
        libc::SIG_DFL if fault => signal::reset(number),
        libc::SIG_DFL => {
            // It arrived while the last listener left.
            let forgotten = !heard && signal::is_default(number);
            if forgotten {
                // SAFETY: it touches no memory. The signal acts when this handler has returned.
                unsafe { libc::raise(number) };
            }
        }
        former if takes_info.load(SeqCst) => {
            // SAFETY: the host has installed this function for SA_SIGINFO.
            let former: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(former) };
            former(number, info, context);
        }
        former => {
            // SAFETY: the host has installed this function without SA_SIGINFO.
            let former: extern "C" fn(i32) = unsafe { std::mem::transmute(former) };
            former(number);
        }
    }
}

/// Notes a signal in the inboxes of its listeners, and returns whether there is one.
fn tell(number: i32) -> bool {
    let Some((word, bit)) = bit(number) else { return false };
    let mut heard = false;
    for node in nodes() {
        node.inside.fetch_add(1, SeqCst);
        if node.wanted[word].load(SeqCst) & bit != 0 {
            heard = true;
            let before = node.arrived[word].fetch_or(bit, SeqCst);
            let wake = node.wake.load(SeqCst);
            // Otherwise the listener has not drained its inbox since the last byte.
            if before == 0 && wake >= 0 {
                // The descriptor stays open as long as `inside` counts this handler.
                fd::ring(wake);
            }
        }
        node.inside.fetch_sub(1, SeqCst);
    }
    heard
}

/// Whether a process has sent the signal, as opposed to a fault. `abort(3)` sends it to its own
/// thread, and does not count.
fn was_sent(info: *const libc::siginfo_t) -> bool {
    // SAFETY: the kernel passes a valid pointer to a handler with SA_SIGINFO, and null is handled.
    let Some(info) = (unsafe { info.as_ref() }) else { return false };
    was_sent_as(info)
}

#[cfg(target_os = "linux")]
fn was_sent_as(info: &libc::siginfo_t) -> bool {
    match info.si_code {
        libc::SI_USER | libc::SI_QUEUE => true,
        libc::SI_TKILL => {
            // SAFETY: a signal that was sent has a sender.
            let sender = unsafe { info.si_pid() };
            sender != super::wait::own_pid()
        }
        _ => false,
    }
}

/// The libc crate has no `SI_USER` and `SI_QUEUE` for other systems. FreeBSD and macOS have numbers
/// of their own for them. On the others, as in System V, the codes of signals that a process has
/// sent are not above 0.
#[cfg(not(target_os = "linux"))]
fn was_sent_as(info: &libc::siginfo_t) -> bool {
    info.si_code <= 0 || [0x1_0001, 0x1_0002].contains(&info.si_code)
}
