//! How a process is watched, what it waits for, and how it is asked to stop, as the file says it.
//!
//! It checks the values and starts nothing. The one rule: a value is kept as it is written until
//! the processes are made, because each instance has its own number in it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use childminder::restart::{StartLimit, StopAction, StopScope, StopStep};
use childminder::{Check, Health, Policy, Probe, Ready, Watch, When};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::instances::{expand, expand_path, expand_program};
use super::report::Report;
use super::section::Section;
use super::value::{self, Parsed};

/// The keys of a process that this file reads.
pub(super) const CARE: [&str; 8] =
    ["ready", "ready-timeout", "watchdog", "health", "after", "requires", "essential", "reload-signal"];

const READY: &str = "\"threshold\", \"started\", \"fd:3\", \"notify\", or a table with one of `line`, `tcp`, `unix` and \
                     `command`";
const ADDRESS: &str = "an address with a port, such as \"127.0.0.1:80\", \"[::1]:80\", \"localhost:80\" or \":80\"; other \
                       names are not looked up";
const COMMAND: &str = "a list of strings: the program and its arguments";
const CODES: &str = "a list of exit codes from 0 to 255";
const STEP: &str = "a signal such as \"TERM\", or a table with `signal` or `command`";

/// How a process is watched, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Care {
    ready: Option<ReadyText>,
    ready_timeout: Option<Duration>,
    watchdog: Option<Duration>,
    health: Option<(ProbeText, u32)>,
    /// The processes or tables that it waits for, and whether it goes down with them.
    pub(super) waits: Vec<Wait>,
    pub(super) essential: bool,
    /// The signal that makes it read its own configuration again.
    pub(crate) reload_signal: Option<i32>,
}

/// A process or a table that a process waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) on: String,
    pub(super) when: When,
    pub(super) requires: bool,
}

/// What a process waits for, each with its place in the text.
pub(super) type Waits = Vec<(Wait, Range<usize>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum ReadyText {
    Threshold,
    Started,
    Fd(i32),
    Notify,
    Line(String),
    Probe(ProbeText),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ProbeText {
    check: CheckText,
    interval: Option<Duration>,
    timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CheckText {
    Tcp(String),
    Unix(PathBuf),
    Command(Vec<String>),
}

impl Care {
    /// Reads the keys of a table. `None` if it has none of them. Also returns what it waits for,
    /// with the places in the text.
    pub(super) fn read(report: &mut Report<'_>, section: &Section<'_>) -> Option<(Self, Waits)> {
        if CARE.iter().all(|key| section.value(key).is_none()) {
            return None;
        }
        let ready = section.value("ready").and_then(|value| read_ready(report, value));
        let health = section.value("health").and_then(|value| read_health(report, value));
        let mut waits = Vec::new();
        for (key, requires) in [("after", false), ("requires", true)] {
            waits.extend(read_waits(report, section, key, requires));
        }
        let care = Self {
            ready,
            ready_timeout: section.read(report, "ready-timeout", value::some_time),
            watchdog: section.read(report, "watchdog", value::some_time),
            health,
            waits: waits.iter().map(|(wait, _)| wait.clone()).collect(),
            essential: section.read(report, "essential", value::boolean).unwrap_or(false),
            reload_signal: section.read(report, "reload-signal", value::reload_signal),
        };
        Some((care, waits))
    }

    /// Whether a line of its output makes it ready.
    pub(super) fn reads_lines(&self) -> bool {
        matches!(self.ready, Some(ReadyText::Line(_)))
    }

    /// How an instance is watched, if the file says anything about it.
    pub(super) fn watch(&self, base: &Path, instance: Option<u32>) -> Option<Watch> {
        if self.ready.is_none() && self.ready_timeout.is_none() && self.watchdog.is_none() && self.health.is_none() {
            return None;
        }
        let mut watch = Watch::default();
        watch.ready = match &self.ready {
            None | Some(ReadyText::Threshold) => Ready::Threshold,
            Some(ReadyText::Started) => Ready::Started,
            Some(ReadyText::Fd(fd)) => Ready::Fd(*fd),
            Some(ReadyText::Notify) => Ready::Notify,
            Some(ReadyText::Line(text)) => Ready::Line(expand(text, instance).into_bytes()),
            Some(ReadyText::Probe(probe)) => Ready::Probe(probe.expand(base, instance)?),
        };
        watch.ready_timeout = self.ready_timeout;
        watch.watchdog = self.watchdog;
        watch.health = match &self.health {
            Some((probe, failures)) => Some(Health::new(probe.expand(base, instance)?, *failures)),
            None => None,
        };
        Some(watch)
    }
}

impl ProbeText {
    fn expand(&self, base: &Path, instance: Option<u32>) -> Option<Probe> {
        let mut probe = Probe::new(match &self.check {
            CheckText::Tcp(text) => Check::Tcp(address(&expand(text, instance))?),
            CheckText::Unix(path) => Check::Unix(expand_path(path, base, instance)),
            CheckText::Command(words) => Check::Command(expand_words(words, base, instance)),
        });
        probe.interval = self.interval.unwrap_or(probe.interval);
        probe.timeout = self.timeout.unwrap_or(probe.timeout);
        Some(probe)
    }
}

fn expand_words(words: &[String], base: &Path, instance: Option<u32>) -> Arc<Vec<OsString>> {
    let (program, args) = words.split_first().map_or((None, &[][..]), |(program, args)| (Some(program), args));
    let program = program.map(|program| expand_program(program, base, instance));
    Arc::new(program.into_iter().chain(args.iter().map(|arg| expand(arg, instance).into())).collect())
}

/// The policy of an instance, whose number may be in the commands that stop it.
pub(super) fn policy_of(policy: &Arc<Policy>, base: &Path, instance: Option<u32>) -> Arc<Policy> {
    let is_command = |step: &StopStep| matches!(step.action, StopAction::Command(_));
    if instance.is_none() || !policy.stop.iter().any(is_command) {
        return Arc::clone(policy);
    }
    let mut own = Policy::clone(policy);
    for step in &mut own.stop {
        if let StopAction::Command(words) = &mut step.action {
            let texts: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            *words = expand_words(&texts, base, instance);
        }
    }
    own.into()
}

/// The address of a server on this machine, or by its number.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let local = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
    match local {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
    .filter(|address| address.port() != 0)
}

fn read_ready(report: &mut Report<'_>, value: &Spanned<DeValue<'_>>) -> Option<ReadyText> {
    if let DeValue::Table(table) = value.get_ref() {
        let known = ["line", "tcp", "unix", "command", "interval", "timeout"];
        let section = Section::new(report, "`ready`", table, &known);
        if section.value("line").is_some() && known[1..].iter().any(|key| section.value(key).is_some()) {
            report.add(value.span(), "`ready` has another key beside `line`, which is none of a check".to_owned());
        }
        if let Some(line) = section.read(report, "line", value::some_text) {
            return Some(ReadyText::Line(line));
        }
        return read_probe(report, "ready", value, &section).map(ReadyText::Probe);
    }
    let text = value.get_ref().as_str().unwrap_or_default();
    let fd = text.strip_prefix("fd:").and_then(|fd| fd.parse().ok()).filter(|fd| (3..1024).contains(fd));
    let ready = match (text, fd) {
        ("threshold", _) => Ok(ReadyText::Threshold),
        ("started", _) => Ok(ReadyText::Started),
        ("notify", _) => Ok(ReadyText::Notify),
        (_, Some(fd)) => Ok(ReadyText::Fd(fd)),
        _ => Err(READY),
    };
    report.check(value.span(), "ready", value.get_ref(), ready)
}

fn read_health(report: &mut Report<'_>, value: &Spanned<DeValue<'_>>) -> Option<(ProbeText, u32)> {
    let table = value.get_ref().as_table().ok_or("a table with one of `command`, `tcp` and `unix`");
    let table = report.check(value.span(), "health", value.get_ref(), table)?;
    let known = ["tcp", "unix", "command", "interval", "timeout", "failures"];
    let section = Section::new(report, "`health`", table, &known);
    let failures = section.read(report, "failures", |value| value::number(value, 1, 1_000_000, "a number from 1 on"));
    let mut probe = read_probe(report, "health", value, &section)?;
    probe.interval = Some(probe.interval.unwrap_or(Duration::from_secs(10)));
    Some((probe, failures.unwrap_or(3)))
}

/// The check of a table that holds one.
fn read_probe(
    report: &mut Report<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    section: &Section<'_>,
) -> Option<ProbeText> {
    let kinds = ["tcp", "unix", "command"];
    let given: Vec<_> = kinds.iter().filter(|kind| section.value(kind).is_some()).collect();
    if given.len() != 1 && !kinds.iter().any(|kind| section.is_misspelt(kind)) {
        let line = if key == "ready" { "`line`, " } else { "" };
        let message = format!(
            "`{key}` checks nothing, or more than one thing; allowed is one of {line}`tcp`, `unix` and `command`"
        );
        report.add(value.span(), message);
        return None;
    }
    // With the number of an instance in it, it is an address all the same.
    let tcp = |value: &DeValue<'_>| {
        let text = value.as_str().filter(|text| address(&expand(text, Some(1))).is_some());
        text.map(|text| CheckText::Tcp(text.to_owned())).ok_or(ADDRESS)
    };
    let tcp = section.read(report, "tcp", tcp);
    let unix = section.read(report, "unix", value::some_text).map(|path| CheckText::Unix(path.into()));
    let command = read_words(report, section).map(CheckText::Command);
    let interval = section.read(report, "interval", value::some_time);
    let timeout = section.read(report, "timeout", value::some_time);
    tcp.or(unix).or(command).map(|check| ProbeText { check, interval, timeout })
}

/// The `command` of a table.
fn read_words(report: &mut Report<'_>, section: &Section<'_>) -> Option<Vec<String>> {
    let words = section.list(report, "command", COMMAND, value::text)?;
    let value = section.value("command")?;
    let is_there = words.first().is_some_and(|program| !program.trim().is_empty());
    report.check(value.span(), "command", value.get_ref(), is_there.then_some(words).ok_or(COMMAND))
}

fn read_waits(report: &mut Report<'_>, section: &Section<'_>, key: &'static str, requires: bool) -> Waits {
    const ALLOWED: &str = "a list of names of processes, or of tables such as { name = \"job\", when = \"completed\" }";
    let Some(value) = section.value(key) else { return Vec::new() };
    let Some(list) = report.check(value.span(), key, value.get_ref(), value.get_ref().as_array().ok_or(ALLOWED)) else {
        return Vec::new();
    };
    let mut waits = Vec::new();
    for element in list.iter() {
        let wait = match element.get_ref() {
            DeValue::Table(table) => {
                let section = Section::new(report, &format!("`{key}`"), table, &["name", "when"]);
                let when = section.read(report, "when", when).unwrap_or_default();
                if section.value("name").is_none() && !section.is_misspelt("name") {
                    report.add(element.span(), format!("`{key}` holds a table without `name`, allowed is {ALLOWED}"));
                }
                section.read(report, "name", value::some_text).map(|on| Wait { on, when, requires })
            }
            other => {
                let on = report.check(element.span(), key, other, value::some_text(other).map_err(|_| ALLOWED));
                on.map(|on| Wait { on, when: When::Ready, requires })
            }
        };
        waits.extend(wait.map(|wait| (wait, element.span())));
    }
    waits
}

fn when(value: &DeValue<'_>) -> Parsed<When> {
    match value.as_str() {
        Some("ready") => Ok(When::Ready),
        Some("started") => Ok(When::Started),
        Some("completed") => Ok(When::Completed),
        _ => Err("\"ready\", \"started\" or \"completed\""),
    }
}

/// The limit of starts of a process or a group.
pub(super) fn start_limit(report: &mut Report<'_>, section: &Section<'_>) -> Option<StartLimit> {
    const ALLOWED: &str = "a table such as { starts = 5, within = \"1m\" }";
    let table = section.table(report, "restart-limit", ALLOWED)?;
    let span = section.span("restart-limit")?;
    let limit = Section::new(report, "`restart-limit`", table, &["starts", "within"]);
    let starts = limit.read(report, "starts", |value| value::number(value, 1, 1_000_000, "a number from 1 on"));
    let within = limit.read(report, "within", value::some_time);
    if ["starts", "within"].iter().any(|key| limit.value(key).is_none() && !limit.is_misspelt(key)) {
        report.add(span, format!("`restart-limit` without `starts` or `within`, allowed is {ALLOWED}"));
    }
    Some(StartLimit { starts: starts?, within: within? })
}

/// Reads the keys of a policy that say when a process has failed, and how it is stopped.
pub(super) fn read_policy(report: &mut Report<'_>, section: &Section<'_>, base: &Path, policy: &mut Policy) {
    policy.restart_limit = start_limit(report, section).or(policy.restart_limit);
    for (key, codes) in [("success-codes", &mut policy.success_codes), ("fatal-codes", &mut policy.fatal_codes)] {
        let code = |value: &DeValue<'_>| value::number(value, 0, 255, CODES);
        if let Some(list) = section.list(report, key, CODES, code) {
            *codes = list.into_iter().map(|code| code as i32).collect();
        }
    }
    let both = policy.fatal_codes.iter().find(|code| **code == 0 || policy.success_codes.contains(code));
    let span = section.span("fatal-codes").or_else(|| section.span("success-codes"));
    if let (Some(code), Some(span)) = (both, span) {
        report.add(span, format!("the exit code {code} is a success and fatal, allowed is one of them"));
    }
    policy.jitter = section.read(report, "jitter", value::percent).unwrap_or(policy.jitter);
    if let Some(steps) = read_stop(report, section, base) {
        policy.stop = steps;
    }
}

fn read_stop(report: &mut Report<'_>, section: &Section<'_>, base: &Path) -> Option<Vec<StopStep>> {
    const ALLOWED: &str = "a list of steps, such as [\"INT\", { signal = \"TERM\", whom = \"main\", wait = \"10s\" }]";
    let value = section.value("stop")?;
    let list = report.check(value.span(), "stop", value.get_ref(), value.get_ref().as_array().ok_or(ALLOWED))?;
    let mut steps = Vec::new();
    for element in list.iter() {
        steps.extend(match element.get_ref() {
            DeValue::Table(table) => read_step(report, element, table, base),
            other => {
                let signal = value::stop_signal(other).map_err(|_| STEP);
                let signal = report.check(element.span(), "stop", other, signal);
                signal.map(|signal| step(StopAction::Signal(signal), StopScope::All, None))
            }
        });
    }
    Some(steps)
}

fn step(action: StopAction, scope: StopScope, wait: Option<Duration>) -> StopStep {
    StopStep { action, scope, wait: wait.unwrap_or(Policy::default().kill_time) }
}

fn read_step(
    report: &mut Report<'_>,
    element: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
    base: &Path,
) -> Option<StopStep> {
    let section = Section::new(report, "`stop`", table, &["signal", "command", "whom", "wait"]);
    let wait = section.read(report, "wait", value::duration);
    let whom = section.read(report, "whom", |value| match value.as_str() {
        Some("all") => Ok(StopScope::All),
        Some("main") => Ok(StopScope::Main),
        _ => Err("\"all\" or \"main\""),
    });
    let signal = section.read(report, "signal", value::stop_signal).map(StopAction::Signal);
    let command = read_words(report, &section).map(|words| StopAction::Command(expand_words(&words, base, None)));
    let given = ["signal", "command"].iter().filter(|key| section.value(key).is_some()).count();
    if given != 1 && !section.is_misspelt("signal") && !section.is_misspelt("command") {
        report.add(element.span(), format!("`stop` has a step with neither or both, allowed is {STEP}"));
    }
    signal.or(command).map(|action| step(action, whom.unwrap_or_default(), wait))
}
