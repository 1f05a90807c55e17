//! Reads and sets resource limits of this process. Decides nothing.
//!
//! The one rule: every call takes values of 64 bits where the system has such calls, so that no
//! limit is cut.

use std::io;
use std::mem::MaybeUninit;

use super::cvt;
use crate::limit::{Limit, Resource};

/// The calls with 64 bits. The plain calls of glibc have as many bits as a long, and cut larger
/// values.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod wide {
    pub(in crate::sys) use libc::{
        RLIM64_INFINITY as INFINITY, getrlimit64 as getrlimit, rlim64_t as Value, rlimit64 as Raw,
        setrlimit64 as setrlimit,
    };
}
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod wide {
    pub(in crate::sys) use libc::{RLIM_INFINITY as INFINITY, getrlimit, rlim_t as Value, rlimit as Raw, setrlimit};
}

use wide::{INFINITY, Value, getrlimit};
pub(super) use wide::{Raw, setrlimit};

/// The limit in the form that the kernel takes.
pub(super) fn raw(limit: Limit) -> Raw {
    let value = |limit: Option<u64>| limit.map_or(INFINITY, |limit| limit as Value);
    Raw { rlim_cur: value(limit.soft), rlim_max: value(limit.hard) }
}

impl Resource {
    /// Returns the limit that this process has now. Children have the same, unless
    /// [`Command::rlimit`](crate::Command::rlimit) sets another one.
    ///
    /// # Errors
    ///
    /// The error of `getrlimit(2)`, which only a sandbox refuses.
    ///
    /// ```
    /// use childminder::Resource;
    ///
    /// let limit = Resource::OpenFiles.current_limit()?;
    /// assert!(limit.soft.is_none_or(|soft| soft > 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "getrlimit")]
    pub fn current_limit(self) -> io::Result<Limit> {
        get(self)
    }
}

/// The limit that holds for this process now.
pub(crate) fn get(resource: Resource) -> io::Result<Limit> {
    let mut limit = MaybeUninit::<Raw>::zeroed();
    // SAFETY: `limit` has room for what getrlimit writes.
    cvt(unsafe { getrlimit(resource.raw() as _, limit.as_mut_ptr()) })?;
    // SAFETY: getrlimit has filled `limit` in.
    let limit = unsafe { limit.assume_init() };
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)] // signed on FreeBSD, and never negative
    let value = |raw: Value| (raw != INFINITY).then_some(raw as u64);
    Ok(Limit { soft: value(limit.rlim_cur), hard: value(limit.rlim_max) })
}

/// Sets the limit for this process and for all processes that it starts from now on.
#[doc(alias = "setrlimit")]
pub(crate) fn set(resource: Resource, limit: Limit) -> io::Result<()> {
    let limit = raw(limit);
    // SAFETY: `limit` is a local that lives through the call.
    cvt(unsafe { setrlimit(resource.raw() as _, &raw const limit) })?;
    Ok(())
}
