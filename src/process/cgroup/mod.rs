//! One cgroup for each process, below one directory for each reactor (`cgroups(7)`).
//!
//! This file knows what the kernel's files mean. The reactor decides when they are used. It needs
//! no controller, and touches nothing that was there before ([`limits`] has the one exception).
//!
//! The one rule: a directory is never removed if it does not have our kind of name, or if a living
//! reactor has locked it.

mod figures;
mod limits;
mod parent;

use std::collections::HashSet;
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mio::Interest;

use super::table;
use crate::sys::{self, cgroup};
use limits::Controllers;
pub(crate) use limits::refused_processes;

/// The readiness by which the event files of a cgroup report a change.
#[cfg(target_os = "linux")]
pub(crate) const CHANGES: Interest = Interest::PRIORITY;
#[cfg(not(target_os = "linux"))]
pub(crate) const CHANGES: Interest = Interest::READABLE;

/// The prefix of the directories of all reactors.
const PREFIX: &str = "childminder-";
/// How many names are tried for the directory of a reactor.
const NAMES: u64 = 10_000;
/// The depth to which cgroups are removed that a process has made itself.
const DEPTH: usize = 64;
/// How many pidfds are open at a time while the members of a cgroup are signalled.
const BATCH: usize = 64;
/// How often new members are searched for while a signal is sent to all of them.
const PASSES: usize = 16;

/// The reason for no cgroup if its members could not be killed.
const UNKILLABLE: &str = "the members of a cgroup could not be killed: there is neither cgroup.kill nor a pidfd";

/// The reason why no cgroup can be used.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    what: Arc<str>,
    kind: io::ErrorKind,
    errno: Option<i32>,
}

impl Refused {
    pub(crate) fn new(what: String, error: &io::Error) -> Self {
        let (kind, errno) = (error.kind(), error.raw_os_error());
        let said = match errno {
            None if kind == io::ErrorKind::NotFound => what,
            _ => format!("{what}: {error}"),
        };
        Self { what: said.into(), kind, errno }
    }

    pub(crate) fn unsupported(what: String) -> Self {
        Self { what: what.into(), kind: io::ErrorKind::Unsupported, errno: None }
    }

    /// Returns what was tried, and the system's error.
    pub(crate) fn reason(&self) -> Arc<str> {
        Arc::clone(&self.what)
    }

    pub(crate) fn error(&self) -> io::Error {
        self.errno.map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }

    /// Tells whether the directories were removed by another program.
    pub(crate) fn is_vanished(&self) -> bool {
        matches!(self.errno, Some(libc::ENOENT | libc::ENODEV))
    }

    /// Tells whether it may work the next time, because neither the rights nor the system refuse it
    /// for good.
    pub(crate) fn is_passing(&self) -> bool {
        let for_good = [libc::EACCES, libc::EPERM, libc::EROFS, libc::ENOSYS, libc::EOPNOTSUPP];
        self.errno.is_some_and(|errno| !for_good.contains(&errno))
    }
}

/// The directory of one reactor: `childminder-PID-NUMBER`, with a directory for each process in it.
///
/// It is locked (`flock(2)`) as long as it is in use, which also shows this to processes of other
/// PID namespaces.
pub(crate) struct Home {
    dir: OwnedFd,
    parent: OwnedFd,
    name: CString,
    path: PathBuf,
    next: AtomicU64,
    controllers: Controllers,
    /// A copy of `dir` that is closed if no other file descriptor is free: see
    /// [`with_room`](Self::with_room).
    spare: Mutex<Option<OwnedFd>>,
    /// The process that made it. A forked copy of this process does not touch it.
    owner: u32,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Home {
    /// Makes one below the directory that the host has named, or else below the cgroup of this
    /// process. The leftovers of dead reactors are removed from there first.
    pub(crate) fn make(named: Option<&Path>) -> Result<Arc<Self>, Refused> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let parent::Parent { dir: parent, path } = parent::find(named)?;
        sweep(parent.as_fd());
        let refuse = |error: &io::Error| Refused::new(format!("cannot make a cgroup in {}", path.display()), error);
        let owner = std::process::id();
        for _ in 0..NAMES {
            let name = format!("{PREFIX}{owner}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            let path = path.join(&name);
            let name = c_string(name);
            match cgroup::make_dir_at(parent.as_fd(), &name) {
                Ok(()) => {}
                // It belongs to another PID namespace, or to a dead reactor that has left processes
                // in it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(refuse(&error)),
            }
            // The sweep of another reactor may be quicker than our lock.
            let Ok(dir) = cgroup::open_dir_at(parent.as_fd(), &name) else { continue };
            let locked = cgroup::lock(dir.as_fd()).map_err(|error| refuse(&error))?;
            if !locked || cgroup::subdirs(parent.as_fd(), &name).is_err() {
                continue;
            }
            let home = Self {
                spare: Mutex::new(dir.try_clone().ok()),
                dir,
                parent,
                name,
                path,
                next: AtomicU64::new(0),
                controllers: Controllers::default(),
                owner,
            };
            let kind = cgroup::read_at(home.dir.as_fd(), c"cgroup.type").map_err(|error| refuse(&error))?;
            // A cgroup below a threaded one cannot hold processes.
            return match kind.trim() {
                "domain" if !home.can_kill() => Err(Refused::unsupported(UNKILLABLE.into())),
                "domain" => Ok(Arc::new(home)),
                kind => Err(refuse(&io::Error::other(format!("it would be of type `{kind}`")))),
            };
        }
        Err(refuse(&io::ErrorKind::AlreadyExists.into()))
    }

    /// Makes a cgroup for one process. Returns it with its directory.
    pub(crate) fn add(self: &Arc<Self>) -> Result<(Cgroup, OwnedFd), Refused> {
        let cgroup = Cgroup { home: Arc::clone(self), number: self.next.fetch_add(1, Ordering::Relaxed), stays: false };
        let name = cgroup.file("");
        let made = cgroup::make_dir_at(self.dir.as_fd(), &name).and_then(|()| {
            cgroup::open_dir_at(self.dir.as_fd(), &name).inspect_err(|_| {
                // An error leaves nothing behind.
                let _ = cgroup.remove();
            })
        });
        let dir =
            made.map_err(|error| Refused::new(format!("cannot make a cgroup in {}", self.path.display()), &error))?;
        Ok((cgroup, dir))
    }

    /// Tells whether the members of a cgroup can be killed here, all at once (Linux 5.14) or one by
    /// one (Linux 5.3).
    fn can_kill(&self) -> bool {
        let has_pidfds = || {
            i32::try_from(self.owner)
                .is_ok_and(|own| sys::pidfd::open(own).is_ok_and(|own| sys::pidfd::is_unreaped(&own)))
        };
        self.open_kill().is_ok() || has_pidfds()
    }

    /// Does something that opens one file descriptor for a moment, even if none is free, so that
    /// processes can be killed then, too.
    fn with_room<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = act();
        let is_full = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        if done.as_ref().is_err_and(is_full) && spare.take().is_some() {
            done = act();
        }
        if spare.is_none() {
            *spare = self.dir.try_clone().ok();
        }
        done
    }

    /// Opens the file that kills all processes in the home.
    pub(crate) fn open_kill(&self) -> io::Result<OwnedFd> {
        cgroup::open_at(self.dir.as_fd(), c"cgroup.kill", libc::O_WRONLY)
    }
}

/// Removes the empty cgroups. A later sweep removes the rest.
impl Drop for Home {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            self.move_host_out();
            let _ = remove_unpopulated(self.dir.as_fd());
            let _ = cgroup::remove_dir_at(self.parent.as_fd(), &self.name);
            self.switch_off();
        }
    }
}

/// The cgroup of one process.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    home: Arc<Home>,
    number: u64,
    /// Whether somebody reads its figures after the end of its tree.
    stays: bool,
}

impl Cgroup {
    /// Returns it to somebody who reads its figures after the end of its tree, for which it then
    /// stays a while.
    pub(crate) fn lend(&mut self) -> Self {
        self.stays = true;
        self.clone()
    }

    pub(crate) fn stays(&self) -> bool {
        self.stays
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.home.path.join(self.number.to_string())
    }

    /// Returns the path of one of its files, relative to the home's directory.
    fn file(&self, name: &str) -> CString {
        let number = self.number;
        c_string(if name.is_empty() { number.to_string() } else { format!("{number}/{name}") })
    }

    fn home(&self) -> BorrowedFd<'_> {
        self.home.dir.as_fd()
    }

    /// Kills all of its members, including the ones in cgroups that they have made below it.
    /// Returns whether the kernel guarantees that no member was missed.
    ///
    /// Before Linux 5.14 each member is killed by its pidfd. Members that are born in the meantime
    /// may be missed then, so the caller must repeat the call until none is left.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        let file = self.file("cgroup.kill");
        match self.home.with_room(|| cgroup::write_at(self.home(), &file, b"1")) {
            Ok(()) => Ok(true),
            Err(error) => self.kill_each().map(|()| false).map_err(|_| error),
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        // Frozen processes cannot fork, and a kill ends them as any other. A failure to freeze does
        // no harm.
        let freezer = self.open_freezer();
        let frozen = freezer.as_ref().is_ok_and(|freezer| freeze(freezer.as_fd(), true).is_ok());
        let killed = self.signal(&[libc::SIGKILL], None);
        if let (Ok(freezer), true) = (freezer, frozen) {
            let _ = freeze(freezer.as_fd(), false);
        }
        killed.map(drop)
    }

    /// Opens the file that freezes and thaws all of its members: see [`freeze`]. It stays open
    /// until they are thawed, because no file descriptor may be left then.
    #[doc(alias = "cgroup.freeze")]
    pub(crate) fn open_freezer(&self) -> io::Result<OwnedFd> {
        cgroup::open_at(self.home(), &self.file("cgroup.freeze"), libc::O_WRONLY)
    }

    /// Sends each signal once to each member. Returns the number of members.
    ///
    /// Each member is reached by a pidfd, and only after a check that it is a member. If members
    /// are born in the meantime, all are frozen until every member has got the signals, so that
    /// this comes to an end. The members of the process group `except` are left out. The error is
    /// `Unsupported` if the system allows no pidfds.
    pub(crate) fn signal(&self, signals: &[i32], except: Option<i32>) -> io::Result<usize> {
        let (mut reached, mut frozen) = (HashSet::new(), None);
        let mut result = self.signal_new(signals, except, &mut reached);
        for _ in 0..PASSES {
            if !matches!(result, Ok(new) if new > 0) {
                break;
            }
            let new = self.signal_new(signals, except, &mut reached);
            if matches!(new, Ok(new) if new > 0) && frozen.is_none() && self.is_thawed() {
                frozen = self.open_freezer().ok().filter(|freezer| freeze(freezer.as_fd(), true).is_ok());
            }
            result = new;
        }
        if let Some(freezer) = frozen {
            freeze(freezer.as_fd(), false)?;
        }
        result.map(|_| reached.len())
    }

    fn is_thawed(&self) -> bool {
        cgroup::read_at(self.home(), &self.file("cgroup.freeze")).is_ok_and(|state| state.trim() == "0")
    }

    /// Sends signals to the members that are not in `reached` yet. Returns how many there were.
    fn signal_new(&self, signals: &[i32], except: Option<i32>, reached: &mut HashSet<i32>) -> io::Result<usize> {
        let new: Vec<i32> = self.pids()?.into_iter().filter(|pid| reached.insert(*pid)).collect();
        let mut failed = None;
        for batch in new.chunks(BATCH) {
            let mut opened = Vec::with_capacity(batch.len());
            for pid in batch {
                match sys::pidfd::open(*pid) {
                    Ok(pidfd) => opened.push((*pid, pidfd)),
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                        return Err(io::ErrorKind::Unsupported.into());
                    }
                    Err(error) => _ = failed.get_or_insert(error),
                }
            }
            // If the process behind the pidfd is alive, it had its number before this read, so the
            // read shows that very process.
            let members: HashSet<i32> = self.pids()?.into_iter().collect();
            let is_meant = |pid: i32| members.contains(&pid) && (except.is_none() || table::group_of(pid) != except);
            for (_, pidfd) in opened.iter().filter(|(pid, _)| is_meant(*pid)) {
                for signal in signals {
                    match sys::pidfd::send(pidfd, *signal) {
                        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => _ = failed.get_or_insert(error),
                        _ => {}
                    }
                }
            }
        }
        failed.map_or(Ok(new.len()), Err)
    }

    /// Tells whether the kernel knows the process as a member, or as one that was a member to its
    /// end. It is `false` for a member of a cgroup below this one.
    pub(crate) fn has_id_of(&self, pidfd: &OwnedFd) -> bool {
        sys::pidfd::cgroup_id(pidfd).is_some_and(|id| cgroup::id(self.home(), &self.file("")).ok() == Some(id))
    }

    /// Tells whether a process is a member now, in this cgroup or in one below it. `member` is a
    /// process that was started in it. The cost does not grow with the number of members.
    pub(crate) fn has(&self, pid: i32, member: i32) -> bool {
        let (Some(there), Some(known)) = (table::cgroup_of(pid), table::cgroup_of(member)) else { return false };
        let own = format!("/{}/{}", self.home.name.to_string_lossy(), self.number);
        is_below(&there, &known, &own)
    }

    /// Returns the process ids of its members, without zombies.
    pub(crate) fn pids(&self) -> io::Result<Vec<i32>> {
        let path = PathBuf::from(self.number.to_string());
        let collect = || {
            let mut pids = Vec::new();
            match collect_pids(self.home(), &path, 0, &mut pids) {
                // A cgroup that was removed had no members.
                Err(error) if !is_gone(&error) => Err(error),
                _ => Ok(pids),
            }
        };
        let mut pids = self.home.with_room(collect)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Opens the file that reports by priority readiness that the cgroup may have become empty: see
    /// [`is_populated`](Self::is_populated).
    pub(crate) fn open_events(&self) -> io::Result<OwnedFd> {
        cgroup::open_at(self.home(), &self.file("cgroup.events"), libc::O_RDONLY)
    }

    /// Tells by its open `cgroup.events` whether it has members. From now on the next change is an
    /// event again.
    pub(crate) fn is_populated(events: BorrowedFd<'_>) -> io::Result<bool> {
        let mut buffer = [0; 256];
        match cgroup::read_again(events, &mut buffer) {
            Ok(len) => Ok(is_populated(&String::from_utf8_lossy(&buffer[..len]))),
            // It was removed, which the kernel allows only without members.
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells whether it has members, including the ones of cgroups below it.
    pub(crate) fn has_members(&self) -> io::Result<bool> {
        self.home.with_room(|| self.open_events().and_then(|events| Self::is_populated(events.as_fd())))
    }

    /// Removes it if it has neither members nor cgroups below it. Returns whether it did.
    pub(crate) fn remove_if_empty(&self) -> bool {
        cgroup::remove_dir_at(self.home(), &self.file("")).is_ok()
    }

    /// Removes it, and the cgroups that its members have made below it. The error is `EBUSY` as
    /// long as it has members.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let path = PathBuf::from(self.number.to_string());
        self.home.with_room(|| remove_all(self.home(), &path, 0))
    }
}

/// Freezes all members of a cgroup by its open `cgroup.freeze`, or lets them go on. It takes a
/// moment until all stand still.
pub(crate) fn freeze(freezer: BorrowedFd<'_>, freeze: bool) -> io::Result<()> {
    cgroup::write(freezer, if freeze { b"1" } else { b"0" })
}

/// Tells whether the path of a cgroup leads to, or through, the one that `known` is in or below.
/// That one's path ends in `own`, which alone proves nothing: anybody may use such names elsewhere.
fn is_below(path: &str, known: &str, own: &str) -> bool {
    let ends = |path: &str| path.is_empty() || path.starts_with('/');
    let end = known.match_indices(own).map(|(start, _)| start + own.len()).find(|end| ends(&known[*end..]));
    end.and_then(|end| path.strip_prefix(&known[..end])).is_some_and(ends)
}

fn is_populated(events: &str) -> bool {
    !events.lines().any(|line| line == "populated 0")
}

/// Tells whether an error means that the directory was removed, before or after its file was
/// opened.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Converts a path of ours, which never holds a NUL.
fn c_string(path: impl Into<PathBuf>) -> CString {
    CString::new(path.into().into_os_string().into_vec()).unwrap_or_default()
}

/// Returns the names of the directories in a directory.
fn names_in(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(path);
    let entries = fs::read_dir(listed)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(entries.map(|entry| PathBuf::from(entry.file_name())).collect())
}

fn has_subdirs(dir: BorrowedFd<'_>, path: &Path) -> bool {
    cgroup::subdirs(dir, &c_string(path)).is_ok_and(|count| count > 0)
}

fn collect_pids(dir: BorrowedFd<'_>, path: &Path, depth: usize, pids: &mut Vec<i32>) -> io::Result<()> {
    match cgroup::read_at(dir, &c_string(path.join("cgroup.procs"))) {
        // The zeros stand for processes that have no number in our PID namespace.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // The cgroup above lists the members of a threaded cgroup.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    if depth < DEPTH && has_subdirs(dir, path) {
        for name in names_in(dir, path)? {
            match collect_pids(dir, &path.join(name), depth + 1, pids) {
                Err(error) if !is_gone(&error) => return Err(error),
                // It was removed in the meantime.
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes a directory and the ones below it, the lowest first.
fn remove_all(dir: BorrowedFd<'_>, path: &Path, depth: usize) -> io::Result<()> {
    let remove = || match cgroup::remove_dir_at(dir, &c_string(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let removed = remove();
    if removed.is_ok() || depth >= DEPTH || !has_subdirs(dir, path) {
        return removed;
    }
    for name in names_in(dir, path)? {
        remove_all(dir, &path.join(name), depth + 1)?;
    }
    remove()
}

/// Removes the directories in a directory that have no members.
fn remove_unpopulated(dir: BorrowedFd<'_>) -> io::Result<()> {
    for name in names_in(dir, Path::new(""))? {
        let events = cgroup::read_at(dir, &c_string(name.join("cgroup.events")));
        if events.is_ok_and(|events| !is_populated(&events)) {
            let _ = remove_all(dir, &name, 0);
        }
    }
    Ok(())
}

/// Tells whether a directory has the name of a reactor's: [`PREFIX`] and two numbers.
fn is_home(name: &str) -> bool {
    let numbers = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(pid, number)| pid.parse::<u32>().is_ok() && number.parse::<u64>().is_ok())
}

/// Removes what dead reactors have left in a directory: each directory with our kind of name, no
/// lock and no members. Anything that cannot be removed stays for the next sweep.
fn sweep(parent: BorrowedFd<'_>) {
    let Ok(names) = names_in(parent, Path::new("")) else { return };
    for name in names.iter().filter(|name| is_home(&name.to_string_lossy())) {
        let Ok(dir) = cgroup::open_dir_at(parent, &c_string(name)) else { continue };
        // The lock is held until the directory is removed, so that no reactor can take it.
        if cgroup::lock(dir.as_fd()).is_ok_and(|locked| locked) {
            let _ = remove_unpopulated(dir.as_fd());
            let _ = cgroup::remove_dir_at(parent, &c_string(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_word_is_empty() {
        assert!(!is_populated("populated 0\nfrozen 0\n"));
        assert!(is_populated("populated 1\nfrozen 0\n"));
        assert!(is_populated(""));
    }

    #[test]
    fn only_the_same_path_is_below() {
        let is_below = |path, known| is_below(path, known, "/childminder-7-0/3");
        let known = "/a/childminder-7-0/3";
        assert!(is_below(known, known) && is_below("/a/childminder-7-0/3/b/c", known));
        assert!(
            is_below(known, "/a/childminder-7-0/3/moved")
                && is_below("/a/childminder-7-0/3/b", "/a/childminder-7-0/3/c")
        );
        for other in ["/a/childminder-7-0/33", "/b/childminder-7-0/3", "/b/a/childminder-7-0/3", "/a", "/", ""] {
            assert!(!is_below(other, known), "{other}");
        }
        for known in ["/a", "", "/a/childminder-7-0/33"] {
            assert!(!is_below("/a/childminder-7-0/3", known), "{known}");
        }
    }

    #[test]
    fn knows_its_own_by_name() {
        assert!(is_home("childminder-1-0") && is_home("childminder-4194303-17"));
        for other in ["childminder", "childminder-", "childminder-1", "childminder-1-x", "childminder-test-1", "a-1-0"]
        {
            assert!(!is_home(other), "{other}");
        }
    }

    #[test]
    fn says_what_was_tried() {
        let refused = Refused::new("cannot make a cgroup in /x".into(), &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(&*refused.reason(), "cannot make a cgroup in /x: Permission denied (os error 13)");
        assert!(!refused.is_passing() && refused.error().raw_os_error() == Some(libc::EACCES));
        assert!(Refused::new(String::new(), &io::Error::from_raw_os_error(libc::EMFILE)).is_passing());
    }
}
