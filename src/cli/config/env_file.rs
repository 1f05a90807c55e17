//! Parses an environment file: `NAME=value` lines, as Docker, systemd and the dotenv libraries read
//! them. Reads no file and expands nothing.
//!
//! The one rule: a line that these programs would read differently is a mistake, and the message
//! says how to write it so that all agree. No message shows a value.

use std::ops::Range;
use std::rc::Rc;

/// The variables of one file, which several tables may share.
pub(super) type Variables = Rc<Vec<(String, String)>>;

/// The variables in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) variables: Vec<(String, String)>,
    pub(super) mistakes: Vec<(Range<usize>, String)>,
    /// The places of unquoted or double-quoted values with a `$` that stays as it is.
    pub(super) dollars: Vec<(Range<usize>, String)>,
}

/// Parses the text of a file.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut at = 0;
    while at < text.len() {
        at = parsed.line(text, at);
    }
    parsed
}

impl Parsed {
    /// Parses the line that begins here, and the following lines if its value goes on. Returns
    /// where the next line begins.
    fn line(&mut self, text: &str, start: usize) -> usize {
        let end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let next = (end + 1).min(text.len()).max(end);
        let line = &text[start..end];
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            return next;
        }
        let mut first = start + line.len() - trimmed.len();
        if let Some(rest) = trimmed.strip_prefix("export ") {
            first = end - rest.trim_start().len();
        }
        let Some(equals) = text[first..end].find('=').map(|equals| first + equals) else {
            self.mistake(first..end, "a line without `=`, allowed are `NAME=value`, comments and empty lines");
            return next;
        };
        let name = &text[first..equals];
        if name.ends_with([' ', '\t']) || text[equals + 1..end].starts_with([' ', '\t']) {
            self.mistake(first..equals, "a space beside `=`, allowed is `NAME=value` without spaces there");
            return next;
        }
        if !is_name(name) {
            self.mistake(first..equals, "a name that is not made of letters, digits and `_`, with no digit in front");
            return next;
        }
        let begin = equals + 1;
        match text[begin..].chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(text, name, begin, quote),
            _ => {
                let value = text[begin..end].trim_end();
                if value.contains(" #") || value.contains("\t#") {
                    self.mistake(
                        begin..end,
                        "a value with ` #`, which only some programs take for a comment; put quotes around the value",
                    );
                } else if value.contains(['\'', '"', '\\']) {
                    self.mistake(
                        begin..end,
                        "a quote or a backslash in a value without quotes; put quotes around the whole value",
                    );
                } else if value.contains('\0') {
                    self.mistake(begin..end, "a value with NUL");
                } else {
                    self.dollar(begin, value);
                    self.variables.push((name.to_owned(), value.to_owned()));
                }
                next
            }
        }
    }

    /// Parses the value in quotes that begins here.
    fn quoted(&mut self, text: &str, name: &str, begin: usize, quote: char) -> usize {
        let line_end = |at: usize| text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1);
        let mut value = String::new();
        let mut chars = text[begin + 1..].char_indices();
        while let Some((at, char)) = chars.next() {
            let at = begin + 1 + at;
            match char {
                char if char == quote => {
                    let end = line_end(at);
                    if !text[at + 1..end].trim().is_empty() {
                        self.mistake(at + 1..end, "text behind the closing quote, allowed is nothing there");
                    } else if value.contains('\0') {
                        self.mistake(begin..end, "a value with NUL");
                    } else {
                        if quote == '"' {
                            self.dollar(begin, &text[begin + 1..at]);
                        }
                        self.variables.push((name.to_owned(), value));
                    }
                    return end;
                }
                '\\' if quote == '"' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => value.push(escaped),
                    // The line goes on.
                    Some((_, '\n')) => {}
                    _ => {
                        let what = "an unknown escape, allowed are \\n, \\r, \\t, \\\", \\\\, \\$ and \\`";
                        self.mistake(at..at + 1, what);
                        return line_end(at);
                    }
                },
                char => value.push(char),
            }
        }
        self.mistake(begin..begin + 1, "a quote that is never closed");
        line_end(begin)
    }

    fn mistake(&mut self, span: Range<usize>, what: &str) {
        self.mistakes.push((span, what.to_owned()));
    }

    /// Notes a variable in a value, which other programs would replace.
    fn dollar(&mut self, begin: usize, written: &str) {
        if let Some(variable) = super::text::variable(written) {
            self.dollars.push((begin..begin + written.len(), variable.to_owned()));
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    name.chars().all(is_part) && !name.is_empty() && !name.starts_with(|char: char| char.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn expect(text: &str, variables: &[(&str, &str)]) {
        let parsed = parse(text);
        assert_eq!(parsed.mistakes, []);
        let found: Vec<_> = parsed.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, variables, "{text:?}");
    }

    #[test]
    fn what_all_programs_read_is_read() {
        expect("", &[]);
        expect("\n # c\n;c\nA=1", &[("A", "1")]);
        expect("A=\nB=\n", &[("A", ""), ("B", "")]);
        expect("  export A=a b  \n", &[("A", "a b")]);
        expect("A='a\"b\\'\nB=\"a'b\\\"\\n\"", &[("A", "a\"b\\"), ("B", "a'b\"\n")]);
        expect("A='x\ny'\nB=1\n", &[("A", "x\ny"), ("B", "1")]);
        expect("A=a#b=c\nA=2\n", &[("A", "a#b=c"), ("A", "2")]);
    }

    #[test]
    fn what_they_read_differently_is_a_mistake() {
        for (text, span) in [
            ("A", 0..1),
            ("A =1", 0..2),
            ("A=1\nB= 1", 4..5),
            ("=1", 0..0),
            ("1A=1", 0..2),
            ("A.B=1", 0..3),
            ("A=x #y", 2..6),
            ("A=a\"b\"", 2..6),
            ("A=a\\b", 2..5),
            ("A='x", 2..3),
            ("A='x' y\nB=1", 5..8),
            ("A=\"\\q\"", 3..4),
        ] {
            let parsed = parse(text);
            assert_eq!(parsed.mistakes.len(), 1, "{text:?} {parsed:?}");
            assert_eq!(parsed.mistakes[0].0, span, "{text:?}");
        }
    }

    #[test]
    fn any_text_is_parsed_to_its_end() {
        let mut seed = 5_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let parts = ["A", "=", "'", "\"", "\\", "\n", " ", "#", "$A", "ß", "\r", "export "];
        for _ in 0..20_000 {
            let text: String = (0..random(14)).map(|_| parts[random(parts.len())]).collect();
            for (span, _) in parse(&text).mistakes {
                assert!(text.is_char_boundary(span.start) && span.end <= text.len(), "{text:?}");
            }
        }
    }
}
