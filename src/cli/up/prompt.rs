//! Shows the line that a process has begun, once it has been quiet for a moment.

use childminder::{Event, Reactor, TimerId};

use super::{Stage, Up};

impl Up {
    /// Notes the output in an event. Call it only if the console can show something.
    pub(super) fn look_for_prompt(&mut self, reactor: &mut Reactor, event: &Event<'_>) {
        if self.prompts.note(reactor, event, self.stage == Stage::Running) {
            self.reporter().console.set_progress(None);
        }
    }

    /// Handles a timer that has expired. `false` if it is not that of a prompt.
    pub(super) fn prompt_timer(&mut self, timer: TimerId) -> bool {
        let Some((process, fd)) = self.prompts.quiet(timer) else { return false };
        let named = self.monitor.statuses().find(|status| status.process == Some(process));
        let name = named.map(|status| status.name.to_owned());
        let text = self.monitor.unfinished_line(process, fd).map(<[u8]>::to_vec);
        if let (Some(name), Some(text), Stage::Running) = (name, text, self.stage) {
            if self.reporter().show_unfinished(&name, fd, &text) {
                self.prompts.set_shown((process, fd));
            }
        }
        true
    }
}
