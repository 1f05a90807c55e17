//! Bytes on their way to a file or an output, and the processes that have written them. Writes
//! nothing itself.
//!
//! The one rule: dropped bytes are counted as lines of the process that has written them, and a
//! line counts once, however many parts of it are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use super::words;

/// The name of the process that has written something; `None` for messages of our own.
pub(crate) type Author = Option<Arc<str>>;

/// The maximum number of names in a message.
const NAMES: usize = 10;

/// The waiting bytes, and the count of the dropped lines.
#[derive(Debug)]
pub(crate) struct Waiting {
    bytes: Vec<u8>,
    /// The number of bytes at the start that have been written.
    written: usize,
    /// The index of the first byte of each run of bytes from one author, with the author. There is
    /// one run as long as there are bytes.
    authors: VecDeque<(usize, Author)>,
    losses: Losses,
    /// Whether the last dropped byte did not end its line.
    within_dropped_line: bool,
    /// The number of bytes of memory that are kept for the next bytes.
    kept: usize,
}

impl Waiting {
    pub(crate) fn new(kept: usize) -> Self {
        Self {
            bytes: Vec::new(),
            written: 0,
            authors: VecDeque::new(),
            losses: Losses::default(),
            within_dropped_line: false,
            kept,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the next newline may only end a line that was dropped.
    pub(crate) fn is_within_dropped_line(&self) -> bool {
        self.within_dropped_line
    }

    /// Takes more bytes of this author. A newline that only ends a dropped line is left out.
    pub(crate) fn push(&mut self, author: &Author, pieces: &[&[u8]]) {
        self.note_author(author);
        let mut is_rest = self.within_dropped_line;
        for piece in pieces {
            let mut piece = *piece;
            if is_rest && !piece.is_empty() {
                is_rest = false;
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
            self.bytes.extend_from_slice(piece);
        }
        self.within_dropped_line = is_rest;
    }

    /// Notes the author of the next byte.
    fn note_author(&mut self, author: &Author) {
        if !self.authors.back().is_some_and(|(_, last)| is_same(last, author)) {
            self.authors.push_back((self.bytes.len(), author.clone()));
        }
    }

    /// Notes that the first `length` bytes have been written.
    pub(crate) fn pass(&mut self, length: usize) {
        self.written += length;
        if self.is_empty() {
            if self.bytes.capacity() > self.kept {
                // If the vector were shrunk instead, the allocator would map it anew each time.
                self.bytes = Vec::new();
            }
            self.bytes.clear();
            self.written = 0;
            self.authors.clear();
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            while self.authors.get(1).is_some_and(|(start, _)| *start <= self.written) {
                self.authors.pop_front();
            }
            for (start, _) in &mut self.authors {
                *start = start.saturating_sub(self.written);
            }
            self.written = 0;
        }
    }

    /// Drops these bytes of the author at once.
    pub(crate) fn lose(&mut self, author: &Author, pieces: &[&[u8]]) {
        for piece in pieces {
            let lines = self.count(piece);
            self.losses.add(author, lines);
        }
    }

    /// Drops all but the first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        let end = (self.written + length).min(self.bytes.len());
        let dropped = self.bytes.split_off(end);
        // Find the authors of the dropped bytes.
        let first = self.authors.iter().rposition(|(start, _)| *start <= end).unwrap_or(0);
        let authors: Vec<_> = self.authors.range(first..).cloned().collect();
        let ends = authors.iter().skip(1).map(|(start, _)| start - end).chain([dropped.len()]);
        let mut before = 0;
        for ((_, author), next) in authors.iter().zip(ends) {
            self.lose(author, &[&dropped[before..next]]);
            before = next;
        }
        self.authors.retain(|(start, _)| *start < end);
        self.pass(0);
    }

    /// Adds a newline of our own, which ends a line whose rest was dropped.
    pub(crate) fn end_line(&mut self, author: &Author) {
        self.note_author(author);
        self.bytes.push(b'\n');
    }

    /// The author of the last bytes.
    pub(crate) fn last_author(&self) -> Author {
        self.authors.back().and_then(|(_, author)| author.clone())
    }

    /// The number of lines in these bytes, which follow the last dropped bytes.
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let Some(last) = bytes.last() else { return 0 };
        let ends: u64 = bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum();
        let is_unfinished = *last != b'\n';
        let was_unfinished = std::mem::replace(&mut self.within_dropped_line, is_unfinished);
        ends + u64::from(is_unfinished) - u64::from(was_unfinished)
    }

    pub(crate) fn has_lost(&self) -> bool {
        !self.losses.0.is_empty()
    }

    /// The losses since the last call.
    pub(crate) fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }
}

/// Whether both are the same string in memory. Each process has its own.
fn is_same(one: &Author, other: &Author) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// The number of dropped lines of each author. Displayed as the end of a message:
/// `3 lines were dropped: 2 of web, 1 of worker`.
#[derive(Debug, Default)]
pub(crate) struct Losses(BTreeMap<Author, u64>);

impl Losses {
    fn add(&mut self, author: &Author, lines: u64) {
        if lines > 0 {
            *self.0.entry(author.clone()).or_default() += lines;
        }
    }
}

impl Display for Losses {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no line was dropped");
        }
        write!(f, "{} dropped: ", words::lines_were(self.0.values().sum()))?;
        let own = self.0.get(&None).map(|lines| format!("{lines} of our own"));
        let named = self.0.iter().filter_map(|(name, lines)| Some(format!("{lines} of {}", name.as_ref()?)));
        let parts: Vec<String> = own.into_iter().chain(named.take(NAMES)).collect();
        f.write_str(&parts.join(", "))?;
        let others = self.0.iter().filter(|(name, _)| name.is_some()).skip(NAMES);
        let (count, lines) = others.fold((0, 0), |(count, lines), (_, more)| (count + 1, lines + more));
        if count > 0 { write!(f, ", {lines} of {count} others") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(name: &str) -> Author {
        Some(name.into())
    }

    #[test]
    fn lines_are_counted_once_and_by_author() {
        let (a, b) = (author("a"), author("b"));
        let mut waiting = Waiting::new(0);
        waiting.push(&a, &[b"one\ntwo\nthr"]);
        waiting.push(&b, &[b"\nfour\n"]);
        waiting.pass(6);
        assert_eq!(waiting.bytes(), b"o\nthr\nfour\n");
        // The start of a line stays, and the rest of it is dropped.
        waiting.truncate(3);
        waiting.end_line(&waiting.last_author());
        assert_eq!(waiting.bytes(), b"o\nt\n");
        assert_eq!(waiting.take_losses().to_string(), "2 lines were dropped: 1 of a, 1 of b");
        waiting.lose(&a, &[b"fi", b"ve", b"\n", b"si"]);
        waiting.lose(&b, &[b"\nse"]);
        waiting.push(&b, &[b"\n", b"", b"eight\n"]);
        assert_eq!(waiting.bytes(), b"o\nt\neight\n");
        assert_eq!(waiting.take_losses().to_string(), "3 lines were dropped: 2 of a, 1 of b");
        waiting.pass(waiting.len());
        assert!(waiting.is_empty() && waiting.authors.is_empty() && waiting.bytes.capacity() == 0);
        assert_eq!(waiting.take_losses().to_string(), "no line was dropped");
        // The end of a line is written, though its start was not.
        waiting.lose(&a, &[b"ni"]);
        waiting.push(&a, &[b"ne\n\n"]);
        assert_eq!(waiting.bytes(), b"ne\n\n");
        waiting.truncate(0);
        assert_eq!(waiting.take_losses().to_string(), "3 lines were dropped: 3 of a");
    }

    #[test]
    fn many_authors_are_not_all_named() {
        let mut waiting = Waiting::new(0);
        waiting.lose(&None, &[b"message\n"]);
        for number in 10..25 {
            waiting.lose(&author(&number.to_string()), &[b"line\nline\n"]);
        }
        let said = waiting.take_losses().to_string();
        assert!(said.starts_with("31 lines were dropped: 1 of our own, 2 of 10, 2 of 11, "), "{said}");
        assert!(said.ends_with(", 2 of 19, 10 of 5 others"), "{said}");
    }

    #[test]
    fn any_order_of_pushes_and_passes_keeps_the_authors() {
        let mut seed = 3_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let authors = [author("a"), author("b"), None];
        for _ in 0..200 {
            let mut waiting = Waiting::new(64);
            let mut pushed = [0_u64; 3];
            let mut order = VecDeque::new();
            for _ in 0..random(40) {
                let who = random(3);
                order.push_back(who);
                pushed[who] += 1;
                waiting.push(&authors[who], &[b"line\n"]);
                let length = random(3).min(waiting.len() / 5);
                for who in order.drain(..length) {
                    pushed[who] -= 1;
                }
                waiting.pass(5 * length);
                assert_eq!(waiting.authors.is_empty(), waiting.is_empty());
            }
            waiting.truncate(0);
            let losses = waiting.take_losses();
            assert!(
                authors.iter().zip(pushed).all(|(who, pushed)| losses.0.get(who).is_none_or(|lost| *lost <= pushed))
            );
        }
    }
}
