//! The child's side: from its birth to its exec.
//!
//! The one rule: this runs between fork and exec, with `vfork` even in the host's own memory while the host stands
//! still. So: system calls and arithmetic that cannot fail, nothing else. No allocation, no lock, no log, no panic, and
//! no glibc `setuid`, `setgid`, `setgroups`, which would signal the host's threads. Credentials are changed last: from then on
//! a process of that user can stop the child.

// A long has 32 bits on some systems.
#![allow(clippy::useless_conversion, clippy::unnecessary_cast)]

use std::ptr;

use super::Failure;
use super::plan::Plan;
use crate::command::Group;
use crate::error::Stage;
use crate::sys::limit::setrlimit;
use crate::sys::signal;

/// How the child gets rid of the host's descriptors.
#[derive(Debug, Clone, Copy)]
pub(super) enum Closing {
    /// `CLONE_FILES` was given: leave the host's table first, taking along only what is below this number.
    #[cfg(target_os = "linux")]
    Unshare(u32),
    /// Each one up to this number, by marking it close-on-exec.
    Each(i32),
}

/// Does what the plan says and execs. Returns only if something failed.
///
/// `keep` is a descriptor of the parent's machinery that must stay open until the exec; it may be moved.
///
/// # Safety
///
/// Only in a child that has just been made, with all signals blocked, and that ends by `_exit` when this returns.
pub(super) unsafe fn run(plan: &mut Plan, closing: Closing, keep: &mut Option<i32>) -> Failure {
    // SAFETY: passed on from our caller.
    match unsafe { set_up(plan, closing, keep) } {
        Err(failure) => failure,
        // SAFETY: passed on from our caller.
        Ok(()) => unsafe { exec(plan) },
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn check(result: libc::c_long, stage: Stage, which: i32) -> Result<i32, Failure> {
    #[allow(clippy::cast_possible_truncation)] // descriptors, pids and zeros
    if result == -1 { Err(Failure::new(stage, errno(), which)) } else { Ok(result as i32) }
}

unsafe fn set_up(plan: &mut Plan, closing: Closing, keep: &mut Option<i32>) -> Result<(), Failure> {
    if let Some(entrance) = &plan.entrance {
        // As long as it is in the table: 0 is the process that writes.
        let entrance = std::os::fd::AsRawFd::as_raw_fd(entrance);
        // SAFETY: reads one byte of a constant.
        let written = unsafe { libc::write(entrance, c"0".as_ptr().cast(), 1) };
        check(written as libc::c_long, Stage::Cgroup, 0)?;
    }
    #[cfg(target_os = "linux")]
    if let Closing::Unshare(from) = closing {
        let flags = libc::CLOSE_RANGE_UNSHARE;
        // SAFETY: close_range touches no memory; with UNSHARE it works on a table of the child's own.
        check(unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, flags) }, Stage::CloseRange, 0)?;
    }

    // Before anything else: a signal for the host's group, such as a terminal's Ctrl-Z, hits a child
    // that has not left the group yet.
    match plan.group {
        Group::Own => {
            // SAFETY: touches no memory.
            check(unsafe { libc::setpgid(0, 0) }.into(), Stage::Setpgid, 0)?;
        }
        Group::Join(pgid) => {
            // SAFETY: touches no memory.
            check(unsafe { libc::setpgid(0, pgid) }.into(), Stage::Setpgid, pgid)?;
        }
        Group::Session => {
            // SAFETY: touches no memory.
            check(unsafe { libc::setsid() }.into(), Stage::Setsid, 0)?;
        }
        Group::Inherit => {}
    }
    // Before the mask is lifted: with shared memory, a handler of the host's would run in the child.
    for number in 1..=crate::signal::max() {
        if number != libc::SIGKILL && number != libc::SIGSTOP {
            signal::reset(number);
        }
    }
    // What has come until now would strike when the mask is lifted. It was meant for the group that the child has left.
    if plan.group != Group::Inherit {
        signal::discard_pending();
    }

    // When it leads its group, and before its own files may get the number of the socket.
    #[cfg(target_os = "linux")]
    if let Some((socket, number)) = plan.guard {
        // SAFETY: the socket was open in the parent, and nothing that was open has been closed.
        if let Err(error) = unsafe { crate::sys::guard::register_self(socket, number) } {
            return Err(Failure::ours(Stage::Guard, &error));
        }
    }

    // SAFETY: passed on from our caller.
    unsafe { place(plan, keep) }?;

    if plan.terminal {
        // SAFETY: TIOCSCTTY takes an int.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) }.into(), Stage::Terminal, 0)?;
    }
    if let Some(mask) = plan.umask {
        // SAFETY: touches no memory and cannot fail.
        unsafe { libc::umask(mask) };
    }
    if let Some(nice) = plan.nice {
        // SAFETY: touches no memory.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }.into(), Stage::Nice, nice)?;
    }
    for (resource, limit) in &plan.limits {
        // SAFETY: reads the plan's rlimit.
        check(unsafe { setrlimit(*resource as _, limit) }.into(), Stage::Rlimit, *resource)?;
    }
    // SAFETY: passed on from our caller.
    unsafe { close_others(plan, closing, *keep) };
    if let Some(digits) = plan.listen_pid {
        // SAFETY: the plan has room for the digits of any pid there.
        unsafe { write_pid(digits) };
    }
    // SAFETY: passed on from our caller.
    unsafe { change_user(plan) }?;
    // With the rights of that user, who may have put a link to somewhere else in its way.
    if let Some(dir) = &plan.dir {
        // SAFETY: a C string of the plan.
        check(unsafe { libc::chdir(dir.as_ptr()) }.into(), Stage::Chdir, 0)?;
    }

    // After the credentials, whose change clears it.
    #[cfg(target_os = "linux")]
    if let Some(number) = plan.parent_death_signal {
        // SAFETY: touches no memory.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, number) }.into(), Stage::ParentDeath, number)?;
        // The parent may have died before the kernel knew that we care.
        // SAFETY: touches no memory.
        if plan.parent != Some(unsafe { libc::getppid() }) {
            return Err(Failure::new(Stage::ParentDeath, libc::ESRCH, number));
        }
    }
    Ok(())
}

/// Puts the files where the child shall have them.
unsafe fn place(plan: &mut Plan, keep: &mut Option<i32>) -> Result<(), Failure> {
    if let Some(fd) = keep {
        if plan.targets.contains(fd) {
            *fd = check(step_aside(*fd, &plan.targets).into(), Stage::Dup2, *fd)?;
        }
    }
    for one in &mut plan.moves {
        if one.clashes {
            one.source = check(step_aside(one.source, &plan.targets).into(), Stage::Dup2, one.target)?;
        }
    }
    for one in &plan.moves {
        let result = if one.source == one.target {
            // SAFETY: F_SETFD takes an int.
            unsafe { libc::fcntl(one.target, libc::F_SETFD, 0) }
        } else {
            // SAFETY: touches no memory; the child's own table.
            unsafe { libc::dup2(one.source, one.target) }
        };
        check(result.into(), Stage::Dup2, one.target)?;
    }
    Ok(())
}

/// A duplicate at a number that is no target; -1 and the errno if there is none. The targets that are free and lower get one, too:
/// nobody's source, and replaced when their turn comes.
fn step_aside(fd: i32, targets: &[i32]) -> i32 {
    let mut lowest = 0;
    loop {
        // SAFETY: F_DUPFD_CLOEXEC takes an int.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) };
        if !targets.contains(&copy) {
            return copy;
        }
        lowest = copy.wrapping_add(1);
    }
}

/// Closes what the child was not given: in the gaps between its descriptors and above them.
unsafe fn close_others(plan: &Plan, closing: Closing, keep: Option<i32>) {
    let mut next = 0;
    for one in &plan.moves {
        // SAFETY: passed on from our caller.
        unsafe { close_between(next, one.target.wrapping_sub(1), closing, keep) };
        next = one.target.wrapping_add(1);
    }
    // SAFETY: passed on from our caller.
    unsafe { close_between(next, i32::MAX, closing, keep) };
}

unsafe fn close_between(first: i32, last: i32, closing: Closing, keep: Option<i32>) {
    if first > last {
        return;
    }
    match closing {
        #[cfg(target_os = "linux")]
        #[allow(clippy::cast_sign_loss)] // descriptors are not negative
        Closing::Unshare(_) => {
            // SAFETY: touches no memory; the child's own table. It worked a moment ago, and knows no other errors.
            unsafe { libc::syscall(libc::SYS_close_range, first as u32, last as u32, 0) };
        }
        Closing::Each(highest) => {
            for fd in first..=last.min(highest) {
                if Some(fd) != keep {
                    // SAFETY: F_SETFD takes an int; what is not open refuses.
                    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
                }
            }
        }
    }
}

/// Writes the child's own pid in decimal; a NUL is after it already.
unsafe fn write_pid(digits: *mut u8) {
    // SAFETY: touches no memory and cannot fail.
    let pid = unsafe { libc::getpid() };
    let mut scale = 1;
    while pid.wrapping_div(scale) >= 10 {
        scale = scale.wrapping_mul(10);
    }
    let mut at = digits;
    while scale > 0 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // one digit
        let digit = b'0'.wrapping_add(pid.wrapping_div(scale).wrapping_rem(10) as u8);
        // SAFETY: a pid has at most ten digits, and there is room for eleven bytes.
        unsafe { at.write(digit) };
        at = at.wrapping_add(1);
        scale = scale.wrapping_div(10);
    }
}

#[cfg(target_os = "linux")]
mod ids {
    //! The raw calls, in their 32-bit variants where the architecture still has 16-bit ones.
    #[cfg(not(any(target_arch = "x86", target_arch = "arm", target_arch = "m68k", target_arch = "sparc")))]
    pub(super) use libc::{SYS_setgid as SETGID, SYS_setgroups as SETGROUPS, SYS_setuid as SETUID};
    #[cfg(any(target_arch = "x86", target_arch = "arm", target_arch = "m68k", target_arch = "sparc"))]
    pub(super) use libc::{SYS_setgid32 as SETGID, SYS_setgroups32 as SETGROUPS, SYS_setuid32 as SETUID};
}

#[cfg(target_os = "linux")]
unsafe fn change_user(plan: &Plan) -> Result<(), Failure> {
    if let Some(groups) = &plan.groups {
        // SAFETY: reads the plan's groups.
        check(unsafe { libc::syscall(ids::SETGROUPS, groups.len(), groups.as_ptr()) }, Stage::Setgroups, 0)?;
    }
    if let Some(gid) = plan.gid {
        // SAFETY: touches no memory; the raw call changes this one task alone.
        check(unsafe { libc::syscall(ids::SETGID, gid) }, Stage::Setgid, 0)?;
    }
    if let Some(uid) = plan.uid {
        // SAFETY: touches no memory; the raw call changes this one task alone.
        check(unsafe { libc::syscall(ids::SETUID, uid) }, Stage::Setuid, 0)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
unsafe fn change_user(plan: &Plan) -> Result<(), Failure> {
    if let Some(groups) = &plan.groups {
        // SAFETY: reads the plan's groups.
        check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) }.into(), Stage::Setgroups, 0)?;
    }
    if let Some(gid) = plan.gid {
        // SAFETY: touches no memory.
        check(unsafe { libc::setgid(gid) }.into(), Stage::Setgid, 0)?;
    }
    if let Some(uid) = plan.uid {
        // SAFETY: touches no memory.
        check(unsafe { libc::setuid(uid) }.into(), Stage::Setuid, 0)?;
    }
    Ok(())
}

/// Tries one path after another, as execvp(3) does: what is not there or may not be run is passed over, and "may not" is
/// remembered as the better answer.
unsafe fn exec(plan: &Plan) -> Failure {
    let nobody = signal::empty_set();
    // SAFETY: the set is ours; all handlers are at their default, so nothing of the host's can run.
    let unblocked = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const nobody, ptr::null_mut()) };
    if let Err(failure) = check(unblocked.into(), Stage::Sigmask, 0) {
        return failure;
    }

    let mut failure = Failure::new(Stage::Exec, libc::ENOENT, 0);
    let only = plan.paths.pointers.len() == 2;
    let mut which = 0;
    for path in &plan.paths.pointers {
        if path.is_null() {
            break;
        }
        // SAFETY: a C string and two null-terminated arrays of them, all of the plan.
        unsafe { libc::execve(*path, plan.argv.pointers.as_ptr(), plan.env.pointers.as_ptr()) };
        let errno = errno();
        match errno {
            _ if only => return Failure::new(Stage::Exec, errno, which),
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            libc::EACCES => {
                if failure.errno != libc::EACCES {
                    failure = Failure::new(Stage::Exec, errno, which);
                }
            }
            _ => return Failure::new(Stage::Exec, errno, which),
        }
        which = which.wrapping_add(1);
    }
    failure
}
