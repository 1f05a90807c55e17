//! What `childminder run` prints: the lines of its child, and the events of the monitor.

use std::time::{Duration, Instant};

use childminder::{Exit, Line, Observer, ProcessId, Reactor, Remains, Restart, SpawnError};

use crate::cli::dress::Dress;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::text::visible;
use crate::cli::waiting::Author;
use crate::cli::{code, prompt, screen, words};

/// Writes the events of the monitor and the output of the child for people to read.
#[derive(Debug)]
pub(super) struct Console {
    author: Author,
    raw: bool,
    dress: Dress,
    pub(super) out: Output,
    pub(super) err: Output,
    restart: Restart,
    started: bool,
    /// Whether some processes were still there after they were killed.
    remains: bool,
    /// The exit code of this command if it ended with its child now.
    pub(super) code: u8,
    /// A begun line to show at the end of what is written, with the number of its output.
    unfinished: Option<(i32, Vec<u8>)>,
    /// Whether it is shown now.
    drawn: bool,
}

impl Console {
    pub(super) fn new(name: &str, restart: Restart, raw: bool, dress: Dress) -> Result<Self, Failure> {
        let (out, err) = (Output::stdout()?, Output::stderr()?);
        Ok(Self {
            author: Some(name.into()),
            raw,
            dress,
            out,
            err,
            restart,
            started: false,
            remains: false,
            code: 0,
            unfinished: None,
            drawn: false,
        })
    }

    /// A program that was not found or cannot be executed will fail at the next try, too.
    pub(super) fn gives_up(&self) -> bool {
        self.restart == Restart::OnFailure && !self.started && matches!(self.code, 126 | 127)
    }

    pub(super) fn report(&mut self, name: &str, what: &str) {
        self.say(&format!("[{name}] {what}"));
    }

    pub(super) fn say(&mut self, what: &str) {
        self.erase();
        let front = self.dress.front();
        self.err.push(&None, &[front.as_bytes(), screen::OWN.as_bytes(), visible(what).as_bytes(), b"\n"]);
    }

    /// Whether a begun line can be shown.
    pub(super) fn shows_unfinished(&self) -> bool {
        self.out.is_terminal() || self.err.is_terminal()
    }

    /// Keeps the start of a line of the child as the last line of the terminal. Returns whether its
    /// output is one.
    pub(super) fn set_unfinished(&mut self, name: &str, text: &[u8], fd: i32) -> bool {
        let output = if fd == 2 { &self.err } else { &self.out };
        if !output.is_terminal() {
            return false;
        }
        let mark = format!("{}[{name}] ", self.dress.front());
        let text = prompt::on_a_row(text, mark.chars().count(), output.columns());
        self.erase();
        self.unfinished = Some((fd, [mark.as_bytes(), text.as_bytes()].concat()));
        true
    }

    pub(super) fn clear_unfinished(&mut self) {
        self.erase();
        self.unfinished = None;
    }

    fn draw(&mut self) {
        let Some((fd, text)) = self.unfinished.as_ref().filter(|_| !self.drawn) else { return };
        let output = if *fd == 2 { &mut self.err } else { &mut self.out };
        if !output.is_full() {
            output.push(&None, &[text]);
            self.drawn = true;
        }
    }

    fn erase(&mut self) {
        let Some((fd, _)) = self.unfinished.as_ref().filter(|_| std::mem::take(&mut self.drawn)) else { return };
        let output = if *fd == 2 { &mut self.err } else { &mut self.out };
        output.push(&None, &[b"\r\x1b[K"]);
        // The next bytes may go to the same terminal through the other output.
        output.flush();
    }

    /// Whether so much is waiting that the child has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.out.is_full() || self.err.is_full()
    }

    pub(super) fn flush(&mut self) {
        self.flush_lines();
        // Behind all lines of both outputs.
        self.draw();
        self.flush_lines();
    }

    fn flush_lines(&mut self) {
        self.out.flush();
        self.err.flush();
        let news = [("stdout", self.out.take_news()), ("stderr", self.err.take_news())];
        for (name, news) in news {
            if let Some(news) = news {
                self.say(&format!("{name}: {news}"));
            }
        }
        self.err.flush();
    }

    /// Writes what is left, at the end, and reports the lines that were dropped.
    pub(super) fn finish(&mut self, reactor: &Reactor, deadline: Option<Instant>) {
        self.clear_unfinished();
        self.out.finish(reactor, deadline);
        self.err.finish(reactor, deadline);
        let reports = [("stdout", self.out.final_report()), ("stderr", self.err.final_report())];
        for (name, report) in reports {
            if let Some(report) = report {
                self.say(&format!("{name}: {report}"));
            }
        }
        self.err.finish(reactor, deadline);
    }
}

impl Observer for Console {
    fn line(&mut self, line: &Line<'_>) {
        self.erase();
        let output = if line.fd == 2 { &mut self.err } else { &mut self.out };
        let mark: &[u8] = if line.continued { b"+] " } else { b"] " };
        let text = match output.is_terminal() && !self.raw {
            true => screen::shown(line.bytes),
            false => line.bytes.into(),
        };
        let front = self.dress.front();
        output.push(&self.author, &[front.as_bytes(), b"[", line.name.as_bytes(), mark, &text, b"\n"]);
    }

    fn started(&mut self, name: &str, pid: u32) {
        self.started = true;
        self.report(name, &words::started(pid));
    }

    fn start_failed(&mut self, name: &str, error: &SpawnError) {
        self.code = code::of_failed_start(error);
        self.report(name, &format!("could not start: {error}"));
    }

    fn exited(&mut self, name: &str, exit: &Exit) {
        self.code = code::of_exit(exit);
        self.remains = false;
        self.report(name, &words::exited(exit));
    }

    fn restarting(&mut self, name: &str, delay: Duration) {
        if self.gives_up() {
            return;
        }
        self.report(name, &words::restarting(delay));
    }

    fn terminating(&mut self, name: &str, signal: i32) {
        self.report(name, &words::terminating(signal));
    }

    fn signal_refused(&mut self, name: &str, signal: i32, error: &std::io::Error) {
        self.report(name, &words::refused(signal, error));
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
        self.remains = true;
        self.report(name, &words::tree_remains(remains));
    }

    fn tree_gone(&mut self, name: &str, certain: bool) {
        if let Some(said) = words::tree_gone(certain, std::mem::take(&mut self.remains)) {
            self.report(name, said);
        }
    }
}
