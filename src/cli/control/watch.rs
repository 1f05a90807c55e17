//! Notices changes of the control socket's file through `inotify(7)`, without polling it. Linux
//! only.
//!
//! The one rule: a notice is a reason to check the file, and nothing more.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use childminder::{Interest, Reactor, SourceId};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// A watch of one file. It follows the file when it is moved, and lasts until its last name is
/// removed.
#[derive(Debug)]
pub(super) struct FileWatch {
    fd: Arc<OwnedFd>,
    file: i32,
    source: SourceId,
}

impl FileWatch {
    pub(super) fn new(path: &Path, reactor: &mut Reactor) -> io::Result<Self> {
        let fd = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        // Removing a name changes the file's attributes, because they hold the number of its names.
        let changes = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        let file = inotify::add_watch(&fd, path, changes | WatchFlags::DONT_FOLLOW)?;
        let source = reactor.register(Arc::clone(&fd), Interest::Readable)?;
        Ok(Self { fd, file, source })
    }

    pub(super) fn is(&self, source: SourceId) -> bool {
        self.source == source
    }

    /// Discards all notices that have arrived.
    pub(super) fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut reader = inotify::Reader::new(&*self.fd, &mut buffer);
        while reader.next().is_ok() {}
    }

    pub(super) fn end(self, reactor: &mut Reactor) {
        reactor.deregister(self.source);
    }

    /// Ends the watch. The caller closes the returned descriptor later. The close of a descriptor
    /// with a watch blocks for more than ten milliseconds, until no processor uses the watch. After
    /// this call the kernel waits for that in the background.
    pub(super) fn end_early(self, reactor: &mut Reactor) -> Arc<OwnedFd> {
        // If this fails, only the close takes longer.
        let _ = inotify::remove_watch(&self.fd, self.file);
        reactor.deregister(self.source);
        self.fd
    }
}
