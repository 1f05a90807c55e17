//! The rest of a process's tree after the process itself was reaped, and the times at which it is
//! checked.
//!
//! It waits for nothing and reports nothing, because the reactor does that. The one rule: a tree
//! counts as gone only if the kernel says so.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::Interest;

use super::cgroup::{CHANGES, Cgroup, is_gone};
use super::child::Child;
use super::frozen::Frozen;
use super::group::ProcessGroup;
use super::killed::Killed;
use super::table::{Living, Moment};
use crate::contain::{Containment, LAST_WAIT};
use crate::slab::Key;
use crate::sources::{Source, Sources};

/// The time from the exit of the leader to the first check, and the pause after that check where no
/// event says when to check.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest pause between two checks where no event says when to check.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two checks of a tree whose descriptors were released.
const RELEASED_PAUSE: Duration = Duration::from_secs(1);

/// The rest of a tree whose leader was reaped.
#[derive(Debug)]
pub(crate) struct Left {
    pub(super) place: Place,
    pub(super) containment: Containment,
    pub(super) killed: Option<Killed>,
    pub(super) frozen: Option<Frozen>,
    /// The descriptor that becomes ready when a check is due.
    watch: Option<(OwnedFd, Key)>,
    /// Whether it may hold no descriptors between two checks.
    released: bool,
    /// The time at which a check is due even without an event.
    pub(crate) look_at: Option<Instant>,
    /// Whether it is on the reactor's list of trees to check.
    pub(crate) listed: bool,
    last: Instant,
    pause: Duration,
}

/// The place where the members are found.
#[derive(Debug)]
pub(super) enum Place {
    Group(ProcessGroup),
    Cgroup(Cgroup),
}

/// The state of a tree after its leader was reaped, or after a check.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Some members may be left.
    Left(Box<Left>),
    /// No member is left. The cgroup is to be removed.
    Gone(Option<Cgroup>),
    /// The system cannot tell.
    Unknown,
}

impl Left {
    /// Returns the rest of the tree of a process that was just reaped.
    pub(crate) fn of(child: &mut Child, process: Key, now: Instant, sources: &mut Sources) -> Fate {
        let containment = child.containment();
        let place = match child.cgroup.take() {
            Some(cgroup) if child.was_asked_to_end() && !cgroup.stays() && cgroup.remove_if_empty() => {
                return Fate::Gone(None);
            }
            Some(cgroup) => Place::Cgroup(cgroup),
            None if !child.leads => return Fate::Gone(None),
            None if child.group_outlives_leader() => match child.take_leftover_group() {
                Some(group) => Place::Group(group),
                None => return Fate::Gone(None),
            },
            // The leader was held until its group was empty.
            None if child.hold_for_group => return Fate::Gone(None),
            None => return Fate::Unknown,
        };
        let rare = child.rare.take().map(|rare| *rare).unwrap_or_default();
        let (is_cgroup, killed, frozen) = (matches!(place, Place::Cgroup(_)), rare.tree_killed, rare.frozen);
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
        // The dead members of a group are reaped in a moment, and then no scan is needed.
        if is_cgroup { Box::new(left).look(process, now, &mut None, sources) } else { Fate::Left(Box::new(left)) }
    }

    /// Notes that the watched descriptor is ready. A check is due, but not at once if the last one
    /// was just before.
    pub(crate) fn stir(&mut self, now: Instant) {
        let quiet = now.saturating_duration_since(self.last) > LONGEST_PAUSE;
        self.pause = if quiet { FIRST_PAUSE } else { self.pause };
        let due = if matches!(self.place, Place::Cgroup(_)) { now } else { self.last + self.pause };
        self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
    }

    /// Notes that a caller has found it empty, so that this is reported in the same turn.
    pub(super) fn found_empty(&mut self) {
        self.look_at = Some(self.last);
    }

    /// Notes that it was signalled, so that the effect is noticed soon.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.pause = FIRST_PAUSE;
        let due = now + FIRST_PAUSE;
        // For a cgroup, the kernel reports the change.
        if self.watch.is_none() || !self.is_told() {
            self.look_at = Some(self.look_at.map_or(due, |at| at.min(due)));
        }
    }

    /// Closes the descriptors that it holds. A cgroup is checked from time to time from now on. A
    /// group cannot be reached any more. It returns what the tree is now, and whether it held any
    /// descriptors.
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

    /// Returns the moment at which all of it was killed, if no member can have been started since.
    fn killed_all(&self) -> Option<Moment> {
        self.killed.filter(|killed| killed.complete).map(|killed| killed.moment)
    }

    /// Whether an event reports its end.
    fn is_told(&self) -> bool {
        matches!(self.place, Place::Cgroup(_)) && self.killed.is_none_or(|killed| killed.complete)
    }

    /// Returns the leader's pidfd, if it is a group.
    pub(crate) fn handle(&self) -> Option<BorrowedFd<'_>> {
        match &self.place {
            Place::Group(group) => Some(group.pidfd.as_fd()),
            Place::Cgroup(_) => None,
        }
    }

    /// Checks whether any member is left. If so, it arranges for the next check, by an event or a
    /// time.
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
                // Its directory does no harm, and a later sweep removes it.
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

    /// Tells whether any member is left, without arranging the next check. It returns `None` where
    /// that cannot be told.
    pub(super) fn is_left(&self, living: &mut Option<Living>) -> Option<bool> {
        match &self.place {
            Place::Group(group) => group.is_left(living, self.killed_all()),
            Place::Cgroup(cgroup) => has_members(cgroup),
        }
    }

    fn look_at_cgroup(&mut self, process: Key, sources: &mut Sources) -> Option<bool> {
        let Place::Cgroup(cgroup) = &self.place else { return None };
        let populated = |events: &OwnedFd| Cgroup::is_populated(events.as_fd()).ok();
        let mut seen = None;
        if self.watch.is_none() {
            let events = cgroup.open_events();
            // If it cannot be opened, another program has removed it, or no descriptor is free.
            seen = events.as_ref().map_or_else(|_| has_members(cgroup), populated);
            if seen == Some(false) {
                return seen;
            }
            if let (Ok(events), false) = (events, self.released) {
                let source = sources.register(events.as_fd(), CHANGES, Source::Tree { process });
                self.watch = source.ok().map(|source| (events, source));
            }
        }
        // This comes after the registration, so that no change is missed.
        let populated = self.watch.as_ref().map_or(seen, |(events, _)| populated(events));
        if populated == Some(true) && !self.is_told() {
            // These members were started while the others were killed.
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

/// Tells whether a cgroup has members, or `None` if that cannot be read. One that another program
/// has removed had none.
fn has_members(cgroup: &Cgroup) -> Option<bool> {
    cgroup.has_members().map_or_else(|error| is_gone(&error).then_some(false), Some)
}
