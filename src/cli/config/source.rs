//! The text of the file. Knows nothing of what the text says.
//!
//! The one rule: what Windows adds to a text is left out before anything counts lines and columns.

use std::borrow::Cow;

/// Why bytes are not a text that can be read.
pub(super) struct NotText<'t> {
    /// The text in front of the place where it goes wrong.
    pub(super) before: Cow<'t, str>,
    pub(super) message: &'static str,
}

/// The text in these bytes, as an editor shows it: without a byte-order mark, and with LF at the end of each line.
///
/// The parser would keep the CR of a CRLF within a string of several lines, and a shell would take it for a part of the line.
pub(super) fn text(bytes: &[u8]) -> Result<Cow<'_, str>, NotText<'_>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(plain(text)),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let message = if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
                "text in UTF-16, allowed is text in UTF-8"
            } else {
                "bytes that are no UTF-8, allowed is text in UTF-8"
            };
            Err(NotText { before: plain(std::str::from_utf8(before).unwrap_or_default()), message })
        }
    }
}

fn plain(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.contains('\r') {
        return text.into();
    }
    // More than one CR is what a text has that was converted twice.
    text.split('\n').map(|line| line.trim_end_matches('\r')).collect::<Vec<_>>().join("\n").into()
}
