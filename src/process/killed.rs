//! When a whole tree was killed.

use std::time::Instant;

use super::table::Moment;

/// A kill of a whole tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Killed {
    pub(super) at: Instant,
    /// In the order of looks.
    pub(super) moment: Moment,
    /// The kernel has missed nobody.
    pub(super) complete: bool,
}

impl Killed {
    /// Remembers the first kill, and the first one that has missed nobody.
    pub(super) fn note(self, known: &mut Option<Self>) {
        match known {
            None => *known = Some(self),
            Some(first) if !first.complete => *first = Self { at: first.at, ..self },
            Some(_) => {}
        }
    }
}
