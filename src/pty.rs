//! The settings of a pseudo-terminal: plain data. `sys` opens the terminal.
//!
//! The one rule: a setting takes effect when the child is spawned, and never later.

/// The pseudo-terminal of a child: see [`Command::pty`](crate::Command::pty).
///
/// As in Twisted, the child's output arrives with `\r\n` line ends and its input is echoed, unless
/// set otherwise.
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
    pub(crate) plain_newlines: bool,
}

impl Pty {
    /// Makes the settings of a terminal of 24 rows and 80 columns with the system's usual modes.
    #[must_use]
    pub fn new() -> Self {
        Self { rows: 24, columns: 80, echo: true, raw: false, plain_newlines: false }
    }

    /// Sets the initial size, in characters.
    #[must_use]
    pub fn size(self, rows: u16, columns: u16) -> Self {
        Self { rows, columns, ..self }
    }

    /// Sets whether the terminal echoes what is written to the child (it does by default).
    #[must_use]
    pub fn echo(self, echo: bool) -> Self {
        Self { echo, ..self }
    }

    /// Leaves the line ends of the child as they are: `\n`, not `\r\n`. That is what a log wants.
    #[must_use]
    pub fn plain_newlines(self) -> Self {
        Self { plain_newlines: true, ..self }
    }

    /// Passes every byte unchanged in both directions: no echo, no line editing, no signals by
    /// control characters, no `\r\n` (`cfmakeraw(3)`).
    #[must_use]
    pub fn raw(self) -> Self {
        Self { raw: true, ..self }
    }
}

impl Pty {
    /// Tells whether what is written to it may be shown.
    pub(crate) fn shows_input(self) -> bool {
        self.echo && !self.raw
    }
}

impl Default for Pty {
    fn default() -> Self {
        Self::new()
    }
}
