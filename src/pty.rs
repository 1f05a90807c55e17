//! What a pseudo-terminal shall be like. Plain data; `sys` opens it.

/// The pseudo-terminal of a child: see [`Command::pty`](crate::Command::pty).
///
/// As in Twisted, what the child prints arrives with `\r\n` line ends, and what it is sent is echoed, unless told otherwise.
///
/// ```
/// use childminder::{Command, Pty};
///
/// let mut command = Command::new("top");
/// command.pty(Pty::new().size(24, 80)).env("TERM", "vt100");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pty {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) echo: bool,
    pub(crate) raw: bool,
}

impl Pty {
    /// A terminal of 24 rows and 80 columns with the system's usual settings.
    #[must_use]
    pub fn new() -> Self {
        Self { rows: 24, columns: 80, echo: true, raw: false }
    }

    /// The initial size, in characters.
    #[must_use]
    pub fn size(self, rows: u16, columns: u16) -> Self {
        Self { rows, columns, ..self }
    }

    /// Whether the terminal echoes what is written to the child (it does by default).
    #[must_use]
    pub fn echo(self, echo: bool) -> Self {
        Self { echo, ..self }
    }

    /// Passes every byte as it is in both directions: no echo, no line editing, no signals by control characters, no `\r\n`
    /// (`cfmakeraw(3)`).
    #[must_use]
    pub fn raw(self) -> Self {
        Self { raw: true, ..self }
    }
}

impl Default for Pty {
    fn default() -> Self {
        Self::new()
    }
}
