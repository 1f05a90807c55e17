//! The pipes of a child, by the numbers of its descriptors.
//!
//! It reads nothing. The one rule: bytes that were taken are never lost without being counted.

use super::Child;
use crate::process::pipe::{Flush, Notice, Pipe, Reader, Writer};
use crate::sources::{Source, Sources};

impl Child {
    pub(crate) fn readers(&self) -> impl Iterator<Item = i32> {
        self.pipes.iter().filter(|(_, pipe)| matches!(pipe, Pipe::Reader(_))).map(|(fd, _)| *fd)
    }

    pub(crate) fn reader(&mut self, fd: i32) -> Option<&mut Reader> {
        match self.pipe(fd)? {
            Pipe::Reader(reader) => Some(reader),
            Pipe::Writer(_) => None,
        }
    }

    pub(in crate::process) fn writer(&mut self, fd: i32) -> Option<&mut Writer> {
        match self.pipe(fd)? {
            Pipe::Writer(writer) => Some(writer),
            Pipe::Reader(_) => None,
        }
    }

    fn pipe(&mut self, fd: i32) -> Option<&mut Pipe> {
        self.pipes.iter_mut().find(|(number, _)| *number == fd).map(|(_, pipe)| pipe)
    }

    /// Closes our end. Returns how many bytes the child has not taken, which are lost, or `None` if
    /// there was no pipe.
    pub(crate) fn close(&mut self, fd: i32, sources: &mut Sources) -> Option<usize> {
        let index = self.pipes.iter().position(|(number, _)| *number == fd)?;
        let (_, pipe) = self.pipes.remove(index);
        sources.forget(pipe.source());
        match pipe {
            Pipe::Writer(writer) => Some(writer.pending()),
            Pipe::Reader(_) => Some(0),
        }
    }

    /// Handles a report of the poll that a writer can be written to, or that its reader is gone.
    pub(crate) fn flush(&mut self, fd: i32, reader_gone: bool, sources: &mut Sources) -> Option<Notice> {
        // No process has the terminal open now, but it can be opened again.
        let reader_gone = reader_gone && !(self.terminal && fd == 0);
        let writer = self.writer(fd)?;
        let source = writer.source;
        let flush = if reader_gone { Flush::Broken } else { writer.flush() };
        let closing = writer.closing;
        let Some(Source::Pipe { process, .. }) = sources.get(source) else { return None };
        match flush {
            Flush::Pending => None,
            Flush::Done { .. } if closing => Some(Notice::Closed { process, fd, lost: self.close(fd, sources)? }),
            Flush::Done { rested: true } => Some(Notice::Drained { process, fd }),
            Flush::Done { rested: false } => None,
            Flush::Broken => Some(Notice::Closed { process, fd, lost: self.close(fd, sources)? }),
        }
    }
}
