//! Passes on what processes write and what the monitor reports: to the console, to files, and to
//! clients that follow. Decides nothing about processes.
//!
//! The one rule: nothing here waits or grows without bound. Lines that cannot be passed on are
//! counted and dropped.

mod observer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use childminder::{Event, Line, ProcessId, Reactor, TimerId};

use super::console::{Console, Speaker};
use super::end::Piece;
use super::events::Events;
use super::log_files::LogFiles;
use super::recent::Recent;
use super::streams::{Heard, Input, News, Sink, Streams, dress, log_line, stream};
use crate::cli::config::{Look, Output, ProcessConfig};
use crate::cli::dress::Dress;
use crate::cli::safe_path::OwnFinder;
use crate::cli::text::visible;

/// If more than this waits for clients that follow, they are served within the turn.
const MUCH_NEWS: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) console: Console,
    pub(super) files: LogFiles<(ProcessId, i32)>,
    /// Finds the log paths that lead to our own descriptors, among those set in this turn.
    own: OwnFinder,
    /// The time of the current event.
    pub(super) now: Instant,
    /// The time when a file that has failed is to be tried again, and the timer for it.
    retry_at: Option<Instant>,
    retry: Option<TimerId>,
    streams: HashMap<Arc<str>, Box<Streams>>,
    /// How lines are written for which no other way is set.
    look: Look,
    /// The number of the next name, which gives it its colour.
    next_number: usize,
    /// Whether a client follows. New lines are kept for the rest of the turn then.
    pub(super) followed: bool,
    /// The new lines, each with the name of its process, and their number of bytes.
    news: Vec<(String, News)>,
    news_bytes: usize,
    /// The processes, with the descriptor, that have just written to an output of ours that is
    /// held.
    pub(super) unheld: Vec<(ProcessId, i32)>,
    /// Whether a client waits for a state.
    pub(super) awaited: bool,
    /// The processes whose state has changed since the last call of `settle_waits`, if a client
    /// waits.
    pub(super) changed: Vec<String>,
    /// Whether starts are counted and not reported, because many are under way.
    pub(super) quiet_starts: bool,
    /// The number of running processes.
    pub(super) alive: usize,
    /// The processes that have ended since they were last taken, each with the exit code that
    /// stands for its end.
    pub(super) ended: Vec<(String, u8)>,
    pub(super) events: Events,
    /// An essential process or group that has ended, and the exit code for it.
    pub(super) essential: Option<(String, u8)>,
    /// The process that has not come back in a rolling restart, which is broken off.
    pub(super) broken: Option<String>,
}

impl Reporter {
    pub(super) fn new(console: Console, now: Instant) -> Self {
        Self {
            console,
            files: LogFiles::new(),
            own: OwnFinder::default(),
            now,
            retry_at: None,
            retry: None,
            streams: HashMap::new(),
            look: Look::default(),
            next_number: 0,
            followed: false,
            news: Vec::new(),
            news_bytes: 0,
            unheld: Vec::new(),
            awaited: false,
            changed: Vec::new(),
            quiet_starts: false,
            alive: 0,
            ended: Vec::new(),
            events: Events::default(),
            essential: None,
            broken: None,
        }
    }

    /// Sets how our own messages are written, and the lines of processes that do not say it.
    pub(super) fn set_look(&mut self, look: Look) {
        self.look = look;
        self.console.dress = look.dress();
        for streams in self.streams.values_mut() {
            streams.speaker.set_look(streams.speaker.look, look);
        }
    }

    /// Sends the output of a process where its settings say, and keeps its last lines.
    pub(super) fn set(&mut self, reactor: &mut Reactor, process: &ProcessConfig) {
        let out = self.sink(reactor, &process.settings.stdout);
        let err = self.sink(reactor, &process.settings.stderr);
        let (next, name) = (self.next_number, Arc::clone(&process.name));
        let is_new = !self.streams.contains_key(&name);
        let streams = self.streams.entry(Arc::clone(&name)).or_insert_with(|| {
            self.next_number += 1;
            let (look, dress) = (Look::default(), Dress::default());
            let speaker = Speaker { author: Some(name), number: next, raw: process.raw, look, dress };
            let (recent, most_recent) = (None, None);
            let (remains, removed) = (false, false);
            Box::new(Streams {
                speaker,
                out,
                err,
                recent,
                most_recent,
                trouble: None,
                tells_readiness: false,
                remains,
                input: Input::None,
                pid: 0,
                is_new: false,
                writer: None,
                code: 0,
                exited_at: 0,
                removed,
            })
        });
        streams.speaker.raw = process.raw;
        streams.speaker.set_look(process.look, self.look);
        streams.set_most_recent(process.recent);
        streams.input = Input::of(&process.settings.stdin);
        streams.tells_readiness = process.watch.is_some();
        streams.removed = false;
        let before = [std::mem::replace(&mut streams.out, out), std::mem::replace(&mut streams.err, err)];
        if !is_new {
            self.release(before);
        }
    }

    /// Takes over the settings that can change while a process runs.
    pub(super) fn update(&mut self, process: &ProcessConfig) {
        if let Some(streams) = self.streams.get_mut(&*process.name) {
            streams.speaker.raw = process.raw;
            streams.speaker.set_look(process.look, self.look);
            streams.set_most_recent(process.recent);
            streams.tells_readiness = process.watch.is_some();
        }
    }

    /// Forgets a process, at once or, if it is `alive`, when it has exited.
    pub(super) fn remove(&mut self, name: &str, alive: bool) {
        if let Some(streams) = self.streams.get_mut(name) {
            streams.removed = true;
            if !alive {
                self.forget(name);
            }
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(streams) = self.streams.remove(name) {
            self.release([streams.out, streams.err]);
        }
    }

    /// Gives these destinations up. A file is closed when its last stream is gone.
    fn release(&mut self, sinks: [Sink; 2]) {
        for sink in sinks {
            let Sink::File(file) = sink else { continue };
            if let Some(said) = self.files.close(file) {
                self.say(&said);
            }
        }
    }

    fn sink(&mut self, reactor: &mut Reactor, output: &Output) -> Sink {
        let Output::File { path, new, rotation } = output else {
            return if *output == Output::Prefix { Sink::Console } else { Sink::Elsewhere };
        };
        if let Ok(Some(number)) = self.own.own(path) {
            match self.console.open(reactor, number) {
                Ok(()) => return Sink::Own(number),
                Err(error) => self.say(&format!("{}: {error}", path.display())),
            }
        }
        // All processes that write to a path share one file, so that they do not rotate it under
        // each other.
        Sink::File(self.files.open(path, *new, *rotation))
    }

    /// The index of the console's output that gets this descriptor of a process, if one does.
    pub(super) fn console_index(&self, name: &str, fd: i32) -> Option<usize> {
        let streams = self.streams.get(name);
        let sink = streams.map_or(Sink::Console, |streams| streams.sink(fd));
        match sink {
            Sink::Console => Some(self.console.index(fd)),
            Sink::Own(number) => Some(self.console.index(number)),
            Sink::File(_) | Sink::Elsewhere => None,
        }
    }

    /// The last lines of a process.
    pub(super) fn recent(&mut self, name: &str) -> Option<&mut Recent> {
        self.streams.get_mut(name)?.recent.as_deref_mut()
    }

    /// The error of the last start of a process, if that failed.
    pub(super) fn start_error(&self, name: &str) -> Option<&str> {
        self.streams.get(name)?.trouble.as_ref()?.start_error.as_deref()
    }

    /// Shows the start of a line of a process, if it goes to a terminal with the name in front.
    /// Returns whether it does.
    pub(super) fn show_unfinished(&mut self, name: &str, fd: i32, text: &[u8]) -> bool {
        match self.streams.get(name) {
            Some(streams) if streams.sink(fd) == Sink::Console => {
                self.console.set_unfinished(name, text, &streams.speaker, fd)
            }
            _ => false,
        }
    }

    /// Where the input of a process comes from.
    pub(super) fn input(&self, name: &str) -> Input {
        self.streams.get(name).map_or(Input::None, |streams| streams.input)
    }

    /// The time of the last exit of a process, in milliseconds since 1970, if it is known.
    pub(super) fn exited_at(&self, name: &str) -> Option<u64> {
        self.streams.get(name).map(|streams| streams.exited_at).filter(|at| *at > 0)
    }

    /// Why the last process had to be replaced, if it had.
    pub(super) fn fault(&self, name: &str) -> Option<&str> {
        self.streams.get(name)?.trouble.as_ref()?.fault.as_deref()
    }

    /// Why its last check has failed, if it has.
    pub(super) fn failed_check(&self, name: &str) -> Option<&str> {
        self.streams.get(name)?.trouble.as_ref()?.check.as_deref()
    }

    /// The new lines since the last call, if a client follows.
    pub(super) fn take_news(&mut self) -> Vec<(String, News)> {
        self.news_bytes = 0;
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

    /// Whether so much is waiting that it has to be passed on before the end of the turn.
    pub(super) fn is_overfull(&self) -> bool {
        self.news_bytes > MUCH_NEWS || self.events.is_much() || self.console.is_any_overfull()
    }

    /// Passes on the output of this turn, and sets the timer for the next attempt at a file that
    /// has failed.
    pub(super) fn settle(&mut self, reactor: &mut Reactor) {
        self.own = OwnFinder::default();
        self.flush(reactor.now());
        if let (Some(retry_at), None) = (self.retry_at, self.retry) {
            self.retry = Some(reactor.call_later(retry_at.saturating_duration_since(reactor.now())));
        }
    }

    /// Passes on the output that has come until now.
    pub(super) fn flush(&mut self, now: Instant) {
        let console = &mut self.console;
        self.retry_at = self.files.flush(now, |said| console.say(&visible(&said)));
        self.console.flush();
    }

    /// Closes all files, so that the next line opens them anew.
    pub(super) fn reopen(&mut self, now: Instant) {
        // Earlier output belongs into the old files.
        self.flush(now);
        for file in self.files.all() {
            file.close();
        }
        self.console.say("the output files are opened anew");
    }

    /// Writes what is left, at the end, as far as it is taken before the deadline, and reports the
    /// lines that were dropped.
    pub(super) fn finish(&mut self, reactor: &Reactor, deadline: Instant) {
        for file in self.files.all() {
            if let Some(said) = file.finish() {
                self.console.say(&visible(&said));
            }
        }
        self.console.finish(reactor, deadline);
    }

    /// Writes a message of our own as one line, with control characters escaped.
    pub(super) fn say(&mut self, what: &str) {
        self.console.say(&visible(what));
    }

    fn tell_followers(&mut self, line: &Line<'_>, time: u64) {
        if self.followed {
            self.news_bytes += line.name.len() + line.bytes.len() + size_of::<News>();
            self.news.push((line.name.to_owned(), News::new(log_line(line, time))));
        }
    }

    /// Passes on what a process has written.
    fn hear(&mut self, heard: Heard<'_>, time: u64) {
        let (name, process, fd) = match heard {
            Heard::Line(line) => (line.name, line.process, line.fd),
            Heard::Lines(lines) => (lines.name, lines.process, lines.fd),
        };
        // The process was removed, and another process still holds its pipe.
        let unknown;
        let mut pid = None;
        let (sink, speaker) = match self.streams.get_mut(name) {
            Some(streams) => {
                match heard {
                    Heard::Line(line) => streams.recent().push(log_line(line, time)),
                    Heard::Lines(lines) => streams.recent().push_lines(stream(fd), lines.bytes, time),
                }
                if streams.speaker.dress.json {
                    pid = streams.pid_of(process);
                }
                (streams.sink(fd), &streams.speaker)
            }
            None => {
                unknown = Speaker::unknown(name);
                (Sink::Console, &unknown)
            }
        };
        let mut dressed = Vec::new();
        if speaker.dress.json || speaker.dress.stamp.is_some() && matches!(sink, Sink::File(_)) {
            dressed = dress(heard, speaker.dress, pid);
        }
        let number = match (sink, heard) {
            (Sink::File(file), _) if !dressed.is_empty() => {
                let said = match heard {
                    Heard::Line(line) if !speaker.dress.json => {
                        let piece = Piece { bytes: &dressed, ..Piece::from(line) };
                        self.files.push(file, (process, fd), &speaker.author, piece, self.now)
                    }
                    _ => self.files.push_lines(file, &speaker.author, &dressed, self.now),
                };
                said.into_iter().for_each(|said| self.console.say(&visible(&said)));
                return;
            }
            (Sink::File(file), _) => {
                let said = match heard {
                    Heard::Line(line) => {
                        self.files.push(file, (process, fd), &speaker.author, Piece::from(line), self.now)
                    }
                    Heard::Lines(lines) => self.files.push_lines(file, &speaker.author, lines.bytes, self.now),
                };
                said.into_iter().for_each(|said| self.console.say(&visible(&said)));
                return;
            }
            (Sink::Own(number), _) if speaker.dress.json => {
                self.console.dressed_lines(&dressed, speaker, number);
                number
            }
            (Sink::Console | Sink::Elsewhere, _) if speaker.dress.json => {
                self.console.dressed_lines(&dressed, speaker, if fd == 2 { 2 } else { 1 });
                fd
            }
            (Sink::Own(number), Heard::Line(line)) => {
                self.console.unmarked(line, speaker, number);
                number
            }
            (Sink::Own(number), Heard::Lines(lines)) => {
                self.console.unmarked_lines(lines, speaker, number);
                number
            }
            (Sink::Console | Sink::Elsewhere, Heard::Line(line)) => {
                self.console.line(line, speaker);
                fd
            }
            (Sink::Console | Sink::Elsewhere, Heard::Lines(lines)) => {
                self.console.lines(lines, speaker);
                fd
            }
        };
        // Other processes may have filled this output.
        if self.console.is_held(self.console.index(number)) {
            self.unheld.push((process, fd));
        }
    }

    fn report(&mut self, name: &str, what: &str) {
        self.say(&format!("[{name}] {what}"));
    }
}
