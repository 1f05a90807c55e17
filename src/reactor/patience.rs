//! How often a wait that the system refuses is tried again.
//!
//! Pure: waits for nothing and reads no clock. The one rule: a single success makes it patient again.

use std::time::{Duration, Instant};

/// The first pause; it doubles with each failure.
const FIRST: Duration = Duration::from_millis(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_millis(500);
/// After so long nothing is expected to help any more.
const ENOUGH: Duration = Duration::from_secs(5);

/// Failures in a row: when the first one was, and the last pause.
#[derive(Debug, Default)]
pub(crate) struct Patience(Option<(Instant, Duration)>);

impl Patience {
    /// The wait has worked.
    pub(crate) fn succeeded(&mut self) {
        self.0 = None;
    }

    /// The wait has failed: the pause before the next attempt, or `None` if it has failed for too long.
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
