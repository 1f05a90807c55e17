//! Sends the last lines of processes, and new lines as they come, to clients that ask for them.
//!
//! The one rule: a client gets no line twice and none out of order, and a client that follows
//! without reading is dropped.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use childminder::Reactor;

use super::Up;
use super::recent::{Position, Recent};
use super::streams::News;
use crate::cli::control::protocol::{self, Query};
use crate::cli::control::{ClientId, Server};
use crate::cli::glob;

/// The number of bytes of lines that are sent to a client at once.
const PORTION: usize = 64 * 1024;
/// The number of bytes that a line takes besides its text.
const OBJECT: usize = 128;

/// A client that reads lines.
#[derive(Debug)]
pub(super) struct Log {
    client: ClientId,
    /// The processes whose last lines are still to be sent, and the same names as a set.
    waiting: VecDeque<Rc<str>>,
    is_waiting: HashSet<Rc<str>>,
    patterns: Vec<String>,
    query: Query,
    /// How far the last lines of the first process in `waiting` have been sent, and where they
    /// ended when that began.
    at: Option<(Position, Position)>,
}

impl Log {
    pub(super) fn new(client: ClientId, names: Vec<String>, patterns: Vec<String>, query: Query) -> Self {
        let waiting: VecDeque<Rc<str>> = names.into_iter().map(Rc::from).collect();
        let is_waiting = waiting.iter().cloned().collect();
        Self { client, waiting, is_waiting, patterns, query, at: None }
    }

    /// Sends some of the last lines of a process. Returns whether all have been sent.
    fn send_portion(&mut self, server: &mut Server, name: &str, recent: &mut Recent, now: Instant) -> bool {
        let query = self.query;
        let (at, end) = self.at.unwrap_or_else(|| (first_line(recent, query), recent.end()));
        let mut bytes = 0;
        let at = recent.read(at, |line| {
            if query.wants(&line) {
                bytes += line.text.len() + OBJECT;
                server.send_before(self.client, protocol::log_line(name, line), now);
            }
            bytes < PORTION
        });
        self.at = Some((at, end));
        if at >= end && query.follow {
            // The lines that have come since are the first ones that this client follows.
            recent.read(at, |line| {
                !query.wants(&line) || server.send_before(self.client, protocol::log_line(name, line), now)
            });
        }
        at >= end
    }

    /// Whether to send a new line of this process now. A process in `waiting` sends it with its
    /// last lines.
    fn wants(&self, name: &str) -> bool {
        let meant = self.patterns.is_empty() || self.patterns.iter().any(|pattern| glob::matches(pattern, name));
        meant && !self.is_waiting.contains(name)
    }
}

/// Where the lines begin that a query asks for: so many from the end.
fn first_line(recent: &mut Recent, query: Query) -> Position {
    let Some(most) = query.lines else { return Position::default() };
    let mut count = 0_u64;
    recent.read(Position::default(), |line| {
        count += u64::from(query.wants(&line));
        true
    });
    let mut skipped = count.saturating_sub(most);
    if skipped == 0 {
        return Position::default();
    }
    recent.read(Position::default(), |line| {
        skipped -= u64::from(query.wants(&line));
        skipped > 0
    })
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
            let query = log.query;
            let is_meant =
                |(name, line): &&(String, News)| query.follow && query.wants(&line.lend()) && log.wants(name);
            for (name, line) in news.iter().filter(is_meant) {
                if !self.server.send_before(log.client, protocol::log_line(name, line.lend()), now) {
                    return false;
                }
            }
            // A bounded portion at a time, so that no more of the lines is held for a client.
            while self.server.is_drained(log.client) {
                let Some(name) = log.waiting.front().cloned() else { break };
                let recent = self.monitor.observer_mut().recent(&name);
                let is_done = recent.is_none_or(|recent| log.send_portion(&mut self.server, &name, recent, now));
                if is_done {
                    log.waiting.pop_front();
                    log.is_waiting.remove(&name);
                    log.at = None;
                }
            }
            if query.follow {
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
        self.reporter().followed = logs.iter().any(|log| log.query.follow);
        self.logs = logs;
    }
}
