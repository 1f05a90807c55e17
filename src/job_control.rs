//! Handles the requests that a terminal's keys send to a program that runs processes: end, end at
//! once, and suspend.
//!
//! It is a layer over the reactor's signals, and starts and stops no process itself. The one rule:
//! a signal that the program ignored from the start stays ignored, because the program that started
//! it wants it so.

use std::io;
use std::time::{Duration, Instant};

use crate::reactor::{Event, Reactor, end_program, that_end_program};
use crate::signal;

/// The signals that ask a program to end: `kill`, Ctrl-C, Ctrl-\\ and a closed terminal send them.
pub(crate) const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// A request within this time of the first one counts as the same request. timeout(1) sends one
/// signal to the process and one to its group, and a shell often sends another SIGHUP when a
/// terminal is closed.
const ECHO: Duration = Duration::from_millis(200);

/// A request to the program: see [`JobControl::handle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// End in order: ask the processes to stop, and give them their time.
    Stop,
    /// End at once: kill the processes.
    Kill,
}

/// A sequence of requests to end. The first one asks for a stop, a later one for a kill.
#[derive(Debug, Default)]
pub(crate) struct Requests(Option<Instant>);

impl Requests {
    /// Takes a signal that asks for the end. Returns `None` if it is an echo of the first.
    pub(crate) fn hear(&mut self, now: Instant) -> Option<Request> {
        match self.0 {
            None => {
                self.0 = Some(now);
                Some(Request::Stop)
            }
            Some(first) => (now > first + ECHO).then_some(Request::Kill),
        }
    }

    /// Tells whether there was any request.
    pub(crate) fn are_any(&self) -> bool {
        self.0.is_some()
    }
}

/// Returns the signals of [`ENDING`] that the library has to watch itself.
///
/// These are not the ones that the host watches or has ignored from the start. SIGTERM is left out
/// only if the host watches it.
pub(crate) fn ending_signals(reactor: &Reactor) -> Vec<i32> {
    let is_free = |signal: &i32| {
        !reactor.watches_signal(*signal) && (*signal == libc::SIGTERM || !Reactor::ignores_signal(*signal))
    };
    ENDING.into_iter().filter(is_free).collect()
}

/// Returns all other signals that would end the program now.
pub(crate) fn other_ending_signals(reactor: &Reactor) -> Vec<i32> {
    let is_meant = |signal: &i32| {
        let known = ENDING.contains(signal) || *signal == libc::SIGKILL;
        !known && !reactor.watches_signal(*signal)
    };
    that_end_program((1..=signal::max()).filter(is_meant).collect())
}

/// Makes a program with its own loop behave on a terminal as its user expects.
///
/// | signal | from | effect |
/// | --- | --- | --- |
/// | SIGINT, SIGTERM, SIGQUIT, SIGHUP | Ctrl-C, `kill`, Ctrl-\\, a closed terminal | [`Request::Stop`] |
/// | one of them again, 0.2 s later or more | | [`Request::Kill`] |
/// | SIGTSTP | Ctrl-Z | [`Reactor::suspend`]: the processes, the timers and the program are suspended until `fg` |
///
/// A signal that is ignored when this value is made stays ignored, as in a program that `nohup` or
/// a shell has started in the background. Only SIGTERM is always watched. [`Reactor::run_service`]
/// handles the first two rows by itself.
///
/// ```
/// use childminder::{Command, Event, JobControl, Reactor, Request};
///
/// let mut reactor = Reactor::new()?;
/// let mut control = JobControl::new(&mut reactor)?;
/// let job = reactor.spawn_process(Command::new("sleep").arg("0.1"))?;
/// while let Some(process) = reactor.process(job) {
///     reactor.turn(None, |reactor, event| {
///         let request = control.handle(reactor, &event);
///         let Some(mut process) = reactor.process(job) else { return };
///         // An error says that the process has just exited.
///         let _ = match request {
///             Some(Request::Stop) => process.terminate_group(libc::SIGTERM),
///             Some(Request::Kill) => process.kill_group(),
///             None => Ok(()),
///         };
///     })?;
/// }
/// control.release(&mut reactor);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the signals stay watched until `release`"]
pub struct JobControl {
    watched: Vec<i32>,
    requests: Requests,
}

impl JobControl {
    /// Watches the signals of the table above.
    ///
    /// # Errors
    ///
    /// As [`Reactor::watch_signal`]. No signal is watched then.
    pub fn new(reactor: &mut Reactor) -> io::Result<Self> {
        let mut control = Self { watched: Vec::new(), requests: Requests::default() };
        let mut wanted = ending_signals(reactor);
        if !Reactor::ignores_signal(libc::SIGTSTP) && !reactor.watches_signal(libc::SIGTSTP) {
            wanted.push(libc::SIGTSTP);
        }
        for signal in wanted {
            if let Err(error) = reactor.watch_signal(signal) {
                control.release(reactor);
                return Err(error);
            }
            control.watched.push(signal);
        }
        Ok(control)
    }

    /// Takes an event, and returns a request to the program if the event was one of the signals
    /// that end it. This method carries out a suspend and the continuation after it.
    pub fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> Option<Request> {
        match *event {
            Event::Signal(signal) if !self.watched.contains(&signal) => None,
            Event::Signal(libc::SIGTSTP) => {
                // If the program cannot be suspended, it goes on. The processes are continued in
                // any case.
                let _ = reactor.suspend();
                None
            }
            Event::Signal(_) => self.requests.hear(reactor.now()),
            _ => None,
        }
    }

    /// Takes back what [`new`](Self::new) has done, so that the signals do again what they did
    /// before. A signal that has arrived since the last turn takes effect at once, unless the
    /// program is ending anyway.
    pub fn release(self, reactor: &mut Reactor) {
        let late = reactor.release_signals(&self.watched);
        if !self.requests.are_any() {
            late.into_iter().for_each(end_program);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
    fn a_second_request_kills_unless_it_is_an_echo() {
        let (start, mut requests) = (Instant::now(), Requests::default());
        let said = [0, 1, 200, 201, 5000].map(|millis| requests.hear(start + Duration::from_millis(millis)));
        assert_eq!(said, [Some(Request::Stop), None, None, Some(Request::Kill), Some(Request::Kill)]);
    }
}
