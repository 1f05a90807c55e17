//! Suspension: processes that a signal has stopped, and the suspension of all processes together
//! with the program.
//!
//! It ends no process. The one rule: while the program is suspended, the time of its timers does
//! not pass.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Event, Reactor, clock};
use crate::process::ProcessId;
use crate::slab::Key;
use crate::sys;
use crate::sys::wait::StopChange;

/// How often this program has been suspended and continued.
static SUSPENSIONS: AtomicU64 = AtomicU64::new(0);

/// Returns how often the program has been suspended up to now.
pub(super) fn suspensions() -> u64 {
    SUSPENSIONS.load(Ordering::Relaxed)
}

/// Changes that are known and not reported yet. `None` as long as the host has not asked for them.
pub(super) type Stops = Option<VecDeque<(Key, StopChange)>>;

impl Reactor {
    /// Requests [`Event::Stopped`] and [`Event::Continued`] for the processes of this reactor.
    ///
    /// Without this call, a process that a signal has stopped looks like any other that runs. Of
    /// two changes that follow each other closely, only the last one may be reported.
    ///
    /// The kernel reports a stop only by SIGCHLD. So this installs a handler for it, as
    /// [`ReapMethod::Sigchld`](crate::ReapMethod::Sigchld) does, and each SIGCHLD then costs a
    /// system call for each process.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, since it takes two descriptors if no signal is watched yet.
    ///
    /// ```
    /// use childminder::{Command, Event, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.watch_stops()?;
    /// let id = reactor.spawn_process(Command::new("sleep").arg("1000"))?;
    /// reactor.process(id).expect("it runs").signal(libc::SIGSTOP)?;
    /// let mut stopped = None;
    /// while stopped.is_none() {
    ///     reactor.turn(None, |_, event| {
    ///         if let Event::Stopped { signal, .. } = event {
    ///             stopped = Some(signal);
    ///         }
    ///     })?;
    /// }
    /// assert_eq!(stopped, Some(libc::SIGSTOP));
    /// reactor.process(id).expect("it is only stopped").kill_group()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "WUNTRACED")]
    pub fn watch_stops(&mut self) -> io::Result<()> {
        self.watch(&[libc::SIGCHLD])?;
        // No call of `unwatch_signal` may stop the watching of SIGCHLD now.
        self.sigchld.for_children = true;
        self.stops.get_or_insert_default();
        Ok(())
    }

    /// Suspends all processes of this reactor (SIGSTOP to their groups) and then this program, as
    /// SIGTSTP does by default.
    ///
    /// When the program is continued, by `fg` or by any SIGCONT, the processes are continued too,
    /// and all timers are delayed by the length of the suspension. So a process that has two
    /// seconds left to stop still has them. [`Event::Resumed`] reports it in the next turn.
    ///
    /// A program that watches SIGTSTP calls this when the signal arrives;
    /// [`JobControl`](crate::JobControl) does it for you. The processes are continued at once if
    /// the kernel does not stop the program, because no process in its session could continue it.
    /// If another reactor of the program has suspended it since this one last read its signals,
    /// nothing is done: the same key would stop the program twice.
    ///
    /// # Errors
    ///
    /// The errors of `sigaction(2)` and `raise(3)`. The processes are continued then.
    #[doc(alias = "SIGTSTP")]
    pub fn suspend(&mut self) -> io::Result<()> {
        if suspensions() != self.suspensions {
            return Ok(());
        }
        let before = clock();
        for (_, child) in self.processes.iter() {
            child.stop_or_continue(libc::SIGSTOP);
        }
        let stopped = sys::signal::stop_self(libc::SIGTSTP);
        self.suspensions = SUSPENSIONS.fetch_add(1, Ordering::Relaxed) + 1;
        for (_, child) in self.processes.iter() {
            child.stop_or_continue(libc::SIGCONT);
        }
        let after = clock().saturating_duration_since(before);
        self.timers.put_off(after);
        *self.resumed.get_or_insert_default() += after;
        stopped
    }

    /// Finds the processes that were stopped or continued.
    pub(super) fn find_stops(&mut self) {
        if let Some(stops) = &mut self.stops {
            let changes = self.processes.iter().filter_map(|(key, child)| Some((key, child.stop_change()?)));
            stops.extend(changes);
        }
    }

    pub(super) fn tell_stops(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        if let Some(after) = self.resumed.take() {
            handler(self, Event::Resumed { after });
        }
        while let Some((process, change)) = self.stops.as_mut().and_then(VecDeque::pop_front) {
            let process = ProcessId(process);
            match change {
                StopChange::Stopped(signal) => handler(self, Event::Stopped { process, signal }),
                StopChange::Continued => handler(self, Event::Continued { process }),
            }
        }
    }
}
