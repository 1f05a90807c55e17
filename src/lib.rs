//! Run, watch and restart child processes on one thread, without a runtime.

mod command;
mod error;
mod exit;
mod monitor;
mod process;
mod producer;
mod protocol;
mod pty;
mod reactor;
mod run_to_end;
mod service;
pub mod signal;
mod slab;
mod sources;
mod sys;

pub use command::{Command, Limit, Resource, Stdio};
pub use error::{AlreadyRegistered, RunError, SignalError, SpawnError, Stage, WriteError};
pub use exit::{Exit, Usage};
pub use monitor::lines::Escaped;
pub use monitor::restart::{self, Policy, PolicyError, Restart};
pub use monitor::{Line, Log, MonitorError, Observer, ProcessMonitor, Status};
pub use process::{Process, ProcessGroup, ProcessId};
pub use producer::{Consumer, Feed, Producer, ReadProducer};
pub use protocol::{ProcessProtocol, ProtocolResult, Protocols};
pub use pty::Pty;
pub use reactor::timers::TimerId;
pub use reactor::{Event, Interest, Reactor, ReapMethod, SourceId, Waker};
pub use run_to_end::{Output, RunToEnd};
pub use service::{MultiService, Service};
pub use sys::spawn::SpawnMethod;

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
