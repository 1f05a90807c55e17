//! The order of processes: which process waits for which, which goes down with which, and how many
//! may start at once. These are the settings; `machine` decides.
//!
//! It starts and stops nothing. The one rule: an order is accepted as a whole or refused as a
//! whole, with all of its mistakes.

mod cycles;
mod groups;
pub(super) mod machine;
pub(super) mod phase;
mod rate;
mod rolling;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;

use super::restart::StartLimit;
use crate::io_error::into_io_error;

/// The order in which the processes of a monitor start and stop: see
/// [`ProcessMonitor::set_order`](crate::ProcessMonitor::set_order).
///
/// # Examples
///
/// ```
/// use childminder::{Command, Order, ProcessMonitor, Reactor, Service, When};
/// use childminder::restart::State;
///
/// let mut reactor = Reactor::new()?;
/// let mut monitor = ProcessMonitor::new();
/// for name in ["web", "db"] {
///     monitor.add_process(&mut reactor, name, Command::new("sleep").arg("60"))?;
/// }
/// let mut order = Order::new();
/// order.after("web", "db", When::Ready);
/// monitor.set_order(&mut reactor, &order)?;
/// monitor.start_service(&mut reactor);
/// assert!(matches!(monitor.status("db").unwrap().state, State::Running { .. }));
/// assert!(matches!(monitor.status("web").unwrap().state, State::Waiting { .. }));
/// assert_eq!(monitor.waits_for("web"), ["db, which is not ready yet"]);
/// # monitor.kill_service(&mut reactor);
/// # while !monitor.is_down() { reactor.turn(None, |reactor, event| { monitor.handle(reactor, &event); })?; }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    edges: Vec<Edge>,
    groups: Vec<Group>,
    essential: Vec<String>,
    starts_per_second: Option<u32>,
    starts_under_way: Option<u32>,
}

/// One process waits for another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edge {
    name: String,
    on: String,
    when: When,
    requires: bool,
}

/// What a process waits for: see [`Order::after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum When {
    /// The other process is [ready](crate::Ready), or has completed.
    #[default]
    Ready,
    /// The other process has been started, or has completed.
    Started,
    /// The other process has exited with success and is not started again. It is a job, with
    /// [`Restart::Never`](crate::Restart::Never) or
    /// [`Restart::OnFailure`](crate::Restart::OnFailure).
    Completed,
}

/// A group of processes and of other groups: see [`Order::group`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Its name. A process may not have the same one.
    pub name: String,
    /// The names of its processes and groups, in order.
    pub members: Vec<String>,
    /// What happens to the other members when one of them dies.
    pub strategy: Strategy,
    /// How many deaths within a time the group bears. With one more, it gives up: all its processes
    /// are stopped and have failed.
    pub limit: Option<StartLimit>,
}

impl Group {
    /// Makes a group without a limit.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        strategy: Strategy,
        members: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let members = members.into_iter().map(Into::into).collect();
        Self { name: name.into(), members, strategy, limit: None }
    }
}

/// What happens to the other members of a group when one of its processes dies. The names in
/// Erlang's supervisors are in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Nothing (`one_for_one`).
    #[default]
    Each,
    /// All of them are stopped, and all are started again when they are down (`one_for_all`). If
    /// one fails for good, the group gives up.
    All,
    /// The members after it in the list are stopped and started again (`rest_for_one`). If one
    /// fails for good, those after it are given up.
    Rest,
}

/// A mistake in an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderError {
    /// A name that belongs to no process, and where a member is expected, to no group either.
    Unknown {
        /// The name.
        name: String,
        /// The process or group that refers to it.
        by: String,
    },
    /// These wait for each other: each for the next one, and the last one for the first one.
    Cycle(Vec<String>),
    /// The name of a group is that of a process or of another group.
    SameName(String),
    /// This is a member of two groups, or twice of one.
    TwoGroups(String),
    /// A limit of zero would allow nothing.
    NoStarts(String),
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, by } => write!(f, "`{by}` refers to `{name}`, which does not exist"),
            Self::Cycle(names) => {
                write!(f, "these wait for each other: ")?;
                names.iter().try_for_each(|name| write!(f, "`{name}` for "))?;
                write!(f, "`{}`", names.first().map_or("", String::as_str))
            }
            Self::SameName(name) => write!(f, "the name of group `{name}` is taken"),
            Self::TwoGroups(name) => write!(f, "`{name}` is in two groups, or twice in one"),
            Self::NoStarts(name) => write!(f, "the limit of {name} allows no start"),
        }
    }
}

/// All mistakes of an [`Order`] that was refused. It is displayed with one mistake a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderErrors(pub Vec<OrderError>);

impl fmt::Display for OrderErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Error for OrderErrors {}

into_io_error!(OrderErrors, |_| std::io::ErrorKind::InvalidInput);

impl Order {
    /// Makes an order in which no process waits for another.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a process wait for another one whenever it is started. When both are stopped together,
    /// it is stopped first, and the other one when it is gone.
    pub fn after(&mut self, name: impl Into<String>, on: impl Into<String>, when: When) -> &mut Self {
        self.edge(name.into(), on.into(), when, false)
    }

    /// Lets a process wait for another one as [`after`](Self::after) does, and go down with it: as
    /// long as the other one is not there, this one is stopped and waits. A start starts the other
    /// one, too, if it is stopped.
    pub fn requires(&mut self, name: impl Into<String>, on: impl Into<String>, when: When) -> &mut Self {
        self.edge(name.into(), on.into(), when, true)
    }

    fn edge(&mut self, name: String, on: String, when: When, requires: bool) -> &mut Self {
        self.edges.push(Edge { name, on, when, requires });
        self
    }

    /// Adds a group.
    pub fn group(&mut self, group: Group) -> &mut Self {
        self.groups.push(group);
        self
    }

    /// Reports it to the host when this process or group has ended for good, by
    /// [`Observer::essential_ended`](crate::Observer::essential_ended).
    pub fn essential(&mut self, name: impl Into<String>) -> &mut Self {
        self.essential.push(name.into());
        self
    }

    /// Sets how many processes may be started in a second, evenly spread. Processes that have to
    /// wait are started in the order in which they came.
    pub fn starts_per_second(&mut self, starts: u32) -> &mut Self {
        self.starts_per_second = Some(starts);
        self
    }

    /// Sets how many processes may be starting at the same time: started, and not ready yet.
    pub fn starts_under_way(&mut self, starts: u32) -> &mut Self {
        self.starts_under_way = Some(starts);
        self
    }

    /// Whether nothing is ordered.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the order. `is_process` tells whether there is a process of a name.
    ///
    /// # Errors
    ///
    /// All mistakes: unknown names, cycles, and the like.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::{Order, OrderError, When};
    ///
    /// let mut order = Order::new();
    /// order.after("web", "db", When::Ready).after("db", "web", When::Started);
    /// let mistakes = order.check(|name| ["web", "db"].contains(&name)).unwrap_err();
    /// assert_eq!(mistakes.to_string(), "these wait for each other: `web` for `db` for `web`");
    /// ```
    pub fn check(&self, is_process: impl Fn(&str) -> bool) -> Result<(), OrderErrors> {
        let mistakes = self.mistakes(is_process);
        if mistakes.is_empty() { Ok(()) } else { Err(OrderErrors(mistakes)) }
    }

    fn mistakes(&self, is_process: impl Fn(&str) -> bool) -> Vec<OrderError> {
        let mut mistakes = Vec::new();
        let unknown = |name: &String, by: &str| OrderError::Unknown { name: name.clone(), by: by.to_owned() };
        for edge in &self.edges {
            let names = [(&edge.name, &*edge.name), (&edge.on, &*edge.name)];
            mistakes
                .extend(names.into_iter().filter(|(name, _)| !is_process(name)).map(|(name, by)| unknown(name, by)));
        }
        let mut groups = HashSet::new();
        for group in &self.groups {
            if is_process(&group.name) || !groups.insert(&*group.name) {
                mistakes.push(OrderError::SameName(group.name.clone()));
            }
            if group.limit.is_some_and(|limit| limit.starts == 0) {
                mistakes.push(OrderError::NoStarts(format!("group `{}`", group.name)));
            }
        }
        let mut members = HashSet::new();
        for group in &self.groups {
            for member in &group.members {
                if !is_process(member) && !groups.contains(&**member) {
                    mistakes.push(unknown(member, &group.name));
                } else if !members.insert(&**member) {
                    mistakes.push(OrderError::TwoGroups(member.clone()));
                }
            }
        }
        let is_known = |name: &&String| is_process(name) || groups.contains(&***name);
        mistakes.extend(self.essential.iter().filter(|name| !is_known(name)).map(|name| unknown(name, "essential")));
        for (limit, name) in
            [(self.starts_per_second, "starts per second"), (self.starts_under_way, "starts under way")]
        {
            if limit == Some(0) {
                mistakes.push(OrderError::NoStarts(name.to_owned()));
            }
        }
        let waits = self.edges.iter().map(|edge| (&*edge.name, &*edge.on));
        let contains =
            self.groups.iter().flat_map(|group| group.members.iter().map(|member| (&*group.name, &**member)));
        mistakes.extend(cycles::find(waits).into_iter().map(OrderError::Cycle));
        mistakes.extend(
            cycles::find(contains.filter(|(_, member)| groups.contains(member))).into_iter().map(OrderError::Cycle),
        );
        mistakes
    }

    /// Whether others wait until this process is ready, by name.
    pub(super) fn awaited(&self) -> HashSet<&str> {
        self.edges.iter().filter(|edge| edge.when == When::Ready).map(|edge| &*edge.on).collect()
    }

    /// Whether the readiness of all processes counts.
    pub(super) fn counts_starts_under_way(&self) -> bool {
        self.starts_under_way.is_some()
    }

    /// The name of a group by its number.
    pub(super) fn group_name(&self, number: usize) -> Option<&str> {
        self.groups.get(number).map(|group| &*group.name)
    }

    /// Groups of the order, by name.
    fn group_numbers(&self) -> HashMap<&str, usize> {
        self.groups.iter().enumerate().map(|(number, group)| (&*group.name, number)).collect()
    }
}

#[cfg(test)]
mod tests;
