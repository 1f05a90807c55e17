//! What the supervisor hears of its processes, and where it goes: to the console, to files, to those who follow.
//!
//! Decides nothing about processes. The one rule: nothing here waits, and nothing here grows: what cannot be passed on is
//! counted and dropped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use childminder::restart::State;
use childminder::{Event, Exit, Line, Observer, ProcessId, Reactor, Remains, SpawnError, TimerId};

use super::console::{Console, Speaker};
use super::end::Piece;
use super::files::LogFile;
use super::recent::Recent;
use crate::cli::config::{Output, ProcessConfig};
use crate::cli::control::protocol::LogLine;
use crate::cli::safe_path::{self, Target};
use crate::cli::text::visible;
use crate::cli::words;

#[derive(Debug)]
pub(super) struct Voice {
    pub(super) console: Console,
    files: Vec<Option<LogFile<(ProcessId, i32)>>>,
    /// The time when a file that has failed is to be tried again, and the timer for it.
    retry_at: Option<Instant>,
    retry: Option<TimerId>,
    streams: HashMap<String, Streams>,
    /// The number of the next name, for its colour.
    next_number: usize,
    /// Somebody follows: what comes is kept for the rest of the turn.
    pub(super) followed: bool,
    /// The lines, each with the name of its process.
    news: Vec<(String, News)>,
    /// The processes whose state has changed since somebody last looked.
    pub(super) changed: Vec<String>,
    /// Starts are counted and not told: many are under way.
    pub(super) quiet_starts: bool,
}

/// A line that has just come.
#[derive(Debug)]
pub(super) struct News {
    stream: u8,
    continued: bool,
    cut: bool,
    text: Vec<u8>,
}

impl News {
    fn new(LogLine { stream, continued, cut, text }: LogLine<'_>) -> Self {
        Self { stream, continued, cut, text: text.to_vec() }
    }

    pub(super) fn lend(&self) -> LogLine<'_> {
        LogLine { stream: self.stream, continued: self.continued, cut: self.cut, text: &self.text }
    }
}

/// What one process writes.
#[derive(Debug)]
struct Streams {
    speaker: Speaker,
    out: Sink,
    err: Sink,
    recent: Recent,
    /// Why its last start failed.
    start_error: Option<Box<str>>,
    /// Some of its processes were still there after they were killed.
    remains: bool,
    /// The process is not wanted any more; it is forgotten when it has exited.
    removed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    Console,
    /// Our own descriptor of this number, which gets the lines as they are.
    Own(i32),
    File(usize),
    /// It does not come by us.
    Elsewhere,
}

impl Voice {
    pub(super) fn new(console: Console) -> Self {
        Self {
            console,
            files: Vec::new(),
            retry_at: None,
            retry: None,
            streams: HashMap::new(),
            next_number: 0,
            followed: false,
            news: Vec::new(),
            changed: Vec::new(),
            quiet_starts: false,
        }
    }

    /// Has the output of a process go where its settings say. Its last lines stay.
    pub(super) fn set(&mut self, reactor: &mut Reactor, process: &ProcessConfig) {
        let out = self.sink(reactor, &process.settings.stdout);
        let err = self.sink(reactor, &process.settings.stderr);
        let next = self.next_number;
        let streams = self.streams.entry(process.name.clone()).or_insert_with(|| {
            self.next_number += 1;
            let speaker = Speaker { author: Some(process.name.as_str().into()), number: next, raw: process.raw };
            let (recent, start_error) = (Recent::default(), None);
            Streams { speaker, out, err, recent, start_error, remains: false, removed: false }
        });
        streams.speaker.raw = process.raw;
        (streams.out, streams.err, streams.removed) = (out, err, false);
        self.close_unused_files();
    }

    /// Takes over what can change while a process runs.
    pub(super) fn update(&mut self, process: &ProcessConfig) {
        if let Some(streams) = self.streams.get_mut(&process.name) {
            streams.speaker.raw = process.raw;
        }
    }

    /// Forgets a process, at once or, if it is `alive`, when it has exited.
    pub(super) fn remove(&mut self, name: &str, alive: bool) {
        if let Some(streams) = self.streams.get_mut(name) {
            streams.removed = true;
            if !alive {
                self.streams.remove(name);
                self.close_unused_files();
            }
        }
    }

    fn sink(&mut self, reactor: &mut Reactor, output: &Output) -> Sink {
        let Output::File { path, new, max_size, keep } = output else {
            return if *output == Output::Prefix { Sink::Console } else { Sink::Elsewhere };
        };
        if let Ok(Target::Own(number)) = safe_path::find(path) {
            match self.console.open(reactor, number) {
                Ok(()) => return Sink::Own(number),
                Err(error) => self.say(&format!("{}: {error}", path.display())),
            }
        }
        // One file, however many write to it: they must not rotate it under each other.
        let known = self.files.iter().position(|file| file.as_ref().is_some_and(|file| file.path() == path));
        let free = || self.files.iter().position(Option::is_none);
        let index = known.or_else(free).unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        match &mut self.files[index] {
            Some(file) => file.set(*new, *max_size, *keep),
            none => *none = Some(LogFile::new(path.clone(), *new, *max_size, *keep)),
        }
        Sink::File(index)
    }

    fn close_unused_files(&mut self) {
        for (index, file) in self.files.iter_mut().enumerate() {
            let used = Sink::File(index);
            if !self.streams.values().any(|streams| streams.out == used || streams.err == used) {
                if let Some(said) = file.take().and_then(|mut file| file.finish()) {
                    self.console.say(&visible(&said));
                }
            }
        }
    }

    /// The index of the console's output that a descriptor of a process leads to, if it leads to
    /// the console.
    pub(super) fn console_index(&self, name: &str, fd: i32) -> Option<usize> {
        let streams = self.streams.get(name);
        let sink = streams.map_or(Sink::Console, |streams| if fd == 2 { streams.err } else { streams.out });
        match sink {
            Sink::Console => Some(self.console.index(fd)),
            Sink::Own(number) => Some(self.console.index(number)),
            Sink::File(_) | Sink::Elsewhere => None,
        }
    }

    /// The last lines of a process.
    pub(super) fn recent(&mut self, name: &str, see: impl FnMut(LogLine<'_>)) {
        if let Some(streams) = self.streams.get_mut(name) {
            streams.recent.for_each(see);
        }
    }

    /// Why the last start of a process failed, if it did.
    pub(super) fn start_error(&self, name: &str) -> Option<&str> {
        self.streams.get(name)?.start_error.as_deref()
    }

    /// What has come since the last call, if somebody follows.
    pub(super) fn take_news(&mut self) -> Vec<(String, News)> {
        std::mem::take(&mut self.news)
    }

    /// Whether an event was meant for this.
    pub(super) fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Timer(id) if self.retry == Some(id) => {
                self.retry = None;
                true
            }
            _ => self.console.handle(reactor, event),
        }
    }

    /// Passes on what was heard in this turn, and has a file that has failed tried again in time.
    pub(super) fn settle(&mut self, reactor: &mut Reactor) {
        self.flush(reactor.now());
        if let (Some(retry_at), None) = (self.retry_at, self.retry) {
            self.retry = Some(reactor.call_later(retry_at.saturating_duration_since(reactor.now())));
        }
    }

    /// Passes on what was heard until now.
    pub(super) fn flush(&mut self, now: Instant) {
        self.retry_at = None;
        for file in self.files.iter_mut().flatten() {
            if let Some(said) = file.flush(now) {
                self.console.say(&visible(&said));
            }
            let earlier = |at: Instant| self.retry_at.map_or(at, |known| known.min(at));
            self.retry_at = file.retry_at().map(earlier).or(self.retry_at);
        }
        self.console.flush();
    }

    /// Has all files be opened anew.
    pub(super) fn reopen(&mut self, now: Instant) {
        // What was heard before belongs to the old files.
        self.flush(now);
        for file in self.files.iter_mut().flatten() {
            file.close();
        }
        self.console.say("the output files are opened anew");
    }

    /// Writes at the end what is left, as far as it is taken until the deadline, and reports the
    /// lines that were dropped.
    pub(super) fn finish(&mut self, reactor: &Reactor, deadline: Instant) {
        for file in self.files.iter_mut().flatten() {
            if let Some(said) = file.finish() {
                self.console.say(&visible(&said));
            }
        }
        self.console.finish(reactor, deadline);
    }

    /// A message of our own, in one line whatever is in it.
    pub(super) fn say(&mut self, what: &str) {
        self.console.say(&visible(what));
    }

    fn report(&mut self, name: &str, what: &str) {
        self.say(&format!("[{name}] {what}"));
    }
}

impl Observer for Voice {
    fn line(&mut self, line: &Line<'_>) {
        let stream = if line.fd == 2 { 2 } else { 1 };
        let kept = LogLine { stream, continued: line.continued, cut: line.cut, text: line.bytes };
        if self.followed {
            self.news.push((line.name.to_owned(), News::new(kept)));
        }
        // Of a process that was removed, somebody still holds the pipe.
        let Some(streams) = self.streams.get_mut(line.name) else {
            let speaker = Speaker { author: Some(line.name.into()), number: 0, raw: false };
            return self.console.line(line, &speaker);
        };
        streams.recent.push(kept);
        match if stream == 2 { streams.err } else { streams.out } {
            Sink::File(index) => {
                if let Some(Some(file)) = self.files.get_mut(index) {
                    file.push((line.process, line.fd), &streams.speaker.author, Piece::from(line));
                }
            }
            Sink::Own(number) => self.console.unmarked(line, &streams.speaker, number),
            Sink::Console | Sink::Elsewhere => self.console.line(line, &streams.speaker),
        }
    }

    fn started(&mut self, name: &str, pid: u32) {
        if let Some(streams) = self.streams.get_mut(name) {
            streams.start_error = None;
        }
        if !self.quiet_starts {
            self.report(name, &words::started(pid));
        }
    }

    fn start_failed(&mut self, name: &str, error: &SpawnError) {
        let error = error.to_string();
        self.report(name, &format!("could not start: {error}"));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.start_error = Some(error.into());
        }
    }

    fn exited(&mut self, name: &str, exit: &Exit) {
        self.report(name, &words::exited(exit));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.remains = false;
        }
        if self.streams.get(name).is_some_and(|streams| streams.removed) {
            self.streams.remove(name);
        }
    }

    fn restarting(&mut self, name: &str, delay: Duration) {
        self.report(name, &words::restarting(delay));
    }

    fn terminating(&mut self, name: &str, signal: i32) {
        self.report(name, &words::terminating(signal));
    }

    fn killing(&mut self, name: &str) {
        self.report(name, words::killing());
    }

    fn pipes_closed(&mut self, name: &str, _: ProcessId) {
        self.report(name, words::pipes_closed());
    }

    fn tree_released(&mut self, name: &str, _: ProcessId) {
        self.report(name, words::tree_released());
    }

    fn killing_leftovers(&mut self, name: &str, leftovers: &Remains) {
        self.report(name, &words::killing_leftovers(leftovers));
    }

    fn tree_remains(&mut self, name: &str, remains: &Remains) {
        self.report(name, &words::tree_remains(remains));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.remains = true;
        }
    }

    fn tree_gone(&mut self, name: &str, certain: bool) {
        let remained = self.streams.get_mut(name).is_some_and(|streams| std::mem::take(&mut streams.remains));
        if let Some(said) = words::tree_gone(certain, remained) {
            self.report(name, said);
        }
    }

    fn changed(&mut self, name: &str, _: State) {
        self.changed.push(name.to_owned());
    }

    fn signal_refused(&mut self, name: &str, signal: i32, error: &std::io::Error) {
        self.report(name, &words::refused(signal, error));
    }
}
