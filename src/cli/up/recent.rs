//! Keeps the last lines of a process for `childminder logs`. Bounded in lines and in bytes. Takes
//! no heap before the first line.
//!
//! The one rule: the oldest line goes first, and a line is kept as a whole or not at all. Only a
//! line that is too long by itself is cut.

use std::collections::VecDeque;

use memchr::{memchr, memrchr_iter};

use crate::cli::control::protocol::LogLine;
use crate::cli::text::fit;

/// The maximum number of lines that are kept of a process.
const LINES: usize = 100;
/// The maximum number of bytes in these lines. The longest piece of a line fits.
const BYTES: usize = 16 * 1024;

/// A mark is the number of the stream with these two bits.
const CONTINUED: u8 = 0x10;
const CUT: u8 = 0x20;

/// The lines with their newlines, and a mark for each.
#[derive(Debug, Default)]
pub(super) struct Recent {
    bytes: VecDeque<u8>,
    marks: VecDeque<u8>,
}

impl Recent {
    pub(super) fn push(&mut self, line: LogLine<'_>) {
        let text = fit(line.text, BYTES);
        let cut = line.cut || text.len() < line.text.len();
        self.make_room(1, text.len() + 1);
        let mark = |is_so, mark| if is_so { mark } else { 0 };
        self.marks.push_back(line.stream | mark(line.continued, CONTINUED) | mark(cut, CUT));
        self.bytes.extend(text);
        self.bytes.push_back(b'\n');
    }

    /// Takes whole lines with their newlines. No line is longer than [`BYTES`].
    pub(super) fn push_lines(&mut self, stream: u8, lines: &[u8]) {
        let (tail, count) = tail(lines);
        if tail.len() < lines.len() {
            // These lines alone fill the room.
            self.bytes.clear();
            self.marks.clear();
        }
        self.make_room(count, tail.len());
        self.marks.extend(std::iter::repeat_n(stream, count));
        self.bytes.extend(tail);
    }

    /// Drops the oldest lines until there is room for so many lines and bytes, newlines included.
    fn make_room(&mut self, lines: usize, bytes: usize) {
        while self.marks.len() + lines > LINES || self.bytes.len() + bytes > BYTES + 1 {
            let Some(newline) = self.first_newline() else { break };
            self.bytes.drain(..=newline);
            self.marks.pop_front();
        }
        reserve(&mut self.marks, lines, LINES);
        reserve(&mut self.bytes, bytes, BYTES + 1);
    }

    fn first_newline(&self) -> Option<usize> {
        let (front, back) = self.bytes.as_slices();
        memchr(b'\n', front).or_else(|| memchr(b'\n', back).map(|newline| front.len() + newline))
    }

    /// Calls `see` with each line, the oldest first.
    pub(super) fn for_each(&mut self, mut see: impl FnMut(LogLine<'_>)) {
        let bytes: &[u8] = self.bytes.make_contiguous();
        for (line, mark) in bytes.split_inclusive(|byte| *byte == b'\n').zip(&self.marks) {
            let (continued, cut) = (mark & CONTINUED != 0, mark & CUT != 0);
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            see(LogLine { stream: mark & !(CONTINUED | CUT), continued, cut, text });
        }
    }
}

/// The end of `lines` that fits, and its number of lines.
fn tail(lines: &[u8]) -> (&[u8], usize) {
    // This range contains the byte before the oldest line that fits, if there is one.
    let near = lines.len().saturating_sub(BYTES + 2);
    let (mut start, mut count) = (lines.len(), 0);
    for newline in memrchr_iter(b'\n', &lines[near..lines.len().saturating_sub(1)]) {
        if count + 1 == LINES {
            return (&lines[near + newline + 1..], LINES);
        }
        (start, count) = (near + newline + 1, count + 1);
    }
    let fits = lines.len() <= BYTES + 1;
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
        LogLine { stream, continued: false, cut: false, text }
    }

    fn kept(recent: &mut Recent) -> Vec<(u8, String)> {
        let mut lines = Vec::new();
        recent.for_each(|line| lines.push((line.stream, String::from_utf8_lossy(line.text).into_owned())));
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
                at_once.push_lines(stream, &lines);
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
            lines.push(LogLine { stream, continued, cut, text: b"text" });
        }
        lines.iter().for_each(|line| recent.push(*line));
        let mut again = lines.iter();
        recent.for_each(|line| assert_eq!(Some(&line), again.next()));
        assert_eq!(again.next(), None);
        // A line that is too long by itself is cut between two characters and marked as cut.
        let long = "x".to_owned() + &"€".repeat(BYTES);
        recent.push(line(1, long.as_bytes()));
        recent.for_each(|line| {
            assert!(line.cut && std::str::from_utf8(line.text).is_ok_and(|text| long.starts_with(text)));
            assert!(BYTES - line.text.len() < 3);
        });
    }

    #[test]
    fn an_empty_one_takes_no_heap() {
        assert_eq!(Recent::default().bytes.capacity(), 0);
    }
}
