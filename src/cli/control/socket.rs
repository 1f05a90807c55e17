//! The control socket in the file system: who may own it, who may speak to it. Speaks no protocol.
//!
//! The one rule: a socket that somebody listens on is never taken away, and nothing but a socket is ever removed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, poll};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How often, and how far apart in nanoseconds, another one that starts at the same time is waited for.
const ATTEMPTS: usize = 100;
const PAUSE: i64 = 20_000_000;

/// The socket file that we have made; taken away with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: what is there at the end may be another one's.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`, in place of what a dead instance has left there.
    pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        // The folder is locked from the look to the bind, so that of two that start at once one is refused. No file is
        // left behind by that.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = File::open(folder)?;
        lock_exclusively(&lock)?;
        make_room(path)?;
        // The mode is right from the first moment on. There is no other thread that could make files meanwhile.
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound?;
        listener.set_nonblocking(true)?;
        let there = fs::symlink_metadata(path)?;
        Ok((listener, Self { path: path.to_owned(), identity: (there.dev(), there.ino()) }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |there: fs::Metadata| (there.dev(), there.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn lock_exclusively(folder: &File) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: PAUSE }));
            }
            result => return Ok(result?),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "its folder is locked by somebody else"))
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
        let folder = std::env::temp_dir().join(format!("childminder-socket-{}", std::process::id()));
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
