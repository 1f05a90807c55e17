//! The lower limit of the cost: the same work in a loop on the system calls, for one program,
//! without a policy and without any event or check that it does not need. Contains the only
//! `unsafe` of the benches.
//!
//! The one rule: the child's side does what the library's does, so that the difference is the
//! parent's. The child's table of descriptors is copied, which is the plainest way, unless
//! `unshare` is set.

#![allow(unsafe_code)]
#![allow(clippy::multiple_unsafe_ops_per_block)] // a raw loop, not a library

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// A program to start, with all pointers that exec needs.
#[derive(Debug)]
pub(crate) struct Spec {
    argv: Vec<*const c_char>,
    _args: Vec<CString>,
    /// The child's descriptors 0, 1 and 2: a pipe to us, or `/dev/null`.
    pub(crate) pipes: [bool; 3],
    /// The descriptors to use instead, where they are set.
    pub(crate) files: [Option<RawFd>; 3],
    pub(crate) setsid: bool,
    /// The `cgroup.procs` of the cgroup that the child enters.
    pub(crate) enter: Option<File>,
    pub(crate) limits: Vec<(i32, libc::rlimit)>,
    pub(crate) die_with_parent: bool,
    /// Whether to use `CLONE_FILES` and `close_range` instead of a copy of the table.
    pub(crate) unshare: bool,
}

// SAFETY: the pointers point into `_args`, which does not change.
unsafe impl Send for Spec {}
// SAFETY: as above.
unsafe impl Sync for Spec {}

impl Spec {
    pub(crate) fn new(program: &Path, args: &[&str], pipes: [bool; 3]) -> Self {
        let all = std::iter::once(program.to_str().unwrap_or_default()).chain(args.iter().copied());
        let args: Vec<CString> = all.map(|arg| CString::new(arg).unwrap_or_default()).collect();
        let argv = args.iter().map(|arg| arg.as_ptr()).chain([ptr::null()]).collect();
        Self {
            argv,
            _args: args,
            pipes,
            files: [None; 3],
            die_with_parent: false,
            setsid: false,
            enter: None,
            limits: Vec::new(),
            unshare: false,
        }
    }
}

struct Job<'a> {
    spec: &'a Spec,
    files: [RawFd; 3],
    errno: i32,
}

extern "C" fn child(job: *mut c_void) -> c_int {
    // SAFETY: it points to the parent's own job, and the parent waits.
    let job = unsafe { &mut *job.cast::<Job<'_>>() };
    // SAFETY: only async-signal-safe calls, on memory that lives until the exec.
    unsafe {
        if job.spec.unshare {
            let from = job.files.iter().max().map_or(0, |fd| fd + 1);
            libc::syscall(libc::SYS_close_range, from, u32::MAX, libc::CLOSE_RANGE_UNSHARE);
        }
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        if job.spec.setsid {
            libc::setsid();
        } else {
            libc::setpgid(0, 0);
        }
        if let Some(procs) = &job.spec.enter {
            libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1);
        }
        for (target, source) in (0..).zip(job.files) {
            libc::dup2(source, target);
        }
        for (resource, limit) in &job.spec.limits {
            libc::setrlimit(*resource as _, limit);
        }
        if job.spec.unshare {
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        }
        if job.spec.die_with_parent {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(job.spec.argv[0], job.spec.argv.as_ptr(), environ);
        job.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Spawns children on a stack of its own.
#[derive(Debug)]
pub(crate) struct Spawner {
    stack: Vec<u8>,
    null: OwnedFd,
}

impl Spawner {
    pub(crate) fn new() -> Self {
        let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
        Self { stack: vec![0; 32 * 1024], null: null.into() }
    }

    /// Starts a child. Returns its pid and our ends of the pipes.
    pub(crate) fn spawn(&mut self, spec: &Spec) -> (i32, [Option<OwnedFd>; 3]) {
        let mut ours = [None, None, None];
        let mut theirs = [None, None, None];
        for number in 0..3 {
            if spec.pipes[number] {
                let (read, write) = pipe();
                let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
                let (our, their) = if number == 0 { (write, read) } else { (read, write) };
                // SAFETY: the call touches no memory.
                unsafe { libc::fcntl(our.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
                (ours[number], theirs[number]) = (Some(our), Some(their));
            }
        }
        let files = [0, 1, 2].map(|number: usize| {
            let given = spec.files[number].unwrap_or(self.null.as_raw_fd());
            theirs[number].as_ref().map_or(given, AsRawFd::as_raw_fd)
        });
        let mut job = Job { spec, files, errno: 0 };
        let shared = if spec.unshare { libc::CLONE_FILES } else { 0 };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | shared;
        // SAFETY: the stack is ours, is large enough and stays until the exec, and clone returns
        // only after the exec. The masks are locals.
        let pid = unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let top = self.stack.as_mut_ptr().add(self.stack.len() & !15);
            let top = top.sub(top.addr() & 15);
            let pid = libc::clone(child, top.cast(), flags, (&raw mut job).cast());
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            pid
        };
        assert!(pid > 0 && job.errno == 0, "raw spawn: {pid}, errno {}", job.errno);
        (pid, ours)
    }
}

/// Whether SIGTERM has come.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Notes it. If it comes just before the wait, the alarm interrupts that.
extern "C" fn note(_: c_int) {
    ASKED.store(true, Ordering::Relaxed);
    // SAFETY: the call touches no memory, and a handler may make it.
    unsafe { libc::alarm(1) };
}

/// Starts so many children, and starts each again that exits, until SIGTERM. Then it stops all, and
/// returns when the last one is gone. It waits in `waitpid(-1)`, and reads nothing.
pub(crate) fn supervise(spec: &Spec, count: usize) {
    heed_sigterm();
    let mut spawner = Spawner::new();
    let mut children: HashMap<_, _> = (0..count).map(|_| spawner.spawn(spec)).collect();
    let mut is_stopping = false;
    loop {
        if !is_stopping && ASKED.load(Ordering::Relaxed) {
            is_stopping = true;
            children.keys().for_each(|pid| kill(-pid, libc::SIGTERM));
        }
        let mut status = 0;
        // SAFETY: the status is a local.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if children.remove(&pid).is_some() && !is_stopping {
            let (pid, pipes) = spawner.spawn(spec);
            children.insert(pid, pipes);
        }
        if children.is_empty() {
            return;
        }
    }
}

/// Does the same as a supervisor that reaps only its own children, reads their output, and leaves
/// no process behind: with a pidfd and pipes in one epoll, and a look for the rest of the group.
/// With a directory, each child is in a cgroup of its own below it.
pub(crate) fn supervise_strictly(mut spec: Spec, count: usize, home: Option<&Path>) {
    heed_sigterm();
    let (mut all, mut cgroups, mut busy, mut next) = (Loop::new(), HashMap::new(), Vec::new(), 0);
    let mut start = |all: &mut Loop, cgroups: &mut HashMap<i32, PathBuf>| {
        let cgroup = home.map(|home| home.join(next.to_string()));
        next += 1;
        if let Some(cgroup) = &cgroup {
            fs::create_dir(cgroup).expect("cgroup");
            spec.enter = File::options().write(true).open(cgroup.join("cgroup.procs")).ok();
        }
        let pid = all.spawn(&spec);
        cgroups.extend(cgroup.map(|cgroup| (pid, cgroup)));
    };
    (0..count).for_each(|_| start(&mut all, &mut cgroups));
    let (mut is_stopping, mut left) = (false, count);
    while left > 0 {
        if !is_stopping && ASKED.load(Ordering::Relaxed) {
            is_stopping = true;
            for pid in all.pids() {
                kill(-pid, libc::SIGTERM);
                kill(-pid, libc::SIGCONT);
            }
        }
        let died = |all: &mut Loop| {
            let cgroup = cgroups.remove(&all.reaped);
            if cgroup.is_none() {
                kill(-all.reaped, 0);
            }
            if is_stopping {
                left -= 1;
            } else {
                start(all, &mut cgroups);
            }
            // The kernel may still be at work on its last member.
            busy.extend(cgroup.filter(|cgroup| fs::remove_dir(cgroup).is_err()));
        };
        all.turn(died, |_| {});
    }
    for cgroup in busy {
        fs::remove_dir(cgroup).expect("an empty cgroup");
    }
}

/// Has SIGTERM noted, and interrupt the wait.
fn heed_sigterm() {
    // SAFETY: a zeroed action is valid, and the handler only sets a flag. Without SA_RESTART it
    // interrupts the wait.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note as extern "C" fn(c_int) as usize;
        libc::sigaction(libc::SIGTERM, &raw const action, ptr::null_mut());
        libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut());
    }
}

/// One child of a [`Loop`].
#[derive(Debug)]
struct Child {
    pid: i32,
    _pidfd: OwnedFd,
    pipes: [Option<OwnedFd>; 3],
    slot: usize,
}

/// A supervisor written by hand, with pidfds and pipes in one epoll.
#[derive(Debug)]
pub(crate) struct Loop {
    spawner: Spawner,
    epoll: OwnedFd,
    children: Vec<Option<Child>>,
    free: Vec<usize>,
    events: Vec<libc::epoll_event>,
    buffer: Vec<u8>,
    /// Whether each event leads to one read of its pipe, with level-triggered events, instead of
    /// reads until the pipe is empty.
    pub(crate) fair: bool,
    /// The most bytes that were read from one pipe while all others waited.
    pub(crate) longest: usize,
    /// The pid of the child that was reaped last.
    reaped: i32,
}

const PIDFD: u64 = 3;

impl Loop {
    pub(crate) fn new() -> Self {
        // SAFETY: the descriptor is new and ours alone.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        let (children, free) = (Vec::new(), Vec::new());
        Self {
            spawner: Spawner::new(),
            epoll,
            children,
            free,
            events,
            buffer: vec![0; 65536],
            fair: false,
            longest: 0,
            reaped: 0,
        }
    }

    fn add(&self, fd: RawFd, events: c_int, token: u64) {
        let events = if self.fair { events } else { events | libc::EPOLLET } as u32;
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives through the call.
        let added = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        assert_eq!(added, 0);
    }

    pub(crate) fn spawn(&mut self, spec: &Spec) -> i32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.children.push(None);
            self.children.len() - 1
        });
        let (pid, pipes) = self.spawner.spawn(spec);
        // SAFETY: the descriptor is new and ours alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as RawFd) };
        let token = (slot as u64) << 2;
        self.add(pidfd.as_raw_fd(), libc::EPOLLIN, token | PIDFD);
        for (number, pipe) in (0..).zip(&pipes) {
            if let Some(pipe) = pipe {
                let events = if number == 0 { libc::EPOLLOUT } else { libc::EPOLLIN };
                self.add(pipe.as_raw_fd(), events, token | number);
            }
        }
        self.children[slot] = Some(Child { pid, _pidfd: pidfd, pipes, slot });
        pid
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        self.children.iter().flatten().map(|child| child.pid).collect()
    }

    /// Waits once, and then reads and reaps. Calls `died` for each child that was reaped, and
    /// `data` for the bytes of each read.
    pub(crate) fn turn(&mut self, mut died: impl FnMut(&mut Self), mut data: impl FnMut(&[u8])) {
        let mut events = std::mem::take(&mut self.events);
        // SAFETY: the buffer has room for as many events.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            let (slot, number) = ((event.u64 >> 2) as usize, event.u64 & 3);
            let Some(child) = &mut self.children[slot] else { continue };
            if number != PIDFD {
                let pipe = &mut child.pipes[number as usize];
                let mut len = 0;
                let mut counted = |bytes: &[u8]| {
                    len += bytes.len();
                    data(bytes);
                };
                if number > 0 && drain(pipe, &mut self.buffer, self.fair, &mut counted) {
                    *pipe = None;
                }
                self.longest = self.longest.max(len);
                continue;
            }
            for pipe in &mut child.pipes[1..] {
                drain(pipe, &mut self.buffer, false, &mut data);
            }
            let (mut status, pid, slot) = (0, child.pid, child.slot);
            // SAFETY: a zeroed rusage is valid, and both are locals.
            let reaped = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage)
            };
            if reaped == pid {
                self.reaped = pid;
                self.children[slot] = None;
                self.free.push(slot);
                died(self);
            }
        }
        self.events = events;
    }
}

/// Calls `line` with the bytes before each newline in `data`. Uses the C library's `memchr`.
pub(crate) fn each_line(mut data: &[u8], mut line: impl FnMut(&[u8])) {
    loop {
        let start = data.as_ptr();
        // SAFETY: the pointer is valid for as many bytes, and no more are read.
        let found = unsafe { libc::memchr(start.cast(), i32::from(b'\n'), data.len()) };
        if found.is_null() {
            return;
        }
        let (whole, rest) = data.split_at(found.addr() - start.addr());
        line(whole);
        data = &rest[1..];
    }
}

/// Reads until the pipe is empty, or once. Returns whether the pipe has ended.
fn drain(pipe: &mut Option<OwnedFd>, buffer: &mut [u8], once: bool, data: &mut impl FnMut(&[u8])) -> bool {
    let Some(pipe) = pipe else { return false };
    loop {
        match read(pipe.as_raw_fd(), buffer) {
            0 => return true,
            len if len < 0 => return false,
            len => data(&buffer[..len as usize]),
        }
        if once {
            return false;
        }
    }
}

/// Makes a pipe: the end to read from, and the end to write to.
pub(crate) fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: there is room for two descriptors, which are ours alone.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Binds this thread, and the threads and processes that it starts, to one processor, or to all.
pub(crate) fn bind(processor: Option<usize>) {
    // SAFETY: a zeroed set is empty.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for number in processor.map_or(0..1024, |number| number..number + 1) {
        // SAFETY: the number is below the size of the set.
        unsafe { libc::CPU_SET(number, &mut set) };
    }
    // SAFETY: the set is a local.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Makes a named pipe.
pub(crate) fn mkfifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the string ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

pub(crate) fn set_pipe_size(fd: RawFd, bytes: c_int) {
    // SAFETY: the call touches no memory.
    unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, bytes) };
}

/// Reads once.
pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> isize {
    // SAFETY: the buffer has this much room.
    unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) }
}

pub(crate) fn wait_blocking(pid: i32) {
    let mut status = 0;
    // SAFETY: the status is a local.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
}

/// Waits until the child has exited, and leaves it to be reaped.
pub(crate) fn wait_unreaped(pid: i32) {
    // SAFETY: a zeroed siginfo_t is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the info is a local.
    unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
}

/// Reaps the child if it has exited. Returns whether it has.
pub(crate) fn wait_nohang(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: the status is a local.
    unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) == pid }
}

pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: the call touches no memory.
    unsafe { libc::kill(pid, signal) };
}

/// The processor time that this thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is a local.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The processor time that another process has used so far.
pub(crate) fn process_cpu(pid: i32) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the variables are locals.
    unsafe {
        assert_eq!(libc::clock_getcpuclockid(pid, &raw mut clock), 0);
        libc::clock_gettime(clock, &raw mut time);
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The clock of the children's time stamps, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub(crate) fn raise_fd_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

/// Takes std's slow path, which std needs for a session and limits.
pub(crate) fn with_pre_exec(command: &mut Command, limits: Vec<(i32, libc::rlimit)>) {
    let hook = move || {
        // SAFETY: these calls are async-signal-safe.
        unsafe {
            libc::setsid();
            for (resource, limit) in &limits {
                libc::setrlimit(*resource as _, limit);
            }
        }
        Ok(())
    };
    // SAFETY: the hook allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
}
