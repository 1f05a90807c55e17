//! The guard of a reactor, which kills the trees when the host dies without dropping the reactor.
//!
//! The mechanism is in `sys::guard`. This file decides which trees are registered with it, and
//! keeps it running as long as it is wanted. The one rule: a process that the guard is to kill is
//! registered before its program runs, and until its tree is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mio::Interest;

use super::{Reactor, clock};
use crate::process::cgroup::Home;
use crate::process::guard::{Started, start};
use crate::slab::Key;
use crate::sources::Source;
use crate::sys;
use crate::sys::guard::{LOWEST, Message};

/// If a guard ends sooner than this after its start, it is not started again at once.
const SOON: Duration = Duration::from_secs(1);
/// The time from one attempt to start a guard to the next.
const RETRY: Duration = Duration::from_millis(100);
/// The time after which the guard is told which trees are gone. By then, new processes have usually
/// taken their numbers, which tells it the same.
const DROP_PAUSE: Duration = Duration::from_secs(1);
/// The longest time that the host waits for the guard to read its messages, or to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The guard of a reactor, and what is registered with it.
#[derive(Debug, Default)]
pub(super) struct Guarding {
    wanted: bool,
    guard: Option<Guard>,
    /// Whether the poll has reported that it has ended.
    pub(super) ended: bool,
    pub(super) retry_at: Option<Instant>,
    /// The numbers of the trees. `homes` holds those of the directories of cgroups.
    trees: HashMap<Key, u32>,
    homes: Vec<(Weak<Home>, u32)>,
    /// The lowest number that was never given out, counted from [`LOWEST`].
    unused: u32,
    /// Numbers at which the guard has no descriptor.
    free: Vec<u32>,
    /// Numbers that are free, too, but at which the guard still has the descriptor of a tree that
    /// is gone. A new process replaces it.
    unsaid: Vec<u32>,
    /// When the guard is told to close those.
    say_at: Option<Instant>,
}

/// A guard that runs. When this is dropped, the guard leaves without killing. If the host panics,
/// it kills.
#[derive(Debug)]
struct Guard {
    started: Started,
    source: Key,
    since: Instant,
    /// The process that has started it. A forked copy of that process does not own it.
    owner: u32,
}

impl Guarding {
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.guard.as_ref().map(|guard| guard.started.socket.as_fd())
    }

    /// Returns the pid of the guard.
    pub(super) fn pid(&self) -> Option<i32> {
        self.guard.as_ref().map(|guard| guard.started.pid)
    }

    /// Returns the time at which there is something to do even without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.say_at).min()
    }

    /// Returns a number that is not in use.
    fn new_number(&mut self) -> io::Result<u32> {
        if let Some(number) = self.unsaid.pop().or_else(|| self.free.pop()) {
            self.say_at = self.say_at.filter(|_| !self.unsaid.is_empty());
            return Ok(number);
        }
        let number = LOWEST + self.unused;
        if self.guard.as_ref().is_some_and(|guard| number >= guard.started.numbers) {
            return Err(io::Error::other("the limit of open files leaves the guard no room for another process"));
        }
        self.unused += 1;
        Ok(number)
    }

    /// Removes a tree. If it is certain to be gone, the guard may hear of it later: its descriptor
    /// reaches no process then. Otherwise the guard must not kill what is left.
    pub(super) fn forget(&mut self, process: Key, is_gone: bool) {
        let Some(number) = self.trees.remove(&process) else { return };
        self.unsaid.push(number);
        if is_gone {
            self.say_at.get_or_insert_with(|| clock() + DROP_PAUSE);
        } else {
            self.say_unsaid();
        }
    }

    fn say_unsaid(&mut self) {
        self.say_at = None;
        while let (Some(number), Some(socket)) = (self.unsaid.last().copied(), self.socket()) {
            match sys::guard::send(socket, Message::Drop(number)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.say_at = Some(clock() + RETRY);
                    return;
                }
                // If the guard is gone, it has closed the descriptor.
                _ => {}
            }
            self.unsaid.pop();
            self.free.push(number);
        }
    }

    /// Has the guard keep a descriptor. This waits for the guard if it has many messages to read.
    fn put(&self, number: u32, file: BorrowedFd<'_>) -> io::Result<()> {
        let Some(socket) = self.socket() else { return Ok(()) };
        let start = clock();
        loop {
            match sys::guard::send(socket, Message::Put(number, file)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {
                    sys::fd::pause(Duration::from_millis(1));
                }
                // The guard has just ended. The descriptor is registered with the next one.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                result => return result,
            }
        }
    }
}

impl Reactor {
    /// Sets whether all trees are killed when this program dies, in whatever way: by SIGKILL, by
    /// the OOM killer, by a fault, by a panic, or by an exit that does not drop the reactor. A
    /// reactor that is dropped without a panic still leaves its processes running.
    ///
    /// A small process, the guard, does this. There is one for the whole reactor, with a few
    /// kilobytes of memory and a session of its own. It waits for the end of a socket whose other
    /// end only this program has, and then kills. If the guard is killed, it is started again in
    /// the next turn. Processes that already run are registered, too.
    ///
    /// | started in | what is killed |
    /// | --- | --- |
    /// | a cgroup | all processes in it |
    /// | a process group that it leads | all processes in the group, even after the end of the leader (Linux 6.9; before that only the leader) |
    /// | the group of another process | the process itself |
    ///
    /// The guard does not kill:
    ///
    /// - processes that have left the group;
    /// - processes that a [`ProcessMonitor`](crate::ProcessMonitor) has released (see
    ///   [`Leftovers::Leave`](crate::Leftovers::Leave));
    /// - processes in cgroups on a kernel before 5.14, which has no `cgroup.kill`;
    /// - any process, if the guard and then this program are killed before the next turn.
    ///
    /// A copy of this program that was made by `fork(2)` and goes on without `execve(2)` has the
    /// socket, too. The guard then kills only when the copy has ended.
    ///
    /// With `false`, the guard is dismissed, and the call waits for its end, which takes about a
    /// millisecond. The drop of the reactor does the same.
    ///
    /// # Errors
    ///
    /// The error is `Unsupported` if the guard is not written for this architecture (it is for
    /// x86-64 and aarch64). Otherwise it is the reason why the guard could not be started: it needs
    /// `/proc`, `memfd_create(2)` and pidfds (Linux 5.3). After an error nothing has changed.
    /// [`Command::parent_death_signal`](crate::Command::parent_death_signal) kills at least the
    /// processes themselves.
    ///
    /// ```
    /// use childminder::{Command, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.kill_trees_at_death(true)?;
    /// let id = reactor.spawn_process(Command::new("sleep").arg("1000"))?;
    /// # reactor.tree(id).expect("it runs").kill()?;
    /// // If this program was killed here, `sleep` would be, too.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PR_SET_PDEATHSIG")]
    pub fn kill_trees_at_death(&mut self, kill: bool) -> io::Result<()> {
        if !kill {
            self.stop_guard();
            self.guard = Guarding::default();
            return Ok(());
        }
        self.guard.wanted = true;
        self.start_guard().inspect_err(|_| self.guard = Guarding::default())
    }

    fn stop_guard(&mut self) {
        if let Some(guard) = self.guard.guard.take() {
            self.sources.forget(guard.source);
        }
    }

    /// Starts a guard if there is none, and registers all trees.
    fn start_guard(&mut self) -> io::Result<()> {
        if self.guard.guard.is_some() {
            return Ok(());
        }
        let started = start(&self.spawner)?;
        let source = self.sources.register(started.pidfd.as_fd(), Interest::READABLE, Source::Guard);
        let source = source.inspect_err(|_| {
            sys::wait::kill_and_reap(started.pid);
        })?;
        self.guard.guard = Some(Guard { started, source, since: clock(), owner: std::process::id() });
        self.guard.retry_at = None;
        // A new guard keeps no descriptors.
        self.guard.free.append(&mut self.guard.unsaid);
        self.guard.say_at = None;
        // A guard that does not know all trees is of no use.
        self.register_all().inspect_err(|_| self.stop_guard())
    }

    fn register_all(&mut self) -> io::Result<()> {
        if let Some(Ok(home)) = self.trees.home.clone() {
            self.note_home(&home)?;
        }
        self.guard.homes.retain(|(home, _)| home.strong_count() > 0);
        for (home, number) in &self.guard.homes {
            if let Some(home) = home.upgrade() {
                put_home(&self.guard, *number, &home)?;
            }
        }
        let led = self.processes.iter().filter_map(|(key, child)| Some((key, child.handle()?)));
        let left = self.trees.left.iter();
        let left = left.filter_map(|(key, left)| Some((*key, left.handle()?.try_clone_to_owned().ok()?)));
        for (key, pidfd) in led.chain(left).collect::<Vec<_>>() {
            let number = self.number_of(key)?;
            self.guard.put(number, pidfd.as_fd())?;
        }
        Ok(())
    }

    fn number_of(&mut self, process: Key) -> io::Result<u32> {
        if let Some(number) = self.guard.trees.get(&process) {
            return Ok(*number);
        }
        let number = self.guard.new_number()?;
        self.guard.trees.insert(process, number);
        Ok(number)
    }

    /// Returns the number under which a process that is about to be started registers, if there is
    /// a guard.
    pub(super) fn guard_number(&mut self, process: Key) -> io::Result<Option<u32>> {
        if !self.guard.wanted {
            return Ok(None);
        }
        self.start_guard()?;
        self.number_of(process).map(Some)
    }

    /// Registers the directory of a cgroup that is about to be used.
    pub(super) fn guard_home(&mut self, home: &Arc<Home>) -> io::Result<()> {
        if !self.guard.wanted {
            return Ok(());
        }
        self.start_guard()?;
        if self.note_home(home)? {
            let number = self.guard.homes.last().map_or(0, |(_, number)| *number);
            put_home(&self.guard, number, home)?;
        }
        Ok(())
    }

    /// Adds the directory, and returns whether it is new.
    fn note_home(&mut self, home: &Arc<Home>) -> io::Result<bool> {
        let is_known = |(known, _): &(Weak<Home>, u32)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(home));
        if self.guard.homes.iter().any(is_known) {
            return Ok(false);
        }
        let number = self.guard.new_number()?;
        self.guard.homes.push((Arc::downgrade(home), number));
        Ok(true)
    }

    /// Starts the guard again if it has ended.
    pub(super) fn keep_guard(&mut self) {
        let now = self.woke;
        if std::mem::take(&mut self.guard.ended) {
            if let Some(guard) = self.guard.guard.take_if(|guard| guard.has_ended()) {
                self.sources.forget(guard.source);
                let lived = now.saturating_duration_since(guard.since);
                self.guard.retry_at = Some(if lived < SOON { now + RETRY } else { now });
                log::warn!("the guard that kills all processes at our death has ended, and is started again");
            }
        }
        if self.guard.say_at.is_some_and(|at| at <= now) {
            self.guard.say_unsaid();
        }
        if self.guard.retry_at.is_some_and(|at| at <= now) {
            self.guard.retry_at = None;
            if let Err(error) = self.start_guard() {
                self.guard.retry_at = Some(now + RETRY);
                log::warn!("the guard cannot be started again: {error}");
            }
        }
    }
}

/// Registers the directory of a cgroup. Before Linux 5.14, the kernel has no file with which the
/// guard could kill a cgroup.
fn put_home(guarding: &Guarding, number: u32, home: &Home) -> io::Result<()> {
    match home.open_kill() {
        Ok(kill) => guarding.put(number, kill.as_fd()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Guard {
    /// Reaps the guard if it has ended, and returns whether it has.
    fn has_ended(&self) -> bool {
        let Started { pid, pidfd, .. } = &self.started;
        !matches!(sys::wait::try_wait_exactly(pidfd.as_fd(), *pid), sys::wait::Wait::Running | sys::wait::Wait::Unknown)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.owner != std::process::id() || self.has_ended() {
            return;
        }
        let Started { pid, pidfd, socket, .. } = &self.started;
        if std::thread::panicking() {
            // The guard kills, as it does when the host dies.
            sys::guard::hang_up(socket.as_fd());
        } else if sys::guard::send(socket.as_fd(), Message::Leave).is_err() {
            let _ = sys::pidfd::send(pidfd, libc::SIGKILL);
        }
        if !sys::fd::wait_readable(pidfd.as_fd(), PATIENCE) {
            let _ = sys::pidfd::send(pidfd, libc::SIGKILL);
        }
        sys::wait::reap_soon(*pid);
    }
}
