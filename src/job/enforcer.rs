//! Decides when a run is asked to stop, when it is killed, and what the reason of its end is.
//!
//! Pure: the time, and the CPU time that was used, are arguments. It signals nothing. The one rule:
//! the first reason counts, except that a soft limit gives way to whatever ends the run after it.

use std::time::{Duration, Instant};

use crate::limits::{EndedBy, Limits};

/// The CPU time by which a limit may be overshot because the timer is set that much later. Without
/// it, a tree that is just below its limit would be checked again and again.
const SLACK: Duration = Duration::from_millis(10);
/// The shortest time between two checks, which is the resolution of the wait.
const SHORTEST: Duration = Duration::from_millis(1);

/// The time after which a CPU time is read again that could not be read.
const AGAIN: Duration = Duration::from_millis(10);

/// What has to be done to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read its CPU time, and tell it by [`Enforcer::cpu_used`].
    ReadCpu,
    /// Ask it to stop.
    Terminate,
    /// Kill it.
    Kill,
}

/// The limits of one run, and how far it is.
#[derive(Debug)]
pub(crate) struct Enforcer {
    limits: Limits,
    kill_time: Duration,
    /// The number of processors on which the tree can run at the same time.
    cpus: u32,
    wall_at: Option<Instant>,
    cpu_at: Option<Instant>,
    kill_at: Option<Instant>,
    killed: bool,
    reason: Option<EndedBy>,
}

impl Enforcer {
    /// Begins with a run that was started at `started`.
    pub(crate) fn new(limits: Limits, kill_time: Duration, cpus: u32, started: Instant) -> Self {
        let mut enforcer = Self {
            limits,
            kill_time,
            cpus: cpus.max(1),
            wall_at: limits.wall_time.and_then(|time| started.checked_add(time)),
            cpu_at: None,
            kill_at: None,
            killed: false,
            reason: None,
        };
        enforcer.arm_cpu(started, Duration::ZERO);
        enforcer
    }

    /// Returns the next time at which [`due`](Self::due) has something to say.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.wall_at, self.cpu_at, self.kill_at].into_iter().flatten().min()
    }

    /// Returns what is due. It is called again until there is nothing more.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Action> {
        let is_due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if is_due(&mut self.kill_at) {
            self.killed = true;
            self.over();
            return Some(Action::Kill);
        }
        if is_due(&mut self.wall_at) {
            return self.stop(now, EndedBy::WallTime);
        }
        is_due(&mut self.cpu_at).then_some(Action::ReadCpu)
    }

    /// Takes the CPU time that the tree has used up to now, or `None` if it could not be read.
    pub(crate) fn cpu_used(&mut self, now: Instant, used: Option<Duration>) -> Option<Action> {
        if self.killed {
            return None;
        }
        let Some(used) = used else {
            // The file can be read again when the host has descriptors again.
            self.cpu_at = now.checked_add(AGAIN);
            return None;
        };
        if self.limits.cpu_time.is_some_and(|limit| used >= limit) {
            return self.kill(EndedBy::CpuTime);
        }
        let is_over = self.limits.soft_cpu_time.is_some_and(|limit| used >= limit);
        if !is_over {
            self.arm_cpu(now, used);
            return None;
        }
        self.limits.soft_cpu_time = None;
        self.arm_cpu(now, used);
        if self.limits.cpu_time.is_none() {
            return self.stop(now, EndedBy::SoftCpuTime);
        }
        self.reason.get_or_insert(EndedBy::SoftCpuTime);
        // Another reason has asked it to stop before.
        (self.reason == Some(EndedBy::SoftCpuTime)).then_some(Action::Terminate)
    }

    /// Takes the number of bytes that the tree has written up to now.
    pub(crate) fn written(&mut self, now: Instant, bytes: u64) -> Option<Action> {
        if self.limits.output.is_some_and(|limit| bytes > limit) { self.stop(now, EndedBy::Output) } else { None }
    }

    /// Asks for a stop.
    pub(crate) fn stop(&mut self, now: Instant, reason: EndedBy) -> Option<Action> {
        if self.killed || self.kill_at.is_some() {
            return None;
        }
        self.note(reason);
        self.wall_at = None;
        // A time that is too long for the clock never comes.
        self.kill_at = now.checked_add(self.kill_time);
        Some(Action::Terminate)
    }

    /// Asks for a kill. A tree that was asked to stop keeps that reason.
    pub(crate) fn kill(&mut self, reason: EndedBy) -> Option<Action> {
        if self.killed {
            return None;
        }
        self.note(reason);
        self.killed = true;
        self.over();
        Some(Action::Kill)
    }

    fn note(&mut self, reason: EndedBy) {
        if matches!(self.reason, None | Some(EndedBy::SoftCpuTime)) {
            self.reason = Some(reason);
        }
    }

    /// Ends the limits, because the process has exited.
    pub(crate) fn over(&mut self) {
        (self.wall_at, self.cpu_at) = (None, None);
        if self.killed {
            self.kill_at = None;
        }
    }

    /// Tells whether the tree was asked to stop, or killed.
    pub(crate) fn was_stopped(&self) -> bool {
        self.reason.is_some()
    }

    /// Returns the reason for which it was asked to stop or killed.
    pub(crate) fn reason(&self) -> Option<EndedBy> {
        self.reason
    }

    /// Sets the timer for the earliest moment at which the next limit can be overshot by the slack.
    fn arm_cpu(&mut self, now: Instant, used: Duration) {
        let next = [self.limits.soft_cpu_time, self.limits.cpu_time].into_iter().flatten().min();
        self.cpu_at = next.and_then(|limit| {
            let left = limit.saturating_sub(used).saturating_add(SLACK);
            now.checked_add((left / self.cpus).max(SHORTEST))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in virtual time, whose tree uses so many processors.
    struct World {
        start: Instant,
        now: Instant,
        enforcer: Enforcer,
        busy: f64,
        used: Duration,
        log: Vec<(u64, String)>,
    }

    fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
        let mut limits = Limits::default();
        set(&mut limits);
        limits
    }

    const SECOND: Duration = Duration::from_secs(1);

    impl World {
        #[allow(clippy::disallowed_methods)] // any instant will do to count from
        fn new(limits: Limits, cpus: u32, busy: f64) -> Self {
            let start = Instant::now();
            let enforcer = Enforcer::new(limits, 5 * SECOND, cpus, start);
            Self { start, now: start, enforcer, busy, used: Duration::ZERO, log: Vec::new() }
        }

        fn note(&mut self, action: Option<Action>) {
            let millis = (self.now - self.start).as_millis() as u64;
            self.log.extend(action.map(|action| (millis, format!("{action:?}"))));
        }

        fn go_on(&mut self, time: Duration) {
            self.now += time;
            self.used += time.mul_f64(self.busy);
        }

        /// Waits for the next deadline, at most to `until`. Returns whether there was one.
        fn wait(&mut self, until: Duration) -> bool {
            let Some(deadline) = self.enforcer.deadline().filter(|at| *at <= self.start + until) else { return false };
            self.go_on(deadline.saturating_duration_since(self.now));
            while let Some(action) = self.enforcer.due(self.now) {
                self.note(Some(action));
                if action == Action::ReadCpu {
                    let action = self.enforcer.cpu_used(self.now, Some(self.used));
                    self.note(action);
                }
            }
            true
        }

        /// Returns what happened, without the reads.
        fn run(&mut self, until: Duration) -> Vec<(u64, &str)> {
            while self.wait(until) {}
            self.actions()
        }

        fn actions(&self) -> Vec<(u64, &str)> {
            let log = self.log.iter().filter(|(_, what)| what != "ReadCpu");
            log.map(|(at, what)| (*at, &what[..])).collect()
        }

        fn reads(&self) -> usize {
            self.log.iter().filter(|(_, what)| what == "ReadCpu").count()
        }
    }

    #[test]
    fn the_wall_time_stops_and_the_kill_time_kills() {
        let mut world = World::new(limits(|it| it.wall_time = Some(2 * SECOND)), 4, 0.0);
        assert_eq!(world.run(100 * SECOND), [(2000, "Terminate"), (7000, "Kill")]);
        assert_eq!(world.enforcer.reason(), Some(EndedBy::WallTime));
    }

    #[test]
    fn the_cpu_time_is_overshot_by_the_slack_at_most() {
        for cpus in [1, 2, 4, 64] {
            for busy in [0.25, 1.0, f64::from(cpus)].into_iter().filter(|busy| *busy <= f64::from(cpus)) {
                let mut world = World::new(limits(|it| it.cpu_time = Some(SECOND)), cpus, busy);
                world.run(100 * SECOND);
                let over = world.used - SECOND;
                let shortest = SHORTEST * cpus;
                assert!(over <= SLACK.max(shortest), "{cpus} {busy} {over:?}");
                assert_eq!(world.actions().last().map(|(_, what)| *what), Some("Kill"));
                assert_eq!(world.enforcer.reason(), Some(EndedBy::CpuTime));
                assert_eq!(world.enforcer.deadline(), None);
                // Each check halves what is left, or comes after the slack.
                assert!(cpus > 4 || world.reads() <= 80, "{cpus} {busy}: {}", world.reads());
            }
        }
    }

    #[test]
    fn all_processors_busy_need_two_checks() {
        let mut world = World::new(limits(|it| it.cpu_time = Some(SECOND)), 2, 2.0);
        world.run(SECOND);
        assert_eq!((world.reads(), world.actions()), (1, vec![(505, "Kill")]));
    }

    #[test]
    fn a_sleeper_is_checked_seldom() {
        let mut world = World::new(limits(|it| it.cpu_time = Some(10 * SECOND)), 2, 0.0);
        assert_eq!(world.run(3600 * SECOND), []);
        assert_eq!(world.reads(), 719);
    }

    #[test]
    fn the_soft_limit_asks_and_the_hard_one_kills() {
        let both = limits(|it| (it.soft_cpu_time, it.cpu_time) = (Some(SECOND), Some(20 * SECOND)));
        let mut world = World::new(both, 1, 1.0);
        assert_eq!(world.run(100 * SECOND), [(1010, "Terminate"), (20_010, "Kill")]);
        assert_eq!(world.enforcer.reason(), Some(EndedBy::CpuTime));
        let mut world = World::new(both, 1, 1.0);
        world.run(2 * SECOND);
        assert_eq!(world.enforcer.reason(), Some(EndedBy::SoftCpuTime));
        // Without a hard limit, the kill time bounds what comes after it.
        let mut world = World::new(limits(|it| it.soft_cpu_time = Some(SECOND)), 1, 1.0);
        assert_eq!(world.run(100 * SECOND), [(1010, "Terminate"), (6010, "Kill")]);
        assert_eq!(world.enforcer.reason(), Some(EndedBy::SoftCpuTime));
    }

    #[test]
    fn a_soft_limit_gives_way_to_the_next_reason() {
        let all = limits(|it| {
            (it.soft_cpu_time, it.cpu_time, it.wall_time) = (Some(SECOND), Some(50 * SECOND), Some(3 * SECOND));
        });
        let mut world = World::new(all, 1, 1.0);
        assert_eq!(world.run(100 * SECOND), [(1010, "Terminate"), (3000, "Terminate"), (8000, "Kill")]);
        assert_eq!(world.enforcer.reason(), Some(EndedBy::WallTime));
    }

    #[test]
    fn the_first_reason_counts() {
        let both = limits(|it| (it.wall_time, it.output) = (Some(SECOND), Some(10)));
        let mut world = World::new(both, 1, 1.0);
        let now = world.now;
        assert_eq!(world.enforcer.written(now, 10), None);
        assert_eq!(world.enforcer.written(now, 11), Some(Action::Terminate));
        assert_eq!(world.enforcer.written(now, 12), None);
        assert_eq!(world.enforcer.stop(now, EndedBy::Asked), None);
        assert_eq!(world.run(100 * SECOND), [(5000, "Kill")]);
        assert_eq!(world.enforcer.reason(), Some(EndedBy::Output));
        assert_eq!(world.enforcer.kill(EndedBy::Processes), None);
    }

    #[test]
    fn an_exit_ends_the_limits_but_not_the_kill_time() {
        let both = limits(|it| (it.wall_time, it.cpu_time) = (Some(SECOND), Some(SECOND)));
        let mut world = World::new(both, 1, 0.0);
        world.enforcer.over();
        assert_eq!(world.enforcer.deadline(), None);
        assert!(!world.enforcer.was_stopped());
        let mut world = World::new(both, 1, 0.0);
        let now = world.now;
        world.enforcer.stop(now, EndedBy::Asked);
        world.enforcer.over();
        assert_eq!(world.run(100 * SECOND), [(5000, "Kill")], "the rest of the tree has its time");
    }

    #[test]
    fn times_beyond_the_clock_never_come() {
        let never = limits(|it| (it.wall_time, it.cpu_time) = (Some(Duration::MAX), Some(Duration::MAX)));
        let enforcer = World::new(never, 1, 1.0).enforcer;
        assert_eq!(enforcer.deadline(), None);
    }
}
