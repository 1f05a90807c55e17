//! Gives heap memory that is free, and stack that is not in use, back to the system.
//!
//! It frees nothing itself. The one rule: where the C library offers nothing for that, it does
//! nothing.

/// The part of the stack below the present frame that is kept: more than the red zone, and enough
/// for the calls in here.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: usize = 4096;

/// Gives heap memory that is free, and the part of this thread's stack that is not in use, back to
/// the system, where the C library keeps them otherwise: `malloc_trim(3)` of glibc. Elsewhere this
/// does nothing.
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
    {
        // SAFETY: it locks the heap while it looks at it, and touches only what is free.
        unsafe { libc::malloc_trim(0) };
        trim_stack();
    }
}

/// Gives the pages of the stack below the present frame back, which the next call that needs them
/// gets as new ones.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[inline(never)]
fn trim_stack() {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: it always succeeds.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: the thread is this one, and the attributes are a local that is filled.
    if unsafe { libc::pthread_getattr_np(thread, attributes.as_mut_ptr()) } != 0 {
        return;
    }
    let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes were filled, and the results are locals.
    let known = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut size) } == 0;
    // SAFETY: the attributes were filled, and are not used after this.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    let page = usize::try_from(super::page_size()).unwrap_or(KEPT);
    let (begin, here) = (lowest.addr(), (&raw const attributes).addr());
    let end = here.saturating_sub(KEPT) / page * page;
    // A host may run this on a stack of its own making, which is not the thread's.
    if known && (begin..begin.saturating_add(size)).contains(&end) {
        // SAFETY: these pages are below the frame of this call, in the stack of this thread, so
        // that nothing in them is used again. A part that is not mapped yet is an error without an
        // effect.
        unsafe { libc::madvise(lowest, end - begin, libc::MADV_DONTNEED) };
    }
}
