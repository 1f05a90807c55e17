//! A process and all that it has started, to be talked to as one.
//!
//! Waits for nothing, and hands out no events. The one rule: a member is reached as such, by its cgroup, by a
//! pidfd or by the leader's handle, and never by a number alone.

use std::fmt;
use std::io;
use std::time::Instant;

use super::ProcessId;
use super::cgroup::Cgroup;
use super::child::Child;
use super::left::{Killed, Left, Place};
use super::table::{self, Living, Moment};
use crate::contain::{Containment, Remains};
use crate::error::SignalError;
use crate::slab::Key;

/// A process and all that it has started, as far as its [`Containment`] goes: see [`Reactor::tree`](crate::Reactor::tree).
///
/// | | in a cgroup | in a process group |
/// | --- | --- | --- |
/// | signal | each member, by a pidfd | the group |
/// | kill | `cgroup.kill`, which misses nobody (Linux 5.14; before that each member, until nobody is left) | SIGKILL to the group |
/// | freeze, thaw | `cgroup.freeze` | SIGSTOP and SIGCONT to the group |
///
/// A process that is in somebody else's group is alone in its tree, unless it is in a cgroup.
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
    pub(crate) kills: &'a mut Vec<Overdue>,
    /// A look at who lives, shared by all that need it.
    pub(crate) living: &'a mut Option<Living>,
}

/// The leader of a tree, or what is left after its end.
pub(crate) enum Stem<'a> {
    Led(&'a mut Child),
    Left(&'a mut Left),
}

/// A tree that was killed, and the time when it is told who is still there. `None` once that was told.
#[derive(Debug)]
pub(crate) struct Overdue {
    pub(crate) process: Key,
    pub(crate) at: Option<Instant>,
}

/// From a kill to the word who is still there.
const OVERDUE: std::time::Duration = std::time::Duration::from_secs(2);

impl Tree<'_> {
    /// The process that it has begun with. That one may be gone.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What keeps it together.
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
    /// [`SignalError::AlreadyExited`] if nobody is left, or what the system says: `EPERM` if a member runs as somebody whom the
    /// host may not signal. The others have got it. `Unsupported` if there are no pidfds for us, and the leader is gone: then the members
    /// of a cgroup can only be killed and frozen.
    pub fn signal(&mut self, signal: i32) -> Result<(), SignalError> {
        self.signal_with(&[signal])
    }

    fn signal_with(&mut self, signals: &[i32]) -> Result<(), SignalError> {
        let (cgroup, _) = self.stem.places();
        let sent = match cgroup.map(|cgroup| cgroup.signal(signals)) {
            Some(Ok(0)) => Err(SignalError::AlreadyExited),
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if error.kind() != io::ErrorKind::Unsupported => Err(SignalError::Os(error)),
            // Without pidfds only the group of the leader can be reached.
            _ => {
                let mut sent = signals.iter().map(|signal| self.signal_group(*signal));
                let first = sent.next().unwrap_or(Ok(()));
                // They may have ended in between.
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
            // Nothing leads to them but their numbers.
            Stem::Left(_) => Err(SignalError::Os(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Asks all members to end: `signal` (SIGTERM, usually), then SIGCONT, since a stopped process does not act on it otherwise.
    /// A tree that is frozen is thawed.
    ///
    /// Where the members of a group could not be reached after the leader was reaped (no pidfd, or a kernel before Linux 6.9),
    /// the leader's exit is told only when they are gone.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGTERM")]
    pub fn terminate(&mut self, signal: i32) -> Result<(), SignalError> {
        let sent = self.signal_with(&[signal, libc::SIGCONT]);
        if matches!(sent, Err(SignalError::AlreadyExited)) {
            return sent;
        }
        if let (Some(cgroup), _) = self.stem.places() {
            let _ = cgroup.freeze(false);
        }
        self.hold();
        sent
    }

    /// Kills all members (SIGKILL). What is still there two seconds later is told by
    /// [`Event::TreeRemains`](crate::Event::TreeRemains), and is watched on.
    ///
    /// The leader's exit may be told later, as after [`terminate`](Self::terminate).
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
        if !self.kills.iter().any(|overdue| overdue.process == self.id.0) {
            self.kills.push(Overdue { process: self.id.0, at: Some(at + OVERDUE) });
        }
        let complete = killed?;
        match &mut self.stem {
            Stem::Led(child) => {
                child.note_request(libc::SIGKILL);
                child.tree_killed.get_or_insert(Killed { at, moment, complete });
            }
            Stem::Left(left) => {
                left.killed.get_or_insert(Killed { at, moment, complete });
                left.hurry(at);
            }
        }
        self.hold();
        Ok(())
    }

    /// Gives the rest of the group its time after the leader's end. Where the group can be reached only as long as
    /// the leader is not reaped, it is reaped only when its group is gone.
    fn hold(&mut self) {
        if let Stem::Led(child) = &mut self.stem {
            child.kill_group_at_exit = false;
            child.hold_for_group |= child.cgroup.is_none();
        }
    }

    /// Has all members stand still. In a cgroup they do not notice it, and it takes a moment until the last one stands.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGSTOP")]
    pub fn freeze(&mut self) -> Result<(), SignalError> {
        self.set_frozen(true)
    }

    /// Has all members go on that [`freeze`](Self::freeze) has stopped.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    #[doc(alias = "SIGCONT")]
    pub fn thaw(&mut self) -> Result<(), SignalError> {
        self.set_frozen(false)
    }

    fn set_frozen(&mut self, frozen: bool) -> Result<(), SignalError> {
        match self.stem.places() {
            (Some(cgroup), _) => cgroup.freeze(frozen).map_err(SignalError::Os),
            _ => self.signal_group(if frozen { libc::SIGSTOP } else { libc::SIGCONT }),
        }
    }

    /// Who is in it now, the dead that nobody has reaped not among them. The system's process table is read for that, which takes
    /// about a millisecond for a hundred processes of the whole system if it is a group.
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
                // None of them is in a `/proc` that does not show ours.
                Ok(pids) => Some(table::members(&pids)).filter(|members| !members.is_empty()),
                Err(_) => None,
            },
            (None, Some(Place::Group(group))) => group.members(),
            _ => match &self.stem {
                Stem::Led(child) => child.members(),
                Stem::Left(_) => None,
            },
        };
        match members {
            None => Remains::Unknown,
            Some(members) if members.is_empty() => Remains::Nobody,
            Some(members) => Remains::Members(members),
        }
    }

    /// Whether it is certain that nobody is left. The leader is somebody as long as it is not reaped.
    #[must_use]
    pub fn is_empty(&mut self) -> bool {
        match &self.stem {
            Stem::Led(_) => false,
            Stem::Left(left) => left.is_left(self.living) == Some(false),
        }
    }
}

impl Stem<'_> {
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
