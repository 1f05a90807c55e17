//! Finds the output files of processes and opens them. Writes nothing into them.
//!
//! The supervisor may have more rights than the users of its processes, and a folder that a log
//! lies in may belong to one of these users. So a path is walked folder by folder, and each folder
//! is held open while its entries are checked. Nothing that has been checked can be exchanged
//! afterwards. Nothing here waits.
//!
//! The trusted users are root and the supervisor's own user. The one rule: a symbolic link is
//! followed and a device or a named pipe is opened only if a trusted user has put it where it is.
//! Elsewhere only a regular file is opened, and only if no hard link can make it the file of
//! another user.

mod rotated;
mod socket;

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, fstat, mkdirat, openat, readlinkat,
    stat, statat, unlinkat,
};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::geteuid;

use super::{acl, descriptor};
pub(crate) use rotated::Uncompressed;
pub(crate) use socket::SocketFile;

/// The error for a file whose folder is missing.
const NO_FOLDER: &str = "its folder does not exist; `make-folders = true` makes it";
/// The number of links that the kernel follows.
pub(crate) const MAX_LINKS: usize = 40;
/// The number of attempts to open or make a file. Other processes may make or remove it in between.
const ATTEMPTS: usize = 8;
/// The flags for opening a folder only to reach its entries. That needs no right to list them.
#[cfg(target_os = "linux")]
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// With these flags, opening a named pipe does not wait for a reader, opening a file with a lease
/// does not wait for the lease to end, and opening a terminal does not make it our controlling
/// terminal.
const FILE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const APPEND: OFlags = FILE.union(OFlags::WRONLY).union(OFlags::APPEND);

/// The mode and the owner of a new file. An existing file keeps its own: another user may have put
/// it there, and would be given a file that this user may not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Creation {
    /// If it is `None`, the mode is 0666 without the bits of the umask.
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// Whether missing folders on the way to the file are made, with the same owner.
    pub(crate) folders: bool,
}

/// The end of a path.
#[derive(Debug)]
pub(crate) enum Target {
    /// Our own descriptor of this number.
    Own(i32),
    Place(Place),
}

/// An entry of a folder, which need not exist.
#[derive(Debug)]
pub(crate) struct Place {
    folder: Folder,
    name: OsString,
    /// Whether the entry stands for an open file of another process, as the entries of
    /// `/proc/PID/fd` do. Only the kernel can follow it.
    is_foreign: bool,
}

/// A folder that a path leads through.
#[derive(Debug)]
struct Folder {
    fd: OwnedFd,
    owner: u32,
    group: u32,
    mode: Mode,
    /// An access control list may let others than its group write to it.
    has_acl: bool,
    /// Its path without links.
    real: PathBuf,
    /// The untrusted user who may have put this folder where it is, if there is one.
    doubt: Option<Who>,
}

/// A user or a group that is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    User(u32),
    Group(u32),
    /// A user or group that an access control list names.
    Listed,
    All,
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user id {id}"),
            Self::Group(id) => write!(f, "group id {id}"),
            Self::Listed => f.write_str("a user of its folder's access control list"),
            Self::All => f.write_str("every user"),
        }
    }
}

/// Whether the user or the group with this number is trusted. Root and our own user are trusted,
/// and so is the group with the same number, in which a user is alone by convention.
///
/// The owner of the root folder counts as root, because in a user namespace root may have another
/// number.
fn is_trusted(id: u32) -> bool {
    static TRUSTED: OnceLock<[u32; 2]> = OnceLock::new();
    let trusted = TRUSTED.get_or_init(|| [geteuid().as_raw(), stat("/").map_or(0, |root| root.st_uid)]);
    id == 0 || trusted.contains(&id)
}

/// Follows `path`, which is absolute, to its end.
///
/// # Errors
///
/// A folder does not exist or cannot be entered, or there is a link that an untrusted user may have
/// put there.
pub(crate) fn find(path: &Path) -> io::Result<Target> {
    walk(path, None)
}

/// The same as [`find`] for a file that is about to be opened: if that is asked for, missing
/// folders are made.
///
/// # Errors
///
/// The errors of [`find`], with what to do about a missing folder, and those of `mkdirat(2)`.
pub(crate) fn find_or_make(path: &Path, new: Creation) -> io::Result<Target> {
    walk(path, Some(new)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), NO_FOLDER),
        _ => error,
    })
}

fn walk(path: &Path, new: Option<Creation>) -> io::Result<Target> {
    let mut folder = Folder::root()?;
    // The names that are left, in reverse order.
    let mut rest = Vec::new();
    push_names(&mut rest, path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if let Some(number) = own_descriptor(&folder.real, &name, &rest) {
            return Ok(Target::Own(number));
        }
        if name == ".." {
            folder = folder.parent()?;
            continue;
        }
        let link = if rest.is_empty() {
            match folder.look(&name) {
                Ok(there) if is_link(&there) => there,
                Ok(_) | Err(Errno::NOENT) => return Ok(Target::Place(Place { folder, name, is_foreign: false })),
                Err(error) => return Err(error.into()),
            }
        } else {
            match folder.enter(&name, OFlags::NOFOLLOW) {
                Ok(next) => {
                    folder = next;
                    continue;
                }
                Err(Errno::NOENT) if new.is_some_and(|new| new.folders) => {
                    folder.make(&name, new.unwrap_or_default())?;
                    folder = folder.enter(&name, OFlags::NOFOLLOW)?;
                    continue;
                }
                Err(error @ (Errno::NOTDIR | Errno::LOOP)) => {
                    Some(folder.look(&name)?).filter(is_link).ok_or(io::Error::from(error))?
                }
                Err(error) => return Err(error.into()),
            }
        };
        folder.check_link(&name, &link)?;
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if !folder.is_of_process() {
            let to = readlinkat(&folder.fd, &name, Vec::new())?;
            let to = Path::new(OsStr::from_bytes(to.as_bytes()));
            if to.is_absolute() {
                folder = Folder::root()?;
            }
            push_names(&mut rest, to);
        } else if rest.is_empty() {
            return Ok(Target::Place(Place { folder, name, is_foreign: true }));
        } else {
            folder = folder.enter(&name, OFlags::empty())?;
        }
    }
    Err(Errno::ISDIR.into())
}

/// Finds the paths that lead to descriptors of this command. Paths in the same folder usually
/// follow each other, so the way to a folder is walked only once. Use it while a file is read, and
/// not longer.
#[derive(Debug, Default)]
pub(crate) struct OwnFinder {
    /// The last folder, with its path, which has no links in it.
    last: Option<Folder>,
}

impl OwnFinder {
    /// The number of the descriptor of this command that `path` leads to, if it leads to one.
    ///
    /// # Errors
    ///
    /// The same as [`find`].
    pub(crate) fn own(&mut self, path: &Path) -> io::Result<Option<i32>> {
        let last = self.last.as_ref().filter(|last| path.parent() == Some(&last.real));
        if let (Some(folder), Some(name)) = (last, path.file_name()) {
            let is_plain = match folder.look(name) {
                Ok(there) => !is_link(&there),
                Err(error) => error == Errno::NOENT,
            };
            if is_plain && own_descriptor(&folder.real, name, &[]).is_none() {
                return Ok(None);
            }
        }
        match find(path)? {
            Target::Own(number) => Ok(Some(number)),
            Target::Place(place) => {
                self.last = Some(place.folder);
                Ok(None)
            }
        }
    }
}

/// Opens a file for a child that appends to it itself. The file is blocking, as a program expects
/// of its stdout.
///
/// # Errors
///
/// The errors of [`find`] and [`Place::open`].
pub(crate) fn open_for_child(path: &Path, new: Creation) -> io::Result<OwnedFd> {
    match find_or_make(path, new)? {
        Target::Own(number) => childminder::inherited_fd(number),
        Target::Place(place) => {
            let file = place.open(new)?;
            ioctl_fionbio(&file, false)?;
            Ok(file.into())
        }
    }
}

/// Opens a file for a child that reads it. The file is blocking, as a program expects of its stdin.
///
/// # Errors
///
/// The errors of [`find`], those of `openat(2)`, and a refusal as by [`Place::open`].
pub(crate) fn open_to_read(path: &Path) -> io::Result<OwnedFd> {
    match find(path)? {
        Target::Own(number) => childminder::inherited_fd(number),
        Target::Place(place) => {
            let flags = if place.is_foreign { FILE | OFlags::RDONLY } else { FILE | OFlags::RDONLY | OFlags::NOFOLLOW };
            let file = openat(&place.folder.fd, &place.name, flags, Mode::empty())?;
            place.check(&fstat(&file)?, Creation::default())?;
            ioctl_fionbio(&file, false)?;
            Ok(file)
        }
    }
}

/// The reason why a file is refused, if an untrusted user may have put it, or a link on the way to
/// it, where it is. Opens no file.
pub(crate) fn refusal(path: &Path, new: Creation) -> Option<String> {
    let looked = find(path).and_then(|target| match target {
        Target::Own(_) => Ok(()),
        Target::Place(place) => match place.look() {
            Ok(there) => place.check(&there, new),
            Err(_) => Ok(()),
        },
    });
    looked.err().filter(|error| error.get_ref().is_some()).map(|error| error.to_string())
}

/// Puts the names of a path onto a stack, the first on top.
pub(crate) fn push_names(rest: &mut Vec<OsString>, path: &Path) {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    });
    rest.extend(names.map(OsStr::to_owned));
}

/// The number of our own descriptor, if `name` in this folder, followed by `rest`, is one.
fn own_descriptor(real: &Path, name: &OsStr, rest: &[OsString]) -> Option<i32> {
    if rest.is_empty() {
        return descriptor::own(real, name);
    }
    // Without /proc, its links cannot be followed, so the path alone decides.
    let [number, folders @ ..] = rest else { return None };
    let folders: PathBuf = [name].into_iter().chain(folders.iter().rev().map(OsString::as_os_str)).collect();
    let is_own = real == Path::new("/") && ["proc/self/fd", "dev/fd"].map(Path::new).contains(&&*folders);
    if is_own { descriptor::number(number) } else { None }
}

fn is_link(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::Symlink
}

fn cannot_give(what: &str, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("it cannot be given its {what}: {error}"))
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

impl Folder {
    fn root() -> io::Result<Self> {
        Ok(Self::new(openat(CWD, "/", FOLDER, Mode::empty())?, "/".into())?)
    }

    fn new(fd: OwnedFd, real: PathBuf) -> Result<Self, Errno> {
        let there = fstat(&fd)?;
        let mode = Mode::from_raw_mode(there.st_mode);
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let has_acl = mode.contains(Mode::WGRP) && acl::is_on(Path::new(&path));
        Ok(Self { fd, owner: there.st_uid, group: there.st_gid, mode, has_acl, real, doubt: None })
    }

    fn parent(mut self) -> io::Result<Self> {
        self.real.pop();
        let fd = openat(&self.fd, "..", FOLDER, Mode::empty())?;
        Ok(Self { doubt: self.doubt, ..Self::new(fd, self.real)? })
    }

    fn enter(&self, name: &OsStr, flags: OFlags) -> Result<Self, Errno> {
        let fd = openat(&self.fd, name, FOLDER | flags, Mode::empty())?;
        let mut next = Self::new(fd, self.real.join(name))?;
        next.doubt = self.who_else(next.owner);
        Ok(next)
    }

    /// Makes a folder in this one.
    fn make(&self, name: &OsStr, new: Creation) -> io::Result<()> {
        match mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
            Ok(()) if new.uid.is_some() || new.gid.is_some() => {
                let (uid, gid) = (new.uid.map(Uid::from_raw), new.gid.map(Gid::from_raw));
                let given = chownat(&self.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
                given.map_err(|error| cannot_give("owner", error))
            }
            // Another process was faster.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => {
                let error = io::Error::from(error);
                let path = self.real.join(name);
                Err(io::Error::new(error.kind(), format!("the folder {} cannot be made: {error}", path.display())))
            }
        }
    }

    fn look(&self, name: &OsStr) -> Result<Stat, Errno> {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The untrusted user who may have put an entry with this owner here, if there is one.
    fn who_else(&self, owner: u32) -> Option<Who> {
        if self.doubt.is_some() || !is_trusted(self.owner) {
            return self.doubt.or(Some(Who::User(self.owner)));
        }
        let others = if self.mode.contains(Mode::WOTH) {
            Who::All
        } else if self.has_acl {
            Who::Listed
        } else if self.mode.contains(Mode::WGRP) && !is_trusted(self.group) {
            Who::Group(self.group)
        } else {
            return None;
        };
        match self.is_sticky() {
            // In a sticky folder, only the owner of an entry can remove or rename it.
            true => (!is_trusted(owner)).then_some(Who::User(owner)),
            false => Some(others),
        }
    }

    fn is_sticky(&self) -> bool {
        self.mode.contains(Mode::SVTX)
    }

    fn check_link(&self, name: &OsStr, link: &Stat) -> io::Result<()> {
        let owner = (!is_trusted(link.st_uid)).then_some(Who::User(link.st_uid));
        match self.who_else(link.st_uid).or(owner) {
            None => Ok(()),
            Some(who) => {
                let path = self.real.join(name);
                Err(refused(format!("{} is a symbolic link that {who} may have put there", path.display())))
            }
        }
    }

    /// Whether the links in this folder are open files and folders of a process, which the text of
    /// a link does not lead to.
    fn is_of_process(&self) -> bool {
        self.real.strip_prefix("/proc").is_ok_and(|rest| !rest.as_os_str().is_empty())
    }
}

impl Place {
    /// Opens the file to append to it, and makes it if it does not exist. The open file is
    /// non-blocking.
    ///
    /// # Errors
    ///
    /// The error of `openat(2)`, or a refusal: an untrusted user may have put the file there, and
    /// it may be the file of another user. A new file that cannot be given its mode and owner is
    /// removed.
    pub(crate) fn open(&self, new: Creation) -> io::Result<File> {
        let flags = if self.is_foreign { APPEND } else { APPEND | OFlags::NOFOLLOW };
        for _ in 0..ATTEMPTS {
            match openat(&self.folder.fd, &self.name, flags, Mode::empty()) {
                Ok(file) => {
                    self.check(&fstat(&file)?, new)?;
                    return Ok(file.into());
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            match self.create(new) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        Err(Errno::EXIST.into())
    }

    fn create(&self, new: Creation) -> io::Result<File> {
        // No other user may open the file before it has its mode and its owner.
        let mode = Mode::from_raw_mode(if new.mode.is_some() { 0o200 } else { 0o666 });
        let file = openat(&self.folder.fd, &self.name, APPEND | OFlags::CREATE | OFlags::EXCL, mode)?;
        if let Err(error) = new.apply(&file) {
            let _ = self.remove();
            return Err(error);
        }
        Ok(file.into())
    }

    /// Opens the file to read it.
    pub(crate) fn open_to_read(&self) -> io::Result<File> {
        let flags = FILE | OFlags::RDONLY | OFlags::NOFOLLOW;
        Ok(openat(&self.folder.fd, &self.name, flags, Mode::empty())?.into())
    }

    /// Whether the entry that is there now is this open file.
    pub(crate) fn is(&self, file: &File) -> bool {
        let (Ok(there), Ok(open)) = (self.look(), fstat(file)) else { return false };
        (there.st_dev, there.st_ino) == (open.st_dev, open.st_ino)
    }

    /// Whether the entry can be renamed, because it is an entry of an ordinary folder.
    pub(crate) fn can_be_renamed(&self) -> bool {
        !self.is_foreign
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(&self.folder.fd, &self.name, AtFlags::empty())?)
    }

    fn look(&self) -> Result<Stat, Errno> {
        let flags = if self.is_foreign { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        statat(&self.folder.fd, &self.name, flags)
    }

    /// Checks whether the entry, which exists, may be opened.
    fn check(&self, there: &Stat, new: Creation) -> io::Result<()> {
        let owner = there.st_uid;
        let Some(who) = self.folder.who_else(owner) else { return Ok(()) };
        let what = match FileType::from_raw_mode(there.st_mode) {
            FileType::RegularFile => None,
            // Opening a directory fails with an error of its own.
            FileType::Directory => return Ok(()),
            FileType::Fifo => Some("a named pipe"),
            FileType::Socket => Some("a socket"),
            FileType::Symlink => Some("a symbolic link"),
            _ => Some("a device"),
        };
        if let Some(what) = what {
            return Err(refused(format!("it is {what} that {who} may have put there")));
        }
        // A file of the folder's owner can at most be a link to another file of this owner.
        let is_of_folder = !is_trusted(owner) && owner == self.folder.owner;
        if there.st_nlink > 1 && !is_of_folder {
            return Err(refused(format!("it has other names (hard links), and {who} may have put it there")));
        }
        // This is like the kernel's fs.protected_regular: another user would read what we write.
        let is_expected = is_trusted(owner) || is_of_folder || new.uid == Some(owner);
        if self.folder.is_sticky() && !is_expected {
            return Err(refused(format!("it belongs to user id {owner}, and everybody may make files in its folder")));
        }
        Ok(())
    }
}

impl Creation {
    fn apply(self, file: &OwnedFd) -> io::Result<()> {
        if self.uid.is_some() || self.gid.is_some() {
            let given = fchown(file, self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
            given.map_err(|error| cannot_give("owner", error))?;
        }
        if let Some(mode) = self.mode {
            #[allow(clippy::cast_possible_truncation)] // 16 bits on some systems, which hold every mode
            let mode = Mode::from_raw_mode(mode as rustix::fs::RawMode);
            fchmod(file, mode).map_err(|error| cannot_give("mode", error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
