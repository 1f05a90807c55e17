//! The host's environment itself, for as long as nobody else can change it.
//!
//! Copies nothing. The one rule: what another thread may change, and free, is not touched here.

use std::ffi::CStr;

/// Hands each of the host's variables to `each`, as `NAME=value` or whatever else there is, and returns whether it did: not where there
/// are other threads, or may be. What is handed out stays where it is until this thread itself changes the environment or
/// starts another.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn each_if_alone(mut each: impl FnMut(&CStr)) -> bool {
    unsafe extern "C" {
        static mut environ: *const *const libc::c_char;
    }
    if !is_alone() {
        return false;
    }
    // SAFETY: the C library's own variable; nobody else is there to change it meanwhile.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: environ(7): pointers, up to a null pointer, which ends this loop.
        let variable = unsafe { *next };
        if variable.is_null() {
            break;
        }
        // SAFETY: each of them is to a C string.
        each(unsafe { CStr::from_ptr(variable) });
        next = next.wrapping_add(1);
    }
    true
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn each_if_alone(_: impl FnMut(&CStr)) -> bool {
    false
}

/// Whether the C library has never started another thread: glibc's `__libc_single_threaded` (2.32), looked up, since an older one does
/// not have it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn is_alone() -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    static SINGLE_THREADED: OnceLock<Option<&AtomicU8>> = OnceLock::new();
    let flag = SINGLE_THREADED.get_or_init(|| {
        // SAFETY: looks for a C string.
        let flag = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
        // SAFETY: null, or a variable of one byte that is there for good. glibc writes it only while there is one thread.
        unsafe { flag.cast::<AtomicU8>().as_ref() }
    });
    flag.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
}
