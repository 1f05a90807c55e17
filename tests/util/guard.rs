//! Kills the processes that a test process leaves behind, however the test process ends.
//!
//! Before `main` runs, each test process starts a guard: a small process in its own session, which
//! waits until the test process has ended. Then the guard kills every process that carries the mark
//! of the test process, removes its temporary folder, and exits. When cargo runs the test and is
//! killed, the guard kills the test process as well.
//!
//! The mark is the soft limit `RLIMIT_LOCKS`. Every descendant inherits it, Linux has not enforced
//! it since 2.4, and every user may read it. In contrast to a variable, it survives a cleared
//! environment, and a change of user that hides `/proc/PID/environ`.
//!
//! The one rule: the test process has no descriptor, no thread and no child for its guard, because
//! tests count these.

#![allow(dead_code, unsafe_code)] // each test file takes what it needs; `fork` is unsafe

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The temporary folder of this test process, which the guard removes.
#[track_caller]
pub(crate) fn folder() -> PathBuf {
    folder_in(&env::temp_dir())
}

/// The same as [`folder`], but in `parent`. The guard also removes folders in `/dev/shm`.
#[track_caller]
pub(crate) fn folder_in(parent: &Path) -> PathBuf {
    let path = parent.join(name(mark().unwrap_or_else(|| std::process::id().into())));
    fs::create_dir_all(&path).expect("the temporary folder of this test process");
    // Children that run as another user may enter the folder, whatever the umask is.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the mode of this folder");
    path
}

/// The name of the temporary folder of the test process with this mark.
pub(crate) fn name(mark: u64) -> String {
    format!("childminder-test-{mark:x}")
}

#[cfg(not(target_os = "linux"))]
fn mark() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(target_os = "linux")]
mod linux {
    use std::env;
    use std::fs;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal, setsid};

    /// The variable that tells the guard its mark. Only guards have this variable, and no other but
    /// [`TEMP`].
    pub(crate) const GUARD: &str = "CHILDMINDER_TEST_GUARD";
    /// The variable that tells the guard where the temporary folders of the test process are.
    const TEMP: &str = "CHILDMINDER_TEST_TEMP";

    /// The highest 16 bits of every mark, so that no other limit is taken for a mark.
    const TAG: u64 = 0x7E57;

    /// The number of times that the guard looks for processes to kill. After each pass it waits up
    /// to a second until the killed processes are gone, so only a process that hangs in the kernel
    /// lives longer.
    const PASSES: usize = 60;

    // SAFETY: the C library calls the functions of this section before `main`, in the only thread.
    #[used]
    // Under Miri there are no processes.
    #[cfg(not(miri))]
    #[unsafe(link_section = ".init_array")]
    static START: extern "C" fn() = start;

    extern "C" fn start() {
        if let Some(mark) = env::var(GUARD).ok().and_then(|mark| mark.parse().ok()) {
            guard(mark);
            // SAFETY: _exit touches no memory, and there are no exit handlers before `main`.
            unsafe { libc::_exit(0) };
        }
        // A process with a mark has a guard: it was started by a test process, or is a test process
        // that has executed itself again.
        if mark().is_none() {
            if let Err(error) = start_guard() {
                eprintln!("cannot start the guard of this test process, so its children may outlive it: {error}");
            }
        }
    }

    /// The mark that this process carries.
    pub(crate) fn mark() -> Option<u64> {
        locks(None).ok().map(|[soft, _]| soft).filter(|limit| limit >> 48 == TAG)
    }

    /// The soft and hard limit of locks, which are replaced by `new`. A sandbox may refuse this,
    /// and rustix panics then.
    fn locks(new: Option<[u64; 2]>) -> io::Result<[u64; 2]> {
        let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let mut old = [0_u64; 2];
        // SAFETY: both pointers are null or to two integers, as the kernel has them.
        match unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_LOCKS, new, old.as_mut_ptr()) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(old),
        }
    }

    /// The mark that another process carries. A zombie keeps its mark.
    pub(crate) fn mark_of(pid: Pid) -> Option<u64> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
        line.split_whitespace().next()?.parse().ok().filter(|limit| limit >> 48 == TAG)
    }

    /// A mark that no other process has had since the machine was started: it consists of the pid
    /// and the time when the process was started.
    fn new_mark() -> io::Result<u64> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let start = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse::<u64>().ok());
        let start = start.ok_or(io::ErrorKind::InvalidData)?;
        // A pid has at most 22 bits.
        Ok(TAG << 48 | (start & 0x3FF_FFFF) << 22 | u64::from(std::process::id()))
    }

    fn start_guard() -> io::Result<()> {
        let mark = new_mark()?;
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        // Only cargo is known to wait for this process. Another parent may well end before it.
        let parent = getppid().filter(|_| env::var_os("CARGO").is_some());
        let parent = parent.and_then(|parent| pidfd_open(parent, PidfdFlags::empty()).ok());
        let parent = parent.map_or_else(|| this.try_clone(), Ok)?;
        let mut guard = Command::new("/proc/self/exe");
        // The guard has a name of its own, so that a `pkill` of the tests does not kill the guards
        // as well.
        guard.arg0("test-guard").env_clear().env(GUARD, mark.to_string()).env(TEMP, env::temp_dir()).current_dir("/");
        guard.stdin(this).stdout(Stdio::null()).stderr(parent);
        // SAFETY: this process has a single thread, so its copy may call any function.
        unsafe { guard.pre_exec(detach) };
        // Reaps the process between this one and the guard. If SIGCHLD is ignored, there is none.
        let _ = guard.spawn()?.wait();
        // The limit is set after the spawn, so that the guard does not carry the mark and kill
        // itself.
        let [_, hard] = locks(None)?;
        locks(Some([mark, hard]))?;
        Ok(())
    }

    /// Makes the guard an orphan in its own session, with all signals blocked. So it is no child of
    /// the test process, and no signal to the test's process group or from a terminal ends it.
    fn detach() -> io::Result<()> {
        // SAFETY: the process has a single thread.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            // SAFETY: _exit touches no memory, and runs no exit handlers of the test process.
            _ => unsafe { libc::_exit(0) },
        }
        setsid()?;
        // SAFETY: all zeros are a valid signal set.
        let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is a local.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: the set is a local, and the mask is that of this process alone.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
        Ok(())
    }

    /// Runs a guard. Its descriptor 0 is a pidfd of the test process, and its descriptor 2 is a
    /// pidfd of the process that waits for the test process.
    fn guard(mark: u64) {
        let _ = fs::write("/proc/self/comm", "test-guard");
        // SAFETY: close_range touches no memory, and nothing in this process uses these
        // descriptors.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        let (test, parent) = (io::stdin(), io::stderr());
        let mut ended = [PollFd::new(&test, PollFlags::IN), PollFd::new(&parent, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut ended, None)).is_err() {
            return;
        }
        for _ in 0..PASSES {
            if kill_all(mark) == 0 {
                break;
            }
        }
        remove_cgroups(&format!("test-of-{}-", super::name(mark)));
        for parent in [env::var_os(TEMP).unwrap_or_default(), "/dev/shm".into()] {
            let _ = fs::remove_dir_all(Path::new(&parent).join(super::name(mark)));
        }
    }

    /// Removes the cgroups whose names start with `name`, wherever their hierarchy is mounted.
    fn remove_cgroups(name: &str) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points =
            mounts.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4));
        for entry in points.flat_map(fs::read_dir).flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(name) {
                let _ = fs::write(entry.path().join("cgroup.kill"), "1");
                remove_cgroup(&entry.path(), 0);
            }
        }
    }

    /// Removes a cgroup and the cgroups below it. The kernel may take a moment to remove the
    /// members.
    fn remove_cgroup(path: &Path, depth: usize) {
        let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        below.filter(|path| path.is_dir() && depth < 10).for_each(|path| remove_cgroup(&path, depth + 1));
        for _ in 0..100 {
            if fs::remove_dir(path).is_ok() || !path.exists() {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }

    /// Kills all living processes with this mark, waits until they have ended, and returns their
    /// number.
    pub(crate) fn kill_all(mark: u64) -> usize {
        let killed: Vec<OwnedFd> = pids().filter_map(|pid| kill(pid, mark)).collect();
        for process in &killed {
            has_ended(process, 1);
        }
        killed.len()
    }

    /// Kills a process if it carries this mark. Returns `None` if it does not, or has ended.
    fn kill(pid: Pid, mark: u64) -> Option<OwnedFd> {
        // The mark is read after the pidfd was opened, so that both belong to the same process.
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let is_meant = mark_of(pid) == Some(mark) && !has_ended(&process, 0);
        (is_meant && pidfd_send_signal(&process, Signal::KILL).is_ok()).then_some(process)
    }

    /// Whether a process is a zombie or gone, or becomes so within this many seconds.
    fn has_ended(process: impl AsFd, seconds: i64) -> bool {
        let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    /// The pids of all processes.
    pub(crate) fn pids() -> impl Iterator<Item = Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
    }
}
