//! Connects to a Unix socket without waiting, and tells who is at its other end.
//!
//! Speaks no protocol. The one rule: a socket is deserted only if the system says that no process
//! listens on it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect};

/// Checks that no process listens on a socket. Otherwise the error is `AddrInUse`.
pub(super) fn check_deserted(path: &Path) -> io::Result<()> {
    match try_connect(path) {
        Err(Errno::CONNREFUSED) => Ok(()),
        Ok(there) => Err(in_use(Peer::of(&there).and_then(|peer| peer.pid))),
        // So many others are connecting that the queue is full.
        Err(Errno::AGAIN) => Err(in_use(None)),
        Err(error) => Err(error.into()),
    }
}

fn in_use(pid: Option<i32>) -> io::Error {
    let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    io::Error::new(io::ErrorKind::AddrInUse, format!("somebody listens there already{pid}"))
}

/// A socket that no child inherits.
pub(super) fn new() -> rustix::io::Result<OwnedFd> {
    // macOS has no flag for that. No other thread of this program could start a child in between.
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Connects, if that is possible at once. The error is `AGAIN` if too many others are waiting.
pub(super) fn try_connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = new()?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The process at the other end of a connection. For a listener, it is the process that began to
/// listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) uid: u32,
    /// Its pid; `None` if it is in a PID namespace that this process cannot look into.
    pub(super) pid: Option<i32>,
}

impl Peer {
    /// The peer of a socket; `None` if the system does not tell it.
    #[cfg(target_os = "linux")]
    pub(super) fn of(socket: &impl AsFd) -> Option<Self> {
        let peer = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        Some(Self { uid: peer.uid(), pid: Some(peer.pid()).filter(|pid| *pid > 0) })
    }

    /// The system is not asked here. The mode of the socket's file keeps other users out.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_: &impl AsFd) -> Option<Self> {
        Some(Self { uid: rustix::process::geteuid().as_raw(), pid: None })
    }

    /// Whether the peer is root, or runs as the same user as this process.
    pub(super) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}
