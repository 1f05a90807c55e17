//! What signals ask of a command that watches processes. Those that end it are `run_service`'s.
//!
//! The one rule: a signal that was ignored from the start stays ignored, since whoever started the command
//! wants it so, as nohup(1) does.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use childminder::Reactor;

/// The signals that end a command. They are watched here, and not by `run_service` alone, so that one that
/// comes after that does not end the command with another exit code than it has.
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGHUP: `up` reads its file again, `run` restarts its process.
    Reload,
    /// SIGHUP, and the terminal is gone.
    Hangup,
    /// SIGUSR1: the status is written to stderr.
    Status,
    /// SIGUSR2: files are opened anew.
    Reopen,
    /// SIGTSTP: all stand still until the command is continued.
    Suspend,
}

/// The signals that a command watches beside those that end it.
#[derive(Debug)]
pub(crate) struct Signals {
    /// The command was started on a terminal, which may be closed.
    had_terminal: bool,
}

impl Signals {
    pub(crate) fn watch(reactor: &mut Reactor) -> io::Result<Self> {
        for signal in ENDING.into_iter().chain([libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTSTP]) {
            if signal == libc::SIGTERM || !Reactor::ignores_signal(signal) {
                reactor.watch_signal(signal)?;
            }
        }
        // A file that has come to the size limit (setrlimit(2)) fails a write, and does not end us.
        reactor.watch_signal(libc::SIGXFSZ)?;
        if Reactor::ignores_signal(libc::SIGCHLD) {
            // We inherited that, and while it holds nobody learns how a child has ended.
            reactor.watch_signal(libc::SIGCHLD)?;
        }
        Ok(Self { had_terminal: has_terminal() })
    }

    /// Lets the signals that end a command end this one at once: there is nobody left to be stopped.
    pub(crate) fn release(reactor: &mut Reactor) {
        for signal in ENDING {
            reactor.unwatch_signal(signal);
        }
    }

    /// What a signal that was watched here asks for, if it asks for anything.
    pub(crate) fn wish(&self, signal: i32) -> Option<Wish> {
        match signal {
            libc::SIGHUP if self.had_terminal && !has_terminal() => Some(Wish::Hangup),
            libc::SIGHUP => Some(Wish::Reload),
            libc::SIGUSR1 => Some(Wish::Status),
            libc::SIGUSR2 => Some(Wish::Reopen),
            libc::SIGTSTP => Some(Wish::Suspend),
            _ => None,
        }
    }
}

/// Whether this session has a terminal. When the terminal is closed, the kernel takes it from the whole
/// session before it sends SIGHUP.
fn has_terminal() -> bool {
    let terminal = File::options().read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open("/dev/tty");
    // A descriptor that is missing is no answer.
    !terminal.is_err_and(|error| [libc::ENXIO, libc::EIO, libc::ENOENT].contains(&error.raw_os_error().unwrap_or(0)))
}
