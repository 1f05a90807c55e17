//! The client's end of a connection to a supervisor: it sends and receives lines. It does not
//! interpret them.
//!
//! The one rule: whatever process listens at the socket, it costs this process a bounded time and a
//! bounded memory, and the client talks to it only if its user is trusted.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketAddrUnix, connect};
use serde_json::Value;

use super::place::Place;
use crate::cli::failure::Failure;
use crate::cli::peer::{self, Peer, try_connect};

/// The time that a supervisor may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line of an answer, in bytes. The status of 10,000 processes is a quarter of it.
const LONGEST: usize = 16 << 20;
/// The greatest number of values in an answer, and of objects among them. The status of 10,000
/// processes has a fifth of both. A value takes far more memory than its text: an object takes more
/// than half a kilobyte.
const VALUES: usize = 1_000_000;
const OBJECTS: usize = 100_000;
/// The size of one read, in bytes.
const PIECE: usize = 64 << 10;

pub(super) struct Supervisor {
    stream: UnixStream,
    /// The socket's path, for messages.
    place: String,
    pid: Option<i32>,
    /// The input after the last line that was returned.
    input: Vec<u8>,
}

impl Supervisor {
    /// Connects to the supervisor at a place. `owner` is a user that it may run as, besides root
    /// and this process's own user.
    pub(super) fn connect(place: &Place, owner: Option<u32>) -> Result<Self, Failure> {
        let shown = place.shown();
        let stream = match open(place) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(no_answer(&shown, None)),
            Err(error) => return Err(why_not(place, &error)),
        };
        let Some(peer) = Peer::of(&stream) else {
            return Err(Failure::Other(format!("{shown}: the system does not tell who listens there")));
        };
        if !peer.is_trusted() && owner != Some(peer.uid) {
            let (uid, pid) = (peer.uid, peer.pid.map(|pid| format!(", pid {pid},")).unwrap_or_default());
            return Err(Failure::Other(format!(
                "{shown}: user id {uid} listens there{pid} who is neither you nor root; with `--owner {uid}` you trust \
                 that user"
            )));
        }
        Ok(Self { stream, place: shown, pid: peer.pid, input: Vec::new() })
    }

    pub(super) fn send(&mut self, line: &[u8]) {
        // Even if this fails, there may be a refusal to read.
        let _ = self.stream.write_all(line);
    }

    /// The next line as a value, if it comes before the deadline. Without a deadline there is no
    /// limit.
    pub(super) fn receive(&mut self, deadline: Option<Instant>) -> Result<Value, Failure> {
        let mut searched = 0;
        loop {
            let newline = self.input[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(newline) = newline {
                let rest = self.input.split_off(searched + newline + 1);
                let line = std::mem::replace(&mut self.input, rest);
                if has_many_values(&line) {
                    return Err(self.failed("its answer has more values than any of a supervisor"));
                }
                return serde_json::from_slice(&line).map_err(|_| self.is_none());
            }
            searched = self.input.len();
            if searched > LONGEST {
                return Err(self.failed(&format!("its answer is longer than {} MiB", LONGEST >> 20)));
            }
            if !self.wait(deadline) {
                return Err(no_answer(&self.place, self.pid));
            }
            let mut piece = [0; PIECE];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(self.failed("the supervisor has gone")),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error.to_string())),
            }
        }
    }

    /// Whether a whole line has been read that was not returned yet.
    pub(super) fn has_line(&self) -> bool {
        self.input.contains(&b'\n')
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Waits until the supervisor has closed the connection. `false` if it has not by the deadline.
    pub(super) fn wait_for_end(&mut self, deadline: Instant) -> bool {
        let mut piece = [0; PIECE];
        while self.wait(Some(deadline)) {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
        false
    }

    /// Waits until there is something to read, or until the deadline. `false` if there is nothing.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> bool {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return !matches!(ready, Ok(0)),
            }
        }
    }

    /// The error for an answer that no supervisor sends.
    pub(super) fn is_none(&self) -> Failure {
        self.failed("what answers there is no supervisor")
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::Other(format!("{}: {what}", self.place))
    }
}

/// Whether a line of JSON may have more values than [`VALUES`] or [`OBJECTS`]. Commas and brackets
/// in strings count, too.
fn has_many_values(line: &[u8]) -> bool {
    let (mut values, mut objects) = (0, 0);
    for byte in line {
        values += usize::from(matches!(byte, b',' | b'[' | b'{'));
        objects += usize::from(*byte == b'{');
    }
    values > VALUES || objects > OBJECTS
}

/// A client has no reactor that could tell it the time.
#[allow(clippy::disallowed_methods)]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Connects. The error is `WouldBlock` if the supervisor accepts no connection for [`PATIENCE`].
fn open(place: &Place) -> io::Result<UnixStream> {
    let socket = peer::new()?;
    // This limits the wait for a connection, and the wait for room for a long request.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::io::retry_on_intr(|| connect(&socket, &SocketAddrUnix::new(&place.path)?))?;
    Ok(socket.into())
}

/// Whether a process listens there.
pub(super) fn is_served(place: &Place) -> bool {
    matches!(try_connect(&place.path), Ok(_) | Err(rustix::io::Errno::AGAIN))
}

fn no_answer(place: &str, pid: Option<i32>) -> Failure {
    let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Failure::Other(format!("the supervisor at {place}{pid} does not answer; it may be stopped"))
}

/// The error if there was no connection.
fn why_not(place: &Place, error: &io::Error) -> Failure {
    let shown = place.shown();
    let is_no_socket = std::fs::metadata(&place.path).is_ok_and(|there| !there.file_type().is_socket());
    Failure::Other(match error.kind() {
        // The system checks the mode of a file before its type.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied if is_no_socket => {
            format!("{shown} is no socket")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let why = place.default_because.as_ref().map(|why| format!(" (the default, as {why})"));
            format!("no supervisor is running at {shown}{}", why.unwrap_or_default())
        }
        io::ErrorKind::PermissionDenied => {
            format!("{shown}: {error}; only root and the supervisor's own user may talk to it")
        }
        _ => format!("{shown}: {error}"),
    })
}
