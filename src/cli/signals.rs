//! The meaning of signals for a command that watches processes. `run_service` carries out the
//! signals that end the command.
//!
//! The one rule: a signal that was ignored from the start stays ignored, because the program that
//! started the command wants that, as nohup(1) does.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::{Event, Interest, Reactor, SourceId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The signals that end a command. They are watched here as well as by `run_service`, so that one
/// that arrives after `run_service` has returned does not end the command with another exit code.
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// The time within which a SIGHUP and the end of the terminal belong together. The kernel, the
/// shell and the terminal's program each send it in their own order.
const TOGETHER: Duration = Duration::from_secs(2);

/// The request in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGHUP: `up` reads its file again, `run` restarts its process.
    Reload,
    /// SIGHUP because the terminal is gone.
    Hangup,
    /// SIGUSR1: the status is written to stderr.
    Status,
    /// SIGUSR2: files are opened anew.
    Reopen,
    /// SIGTSTP: all processes are stopped until the command is continued.
    Suspend,
    /// Nothing, or something that `run_service` does.
    Nothing,
}

/// The signals that a command watches beside the ones that end it.
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
    /// Its source, if the reactor could register it. Otherwise the terminal is checked at each
    /// SIGHUP.
    source: Option<SourceId>,
    /// The time at which it was first seen to be closed.
    closed: Option<Instant>,
}

/// Blocks all signals until the program has ended, which is about to happen.
pub(crate) fn block() {
    // This call does not fail.
    let _ = nix::sys::signal::SigSet::all().thread_block();
}

impl Signals {
    pub(crate) fn watch(reactor: &mut Reactor) -> io::Result<Self> {
        for signal in ENDING.into_iter().chain([libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTSTP]) {
            if signal == libc::SIGTERM || !Reactor::ignores_signal(signal) {
                reactor.watch_signal(signal)?;
            }
        }
        // At the size limit of a file (setrlimit(2)), a write then fails and does not end this
        // command.
        reactor.watch_signal(libc::SIGXFSZ)?;
        if Reactor::ignores_signal(libc::SIGCHLD) {
            // The ignored SIGCHLD was inherited. As long as it is ignored, the kernel reports no
            // exit status of a child.
            reactor.watch_signal(libc::SIGCHLD)?;
        }
        // If SIGHUP is ignored, its meaning is never needed.
        let terminal = if Reactor::ignores_signal(libc::SIGHUP) { None } else { Terminal::watch(reactor) };
        Ok(Self { terminal, hangup: None })
    }

    /// Gives the signals that end or suspend the command their ordinary effect again. There are no
    /// processes left to stop.
    pub(crate) fn release(reactor: &mut Reactor) {
        for signal in ENDING.into_iter().chain([libc::SIGHUP, libc::SIGTSTP]) {
            reactor.unwatch_signal(signal);
        }
    }

    /// The request in an event; `None` if the event was not meant for this.
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
                let is_closed = terminal.check(reactor).is_some();
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
        match self.terminal.as_mut().and_then(|terminal| terminal.check(reactor)) {
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
        // Input on the terminal makes events, too. It is not read.
        let source = reactor.register(Arc::clone(&file), Interest::Readable).ok();
        Some(Self { file, source, closed: None })
    }

    /// Checks whether the terminal is closed. Returns the time at which that was first seen.
    fn check(&mut self, reactor: &mut Reactor) -> Option<Instant> {
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
