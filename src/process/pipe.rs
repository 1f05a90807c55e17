//! One end each of the pipes to a child.
//!
//! Knows nothing of events: says what a read or a write came to. The one rule: nothing here blocks, and nothing that was
//! taken is lost without being counted.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::slab::Key;
use crate::sys;

/// A producer should rest when more than this is waiting: Twisted's figure, and one Linux pipe.
const HIGH_WATER: usize = 64 * 1024;
/// What a pipe that keeps being full is raised to, so that the child writes on while we read: it triples the throughput of a flood. Less
/// is slower where a hundred write, more is hardly faster.
pub(crate) const LARGE_PIPE: usize = 256 * 1024;

/// So much at once is a full pipe, or nearly: blocks that are no multiple of a page never fill it to the last byte.
const MUCH: usize = 32 * 1024;

/// So often in a row a read may fail before the pipe is closed.
const FAILURES: u8 = 16;

/// The pipe has been raised already.
const GROWN: u8 = 2;

/// The end that we read.
#[derive(Debug)]
pub(crate) struct Reader {
    fd: OwnedFd,
    pub(crate) source: Key,
    /// It is on the ready list.
    pub(crate) queued: bool,
    pub(crate) paused: bool,
    /// The other end is closed: a short read no longer means that nothing is left.
    hung_up: bool,
    /// A terminal gives a line a read, however large the buffer. It is not closed before its child is reaped: that would hang up
    /// on a child that has closed its own descriptors and is about to exit.
    terminal: bool,
    /// The child is reaped, and with it the terminal has hung up on everybody else.
    last_words: bool,
    /// How often in a row it was full, or [`GROWN`].
    full: u8,
    /// How often in a row a read has failed.
    failed: u8,
    bytes: u64,
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes, and perhaps more where they came from.
    Data { len: usize, more: bool },
    /// Nothing now.
    Empty,
    /// The system has refused to say. To be tried again in the next turn.
    Refused,
    /// Nothing ever again.
    End,
}

impl Reader {
    pub(crate) fn new(fd: OwnedFd, source: Key, terminal: bool) -> Self {
        Self {
            fd,
            source,
            queued: false,
            paused: false,
            hung_up: false,
            terminal,
            last_words: false,
            full: 0,
            failed: 0,
            bytes: 0,
        }
    }

    /// How many bytes the child has sent so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn hang_up(&mut self) {
        self.hung_up = true;
    }

    /// Whether the other end is closed and nothing is left: seen without reading, so also while paused.
    pub(crate) fn is_over(&self) -> bool {
        if self.terminal {
            self.last_words && !sys::fd::is_readable(self.fd.as_fd())
        } else {
            self.hung_up && sys::fd::is_over(self.fd.as_fd())
        }
    }

    /// A terminal's child is reaped: what can be read now is all.
    pub(crate) fn last_words(&mut self) {
        self.last_words = true;
    }

    fn nothing_now(&self) -> Read {
        if self.last_words { Read::End } else { Read::Empty }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        match sys::fd::read(self.fd.as_fd(), buffer) {
            // A terminal's master says so, or EIO, when nobody has the slave any more: but /dev/tty can still be opened.
            Ok(0) | Err(_) if self.terminal => self.nothing_now(),
            Ok(0) => Read::End,
            Ok(len) => {
                self.failed = 0;
                self.bytes += len as u64;
                self.note_full(len >= MUCH);
                Read::Data { len, more: len == buffer.len() || self.hung_up || self.terminal }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Empty,
            // What is left in the pipe is lost if nobody tries again.
            Err(_) if self.failed < FAILURES => {
                self.failed += 1;
                Read::Refused
            }
            Err(_) => Read::End,
        }
    }

    /// A child that fills its pipe twice in a row gets a larger one, once.
    fn note_full(&mut self, full: bool) {
        match (full, self.full) {
            (_, GROWN) => {}
            (false, _) => self.full = 0,
            (true, 0) => self.full = 1,
            (true, _) => {
                sys::fd::grow_pipe(self.fd.as_fd(), LARGE_PIPE);
                self.full = GROWN;
            }
        }
    }

    /// The terminal's master, if it is one.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.then(|| self.fd.as_fd())
    }
}

/// The end that we write, and what the child has not taken yet.
#[derive(Debug)]
pub(crate) struct Writer {
    fd: OwnedFd,
    pub(crate) source: Key,
    buffer: VecDeque<u8>,
    high_water: usize,
    /// A producer was told to rest, and is owed a word when it may go on.
    resting: bool,
    /// To be closed once all is written.
    pub(crate) closing: bool,
}

/// What a flush came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Something is still waiting.
    Pending,
    /// All is written. `rested`: a producer was told to rest before.
    Done { rested: bool },
    /// The reader is gone.
    Broken,
}

impl Writer {
    pub(crate) fn new(fd: OwnedFd, source: Key) -> Self {
        Self { fd, source, buffer: VecDeque::new(), high_water: HIGH_WATER, resting: false, closing: false }
    }

    /// What was taken and is not written yet, in bytes.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn set_high_water(&mut self, bytes: usize) {
        self.high_water = bytes;
    }

    /// Takes all the pieces: writes what the pipe has room for now, and keeps the rest.
    pub(crate) fn write(&mut self, pieces: &[IoSlice<'_>]) -> Flush {
        let mut taken = 0;
        let mut broken = false;
        if self.buffer.is_empty() {
            match sys::fd::write_vectored(self.fd.as_fd(), pieces) {
                Ok(written) => taken = written,
                Err(error) => broken = error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        for piece in pieces {
            let skipped = taken.min(piece.len());
            taken -= skipped;
            self.buffer.extend(&piece[skipped..]);
        }
        if broken { Flush::Broken } else { self.state() }
    }

    /// Whether a producer may go on; if not, it will be told when.
    pub(crate) fn may_go_on(&mut self) -> bool {
        self.resting |= self.buffer.len() > self.high_water;
        !self.resting
    }

    /// Whether anything is waiting; if so, a producer will be told when it is written, however little it is.
    pub(crate) fn rest(&mut self) -> bool {
        self.resting |= !self.buffer.is_empty();
        self.resting
    }

    /// Writes what is waiting, as far as the pipe has room.
    pub(crate) fn flush(&mut self) -> Flush {
        while !self.buffer.is_empty() {
            let (front, back) = self.buffer.as_slices();
            match sys::fd::write_vectored(self.fd.as_fd(), &[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(written) => drop(self.buffer.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Flush::Broken,
            }
        }
        self.state()
    }

    fn state(&mut self) -> Flush {
        if !self.buffer.is_empty() {
            return Flush::Pending;
        }
        if self.buffer.capacity() > HIGH_WATER {
            self.buffer = VecDeque::new();
        }
        Flush::Done { rested: std::mem::take(&mut self.resting) }
    }
}
