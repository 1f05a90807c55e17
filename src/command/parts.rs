//! The settings of a command, as plain data that `sys` and `process` read.
//!
//! It checks nothing. The one rule: what few commands set is in one box, so that a command that
//! sets none of it is small.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use crate::conditions::{Conditions, NONE};
use crate::contain::Contain;
use crate::limit::{Limit, Resource};
use crate::map::Map;
use crate::pty::Pty;
use crate::stdio::Stdio;
use crate::words::Words;

/// The settings of a command. Its clones share them until one of them is changed.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// The program and its arguments.
    pub(super) words: Words,
    pub(crate) env_clear: bool,
    pub(crate) env: Map<OsString, Option<OsString>>,
    pub(crate) current_dir: Option<Box<Path>>,
    /// The descriptors that were set. 0, 1 and 2 have defaults.
    pub(crate) fds: Map<i32, Stdio>,
    pub(crate) group: Group,
    pub(super) contain: Contain,
    pub(crate) parent_death_signal: Option<i32>,
    /// Boxed because most commands set none, and a host may hold thousands of commands.
    pub(super) attributes: Option<Box<Attributes>>,
}

/// The attributes that few commands set.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) arg0: Option<OsString>,
    pub(crate) listen: Vec<(String, Stdio)>,
    pub(crate) notify: bool,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) pty: Option<Pty>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) umask: Option<u32>,
    pub(crate) nice: Option<i32>,
    pub(crate) limits: Map<Resource, Limit>,
    pub(crate) conditions: Conditions,
    pub(crate) tree_limits: TreeLimits,
    pub(crate) own_peak: bool,
}

/// The limits of a whole tree that the kernel enforces, and whether the tree is to be measured as
/// far as the system allows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TreeLimits {
    pub(crate) memory: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) measured: bool,
}

impl TreeLimits {
    /// Tells whether there is any limit.
    pub(crate) fn are_any(self) -> bool {
        self.memory.is_some() || self.processes.is_some()
    }
}

/// The attributes of a command that sets none.
pub(super) static INHERITED: Attributes = Attributes {
    arg0: None,
    listen: Vec::new(),
    notify: false,
    watchdog: None,
    pty: None,
    uid: None,
    gid: None,
    groups: None,
    umask: None,
    nice: None,
    limits: Map::new(),
    conditions: NONE,
    tree_limits: TreeLimits { memory: None, processes: None, measured: false },
    own_peak: false,
};

/// The process group and the session of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// The child leads a group of its own in the host's session.
    Own,
    /// The child leads a session and a group of its own.
    Session,
    /// The child joins this group.
    Join(i32),
    /// The child stays in the host's group.
    Inherit,
}

impl Group {
    /// Tells whether the child's pid is also the number of its process group.
    pub(crate) fn leads(self) -> bool {
        matches!(self, Self::Own | Self::Session)
    }
}

impl Parts {
    pub(crate) fn program(&self) -> &OsStr {
        self.words.iter().next().unwrap_or_default()
    }

    pub(crate) fn args(&self) -> impl ExactSizeIterator<Item = &OsStr> {
        self.words.iter().skip(1)
    }

    pub(crate) fn attributes(&self) -> &Attributes {
        self.attributes.as_deref().unwrap_or(&INHERITED)
    }

    pub(crate) fn contain(&self) -> Contain {
        self.contain
    }
}
