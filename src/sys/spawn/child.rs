//! The child's side of a spawn, from its birth to its exec.
//!
//! The one rule: this code runs between fork and exec, with `vfork` even in the host's own memory
//! while the host stands still. So it makes only system calls and arithmetic that cannot fail. It
//! makes no allocation, takes no lock, writes no log and never panics. It does not call glibc's
//! `setuid`, `setgid` and `setgroups`, which would signal the host's threads. Credentials are
//! changed last, because from then on a process of that user can stop the child.

// On some systems a long has 32 bits.
#![allow(clippy::useless_conversion, clippy::unnecessary_cast)]

use std::ptr;

use super::failure::{Failure, check, errno};
use super::plan::Plan;
use crate::command::Group;
use crate::error::Stage;
use crate::sys::clock;
use crate::sys::limit::setrlimit;
use crate::sys::signal;

/// The way in which the child gets rid of the host's descriptors.
#[derive(Debug, Clone, Copy)]
pub(super) enum Closing {
    /// `CLONE_FILES` was given. The child first leaves the host's table, and takes along only the
    /// descriptors below this number.
    #[cfg(target_os = "linux")]
    Unshare(u32),
    /// The child marks each descriptor up to this number as close-on-exec.
    Each(i32),
}

/// Does what the plan says, and execs. It returns only if something failed.
///
/// `keep` is a descriptor of the parent's machinery that must stay open until the exec. It may be
/// moved.
///
/// # Safety
///
/// This may be called only in a child that has just been made, with all signals blocked, and that
/// ends by `_exit` when this returns.
pub(super) unsafe fn run(plan: &mut Plan, closing: Closing, keep: &mut Option<i32>) -> Failure {
    // SAFETY: our caller keeps the conditions of `run`.
    match unsafe { set_up(plan, closing, keep) } {
        Err(failure) => failure,
        // SAFETY: our caller keeps the conditions of `run`.
        Ok(()) => unsafe { exec(plan) },
    }
}

unsafe fn set_up(plan: &mut Plan, closing: Closing, keep: &mut Option<i32>) -> Result<(), Failure> {
    if let Some(entrance) = &plan.entrance {
        // The child is in the table while it writes: 0 stands for the process that writes.
        let entrance = std::os::fd::AsRawFd::as_raw_fd(entrance);
        // SAFETY: it reads one byte of a constant.
        let written = unsafe { libc::write(entrance, c"0".as_ptr().cast(), 1) };
        check(written as libc::c_long, Stage::Cgroup, 0)?;
    }
    #[cfg(target_os = "linux")]
    if let Closing::Unshare(from) = closing {
        let flags = libc::CLOSE_RANGE_UNSHARE;
        // SAFETY: close_range touches no memory. With UNSHARE it works on a table of the child's
        // own.
        check(unsafe { libc::syscall(libc::SYS_close_range, from, u32::MAX, flags) }, Stage::CloseRange, 0)?;
    }

    // This comes first, because a signal for the host's group, such as a terminal's Ctrl-Z, also
    // hits a child that has not left the group yet.
    match plan.group {
        Group::Own => {
            // SAFETY: it touches no memory.
            check(unsafe { libc::setpgid(0, 0) }.into(), Stage::Setpgid, 0)?;
        }
        Group::Join(pgid) => {
            // SAFETY: it touches no memory.
            check(unsafe { libc::setpgid(0, pgid) }.into(), Stage::Setpgid, pgid)?;
        }
        Group::Session => {
            // SAFETY: it touches no memory.
            check(unsafe { libc::setsid() }.into(), Stage::Setsid, 0)?;
        }
        Group::Inherit => {}
    }
    // This comes before the mask is lifted, because with shared memory a handler of the host would
    // run in the child.
    for number in 1..=crate::signal::max() {
        if number != libc::SIGKILL && number != libc::SIGSTOP {
            signal::reset(number);
        }
    }
    // Signals that have arrived until now would act when the mask is lifted. They were meant for
    // the group that the child has left.
    if plan.group != Group::Inherit {
        signal::discard_pending();
    }

    // The child leads its group by now, and its own files have not taken the number of the socket
    // yet.
    #[cfg(target_os = "linux")]
    if let Some((socket, number)) = plan.guard {
        // SAFETY: the socket was open in the parent, and nothing that was open has been closed.
        if let Err(error) = unsafe { crate::sys::guard::register_self(socket, number) } {
            return Err(Failure::ours(Stage::Guard, &error));
        }
    }

    // SAFETY: our caller keeps the conditions of `run`.
    unsafe { place(plan, keep) }?;

    if plan.terminal {
        // SAFETY: TIOCSCTTY takes an int.
        check(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) }.into(), Stage::Terminal, 0)?;
    }
    if let Some(mask) = plan.umask {
        // SAFETY: it touches no memory and cannot fail.
        unsafe { libc::umask(mask) };
    }
    if let Some(conditions) = &mut plan.conditions {
        // SAFETY: our caller keeps the conditions of `run`.
        unsafe { conditions.set() }?;
    }
    if let Some(nice) = plan.nice {
        // SAFETY: it touches no memory.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }.into(), Stage::Nice, nice)?;
    }
    for (resource, limit) in &plan.limits {
        // SAFETY: it reads the plan's rlimit.
        check(unsafe { setrlimit(*resource as _, limit) }.into(), Stage::Rlimit, *resource)?;
    }
    // SAFETY: our caller keeps the conditions of `run`.
    unsafe { close_others(plan, closing, *keep) };
    if let Some(digits) = plan.listen_pid {
        // SAFETY: the plan has room for the digits of any pid there.
        unsafe { write_pid(digits) };
    }
    // SAFETY: our caller keeps the conditions of `run`.
    unsafe { change_user(plan) }?;
    // This happens with the rights of that user, who may have put a link to somewhere else in its
    // way.
    if let Some(dir) = &plan.dir {
        // SAFETY: it reads a C string of the plan.
        check(unsafe { libc::chdir(dir.as_ptr()) }.into(), Stage::Chdir, 0)?;
    }

    // This comes after the credentials, because their change clears it.
    #[cfg(target_os = "linux")]
    if let Some(number) = plan.parent_death_signal {
        // SAFETY: it touches no memory.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, number) }.into(), Stage::ParentDeath, number)?;
        // The parent may have died before the kernel knew of the request.
        // SAFETY: it touches no memory.
        if plan.parent != Some(unsafe { libc::getppid() }) {
            return Err(Failure::new(Stage::ParentDeath, libc::ESRCH, number));
        }
    }
    Ok(())
}

/// Puts the files at the numbers that the child wants.
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
            // SAFETY: it touches no memory, and the table is the child's own.
            unsafe { libc::dup2(one.source, one.target) }
        };
        check(result.into(), Stage::Dup2, one.target)?;
    }
    Ok(())
}

/// Duplicates a descriptor to a number that is no target. It returns -1 and sets errno if there is
/// none. Lower targets that are free get a duplicate, too. No move has them as its source, and they
/// are replaced when their turn comes.
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
        // SAFETY: our caller keeps the conditions of `run`.
        unsafe { close_between(next, one.target.wrapping_sub(1), closing, keep) };
        next = one.target.wrapping_add(1);
    }
    // SAFETY: our caller keeps the conditions of `run`.
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
            // SAFETY: it touches no memory, and the table is the child's own. The call worked a
            // moment ago, and has no other errors.
            unsafe { libc::syscall(libc::SYS_close_range, first as u32, last as u32, 0) };
        }
        Closing::Each(highest) => {
            for fd in first..=last.min(highest) {
                if Some(fd) != keep {
                    // SAFETY: F_SETFD takes an int, and a number that is not open is refused.
                    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
                }
            }
        }
    }
}

/// Writes the child's own pid in decimal. A NUL follows it already.
unsafe fn write_pid(digits: *mut u8) {
    // SAFETY: it touches no memory and cannot fail.
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
        // SAFETY: it reads the plan's groups.
        check(unsafe { libc::syscall(ids::SETGROUPS, groups.len(), groups.as_ptr()) }, Stage::Setgroups, 0)?;
    }
    if let Some(gid) = plan.gid {
        // SAFETY: it touches no memory. The raw call changes this one task alone.
        check(unsafe { libc::syscall(ids::SETGID, gid) }, Stage::Setgid, 0)?;
    }
    if let Some(uid) = plan.uid {
        // SAFETY: it touches no memory. The raw call changes this one task alone.
        check(unsafe { libc::syscall(ids::SETUID, uid) }, Stage::Setuid, 0)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
unsafe fn change_user(plan: &Plan) -> Result<(), Failure> {
    if let Some(groups) = &plan.groups {
        // SAFETY: it reads the plan's groups.
        check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) }.into(), Stage::Setgroups, 0)?;
    }
    if let Some(gid) = plan.gid {
        // SAFETY: it touches no memory.
        check(unsafe { libc::setgid(gid) }.into(), Stage::Setgid, 0)?;
    }
    if let Some(uid) = plan.uid {
        // SAFETY: it touches no memory.
        check(unsafe { libc::setuid(uid) }.into(), Stage::Setuid, 0)?;
    }
    Ok(())
}

/// Tries one path after another, as execvp(3) does. A path that does not exist or may not be
/// executed is passed over, but EACCES is remembered as the better answer.
unsafe fn exec(plan: &Plan) -> Failure {
    #[cfg(target_os = "linux")]
    if let Some(start) = &plan.start {
        // The signals stay blocked until the program itself is executed.
        // SAFETY: our caller keeps the conditions of `run`.
        return Failure::new(Stage::Exec, unsafe { start.exec(plan.env.pointers.as_ptr()) }, 0);
    }
    let empty = signal::empty_set();
    // SAFETY: the set is ours. All handlers are at their default, so no code of the host can run.
    let unblocked = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut()) };
    if let Err(failure) = check(unblocked.into(), Stage::Sigmask, 0) {
        return failure;
    }

    let mut failure = Failure::new(Stage::Exec, libc::ENOENT, 0);
    let only = plan.paths.pointers.len() == 2;
    let mut subject = 0;
    for path in &plan.paths.pointers {
        if path.is_null() {
            break;
        }
        if !plan.stamp.is_null() {
            // The clock cannot fail: the parent has read it before.
            // SAFETY: the place is as large as that, and the parent keeps it until it has read it.
            unsafe { plan.stamp.write(Some(clock())) };
        }
        // SAFETY: it reads a C string and two null-terminated arrays of C strings, all of the plan.
        unsafe { libc::execve(*path, plan.argv.pointers.as_ptr(), plan.env.pointers.as_ptr()) };
        let errno = errno();
        match errno {
            _ if only => return Failure::new(Stage::Exec, errno, subject),
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            libc::EACCES => {
                if failure.errno != libc::EACCES {
                    failure = Failure::new(Stage::Exec, errno, subject);
                }
            }
            _ => return Failure::new(Stage::Exec, errno, subject),
        }
        subject = subject.wrapping_add(1);
    }
    failure
}
