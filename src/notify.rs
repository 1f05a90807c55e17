//! What a process says of its own state, by systemd's protocol (`sd_notify(3)`), and the socket on
//! which it is heard.
//!
//! This file reads messages and judges no sender. The one rule: a message never fails to be read;
//! what is not understood is left out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::sys;

/// The longest message, in bytes, as with systemd.
pub(crate) const LONGEST: usize = 4096;
/// The longest status, in bytes.
const STATUS: usize = 512;

/// What a process has said of its own state, lent by [`Event::Notified`](crate::Event::Notified).
///
/// One message can say several things. Keys that are not listed here are ignored.
///
/// ```
/// use std::time::Duration;
///
/// use childminder::{Command, Event, Reactor};
///
/// # if !cfg!(target_os = "linux") { return Ok(()); }
/// # let python = std::process::Command::new("python3").arg("--version").output().is_ok();
/// # if !python { return Ok(()); }
/// const SERVICE: &str = r#"
/// import os, socket
/// address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
/// with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said:
///     said.sendto(b"READY=1\nSTATUS=waiting for orders", address)
/// "#;
/// let mut reactor = Reactor::new()?;
/// let mut command = Command::new("python3");
/// command.args(["-c", SERVICE]).notify(true);
/// reactor.spawn_process(&command)?;
/// let (mut said, mut ended) = (None, false);
/// while !ended {
///     reactor.turn(Some(Duration::from_secs(1)), |_, event| match event {
///         Event::Notified { notice, .. } => said = Some(notice.clone()),
///         Event::Ended { .. } => ended = true,
///         _ => {}
///     })?;
/// }
/// let said = said.expect("it has said something");
/// assert!(said.ready && !said.stopping);
/// assert_eq!(said.status.as_deref(), Some("waiting for orders"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// It is ready, for the first time or after a reload (`READY=1`).
    pub ready: bool,
    /// It is about to end (`STOPPING=1`).
    pub stopping: bool,
    /// It reads its configuration again (`RELOADING=1`). It says [`ready`](Self::ready) when it has
    /// finished.
    pub reloading: bool,
    /// A sign of life, or the opposite (`WATCHDOG=1`, `WATCHDOG=trigger`).
    pub watchdog: Option<Watchdog>,
    /// From now on it gives its signs of life within this time (`WATCHDOG_USEC`).
    pub watchdog_interval: Option<Duration>,
    /// It needs so much more time, from now on, for what it is doing (`EXTEND_TIMEOUT_USEC`).
    pub extend_timeout: Option<Duration>,
    /// Its state in its own words (`STATUS`), in one line: control characters, and characters that
    /// change the order of the text, are left out. What exceeds 512 bytes is cut off.
    pub status: Option<String>,
    /// The pid that it calls the one of its main process (`MAINPID`). Nothing proves it.
    pub main_pid: Option<u32>,
    /// The error for which it fails (`ERRNO`).
    pub errno: Option<i32>,
    /// It wants to have descriptors kept for it (`FDSTORE=1`). They were closed: nothing is kept.
    pub store: bool,
}

/// A sign of life, or the opposite, in a [`Notice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Watchdog {
    /// It is alive (`WATCHDOG=1`).
    Alive,
    /// It has found out that it cannot go on, and wants to be ended as if it had given no sign of
    /// life (`WATCHDOG=trigger`).
    Trigger,
}

impl Notice {
    /// Reads a message. Of a key that comes twice the last value counts.
    pub(crate) fn parse(message: &[u8]) -> Self {
        let mut notice = Self::default();
        for line in message.split(|byte| *byte == b'\n') {
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else { continue };
            let (key, value) = (&line[..equals], &line[equals + 1..]);
            match key {
                b"READY" => notice.ready |= value == b"1",
                b"STOPPING" => notice.stopping |= value == b"1",
                b"RELOADING" => notice.reloading |= value == b"1",
                b"FDSTORE" => notice.store |= value == b"1",
                b"WATCHDOG" if value == b"1" => notice.watchdog = Some(Watchdog::Alive),
                b"WATCHDOG" if value == b"trigger" => notice.watchdog = Some(Watchdog::Trigger),
                b"WATCHDOG_USEC" => notice.watchdog_interval = microseconds(value).or(notice.watchdog_interval),
                b"EXTEND_TIMEOUT_USEC" => notice.extend_timeout = microseconds(value).or(notice.extend_timeout),
                b"STATUS" => notice.status = Some(plain(value)),
                b"MAINPID" => notice.main_pid = number(value).filter(|pid| *pid > 0).or(notice.main_pid),
                b"ERRNO" => notice.errno = number(value).or(notice.errno),
                _ => {}
            }
        }
        notice
    }

    /// Tells whether the message has said nothing of interest, such as a mere `BARRIER=1`.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn microseconds(value: &[u8]) -> Option<Duration> {
    number(value).filter(|microseconds| *microseconds > 0).map(Duration::from_micros)
}

/// Returns the text without anything that a terminal would obey, at most [`STATUS`] bytes.
fn plain(value: &[u8]) -> String {
    let mut plain = String::new();
    for char in String::from_utf8_lossy(value).chars() {
        let rearranges =
            matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if char.is_control() || rearranges {
            continue;
        }
        if plain.len() + char.len_utf8() > STATUS {
            break;
        }
        plain.push(char);
    }
    plain
}

/// The socket on which the tree of one process tells its state.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    /// It is there until the drop.
    socket: Option<OwnedFd>,
    address: OsString,
    /// Whether the kernel gives a pidfd of each sender that it can still find.
    pidfds: bool,
}

/// A message, and what the kernel says of its sender.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// `None` if the sender has no number in our PID namespace.
    pub(crate) pid: Option<i32>,
    /// A pidfd of the sender.
    pub(crate) pidfd: Option<OwnedFd>,
    /// Whether the kernel would have given a pidfd of a sender that still exists.
    pub(crate) has_pidfds: bool,
    /// Whether the message was not shortened.
    pub(crate) complete: bool,
    pub(crate) text: &'a [u8],
    /// Whether it came with descriptors, and is still in the queue. Taking it out closes them,
    /// which is the answer to `BARRIER=1`, and which may wait for the sender.
    pub(crate) is_queued: bool,
}

#[cfg(target_os = "linux")]
impl NotifySocket {
    /// Opens a socket with an address that no other socket can have.
    pub(crate) fn open() -> io::Result<Self> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};

        let name = format!("childminder-{}-{:016x}{:016x}", std::process::id(), random(), random());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let socket = sys::fd::above_stdio(socket.into())?;
        sys::fd::set_nonblocking(socket.as_fd())?;
        let pidfds = sys::notify::credentials(socket.as_fd())?;
        Ok(Self { socket: Some(socket), address: format!("@{name}").into(), pidfds })
    }

    /// Receives a message without waiting. It is `None` if there is none.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<Received<'b>>> {
        let Some(socket) = self.socket.as_ref().map(AsFd::as_fd) else { return Ok(None) };
        let len = buffer.len().min(LONGEST);
        let buffer = &mut buffer[..len];
        let message = sys::notify::peek(socket, buffer, self.pidfds).and_then(|peeked| match peeked.has_more {
            true => Ok((peeked, true)),
            false => Ok((sys::notify::receive(socket, buffer)?, false)),
        });
        let (message, is_queued) = match message {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            message => message?,
        };
        Ok(Some(Received {
            pid: message.pid,
            pidfd: message.pidfd,
            has_pidfds: self.pidfds,
            complete: message.complete,
            text: &buffer[..message.len.min(len)],
            is_queued,
        }))
    }

    /// Takes a message out of the queue that came with descriptors. This may wait for its sender.
    pub(crate) fn drop_message(&self) {
        if let Some(socket) = &self.socket {
            sys::notify::drop_message(socket.as_fd());
        }
    }

    /// Lets no further message in. Returns the socket if there are messages in its queue, whose
    /// descriptors would be closed with it.
    pub(crate) fn close(mut self) -> Option<OwnedFd> {
        self.take_unread()
    }

    fn take_unread(&mut self) -> Option<OwnedFd> {
        let socket = self.socket.take()?;
        sys::notify::stop(socket.as_fd());
        sys::notify::peek(socket.as_fd(), &mut [0], self.pidfds).is_ok().then_some(socket)
    }
}

/// A close that may wait is left to the end of this program, where it does not.
#[cfg(target_os = "linux")]
impl Drop for NotifySocket {
    fn drop(&mut self) {
        std::mem::forget(self.take_unread());
    }
}

#[cfg(not(target_os = "linux"))]
impl NotifySocket {
    pub(crate) fn open() -> io::Result<Self> {
        let what = "only Linux tells who has sent a message to a notify socket";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    pub(crate) fn receive<'b>(&self, _: &'b mut [u8]) -> io::Result<Option<Received<'b>>> {
        Ok(None)
    }
}

impl NotifySocket {
    /// Returns the value of `NOTIFY_SOCKET`.
    pub(crate) fn address(&self) -> &OsStr {
        &self.address
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }
}

/// A number that cannot be guessed.
#[cfg(target_os = "linux")]
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_said() {
        let notice = Notice::parse(b"READY=1\nSTATUS=three  connections\nMAINPID=17\nWATCHDOG=1\n");
        let expected = Notice {
            ready: true,
            status: Some("three  connections".into()),
            main_pid: Some(17),
            watchdog: Some(Watchdog::Alive),
            ..Notice::default()
        };
        assert_eq!(notice, expected);
        let notice =
            Notice::parse(b"STOPPING=1\nERRNO=5\nFDSTORE=1\nFDNAME=x\nWATCHDOG=trigger\nWATCHDOG_USEC=3000000");
        let expected = Notice {
            stopping: true,
            errno: Some(5),
            store: true,
            watchdog: Some(Watchdog::Trigger),
            watchdog_interval: Some(Duration::from_secs(3)),
            ..Notice::default()
        };
        assert_eq!(notice, expected);
        let notice = Notice::parse(b"RELOADING=1\nMONOTONIC_USEC=5\nEXTEND_TIMEOUT_USEC=1500");
        let extend_timeout = Some(Duration::from_micros(1500));
        assert_eq!(notice, Notice { reloading: true, extend_timeout, ..Notice::default() });
    }

    #[test]
    fn leaves_out_what_it_does_not_understand() {
        let nothing: [&[u8]; 12] = [
            b"",
            b"\n\n=\n",
            b"READY",
            b"READY=0\nREADY=yes\nREADY=1 \nready=1\n READY=1",
            b"X_READY=1",
            b"BARRIER=1",
            b"MAINPID=-1\nMAINPID=0\nMAINPID=+3\nMAINPID=99999999999",
            b"ERRNO=x\nERRNO=",
            b"WATCHDOG=2\nWATCHDOG_USEC=0\nWATCHDOG_USEC=",
            b"EXTEND_TIMEOUT_USEC=99999999999999999999999",
            b"\0\xff\xfe=\xff",
            b"STOPPING=1\0",
        ];
        for message in nothing {
            assert!(Notice::parse(message).is_empty(), "{:?}", String::from_utf8_lossy(message));
        }
        // Nonsense does not undo what was said before it.
        let notice =
            Notice::parse(b"READY=1\nREADY=0\nMAINPID=4\nMAINPID=x\nEXTEND_TIMEOUT_USEC=7\nEXTEND_TIMEOUT_USEC=0");
        assert!(notice.ready && notice.main_pid == Some(4));
        assert_eq!(notice.extend_timeout, Some(Duration::from_micros(7)));
    }

    #[test]
    fn a_status_cannot_command_a_terminal() {
        let status = |text: &[u8]| Notice::parse(&[b"STATUS=", text].concat()).status.unwrap();
        assert_eq!(status(b""), "");
        assert_eq!(status(b"a\x1b[31mb\r\x07c\x7f"), "a[31mbc");
        assert_eq!(status("a\u{9b}b\u{202e}c\u{2028}d\u{2066}e".as_bytes()), "abcde");
        assert_eq!(status("gr\u{fc}n = gut".as_bytes()), "gr\u{fc}n = gut");
        assert_eq!(status(b"\xff"), "\u{fffd}");
        assert_eq!(status(&[b'x'; 3000]).len(), STATUS);
        let long = status("\u{fc}".repeat(400).as_bytes());
        assert_eq!(long, "\u{fc}".repeat(STATUS / 2));
        assert_eq!(status(&["x", &"\u{fc}".repeat(400)].concat().into_bytes()).len(), STATUS - 1);
    }
}
