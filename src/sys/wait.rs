//! Reaps children and reads their state. Only [`reap_soon`] and its caller wait, for a second at
//! most.
//!
//! The one rule: a call reaps only the one pid that it is given, so that a child of the host is
//! never reaped.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use super::cvt_retry;
use crate::exit::Usage;

/// The kernel's answer about a child.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// It has not exited.
    Running,
    /// It has exited and is reaped. Its pid is free from now on.
    Reaped(ExitStatus, Usage),
    /// It is not our child any more: other code has reaped it, or the kernel has, because the host
    /// ignores SIGCHLD.
    Lost,
    /// The system has refused to answer. The caller must not take this for any of the other states.
    Unknown,
}

/// Reaps the child if it has exited.
#[doc(alias = "wait4")]
pub(crate) fn try_wait(pid: i32) -> Wait {
    let mut status = 0;
    #[cfg_attr(any(target_os = "illumos", target_os = "solaris"), allow(unused_mut))]
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let result = cvt_retry(|| {
        // SAFETY: both pointers are to locals of the right type, and WNOHANG never blocks.
        #[cfg(not(any(target_os = "illumos", target_os = "solaris")))]
        unsafe {
            libc::wait4(pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr())
        }
        // The libc crate has no wait4 there, so what the child has used stays unknown.
        // SAFETY: as above.
        #[cfg(any(target_os = "illumos", target_os = "solaris"))]
        unsafe {
            libc::waitpid(pid, &raw mut status, libc::WNOHANG)
        }
    });
    // SAFETY: zeroed is a valid rusage, whether or not the call has filled it in.
    let usage = unsafe { usage.assume_init() };
    match result {
        Ok(0) => Wait::Running,
        Ok(_) => Wait::Reaped(ExitStatus::from_raw(status), convert(&usage)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Wait::Lost,
        Err(_) => Wait::Unknown,
    }
}

/// Reaps the child of the pidfd if it has exited. It never reaps another child that has got the
/// same pid after other code reaped this one (Linux 5.4). If the system refuses the call, it does
/// the same as [`try_wait`].
#[doc(alias = "P_PIDFD")]
pub(crate) fn try_wait_exactly(pidfd: BorrowedFd<'_>, pid: i32) -> Wait {
    // The raw system call is used, because the C library's function leaves out the resource usage.
    #[cfg(target_os = "linux")]
    {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let mut usage = MaybeUninit::<KernelUsage>::zeroed();
        let (fd, flags) = (std::os::fd::AsRawFd::as_raw_fd(&pidfd), libc::WEXITED | libc::WNOHANG);
        let result = cvt_retry(|| {
            // SAFETY: both pointers are to locals of the right type, and WNOHANG never blocks.
            unsafe { libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd, info.as_mut_ptr(), flags, usage.as_mut_ptr()) }
        });
        // SAFETY: zeroed is a valid siginfo_t, and it stays zero if nothing has exited.
        let info = unsafe { info.assume_init() };
        // SAFETY: the struct consists of integers, whether or not the call has filled them in.
        let usage = unsafe { usage.assume_init() };
        // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
        let ended = unsafe { info.si_pid() } != 0;
        // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
        let status = unsafe { info.si_status() };
        match result.map_err(|error| error.raw_os_error()) {
            Ok(_) if !ended => return Wait::Running,
            Ok(_) => return Wait::Reaped(ExitStatus::from_raw(raw_status(info.si_code, status)), usage.into()),
            Err(Some(libc::ECHILD)) => return Wait::Lost,
            // The kernel is old, or a sandbox refuses the call.
            Err(_) => {}
        }
    }
    let _ = pidfd;
    try_wait(pid)
}

/// The status of `wait4(2)` for the code and status of `waitid(2)`.
#[cfg(target_os = "linux")]
fn raw_status(code: i32, status: i32) -> i32 {
    match code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => (status & 0x7f) | 0x80,
        _ => status & 0x7f,
    }
}

/// The state of a child, as far as it can be seen without reaping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It has not exited.
    Running,
    /// It has exited and is unreaped, so that its pid and process group are still its own.
    Zombie,
    /// It is not our child any more, and its pid may belong to another process.
    Lost,
    /// The system has refused to answer. The caller must not take this for any of the other states.
    Unknown,
}

/// Returns the state of a child without changing it. It uses the pidfd, or else the pid.
#[doc(alias = "WNOWAIT")]
pub(crate) fn state(pidfd: Option<BorrowedFd<'_>>, pid: i32) -> State {
    #[cfg(target_os = "linux")]
    if let Some(pidfd) = pidfd {
        #[allow(clippy::cast_sign_loss)] // descriptors are not negative
        match peek(libc::P_PIDFD, std::os::fd::AsRawFd::as_raw_fd(&pidfd) as libc::id_t, libc::WEXITED) {
            Ok(None) => return State::Running,
            Ok(Some(_)) => return State::Zombie,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return State::Lost,
            // The kernel is older than 5.4, or a sandbox refuses the call.
            Err(_) => {}
        }
    }
    let _ = pidfd;
    #[allow(clippy::cast_sign_loss)] // pids are positive
    match peek(libc::P_PID, pid as libc::id_t, libc::WEXITED) {
        Ok(Some(_)) => State::Zombie,
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => State::Lost,
        Ok(None) => State::Running,
        Err(_) => State::Unknown,
    }
}

/// Whether a child continues towards its exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Going,
    /// It was stopped by this signal, which was sent to it or raised by a tracer.
    Stopped(i32),
    /// It has exited.
    Gone,
}

/// Returns the state of a child on its way to its exec, without changing it.
pub(super) fn standing(pid: i32) -> Standing {
    #[allow(clippy::cast_sign_loss)] // pids are positive
    match peek(libc::P_PID, pid as libc::id_t, libc::WEXITED | libc::WSTOPPED) {
        Ok(Some((libc::CLD_STOPPED | libc::CLD_TRAPPED, signal))) => Standing::Stopped(signal),
        Ok(Some(_)) => Standing::Gone,
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Standing::Gone,
        Ok(None) | Err(_) => Standing::Going,
    }
}

/// The pid of a child in this group that is stopped. Its stop is still reported by a later wait.
#[cfg(target_os = "linux")]
pub(super) fn stopped_in_group(group: i32) -> Option<i32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
    #[allow(clippy::cast_sign_loss)] // groups are positive
    let id = group as libc::id_t;
    // SAFETY: `info` has room for what waitid writes, and WNOHANG never blocks.
    cvt_retry(|| unsafe { libc::waitid(libc::P_PGID, id, info.as_mut_ptr(), flags) }).ok()?;
    // SAFETY: zeroed is a valid siginfo_t, and it stays zero if nothing has happened.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
    let pid = unsafe { info.si_pid() };
    (pid != 0).then_some(pid)
}

/// The latest change of a child among the kinds that `flags` name: its `CLD_` code, and the signal
/// or exit code. A later wait still reports the change. On Linux it leaves errno alone even if a
/// sandbox refuses the call.
fn peek(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(i32, i32)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = flags | libc::WNOHANG | libc::WNOWAIT;
    #[cfg(target_os = "linux")]
    {
        #[allow(clippy::cast_sign_loss)] // the flags are bits
        let arguments = [kind as usize, id as usize, info.as_mut_ptr() as usize, flags as usize, 0];
        // SAFETY: `info` has room for what waitid writes, and WNOHANG never blocks.
        unsafe { super::raw::call(libc::SYS_waitid, arguments) }?;
    }
    #[cfg(not(target_os = "linux"))]
    // SAFETY: `info` has room for what waitid writes, and WNOHANG never blocks.
    cvt_retry(|| unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) })?;
    // SAFETY: zeroed is a valid siginfo_t, and it stays zero if nothing has happened.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
    let happened = unsafe { info.si_pid() } != 0;
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
    let status = unsafe { info.si_status() };
    Ok(happened.then_some((info.si_code, status)))
}

/// The pid of any child of this program that has exited and is unreaped, including children of the
/// host. It is not reaped.
#[cfg(target_os = "linux")]
pub(crate) fn any_zombie() -> Option<i32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` has room for what waitid writes, and WNOHANG never blocks.
    cvt_retry(|| unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) }).ok()?;
    // SAFETY: zeroed is a valid siginfo_t, and it stays zero if nothing has exited.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
    let pid = unsafe { info.si_pid() };
    (pid != 0).then_some(pid)
}

/// Makes this program the parent of every descendant whose own parent ends. The first process of a
/// container is that without the call, which emulators of other architectures do not know.
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: prctl touches no memory here.
    match super::cvt(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }) {
        Err(error) if std::process::id() != 1 => Err(error),
        _ => Ok(()),
    }
}

/// A change of a child that was stopped or continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopChange {
    /// It was stopped by this signal.
    Stopped(i32),
    Continued,
}

/// The change of the child since the last call, if it was stopped or continued.
#[doc(alias = "WUNTRACED")]
pub(crate) fn stop_change(pid: i32) -> Option<StopChange> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG;
    #[allow(clippy::cast_sign_loss)] // pids are positive
    let id = pid as libc::id_t;
    // SAFETY: `info` has room for what waitid writes, and WNOHANG never blocks.
    cvt_retry(|| unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), flags) }).ok()?;
    // SAFETY: zeroed is a valid siginfo_t, and it stays zero if nothing has changed.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves them zero.
    let signal = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_STOPPED => Some(StopChange::Stopped(signal)),
        libc::CLD_CONTINUED => Some(StopChange::Continued),
        _ => None,
    }
}

/// Kills a child and reaps it within a second. Returns whether it is gone. A child that is stuck in
/// a system call goes later.
pub(crate) fn kill_and_reap(pid: i32) -> bool {
    let _ = super::signal::send(pid, libc::SIGKILL);
    reap_soon(pid)
}

/// Reaps a child that was killed, within a second. Returns whether it is gone.
pub(crate) fn reap_soon(pid: i32) -> bool {
    let start = super::clock();
    loop {
        if matches!(try_wait(pid), Wait::Reaped(..) | Wait::Lost) {
            return true;
        }
        if super::clock().saturating_duration_since(start) > Duration::from_secs(1) {
            return false;
        }
        super::fd::pause(Duration::from_millis(1));
    }
}

/// This process's own pid.
pub(super) fn own_pid() -> i32 {
    // SAFETY: getpid touches no memory and cannot fail.
    unsafe { libc::getpid() }
}

/// The kernel's own `rusage`, in which every field is a long. The C library's has 64-bit times on
/// some systems whose long has 32 bits.
#[cfg(target_os = "linux")]
#[repr(C)]
struct KernelUsage {
    user: [libc::c_long; 2],
    system: [libc::c_long; 2],
    max_rss: libc::c_long,
    _integrals: [libc::c_long; 3],
    minor_faults: libc::c_long,
    major_faults: libc::c_long,
    _swaps: libc::c_long,
    block_input: libc::c_long,
    block_output: libc::c_long,
    _messages: [libc::c_long; 3],
    voluntary_switches: libc::c_long,
    involuntary_switches: libc::c_long,
}

#[cfg(target_os = "linux")]
#[allow(clippy::cast_sign_loss)] // the kernel's counters are never negative
impl From<KernelUsage> for Usage {
    fn from(usage: KernelUsage) -> Self {
        let time = |[seconds, micros]: [libc::c_long; 2]| {
            Duration::from_secs(seconds as u64) + Duration::from_micros(micros as u64)
        };
        Self {
            user_time: time(usage.user),
            system_time: time(usage.system),
            max_rss: usage.max_rss as u64 * 1024,
            minor_faults: usage.minor_faults as u64,
            major_faults: usage.major_faults as u64,
            voluntary_switches: usage.voluntary_switches as u64,
            involuntary_switches: usage.involuntary_switches as u64,
            block_input: usage.block_input as u64,
            block_output: usage.block_output as u64,
        }
    }
}

#[allow(clippy::cast_sign_loss)] // the kernel's counters are never negative
fn convert(usage: &libc::rusage) -> Usage {
    let time =
        |time: libc::timeval| Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64);
    // Linux and the BSDs count in KiB, and Apple counts in bytes.
    let rss_unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    Usage {
        user_time: time(usage.ru_utime),
        system_time: time(usage.ru_stime),
        max_rss: usage.ru_maxrss as u64 * rss_unit,
        minor_faults: usage.ru_minflt as u64,
        major_faults: usage.ru_majflt as u64,
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
        block_input: usage.ru_inblock as u64,
        block_output: usage.ru_oublock as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The child may be about to read it.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_look_at_a_child_before_its_exec_leaves_errno_alone() {
        if !crate::sys::clone::KNOWN_HERE {
            return;
        }
        // SAFETY: a descriptor that nobody has.
        unsafe { libc::close(-1) };
        // The call fails, because this process is no child of its own.
        assert_eq!(standing(own_pid()), Standing::Gone);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
    }
}
