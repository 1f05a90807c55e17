//! Starts a process in the containment that its command asks for.
//!
//! It decides about the containment only, and `process` starts the child. The one rule: everything
//! that was made for a process that could not be started is removed.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Reactor, clock};
use crate::command::{Command, Parts};
use crate::contain::{Contain, Containment, Strength};
use crate::error::{SpawnError, Stage};
use crate::process::cgroup::{Cgroup, Home, Refused};
use crate::process::{Child, ProcessId, Surroundings};
use crate::slab::Key;

/// The reason why a limit cannot be had for a command that is content with a process group.
const NO_CGROUP: &str = "the command asks for no cgroup: see `Command::contain`";

impl Reactor {
    /// Sets the directory of a cgroup v2 hierarchy below which the cgroups of this reactor's
    /// processes are made.
    ///
    /// The reactor has one directory there, `childminder-PID-NUMBER`, with one for each process in
    /// it. The default is the cgroup of the program itself. Running processes keep the cgroup that
    /// they have.
    ///
    /// No controller is needed. The program must be allowed to make directories there, and to write
    /// to `cgroup.procs` of the nearest cgroup that contains both that directory and the program:
    /// [`containment`](Self::containment) tells whether it is. Nothing that is there is moved or
    /// changed, except that empty directories of dead reactors are removed.
    ///
    /// ```
    /// use childminder::{Command, Contain, Reactor, Strength};
    ///
    /// let mut reactor = Reactor::new()?;
    /// reactor.set_cgroup_parent("/no/such/directory");
    /// let mut command = Command::new("sleep");
    /// command.contain(Contain::Auto);
    /// let containment = reactor.containment(&command);
    /// assert_eq!(containment.strength(), Strength::Group);
    /// assert!(containment.reason().expect("why").contains("cannot use /no/such/directory"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "Delegate")]
    pub fn set_cgroup_parent(&mut self, path: impl Into<PathBuf>) {
        self.trees.parent = Some(path.into());
        self.trees.home = None;
    }

    /// Moves this program into a cgroup of its own below the one in which it is now, so that the
    /// controllers can be switched on for the cgroups of this reactor's processes: see [the
    /// guide](crate::guide::figures).
    ///
    /// The kernel refuses to switch a controller on in a cgroup that has processes, the root
    /// excepted. So a program needs this for memory limits, process limits and their figures if it
    /// is alone in a cgroup that was delegated to it. It is moved back when the reactor is dropped.
    /// Processes that it starts in the meantime, other than in cgroups of this reactor, are in its
    /// new cgroup.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if other processes are in the cgroup. `InvalidInput` if
    /// [`set_cgroup_parent`](Self::set_cgroup_parent) has named another directory. `Unsupported`,
    /// or another error of the system, if the reactor can have no cgroups.
    ///
    /// ```
    /// let mut reactor = childminder::Reactor::new()?;
    /// if let Err(error) = reactor.enter_leaf_cgroup() {
    ///     println!("limits of memory may be refused: {error}");
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "Delegate")]
    pub fn enter_leaf_cgroup(&mut self) -> io::Result<()> {
        let home =
            self.home().map_err(|refused| io::Error::new(refused.error().kind(), refused.reason().to_string()))?;
        home.move_host_in()
    }

    /// Returns what would keep a process of this command together, and why it would not be
    /// stronger.
    ///
    /// No process is started. The directory of this reactor is made if the command asks for a
    /// cgroup and there is none yet.
    ///
    /// A cause that appears only at the start, such as a limit of processes, is not known in
    /// advance. If the command asks for [`Contain::Cgroup`] and the result is something else, the
    /// start will fail.
    pub fn containment(&mut self, command: &Command) -> Containment {
        let parts = command.parts();
        let reason = match parts.contain() {
            Contain::Group => None,
            Contain::Cgroup | Contain::Auto => match self.home() {
                Ok(_) => {
                    let born = self.spawner.can_be_born_in_cgroup().err();
                    return Containment::new(Strength::Cgroup, born.map(|error| Child::entry_reason(&error)));
                }
                Err(refused) => Some(refused.reason()),
            },
        };
        let leads = parts.group.leads() || parts.attributes().pty.is_some();
        Containment::new(if leads { Strength::Group } else { Strength::Process }, reason)
    }

    /// Refuses a command whose tree could not be measured while it runs, because it would not be in
    /// a cgroup.
    pub(crate) fn check_measurable(&mut self, command: &Command) -> Result<(), SpawnError> {
        let containment = self.containment(command);
        match containment.reason() {
            _ if containment.strength() == Strength::Cgroup => Ok(()),
            Some(reason) => Err(no_limit(command.parts(), reason)),
            None => Err(no_limit(command.parts(), NO_CGROUP)),
        }
    }

    /// Tells whether the peak memory of a process is certainly its own.
    pub(crate) fn has_own_peak(&self, id: ProcessId) -> bool {
        self.processes.get(id.0).is_some_and(Child::has_own_peak)
    }

    /// Returns the cgroup of a process that has not been reaped. It stays for a while after the end
    /// of its tree.
    pub(crate) fn cgroup_of(&mut self, id: ProcessId) -> Option<Cgroup> {
        self.processes.get_mut(id.0)?.lend_cgroup()
    }

    /// Returns the directory of this reactor, which is made if there is none yet. A refusal is
    /// kept, unless it may pass.
    fn home(&mut self) -> Result<Arc<Home>, Refused> {
        if let Some(known) = &self.trees.home {
            return known.clone();
        }
        let made = Home::make(self.trees.parent.as_deref());
        if !made.as_ref().is_err_and(Refused::is_passing) {
            self.trees.home = Some(made.clone());
        }
        made
    }

    /// Starts the command as process `key`.
    pub(super) fn start(&mut self, command: &Command, key: Key) -> Result<Child, SpawnError> {
        let parts = command.parts();
        let refused = match parts.contain() {
            Contain::Group if parts.attributes().tree_limits.are_any() => {
                return Err(no_limit(parts, NO_CGROUP));
            }
            Contain::Group => return self.start_in(parts, key, None),
            Contain::Cgroup | Contain::Auto => match self.start_in_cgroup(parts, key) {
                Err(Start::Refused(refused)) => refused,
                Err(Start::Failed(error)) => return Err(error),
                Ok(child) => return Ok(child),
            },
        };
        if parts.contain() == Contain::Cgroup {
            let error = SpawnError::new(parts.program().to_owned(), Stage::Cgroup, refused.error());
            return Err(error.with_hint(Some(refused.reason().to_string())));
        }
        if parts.attributes().tree_limits.are_any() {
            return Err(no_limit(parts, &refused.reason()));
        }
        let mut child = self.start_in(parts, key, None)?;
        child.set_containment(None, Some(refused.reason()));
        Ok(child)
    }

    fn start_in_cgroup(&mut self, command: &Parts, key: Key) -> Result<Child, Start> {
        let mut home = self.home()?;
        let (cgroup, dir) = match home.add() {
            // Another program has removed our directory.
            Err(refused) if refused.error().kind() == io::ErrorKind::NotFound => {
                self.trees.home = None;
                home = self.home()?;
                home.add()?
            }
            added => added?,
        };
        let limits = &command.attributes().tree_limits;
        if limits.are_any() || limits.measured {
            home.switch_on();
        }
        if let Err(refused) = cgroup.set_limits(limits) {
            let _ = cgroup.remove();
            let error = SpawnError::new(command.program().to_owned(), Stage::Limit, refused.error());
            return Err(Start::Failed(error.with_hint(Some(refused.reason().to_string()))));
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = self.guard_home(&home) {
            let _ = cgroup.remove();
            return Err(Start::Failed(SpawnError::new(command.program().to_owned(), Stage::Guard, error)));
        }
        match self.start_in(command, key, Some(dir.as_fd())) {
            Ok(mut child) => {
                child.set_containment(Some(cgroup), None);
                if limits.processes.is_some() {
                    if let Err(error) = child.watch_process_limit(key, &mut self.sources) {
                        let cgroup = child.abandon(&mut self.sources);
                        self.trees.remove_later(cgroup, clock());
                        return Err(Start::Failed(SpawnError::new(command.program().to_owned(), Stage::Limit, error)));
                    }
                    // It may have been reached already.
                    self.trees.limits.push(key);
                }
                Ok(child)
            }
            Err(error) => {
                // A process that was killed and is not gone yet is still in it.
                if cgroup.remove().is_err() {
                    self.trees.remove_later(Some(cgroup.clone()), clock());
                }
                if error.stage() != Stage::Cgroup {
                    return Err(Start::Failed(error));
                }
                let what = format!("no process can start in {}", cgroup.path().display());
                let refused = Refused::new(what, error.io_error());
                if refused.is_vanished() {
                    // It is made again for the next process.
                    self.trees.home = None;
                } else if !refused.is_passing() {
                    self.trees.home = Some(Err(refused.clone()));
                }
                Err(Start::Refused(refused))
            }
        }
    }

    fn start_in(&mut self, command: &Parts, key: Key, cgroup: Option<BorrowedFd<'_>>) -> Result<Child, SpawnError> {
        #[cfg(target_os = "linux")]
        let number = match cgroup {
            Some(_) => None,
            None => self
                .guard_number(key)
                .map_err(|error| SpawnError::new(command.program().to_owned(), Stage::Guard, error))?,
        };
        let started = clock();
        let (signals, arrived) = (&self.signals, &self.arrived_signals);
        // No system call: the child that is waited for may have the same errno.
        let mut asked_to_end = || {
            let has_arrived = |number| signals.as_ref().is_some_and(|signals| signals.has_arrived(number));
            crate::signal::ASK_TO_END.iter().any(|number| arrived.contains(number) || has_arrived(*number))
        };
        let mut around = Surroundings {
            spawner: &self.spawner,
            sources: &mut self.sources,
            nofile: self.nofile,
            pidfds: self.pidfds,
            cgroup,
            #[cfg(target_os = "linux")]
            guard: self.guard.socket().zip(number),
            #[cfg(not(target_os = "linux"))]
            guard: None,
            started,
            asked_to_end: &mut asked_to_end,
        };
        let child = Child::spawn(command, key, &mut around);
        #[cfg(target_os = "linux")]
        if child.is_err() {
            // The child may have registered before it failed.
            self.guard.forget(key, false);
        }
        child
    }
}

/// The error for a limit of a tree that is in no cgroup.
pub(super) fn no_limit(command: &Parts, reason: &str) -> SpawnError {
    let error = io::Error::new(io::ErrorKind::Unsupported, "it needs a cgroup");
    SpawnError::new(command.program().to_owned(), Stage::Limit, error).with_hint(Some(reason.into()))
}

/// The reason why no process was started in a cgroup.
enum Start {
    /// No cgroup can be used.
    Refused(Refused),
    /// The start would have failed anywhere.
    Failed(SpawnError),
}

impl From<Refused> for Start {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}
