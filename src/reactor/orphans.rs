//! Orphans: descendants that have lost their parent, in a program that adopts them.
//!
//! This file does nothing unless the host has called [`Reactor::adopt_orphans`]. A child of the
//! program that this reactor did not start then counts as an orphan. The one rule: an orphan is
//! signalled only by a pidfd, and only while it is an unreaped child of this program.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::{Event, Reactor, clock};
use crate::contain::LAST_WAIT;
use crate::process::table;
use crate::sys;
use crate::sys::wait::Wait;

/// The interval of the searches while the orphans are being ended, because the kernel does not
/// report new orphans.
const LOOK: Duration = Duration::from_millis(50);

/// What happens to orphans at the end of [`Reactor::run_service`]: see [`Reactor::adopt_orphans`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Orphans {
    /// They are left alone.
    Leave,
    /// When the service is down they get SIGTERM and SIGCONT, and SIGKILL after this time or when
    /// the program is asked to end a second time. `run_service` returns when they are gone, two
    /// seconds after SIGKILL at the latest.
    End(Duration),
}

/// The orphans of this program.
#[derive(Debug)]
pub(super) struct Orphanage {
    fate: Orphans,
    /// The orphans that were found and are not reaped.
    known: HashMap<i32, Option<OwnedFd>>,
    /// The orphans that are not reported yet.
    untold: VecDeque<(u32, String)>,
    /// Whether a child of the program has ended, whose own children may be ours now.
    pub(super) stirred: bool,
    ending: Option<Ending>,
}

/// The state of a running end of all orphans.
#[derive(Debug)]
struct Ending {
    kill_at: Instant,
    killed: Option<Instant>,
    look_at: Instant,
}

impl Orphanage {
    /// Returns when there is something to do, even without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        let ending = self.ending.as_ref()?;
        Some(if ending.killed.is_some() { ending.look_at } else { ending.look_at.min(ending.kill_at) })
    }

    /// Adds a child of the program that this reactor did not start.
    fn take_in(&mut self, pid: i32) {
        if self.known.contains_key(&pid) {
            return;
        }
        let pidfd = sys::pidfd::open(pid).ok();
        if let (Some(ending), Some(pidfd)) = (&self.ending, &pidfd) {
            end(pidfd, ending.killed.is_some());
        }
        self.known.insert(pid, pidfd);
        let name = table::name(pid).unwrap_or_default();
        self.untold.push_back((pid.unsigned_abs(), name));
    }

    fn end_all(&self, kill: bool) {
        self.known.values().flatten().for_each(|pidfd| end(pidfd, kill));
    }
}

/// Asks an orphan to end, or kills it. An error means that it is gone or another user's.
fn end(pidfd: &OwnedFd, kill: bool) {
    let signals: &[i32] = if kill { &[libc::SIGKILL] } else { &[libc::SIGTERM, libc::SIGCONT] };
    for signal in signals {
        let _ = sys::pidfd::send(pidfd, *signal);
    }
}

impl Reactor {
    /// Makes this program the parent of its descendants that lose their own
    /// (`PR_SET_CHILD_SUBREAPER`, Linux), as the first process of a container is anyway.
    ///
    /// [`Event::Orphan`] names each of them once, and they are reaped when they end. Later calls
    /// only change what happens to them at the end.
    ///
    /// Use it only in a program all of whose children belong to this reactor. It takes the exit of
    /// any other child, such as one of [`std::process::Command`] or of another reactor, from the
    /// code that waits for it. It cannot be undone. Without it, the library never reaps a process
    /// that it has not started.
    ///
    /// It installs a handler for SIGCHLD, as [`ReapMethod::Sigchld`](crate::ReapMethod::Sigchld)
    /// does. At each SIGCHLD it reads the list of all children.
    ///
    /// # Errors
    ///
    /// The error of `prctl(2)` (`EINVAL` before Linux 3.4, and under an emulator that does not know
    /// the call), unless this program is the first process of a container. `EMFILE` or `ENFILE`,
    /// since it takes two descriptors if no signal is watched yet. After an error no orphan is
    /// adopted.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use childminder::{Command, Event, Orphans, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.adopt_orphans(Orphans::End(Duration::from_secs(5)))?;
    /// reactor.spawn_process(Command::new("sh").args(["-c", "setsid sleep 0.1 & exit"]))?;
    /// let mut found = false;
    /// while !found {
    ///     reactor.turn(None, |_, event| {
    ///         if let Event::Orphan { pid, name } = event {
    ///             println!("{pid} {name} has lost its parent");
    ///             found = true;
    ///         }
    ///     })?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "PR_SET_CHILD_SUBREAPER")]
    pub fn adopt_orphans(&mut self, fate: Orphans) -> io::Result<()> {
        if let Some(orphans) = &mut self.orphans {
            orphans.fate = fate;
            return Ok(());
        }
        let watched = self.sigchld.for_host || self.sigchld.for_children;
        self.watch(&[libc::SIGCHLD])?;
        sys::wait::adopt_orphans().inspect_err(|_| {
            if !watched {
                self.unwatch_signal(libc::SIGCHLD);
            }
        })?;
        // No call of `unwatch_signal` may stop the watching of SIGCHLD now.
        self.sigchld.for_children = true;
        let (known, untold) = (HashMap::new(), VecDeque::new());
        self.orphans = Some(Orphanage { fate, known, untold, stirred: true, ending: None });
        Ok(())
    }

    pub(super) fn has_orphans_to_look_for(&self) -> bool {
        self.orphans.as_ref().is_some_and(|orphans| orphans.stirred || !orphans.untold.is_empty())
    }

    /// Returns the pids that this reactor reaps in other ways.
    fn own_pids(&self) -> HashSet<i32> {
        self.processes.iter().filter_map(|(_, child)| child.unreaped_pid()).chain(self.guard.pid()).collect()
    }

    /// Finds orphans, reaps the exited ones, and reports the new ones.
    pub(super) fn settle_orphans(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        let now = self.woke;
        let due = self.orphans.as_ref().and_then(Orphanage::due).is_some_and(|due| due <= now);
        if self.orphans.as_mut().is_some_and(|orphans| std::mem::take(&mut orphans.stirred)) || due {
            self.look_for_orphans(now);
        }
        while let Some((pid, name)) = self.orphans.as_mut().and_then(|orphans| orphans.untold.pop_front()) {
            handler(self, Event::Orphan { pid, name: &name });
        }
    }

    fn look_for_orphans(&mut self, now: Instant) {
        let own = self.own_pids();
        let Some(orphans) = &mut self.orphans else { return };
        if let Some(ending) = &mut orphans.ending {
            ending.look_at = now + LOOK;
            if ending.killed.is_none() && ending.kill_at <= now {
                ending.killed = Some(now);
                orphans.end_all(true);
            }
        }
        match table::children() {
            Some(children) => {
                children.into_iter().filter(|pid| !own.contains(pid)).for_each(|pid| orphans.take_in(pid))
            }
            // Without a process table only the first zombie can be seen.
            None => sys::wait::any_zombie()
                .into_iter()
                .filter(|pid| !own.contains(pid))
                .for_each(|pid| orphans.take_in(pid)),
        }
        let before = orphans.known.len();
        orphans.known.retain(|pid, _| !matches!(sys::wait::try_wait(*pid), Wait::Reaped(..) | Wait::Lost));
        // Their children are ours now. They are searched for in the next turn, because a long chain
        // of them could follow.
        orphans.stirred = orphans.known.len() < before;
    }

    /// Ends all orphans, if the host has asked for it. Returns whether that is done.
    pub(crate) fn end_orphans(&mut self) -> bool {
        let now = clock();
        let Some(orphans) = &mut self.orphans else { return true };
        let Orphans::End(kill_time) = orphans.fate else { return true };
        if orphans.ending.is_none() {
            orphans.ending = Some(Ending { kill_at: now + kill_time, killed: None, look_at: now });
            orphans.end_all(false);
            self.look_for_orphans(now);
        }
        let Some(orphans) = &mut self.orphans else { return true };
        let given_up = |ending: &Ending| ending.killed.is_some_and(|killed| now > killed + LAST_WAIT);
        let done = orphans.known.is_empty() && !orphans.stirred || orphans.ending.as_ref().is_some_and(given_up);
        if done {
            for pid in orphans.known.keys() {
                log::warn!("an orphan was killed, and is still there: {pid} {}", table::name(*pid).unwrap_or_default());
            }
            orphans.ending = None;
        }
        done
    }

    /// Kills the orphans that are being ended.
    pub(crate) fn kill_orphans(&mut self) {
        let now = clock();
        if let Some(ending) = self.orphans.as_mut().and_then(|orphans| orphans.ending.as_mut()) {
            ending.kill_at = now;
        }
    }
}
