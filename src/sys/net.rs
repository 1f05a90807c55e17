//! Options of network sockets that the standard library does not set. Decides nothing.
//!
//! The one rule: no call here sends or receives anything.

use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

/// Makes the close of a TCP socket end its connection at once, so that its port is free. If this
/// fails, the port is free after a while.
pub(crate) fn reset_at_close(socket: &OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    #[allow(clippy::cast_possible_truncation)] // eight bytes
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option reads a linger, which lives through the call.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len) };
}
