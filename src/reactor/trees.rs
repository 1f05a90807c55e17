//! What becomes of the trees of processes: who is left after the exit of a leader, and when the last one is gone.
//!
//! Decides nothing about anybody's end. The one rule: the end of each tree is told once, after the exit of its leader.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Event, Reactor, clock};
use crate::process::cgroup::{Cgroup, Home, Refused};
use crate::process::{Agenda, Fate, Left, ProcessId, Stem, Sweep, Tree};
use crate::slab::Key;

/// From the end of a tree to the removal of its cgroup, and from one attempt to the next.
const REMOVAL: Duration = Duration::from_millis(100);
/// How often it is tried. A later sweep finds what is left.
const REMOVALS: u32 = 50;
/// How many are removed in a turn at most.
const SHARE: usize = 50;

/// What a reactor knows of the trees of its processes.
#[derive(Debug, Default)]
pub(super) struct Trees {
    /// Where the host wants its cgroups.
    pub(super) parent: Option<PathBuf>,
    pub(super) home: Option<Result<Arc<Home>, Refused>>,
    /// Those that are left without their leader.
    pub(super) left: HashMap<Key, Box<Left>>,
    /// Those of them that are to be looked at, now or at a certain time.
    due: Vec<Key>,
    /// What is to be told: whose tree is gone, and whether that is certain.
    gone: VecDeque<(Key, bool)>,
    agenda: Agenda,
    /// Cgroups that nobody is in any more. Their removal takes longer than their end, and nobody waits for it.
    removals: VecDeque<Removal>,
}

#[derive(Debug)]
struct Removal {
    cgroup: Cgroup,
    at: Instant,
    tries: u32,
}

impl Trees {
    /// When something is to be done, whatever happens.
    pub(super) fn next_due(&self) -> impl Iterator<Item = Instant> {
        let looks = self.due.iter().filter_map(|key| self.left.get(key)?.look_at);
        let words = self.agenda.words.front().map(|(_, at)| *at);
        let sweeps = self.agenda.sweeps.front().map(|(_, at, _)| *at);
        looks.chain(words).chain(sweeps).chain(self.removals.front().map(|removal| removal.at))
    }

    pub(super) fn has_news(&self) -> bool {
        !self.gone.is_empty()
    }

    /// What is watched of a tree has become ready.
    pub(super) fn stir(&mut self, process: Key, now: Instant) {
        if let Some(left) = self.left.get_mut(&process) {
            left.stir(now);
            self.note_due(process);
        }
    }

    /// The poll cannot tell which are ready.
    pub(super) fn stir_all(&mut self, now: Instant) {
        for key in self.left.keys().copied().collect::<Vec<_>>() {
            self.stir(key, now);
        }
    }

    fn note_due(&mut self, process: Key) {
        if let Some(left) = self.left.get_mut(&process) {
            if !std::mem::replace(&mut left.listed, true) {
                self.due.push(process);
            }
        }
    }

    fn settle(&mut self, process: Key, fate: Fate, now: Instant) {
        let certain = match fate {
            Fate::Left(left) => {
                let is_due = left.look_at.is_some();
                self.left.insert(process, left);
                if is_due {
                    self.note_due(process);
                }
                return;
            }
            Fate::Gone(cgroup) => {
                self.remove_later(cgroup, now);
                true
            }
            Fate::Unknown => false,
        };
        self.gone.push_back((process, certain));
    }

    /// Has a cgroup be removed in which nobody is any more.
    pub(super) fn remove_later(&mut self, cgroup: Option<Cgroup>, now: Instant) {
        self.removals.extend(cgroup.map(|cgroup| Removal { cgroup, at: now + REMOVAL, tries: 0 }));
    }

    fn remove_due(&mut self, now: Instant) {
        for _ in 0..SHARE {
            if self.removals.front().is_none_or(|removal| removal.at > now) {
                return;
            }
            let Some(mut removal) = self.removals.pop_front() else { return };
            removal.tries += 1;
            // The kernel may not be quite done with the last member.
            if removal.cgroup.remove().is_err() && removal.tries < REMOVALS {
                removal.at = now + REMOVAL;
                self.removals.push_back(removal);
            }
        }
    }
}

/// Removes what nobody is in any more.
impl Drop for Trees {
    fn drop(&mut self) {
        for removal in &self.removals {
            let _ = removal.cgroup.remove();
        }
    }
}

impl Reactor {
    /// A process with all that it has started, to be talked to as one: from its start until nobody of them is left, which
    /// [`Event::TreeGone`] tells. That is often later than the end of the process itself.
    ///
    /// In an event's handler, all trees share one look at the system's process table; outside of a turn each call of this
    /// begins a new one, if it is needed at all: see [`Tree::members`].
    #[must_use]
    pub fn tree(&mut self, id: ProcessId) -> Option<Tree<'_>> {
        if self.events.is_some() {
            // Outside of a turn nobody else does.
            self.living = None;
        }
        self.tree_as_seen(id)
    }

    /// [`tree`](Self::tree), with the last look at who lives, also outside of a turn. What is gone since may seem to be there.
    pub(crate) fn tree_as_seen(&mut self, id: ProcessId) -> Option<Tree<'_>> {
        let Trees { left, agenda, due, .. } = &mut self.trees;
        let stem = match self.processes.get_mut(id.0).filter(|child| child.exit().is_none()) {
            Some(child) => Stem::Led(child),
            None => {
                let left = left.get_mut(&id.0)?;
                // It may be stirred by what is asked of it.
                if !std::mem::replace(&mut left.listed, true) {
                    due.push(id.0);
                }
                Stem::Left(left)
            }
        };
        Some(Tree { id, stem, now: clock(), agenda, living: &mut self.living })
    }

    /// Closes the descriptors that are held for what is left of a tree, unless nobody is. What is left in a cgroup is looked
    /// at once a second from then on, and still reached. What is left of a group is not reached any more, and its
    /// tree is told to be gone without certainty. Whether there was anything to close.
    pub(crate) fn release_tree(&mut self, id: ProcessId) -> bool {
        if self.tree(id).is_none_or(|mut tree| tree.is_empty()) {
            return false;
        }
        let Some(left) = self.trees.left.remove(&id.0) else { return false };
        let now = clock();
        let (fate, held) = left.release(now, &mut self.sources);
        self.trees.settle(id.0, fate, now);
        held
    }

    /// A leader was reaped: who is left of its tree?
    pub(super) fn leader_gone(&mut self, process: Key) {
        let now = self.woke;
        if let Some(child) = self.processes.get_mut(process) {
            let fate = Left::of(child, process, now, &mut self.sources);
            self.trees.settle(process, fate, now);
        }
    }

    /// Looks at the trees that are due, and tells of those that are gone, and of those that should be.
    pub(super) fn settle_trees(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        #[cfg(target_os = "linux")]
        self.keep_guard();
        let now = self.woke;
        for process in std::mem::take(&mut self.trees.due) {
            let Some(left) = self.trees.left.get_mut(&process) else { continue };
            left.listed = false;
            match left.look_at {
                Some(at) if at <= now => {
                    if let Some(left) = self.trees.left.remove(&process) {
                        let fate = left.look(process, now, &mut self.living, &mut self.sources);
                        self.trees.settle(process, fate, now);
                    }
                }
                Some(_) => self.trees.note_due(process),
                None => {}
            }
        }
        self.trees.remove_due(now);
        while let Some((process, sweep)) = self.next_sweep(now) {
            if let Some(mut tree) = self.tree(process) {
                tree.sweep(sweep);
            }
        }
        while let Some(process) = self.next_word(now) {
            let Some(remains) = self.tree(process).map(|mut tree| tree.members()) else { continue };
            handler(self, Event::TreeRemains { process, remains: &remains });
        }
        self.tell_gone(handler);
    }

    /// Tells of the trees that are gone.
    pub(super) fn tell_gone(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        while let Some((process, certain)) = self.trees.gone.pop_front() {
            #[cfg(target_os = "linux")]
            self.guard.forget(process);
            handler(self, Event::TreeGone { process: ProcessId(process), certain });
        }
    }

    fn is_left(&self, process: Key) -> bool {
        self.trees.left.contains_key(&process)
            || self.processes.get(process).is_some_and(|child| child.exit().is_none())
    }

    /// The next tree whose other members are to be signalled now. Those that are gone are forgotten.
    fn next_sweep(&mut self, now: Instant) -> Option<(ProcessId, Sweep)> {
        while let Some((process, at, sweep)) = self.trees.agenda.sweeps.front().copied() {
            let left = self.is_left(process);
            if left && at > now {
                return None;
            }
            self.trees.agenda.sweeps.pop_front();
            if left {
                return Some((ProcessId(process), sweep));
            }
        }
        None
    }

    /// The next tree that should be gone by now, and is not.
    fn next_word(&mut self, now: Instant) -> Option<ProcessId> {
        while let Some((process, at)) = self.trees.agenda.words.front().copied() {
            let left = self.is_left(process);
            if left && at > now {
                return None;
            }
            self.trees.agenda.words.pop_front();
            if left {
                return Some(ProcessId(process));
            }
        }
        None
    }
}
