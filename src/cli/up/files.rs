//! Files that get the output of our processes. A file gets the bytes as the processes have written
//! them, and is rotated by size. Knows no processes, and reports trouble only through the results
//! of its methods.
//!
//! The one rule: no file ever stops supervision. Bytes that cannot be written now wait for the next
//! attempt, which opens the file anew. If too many bytes wait, the rest is dropped, and its lines
//! are counted.

use std::fs::{self, File, Metadata};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use memchr::memrchr;

use super::end::{End, Piece};
use crate::cli::config::Rotation;
use crate::cli::safe_path::{self, Creation, Place, Target, Uncompressed};
use crate::cli::text::fit;
use crate::cli::waiting::{Author, Waiting};
use crate::cli::words;

/// The time between a failure and the next attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// The number of bytes of memory that a file keeps for its next lines.
const KEPT: usize = 4096;
/// The maximum number of bytes that wait for the next attempt.
const WAITING: usize = 64 * 1024;
/// Whole lines of at least this many bytes are written directly, without a copy.
const DIRECT: usize = 8 * 1024;
/// A pipe takes up to this many bytes at once or not at all (POSIX's `PIPE_BUF` on Linux), so that
/// no line among them is torn.
const PIPE_BUF: usize = 4096;

/// One file and the files rotated from it: `web.log`, `web.log.1` (the last one), `web.log.2`…, or
/// `web.log.1.gz` where they are compressed.
///
/// The file is rotated at the end of a line. A line that is longer than a whole file continues in
/// the next one. A shorter line stays in one file; if it comes in pieces, it may make this file
/// larger than `max_size`.
#[derive(Debug)]
pub(super) struct LogFile<S> {
    path: Rc<Path>,
    new: Creation,
    /// The age in it is looked at when a file is opened.
    rotation: Rotation,
    /// Whether there may be rotated files to compress that were not there before.
    rotated: bool,
    open: Option<Open>,
    /// Device and inode of the file that was opened last.
    last: Option<(u64, u64)>,
    /// The lines of this turn, after the lines that could not be written before.
    pending: Waiting,
    /// The end of all pushed bytes.
    end: End<S>,
    /// The number of bytes of an unfinished line that have been written. The line may have begun in
    /// an earlier file.
    line: u64,
    /// Whether the file ends within a line, and the next byte belongs to another line.
    torn: bool,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Open {
    file: File,
    id: (u64, u64),
    /// Whether it is a regular file and not an open file of another process.
    rotates: bool,
    /// The size at the last check, plus the bytes that we have written since.
    size: u64,
    /// Whether it has been checked in this turn.
    known: bool,
}

/// The state after a failure, until a write succeeds.
#[derive(Debug)]
struct Trouble {
    /// The time of the next attempt; `None` allows it at once.
    retry_at: Option<Instant>,
    /// Whether lines were dropped since the last attempt. The lines after them are dropped as well
    /// until there is room for many lines, so that there are few gaps.
    overflowed: bool,
    /// Whether the file is open and has no room now. It is tried at each flush, because its reader
    /// may make room at any moment.
    full: bool,
}

impl<S: PartialEq> LogFile<S> {
    /// Opens nothing yet.
    pub(super) fn new(path: Rc<Path>, new: Creation, rotation: Rotation) -> Self {
        Self {
            path,
            new,
            rotation,
            // A supervisor that was killed may have left some.
            rotated: rotation.compress,
            open: None,
            last: None,
            pending: Waiting::new(KEPT),
            end: End::default(),
            line: 0,
            torn: false,
            trouble: None,
        }
    }

    pub(super) fn path(&self) -> &Rc<Path> {
        &self.path
    }

    /// Sets new settings, from the next line on.
    pub(super) fn set(&mut self, new: Creation, rotation: Rotation) {
        self.rotated |= rotation.compress && !self.rotation.compress;
        (self.new, self.rotation) = (new, rotation);
    }

    /// Whether there may be rotated files to compress that were not there at the last call.
    pub(super) fn take_rotated(&mut self) -> bool {
        std::mem::take(&mut self.rotated)
    }

    /// Opens the next rotated file to compress, if there is one.
    pub(super) fn uncompressed(&self) -> io::Result<Option<Uncompressed>> {
        if self.rotation.compress { self.find()?.uncompressed(self.rotation.keep) } else { Ok(None) }
    }

    /// Takes a line, or a piece of one, of a stream.
    pub(super) fn push(&mut self, stream: S, author: &Author, piece: Piece<'_>) {
        let pieces = self.end.add(stream, piece);
        self.take(author, &pieces);
    }

    /// Takes whole lines of a stream, each with its newline. Many lines are written at once.
    /// Returns a message like [`flush`](Self::flush).
    pub(super) fn push_lines(&mut self, author: &Author, lines: &[u8], now: Instant) -> Option<String> {
        let before = self.end.finish();
        let is_little = self.pending.len() + lines.len() < DIRECT;
        if is_little || self.trouble.is_some() || self.pending.is_within_dropped_line() {
            self.take(author, &[before, lines]);
            return None;
        }
        if !before.is_empty() {
            self.take(author, &[before]);
        }
        match self.write_through(lines) {
            Ok(count) if count == lines.len() => None,
            Ok(count) => {
                self.take(author, &[&lines[count..]]);
                self.flush_now(now)
            }
            Err(error) => {
                self.take(author, &[lines]);
                self.failed(now, &error)
            }
        }
    }

    fn take(&mut self, author: &Author, pieces: &[&[u8]]) {
        if self.trouble.as_ref().is_some_and(|trouble| trouble.overflowed) {
            self.pending.lose(author, pieces);
        } else {
            self.pending.push(author, pieces);
        }
    }

    /// Closes the file, so that the next line opens it anew, even if the last attempt has just
    /// failed. Lines that were pushed and not flushed go to the newly opened file.
    pub(super) fn close(&mut self) {
        self.open = None;
        if let Some(trouble) = &mut self.trouble {
            trouble.retry_at = None;
        }
    }

    /// Writes the pushed lines at the end of a turn. Returns a message at the first failure and at
    /// the recovery.
    pub(super) fn flush(&mut self, now: Instant) -> Option<String> {
        let said = self.flush_now(now);
        if let Some(open) = &mut self.open {
            open.known = false;
        }
        said
    }

    /// Writes the pushed lines before they become too many within a turn.
    pub(super) fn relieve(&mut self, now: Instant) -> Option<String> {
        if self.pending.len() > WAITING { self.flush_now(now) } else { None }
    }

    fn flush_now(&mut self, now: Instant) -> Option<String> {
        let waits = |trouble: &Trouble| !trouble.full && trouble.retry_at.is_some_and(|retry_at| now < retry_at);
        if self.pending.is_empty() {
            return None;
        }
        if self.trouble.as_ref().is_some_and(waits) {
            self.bound();
            return None;
        }
        let written = self.write();
        if let Some(trouble) = &mut self.trouble {
            trouble.overflowed &= self.pending.len() > WAITING / 2;
        }
        match written {
            Ok(()) => self.recovered(now),
            Err(error) => self.failed(now, &error),
        }
    }

    /// The time to call [`flush`](Self::flush) even if nothing is pushed until then.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let trouble = self.trouble.as_ref().filter(|_| !self.pending.is_empty())?;
        trouble.retry_at
    }

    /// Tries once more to write the waiting bytes, and drops the rest. Returns a message with the
    /// number of dropped lines that no recovery has reported. Call it before the file is given up.
    pub(super) fn finish(&mut self) -> Option<String> {
        let error = if self.pending.is_empty() { None } else { self.write().err() };
        let why = error.filter(|_| self.trouble.is_none()).map(|error| format!("{}; ", self.explain(&error)));
        if self.line > 0 && self.pending.bytes().starts_with(b"\n") {
            // Only the newline is missing, so no line is lost.
            self.pending.pass(1);
        }
        self.pending.truncate(0);
        let losses = self.pending.has_lost().then(|| self.pending.take_losses())?;
        Some(format!("{}: {}{losses}", self.path.display(), why.unwrap_or_default()))
    }

    fn recovered(&mut self, now: Instant) -> Option<String> {
        // A slow reader makes room now and again. The recovery is reported when nothing was dropped
        // for a while.
        self.trouble.take_if(|trouble| trouble.retry_at.is_none_or(|retry_at| now >= retry_at))?;
        Some(format!("{}: can be written again; {}", self.path.display(), self.pending.take_losses()))
    }

    fn failed(&mut self, now: Instant, error: &io::Error) -> Option<String> {
        let full = error.kind() == io::ErrorKind::WouldBlock && self.open.is_some();
        if !full {
            // The cause may be the open file itself.
            self.close();
        }
        let is_first = self.trouble.is_none();
        let trouble = self.trouble.get_or_insert(Trouble { retry_at: None, overflowed: false, full });
        (trouble.retry_at, trouble.full) = (Some(now + PAUSE), full);
        self.bound();
        is_first.then(|| {
            let why = self.explain(error);
            format!("{}: {why}; {}", self.path.display(), words::LINES_WAIT)
        })
    }

    /// Drops the bytes that are too many to wait for the next attempt.
    fn bound(&mut self) {
        let bytes = self.pending.bytes();
        if bytes.len() <= WAITING {
            return;
        }
        let (kept, is_whole) = match whole_lines(&bytes[..WAITING]) {
            Some(lines) => (lines.len(), true),
            None => (fit(bytes, WAITING).len(), false),
        };
        self.pending.truncate(kept);
        if !is_whole {
            self.pending.end_line(&self.pending.last_author());
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.overflowed = true;
        }
    }

    /// The error in words that fit the kind of the file.
    fn explain(&self, error: &io::Error) -> String {
        let kind = || fs::metadata(&self.path).ok().map(|there| there.file_type());
        match error.raw_os_error() {
            Some(libc::EAGAIN) => "it is read too slowly".into(),
            Some(libc::ENXIO) if kind().is_some_and(|kind| kind.is_fifo()) => "no process reads this named pipe".into(),
            Some(libc::ENXIO) if kind().is_some_and(|kind| kind.is_socket()) => {
                "it is a socket, which cannot be written as a file".into()
            }
            _ => error.to_string(),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            self.open()?;
            let Some(Open { file, rotates, size, .. }) = &mut self.open else { break };
            let rest = self.pending.bytes();
            if self.torn && (!*rotates || *size < self.rotation.max_size) {
                *size += write_once(file, &[b"\n"])? as u64;
                self.torn = false;
            } else if !*rotates {
                self.write_stream()?;
            } else if let Some(piece) = next_piece(rest, self.rotation.max_size, *size, self.line) {
                let count = write_once(file, &[piece])?;
                *size += count as u64;
                self.note(count);
            } else {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Writes the waiting bytes and then these whole lines, if all of them belong into this file.
    /// Returns how many bytes of `lines` have been written.
    fn write_through(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.open()?;
        let waiting = self.pending.bytes();
        let Some(Open { file, rotates: true, size, .. }) = self.open.as_mut().filter(|_| !self.torn) else {
            return Ok(0);
        };
        if *size + (waiting.len() + lines.len()) as u64 > self.rotation.max_size {
            return Ok(0);
        }
        let count = write_once(file, &[waiting, lines])?;
        *size += count as u64;
        let of_waiting = count.min(waiting.len());
        let of_lines = count - of_waiting;
        self.note(of_waiting);
        self.line = line_after(self.line, &lines[..of_lines]);
        Ok(of_lines)
    }

    /// Writes to a file without a size. Each write has as many whole lines as a pipe takes without
    /// tearing them.
    fn write_stream(&mut self) -> io::Result<()> {
        while let Some(Open { file, .. }) = self.open.as_ref().filter(|_| !self.pending.is_empty()) {
            let piece = fit(self.pending.bytes(), PIPE_BUF);
            let piece = whole_lines(piece).unwrap_or(piece);
            let count = write_once(file, &[piece])?;
            self.note(count);
        }
        Ok(())
    }

    /// Notes that the first `count` waiting bytes have been written.
    fn note(&mut self, count: usize) {
        self.line = line_after(self.line, &self.pending.bytes()[..count]);
        self.pending.pass(count);
    }

    /// Opens the file, unless the open file is still the one at this path. Checks that only once in
    /// a turn.
    fn open(&mut self) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.known) {
            return Ok(());
        }
        let there = fs::metadata(&self.path);
        let open = match self.open.take().filter(|open| there.is_ok_and(|there| id(&there) == open.id)) {
            Some(open) => open,
            None => {
                let place = self.find()?;
                self.open_anew(&place)?
            }
        };
        let there = open.file.metadata()?;
        // Another program may have emptied the file.
        self.torn &= !there.is_file() || there.len() > 0;
        self.open = Some(Open { size: there.len(), known: true, ..open });
        Ok(())
    }

    fn open_anew(&mut self, place: &Place) -> io::Result<Open> {
        let file = place.open(self.new)?;
        let there = file.metadata()?;
        let id = id(&there);
        let is_file = there.is_file();
        let Rotation { keep, max_age, compress, .. } = self.rotation;
        if let Some(than) = max_age.and_then(|age| SystemTime::now().checked_sub(age)) {
            for number in 1..=keep {
                place.remove_if_older(number, than, compress);
            }
        }
        if self.last.replace(id) != Some(id) || !is_file {
            // The unfinished line is in another file.
            self.torn = is_file && !ends_in_newline(place, there.len());
            self.line = if self.torn { 0 } else { self.line };
        }
        Ok(Open { file, id, rotates: is_file && place.can_be_renamed(), size: there.len(), known: true })
    }

    fn find(&self) -> io::Result<Place> {
        match safe_path::find_or_make(&self.path, self.new)? {
            Target::Place(place) => Ok(place),
            // The path leads to a descriptor of ours now, or that descriptor was closed when the
            // file was set.
            Target::Own(_) => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// Moves the open file away, and opens a new one in its place.
    ///
    /// All rotated files are renamed, because the number of each is its age. So the cost grows with
    /// the number of files that are kept.
    fn rotate(&mut self) -> io::Result<()> {
        let place = self.find()?;
        // Another program may have moved it already.
        if self.open.take().is_some_and(|open| place.is(&open.file)) {
            let Rotation { keep, compress, .. } = self.rotation;
            if keep == 0 {
                place.remove()?;
            } else {
                // Only the files up to the first free number have to move.
                let free = (1..keep).find(|number| !place.is_taken(*number, compress));
                for number in (1..free.unwrap_or(keep)).rev() {
                    place.renumber(Some(number), number + 1, compress)?;
                }
                place.renumber(None, 1, compress)?;
                self.rotated |= compress;
            }
        }
        self.open = Some(self.open_anew(&place)?);
        Ok(())
    }
}

/// The part of `rest` to write to a file of this size that ends with `begun` bytes of an unfinished
/// line. `None` if the file has to be rotated first.
fn next_piece(rest: &[u8], max_size: u64, size: u64, begun: u64) -> Option<&[u8]> {
    let room = usize::try_from(max_size.saturating_sub(size)).unwrap_or(usize::MAX);
    if let Some(lines) = whole_lines(&rest[..rest.len().min(room)]) {
        return Some(lines);
    }
    let line = rest.split_inclusive(|byte| *byte == b'\n').next()?;
    // Includes the newline, so that it always fits into the same file.
    let length = line.len() + usize::from(!line.ends_with(b"\n"));
    if begun + length as u64 <= max_size {
        return (length <= room || begun > 0).then_some(line);
    }
    // A line that is longer than a whole file begins in a new file and fills it.
    let rotates = size > 0 && (begun == 0 || room < 2);
    (!rotates).then(|| fit(line, room.saturating_sub(1)))
}

/// The length of the unfinished line at the end of a file after these bytes are written.
fn line_after(before: u64, bytes: &[u8]) -> u64 {
    match memrchr(b'\n', bytes) {
        Some(newline) => (bytes.len() - newline - 1) as u64,
        None => before + bytes.len() as u64,
    }
}

fn id(there: &Metadata) -> (u64, u64) {
    (there.dev(), there.ino())
}

/// Whether the file of this size ends with a newline. An empty or unreadable file counts as one
/// that does.
fn ends_in_newline(place: &Place, size: u64) -> bool {
    let Some(last) = size.checked_sub(1) else { return true };
    let mut byte = [0];
    place.open_to_read().and_then(|file| file.read_exact_at(&mut byte, last)).is_err() || byte == *b"\n"
}

/// Writes these slices one after the other, as far as one call does.
fn write_once<const N: usize>(mut file: &File, data: &[&[u8]; N]) -> io::Result<usize> {
    let data = data.map(IoSlice::new);
    loop {
        match file.write_vectored(&data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The start of `data` up to its last newline, if there is one.
fn whole_lines(data: &[u8]) -> Option<&[u8]> {
    memrchr(b'\n', data).map(|newline| &data[..=newline])
}

#[cfg(test)]
mod tests;
