//! Starting a process, in two ways that mean the same.
//!
//! Everything is computed beforehand in the parent ([`plan`]); what happens between the birth of the child and its exec
//! is one function ([`child`]); [`vfork`] and [`fork`] differ only in how the child is made and how its errno comes back;
//! how long it may take is one function, too ([`bound`]).
//! The one rule: after a failure nothing is left, no process and no descriptor.

mod bound;
mod child;
mod denied;
mod environment;
mod fork;
mod plan;
#[cfg(target_os = "linux")]
mod vfork;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{fd, wait};
use crate::command::{Group, Parts};
use crate::error::{SpawnError, Stage};
use crate::limit::Limit;
use bound::Bound;
use plan::Plan;

/// How a child is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SpawnMethod {
    /// `clone(CLONE_VM)`: as with `vfork(2)`, the child borrows the host's memory until its exec, so that a spawn costs
    /// the same whatever the host's size. Linux; elsewhere, and where it is refused, this is [`Fork`](Self::Fork).
    #[default]
    Vfork,
    /// `fork(2)`: portable, and slow in a host with much memory.
    Fork,
}

/// A child's descriptor and the one of ours that it is made from.
pub(crate) type ChildFile<'a> = (i32, BorrowedFd<'a>);

/// What is to be started.
pub(crate) struct Order<'a> {
    pub(crate) command: &'a Parts,
    pub(crate) files: &'a [ChildFile<'a>],
    /// Its descriptor 0 becomes its controlling terminal.
    pub(crate) terminal: bool,
    /// Its limit of open files, unless the command names one.
    pub(crate) nofile: Option<Limit>,
    /// The directory of the cgroup that it starts in, if it is not the host's.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The socket of the guard that it registers with, and the number that it has there.
    pub(crate) guard: Option<(BorrowedFd<'a>, u32)>,
    /// A pidfd is wanted, if the child can have one from its birth on.
    pub(crate) pidfd: bool,
}

/// A child that runs its program.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) pid: i32,
    /// Its pidfd, where the kernel has given it out with the child.
    pub(crate) pidfd: Option<OwnedFd>,
    /// Why it entered its cgroup by itself, before its exec, and was not born there.
    pub(crate) entered: Option<io::Error>,
}

/// How long a child may take to its exec, unless the host says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Starts processes; holds what can be kept from one spawn to the next.
#[derive(Debug)]
pub(crate) struct Spawner {
    null: OwnedFd,
    timeout: Duration,
    #[cfg(target_os = "linux")]
    vfork: Option<vfork::Vfork>,
    stuck: RefCell<Vec<Stuck>>,
}

/// A child that was killed before its exec and is not gone.
#[derive(Debug)]
struct Stuck {
    pid: i32,
    /// What it may use until then.
    #[cfg(target_os = "linux")]
    memory: Option<std::mem::ManuallyDrop<(vfork::Room, Box<vfork::Shared>)>>,
}

// SAFETY: the pointers of its memory lead to what it owns, and to no thread's own.
unsafe impl Send for Stuck {}

impl Spawner {
    pub(crate) fn new(method: SpawnMethod) -> io::Result<Self> {
        let null = fd::null()?;
        #[cfg(target_os = "linux")]
        let vfork = match method {
            SpawnMethod::Vfork => Some(vfork::Vfork::new(null.as_fd())?),
            SpawnMethod::Fork => None,
        };
        #[cfg(not(target_os = "linux"))]
        let _ = method;
        Ok(Self {
            null,
            timeout: TIMEOUT,
            #[cfg(target_os = "linux")]
            vfork,
            stuck: RefCell::default(),
        })
    }

    /// `/dev/null`, for a child's descriptors.
    pub(crate) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Starts the command. `asked_to_end`: whether a signal has come that asks the host to end. It makes no system call
    /// that can fail, since a child in this memory has the same `errno`.
    ///
    /// Returns when the program runs or has failed to, at the latest two seconds after the time-out: until then this thread
    /// stands still.
    pub(crate) fn spawn(&self, order: &Order<'_>, asked_to_end: &mut dyn FnMut() -> bool) -> Result<Born, SpawnError> {
        self.bury();
        let mut plan = Plan::new(order.command, order.files, order.terminal, order.nofile)?;
        let shares_group = order.command.group == Group::Inherit;
        let mut bound = Bound { timeout: self.timeout, shares_group, asked_to_end };
        plan.guard = order.guard.map(|(socket, number)| (socket.as_raw_fd(), number));
        let mut entered = None;
        if let Some(cgroup) = order.cgroup {
            match self.can_be_born_in_cgroup() {
                Ok(()) => plan.born_in = Some(cgroup.as_raw_fd()),
                Err(error) => {
                    plan.enter(cgroup).map_err(|error| plan.explain_ours(order.command, Stage::Cgroup, error))?;
                    entered = Some(error);
                }
            }
        }
        #[cfg(target_os = "linux")]
        if let Some(vfork) = self.vfork.as_ref().filter(|vfork| vfork.works()) {
            let mut shared = vfork::Shared::new(plan);
            shared.wants_pidfd = order.pidfd;
            let mut result = vfork.spawn(&mut shared, self.null.as_fd(), &mut bound);
            if let (Err(failure), Some(cgroup)) = (&result, order.cgroup.filter(|_| shared.plan.born_in.is_some())) {
                if failure.is_refused_clone3() {
                    // Whether it was a sandbox or the rights in the hierarchy shows when the child enters by itself.
                    let refused = io::Error::from_raw_os_error(failure.errno);
                    shared.plan.born_in = None;
                    let entering = shared.plan.enter(cgroup);
                    entering.map_err(|error| shared.plan.explain_ours(order.command, Stage::Cgroup, error))?;
                    result = vfork.spawn(&mut shared, self.null.as_fd(), &mut bound);
                    if result.is_ok() {
                        vfork.note_refused_clone3(&refused);
                        entered = Some(refused);
                    }
                }
            }
            match result {
                Ok(pid) => return Ok(Born { pid, pidfd: shared.pidfd.take(), entered }),
                Err(failure) if vfork.works() => {
                    let error = shared.plan.explain(order.command, failure);
                    if let Some(pid) = failure.stuck() {
                        let memory = vfork.give_up_room().map(|room| std::mem::ManuallyDrop::new((room, shared)));
                        self.stuck.borrow_mut().push(Stuck { pid, memory });
                    }
                    return Err(error);
                }
                Err(_) => plan = shared.plan,
            }
        }
        let spawned = fork::spawn(&mut plan, &mut bound).map_err(|failure| {
            if let Some(pid) = failure.stuck() {
                self.stuck.borrow_mut().push(Stuck {
                    pid,
                    #[cfg(target_os = "linux")]
                    memory: None,
                });
            }
            plan.explain(order.command, failure)
        });
        Ok(Born { pid: spawned?, pidfd: None, entered })
    }

    /// Whether a child can start in a cgroup, as far as can be told without starting one.
    pub(crate) fn can_be_born_in_cgroup(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(vfork) = self.vfork.as_ref().filter(|vfork| vfork.works()) {
            return vfork.check_clone3();
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "the host starts processes by fork"))
    }

    /// Reaps those that were stuck and are gone by now.
    fn bury(&self) {
        self.stuck.borrow_mut().retain_mut(|stuck| {
            let gone = matches!(wait::try_wait(stuck.pid), wait::Wait::Reaped(..) | wait::Wait::Lost);
            #[cfg(target_os = "linux")]
            if gone {
                drop(stuck.memory.take().map(std::mem::ManuallyDrop::into_inner));
            }
            !gone
        });
    }
}

/// What the child could not do, as it comes back to the parent: three integers, whichever way they travel.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Failure {
    stage: i32,
    errno: i32,
    /// Which of several: the number of the path, the limit or the descriptor.
    which: i32,
}

impl Failure {
    fn new(stage: Stage, errno: i32, which: i32) -> Self {
        Self { stage: stage as i32, errno, which }
    }

    /// Something that the parent itself could not do.
    fn ours(stage: Stage, error: &io::Error) -> Self {
        Self::new(stage, error.raw_os_error().unwrap_or(libc::EIO), 0)
    }

    /// The kernel, or a sandbox, does not let a child start in a cgroup.
    #[cfg(target_os = "linux")]
    fn is_refused_clone3(self) -> bool {
        let refusals = [libc::ENOSYS, libc::EPERM, libc::EINVAL, libc::E2BIG];
        self.stage() == Stage::Cgroup && refusals.contains(&self.errno)
    }

    /// What a child has reported, which ends now and is reaped. It may have been stopped once more by its own user.
    fn of_ended(self, pid: i32) -> Self {
        if wait::kill_and_reap(pid) { self } else { Self::new(Stage::Wait, libc::ETIMEDOUT, pid) }
    }

    /// The pid of a child that was killed and is not gone.
    fn stuck(self) -> Option<i32> {
        (self.stage() == Stage::Wait && self.which > 0).then_some(self.which)
    }

    fn stage(self) -> Stage {
        usize::try_from(self.stage).ok().and_then(|index| Stage::ALL.get(index)).copied().unwrap_or(Stage::Clone)
    }
}
