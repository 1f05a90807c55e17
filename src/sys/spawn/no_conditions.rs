//! The conditions of a run, on systems where the library sets none. The one rule: a command that
//! asks for one is refused.

use super::failure::Failure;
use crate::conditions;

/// There is no value of this type.
#[derive(Debug)]
pub(super) enum Conditions {}

impl Conditions {
    pub(super) fn new(_: &conditions::Conditions) -> Result<Self, &'static str> {
        Err("a condition of the run that only Linux has: processors, memory nodes, addresses, scheduling, I/O priority")
    }

    pub(super) unsafe fn set(&mut self) -> Result<(), Failure> {
        match *self {}
    }
}
