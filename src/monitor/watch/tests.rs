//! Every readiness with every sign, in tables, and the life of a watched process in virtual time.
//!
//! They start no check. The one rule: a table names all signs, in one order.

use super::*;

const THRESHOLD: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(5);
const READY: Option<Effect> = Some(Effect::Ready);
const CHECK: Option<Effect> = Some(Effect::Check);
const END_CHECK: Option<Effect> = Some(Effect::EndCheck);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fault(fault: Fault) -> Option<Effect> {
    Some(Effect::Fault(fault))
}

fn probe() -> Probe {
    Probe::new(Check::Unix("/".into()))
}

fn full(ready: Ready) -> Watch {
    let health = Some(Health::new(probe(), 2));
    Watch { ready, ready_timeout: Some(secs(10)), watchdog: Some(secs(3)), health }
}

/// A watcher in virtual time.
struct World {
    now: Instant,
    it: Watcher,
}

impl World {
    #[allow(clippy::disallowed_methods)]
    fn new(watch: Watch) -> Self {
        Self { now: Instant::now(), it: Watcher::new(Arc::new(watch)) }
    }

    fn tell(&mut self, sign: Sign) -> Option<Effect> {
        self.it.handle(self.now, sign)
    }

    fn started(watch: Watch) -> Self {
        let mut world = Self::new(watch);
        world.tell(Sign::Spawned { threshold: THRESHOLD });
        world
    }

    /// Lets time pass until the deadline.
    fn wait(&mut self) -> (Duration, Option<Effect>) {
        let due = self.it.deadline().expect("something is due");
        let waited = due.saturating_duration_since(self.now);
        self.now = self.now.max(due);
        (waited, self.tell(Sign::Timeout))
    }
}

const SIGNS: [Sign; 11] = [
    Sign::Spawned { threshold: THRESHOLD },
    Sign::Gone,
    Sign::Ready,
    Sign::Unready,
    Sign::Alive,
    Sign::Interval(Duration::from_secs(7)),
    Sign::Triggered,
    Sign::Extend(Duration::from_secs(60)),
    Sign::Passed,
    Sign::Failed,
    Sign::Timeout,
];

/// Checks what each sign does to a watcher that `make` has brought into a state: the effect, the
/// readiness afterwards, and the time to the deadline in milliseconds.
#[track_caller]
fn check_all(make: impl Fn() -> World, rows: [(Option<Effect>, Readiness, Option<u64>); 11]) {
    for (sign, (effect, readiness, due)) in SIGNS.into_iter().zip(rows) {
        let mut world = make();
        let found = world.tell(sign);
        let left = world.it.deadline().map(|at| at.saturating_duration_since(world.now));
        assert_eq!(
            (found, world.it.readiness(), left),
            (effect, readiness, due.map(Duration::from_millis)),
            "{sign:?}"
        );
    }
}

#[test]
fn every_sign_of_a_process_that_is_not_there() {
    use Readiness::{Absent, Pending};
    let nothing = (None, Absent, None);
    check_all(
        || World::new(full(Ready::Notify)),
        [
            (None, Pending, Some(10_000)),
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
        ],
    );
}

#[test]
fn every_sign_of_a_process_that_is_not_ready_yet() {
    use Readiness::{Absent, Pending, Ready as Is};
    let same = (None, Pending, Some(10_000));
    check_all(
        || World::started(full(Ready::Notify)),
        [
            same,
            (None, Absent, None),
            (READY, Is, Some(1_000)),
            same,
            same,
            same,
            (fault(Fault::Triggered), Pending, Some(10_000)),
            (None, Pending, Some(60_000)),
            same,
            same,
            same,
        ],
    );
    // The same while a check is under way that makes it ready.
    let same = (None, Pending, Some(5_000));
    let checking = || {
        let mut world = World::started(full(Ready::Probe(probe())));
        assert_eq!(world.wait(), (Duration::ZERO, CHECK));
        world
    };
    check_all(
        checking,
        [
            (None, Pending, Some(0)),
            (END_CHECK, Absent, None),
            (READY, Is, Some(3_000)),
            same,
            same,
            same,
            (fault(Fault::Triggered), Pending, Some(5_000)),
            same,
            (READY, Is, Some(1_000)),
            (None, Pending, Some(1_000)),
            same,
        ],
    );
}

#[test]
fn every_sign_of_a_ready_process() {
    use Readiness::{Absent, Lost, Pending, Ready as Is};
    let ready = || {
        let mut world = World::started(full(Ready::Notify));
        world.tell(Sign::Ready);
        world
    };
    let same = (None, Is, Some(1_000));
    check_all(
        ready,
        [
            (None, Pending, Some(10_000)),
            (None, Absent, None),
            same,
            (Some(Effect::Lost), Lost, Some(1_000)),
            same,
            same,
            (fault(Fault::Triggered), Is, Some(1_000)),
            same,
            same,
            same,
            same,
        ],
    );
    let checking = || {
        let mut world = ready();
        assert_eq!(world.wait(), (secs(1), CHECK));
        world
    };
    let same = (None, Is, Some(2_000)); // until the watchdog
    check_all(
        checking,
        [
            (None, Pending, Some(10_000)),
            (END_CHECK, Absent, None),
            same,
            (Some(Effect::Lost), Lost, Some(2_000)),
            (None, Is, Some(3_000)),
            (None, Is, Some(5_000)),
            (fault(Fault::Triggered), Is, Some(2_000)),
            (None, Is, Some(5_000)),
            (None, Is, Some(1_000)),
            (Some(Effect::Lost), Lost, Some(1_000)),
            same,
        ],
    );
}

#[test]
fn every_sign_of_a_process_that_is_not_ready_any_more() {
    use Readiness::{Absent, Lost, Pending, Ready as Is};
    let lost = || {
        let mut world = World::started(full(Ready::Notify));
        world.tell(Sign::Ready);
        world.wait();
        assert_eq!(world.tell(Sign::Failed), Some(Effect::Lost));
        assert_eq!(world.wait(), (secs(1), CHECK));
        world
    };
    let same = (None, Lost, Some(1_000)); // until the watchdog
    check_all(
        lost,
        [
            (None, Pending, Some(10_000)),
            (END_CHECK, Absent, None),
            (READY, Is, Some(1_000)),
            same,
            (None, Lost, Some(3_000)),
            (None, Lost, Some(5_000)),
            (fault(Fault::Triggered), Lost, Some(1_000)),
            (None, Lost, Some(5_000)),
            (READY, Is, Some(1_000)),
            (fault(Fault::Unhealthy(2)), Lost, Some(1_000)),
            same,
        ],
    );
}

#[test]
fn it_is_ready_after_the_threshold_or_at_once() {
    let mut world = World::started(Watch::default());
    assert_eq!(world.wait(), (THRESHOLD, READY));
    assert_eq!(world.it.deadline(), None);
    let mut world = World::new(Watch { ready: Ready::Started, ..Watch::default() });
    assert_eq!(world.tell(Sign::Spawned { threshold: THRESHOLD }), READY);
    assert_eq!(world.it.deadline(), None);
}

#[test]
fn a_check_is_repeated_until_it_passes_and_never_twice_at_once() {
    let mut world = World::started(Watch { ready: Ready::Probe(probe()), ..Watch::default() });
    for _ in 0..3 {
        assert_eq!(world.wait().1, CHECK);
        // It hangs.
        assert_eq!(world.wait(), (TIMEOUT, END_CHECK));
        assert_eq!(world.tell(Sign::Failed), None);
    }
    assert_eq!(world.wait(), (secs(1), CHECK));
    assert_eq!(world.tell(Sign::Ready), READY, "a sign and a check do not disturb each other");
    assert_eq!(world.tell(Sign::Passed), None);
    assert_eq!(world.it.deadline(), None, "without a health check, nothing is checked any more");
}

#[test]
fn time_limits() {
    let mut world = World::started(full(Ready::Line(b"x".to_vec())));
    assert_eq!(world.wait(), (secs(10), fault(Fault::NotReady(secs(10)))));
    let mut world = World::started(Watch { watchdog: Some(secs(3)), ready: Ready::Notify, ..Watch::default() });
    assert_eq!(world.it.deadline(), None, "it counts from when it is ready");
    world.tell(Sign::Ready);
    world.now += secs(2);
    world.tell(Sign::Alive);
    assert_eq!(world.wait(), (secs(3), fault(Fault::Watchdog(secs(3)))));
}

#[test]
fn a_suspension_does_not_count() {
    let mut world = World::started(full(Ready::Notify));
    world.tell(Sign::Ready);
    let due = world.it.deadline().unwrap();
    world.it.put_off(secs(3600));
    assert_eq!(world.it.deadline(), Some(due + secs(3600)));
}

#[test]
fn a_check_does_not_make_ready_what_says_that_it_is_not() {
    let mut world = World::started(full(Ready::Notify));
    assert_eq!(world.tell(Sign::Ready), READY);
    assert_eq!(world.tell(Sign::Unready), Some(Effect::Lost));
    assert_eq!(world.wait(), (secs(1), CHECK));
    assert_eq!(world.tell(Sign::Passed), None);
    assert_eq!(world.it.readiness(), Readiness::Lost);
    assert_eq!(world.tell(Sign::Ready), READY);
}

#[test]
fn another_watch_does_not_shorten_the_threshold() {
    let mut world = World::new(full(Ready::Threshold));
    let since = world.now;
    world.now += THRESHOLD / 4;
    world.it.take_over(world.now, since, THRESHOLD, Readiness::Pending);
    assert_eq!(world.wait(), (THRESHOLD - THRESHOLD / 4, READY));
}
