//! The control socket in the file system: its file and its lock. Speaks no protocol.
//!
//! The one rule: a socket that a process listens on is never removed, and nothing but a socket is
//! ever removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use rustix::fs::OFlags;
use rustix::fs::{AtFlags, Mode};
use rustix::net::{SocketAddrUnix, bind};

use super::lock::Lock;
use crate::cli::config::Access;
use crate::cli::peer::{self, Peer};

/// The number of connections that may wait to be accepted, as std has it.
const BACKLOG: i32 = 128;

/// The socket file that this process has made. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode. At the end another process's file may be at this path.
    identity: (u64, u64),
    access: Access,
    /// Of two supervisors that start at once, it lets only one listen.
    lock: Option<Lock>,
}

impl SocketFile {
    /// A socket that is made later, by [`bind_again`](Self::bind_again).
    pub(super) fn unbound(path: &Path, access: Access) -> Self {
        // No file has this identity.
        Self { path: path.to_owned(), identity: (0, 0), access, lock: None }
    }

    /// Listens at `path`. A socket that a dead supervisor has left there is replaced.
    pub(super) fn bind(path: &Path, access: Access) -> io::Result<(UnixListener, Self)> {
        let lock = lock(path)?;
        let (listener, identity) = listen(path, access)?;
        Ok((listener, Self { path: path.to_owned(), identity, access, lock }))
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Whether a user at the other end of a connection may use it.
    pub(super) fn trusts(&self, peer: Option<Peer>) -> bool {
        self.access.is_open() || peer.is_some_and(Peer::is_trusted)
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
        let (listener, identity) = listen(&self.path, self.access)?;
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

fn listen(path: &Path, access: Access) -> io::Result<(UnixListener, (u64, u64))> {
    make_room(path)?;
    let socket = peer::new()?;
    // The socket has its mode from the start. No other thread could make files with this umask
    // meanwhile.
    #[allow(clippy::cast_possible_truncation)] // 16 bits on some systems, which hold every mode
    let before = rustix::process::umask(Mode::from_raw_mode((!access.mode() & 0o777) as rustix::fs::RawMode));
    let bound = bind(&socket, &SocketAddrUnix::new(path)?);
    rustix::process::umask(before);
    bound?;
    let identity = identity(path)?;
    let ready = access.gid.map_or(Ok(()), |gid| give_to_group(path, identity, gid));
    // No client can connect before this.
    if let Err(error) = ready.and_then(|()| Ok(rustix::net::listen(&socket, BACKLOG)?)) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok((listener, identity))
}

/// Gives the file to a group. Another file that somebody has put in its place is not touched.
fn give_to_group(path: &Path, identity: (u64, u64), gid: u32) -> io::Result<()> {
    let gid = Some(rustix::fs::Gid::from_raw(gid));
    #[cfg(target_os = "linux")]
    {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let there = rustix::fs::fstat(&file)?;
        if (there.st_dev, there.st_ino) != identity {
            return Err(io::ErrorKind::NotFound.into());
        }
        rustix::fs::chownat(&file, "", None, gid, AtFlags::EMPTY_PATH).map_err(io::Error::from)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = identity;
        rustix::fs::chownat(rustix::fs::CWD, path, None, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
    }
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
    peer::check_deserted(path)?;
    fs::remove_file(path)
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

        let (listener, file) = SocketFile::bind(&path, Access::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let refused = SocketFile::bind(&path, Access::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // A listener that is too busy to accept is not replaced either.
        let mut waiting = Vec::new();
        if crate::left_out::needs_descriptors(5_000) {
            while peer::try_connect(&path).is_ok() {
                waiting.push(peer::try_connect(&path));
                assert!(waiting.len() < 10_000);
            }
            assert_eq!(SocketFile::bind(&path, Access::default()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        assert!(path.exists());

        drop((listener, file));
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert_eq!(SocketFile::bind(&path, Access::default()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_dir_all(&folder).unwrap();
    }
}
