//! The fast way to start a child: it runs in the host's memory, on a stack of its own, while the
//! host's thread waits for its exec.
//!
//! A failure of the child comes back through that memory. With `CLONE_FILES` the child also starts
//! with the host's table of open files. It leaves the table at once and takes along only the lowest
//! entries, so that thousands of open files cost nothing. This is `vfork(2)` except for the wait,
//! which has a limit here (no `CLONE_VFORK`).
//!
//! The one rule: the child's memory is the host's, so the child leaves it as it found it, and what
//! the child uses of it lives as long as the child does.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::bound::Bound;
use super::child::{self, Closing};
use super::failure::Failure;
use super::plan::{Move, Plan};
use crate::error::Stage;
use crate::sys::clone;
use crate::sys::futex::Hold;
use crate::sys::signal::BlockAll;
use crate::sys::{cvt, fd, wait};

/// Sources from this number on are duplicated to a slot, as long as there are free slots.
const LOW: i32 = 64;
/// The number of reserved low descriptors: stdin, stdout and stderr of the child.
const SLOTS: usize = 3;

/// Whether `close_range(2)` was refused once (kernel before 5.9, sandbox). It is not tried again
/// then.
static REFUSED: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
pub(super) struct Vfork {
    /// The room, or `None` after a child that did not let go of it.
    room: RefCell<Option<Room>>,
    /// `/dev/null` at low numbers, kept open so that no other file gets these numbers.
    slots: Vec<OwnedFd>,
    /// Whether the system has no such children (as under qemu-user and valgrind).
    refused: Cell<bool>,
    /// Whether a child can be made in a cgroup, and the errno if not, once that has been checked.
    clone3: Cell<Option<Result<(), i32>>>,
}

/// The memory of ours in which a child runs.
#[derive(Debug)]
pub(super) struct Room {
    stack: Stack,
    hold: Hold,
}

impl Room {
    fn new() -> io::Result<Self> {
        Ok(Self { stack: Stack::new()?, hold: Hold::new() })
    }
}

/// The data that the parent and the child share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    closing: Closing,
    failure: Option<Failure>,
    /// The time of the exec, once the child has tried it.
    executed: Option<Instant>,
    /// Whether a child that is made in a cgroup is to have a pidfd from its birth on.
    pub(super) wants_pidfd: bool,
    pub(super) pidfd: Option<OwnedFd>,
    /// Set for a child that does not let go of this memory.
    dumpable: Option<KeepDumpable>,
}

impl Shared {
    pub(super) fn new(plan: Plan) -> Box<Self> {
        Box::new(Self {
            plan,
            closing: Closing::Each(0),
            failure: None,
            executed: None,
            wants_pidfd: false,
            pidfd: None,
            dumpable: None,
        })
    }

    /// Returns the time just before the exec of the child, which is gone from this memory.
    pub(super) fn executed(&self) -> Option<Instant> {
        // SAFETY: it is our own field. The read is volatile, because the compiler has not seen the
        // child write.
        unsafe { ptr::read_volatile(&raw const self.executed) }
    }
}

impl Vfork {
    pub(super) fn new(null: BorrowedFd<'_>) -> io::Result<Self> {
        let slots = (0..SLOTS).map(|_| fd::duplicate(null, 3)).collect::<io::Result<_>>()?;
        let room = RefCell::new(Some(Room::new()?));
        let refused = clone::on_valgrind();
        let clone3 = refused.then_some(Err(libc::ENOSYS));
        Ok(Self { room, slots, refused: Cell::new(refused), clone3: Cell::new(clone3) })
    }

    /// Whether the system has such children, as far as is known.
    pub(super) fn works(&self) -> bool {
        !self.refused.get()
    }

    /// Tells whether the system lets a child start in a cgroup, as far as is known.
    pub(super) fn check_clone3(&self) -> io::Result<()> {
        let known = self.clone3.get().unwrap_or_else(|| {
            let checked = clone::check().map_err(|error| error.raw_os_error().unwrap_or(libc::ENOSYS));
            self.clone3.set(Some(checked));
            checked
        });
        known.map_err(io::Error::from_raw_os_error)
    }

    /// Notes that the system has refused this, so that it is not tried again.
    pub(super) fn note_refused_clone3(&self, error: &io::Error) {
        self.clone3.set(Some(Err(error.raw_os_error().unwrap_or(libc::ENOSYS))));
    }

    /// Gives up the room to a child that does not let go of it.
    pub(super) fn give_up_room(&self) -> Option<Room> {
        self.room.take()
    }

    pub(super) fn spawn(
        &self,
        shared: &mut Shared,
        null: BorrowedFd<'_>,
        bound: &mut Bound<'_>,
    ) -> Result<i32, Failure> {
        if REFUSED.load(Ordering::Relaxed) {
            return self.clone(shared, Closing::Each(fd::highest_open()), bound);
        }
        let mut used = 0;
        let plan = &mut shared.plan;
        let before = plan.moves.iter().any(is_high).then(|| plan.moves.clone());
        let result =
            self.bring_down(plan, &mut used).map_err(|error| Failure::ours(Stage::Dup2, &error)).and_then(|()| {
                let sources = shared.plan.moves.iter().map(|one| one.source);
                let needed = sources.chain(shared.plan.guard.map(|(socket, _)| socket));
                let from = needed.map(|source| source.saturating_add(1)).max().unwrap_or(0);
                #[allow(clippy::cast_sign_loss)] // descriptors are not negative
                self.clone(shared, Closing::Unshare(from as u32), bound)
            });
        // A slot holds the child's end of a pipe. While that stays open there is no end of file.
        let emptied = self.slots[..used].iter().try_for_each(|slot| fd::replace(slot, null));
        if let (Ok(pid), Err(error)) = (&result, emptied) {
            wait::kill_and_reap(*pid);
            return Err(Failure::ours(Stage::Dup2, &error));
        }
        let to_be_closed = matches!(result, Err(failure) if failure.stage() == Stage::CloseRange);
        // The spawn may be tried again with these moves, unless the child still uses the plan.
        if let (Some(before), Err(None)) = (before, result.map_err(Failure::stuck)) {
            shared.plan.moves = before;
        }
        if to_be_closed {
            REFUSED.store(true, Ordering::Relaxed);
            return self.clone(shared, Closing::Each(fd::highest_open()), bound);
        }
        result
    }

    /// Duplicates high sources to the slots, and counts the slots that it has used, even on an
    /// error.
    fn bring_down(&self, plan: &mut Plan, used: &mut usize) -> io::Result<()> {
        for one in plan.moves.iter_mut().filter(|one| is_high(one)) {
            let Some(slot) = self.slots.get(*used) else { break };
            // SAFETY: the plan's sources are borrowed from their owners for the length of the
            // spawn.
            let source = unsafe { BorrowedFd::borrow_raw(one.source) };
            fd::replace(slot, source)?;
            one.source = slot.as_raw_fd();
            one.clashes = plan.targets.contains(&one.source);
            *used += 1;
        }
        Ok(())
    }

    fn clone(&self, shared: &mut Shared, closing: Closing, bound: &mut Bound<'_>) -> Result<i32, Failure> {
        let mut room = self.room.borrow_mut();
        if room.is_none() {
            *room = Some(Room::new().map_err(|error| Failure::ours(Stage::Clone, &error))?);
        }
        let Some(Room { stack, hold }) = &*room else { return Err(Failure::new(Stage::Clone, libc::ENOMEM, 0)) };
        let files = if matches!(closing, Closing::Unshare(_)) { libc::CLONE_FILES } else { 0 };
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | files;
        (shared.closing, shared.failure) = (closing, None);
        shared.plan.stamp = &raw mut shared.executed;
        let dumpable = shared.plan.changes_credentials().then(KeepDumpable::new);
        let blocked = BlockAll::new().map_err(|error| Failure::ours(Stage::Sigmask, &error))?;
        let (cloned, pidfd) = make(shared, stack, flags, hold.begin());
        let waited = cloned.as_ref().map(|pid| bound.wait(*pid, |time| hold.wait(time)));
        if let Ok(Err(failure)) = waited {
            // A child that is still in this memory may belong to another user by now, who could
            // otherwise read it.
            shared.dumpable = dumpable.filter(|_| failure.stuck().is_some());
            // The failure matters more to the caller than this error.
            if let Err(error) = blocked.lift() {
                log::warn!("the signals of this thread stay blocked: {error}");
            }
            return Err(failure);
        }
        shared.pidfd = pidfd;
        let lifted = blocked.lift();
        drop(dumpable);
        let pid = cloned.map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM) => Failure::ours(Stage::Clone, &error),
            _ if shared.plan.born_in.is_some() => Failure::ours(Stage::Cgroup, &error),
            errno => {
                self.refused.set(errno == Some(libc::EINVAL));
                Failure::ours(Stage::Clone, &error)
            }
        })?;
        // SAFETY: the child is gone from this memory. The read is volatile, because the compiler
        // has not seen the child write.
        let failed = unsafe { ptr::read_volatile(&raw const shared.failure) };
        match (failed, lifted) {
            (None, Ok(())) => Ok(pid),
            (Some(failure), _) => Err(failure.of_ended(pid)),
            (None, Err(error)) => {
                wait::kill_and_reap(pid);
                Err(Failure::ours(Stage::Sigmask, &error))
            }
        }
    }
}

/// Makes the child that runs [`run_child`], by `clone`, or in its cgroup by `clone3`. It returns
/// the pid, and the pidfd if there is one.
///
/// The stack, `shared` and `hold` stay as they are until the child lets go of them, and this thread
/// does not touch them before that.
fn make(shared: &mut Shared, stack: &Stack, flags: libc::c_int, hold: *mut i32) -> (io::Result<i32>, Option<OwnedFd>) {
    let (born_in, wants_pidfd) = (shared.plan.born_in, shared.wants_pidfd);
    let lent = ptr::from_mut(shared).cast();
    let Some(cgroup) = born_in else {
        let flags = flags | libc::SIGCHLD;
        // SAFETY: the stack is ours alone (a Vfork is not Sync, and a room that a child still uses
        // is given up) and large enough. The stack, the hold and `shared` live until the child lets
        // go of them, because otherwise our caller keeps them. The child does only what
        // `child::run` may do, and until it lets go this thread does not touch what it uses.
        let cloned = unsafe { clone::clone(flags, stack.top(), hold, run_child, lent) };
        return (cloned, None);
    };
    let mut pidfd = -1;
    #[allow(clippy::cast_sign_loss)] // flags and descriptors are not negative
    let args = clone::Args {
        flags: flags as u64 | clone::CLONE_INTO_CGROUP | if wants_pidfd { libc::CLONE_PIDFD as u64 } else { 0 },
        pidfd: ptr::from_mut::<i32>(&mut pidfd) as u64,
        child_tid: hold as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom() as u64,
        stack_size: Stack::SIZE as u64,
        cgroup: cgroup as u64,
        ..clone::Args::default()
    };
    // SAFETY: the same holds as above. The kernel writes the pidfd before the call returns.
    let cloned = unsafe { clone::clone3(&args, run_child, lent) };
    // SAFETY: it is a local. The read is volatile, because the compiler has not seen the kernel
    // write.
    let pidfd = unsafe { ptr::read_volatile(&raw const pidfd) };
    // SAFETY: the kernel has just opened it for us, as close-on-exec.
    let pidfd = (cloned.is_ok() && pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    (cloned, pidfd.and_then(|pidfd| fd::above_stdio(pidfd).ok()))
}

fn is_high(one: &Move) -> bool {
    one.source >= LOW && one.source != one.target
}

extern "C" fn run_child(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the parent's `shared`, and the parent does not touch it while this child lives.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    // SAFETY: this is the new child, and the parent has blocked all signals.
    let failure = unsafe { child::run(&mut shared.plan, shared.closing, &mut None) };
    shared.failure = Some(failure);
    // SAFETY: it ends the child alone, without running the host's exit handlers.
    unsafe { libc::_exit(127) }
}

/// Restores the host's dumpable flag, which a child in the same memory clears when it changes its
/// user. It does so when the last of several such children is gone.
#[derive(Debug)]
struct KeepDumpable;

/// The number of such children, and the flag as it was before the first one.
static DUMPABLE: Mutex<(usize, i32)> = Mutex::new((0, 0));

impl KeepDumpable {
    fn new() -> Self {
        let mut dumpable = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if dumpable.0 == 0 {
            // SAFETY: it touches no memory.
            dumpable.1 = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        }
        dumpable.0 = dumpable.0.saturating_add(1);
        Self
    }
}

impl Drop for KeepDumpable {
    fn drop(&mut self) {
        let mut dumpable = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        dumpable.0 = dumpable.0.saturating_sub(1);
        let before = dumpable.1;
        if dumpable.0 > 0 {
            return;
        }
        // SAFETY: it touches no memory. The kernel refuses the value 2, which only the kernel may
        // set, and which a change of user leaves as it is.
        let restored = cvt(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, before) });
        if let (Err(error), 0 | 1) = (restored, before) {
            log::warn!("the dumpable flag of this process cannot be set to {before} again: {error}");
        }
    }
}

/// The child's stack, with inaccessible memory below it.
#[derive(Debug)]
struct Stack {
    base: NonNull<libc::c_void>,
}

/// As with a thread's stack, nothing else has the pointer.
// SAFETY: the mapping belongs to this value alone and to no thread.
unsafe impl Send for Stack {}

impl Stack {
    const SIZE: usize = 64 * 1024;
    /// As large as the largest page of any architecture.
    const GUARD: usize = 64 * 1024;

    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::GUARD + Self::SIZE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base: NonNull::new(base).ok_or_else(io::Error::last_os_error)? };
        let usable = base.wrapping_byte_add(Self::GUARD);
        // SAFETY: it is the upper part of the mapping above.
        cvt(unsafe { libc::mprotect(usable, Self::SIZE, libc::PROT_READ | libc::PROT_WRITE) })?;
        Ok(stack)
    }

    /// Returns the lowest address that may be accessed.
    fn bottom(&self) -> *mut libc::c_void {
        self.base.as_ptr().wrapping_byte_add(Self::GUARD)
    }

    /// Returns the upper end. Stacks grow down on every architecture on which Rust runs on Linux.
    fn top(&self) -> *mut libc::c_void {
        self.base.as_ptr().wrapping_byte_add(Self::GUARD + Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no child runs on it, because a spawn does not return
        // before that.
        unsafe { libc::munmap(self.base.as_ptr(), Self::GUARD + Self::SIZE) };
    }
}
