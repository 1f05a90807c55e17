//! What holds for every process that the commands run.
//!
//! The one rule: a process of a supervisor has nobody at a terminal to ask, and nothing of what was
//! meant for the supervisor alone.

use std::ffi::OsStr;

use childminder::Command;
use rustix::process::geteuid;

/// The variables by which systemd(1) talks to the service that it has started, which is this
/// command. A process that took them for its own would speak in our name, or take our descriptors.
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

/// A command for a program, without the variables that are not for it. `uid` is its user, if it has
/// one of its own. What is set afterwards is set.
pub(crate) fn command(program: impl AsRef<OsStr>, uid: Option<u32>) -> Command {
    let mut command = Command::new(program);
    let is_foreign = uid.is_some_and(|uid| uid != geteuid().as_raw());
    let session = if is_foreign { SESSION } else { &[] };
    // A variable that is not there costs each command nothing.
    for name in OWN.iter().chain(session).filter(|name| std::env::var_os(name).is_some()) {
        command.env_remove(name);
    }
    command
}

/// Gives the process a session of its own, without a terminal, and has it end with us if nothing can be
/// done for it any more.
///
/// On our terminal a process that asks for a password would be stopped by the kernel, for good. Without a
/// terminal it gets its error at once. The kernel kills it if we are killed by SIGKILL, or by a fault of
/// our own; every other end of ours stops it in order.
pub(crate) fn confine(command: &mut Command) {
    command.setsid(true);
    #[cfg(target_os = "linux")]
    command.parent_death_signal(libc::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_all_variables() {
        const README: &str = include_str!("../../README.md");
        for name in OWN.iter().chain(SESSION) {
            assert!(README.contains(&format!("`{name}`")), "{name}");
        }
    }
}
