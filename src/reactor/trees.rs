//! The trees of the processes: what is left after the exit of a leader, and the end of the last
//! member.
//!
//! It does not decide when a process ends. The one rule: the end of each tree is reported once,
//! after the exit of its leader.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Event, Reactor, clock};
use crate::process::cgroup::{Cgroup, Home, Refused};
use crate::process::{Agenda, Fate, Left, ProcessId, Stem, Sweep, Tree};
use crate::slab::Key;

/// The time from the end of a tree to the removal of its cgroup, if it is not removed at once, and
/// from one attempt to the next.
const REMOVAL: Duration = Duration::from_millis(100);
/// The number of attempts to remove a cgroup. A later sweep finds what is left.
const REMOVALS: u32 = 50;
/// The largest number of attempts in one turn.
const SHARE: usize = 50;

/// What a reactor knows of the trees of its processes.
#[derive(Debug, Default)]
pub(super) struct Trees {
    /// The directory in which the host wants its cgroups.
    pub(super) parent: Option<PathBuf>,
    pub(super) home: Option<Result<Arc<Home>, Refused>>,
    /// The trees whose leader is gone.
    pub(super) left: HashMap<Key, Box<Left>>,
    /// The trees among these that are to be checked, now or at a certain time.
    due: Vec<Key>,
    /// The trees that may have reached their limit of processes.
    pub(super) limits: Vec<Key>,
    /// The ends to report: the tree, and whether its end is certain.
    gone: VecDeque<(Key, bool)>,
    agenda: Agenda,
    /// Empty cgroups. Their removal takes longer than the end of their processes, and nothing waits
    /// for it.
    removals: VecDeque<Removal>,
}

#[derive(Debug)]
struct Removal {
    cgroup: Cgroup,
    at: Instant,
    tries: u32,
}

impl Trees {
    /// Returns the times at which something is due even without an event.
    pub(super) fn next_due(&self) -> impl Iterator<Item = Instant> {
        let looks = self.due.iter().filter_map(|key| self.left.get(key)?.look_at);
        let words = self.agenda.words.front().map(|(_, at)| *at);
        looks.chain(words).chain(self.agenda.sweep_at()).chain(self.removals.front().map(|removal| removal.at))
    }

    pub(super) fn has_news(&self) -> bool {
        !self.gone.is_empty() || !self.limits.is_empty()
    }

    /// Notes that the watched descriptor of a tree has become ready.
    pub(super) fn stir(&mut self, process: Key, now: Instant) {
        if let Some(left) = self.left.get_mut(&process) {
            left.stir(now);
            self.note_due(process);
        }
    }

    /// Notes that any tree may be ready, because the poll cannot tell which ones are.
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

    /// Schedules the removal of an empty cgroup. A single one is removed at the end of the turn,
    /// since a further wake-up would cost more than its removal. Many would delay the replacements
    /// of their processes.
    pub(super) fn remove_later(&mut self, cgroup: Option<Cgroup>, now: Instant) {
        let Some(cgroup) = cgroup else { return };
        let is_single = self.removals.is_empty() && !cgroup.stays();
        let at = if is_single { now } else { now + REMOVAL };
        self.removals.push_back(Removal { cgroup, at, tries: 0 });
    }

    fn remove_due(&mut self, now: Instant) {
        for _ in 0..SHARE {
            if self.removals.front().is_none_or(|removal| removal.at > now) {
                return;
            }
            let Some(mut removal) = self.removals.pop_front() else { return };
            removal.tries += 1;
            // The kernel may not have removed the last member completely.
            if removal.cgroup.remove().is_err() && removal.tries < REMOVALS {
                removal.at = now + REMOVAL;
                self.removals.push_back(removal);
            }
        }
    }
}

/// Removes the empty cgroups.
impl Drop for Trees {
    fn drop(&mut self) {
        for removal in &self.removals {
            let _ = removal.cgroup.remove();
        }
    }
}

impl Reactor {
    /// Returns a process and all that it has started, as one unit. It exists from the start of the
    /// process until no member is left, which [`Event::TreeGone`] reports. That is often later than
    /// the end of the process itself.
    ///
    /// In an event's handler, all trees share one scan of the system's process table. Outside of a
    /// turn, each call of this method begins a new scan, if one is needed at all: see
    /// [`Tree::members`].
    #[must_use]
    pub fn tree(&mut self, id: ProcessId) -> Option<Tree<'_>> {
        if self.events.is_some() {
            // Outside of a turn, nothing else resets it.
            self.living = None;
        }
        self.tree_as_seen(id)
    }

    /// Does what [`tree`](Self::tree) does, but uses the last scan even outside of a turn.
    /// Processes that have ended since then may still be listed.
    pub(crate) fn tree_as_seen(&mut self, id: ProcessId) -> Option<Tree<'_>> {
        let Trees { left, agenda, due, .. } = &mut self.trees;
        let stem = match self.processes.get_mut(id.0).filter(|child| child.exit().is_none()) {
            Some(child) => Stem::Led(child),
            None => {
                let left = left.get_mut(&id.0)?;
                // The calls on it may make a check due.
                if !std::mem::replace(&mut left.listed, true) {
                    due.push(id.0);
                }
                Stem::Left(left)
            }
        };
        Some(Tree { id, stem, now: clock(), agenda, living: &mut self.living })
    }

    /// Closes the descriptors that are held for the rest of a tree, unless the tree is empty. What
    /// is left in a cgroup is checked once a second from then on, and can still be reached. What is
    /// left of a group cannot be reached any more, and the end of its tree is reported without
    /// certainty. It returns whether there was anything to close.
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

    /// Handles the reaping of a leader, which may leave a tree behind.
    pub(super) fn leader_gone(&mut self, process: Key) {
        let now = self.woke;
        self.trees.agenda.last_exit = Some(now);
        if let Some(child) = self.processes.get_mut(process) {
            let fate = Left::of(child, process, now, &mut self.sources);
            self.trees.settle(process, fate, now);
        }
    }

    /// Checks the trees that are due, and reports the trees that are gone, and the trees that
    /// should be gone and are not.
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
        self.tell_limits(handler);
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
        self.trees.remove_due(now);
    }

    /// Reports the trees that have reached their limit of processes.
    fn tell_limits(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        while let Some(process) = self.trees.limits.pop() {
            let child = self.processes.get_mut(process);
            if child.is_some_and(|child| child.has_reached_process_limit(&mut self.sources)) {
                handler(self, Event::ProcessLimit { process: ProcessId(process) });
            }
        }
    }

    /// Reports the trees that are gone.
    pub(super) fn tell_gone(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        while let Some((process, certain)) = self.trees.gone.pop_front() {
            #[cfg(target_os = "linux")]
            self.guard.forget(process, certain);
            handler(self, Event::TreeGone { process: ProcessId(process), certain });
        }
    }

    fn is_left(&self, process: Key) -> bool {
        self.trees.left.contains_key(&process)
            || self.processes.get(process).is_some_and(|child| child.exit().is_none())
    }

    /// Returns the next tree whose other members are to be signalled now. Trees that are gone are
    /// dropped.
    fn next_sweep(&mut self, now: Instant) -> Option<(ProcessId, Sweep)> {
        while let Some((process, _, sweep)) = self.trees.agenda.sweeps.front().copied() {
            let left = self.is_left(process);
            if left && self.trees.agenda.sweep_at().is_some_and(|at| at > now) {
                return None;
            }
            self.trees.agenda.sweeps.pop_front();
            if left {
                return Some((ProcessId(process), sweep));
            }
        }
        None
    }

    /// Returns the next tree that should be gone by now, and is not.
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
