//! One table of the file: the keys that it may have, and their values. Knows the types of the keys,
//! not their meaning.
//!
//! The one rule: each unknown key is reported once, with the known key that was probably meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Report, nearest};
use super::value::{self, Parsed};

const COMMAND: &str = "a list of strings: the program and its arguments";

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

    /// The program at `command` with its arguments, if the key is there and its value is valid.
    pub(super) fn words(&self, report: &mut Report<'_>) -> Option<Vec<String>> {
        let words = self.list(report, "command", COMMAND, value::text)?;
        let value = self.value("command")?;
        let is_there = words.first().is_some_and(|program| !program.trim().is_empty());
        report.check(value.span(), "command", value.get_ref(), is_there.then_some(words).ok_or(COMMAND))
    }
}
