//! What is left of a process's tree after the process itself was reaped, and when to look whether it is gone.
//!
//! Waits for nothing and tells nobody: the reactor does. The one rule: nobody is called gone on anything but
//! the kernel's word.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Interest;

use super::cgroup::{Cgroup, is_gone};
use super::child::Child;
use super::frozen::Frozen;
use super::group::ProcessGroup;
use super::killed::Killed;
use super::table::{Living, Moment};
use crate::contain::{Containment, LAST_WAIT};
use crate::slab::Key;
use crate::sources::{Source, Sources};

/// From the exit of the leader to the first look, and between the first two where nothing tells when to look.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause between two looks where nothing tells when to look.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two looks at a tree whose descriptors were released.
const RELEASED_PAUSE: Duration = Duration::from_secs(1);

/// The readiness by which `cgroup.events` tells of a change.
#[cfg(target_os = "linux")]
const CHANGES: Interest = Interest::PRIORITY;
#[cfg(not(target_os = "linux"))]
const CHANGES: Interest = Interest::READABLE;

/// What is left of a tree.
#[derive(Debug)]
pub(crate) struct Left {
    pub(super) place: Place,
    pub(super) containment: Containment,
    pub(super) killed: Option<Killed>,
    pub(super) frozen: Option<Frozen>,
    /// What becomes ready when it is time to look.
    watch: Option<(OwnedFd, Key)>,
    /// It is to hold no descriptors between two looks.
    released: bool,
    /// When to look, whatever happens.
    pub(crate) look_at: Option<Instant>,
    /// It is on the reactor's list of those to look at.
    pub(crate) listed: bool,
    last: Instant,
    pause: Duration,
}

/// Where the members are found.
#[derive(Debug)]
pub(super) enum Place {
    Group(ProcessGroup),
    Cgroup(Cgroup),
}

/// What becomes of a tree when its leader is reaped, or what a look at it has shown.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Somebody may be left.
    Left(Box<Left>),
    /// Nobody is left. The cgroup is to be removed.
    Gone(Option<Cgroup>),
    /// The system cannot tell.
    Unknown,
}

impl Left {
    /// What is left of the tree of a process that was just reaped.
    pub(crate) fn of(child: &mut Child, process: Key, now: Instant, sources: &mut Sources) -> Fate {
        let containment = child.containment();
        let place = match child.cgroup.take() {
            Some(cgroup) => Place::Cgroup(cgroup),
            None if !child.leads => return Fate::Gone(None),
            None if child.group_outlives_leader() => match child.take_leftover_group() {
                Some(group) => Place::Group(group),
                None => return Fate::Gone(None),
            },
            // It was held until its group was gone, or nobody can reach the group any more.
            None if child.hold_for_group => return Fate::Gone(None),
            None => return Fate::Unknown,
        };
        let (is_cgroup, killed, frozen) = (matches!(place, Place::Cgroup(_)), child.tree_killed, child.frozen.take());
        let look_at = Some(now + FIRST_PAUSE);
        let left = Self {
            place,
            containment,
            killed,
            frozen,
            watch: None,
            released: false,
            look_at,
            listed: false,
            last: now,
            pause: FIRST_PAUSE,
        };
        // A group's dead members are reaped in a moment, and then there is nothing to look for.
        if is_cgroup { Box::new(left).look(process, now, &mut None, sources) } else { Fate::Left(Box::new(left)) }
    }

    /// What is watched has become ready: a look is due, though not at once if the last one was just before.
    pub(crate) fn stir(&mut self, now: Instant) {
        let quiet = now.saturating_duration_since(self.last) > LONGEST_PAUSE;
        self.pause = if quiet { FIRST_PAUSE } else { self.pause };
        let due = if matches!(self.place, Place::Cgroup(_)) { now } else { self.last + self.pause };
        self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
    }

    /// Somebody has found it empty: that is to be told in this very turn.
    pub(super) fn found_empty(&mut self) {
        self.look_at = Some(self.last);
    }

    /// It was signalled, and what comes of that shows soon.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.pause = FIRST_PAUSE;
        let due = now + FIRST_PAUSE;
        // Of a cgroup the kernel tells.
        if self.watch.is_none() || !self.is_told() {
            self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
        }
    }

    /// Closes the descriptors that it holds. A cgroup is looked at from time to time from now on. A group cannot be
    /// reached any more. What becomes of it, and whether it held any.
    pub(crate) fn release(mut self: Box<Self>, now: Instant, sources: &mut Sources) -> (Fate, bool) {
        if matches!(self.place, Place::Group(_)) {
            self.end(sources);
            return (Fate::Unknown, true);
        }
        if let Some((_, source)) = self.watch.take() {
            sources.forget(source);
        }
        let held = !std::mem::replace(&mut self.released, true);
        self.look_at = self.look_at.or(Some(now + self.pause));
        (Fate::Left(self), held)
    }

    /// When all of it was killed, and nobody can have been born since.
    fn killed_all(&self) -> Option<Moment> {
        self.killed.filter(|killed| killed.complete).map(|killed| killed.moment)
    }

    /// Whether an event tells of its end.
    fn is_told(&self) -> bool {
        matches!(self.place, Place::Cgroup(_)) && self.killed.is_none_or(|killed| killed.complete)
    }

    /// The leader's pidfd, if it is a group.
    pub(crate) fn handle(&self) -> Option<BorrowedFd<'_>> {
        match &self.place {
            Place::Group(group) => Some(group.pidfd.as_fd()),
            Place::Cgroup(_) => None,
        }
    }

    /// Looks whether anybody is left. If so, there is something that tells when to look again.
    pub(crate) fn look(
        mut self: Box<Self>,
        process: Key,
        now: Instant,
        living: &mut Option<Living>,
        sources: &mut Sources,
    ) -> Fate {
        self.look_at = None;
        self.last = now;
        let seen = match &self.place {
            Place::Cgroup(_) => self.look_at_cgroup(process, sources),
            Place::Group(_) => self.look_at_group(process, living, sources),
        };
        if seen == Some(false) {
            return self.end(sources);
        }
        let killed_long_ago = |killed: &Killed| now.saturating_duration_since(killed.at) >= LAST_WAIT;
        if seen.is_none() && self.killed.as_ref().is_some_and(killed_long_ago) {
            return match self.end(sources) {
                // Its directory is in the way of nobody, and a later sweep finds it.
                Fate::Gone(_) => Fate::Unknown,
                fate => fate,
            };
        }
        if self.watch.is_none() || !self.is_told() && matches!(self.place, Place::Cgroup(_)) {
            self.look_at = Some(now + self.pause);
        }
        self.pause = (2 * self.pause).min(if self.released { RELEASED_PAUSE } else { LONGEST_PAUSE });
        Fate::Left(self)
    }

    /// Whether anybody is left, without another look for it. `None` where that cannot be told.
    pub(super) fn is_left(&self, living: &mut Option<Living>) -> Option<bool> {
        match &self.place {
            Place::Group(group) => group.is_left(living, self.killed_all()),
            Place::Cgroup(cgroup) => cgroup
                .open_events()
                .and_then(|events| Cgroup::is_populated(events.as_fd()))
                .map_or_else(|error| is_gone(&error).then_some(false), Some),
        }
    }

    fn look_at_cgroup(&mut self, process: Key, sources: &mut Sources) -> Option<bool> {
        let Place::Cgroup(cgroup) = &self.place else { return None };
        let populated = |events: &OwnedFd| Cgroup::is_populated(events.as_fd()).ok();
        let mut seen = None;
        if self.watch.is_none() {
            let events = match cgroup.open_events() {
                Ok(events) => events,
                // Somebody has removed it, so nobody is in it.
                Err(error) => return is_gone(&error).then_some(false),
            };
            seen = populated(&events);
            if seen == Some(false) {
                return seen;
            }
            if !self.released {
                let source = sources.register(events.as_fd(), CHANGES, Source::Tree { process });
                self.watch = source.ok().map(|source| (events, source));
            }
        }
        // After the registration, so that no change is missed.
        let populated = self.watch.as_ref().map_or(seen, |(events, _)| populated(events));
        if populated == Some(true) && !self.is_told() {
            // Those that were born while the others were killed.
            let _ = cgroup.kill();
        }
        populated
    }

    fn look_at_group(&mut self, process: Key, living: &mut Option<Living>, sources: &mut Sources) -> Option<bool> {
        let Place::Group(group) = &self.place else { return None };
        let seen = group.is_left(living, self.killed_all());
        if let Some((_, source)) = self.watch.take() {
            sources.forget(source);
        }
        if let (Some(true), Some(living)) = (seen, living) {
            self.watch = group.open_member(living).and_then(|member| {
                let source = sources.register(member.as_fd(), Interest::READABLE, Source::Tree { process }).ok()?;
                Some((member, source))
            });
        }
        seen
    }

    fn end(self, sources: &mut Sources) -> Fate {
        if let Some((_, source)) = self.watch {
            sources.forget(source);
        }
        Fate::Gone(match self.place {
            Place::Cgroup(cgroup) => Some(cgroup),
            Place::Group(_) => None,
        })
    }
}
