//! The reason why no cgroup can be used.
//!
//! It decides nothing. The one rule: it says what was tried, and keeps the system's error.

use std::io;
use std::sync::Arc;

use crate::contain::Reason;

/// The reason why no cgroup can be used.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    what: Reason,
    kind: io::ErrorKind,
    errno: Option<i32>,
}

impl Refused {
    pub(crate) fn new(what: String, error: &io::Error) -> Self {
        let (kind, errno) = (error.kind(), error.raw_os_error());
        let said = match errno {
            None if kind == io::ErrorKind::NotFound => what,
            _ => format!("{what}: {error}"),
        };
        Self { what: Arc::new(said.into()), kind, errno }
    }

    pub(crate) fn unsupported(what: String) -> Self {
        Self { what: Arc::new(what.into()), kind: io::ErrorKind::Unsupported, errno: None }
    }

    /// Returns what was tried, and the system's error.
    pub(crate) fn reason(&self) -> Reason {
        Arc::clone(&self.what)
    }

    pub(crate) fn error(&self) -> io::Error {
        self.errno.map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }

    /// Tells whether the directories were removed by another program.
    pub(crate) fn is_vanished(&self) -> bool {
        matches!(self.errno, Some(libc::ENOENT | libc::ENODEV))
    }

    /// Tells whether it may work the next time, because neither the rights nor the system refuse it
    /// for good.
    pub(crate) fn is_passing(&self) -> bool {
        let for_good = [libc::EACCES, libc::EPERM, libc::EROFS, libc::ENOSYS, libc::EOPNOTSUPP];
        self.errno.is_some_and(|errno| !for_good.contains(&errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_tried() {
        let refused = Refused::new("cannot make a cgroup in /x".into(), &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(&**refused.reason(), "cannot make a cgroup in /x: Permission denied (os error 13)");
        assert!(!refused.is_passing() && refused.error().raw_os_error() == Some(libc::EACCES));
        assert!(Refused::new(String::new(), &io::Error::from_raw_os_error(libc::EMFILE)).is_passing());
    }
}
