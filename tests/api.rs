//! Checks at compile time which types can be sent to another thread, and which can be shared.

#[path = "util/guard.rs"]
mod guard;

use childminder::restart::{Lifecycle, Policy, PolicyBuilder};
use childminder::simulation::Timeline;
use childminder::{
    Command, Controlled, CpuSet, Event, Exit, Finished, Handle, HandleError, Limits, Line, LineReceiver, Log,
    MonitorError, MultiService, Output, Process, ProcessId, ProcessMonitor, ProcessStatus, Pty, Reactor, RunMany,
    SignalError, SourceId, SpawnError, Status, Stdio, TimerId, Topology, Waker, WriteError,
};

const fn send<T: Send>() {}
const fn send_and_sync<T: Send + Sync>() {}
const fn error<T: std::error::Error + Send + Sync + 'static>() {}

/// A type that holds a reactor can be made on one thread and used on another.
const _: () = {
    send::<Reactor>();
    send::<Process<'_>>();
    send::<Event<'_>>();
    send::<ProcessMonitor>();
    send::<Controlled>();
    send::<LineReceiver>();
    send::<MultiService>();
    send::<RunMany<std::iter::Empty<Command>>>();
};

/// A type that is a value, or is meant for other threads, can be shared.
const _: () = {
    send_and_sync::<Waker>();
    send_and_sync::<Handle<Log>>();
    send_and_sync::<ProcessStatus>();
    send_and_sync::<ProcessMonitor>();
    send_and_sync::<Command>();
    send_and_sync::<Stdio>();
    send_and_sync::<Pty>();
    send_and_sync::<Exit>();
    send_and_sync::<Limits>();
    send_and_sync::<Output>();
    send_and_sync::<Finished>();
    send_and_sync::<CpuSet>();
    send_and_sync::<Topology>();
    send_and_sync::<Line<'_>>();
    send_and_sync::<Status<'_>>();
    send_and_sync::<Policy>();
    send_and_sync::<PolicyBuilder>();
    send_and_sync::<Lifecycle>();
    send_and_sync::<Timeline>();
    send_and_sync::<ProcessId>();
    send_and_sync::<TimerId>();
    send_and_sync::<SourceId>();
};

/// An error type can be converted by `?` into a boxed error.
const _: () = {
    error::<SpawnError>();
    error::<SignalError>();
    error::<WriteError>();
    error::<MonitorError>();
    error::<HandleError>();
};

/// An observer need not be shareable, as long as it can be sent.
#[test]
fn an_observer_that_can_be_sent_is_enough() {
    struct Cell(#[allow(dead_code)] std::cell::Cell<u8>);
    impl childminder::Observer for Cell {}
    send::<ProcessMonitor<Cell>>();
    send::<Controlled<Cell>>();
    send_and_sync::<Handle<Cell>>();
}
