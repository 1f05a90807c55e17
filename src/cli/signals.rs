//! What signals ask of a command that watches processes. Those that end it are `run_service`'s.
//!
//! The one rule: a signal that was ignored from the start stays ignored, since whoever started the command
//! wants it so, as nohup(1) does.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::{Event, Interest, Reactor, SourceId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The signals that end a command. They are watched here, and not by `run_service` alone, so that one that
/// comes after that does not end the command with another exit code than it has.
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// A SIGHUP belongs to the end of the terminal if both come within this time. The kernel, the shell
/// and the terminal's program each send it in their own order.
const TOGETHER: Duration = Duration::from_secs(2);

/// What an event asks for.
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
    /// Nothing, or what `run_service` does.
    Nothing,
}

/// The signals that a command watches beside those that end it.
#[derive(Debug)]
pub(crate) struct Signals {
    /// The terminal that the command was started on, which may be closed.
    terminal: Option<Terminal>,
    /// The time of the last SIGHUP.
    hangup: Option<Instant>,
}

#[derive(Debug)]
struct Terminal {
    file: Arc<File>,
    /// Its source, if the reactor could take it. Otherwise the terminal is looked at with each SIGHUP.
    source: Option<SourceId>,
    /// The time at which it was seen to be closed.
    closed: Option<Instant>,
}

/// Has all signals wait until the program has ended, which is about to happen.
pub(crate) fn block() {
    // It does not fail.
    let _ = nix::sys::signal::SigSet::all().thread_block();
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
        // If SIGHUP is ignored, nobody asks what it means.
        let terminal = if Reactor::ignores_signal(libc::SIGHUP) { None } else { Terminal::watch(reactor) };
        Ok(Self { terminal, hangup: None })
    }

    /// Lets signals do what they do to any program, but for those that ask for something: there is
    /// nobody left to be stopped.
    pub(crate) fn release(reactor: &mut Reactor) {
        for signal in ENDING.into_iter().chain([libc::SIGHUP, libc::SIGTSTP]) {
            reactor.unwatch_signal(signal);
        }
    }

    /// What an event asks for; `None` if the event was not meant for this.
    pub(crate) fn hear(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> Option<Wish> {
        Some(match *event {
            Event::Signal(libc::SIGHUP) => self.hung_up(reactor),
            Event::Signal(libc::SIGUSR1) => Wish::Status,
            Event::Signal(libc::SIGUSR2) => Wish::Reopen,
            Event::Signal(libc::SIGTSTP) => Wish::Suspend,
            Event::Signal(_) => Wish::Nothing,
            Event::Ready { source, .. } => {
                let terminal = self.terminal.as_mut().filter(|terminal| terminal.source == Some(source))?;
                let was_closed = terminal.closed.is_some();
                let is_closed = terminal.look(reactor).is_some();
                match self.hangup {
                    Some(at) if is_closed && !was_closed && is_together(at, reactor.now()) => Wish::Hangup,
                    _ => Wish::Nothing,
                }
            }
            _ => return None,
        })
    }

    fn hung_up(&mut self, reactor: &mut Reactor) -> Wish {
        let now = reactor.now();
        self.hangup = Some(now);
        match self.terminal.as_mut().and_then(|terminal| terminal.look(reactor)) {
            Some(closed) if is_together(closed, now) => Wish::Hangup,
            _ => Wish::Reload,
        }
    }
}

fn is_together(before: Instant, now: Instant) -> bool {
    now.saturating_duration_since(before) <= TOGETHER
}

impl Terminal {
    /// The terminal of this session, if there is one.
    fn watch(reactor: &mut Reactor) -> Option<Self> {
        let options = libc::O_NOCTTY | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(options).open("/dev/tty").ok().map(Arc::new)?;
        // What is typed on it makes events, too. It is not read.
        let source = reactor.register(Arc::clone(&file), Interest::Readable).ok();
        Some(Self { file, source, closed: None })
    }

    /// Looks whether it is closed by now, and since when that is known.
    fn look(&mut self, reactor: &mut Reactor) -> Option<Instant> {
        if self.closed.is_none() {
            let mut fds = [PollFd::new(&*self.file, PollFlags::empty())];
            let asked = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            if asked.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                self.closed = Some(reactor.now());
                if let Some(source) = self.source.take() {
                    reactor.deregister(source);
                }
            }
        }
        self.closed
    }
}
