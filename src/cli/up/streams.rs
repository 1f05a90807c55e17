//! The output of a process on its way to the console, a file and clients: where it goes, how it is
//! written, and what is remembered of it; and where its input comes from. Passes nothing on itself.
//!
//! The one rule: a process that has written nothing takes no memory for its last lines.

use childminder::{Line, Lines, ProcessId};

use super::console::Speaker;
use super::log_files::FileId;
use super::recent::Recent;
use crate::cli::config::Stdin;
use crate::cli::control::protocol::LogLine;
use crate::cli::dress::{Dress, Record};

/// The output of a process, as the monitor reports it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heard<'a> {
    Line(&'a Line<'a>),
    Lines(&'a Lines<'a>),
}

/// The number of the stream under which clients get a descriptor's lines.
pub(super) fn stream(fd: i32) -> u8 {
    if fd == 2 { 2 } else { 1 }
}

pub(super) fn log_line<'a>(line: &Line<'a>, time: u64) -> LogLine<'a> {
    LogLine { stream: stream(line.fd), continued: line.continued, cut: line.cut, text: line.bytes, time }
}

/// A new line for clients that follow.
#[derive(Debug)]
pub(super) struct News {
    stream: u8,
    continued: bool,
    cut: bool,
    text: Vec<u8>,
    time: u64,
}

impl News {
    pub(super) fn new(LogLine { stream, continued, cut, text, time }: LogLine<'_>) -> Self {
        Self { stream, continued, cut, text: text.to_vec(), time }
    }

    pub(super) fn lend(&self) -> LogLine<'_> {
        LogLine { stream: self.stream, continued: self.continued, cut: self.cut, text: &self.text, time: self.time }
    }
}

/// The output of one process, and what is reported of it.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) speaker: Speaker,
    pub(super) out: Sink,
    pub(super) err: Sink,
    /// Its last lines, once there is one, and how many bytes of them are kept, if its settings say
    /// it.
    pub(super) recent: Option<Box<Recent>>,
    pub(super) most_recent: Option<u32>,
    /// What is known of its faults, if there were any.
    pub(super) trouble: Option<Box<Trouble>>,
    /// Whether the file says how it becomes ready, so that this is of interest.
    pub(super) tells_readiness: bool,
    /// Whether some of its processes were still there after they were killed.
    pub(super) remains: bool,
    pub(super) input: Input,
    /// The pid of the last process.
    pub(super) pid: u32,
    /// Whether that process has not written yet. Otherwise `writer` is this process. Both are kept
    /// up only if lines are written as JSON.
    pub(super) is_new: bool,
    pub(super) writer: Option<Box<ProcessId>>,
    /// The exit code that stands for the last exit, or for the failure of the last start.
    pub(super) code: u8,
    /// The time of the last exit, in milliseconds since 1970. 0 if there was none.
    pub(super) exited_at: u64,
    /// Whether the process was removed. It is forgotten when it has exited.
    pub(super) removed: bool,
}

/// Where the input of a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Not from us.
    None,
    Pipe,
    Terminal,
}

impl Input {
    pub(super) fn of(stdin: &Stdin) -> Self {
        match stdin {
            Stdin::Pipe => Self::Pipe,
            Stdin::Terminal => Self::Terminal,
            Stdin::Null | Stdin::Inherit | Stdin::File(_) => Self::None,
        }
    }

    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Pipe => Some("pipe"),
            Self::Terminal => Some("tty"),
        }
    }
}

/// Why a process does not work.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The error of its last start, if that failed.
    pub(super) start_error: Option<Box<str>>,
    /// Why its last process had to be replaced, if it had, and it was not ready since.
    pub(super) fault: Option<Box<str>>,
    /// Why its last check has failed, if it has, and it was not ready since.
    pub(super) check: Option<Box<str>>,
    /// The number of messages that others have sent in its name.
    pub(super) foreign: u64,
}

impl Streams {
    pub(super) fn trouble(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// The pid of a process that writes, if it is known: the first one that writes after a start is
    /// the one that was started, unless it has written before.
    pub(super) fn pid_of(&mut self, process: ProcessId) -> Option<u32> {
        if self.is_new {
            if self.writer.as_deref() == Some(&process) {
                return None;
            }
            (self.writer, self.is_new) = (Some(process.into()), false);
        }
        Some(self.pid).filter(|_| self.writer.as_deref() == Some(&process))
    }

    /// The last lines, to add one.
    pub(super) fn recent(&mut self) -> &mut Recent {
        let most = self.most_recent;
        self.recent.get_or_insert_with(|| Recent::of(most).into())
    }

    pub(super) fn set_most_recent(&mut self, bytes: Option<u32>) {
        self.most_recent = bytes;
        if let Some(recent) = &mut self.recent {
            recent.set_most(bytes);
        }
    }

    pub(super) fn sink(&self, fd: i32) -> Sink {
        if fd == 2 { self.err } else { self.out }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sink {
    Console,
    /// Our own descriptor of this number, which gets the lines as they are.
    Own(i32),
    File(FileId),
    /// The output does not come to us.
    Elsewhere,
}

/// The text of lines, or of a piece of one, as it is written with this dress. It is whole lines,
/// unless a piece of one was heard and is not written as JSON.
pub(super) fn dress(heard: Heard<'_>, dress: Dress, pid: Option<u32>) -> Vec<u8> {
    let mut text = Vec::new();
    if dress.json {
        let time = dress.time();
        let mut add = |line: &Line<'_>| {
            let stream = if line.fd == 2 { "stderr" } else { "stdout" };
            let Line { bytes, continued, cut, .. } = *line;
            Record { name: Some(line.name), stream, pid, text: bytes, continued, cut }.write(&time, &mut text);
        };
        match heard {
            Heard::Line(line) => add(line),
            Heard::Lines(lines) => lines.for_each(|line| add(&line)),
        }
        return text;
    }
    let front = dress.front();
    match heard {
        Heard::Line(line) => {
            text.extend_from_slice(if line.continued { b"" } else { front.as_bytes() });
            text.extend_from_slice(line.bytes);
        }
        Heard::Lines(lines) => lines.for_each(|line| {
            text.extend_from_slice(front.as_bytes());
            text.extend_from_slice(line.bytes);
            text.push(b'\n');
        }),
    }
    text
}
