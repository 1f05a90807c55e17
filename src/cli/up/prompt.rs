//! Shows the line that a process has begun, once it has been quiet for a moment: a prompt, or the
//! last state of a progress bar. On a terminal only; files and clients get whole lines.
//!
//! The one rule: what is shown here is drawn over by the next output, so that the line itself comes
//! once, when it is complete.

use std::time::Duration;

use childminder::{Event, ProcessId, Reactor, TimerId};

use super::{Stage, Up};

/// A process that has written nothing for this long waits for an answer, or takes its time.
const QUIET: Duration = Duration::from_millis(100);

/// The stream of a process.
type Stream = (ProcessId, i32);

#[derive(Debug, Default)]
pub(super) struct Prompt {
    /// The streams that have begun a line, each with the timer for its moment.
    begun: Vec<(Stream, TimerId)>,
    shown: Option<Stream>,
}

impl Up {
    /// Notes the output in an event. Call it only if the console can show something.
    pub(super) fn look_for_prompt(&mut self, reactor: &mut Reactor, event: &Event<'_>) {
        let (stream, goes_on) = match *event {
            Event::Data { process, fd, data } => ((process, fd), data.last().is_some_and(|last| *last != b'\n')),
            Event::FdClosed { process, fd, .. } => ((process, fd), false),
            Event::Exited { process, .. } => match self.prompt.shown.filter(|(shown, _)| *shown == process) {
                Some(shown) => (shown, false),
                None => return,
            },
            _ => return,
        };
        if self.prompt.shown == Some(stream) {
            self.prompt.shown = None;
            self.reporter().console.set_progress(None);
        }
        let begun = &mut self.prompt.begun;
        if let Some(index) = begun.iter().position(|(begun, _)| *begun == stream) {
            reactor.cancel_timer(begun.swap_remove(index).1);
        }
        if goes_on && self.stage == Stage::Running {
            begun.push((stream, reactor.call_later(QUIET)));
        }
    }

    /// Handles a timer that has expired. `false` if it is not that of a prompt.
    pub(super) fn prompt_timer(&mut self, timer: TimerId) -> bool {
        let Some(index) = self.prompt.begun.iter().position(|(_, begun)| *begun == timer) else { return false };
        let (stream, _) = self.prompt.begun.swap_remove(index);
        let (process, fd) = stream;
        let named = self.monitor.statuses().find(|status| status.process == Some(process));
        let name = named.map(|status| status.name.to_owned());
        let text = self.monitor.unfinished_line(process, fd).map(<[u8]>::to_vec);
        if let (Some(name), Some(text), Stage::Running) = (name, text, self.stage) {
            if self.reporter().show_unfinished(&name, fd, &text) {
                self.prompt.shown = Some(stream);
            }
        }
        true
    }
}
