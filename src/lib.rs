//! Run, watch and restart child processes on one thread, without a runtime.
//!
//! A reactor waits for pipes, exits, timers and signals at once, and a monitor keeps processes
//! running. The reactor is the loop of your program, or a guest in it. The design is that of
//! Twisted (reactor, process, monitor).
//!
//! ```
//! use childminder::{Command, ProcessMonitor, Reactor};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut reactor = Reactor::new()?;
//!     let mut monitor = ProcessMonitor::new();
//!     monitor.add_process(&mut reactor, "web", Command::new("sleep").arg("60"))?;
//! #   reactor.stop(); // so that this example ends
//!     reactor.run_service(&mut monitor)?; // until SIGTERM, Ctrl-C or the like; returns when all is down
//!     Ok(())
//! }
//! ```
//!
//! # Overview
//!
//! | | |
//! | --- | --- |
//! | [`Reactor`] | waits, and hands out [`Event`]s: `turn`, `run`, `run_service`. Starts processes; has timers, signals, your descriptors, a [`Waker`] |
//! | [`Command`] | what to run: program, arguments, environment, descriptors, user, limits, [`Pty`]. Plain data |
//! | [`Tree`] | a process with all that it has started, in a cgroup or a group ([`Contain`]): signal, kill, freeze, list; its end is an event |
//! | [`Process`] | a running one, by its [`ProcessId`]: write, close, pause, signal. At its end an [`Exit`] |
//! | [`ProcessMonitor`] | keeps processes running under their names, by a [`Policy`]; tells an [`Observer`] |
//! | [`Controlled`], [`Handle`] | the same, asked from other threads |
//! | [`Service`], [`MultiService`] | what is started and stopped with your program |
//! | [`Child`] | a process, or a pipeline, to talk to in calls that wait, from one thread or several; [`Conversation`] is the same on your reactor |
//! | [`RunToEnd`] | one command from start to end, in one blocking call; [`Cancel`] ends it from another thread |
//! | [`RunMany`] | many commands, so many at a time, with [`Limits`] and on processors of their own |
//! | [`JobControl`] | Ctrl-C and Ctrl-Z in a program with its own loop |
//! | [`ProcessProtocol`], [`Feed`], [`LineReceiver`] | layers over the events: callbacks, input of any size, output as lines |
//! | [`simulation`] | what a policy does to a service, in virtual time |
//!
//! The reactor stores no callback: a turn lends each event to your closure, together with the
//! reactor. Ids are never used twice. Nothing happens but in a turn, so a host always knows when
//! its children are looked after.
//!
#![cfg_attr(
    doc,
    doc = "The [guide] has chapters on a first program, your own loop, talking to a child, keeping trees together, harnesses, testing"
)]
#![cfg_attr(
    doc,
    doc = "a policy, other people's programs, switching from Twisted, supervisord, std, duct or tokio, the command, and how all this is built."
)]
//!
//! # Platforms
//!
//! Linux 6.9 or later has everything. Earlier kernels lack signals to leftover members of a process
//! group after their leader was reaped, and before 5.14 the kill of a cgroup in one call.
//! Elsewhere, or where a sandbox refuses the newer calls, portable ways are taken: `fork` for
//! [`SpawnMethod::Vfork`], SIGCHLD for [`ReapMethod::Pidfd`]. They are tested on Linux. macOS and
//! the BSDs are meant to work in this way and compile, but nobody has run them yet. Windows is not
//! supported. The guide's chapter on platforms says where each promise holds.
//!
//! Signal handlers belong to the whole process. With pidfds none is installed for children. For
//! each signal that you watch, and for SIGCHLD without pidfds, one is installed. It calls the
//! handler that was there before, and is removed when nobody watches the signal any more. Only the
//! reactor's own children are reaped, by their pidfds. Without pidfds they are reaped by their
//! pids. If the host has reaped one of them itself, and another child of the host has got its pid,
//! the start time in `/proc` tells the two apart.
//!
//! # Features
//!
//! - `cli` (off): the command `childminder`, and what it needs. The library has no features.

#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "some parts serve what only Linux has"))]

#[cfg(not(unix))]
compile_error!("childminder needs a Unix: processes, signals and pipes are what it is made of");

mod cancel;
mod command;
mod conditions;
mod contain;
mod cpus;
mod error;
mod escaped;
mod exit;
#[cfg(any(doc, doctest))]
pub mod guide;
mod handle;
mod io_error;
mod job;
mod job_control;
mod limit;
mod limits;
mod line_receiver;
mod lines;
mod map;
mod monitor;
mod notify;
mod parent;
mod process;
mod producer;
mod protocol;
mod pty;
mod reactor;
mod run_many;
mod run_to_end;
mod service;
pub mod signal;
mod slab;
mod sources;
mod stdio;
mod sys;
mod talk;
mod topology;
mod used;
mod words;

pub use cancel::Cancel;
pub use command::Command;
pub use conditions::{IoPriority, Scheduler};
pub use contain::{Contain, Containment, Member, Remains, Strength};
pub use cpus::{CpuSet, CpuSetError};
pub use error::{AlreadyRegistered, RunError, SignalError, SpawnError, Stage, WriteError};
pub use escaped::Escaped;
pub use exit::{Exit, Usage};
pub use handle::{Controlled, Handle, HandleError, ProcessStatus};
pub use job::Output;
pub use job_control::{JobControl, Request};
pub use limit::{Limit, Resource};
pub use limits::{EndedBy, Limits};
pub use line_receiver::LineReceiver;
pub use monitor::restart::{self, Leftovers, Policy, PolicyError, Restart};
pub use monitor::simulation;
pub use monitor::{Check, Fault, Health, Probe, Readiness, Ready, Watch};
pub use monitor::{Group, Order, OrderError, OrderErrors, Strategy, When};
pub use monitor::{Line, Lines, Log, MonitorError, Observer, ProcessMonitor, Status};
pub use notify::{Notice, Watchdog};
pub use parent::{notify_parent, parent_watchdog};
pub use process::{Process, ProcessId, Tree};
pub use producer::{Consumer, Feed, Producer, ReadProducer};
pub use protocol::{ProcessProtocol, ProtocolResult, Protocols};
pub use pty::Pty;
#[cfg(target_os = "linux")]
pub use reactor::Orphans;
pub use reactor::timers::TimerId;
pub use reactor::{Event, Interest, Reactor, ReapMethod, SourceId, Waker};
pub use run_many::{Finished, RunMany};
pub use run_to_end::RunToEnd;
pub use service::{MultiService, Service};
pub use stdio::Stdio;
pub use sys::fd::inherited_fd;
pub use sys::heap::trim_heap;
pub use sys::spawn::SpawnMethod;
pub use talk::{Captured, Child, ChildOutput, Conversation, Found, TalkError};
pub use topology::{TooFewCpus, Topology};
pub use used::{Covers, Figure, Pressure, Used};

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
