//! Our ends of the pipes to a child.
//!
//! They deliver no events: each call returns the result of a read or a write. The one rule: nothing
//! here blocks, and bytes that were taken are never lost without being counted.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mio::Interest;

use super::stdio::Side;
use crate::slab::Key;
use crate::sources::{Source, Sources};
use crate::sys;

/// The number of waiting bytes above which a producer should rest: Twisted's figure, and the size
/// of a Linux pipe.
const HIGH_WATER: usize = 64 * 1024;
/// The size in bytes to which a pipe is raised that is full again and again, so that the child can
/// write while we read. This triples the throughput of a flood. A smaller size is slower where a
/// hundred children write, and a larger one is hardly faster.
pub(crate) const LARGE_PIPE: usize = 256 * 1024;

/// A read of this many bytes means that the pipe was full, or nearly so: writes whose size is not a
/// multiple of a page never fill it to the last byte.
const MUCH: usize = 32 * 1024;

/// How often in a row a read may fail before the pipe is closed.
const FAILURES: u8 = 16;

/// The value of `Reader::full` once the pipe has been raised.
const GROWN: u8 = 2;

/// The end of a pipe that we read.
#[derive(Debug)]
pub(crate) struct Reader {
    fd: OwnedFd,
    pub(crate) source: Key,
    /// Whether it is on the ready list.
    pub(crate) queued: bool,
    pub(crate) paused: bool,
    /// Whether the other end is closed. Then a short read does not mean that nothing is left.
    hung_up: bool,
    /// Whether it is a terminal, which returns one line per read, however large the buffer is. It
    /// is not closed before its child is reaped: that would hang up on a child that has closed its
    /// own descriptors and is about to exit.
    terminal: bool,
    /// Whether the terminal's child is reaped, which has hung up the terminal for all other
    /// processes.
    child_reaped: bool,
    /// How often in a row it was full, or [`GROWN`].
    full: u8,
    /// How often in a row a read has failed.
    failed: u8,
    bytes: u64,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// Some bytes were read. `more` tells whether more may be left.
    Data { len: usize, more: bool },
    /// Nothing can be read now.
    Empty,
    /// The system has refused the read, which must be tried again in the next turn.
    Refused,
    /// The end of the data.
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
            child_reaped: false,
            full: 0,
            failed: 0,
            bytes: 0,
        }
    }

    /// Returns how many bytes the child has sent so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn hang_up(&mut self) {
        self.hung_up = true;
    }

    /// Tells whether the other end is closed and nothing is left. It does not read, so it also
    /// works while paused.
    pub(crate) fn is_over(&self) -> bool {
        if self.terminal {
            self.child_reaped && !sys::fd::is_readable(self.fd.as_fd())
        } else {
            self.hung_up && sys::fd::is_over(self.fd.as_fd())
        }
    }

    /// Notes that the terminal's child is reaped, so that the data that can be read now is all.
    pub(crate) fn child_reaped(&mut self) {
        self.child_reaped = true;
    }

    fn nothing_now(&self) -> Read {
        if self.child_reaped { Read::End } else { Read::Empty }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        match sys::fd::read(self.fd.as_fd(), buffer) {
            // A terminal's master returns this, or EIO, when no process has the slave open any
            // more. But /dev/tty can still be opened.
            Ok(0) | Err(_) if self.terminal => self.nothing_now(),
            Ok(0) => Read::End,
            Ok(len) => {
                self.failed = 0;
                self.bytes += len as u64;
                self.note_full(len >= MUCH);
                Read::Data { len, more: len == buffer.len() || self.hung_up || self.terminal }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Empty,
            // The data in the pipe would be lost if the read were not tried again.
            Err(_) if self.failed < FAILURES => {
                self.failed += 1;
                Read::Refused
            }
            Err(_) => Read::End,
        }
    }

    /// Enlarges the pipe of a child that fills it twice in a row, once.
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

    /// Returns the terminal's master, if it is one.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.then(|| self.fd.as_fd())
    }
}

/// The end of a pipe that we write, and the bytes that the child has not taken yet.
#[derive(Debug)]
pub(crate) struct Writer {
    fd: OwnedFd,
    pub(crate) source: Key,
    buffer: VecDeque<u8>,
    high_water: usize,
    /// Whether a producer was told to rest, and must be told when it may go on.
    resting: bool,
    /// Whether to close it once everything is written.
    pub(crate) closing: bool,
}

/// The result of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Some bytes are still waiting.
    Pending,
    /// Everything is written. `rested` tells whether a producer was told to rest before.
    Done { rested: bool },
    /// The reader is gone.
    Broken,
}

impl Writer {
    pub(crate) fn new(fd: OwnedFd, source: Key) -> Self {
        Self { fd, source, buffer: VecDeque::new(), high_water: HIGH_WATER, resting: false, closing: false }
    }

    /// Returns how many bytes were taken and are not written yet.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn set_high_water(&mut self, bytes: usize) {
        self.high_water = bytes;
    }

    /// Takes all the pieces: writes as much as the pipe has room for now, and keeps the rest.
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

    /// Tells whether a producer may go on. If not, it will be told when it may.
    pub(crate) fn may_go_on(&mut self) -> bool {
        self.resting |= self.buffer.len() > self.high_water;
        !self.resting
    }

    /// Tells whether anything is waiting. If so, a producer will be told when it is written,
    /// however little it is.
    pub(crate) fn rest(&mut self) -> bool {
        self.resting |= !self.buffer.is_empty();
        self.resting
    }

    /// Writes the waiting bytes, as far as the pipe has room.
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

/// A pipe of a child: the end that we have.
#[derive(Debug)]
pub(super) enum Pipe {
    Reader(Reader),
    /// Boxed because most pipes are readers, which are half as large.
    Writer(Box<Writer>),
}

impl Pipe {
    pub(super) fn open(end: OwnedFd, side: Side, process: Key, fd: i32, sources: &mut Sources) -> io::Result<Self> {
        sys::fd::set_nonblocking(end.as_fd())?;
        let interest = if side == Side::Writer { Interest::WRITABLE } else { Interest::READABLE };
        let source = sources.register(end.as_fd(), interest, Source::Pipe { process, fd })?;
        Ok(match side {
            Side::Writer => Self::Writer(Box::new(Writer::new(end, source))),
            Side::Reader => Self::Reader(Reader::new(end, source, false)),
            Side::Terminal => Self::Reader(Reader::new(end, source, true)),
        })
    }

    pub(super) fn source(&self) -> Key {
        match self {
            Self::Reader(reader) => reader.source,
            Self::Writer(writer) => writer.source,
        }
    }
}

/// The result of a call that an event must report in a later turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice {
    /// A pipe is closed. `lost` is the number of bytes that were taken and not delivered.
    Closed { process: Key, fd: i32, lost: usize },
    /// A producer may go on.
    Drained { process: Key, fd: i32 },
}
