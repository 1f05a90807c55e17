//! Makes the file of a socket that listens, in a folder that was walked safely.
//!
//! The one rule: nothing but a socket that no process listens on is replaced, and another user's
//! file is never given a mode or an owner.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chmod, chownat, fstat, openat};
use rustix::io::Errno;
use rustix::process::{geteuid, umask};

use super::{Creation, Place, cannot_give, refused};
use crate::cli::peer;

/// The file of a socket. Dropping this removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    place: Place,
    /// Its device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    /// Whether there is no file at the path any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.place.look().is_err_and(|error| error == Errno::NOENT)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.place.look().is_ok_and(|there| identity(&there) == self.identity) {
            let _ = self.place.remove();
        }
    }
}

fn identity(there: &Stat) -> (u64, u64) {
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)] // their types differ between systems
    (there.st_dev as u64, there.st_ino as u64)
}

fn is_socket(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::Socket
}

impl Place {
    /// Binds a socket here. A socket that no process listens on is replaced. `path` is the path of
    /// this place, which becomes the name of the socket.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if a process listens there, `AlreadyExists` if there is something else than a
    /// socket, the error of `bind(2)`, or a refusal: an untrusted user could exchange the folder,
    /// or the socket cannot be given its owner.
    pub(crate) fn bind(self, path: &Path, new: Creation) -> io::Result<(OwnedFd, SocketFile)> {
        self.make_room(path)?;
        // No other user may connect before the socket has its mode and its owner. No other thread
        // could make files with this umask meanwhile.
        let gives = new.uid.is_some() || new.gid.is_some();
        let before = umask(Mode::RWXU | Mode::RWXG | Mode::RWXO);
        #[allow(clippy::cast_possible_truncation)] // 16 bits on some systems, which hold every mode
        let mode = new
            .mode
            .map_or(Mode::from_raw_mode(0o666) - before, |mode| Mode::from_raw_mode(mode as rustix::fs::RawMode));
        if !gives {
            umask(!mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO));
        }
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound?;
        let there = self.look().ok().filter(|there| is_socket(there) && there.st_uid == geteuid().as_raw());
        let Some(there) = there else {
            let folder = self.folder.real.display();
            return Err(refused(format!("its folder has been exchanged: the socket is not in {folder}")));
        };
        let file = SocketFile { identity: identity(&there), place: self };
        if gives {
            // An error removes the file.
            file.give(mode, new)?;
        }
        Ok((listener.into(), file))
    }

    /// Removes a socket that no process listens on.
    fn make_room(&self, path: &Path) -> io::Result<()> {
        let there = match self.look() {
            Err(Errno::NOENT) => return Ok(()),
            there => there?,
        };
        if !is_socket(&there) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file already, and it is no socket"));
        }
        peer::check_deserted(path)?;
        self.remove()
    }
}

impl SocketFile {
    /// Gives the file its owner and then its mode. The file is held open meanwhile, and is checked:
    /// a user who may write in the folder can only have put a socket of ours in its place.
    #[cfg(target_os = "linux")]
    fn give(&self, mode: Mode, new: Creation) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.place.folder.fd, &self.place.name, flags, Mode::empty())?;
        let there = fstat(&file)?;
        if identity(&there) != self.identity || there.st_nlink != 1 {
            return Err(refused("another user has exchanged it".into()));
        }
        let (uid, gid) = (new.uid.map(Uid::from_raw), new.gid.map(Gid::from_raw));
        chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH).map_err(|error| cannot_give("owner", error))?;
        chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode).map_err(|error| cannot_give("mode", error))
    }

    /// Gives the file its owner and then its mode, unless another user could exchange it meanwhile.
    #[cfg(not(target_os = "linux"))]
    fn give(&self, mode: Mode, new: Creation) -> io::Result<()> {
        let folder = &self.place.folder;
        if let Some(who) = folder.who_else(geteuid().as_raw()) {
            return Err(refused(format!("it cannot be given an owner in a folder in which {who} may exchange it")));
        }
        let (uid, gid) = (new.uid.map(Uid::from_raw), new.gid.map(Gid::from_raw));
        let given = chownat(&folder.fd, &self.place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        given.map_err(|error| cannot_give("owner", error))?;
        let given = rustix::fs::chmodat(&folder.fd, &self.place.name, mode, AtFlags::empty());
        given.map_err(|error| cannot_give("mode", error))
    }
}
