//! The descriptors of the host, and the handle with which it wakes the reactor from another thread.
//!
//! It reads and writes none of them. The one rule: a descriptor stays open as long as it is
//! registered.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::Reactor;
use super::event::{Interest, SourceId, Waker};
use crate::sources::Source;
use crate::sys;

impl Reactor {
    /// Requests [`Event::Ready`](crate::Event::Ready) for a descriptor of the host's: anything that
    /// has one, such as an `Arc<TcpListener>` of which the host keeps a clone. Make it
    /// non-blocking.
    ///
    /// # Errors
    ///
    /// The system's error, such as `EPERM` for a regular file, which is always ready.
    pub fn register(&mut self, fd: impl AsFd + Send + 'static, interest: Interest) -> io::Result<SourceId> {
        let wanted = match interest {
            Interest::Readable => mio::Interest::READABLE,
            Interest::Writable => mio::Interest::WRITABLE,
            Interest::Both => mio::Interest::READABLE | mio::Interest::WRITABLE,
        };
        let key = self.sources.register(fd.as_fd(), wanted, Source::Host)?;
        self.hosts.push((key, Box::new(fd)));
        Ok(SourceId(key))
    }

    /// Undoes [`register`](Self::register) and drops what was given. Returns whether it was
    /// registered.
    pub fn deregister(&mut self, id: SourceId) -> bool {
        let Some(index) = self.hosts.iter().position(|(key, _)| *key == id.0) else { return false };
        let (key, fd) = self.hosts.swap_remove(index);
        // The kernel has already forgotten it if the host has closed it behind our back.
        let _ = self.sources.deregister(key, fd.as_fd());
        true
    }

    /// Returns a handle that wakes this reactor from another thread.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, the first time.
    pub fn waker(&mut self) -> io::Result<Waker> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let make = |registry: &mio::Registry, token| sys::fd::with_stdio_taken(|| mio::Waker::new(registry, token));
        let waker = self.sources.register_with(Source::Waker, make)?;
        let waker = Waker(Arc::new(waker));
        self.waker = Some(waker.clone());
        Ok(waker)
    }
}
