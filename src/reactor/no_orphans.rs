//! Where a program cannot be the parent of orphans. The one rule: there are none.

use super::Reactor;

impl Reactor {
    pub(super) fn has_orphans_to_look_for(&self) -> bool {
        false
    }

    pub(crate) fn end_orphans(&mut self) -> bool {
        true
    }

    pub(crate) fn kill_orphans(&mut self) {}
}
