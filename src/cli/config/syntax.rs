//! Parses text into tables. Reduces what the parser reports about broken syntax to the mistakes
//! that a person has to correct.
//!
//! The one rule: each mistake gives one message, which is the first one about its value or line.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::report::{Report, in_order};

/// The maximum number of reported mistakes of syntax. A file with more of them is probably no
/// configuration, and each mistake is compared with all the others.
const MOST: usize = 1000;

/// The text without the lines at which the parser would stop, which are reported. The rest keeps
/// its place.
pub(super) fn without_bare_keys<'t>(report: &mut Report<'_>, text: &'t str) -> Cow<'t, str> {
    let mut mended = Cow::Borrowed(text);
    for error in DeTable::parse_recoverable(text).1 {
        if error.message().starts_with("key with no value") {
            let at = start(&error, text);
            let line = line(text, at);
            mended.to_mut().replace_range(line.clone(), &" ".repeat(line.len()));
            report.add_syntax(at, in_words(&error, text), line);
        }
    }
    mended
}

/// The tables as far as they can be parsed. The rest is reported.
pub(super) fn parse<'t>(report: &mut Report<'_>, text: &'t str) -> Spanned<DeTable<'t>> {
    let (table, found) = DeTable::parse_recoverable(text);
    let mut errors: Vec<_> = in_order(found, |error| start(error, text)).collect();
    let more = errors.get(MOST).map(|error| start(error, text));
    errors.truncate(MOST);
    let mut values = Vec::new();
    collect_values(text, table.get_ref(), &mut values);

    let mut told: Option<Range<usize>> = None;
    let mut double_table: Option<Range<usize>> = None;
    for error in &errors {
        let at = start(error, text);
        if error.message() == "duplicate key" {
            // A duplicate within a table that is a duplicate itself is not reported.
            if double_table.as_ref().is_some_and(|table| table.contains(&at)) {
                continue;
            }
            let line = line(text, at);
            let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
            let message = format!("duplicate `{}`, allowed is once", key.escape_debug());
            if text[line.clone()].trim_start().starts_with('[') {
                double_table = Some(line.start..next_table(text, line.end));
                // Two tables share this name, and checks of their combined keys mean nothing.
                report.add_syntax(at, message, at..at);
            } else {
                report.add(at..at, message);
            }
            continue;
        }
        if told.as_ref().is_some_and(|told| told.start <= at && at <= told.end) {
            continue;
        }
        let place = values.iter().find(|value| value.start <= at && at <= value.end);
        let place = place.cloned().unwrap_or_else(|| line(text, at));
        // The parser takes everything after an unclosed bracket for its content, so only the
        // bracket is reported.
        let within = |other: &&Error| place.contains(&start(other, text)) || start(other, text) == place.end;
        let unclosed = errors.iter().filter(within).find(|other| other.message().starts_with("unclosed "));
        let (at, said) = unclosed.map_or((at, error), |unclosed| (place.start, unclosed));
        // With a broken header, the table of the keys below is unknown.
        let line = line(text, at);
        let is_header = text[line.clone()].trim_start().starts_with('[');
        let end = if is_header { next_table(text, line.end).saturating_sub(2) } else { place.end };
        report.add_syntax(at, in_words(said, text), line.start..end);
        told = Some(place);
    }
    if let Some(at) = more {
        let message = "more mistakes than can be told; there may be others from here on";
        report.add_syntax(at, message.into(), at..text.len());
    }
    table
}

/// A message with the text that was found, if it is visible, and the parser's error.
fn in_words(error: &Error, text: &str) -> String {
    let found = error.span().and_then(|span| text.get(span)).filter(|found| !found.trim().is_empty());
    match found.and_then(|found| found.lines().next()) {
        Some(found) => format!("`{}`: {}", found.escape_debug(), error.message()),
        None => error.message().to_owned(),
    }
}

fn start(error: &Error, text: &str) -> usize {
    let mut start = error.span().map_or(text.len(), |span| span.start.min(text.len()));
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    start
}

/// The range of the line around an offset, without its newline.
fn line(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    start..text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

/// The start of the next line with a table's header.
fn next_table(text: &str, from: usize) -> usize {
    text[from..]
        .match_indices('\n')
        .map(|(newline, _)| from + newline + 1)
        .find(|start| text[*start..].trim_start_matches([' ', '\t']).starts_with('['))
        .unwrap_or(text.len() + 1)
}

/// Collects the ranges of all values that are not tables of their own in the file.
fn collect_values(text: &str, table: &DeTable<'_>, values: &mut Vec<Range<usize>>) {
    for value in table.values() {
        let is_inline = || text.get(value.span()).is_some_and(|text| text.starts_with('{'));
        match value.get_ref() {
            DeValue::Table(inner) if !is_inline() => collect_values(text, inner, values),
            _ => values.push(value.span()),
        }
    }
}
