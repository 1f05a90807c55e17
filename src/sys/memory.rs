//! The peak memory of this process, and what of a child's peak is the child's own.
//!
//! The one rule: a figure that may be the host's is not given as the child's.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

/// The peak of this process when it was read last, in bytes. It only grows.
static OURS: AtomicU64 = AtomicU64::new(0);

/// Returns the peak memory of a child if it is the child's own.
///
/// At the exec the kernel takes the peak of the memory that the child leaves, which is this
/// process's or a copy of it, for the child's. So a figure that is not above our peak may be ours.
pub(crate) fn own_peak(max_rss: u64) -> Option<u64> {
    if max_rss <= OURS.load(Ordering::Relaxed) {
        return None;
    }
    let ours = peak()?;
    OURS.store(ours, Ordering::Relaxed);
    (max_rss > ours).then_some(max_rss)
}

/// Reads the peak of this process. It is that of its memory since its exec, as the child inherits
/// it, and not that of `getrusage(2)`.
fn peak() -> Option<u64> {
    peak_in(&fs::read("/proc/self/status").ok()?)
}

/// Finds the peak in the text of `/proc/PID/status`, in bytes. A zombie has none.
#[doc(alias = "VmHWM")]
pub(crate) fn peak_in(status: &[u8]) -> Option<u64> {
    // The name of the process may hold any bytes.
    let mut lines = status.split(|byte| *byte == b'\n');
    let line = lines.find_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
