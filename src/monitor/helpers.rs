//! The commands that check and stop processes, and the connections that check them.
//!
//! It decides nothing. The one rule: a command that was ended is kept until it was reaped.

use std::collections::HashMap;
use std::ffi::OsString;

use super::entry::{Entry, RunningCheck};
use super::observer::Observer;
use crate::process::ProcessId;
use crate::reactor::{Reactor, SourceId};

/// The commands that check and stop processes, and the connections that check them.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// Each with its entry, or `None` if it has been ended.
    pub(super) commands: HashMap<ProcessId, Option<u64>>,
    pub(super) connects: HashMap<SourceId, u64>,
    /// The command of a step of a stop, by its entry.
    pub(super) stops: HashMap<u64, ProcessId>,
}

impl Helpers {
    pub(super) fn has(&self, process: ProcessId) -> bool {
        self.commands.contains_key(&process)
    }

    /// Whether commands are still running.
    pub(super) fn are_any(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Ends the command of an entry's stop, if there is one.
    pub(super) fn end_stop_command(&mut self, reactor: &mut Reactor, key: u64) {
        if let Some(process) = self.stops.remove(&key) {
            self.end(reactor, RunningCheck::Command(process));
        }
    }

    /// Ends a check that is under way.
    pub(super) fn end(&mut self, reactor: &mut Reactor, check: RunningCheck) {
        match check {
            RunningCheck::Command(process) => {
                self.commands.insert(process, None);
                if let Some(mut tree) = reactor.tree(process) {
                    // If it may not be killed, it goes on, and is reaped at its exit.
                    let _ = tree.kill();
                }
            }
            RunningCheck::Connect(connect) => {
                self.connects.remove(&connect.source());
                connect.give_up(reactor);
            }
        }
    }
}

impl Entry {
    /// Runs the command of a step of its stop.
    pub(super) fn run_stop_command(
        &mut self,
        reactor: &mut Reactor,
        key: u64,
        words: &[OsString],
        helpers: &mut Helpers,
        observer: &mut impl Observer,
    ) {
        helpers.end_stop_command(reactor, key);
        let Some(command) = self.command.helper(words, self.pid) else { return };
        match reactor.spawn_process(&command) {
            Ok(process) => {
                helpers.commands.insert(process, Some(key));
                helpers.stops.insert(key, process);
            }
            Err(error) => observer.helper_failed(&self.name, &error),
        }
    }
}
