//! Looks up users by the name or number on the command line, and reads the numbers of groups.
//! Changes no user.
//!
//! The one rule: a name in the user database comes before a number, as in chown(1).

use std::io;

use childminder::Command;

/// The number in a text. -1 is refused, because it means "unchanged" to the kernel.
pub(crate) fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// The number of a user. A user that is given by number need not be in the user database.
pub(crate) fn uid(text: &str) -> io::Result<u32> {
    let mut command = Command::new("");
    match (command.user(text), number(text)) {
        (Ok(command), _) => command.get_uid().ok_or_else(|| io::ErrorKind::NotFound.into()),
        (Err(_), Some(uid)) => Ok(uid),
        (Err(error), None) => Err(error),
    }
}
