//! Twisted's `ProcessProtocol`: one value for each process, whose methods are called for the events
//! of the process.
//!
//! This is a layer over the reactor's events. It is handed each event, and the reactor does not
//! know it. The one rule: an error or a panic in a method changes nothing for the process, its
//! pipes and the other protocols.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::command::Command;
use crate::error::SpawnError;
use crate::exit::Exit;
use crate::process::{Process, ProcessId};
use crate::reactor::{Event, Reactor};

/// The return value of the methods of a [`ProcessProtocol`]. An error is logged and changes nothing
/// else.
pub type ProtocolResult = Result<(), Box<dyn Error + Send + Sync>>;

/// The callbacks for the events of one process: Twisted's `ProcessProtocol`, with its names.
///
/// All methods have a default. [`child_data_received`](Self::child_data_received) and
/// [`child_connection_lost`](Self::child_connection_lost) call the method of the descriptor, and
/// the others do nothing. The order of the calls is:
///
/// 1. [`connection_made`](Self::connection_made), once.
/// 2. Data and lost connections, in the order of each descriptor.
///    [`process_exited`](Self::process_exited) is called once, before, between or after these.
/// 3. [`process_ended`](Self::process_ended), once, when the process has exited and all pipes are
///    closed.
///
/// An error or a panic in a method is logged and breaks nothing: the pipe stays open, and the other
/// methods are still called. (A program built with `panic = "abort"` ends nevertheless.)
pub trait ProcessProtocol {
    /// Called when the process runs, before [`Protocols::spawn_process`] returns.
    fn connection_made(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        Ok(())
    }

    /// Called when the process has written to its descriptor `fd`.
    fn child_data_received(&mut self, process: &mut Process<'_>, fd: i32, data: &[u8]) -> ProtocolResult {
        match fd {
            1 => self.out_received(process, data),
            2 => self.err_received(process, data),
            _ => Ok(()),
        }
    }

    /// Called when the process has written to its stdout.
    fn out_received(&mut self, _process: &mut Process<'_>, _data: &[u8]) -> ProtocolResult {
        Ok(())
    }

    /// Called when the process has written to its stderr.
    fn err_received(&mut self, _process: &mut Process<'_>, _data: &[u8]) -> ProtocolResult {
        Ok(())
    }

    /// Called when the pipe to the process's descriptor `fd` is closed, by the process or by us. It
    /// is called once for each pipe.
    fn child_connection_lost(&mut self, process: &mut Process<'_>, fd: i32) -> ProtocolResult {
        match fd {
            0 => self.in_connection_lost(process),
            1 => self.out_connection_lost(process),
            2 => self.err_connection_lost(process),
            _ => Ok(()),
        }
    }

    /// Called when the pipe to the process's stdin is closed.
    fn in_connection_lost(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        Ok(())
    }

    /// Called when the pipe from the process's stdout is closed.
    fn out_connection_lost(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        Ok(())
    }

    /// Called when the pipe from the process's stderr is closed.
    fn err_connection_lost(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        Ok(())
    }

    /// Called when the process has exited. Its pipes may still be open, because data is left in
    /// them or because other processes hold them too.
    fn process_exited(&mut self, _process: &mut Process<'_>, _exit: &Exit) -> ProtocolResult {
        Ok(())
    }

    /// Called when the process has exited and all its pipes are closed. This is the last call.
    fn process_ended(&mut self, _reactor: &mut Reactor, _id: ProcessId, _exit: &Exit) -> ProtocolResult {
        Ok(())
    }
}

/// Calls the protocol of each process. The host owns it and hands it every event.
///
/// ```
/// use childminder::{Command, Exit, ProcessId, Process, ProcessProtocol, ProtocolResult, Protocols, Reactor, Stdio};
///
/// struct Sort(Vec<u8>);
///
/// impl ProcessProtocol for Sort {
///     fn connection_made(&mut self, process: &mut Process<'_>) -> ProtocolResult {
///         process.write(0, b"b\na\n")?;
///         process.close_stdin();
///         Ok(())
///     }
///     fn out_received(&mut self, _: &mut Process<'_>, data: &[u8]) -> ProtocolResult {
///         self.0.extend_from_slice(data);
///         Ok(())
///     }
///     fn process_ended(&mut self, reactor: &mut Reactor, _: ProcessId, exit: &Exit) -> ProtocolResult {
///         assert!(exit.success());
///         assert_eq!(self.0, b"a\nb\n");
///         reactor.stop();
///         Ok(())
///     }
/// }
///
/// let mut reactor = Reactor::new()?;
/// let mut protocols = Protocols::new();
/// protocols.spawn_process(&mut reactor, Command::new("sort").stdin(Stdio::piped()), Sort(Vec::new()))?;
/// reactor.run(|reactor, event| {
///     protocols.handle(reactor, &event);
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Protocols {
    table: HashMap<ProcessId, Entry>,
}

struct Entry {
    /// For the log, because the process no longer knows its pid once it has exited.
    pid: u32,
    protocol: Box<dyn ProcessProtocol + Send>,
}

impl Protocols {
    /// Makes a table without processes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a process and connects `protocol` to it.
    ///
    /// When this returns, [`connection_made`](ProcessProtocol::connection_made) has been called and
    /// no other method. If the process has already exited by then, a later turn reports that too.
    ///
    /// # Errors
    ///
    /// As [`Reactor::spawn_process`]. No method of the protocol is called then.
    #[doc(alias = "spawnProcess")]
    pub fn spawn_process(
        &mut self,
        reactor: &mut Reactor,
        command: &Command,
        protocol: impl ProcessProtocol + Send + 'static,
    ) -> Result<ProcessId, SpawnError> {
        let id = reactor.spawn_process(command)?;
        let Some(mut process) = reactor.process(id) else { return Ok(id) };
        let mut entry = Entry { pid: process.pid().unwrap_or_default(), protocol: Box::new(protocol) };
        entry.call("connection_made", |protocol| protocol.connection_made(&mut process));
        self.table.insert(id, entry);
        Ok(id)
    }

    /// Tells whether every process has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Calls the protocol of the process that the event is about. Returns `true` if the event was
    /// for one of these.
    ///
    /// Protocols do not use [`Event::Drained`], so a [`Feed`](crate::Feed) beside them can have it.
    pub fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Data { process: id, fd, data } => {
                self.call(reactor, id, "child_data_received", |protocol, process| {
                    protocol.child_data_received(process, fd, data)
                })
            }
            Event::FdClosed { process: id, fd, .. } => {
                self.call(reactor, id, "child_connection_lost", |protocol, process| {
                    protocol.child_connection_lost(process, fd)
                })
            }
            Event::Exited { process: id, exit } => {
                self.call(reactor, id, "process_exited", |protocol, process| protocol.process_exited(process, exit))
            }
            Event::Ended { process: id, exit } => {
                // Taken out before the call, so that a protocol that panics is dropped.
                let Some(mut entry) = self.table.remove(&id) else { return false };
                entry.call("process_ended", |protocol| protocol.process_ended(reactor, id, exit));
                true
            }
            _ => false,
        }
    }

    fn call(
        &mut self,
        reactor: &mut Reactor,
        id: ProcessId,
        method: &str,
        call: impl FnOnce(&mut dyn ProcessProtocol, &mut Process<'_>) -> ProtocolResult,
    ) -> bool {
        let Some(entry) = self.table.get_mut(&id) else { return false };
        if let Some(mut process) = reactor.process(id) {
            entry.call(method, |protocol| call(protocol, &mut process));
        }
        true
    }
}

impl Entry {
    /// Calls a protocol, and stops its errors and panics. There is no other way to a protocol.
    fn call(&mut self, method: &str, call: impl FnOnce(&mut dyn ProcessProtocol) -> ProtocolResult) {
        let pid = self.pid;
        match catch_unwind(AssertUnwindSafe(|| call(&mut *self.protocol))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("the protocol of process {pid} failed in {method}: {error}"),
            Err(payload) => log::error!("the protocol of process {pid} panicked in {method}: {}", message(&*payload)),
        }
    }
}

/// Returns the message of a panic.
fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protocols").field("processes", &self.table.keys()).finish()
    }
}
