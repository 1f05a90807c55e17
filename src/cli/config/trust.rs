//! Decides whether root may run a file. Reads nothing of it.
//!
//! Root runs what the file says. So a user who can write the file, or can put another file in its
//! place, is root. cron(8) and sudo(8) refuse such files, and so does this. Another file can be put
//! in its place in each folder on the way to it, and by each symbolic link there:
//!
//! - A file, or a folder on the way, that others may write is never run. A group may write if it is
//!   root's or has the number of the owner, which is the group of that user alone. With an access
//!   control list (acl(5)) no group may write: the bits of the group then say that somebody may
//!   write, and not who. In a folder with the sticky bit, such as /tmp, users cannot replace the
//!   files of others.
//! - A file, a folder or a link on the way may belong to a user other than root and the user of
//!   sudo(8). The file is then run only if `-c` names it, and with a warning: in a container, root
//!   runs the files of the folder that was mounted. A file that is found by its default name may be
//!   one that another user has left in the current folder. In /tmp, where anybody may have made it,
//!   it is not run at all.
//!
//! Only root is protected, as other users have less to lose.
//!
//! The one rule: the open file is judged, so that it cannot become another one meanwhile.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file_name::DEFAULT_FILE;
use crate::cli::{acl, safe_path};

/// The variable with the id of the user who runs sudo(8).
const SUDO_UID: &str = "SUDO_UID";
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// A message that tells why root must not run a file, or why it runs the file only if it was named.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    Refusal(String),
    Warning(String),
}

/// Judges the open `file` at the absolute `path`. `is_named` tells whether the user has named it.
pub(super) fn doubt(path: &Path, file: &File, is_named: bool) -> io::Result<Option<Doubt>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let sudo = std::env::var(SUDO_UID).ok().and_then(|uid| uid.parse().ok());
    // In a user namespace the owner of everything may have another number.
    let trusted = [Some(0), Some(fs::metadata("/")?.uid()), sudo];
    let file = Subject::of(&file.metadata()?, || acl::is_on_open(file));
    Ok(judge(file, &way_to(path)?, &trusted, is_named))
}

/// The folders and links on the way to a file, the nearest first.
fn way_to(path: &Path) -> io::Result<Vec<Step>> {
    let root = Path::new("/");
    let mut way = vec![Step::folder(root)?];
    let (mut folder, mut rest, mut links) = (root.to_owned(), Vec::new(), 0);
    safe_path::push_names(&mut rest, path);
    while let Some(name) = rest.pop() {
        if name == ".." {
            folder.pop();
            continue;
        }
        if rest.is_empty() {
            way.iter_mut().filter(|step| step.path == folder).for_each(|step| step.holds_file = true);
        }
        let next = folder.join(&name);
        let there = fs::symlink_metadata(&next)?;
        if there.is_symlink() {
            links += 1;
            if links > safe_path::MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let to = fs::read_link(&next)?;
            if to.is_absolute() {
                folder = root.to_owned();
            }
            safe_path::push_names(&mut rest, &to);
            way.push(Step::link(next, &there));
        } else if !rest.is_empty() {
            if !way.iter().any(|step| step.path == next) {
                way.push(Step::folder(&next)?);
            }
            folder = next;
        }
    }
    way.reverse();
    Ok(way)
}

/// A folder or a link on the way to a file.
#[derive(Debug)]
struct Step {
    path: PathBuf,
    is_link: bool,
    /// Whether the file, or a link that leads to it, is in this folder.
    holds_file: bool,
    it: Subject,
}

impl Step {
    fn folder(path: &Path) -> io::Result<Self> {
        let it = Subject::of(&fs::metadata(path)?, || acl::is_on(path));
        Ok(Self { path: path.to_owned(), is_link: false, holds_file: false, it })
    }

    /// A link counts as not writable, whatever its mode is.
    fn link(path: PathBuf, there: &Metadata) -> Self {
        let it = Subject { uid: there.uid(), gid: there.gid(), mode: 0, has_acl: false };
        Self { path, is_link: true, holds_file: false, it }
    }

    fn name(&self) -> String {
        match (self.holds_file, self.is_link) {
            (true, _) => "its folder".into(),
            (false, true) => format!("the symbolic link {}", self.path.display()),
            (false, false) => format!("the folder {}", self.path.display()),
        }
    }

    fn writers(&self) -> Option<String> {
        self.it.writers(&self.name())
    }
}

/// The attributes of a file or a folder that are judged.
#[derive(Debug, Clone, Copy)]
struct Subject {
    uid: u32,
    gid: u32,
    mode: u32,
    /// Whether it has an access control list by which somebody may write.
    has_acl: bool,
}

impl Subject {
    fn of(there: &Metadata, has_acl: impl FnOnce() -> bool) -> Self {
        let mode = there.mode() & 0o7777;
        let has_acl = mode & GROUP_WRITES != 0 && has_acl();
        Self { uid: there.uid(), gid: there.gid(), mode, has_acl }
    }

    /// A message about who may write to it beside its owner.
    fn writers(self, what: &str) -> Option<String> {
        let Self { uid, gid, mode, has_acl } = self;
        if mode & OTHERS_WRITE != 0 {
            Some(format!("others may write to {what} (mode {mode:04o})"))
        } else if has_acl {
            Some(format!("an access control list may let others write to {what} (mode {mode:04o})"))
        } else if mode & GROUP_WRITES != 0 && gid != 0 && gid != uid {
            Some(format!("a group may write to {what} (group id {gid}, mode {mode:04o})"))
        } else {
            None
        }
    }
}

fn judge(file: Subject, way: &[Step], trusted: &[Option<u32>], is_named: bool) -> Option<Doubt> {
    let refused = |what: String| Some(Doubt::Refusal(format!("{what}, and root would run what they write")));
    if let Some(writers) = file.writers("it") {
        return refused(writers);
    }
    if let Some(writers) = way.iter().filter(|step| step.it.mode & STICKY == 0).find_map(Step::writers) {
        return refused(writers);
    }
    let is_foreign = |subject: Subject| !trusted.contains(&Some(subject.uid));
    let owner = if is_foreign(file) {
        format!("it belongs to user id {}", file.uid)
    } else {
        let step = way.iter().find(|step| is_foreign(step.it))?;
        format!("{} belongs to user id {}", step.name(), step.it.uid)
    };
    let anybodys = way.iter().filter(|step| step.holds_file).find_map(Step::writers);
    Some(match anybodys {
        Some(writers) if is_foreign(file) => {
            Doubt::Refusal(format!("{owner}, and {writers}: anybody may have made it"))
        }
        _ if is_named => Doubt::Warning(format!("{owner}, and root runs what that user writes")),
        _ => Doubt::Refusal(format!(
            "{owner}, and root would run what that user writes; `-c {}` runs it all the same",
            DEFAULT_FILE
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(uid: u32, gid: u32, mode: u32) -> Subject {
        Subject { uid, gid, mode, has_acl: false }
    }

    #[test]
    fn who_may_write_is_seen() {
        for (uid, gid, mode, writers) in [
            (0, 0, 0o644, None),
            (0, 0, 0o664, None),
            (1000, 1000, 0o660, None),
            (0, 0, 0o666, Some("others may write to it (mode 0666)")),
            (0, 1000, 0o664, Some("a group may write to it (group id 1000, mode 0664)")),
            (1000, 100, 0o1670, Some("a group may write to it (group id 100, mode 1670)")),
        ] {
            assert_eq!(subject(uid, gid, mode).writers("it").as_deref(), writers, "{uid} {gid} {mode:o}");
        }
        let listed = Subject { has_acl: true, ..subject(0, 0, 0o664) };
        let writers = "an access control list may let others write to it (mode 0664)";
        assert_eq!(listed.writers("it").as_deref(), Some(writers));
    }

    #[test]
    fn nobody_writes_what_root_runs_unless_root_has_named_it() {
        let (roots, theirs) = (subject(0, 0, 0o755), subject(1000, 1000, 0o755));
        let (tmp, open) = (subject(0, 0, 0o1777), subject(0, 0, 0o777));
        for (file, folders, sudo, named, unnamed) in [
            (roots, [roots, roots], None, "runs", "runs"),
            (roots, [tmp, roots], None, "runs", "runs"),
            (roots, [open, roots], None, "refused", "refused"),
            (roots, [roots, open], None, "refused", "refused"),
            (roots, [theirs, roots], None, "warned", "refused"),
            (theirs, [roots, roots], None, "warned", "refused"),
            (theirs, [theirs, theirs], Some(1000), "runs", "runs"),
            (theirs, [theirs, theirs], Some(1001), "warned", "refused"),
            (theirs, [roots, tmp], None, "refused", "refused"),
            (theirs, [tmp, tmp], Some(1000), "runs", "runs"),
        ] {
            let step = |it| Step { path: "/".into(), is_link: false, holds_file: true, it };
            let way = folders.map(step);
            let verdict = |is_named| match judge(file, &way, &[Some(0), sudo], is_named) {
                None => "runs",
                Some(Doubt::Warning(_)) => "warned",
                Some(Doubt::Refusal(_)) => "refused",
            };
            assert_eq!((verdict(true), verdict(false)), (named, unnamed), "{file:?} {folders:?} {sudo:?}");
        }
    }
}
