//! Keeps the last lines of a process for `childminder logs`, with their times. Bounded in lines and
//! in bytes. Takes no heap before the first line.
//!
//! The one rule: the oldest line goes first, and a line is kept as a whole or not at all. Only a
//! line that is too long by itself is cut.

use std::collections::VecDeque;

use memchr::{memchr, memrchr_iter};

use crate::cli::control::protocol::LogLine;
use crate::cli::text::fit;

/// The maximum number of lines that are kept of a process, unless its settings say how many bytes.
const LINES: usize = 100;
/// The maximum number of bytes in these lines, and the least number that settings may say. The
/// longest piece of a line fits.
const BYTES: usize = 16 * 1024;

/// A mark is the number of the stream with these two bits.
const CONTINUED: u8 = 0x10;
const CUT: u8 = 0x20;

/// The lines with their newlines, and a mark for each.
#[derive(Debug)]
pub(super) struct Recent {
    bytes: VecDeque<u8>,
    marks: VecDeque<u8>,
    times: VecDeque<Together>,
    most_bytes: usize,
    most_lines: usize,
    /// Where the oldest line that is kept begins.
    start: Position,
}

/// A place between two lines, counted from the first line ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    line: u64,
    byte: u64,
}

impl Position {
    fn pass(&mut self, lines: usize, bytes: usize) {
        self.line += lines as u64;
        self.byte += bytes as u64;
    }
}

/// The lines that have come at the same time: the time in milliseconds since 1970, and how many
/// there are.
#[derive(Debug, Clone, Copy)]
struct Together(u64);

impl Together {
    const COUNT: u64 = 0xffff;

    fn new(time: u64) -> Self {
        Self(time << 16)
    }

    fn time(self) -> u64 {
        self.0 >> 16
    }

    fn count(self) -> u64 {
        self.0 & Self::COUNT
    }
}

impl Default for Recent {
    fn default() -> Self {
        let (bytes, marks, times) = Default::default();
        Self { bytes, marks, times, most_bytes: BYTES, most_lines: LINES, start: Position::default() }
    }
}

impl Recent {
    /// One that keeps so many bytes of lines, or the default.
    pub(super) fn of(bytes: Option<u32>) -> Self {
        let mut recent = Self::default();
        recent.set_most(bytes);
        recent
    }

    /// Sets how many bytes of lines are kept, or the default.
    pub(super) fn set_most(&mut self, bytes: Option<u32>) {
        let before = self.most_bytes;
        (self.most_bytes, self.most_lines) = match bytes {
            None => (BYTES, LINES),
            Some(bytes) => (usize::try_from(bytes).unwrap_or(usize::MAX), usize::MAX),
        };
        self.make_room(0, 0);
        if self.most_bytes < before {
            self.bytes.shrink_to_fit();
        }
    }

    pub(super) fn push(&mut self, line: LogLine<'_>) {
        if self.most_bytes == 0 {
            return;
        }
        let text = fit(line.text, BYTES);
        let cut = line.cut || text.len() < line.text.len();
        self.make_room(1, text.len() + 1);
        let mark = |is_so, mark| if is_so { mark } else { 0 };
        self.marks.push_back(line.stream | mark(line.continued, CONTINUED) | mark(cut, CUT));
        self.bytes.extend(text);
        self.bytes.push_back(b'\n');
        self.note_time(1, line.time);
    }

    /// Takes whole lines with their newlines. No line is longer than [`BYTES`].
    pub(super) fn push_lines(&mut self, stream: u8, lines: &[u8], time: u64) {
        if self.most_bytes == 0 {
            return;
        }
        let (tail, count) = tail(lines, self.most_bytes, self.most_lines);
        if tail.len() < lines.len() {
            // These lines alone fill the room.
            self.start.pass(self.marks.len(), self.bytes.len());
            self.bytes.clear();
            self.marks.clear();
            self.times.clear();
        }
        self.make_room(count, tail.len());
        self.marks.extend(std::iter::repeat_n(stream, count));
        self.bytes.extend(tail);
        self.note_time(count, time);
    }

    /// Notes the time of the last lines.
    fn note_time(&mut self, mut count: usize, time: u64) {
        while count > 0 {
            match self.times.back_mut().filter(|last| last.time() == time && last.count() < Together::COUNT) {
                None => self.times.push_back(Together::new(time)),
                Some(last) => {
                    let more = u64::try_from(count).unwrap_or(u64::MAX).min(Together::COUNT - last.count());
                    last.0 += more;
                    count -= usize::try_from(more).unwrap_or(count);
                }
            }
        }
    }

    fn forget_oldest_time(&mut self) {
        if let Some(first) = self.times.front_mut() {
            first.0 -= 1;
            if first.count() == 0 {
                self.times.pop_front();
            }
        }
    }

    /// Drops the oldest lines until there is room for so many lines and bytes, newlines included.
    fn make_room(&mut self, lines: usize, bytes: usize) {
        let (most_lines, most_bytes) = (self.most_lines, self.most_bytes + 1);
        while self.marks.len() + lines > most_lines || self.bytes.len() + bytes > most_bytes {
            let Some(newline) = self.first_newline() else { break };
            self.bytes.drain(..=newline);
            self.marks.pop_front();
            self.start.pass(1, newline + 1);
            self.forget_oldest_time();
        }
        reserve(&mut self.marks, lines, most_lines.min(most_bytes));
        reserve(&mut self.bytes, bytes, most_bytes);
    }

    fn first_newline(&self) -> Option<usize> {
        let (front, back) = self.bytes.as_slices();
        memchr(b'\n', front).or_else(|| memchr(b'\n', back).map(|newline| front.len() + newline))
    }

    /// Calls `see` with each line from a place on, the oldest first, until it returns `false`.
    /// Returns the place behind the last line that it has seen. Lines that are not kept any more
    /// are left out.
    pub(super) fn read(&mut self, from: Position, mut see: impl FnMut(LogLine<'_>) -> bool) -> Position {
        let mut at = if from.line < self.start.line { self.start } else { from };
        let skipped = |at: u64, start: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
        let (lines, bytes) = (skipped(at.line, self.start.line), skipped(at.byte, self.start.byte));
        let text: &[u8] = self.bytes.make_contiguous();
        let repeat = |together: &Together| {
            let count = usize::try_from(together.count()).unwrap_or(0);
            std::iter::repeat_n(together.time(), count)
        };
        let marks = self.marks.iter().skip(lines).zip(self.times.iter().flat_map(repeat).skip(lines));
        let text = text.get(bytes..).unwrap_or_default();
        for (line, (mark, time)) in text.split_inclusive(|byte| *byte == b'\n').zip(marks) {
            let (continued, cut) = (mark & CONTINUED != 0, mark & CUT != 0);
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            at.pass(1, line.len());
            if !see(LogLine { stream: mark & !(CONTINUED | CUT), continued, cut, text, time }) {
                break;
            }
        }
        at
    }

    /// The place behind the last line.
    pub(super) fn end(&self) -> Position {
        let mut end = self.start;
        end.pass(self.marks.len(), self.bytes.len());
        end
    }
}

/// The end of `lines` that fits, and its number of lines.
fn tail(lines: &[u8], most_bytes: usize, most_lines: usize) -> (&[u8], usize) {
    // This range contains the byte before the oldest line that fits, if there is one.
    let near = lines.len().saturating_sub(most_bytes + 2);
    let (mut start, mut count) = (lines.len(), 0);
    for newline in memrchr_iter(b'\n', &lines[near..lines.len().saturating_sub(1)]) {
        if count + 1 == most_lines {
            return (&lines[near + newline + 1..], most_lines);
        }
        (start, count) = (near + newline + 1, count + 1);
    }
    let fits = lines.len() <= most_bytes + 1;
    if fits { (lines, count + usize::from(!lines.is_empty())) } else { (&lines[start..], count) }
}

/// Reserves no more than is needed, because a ring comes to use all of its memory.
fn reserve(ring: &mut VecDeque<u8>, more: usize, most: usize) {
    let length = ring.len() + more;
    if length > ring.capacity() {
        ring.reserve_exact(length.next_power_of_two().min(most) - ring.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: u8, text: &[u8]) -> LogLine<'_> {
        LogLine { stream, continued: false, cut: false, text, time: 7 }
    }

    fn each(recent: &mut Recent, mut see: impl FnMut(LogLine<'_>)) {
        let end = recent.read(Position::default(), |line| {
            see(line);
            true
        });
        assert_eq!(end, recent.end());
    }

    fn kept(recent: &mut Recent) -> Vec<(u8, String)> {
        let mut lines = Vec::new();
        each(recent, |line| lines.push((line.stream, String::from_utf8_lossy(line.text).into_owned())));
        lines
    }

    #[test]
    fn keeps_the_last_lines() {
        let mut recent = Recent::default();
        for number in 0..250 {
            recent.push(line(1 + (number % 2) as u8, number.to_string().as_bytes()));
        }
        let lines = kept(&mut recent);
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].clone(), lines[99].clone()), ((1, "150".into()), (2, "249".into())));
    }

    #[test]
    fn keeps_no_more_than_so_many_bytes() {
        let mut recent = Recent::default();
        for length in [0, 10_000, 10_000, 100, 1 << 20, 3] {
            recent.push(line(1, &vec![b'x'; length]));
            assert!(recent.bytes.len() <= BYTES + 1 && recent.bytes.capacity() <= BYTES + 1);
        }
        let lengths: Vec<usize> = kept(&mut recent).iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [3]);
        for length in (0..300).chain([BYTES]) {
            recent.push(line(1, &vec![b'x'; length]));
            assert!(recent.bytes.capacity() <= BYTES + 1);
        }
        assert_eq!(kept(&mut recent)[0].1.len(), BYTES, "a piece is there as a whole");
    }

    #[test]
    fn of_many_lines_at_once_the_same_are_kept_as_one_by_one() {
        let mut seed = 5_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for longest in [2, 100, 300, BYTES + 1] {
            let (mut at_once, mut one_by_one) = (Recent::default(), Recent::default());
            for round in 0..60 {
                let stream = 1 + random(2) as u8;
                let mut lines = Vec::new();
                let most = [3, 300][random(2)];
                for _ in 0..=random(most) {
                    let length = random(longest);
                    lines.extend(std::iter::repeat_n(b'a' + (round % 26) as u8, length));
                    lines.push(b'\n');
                }
                at_once.push_lines(stream, &lines, 7);
                for text in lines.split_inclusive(|byte| *byte == b'\n') {
                    one_by_one.push(line(stream, &text[..text.len() - 1]));
                }
                assert_eq!(kept(&mut at_once), kept(&mut one_by_one), "{longest} {round}");
                assert!(at_once.bytes.capacity() <= BYTES + 1);
            }
        }
    }

    #[test]
    fn remembers_which_are_pieces() {
        let mut recent = Recent::default();
        let mut lines = Vec::new();
        for (stream, continued, cut) in
            [(1, false, true), (2, false, false), (1, true, true), (1, true, false), (2, false, true), (2, true, false)]
        {
            lines.push(LogLine { stream, continued, cut, text: b"text", time: 5 });
        }
        lines.iter().for_each(|line| recent.push(*line));
        let mut again = lines.iter();
        each(&mut recent, |line| assert_eq!(Some(&line), again.next()));
        assert_eq!(again.next(), None);
        // A line that is too long by itself is cut between two characters and marked as cut.
        let long = "x".to_owned() + &"€".repeat(BYTES);
        recent.push(line(1, long.as_bytes()));
        each(&mut recent, |line| {
            assert!(line.cut && std::str::from_utf8(line.text).is_ok_and(|text| long.starts_with(text)));
            assert!(BYTES - line.text.len() < 3);
        });
    }

    #[test]
    fn every_line_keeps_its_time() {
        let mut recent = Recent::default();
        recent.push_lines(1, b"1\n2\n3\n", 1000);
        recent.push(LogLine { time: 1001, ..line(1, b"4") });
        recent.push_lines(2, &b"x\n".repeat(98), 1002);
        let mut times = Vec::new();
        each(&mut recent, |line| times.push(line.time));
        assert_eq!((times.len(), &times[..3]), (100, &[1000, 1001, 1002][..]));
        assert_eq!(recent.times.len(), 3);
        recent.set_most(Some(1 << 20));
        recent.push_lines(1, &b"y\n".repeat(200_000), 1003);
        let mut times = Vec::new();
        each(&mut recent, |line| times.push(line.time));
        assert_eq!((times.len(), times.first(), times.last()), (200_100, Some(&1000), Some(&1003)));
        recent.set_most(Some(0));
        recent.push_lines(1, b"z\n", 1004);
        recent.push(line(1, b"z"));
        assert_eq!((kept(&mut recent).len(), recent.times.len(), recent.bytes.capacity()), (0, 0, 0));
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let mut recent = Recent::default();
        let (mut at, mut seen) = (Position::default(), Vec::new());
        for number in 0..1000 {
            recent.push(line(1, number.to_string().as_bytes()));
            if number % 3 == 0 {
                at = recent.read(at, |line| {
                    seen.push(String::from_utf8_lossy(line.text).parse::<u32>().unwrap());
                    seen.len() % 2 == 1
                });
                assert_eq!(at == recent.end(), seen.last() == Some(&number));
            }
        }
        let is_in_order = seen.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(is_in_order && seen.len() > 300 && seen[..10] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "{seen:?}");
        // A flood that fills the room moves a reader to its oldest line.
        recent.push_lines(1, &b"5\n".repeat(300), 9);
        let mut count = 0;
        recent.read(at, |_| {
            count += 1;
            true
        });
        assert_eq!(count, LINES);
    }

    #[test]
    fn an_empty_one_takes_no_heap() {
        assert_eq!(Recent::default().bytes.capacity(), 0);
    }
}
