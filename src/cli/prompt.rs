//! Knows which processes have begun a line and have been quiet since: it is a prompt, or the last
//! state of a progress bar. Shows nothing itself, and is used on a terminal only; files and clients
//! get whole lines.
//!
//! The one rule: what is shown of such a line is drawn over by the next output, so that the line
//! itself comes once, when it is complete.

use std::time::Duration;

use childminder::{Event, ProcessId, Reactor, TimerId};

use super::screen;

/// A process that has written nothing for this long waits for an answer, or takes its time.
const QUIET: Duration = Duration::from_millis(100);

/// A stream of a process.
pub(super) type Stream = (ProcessId, i32);

#[derive(Debug, Default)]
pub(super) struct Prompts {
    /// The streams that have begun a line, each with the timer for its moment.
    begun: Vec<(Stream, TimerId)>,
    shown: Option<Stream>,
}

impl Prompts {
    /// Notes the output in an event. Returns whether what is shown has to go. New lines count only
    /// if the command is `running`.
    pub(super) fn note(&mut self, reactor: &mut Reactor, event: &Event<'_>, running: bool) -> bool {
        let (stream, goes_on) = match *event {
            Event::Data { process, fd, data } => ((process, fd), data.last().is_some_and(|last| *last != b'\n')),
            Event::FdClosed { process, fd, .. } => ((process, fd), false),
            Event::Exited { process, .. } => match self.shown.filter(|(shown, _)| *shown == process) {
                Some(shown) => (shown, false),
                None => return false,
            },
            _ => return false,
        };
        let was_shown = self.shown.take_if(|shown| *shown == stream).is_some();
        if let Some(index) = self.begun.iter().position(|(begun, _)| *begun == stream) {
            reactor.cancel_timer(self.begun.swap_remove(index).1);
        }
        if goes_on && running {
            self.begun.push((stream, reactor.call_later(QUIET)));
        }
        was_shown
    }

    /// The stream whose moment has come with this timer. `None` if it is another timer.
    pub(super) fn quiet(&mut self, timer: TimerId) -> Option<Stream> {
        let index = self.begun.iter().position(|(_, begun)| *begun == timer)?;
        Some(self.begun.swap_remove(index).0)
    }

    /// Notes that the line of this stream is shown now.
    pub(super) fn set_shown(&mut self, stream: Stream) {
        self.shown = Some(stream);
    }
}

/// The part of a begun line that fits on a row behind a mark of so many columns. Only one row can
/// be drawn over. The end of a prompt is what matters.
pub(super) fn on_a_row(text: &[u8], mark: usize, columns: usize) -> String {
    let text: Vec<char> = screen::plain(text).chars().collect();
    let room = columns.saturating_sub(1 + mark);
    text[text.len().saturating_sub(room)..].iter().collect()
}
