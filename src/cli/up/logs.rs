//! Sends the last lines of processes, and new lines as they come, to clients that ask for them.
//!
//! The one rule: a client gets no line twice and none out of order, and a client that follows
//! without reading is dropped.

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
    /// The processes whose last lines are still to be sent, and the same names as a set.
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

    /// Whether to send a new line of this process now. A process in `waiting` sends it with its
    /// last lines.
    fn wants(&self, name: &str) -> bool {
        let meant = self.patterns.is_empty() || self.patterns.iter().any(|pattern| glob::matches(pattern, name));
        meant && !self.is_waiting.contains(name)
    }
}

impl Up {
    /// Sends what can be sent now.
    pub(super) fn settle_logs(&mut self, reactor: &mut Reactor) {
        if self.logs.is_empty() {
            return;
        }
        let now = reactor.now();
        let news = self.reporter().take_news();
        let mut logs = std::mem::take(&mut self.logs);
        logs.retain_mut(|log| {
            for (name, line) in news.iter().filter(|(name, _)| log.follow && log.wants(name)) {
                if !self.server.send_before(log.client, protocol::log_line(name, line.lend()), now) {
                    return false;
                }
            }
            // One process at a time, so that at most the lines of one process are held for a
            // client.
            while self.server.is_drained(log.client) {
                let Some(name) = log.waiting.pop_front() else { break };
                log.is_waiting.remove(&name);
                let (server, client) = (&mut self.server, log.client);
                self.monitor.observer_mut().recent(&name, |line| {
                    server.send_before(client, protocol::log_line(&name, line), now);
                });
            }
            if log.follow {
                // A client that follows has ended when it closes its sending end.
                if self.server.is_listening(log.client) {
                    return true;
                }
            } else if !log.waiting.is_empty() {
                return self.server.is_connected(log.client);
            }
            self.server.answer(log.client, protocol::done(), now);
            false
        });
        self.reporter().followed = logs.iter().any(|log| log.follow);
        self.logs = logs;
    }
}
