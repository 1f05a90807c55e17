//! The reactor: one wait for everything.

pub(crate) mod timers;
