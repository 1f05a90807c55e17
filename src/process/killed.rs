//! The record of a kill of a whole tree. It kills nothing.
//!
//! The one rule: a later kill never changes the time of the first one.

use std::time::Instant;

use super::table::Moment;

/// A kill of a whole tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Killed {
    pub(super) at: Instant,
    /// The moment of the kill in the order of scans.
    pub(super) moment: Moment,
    /// Whether the kernel has missed no member.
    pub(super) complete: bool,
}

impl Killed {
    /// Records the first kill, and the first one that has missed no member.
    pub(super) fn note(self, known: &mut Option<Self>) {
        match known {
            None => *known = Some(self),
            Some(first) if !first.complete => *first = Self { at: first.at, ..self },
            Some(_) => {}
        }
    }
}
