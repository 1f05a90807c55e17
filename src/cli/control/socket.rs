//! The control socket in the file system: its file, its lock, and the user at the other end. Speaks
//! no protocol.
//!
//! The one rule: a socket that a process listens on is never removed, and nothing but a socket is
//! ever removed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect};

use super::lock::Lock;

/// The socket file that this process has made. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode. At the end another process's file may be at this path.
    identity: (u64, u64),
    /// Of two supervisors that start at once, it lets only one listen.
    lock: Option<Lock>,
}

impl SocketFile {
    /// Listens at `path`. A socket that a dead supervisor has left there is replaced.
    pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let lock = lock(path)?;
        let (listener, identity) = listen(path)?;
        Ok((listener, Self { path: path.to_owned(), identity, lock }))
    }

    /// Whether the file at the path is still ours.
    pub(super) fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|there| there == self.identity)
    }

    /// Listens at the same path again, after the file was removed.
    pub(super) fn bind_again(&mut self) -> io::Result<UnixListener> {
        if !self.lock.as_ref().is_some_and(Lock::is_there) {
            self.lock = lock(&self.path)?;
        }
        let (listener, identity) = listen(&self.path)?;
        self.identity = identity;
        Ok(listener)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}

fn lock(socket: &Path) -> io::Result<Option<Lock>> {
    Lock::of_socket(socket).map_err(|held| io::Error::new(io::ErrorKind::AddrInUse, held.to_string()))
}

fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    make_room(path)?;
    // The socket has its mode from the start. No other thread could make files with this umask
    // meanwhile.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok((listener, identity(path)?))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()))
}

/// Removes a socket that no process listens on.
fn make_room(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file already, and it is no socket"));
    }
    match try_connect(path) {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path),
        Ok(there) => Err(in_use(Peer::of(&there).and_then(|peer| peer.pid))),
        // So many others are connecting that the queue is full.
        Err(rustix::io::Errno::AGAIN) => Err(in_use(None)),
        Err(error) => Err(error.into()),
    }
}

/// The error for a socket of a process that does not hold our lock. It is no supervisor, or a
/// supervisor of another user.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_one_is_replaced_a_living_one_never() {
        let folder = crate::guard::folder().join("socket");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");

        let (listener, file) = SocketFile::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let refused = SocketFile::bind(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // A listener that is too busy to accept is not replaced either.
        let mut waiting = Vec::new();
        if crate::left_out::needs_descriptors(5_000) {
            while try_connect(&path).is_ok() {
                waiting.push(try_connect(&path));
                assert!(waiting.len() < 10_000);
            }
            assert_eq!(SocketFile::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        assert!(path.exists());

        drop((listener, file));
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(SocketFile::bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_dir_all(&folder).unwrap();
    }
}
