//! A buffer that takes any bytes and passes on lines of bounded length.
//!
//! It does no I/O, no decoding and no logging: the caller that pushes the bytes decides what to do
//! with a line. The one rule: any bytes are accepted, the length is bounded, no byte is dropped,
//! and no UTF-8 character is cut.

use std::mem;

use crate::sys::bytes::{each_byte, find_byte};

/// The longest line that is passed on in one piece, in bytes without its newline
/// (Twisted's `MAX_LENGTH`).
pub(crate) const MAX_LINE: usize = 16384;

/// A part of a stream, as the sink receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run<'a> {
    /// One or more whole lines, each with its newline and none longer than the limit.
    Lines(&'a [u8]),
    Piece(Piece<'a>),
}

/// A line, or a part of one that is longer than the limit. It never holds the newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) bytes: &'a [u8],
    /// Whether this piece continues the previous one.
    pub(crate) continued: bool,
    /// Whether the line goes on in the next piece.
    pub(crate) cut: bool,
    /// Whether a newline followed these bytes.
    pub(crate) newline: bool,
}

/// Splits one stream at its newlines.
///
/// Only `\n` ends a line; `\r` and NUL are bytes like any other, and an empty line is a line. A
/// line longer than the limit is passed on in pieces, the first one as soon as one byte more than
/// the limit has arrived without a newline. A piece has the length of the limit, or up to three
/// bytes less where a UTF-8 character would be cut. The pieces do not depend on where the stream
/// was split on its way.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    /// The line that has begun, at most `max_len` bytes. It holds no heap while there is none.
    partial: Vec<u8>,
    max_len: usize,
    /// Whether a piece of the line that has begun was already passed on.
    continued: bool,
}

impl LineBuffer {
    /// The bytes of a line that has no newline yet.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Makes a buffer that cuts lines after `max_len` bytes (at least one).
    pub(crate) fn new(max_len: usize) -> Self {
        Self { partial: Vec::new(), max_len: max_len.max(1), continued: false }
    }

    /// Takes the next bytes of the stream. Lines that lie within `data` are lent from it and not
    /// copied, and as many consecutive lines as possible are passed at once.
    pub(crate) fn push(&mut self, mut data: &[u8], sink: &mut impl FnMut(Run<'_>)) {
        let mut piece = |piece: Piece<'_>| sink(Run::Piece(piece));
        if !self.partial.is_empty() || self.continued {
            let Some(newline) = find_byte(b'\n', data) else { return self.begin(data, &mut piece) };
            self.end_line(&data[..newline], &mut piece);
            data = &data[newline + 1..];
        }
        loop {
            let whole = whole_lines(data, self.max_len);
            if whole > 0 {
                sink(Run::Lines(&data[..whole]));
                data = &data[whole..];
            }
            let mut piece = |piece: Piece<'_>| sink(Run::Piece(piece));
            // The rest begins with a line that is too long, or is the start of a line.
            let Some(newline) = find_byte(b'\n', data) else { return self.begin(data, &mut piece) };
            self.end_line(&data[..newline], &mut piece);
            data = &data[newline + 1..];
        }
    }

    /// Takes bytes without a newline.
    fn begin(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        let rest = self.cut(bytes, sink);
        self.partial.extend_from_slice(rest);
    }

    /// Ends the stream, and passes on a last line without a newline. After a newline there is no
    /// such line, so there is no extra empty line.
    pub(crate) fn finish(&mut self, sink: &mut impl FnMut(Piece<'_>)) {
        // The byte that made a line too long is still here, so a cut piece always has a successor.
        if !self.partial.is_empty() {
            self.end_piece(&[], false, sink);
        }
    }

    /// Ends the line that has begun with `bytes` and a newline.
    fn end_line(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        let rest = self.cut(bytes, sink);
        self.end_piece(rest, true, sink);
    }

    /// Passes on the last piece of the line that has begun, with `bytes` at its end.
    fn end_piece(&mut self, bytes: &[u8], newline: bool, sink: &mut impl FnMut(Piece<'_>)) {
        let mut joined = mem::take(&mut self.partial);
        let bytes = join(&mut joined, bytes);
        sink(Piece { bytes, continued: mem::take(&mut self.continued), cut: false, newline });
    }

    /// Appends `bytes` to the line that has begun, passes on all pieces but the last one, and
    /// returns the bytes of the last one.
    fn cut<'a>(&mut self, mut bytes: &'a [u8], sink: &mut impl FnMut(Piece<'_>)) -> &'a [u8] {
        while bytes.len() > self.max_len - self.partial.len() {
            let begun = self.partial.len();
            let byte = |index: usize| if index < begun { self.partial[index] } else { bytes[index - begun] };
            let end = self.max_len - overhang(self.max_len, byte);
            let mut joined = mem::take(&mut self.partial);
            // If a character starts before `bytes`, its start stays in the buffer.
            self.partial.extend_from_slice(joined.get(end..).unwrap_or_default());
            joined.truncate(end);
            let (piece, rest) = bytes.split_at(end.saturating_sub(begun));
            let piece = join(&mut joined, piece);
            sink(Piece { bytes: piece, continued: mem::replace(&mut self.continued, true), cut: true, newline: false });
            bytes = rest;
        }
        bytes
    }
}

/// Returns the length of the whole lines at the start of `data`, up to the first one that is longer
/// than `max_len`. It searches only for the newlines that this needs, which are few where lines are
/// short.
fn whole_lines(data: &[u8], max_len: usize) -> usize {
    let mut whole = 0;
    loop {
        let rest = &data[whole..];
        // A line that begins and ends in the window is not too long.
        let window = &rest[..rest.len().min(max_len.saturating_add(1))];
        match window.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => whole += newline + 1,
            None => return whole,
        }
    }
}

/// Passes each line of `lines` to `each`. Every line ends with a newline.
#[inline]
pub(crate) fn each_line<'a>(lines: &'a [u8], mut each: impl FnMut(&'a [u8])) {
    let mut start = 0;
    each_byte(b'\n', lines, |newline| {
        each(&lines[start..newline]);
        start = newline + 1;
    });
}

/// Returns `start` with `bytes` appended. If `start` is empty, `bytes` are lent and not copied.
fn join<'a>(start: &'a mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    if start.is_empty() {
        return bytes;
    }
    start.extend_from_slice(bytes);
    start
}

/// Returns the number of bytes before `limit` that belong to a UTF-8 character which goes on at
/// `limit`. It is 0 if there is no such character, or if the character begins at the very start. It
/// reads no byte after `limit`.
fn overhang(limit: usize, byte: impl Fn(usize) -> u8) -> usize {
    for count in 1..limit.min(4) {
        if byte(limit - count) & 0xc0 == 0x80 {
            continue; // not the first byte of a character
        }
        let mut bytes = [0; 4];
        for (index, copy) in bytes[..=count].iter_mut().enumerate() {
            *copy = byte(limit - count + index);
        }
        let goes_on = match std::str::from_utf8(&bytes[..=count]) {
            Ok(text) => text.chars().count() == 1,
            Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
        };
        return if goes_on { count } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `data`, and takes each whole line as a piece.
    fn push(lines: &mut LineBuffer, data: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        let max_len = lines.max_len;
        lines.push(data, &mut |run| match run {
            Run::Piece(piece) => sink(piece),
            Run::Lines(lines) => {
                assert!(lines.ends_with(b"\n"));
                each_line(lines, |bytes| {
                    assert!(bytes.len() <= max_len);
                    sink(Piece { bytes, continued: false, cut: false, newline: true });
                });
            }
        });
    }

    /// Returns the pieces of a stream that arrives in `chunks`, as (text, continued, cut). It
    /// checks that the pieces make up the stream again.
    fn pieces<'a>(max_len: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Vec<u8>, bool, bool)> {
        let mut lines = LineBuffer::new(max_len);
        let (mut out, mut stream, mut written) = (Vec::new(), Vec::new(), Vec::new());
        let mut sink = |piece: Piece<'_>| {
            assert!(!piece.bytes.is_empty() || piece.newline, "an empty piece");
            out.push((piece.bytes.to_vec(), piece.continued, piece.cut));
            written.extend_from_slice(piece.bytes);
            written.extend_from_slice(if piece.newline { b"\n" } else { b"" });
        };
        for chunk in chunks {
            stream.extend_from_slice(chunk);
            push(&mut lines, chunk, &mut sink);
            assert!(lines.partial.len() <= lines.max_len);
        }
        lines.finish(&mut sink);
        lines.finish(&mut sink);
        assert_eq!(lines.partial.capacity(), 0, "heap held without a line");
        assert!(written == stream, "a byte added or lost");
        out
    }

    fn whole(line: &[u8]) -> (Vec<u8>, bool, bool) {
        (line.to_vec(), false, false)
    }

    #[test]
    fn only_a_newline_ends_a_line() {
        let lines = [whole(b"a\rb\0c"), whole(b"crlf\r"), whole(b""), whole(b"\xff")];
        assert_eq!(pieces(100, [&b"a\rb\0c\ncrlf\r\n\n\xff\n"[..]]), lines, "and nothing after the last one");
    }

    #[test]
    fn a_last_line_without_newline_is_flushed_once() {
        assert_eq!(pieces(100, [&b"one\ntw"[..], b"o"]), [whole(b"one"), whole(b"two")]);
        assert_eq!(pieces(100, [&b"one\n"[..]]), [whole(b"one")]);
        assert_eq!(pieces(100, [&b"\n"[..]]), [whole(b"")]);
        assert_eq!(pieces(100, [&b""[..]]), []);
    }

    #[test]
    fn pieces_do_not_depend_on_where_the_stream_is_split() {
        let stream = b"one\n\ntwelve bytes\nabcd\nabcde\nabcdefgh\nabcdefghi\n\nlast one";
        for max_len in [1, 3, 4, 5, 8, 100] {
            let expected = pieces(max_len, [&stream[..]]);
            // Miri takes minutes for what takes a millisecond otherwise.
            let step = if cfg!(miri) { 19 } else { 1 };
            for i in (0..=stream.len()).step_by(step) {
                for j in (i..=stream.len()).step_by(step) {
                    let chunks = [&stream[..i], &stream[i..j], &stream[j..]];
                    assert_eq!(pieces(max_len, chunks), expected, "{max_len} {i} {j}");
                }
            }
            assert_eq!(pieces(max_len, stream.chunks(1)), expected, "{max_len}");
        }
    }

    #[test]
    fn cut_and_continued_mark_an_over_long_line() {
        let marked = |text: &str, continued, cut| (text.as_bytes().to_vec(), continued, cut);
        assert_eq!(
            pieces(4, [&b"abcd\nabcde\nabcdefgh\nabcdefghi"[..]]),
            [
                marked("abcd", false, false),
                marked("abcd", false, true),
                marked("e", true, false),
                marked("abcd", false, true),
                marked("efgh", true, false),
                marked("abcd", false, true),
                marked("efgh", true, true),
                marked("i", true, false),
            ]
        );
    }

    #[test]
    fn the_limit_itself_is_one_line() {
        let long = [b'x'; MAX_LINE + 1];
        let exact = [&long[..MAX_LINE], b"\n"];
        assert_eq!(pieces(MAX_LINE, exact), [whole(&long[..MAX_LINE])]);
        assert_eq!(
            pieces(MAX_LINE, [&long[..]]),
            [(long[..MAX_LINE].to_vec(), false, true), (b"x".to_vec(), true, false)]
        );
    }

    #[test]
    fn an_over_long_line_is_cut_as_soon_as_that_is_certain() {
        let mut lines = LineBuffer::new(4);
        let mut count = 0;
        push(&mut lines, b"abcd", &mut |_| count += 1);
        assert_eq!(count, 0);
        push(&mut lines, b"e", &mut |piece| {
            count += 1;
            assert_eq!((piece.bytes, piece.cut), (&b"abcd"[..], true));
        });
        assert_eq!(count, 1);
    }

    #[test]
    fn a_megabyte_without_newline_keeps_every_byte() {
        let line: Vec<u8> = (0..1 << 20).map(|i| b'a' + (i % 23) as u8).collect();
        for chunk in [1000, 8192, MAX_LINE, 65536, 1 << 20] {
            let out = pieces(MAX_LINE, line.chunks(chunk));
            assert_eq!(out.len(), 64);
            assert!(out.iter().all(|(bytes, ..)| bytes.len() == MAX_LINE));
            assert_eq!(out.iter().filter(|(.., cut)| *cut).count(), 63);
            assert_eq!(out.iter().filter(|(_, cont, _)| *cont).count(), 63);
            let joined: Vec<u8> = out.into_iter().flat_map(|(bytes, ..)| bytes).collect();
            assert!(joined == line);
        }
    }

    /// Returns the lengths of the pieces of a stream without newlines.
    fn lengths(max_len: usize, stream: &[u8]) -> Vec<usize> {
        let out = pieces(max_len, [stream]);
        for split in 0..stream.len() {
            assert_eq!(pieces(max_len, [&stream[..split], &stream[split..]]), out, "{max_len} {split}");
        }
        assert_eq!(pieces(max_len, stream.chunks(1)), out, "{max_len}");
        out.into_iter().map(|(bytes, ..)| bytes.len()).collect()
    }

    #[test]
    fn no_character_is_cut() {
        for (text, max_len, expected) in [
            ("ääääa", 4, &[4, 4, 1][..]),
            ("aäää", 4, &[3, 4]),
            ("aaä", 4, &[4]),
            ("aaaä", 4, &[3, 2]),
            ("€€€", 4, &[3, 3, 3]),
            ("€€€", 5, &[3, 3, 3]),
            ("€€€", 6, &[6, 3]),
            ("a🦀🦀", 4, &[1, 4, 4]),
            ("aa🦀🦀", 5, &[2, 4, 4]),
            ("aaa🦀a", 7, &[7, 1]),
            ("aaaa🦀", 5, &[4, 4]),
        ] {
            assert_eq!(lengths(max_len, text.as_bytes()), expected, "{text} {max_len}");
        }
        for size in 0..20 {
            let text = "a".repeat(size) + &"aä€🦀".repeat(20);
            for max_len in 4..40 {
                for (bytes, ..) in pieces(max_len, text.as_bytes().chunks(7)) {
                    assert!(std::str::from_utf8(&bytes).is_ok() && bytes.len() <= max_len, "{text} {max_len}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_character_is_cut_at_the_limit() {
        for stream in [
            &b"\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x80\x80\x80\x80\x80\x80\x80\x80",
            b"\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9",
            b"aaa\xe9aaa\xe9",
            b"aa\xe2\x82aa\xe2\x82",
            b"aa\xe2\x28aaaa",
            b"a\xf0\x9f\xa6aaaa",
            b"aaa\xc0\x80aaa",
            b"aaa\xf8\x88\x80\x80\x80",
            b"aa\xed\xa0\x80aaa",
        ] {
            assert_eq!(lengths(4, stream), [4, 4], "{}", stream.escape_ascii());
        }
        // Only the byte after the limit is read. These bytes might be the start of a character, and
        // are not.
        assert_eq!(lengths(4, b"aaa\xe2\x82aaa"), [3, 4, 1]);
        // A character longer than the limit has to be cut.
        assert_eq!(lengths(1, "€".as_bytes()), [1, 1, 1]);
        assert_eq!(lengths(3, "🦀".as_bytes()), [3, 1]);
    }

    #[test]
    fn a_newline_is_told_where_one_was() {
        let mut told = Vec::new();
        let mut sink = |piece: Piece<'_>| told.push((piece.bytes.len(), piece.newline));
        let mut lines = LineBuffer::new(4);
        push(&mut lines, b"one\n\nlonger\nlast", &mut sink);
        lines.finish(&mut sink);
        push(&mut lines, b"\n", &mut sink);
        assert_eq!(told, [(3, true), (0, true), (4, false), (2, true), (4, false), (0, true)]);
    }

    #[test]
    fn a_flood_of_empty_lines() {
        let flood = [b'\n'; 100_000];
        let out = pieces(MAX_LINE, flood.chunks(4096));
        assert_eq!(out.len(), 100_000);
        assert!(out.iter().all(|piece| *piece == whole(b"")));
    }

    #[test]
    fn a_whole_line_is_lent_not_copied() {
        let data = b"head\nbody\nt\xc3\xa4il".as_slice();
        for (max_len, starts) in [(100, [0, 5].as_slice()), (3, &[0, 3, 5, 8, 10]), (2, &[0, 2, 5, 7, 10, 11])] {
            let mut lent = Vec::new();
            push(&mut LineBuffer::new(max_len), data, &mut |piece| lent.push(piece.bytes.as_ptr()));
            assert_eq!(lent, starts.iter().map(|start| data[*start..].as_ptr()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn lines_that_follow_each_other_come_at_once() {
        let mut runs = Vec::new();
        let mut lines = LineBuffer::new(4);
        let mut push = |data: &[u8]| {
            lines.push(data, &mut |run| {
                runs.push(match run {
                    Run::Lines(lines) => String::from_utf8_lossy(lines).into_owned(),
                    Run::Piece(piece) => format!("({})", String::from_utf8_lossy(piece.bytes)),
                });
            });
        };
        push(b"one\n\ntwo\nfour\nt");
        push(b"en\na\nb\nlonger\nc\nd\n");
        push(b"e\nf");
        assert_eq!(runs, ["one\n\ntwo\nfour\n", "(ten)", "a\nb\n", "(long)", "(er)", "c\nd\n", "e\n"]);
    }

    #[test]
    fn a_random_stream_is_conserved() {
        let mut seed = 1u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..if cfg!(miri) { 1 } else { 300 } {
            let letters = 2 + random(30);
            let stream: Vec<u8> = (0..random(400))
                .map(|_| match random(letters) {
                    0 => b'\n',
                    1 => b'\xe2',
                    2 => b'\x82',
                    n => b'a' + n as u8,
                })
                .collect();
            let out = pieces(1 + random(20), stream.chunks(1 + random(50)));
            let mut joined = Vec::new();
            for (bytes, _, cut) in &out {
                joined.extend_from_slice(bytes);
                if !cut {
                    joined.push(b'\n');
                }
            }
            if stream.last().is_some_and(|last| *last != b'\n') {
                joined.pop();
            }
            assert_eq!(joined, stream);
            for pair in out.windows(2) {
                assert_eq!(pair[0].2, pair[1].1, "cut and continued go together");
            }
        }
    }

    #[test]
    fn the_extreme_limits_work() {
        assert_eq!(pieces(0, [&b"ab\n"[..]]), [(b"a".to_vec(), false, true), (b"b".to_vec(), true, false)]);
        assert_eq!(pieces(usize::MAX, [&b"a"[..], b"b\n"]), [whole(b"ab")]);
        assert!(size_of::<LineBuffer>() <= 40);
    }
}
