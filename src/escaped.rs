//! Bytes as text.
//!
//! It copies nothing. The one rule: every byte is shown.

use std::fmt;

/// Displays bytes as text: valid UTF-8 unchanged, and each other byte as `\xNN`.
///
/// It is meant for logs and messages, because the output of a child need not be UTF-8. It is for
/// reading, not for parsing back: backslashes and control characters of the text are not escaped.
/// It allocates no memory and cannot fail.
///
/// # Examples
///
/// ```
/// use childminder::Escaped;
///
/// assert_eq!(Escaped("caf\u{e9}".as_bytes()).to_string(), "caf\u{e9}");
/// assert_eq!(Escaped(b"\xffhello world!").to_string(), r"\xffhello world!");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_shows_each_invalid_byte() {
        let show = |bytes: &[u8]| Escaped(bytes).to_string();
        assert_eq!(show(b""), "");
        assert_eq!(show("grüße \u{1f980}".as_bytes()), "grüße \u{1f980}");
        assert_eq!(show(b"\xffhello world!"), r"\xffhello world!");
        assert_eq!(show(b"a\x80\xfeb\n"), "a\\x80\\xfeb\n");
        assert_eq!(show(b"cut \xf0\x9f\xa6"), r"cut \xf0\x9f\xa6");
        assert_eq!(show(b"\xc0\x00"), "\\xc0\0");
        assert_eq!(show(br"\x41"), r"\x41");
    }
}
