//! The mistakes and warnings of a file, all together and each with its place. Prints nothing.
//!
//! The one rule: each mistake gives one message, and no message only repeats the consequence of
//! another mistake.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use toml::de::DeValue;

use super::source::Unreadable;
use crate::cli::text::visible;

/// Mistakes and warnings about a file. Each is displayed as one line: `file:line:column: what was
/// found, what is allowed`.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Located>,
    /// Whether there is a mistake among them.
    is_broken: bool,
}

#[derive(Debug)]
struct Located {
    file: Rc<Path>,
    /// The line and the column, from 1, in characters. `None` for a file that cannot be read at
    /// all.
    at: Option<(usize, usize)>,
    message: String,
}

impl Findings {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Puts a warning about a whole file in front, if there is one.
    pub(super) fn warn_first(&mut self, file: &Path, warning: Option<String>) {
        let message = |warning| format!("warning: {warning}");
        let located = warning.map(|warning| Located { file: file.into(), at: None, message: message(warning) });
        self.list.splice(..0, located);
    }

    pub(super) fn unreadable(Unreadable { path, message, .. }: Unreadable) -> Self {
        Self { list: vec![Located { file: path.into(), at: None, message }], is_broken: true }
    }

    /// Adds those of another file.
    pub(super) fn append(&mut self, other: Self) {
        self.list.extend(other.list);
        self.is_broken |= other.is_broken;
    }

    /// The warnings, or all of them as an error if there is a mistake.
    pub(super) fn into_result(self) -> Result<Self, Self> {
        if self.is_broken { Err(self) } else { Ok(self) }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Located { file, at, message }) in self.list.iter().enumerate() {
            let end_of_last = if index == 0 { "" } else { "\n" };
            write!(f, "{end_of_last}{}:", visible(&file.to_string_lossy()))?;
            if let Some((line, column)) = at {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " {}", visible(message))?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

/// Collects mistakes and warnings while a file is read.
pub(super) struct Report<'t> {
    text: &'t str,
    /// The places with broken syntax. Values that are found there mean nothing.
    spoiled: Vec<Range<usize>>,
    found: Vec<(usize, String)>,
    /// Whether there is a mistake among them.
    is_broken: bool,
    told: usize,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, spoiled: Vec::new(), found: Vec::new(), is_broken: false, told: 0 }
    }

    /// The length of the text, in bytes.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds a mistake at `span`, unless its syntax is broken.
    pub(super) fn add(&mut self, span: Range<usize>, message: String) {
        self.told += 1;
        if !self.is_spoiled(&span) {
            self.is_broken = true;
            self.found.push((span.start, message));
        }
    }

    /// Adds a warning about `span`, unless its syntax is broken.
    pub(super) fn warn(&mut self, span: Range<usize>, message: String) {
        if !self.is_spoiled(&span) {
            self.found.push((span.start, format!("warning: {message}")));
        }
    }

    /// Adds a mistake of syntax at `at`. Everything in `spoiled` is broken by it.
    pub(super) fn add_syntax(&mut self, at: usize, message: String, spoiled: Range<usize>) {
        self.is_broken = true;
        self.found.push((at, message));
        self.spoiled.push(spoiled);
    }

    /// Whether anything within (or at the ends of) this span has broken syntax.
    pub(super) fn is_spoiled(&self, span: &Range<usize>) -> bool {
        self.spoiled.iter().any(|range| range.start <= span.end && span.start <= range.end)
    }

    /// The number of mistakes so far, reported or not. Compare two counts to see whether a part has
    /// mistakes.
    pub(super) fn count(&self) -> usize {
        self.told
    }

    /// Returns `value`, or reports the problem with it: what was found at `span`, and what is
    /// allowed there.
    pub(super) fn check<T>(
        &mut self,
        span: Range<usize>,
        key: &str,
        found: &DeValue<'_>,
        value: Result<T, &str>,
    ) -> Option<T> {
        let allowed = match value {
            Ok(value) => return Some(value),
            Err(allowed) => allowed,
        };
        self.add(span, format!("`{}` is {}, allowed is {allowed}", key.escape_debug(), describe(found)));
        None
    }

    /// The mistakes and warnings with their places.
    pub(super) fn finish(self, file: &Path) -> Findings {
        let file: Rc<Path> = file.into();
        let mut places = Places { text: self.text, offset: 0, line: 1, column: 1 };
        let locate = |(offset, message)| Located { file: Rc::clone(&file), at: Some(places.advance(offset)), message };
        let list = in_order(self.found, |(offset, _)| *offset).map(locate).collect();
        Findings { list, is_broken: self.is_broken }
    }
}

/// The elements in the order of their places. Elements with the same place keep their order. All
/// types share one sort of indices, because the code of a sort for each type would be larger than
/// everything that is sorted here.
pub(super) fn in_order<T>(list: Vec<T>, place: impl Fn(&T) -> usize) -> impl Iterator<Item = T> {
    let mut order: Vec<(usize, usize)> = list.iter().map(place).zip(0..).collect();
    order.sort_unstable();
    let mut list: Vec<Option<T>> = list.into_iter().map(Some).collect();
    order.into_iter().filter_map(move |(_, index)| list[index].take())
}

/// A place in a text that only moves forward, so that the text is read once, however many mistakes
/// it has.
struct Places<'t> {
    text: &'t str,
    /// In bytes.
    offset: usize,
    line: usize,
    column: usize,
}

impl Places<'_> {
    /// The line and the column of a byte offset, which is not before the last one.
    fn advance(&mut self, offset: usize) -> (usize, usize) {
        let passed = self.text.get(self.offset..offset).unwrap_or(&self.text[self.offset..]);
        self.offset += passed.len();
        if let Some(newline) = passed.rfind('\n') {
            self.line += passed.matches('\n').count();
            self.column = 1 + passed[newline + 1..].chars().count();
        } else {
            self.column += passed.chars().count();
        }
        (self.line, self.column)
    }
}

/// The description of a value in a message.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() > 60 => "a long string".into(),
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date or time".into(),
        DeValue::Array(array) if array.is_empty() => "an empty list".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// The kind of a value in a message, for a value that may be a secret.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string with NUL",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The known key or name that `key` was probably meant to be.
pub(crate) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key: Vec<char> = key.chars().collect();
    let near = known.iter().filter_map(|known| Some((distance(&key, known, key.len() / 2)?, *known)));
    near.min().map(|(_, nearest)| nearest)
}

/// The number of characters to add, remove or replace (Levenshtein), if it is at most `most`.
fn distance(from: &[char], to: &str, most: usize) -> Option<usize> {
    if to.chars().count().abs_diff(from.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (i, a) in to.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        row[0] = left;
        let mut least = left;
        for (b, above) in from.iter().zip(&mut row[1..]) {
            left = (diagonal + usize::from(a != *b)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, left);
            least = least.min(left);
        }
        // The distance only grows from here on.
        if least > most {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_characters_from_one() {
        let text = "a\nß = 1\n";
        let mut places = Places { text, offset: 0, line: 1, column: 1 };
        let found = [0, 1, 5, 5, text.len(), 99].map(|offset| places.advance(offset));
        assert_eq!(found, [(1, 1), (1, 2), (2, 3), (2, 3), (3, 1), (3, 1)]);
        let mut places = Places { text: "", offset: 0, line: 1, column: 1 };
        assert_eq!(places.advance(0), (1, 1));
    }

    #[test]
    fn orders_by_place_and_keeps_the_order_of_equals() {
        let list = vec![(3, 'a'), (1, 'b'), (3, 'c'), (1, 'd'), (0, 'e')];
        assert!(in_order(list, |(place, _)| *place).map(|(_, name)| name).eq("ebdac".chars()));
    }

    #[test]
    fn knows_what_was_probably_meant() {
        let known = ["command", "kill-time", "user"];
        assert_eq!(nearest("comand", &known), Some("command"));
        assert_eq!(nearest("kill_time", &known), Some("kill-time"));
        assert_eq!(nearest("usre", &known), Some("user"));
        assert_eq!(nearest("depends", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest("x", &[]), None);
        let kitten: Vec<char> = "kitten".chars().collect();
        assert_eq!([2, 3, 9].map(|most| distance(&kitten, "sitting", most)), [None, Some(3), Some(3)]);
    }
}
