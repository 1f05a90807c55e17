//! Gives a test a part of the cgroup v2 hierarchy, whatever the machine has mounted.
//!
//! The one rule: at the end of the test, all processes in the part are killed and the part is
//! removed. The guard of the test does that if the test is killed.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use childminder::Reactor;

use crate::apart::{expect_apart_in, is_apart};
use crate::util::{guard, left_out, needs_root};

/// Runs a command in a mount namespace of its own, in which the hierarchy is mounted at `/mnt`. See
/// `apart_in`.
const MOUNTED: [&str; 5] = ["unshare", "-m", "sh", "-c", "mount -t cgroup2 none /mnt && exec \"$0\" \"$@\""];

/// Longer than any wait here takes on the slowest machine.
const WATCHDOG: Duration = Duration::from_secs(30);

/// Whether cgroups can be made here. If not, it records that the test is left out.
#[track_caller]
pub(crate) fn can_mount() -> bool {
    if !needs_root() {
        return false;
    }
    // In the process that MOUNTED has started, the hierarchy is there already.
    if is_apart() {
        return true;
    }
    // A container or a kernel may have no such hierarchy, and a user namespace may not mount it.
    let mut mount = std::process::Command::new(MOUNTED[0]);
    let mounted = mount.args(&MOUNTED[1..]).arg("true").output().is_ok_and(|output| output.status.success());
    if !mounted {
        left_out("no cgroup hierarchy can be mounted");
    }
    mounted
}

/// Runs a test in a process of its own, which has a part of the hierarchy for itself. `name` is the
/// name of the test. Where no cgroups can be made, it records that the test is left out.
#[track_caller]
pub(crate) fn with_part(name: &str, test: impl FnOnce(&Part)) {
    if can_mount() {
        expect_apart_in(&MOUNTED, name, || test(&Part::new()));
    }
}

/// A cgroup for one test alone.
pub(crate) struct Part(pub(crate) PathBuf);

impl Part {
    #[track_caller]
    fn new() -> Self {
        // If the test is killed, its guard finds the cgroup by this name.
        let name = guard::name(guard::mark().unwrap_or_default());
        let path = Path::new("/mnt").join(format!("test-of-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    /// Switches the controllers on for this cgroup, if the hierarchy has them.
    pub(crate) fn switch_on(&self) {
        for controller in ["memory", "pids", "io"] {
            let _ = fs::write("/mnt/cgroup.subtree_control", format!("+{controller}"));
        }
    }

    /// Makes a reactor whose cgroups are in this one.
    #[track_caller]
    pub(crate) fn reactor(&self) -> Reactor {
        let mut reactor = Reactor::new().expect("a reactor");
        reactor.set_cgroup_parent(&self.0);
        reactor
    }

    /// Checks that no reactor has left its directory here.
    #[track_caller]
    pub(crate) fn expect_no_homes(&self, what: &str) {
        assert_eq!(self.homes(), [] as [PathBuf; 0], "a directory is left: {what}");
    }

    /// The directories of reactors in this cgroup.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        subdirs(&self.0)
    }

    /// The directories of processes in this cgroup.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        self.homes().iter().flat_map(|home| subdirs(home)).collect()
    }

    /// Whether no process is in this cgroup.
    pub(crate) fn is_empty(&self) -> bool {
        is_empty(&self.0)
    }

    /// Moves this process into a cgroup below this one, as a service manager does, and gives that
    /// whole cgroup to a user.
    pub(crate) fn delegate(&self, uid: u32) -> PathBuf {
        let own = self.0.join("service");
        fs::create_dir(&own).expect("a cgroup");
        fs::write(own.join("cgroup.procs"), "0").expect("to move");
        for path in [&self.0, &own] {
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                std::os::unix::fs::chown(path.join(file), Some(uid), Some(uid)).expect("root's rights");
            }
        }
        own
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // This process must leave the cgroup before the kill.
        let _ = fs::write("/mnt/cgroup.procs", std::process::id().to_string());
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        #[allow(clippy::disallowed_methods)] // the watchdog's clock
        let end = Instant::now() + WATCHDOG;
        #[allow(clippy::disallowed_methods)] // the watchdog's clock
        while remove(&self.0).is_err() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

pub(crate) fn is_empty(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"))
}

fn subdirs(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    for path in subdirs(path) {
        remove(&path)?;
    }
    fs::remove_dir(path)
}
