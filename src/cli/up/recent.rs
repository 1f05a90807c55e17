//! The last lines of a process, for `childminder logs`. Bounded in lines and in bytes; no heap before the first line.
//!
//! The one rule: the oldest goes first, and a line is there as a whole or not at all (but for one that alone is too long).

use std::collections::VecDeque;

/// As many lines of a process are kept at most.
const LINES: usize = 100;
/// And as many bytes.
const BYTES: usize = 16 * 1024;

/// One byte for the stream, the line, a newline; again and again.
#[derive(Debug, Default)]
pub(super) struct Recent {
    bytes: VecDeque<u8>,
    lines: usize,
}

impl Recent {
    pub(super) fn push(&mut self, stream: u8, line: &[u8]) {
        let line = &line[..line.len().min(BYTES - 2)];
        while self.lines >= LINES || self.bytes.len() + line.len() + 2 > BYTES {
            let Some(newline) = self.bytes.iter().position(|byte| *byte == b'\n') else { break };
            self.bytes.drain(..=newline);
            self.lines -= 1;
        }
        self.bytes.push_back(stream);
        self.bytes.extend(line);
        self.bytes.push_back(b'\n');
        self.lines += 1;
    }

    /// Each line with its stream, the oldest first.
    pub(super) fn for_each(&mut self, mut see: impl FnMut(u8, &[u8])) {
        let bytes: &[u8] = self.bytes.make_contiguous();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if let [stream, line @ .., b'\n'] = line {
                see(*stream, line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(recent: &mut Recent) -> Vec<(u8, String)> {
        let mut lines = Vec::new();
        recent.for_each(|stream, line| lines.push((stream, String::from_utf8_lossy(line).into_owned())));
        lines
    }

    #[test]
    fn keeps_the_last_lines() {
        let mut recent = Recent::default();
        for number in 0..250 {
            recent.push(1 + (number % 2) as u8, number.to_string().as_bytes());
        }
        let lines = kept(&mut recent);
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].clone(), lines[99].clone()), ((1, "150".into()), (2, "249".into())));
    }

    #[test]
    fn keeps_no_more_than_so_many_bytes() {
        let mut recent = Recent::default();
        for length in [0, 10_000, 10_000, 100, 1 << 20, 3] {
            recent.push(1, &vec![b'x'; length]);
            assert!(recent.bytes.len() <= BYTES);
        }
        let lengths: Vec<usize> = kept(&mut recent).iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [3]);
    }

    #[test]
    fn an_empty_one_takes_no_heap() {
        assert_eq!(Recent::default().bytes.capacity(), 0);
    }
}
