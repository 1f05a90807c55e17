//! The end of `childminder up` because of its processes: after all of them, after the first one, or
//! after one that has failed. Ends no process itself.
//!
//! The one rule: a process has ended when it exited by itself, or could not be started, and is not
//! to be started again. A process that a client has stopped has not ended, and a restart is no end.

use childminder::restart::State;
use childminder::{Reactor, Service};

use super::{Stage, Up};

/// What ends the supervisor, by `--exit-when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitWhen {
    All,
    First,
    Failed,
}

impl ExitWhen {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => Some(Self::All),
            "first" => Some(Self::First),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What is known of the processes that have ended.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) when: Option<ExitWhen>,
    /// The exit code of the first process that has failed.
    failure: Option<u8>,
    /// Whether any process has ended.
    any: bool,
    /// Whether no process was left to run at the last look.
    was_idle: bool,
    /// The exit code of this command, if its processes end it.
    pub(super) code: Option<u8>,
}

impl Up {
    /// Ends the supervisor if its processes have ended as it was asked to wait for, and says when
    /// nothing is left to do.
    pub(super) fn look_for_end(&mut self, reactor: &mut Reactor) {
        let ended = std::mem::take(&mut self.monitor.observer_mut().ended);
        if self.stage != Stage::Running || self.ends.code.is_some() {
            return;
        }
        if let Some((name, code)) = self.monitor.observer_mut().essential.take() {
            return self.end_with(reactor, code, &format!("[{name}] is essential and has ended; stopping all"));
        }
        for (name, code) in ended {
            self.ends.any = true;
            let status = self.monitor.status(&name).filter(|status| status.state == State::Exited);
            let exit = status.and_then(|status| status.last_exit);
            let has_failed = code != 0 && !exit.is_some_and(|exit| self.is_success(&name, exit));
            if has_failed {
                self.ends.failure.get_or_insert(code);
            }
            let why = match self.ends.when {
                Some(ExitWhen::First) => "has ended",
                Some(ExitWhen::Failed) if has_failed => "has failed",
                _ => continue,
            };
            return self.end_with(reactor, code, &format!("[{name}] {why}; stopping all"));
        }
        let is_idle = self.monitor.is_down() || self.monitor.observer().alive == 0 && self.wait_in_vain();
        if std::mem::replace(&mut self.ends.was_idle, is_idle) || !is_idle {
            return;
        }
        if self.ends.when == Some(ExitWhen::All) && self.ends.any {
            return self.end_with(reactor, self.ends.failure.unwrap_or(0), "all processes have ended");
        }
        self.reporter().say(
            "no process runs, and none will be started by itself; `childminder start NAME` starts one, and `childminder \
             shutdown` ends this command",
        );
    }

    /// Whether the processes that are not down wait for others that will not come.
    fn wait_in_vain(&self) -> bool {
        self.monitor.statuses().all(|status| match status.state {
            State::Stopped | State::Exited | State::Failed { .. } => true,
            State::Waiting { .. } => self.monitor.waits_in_vain(status.name),
            _ => false,
        })
    }

    fn end_with(&mut self, reactor: &mut Reactor, code: u8, why: &str) {
        self.ends.code = Some(code);
        self.reporter().say(why);
        reactor.stop();
    }
}
