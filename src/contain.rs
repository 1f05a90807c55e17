//! Describes how a process and everything that it starts are kept together, and which of them are
//! left: plain data.
//!
//! It starts nothing and asks the system nothing. The one rule: a tree is called empty only if the
//! system has shown that it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long killed processes may take to disappear before they are reported as still there.
///
/// A process that waits for a device dies when the kernel lets go of it, and a process that has
/// become another user's may not be killable.
pub(crate) const LAST_WAIT: Duration = Duration::from_secs(2);

/// How to keep a process together with everything that it starts: see
/// [`Command::contain`](crate::Command::contain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Contain {
    /// A process group that the process leads. A descendant that leaves the group leaves the
    /// containment.
    #[default]
    Group,
    /// A cgroup of its own (`cgroups(7)`, version 2). The spawn fails where the system does not
    /// allow that ([`Stage::Cgroup`](crate::Stage::Cgroup)).
    Cgroup,
    /// A cgroup of its own where the system allows that, and the process group elsewhere. The
    /// process's [`Containment`] says which one it is.
    Auto,
}

/// The kinds of containment, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Strength {
    /// Nothing. The process is in a process group that it does not lead, and signals reach only the
    /// process itself.
    Process,
    /// The process group that the process leads. Signals do not reach descendants that make a group
    /// or session of their own. They reach members that outlive the leader on Linux 6.9 or later,
    /// with pidfds.
    Group,
    /// A cgroup of its own. All descendants are in it, whatever they do. A descendant can leave
    /// only if it may write to the `cgroup.procs` of another cgroup: if it runs as root, or as the
    /// user who owns a delegated hierarchy.
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

/// A reason that many processes share. The box halves the size of the pointer to it.
pub(crate) type Reason = Arc<Box<str>>;

/// What keeps one process together with everything that it starts, and why it is not stronger.
///
/// Displayed as `cgroup`, or as `group (no cgroup: …)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containment {
    strength: Strength,
    reason: Option<Reason>,
}

impl Containment {
    pub(crate) fn new(strength: Strength, reason: Option<Reason>) -> Self {
        Self { strength, reason }
    }

    /// The kind of the containment.
    #[must_use]
    pub fn strength(&self) -> Strength {
        self.strength
    }

    /// Why the containment is weaker than the command asked for, if it is. For a cgroup: why the
    /// process was not born in it but entered it just before its exec.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_ref().map(|reason| &reason[..])
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
    /// The process id. It may belong to another process as soon as this one is gone.
    pub pid: u32,
    /// The name (`/proc/PID/comm`), which is at most 15 bytes long. Bytes that are not UTF-8 are
    /// replaced.
    pub name: String,
    /// The state (`proc(5)`): `R` runs, `S` sleeps, `D` is in a call that nothing interrupts, `T`
    /// is stopped, `Z` is dead and not reaped.
    pub state: char,
    /// The resident memory in bytes. The kernel counts it in batches, so a process that has just
    /// begun may show none.
    #[doc(alias = "VmRSS")]
    pub memory: u64,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.pid, self.name.escape_debug(), self.state)
    }
}

/// The processes that are left of a tree.
///
/// Displayed as `nobody`, `2: 123 sleep (S), 124 cat (D)` or `unknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remains {
    /// No process is left, as far as the containment's [`Strength`] can tell.
    Nobody,
    /// These processes were left at the moment of the check.
    Members(Vec<Member>),
    /// The system cannot tell which processes are left.
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
        let group = Containment::new(Strength::Group, Some(Arc::new("it is not mounted".into())));
        assert_eq!(group.to_string(), "group (no cgroup: it is not mounted)");
        assert_eq!(Containment::new(Strength::Cgroup, None).to_string(), "cgroup");
    }
}
