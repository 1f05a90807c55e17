//! A child in the reactor: the process itself, and our ends of its pipes.
//!
//! It delivers no events: each call returns its result. The one rule: no signal is ever sent to a
//! number that may belong to another process by now.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use mio::Interest;

use super::cgroup::{CHANGES, Cgroup, refused_processes};
use super::frozen::Frozen;
use super::group::ProcessGroup;
use super::killed::Killed;
use super::notify::Inbox;
use super::pipe::{Flush, Reader, Writer};
use super::stdio::{Files, Side};
use super::table::{self, Living, Moment};
use crate::command::Parts;
use crate::contain::{Containment, Member, Strength};
use crate::error::{SignalError, SpawnError, Stage};
use crate::exit::{Exit, Usage};
use crate::limit::Limit;
use crate::slab::Key;
use crate::sources::{Source, Sources};
use crate::sys;
use crate::sys::spawn::{Born, Order, Spawner};
use crate::sys::wait::{State, StopChange, Wait};
use crate::used::Used;

/// The result of a call that an event must report in a later turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice {
    /// A pipe is closed. `lost` is the number of bytes that were taken and not delivered.
    Closed { process: Key, fd: i32, lost: usize },
    /// A producer may go on.
    Drained { process: Key, fd: i32 },
}

/// A child process and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Child {
    pub(super) pid: i32,
    /// Whether its pid is also the number of its process group.
    pub(super) leads: bool,
    /// Whether it is on a pseudo-terminal, which is read as descriptor 1 and written as descriptor
    /// 0.
    terminal: bool,
    /// Whether its peak memory is certainly its own.
    own_peak: bool,
    pub(super) pidfd: Option<(OwnedFd, Key)>,
    pub(super) pipes: Vec<(i32, Pipe)>,
    /// The socket on which its tree tells its state.
    pub(crate) inbox: Option<Box<Inbox>>,
    /// The number of closed pipes that no event has reported yet.
    pub(super) unreported: u32,
    pub(super) started: Instant,
    requested: Option<i32>,
    /// The start time, by the system's clock, if there is no pidfd. If the host reaps the child
    /// itself, another process can get its number.
    birth: Option<NonZeroU64>,
    /// Whether the rest of its group is killed just before it is reaped.
    pub(super) kill_group_at_exit: bool,
    /// Whether it is not reaped before the rest of its group is gone, if the group could not be
    /// reached afterwards.
    pub(super) hold_for_group: bool,
    /// The cgroup in which it was started.
    pub(super) cgroup: Option<Cgroup>,
    /// What happens to it at most once or twice. Boxed because most children are idle.
    pub(super) rare: Option<Box<Rare>>,
    /// The file that reports that its tree has reached its limit of processes.
    pub(crate) process_limit: Option<Box<(OwnedFd, Key)>>,
    /// Why its containment is not stronger.
    pub(super) reason: Option<Arc<str>>,
    pub(super) exit: Option<Box<Exit>>,
}

/// What happens to a child that is frozen, killed, or reaped late.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// When it was first seen to have exited, if its reaping is delayed.
    died: Option<Instant>,
    /// When its group was killed.
    group_killed: Option<Moment>,
    /// Its tree was frozen.
    pub(super) frozen: Option<Frozen>,
    /// When its tree was killed.
    pub(super) tree_killed: Option<Killed>,
}

/// The result of an attempt to reap a child.
#[derive(Debug)]
pub(crate) enum Reap {
    /// The child is alive, or was reaped before.
    Nothing,
    /// The child must be checked again after a while: it waits for its group, or the system could
    /// not tell its state.
    Later,
    /// The child has exited, and is reaped.
    Exited(Exit),
}

#[derive(Debug)]
pub(super) enum Pipe {
    Reader(Reader),
    /// Boxed because most pipes are readers, which are half as large.
    Writer(Box<Writer>),
}

/// The parts of the reactor that a spawn needs.
pub(crate) struct Surroundings<'a> {
    pub(crate) spawner: &'a Spawner,
    pub(crate) sources: &'a mut Sources,
    pub(crate) nofile: Option<Limit>,
    pub(crate) pidfds: bool,
    /// The directory of the cgroup to start in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The socket of the guard to register with, and the child's number there.
    pub(crate) guard: Option<(BorrowedFd<'a>, u32)>,
    pub(crate) started: Instant,
    /// Tells whether a signal has arrived that asks the host to end.
    pub(crate) asked_to_end: &'a mut dyn FnMut() -> bool,
}

impl Child {
    /// Starts the command as process `key`. An error leaves nothing behind.
    pub(crate) fn spawn(command: &Parts, key: Key, around: &mut Surroundings<'_>) -> Result<Self, SpawnError> {
        let cannot_open = |error| SpawnError::new(command.program().to_owned(), Stage::Pipe, error);
        let inbox = command.attributes().notify.then(|| Inbox::open(key, around.sources)).transpose();
        let inbox = inbox.map_err(cannot_open)?;
        let spawned = Self::spawn_with(command, key, inbox.as_deref(), around);
        match (spawned, inbox) {
            (Ok(child), inbox) => Ok(Self { inbox, ..child }),
            (Err(error), inbox) => {
                inbox.into_iter().for_each(|inbox| around.sources.forget(inbox.source));
                Err(error)
            }
        }
    }

    fn spawn_with(
        command: &Parts,
        key: Key,
        inbox: Option<&Inbox>,
        around: &mut Surroundings<'_>,
    ) -> Result<Self, SpawnError> {
        let mut files = Files::open(command, around.spawner.null())?;
        let mut pipes = Vec::with_capacity(files.ours.len());
        let watched = files.ours.drain(..).try_for_each(|(fd, end, side)| {
            pipes.push((fd, Pipe::open(end, side, key, fd, around.sources)?));
            Ok(())
        });
        let spawned =
            watched.map_err(|error| SpawnError::new(command.program().to_owned(), Stage::Pipe, error)).and_then(|()| {
                let files_of_child = files.for_child();
                let order = Order {
                    command,
                    files: &files_of_child,
                    terminal: files.terminal,
                    nofile: around.nofile,
                    notify: inbox.map(Inbox::address),
                    cgroup: around.cgroup,
                    guard: around.guard,
                    pidfd: around.pidfds,
                    own_peak: command.attributes().own_peak,
                };
                around.spawner.spawn(&order, around.asked_to_end)
            });
        let Born { pid, pidfd, executed, own_peak, entered } = match spawned {
            Ok(born) => born,
            Err(error) => {
                for (_, pipe) in pipes {
                    around.sources.forget(pipe.source());
                }
                return Err(error);
            }
        };
        let pidfd = if around.pidfds { watch(pid, pidfd, key, around.sources) } else { None };
        let birth = if pidfd.is_none() { table::start_time(pid).and_then(NonZeroU64::new) } else { None };
        Ok(Self {
            pid,
            leads: command.group.leads() || files.terminal,
            terminal: files.terminal,
            own_peak,
            pidfd,
            pipes,
            inbox: None,
            unreported: 0,
            started: executed.unwrap_or(around.started),
            requested: None,
            birth,
            kill_group_at_exit: false,
            hold_for_group: false,
            cgroup: None,
            rare: None,
            process_limit: None,
            reason: entered.as_ref().map(Self::entry_reason),
            exit: None,
        })
    }

    /// Kills it with its tree and reaps it without an event, for a child that could not be watched.
    /// Returns its cgroup, which has to be removed.
    pub(crate) fn abandon(mut self, sources: &mut Sources) -> Option<Cgroup> {
        self.forget_process_limit(sources);
        // If this fails, the child has exited, or is killed by its number below.
        let _ = match &self.cgroup {
            Some(cgroup) => cgroup.kill().map(drop).map_err(SignalError::Os),
            None if self.leads => self.signal_group(libc::SIGKILL),
            None => Ok(()),
        };
        sys::wait::kill_and_reap(self.pid);
        for (_, pipe) in self.pipes {
            sources.forget(pipe.source());
        }
        self.cgroup
    }

    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.as_deref()
    }

    pub(crate) fn into_exit(self) -> Option<Box<Exit>> {
        self.exit
    }

    /// Tells whether only SIGCHLD can report its exit.
    pub(crate) fn needs_sweep(&self) -> bool {
        self.exit.is_none() && self.pidfd.is_none()
    }

    /// Tells whether it has exited and no event has reported this.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.is_none() && matches!(self.reported_state(), State::Zombie | State::Lost)
    }

    /// The same as [`has_ended`](Self::has_ended), but also `true` if only an attempt to reap it
    /// can tell.
    pub(crate) fn may_have_ended(&self) -> bool {
        self.exit.is_none() && self.reported_state() != State::Running
    }

    /// Returns the last stop or continuation since the last call.
    pub(crate) fn stop_change(&self) -> Option<StopChange> {
        if self.holds_number() { sys::wait::stop_change(self.pid) } else { None }
    }

    /// Stops it with its group, or continues them. An error means that it is gone.
    pub(crate) fn stop_or_continue(&self, signal: i32) {
        let _ = match self.leads {
            true => self.signal_group(signal),
            false => self.by_number(|| sys::signal::send(self.pid, signal)),
        };
    }

    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|(pidfd, _)| pidfd.as_fd())
    }

    /// Returns the state of the child with its number, as the wait reports it. A sandbox may refuse
    /// the wait that does not reap, and then the process table has the state.
    fn reported_state(&self) -> State {
        let state = sys::wait::state(self.pidfd(), self.pid);
        if state != State::Unknown {
            return state;
        }
        match table::is_zombie(self.pid) {
            Some(true) => State::Zombie,
            Some(false) => State::Running,
            None => State::Unknown,
        }
    }

    /// Returns its state. It is `Lost` also if its number belongs to another child of the host by
    /// now.
    fn state(&self) -> State {
        let state = self.reported_state();
        let is_anothers = || {
            let birth = self.birth?;
            Some(table::start_time(self.pid)? != birth.get())
        };
        // A start time that cannot be read does not prove that it is another process.
        if state != State::Lost && is_anothers() == Some(true) { State::Lost } else { state }
    }

    /// Tells whether its number certainly is its own. It is not if other code has reaped it.
    pub(super) fn holds_number(&self) -> bool {
        self.exit.is_none() && self.state() != State::Lost
    }

    /// Tells whether it has exited, every pipe is closed, and every close has been reported.
    pub(crate) fn is_over(&self) -> bool {
        self.exit.is_some() && self.pipes.is_empty() && self.unreported == 0
    }

    /// Reaps it if it has exited. `living` is filled if it is needed and empty.
    pub(crate) fn reap(&mut self, now: Instant, sources: &mut Sources, living: &mut Option<Living>) -> Reap {
        if self.exit.is_some() {
            return Reap::Nothing;
        }
        let waits_for_group = self.hold_for_group && !self.group_outlives_leader();
        if self.leads && (self.kill_group_at_exit || waits_for_group) && self.state() == State::Zombie {
            self.rare().died.get_or_insert(now);
            if self.kill_group_at_exit {
                // An error means that no other process is in the group.
                let _ = self.signal_group(libc::SIGKILL);
            } else {
                let group_killed = self.rare().group_killed;
                match living.get_or_insert_with(Living::look).has(self.pid, group_killed) {
                    Some(true) => return Reap::Later,
                    Some(false) => {}
                    None => {
                        let _ = self.signal_group(libc::SIGKILL);
                        // Nothing tells whether the group is empty now.
                        self.hold_for_group = false;
                    }
                }
            }
        }
        let wait = match &self.pidfd {
            Some((pidfd, _)) => sys::wait::try_wait_exactly(pidfd.as_fd(), self.pid),
            // The number belongs to another child of the host, which must not be reaped.
            None if self.state() == State::Lost => Wait::Lost,
            None => sys::wait::try_wait(self.pid),
        };
        let (status, usage) = match wait {
            Wait::Running => return Reap::Nothing,
            Wait::Unknown => return Reap::Later,
            Wait::Reaped(status, usage) => (Some(status), usage),
            Wait::Lost => {
                // Other code has reaped the leader, so it was not held until its group was empty.
                self.hold_for_group = false;
                (None, Usage::default())
            }
        };
        let died = self.rare.as_ref().and_then(|rare| rare.died);
        let wall_time = died.unwrap_or(now).saturating_duration_since(self.started);
        let exit = Exit { status, usage, wall_time, requested: self.requested };
        self.exit = Some(Box::new(exit));
        self.forget_process_limit(sources);
        if let Some((_, source)) = &self.pidfd {
            sources.forget(*source);
        }
        Reap::Exited(exit)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn readers(&self) -> impl Iterator<Item = i32> {
        self.pipes.iter().filter(|(_, pipe)| matches!(pipe, Pipe::Reader(_))).map(|(fd, _)| *fd)
    }

    pub(crate) fn reader(&mut self, fd: i32) -> Option<&mut Reader> {
        match self.pipe(fd)? {
            Pipe::Reader(reader) => Some(reader),
            Pipe::Writer(_) => None,
        }
    }

    /// Tells whether it was started on a pseudo-terminal.
    pub(crate) fn is_on_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn writer(&mut self, fd: i32) -> Option<&mut Writer> {
        match self.pipe(fd)? {
            Pipe::Writer(writer) => Some(writer),
            Pipe::Reader(_) => None,
        }
    }

    fn pipe(&mut self, fd: i32) -> Option<&mut Pipe> {
        self.pipes.iter_mut().find(|(number, _)| *number == fd).map(|(_, pipe)| pipe)
    }

    /// Closes our end. Returns how many bytes the child has not taken, which are lost, or `None` if
    /// there was no pipe.
    pub(crate) fn close(&mut self, fd: i32, sources: &mut Sources) -> Option<usize> {
        let index = self.pipes.iter().position(|(number, _)| *number == fd)?;
        let (_, pipe) = self.pipes.remove(index);
        sources.forget(pipe.source());
        match pipe {
            Pipe::Writer(writer) => Some(writer.pending()),
            Pipe::Reader(_) => Some(0),
        }
    }

    /// Handles a report of the poll that a writer can be written to, or that its reader is gone.
    pub(crate) fn flush(&mut self, fd: i32, reader_gone: bool, sources: &mut Sources) -> Option<Notice> {
        // No process has the terminal open now, but it can be opened again.
        let reader_gone = reader_gone && !(self.terminal && fd == 0);
        let writer = self.writer(fd)?;
        let source = writer.source;
        let flush = if reader_gone { Flush::Broken } else { writer.flush() };
        let closing = writer.closing;
        let Some(Source::Pipe { process, .. }) = sources.get(source) else { return None };
        match flush {
            Flush::Pending => None,
            Flush::Done { .. } if closing => Some(Notice::Closed { process, fd, lost: self.close(fd, sources)? }),
            Flush::Done { rested: true } => Some(Notice::Drained { process, fd }),
            Flush::Done { rested: false } => None,
            Flush::Broken => Some(Notice::Closed { process, fd, lost: self.close(fd, sources)? }),
        }
    }

    /// Notes that an event has reported a close that a call has made.
    pub(crate) fn reported(&mut self) {
        self.unreported = self.unreported.saturating_sub(1);
    }

    /// Returns the reason for which a child enters its cgroup by itself.
    pub(crate) fn entry_reason(error: &io::Error) -> Arc<str> {
        format!("entered before its exec, not at its birth: clone3: {error}").into()
    }

    /// Sets the cgroup in which it was started, or the reason for which there is none.
    pub(crate) fn set_containment(&mut self, cgroup: Option<Cgroup>, reason: Option<Arc<str>>) {
        self.cgroup = cgroup;
        self.reason = reason.or(self.reason.take());
    }

    /// Tells whether its peak memory is certainly its own, and not the host's.
    pub(crate) fn has_own_peak(&self) -> bool {
        self.own_peak
    }

    /// Returns what the process itself has used up to now, as far as `/proc` shows it.
    pub(super) fn used(&self) -> Used {
        let used = table::used(self.pid);
        // Otherwise another process may have its number.
        if self.holds_number() { used } else { Used::default() }
    }

    /// Returns the cgroup in which it was started, until it is reaped. The cgroup then stays for a
    /// while after the end of the tree.
    pub(crate) fn lend_cgroup(&mut self) -> Option<Cgroup> {
        self.cgroup.as_mut().map(Cgroup::lend)
    }

    /// Tells whether it was asked to end. The replacement of a child that has exited by itself
    /// should not wait for the removal of the cgroup.
    pub(super) fn was_asked_to_end(&self) -> bool {
        self.exit.as_ref().is_some_and(|exit| exit.requested.is_some())
    }

    /// Watches the limit of processes of its cgroup.
    pub(crate) fn watch_process_limit(&mut self, process: Key, sources: &mut Sources) -> io::Result<()> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        let events = cgroup.open_process_events()?;
        let source = sources.register(events.as_fd(), CHANGES, Source::Limit { process })?;
        self.process_limit = Some(Box::new((events, source)));
        Ok(())
    }

    /// Tells whether its tree has reached the limit of processes. It says so once.
    pub(crate) fn has_reached_process_limit(&mut self, sources: &mut Sources) -> bool {
        let reached = self.process_limit.as_ref().is_some_and(|limit| refused_processes(limit.0.as_fd()) > 0);
        if reached {
            self.forget_process_limit(sources);
        }
        reached
    }

    fn forget_process_limit(&mut self, sources: &mut Sources) {
        if let Some(limit) = self.process_limit.take() {
            sources.forget(limit.1);
        }
    }

    /// Returns what keeps it together with everything that it starts.
    pub(crate) fn containment(&self) -> Containment {
        let strength = match self.cgroup {
            Some(_) => Strength::Cgroup,
            None if self.leads => Strength::Group,
            None => Strength::Process,
        };
        Containment::new(strength, self.reason.clone())
    }

    /// Returns its pid as long as it is not reaped.
    pub(crate) fn unreaped_pid(&self) -> Option<i32> {
        self.exit.is_none().then_some(self.pid)
    }

    /// Returns a pidfd for the guard, unless the child is in a cgroup or gone.
    pub(crate) fn handle(&self) -> Option<OwnedFd> {
        let number = || self.holds_number().then(|| sys::pidfd::open(self.pid).ok()).flatten();
        match &self.pidfd {
            _ if self.cgroup.is_some() || self.exit.is_some() => None,
            Some((pidfd, _)) => pidfd.try_clone().ok(),
            None => number(),
        }
    }

    /// Returns the members of its group, or itself alone, as long as it holds its number. `None` if
    /// the system cannot tell. `living` is looked up if it is needed and missing.
    pub(super) fn members(&self, living: &mut Option<Living>) -> Option<Vec<Member>> {
        let mut members = match self.leads {
            true => living.get_or_insert_with(Living::look).members(self.pid)?,
            false => table::members(&[self.pid]),
        };
        if self.leads && members.is_empty() && self.state() == State::Running {
            // It was started after the look.
            members = living.insert(Living::look()).members(self.pid)?;
        }
        Some(if self.holds_number() { members } else { Vec::new() })
    }

    /// Returns the members of its group that are left after it was reaped, if the kernel can reach
    /// them. It takes the pidfd if there is no descriptor left for another one.
    pub(super) fn take_leftover_group(&mut self) -> Option<ProcessGroup> {
        let (pidfd, source) = self.pidfd.take()?;
        if !self.has_leftovers(&pidfd) {
            self.pidfd = Some((pidfd, source));
            return None;
        }
        let number = self.pid;
        Some(match pidfd.try_clone() {
            Ok(copy) => {
                self.pidfd = Some((pidfd, source));
                ProcessGroup { pidfd: copy, number }
            }
            Err(_) => ProcessGroup { pidfd, number },
        })
    }

    fn has_leftovers(&self, pidfd: &OwnedFd) -> bool {
        let gone = || sys::pidfd::send_to_group(pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        self.exit.is_some() && self.leads && sys::pidfd::group_supported(pidfd) && !gone()
    }

    /// Tells whether the kernel can reach the group's members by the leader's pidfd, whether the
    /// leader is reaped or not.
    pub(super) fn group_outlives_leader(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|(pidfd, _)| sys::pidfd::group_supported(pidfd))
    }

    pub(super) fn send(&mut self, signal: i32) -> Result<(), SignalError> {
        if self.exit.is_some() {
            return Err(SignalError::AlreadyExited);
        }
        let by_number = || sys::signal::send(self.pid, signal);
        match &self.pidfd {
            Some((pidfd, _)) => self.either_way(sys::pidfd::send(pidfd, signal), by_number)?,
            None => self.by_number(by_number)?,
        }
        self.note_request(signal);
        Ok(())
    }

    pub(super) fn send_to_group(&mut self, signal: i32) -> Result<(), SignalError> {
        if !self.leads {
            return self.send(signal);
        }
        self.signal_group(signal)?;
        self.note_request(signal);
        if signal == libc::SIGKILL {
            self.rare().group_killed = Some(Moment::now());
        }
        Ok(())
    }

    fn signal_group(&self, signal: i32) -> Result<(), SignalError> {
        let by_number = || sys::signal::send_to_group(self.pid, signal);
        match &self.pidfd {
            Some((pidfd, _)) if sys::pidfd::group_supported(pidfd) => {
                self.either_way(sys::pidfd::send_to_group(pidfd, signal), by_number)
            }
            _ => self.by_number(by_number),
        }
    }

    /// Sends a signal by the number if it could not be sent by the pidfd, as long as the number is
    /// the child's own. A sandbox may refuse the one and allow the other.
    fn either_way(
        &self,
        by_pidfd: io::Result<()>,
        by_number: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), SignalError> {
        let Err(error) = by_pidfd else { return Ok(()) };
        if self.holds_number() { Ok(by_number()?) } else { Err(error.into()) }
    }

    fn by_number(&self, send: impl FnOnce() -> io::Result<()>) -> Result<(), SignalError> {
        if self.holds_number() { Ok(send()?) } else { Err(SignalError::AlreadyExited) }
    }

    /// Only a signal that could have ended it was a request to end.
    pub(super) fn note_request(&mut self, signal: i32) {
        if crate::signal::ends_by_default(signal) {
            self.requested = Some(signal);
        }
    }
}

impl Pipe {
    fn open(end: OwnedFd, side: Side, process: Key, fd: i32, sources: &mut Sources) -> io::Result<Self> {
        sys::fd::set_nonblocking(end.as_fd())?;
        let interest = if side == Side::Writer { Interest::WRITABLE } else { Interest::READABLE };
        let source = sources.register(end.as_fd(), interest, Source::Pipe { process, fd })?;
        Ok(match side {
            Side::Writer => Self::Writer(Box::new(Writer::new(end, source))),
            Side::Reader => Self::Reader(Reader::new(end, source, false)),
            Side::Terminal => Self::Reader(Reader::new(end, source, true)),
        })
    }

    fn source(&self) -> Key {
        match self {
            Self::Reader(reader) => reader.source,
            Self::Writer(writer) => writer.source,
        }
    }
}

/// Returns a registered pidfd, or `None` if the system does not allow one. It may have been opened
/// with the spawn.
fn watch(pid: i32, given: Option<OwnedFd>, process: Key, sources: &mut Sources) -> Option<(OwnedFd, Key)> {
    let pidfd = given.map_or_else(|| sys::pidfd::open(pid), Ok).ok()?;
    let source = sources.register(pidfd.as_fd(), Interest::READABLE, Source::Pidfd { process }).ok()?;
    Some((pidfd, source))
}
