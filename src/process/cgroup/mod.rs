//! One cgroup for each process, below one directory for each reactor (`cgroups(7)`).
//!
//! This file knows what the kernel's files mean. The reactor decides when they are used. It needs
//! no controller, and touches nothing that was there before ([`limits`] has the one exception).
//!
//! The one rule: a process is signalled only after a check that it is a member.

mod figures;
mod files;
mod home;
mod limits;
mod parent;
mod refused;

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::Interest;

use super::table;
use crate::sys::{self, cgroup};
pub(super) use files::is_gone;
use files::{c_string, collect_pids, is_populated, remove_all};
pub(crate) use home::Home;
pub(crate) use limits::refused_processes;
pub(crate) use refused::Refused;

/// The readiness by which the event files of a cgroup report a change.
#[cfg(target_os = "linux")]
pub(crate) const CHANGES: Interest = Interest::PRIORITY;
#[cfg(not(target_os = "linux"))]
pub(crate) const CHANGES: Interest = Interest::READABLE;

/// How many pidfds are open at a time while the members of a cgroup are signalled.
const BATCH: usize = 64;
/// How often new members are searched for while a signal is sent to all of them.
const PASSES: usize = 16;

/// The cgroup of one process.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    home: Arc<Home>,
    number: u64,
    /// Whether somebody reads its figures after the end of its tree.
    stays: bool,
}

impl Home {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
