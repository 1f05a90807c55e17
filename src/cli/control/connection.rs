//! One client of the supervisor: lines in, lines out. Understands neither.
//!
//! The one rule: edge-triggered, and bounded in both directions: at most one request's length of input is held, and
//! answers only as long as somebody reads them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::SourceId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::protocol::MAX_REQUEST;

/// With more than this unread, who follows the log is too slow.
const MAX_UNREAD: usize = 256 * 1024;
/// Who takes nothing of an answer for so long does not want it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reads of one client in one turn: a noisy one must not make others wait.
const READS: usize = 8;

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Line(Vec<u8>),
    TooLong,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) source: SourceId,
    stream: Arc<UnixStream>,
    input: Vec<u8>,
    /// So much of the input holds no newline.
    searched: usize,
    /// There may be more to read.
    readable: bool,
    /// The end of a line that was too long is still to come.
    skipping: bool,
    /// It will send no more.
    ended: bool,
    output: Vec<u8>,
    written: usize,
    /// Since when there is output that is not taken.
    stuck_since: Option<Instant>,
    /// It cannot be served any more.
    pub(super) broken: bool,
    /// A request has not been answered yet.
    pub(super) busy: bool,
    /// When it last sent something.
    pub(super) active: Instant,
}

impl Connection {
    pub(super) fn new(source: SourceId, stream: Arc<UnixStream>, now: Instant) -> Self {
        Self {
            source,
            stream,
            input: Vec::new(),
            searched: 0,
            readable: true,
            skipping: false,
            ended: false,
            output: Vec::new(),
            written: 0,
            stuck_since: None,
            broken: false,
            busy: false,
            active: now,
        }
    }

    /// It can be read, or is closed at the other end.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Whether nothing is going on.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.is_drained()
    }

    /// Whether all that was sent is taken.
    pub(super) fn is_drained(&self) -> bool {
        self.output.is_empty()
    }

    /// Whether there is something to do that no event will tell of.
    pub(super) fn has_work(&self) -> bool {
        self.is_idle() && !self.broken && (self.has_line() || self.readable || !self.has_room())
    }

    /// Whether all is done, for good or not.
    pub(super) fn is_over(&self) -> bool {
        self.broken || (self.ended && self.is_idle() && !self.has_line())
    }

    fn has_line(&self) -> bool {
        self.input[self.searched..].contains(&b'\n')
    }

    fn has_room(&self) -> bool {
        self.input.len() <= MAX_REQUEST
    }

    /// The next line, if the one before has been answered and the answer is read.
    pub(super) fn next(&mut self, now: Instant) -> Option<Input> {
        for _ in 0..READS {
            if self.broken || !self.is_idle() {
                return None;
            }
            if let Some(newline) = self.input[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.input.split_off(self.searched + newline + 1);
                let mut line = std::mem::replace(&mut self.input, rest);
                self.searched = 0;
                line.pop();
                if !std::mem::take(&mut self.skipping) {
                    return Some(Input::Line(line));
                }
                continue;
            }
            self.searched = self.input.len();
            if !self.has_room() {
                self.input.clear();
                self.searched = 0;
                if !std::mem::replace(&mut self.skipping, true) {
                    return Some(Input::TooLong);
                }
            }
            if !self.readable {
                // An idle client holds no memory.
                self.input.shrink_to_fit();
                return None;
            }
            self.read(now);
        }
        None
    }

    /// Reads what a request may still have; also while one is under way, to learn of the end.
    pub(super) fn read(&mut self, now: Instant) {
        let mut buffer = [0; 16 * 1024];
        while self.readable && self.has_room() {
            match (&*self.stream).read(&mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    self.readable = false;
                }
                Ok(count) => {
                    self.active = now;
                    self.input.extend_from_slice(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    self.broken |= error.kind() != io::ErrorKind::WouldBlock;
                }
            }
        }
    }

    /// Whether the other end has said all that it will.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the other end has closed the connection, so that nobody waits for an answer any more.
    /// One that only has no more to say may still wait.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut fds = [PollFd::new(&*self.stream, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// Adds an answer, and writes as much of it as is taken.
    pub(super) fn send(&mut self, line: &[u8], now: Instant) {
        if !self.broken {
            self.output.extend_from_slice(line);
            self.flush(now);
        }
    }

    /// Adds what nobody has to take: one that leaves too much of it is given up.
    pub(super) fn stream(&mut self, line: &[u8], now: Instant) {
        self.send(line, now);
        self.broken |= self.output.len() - self.written > MAX_UNREAD;
    }

    pub(super) fn flush(&mut self, now: Instant) {
        while self.written < self.output.len() && !self.broken {
            match (&*self.stream).write(&self.output[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    self.stuck_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck_since.get_or_insert(now);
                    if self.written > MAX_UNREAD {
                        self.output.drain(..self.written);
                        self.written = 0;
                    }
                    return;
                }
                Err(_) => self.broken = true,
            }
        }
        self.output = Vec::new();
        self.written = 0;
        self.stuck_since = None;
    }

    /// When it is given up if it takes nothing until then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stuck_since.map(|since| since + PATIENCE)
    }

    /// Gives it up if its time is over.
    pub(super) fn check(&mut self, now: Instant) {
        self.broken |= self.deadline().is_some_and(|deadline| deadline <= now);
    }
}

#[cfg(test)]
mod tests {
    use childminder::{Interest, Reactor};

    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn pair() -> (Connection, UnixStream, Instant) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (now, ours) = (Instant::now(), Arc::new(ours));
        let source = Reactor::new().unwrap().register(Arc::clone(&ours), Interest::Both).unwrap();
        (Connection::new(source, ours, now), theirs, now)
    }

    fn line(text: &str) -> Option<Input> {
        Some(Input::Line(text.as_bytes().to_vec()))
    }

    #[test]
    fn cuts_lines_wherever_they_come_apart() {
        let (mut ours, mut theirs, now) = pair();
        for piece in ["on", "e\ntwo\nthr", "ee\n", "\nhalf"] {
            theirs.write_all(piece.as_bytes()).unwrap();
            ours.set_readable();
            ours.read(now);
        }
        drop(theirs);
        ours.set_readable();
        for expected in ["one", "two", "three", ""] {
            assert_eq!(ours.next(now), line(expected));
        }
        assert_eq!(ours.next(now), None);
        assert!(ours.is_over());
    }

    #[test]
    fn an_endless_line_is_told_once_and_skipped() {
        let (mut ours, mut theirs, now) = pair();
        let writer = std::thread::spawn(move || {
            theirs.write_all(&vec![b'x'; 1 << 20]).unwrap();
            theirs.write_all(b"\nnext\n").unwrap();
            theirs
        });
        let mut inputs = Vec::new();
        while inputs.len() < 2 {
            ours.set_readable();
            inputs.extend(ours.next(now));
            assert!(ours.input.capacity() < 4 * MAX_REQUEST);
        }
        assert_eq!((inputs.remove(0), Some(inputs.remove(0))), (Input::TooLong, line("next")));
        drop(writer.join());
    }

    #[test]
    fn who_does_not_read_is_given_up() {
        let (mut ours, mut theirs, now) = pair();
        theirs.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(ours.next(now), line("one"));
        ours.send(&vec![b'x'; 1 << 20], now);
        assert_eq!(ours.next(now), None, "not before the answer is read");
        ours.check(now + PATIENCE - Duration::from_millis(1));
        assert!(!ours.is_over());
        ours.check(now + PATIENCE);
        assert!(ours.is_over());

        let (mut ours, _theirs, now) = pair();
        for _ in 0..2 * MAX_UNREAD / 1024 {
            ours.stream(&[b'x'; 1024], now);
        }
        assert!(ours.is_over());
    }
}
