//! Our own stdout and stderr: never waited for while processes are watched.
//!
//! A reader that is slow makes the children wait, not us; one that goes away ends nothing. The one rule: a write happens only
//! when it cannot block, and the descriptor's flags, which others share, stay as they are.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use childminder::{Interest, Reactor, SourceId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// So many bytes never block once poll(2) has said that a pipe can be written to (POSIX's `PIPE_BUF` on Linux).
const PIECE: usize = 4096;
/// With more than this waiting, the children have to wait, too.
const HIGH_WATER: usize = 256 * 1024;

/// One of our outputs, and what it has not taken yet.
#[derive(Debug)]
pub(crate) struct Output {
    file: Arc<OwnedFd>,
    /// A file on disk takes everything at once, and cannot be polled.
    regular: bool,
    waiting: VecDeque<u8>,
    /// Nobody reads it any more.
    gone: bool,
    source: Option<SourceId>,
}

impl Output {
    pub(crate) fn stdout() -> io::Result<Self> {
        Self::new(io::stdout())
    }

    pub(crate) fn stderr() -> io::Result<Self> {
        Self::new(io::stderr())
    }

    fn new(stream: impl AsFd) -> io::Result<Self> {
        let fd = stream.as_fd().try_clone_to_owned()?;
        let file = File::from(fd);
        let regular = file.metadata()?.is_file();
        Ok(Self { file: Arc::new(file.into()), regular, waiting: VecDeque::new(), gone: false, source: None })
    }

    /// Has the reactor say when there is room again.
    pub(crate) fn watch(&mut self, reactor: &mut Reactor) {
        // What cannot be watched (a file, /dev/null) can always be written.
        self.source = reactor.register(Arc::clone(&self.file), Interest::Writable).ok();
    }

    pub(crate) fn is(&self, source: SourceId) -> bool {
        self.source == Some(source)
    }

    /// Whether so much is waiting that nothing should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() > HIGH_WATER
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds to what is waiting.
    pub(crate) fn push(&mut self, pieces: &[&[u8]]) {
        if !self.gone {
            for piece in pieces {
                self.waiting.extend(*piece);
            }
        }
    }

    /// Writes as much as there is room for.
    pub(crate) fn flush(&mut self) {
        self.write(Some(Timespec { tv_sec: 0, tv_nsec: 0 }));
    }

    /// Writes everything, at the end: however long the reader takes, or with so much patience for each piece.
    pub(crate) fn finish(&mut self, patience: Option<Duration>) {
        self.write(patience.and_then(|patience| patience.try_into().ok()));
    }

    /// Writes until nothing is left, or there has been no room for so long.
    fn write(&mut self, patience: Option<Timespec>) {
        while !self.waiting.is_empty() {
            if !self.regular && !self.has_room(patience.as_ref()) {
                return;
            }
            let (front, _) = self.waiting.as_slices();
            let piece = if self.regular { front } else { &front[..front.len().min(PIECE)] };
            match rustix::io::write(&self.file, piece) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(rustix::io::Errno::INTR) => {}
                // Somebody who shares it has made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => return,
                // A full disk, a closed pipe, a terminal hung up: whatever it is, supervision goes on.
                Err(error) => {
                    self.gone = error == rustix::io::Errno::PIPE || error == rustix::io::Errno::IO;
                    self.waiting.clear();
                }
            }
        }
        if self.waiting.capacity() > HIGH_WATER {
            self.waiting = VecDeque::new();
        }
    }

    fn has_room(&self, patience: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut fds, patience) {
            Ok(count) => count > 0,
            Err(error) => error == rustix::io::Errno::INTR && patience.is_none(),
        }
    }
}

/// A message of ours on stderr, for when there is nothing to watch.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "childminder: {message}");
}

/// An answer on stdout, for when there is nothing to watch.
pub(crate) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Lines on stderr that say themselves what they are about.
pub(crate) fn complain_plainly(lines: &str) {
    let _ = writeln!(io::stderr(), "{lines}");
}
