//! Takes out of a terminal's output what only a screen needs: escape sequences, carriage returns,
//! and the echo of what was typed.
//!
//! It does no I/O. The one rule: text that is not certainly an echo stays.

/// The longest input whose echo is taken out, in bytes.
const MOST: usize = 64 * 1024;

/// The state of the filter of one terminal.
#[derive(Debug, Default)]
pub(super) struct Plain {
    sequence: Sequence,
    /// What was typed and may come back.
    typed: Vec<u8>,
    /// How many bytes of it have come back.
    echoed: usize,
}

/// The part of an escape sequence that was read (ECMA-48).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// ESC, and its intermediate bytes.
    Escape,
    /// `ESC [`, up to its final byte.
    Control,
    /// `ESC ]` and its like, up to BEL or `ESC \`.
    Text,
    /// ESC in such a text.
    TextEscape,
}

impl Plain {
    /// Notes what is written to a terminal that shows it, or to a program that shows it itself, as
    /// one that edits its line does. A terminal shows a control character as `^C`.
    pub(super) fn typed(&mut self, bytes: &[u8], by_the_terminal: bool) {
        for &byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' | b'\t' | 0x20.. if byte != 0x7f => self.typed.push(byte),
                _ if by_the_terminal => self.typed.extend_from_slice(&[b'^', byte ^ 0x40]),
                _ => {}
            }
        }
        if self.typed.len() > MOST {
            // The memory for an echo that may never come is bounded.
            (self.typed, self.echoed) = (Vec::new(), 0);
        }
    }

    /// What is kept back because it may be an echo.
    pub(super) fn held(&self) -> &[u8] {
        &self.typed[..self.echoed]
    }

    /// Appends what is left of `bytes` to `text`.
    pub(super) fn push(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for &byte in bytes {
            if self.is_text(byte) {
                self.pass(byte, text);
            }
        }
    }

    /// Appends what was kept back because it might have been an echo.
    pub(super) fn finish(&mut self, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.typed[..self.echoed]);
        (self.typed, self.echoed) = (Vec::new(), 0);
    }

    fn is_text(&mut self, byte: u8) -> bool {
        let (next, is_text) = match (self.sequence, byte) {
            // CAN and SUB end every sequence.
            (Sequence::Escape | Sequence::Control | Sequence::Text | Sequence::TextEscape, 0x18 | 0x1a) => {
                (Sequence::None, false)
            }
            (Sequence::Escape | Sequence::Control, 0x1b) => (Sequence::Escape, false),
            (Sequence::None, 0x1b) => (Sequence::Escape, false),
            (Sequence::None, _) => (Sequence::None, byte != b'\r'),
            (Sequence::Escape, b'[') => (Sequence::Control, false),
            (Sequence::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (Sequence::Text, false),
            (Sequence::Escape, 0x20..=0x2f) => (Sequence::Escape, false),
            (Sequence::Escape, _) => (Sequence::None, false),
            (Sequence::Control, 0x40..=0x7e) => (Sequence::None, false),
            (Sequence::Control, _) => (Sequence::Control, false),
            (Sequence::Text, 0x07) | (Sequence::TextEscape, b'\\') => (Sequence::None, false),
            (Sequence::Text | Sequence::TextEscape, 0x1b) => (Sequence::TextEscape, false),
            (Sequence::Text | Sequence::TextEscape, _) => (Sequence::Text, false),
        };
        self.sequence = next;
        is_text
    }

    fn pass(&mut self, byte: u8, text: &mut Vec<u8>) {
        match self.typed.get(self.echoed) {
            Some(typed) if *typed == byte => {
                self.echoed += 1;
                if self.echoed == self.typed.len() {
                    self.typed.clear();
                    self.echoed = 0;
                }
            }
            Some(_) => {
                self.finish(text);
                text.push(byte);
            }
            None => text.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of the output, however it is split.
    #[track_caller]
    fn left(typed: &str, output: &str, right: &str) {
        for split in 1..=output.len() {
            let (mut plain, mut text) = (Plain::default(), Vec::new());
            plain.typed(typed.as_bytes(), true);
            output.as_bytes().chunks(split).for_each(|piece| plain.push(piece, &mut text));
            plain.finish(&mut text);
            assert_eq!(String::from_utf8(text).unwrap(), right, "in pieces of {split}");
        }
    }

    #[test]
    fn escape_sequences_and_carriage_returns_are_taken_out() {
        left("", "\x1b[?2004h>>> \x1b[1;32mgreen\x1b[0m\r\r\nnext\r\n", ">>> green\nnext\n");
        left("", "\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b(B\x1b=b\x1b[K", "alinkb");
        left("", "50%\r100%\r\n", "50%100%\n");
        left("", "a\x1b\x1b[Ab\x1b[1\x1b[0mc\x1bPx\x18d\x1b[\x1ae", "abcde");
    }

    #[test]
    fn an_echo_is_taken_out_only_where_it_comes_next() {
        left("1 + 1\n", "1 + 1\r\n2\r\n>>> ", "2\n>>> ");
        left("1 + 1\r", "1 + 1\r\n2\r\n", "\n2\n");
        left("1\n", "\x1b[?2004l1\r\n1\r\n", "1\n");
        left("10\n", "1\r\n", "1\n");
        left("print\n", "prompt print\r\n", "prompt print\n");
        left("same\n", "sa", "sa");
        left("\x03", "^Cint\r\n", "int\n");
        left("f\u{fc}r\n", "f\u{fc}r\r\nf\u{fc}r\r\n", "f\u{fc}r\n");
    }

    #[test]
    fn what_is_never_echoed_is_not_kept() {
        let (mut plain, mut text) = (Plain::default(), Vec::new());
        (0..1000).for_each(|_| plain.typed(&[b'x'; 1000], true));
        assert!(plain.typed.capacity() <= 4 * MOST);
        plain.typed = Vec::new();
        plain.push(b"text", &mut text);
        assert_eq!((&text[..], plain.held()), (&b"text"[..], &b""[..]));
    }
}
