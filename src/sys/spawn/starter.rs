//! Starts a child through a small program, so that its peak memory is its own.
//!
//! At the exec the kernel takes the peak of the memory that a process leaves for a peak of the
//! process. A child that leaves the host's memory is therefore never smaller than the host. Here
//! the first child carries out the plan and executes the starter, a program of one page. The
//! starter makes a second child in its own memory, as a child of the host (`CLONE_PARENT`), which
//! executes the program, and the starter ends.
//!
//! The one rule: whatever goes wrong, no process is left, and the ordinary way is taken instead.

use std::cell::OnceCell;
use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use super::bound::Bound;
use super::failure::Failure;
use super::order::Order;
use crate::command::Group;
use crate::error::Stage;
use crate::sys::{clock, fd, program, signal, wait};

/// The length of the message of a second child: at first its pid, and then, when it is about to
/// execute its program, the seconds and nanoseconds of the monotonic clock. A further byte means
/// that it could not.
const MESSAGE: usize = 24;
/// The length of the first part.
const PID: usize = 8;
/// The longest time from the end of the starter to the end of the message.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The part of a plan that the starter carries out.
#[derive(Debug)]
pub(super) struct Start {
    /// The arguments of the starter. The strings belong to the plan, except for the first two.
    argv: Vec<*const c_char>,
    _words: (CString, CString),
    /// The descriptor of the starter's program in the first child.
    program: RawFd,
}

/// The starter's program, or `None` if there can be none.
#[derive(Debug, Default)]
pub(super) struct Starter(OnceCell<Option<OwnedFd>>);

// SAFETY: it holds a descriptor, which belongs to no thread.
unsafe impl Send for Starter {}

/// The descriptors of one start.
#[derive(Debug)]
pub(super) struct Files<'a> {
    pub(super) program: BorrowedFd<'a>,
    pub(super) report: OwnedFd,
    pub(super) theirs: OwnedFd,
    /// Their numbers in the first child.
    pub(super) numbers: [RawFd; 2],
}

impl Starter {
    /// Prepares a start of this order, or returns `None` if it needs something that the starter
    /// cannot do: a terminal, a foreign group, sockets whose variable holds the pid, or a guard.
    pub(super) fn prepare(&self, order: &Order<'_>) -> Option<Files<'_>> {
        let attributes = order.command.attributes();
        let is_alone = order.command.group.leads() && !order.terminal;
        // The starter and the child are two processes for a moment.
        let is_alone = is_alone && attributes.tree_limits.processes.is_none_or(|limit| limit > 1);
        if !is_alone || order.guard.is_some() || !attributes.listen.is_empty() {
            return None;
        }
        let highest = order.files.iter().map(|(number, _)| *number).max().unwrap_or(-1).max(2);
        // The number is one byte of a C string.
        let numbers = (highest < 250).then_some([highest + 1, highest + 2])?;
        let made = || program::make(c"childminder-start", code()).ok();
        let program = self.0.get_or_init(made).as_ref()?.as_fd();
        let (report, theirs) = fd::pipe().ok()?;
        Some(Files { program, report, theirs, numbers })
    }
}

impl Start {
    /// Makes the starter's arguments from those of a plan, whose strings must outlive them, or
    /// returns `None` if it cannot carry out the plan.
    pub(super) fn new(
        group: Group,
        parent_death_signal: Option<i32>,
        paths: &[*const c_char],
        args: &[*const c_char],
        [report, program]: [RawFd; 2],
    ) -> Option<Self> {
        let number = |number: i32| u8::try_from(number + 1).ok();
        let mode = match group {
            Group::Own => 1,
            Group::Session => 2,
            Group::Join(_) | Group::Inherit => return None,
        };
        let orders = vec![number(report)?, mode, number(parent_death_signal.unwrap_or(0))?];
        let words = (CString::new(orders).ok()?, CString::default());
        let (_, paths) = paths.split_last()?;
        let mut argv = vec![words.0.as_ptr()];
        argv.extend(paths);
        argv.push(words.1.as_ptr());
        argv.extend(args);
        Some(Self { argv, _words: words, program })
    }

    /// Executes the starter. Returns the errno if that fails.
    ///
    /// # Safety
    ///
    /// The same as for `child::run`.
    pub(super) unsafe fn exec(&self, env: *const *const c_char) -> i32 {
        // SAFETY: F_SETFD takes an int.
        unsafe { libc::fcntl(self.program, libc::F_SETFD, libc::FD_CLOEXEC) };
        let (flags, argv) = (libc::AT_EMPTY_PATH, self.argv.as_ptr());
        // SAFETY: it reads a constant and two null-terminated arrays of C strings, all of the plan.
        unsafe { libc::syscall(libc::SYS_execveat, self.program, c"".as_ptr(), argv, env, flags) };
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }
}

/// The result of a start through the starter.
#[derive(Debug)]
pub(super) enum Started {
    /// The pid of the second child, and the time of its exec.
    Child(i32, Option<Instant>),
    /// The program could not be executed, or the starter was killed.
    Failed,
}

/// Waits for the second child. `first` is the pid of the starter, which is reaped.
pub(super) fn finish(files: Files<'_>, first: i32, bound: &mut Bound<'_>) -> Result<Started, Failure> {
    let Files { report, theirs, .. } = files;
    drop(theirs);
    let mut message = Message::default();
    let mut stopped = None;
    let mut waited = bound.wait(first, |time| {
        let has_begun = message.wait(&report, time) && message.has_begun();
        // The starter shows no stop of a second child that it waits for.
        stopped = if has_begun { None } else { wait::stopped_in_group(first).filter(|pid| *pid != first) };
        has_begun || stopped.is_some()
    });
    if let Some(child) = stopped {
        wait::kill_and_reap(child);
        waited = Err(Failure::new(Stage::Wait, libc::ECANCELED, 0));
    }
    // Its work is done. If its user stopped it now, the end of the message would not come.
    let _ = signal::send(first, libc::SIGKILL);
    if let (Ok(()), Some(child), false) = (waited, message.child(), message.is_over) {
        waited = bound.wait(child, |time| message.wait(&report, time) && message.is_over);
    }
    if waited.is_ok() {
        message.wait_for_end(&report);
    }
    reap(first);
    match (waited, message.child()) {
        (Ok(()), Some(child)) if message.is_over && message.bytes.len() == MESSAGE => {
            Ok(Started::Child(child, message.executed()))
        }
        (waited, _) => {
            message.end_child(&report);
            waited.map(|()| Started::Failed)
        }
    }
}

/// Ends the second child of a starter that was killed.
pub(super) fn give_up(files: Files<'_>) {
    let Files { report, theirs, .. } = files;
    drop(theirs);
    Message::default().end_child(&report);
}

/// Reaps a starter, which is about to end.
fn reap(pid: i32) {
    for _ in 0..200 {
        if matches!(wait::try_wait(pid), wait::Wait::Reaped(..) | wait::Wait::Lost) {
            return;
        }
        fd::pause(Duration::ZERO);
    }
    wait::kill_and_reap(pid);
}

#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    /// Whether the second child has its program, or has ended.
    is_over: bool,
}

impl Message {
    /// Waits for the next part, and reads it. Returns whether there was one.
    fn wait(&mut self, report: &OwnedFd, time: Duration) -> bool {
        let is_there = fd::wait_readable(report.as_fd(), time);
        if is_there {
            let mut buffer = [0; MESSAGE + 1];
            match fd::read(report.as_fd(), &mut buffer) {
                Ok(0) | Err(_) => self.is_over = true,
                Ok(read) => self.bytes.extend_from_slice(&buffer[..read]),
            }
        }
        is_there
    }

    fn wait_for_end(&mut self, report: &OwnedFd) {
        let start = clock();
        while !self.is_over && clock().saturating_duration_since(start) < LAST_WAIT {
            self.wait(report, LAST_WAIT);
        }
    }

    /// Kills and reaps the second child, if there is one.
    fn end_child(mut self, report: &OwnedFd) {
        self.wait_for_end(report);
        if let Some(child) = self.child() {
            wait::kill_and_reap(child);
        }
    }

    /// Tells whether the pid of the second child is known, or there is none.
    fn has_begun(&self) -> bool {
        self.is_over || self.bytes.len() >= PID
    }

    fn word(&self, index: usize) -> Option<u64> {
        let bytes = self.bytes.get(8 * index..8 * index + 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    }

    fn child(&self) -> Option<i32> {
        i32::try_from(self.word(0)?).ok().filter(|pid| *pid > 0)
    }

    /// Returns the time of the exec in the form that the rest of the crate uses.
    fn executed(&self) -> Option<Instant> {
        let executed = Duration::new(self.word(1)?, u32::try_from(self.word(2)?).ok()?);
        let mut raw = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `raw` is a local that lives through the call.
        super::super::cvt(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, ptr::from_mut(&mut raw)) }).ok()?;
        let now = clock();
        #[allow(clippy::cast_sign_loss)] // the clock is never negative
        let raw = Duration::new(raw.tv_sec as u64, u32::try_from(raw.tv_nsec).ok()?);
        now.checked_sub(raw.saturating_sub(executed))
    }
}

/// The number of the architecture in an ELF file, and the code of the starter, which can run at any
/// address.
///
/// Its first argument has three bytes: the number of the report's descriptor, the way to leave the
/// group (1: setpgid, 2: setsid), and the parent-death signal, the first and the last one
/// higher than the number. The paths follow, then an empty argument, and then the arguments of the
/// program.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
fn code() -> Option<(u16, &'static [u8])> {
    program::code![
        "mov rax, [rsp + 8]",
        "movzx ebx, byte ptr [rax]",
        "dec ebx",
        "movzx ebp, byte ptr [rax + 1]",
        "movzx r14d, byte ptr [rax + 2]",
        "dec r14d",
        // fcntl(report, F_SETFD, FD_CLOEXEC)
        "mov eax, 72",
        "mov edi, ebx",
        "mov esi, 2",
        "mov edx, 1",
        "syscall",
        // getppid()
        "mov eax, 110",
        "syscall",
        "mov r15, rax",
        // r12: the paths. r13: the arguments. r9: the environment.
        "lea r12, [rsp + 16]",
        "mov r13, r12",
        "30:",
        "mov rax, [r13]",
        "add r13, 8",
        "cmp byte ptr [rax], 0",
        "jne 30b",
        "mov rax, [rsp]",
        "lea r9, [rsp + 8 * rax + 16]",
        "sub rsp, 64",
        // clone(CLONE_VM | CLONE_VFORK | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)
        "mov eax, 56",
        "mov edi, 0xc111",
        "xor esi, esi",
        "xor edx, edx",
        "xor r10d, r10d",
        "xor r8d, r8d",
        "syscall",
        "test rax, rax",
        "jnz 48f",
        // write(report, {getpid()}, 8). Until then it is in the group of the starter.
        "mov eax, 39",
        "syscall",
        "mov [rsp], rax",
        "mov eax, 1",
        "mov edi, ebx",
        "mov rsi, rsp",
        "mov edx, 8",
        "syscall",
        // setpgid(0, 0) or setsid()
        "cmp ebp, 1",
        "jne 32f",
        "mov eax, 109",
        "xor edi, edi",
        "xor esi, esi",
        "syscall",
        "test rax, rax",
        "js 47f",
        "32:",
        "cmp ebp, 2",
        "jne 33f",
        "mov eax, 112",
        "syscall",
        "test rax, rax",
        "js 47f",
        // prctl(PR_SET_PDEATHSIG, signal), and a check that the parent is the same
        "33:",
        "test r14d, r14d",
        "jz 34f",
        "mov eax, 157",
        "mov edi, 1",
        "mov esi, r14d",
        "syscall",
        "test rax, rax",
        "js 47f",
        "mov eax, 110",
        "syscall",
        "cmp rax, r15",
        "jne 47f",
        // write(report, {clock_gettime(CLOCK_MONOTONIC)}, 16)
        "34:",
        "mov eax, 228",
        "mov edi, 1",
        "mov rsi, rsp",
        "syscall",
        "mov eax, 1",
        "mov edi, ebx",
        "mov rsi, rsp",
        "mov edx, 16",
        "syscall",
        // rt_sigprocmask(SIG_SETMASK, none, null, 8)
        "mov qword ptr [rsp], 0",
        "mov eax, 14",
        "mov edi, 2",
        "mov rsi, rsp",
        "xor edx, edx",
        "mov r10d, 8",
        "syscall",
        // execve(path, arguments, environment) for each path, in the way of execvp(3)
        "40:",
        "mov rdi, [r12]",
        "cmp byte ptr [rdi], 0",
        "je 47f",
        "mov eax, 59",
        "mov rsi, r13",
        "mov rdx, r9",
        "syscall",
        "add r12, 8",
        "cmp rax, -2",
        "je 40b",
        "cmp rax, -13",
        "je 40b",
        "cmp rax, -20",
        "je 40b",
        "cmp rax, -19",
        "je 40b",
        "cmp rax, -110",
        "je 40b",
        "cmp rax, -116",
        "je 40b",
        // It could not: write(report, any byte, 1)
        "47:",
        "mov eax, 1",
        "mov edi, ebx",
        "mov rsi, rsp",
        "mov edx, 1",
        "syscall",
        // exit_group(0)
        "48:",
        "mov eax, 231",
        "xor edi, edi",
        "syscall",
        "ud2",
    ]
}

#[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
fn code() -> Option<(u16, &'static [u8])> {
    None
}
