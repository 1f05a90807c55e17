//! Starts processes, in two ways that have the same effect.
//!
//! The parent computes everything beforehand ([`plan`]). One function runs between the birth of the
//! child and its exec ([`child`]). [`vfork`] and [`fork`] differ only in how the child is made and
//! how its errno comes back. One function limits the time that this may take ([`bound`]). The one
//! rule: a failure leaves nothing behind, neither a process nor a file descriptor.

mod bound;
mod child;
#[cfg(target_os = "linux")]
mod conditions;
#[cfg(not(target_os = "linux"))]
#[path = "no_conditions.rs"]
mod conditions;
mod denied;
mod environment;
mod failure;
mod fork;
mod order;
mod plan;
#[cfg(target_os = "linux")]
mod starter;
#[cfg(target_os = "linux")]
mod vfork;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{fd, wait};
use crate::command::Group;
use crate::error::{SpawnError, Stage};
use bound::Bound;
use failure::Failure;
pub(crate) use order::{Born, ChildFile, Order};
use plan::Plan;

/// The way in which a child is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SpawnMethod {
    /// `clone(CLONE_VM)`: as with `vfork(2)`, the child borrows the host's memory until its exec,
    /// so that a spawn costs the same whatever the size of the host. It needs Linux. On other
    /// systems, and where it is refused, [`Fork`](Self::Fork) is used instead.
    #[default]
    Vfork,
    /// `fork(2)`, which is portable, and slow in a host with much memory.
    Fork,
}

/// The default time that a child may take to reach its exec.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Starts processes, and holds what can be kept from one spawn to the next.
#[derive(Debug)]
pub(crate) struct Spawner {
    null: OwnedFd,
    timeout: Duration,
    #[cfg(target_os = "linux")]
    vfork: Option<vfork::Vfork>,
    #[cfg(target_os = "linux")]
    starter: starter::Starter,
    stuck: RefCell<Vec<Stuck>>,
}

/// A child that was killed before its exec and still exists.
#[derive(Debug)]
struct Stuck {
    pid: i32,
    /// The memory that it may use while it exists.
    #[cfg(target_os = "linux")]
    memory: Option<std::mem::ManuallyDrop<(vfork::Room, Box<vfork::Shared>)>>,
}

// SAFETY: the pointers of its memory lead to what it owns, and to nothing that belongs to one
// thread.
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
            #[cfg(target_os = "linux")]
            starter: starter::Starter::default(),
            stuck: RefCell::default(),
        })
    }

    /// Returns `/dev/null`, for a child's descriptors.
    pub(crate) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Starts the command. `asked_to_end` returns whether a signal has arrived that asks the host
    /// to end. It must make no system call that can fail, because a child in this memory has the
    /// same `errno`.
    ///
    /// This blocks the thread until the program runs or has failed to start, at most until two
    /// seconds after the time-out.
    pub(crate) fn spawn(&self, order: &Order<'_>, asked_to_end: &mut dyn FnMut() -> bool) -> Result<Born, SpawnError> {
        self.reap_stuck();
        #[cfg(target_os = "linux")]
        if let Some(born) = self.spawn_through_starter(order, asked_to_end)? {
            return Ok(born);
        }
        self.spawn_directly(order, asked_to_end, None)
    }

    /// Starts the command through the starter, if its peak memory is to be its own. Returns `None`
    /// if that cannot be had, or if the command fails, so that the ordinary way finds out why.
    #[cfg(target_os = "linux")]
    fn spawn_through_starter(
        &self,
        order: &Order<'_>,
        asked_to_end: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Born>, SpawnError> {
        if !order.own_peak || !self.vfork.as_ref().is_some_and(vfork::Vfork::works) {
            return Ok(None);
        }
        let Some(start) = self.starter.prepare(order) else { return Ok(None) };
        let mut files = order.files.to_vec();
        files.extend([(start.numbers[0], start.theirs.as_fd()), (start.numbers[1], start.program)]);
        let first =
            self.spawn_directly(&Order { files: &files, pidfd: false, ..*order }, asked_to_end, Some(start.numbers));
        let first = match first {
            Ok(first) => first,
            Err(error) => {
                starter::give_up(start);
                // A second attempt would take as long again.
                return if error.stage() == Stage::Wait { Err(error) } else { Ok(None) };
            }
        };
        let shares_group = order.command.group == Group::Inherit;
        let mut bound = Bound { timeout: self.timeout, shares_group, asked_to_end };
        match starter::finish(start, first.pid, &mut bound) {
            Ok(starter::Started::Child(pid, executed)) => {
                Ok(Some(Born { pid, pidfd: None, executed, own_peak: true, entered: first.entered }))
            }
            Ok(starter::Started::Failed) => Ok(None),
            Err(failure) => {
                self.note_stuck(failure);
                Err(plan::explain_wait(order.command, failure))
            }
        }
    }

    /// Notes a child that was killed and is not gone, unless the failure is another one.
    fn note_stuck(&self, failure: Failure) {
        if let Some(pid) = failure.stuck() {
            self.stuck.borrow_mut().push(Stuck {
                pid,
                #[cfg(target_os = "linux")]
                memory: None,
            });
        }
    }

    /// Starts the command, or with `start` the starter, whose own descriptors these are.
    fn spawn_directly(
        &self,
        order: &Order<'_>,
        asked_to_end: &mut dyn FnMut() -> bool,
        start: Option<[RawFd; 2]>,
    ) -> Result<Born, SpawnError> {
        let mut plan = Plan::new(order.command, order.files, order.terminal, order.nofile, order.notify)?;
        #[cfg(target_os = "linux")]
        if let Some(numbers) = start {
            plan.start = starter::Start::new(
                plan.group,
                plan.parent_death_signal,
                &plan.paths.pointers,
                &plan.argv.pointers,
                numbers,
            );
        }
        #[cfg(not(target_os = "linux"))]
        let _ = start;
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
                    // Whether a sandbox or the permissions in the hierarchy refused it shows when
                    // the child enters the cgroup itself.
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
                Ok(pid) => {
                    return Ok(Born {
                        pid,
                        pidfd: shared.pidfd.take(),
                        executed: shared.executed(),
                        own_peak: false,
                        entered,
                    });
                }
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
            self.note_stuck(failure);
            plan.explain(order.command, failure)
        });
        let (pid, executed) = spawned?;
        Ok(Born { pid, pidfd: None, executed, own_peak: false, entered })
    }

    /// Whether a child can start in a cgroup, as far as can be told without starting one.
    pub(crate) fn can_be_born_in_cgroup(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(vfork) = self.vfork.as_ref().filter(|vfork| vfork.works()) {
            return vfork.check_clone3();
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "the host starts processes by fork"))
    }

    /// Reaps the stuck children that have exited by now.
    fn reap_stuck(&self) {
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
