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
    let (start, end): (*const u8, *const u8);
    // SAFETY: the jump skips the code, and only its addresses are used.
    unsafe {
        std::arch::asm!(
            "lea {start}, [rip + 20f]",
            "lea {end}, [rip + 29f]",
            "jmp 29f",
            "20:",
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
            "29:",
            start = out(reg) start,
            end = out(reg) end,
            options(nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: the bytes between the two labels are the code, which never changes.
    Some((62, unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }))
}

/// The same code as on x86-64.
#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
fn code() -> Option<(u16, &'static [u8])> {
    let (start, end): (*const u8, *const u8);
    // SAFETY: the jump skips the code, and only its addresses are used.
    unsafe {
        std::arch::asm!(
            "adr {start}, 20f",
            "adr {end}, 29f",
            "b 29f",
            "20:",
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
            "29:",
            start = out(reg) start,
            end = out(reg) end,
            options(nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: the bytes between the two labels are the code, which never changes.
    Some((183, unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }))
}

#[cfg(not(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64")
)))]
fn code() -> Option<(u16, &'static [u8])> {
    None
}
