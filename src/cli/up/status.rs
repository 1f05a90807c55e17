//! The status of a process in the form of the protocol.
//!
//! The one rule: a value that is not known is null.

use childminder::restart::State;
use childminder::{Member, Reactor, Readiness, Remains, Status};
use serde_json::{Value, json};

use super::Up;
use super::reporter::Reporter;
use crate::cli::control::table;
use crate::cli::{clock, words};

impl Up {
    /// Writes the status of all processes to stderr, as `childminder status` writes it to stdout.
    pub(super) fn say_status(&mut self, reactor: &mut Reactor) {
        let reporter = self.monitor.observer();
        let statuses = self.processes.iter().filter_map(|process| self.monitor.status(&process.name));
        let waits = |status: &Status<'_>| self.monitor.waits_for(status.name);
        let objects: Vec<Value> = statuses.map(|status| object(&status, reporter, reactor, &waits(&status))).collect();
        for line in table::lines(&objects, table::Room::default()) {
            self.reporter().console.say(&line);
        }
    }
}

/// Why a process is in its state, if that is not plain from the state alone.
fn reason(status: &Status<'_>, reporter: &Reporter, waits: &[String]) -> Option<String> {
    match status.state {
        State::Failed { why } => Some(why.to_string()),
        State::Waiting { .. } if !waits.is_empty() => Some(format!("waits for {}", waits.join("; "))),
        State::Running { .. } if !waits.is_empty() => Some(format!("stops after {}", waits.join("; "))),
        _ => {
            let check = reporter.failed_check(status.name).map(|why| format!("its last check has failed: {why}"));
            reporter.fault(status.name).map(str::to_owned).or(check)
        }
    }
}

pub(super) fn object(status: &Status<'_>, reporter: &Reporter, reactor: &mut Reactor, waits: &[String]) -> Value {
    let now = reactor.now();
    let process = status.process.and_then(|id| reactor.process(id));
    let used = process.map(|process| process.used()).unwrap_or_default();
    let cpu = used.user_time.zip(used.system_time).map(|(user, system)| user.value + system.value);
    let uptime = match status.state {
        State::Running { since } => Some(now.saturating_duration_since(since).as_secs_f64()),
        _ => None,
    };
    let retry_in = match status.state {
        State::BackingOff { until, .. } => Some(until.saturating_duration_since(now).as_secs_f64()),
        _ => None,
    };
    let last_exit = status.last_exit.map(|exit| {
        let at = reporter.exited_at(status.name);
        json!({
            "ago": at.map(|at| clock::now().saturating_sub(at) as f64 / 1000.0),
            "code": exit.code(),
            "cpu": exit.usage.cpu_time().as_secs_f64(),
            "peak_memory": exit.usage.max_rss,
            "signal": exit.signal().map(words::signal_name),
            "text": exit.to_string(),
            "time": at.map(|at| clock::rfc3339(at, None)),
        })
    });
    let stop_error = match (status.state, status.refusal) {
        (State::Stopping { .. }, Some(error)) => Some(words::not_signalled(error)),
        (State::Stopping { since, kills: 1.., .. }, None) => {
            Some(words::still_there(now.saturating_duration_since(since)))
        }
        _ => None,
    };
    // The containment of the last process says nothing about the next one.
    let containment = status
        .containment
        .filter(|_| status.process.is_some())
        .map(|containment| json!({ "strength": containment.strength().to_string(), "reason": containment.reason() }));
    json!({
        "containment": containment,
        "name": status.name,
        "state": match (status.state, status.refusal) {
            (State::Stopping { kills: 1.., .. }, Some(_)) => "unkillable",
            (state, _) => words::state_name(state, status.readiness),
        },
        "ready": match status.readiness {
            Readiness::Absent => None,
            readiness => Some(readiness == Readiness::Ready),
        },
        "since": now.saturating_duration_since(status.since).as_secs_f64(),
        "reason": reason(status, reporter, waits),
        "waits_for": waits,
        "says": status.said,
        "foreign_messages": status.foreign_messages,
        "pid": status.pid,
        "uptime": uptime,
        "restarts": status.restarts,
        "retry_in": retry_in,
        "start_error": reporter.start_error(status.name),
        "stop_error": stop_error,
        "last_exit": last_exit,
        "cpu": cpu.map(|cpu| cpu.as_secs_f64()),
        "peak_memory": used.peak_memory.map(|peak| peak.value),
    })
}

/// The members of a process's tree: the process, everything that it has started, and the leftover
/// processes of earlier runs. Null if the system cannot tell.
pub(super) fn tree(status: &Status<'_>, reactor: &mut Reactor) -> Value {
    let mut all = Vec::new();
    for id in status.process.iter().chain(status.left) {
        match reactor.tree(*id).map(|mut tree| tree.members()) {
            None | Some(Remains::Nobody) => {}
            Some(Remains::Members(members)) => all.extend(members),
            Some(_) => return Value::Null,
        }
    }
    let member = |member: &Member| json!({ "pid": member.pid, "name": member.name, "state": member.state.to_string(), "memory": member.memory });
    all.iter().map(member).collect()
}
