//! Processes that stand still: those that a signal has stopped, and all of them together with the program.
//!
//! Ends nothing. The one rule: while the program stands still, so does the time of its timers.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Event, Reactor, clock};
use crate::process::ProcessId;
use crate::slab::Key;
use crate::sys;
use crate::sys::wait::StopChange;

/// How often this program has been suspended and has gone on.
static SUSPENSIONS: AtomicU64 = AtomicU64::new(0);

/// How often the program has been suspended up to now.
pub(super) fn suspensions() -> u64 {
    SUSPENSIONS.load(Ordering::Relaxed)
}

/// Changes that are known and not told yet; `None` as long as the host does not want to know.
pub(super) type Stops = Option<VecDeque<(Key, StopChange)>>;

impl Reactor {
    /// Has [`Event::Stopped`] and [`Event::Continued`] come for the processes of this reactor. Without this
    /// call a process that a signal stops looks like any other that runs. Two changes that follow each other
    /// closely may be told as the last one.
    ///
    /// The kernel tells of a stop by SIGCHLD only. So this installs a handler for it, as
    /// [`ReapMethod::Sigchld`](crate::ReapMethod::Sigchld) does, and each SIGCHLD then costs a system call
    /// for each process.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`: it takes two descriptors if no signal is watched yet.
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
        // Nobody may take back what the host wants to know of SIGCHLD otherwise.
        self.sigchld.for_children = true;
        self.stops.get_or_insert_default();
        Ok(())
    }

    /// Stops all processes of this reactor (SIGSTOP to their groups) and then this program, as SIGTSTP does
    /// by default. When the program is continued, by `fg` or by any SIGCONT, the processes are, too, and all
    /// timers are put off by the time that it stood still: so a process that has two seconds left to stop
    /// still has them. [`Event::Resumed`] tells of it in the next turn.
    ///
    /// It is what a program that watches SIGTSTP does when that comes; [`JobControl`](crate::JobControl) does
    /// it for you. The processes are continued at once where the kernel does not stop the program: if nobody
    /// in its session could continue it. If another reactor of the program has suspended it after this one
    /// looked for signals last, nothing is done: the same key would stop the program twice.
    ///
    /// # Errors
    ///
    /// What `sigaction(2)` and `raise(3)` say; the processes are continued then.
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

    /// Looks which processes were stopped or continued.
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
