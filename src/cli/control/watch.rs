//! Notices when the file of the control socket is touched, without looking at it again and again.
//!
//! Linux only (`inotify(7)`). The one rule: what is told is a reason to look, and nothing more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use childminder::{Interest, Reactor, SourceId};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// A watch of one file, wherever that is moved, until the last of its names is gone.
#[derive(Debug)]
pub(super) struct FileWatch {
    fd: Arc<OwnedFd>,
    source: SourceId,
}

impl FileWatch {
    pub(super) fn new(path: &Path, reactor: &mut Reactor) -> io::Result<Self> {
        let fd = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        // A name that is taken away is a change of the file's attributes: it counts its names.
        let changes = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        inotify::add_watch(&fd, path, changes | WatchFlags::DONT_FOLLOW)?;
        let source = reactor.register(Arc::clone(&fd), Interest::Readable)?;
        Ok(Self { fd, source })
    }

    pub(super) fn is(&self, source: SourceId) -> bool {
        self.source == source
    }

    /// Forgets what was told.
    pub(super) fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut reader = inotify::Reader::new(&*self.fd, &mut buffer);
        while reader.next().is_ok() {}
    }

    pub(super) fn end(self, reactor: &mut Reactor) {
        reactor.deregister(self.source);
    }
}
