//! Explains why a child's user may not execute a file, for the message of an error. It executes
//! nothing.
//!
//! The kernel answers such a question only for the user who asks it. For any other user, this file
//! checks owners and modes, but not access control lists. The one rule: the explanation is a hint,
//! and nothing depends on it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, absolute};

use crate::sys::user;

/// The user and the groups that a child has.
#[derive(Debug)]
pub(super) struct Who<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The supplementary groups, or `None` if the child is as the host is.
    pub(super) groups: Option<&'a [u32]>,
}

impl Who<'_> {
    /// Returns why the file may not be executed, as far as that can be seen.
    pub(super) fn denial(&self, file: &Path) -> String {
        let who = format!("as user id {}", self.uid);
        let Ok(file) = absolute(file) else { return who };
        let mut folders: Vec<_> = file.ancestors().skip(1).collect();
        folders.reverse();
        // The folder is checked first, because everything below it may be executable.
        if let Some(closed) = folders.into_iter().find(|folder| self.is_denied(folder)) {
            format!("{who}; the folder {} may not be entered", closed.display())
        } else if self.is_denied(&file) {
            format!("{who}, who may not execute it")
        } else {
            who
        }
    }

    fn is_denied(&self, path: &Path) -> bool {
        let Some(groups) = self.groups else { return user::is_denied_to_us(path) };
        let Ok(there) = path.metadata() else { return false };
        self.uid != 0 && self.class(&there, groups) & 0o1 == 0
    }

    /// Returns the mode, shifted so that the bits for this user are the lowest three.
    fn class(&self, there: &Metadata, groups: &[u32]) -> u32 {
        if there.uid() == self.uid {
            there.mode() >> 6
        } else if there.gid() == self.gid || groups.contains(&there.gid()) {
            there.mode() >> 3
        } else {
            there.mode()
        }
    }
}
