//! The table of everything that is registered with the poll, and the list of what is still
//! readable.
//!
//! The poll is edge-triggered, so a reader reads until `WouldBlock` or puts its source on the ready
//! list. The one rule: a token is never used twice, so a report about something that is already
//! closed reaches nothing.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::slab::{Key, Slab};

/// The meaning of a token.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// The self-pipe of the signals.
    Signals,
    /// The wake-up by another thread.
    Waker,
    /// The alarm clock of a nested reactor. The wake-up is its only effect.
    #[cfg(target_os = "linux")]
    Alarm,
    /// A descriptor of the host's.
    Host,
    /// The exit of a child.
    Pidfd { process: Key },
    /// The exit of the guard.
    #[cfg(target_os = "linux")]
    Guard,
    /// The leftover processes of a child's tree.
    Tree { process: Key },
    /// The exit of a process that takes a message out of a queue.
    #[cfg(target_os = "linux")]
    Discard,
    /// The messages of a child's tree.
    Notify { process: Key },
    /// The limit of processes of a child's tree.
    Limit { process: Key },
    /// Our end of a pipe to a child's descriptor.
    Pipe { process: Key, fd: i32 },
}

#[derive(Debug)]
pub(crate) struct Sources {
    registry: Registry,
    slab: Slab<Source>,
    ready: VecDeque<Key>,
}

impl Sources {
    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry, slab: Slab::new(), ready: VecDeque::new() }
    }

    pub(crate) fn register(&mut self, fd: BorrowedFd<'_>, interest: Interest, source: Source) -> io::Result<Key> {
        let (key, token) = self.token(source)?;
        if let Err(error) = self.registry.register(&mut SourceFd(&fd.as_raw_fd()), token, interest) {
            self.slab.remove(key);
            return Err(error);
        }
        Ok(key)
    }

    /// Registers an object of mio's, which `make` creates from the registry and the token.
    pub(crate) fn register_with<T>(
        &mut self,
        source: Source,
        make: impl FnOnce(&Registry, Token) -> io::Result<T>,
    ) -> io::Result<T> {
        let (key, token) = self.token(source)?;
        make(&self.registry, token).inspect_err(|_| {
            self.slab.remove(key);
        })
    }

    /// Removes the source of a descriptor that is about to be closed and is open nowhere else in
    /// the host. The close itself deregisters the descriptor.
    pub(crate) fn forget(&mut self, key: Key) {
        self.slab.remove(key);
    }

    /// Removes the source of a descriptor that may stay open.
    pub(crate) fn deregister(&mut self, key: Key, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.slab.remove(key);
        self.registry.deregister(&mut SourceFd(&fd.as_raw_fd()))
    }

    pub(crate) fn get(&self, key: Key) -> Option<Source> {
        self.slab.get(key).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, Source)> {
        self.slab.iter().map(|(key, source)| (key, *source))
    }

    /// Puts a source at the end of the ready list. The caller makes sure that it is there at most
    /// once.
    pub(crate) fn push_ready(&mut self, key: Key) {
        self.ready.push_back(key);
    }

    pub(crate) fn pop_ready(&mut self) -> Option<Key> {
        self.ready.pop_front()
    }

    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    fn token(&mut self, source: Source) -> io::Result<(Key, Token)> {
        let key = self.slab.insert(source);
        Ok((key, Token(key.to_usize())))
    }
}
