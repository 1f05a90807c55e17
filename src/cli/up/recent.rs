//! The last lines of a process, for `childminder logs`. Bounded in lines and in bytes; no heap before the first line.
//!
//! The one rule: the oldest goes first, and a line is there as a whole or not at all (but for one that alone is too long).

use std::collections::VecDeque;

use crate::cli::control::protocol::LogLine;
use crate::cli::text::fit;

/// As many lines of a process are kept at most.
const LINES: usize = 100;
/// As many bytes of them are kept at most. The longest piece of a line has room.
const BYTES: usize = 16 * 1024;
/// Bytes around each line: its mark and a newline.
const AROUND: usize = 2;

/// A mark is the number of the stream and these two bits. No mark is a newline.
const CONTINUED: u8 = 0x10;
const CUT: u8 = 0x20;

/// Marks, lines and newlines, in this order.
#[derive(Debug, Default)]
pub(super) struct Recent {
    bytes: VecDeque<u8>,
    lines: usize,
}

impl Recent {
    pub(super) fn push(&mut self, line: LogLine<'_>) {
        let text = fit(line.text, BYTES);
        let cut = line.cut || text.len() < line.text.len();
        let needed = text.len() + AROUND;
        while self.lines >= LINES || self.bytes.len() + needed > BYTES + AROUND {
            let Some(newline) = self.bytes.iter().position(|byte| *byte == b'\n') else { break };
            self.bytes.drain(..=newline);
            self.lines -= 1;
        }
        let length = self.bytes.len() + needed;
        if length > self.bytes.capacity() {
            // A ring uses all of its memory in time, so it gets no more than it needs.
            let capacity = length.next_power_of_two().min(BYTES + AROUND);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        let mark = |is_so, mark| if is_so { mark } else { 0 };
        self.bytes.push_back(line.stream | mark(line.continued, CONTINUED) | mark(cut, CUT));
        self.bytes.extend(text);
        self.bytes.push_back(b'\n');
        self.lines += 1;
    }

    /// Each line, the oldest first.
    pub(super) fn for_each(&mut self, mut see: impl FnMut(LogLine<'_>)) {
        let bytes: &[u8] = self.bytes.make_contiguous();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if let [mark, text @ .., b'\n'] = line {
                let (continued, cut) = (mark & CONTINUED != 0, mark & CUT != 0);
                see(LogLine { stream: mark & !(CONTINUED | CUT), continued, cut, text });
            }
        }
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
            assert!(recent.bytes.len() <= BYTES + AROUND && recent.bytes.capacity() <= BYTES + AROUND);
        }
        let lengths: Vec<usize> = kept(&mut recent).iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [3]);
        for length in (0..300).chain([BYTES]) {
            recent.push(line(1, &vec![b'x'; length]));
            assert!(recent.bytes.capacity() <= BYTES + AROUND);
        }
        assert_eq!(kept(&mut recent)[0].1.len(), BYTES, "a piece is there as a whole");
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
        // What alone is too long is cut, in the middle of no character, and says so.
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
