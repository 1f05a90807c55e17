//! The control socket in the file system: its file and its lock. Speaks no protocol.
//!
//! The one rule: a socket that a process listens on is never removed, and nothing but a socket is
//! ever removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use super::lock::Lock;
use crate::cli::peer;

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

        let (listener, file) = SocketFile::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let refused = SocketFile::bind(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        // A listener that is too busy to accept is not replaced either.
        let mut waiting = Vec::new();
        if crate::left_out::needs_descriptors(5_000) {
            while peer::try_connect(&path).is_ok() {
                waiting.push(peer::try_connect(&path));
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
