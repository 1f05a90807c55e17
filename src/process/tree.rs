//! A process and everything that it has started, as one object.
//!
//! It waits for nothing and delivers no events. The one rule: a member is reached by its cgroup, by
//! a pidfd or by the leader's handle, and never by a number alone.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ProcessId;
use super::cgroup::{self, Cgroup};
use super::child::Child;
use super::frozen::Frozen;
use super::killed::Killed;
use super::left::{Left, Place};
use super::table::{self, Living, Moment};
use crate::contain::{Containment, LAST_WAIT, Remains};
use crate::error::SignalError;
use crate::slab::Key;
use crate::used::Used;

/// A process and everything that it has started, as far as its [`Containment`] goes: see
/// [`Reactor::tree`](crate::Reactor::tree).
///
/// | | in a cgroup | in a process group |
/// | --- | --- | --- |
/// | signal | each member, by a pidfd | the group |
/// | terminate | the group of the leader, and 5 ms later each of the other members (while other processes exit: up to 50 ms later) | the group |
/// | kill | `cgroup.kill`, which misses no member (Linux 5.14; before that each member, until none is left) | SIGKILL to the group |
/// | freeze, thaw | `cgroup.freeze` | SIGSTOP and SIGCONT to the group |
///
/// A process that does not lead its group is alone in its tree, unless it is in a cgroup.
///
/// ```
/// use childminder::{Command, Event, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// let id = reactor.spawn_process(Command::new("sh").args(["-c", "sleep 1000 & sleep 1000"]))?;
/// reactor.tree(id).expect("it is there").kill()?;
/// let mut gone = false;
/// while !gone {
///     reactor.turn(None, |_, event| gone |= matches!(event, Event::TreeGone { process, .. } if process == id))?;
/// }
/// assert!(reactor.tree(id).is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tree<'a> {
    pub(crate) id: ProcessId,
    pub(crate) stem: Stem<'a>,
    pub(crate) now: Instant,
    pub(crate) agenda: &'a mut Agenda,
    /// A scan for living processes, which all users in a turn share.
    pub(crate) living: &'a mut Option<Living>,
}

/// The leader of a tree, or the leftover processes after its end.
pub(crate) enum Stem<'a> {
    Led(&'a mut Child),
    Left(&'a mut Left),
}

/// The tasks of the reactor for trees after a while. Trees that are gone by then are skipped.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// Killed trees, and when the reactor reports what is still there.
    pub(crate) words: VecDeque<(Key, Instant)>,
    /// Terminated trees, and when the members that are not in the group of the leader get the
    /// signal.
    pub(crate) sweeps: VecDeque<(Key, Instant, Sweep)>,
    /// When a leader exited last.
    pub(crate) last_exit: Option<Instant>,
}

impl Agenda {
    /// Returns when the first of the sweeps is due. As long as other leaders exit, it is put off:
    /// its tree may well be among the next ones.
    pub(crate) fn sweep_at(&self) -> Option<Instant> {
        let (_, at, _) = *self.sweeps.front()?;
        let calm = self.last_exit.map_or(at, |exit| exit + SWEEP);
        Some(calm.clamp(at, at + LONGEST_PUT_OFF))
    }
}

/// A signal for the members of a cgroup that are not in the group of its leader, which has already
/// got it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sweep {
    signal: i32,
    group: i32,
}

/// The time from the signal for the group of the leader to the signal for the others. Most trees
/// are gone by then.
const SWEEP: Duration = Duration::from_millis(5);
/// How much longer that takes at most while other processes exit.
const LONGEST_PUT_OFF: Duration = Duration::from_millis(45);

impl Tree<'_> {
    /// Returns the process with which the tree began. It may be gone.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Returns what keeps the tree together.
    #[must_use]
    pub fn containment(&self) -> Containment {
        match &self.stem {
            Stem::Led(child) => child.containment(),
            Stem::Left(left) => left.containment.clone(),
        }
    }

    /// Sends a signal to all members.
    ///
    /// # Errors
    ///
    /// [`SignalError::AlreadyExited`] if no member is left. `EPERM` if a member runs as a user
    /// whose processes the host may not signal; the other members have got the signal.
    /// `Unsupported` if there are no pidfds and the leader is gone: the members of a cgroup can
    /// then only be killed and frozen.
    pub fn signal(&mut self, signal: i32) -> Result<(), SignalError> {
        self.signal_with(&[signal])
    }

    fn signal_with(&mut self, signals: &[i32]) -> Result<(), SignalError> {
        let (cgroup, _) = self.stem.places();
        let sent = match cgroup.map(|cgroup| cgroup.signal(signals, None)) {
            Some(Ok(0)) => Err(SignalError::AlreadyExited),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if error.kind() != io::ErrorKind::Unsupported => Err(SignalError::Os(error)),
            // Without pidfds only the group of the leader can be reached.
            _ => {
                let mut sent = signals.iter().map(|signal| self.signal_group(*signal));
                let first = sent.next().unwrap_or(Ok(()));
                // The members may have ended in between.
                sent.for_each(drop);
                first
            }
        };
        match &mut self.stem {
            Stem::Led(child) if sent.is_ok() => signals.iter().for_each(|signal| child.note_request(*signal)),
            Stem::Led(_) => {}
            Stem::Left(left) => left.hurry(self.now),
        }
        sent
    }

    fn signal_group(&mut self, signal: i32) -> Result<(), SignalError> {
        match &mut self.stem {
            Stem::Led(child) => child.send_to_group(signal),
            Stem::Left(Left { place: Place::Group(group), .. }) => group.signal(signal),
            // Only their numbers are known.
            Stem::Left(_) => Err(SignalError::Os(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Asks all members to end: sends `signal` (usually SIGTERM), then SIGCONT, because a stopped
    /// process would not act on the signal. A frozen tree is thawed.
    ///
    /// If the members of a group could not be reached after the leader was reaped (no pidfd, or a
    /// kernel before Linux 6.9), the reactor reports the leader's exit only when they are gone.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGTERM")]
    pub fn terminate(&mut self, signal: i32) -> Result<(), SignalError> {
        let sent = match &mut self.stem {
            Stem::Led(child) if child.cgroup.is_some() && child.leads => {
                let sent = child.send_to_group(signal);
                // If the group has ended in between, there is nothing to continue.
                let _ = child.send_to_group(libc::SIGCONT);
                self.agenda.sweeps.push_back((self.id.0, self.now + SWEEP, Sweep { signal, group: child.pid }));
                sent
            }
            _ => self.signal_with(&[signal, libc::SIGCONT]),
        };
        if matches!(sent, Err(SignalError::AlreadyExited)) {
            return sent;
        }
        if self.stem.is_frozen() {
            let _ = self.thaw();
        }
        self.hold();
        sent
    }

    /// Sends the signal that [`terminate`](Self::terminate) has left for later. An error means that
    /// a right is missing, and a kill must do instead.
    pub(crate) fn sweep(&mut self, sweep: Sweep) {
        if let (Some(cgroup), _) = self.stem.places() {
            let _ = cgroup.signal(&[sweep.signal, libc::SIGCONT], Some(sweep.group));
        }
    }

    /// Kills all members (SIGKILL). If any are still there two seconds later,
    /// [`Event::TreeRemains`](crate::Event::TreeRemains) reports them, and the tree is still
    /// watched. It needs no free file descriptor, except for the members of a cgroup before Linux
    /// 5.14.
    ///
    /// The leader's exit may be reported later, as after [`terminate`](Self::terminate).
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGKILL")]
    #[doc(alias = "cgroup.kill")]
    pub fn kill(&mut self) -> Result<(), SignalError> {
        let (cgroup, _) = self.stem.places();
        let killed = match cgroup.map(Cgroup::kill) {
            Some(killed) => killed.map_err(SignalError::Os),
            None => self.signal_group(libc::SIGKILL).map(|()| true),
        };
        let (at, moment) = (self.now, Moment::now());
        if !self.stem.was_killed() {
            self.agenda.words.push_back((self.id.0, at + LAST_WAIT));
        }
        // A kill that failed has missed a member.
        let complete = killed.as_ref().is_ok_and(|complete| *complete);
        let killed_now = Killed { at, moment, complete };
        match &mut self.stem {
            Stem::Led(child) => {
                if killed.is_ok() {
                    child.note_request(libc::SIGKILL);
                }
                killed_now.note(&mut child.rare().tree_killed);
            }
            Stem::Left(left) => {
                killed_now.note(&mut left.killed);
                left.hurry(at);
            }
        }
        self.hold();
        killed.map(drop)
    }

    /// Gives the rest of the group its time after the leader's end. If the group can be reached
    /// only as long as the leader is not reaped, the leader is reaped only when its group is gone.
    fn hold(&mut self) {
        if let Stem::Led(child) = &mut self.stem {
            child.kill_group_at_exit = false;
            child.hold_for_group |= child.cgroup.is_none();
        }
    }

    /// Suspends all members. In a cgroup they do not notice it, and it takes a moment until the
    /// last one is suspended.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGSTOP")]
    pub fn freeze(&mut self) -> Result<(), SignalError> {
        self.set_frozen(true)
    }

    /// Continues all members that [`freeze`](Self::freeze) has suspended.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGCONT")]
    pub fn thaw(&mut self) -> Result<(), SignalError> {
        self.set_frozen(false)
    }

    fn set_frozen(&mut self, frozen: bool) -> Result<(), SignalError> {
        let (Some(cgroup), _) = self.stem.places() else {
            *self.stem.frozen() = frozen.then_some(Frozen::Stopped);
            return self.signal_group(if frozen { libc::SIGSTOP } else { libc::SIGCONT });
        };
        let cgroup = cgroup.clone();
        let freezer = match self.stem.frozen().take() {
            Some(Frozen::Cgroup(freezer)) => freezer,
            _ => cgroup.open_freezer().map_err(SignalError::Os)?,
        };
        let done = cgroup::freeze(freezer.as_fd(), frozen);
        // A thaw that has failed may be tried again.
        *self.stem.frozen() = (frozen == done.is_ok()).then_some(Frozen::Cgroup(freezer));
        done.map_err(SignalError::Os)
    }

    /// Returns the present members, without zombies.
    ///
    /// If the tree is a group, this reads the system's process table, which takes about a
    /// millisecond for each hundred processes of the whole system. In the handler of an event the
    /// table is read once a turn, so that many trees share it, and it may be as old as the turn.
    /// Outside of a turn each [`Reactor::tree`](crate::Reactor::tree) reads it anew.
    ///
    /// ```
    /// use childminder::{Command, Reactor, Remains};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.spawn_process(Command::new("sleep").arg("1000"))?;
    /// let mut tree = reactor.tree(id).expect("it runs");
    /// if let Remains::Members(members) = tree.members() {
    ///     assert_eq!(members[0].name, "sleep");
    /// }
    /// tree.kill()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn members(&mut self) -> Remains {
        let members = match self.stem.places() {
            (Some(cgroup), _) => match cgroup.pids() {
                Ok(pids) if pids.is_empty() => Some(Vec::new()),
                // A `/proc` of another PID namespace shows none of them.
                Ok(pids) => Some(table::members(&pids)).filter(|members| !members.is_empty()),
                Err(_) => None,
            },
            (None, Some(Place::Group(group))) => group.members(self.living),
            _ => match &self.stem {
                Stem::Led(child) => child.members(self.living),
                Stem::Left(_) => None,
            },
        };
        match members {
            None => Remains::Unknown,
            Some(members) if members.is_empty() => Remains::Nobody,
            Some(members) => Remains::Members(members),
        }
    }

    /// Returns what the tree has used up to now.
    ///
    /// In a cgroup the CPU time, and with their controllers the peaks and the I/O, are those of all
    /// that ever were members. The other figures that can be had are those of the leader as long as
    /// it runs. Reading them takes some system calls. What a run has used in the end is told by
    /// [`RunToEnd`](crate::RunToEnd) and [`RunMany`](crate::RunMany).
    ///
    /// ```
    /// use childminder::{Command, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.spawn_process(Command::new("sleep").arg("1000"))?;
    /// let mut tree = reactor.tree(id).expect("it runs");
    /// if let Some(peak) = tree.used().peak_memory {
    ///     println!("{} bytes at most ({})", peak.value, peak.covers);
    /// }
    /// tree.kill()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn used(&self) -> Used {
        let mut used = match &self.stem {
            Stem::Led(child) => child.used(),
            Stem::Left(_) => Used::default(),
        };
        if let (Some(cgroup), _) = self.stem.places() {
            cgroup.measure(&mut used);
        }
        used
    }

    /// Tells whether it is certain that no member is left. The leader counts as a member until it
    /// is reaped. For leftover members of a group this reads the process table, as
    /// [`members`](Self::members) does.
    #[must_use]
    pub fn is_empty(&mut self) -> bool {
        let Stem::Left(left) = &mut self.stem else { return false };
        let empty = left.is_left(self.living) == Some(false);
        if empty {
            left.found_empty();
        }
        empty
    }
}

impl Stem<'_> {
    fn frozen(&mut self) -> &mut Option<Frozen> {
        match self {
            Stem::Led(child) => &mut child.rare().frozen,
            Stem::Left(left) => &mut left.frozen,
        }
    }

    fn is_frozen(&self) -> bool {
        match self {
            Stem::Led(child) => child.rare.as_ref().is_some_and(|rare| rare.frozen.is_some()),
            Stem::Left(left) => left.frozen.is_some(),
        }
    }

    fn was_killed(&self) -> bool {
        match self {
            Stem::Led(child) => child.rare.as_ref().is_some_and(|rare| rare.tree_killed.is_some()),
            Stem::Left(left) => left.killed.is_some(),
        }
    }

    fn places(&self) -> (Option<&Cgroup>, Option<&Place>) {
        match self {
            Stem::Led(child) => (child.cgroup.as_ref(), None),
            Stem::Left(left) => match &left.place {
                Place::Cgroup(cgroup) => (Some(cgroup), None),
                place @ Place::Group(_) => (None, Some(place)),
            },
        }
    }
}

impl fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("id", &self.id).field("containment", &self.containment()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_waits_until_the_others_have_exited_but_not_for_ever() {
        let start = crate::sys::clock();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut agenda = Agenda::default();
        assert_eq!(agenda.sweep_at(), None);
        agenda.sweeps.push_back((Key::unused(0), ms(5), Sweep { signal: libc::SIGTERM, group: 7 }));
        assert_eq!(agenda.sweep_at(), Some(ms(5)));
        for (exit, due) in [(0, 5), (4, 9), (44, 49), (46, 50), (1000, 50)] {
            agenda.last_exit = Some(ms(exit));
            assert_eq!(agenda.sweep_at(), Some(ms(due)), "{exit}");
        }
    }
}
