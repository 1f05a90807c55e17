//! Tells clients of each change of the processes as it happens, so that none of them needs to ask
//! again and again.
//!
//! The one rule: each event has the next number, whether a client listens or not. A client that
//! does not read is dropped, and sees by the numbers what it has missed.

use childminder::Reactor;
use serde_json::{Map, Value};

use super::Up;
use crate::cli::clock;
use crate::cli::control::ClientId;
use crate::cli::control::protocol::{self, Object};
use crate::cli::glob;

/// A client that hears events.
#[derive(Debug)]
pub(super) struct Subscriber {
    client: ClientId,
    patterns: Vec<String>,
}

impl Subscriber {
    fn wants(&self, name: Option<&str>) -> bool {
        let is_meant = |name| self.patterns.iter().any(|pattern| glob::matches(pattern, name));
        self.patterns.is_empty() || name.is_none_or(is_meant)
    }
}

/// The events that have not been sent yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The number of the last event.
    sequence: u64,
    /// Whether a client listens. Otherwise events are only counted.
    pub(super) heard: bool,
    news: Vec<Object>,
}

impl Events {
    /// Notes an event, with what belongs to it. `name` is that of its process.
    pub(super) fn note(&mut self, event: &str, name: Option<&str>, more: impl FnOnce() -> Value) {
        self.sequence += 1;
        if !self.heard {
            return;
        }
        let mut object = match more() {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        object.insert("version".into(), protocol::VERSION.into());
        object.insert("event".into(), event.into());
        object.insert("sequence".into(), self.sequence.into());
        object.insert("time".into(), clock::rfc3339(clock::now(), None).into());
        if let Some(name) = name {
            object.insert("name".into(), name.into());
        }
        self.news.push(object);
    }

    /// Whether so many wait that they have to be sent before the end of the turn.
    pub(super) fn is_much(&self) -> bool {
        self.news.len() > 1000
    }
}

impl Up {
    /// Has a client hear the events from now on.
    pub(super) fn listen(&mut self, reactor: &mut Reactor, client: ClientId, patterns: Vec<String>) {
        // Earlier events are for the other clients.
        self.settle_events(reactor);
        let events = &mut self.monitor.observer_mut().events;
        events.heard = true;
        let mut first = Map::new();
        first.insert("version".into(), protocol::VERSION.into());
        first.insert("event".into(), "listening".into());
        first.insert("sequence".into(), events.sequence.into());
        self.server.send_before(client, first, reactor.now());
        self.subscribers.push(Subscriber { client, patterns });
    }

    /// Sends the events that have happened.
    pub(super) fn settle_events(&mut self, reactor: &mut Reactor) {
        if self.subscribers.is_empty() {
            return;
        }
        let now = reactor.now();
        let news = std::mem::take(&mut self.monitor.observer_mut().events.news);
        let server = &mut self.server;
        self.subscribers.retain(|subscriber| {
            for object in &news {
                let name = object.get("name").and_then(Value::as_str);
                if subscriber.wants(name) && !server.send_before(subscriber.client, object.clone(), now) {
                    return false;
                }
            }
            let stays = server.is_listening(subscriber.client);
            if !stays {
                server.answer(subscriber.client, protocol::done(), now);
            }
            stays
        });
        self.monitor.observer_mut().events.heard = !self.subscribers.is_empty();
    }
}
