//! File descriptors: pipes, duplicates, reads and writes, and waits for one descriptor. Decides
//! nothing.
//!
//! The one rule: a descriptor that is opened here is close-on-exec, and its number is above
//! stderr's.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use super::{clock, cvt, cvt_retry, signal};

/// The lowest number that a descriptor of ours may have. The numbers below it belong to the host's
/// stdin, stdout and stderr, whether or not they are open: a child that inherits them must never
/// get a descriptor of ours.
const LOWEST: RawFd = 3;

/// Moves a descriptor that was just opened away from the numbers of stdin, stdout and stderr.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() < LOWEST { duplicate(fd.as_fd(), LOWEST) } else { Ok(fd) }
}

/// Calls `open` while the numbers of stdin, stdout and stderr are taken. It is for calls that open
/// a descriptor that cannot be moved.
pub(crate) fn with_stdio_taken<T>(open: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut taken = Vec::new();
    while let Some(free) = (0..LOWEST).find(|fd| of_the_host(*fd).is_none()) {
        let null = File::options().read(true).open("/dev/null")?;
        // If another thread has taken the number meanwhile, it keeps it.
        let is_low = null.as_raw_fd() <= free;
        taken.push(null);
        if !is_low {
            break;
        }
    }
    open()
}

/// Opens a pipe that is close-on-exec at both ends. Returns (read end, write end).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    #[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: `fds` has room for the two descriptors that pipe2 writes.
    cvt(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    #[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")))]
    // SAFETY: `fds` has room for the two descriptors that pipe writes.
    cvt(unsafe { libc::pipe(fds.as_mut_ptr()) })?;
    // SAFETY: pipe has just opened the descriptor for us, and nothing else owns it.
    let reader = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: the same holds for the other end.
    let writer = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    #[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")))]
    for fd in [&reader, &writer] {
        // SAFETY: F_SETFD takes an int and touches no memory of ours.
        cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

/// Makes a pipe's end or a terminal's master non-blocking.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_mode(fd, 1)
}

/// Makes the open file non-blocking (1) or blocking (0).
fn set_mode(fd: BorrowedFd<'_>, nonblocking: libc::c_int) -> io::Result<()> {
    // SAFETY: FIONBIO reads one int, which lives through the call.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw const nonblocking) })?;
    Ok(())
}

/// Two connected sockets, close-on-exec and non-blocking.
pub(crate) fn socket_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (one, other) = UnixStream::pair()?;
    let (one, other) = (above_stdio(one.into())?, above_stdio(other.into())?);
    let (one, other) = (UnixStream::from(one), UnixStream::from(other));
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one, other))
}

/// Writes a byte to a [`socket_pair`] that is not full. A signal handler may call this: it never
/// waits, and it does not fail, so that errno stays as it is. It is no `write`, which a full disk
/// or a tool that injects errors may let fail everywhere.
pub(crate) fn ring(socket: RawFd) {
    // SAFETY: reads a static.
    unsafe { libc::send(socket, [0_u8].as_ptr().cast(), 1, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
}

/// Opens a file that a child appends to, and creates it if it does not exist. It never waits: a
/// named pipe without a reader is an error (`ENXIO`). The open file is blocking, as a program
/// expects of its stdout.
pub(crate) fn open_to_append(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().append(true).create(true).mode(0o666).custom_flags(flags).open(path)?;
    set_mode(file.as_fd(), 0)?;
    above_stdio(file.into())
}

/// Makes a close-on-exec duplicate with the lowest free number from `min` on.
pub(crate) fn duplicate(fd: BorrowedFd<'_>, min: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an int and touches no memory of ours.
    let copy = cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, min) })?;
    // SAFETY: fcntl has just opened the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes `slot`, which stays open all the time, a close-on-exec duplicate of `fd`.
#[cfg(target_os = "linux")]
pub(crate) fn replace(slot: &OwnedFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 touches no memory. `slot` is ours, so the call closes no descriptor of other
    // code.
    cvt_retry(|| unsafe { libc::dup3(fd.as_raw_fd(), slot.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

/// The host's descriptor with this number, if it is open now. The host may close it at any time. So
/// it is only meant for the length of a spawn, where a closed descriptor is an error of the child.
pub(crate) fn of_the_host(fd: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: F_GETFD touches no memory, and fails with EBADF for a number that is not open.
    let open = fd >= 0 && unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1;
    // SAFETY: the number is not -1. The descriptor is only ever duplicated, which fails if it is
    // closed.
    open.then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Duplicates a descriptor that this program was started with, such as one that a shell has opened
/// by `7>file`. The duplicate is close-on-exec. It refers to the same open file, with the same
/// position and flags.
///
/// A number does not tell which part of a program owns a descriptor. Use this only for a descriptor
/// that was open when the program started, and that no other part of it has taken over.
///
/// # Errors
///
/// `EBADF` if no descriptor of this number is open, `EMFILE` if the limit of open files is reached.
///
/// ```
/// use std::fs::File;
/// use std::io::Write;
///
/// let mut stderr = File::from(childminder::inherited_fd(2)?);
/// stderr.write_all(b"hello\n")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "dup")]
pub fn inherited_fd(fd: RawFd) -> io::Result<OwnedFd> {
    let file = of_the_host(fd).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    duplicate(file, 3)
}

/// Borrows the descriptor of a value that only tells its number.
pub(crate) fn borrow<T: AsRawFd>(holder: &T) -> BorrowedFd<'_> {
    // SAFETY: `holder` owns the descriptor, and is borrowed as long as the returned value.
    unsafe { BorrowedFd::borrow_raw(holder.as_raw_fd()) }
}

/// Reads once, and again after `EINTR`. 0 means end of file.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is open while it is borrowed, and `ManuallyDrop` keeps the File from
    // closing it.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd.as_raw_fd()) });
    loop {
        match (&*file).read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes several pieces in one call, which is repeated after `EINTR`. If there is no reader, the
/// error is `EPIPE` and there is never a signal: SIGPIPE is blocked during the write, and discarded
/// if the write raised it.
pub(crate) fn write_vectored(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let guard = signal::BlockPipe::new()?;
    let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX).min(1024);
    let result = cvt_retry(|| {
        // SAFETY: IoSlice has the layout of an iovec, as its documentation guarantees, and there
        // are at least `count` of them.
        unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr().cast(), count) }
    });
    if let Err(error) = &result {
        if error.raw_os_error() == Some(libc::EPIPE) {
            guard.swallow();
        }
    }
    guard.lift()?;
    #[allow(clippy::cast_sign_loss)] // -1 is the error above
    result.map(|written| written as usize)
}

/// Asks for a larger pipe. A refusal does no harm; it comes when the user's limit is reached.
pub(crate) fn grow_pipe(fd: BorrowedFd<'_>, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: F_SETPIPE_SZ takes an int and touches no memory of ours.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (fd, bytes);
}

/// Whether the other end is closed and there is nothing left to read.
pub(crate) fn is_over(fd: BorrowedFd<'_>) -> bool {
    let now = poll_now(fd);
    // The BSDs report a closed end as readable, too.
    now & libc::POLLHUP != 0 && (now & libc::POLLIN == 0 || unread(fd) == 0)
}

/// Whether there is something to read. For a terminal this includes input that it has not passed on
/// yet, which FIONREAD does not count.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    poll_now(fd) & libc::POLLIN != 0
}

fn poll_now(fd: BorrowedFd<'_>) -> libc::c_short {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the one pollfd is a local that lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents
}

/// The number of bytes that can be read now.
#[doc(alias = "FIONREAD")]
fn unread(fd: BorrowedFd<'_>) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `count` lives through the call.
    unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    usize::try_from(count).unwrap_or(0)
}

/// Sleeps for this time, or until a signal arrives.
pub(crate) fn pause(time: Duration) {
    let milliseconds = libc::c_int::try_from(time.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: with a count of zero, poll reads no pollfd.
    unsafe { libc::poll(ptr::null_mut(), 0, milliseconds) };
}

/// The highest descriptor that is open in the host. If the system does not list them, it is the
/// highest possible one.
pub(crate) fn highest_open() -> RawFd {
    // The BSDs always list the first three, and only these, unless an fdescfs(5) is mounted.
    let lists_all = cfg!(any(target_os = "linux", target_vendor = "apple"));
    let listed = lists_all
        .then(|| std::fs::read_dir("/dev/fd").ok())
        .flatten()
        .and_then(|entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok()).max());
    listed.unwrap_or_else(|| {
        // SAFETY: sysconf touches no memory.
        let limit = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
        RawFd::try_from(limit).unwrap_or(RawFd::MAX).max(1024) - 1
    })
}

/// Waits at most this time until the descriptor can be read or its other end is closed. Returns
/// whether that happened.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let start = clock();
    loop {
        let left = time.saturating_sub(clock().saturating_duration_since(start));
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // The time is rounded up, so that the wait is never shorter than the caller asked for.
        let milliseconds = libc::c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX);
        // SAFETY: the one pollfd is a local that lives through the call.
        if unsafe { libc::poll(&raw mut poll, 1, milliseconds) } == 1 {
            return true;
        }
        // Otherwise a signal has interrupted the wait.
        if left.is_zero() {
            return false;
        }
    }
}

/// Opens `/dev/null` for reading and writing.
pub(crate) fn null() -> io::Result<OwnedFd> {
    above_stdio(File::options().read(true).write(true).open("/dev/null")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gone_reader_is_an_error_and_no_signal() {
        let (reader, writer) = pipe().unwrap();
        assert!(!wait_readable(reader.as_fd(), Duration::ZERO));
        drop(reader);
        let error = write_vectored(writer.as_fd(), &[IoSlice::new(b"lost")]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn sees_what_is_open() {
        let (reader, writer) = pipe().unwrap();
        assert!(highest_open() >= reader.as_raw_fd().max(writer.as_raw_fd()));
        assert!(of_the_host(reader.as_raw_fd()).is_some());
        assert!(of_the_host(-1).is_none());
        let copy = duplicate(reader.as_fd(), 500).unwrap();
        assert!(copy.as_raw_fd() >= 500);
    }
}
