//! The guard: a process of a few kilobytes that outlives its host for a moment, and kills the
//! processes that the host leaves behind. It waits for messages on a socket whose other end only
//! the host has, and keeps the descriptors that come with them. When the socket ends, it uses each
//! of them to kill: by `cgroup.kill`, or by a pidfd. Its program is made in memory, because a copy
//! of the host would need as much memory as the host.
//!
//! A message is two numbers of 32 bits: the action ([`PUT`], [`DROP`], [`LEAVE`]), and the number
//! that the descriptor has in the guard.
//!
//! The one rule: a message that the guard does not understand ends it without a kill.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::{cvt, cvt_retry, fd};

/// The action to keep the descriptor in the message under this number.
const PUT: u32 = 1;
/// The action to close the descriptor with this number.
const DROP: u32 = 2;
/// The action to end without a kill.
const LEAVE: u32 = 3;

/// The number of the descriptor of the guard's own program in the guard. The guard closes it at
/// once.
pub(crate) const PROGRAM: RawFd = 3;
/// The lowest number of a descriptor that the guard keeps.
pub(crate) const LOWEST: u32 = 3;

/// A message for the guard.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Message<'a> {
    Put(u32, BorrowedFd<'a>),
    Drop(u32),
    Leave,
}

/// The two ends of the guard's socket: (the host's, the guard's).
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors.
    cvt(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: socketpair has just opened the descriptor for us.
    let ours = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: the same holds for the other end.
    let theirs = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((fd::above_stdio(ours)?, fd::above_stdio(theirs)?))
}

/// Sends a message without waiting. The error is `WouldBlock` if the guard has too many messages to
/// read, and `BrokenPipe` if the guard is gone.
pub(crate) fn send(socket: BorrowedFd<'_>, message: Message<'_>) -> io::Result<()> {
    let (what, number, file) = match message {
        Message::Put(number, file) => (PUT, number, Some(file.as_raw_fd())),
        Message::Drop(number) => (DROP, number, None),
        Message::Leave => (LEAVE, 0, None),
    };
    // SAFETY: both descriptors are open as long as they are borrowed.
    unsafe { send_raw(socket.as_raw_fd(), [what, number], file, libc::MSG_DONTWAIT) }
}

/// Ends the socket, as the end of the host does.
pub(crate) fn hang_up(socket: BorrowedFd<'_>) {
    // SAFETY: shutdown touches no memory.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Registers the calling process under this number, by a pidfd of its own. Waits until the guard
/// has room for the message. It allocates nothing, locks nothing and cannot panic, so it can be
/// called between fork and exec.
///
/// A guard that is gone is no error, because the host registers all processes with the next guard.
///
/// # Safety
///
/// `socket` is open in this process.
pub(super) unsafe fn register_self(socket: RawFd, number: u32) -> io::Result<()> {
    // SAFETY: getpid touches no memory and cannot fail.
    let pid = unsafe { libc::getpid() };
    // SAFETY: pidfd_open touches no memory.
    let pidfd = cvt(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    #[allow(clippy::cast_possible_truncation)] // a descriptor is an int
    let pidfd = pidfd as RawFd;
    // SAFETY: our caller guarantees that the socket is open, and the pidfd is open.
    let sent = unsafe { send_raw(socket, [PUT, number], Some(pidfd), 0) };
    // SAFETY: the pidfd is ours.
    unsafe { libc::close(pidfd) };
    match sent.map_err(|error| error.raw_os_error()) {
        Ok(()) | Err(Some(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
    }
}

/// A control message with one descriptor, in the kernel's layout.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    file: RawFd,
    padding: RawFd,
}

/// Sends two words and, if there is one, a descriptor.
///
/// # Safety
///
/// The descriptors are open.
unsafe fn send_raw(socket: RawFd, words: [u32; 2], file: Option<RawFd>, flags: i32) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: ptr::from_ref(&words).cast_mut().cast(), iov_len: size_of::<[u32; 2]>() };
    let mut rights = MaybeUninit::<Rights>::zeroed();
    let mut header = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: all zeros are a valid header of an empty message.
    let message = unsafe { header.assume_init_mut() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if let Some(file) = file {
        let length = size_of::<libc::cmsghdr>() + size_of::<RawFd>();
        // SAFETY: all zeros are valid for these integers.
        let rights = unsafe { rights.assume_init_mut() };
        rights.header.cmsg_level = libc::SOL_SOCKET;
        rights.header.cmsg_type = libc::SCM_RIGHTS;
        rights.header.cmsg_len = length as _;
        rights.file = file;
        message.msg_control = ptr::from_mut(rights).cast();
        message.msg_controllen = length as _;
    }
    // SAFETY: the header, and everything that it points to, are locals that live through the call.
    cvt_retry(|| unsafe { libc::sendmsg(socket, header.as_ptr(), flags | libc::MSG_NOSIGNAL) })?;
    Ok(())
}

/// The program of the guard, in a file in memory that cannot be changed.
pub(crate) fn program() -> io::Result<OwnedFd> {
    super::program::make(c"childminder-guard", code())
}

/// The number of the architecture in an ELF file, and the code of the guard, which can run at any
/// address.
///
/// The code blocks all signals, names itself, closes [`PROGRAM`], and then does what the messages
/// say. A register holds the highest number that it keeps.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
fn code() -> Option<(u16, &'static [u8])> {
    super::program::code![
        "sub rsp, 128",
        // rt_sigprocmask(SIG_SETMASK, all, null, 8)
        "mov qword ptr [rsp], -1",
        "mov eax, 14",
        "mov edi, 2",
        "mov rsi, rsp",
        "xor edx, edx",
        "mov r10d, 8",
        "syscall",
        // prctl(PR_SET_NAME, "child-guard")
        "movabs rax, 0x75672d646c696863",
        "mov qword ptr [rsp], rax",
        "mov dword ptr [rsp + 8], 0x00647261",
        "mov eax, 157",
        "mov edi, 15",
        "mov rsi, rsp",
        "syscall",
        // close(PROGRAM)
        "mov eax, 3",
        "mov edi, 3",
        "syscall",
        "mov r12d, 2",
        // recvmsg(0, header, 0): the header is at 0, its vector at 56, the message at 72, the
        // descriptor at 96.
        "30:",
        "xor eax, eax",
        "mov qword ptr [rsp], rax",
        "mov qword ptr [rsp + 8], rax",
        "lea rax, [rsp + 56]",
        "mov qword ptr [rsp + 16], rax",
        "mov qword ptr [rsp + 24], 1",
        "lea rax, [rsp + 80]",
        "mov qword ptr [rsp + 32], rax",
        "mov qword ptr [rsp + 40], 24",
        "mov qword ptr [rsp + 48], 0",
        "lea rax, [rsp + 72]",
        "mov qword ptr [rsp + 56], rax",
        "mov qword ptr [rsp + 64], 8",
        "mov eax, 47",
        "xor edi, edi",
        "mov rsi, rsp",
        "xor edx, edx",
        "syscall",
        "cmp rax, -4",
        "je 30b",
        "test rax, rax",
        "jz 40f",
        "cmp rax, 8",
        "jne 49f",
        "mov ebx, dword ptr [rsp + 76]",
        "mov eax, dword ptr [rsp + 72]",
        "cmp eax, 2",
        "je 35f",
        "cmp eax, 1",
        "jne 49f",
        // dup3(received, number, 0), close(received)
        "cmp qword ptr [rsp + 40], 20",
        "jb 30b",
        "mov r13d, dword ptr [rsp + 96]",
        "cmp r13d, ebx",
        "je 33f",
        "mov eax, 292",
        "mov edi, r13d",
        "mov esi, ebx",
        "xor edx, edx",
        "syscall",
        "mov eax, 3",
        "mov edi, r13d",
        "syscall",
        "33:",
        "cmp ebx, r12d",
        "jle 30b",
        "mov r12d, ebx",
        "jmp 30b",
        // close(number)
        "35:",
        "mov eax, 3",
        "mov edi, ebx",
        "syscall",
        "jmp 30b",
        // When the socket ends: write(number, "1", 1), and SIGKILL to the group and to the
        // process, whatever the descriptor is.
        "40:",
        "mov ebx, 3",
        "mov byte ptr [rsp], 0x31",
        "42:",
        "cmp ebx, r12d",
        "jg 49f",
        "mov eax, 1",
        "mov edi, ebx",
        "mov rsi, rsp",
        "mov edx, 1",
        "syscall",
        "mov eax, 424",
        "mov edi, ebx",
        "mov esi, 9",
        "xor edx, edx",
        "mov r10d, 4",
        "syscall",
        "mov eax, 424",
        "mov edi, ebx",
        "mov esi, 9",
        "xor edx, edx",
        "xor r10d, r10d",
        "syscall",
        "inc ebx",
        "jmp 42b",
        // exit_group(0)
        "49:",
        "mov eax, 231",
        "xor edi, edi",
        "syscall",
        "ud2",
    ]
}

/// The same code as on x86-64.
#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
fn code() -> Option<(u16, &'static [u8])> {
    super::program::code![
        "sub sp, sp, #128",
        "mov x0, #-1",
        "str x0, [sp]",
        "mov x0, #2",
        "mov x1, sp",
        "mov x2, #0",
        "mov x3, #8",
        "mov x8, #135",
        "svc #0",
        "movz x0, #0x6863",
        "movk x0, #0x6c69, lsl #16",
        "movk x0, #0x2d64, lsl #32",
        "movk x0, #0x7567, lsl #48",
        "str x0, [sp]",
        "movz w0, #0x7261",
        "movk w0, #0x0064, lsl #16",
        "str w0, [sp, #8]",
        "mov x0, #15",
        "mov x1, sp",
        "mov x8, #167",
        "svc #0",
        "mov x0, #3",
        "mov x8, #57",
        "svc #0",
        "mov w20, #2",
        "30:",
        "stp xzr, xzr, [sp]",
        "add x0, sp, #56",
        "mov x1, #1",
        "stp x0, x1, [sp, #16]",
        "add x0, sp, #80",
        "mov x1, #24",
        "stp x0, x1, [sp, #32]",
        "add x0, sp, #72",
        "mov x1, #8",
        "str xzr, [sp, #48]",
        "str x0, [sp, #56]",
        "str x1, [sp, #64]",
        "mov x0, #0",
        "mov x1, sp",
        "mov x2, #0",
        "mov x8, #212",
        "svc #0",
        "cmn x0, #4",
        "b.eq 30b",
        "cbz x0, 40f",
        "cmp x0, #8",
        "b.ne 49f",
        "ldp w0, w19, [sp, #72]",
        "cmp w0, #2",
        "b.eq 35f",
        "cmp w0, #1",
        "b.ne 49f",
        "ldr x0, [sp, #40]",
        "cmp x0, #20",
        "b.lo 30b",
        "ldr w21, [sp, #96]",
        "cmp w21, w19",
        "b.eq 33f",
        "mov w0, w21",
        "mov w1, w19",
        "mov x2, #0",
        "mov x8, #24",
        "svc #0",
        "mov w0, w21",
        "mov x8, #57",
        "svc #0",
        "33:",
        "cmp w19, w20",
        "b.le 30b",
        "mov w20, w19",
        "b 30b",
        "35:",
        "mov w0, w19",
        "mov x8, #57",
        "svc #0",
        "b 30b",
        "40:",
        "mov w19, #3",
        "mov w0, #0x31",
        "strb w0, [sp]",
        "42:",
        "cmp w19, w20",
        "b.gt 49f",
        "mov w0, w19",
        "mov x1, sp",
        "mov x2, #1",
        "mov x8, #64",
        "svc #0",
        "mov w0, w19",
        "mov x1, #9",
        "mov x2, #0",
        "mov x3, #4",
        "mov x8, #424",
        "svc #0",
        "mov w0, w19",
        "mov x1, #9",
        "mov x2, #0",
        "mov x3, #0",
        "mov x8, #424",
        "svc #0",
        "add w19, w19, #1",
        "b 42b",
        "49:",
        "mov x0, #0",
        "mov x8, #94",
        "svc #0",
        "brk #1",
    ]
}

#[cfg(not(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64")
)))]
fn code() -> Option<(u16, &'static [u8])> {
    None
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use super::super::pidfd;
    use super::*;

    /// Starts a guard. Returns it and the host's end of its socket.
    fn guard() -> (Child, OwnedFd) {
        let program = program().unwrap();
        let (ours, theirs) = socket_pair().unwrap();
        // An emulator opens the program by this path, after the exec.
        // SAFETY: F_SETFD takes an int and touches no memory of ours.
        cvt(unsafe { libc::fcntl(program.as_raw_fd(), libc::F_SETFD, 0) }).unwrap();
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        (Command::new(path).stdin(theirs).spawn().unwrap(), ours)
    }

    /// Starts a group of two processes. Returns its leader and a pidfd of it.
    fn group() -> (Child, OwnedFd) {
        let child = Command::new("sh").args(["-c", "sleep 1000 & wait"]).process_group(0).spawn().unwrap();
        let pidfd = pidfd::open(child.id().try_into().unwrap()).unwrap();
        (child, pidfd)
    }

    /// Signals the group of an unreaped leader, on every kernel.
    fn signal(leader: &Child, signal: i32) -> io::Result<()> {
        super::super::signal::send_to_group(i32::try_from(leader.id()).unwrap(), signal)
    }

    fn end(mut leader: Child) {
        signal(&leader, libc::SIGKILL).unwrap();
        leader.wait().unwrap();
    }

    #[test]
    fn kills_with_what_it_keeps_when_its_host_is_gone() {
        let (mut guard, socket) = guard();
        let ((mut kept, first), (dropped, second), (mut moved, third)) = (group(), group(), group());
        let (kill, written) = fd::pipe().unwrap();
        for (number, file) in [(LOWEST, &written), (40, &first), (7, &second), (1000, &third), (9, &third)] {
            send(socket.as_fd(), Message::Put(number, file.as_fd())).unwrap();
        }
        send(socket.as_fd(), Message::Drop(7)).unwrap();
        drop((socket, written));
        assert!(guard.wait().unwrap().success());
        assert_eq!(kept.wait().unwrap().signal(), Some(9));
        assert_eq!(moved.wait().unwrap().signal(), Some(9));
        let mut bytes = [0; 8];
        assert_eq!(fd::read(kill.as_fd(), &mut bytes).unwrap(), 1);
        assert_eq!(bytes[0], b'1');
        assert!(signal(&dropped, 0).is_ok(), "it was dropped");
        end(dropped);
    }

    #[test]
    fn leaves_without_a_kill_when_it_is_told_to() {
        let (mut guard, socket) = guard();
        let (child, pidfd) = group();
        send(socket.as_fd(), Message::Put(LOWEST, pidfd.as_fd())).unwrap();
        let start = super::super::clock();
        while std::fs::read_to_string(format!("/proc/{}/comm", guard.id())).unwrap() != "child-guard\n" {
            assert!(start.elapsed().as_secs() < 10);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", guard.id())).unwrap();
        assert!(status.contains("SigBlk:\tfffffffffffbfeff\n"), "{status}");
        send(socket.as_fd(), Message::Leave).unwrap();
        assert!(guard.wait().unwrap().success());
        assert!(signal(&child, 0).is_ok());
        let error = send(socket.as_fd(), Message::Drop(LOWEST)).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)), "{error}");
        end(child);
    }
}
