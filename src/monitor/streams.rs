//! The output of one process, as lines of each of its descriptors.
//!
//! It reads nothing: it is told what was read. The one rule: every byte is passed on exactly once,
//! in its order on its descriptor.

use super::observer::{Line, Lines};
use crate::lines::{LineBuffer, Piece, Run};
use crate::process::ProcessId;

/// The lines that have begun on the descriptors of one process.
#[derive(Debug)]
pub(crate) struct Streams {
    max_line: usize,
    buffers: Vec<(i32, LineBuffer)>,
}

impl Streams {
    /// Makes one that cuts lines after `max_line` bytes.
    pub(crate) fn new(max_line: usize) -> Self {
        Self { max_line, buffers: Vec::new() }
    }

    /// Takes the next bytes of a descriptor.
    pub(crate) fn push(&mut self, fd: i32, data: &[u8], sink: &mut impl FnMut(Run<'_>)) {
        let index = self.buffers.iter().position(|(number, _)| *number == fd).unwrap_or_else(|| {
            // Most processes write to one or two, and a vector would begin with room for four.
            self.buffers.reserve_exact(1);
            self.buffers.push((fd, LineBuffer::new(self.max_line)));
            self.buffers.len() - 1
        });
        self.buffers[index].1.push(data, sink);
    }

    /// Passes on the last line of each descriptor that `is_over`, if it did not end with a newline.
    pub(crate) fn finish(&mut self, mut is_over: impl FnMut(i32) -> bool, mut sink: impl FnMut(i32, Piece<'_>)) {
        for (fd, buffer) in self.buffers.iter_mut().filter(|(fd, _)| is_over(*fd)) {
            buffer.finish(&mut |piece| sink(*fd, piece));
        }
    }

    /// Returns the line that has begun on a descriptor, if there is one.
    pub(crate) fn unfinished(&self, fd: i32) -> Option<&[u8]> {
        let (_, buffer) = self.buffers.iter().find(|(number, _)| *number == fd)?;
        Some(buffer.partial()).filter(|partial| !partial.is_empty())
    }
}

/// The process that has written a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) name: &'a str,
    pub(crate) process: ProcessId,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(crate) fn line(self, fd: i32, piece: Piece<'a>) -> Line<'a> {
        let Piece { bytes, continued, cut, newline } = piece;
        Line { name: self.name, process: self.process, fd, bytes, continued, cut, newline }
    }

    pub(crate) fn lines(self, fd: i32, bytes: &'a [u8]) -> Lines<'a> {
        Lines { name: self.name, process: self.process, fd, bytes }
    }
}
