//! Newlines in a file or an output that several streams share. Writes nothing itself.
//!
//! The one rule: the bytes of the processes are passed on as they are, and we add a newline only
//! between two lines that would otherwise be glued together.

use childminder::Line;

/// A line, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    /// The bytes without the newline.
    pub(super) bytes: &'a [u8],
    /// Whether this piece continues the previous piece of the same stream.
    pub(super) continued: bool,
    pub(super) newline: bool,
}

impl<'a> From<&Line<'a>> for Piece<'a> {
    fn from(line: &Line<'a>) -> Self {
        Self { bytes: line.bytes, continued: line.continued, newline: line.newline }
    }
}

/// The state of the end of a shared file or output.
#[derive(Debug)]
pub(super) struct End<S> {
    /// The stream of the last line, if this line has no newline yet.
    unfinished: Option<S>,
}

impl<S> Default for End<S> {
    fn default() -> Self {
        Self { unfinished: None }
    }
}

impl<S: PartialEq> End<S> {
    /// The bytes to write for a piece: a newline before it where one is needed, the piece itself,
    /// and its own newline.
    pub(super) fn add<'a>(&mut self, stream: S, piece: Piece<'a>) -> [&'a [u8]; 3] {
        let joins = piece.continued && self.unfinished.as_ref() == Some(&stream);
        let before = if joins { b"" } else { self.finish() };
        self.unfinished = (!piece.newline).then_some(stream);
        [before, piece.bytes, if piece.newline { b"\n" } else { b"" }]
    }

    /// The newline that an unfinished line needs before anything else is written.
    pub(super) fn finish(&mut self) -> &'static [u8] {
        if self.unfinished.take().is_some() { b"\n" } else { b"" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_comes_only_between_lines() {
        let mut end = End::default();
        let mut text = Vec::new();
        let mut add = |stream, bytes: &str, continued, newline| {
            let piece = Piece { bytes: bytes.as_bytes(), continued, newline };
            text.extend(end.add(stream, piece).concat());
        };
        add('a', "one ", false, false);
        add('a', "line", true, true);
        add('a', "cut ", false, false);
        add('b', "between", false, true);
        add('a', "rest", true, true);
        add('a', "last words", false, false);
        add('a', "of a second process", false, false);
        add('b', "cut ", false, false);
        add('b', "rest", true, false);
        let expected = "one line\ncut \nbetween\nrest\nlast words\nof a second process\ncut rest";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!((end.finish(), end.finish()), (&b"\n"[..], &b""[..]));
    }
}
