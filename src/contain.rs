//! How a process and all that it starts are kept together, and what is known of them: plain data.
//!
//! Starts nothing and asks nobody. The one rule: what cannot be told is never called empty.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long what was killed may take to go, before it is told that it is still there. A process that waits for a device dies
/// when the kernel lets go of it, and one that has become another user's may not be killed.
pub(crate) const LAST_WAIT: Duration = Duration::from_secs(2);

/// How a process is to be kept together with all that it starts: see [`Command::contain`](crate::Command::contain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Contain {
    /// By the process group that it leads. A process that leaves the group leaves the containment.
    #[default]
    Group,
    /// By a cgroup of its own (`cgroups(7)`, version 2). The spawn is refused where that cannot be had
    /// ([`Stage::Cgroup`](crate::Stage::Cgroup)).
    Cgroup,
    /// By a cgroup of its own where that can be had, and by its process group elsewhere. The process's [`Containment`] says which
    /// one it is.
    Auto,
}

/// What keeps a process together with all that it starts, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Strength {
    /// Nothing: the process is in somebody else's process group, and only it itself is reached.
    Process,
    /// The process group that it leads. Descendants that make a group or session of their own are not reached. Those that outlive
    /// the leader are reached on Linux 6.9 or later, with pidfds.
    Group,
    /// A cgroup of its own. All descendants are in it, whatever they do, except those that have the right to write to the
    /// `cgroup.procs` of another cgroup and use it: root's, and those of the user to whom the hierarchy is delegated.
    Cgroup,
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Group => "group",
            Self::Cgroup => "cgroup",
        })
    }
}

/// What keeps one process together with all that it starts, and why that is not stronger.
///
/// Displayed as `cgroup`, or as `group (no cgroup: …)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containment {
    strength: Strength,
    reason: Option<Arc<str>>,
}

impl Containment {
    pub(crate) fn new(strength: Strength, reason: Option<Arc<str>>) -> Self {
        Self { strength, reason }
    }

    /// What it is.
    #[must_use]
    pub fn strength(&self) -> Strength {
        self.strength
    }

    /// Why it is not stronger, although more was asked for. Of a cgroup: why the process entered it just before its exec and
    /// was not born there.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl fmt::Display for Containment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, self.strength) {
            (None, strength) => strength.fmt(f),
            (Some(reason), Strength::Cgroup) => write!(f, "cgroup ({reason})"),
            (Some(reason), strength) => write!(f, "{strength} (no cgroup: {reason})"),
        }
    }
}

/// One process of a tree, as `/proc` shows it: see [`Tree::members`](crate::Tree::members).
///
/// Displayed as `123 nginx (S)`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its number in the system. It may be another process's as soon as this one is gone.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`), which is at most 15 bytes long. Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What it does (`proc(5)`): `R` runs, `S` sleeps, `D` is in a call that nothing interrupts, `T` is stopped, `Z` is dead and
    /// not reaped.
    pub state: char,
    /// Its resident memory in bytes. The kernel counts it in batches, so a process that has just begun may show none.
    #[doc(alias = "VmRSS")]
    pub memory: u64,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.pid, self.name.escape_debug(), self.state)
    }
}

/// Who is left of a tree.
///
/// Displayed as `nobody`, `2: 123 sleep (S), 124 cat (D)` or `unknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remains {
    /// Nobody, as far as the containment's [`Strength`] goes.
    Nobody,
    /// These, at the moment when they were looked for.
    Members(Vec<Member>),
    /// The system cannot tell.
    Unknown,
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Unknown => f.write_str("unknown"),
            Self::Members(members) => {
                write!(f, "{}:", members.len())?;
                for (index, member) in members.iter().enumerate() {
                    write!(f, "{}{member}", if index == 0 { " " } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_is_left() {
        let member = |pid, name: &str, state| Member { pid, name: name.into(), state, memory: 0 };
        let two = Remains::Members(vec![member(123, "sleep", 'S'), member(7, "a\n", 'D')]);
        assert_eq!(two.to_string(), "2: 123 sleep (S), 7 a\\n (D)");
        assert_eq!(Remains::Nobody.to_string(), "nobody");
    }

    #[test]
    fn says_what_it_is_and_why_not_more() {
        assert!(Strength::Process < Strength::Group && Strength::Group < Strength::Cgroup);
        let group = Containment::new(Strength::Group, Some("it is not mounted".into()));
        assert_eq!(group.to_string(), "group (no cgroup: it is not mounted)");
        assert_eq!(Containment::new(Strength::Cgroup, None).to_string(), "cgroup");
    }
}
