//! A program that reads one message from its stdin and ends.
//!
//! A process that takes a message with descriptors out of the queue of a socket closes them, even
//! without receiving them, and a close may wait: a TCP socket may linger (`SO_LINGER`) for as long
//! as its sender likes. So this program does it. Its own end never waits.
//!
//! The one rule: the program reads once.

use std::io;
use std::os::fd::OwnedFd;

use super::program;

/// The program, in a file in memory. The error is `Unsupported` on an architecture for which it is
/// not written.
pub(crate) fn program() -> io::Result<OwnedFd> {
    program::make(c"childminder-discard", code())
}

/// The number of the architecture in an ELF file, and the code: `read(0, stack, 1)`,
/// `exit_group(0)`.
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
fn code() -> Option<(u16, &'static [u8])> {
    program::code![
        "sub rsp, 128",
        "xor eax, eax",
        "xor edi, edi",
        "mov rsi, rsp",
        "mov edx, 1",
        "syscall",
        "mov eax, 231",
        "xor edi, edi",
        "syscall",
        "ud2",
    ]
}

/// The same code as on x86-64.
#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
fn code() -> Option<(u16, &'static [u8])> {
    program::code![
        "sub sp, sp, #128",
        "mov x0, #0",
        "mov x1, sp",
        "mov x2, #1",
        "mov x8, #63",
        "svc #0",
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
