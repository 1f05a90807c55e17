//! Prints the answers of a supervisor, for people or for programs.
//!
//! The one rule: no part of an answer reaches a terminal with control characters in it.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::protocol::Action;
use super::supervisor::{self, Supervisor};
use super::table::{self, Room};
use crate::cli::dress::Stamp;
use crate::cli::failure::Failure;
use crate::cli::text::{escaped_json, visible, visible_output};
use crate::cli::{clock, output, screen};

/// The pause between two pictures of `--watch`.
const REDRAW: std::time::Duration = std::time::Duration::from_secs(1);

/// How answers are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) json: bool,
    /// The clock of the time in front of each line of a log.
    stamp: Option<Stamp>,
    /// Whether stdout is a terminal.
    terminal: bool,
    /// Whether it shows colours.
    colour: bool,
}

impl Style {
    pub(super) fn new(json: bool, stamp: Option<Stamp>) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { json, stamp, terminal, colour: terminal && screen::wants_colour() }
    }

    /// An answer for programs. JSON escapes C0 control characters as `\u001b`, but not the others.
    /// For a terminal all control characters are escaped, and characters that would rearrange the
    /// text.
    fn json(self, value: &Value) -> String {
        let text = value.to_string();
        if self.terminal { escaped_json(&text) } else { text }
    }

    /// Prints the answer to a request that was carried out.
    pub(super) fn done(self, action: Action, answer: &Value) -> io::Result<()> {
        match (action, processes(answer)) {
            (Action::Status { .. }, Some(processes)) if self.json => {
                let objects: Vec<String> = processes.iter().map(|process| self.json(process)).collect();
                output::say(&format!("[{}]\n", objects.join(",\n ")))?;
            }
            (Action::Status { .. }, Some(processes)) => {
                let width = self.terminal.then(|| terminal_size().0);
                let room = Room { width, colour: self.colour };
                output::say(&(table::lines(processes, room).join("\n") + "\n"))?;
            }
            (Action::Logs { .. }, _) => {}
            _ if self.json => _ = output::say(&format!("{}\n", self.json(answer)))?,
            _ => summary(answer)?,
        }
        Ok(())
    }

    /// Prints the processes that wait, and what for.
    pub(super) fn waiting(self, processes: &[Value]) -> io::Result<()> {
        let waits = |process: &&Value| process["waits_for"].as_array().is_some_and(|waits| !waits.is_empty());
        let waiting: Vec<&Value> = processes.iter().filter(waits).collect();
        if self.json {
            let objects: Vec<String> = waiting.into_iter().map(|process| self.json(process)).collect();
            output::say(&format!("[{}]\n", objects.join(",\n ")))?;
            return Ok(());
        }
        for process in waiting {
            let (name, reason) = (process["name"].as_str(), process["reason"].as_str());
            output::say(&format!("{} {}\n", visible(name.unwrap_or("?")), visible(reason.unwrap_or("waits"))))?;
        }
        Ok(())
    }

    /// Prints the answer to a request that was refused, or carried out only in part.
    pub(super) fn refused(self, answer: &Value) -> io::Result<()> {
        if self.json {
            output::say(&format!("{}\n", self.json(answer)))?;
            return Ok(());
        }
        summary(answer)?;
        output::complain(answer["error"].as_str().unwrap_or("it was refused without a reason"));
        for line in answer["errors"].as_array().into_iter().flatten().filter_map(|line| line.as_str()) {
            output::complain_plainly(&visible(line));
        }
        Ok(())
    }

    /// Prints a line of a process. Returns whether stdout still has a reader.
    pub(super) fn line(self, line: &Value) -> io::Result<bool> {
        let text = if self.json {
            self.json(line) + "\n"
        } else {
            let mark = if line["continued"] == true { "+" } else { "" };
            let text = line["line"].as_str().unwrap_or_default();
            let text = if self.terminal { plain_line(text) } else { text.into() };
            format!("{}[{}{mark}] {text}\n", self.time(&line["time"]), visible(line["name"].as_str().unwrap_or("?")))
        };
        output::say(&text)
    }

    /// Prints an event. Returns whether stdout still has a reader.
    pub(super) fn event(self, mut event: Value) -> io::Result<bool> {
        if let Some(object) = event.as_object_mut() {
            object.remove("version");
        }
        output::say(&(self.json(&event) + "\n"))
    }

    /// The time in front of a line, if one is wanted.
    fn time(self, time: &Value) -> String {
        match (self.stamp, time.as_str()) {
            (None, _) => String::new(),
            (Some(stamp), Some(text)) => match clock::parse(text) {
                Some(millis) => stamp.show(millis) + " ",
                None => format!("{} ", visible(text)),
            },
            // The supervisor is an earlier version.
            (Some(_), None) => "- ".into(),
        }
    }

    /// Prints the status again and again, until stdout has no reader any more.
    pub(super) fn watch(self, supervisor: &mut Supervisor, request: &[u8]) -> Result<u8, Failure> {
        let draws = self.terminal && !self.json;
        if draws {
            output::say("\x1b[2J")?;
        }
        loop {
            supervisor.send(request);
            let answer = supervisor.receive(Some(supervisor::now() + supervisor::PATIENCE))?;
            if answer["ok"] != true {
                self.refused(&answer)?;
                return Ok(1);
            }
            let processes = processes(&answer).ok_or_else(|| supervisor.is_none())?;
            let picture = if self.json {
                self.json(&answer["processes"]) + "\n"
            } else if draws {
                picture(processes, self.colour)
            } else {
                table::lines(processes, Room::default()).join("\n") + "\n\n"
            };
            if !output::say(&picture)? {
                return Ok(0);
            }
            // This wait notices the end of the supervisor at once.
            supervisor.wait(Some(supervisor::now() + REDRAW));
        }
    }
}

/// The processes in the answer to `status`. `None` if it is no such answer.
pub(super) fn processes(answer: &Value) -> Option<&Vec<Value>> {
    answer["processes"].as_array().filter(|processes| processes.iter().all(Value::is_object))
}

/// Whether a process is up, by its object in the answer to `status`.
pub(super) fn is_up(process: &Value) -> bool {
    // Without a question of readiness, it is up as soon as it runs.
    matches!(process["state"].as_str(), Some("running" | "ready"))
}

/// Prints the progress of a wait to stderr.
pub(super) fn progress(progress: &Value) {
    let (done, of) = (progress["done"].as_u64().unwrap_or(0), progress["of"].as_u64().unwrap_or(0));
    let end = if done >= of { "\r\x1b[K" } else { "" };
    let _ = write!(io::stderr(), "\r\x1b[K{done} of {of}{end}");
}

/// Prints the changes of a reload, and its notes.
fn summary(answer: &Value) -> io::Result<()> {
    let texts = |key: &str| -> Vec<Cow<'_, str>> {
        answer[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(visible).collect()
    };
    for key in ["added", "removed", "restarted", "updated"] {
        let names = texts(key);
        if !names.is_empty() {
            output::say(&format!("{key} {}\n", names.join(", ")))?;
        }
    }
    texts("notes").iter().for_each(|note| output::complain(note));
    Ok(())
}

/// The status as a picture that is drawn line by line over the last one, so that nothing flickers.
fn picture(processes: &[Value], colour: bool) -> String {
    let (columns, rows) = terminal_size();
    // In the last column, the sequence that clears the rest of a line would clear its last
    // character.
    let mut lines = table::lines(processes, Room { width: Some(columns.saturating_sub(1)), colour });
    if lines.len() >= rows {
        let hidden = lines.len() - rows.saturating_sub(2);
        lines.truncate(rows.saturating_sub(2));
        lines.push(format!("… and {hidden} more"));
    }
    format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
}

/// A line of a process for a terminal. Tabs stay.
fn plain_line(text: &str) -> Cow<'_, str> {
    let parts: Vec<_> = text.split('\t').map(visible_output).collect();
    parts.join("\t").into()
}

/// The size of the terminal: columns and rows.
pub(super) fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
