//! The events of the processes become inputs of their machines, and the actions that the machines
//! return are carried out on the reactor.
//!
//! It decides nothing. The one rule: an entry's machine receives everything that happens to its
//! process, in the order in which it happens.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Output;
use super::observer::Observer;
use super::order::phase::is_death;
use super::restart::{Action, Input, Leftovers, State, StopAction};
use super::streams::{Streams, Writer};
use super::watch::{Effect, Ready, Sign};
use super::{ProcessMonitor, checks};
use crate::exit::Exit;
use crate::lines::{Piece, Run};
use crate::process::ProcessId;
use crate::reactor::timers::TimerId;
use crate::reactor::{Event, Reactor};
use crate::service::Service;

impl<O: Observer> ProcessMonitor<O> {
    /// Gives an entry's machine an input that happens now, and carries out its action and what
    /// follows from it for other processes.
    pub(super) fn tell(&mut self, reactor: &mut Reactor, key: u64, input: Input) {
        self.tell_at(reactor, key, input, reactor.now());
        self.settle_order(reactor);
    }

    /// Gives an entry's machine an input that happened at this time, and carries out its action.
    pub(super) fn tell_at(&mut self, reactor: &mut Reactor, key: u64, input: Input, at: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let (mut input, mut now) = (input, at);
        let (first, was_down) = (entry.life.state(), entry.is_down());
        let idle = matches!(first, State::BackingOff { .. } | State::Exited);
        if idle && matches!(input, Input::Stop | Input::Kill) && entry.is_gone(reactor) {
            // The reactor is about to report that.
            entry.life.forget_group();
        }
        loop {
            let before = entry.life.state();
            let action = entry.life.handle(now, input);
            let died = is_death(before, input, entry.life.state());
            match entry.watch_state(now, before) {
                Some(Effect::Ready) => self.observer.ready(&entry.name),
                Some(Effect::EndCheck) => {
                    let check = entry.take_check();
                    check.into_iter().for_each(|check| self.helpers.end(reactor, check));
                }
                _ => {}
            }
            if let Some(ordered) = &mut self.order {
                ordered.machine.told(now, key, entry.phase(), died);
            }
            match action {
                Some(Action::Spawn) => {
                    if self.order.as_mut().is_some_and(|ordered| !ordered.machine.may_start(now, key)) {
                        input = Input::Held;
                        continue;
                    }
                    if matches!(input, Input::Exited { .. } | Input::GroupGone) {
                        self.observer.restarting(&entry.name, Duration::ZERO);
                    }
                    input = match reactor.spawn_process(&entry.command) {
                        Ok(process) => {
                            entry.process = Some(process);
                            entry.starts += 1;
                            let (name, streams) = (Arc::clone(&entry.name), Streams::new(self.max_line));
                            let awaited = entry.awaited_output();
                            let output = Output { entry: key, name, streams, awaited };
                            self.outputs.insert(process, output);
                            let pid = reactor.process(process).and_then(|process| process.pid());
                            entry.pid = pid.and_then(NonZeroU32::new);
                            entry.containment = reactor.tree(process).map(|tree| tree.containment());
                            self.observer.started(&entry.name, pid.unwrap_or_default());
                            Input::Spawned
                        }
                        Err(error) => {
                            self.observer.start_failed(&entry.name, &error);
                            Input::SpawnFailed
                        }
                    };
                    now = reactor.now();
                    continue;
                }
                Some(Action::Terminate) => {
                    let step = entry.life.stop_step();
                    match step.map(|step| (step.action, step.scope)) {
                        Some((StopAction::Signal(signal), scope)) => {
                            self.observer.terminating(&entry.name, signal);
                            let sent = entry.terminate(reactor, signal, scope);
                            entry.note(&mut self.observer, signal, sent);
                        }
                        Some((StopAction::Command(words), _)) => {
                            entry.run_stop_command(reactor, key, &words, &mut self.helpers, &mut self.observer);
                        }
                        None => {}
                    }
                }
                Some(Action::Kill) => {
                    match entry.life.state() {
                        State::Stopping { .. } => self.observer.killing(&entry.name),
                        _ => self.observer.killing_leftovers(&entry.name, &entry.leftovers(reactor)),
                    }
                    let sent = entry.kill(reactor);
                    entry.note(&mut self.observer, libc::SIGKILL, sent);
                }
                None => {}
            }
            match entry.life.state() {
                State::BackingOff { until, .. } if entry.life.state() != before => {
                    // Killed leftover processes are usually gone at once. The restart is reported
                    // then.
                    let ready = entry.life.ready().unwrap_or(until);
                    if ready > now || action != Some(Action::Kill) {
                        self.observer.restarting(&entry.name, ready.saturating_duration_since(now));
                    }
                }
                _ => {}
            }
            break;
        }
        self.settle_entry(reactor, key, (first, was_down), now);
    }

    /// Does what follows from a change of an entry's machine. `before` is its earlier state, and
    /// whether the entry was down.
    pub(super) fn settle_entry(&mut self, reactor: &mut Reactor, key: u64, before: (State, bool), now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let (first, was_down) = before;
        entry.arm(reactor, key, &mut self.timers);
        if !matches!(entry.life.state(), State::Stopping { .. }) {
            entry.forget_refusal();
        }
        if entry.life.state() != first {
            entry.changed = now;
            if !matches!(entry.life.state(), State::Stopping { kills: 0, .. }) {
                self.helpers.end_stop_command(reactor, key);
            }
            entry.prepare_exit(reactor);
            self.observer.changed(&entry.name, entry.life.state());
            let ended = matches!(entry.life.state(), State::Exited | State::Failed { .. });
            if ended && self.order.as_ref().is_some_and(|ordered| ordered.machine.is_essential(key)) {
                self.observer.essential_ended(&entry.name, entry.past().last_exit.as_ref());
            }
        }
        match (was_down, entry.is_down()) {
            (true, false) => self.up += 1,
            (false, true) => self.up -= 1,
            _ => {}
        }
        if entry.removed && entry.life.state() == State::Stopped {
            self.names.remove(&entry.name);
            self.entries.remove(&key);
            if let Some(ordered) = &mut self.order {
                ordered.machine.forget(now, key);
            }
        }
    }

    fn exited(&mut self, reactor: &mut Reactor, process: ProcessId, exit: &Exit) {
        let Some(output) = self.outputs.get_mut(&process) else { return };
        let key = output.entry;
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let mut died = reactor.now();
        // The last line of a process is reported before its exit, even if another process still
        // holds the pipe. This does not apply where the rest of the line is still to be read.
        if let Some(mut transport) = reactor.process(process) {
            let writer = Writer { name: &entry.name, process };
            let tell = |fd, piece: Piece<'_>| self.observer.line(&writer.line(fd, piece));
            output.streams.finish(|fd| transport.is_drained(fd), tell);
            died = transport.started() + exit.wall_time;
        }
        entry.process = None;
        entry.pid = None;
        // Before an entry's first start, the process is that of a removed entry whose name it has
        // taken over.
        entry.past_mut().last_exit = (entry.starts > 0).then_some(*exit);
        // The end of its tree is reported in any case, even if that comes after its own end.
        self.trees.insert(process, key);
        self.observer.exited(&entry.name, exit);
        entry.note_exit(reactor, &mut self.observer, process);
        // If the next process is started beside the leftover ones, no scan is needed to find them.
        let beside = matches!(entry.life.state(), State::Running { .. })
            && entry.life.policy().leftovers == Leftovers::Leave
            && entry.past().left.len() < 2;
        let group_left = if beside { !entry.past().left.is_empty() } else { !entry.is_gone(reactor) };
        let outcome = entry.life.policy().outcome(exit);
        self.tell_at(reactor, key, Input::Exited { outcome, group_left }, died);
        self.settle_order(reactor);
    }

    /// Handles the end of a tree. It returns `false` if the tree is not one of ours.
    fn tree_gone(&mut self, reactor: &mut Reactor, process: ProcessId, certain: bool) -> bool {
        let Some(key) = self.trees.remove(&process) else { return false };
        // A tree that did not outlive its process is not reported.
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.past().left.contains(&process)) {
            entry.past_mut().left.retain(|left| *left != process);
            self.observer.tree_gone(&entry.name, certain);
            if entry.past().left.is_empty() {
                self.tell(reactor, key, Input::GroupGone);
            }
        }
        true
    }

    /// Returns the entry of a process, or of its leftover processes.
    fn owner(&self, process: ProcessId) -> Option<u64> {
        self.outputs.get(&process).map(|output| output.entry).or_else(|| self.trees.get(&process).copied())
    }

    fn data(&mut self, reactor: &mut Reactor, process: ProcessId, fd: i32, data: &[u8]) -> bool {
        let Some(output) = self.outputs.get_mut(&process) else { return false };
        let (key, awaited, mut has_said) = (output.entry, output.awaited.clone(), false);
        if awaited.as_ref().is_some_and(|watch| watch.ready == Ready::Fd(fd)) {
            if data.contains(&b'\n') {
                self.said_ready_at(reactor, process, key, fd);
            }
            return true;
        }
        let text = awaited.as_ref().and_then(|watch| match &watch.ready {
            Ready::Line(text) => Some(&text[..]),
            _ => None,
        });
        let (name, observer) = (Arc::clone(&output.name), &mut self.observer);
        let writer = Writer { name: &name, process };
        output.streams.push(fd, data, &mut |run| {
            if let Some(text) = text {
                let bytes = match run {
                    Run::Lines(lines) => lines,
                    Run::Piece(piece) => piece.bytes,
                };
                has_said |= checks::contains(bytes, text);
            }
            match run {
                Run::Lines(lines) => observer.lines(&writer.lines(fd, lines)),
                Run::Piece(piece) => observer.line(&writer.line(fd, piece)),
            }
        });
        if has_said {
            output.awaited = None;
            if self.entries.get(&key).is_some_and(|entry| entry.process == Some(process)) {
                self.sign(reactor, key, Sign::Ready);
            }
        }
        true
    }

    fn closed(&mut self, process: ProcessId, fd: i32) -> bool {
        let Some(output) = self.outputs.get_mut(&process) else { return false };
        let name = Arc::clone(&output.name);
        let writer = Writer { name: &name, process };
        output.streams.finish(|number| number == fd, |fd, piece| self.observer.line(&writer.line(fd, piece)));
        true
    }

    /// Reports an event of one of our processes. It returns `false` if the process is not one of
    /// ours.
    fn told(&mut self, process: ProcessId, tell: impl FnOnce(&mut O, &str)) -> bool {
        let Some(output) = self.outputs.get(&process) else { return false };
        if let Some(entry) = self.entries.get(&output.entry) {
            tell(&mut self.observer, &entry.name);
        }
        true
    }

    fn timer(&mut self, reactor: &mut Reactor, id: TimerId) -> bool {
        if self.order_timer(reactor, id) {
            return true;
        }
        let Some(key) = self.timers.remove(&id) else { return false };
        let Some(entry) = self.entries.get_mut(&key) else { return true };
        entry.timer = None;
        let is_watched = entry.watched.is_some();
        self.tell(reactor, key, Input::Timeout);
        if is_watched {
            self.sign(reactor, key, Sign::Timeout);
        }
        true
    }
}

impl<O: Observer> Service for ProcessMonitor<O> {
    fn is_running(&self) -> bool {
        self.running
    }

    /// Whether it is not running, and all its processes have exited, including the removed ones.
    fn is_down(&self) -> bool {
        debug_assert_eq!(self.up, self.entries.values().filter(|entry| !entry.is_down()).count());
        !self.running && self.up == 0 && !self.helpers.are_any()
    }

    /// Starts all processes, in the order in which they were added.
    fn start_service(&mut self, reactor: &mut Reactor) {
        if !std::mem::replace(&mut self.running, true) {
            for key in self.keys() {
                if self.entries.get(&key).is_some_and(|entry| !entry.removed) {
                    self.request(reactor, key, Input::Start);
                }
            }
        }
    }

    /// Stops all processes: at the same time, or in reverse [order](ProcessMonitor::set_order). The
    /// tree of each process gets the stop signal and then SIGCONT, and SIGKILL at the kill time.
    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.running = false;
        let keys = self.keys();
        match &mut self.order {
            Some(ordered) => ordered.machine.stop_all(&keys),
            None => keys.into_iter().for_each(|key| self.tell_at(reactor, key, Input::Stop, reactor.now())),
        }
        self.settle_order(reactor);
    }

    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.running = false;
        let keys = self.keys();
        if let Some(ordered) = &mut self.order {
            ordered.machine.kill_all(&keys);
        }
        keys.into_iter().for_each(|key| self.tell_at(reactor, key, Input::Kill, reactor.now()));
        self.settle_order(reactor);
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Data { process, fd, data } => self.data(reactor, process, fd, data),
            Event::FdClosed { process, fd, .. } => self.closed(process, fd),
            Event::Drained { process, .. } => self.outputs.contains_key(&process),
            Event::Exited { process, exit } if self.helpers.has(process) => {
                self.helper_exited(reactor, process, exit);
                true
            }
            Event::Ready { source, .. } => self.answered(reactor, source),
            Event::Exited { process, exit } => {
                let ours = self.outputs.contains_key(&process);
                self.exited(reactor, process, exit);
                ours
            }
            Event::Ended { process, .. } => {
                let output = self.outputs.remove(&process);
                if let Some(entry) = output.as_ref().and_then(|output| self.entries.get_mut(&output.entry)) {
                    entry.past_mut().unended.retain(|unended| *unended != process);
                }
                output.is_some()
            }
            Event::Notified { process, notice } => self.notified(reactor, process, notice),
            Event::NotifyRefused { process, count, .. } => self.notify_refused(process, count),
            Event::TreeGone { process, certain } => self.tree_gone(reactor, process, certain),
            Event::TreeRemains { process, remains } => {
                let entry = self.owner(process).and_then(|key| self.entries.get(&key));
                if let Some(entry) = entry {
                    self.observer.tree_remains(&entry.name, remains);
                }
                entry.is_some()
            }
            Event::Timer(id) => self.timer(reactor, id),
            Event::Resumed { after } => {
                if let Some(ordered) = &mut self.order {
                    ordered.machine.put_off(after);
                }
                self.settle_order(reactor);
                for (key, entry) in &mut self.entries {
                    entry.life.put_off(after);
                    if let Some(watched) = &mut entry.watched {
                        watched.watcher.put_off(after);
                    }
                    entry.arm(reactor, *key, &mut self.timers);
                }
                false
            }
            Event::Stopped { process, signal } => self.told(process, |observer, name| observer.stopped(name, signal)),
            Event::Continued { process } => self.told(process, |observer, name| observer.continued(name)),
            _ => false,
        }
    }
}
