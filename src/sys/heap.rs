//! Gives heap memory that is free back to the system.
//!
//! It frees nothing itself. The one rule: where the C library offers nothing for that, it does
//! nothing.

/// Gives heap memory that is free back to the system, where the C library keeps it otherwise:
/// `malloc_trim(3)` of glibc. Elsewhere this does nothing.
///
/// A program that reads a large configuration and then runs for months may call it in between. It
/// takes about a millisecond for ten megabytes.
///
/// ```
/// let configuration = vec![String::from("x").repeat(1000); 1000];
/// drop(configuration);
/// childminder::trim_heap();
/// ```
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it locks the heap while it looks at it, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
