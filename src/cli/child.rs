//! The settings of every process that the commands run. Starts nothing.
//!
//! The one rule: a process has no terminal, because a supervisor has no user in front of it, and it
//! inherits nothing that was meant for the supervisor alone.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

#[cfg(target_os = "linux")]
use childminder::Orphans;
use childminder::{Command, Reactor};
use rustix::process::geteuid;

use super::words;

/// The variables by which systemd(1) talks to a service that it has started, which is this command.
/// A process that used them would speak in our name, or take over our descriptors.
const OWN: &[&str] = &[
    "FDSTORE",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The variables that lead to the folders, sockets and agents of the session in which this command
/// was started. Another user may not use them, or should not.
const SESSION: &[&str] = &[
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GPG_AGENT_INFO",
    "KRB5CCNAME",
    "MAIL",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "SUDO_COMMAND",
    "SUDO_GID",
    "SUDO_HOME",
    "SUDO_UID",
    "SUDO_USER",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_SEAT",
    "XDG_SESSION_CLASS",
    "XDG_SESSION_ID",
    "XDG_SESSION_TYPE",
    "XDG_STATE_HOME",
    "XDG_VTNR",
];

/// A command for a program, without the variables that are not meant for it. `uid` is the user of
/// the process, if it is not ours. Variables that the caller sets afterwards are kept.
pub(crate) fn command(program: impl AsRef<OsStr>, uid: Option<u32>) -> Command {
    let mut command = Command::new(program);
    let is_foreign = uid.is_some_and(|uid| uid != geteuid().as_raw());
    let session = if is_foreign { SESSION } else { &[] };
    // A variable that is not set must not cost each command an entry.
    for name in OWN.iter().chain(session).filter(|name| std::env::var_os(name).is_some()) {
        command.env_remove(name);
    }
    command
}

/// Gives the process a session of its own, without a terminal. With `kill`, the kernel kills the
/// process if this command is killed by SIGKILL, or by a fault of its own. In every other case the
/// command stops the process before it ends.
///
/// On our terminal, the kernel would stop a process that asks for a password, for good. Without a
/// terminal, such a process gets an error at once.
pub(crate) fn confine(command: &mut Command, kill: bool) {
    command.setsid(true);
    #[cfg(target_os = "linux")]
    if kill {
        command.parent_death_signal(libc::SIGKILL);
    }
}

/// Has all descendants of the processes killed, too, if this command is killed. Returns a message
/// if that is not possible. There is no message on an architecture without a guard, because the
/// documentation says so.
pub(crate) fn kill_trees_at_death(reactor: &mut Reactor) -> Option<String> {
    #[cfg(target_os = "linux")]
    if let Err(error) = reactor.kill_trees_at_death(true) {
        // A system call that the system does not have is of the same kind, and has a number.
        let is_unwritten = error.kind() == io::ErrorKind::Unsupported && error.raw_os_error().is_none();
        return (!is_unwritten).then(|| words::no_guard(&error));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = reactor;
    None
}

/// As the first process of a container, this command reaps descendants that have lost their parent,
/// because no other process does. They are ended together with it. `kill_time` is the time from
/// SIGTERM to SIGKILL.
pub(crate) fn adopt_orphans(reactor: &mut Reactor, kill_time: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if std::process::id() == 1 {
        return reactor.adopt_orphans(Orphans::End(kill_time));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (reactor, kill_time);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_names_all_variables() {
        const CHAPTER: &str = include_str!("../guide/up.md");
        for name in OWN.iter().chain(SESSION) {
            assert!(CHAPTER.contains(&format!("`{name}`")), "{name}");
        }
    }
}
