//! Decides whether root may run a file. Reads nothing of it.
//!
//! Root runs what the file says, so whoever can write it, or put another one in its place, is root.
//! cron(8) and sudo(8) refuse such files, and so does this:
//!
//! - A file, or its folder, that others may write is never run. A group may write if it is root's or
//!   has the number of the owner, as the group of a user's own. In a folder with the sticky bit,
//!   such as /tmp, nobody replaces the files of others.
//! - A file, or its folder, that belongs to another user than root and the user of sudo(8) is run
//!   only if `-c` names it, and with a warning: in a container, root runs the files of the folder
//!   that was mounted. Found by its default name, it may be just what somebody has left in the
//!   current folder. In /tmp, where anybody may have made it, it is not run at all.
//!
//! Only root is protected, as others have less to lose. The one rule: what is judged is the open
//! file, so that it cannot become another one meanwhile.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The variable with the user who runs sudo(8).
const SUDO_UID: &str = "SUDO_UID";
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// The reason why root must not run a file, or does so only because it was named, as a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    Refusal(String),
    Warning(String),
}

/// Judges the file at `path`, which is absolute; `file` is that of the opened one. `is_named` is
/// whether the user has named it.
pub(super) fn doubt(path: &Path, file: &Metadata, is_named: bool) -> io::Result<Option<Doubt>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let sudo = std::env::var(SUDO_UID).ok().and_then(|uid| uid.parse().ok());
    let real = path.canonicalize()?;
    let mut folders = Vec::new();
    for folder in [path.parent(), real.parent()].into_iter().flatten() {
        folders.push(Subject::of(&fs::metadata(folder)?));
    }
    Ok(judge(Subject::of(file), &folders, sudo, is_named))
}

/// What counts of a file or a folder.
#[derive(Debug, Clone, Copy)]
struct Subject {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Subject {
    fn of(there: &Metadata) -> Self {
        Self { uid: there.uid(), gid: there.gid(), mode: there.mode() & 0o7777 }
    }

    /// Who may write to it beside its owner, as a message.
    fn writers(self, what: &str) -> Option<String> {
        let Self { uid, gid, mode } = self;
        if mode & OTHERS_WRITE != 0 {
            Some(format!("others may write to {what} (mode {mode:04o})"))
        } else if mode & GROUP_WRITES != 0 && gid != 0 && gid != uid {
            Some(format!("a group may write to {what} (group id {gid}, mode {mode:04o})"))
        } else {
            None
        }
    }
}

fn judge(file: Subject, folders: &[Subject], sudo: Option<u32>, is_named: bool) -> Option<Doubt> {
    let refused = |what: String| Some(Doubt::Refusal(format!("{what}, and root would run what they write")));
    if let Some(writers) = file.writers("it") {
        return refused(writers);
    }
    let folder = "its folder";
    let open = |subject: &&Subject| subject.writers(folder).is_some();
    if let Some(writers) = folders.iter().find(|it| it.mode & STICKY == 0 && open(it)).and_then(|it| it.writers(folder))
    {
        return refused(writers);
    }
    let is_foreign = |subject: &&Subject| subject.uid != 0 && Some(subject.uid) != sudo;
    let owner = if is_foreign(&&file) {
        format!("it belongs to user id {}", file.uid)
    } else {
        format!("its folder belongs to user id {}", folders.iter().find(is_foreign)?.uid)
    };
    let anybodys = folders.iter().find(open).and_then(|it| it.writers(folder));
    Some(match anybodys {
        Some(writers) if is_foreign(&&file) => {
            Doubt::Refusal(format!("{owner}, and {writers}: anybody may have made it"))
        }
        _ if is_named => Doubt::Warning(format!("{owner}, and root runs what that user writes")),
        _ => Doubt::Refusal(format!(
            "{owner}, and root would run what that user writes; `-c {}` runs it all the same",
            super::DEFAULT_FILE
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(uid: u32, gid: u32, mode: u32) -> Subject {
        Subject { uid, gid, mode }
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
            let verdict = |is_named| match judge(file, &folders, sudo, is_named) {
                None => "runs",
                Some(Doubt::Warning(_)) => "warned",
                Some(Doubt::Refusal(_)) => "refused",
            };
            assert_eq!((verdict(true), verdict(false)), (named, unnamed), "{file:?} {folders:?} {sudo:?}");
        }
    }
}
