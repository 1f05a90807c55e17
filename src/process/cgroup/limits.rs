//! Limits of a cgroup, and the controllers that they need.
//!
//! A controller is on for the cgroups of a reactor only if it is on in their parent. It is switched
//! on there only for a limit or for a measured run. The one rule: a limit that was asked for is set
//! before a process is in the cgroup, or the start is refused.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Cgroup;
use super::figures::field;
use super::home::Home;
use super::refused::Refused;
use crate::command::TreeLimits;
use crate::sys::cgroup;

/// The controllers that limit or measure a tree. The time on the processors needs none.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "io"];

/// The cgroup in a home that holds the host itself.
const HOST: &CStr = c"host";
const HOST_PROCS: &CStr = c"host/cgroup.procs";

impl Home {
    /// Switches on the controllers for the cgroups of the processes, as far as the system allows
    /// it. Cgroups that are there already have them from now on.
    pub(crate) fn switch_on(&self) {
        let Ok(mut state) = self.controllers.state.lock() else { return };
        if state.is_some() {
            return;
        }
        let mut ours = Vec::new();
        for controller in CONTROLLERS {
            let known = |dir, file| is_listed(dir, file, controller);
            if !known(self.parent.as_fd(), c"cgroup.subtree_control")
                && switch(self.parent.as_fd(), '+', controller).is_ok()
            {
                ours.push(controller);
            }
            // An error means that the controller is not there: a limit that needs it is refused.
            let _ = switch(self.dir.as_fd(), '+', controller);
        }
        *state = Some(ours);
    }

    /// Moves this process from the parent into a cgroup in the home, because no controller can be
    /// switched on in a cgroup that has processes. The error is `ResourceBusy` if others are there.
    pub(crate) fn move_host_in(&self) -> io::Result<()> {
        let Ok(mut has_host) = self.controllers.has_host.lock() else { return Ok(()) };
        if *has_host {
            return Ok(());
        }
        let own = std::process::id().to_string();
        let members = cgroup::read_at(self.parent.as_fd(), c"cgroup.procs")?;
        if members.lines().any(|pid| pid != own) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "there are other processes in the cgroup"));
        }
        if members.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this process is not in that cgroup"));
        }
        cgroup::make_dir_at(self.dir.as_fd(), HOST)?;
        let moved = cgroup::write_at(self.dir.as_fd(), HOST_PROCS, b"0");
        match moved {
            Ok(()) => *has_host = true,
            Err(_) => _ = cgroup::remove_dir_at(self.dir.as_fd(), HOST),
        }
        moved
    }

    /// Moves this process back, if it was moved.
    pub(super) fn move_host_out(&self) {
        if self.controllers.has_host.lock().is_ok_and(|has_host| *has_host) {
            // While a controller is on, no process can be in the parent.
            for controller in CONTROLLERS {
                let _ = switch(self.dir.as_fd(), '-', controller);
            }
            self.switch_off();
            let _ = cgroup::write_at(self.parent.as_fd(), c"cgroup.procs", b"0");
            let _ = cgroup::remove_dir_at(self.dir.as_fd(), HOST);
        }
    }

    /// Switches off in the parent what was switched on there. It fails if others use it by now.
    pub(super) fn switch_off(&self) {
        let ours = self.controllers.state.lock().ok().and_then(|mut state| state.take());
        for controller in ours.into_iter().flatten() {
            let _ = switch(self.parent.as_fd(), '-', controller);
        }
    }
}

impl Cgroup {
    /// Sets the limits of a cgroup that is still empty.
    pub(crate) fn set_limits(&self, limits: &TreeLimits) -> Result<(), Refused> {
        if let Some(bytes) = limits.memory {
            self.set_limit("memory", "memory.max", &bytes.to_string())?;
            // Without swap in the kernel there is no such file.
            match self.write("memory.swap.max", "0") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Refused::new("cannot forbid the swap".into(), &error));
                }
                _ => {}
            }
            self.set_limit("memory", "memory.oom.group", "1")?;
        }
        if let Some(count) = limits.processes {
            self.set_limit("pids", "pids.max", &count.to_string())?;
        }
        Ok(())
    }

    fn set_limit(&self, controller: &str, file: &str, value: &str) -> Result<(), Refused> {
        self.write(file, value).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::NotFound => {
                    let path = self.home.path.parent().unwrap_or(&self.home.path).display();
                    let what = format!("the controller `{controller}` is not available for cgroups below {path}");
                    return Refused::unsupported(what);
                }
                _ => format!("cannot write {value} to {}", self.path().join(file).display()),
            };
            Refused::new(what, &error)
        })
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        cgroup::write_at(self.home.dir.as_fd(), &self.file(file), value.as_bytes())
    }

    /// Opens the file that reports by priority readiness that the limit of processes was reached:
    /// see [`refused_processes`].
    pub(crate) fn open_process_events(&self) -> io::Result<OwnedFd> {
        cgroup::open_at(self.home.dir.as_fd(), &self.file("pids.events"), libc::O_RDONLY)
    }
}

/// Tells by the open `pids.events` how many processes were not started because of the limit. From
/// now on the next change is an event again.
pub(crate) fn refused_processes(events: BorrowedFd<'_>) -> u64 {
    let mut buffer = [0; 256];
    let len = cgroup::read_again(events, &mut buffer).unwrap_or(0);
    field(&String::from_utf8_lossy(&buffer[..len]), "max").unwrap_or(0)
}

fn is_listed(dir: BorrowedFd<'_>, file: &CStr, controller: &str) -> bool {
    cgroup::read_at(dir, file).is_ok_and(|list| list.split_ascii_whitespace().any(|known| known == controller))
}

fn switch(dir: BorrowedFd<'_>, sign: char, controller: &str) -> io::Result<()> {
    cgroup::write_at(dir, c"cgroup.subtree_control", format!("{sign}{controller}").as_bytes())
}
