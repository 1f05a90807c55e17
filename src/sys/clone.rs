//! `clone(2)` and `clone3(2)`, which start a child in the host's memory and on a stack of its own.
//!
//! No C library has a wrapper for `clone3`, and musl's wrapper for `clone` refuses
//! `CLONE_CHILD_CLEARTID`. The child returns from the call on another stack, so that the call
//! itself takes a few instructions of assembly for each architecture.
//!
//! The one rule: the child never returns from the function that it is given.

use std::io;
use std::mem::size_of;
use std::ptr;

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

/// Makes a child that runs `run(lent)`, by `clone3`. Returns its pid.
///
/// # Safety
///
/// `args` gives the child a stack of its own. That stack, `lent`, and everything that `args` points
/// to live until the child has stopped using this memory, and `run` does nothing that such a child
/// must not do.
pub(super) unsafe fn clone3(args: &Args, run: Run, lent: *mut libc::c_void) -> io::Result<i32> {
    let arguments = [ptr::from_ref(args) as usize, size_of::<Args>(), 0, 0, 0];
    // SAFETY: our caller keeps the conditions above.
    pid_of(unsafe { call(SYS_CLONE3, arguments, run, lent) })
}

/// Makes a child that runs `run(lent)`, by `clone`: by the wrapper of the C library, unless that is
/// musl's. The kernel sets `child_tid` to 0 when the child lets go of this memory, if `flags` say
/// so. Returns its pid.
///
/// # Safety
///
/// The same as for [`clone3`], with `top` as the end of the child's stack.
pub(super) unsafe fn clone(
    flags: libc::c_int,
    top: *mut libc::c_void,
    child_tid: *mut i32,
    run: Run,
    lent: *mut libc::c_void,
) -> io::Result<i32> {
    if !(KNOWN_HERE && cfg!(target_env = "musl")) {
        let unused = ptr::null_mut::<libc::c_void>();
        // SAFETY: our caller keeps the conditions above.
        return super::cvt(unsafe { libc::clone(run, top, flags, lent, unused, unused, child_tid) });
    }
    #[allow(clippy::cast_sign_loss)] // the flags are bits
    let (flags, top, child_tid) = (flags as usize, top as usize, child_tid as usize);
    // The last two arguments are child_tid and tls on x86-64, and the other way round elsewhere.
    let arguments =
        if cfg!(target_arch = "x86_64") { [flags, top, 0, child_tid, 0] } else { [flags, top, 0, 0, child_tid] };
    // SAFETY: our caller keeps the conditions above.
    pid_of(unsafe { call(libc::SYS_clone, arguments, run, lent) })
}

/// Whether valgrind runs this program. It has no child in the host's memory, and ends the program
/// that asks for one.
///
/// Valgrind knows the instructions below, which change nothing on a processor, and answers the
/// request at their end (its manual, "The Client Request mechanism").
pub(super) fn on_valgrind() -> bool {
    const RUNNING_ON_VALGRIND: usize = 0x1001;
    let request = [RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0];
    let mut answer = 0_usize;
    // SAFETY: the rotations come to a whole turn, and the request lives through the instructions.
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    unsafe {
        std::arch::asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inlateout("rdx") answer,
        );
    }
    // SAFETY: the same holds as on x86-64.
    #[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3", "ror x12, x12, #13", "ror x12, x12, #51", "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") request.as_ptr(),
            inlateout("x3") answer,
        );
    }
    std::hint::black_box((&request, &mut answer));
    answer != 0
}

fn pid_of(result: isize) -> io::Result<i32> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // a pid
    super::raw::outcome(result).map(|pid| pid as i32)
}

#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
unsafe fn call(number: libc::c_long, arguments: [usize; 5], run: Run, lent: *mut libc::c_void) -> isize {
    let result: isize;
    // SAFETY: the parent goes on after the instructions, with all registers unchanged except those
    // that are named here. The child has the stack of the arguments, calls `run` and never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r12") run,
            in("r13") lent,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(all(target_arch = "aarch64", target_pointer_width = "64"))]
unsafe fn call(number: libc::c_long, arguments: [usize; 5], run: Run, lent: *mut libc::c_void) -> isize {
    let result: isize;
    // SAFETY: the same holds as on x86-64.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x6",
            "blr x5",
            "brk #1",
            "2:",
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            in("x4") arguments[4],
            in("x5") run,
            in("x6") lent,
            in("x8") number,
        );
    }
    result
}

#[cfg(target_arch = "riscv64")]
unsafe fn call(number: libc::c_long, arguments: [usize; 5], run: Run, lent: *mut libc::c_void) -> isize {
    let result: isize;
    // SAFETY: the same holds as on x86-64.
    unsafe {
        std::arch::asm!(
            "ecall",
            "bnez a0, 2f",
            "mv a0, a6",
            "jalr a5",
            "ebreak",
            "2:",
            inlateout("a0") arguments[0] => result,
            in("a1") arguments[1],
            in("a2") arguments[2],
            in("a3") arguments[3],
            in("a4") arguments[4],
            in("a5") run,
            in("a6") lent,
            in("a7") number,
        );
    }
    result
}

#[cfg(not(any(
    all(target_arch = "x86_64", target_pointer_width = "64"),
    all(target_arch = "aarch64", target_pointer_width = "64"),
    target_arch = "riscv64"
)))]
unsafe fn call(_: libc::c_long, _: [usize; 5], _: Run, _: *mut libc::c_void) -> isize {
    -(libc::ENOSYS as isize)
}
