//! System calls without the C library, which would set `errno`. Knows no particular call.
//!
//! A child in this program's memory has the same `errno` as the thread that started it, and may be
//! between a failed call and reading its errno. The one rule: nothing here writes to it, except on
//! architectures for which the instructions are not written.

use std::io;

/// Makes a system call with these arguments, as many as it takes.
///
/// On other architectures than these it is the C library's call. There a child may give the error
/// of this call as the reason of its own failure, if this call fails between that failure and the
/// moment when the child reads the reason.
///
/// # Safety
///
/// The same as for the system call. It must return.
pub(super) unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> io::Result<usize> {
    // SAFETY: our caller keeps the conditions of the call.
    outcome(unsafe { enter(number, arguments) })
}

/// Converts what the kernel has returned.
pub(super) fn outcome(result: isize) -> io::Result<usize> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an errno, or not negative
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as usize) }
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
unsafe fn enter(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel changes no other registers than these.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
unsafe fn enter(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the same holds as on x86-64.
    unsafe {
        std::arch::asm!(
            "svc #0",
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            in("x4") arguments[4],
            in("x8") number,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "riscv64")]
unsafe fn enter(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the same holds as on x86-64.
    unsafe {
        std::arch::asm!(
            "ecall",
            inlateout("a0") arguments[0] => result,
            in("a1") arguments[1],
            in("a2") arguments[2],
            in("a3") arguments[3],
            in("a4") arguments[4],
            in("a7") number,
            options(nostack),
        );
    }
    result
}

#[cfg(not(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64"),
    target_arch = "riscv64"
)))]
unsafe fn enter(number: libc::c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    // SAFETY: our caller keeps the conditions of the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result == -1 {
        -(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) as isize)
    } else {
        result as isize
    }
}
