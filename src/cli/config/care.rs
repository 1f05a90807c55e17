//! How a process is watched, and what it waits for, as the file says it.
//!
//! It checks the values and starts nothing. The one rule: a value is kept as it is written until
//! the processes are made, because each instance has its own number in it.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use childminder::{Check, Health, Probe, Ready, Watch, When};
use toml::Spanned;
use toml::de::DeValue;

use super::instances::{expand, expand_path, expand_words};
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
    let command = section.words(report).map(CheckText::Command);
    let interval = section.read(report, "interval", value::some_time);
    let timeout = section.read(report, "timeout", value::some_time);
    tcp.or(unix).or(command).map(|check| ProbeText { check, interval, timeout })
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
