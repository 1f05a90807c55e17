//! Our own stdout and stderr, and other descriptors that the command was started with. They get the
//! lines of processes, with the name in front or as they are, and messages of our own.
//!
//! The one rule: the supervisor never waits for them. A slow reader makes only the processes wait
//! that write to its descriptor.

use std::borrow::Cow;
use std::io::{self, IsTerminal};
use std::time::Instant;

use childminder::{Event, Line, Lines, ProcessId, Reactor};

use super::end::{End, Piece};
use crate::cli::config::Look;
use crate::cli::dress::{Dress, Record};
use crate::cli::output::Output;
use crate::cli::text::visible;
use crate::cli::waiting::Author;
use crate::cli::{prompt, screen};

/// The colours of names on a terminal. They are readable on black and on white.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

#[derive(Debug)]
pub(super) struct Console {
    outputs: Vec<Shared>,
    /// Our descriptors, each with the index of its output.
    numbers: Vec<(i32, usize)>,
    /// Whether stderr is a terminal, where progress can be drawn.
    terminal: bool,
    /// The text that is drawn on stderr's last line now.
    progress: Option<Vec<u8>>,
    drawn: bool,
    /// How our own messages are written.
    pub(super) dress: Dress,
}

/// The process that has written a line, as far as the console shows it.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) author: Author,
    /// The number of its name, which gives it its colour.
    pub(super) number: usize,
    /// Whether a terminal gets the bytes of the process as they are.
    pub(super) raw: bool,
    /// What its own settings say of how its lines are written.
    pub(super) look: Look,
    pub(super) dress: Dress,
}

impl Speaker {
    /// Sets how its lines are written, with a default for what its settings do not say.
    pub(super) fn set_look(&mut self, look: Look, default: Look) {
        (self.look, self.dress) = (look, look.or(default).dress());
    }

    /// The speaker for a name that has no settings any more.
    pub(super) fn unknown(name: &str) -> Self {
        Self { author: Some(name.into()), number: 0, raw: false, look: Look::default(), dress: Dress::default() }
    }
}

/// An output and the state that all of its writers share. Descriptors for the same file share one,
/// so that lines on stdout and messages on stderr of one terminal keep their order.
#[derive(Debug)]
struct Shared {
    output: Output,
    /// Device and inode of its file.
    id: (u64, u64),
    /// The name of the output in messages.
    name: String,
    colour: bool,
    end: End<(ProcessId, i32)>,
    /// Whether the processes that write to this output have to wait, because it is not read.
    held: bool,
}

impl Console {
    pub(super) fn new(reactor: &mut Reactor) -> io::Result<Self> {
        Self::with(reactor, Output::stdout()?, Output::stderr()?)
    }

    fn with(reactor: &mut Reactor, out: Output, err: Output) -> io::Result<Self> {
        let mut console = Self {
            outputs: Vec::new(),
            numbers: Vec::new(),
            terminal: io::stderr().is_terminal(),
            progress: None,
            drawn: false,
            dress: Dress::default(),
        };
        console.add(reactor, STDOUT, out)?;
        console.add(reactor, STDERR, err)?;
        Ok(console)
    }

    /// Makes another one of our descriptors an output. Does nothing if it is one already.
    ///
    /// # Errors
    ///
    /// The descriptor cannot be duplicated.
    pub(super) fn open(&mut self, reactor: &mut Reactor, number: i32) -> io::Result<()> {
        if self.numbers.iter().any(|(known, _)| *known == number) {
            return Ok(());
        }
        self.add(reactor, number, Output::of(childminder::inherited_fd(number)?)?)
    }

    fn add(&mut self, reactor: &mut Reactor, number: i32, mut output: Output) -> io::Result<()> {
        let id = output.id()?;
        let index = self.outputs.iter().position(|known| known.id == id).unwrap_or_else(|| {
            output.watch(reactor);
            let name = match number {
                STDOUT => "stdout".to_owned(),
                STDERR => "stderr".to_owned(),
                other => format!("descriptor {other}"),
            };
            let colour = screen::wants_colour() && output.is_terminal();
            self.outputs.push(Shared { output, id, name, colour, end: End::default(), held: false });
            self.outputs.len() - 1
        });
        self.numbers.push((number, index));
        Ok(())
    }

    /// The index of the output for a descriptor of ours. It is that of stdout if the descriptor was
    /// never added.
    pub(super) fn index(&self, number: i32) -> usize {
        self.numbers.iter().find(|(known, _)| *known == number).map_or(0, |(_, index)| *index)
    }

    fn err(&mut self) -> &mut Shared {
        let index = self.index(STDERR);
        &mut self.outputs[index]
    }

    /// Whether an event was meant for one of the outputs.
    pub(super) fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        self.outputs.iter_mut().any(|shared| shared.output.handle(reactor, event))
    }

    /// Writes a line of a process with the name in front.
    pub(super) fn line(&mut self, line: &Line<'_>, speaker: &Speaker) {
        let number = if line.fd == STDERR { STDERR } else { STDOUT };
        let text = self.shown(line, speaker, number);
        self.marked(line, &text, speaker, number);
    }

    /// Writes lines of a process, each with the name in front.
    pub(super) fn lines(&mut self, lines: &Lines<'_>, speaker: &Speaker) {
        let number = if lines.fd == STDERR { STDERR } else { STDOUT };
        let index = self.index(number);
        if self.outputs[index].output.is_terminal() {
            return lines.for_each(|line| self.line(&line, speaker));
        }
        self.erase_progress();
        let Shared { output, colour, end, .. } = &mut self.outputs[index];
        let mark = mark(lines.name, false, speaker, *colour);
        let mut before = end.finish();
        lines.for_each(|line| {
            output.push(&speaker.author, &[before, &mark, line.bytes, b"\n"]);
            before = b"";
        });
    }

    fn marked(&mut self, line: &Line<'_>, text: &[u8], speaker: &Speaker, number: i32) {
        self.erase_progress();
        let index = self.index(number);
        let Shared { output, colour, end, .. } = &mut self.outputs[index];
        let mark = mark(line.name, line.continued, speaker, *colour);
        output.push(&speaker.author, &[end.finish(), &mark, text, b"\n"]);
    }

    /// Writes lines of a process as they are to a descriptor of ours.
    pub(super) fn unmarked_lines(&mut self, lines: &Lines<'_>, speaker: &Speaker, number: i32) {
        let index = self.index(number);
        if self.outputs[index].output.is_terminal() {
            return lines.for_each(|line| self.unmarked(&line, speaker, number));
        }
        if speaker.dress.stamp.is_some() {
            let front = speaker.dress.front();
            self.erase_progress();
            let Shared { output, end, .. } = &mut self.outputs[index];
            let mut before = end.finish();
            return lines.for_each(|line| {
                output.push(&speaker.author, &[before, front.as_bytes(), line.bytes, b"\n"]);
                before = b"";
            });
        }
        self.erase_progress();
        let Shared { output, end, .. } = &mut self.outputs[index];
        output.push(&speaker.author, &[end.finish(), lines.bytes]);
    }

    /// Writes a line of a process without the name to a descriptor of ours.
    pub(super) fn unmarked(&mut self, line: &Line<'_>, speaker: &Speaker, number: i32) {
        let index = self.index(number);
        let text = self.shown(line, speaker, number);
        let is_shown = self.outputs[index].output.is_terminal() && !speaker.raw;
        if is_shown && !line.continued && screen::looks_like_ours(&text) {
            return self.marked(line, &text, speaker, number);
        }
        self.erase_progress();
        let Shared { output, end, .. } = &mut self.outputs[index];
        let front = if line.continued { String::new() } else { speaker.dress.front() };
        let piece = Piece { bytes: &text, ..Piece::from(line) };
        let [before, bytes, newline] = end.add((line.process, line.fd), piece);
        output.push(&speaker.author, &[before, front.as_bytes(), bytes, newline]);
    }

    /// Writes whole lines that are dressed already to a descriptor of ours.
    pub(super) fn dressed_lines(&mut self, lines: &[u8], speaker: &Speaker, number: i32) {
        let index = self.index(number);
        self.erase_progress();
        let Shared { output, end, .. } = &mut self.outputs[index];
        output.push(&speaker.author, &[end.finish(), lines]);
    }

    /// The bytes of a line as the output of this descriptor gets them.
    fn shown<'a>(&self, line: &Line<'a>, speaker: &Speaker, number: i32) -> Cow<'a, [u8]> {
        match self.outputs[self.index(number)].output.is_terminal() && !speaker.raw {
            true => screen::shown(line.bytes),
            false => line.bytes.into(),
        }
    }

    /// Writes a message of our own.
    pub(super) fn say(&mut self, what: &str) {
        self.erase_progress();
        let dress = self.dress;
        let (front, time) = (dress.front(), if dress.json { dress.time() } else { String::new() });
        let Shared { output, end, .. } = self.err();
        let mut before = end.finish();
        for line in what.lines() {
            if dress.json {
                let mut json = Vec::new();
                let text = line.as_bytes();
                let own = Record { name: None, stream: "childminder", pid: None, text, continued: false, cut: false };
                own.write(&time, &mut json);
                output.push(&None, &[before, &json]);
                before = b"";
                continue;
            }
            output.push(&None, &[before, front.as_bytes(), screen::OWN.as_bytes(), visible(line).as_bytes(), b"\n"]);
            before = b"";
        }
    }

    /// Whether progress can be seen.
    pub(super) fn shows_progress(&self) -> bool {
        self.terminal
    }

    /// Keeps this as the last line of the terminal until a call with `None`.
    pub(super) fn set_progress(&mut self, progress: Option<String>) {
        self.draw(progress.map(|progress| format!("{}{progress}", screen::OWN).into_bytes()));
    }

    /// Keeps the start of a line of a process as the last line of the terminal. Returns whether its
    /// output is the terminal.
    pub(super) fn set_unfinished(&mut self, name: &str, text: &[u8], speaker: &Speaker, fd: i32) -> bool {
        let number = if fd == STDERR { STDERR } else { STDOUT };
        let Shared { output, colour, .. } = &self.outputs[self.index(number)];
        if !self.terminal || !output.is_terminal() || speaker.dress.json {
            return false;
        }
        let mark = mark(name, false, speaker, *colour);
        let text = prompt::on_a_row(text, mark_width(name, speaker), output.columns());
        self.draw(Some([&mark, text.as_bytes()].concat()));
        true
    }

    fn draw(&mut self, progress: Option<Vec<u8>>) {
        if self.terminal && self.progress != progress {
            self.erase_progress();
            self.progress = progress;
        }
    }

    fn erase_progress(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.err().output.push(&None, &[b"\r\x1b[K"]);
            // The next bytes may go to the same terminal through another output.
            self.err().output.flush();
        }
    }

    /// Writes the messages if they have become many, so that a burst of messages takes no memory.
    pub(super) fn relieve(&mut self) {
        if self.err().output.is_worth_a_write() {
            self.err().output.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if !self.drawn && !self.err().output.is_full() {
            if let Some(progress) = self.progress.take() {
                let Shared { output, end, .. } = self.err();
                output.push(&None, &[end.finish(), &progress]);
                (self.progress, self.drawn) = (Some(progress), true);
            }
        }
        let mut news = Vec::new();
        for Shared { output, name, .. } in &mut self.outputs {
            output.flush();
            news.extend(output.take_news().map(|what| format!("{name}: {what}")));
        }
        if !news.is_empty() {
            news.iter().for_each(|what| self.say(what));
            self.err().output.flush();
        }
    }

    /// Updates which outputs are held: an output is held from the time that it is full until it is
    /// empty. Returns whether this has changed for any.
    pub(super) fn update_holds(&mut self) -> bool {
        let mut any_changed = false;
        for Shared { output, held, .. } in &mut self.outputs {
            let before = std::mem::replace(held, output.is_full() || *held && !output.is_empty());
            any_changed |= *held != before;
        }
        any_changed
    }

    /// Whether the processes that write to this output have to wait.
    pub(super) fn is_held(&self, index: usize) -> bool {
        self.outputs.get(index).is_some_and(|shared| shared.held)
    }

    /// Whether one of the outputs has become full since the holds were updated.
    pub(super) fn is_any_overfull(&self) -> bool {
        self.outputs.iter().any(|shared| !shared.held && shared.output.is_full())
    }

    /// Whether the processes that write to any of the outputs have to wait.
    pub(super) fn is_any_held(&self) -> bool {
        self.outputs.iter().any(|shared| shared.held)
    }

    /// Writes what is left, at the end, as far as it is taken before the deadline, and reports the
    /// lines that were dropped.
    pub(super) fn finish(&mut self, reactor: &Reactor, deadline: Instant) {
        self.set_progress(None);
        let mut reports = Vec::new();
        for Shared { output, name, .. } in &mut self.outputs {
            output.finish(reactor, Some(deadline));
            reports.extend(output.final_report().map(|report| format!("{name}: {report}")));
        }
        reports.iter().for_each(|report| self.say(report));
        self.err().output.finish(reactor, Some(deadline));
    }
}

/// The number of columns that a mark takes on a terminal.
fn mark_width(name: &str, speaker: &Speaker) -> usize {
    speaker.dress.front().chars().count() + name.chars().count() + "[] ".len()
}

/// The text in front of a line.
fn mark(name: &str, continued: bool, speaker: &Speaker, colour: bool) -> Vec<u8> {
    let (front, end) = (speaker.dress.front(), if continued { "+]" } else { "]" });
    match COLOURS[speaker.number % COLOURS.len()] {
        number if colour => format!("{front}\x1b[{number}m[{name}{end}\x1b[0m "),
        _ => format!("{front}[{name}{end} "),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests;
