//! `clone3(2)`, which starts a child inside a cgroup, in the host's memory and on a stack of its
//! own. The C library has no wrapper for it, and the child returns from the call on another stack.
//! So the call itself takes a few instructions of assembly for each architecture.
//!
//! The one rule: the child never returns from the function that it is given.

use std::io;
use std::mem::size_of;

/// The number of the system call, which is the same on every architecture.
const SYS_CLONE3: libc::c_long = 435;
/// The flag that starts the child in the cgroup of [`Args::cgroup`] (Linux 5.7).
pub(super) const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Whether this file has the instructions for this architecture.
pub(super) const KNOWN_HERE: bool = cfg!(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64"),
    target_arch = "riscv64"
));

/// The kernel's `struct clone_args`, as of Linux 5.7.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Args {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// The function that a child runs. It ends the child and does not return.
pub(super) type Run = extern "C" fn(*mut libc::c_void) -> libc::c_int;

/// Checks whether the kernel, and a sandbox around this process, let a child start in a cgroup. It
/// starts nothing, because a kernel that knows the arguments refuses them.
pub(super) fn check() -> io::Result<()> {
    if !KNOWN_HERE {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let args = Args { flags: CLONE_INTO_CGROUP, cgroup: u64::MAX, ..Args::default() };
    // SAFETY: the call reads the struct, and fails because the cgroup is no descriptor.
    let result = super::cvt(unsafe { libc::syscall(SYS_CLONE3, &raw const args, size_of::<Args>()) });
    match result.map_err(|error| error.raw_os_error()) {
        // A kernel before 5.7 answers E2BIG, because it does not know the last field.
        Err(Some(libc::EINVAL)) => Ok(()),
        Err(Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
        Ok(_) | Err(None) => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    }
}

/// Makes a child that runs `run(lent)`, and returns its pid.
///
/// # Safety
///
/// `args` gives the child a stack of its own. That stack, `lent`, and everything that `args` points
/// to live until the child has stopped using this memory, and `run` does nothing that such a child
/// must not do.
pub(super) unsafe fn clone3(args: &Args, run: Run, lent: *mut libc::c_void) -> io::Result<i32> {
    // SAFETY: our caller keeps the conditions above.
    let result = unsafe { call(args, run, lent) };
    #[allow(clippy::cast_possible_truncation)] // a pid, or an errno
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as i32) }
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
unsafe fn call(args: *const Args, run: Run, lent: *mut libc::c_void) -> i64 {
    let result: i64;
    // SAFETY: the parent goes on after the instructions, with all registers unchanged except those
    // that are named here. The child has the stack of `args`, calls `run` and never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") SYS_CLONE3 => result,
            in("rdi") args,
            in("rsi") size_of::<Args>(),
            in("r8") run,
            in("r9") lent,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
unsafe fn call(args: *const Args, run: Run, lent: *mut libc::c_void) -> i64 {
    let result: i64;
    // SAFETY: the same holds as on x86-64.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x3",
            "blr x2",
            "brk #1",
            "2:",
            inlateout("x0") args => result,
            in("x1") size_of::<Args>(),
            in("x2") run,
            in("x3") lent,
            in("x8") SYS_CLONE3,
        );
    }
    result
}

#[cfg(target_arch = "riscv64")]
unsafe fn call(args: *const Args, run: Run, lent: *mut libc::c_void) -> i64 {
    let result: i64;
    // SAFETY: the same holds as on x86-64.
    unsafe {
        std::arch::asm!(
            "ecall",
            "bnez a0, 2f",
            "mv a0, a3",
            "jalr a2",
            "ebreak",
            "2:",
            inlateout("a0") args => result,
            in("a1") size_of::<Args>(),
            in("a2") run,
            in("a3") lent,
            in("a7") SYS_CLONE3,
        );
    }
    result
}

#[cfg(not(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64"),
    target_arch = "riscv64"
)))]
unsafe fn call(_: *const Args, _: Run, _: *mut libc::c_void) -> i64 {
    -i64::from(libc::ENOSYS)
}
