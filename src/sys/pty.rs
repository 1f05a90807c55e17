//! Opens and resizes pseudo-terminals. Starts nothing on them.
//!
//! The one rule: both ends are close-on-exec, and no open makes a terminal the controlling one of
//! this process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::cvt;
use super::fd::above_stdio;
use crate::pty::Pty;

/// Opens a pseudo-terminal. Returns (master, slave), both close-on-exec.
pub(crate) fn open(pty: Pty) -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: posix_openpt touches no memory.
    let master = cvt(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) })?;
    // SAFETY: posix_openpt has just opened the descriptor for us.
    let master = above_stdio(unsafe { OwnedFd::from_raw_fd(master) })?;
    // SAFETY: grantpt touches no memory of ours.
    cvt(unsafe { libc::grantpt(master.as_raw_fd()) })?;
    // SAFETY: unlockpt touches no memory of ours.
    cvt(unsafe { libc::unlockpt(master.as_raw_fd()) })?;
    let slave = above_stdio(open_slave(&master)?)?;
    set_termios(&slave, pty)?;
    resize(super::fd::borrow(&master), pty.rows, pty.columns)?;
    Ok((master, slave))
}

#[cfg(target_os = "linux")]
fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    // The slave is opened through the master and not by its path, because /dev/pts may belong to
    // another mount.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open(2) flags as an int.
    let slave = cvt(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just opened the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

#[cfg(not(target_os = "linux"))]
fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    // SAFETY: ptsname returns null or a C string in static memory. The string is copied before
    // another call can change it.
    let name = unsafe { libc::ptsname(master.as_raw_fd()) };
    if name.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the pointer is not null, so it is a C string.
    let name = unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned();
    Ok(std::fs::File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name)?.into())
}

fn attributes(terminal: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut termios = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: `termios` has room for what tcgetattr writes.
    cvt(unsafe { libc::tcgetattr(terminal.as_raw_fd(), termios.as_mut_ptr()) })?;
    // SAFETY: tcgetattr has filled it in.
    Ok(unsafe { termios.assume_init() })
}

fn set_termios(slave: &OwnedFd, pty: Pty) -> io::Result<()> {
    let mut termios = attributes(super::fd::borrow(slave))?;
    if !pty.echo {
        termios.c_lflag &= !libc::ECHO;
    }
    if pty.plain_newlines {
        termios.c_oflag &= !libc::ONLCR;
    }
    if pty.raw {
        // SAFETY: `termios` is a valid local.
        unsafe { libc::cfmakeraw(&raw mut termios) };
    }
    // SAFETY: `termios` is a valid local.
    cvt(unsafe { libc::tcsetattr(slave.as_raw_fd(), libc::TCSANOW, &raw const termios) })?;
    Ok(())
}

/// What a terminal does with what is written to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    /// Whether it shows each character (ECHO).
    pub(crate) echoes: bool,
    /// Whether it hands on whole lines (ICANON).
    pub(crate) by_lines: bool,
    /// The character that ends the input (VEOF).
    pub(crate) end: u8,
}

pub(crate) fn input(master: BorrowedFd<'_>) -> io::Result<Input> {
    let termios = attributes(master)?;
    let echoes = termios.c_lflag & libc::ECHO != 0;
    Ok(Input { echoes, by_lines: termios.c_lflag & libc::ICANON != 0, end: termios.c_cc[libc::VEOF] })
}

/// Sets the size of the terminal. Its foreground group gets SIGWINCH if the size has changed.
pub(crate) fn resize(master: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, and `size` lives through the call.
    cvt(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, ptr::from_ref(&size)) })?;
    Ok(())
}
