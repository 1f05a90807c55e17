//! The control socket in the file system: who may own it, who may speak to it. Speaks no protocol.
//!
//! The one rule: a socket that somebody listens on is never taken away, and nothing but a socket is ever removed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, poll};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::lock::{self, Lock};

/// How long another one that starts at the same time is waited for before it is asked again, in nanoseconds.
const PAUSE: i64 = 20_000_000;

/// The socket file that we have made; taken away with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: what is there at the end may be another one's.
    identity: (u64, u64),
    /// From the look whether somebody listens to the end, so that of two that start at once one is refused.
    _lock: Option<Lock>,
}

impl SocketFile {
    /// Listens at `path`, in place of what a dead instance has left there.
    pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let known = folder.canonicalize()?.join(path.file_name().unwrap_or_default());
        let lock =
            lock::take("socket", &known).map_err(|held| io::Error::new(io::ErrorKind::AddrInUse, held.to_string()))?;
        let (listener, identity) = listen(path)?;
        Ok((listener, Self { path: path.to_owned(), identity, _lock: lock }))
    }

    /// Whether it is still there.
    pub(super) fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|there| there == self.identity)
    }

    /// Listens at the same place again, after somebody has taken the file away.
    pub(super) fn bind_again(&mut self) -> io::Result<UnixListener> {
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
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    make_room(path)?;
    // The mode is right from the first moment on. There is no other thread that could make files meanwhile.
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

/// Lets another process go on for a moment.
pub(super) fn pause() {
    let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: PAUSE }));
}

/// Takes away a socket that nobody listens on.
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
        // Connected; or not at once, because many others do so.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another instance is running"))
        }
        Err(error) => Err(error.into()),
    }
}

fn try_connect(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(socket, &SocketAddrUnix::new(path)?)
}

/// Whether who is at the other end is our own user, or root.
pub(super) fn is_peer_allowed(socket: impl AsFd) -> bool {
    // Elsewhere the mode of the file has to do.
    #[cfg(not(target_os = "linux"))]
    return true;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root())
}

/// The pid of who is at the other end; none where that is in another pid namespace.
#[cfg(target_os = "linux")]
pub(super) fn peer_pid(socket: impl AsFd) -> Option<i32> {
    // The kernel has 0 there for a process that we cannot see, which is no pid.
    rustix::net::sockopt::socket_peercred(socket).ok().map(|peer| peer.pid.as_raw_nonzero().get())
}

/// Connects to a supervisor, and only to one of ours.
pub(super) fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    if rustix::process::geteuid().is_root() || is_peer_allowed(&stream) {
        Ok(stream)
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"))
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
        // Not even if it is too busy to accept anybody.
        let mut waiting = Vec::new();
        while try_connect(&path).is_ok() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            let _ = connect(&socket, &SocketAddrUnix::new(&path).unwrap());
            waiting.push(socket);
            assert!(waiting.len() < 10_000);
        }
        assert_eq!(SocketFile::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());

        drop((listener, file));
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(SocketFile::bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_dir_all(&folder).unwrap();
    }
}
