//! The directory of one reactor, in which its processes have their cgroups.
//!
//! It touches nothing that was there before. The one rule: a directory is never removed if it does
//! not have our kind of name, or if a living reactor has locked it.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{c_string, names_in, remove_unpopulated};
use super::parent;
use super::refused::Refused;
use crate::sys::{self, cgroup};

/// The prefix of the directories of all reactors.
const PREFIX: &str = "childminder-";
/// How many names are tried for the directory of a reactor.
const NAMES: u64 = 10_000;
/// The reason for no cgroup if its members could not be killed.
const UNKILLABLE: &str = "the members of a cgroup could not be killed: there is neither cgroup.kill nor a pidfd";

/// The directory of one reactor: `childminder-PID-NUMBER`, with a directory for each process in it.
///
/// It is locked (`flock(2)`) as long as it is in use, which also shows this to processes of other
/// PID namespaces.
pub(crate) struct Home {
    pub(super) dir: OwnedFd,
    pub(super) parent: OwnedFd,
    pub(super) name: CString,
    pub(super) path: PathBuf,
    pub(super) next: AtomicU64,
    pub(super) controllers: Controllers,
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
    pub(super) fn with_room<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
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

/// What was switched on for a reactor.
#[derive(Debug, Default)]
pub(super) struct Controllers {
    /// Whether the host was moved into the home.
    pub(super) has_host: Mutex<bool>,
    /// The controllers that are on for the cgroups of its processes, and the ones that it has
    /// switched on in the parent, once that was tried.
    pub(super) state: Mutex<Option<Vec<&'static str>>>,
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
    fn knows_its_own_by_name() {
        assert!(is_home("childminder-1-0") && is_home("childminder-4194303-17"));
        for other in ["childminder", "childminder-", "childminder-1", "childminder-1-x", "childminder-test-1", "a-1-0"]
        {
            assert!(!is_home(other), "{other}");
        }
    }
}
