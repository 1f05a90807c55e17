//! One table of the file: the keys that it may have, and their values. Knows the types of the keys,
//! not their meaning.
//!
//! The one rule: each unknown key is reported once, with the known key that was probably meant.

use std::ops::Range;
use std::path::Path;

use childminder::{Leftovers, Policy, PolicyError};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Look;
use super::care;
use super::report::{Report, nearest};
use super::value::{self, Parsed, show_duration};

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

/// The keys of `[monitor]` besides those of a [`Policy`].
pub(super) const MONITOR: [&str; 10] = [
    "socket",
    "socket-mode",
    "socket-group",
    "when-killed",
    "cgroup",
    "contain",
    "timestamps",
    "format",
    "recent",
    "start-limit",
];

pub(super) struct Section<'t> {
    table: &'t DeTable<'t>,
    /// For each unknown key, the known key that was probably meant, if there is one.
    meant: Vec<Option<&'static str>>,
}

impl<'t> Section<'t> {
    /// Reports every key that is not in `known`. `place` names the table in messages.
    pub(super) fn new(report: &mut Report<'_>, place: &str, table: &'t DeTable<'t>, known: &[&'static str]) -> Self {
        let mut meant = Vec::new();
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let nearest = nearest(key.get_ref(), known);
            let allowed = match nearest {
                Some(nearest) => format!("the nearest known one is `{nearest}`"),
                None => format!("allowed are `{}`", known.join("`, `")),
            };
            report.add(key.span(), format!("unknown key `{}` in {place}, {allowed}", key.get_ref().escape_debug()));
            meant.push(nearest);
        }
        Self { table, meant }
    }

    /// The table `[monitor]`.
    pub(super) fn monitor(report: &mut Report<'_>, table: &'t DeTable<'t>) -> Self {
        Self::new(report, "[monitor]", table, &[&MONITOR, &POLICY[..]].concat())
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.get(key)
    }

    /// The place of a key in the text.
    pub(super) fn span(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Whether the key may be missing only because a misspelt key was meant to be it.
    pub(super) fn is_misspelt(&self, key: &str) -> bool {
        self.meant.iter().any(|meant| meant.is_none_or(|meant| meant == key))
    }

    /// The parsed value of a key, if the key is there and its value is valid.
    pub(super) fn read<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<T> {
        let value = self.table.get(key)?;
        report.check(value.span(), key, value.get_ref(), parse(value.get_ref()))
    }

    /// The table at this key, if the key is there and holds a table.
    pub(super) fn table(&self, report: &mut Report<'_>, key: &str, allowed: &str) -> Option<&'t DeTable<'t>> {
        let value = self.table.get(key)?;
        report.check(value.span(), key, value.get_ref(), value.get_ref().as_table().ok_or(allowed))
    }

    /// The list at this key, parsed element by element.
    pub(super) fn list<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        allowed: &str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<Vec<T>> {
        let value = self.table.get(key)?;
        let list = report.check(value.span(), key, value.get_ref(), value.get_ref().as_array().ok_or(allowed))?;
        // All elements are checked, also those after the first mistake.
        let parsed: Vec<_> = list
            .iter()
            .map(|element| report.check(element.span(), key, element.get_ref(), parse(element.get_ref())))
            .collect();
        parsed.into_iter().collect()
    }

    /// The policy of this section, based on `defaults`.
    pub(super) fn policy(&self, report: &mut Report<'_>, defaults: &Policy, base: &Path) -> Policy {
        let mut policy = defaults.clone();
        let durations = [
            ("threshold", &mut policy.threshold),
            ("kill-time", &mut policy.kill_time),
            ("min-restart-delay", &mut policy.min_restart_delay),
            ("max-restart-delay", &mut policy.max_restart_delay),
        ];
        for (key, field) in durations {
            *field = self.read(report, key, value::duration).unwrap_or(*field);
        }
        policy.restart = self.read(report, "restart", value::restart).unwrap_or(policy.restart);
        policy.stop_signal = self.read(report, "stop-signal", value::stop_signal).unwrap_or(policy.stop_signal);
        let leftovers = self.read(report, "leftovers", value::kill_or_leave);
        let leftovers = leftovers.map(|kill| if kill { Leftovers::Kill } else { Leftovers::Leave });
        policy.leftovers = leftovers.unwrap_or(policy.leftovers);
        match self.read(report, "successor", value::boolean) {
            Some(_) if self.value("leftovers").is_some() => {
                let span = self.span("successor").unwrap_or(0..0);
                report.add(span, "both `successor` and `leftovers`, allowed is one of them".into());
            }
            Some(true) => policy.leftovers = Leftovers::TakeOver,
            Some(false) if policy.leftovers == Leftovers::TakeOver => policy.leftovers = Leftovers::Kill,
            Some(false) | None => {}
        }
        policy.stop_scope = self.read(report, "stop-scope", value::stop_scope).unwrap_or(policy.stop_scope);
        care::read_policy(report, self, base, &mut policy);
        policy
    }

    /// How lines are written, as far as this section says it.
    pub(super) fn look(&self, report: &mut Report<'_>) -> Look {
        let timestamps = self.read(report, "timestamps", value::timestamps);
        Look { timestamps, json: self.read(report, "format", value::format) }
    }

    /// Checks the delays of a policy that is otherwise valid, if this section sets one of them.
    pub(super) fn check_policy(&self, report: &mut Report<'_>, policy: &Policy) {
        let Err(error) = policy.validate() else { return };
        let min_key = self.span("min-restart-delay");
        let Some(span) = min_key.clone().or_else(|| self.span("max-restart-delay")) else { return };
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
}
