//! Starts the program that takes a message out of the queue of a socket. The program is in
//! `sys::discard`.
//!
//! The one rule: the program has no descriptor but the socket.

use std::io;
use std::os::fd::OwnedFd;

use super::program;
use crate::sys;
use crate::sys::spawn::Spawner;

/// The number of the descriptor of the program itself. It is closed when the program ends.
const PROGRAM: i32 = 3;

/// Starts the program. Returns its pid and a pidfd of it.
pub(crate) fn start(spawner: &Spawner, socket: OwnedFd) -> io::Result<(i32, OwnedFd)> {
    program::start(spawner, "childminder-discard", (PROGRAM, sys::discard::program()?), socket, |_| {})
}
