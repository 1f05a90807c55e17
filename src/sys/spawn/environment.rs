//! The host's own environment, readable while no other thread can change it.
//!
//! It copies nothing. The one rule: memory that another thread may change and free is not read
//! here.

use std::ffi::CStr;

/// Passes each of the host's variables to `each`, as `NAME=value` or any other string that is
/// there, and returns whether it did. It does not where there are, or may be, other threads. The
/// strings stay where they are until this thread itself changes the environment or starts another
/// thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn each_if_alone(mut each: impl FnMut(&CStr)) -> bool {
    unsafe extern "C" {
        static mut environ: *const *const libc::c_char;
    }
    if !is_alone() {
        return false;
    }
    // SAFETY: it is the C library's own variable, and there is no other thread that could change
    // it.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: according to environ(7), these are pointers up to a null pointer, which ends this
        // loop.
        let variable = unsafe { *next };
        if variable.is_null() {
            break;
        }
        // SAFETY: each of the pointers is to a C string.
        each(unsafe { CStr::from_ptr(variable) });
        next = next.wrapping_add(1);
    }
    true
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn each_if_alone(_: impl FnMut(&CStr)) -> bool {
    false
}

/// Whether the C library has never started another thread. This reads glibc's
/// `__libc_single_threaded` (2.32), which is looked up at run time because an older glibc does not
/// have it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn is_alone() -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    static SINGLE_THREADED: OnceLock<Option<&AtomicU8>> = OnceLock::new();
    let flag = SINGLE_THREADED.get_or_init(|| {
        // SAFETY: it looks for a C string.
        let flag = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
        // SAFETY: it is null, or a variable of one byte that is never removed. glibc writes it only
        // while there is one thread.
        unsafe { flag.cast::<AtomicU8>().as_ref() }
    });
    flag.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
}
