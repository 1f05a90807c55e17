//! What clients write to the stdin of a process, and clients that are attached to one: they get its
//! output byte by byte, as it comes.
//!
//! The one rule: a process that does not read costs no more than a bounded memory, and a client
//! that does not read is dropped.

use childminder::{Event, ProcessId, Reactor};
use serde_json::{Map, json};

use super::Up;
use super::commands::Refusal;
use super::streams::Input;
use crate::cli::control::ClientId;
use crate::cli::control::protocol::{self, Request};

/// If more than this waits for a process to read it, nothing is added.
const MOST_WAITING: usize = 1 << 20;

/// A client that is attached to a process.
#[derive(Debug)]
pub(super) struct Attached {
    client: ClientId,
    name: String,
}

impl Up {
    /// The only process that a request names.
    fn only(&self, request: &Request) -> Result<String, Refusal> {
        match <[String; 1]>::try_from(self.select(request)?) {
            Ok([name]) => Ok(name),
            Err(names) => Err(format!("one process is wanted here, not {}", names.len()).into()),
        }
    }

    /// Writes to the stdin of a process. With `end`, the stdin is closed after that.
    pub(super) fn feed(&mut self, reactor: &mut Reactor, request: &Request, end: bool) -> Result<(), Refusal> {
        let name = self.only(request)?;
        let input = self.monitor.observer().input(&name);
        if input == Input::None {
            let how = "its stdin is neither a pipe (`stdin = \"pipe\"`) nor a terminal (`tty = true`)";
            return Err(format!("nothing can be sent to {name}: {how}").into());
        }
        let process = self.process(&name).and_then(|id| reactor.process(id));
        let Some(mut process) = process else { return Err(format!("{name} is not running").into()) };
        match process.pending(0) {
            None => return Err(format!("{name} has closed its stdin").into()),
            Some(waiting) if waiting > MOST_WAITING => {
                return Err(format!("{name} does not read its stdin: {waiting} bytes are waiting").into());
            }
            Some(_) => {}
        }
        process.write(0, &request.data).map_err(|error| Refusal::from(format!("{name}: {error}")))?;
        match (end, input) {
            (true, Input::Terminal) => {
                // The end of the input, as a user types it.
                process.write(0, b"\x04").map_err(|error| Refusal::from(format!("{name}: {error}")))?;
            }
            (true, _) => process.close_stdin(),
            _ => {}
        }
        Ok(())
    }

    /// Attaches a client to a process.
    pub(super) fn attach(&mut self, reactor: &mut Reactor, client: ClientId, request: &Request) -> Result<(), Refusal> {
        let name = self.only(request)?;
        let input = self.monitor.observer().input(&name);
        let first = json!({ "version": protocol::VERSION, "attached": name, "input": input.name() });
        let serde_json::Value::Object(first) = first else { return Ok(()) };
        self.server.send_before(client, first, reactor.now());
        self.attached.push(Attached { client, name });
        Ok(())
    }

    /// Sets the size of the terminal of a process.
    pub(super) fn resize(&mut self, reactor: &mut Reactor, request: &Request, size: (u16, u16)) -> Result<(), Refusal> {
        let name = self.only(request)?;
        let process = self.process(&name).and_then(|id| reactor.process(id));
        let Some(mut process) = process else { return Err(format!("{name} is not running").into()) };
        process.resize(size.0, size.1).map_err(|error| Refusal::from(format!("{name}: {error}")))
    }

    /// Passes output on to the clients that are attached to its process.
    pub(super) fn pass_to_attached(&mut self, reactor: &Reactor, event: &Event<'_>) {
        let Event::Data { process, fd, data } = *event else { return };
        let (monitor, server, now) = (&self.monitor, &mut self.server, reactor.now());
        let is_of = |name: &str, process: ProcessId| monitor.status(name).is_some_and(|it| it.process == Some(process));
        self.attached.retain(|attached| {
            if !is_of(&attached.name, process) {
                return true;
            }
            let mut object = Map::new();
            object.insert("version".into(), protocol::VERSION.into());
            object.insert("stream".into(), (if fd == 2 { "stderr" } else { "stdout" }).into());
            let (key, text) = protocol::encode(data);
            object.insert(key.into(), text.into());
            server.send_before(attached.client, object, now)
        });
    }

    /// Lets the clients go that have closed their end.
    pub(super) fn settle_attached(&mut self, reactor: &Reactor) {
        if self.attached.is_empty() {
            return;
        }
        let (monitor, server, now) = (&self.monitor, &mut self.server, reactor.now());
        self.attached.retain(|attached| {
            let stays = server.is_listening(attached.client) && monitor.status(&attached.name).is_some();
            if !stays {
                server.answer(attached.client, protocol::done(), now);
            }
            stays
        });
    }
}
