//! The policy of a process, as the file says it: how it is restarted, when it has failed, and how
//! it is stopped.
//!
//! It checks the values and starts nothing. The one rule: what a table does not say is as in
//! `[monitor]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use childminder::restart::{StartLimit, StopAction, StopScope, StopStep};
use childminder::{Leftovers, Policy, PolicyError};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::instances::expand_words;
use super::report::Report;
use super::section::Section;
use super::value::{self, show_duration};

/// The keys of a [`Policy`].
pub(super) const POLICY: [&str; 14] = [
    "threshold",
    "kill-time",
    "min-restart-delay",
    "max-restart-delay",
    "restart",
    "stop-signal",
    "leftovers",
    "successor",
    "stop-scope",
    "restart-limit",
    "success-codes",
    "fatal-codes",
    "jitter",
    "stop",
];

const CODES: &str = "a list of exit codes from 0 to 255";
const STEP: &str = "a signal such as \"TERM\", or a table with `signal` or `command`";

/// The policy of a table, based on `defaults`.
pub(super) fn read(report: &mut Report<'_>, section: &Section<'_>, defaults: &Policy, base: &Path) -> Policy {
    let mut policy = defaults.clone();
    let durations = [
        ("threshold", &mut policy.threshold),
        ("kill-time", &mut policy.kill_time),
        ("min-restart-delay", &mut policy.min_restart_delay),
        ("max-restart-delay", &mut policy.max_restart_delay),
    ];
    for (key, field) in durations {
        *field = section.read(report, key, value::duration).unwrap_or(*field);
    }
    policy.restart = section.read(report, "restart", value::restart).unwrap_or(policy.restart);
    policy.stop_signal = section.read(report, "stop-signal", value::stop_signal).unwrap_or(policy.stop_signal);
    let leftovers = section.read(report, "leftovers", value::kill_or_leave);
    let leftovers = leftovers.map(|kill| if kill { Leftovers::Kill } else { Leftovers::Leave });
    policy.leftovers = leftovers.unwrap_or(policy.leftovers);
    match section.read(report, "successor", value::boolean) {
        Some(_) if section.value("leftovers").is_some() => {
            let span = section.span("successor").unwrap_or(0..0);
            report.add(span, "both `successor` and `leftovers`, allowed is one of them".into());
        }
        Some(true) => policy.leftovers = Leftovers::TakeOver,
        Some(false) if policy.leftovers == Leftovers::TakeOver => policy.leftovers = Leftovers::Kill,
        Some(false) | None => {}
    }
    policy.stop_scope = section.read(report, "stop-scope", value::stop_scope).unwrap_or(policy.stop_scope);
    read_ends(report, section, base, &mut policy);
    policy
}

/// Checks the delays of a policy that is otherwise valid, if this table sets one of them.
pub(super) fn check(report: &mut Report<'_>, section: &Section<'_>, policy: &Policy) {
    let Err(error) = policy.validate() else { return };
    let min_key = section.span("min-restart-delay");
    let Some(span) = min_key.clone().or_else(|| section.span("max-restart-delay")) else { return };
    let (min, max) = (show_duration(policy.min_restart_delay), show_duration(policy.max_restart_delay));
    let message = match error {
        PolicyError::MinAboveMax { .. } if min_key.is_some() => {
            format!("`min-restart-delay` is {min}, allowed is at most `max-restart-delay`, which is {max}")
        }
        PolicyError::MinAboveMax { .. } => {
            format!("`max-restart-delay` is {max}, allowed is at least `min-restart-delay`, which is {min}")
        }
        PolicyError::MaxTooShort { .. } => format!("`max-restart-delay` is {max}, allowed is 10ms or more"),
        _ => error.to_string(),
    };
    report.add(span, message);
}

/// Reads the keys of a policy that say when a process has failed, and how it is stopped.
fn read_ends(report: &mut Report<'_>, section: &Section<'_>, base: &Path, policy: &mut Policy) {
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
    let command = section.words(report).map(|words| StopAction::Command(expand_words(&words, base, None)));
    let given = ["signal", "command"].iter().filter(|key| section.value(key).is_some()).count();
    if given != 1 && !section.is_misspelt("signal") && !section.is_misspelt("command") {
        report.add(element.span(), format!("`stop` has a step with neither or both, allowed is {STEP}"));
    }
    signal.or(command).map(|action| step(action, whom.unwrap_or_default(), wait))
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
