//! Our own stdout and stderr. A slow reader makes the children wait and not us, and a reader that
//! goes away ends nothing.
//!
//! The one rule: a write happens only when it cannot block, and the descriptor's flags, which other
//! processes share, stay as they are.

use std::fs::File;
use std::io::{self, IoSlice, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::{Event, Interest, Reactor, SourceId, TimerId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::screen;
use super::text::{fit, visible};
use super::waiting::{Author, Waiting};

/// A write of this many bytes never blocks once poll(2) has reported that a pipe can be written
/// (POSIX's `PIPE_BUF` on Linux), and no other writer's bytes come between them.
const PIECE: usize = 4096;
/// The same for a terminal: a pty that is writable has room for 256 bytes of plain text, or for one
/// control character.
const TERMINAL_PIECE: usize = 256;
/// If more than this waits, the children have to wait, too.
const HIGH_WATER: usize = 256 * 1024;
/// If more than this waits, the output has not been read for a long time.
const ABANDONED: usize = 16 * 1024 * 1024;
/// The pause before the reactor is asked again to watch an output, after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// The number of bytes of memory that are kept when the output is empty.
const KEPT: usize = 1024 * 1024;

/// The kind of the file behind an output, as far as writing to it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Takes everything at once, and cannot be polled.
    File,
    Terminal,
    Pipe,
}

/// One of our outputs, and the bytes that it has not taken yet.
#[derive(Debug)]
pub(crate) struct Output {
    file: Arc<OwnedFd>,
    kind: Kind,
    waiting: Waiting,
    /// Whether the last byte that was written does not end a line.
    within_line: bool,
    /// Whether the rest of that line was dropped.
    torn: bool,
    /// The error of the last write, if it failed.
    error: Option<Errno>,
    /// Whether the error has been reported.
    told: bool,
    /// Whether the reader has gone away for good.
    gone: bool,
    source: Option<SourceId>,
    /// The timer for asking the reactor again to watch this.
    retry: Option<TimerId>,
}

impl Output {
    pub(crate) fn stdout() -> io::Result<Self> {
        Self::new(io::stdout())
    }

    pub(crate) fn stderr() -> io::Result<Self> {
        Self::new(io::stderr())
    }

    fn new(stream: impl AsFd) -> io::Result<Self> {
        Self::of(stream.as_fd().try_clone_to_owned()?)
    }

    /// An output for a descriptor that the command was started with.
    pub(crate) fn of(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let kind = match file.metadata()?.is_file() {
            true => Kind::File,
            false if file.is_terminal() => Kind::Terminal,
            false => Kind::Pipe,
        };
        Ok(Self {
            file: Arc::new(file.into()),
            kind,
            waiting: Waiting::new(KEPT),
            within_line: false,
            torn: false,
            error: None,
            told: false,
            gone: false,
            source: None,
            retry: None,
        })
    }

    /// Device and inode of the file behind it.
    pub(crate) fn id(&self) -> io::Result<(u64, u64)> {
        let there = File::from(self.file.try_clone()?).metadata()?;
        Ok((there.dev(), there.ino()))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.kind == Kind::Terminal
    }

    /// The number of columns, if it is a terminal.
    pub(crate) fn columns(&self) -> usize {
        screen::columns(&self.file)
    }

    /// Has the reactor report when there is room again.
    pub(crate) fn watch(&mut self, reactor: &mut Reactor) {
        match reactor.register(Arc::clone(&self.file), Interest::Writable) {
            Ok(source) => self.source = Some(source),
            // A file or /dev/null, which can always be written.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(_) => self.retry = Some(reactor.call_later(PAUSE)),
        }
    }

    /// Whether an event was meant for this output. [`flush`](Self::flush) writes the waiting bytes.
    pub(crate) fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Ready { source, .. } => self.source == Some(source),
            Event::Timer(id) if self.retry == Some(id) => {
                self.retry = None;
                self.watch(reactor);
                true
            }
            _ => false,
        }
    }

    /// Whether so much is waiting that nothing should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() > HIGH_WATER
    }

    /// Whether enough is waiting for a whole write.
    pub(crate) fn is_worth_a_write(&self) -> bool {
        self.waiting.len() >= PIECE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds bytes to the waiting ones. They are dropped if the reader has not read for a long time.
    pub(crate) fn push(&mut self, author: &Author, pieces: &[&[u8]]) {
        if self.kind == Kind::File && self.is_full() {
            self.flush();
        }
        if self.gone || self.waiting.len() > ABANDONED {
            return self.waiting.lose(author, pieces);
        }
        if std::mem::take(&mut self.torn) {
            self.waiting.end_line(author);
        }
        self.waiting.push(author, pieces);
    }

    /// Writes as much as there is room for.
    pub(crate) fn flush(&mut self) {
        while !self.is_empty() && self.has_room(Some(Duration::ZERO)) && self.write() {}
    }

    /// Writes everything, at the end, however long the reader takes. With a `deadline`, writes as
    /// much as is taken before it, and drops the rest.
    pub(crate) fn finish(&mut self, reactor: &Reactor, deadline: Option<Instant>) {
        while !self.is_empty() {
            let patience = time_left(reactor, deadline);
            let written = self.has_room(patience) && self.write();
            if !written && patience.is_some_and(|patience| patience.is_zero()) {
                self.drop_all();
            }
        }
    }

    /// Writes once. `false` if there was no room after all.
    fn write(&mut self) -> bool {
        let piece = self.next_piece();
        let written = match self.kind {
            Kind::Pipe => write_now(&self.file, piece),
            Kind::File | Kind::Terminal => rustix::io::write(&self.file, piece),
        };
        match written {
            Ok(written) => {
                self.within_line = written > 0 && piece[written - 1] != b'\n';
                self.waiting.pass(written);
                self.error = None;
            }
            Err(Errno::INTR) => {}
            // Another writer was faster or has made the output non-blocking.
            Err(Errno::AGAIN) => return false,
            // The error may be a full disk, a closed pipe or a hung-up terminal. Supervision goes
            // on in any case.
            Err(error) => {
                self.gone = error == Errno::PIPE || error == Errno::IO;
                self.error = Some(error).filter(|_| !self.gone);
                self.drop_all();
            }
        }
        true
    }

    fn drop_all(&mut self) {
        if self.within_line && self.waiting.bytes().starts_with(b"\n") {
            // The line is not lost, or is counted already. It gets its newline later.
            self.waiting.pass(1);
        }
        self.torn = self.within_line;
        self.waiting.truncate(0);
    }

    /// The next bytes to write: whole lines, if possible, because other processes may write to the
    /// same file.
    fn next_piece(&self) -> &[u8] {
        let waiting = self.waiting.bytes();
        match self.kind {
            Kind::File => waiting,
            Kind::Terminal => {
                let piece = fit(waiting, TERMINAL_PIECE);
                let text = piece.iter().position(u8::is_ascii_control).unwrap_or(piece.len());
                &piece[..text.max(1)]
            }
            Kind::Pipe => {
                let piece = fit(waiting, PIECE);
                piece.iter().rposition(|byte| *byte == b'\n').map_or(piece, |last| &piece[..=last])
            }
        }
    }

    /// A message about lines that could not be written, at the first failure and at the recovery. A
    /// reader that has gone away is no failure.
    pub(crate) fn take_news(&mut self) -> Option<String> {
        match self.error {
            Some(error) => {
                let is_news = !std::mem::replace(&mut self.told, true);
                is_news.then(|| format!("{}; lines are dropped until it can be written", io::Error::from(error)))
            }
            None if self.waiting.has_lost() && !self.gone && !self.is_full() => {
                self.told = false;
                Some(format!("can be written again; {}", self.waiting.take_losses()))
            }
            None => None,
        }
    }

    /// A message for the end about dropped lines that have not been reported.
    pub(crate) fn final_report(&mut self) -> Option<String> {
        let losses = self.waiting.has_lost().then(|| self.waiting.take_losses());
        let why = if self.gone { "nobody reads it any more; " } else { "" };
        losses.map(|losses| format!("{why}{losses}"))
    }

    fn has_room(&self, patience: Option<Duration>) -> bool {
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
        self.kind == Kind::File || poll(&mut fds, patience.as_ref()).is_ok_and(|count| count > 0)
    }
}

/// The time until the deadline. `None` if there is no deadline.
pub(crate) fn time_left(reactor: &Reactor, deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(reactor.now()))
}

/// Writes without blocking even if another process has filled the pipe since it was polled, where
/// the kernel supports that.
fn write_now(file: &OwnedFd, piece: &[u8]) -> Result<usize, Errno> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{ReadWriteFlags, pwritev2};
        // The offset means the file's own position, which a pipe does not have.
        let written = pwritev2(file, &[IoSlice::new(piece)], u64::MAX, ReadWriteFlags::NOWAIT);
        if !matches!(written, Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE)) {
            return written;
        }
    }
    rustix::io::write(file, piece)
}

/// Writes a message of ours to stderr. For use while no process is watched.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "childminder: {}", visible(message));
}

/// Writes an answer to stdout. For use while no process is watched. `false` if the reader has gone
/// away.
pub(crate) fn say(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot write to stdout: {error}"))),
    }
}

/// Writes lines without our mark to stderr.
pub(crate) fn complain_plainly(lines: &str) {
    let _ = writeln!(io::stderr(), "{lines}");
}
