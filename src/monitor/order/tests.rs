//! A random box in virtual time against a plain model of it.
//!
//! The one rule: the model knows only what has happened to the processes, and nothing of the
//! machines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::machine::Request;
use super::rate::CATCH_UP;
use super::{Group, Order, Strategy, When};
use crate::monitor::restart::{Input, Outcome, Policy, Restart, StartLimit, State};
use crate::monitor::simulation::crew::{Crew, Kernel};
use crate::monitor::simulation::{Imagined, Run, Step, simulate_all};
use crate::monitor::watch::{Readiness, Ready, Sign, Watch};

/// SplitMix64, by Sebastiano Vigna.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What the model knows of a process.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Body {
    alive: bool,
    ready: bool,
    was_ready: bool,
    completed: bool,
    /// It has been asked to stop.
    asked: bool,
    /// Asks its machine whether it is ready until this is taken back.
    checking: bool,
}

/// The edges and limits, as the model sees them, and what has happened.
struct Model {
    bodies: Vec<Body>,
    waits: Vec<Vec<(u64, When)>>,
    per_second: Option<u32>,
    under_way: Option<u32>,
    starts: VecDeque<Instant>,
    broken_spawns: bool,
    trace: u64,
    spawns: u64,
}

impl Model {
    fn trace(&mut self, what: u64, key: u64) {
        self.trace = (self.trace ^ (what << 32 | key)).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }
}

impl Kernel for Model {
    fn spawn(&mut self, key: u64, now: Instant) -> bool {
        self.trace(1, key);
        let body = self.bodies[key as usize];
        assert!(!body.alive, "a second process of {key}");
        for (on, when) in &self.waits[key as usize] {
            let other = self.bodies[*on as usize];
            let is_there = match when {
                When::Ready => other.alive && other.ready || other.completed,
                When::Started => other.alive || other.completed,
                When::Completed => other.completed,
            };
            assert!(is_there, "{key} starts although {on} is {other:?}");
            assert!(!other.asked, "{key} starts although {on} is about to go");
        }
        if let Some(limit) = self.under_way {
            let starting = self.bodies.iter().filter(|body| body.alive && !body.was_ready && !body.asked).count();
            assert!(starting < limit as usize, "{starting} are under way");
        }
        if let Some(limit) = self.per_second {
            self.starts.push_back(now);
            while self.starts.front().is_some_and(|start| *start + Duration::from_secs(1) <= now) {
                self.starts.pop_front();
            }
            let most = limit as usize + 1 + (CATCH_UP.as_secs_f64() * f64::from(limit)) as usize;
            assert!(self.starts.len() <= most, "{} starts in a second, allowed are {most}", self.starts.len());
        }
        self.spawns += 1;
        if self.broken_spawns {
            return false;
        }
        self.bodies[key as usize] = Body { alive: true, ..Body::default() };
        true
    }

    fn terminate(&mut self, key: u64, _: Instant) {
        self.trace(2, key);
        self.bodies[key as usize].asked = true;
    }

    fn kill(&mut self, key: u64, _: Instant) {
        self.trace(3, key);
        self.bodies[key as usize].asked = true;
    }

    fn check(&mut self, key: u64, begins: bool) {
        let checking = std::mem::replace(&mut self.bodies[key as usize].checking, begins);
        assert!(!(begins && checking), "two checks of one process at a time");
    }

    fn note(&mut self, request: Request) {
        if let Request::GroupFailed(group) = request {
            self.trace(4, group as u64);
        }
    }

    fn changed(&mut self, key: u64, _: Instant, state: State, readiness: Readiness) {
        let body = &mut self.bodies[key as usize];
        body.ready = readiness == Readiness::Ready;
        body.was_ready |= body.ready;
        body.completed &= matches!(state, State::Exited);
    }
}

struct Box {
    crew: Crew<Model>,
    requires: Vec<Vec<u64>>,
    now: Instant,
    random: Random,
}

impl Box {
    #[allow(clippy::disallowed_methods)]
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.below(9);
        let mut order = Order::new();
        let names: Vec<String> = (0..count).map(|key| key.to_string()).collect();
        let (mut waits, mut requires) = (vec![Vec::new(); count as usize], vec![Vec::new(); count as usize]);
        for key in 1..count {
            for _ in 0..random.below(3) {
                let on = random.below(key);
                let when = random.pick(&[When::Ready, When::Ready, When::Started, When::Completed]);
                let requiring = random.one_in(2) && when != When::Completed;
                waits[key as usize].push((on, when));
                if requiring {
                    requires[key as usize].push(on);
                    order.requires(key.to_string(), on.to_string(), when);
                } else {
                    order.after(key.to_string(), on.to_string(), when);
                }
            }
        }
        // Up to three groups, each in the one before it.
        let depth = random.below(4);
        let mut left: VecDeque<String> = names.iter().cloned().collect();
        let mut inner: Option<String> = None;
        for number in 0..depth {
            let some = random.below(left.len() as u64 + 1) as usize;
            let mut members: Vec<String> = left.drain(..some).collect();
            members.extend(inner.take());
            let mut group = Group::new(
                format!("g{number}"),
                random.pick(&[Strategy::Each, Strategy::All, Strategy::Rest]),
                members,
            );
            if random.one_in(2) {
                group.limit = Some(StartLimit { starts: 1 + random.below(4) as u32, within: Duration::from_secs(30) });
            }
            inner = Some(group.name.clone());
            order.group(group);
        }
        let per_second = random.one_in(3).then(|| 1 + random.below(20) as u32);
        let under_way = random.one_in(3).then(|| 1 + random.below(3) as u32);
        if let Some(limit) = per_second {
            order.starts_per_second(limit);
        }
        if let Some(limit) = under_way {
            order.starts_under_way(limit);
        }
        assert_eq!(order.check(|name| names.iter().any(|known| known == name)), Ok(()));
        let mut actors = Vec::new();
        for _ in 0..count {
            let mut policy = Policy { threshold: Duration::from_secs(random.below(3)), ..Policy::default() };
            policy.restart = random.pick(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]);
            policy.jitter = random.pick(&[0, 25]);
            if random.one_in(3) {
                policy.restart_limit =
                    Some(StartLimit { starts: 2 + random.below(4) as u32, within: Duration::from_secs(20) });
            }
            let mut watch = Watch {
                ready: [Ready::Threshold, Ready::Started, Ready::Notify][random.below(3) as usize].clone(),
                ..Watch::default()
            };
            watch.ready_timeout = random.one_in(3).then(|| Duration::from_secs(5));
            actors.push((Arc::new(policy), Arc::new(watch)));
        }
        let bodies = vec![Body::default(); count as usize];
        let model = Model {
            bodies,
            waits,
            per_second,
            under_way,
            starts: VecDeque::new(),
            broken_spawns: false,
            trace: seed,
            spawns: 0,
        };
        let key_of = |name: &str| name.parse().ok().filter(|key| *key < count);
        let crew = Crew::new(actors, &order, key_of, model);
        Self { crew, requires, now: Instant::now(), random }
    }

    fn count(&self) -> u64 {
        self.crew.actors.len() as u64
    }

    fn exit(&mut self, key: u64, outcome: Outcome) {
        let body = &mut self.crew.kernel.bodies[key as usize];
        if body.alive {
            *body = Body { completed: outcome == Outcome::Success, ..Body::default() };
            self.crew.tell(self.now, key, Input::Exited { outcome, group_left: false });
        }
    }

    fn step(&mut self) {
        let key = self.random.below(self.count());
        let what = self.random.below(20);
        match what {
            0 | 1 => self.crew.request(self.now, key, Input::Start),
            2 => self.crew.request(self.now, key, Input::Stop),
            3 => self.crew.request(self.now, key, Input::Restart),
            4 if self.random.one_in(4) => self.crew.request(self.now, key, Input::Kill),
            5 if self.random.one_in(4) => self.crew.request(self.now, key, Input::Reset),
            6 if self.random.one_in(8) => self.stop_or_kill_all(),
            7 => {
                let most = 1 + self.random.below(3);
                let keys = (0..most).map(|_| self.random.below(self.count())).collect();
                self.crew.machine.roll(keys);
                self.crew.tell(self.now, key, Input::Timeout);
            }
            8 | 9 => {
                let outcome = self.random.pick(&[Outcome::Success, Outcome::Failure, Outcome::Failure]);
                self.exit(key, outcome);
            }
            10..13 => self.crew.sign(self.now, key, Sign::Ready),
            13 => self.crew.sign(self.now, key, Sign::Unready),
            14 => self.crew.kernel.broken_spawns = self.random.one_in(5),
            15 | 16 => {
                // Processes that have been asked to stop do so.
                for key in 0..self.count() {
                    if self.crew.kernel.bodies[key as usize].asked && self.random.one_in(2) {
                        self.exit(key, Outcome::Failure);
                    }
                }
            }
            _ => {
                let due = self.crew.deadline().filter(|_| !self.random.one_in(4));
                self.now = due.unwrap_or(self.now + Duration::from_millis(self.random.below(3000))).max(self.now);
                self.crew.timeout(self.now);
            }
        }
        self.check();
    }

    /// Stops or kills all. Nothing is started any more, and what is asked to stop does so.
    fn stop_or_kill_all(&mut self) {
        match self.random.one_in(2) {
            true => self.crew.stop_all(self.now),
            false => self.crew.kill_all(self.now),
        }
        if self.random.one_in(2) {
            self.quiesce();
            for (key, actor) in self.crew.actors.iter().enumerate() {
                assert_eq!(actor.life.state(), State::Stopped, "{key}");
            }
        }
    }

    /// What holds after each step.
    fn check(&mut self) {
        assert_eq!(self.crew.machine.pop(), None);
        for (key, actor) in self.crew.actors.iter().enumerate() {
            let body = self.crew.kernel.bodies[key];
            let is_alive = match actor.life.state() {
                State::Running { .. } | State::Stopping { .. } => true,
                State::Starting => panic!("{key} is left in between"),
                _ => false,
            };
            assert_eq!(body.alive, is_alive, "{key}: {:?}", actor.life.state());
            let is_waiting = matches!(actor.life.state(), State::Waiting { .. });
            let obstacles = self.crew.machine.waits_for(key as u64);
            assert_eq!(is_waiting, !obstacles.is_empty(), "{key} waits, and one can see what for: {obstacles:?}");
        }
    }

    /// What holds when all that were asked to stop have done so.
    fn quiesce(&mut self) {
        for _ in 0..1000 {
            let asked = (0..self.count()).find(|key| self.crew.kernel.bodies[*key as usize].asked);
            let Some(key) = asked else { break };
            self.exit(key, Outcome::Failure);
            self.check();
        }
        for key in 0..self.count() as usize {
            let body = self.crew.kernel.bodies[key];
            assert!(!body.asked, "a stop that does not end");
            for on in &self.requires[key] {
                let other = self.crew.kernel.bodies[*on as usize];
                assert!(!body.alive || other.alive || other.completed, "{key} runs without {on}");
            }
        }
    }
}

/// Runs a box for so many steps, and returns a hash of all that has happened, and the spawns.
fn run(seed: u64, steps: u64) -> (u64, u64) {
    let mut it = Box::new(seed);
    for number in 0..steps {
        it.step();
        if number % 64 == 63 {
            it.quiesce();
        }
    }
    it.stop_or_kill_all();
    it.quiesce();
    it.check();
    for (key, actor) in it.crew.actors.iter().enumerate() {
        assert_eq!(actor.life.state(), State::Stopped, "{key}");
    }
    assert_eq!(it.crew.deadline(), None, "nothing happens any more");
    (it.crew.kernel.trace, it.crew.kernel.spawns)
}

#[test]
fn a_million_steps_keep_what_is_promised() {
    let (mut spawns, mut traces) = (0, BTreeMap::new());
    let seeds = 1000;
    for seed in 0..seeds {
        let (trace, count) = run(seed, 1000);
        spawns += count;
        traces.insert(trace, seed);
    }
    assert!(spawns > 50 * seeds, "{spawns} spawns are no test");
    assert_eq!(traces.len() as u64, seeds);
}

#[test]
fn a_thousand_starts_follow_their_limit() {
    let second = Duration::from_secs(1);
    let processes = (0..1000).map(|number| Imagined::new(number.to_string(), |_| Run::Stays));
    let mut order = Order::new();
    order.starts_per_second(50);
    let course = simulate_all(processes, &order, 60 * second).unwrap();
    let starts: Vec<Duration> =
        course.steps().iter().filter(|(.., step)| matches!(step, Step::Start { .. })).map(|(time, ..)| *time).collect();
    assert_eq!(starts.len(), 1000);
    // The first starts at once, and each further one 20 ms later.
    assert_eq!(starts[999], 999 * Duration::from_millis(20));
    assert!(starts.windows(51).all(|window| window[50] - window[0] >= second));
}

#[test]
fn equal_seeds_make_equal_traces() {
    for seed in 0..50 {
        assert_eq!(run(seed, 500), run(seed, 500));
    }
}
