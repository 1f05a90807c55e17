//! Run, watch and restart child processes on one thread, without a runtime.

mod command;
mod error;
mod exit;
mod monitor;
mod process;
mod pty;
mod reactor;
mod service;
pub mod signal;
mod slab;
mod sources;
mod sys;

pub use command::{Command, Limit, Resource, Stdio};
pub use error::{SignalError, SpawnError, Stage, WriteError};
pub use exit::{Exit, Usage};
pub use monitor::lines::Escaped;
pub use monitor::restart::{self, Policy, PolicyError, Restart};
pub use monitor::{Line, Log, MonitorError, Observer, ProcessMonitor, Status};
pub use process::{Process, ProcessGroup, ProcessId};
pub use pty::Pty;
pub use reactor::timers::TimerId;
pub use reactor::{Event, Interest, Reactor, ReapMethod, SourceId, Waker};
pub use service::{MultiService, Service};
pub use sys::spawn::SpawnMethod;

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
