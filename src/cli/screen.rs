//! Makes the output of a process fit to be shown on a terminal. Only turns bytes into bytes.
//!
//! The one rule: a line of a process stays within its line. It cannot move the cursor, clear the
//! screen, set the title or write over its mark, and its colours end with it.

use std::borrow::Cow;
use std::os::fd::AsFd;

use super::text::{is_zero_width, rearranges};

const ESC: u8 = 0x1b;
/// The sequence that ends all colours.
pub(crate) const RESET: &[u8] = b"\x1b[0m";
/// The text in front of our own messages.
pub(crate) const OWN: &str = "childminder: ";

/// Whether the user wants colours on a terminal.
pub(crate) fn wants_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The bytes for a terminal, made from a line or a piece of one:
///
/// - Colours and the like (SGR) stay as they are, followed by a reset.
/// - All other control sequences are removed.
/// - A line that overwrites itself by CR, such as a progress bar, is reduced to its last state.
/// - Any other control character, and each byte that is not UTF-8, becomes `\xNN`.
/// - A character that would rearrange the text, such as a control for bidirectional text, becomes
///   `\u{202e}`. Characters without width stay, since composed emoji and some languages need them,
///   and they change nothing around them.
pub(crate) fn shown(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return bytes.into();
    }
    let mut shown = Vec::with_capacity(bytes.len() + RESET.len());
    let mut coloured = false;
    let mut rest = last_state(bytes);
    while let [first, ..] = rest {
        match Sequence::at(rest) {
            Some(Sequence { length, is_colour }) => {
                if is_colour {
                    shown.extend_from_slice(&rest[..length]);
                    coloured = ![&b"\x1b[m"[..], RESET].contains(&&rest[..length]);
                }
                rest = &rest[length..];
            }
            None if matches!(first, b' '..=b'~' | b'\t') => {
                shown.push(*first);
                rest = &rest[1..];
            }
            None => {
                let char = character(rest).filter(|char| !char.is_control());
                match char {
                    Some(char) if rearranges(char) => {
                        shown.extend_from_slice(char.escape_unicode().to_string().as_bytes());
                    }
                    Some(char) => shown.extend_from_slice(&rest[..char.len_utf8()]),
                    None => shown.extend_from_slice(format!("\\x{first:02x}").as_bytes()),
                }
                rest = &rest[char.map_or(1, char::len_utf8)..];
            }
        }
    }
    if coloured {
        shown.extend_from_slice(RESET);
    }
    shown.into()
}

/// The characters of a line as a terminal shows them, without colours.
pub(crate) fn plain(bytes: &[u8]) -> String {
    let shown = shown(bytes);
    let (mut plain, mut rest) = (Vec::with_capacity(shown.len()), &*shown);
    while let [first, ..] = rest {
        let length = Sequence::at(rest).map_or(0, |sequence| sequence.length);
        if length == 0 {
            plain.push(*first);
        }
        rest = &rest[length.max(1)..];
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The number of columns of a terminal.
pub(crate) fn columns(terminal: impl AsFd) -> usize {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => 80,
    }
}

/// Whether a line that is shown would look like a message of our own.
pub(crate) fn looks_like_ours(shown: &[u8]) -> bool {
    let mut text = Vec::new();
    let mut rest = shown;
    while let ([first, ..], true) = (rest, text.len() < OWN.len()) {
        let length = Sequence::at(rest).map_or_else(|| zero_width(rest), |sequence| sequence.length);
        // Characters in front of the first letter may be hardly visible.
        if length == 0 && (!text.is_empty() || first.is_ascii_alphanumeric()) {
            text.push(*first);
        }
        rest = &rest[length.max(1)..];
    }
    text == OWN.as_bytes()
}

/// The text that is visible after each CR has taken effect.
fn last_state(bytes: &[u8]) -> &[u8] {
    let states = bytes.split(|byte| *byte == b'\r');
    states.rev().find(|state| !state.is_empty()).unwrap_or_default()
}

/// A control sequence: `ESC [ … letter`, or `ESC ] … BEL` and similar ones.
struct Sequence {
    length: usize,
    is_colour: bool,
}

impl Sequence {
    /// The complete sequence at the start of these bytes, if there is one.
    fn at(bytes: &[u8]) -> Option<Self> {
        let [ESC, kind, rest @ ..] = bytes else { return None };
        match kind {
            b'[' => {
                let parameters = rest.iter().take_while(|byte| matches!(byte, b' '..=b'?')).count();
                let last = rest.get(parameters).filter(|byte| matches!(byte, b'@'..=b'~'))?;
                let is_plain = rest[..parameters].iter().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':'));
                Some(Self { length: 2 + parameters + 1, is_colour: *last == b'm' && is_plain })
            }
            // Titles, links and other strings for the terminal.
            b']' | b'P' | b'X' | b'^' | b'_' => {
                let text = rest.iter().take_while(|byte| **byte >= b' ').count();
                let end = match rest[text..] {
                    [0x07, ..] => 1,
                    [ESC, b'\\', ..] => 2,
                    _ => return None,
                };
                Some(Self { length: 2 + text + end, is_colour: false })
            }
            _ => None,
        }
    }
}

/// The character at the start of these bytes.
fn character(bytes: &[u8]) -> Option<char> {
    let start = &bytes[..bytes.len().min(4)];
    start.utf8_chunks().next()?.valid().chars().next()
}

/// The length of the character at the start of these bytes if it has no width, or 0.
fn zero_width(bytes: &[u8]) -> usize {
    character(bytes).filter(|char| is_zero_width(*char)).map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_shown(bytes: &[u8], expected: &str) {
        let shown = shown(bytes);
        assert_eq!(String::from_utf8_lossy(&shown), expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn text_stays_as_it_is() {
        for text in ["", "plain", "tab\tand ~", "aä€🦀", "a\u{200b}b", "👩\u{200d}🚀 ❤\u{fe0f}", "שלום"]
        {
            is_shown(text.as_bytes(), text);
        }
        assert!(matches!(shown(b"plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn colours_stay_and_end_with_their_line() {
        is_shown(b"\x1b[31mred", "\x1b[31mred\x1b[0m");
        is_shown(b"\x1b[1;38;5;200mbright\x1b[0m plain", "\x1b[1;38;5;200mbright\x1b[0m plain");
        is_shown(b"\x1b[38:2::1:2:3mred\x1b[m", "\x1b[38:2::1:2:3mred\x1b[m");
        // These are not colours, although they end like one.
        is_shown(b"\x1b[>4;1mx\x1b[?1mx", "xx");
    }

    #[test]
    fn sequences_that_move_clear_or_name_are_taken_out() {
        is_shown(b"a\x1b[2J\x1b[H\x1b[1;1Hb\x1b[Kc\x1b[?25ld\x1b[3Ae", "abcde");
        is_shown(b"a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "ablink");
        is_shown(b"a\x1bPq...\x1b\\b\x1b_x\x1b\\c", "abc");
    }

    #[test]
    fn what_is_no_whole_sequence_is_shown() {
        is_shown(b"a\x1b", "a\\x1b");
        is_shown(b"a\x1b[31", "a\\x1b[31");
        is_shown(b"a\x1b[3\x01m", "a\\x1b[3\\x01m");
        is_shown(b"a\x1bcb\x1b(0", "a\\x1bcb\\x1b(0");
        is_shown(b"a\x1b]0;title", "a\\x1b]0;title");
        is_shown(b"a\x1b\x1b[2J[31mb", "a\\x1b[31mb");
        is_shown(b"a\x1b[\x1b[2J31mb", "a\\x1b[31mb");
    }

    #[test]
    fn control_characters_and_odd_bytes_are_shown() {
        is_shown(b"\0\x07\x08\x0b\x0c\x0e\x7f", "\\x00\\x07\\x08\\x0b\\x0c\\x0e\\x7f");
        // The one-byte form of `ESC [`, as UTF-8 and as a single byte.
        is_shown("a\u{9b}2Jb".as_bytes(), "a\\xc2\\x9b2Jb");
        is_shown(b"a\x9b2J\xff\xc3", "a\\x9b2J\\xff\\xc3");
    }

    #[test]
    fn what_rearranges_text_is_shown() {
        is_shown("a\u{202e}b\u{2066}c\u{200f}".as_bytes(), "a\\u{202e}b\\u{2066}c\\u{200f}");
        is_shown("a\u{2028}b\u{2029}c".as_bytes(), "a\\u{2028}b\\u{2029}c");
    }

    #[test]
    fn of_a_line_that_overwrites_itself_the_last_state_is_shown() {
        is_shown(b"crlf\r", "crlf");
        is_shown(b" 10%\r 50%\r100%\r", "100%");
        is_shown(b"\rchildminder: x", "childminder: x");
        is_shown(b"\r\x1b[K50%", "50%");
        is_shown(b"\r\r", "");
    }

    #[test]
    fn a_plain_line_has_no_sequences() {
        assert_eq!(plain(b"\r10%\r\x1b[31m20%\x1b[0m \x1b[2Jdone\x07"), "20% done\\x07");
    }

    #[test]
    fn what_looks_like_ours_is_known() {
        for line in [
            "childminder: [web] exited",
            "  childminder: ",
            "\x1b[1mchild\x1b[0mminder: x",
            "\u{200b}childminder: x",
            "[childminder: x",
            "child\u{200b}minder\u{2060}: x",
        ] {
            assert!(looks_like_ours(line.as_bytes()), "{line:?}");
        }
        for line in ["", "childminder", "childminder:x", "a childminder: x", "child minder: x"] {
            assert!(!looks_like_ours(line.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn nothing_leaves_its_line_whatever_it_is() {
        let mut seed = 5_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let parts: [&[u8]; 16] = [
            b"\x1b", b"[", b"]", b"m", b"31", b";", b"\r", b"\x07", b"\\", b"K", b"x", b"\xc2", b"\x9b", b"\xff", b"P",
            b"?",
        ];
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random(12)).flat_map(|_| parts[random(parts.len())].iter().copied()).collect();
            let shown = shown(&bytes);
            let text = std::str::from_utf8(&shown).unwrap();
            let mut rest = text;
            while let Some((before, after)) = rest.split_once('\x1b') {
                assert!(!before.contains(char::is_control), "{}", bytes.escape_ascii());
                let end = after.find('m').unwrap();
                assert!(after[1..end].bytes().all(|byte| b"0123456789;:".contains(&byte)) && after.starts_with('['));
                rest = &after[end + 1..];
            }
            assert!(!rest.contains(char::is_control), "{}", bytes.escape_ascii());
        }
    }
}
