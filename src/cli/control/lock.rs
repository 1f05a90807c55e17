//! Locks that keep a second supervisor from running a file, or from listening at a socket, that
//! already has a supervisor. The kernel releases them when the supervisor ends, however it ends.
//!
//! A lock is a write lock on one byte of a file (`F_OFD_SETLK` in fcntl(2)). Linux only. A lock
//! that is held is refused at once, so nothing here waits. Only a process that may open the file
//! for writing can hold it. There are two locks:
//!
//! - **On the configuration file.** It holds whatever other files are removed, and also against a
//!   supervisor of another user. The number of the byte is that of the PID namespace, so that
//!   containers can share a file. There is no such lock if the file cannot be opened for writing,
//!   as on a read-only mount, or if the file system has no locks. A process that may read the file
//!   can take a read lock before the supervisor starts; the supervisor then starts without this
//!   lock. An editor that renames a new file into place has made another file, and the supervisor
//!   locks that one at the next reload. While the lock is held, the file system cannot be remounted
//!   read-only.
//! - **On `SOCKET.lock`**, a file beside the socket that only its owner may open. It holds for all
//!   files that name the same socket, and when the configuration file has no lock. Removing it does
//!   no harm as long as the socket is there, because a supervisor listens there. When the
//!   supervisor makes the socket again, it makes the lock again. There is no such lock if another
//!   user has made a file of this name.
//!
//! So a second supervisor can start only if two things happen at once: the configuration file has
//! no lock, and the socket and its lock have been removed and are not made again yet.
//!
//! The one rule: a lock that cannot be taken keeps no supervisor from starting. Only another holder
//! of the same lock does.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// With these flags, opening neither waits nor makes a terminal our controlling terminal.
const FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY;
/// The number of times that a lock file is opened again because its holder has removed it
/// meanwhile.
const ATTEMPTS: usize = 100;

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    /// Device and inode of the file.
    id: (u64, u64),
    _file: File,
}

/// The error if another process holds the lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The pid of the holder, if this process may see it.
    pub(crate) pid: Option<i32>,
}

/// The lock, or `None` if there cannot be one.
type Taken = Result<Option<Lock>, Held>;

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "another instance is running, pid {pid}"),
            None => f.write_str("another instance is running"),
        }
    }
}

impl Lock {
    /// Takes the lock on a configuration file; `None` if there cannot be one.
    pub(crate) fn on_configuration(path: &Path) -> Taken {
        let byte = pid_namespace();
        // The file is opened for writing only if the lock is free: closing such a descriptor looks
        // like a change of the file to every program that watches it.
        let Ok(file) = File::options().read(true).custom_flags(FLAGS).open(path) else { return Ok(None) };
        if system::is_held(&file, byte) {
            return Err(Held { pid: holder(&file, byte) });
        }
        let Ok(file) = File::options().read(true).write(true).custom_flags(FLAGS).open(path) else { return Ok(None) };
        if system::take(&file, byte).is_ok() {
            return Ok(Self::new(path, file).ok());
        }
        match system::is_held(&file, byte) {
            true => Err(Held { pid: holder(&file, byte) }),
            false => Ok(None),
        }
    }

    /// Takes the lock of a socket; `None` if there cannot be one.
    pub(super) fn of_socket(socket: &Path) -> Taken {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..ATTEMPTS {
            let Some(file) = open_own(&path) else { return Ok(None) };
            if let Err(error) = system::take(&file, 0) {
                let is_held = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES));
                return if is_held { Err(Held { pid: holder(&file, 0) }) } else { Ok(None) };
            }
            match Self::new(&path, file) {
                // The previous holder may have removed the file after it was opened here.
                Ok(lock) if !lock.is_there() => {}
                lock => return Ok(lock.ok()),
            }
        }
        Ok(None)
    }

    fn new(path: &Path, file: File) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(&file.metadata()?), _file: file })
    }

    /// Whether the locked file is still the one at its path.
    pub(crate) fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|there| id(&there) == self.id)
    }

    /// Whether this is the lock on the file that is at this path now.
    pub(crate) fn is_on(&self, path: &Path) -> bool {
        self.path == path && self.is_there()
    }

    /// Removes the lock file of a socket.
    pub(super) fn remove(self) {
        // The lock is still held here, so that no other process has taken it on this file.
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Opens a file that only our user may open, and makes it if it does not exist. `None` if that
/// fails.
fn open_own(path: &Path) -> Option<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(FLAGS | libc::O_NOFOLLOW);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // No other thread could make files with this umask meanwhile.
            let before = rustix::process::umask(Mode::empty());
            let made = options.create(true).truncate(false).mode(0o600).open(path);
            rustix::process::umask(before);
            made.ok()?
        }
        result => result.ok()?,
    };
    let there = file.metadata().ok()?;
    let is_own = there.is_file() && there.uid() == rustix::process::geteuid().as_raw() && there.mode() & 0o077 == 0;
    is_own.then_some(file)
}

/// The byte for the PID namespace of this process: the number of the namespace without its sign
/// bit, since 32-bit programs may have offsets of 32 bits. 0 if the number is not known.
fn pid_namespace() -> i32 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| (namespace.ino() & 0x7fff_ffff) as i32)
}

/// The pid of the process that holds the lock, as far as /proc tells: a descriptor's locks are
/// shown to its own user and to root. Only processes with the same name as this one are checked.
fn holder(file: &File, byte: i32) -> Option<i32> {
    let inode = file.metadata().ok()?.ino();
    let own = fs::read("/proc/self/comm").ok()?;
    let is_lock = |line: &str| {
        line.starts_with("lock:") && line.contains(" WRITE ") && line.ends_with(&format!(":{inode} {byte} {byte}"))
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        if fs::read(process.path().join("comm")).ok()? != own {
            return None;
        }
        let mut descriptors = fs::read_dir(process.path().join("fdinfo")).ok()?.flatten();
        let holds = descriptors
            .any(|descriptor| fs::read_to_string(descriptor.path()).is_ok_and(|text| text.lines().any(is_lock)));
        holds.then_some(pid)
    })
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io;

    use nix::fcntl::{FcntlArg, fcntl};

    fn byte_lock(kind: i32, byte: i32) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte.into(),
            l_len: 1,
            l_pid: 0,
        }
    }

    /// Takes the write lock on one byte, or fails at once.
    pub(super) fn take(file: &File, byte: i32) -> io::Result<()> {
        fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_WRLCK, byte)))?;
        Ok(())
    }

    /// Whether another open file holds the write lock on exactly this byte. Read locks do not
    /// count, and neither does an editor's write lock on the whole file.
    pub(super) fn is_held(file: &File, byte: i32) -> bool {
        let mut lock = byte_lock(libc::F_RDLCK, byte);
        let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
        asked.is_ok() && i32::from(lock.l_type) == libc::F_WRLCK && (lock.l_start, lock.l_len) == (byte.into(), 1)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io;

    pub(super) fn take(_: &File, _: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn is_held(_: &File, _: i32) -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_is_gone() {
        let folder = crate::guard::folder().join("lock");
        fs::create_dir_all(&folder).unwrap();
        let (file, socket) = (folder.join("file"), folder.join("socket"));
        fs::write(&file, "").unwrap();
        let takes: [fn(&Path) -> Taken; 2] = [Lock::on_configuration, Lock::of_socket];
        let own = Held { pid: i32::try_from(std::process::id()).ok() };
        for (take, path) in takes.into_iter().zip([&file, &socket]) {
            let lock = take(path).unwrap().expect("a lock");
            assert_eq!(take(path).unwrap_err(), own);
            // A lock on another file is free.
            assert!(Lock::of_socket(&folder.join("other")).unwrap().is_some());
            drop(lock);
            // A child of another test has a copy of the descriptor until its exec.
            let again = std::iter::repeat_with(|| take(path)).find_map(Result::ok);
            again.flatten().expect("a lock").remove();
        }
        assert!(!folder.join("socket.lock").exists());
        assert_eq!(Lock::on_configuration(&folder.join("missing")).map(|lock| lock.is_some()), Ok(false));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_others_may_open_is_no_lock() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = crate::guard::folder().join("lock-of-others");
        fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("socket");
        let path = folder.join("socket.lock");
        fs::write(folder.join("precious"), "").unwrap();
        symlink("precious", &path).unwrap();
        assert_eq!(Lock::of_socket(&socket).map(|lock| lock.is_some()), Ok(false), "a link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(Lock::of_socket(&socket).map(|lock| lock.is_some()), Ok(false), "a folder");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Lock::of_socket(&socket).map(|lock| lock.is_some()), Ok(false), "a file that others may read");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Lock::of_socket(&socket).map(|lock| lock.is_some()), Ok(true));
        fs::remove_dir_all(&folder).unwrap();
    }
}
