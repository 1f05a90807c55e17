//! Resource limits of this process.

use std::io;
use std::mem::MaybeUninit;

use super::cvt;
use crate::limit::{Limit, Resource};

/// The limit as the kernel wants it.
pub(super) fn raw(limit: Limit) -> libc::rlimit {
    let value = |limit: Option<u64>| limit.map_or(libc::RLIM_INFINITY, |limit| limit as libc::rlim_t);
    libc::rlimit { rlim_cur: value(limit.soft), rlim_max: value(limit.hard) }
}

/// What holds for this process now.
#[doc(alias = "getrlimit")]
pub(crate) fn get(resource: Resource) -> io::Result<Limit> {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: `limit` has room for what getrlimit writes.
    cvt(unsafe { libc::getrlimit(resource.raw() as _, limit.as_mut_ptr()) })?;
    // SAFETY: getrlimit has filled it in.
    let limit = unsafe { limit.assume_init() };
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)] // signed on FreeBSD, and never negative
    let value = |raw: libc::rlim_t| (raw != libc::RLIM_INFINITY).then_some(raw as u64);
    Ok(Limit { soft: value(limit.rlim_cur), hard: value(limit.rlim_max) })
}

/// Sets it for this process and all that it starts from now on.
#[doc(alias = "setrlimit")]
pub(crate) fn set(resource: Resource, limit: Limit) -> io::Result<()> {
    let limit = raw(limit);
    // SAFETY: `limit` is a local that lives through the call.
    cvt(unsafe { libc::setrlimit(resource.raw() as _, &raw const limit) })?;
    Ok(())
}
