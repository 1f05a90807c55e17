//! Finds the directory of the cgroup v2 hierarchy in which the cgroups of a reactor are made.
//!
//! This file reads `/proc/self/cgroup` and `/proc/self/mountinfo`, and makes nothing. The one rule:
//! a directory is used only if a child of ours may start below it, as far as that can be told in
//! advance.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::refused::Refused;
use crate::sys::cgroup;

/// The directory, and its path for people to read.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) dir: OwnedFd,
    pub(super) path: PathBuf,
}

/// One mount of a cgroup v2 hierarchy, or of a part of it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The cgroup of its top directory.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Returns the path of a cgroup in the file system.
    fn path_of(&self, cgroup: &Path) -> Option<PathBuf> {
        let below = cgroup.strip_prefix(&self.root).ok()?;
        // A join with an empty path would add a slash.
        Some(if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }

    /// Returns the cgroup of a directory.
    fn cgroup_of(&self, path: &Path) -> Option<PathBuf> {
        Some(self.root.join(path.strip_prefix(&self.point).ok()?))
    }
}

/// Opens the directory that the host has named, or else that of the cgroup of this process.
pub(super) fn find(named: Option<&Path>) -> Result<Parent, Refused> {
    let read = |path: &str| fs::read(path).map_err(|error| Refused::new(format!("cannot read {path}"), &error));
    let own = own_cgroup(&read("/proc/self/cgroup")?);
    let mounts = mounts(&read("/proc/self/mountinfo")?);
    match named {
        Some(path) => open_named(path, own.as_deref(), &mounts),
        None => open_own(own.as_deref(), &mounts),
    }
}

fn open_named(path: &Path, own: Option<&Path>, mounts: &[Mount]) -> Result<Parent, Refused> {
    let refuse = |error| Refused::new(format!("cannot use {}", path.display()), &error);
    let path = fs::canonicalize(path).map_err(refuse)?;
    let dir = cgroup::open_dir(&path).map_err(refuse)?;
    if !cgroup::is_version_2(dir.as_fd()).map_err(refuse)? {
        return Err(refuse(io::Error::other("it is no directory of a cgroup v2 hierarchy")));
    }
    let mount = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let mount = mount.max_by_key(|mount| mount.point.as_os_str().len());
    if let (Some(own), Some(mount)) = (own, mount) {
        check_rights(own, &path, mount)?;
    }
    Ok(Parent { dir, path })
}

fn open_own(own: Option<&Path>, mounts: &[Mount]) -> Result<Parent, Refused> {
    let none = |what: &str| Refused::new(what.into(), &io::ErrorKind::NotFound.into());
    let own = own.ok_or_else(|| none("this system has no cgroup v2 hierarchy"))?;
    if mounts.is_empty() {
        return Err(none("no cgroup v2 hierarchy is mounted"));
    }
    let mut refused = None;
    for mount in mounts {
        let Some(path) = mount.path_of(own) else { continue };
        let opened = cgroup::open_dir(&path).and_then(|dir| Ok((cgroup::is_version_2(dir.as_fd())?, dir)));
        let result = match opened {
            Ok((true, dir)) => check_rights(own, &path, mount).map(|()| Parent { dir, path }),
            // Another file system is mounted over it.
            Ok((false, _)) => continue,
            Err(error) => Err(Refused::new(format!("cannot open {}", path.display()), &error)),
        };
        match result {
            Ok(parent) => return Ok(parent),
            Err(error) => _ = refused.get_or_insert(error),
        }
    }
    let hidden = || none(&format!("no mount of the cgroup v2 hierarchy shows our own cgroup {}", own.display()));
    Err(refused.unwrap_or_else(hidden))
}

/// Checks whether a process of ours may start below a directory. The kernel asks for the right to
/// write to `cgroup.procs` of the nearest cgroup that contains both the directory and us.
fn check_rights(own: &Path, path: &Path, mount: &Mount) -> Result<(), Refused> {
    let Some(cgroup) = mount.cgroup_of(path) else { return Ok(()) };
    let common: PathBuf = own.components().zip(cgroup.components()).map_while(|(a, b)| (a == b).then_some(a)).collect();
    // A cgroup that no mount shows cannot be checked.
    let Some(common) = mount.path_of(&common) else { return Ok(()) };
    let allowed = cgroup::open_dir(&common).and_then(|dir| cgroup::may_write_at(dir.as_fd(), c"cgroup.procs"));
    allowed.map_err(|error| {
        let what =
            format!("no process of ours may move below {}: cgroup.procs of {}", path.display(), common.display());
        Refused::new(what, &error)
    })
}

/// Returns the cgroup of this process in the v2 hierarchy, from `/proc/self/cgroup`.
fn own_cgroup(text: &[u8]) -> Option<PathBuf> {
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// Returns the mounts of the v2 hierarchy, from `/proc/self/mountinfo`.
fn mounts(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = unescape(fields.by_ref().nth(3)?);
    let point = unescape(fields.next()?);
    // Optional fields stand between the options and a hyphen.
    fields.find(|field| *field == b"-")?;
    (fields.next()? == b"cgroup2").then_some(Mount { root, point })
}

/// Returns a path of `/proc/self/mountinfo`, where blanks are written as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                path.push(byte);
                rest = &tail[3..];
            }
            None => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_v2_part_of_a_hybrid_system() {
        let text = b"23 1 0:20 / /proc rw shared:1 - proc proc rw\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw\n\
            42 31 0:38 /a\\040b /mnt/x\\134y rw - cgroup2 none rw\n";
        let mounts = mounts(text);
        let mount = |root: &str, point: &str| Mount { root: root.into(), point: point.into() };
        assert_eq!(mounts, [mount("/", "/sys/fs/cgroup/unified"), mount("/a b", "/mnt/x\\y")]);
        let own = own_cgroup(b"9:name=systemd:/x\n1:cpu:/\n0::/a b/c\n").unwrap();
        assert_eq!(mounts[0].path_of(&own), Some("/sys/fs/cgroup/unified/a b/c".into()));
        assert_eq!(mounts[1].path_of(&own), Some("/mnt/x\\y/c".into()));
        assert_eq!(mounts[1].path_of(Path::new("/a b")), Some("/mnt/x\\y".into()));
        assert_eq!(mounts[1].path_of(Path::new("/")), None);
        assert_eq!(mounts[1].cgroup_of(Path::new("/mnt/x\\y/d")), Some("/a b/d".into()));
    }

    #[test]
    fn knows_a_system_without_one() {
        assert_eq!(own_cgroup(b"2:cpu:/\n1:pids:/x\n"), None);
        assert!(open_own(None, &[]).unwrap_err().reason().contains("has no cgroup v2 hierarchy"));
        assert!(open_own(Some(Path::new("/x")), &[]).unwrap_err().reason().contains("is mounted"));
        let elsewhere = [Mount { root: "/other".into(), point: "/mnt".into() }];
        let refused = open_own(Some(Path::new("/x")), &elsewhere).unwrap_err();
        assert!(refused.reason().contains("shows our own cgroup /x"), "{}", refused.reason());
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let refused = open_named(Path::new("/tmp"), None, &[]).unwrap_err();
        assert!(refused.reason().contains("no directory of a cgroup v2 hierarchy"), "{}", refused.reason());
        let refused = open_named(Path::new("/no/such"), None, &[]).unwrap_err();
        assert_eq!(refused.error().raw_os_error(), Some(libc::ENOENT));
    }
}
