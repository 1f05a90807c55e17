//! Carries out the requests of clients. Knows no bytes and no sockets.
//!
//! The one rule: a request is refused as a whole or carried out as a whole, and touches only the
//! processes that it names.

use std::collections::{HashMap, HashSet};

use childminder::{ProcessId, Reactor, Service, SignalError};
use serde_json::Value;

use super::logs::Log;
use super::waits::Goal;
use super::{Stage, Up, status};
use crate::cli::config::nearest;
use crate::cli::control::ClientId;
use crate::cli::control::protocol::{self, Action, Object, Request};
use crate::cli::glob;
use crate::cli::text::visible;

/// The maximum number of reasons in one answer.
const REASONS: usize = 10;
/// No process has a longer name.
const LONGEST_NAME: usize = 64;
/// The maximum number of process trees in one answer. Each may take a scan of all processes of the
/// system.
const TREES: usize = 100;

impl Up {
    /// Carries out the requests that have come since the last call.
    pub(super) fn execute_requests(&mut self, reactor: &mut Reactor) {
        if !self.server.has_work() {
            return;
        }
        for (client, request) in self.server.requests(reactor.now()) {
            let answer = match self.execute(reactor, client, request) {
                Ok(Some(answer)) => answer,
                // The answer comes later.
                Ok(None) => continue,
                Err(refusal) => protocol::line(refusal.0),
            };
            self.server.answer_line(client, &answer, reactor.now());
        }
    }

    fn execute(
        &mut self,
        reactor: &mut Reactor,
        client: ClientId,
        request: Request,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        if self.stage != Stage::Running
            && matches!(request.action, Action::Start | Action::Restart { .. } | Action::Reload)
        {
            return Err("shutting down".into());
        }
        let (names, goals) = match request.action {
            Action::Status { tree } => {
                let names = self.select(&request)?;
                if tree && names.len() > TREES {
                    return Err(
                        format!("the trees of {} processes are too many, {TREES} are allowed", names.len()).into()
                    );
                }
                return Ok(Some(self.statuses(reactor, &names, tree)));
            }
            Action::Logs(query) => {
                let names = self.select(&request)?;
                if request.progress {
                    self.server.send_before(client, protocol::progress(0, names.len()), reactor.now());
                }
                self.logs.push(Log::new(client, names, request.names, query));
                return Ok(None);
            }
            Action::Send { end } => {
                self.feed(reactor, &request, end)?;
                return Ok(Some(protocol::line(protocol::done())));
            }
            Action::Resize { rows, columns } => {
                self.resize(reactor, &request, (rows, columns))?;
                return Ok(Some(protocol::line(protocol::done())));
            }
            Action::Attach => {
                self.attach(reactor, client, &request)?;
                return Ok(None);
            }
            Action::Events => {
                self.select(&request)?;
                self.listen(reactor, client, request.names);
                return Ok(None);
            }
            Action::Shutdown => {
                if self.stage == Stage::Stopping {
                    self.monitor.kill_service(reactor);
                } else {
                    reactor.stop();
                }
                return Ok(Some(protocol::line(protocol::done())));
            }
            Action::Reopen => {
                self.reporter().reopen(reactor.now());
                return Ok(Some(protocol::line(protocol::done())));
            }
            Action::Signal(signal) => {
                let names = self.signal(reactor, self.select(&request)?, signal)?;
                return Ok(Some(protocol::line(with(protocol::done(), "names", names.into()))));
            }
            Action::Reset => {
                let names = self.select(&request)?;
                names.iter().for_each(|name| drop(self.monitor.reset_process(reactor, name)));
                return Ok(Some(protocol::line(with(protocol::done(), "names", names.into()))));
            }
            Action::Reload if request.all || !request.names.is_empty() => {
                let names = self.signal_to_reload(reactor, self.select(&request)?)?;
                return Ok(Some(protocol::line(with(protocol::done(), "names", names.into()))));
            }
            Action::Reload => {
                let changes = self.reload(reactor).map_err(Refusal::with_errors)?;
                let goals = changes.goals();
                (changes.into_answer(), goals)
            }
            Action::Start | Action::Stop | Action::Restart { .. } => {
                let names = self.select(&request)?;
                let goals = self.control(reactor, request.action, &names)?;
                (with(protocol::done(), "names", names.into()), goals)
            }
        };
        let Some(timeout) = request.wait else { return Ok(Some(protocol::line(names))) };
        self.wait(reactor, client, goals, names, (timeout, request.progress));
        Ok(None)
    }

    /// The names that the request selects, in the order of the file.
    pub(super) fn select(&self, request: &Request) -> Result<Vec<String>, Refusal> {
        let all = || self.processes.iter().map(|process| &*process.name);
        if request.names.is_empty() {
            return Ok(all().map(str::to_owned).collect());
        }
        if let [name] = &request.names[..] {
            if self.monitor.status(name).is_some() {
                return Ok(vec![name.clone()]);
            }
        }
        // Most patterns are plain names, and there may be thousands of them.
        let (globs, plain): (Vec<&String>, Vec<_>) = request.names.iter().partition(|name| glob::is_glob(name));
        let plain: HashSet<&str> = plain.into_iter().map(String::as_str).collect();
        let known: HashSet<&str> = all().filter(|name| plain.contains(name)).collect();
        let waits_for_more = request.action.follows() && !matches!(request.action, Action::Attach);
        let is_known = |pattern: &&String| match glob::is_glob(pattern) {
            // A process of this name may come later.
            true if waits_for_more => true,
            true => all().any(|name| glob::matches(pattern, name)),
            false => known.contains(pattern.as_str()),
        };
        if let Some(unknown) = request.names.iter().find(|pattern| !is_known(pattern)) {
            let instances = format!("{unknown}:*");
            let is_table = all().any(|name| glob::matches(&instances, name));
            let hint = if is_table { format!("; its instances are `{instances}`") } else { self.nearest(unknown) };
            let start: String = unknown.chars().take(100).collect();
            return Err(format!("there is no process `{}`{hint}", visible(&start)).into());
        }
        let is_meant = |name: &&str| plain.contains(name) || globs.iter().any(|pattern| glob::matches(pattern, name));
        Ok(all().filter(is_meant).map(str::to_owned).collect())
    }

    /// A hint at the known name that an unknown one was probably meant to be.
    fn nearest(&self, unknown: &str) -> String {
        if unknown.len() > LONGEST_NAME || glob::is_glob(unknown) {
            return String::new();
        }
        let tables = self.processes.iter().filter_map(|process| Some(process.name.rsplit_once(':')?.0));
        let mut tables: Vec<String> = tables.map(|table| format!("{table}:*")).collect();
        tables.dedup();
        let names = self.processes.iter().map(|process| &*process.name);
        let known: Vec<&str> = names.chain(tables.iter().map(|table| table.trim_end_matches(":*"))).collect();
        match nearest(&unknown.to_lowercase(), &known) {
            // A table is no process.
            Some(table) if self.monitor.status(table).is_none() => format!("; the nearest one is `{table}:*`"),
            Some(name) => format!("; the nearest one is `{name}`"),
            None => String::new(),
        }
    }

    fn control(
        &mut self,
        reactor: &mut Reactor,
        action: Action,
        names: &[String],
    ) -> Result<Vec<(String, Goal)>, Refusal> {
        let before: Vec<Option<ProcessId>> = names.iter().map(|name| self.process(name)).collect();
        match action {
            Action::Start => self.start_all(reactor, names),
            Action::Stop => names.iter().for_each(|name| drop(self.monitor.stop_process(reactor, name))),
            Action::Restart { rolling: true } => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.monitor.restart_rolling(reactor, &names).map_err(|error| Refusal::from(error.to_string()))?;
            }
            _ => names.iter().for_each(|name| drop(self.monitor.restart_process(reactor, name))),
        }
        let goal = |(name, process): (&String, Option<ProcessId>)| {
            let goal = match action {
                Action::Start => Goal::Running { instead_of: None },
                Action::Stop => Goal::Down { process },
                Action::Restart { rolling: true } => Goal::Rolled { instead_of: process },
                _ => Goal::Running { instead_of: process },
            };
            (name.clone(), goal)
        };
        Ok(names.iter().zip(before).map(goal).collect())
    }

    /// Sends processes the signals by which they read their own configuration again.
    fn signal_to_reload(&mut self, reactor: &mut Reactor, names: Vec<String>) -> Result<Vec<String>, Refusal> {
        let signals: HashMap<_, _> =
            self.processes.iter().map(|process| (process.name.clone(), process.reload_signal)).collect();
        if let Some(name) = names.iter().find(|name| signals.get(name.as_str()).copied().flatten().is_none()) {
            return Err(format!("{name} has no `reload-signal` in the file").into());
        }
        self.send(reactor, names, |name| signals.get(name).copied().flatten().unwrap_or_default())
    }

    fn signal(&mut self, reactor: &mut Reactor, names: Vec<String>, signal: i32) -> Result<Vec<String>, Refusal> {
        self.send(reactor, names, |_| signal)
    }

    fn send(
        &mut self,
        reactor: &mut Reactor,
        names: Vec<String>,
        signal_for: impl Fn(&str) -> i32,
    ) -> Result<Vec<String>, Refusal> {
        let (mut reached, mut missed) = (Vec::new(), Vec::new());
        for name in names {
            let signal = signal_for(&name);
            match self.process(&name).and_then(|id| reactor.process(id)).map(|mut process| process.signal(signal)) {
                Some(Ok(())) => reached.push(name),
                Some(Err(SignalError::Os(error))) => missed.push(format!("{name} cannot be signalled: {error}")),
                _ => missed.push(format!("{name} is not running")),
            }
        }
        if reached.is_empty() {
            let more = missed.len().saturating_sub(REASONS);
            missed.truncate(REASONS);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            return Err((missed.join(", ") + &more).into());
        }
        Ok(reached)
    }

    fn statuses(&self, reactor: &mut Reactor, names: &[String], tree: bool) -> Vec<u8> {
        let reporter = self.monitor.observer();
        let statuses = names.iter().filter_map(|name| self.monitor.status(name));
        protocol::processes(statuses.map(|status| {
            let mut object = status::object(&status, reporter, reactor, &self.monitor.waits_for(status.name));
            if tree {
                object["tree"] = status::tree(&status, reactor);
            }
            object
        }))
    }
}

fn with(mut object: Object, key: &str, value: Value) -> Object {
    object.insert(key.into(), value);
    object
}

/// The reason why a request is refused, as an answer.
pub(super) struct Refusal(Object);

impl Refusal {
    /// A refusal because of mistakes in the file, each on a line of its own.
    fn with_errors(errors: String) -> Self {
        let lines: Value = errors.lines().collect();
        Self(with(protocol::refused("the file has mistakes; nothing is changed"), "errors", lines))
    }
}

impl From<&str> for Refusal {
    fn from(error: &str) -> Self {
        Self(protocol::refused(error))
    }
}

impl From<String> for Refusal {
    fn from(error: String) -> Self {
        error.as_str().into()
    }
}
