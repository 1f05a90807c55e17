//! The time after a delay.
//!
//! It reads no clock. The one rule: no delay is too long.

use std::time::{Duration, Instant};

/// Returns `now + delay`. If that is more than an `Instant` can hold, it returns some time in the
/// far future.
pub(in crate::monitor) fn after(now: Instant, mut delay: Duration) -> Instant {
    loop {
        match now.checked_add(delay) {
            Some(deadline) => return deadline,
            None => delay /= 2,
        }
    }
}
