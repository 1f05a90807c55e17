//! Makes text fit its destination: it limits the length, and it shows control characters that a
//! terminal would obey. Handles bytes and UTF-8, nothing else.
//!
//! The one rule: no character is cut in two, and no character is left out without a trace.

use std::borrow::Cow;

/// The start of `bytes`, at most `limit` bytes long (but at least one byte). It is shorter where a
/// character would be cut. Bytes that are not UTF-8 are cut at the limit, and so is a character
/// that is longer than the limit.
pub(crate) fn fit(bytes: &[u8], limit: usize) -> &[u8] {
    let limit = limit.max(1);
    if bytes.len() <= limit {
        return bytes;
    }
    // The longest character has four bytes.
    for end in (limit.saturating_sub(3).max(1)..limit).rev() {
        let is_first = bytes[end] & 0xc0 != 0x80;
        if is_first {
            let start = &bytes[end..bytes.len().min(end + 4)];
            let character = start.utf8_chunks().next().map_or("", |chunk| chunk.valid()).chars().next();
            let goes_on = character.is_some_and(|character| end + character.len_utf8() > limit);
            return &bytes[..if goes_on { end } else { limit }];
        }
    }
    &bytes[..limit]
}

/// Whether a character breaks the line, or changes the order in which the text around it is shown,
/// so that it looks like other text: line and paragraph separators, and controls for bidirectional
/// text.
pub(crate) fn rearranges(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character takes no room and joins or separates others. Some languages and composed
/// emoji need such characters, but they make two different texts look the same.
pub(crate) fn is_zero_width(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// The text as one line in which every character can be seen. Control characters are shown as `\n`,
/// `\t`, `\r` or `\x1b`, and characters that rearrange the text or have no width as `\u{202e}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    show(text, |char| rearranges(char) || is_zero_width(char))
}

/// [`visible`], for what a process has written: characters without width stay as they are.
pub(crate) fn visible_output(text: &str) -> Cow<'_, str> {
    show(text, rearranges)
}

/// The text of JSON with all control characters escaped, not only those of ASCII, and characters
/// that would rearrange the text.
pub(crate) fn escaped_json(text: &str) -> String {
    let is_hidden = |char: char| char.is_control() || rearranges(char);
    if !text.contains(is_hidden) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut text, char| {
        match is_hidden(char) {
            true => text += &format!("\\u{:04x}", u32::from(char)),
            false => text.push(char),
        }
        text
    })
}

fn show(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    // Nearly all of our own messages are of this kind.
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain || !text.contains(|char: char| char.is_control() || is_hidden(char)) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '\n' | '\t' | '\r' => shown.extend(char.escape_default()),
            // No control character is above U+009F.
            char if char.is_control() => shown += &format!("\\x{:02x}", u32::from(char)),
            char if is_hidden(char) => shown.extend(char.escape_unicode()),
            char => shown.push(char),
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::{Cow, fit, visible, visible_output};

    #[test]
    fn control_characters_are_seen() {
        assert_eq!(visible("\u{1b}[2Jä\n\r\t\0\u{7f}\u{9b}m"), r"\x1b[2Jä\n\r\t\x00\x7f\x9bm");
        assert!(matches!(visible(r"plain \x1b"), Cow::Borrowed(r"plain \x1b")));
    }

    #[test]
    fn what_rearranges_or_hides_text_is_seen() {
        assert_eq!(visible("a\u{202e}b\u{200b}c\u{feff}"), r"a\u{202e}b\u{200b}c\u{feff}");
        for char in ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{2066}', '\u{2069}'] {
            assert_eq!(visible(&char.to_string()), char.escape_unicode().to_string());
        }
        assert_eq!(visible_output("a\u{202e}b\u{200d}\x1b"), "a\\u{202e}b\u{200d}\\x1b");
        // A variation selector changes a character, and nothing around it.
        assert!(matches!(visible("ä\u{301} ❤\u{fe0f} שלום"), Cow::Borrowed(_)));
    }

    #[test]
    fn no_character_is_cut() {
        let text = "aä€🦀".repeat(3);
        for limit in 4..text.len() {
            let start = std::str::from_utf8(fit(text.as_bytes(), limit)).unwrap();
            assert!(limit - start.len() < 4 && text.starts_with(start), "{limit}");
        }
        assert_eq!(fit(text.as_bytes(), 100), text.as_bytes());
        assert_eq!((fit("€".as_bytes(), 2), fit("€".as_bytes(), 1)), (&b"\xe2\x82"[..], &b"\xe2"[..]));
        for bytes in
            [&b"\x80\x80\x80\x80\x80"[..], b"\xff\xff\xff\xff\xff", b"aa\xe2\x82a", b"aaa\xe9a", b"a\xf0\x9f\xa6a"]
        {
            assert_eq!(fit(bytes, 4), &bytes[..4], "{}", bytes.escape_ascii());
        }
        assert_eq!(fit(b"", 4), b"");
    }
}
