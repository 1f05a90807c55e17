//! The socket on which the tree of a child tells its state.
//!
//! It judges no sender, because the child does that, and reports nothing, because the reactor does
//! that. The one rule: each child has a socket of its own.

use std::ffi::OsStr;
use std::io;

use mio::Interest;

use crate::notify::NotifySocket;
use crate::slab::Key;
use crate::sources::{Source, Sources};

/// The socket of a child.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) socket: NotifySocket,
    pub(crate) source: Key,
    /// Whether it is on the ready list.
    pub(crate) queued: bool,
    /// Whether nothing is read, because a message is being taken out of its queue elsewhere.
    pub(crate) paused: bool,
}

impl Inbox {
    pub(super) fn open(process: Key, sources: &mut Sources) -> io::Result<Box<Self>> {
        let socket = NotifySocket::open()?;
        let fd = socket.fd().ok_or(io::ErrorKind::NotConnected)?;
        let source = sources.register(fd, Interest::READABLE, Source::Notify { process })?;
        Ok(Box::new(Self { socket, source, queued: false, paused: false }))
    }

    pub(super) fn address(&self) -> &OsStr {
        self.socket.address()
    }
}
