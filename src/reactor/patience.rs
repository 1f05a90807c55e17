//! Decides how often a wait that the system refuses is tried again.
//!
//! It is pure: it waits for nothing and reads no clock. The one rule: after a single success the
//! count begins anew.

use std::time::{Duration, Instant};

/// The first pause. It doubles with each failure.
const FIRST: Duration = Duration::from_millis(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_millis(500);
/// The time after which a further attempt is not expected to succeed.
const ENOUGH: Duration = Duration::from_secs(5);

/// The failures in a row: the time of the first one, and the last pause.
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<(Instant, Duration)>);

impl Patience {
    /// Notes that the wait has worked.
    pub(crate) fn succeeded(&mut self) {
        self.0 = None;
    }

    /// Notes that the wait has failed. Returns the pause before the next attempt, or `None` if it
    /// has failed for too long.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Duration> {
        let (first, pause) = self.0.map_or((now, FIRST), |(first, pause)| (first, (2 * pause).min(LONGEST)));
        self.0 = Some((first, pause));
        (now.saturating_duration_since(first) < ENOUGH).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
    fn pauses_grow_and_end() {
        let start = Instant::now();
        let (mut now, mut patience, mut pauses) = (start, Patience::default(), Vec::new());
        while let Some(pause) = patience.failed(now) {
            pauses.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(pauses[..11], [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500]);
        assert!((ENOUGH..ENOUGH + LONGEST).contains(&(now - start)));
        assert_eq!(patience.failed(now), None);
        patience.succeeded();
        assert_eq!(patience.failed(now), Some(FIRST));
    }
}
