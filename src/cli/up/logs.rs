//! Last lines, and lines as they come, for clients that ask.
//!
//! The one rule: no line twice and none out of order; who follows and does not read is let go.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use childminder::Reactor;

use super::Up;
use crate::cli::control::protocol;
use crate::cli::control::{ClientId, glob};

/// A client that reads lines.
#[derive(Debug)]
pub(super) struct Log {
    client: ClientId,
    /// Whose last lines are still to be sent, and the same to look one up.
    waiting: VecDeque<Rc<str>>,
    is_waiting: HashSet<Rc<str>>,
    patterns: Vec<String>,
    follow: bool,
}

impl Log {
    pub(super) fn new(client: ClientId, names: Vec<String>, patterns: Vec<String>, follow: bool) -> Self {
        let waiting: VecDeque<Rc<str>> = names.into_iter().map(Rc::from).collect();
        let is_waiting = waiting.iter().cloned().collect();
        Self { client, waiting, is_waiting, patterns, follow }
    }

    /// Whether a new line of this process is to be sent: not if it comes with the last ones.
    fn wants(&self, name: &str) -> bool {
        let meant = self.patterns.is_empty() || self.patterns.iter().any(|pattern| glob::matches(pattern, name));
        meant && !self.is_waiting.contains(name)
    }
}

impl Up {
    /// Sends what there is to send now.
    pub(super) fn settle_logs(&mut self, reactor: &mut Reactor) {
        if self.logs.is_empty() {
            return;
        }
        let now = reactor.now();
        let news = self.voice().take_news();
        let mut logs = std::mem::take(&mut self.logs);
        logs.retain_mut(|log| {
            for (name, line) in news.iter().filter(|(name, _)| log.follow && log.wants(name)) {
                if !self.server.send_before(log.client, protocol::log_line(name, line.lend()), now) {
                    return false;
                }
            }
            // One process at a time, so that no more than its lines are held for a client.
            while self.server.is_drained(log.client) {
                let Some(name) = log.waiting.pop_front() else { break };
                log.is_waiting.remove(&name);
                let (server, client) = (&mut self.server, log.client);
                self.monitor.observer_mut().recent(&name, |line| {
                    server.send_before(client, protocol::log_line(&name, line), now);
                });
            }
            if log.follow {
                // Who follows and has said all that it will does not listen any more.
                if self.server.is_listening(log.client) {
                    return true;
                }
            } else if !log.waiting.is_empty() {
                return self.server.is_connected(log.client);
            }
            self.server.answer(log.client, protocol::done(), now);
            false
        });
        self.voice().followed = logs.iter().any(|log| log.follow);
        self.logs = logs;
    }
}
