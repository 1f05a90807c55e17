//! The supervisor's end of a connection to one client: it reads and writes lines. It does not
//! interpret them.
//!
//! The one rule: memory is bounded in both directions. At most one request's length of input is
//! kept, and an answer is kept only as long as the client goes on reading. Events are
//! edge-triggered, so a readable stream is remembered until it has been read empty.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::SourceId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::protocol::MAX_REQUEST;

/// A client that follows a log and leaves more than this unread is too slow.
const MAX_UNREAD: usize = 256 * 1024;
/// A client that takes nothing of an answer for this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of reads of one client in one turn. A busy client must not make others wait.
const READS: usize = 8;

/// A line that a client has sent.
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
    /// The length of the start of the input that is known to hold no newline.
    searched: usize,
    /// Whether there may be more to read.
    readable: bool,
    /// Whether the rest of a line that was too long is still to come.
    skipping: bool,
    /// Whether the client will send no more.
    ended: bool,
    output: Vec<u8>,
    written: usize,
    /// The time since which the client has taken none of the output.
    stuck_since: Option<Instant>,
    /// Whether the connection cannot be used any more.
    pub(super) broken: bool,
    /// Whether a request has not been answered yet.
    pub(super) busy: bool,
    /// The time at which the client last sent something.
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

    /// Notes that the stream can be read, or is closed at the other end.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Whether no request is being answered and no output is left.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy && self.is_drained()
    }

    /// Whether the client has taken all output.
    pub(super) fn is_drained(&self) -> bool {
        self.output.is_empty()
    }

    /// Whether there is work that no event will announce.
    pub(super) fn has_work(&self) -> bool {
        self.is_idle() && !self.broken && (self.has_line() || self.readable || !self.has_room())
    }

    /// Whether the connection can be dropped, because it is broken or because all is done.
    pub(super) fn is_over(&self) -> bool {
        self.broken || (self.ended && self.is_idle() && !self.has_line())
    }

    fn has_line(&self) -> bool {
        self.input[self.searched..].contains(&b'\n')
    }

    fn has_room(&self) -> bool {
        self.input.len() <= MAX_REQUEST
    }

    /// The next line, if the one before it has been answered and the client has taken the answer.
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
                // An idle client uses no memory for its input.
                self.input.shrink_to_fit();
                return None;
            }
            self.read(now);
        }
        None
    }

    /// Reads input up to the length of a request. It is called also while a request is being
    /// answered, to notice that the client has closed its end.
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

    /// Whether the client has closed its sending end.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the client has closed the whole connection, so that it waits for no answer any more.
    /// A client that has only closed its sending end may still wait.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut fds = [PollFd::new(&*self.stream, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// Adds an answer, and writes as much of it as the client takes.
    pub(super) fn send(&mut self, line: &[u8], now: Instant) {
        if !self.broken {
            self.output.extend_from_slice(line);
            self.flush(now);
        }
    }

    /// Adds a line that the client need not take in time. A client that leaves too much unread is
    /// given up.
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

    /// The time at which the client is given up, unless it takes something before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stuck_since.map(|since| since + PATIENCE)
    }

    /// Gives the client up if its deadline has passed.
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
