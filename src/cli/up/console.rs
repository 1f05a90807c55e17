//! Our own stdout and stderr: the lines of processes with their names before them, and what we have to say ourselves.
//!
//! The one rule: never waited for. Who is slow makes the processes wait that write there, and nobody else.

use std::io::{self, IsTerminal};
use std::time::Instant;

use childminder::{Line, Reactor, SourceId};

use crate::cli::output::Output;

/// Of a terminal: those that are readable on black and on white.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

#[derive(Debug)]
pub(super) struct Console {
    out: Output,
    err: Output,
    colour_out: bool,
    colour_err: bool,
    /// stderr is a terminal: progress can be drawn there.
    terminal: bool,
    /// What is drawn on stderr's last line now.
    progress: Option<String>,
    drawn: bool,
    /// Messages of our own that nobody has read.
    unsaid: u64,
}

impl Console {
    pub(super) fn new() -> io::Result<Self> {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let plain = set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = io::stderr().is_terminal();
        Ok(Self {
            out: Output::stdout()?,
            err: Output::stderr()?,
            colour_out: !plain && io::stdout().is_terminal(),
            colour_err: !plain && terminal,
            terminal,
            progress: None,
            drawn: false,
            unsaid: 0,
        })
    }

    pub(super) fn watch(&mut self, reactor: &mut Reactor) {
        self.out.watch(reactor);
        self.err.watch(reactor);
    }

    pub(super) fn is(&self, source: SourceId) -> bool {
        self.out.is(source) || self.err.is(source)
    }

    /// A line of a process, whose colour is the one of this number.
    pub(super) fn line(&mut self, line: &Line<'_>, number: usize) {
        self.erase_progress();
        let (output, colour) =
            if line.fd == 2 { (&mut self.err, self.colour_err) } else { (&mut self.out, self.colour_out) };
        let mark: &[u8] = if line.continued { b"+]" } else { b"]" };
        let name = line.name.as_bytes();
        if colour {
            let start = format!("\x1b[{}m[", COLOURS[number % COLOURS.len()]);
            output.push(&[start.as_bytes(), name, mark, b"\x1b[0m ", line.bytes, b"\n"]);
        } else {
            output.push(&[b"[", name, mark, b" ", line.bytes, b"\n"]);
        }
    }

    /// Something of our own.
    pub(super) fn say(&mut self, what: &str) {
        if self.err.is_full() {
            self.unsaid += 1;
            return;
        }
        self.erase_progress();
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid > 0 {
            self.err.push(&[format!("childminder: {unsaid} messages were dropped here\n").as_bytes()]);
        }
        for line in what.lines() {
            self.err.push(&[b"childminder: ", line.as_bytes(), b"\n"]);
        }
    }

    /// Whether progress would be seen.
    pub(super) fn shows_progress(&self) -> bool {
        self.terminal
    }

    /// Has this be the last line of the terminal until it is taken back by `None`.
    pub(super) fn set_progress(&mut self, progress: Option<String>) {
        if self.terminal && self.progress != progress {
            self.erase_progress();
            self.progress = progress;
        }
    }

    fn erase_progress(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.err.push(&[b"\r\x1b[K"]);
            // What comes next may go to the same terminal by stdout.
            self.err.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(progress) = self.progress.as_ref().filter(|_| !self.drawn && !self.err.is_full()) {
            self.err.push(&[b"childminder: ", progress.as_bytes()]);
            self.drawn = true;
        }
        self.out.flush();
        self.err.flush();
    }

    /// Whether so much is waiting that those who write here have to wait, too.
    pub(super) fn is_full(&self) -> bool {
        self.out.is_full() || self.err.is_full()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty() && self.err.is_empty()
    }

    /// Writes what is left, at the end, as far as it is taken until then.
    pub(super) fn finish(&mut self, reactor: &Reactor, deadline: Instant) {
        self.set_progress(None);
        self.out.finish(reactor, Some(deadline));
        self.err.finish(reactor, Some(deadline));
    }
}
