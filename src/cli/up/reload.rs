//! Reads the file again, carries out what has changed, and touches nothing else.
//!
//! The one rule: everything that can fail is done before anything is changed.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use childminder::restart::State;
use childminder::{Command, Reactor};
use serde_json::Value;

use super::waits::Goal;
use super::{KnownProcess, Up};
use crate::cli::config::{Access, Change, Commands, Config, Fingerprint, ProcessConfig, Scope, SocketPath};
use crate::cli::control::Lock;
use crate::cli::control::protocol::{self, Object};

/// The result of a reload.
#[derive(Debug, Default)]
pub(super) struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    /// The processes with new settings. The ones that were up are started again.
    restarted: Vec<String>,
    /// The processes that go on running under a new policy.
    updated: Vec<String>,
    /// Messages about other changes.
    notes: Vec<String>,
    goals: Vec<(String, Goal)>,
}

impl Changes {
    /// The states that the processes reach when the reload is complete.
    pub(super) fn goals(&self) -> Vec<(String, Goal)> {
        self.goals.clone()
    }

    pub(super) fn into_answer(self) -> Object {
        let mut answer = protocol::done();
        answer.append(&mut self.names());
        if !self.notes.is_empty() {
            answer.insert("notes".into(), self.notes.into());
        }
        answer
    }

    /// The names by what has become of their processes.
    fn names(&self) -> Object {
        let lists = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("restarted", &self.restarted),
            ("updated", &self.updated),
        ];
        lists.into_iter().map(|(key, names)| (key.to_owned(), names.clone().into())).collect()
    }

    fn summary(&self) -> String {
        let parts = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("restarted", &self.restarted),
            ("updated", &self.updated),
        ];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<_> = parts.map(|(what, names)| format!("{what} {}", names.join(", "))).collect();
        if parts.is_empty() { "nothing has changed".into() } else { parts.join("; ") }
    }
}

impl Up {
    /// Reads the file again because of a signal, and reports the result.
    pub(super) fn reload_and_tell(&mut self, reactor: &mut Reactor) {
        if self.stage != super::Stage::Running {
            return;
        }
        if let Err(errors) = self.reload(reactor) {
            self.reporter().say("not reloaded:");
            errors.lines().for_each(|error| self.reporter().say(error));
        }
    }

    /// Reads the file again. The error holds all mistakes, one on each line. Nothing has changed
    /// then.
    pub(super) fn reload(&mut self, reactor: &mut Reactor) -> Result<Changes, String> {
        self.parent_reloading(reactor);
        let (new, warnings) = Config::load(&self.file, Scope::Text).map_err(|errors| errors.to_string())?;
        let old = fingerprints(&self.processes);
        let mut errors = Vec::new();
        let mut plan = Vec::new();
        let mut known = Vec::new();
        let mut commands = Commands::new(self.kills_at_death, Rc::clone(&self.listeners));
        let (socket, kills_at_death, cgroup) = (new.socket.clone(), new.kills_at_death, new.cgroup.clone());
        let (look, access, order, main) = (new.look, new.access, new.order.clone(), new.file.clone());
        for process in new.into_processes() {
            let now = KnownProcess::new(&process);
            let change = old.get(&*process.name).map(|old| old.change(now.fingerprint));
            known.push(now);
            if change == Some(Change::Nothing) {
                continue;
            }
            let command = match change {
                None | Some(Change::Process) => match commands.of(&process) {
                    Ok(command) => Some(command),
                    Err(error) => {
                        errors.push(format!("[{}] {error}", process.name));
                        continue;
                    }
                },
                Some(_) => None,
            };
            plan.push((process, change, command));
        }
        if !errors.is_empty() {
            return Err(errors.join("\n"));
        }

        // Earlier output goes to its old destination.
        self.reporter().flush(reactor.now());
        let look = self.look.or(look);
        self.reporter().set_look(look);
        let mut changes = Changes::default();
        let before = std::mem::replace(&mut self.processes, known);
        let wanted = fingerprints(&self.processes);
        let gone: Vec<_> = before.into_iter().filter(|process| !wanted.contains_key(&*process.name)).collect();
        for KnownProcess { name: process, .. } in gone {
            let id = self.monitor.status(&process).and_then(|status| status.process);
            let _ = self.monitor.remove_process(reactor, &process);
            self.monitor.observer_mut().remove(&process, id.is_some());
            changes.goals.push((process.to_string(), Goal::Down { process: id }));
            changes.removed.push(process.to_string());
        }
        // The added processes start last, when everything that they may wait for is known.
        let mut starts = Vec::new();
        for (process, change, command) in plan {
            match (change, command) {
                (Some(Change::Policy), _) => {
                    let _ = self.monitor.set_watch(reactor, &process.name, process.watch.clone());
                    let _ = self.monitor.set_process_policy(reactor, &process.name, Arc::clone(&process.policy));
                    self.reporter().update(&process);
                    changes.updated.push(process.name.to_string());
                }
                (None, Some(command)) => {
                    self.add(reactor, &process, &command);
                    if process.autostart {
                        starts.push(Arc::clone(&process.name));
                        changes.goals.push((process.name.to_string(), Goal::Running { instead_of: None }));
                    }
                    changes.added.push(process.name.to_string());
                }
                (Some(_), Some(command)) => {
                    let status = self.monitor.status(&process.name);
                    let is_down = |state| matches!(state, State::Stopped | State::Exited | State::Failed { .. });
                    let up = status.is_some_and(|status| !is_down(status.state));
                    let id = status.and_then(|status| status.process);
                    let _ = self.monitor.remove_process(reactor, &process.name);
                    self.add(reactor, &process, &command);
                    if up {
                        starts.push(Arc::clone(&process.name));
                        changes.goals.push((process.name.to_string(), Goal::Running { instead_of: id }));
                    }
                    changes.restarted.push(process.name.to_string());
                }
                _ => {}
            }
        }
        if let Err(error) = self.monitor.set_order(reactor, &order) {
            changes.notes.push(error.to_string());
        }
        for name in starts {
            let _ = self.monitor.start_process(reactor, &name);
        }
        changes.notes.extend(warnings.to_string().lines().map(str::to_owned));
        changes.notes.extend(self.renew_lock(&main));
        changes.notes.extend(self.compare_socket(socket, access));
        for (key, changed) in
            [("when-killed", kills_at_death != self.kills_at_death), ("cgroup", cgroup != self.cgroup)]
        {
            if changed {
                changes.notes.push(format!("`{key}` has changed, and takes effect at the next start"));
            }
        }
        let reporter = self.reporter();
        reporter.events.note("reloaded", None, || Value::Object(changes.names()));
        reporter.say(&format!("reloaded: {}", changes.summary()));
        changes.notes.iter().for_each(|note| reporter.say(note));
        childminder::trim_heap();
        Ok(changes)
    }

    /// Locks the file that is now at the path, if it is another one. Returns a message if that
    /// fails.
    fn renew_lock(&mut self, file: &Path) -> Option<String> {
        if self.lock.as_ref().is_some_and(|lock| lock.is_on(file)) {
            return None;
        }
        match Lock::on_configuration(file) {
            Ok(lock) => {
                self.lock = lock;
                None
            }
            Err(held) => Some(format!("{}: {held}", file.display())),
        }
    }

    /// A message if the file sets another socket than the one in use.
    fn compare_socket(&self, socket: Option<SocketPath>, access: Access) -> Option<String> {
        let (now, next) = (self.server.path(), SocketPath::of(socket));
        if now == next.as_deref() {
            let is_same = self.server.access().is_none_or(|now| now == access);
            let note = "`socket-mode` or `socket-group` has changed, and takes effect at the next start";
            return (!is_same).then(|| note.to_owned());
        }
        Some(match (now, next) {
            (Some(now), Some(next)) => {
                let (now, next) = (now.display(), next.display());
                format!("the socket stays at {now} until the next start, although the file says {next}")
            }
            _ => "`socket` has changed, and takes effect at the next start".into(),
        })
    }

    fn add(&mut self, reactor: &mut Reactor, process: &ProcessConfig, command: &Command) {
        self.monitor.observer_mut().set(reactor, process);
        let name = &process.name;
        let added = self.monitor.add_process_with(reactor, Arc::clone(name), command, Arc::clone(&process.policy));
        let watched = added.and_then(|()| match &process.watch {
            Some(watch) => self.monitor.set_watch(reactor, name, watch.clone()),
            None => Ok(()),
        });
        if let Err(error) = watched {
            self.reporter().say(&format!("[{name}] {error}"));
        }
    }
}

fn fingerprints(processes: &[KnownProcess]) -> HashMap<&str, Fingerprint> {
    processes.iter().map(|process| (&*process.name, process.fingerprint)).collect()
}
