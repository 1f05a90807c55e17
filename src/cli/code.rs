//! The exit code by which a command passes on how a process has ended. Ends nothing.
//!
//! The one rule: `run` and `up` use the codes of a shell: the process's own code, 128 + N for
//! signal N, 127 for a program that was not found, and 126 for one that cannot be executed.

use std::io::ErrorKind;

use childminder::{Exit, SpawnError, Stage};

use super::failure::FAILURE;

/// The code for an exit.
pub(crate) fn of_exit(exit: &Exit) -> u8 {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILURE),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(FAILURE),
        (None, None) => FAILURE,
    }
}

/// The code for a start that has failed.
pub(crate) fn of_failed_start(error: &SpawnError) -> u8 {
    match (error.stage(), error.io_error().kind()) {
        (Stage::Exec, ErrorKind::NotFound) => 127,
        (Stage::Exec, _) => 126,
        _ => FAILURE,
    }
}
