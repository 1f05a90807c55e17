//! Shows what an order and the policies do to several processes, in virtual time.
//!
//! It starts nothing and waits for nothing. The one rule: every decision comes from the machines,
//! by way of `crew`, and none is made here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{Crew, Kernel};
use super::{Run, Step};
use crate::io_error::into_io_error;
use crate::monitor::order::machine::Request;
use crate::monitor::order::{Order, OrderErrors};
use crate::monitor::restart::{Input, Outcome, Policy, PolicyError, State};
use crate::monitor::watch::{Readiness, Ready, Sign, Watch};

/// The most steps of a simulation. A policy without pauses would never end.
const MOST_STEPS: usize = 1_000_000;

/// An imaginary process: see [`simulate_all`].
#[non_exhaustive]
pub struct Imagined<'a> {
    /// Its name.
    pub name: String,
    /// The rules by which it is restarted and stopped.
    pub policy: Policy,
    /// What makes it ready.
    pub ready: Ready,
    /// How long after its start it says that it is ready, where that is not a matter of the
    /// threshold.
    pub ready_after: Duration,
    /// How long it takes to stop when it is asked to.
    pub stops_after: Duration,
    /// What each run does, by its number from 1 on.
    pub runs: Box<dyn FnMut(u64) -> Run + 'a>,
}

impl<'a> Imagined<'a> {
    /// Makes a process that is ready as soon as it is started, and stops at once when it is asked
    /// to. `runs` tells what each run does, by its number from 1 on.
    pub fn new(name: impl Into<String>, runs: impl FnMut(u64) -> Run + 'a) -> Self {
        let (ready_after, stops_after) = (Duration::ZERO, Duration::ZERO);
        let (policy, ready) = (Policy::default(), Ready::Notify);
        Self { name: name.into(), policy, ready, ready_after, stops_after, runs: Box::new(runs) }
    }
}

impl fmt::Debug for Imagined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imagined").field("name", &self.name).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The error of a simulation that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The policy of this process is not valid.
    Policy(String, PolicyError),
    /// The order is not valid.
    Order(OrderErrors),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(name, error) => write!(f, "[{name}] {error}"),
            Self::Order(errors) => errors.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

into_io_error!(Refused, |_| std::io::ErrorKind::InvalidInput);

/// The steps of several processes, with the time and the name of each.
///
/// It is displayed as a table, one step a line, with the time since the beginning in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    steps: Vec<(Duration, Arc<str>, Step)>,
}

impl Course {
    /// Returns each step with its time since the beginning, and the name of its process or group.
    #[must_use]
    pub fn steps(&self) -> &[(Duration, Arc<str>, Step)] {
        &self.steps
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
        for (time, name, step) in &self.steps {
            writeln!(f, "{:>12.3}  {name:width$}  {step}", time.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Tries an order and the policies on imaginary processes, from the start of all of them, for this
/// time. Then they are all stopped.
///
/// The simulation uses the monitor's own state machines. So the monitor would do the same, except
/// that a real start takes time.
///
/// # Errors
///
/// [`Refused`] if a policy or the order is not valid.
///
/// # Examples
///
/// The database takes two seconds to become ready, and dies after ten:
///
/// ```
/// use std::time::Duration;
///
/// use childminder::simulation::{Imagined, Run, simulate_all};
/// use childminder::{Order, When};
///
/// let seconds = Duration::from_secs;
/// let mut db = Imagined::new("db", |run| if run == 1 { Run::Fails(seconds(10)) } else { Run::Stays });
/// db.ready_after = seconds(2);
/// let web = Imagined::new("web", |_| Run::Stays);
/// let mut order = Order::new();
/// order.requires("web", "db", When::Ready);
/// let course = simulate_all([web, db], &order, seconds(20))?;
/// assert_eq!(format!("\n{course}"), "
///        0.000  db   start 1
///        0.000  web  waits
///        2.000  db   ready
///        2.000  web  start 1
///        2.000  web  ready
///       10.000  db   exit, failed after 10.000 s
///       10.000  db   start 2
///       10.000  web  asked to stop
///       10.000  web  exit, failed after 8.000 s
///       10.000  web  waits
///       12.000  db   ready
///       12.000  web  start 2
///       12.000  web  ready
///       20.000  web  asked to stop
///       20.000  web  exit, failed after 8.000 s
///       20.000  db   asked to stop
///       20.000  db   exit, failed after 10.000 s
/// ");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn simulate_all<'a>(
    processes: impl IntoIterator<Item = Imagined<'a>>,
    order: &Order,
    length: Duration,
) -> Result<Course, Refused> {
    let processes: Vec<Imagined<'a>> = processes.into_iter().collect();
    for process in &processes {
        process.policy.validate().map_err(|error| Refused::Policy(process.name.clone(), error))?;
    }
    let keys: HashMap<String, u64> = processes.iter().map(|process| process.name.clone()).zip(0..).collect();
    order.check(|name| keys.contains_key(name)).map_err(Refused::Order)?;
    let actors: Vec<_> =
        processes.iter().map(|process| (Arc::new(process.policy.clone()), watch_of(process))).collect();
    #[allow(clippy::disallowed_methods)] // any instant will do, and this is the only way to get one
    let base = Instant::now();
    let world = World {
        base,
        order,
        names: processes.iter().map(|process| process.name.as_str().into()).collect(),
        bodies: processes.into_iter().map(Body::new).collect(),
        steps: Vec::new(),
    };
    let mut crew = Crew::new(actors, order, |name| keys.get(name).copied(), world);
    for key in 0..crew.actors.len() as u64 {
        crew.request(base, key, Input::Start);
    }
    let end = base.checked_add(length).unwrap_or(base);
    run_until(&mut crew, base, end);
    crew.stop_all(end);
    run_until(&mut crew, end, end.checked_add(length.max(Duration::from_secs(3600))).unwrap_or(end));
    Ok(Course { steps: crew.kernel.steps })
}

fn watch_of(process: &Imagined<'_>) -> Arc<Watch> {
    Arc::new(Watch { ready: process.ready.clone(), ..Watch::default() })
}

/// Lets everything happen that happens until this time.
fn run_until(crew: &mut Crew<World<'_, '_>>, from: Instant, end: Instant) {
    let mut now = from;
    while crew.kernel.steps.len() < MOST_STEPS {
        let body = crew.kernel.next();
        let next = body.map(|(at, _)| at).into_iter().chain(crew.deadline()).min();
        let Some(next) = next.filter(|next| *next <= end) else { return };
        now = now.max(next);
        match body.filter(|(at, _)| *at <= now) {
            Some((_, key)) => happen(crew, key, now),
            None => crew.timeout(now),
        }
    }
}

/// Lets the next thing happen to a process by itself.
fn happen(crew: &mut Crew<World<'_, '_>>, key: u64, now: Instant) {
    let body = &mut crew.kernel.bodies[key as usize];
    let ready = body.ready.take_if(|at| *at <= now);
    if ready.is_some() {
        return crew.sign(now, key, Sign::Ready);
    }
    if let Some((_, success)) = body.exit.take_if(|(at, _)| *at <= now) {
        let lived = now.saturating_duration_since(body.since);
        body.ready = None;
        crew.kernel.note(key, now, Step::Exit { lived, success });
        let outcome = if success { Outcome::Success } else { Outcome::Failure };
        crew.tell(now, key, Input::Exited { outcome, group_left: false });
    }
}

struct Body<'a> {
    process: Imagined<'a>,
    runs: u64,
    since: Instant,
    ready: Option<Instant>,
    exit: Option<(Instant, bool)>,
}

impl<'a> Body<'a> {
    fn new(process: Imagined<'a>) -> Self {
        #[allow(clippy::disallowed_methods)]
        let since = Instant::now();
        Self { process, runs: 0, since, ready: None, exit: None }
    }
}

struct World<'a, 'o> {
    base: Instant,
    order: &'o Order,
    names: Vec<Arc<str>>,
    bodies: Vec<Body<'a>>,
    steps: Vec<(Duration, Arc<str>, Step)>,
}

impl World<'_, '_> {
    /// The next thing that happens to a process by itself, and which one.
    fn next(&self) -> Option<(Instant, u64)> {
        let times = |body: &Body<'_>| body.ready.into_iter().chain(body.exit.map(|(at, _)| at)).min();
        self.bodies.iter().map(times).zip(0..).filter_map(|(at, key)| Some((at?, key))).min()
    }

    fn note(&mut self, key: u64, now: Instant, step: Step) {
        let name = Arc::clone(&self.names[key as usize]);
        self.steps.push((now.saturating_duration_since(self.base), name, step));
    }
}

impl Kernel for World<'_, '_> {
    fn spawn(&mut self, key: u64, now: Instant) -> bool {
        let body = &mut self.bodies[key as usize];
        body.runs += 1;
        body.since = now;
        let run = (body.process.runs)(body.runs);
        let at = |lived: Duration| now.checked_add(lived);
        body.exit = match run {
            Run::Fails(lived) => at(lived).map(|at| (at, false)),
            Run::Succeeds(lived) => at(lived).map(|at| (at, true)),
            Run::CannotStart | Run::Stays => None,
        };
        let says = !matches!(body.process.ready, Ready::Threshold | Ready::Started) && run != Run::CannotStart;
        body.ready = at(body.process.ready_after).filter(|_| says);
        let number = body.runs;
        self.note(key, now, Step::Start { run: number });
        if run == Run::CannotStart {
            self.note(key, now, Step::StartFailed);
        }
        run != Run::CannotStart
    }

    fn terminate(&mut self, key: u64, now: Instant) {
        self.note(key, now, Step::Stop);
        let body = &mut self.bodies[key as usize];
        let end = now.checked_add(body.process.stops_after);
        body.exit = [body.exit, end.map(|at| (at, false))].into_iter().flatten().min();
    }

    fn kill(&mut self, key: u64, now: Instant) {
        self.note(key, now, Step::Kill);
        self.bodies[key as usize].exit = Some((now, false));
    }

    fn check(&mut self, _: u64, _: bool) {}

    fn note(&mut self, request: Request) {
        let Request::GroupFailed(number) = request else { return };
        let time = self.steps.last().map_or(Duration::ZERO, |(time, ..)| *time);
        if let Some(name) = self.order.group_name(number) {
            self.steps.push((time, name.into(), Step::GaveUp));
        }
    }

    fn changed(&mut self, key: u64, now: Instant, state: State, readiness: Readiness) {
        match (state, readiness) {
            (State::Running { .. }, Readiness::Ready) => self.note(key, now, Step::Ready),
            (State::Waiting { .. }, _) => self.note(key, now, Step::Held),
            (State::BackingOff { until, .. }, _) => {
                self.note(key, now, Step::Wait(until.saturating_duration_since(now)));
            }
            (State::Exited, _) => self.note(key, now, Step::Over),
            (State::Failed { why }, _) => self.note(key, now, Step::Failed(why)),
            _ => {}
        }
    }
}
