//! What the monitor reports, in words for the console and as events for clients.
//!
//! The one rule: each report reaches the console and the clients from here, so that both hear the
//! same.

use std::fmt;
use std::io;
use std::time::Duration;

use childminder::restart::State;
use childminder::{Exit, Fault, Line, Lines, Observer, ProcessId, Readiness, Remains, SpawnError};
use serde_json::{Value, json};

use super::Reporter;
use crate::cli::text::visible;
use crate::cli::up::streams::Heard;
use crate::cli::{clock, code, words};

impl Observer for Reporter {
    fn line(&mut self, line: &Line<'_>) {
        let time = clock::now();
        self.tell_followers(line, time);
        self.hear(Heard::Line(line), time);
    }

    fn lines(&mut self, lines: &Lines<'_>) {
        let time = clock::now();
        if self.followed {
            lines.for_each(|line| self.tell_followers(&line, time));
        }
        self.hear(Heard::Lines(lines), time);
    }

    fn started(&mut self, name: &str, pid: u32) {
        self.events.note("started", Some(name), || json!({ "pid": pid }));
        self.alive += 1;
        if let Some(streams) = self.streams.get_mut(name) {
            if let Some(trouble) = &mut streams.trouble {
                trouble.start_error = None;
            }
            (streams.pid, streams.is_new) = (pid, true);
        }
        if !self.quiet_starts {
            self.report(name, &words::started(pid));
        }
    }

    fn start_failed(&mut self, name: &str, error: &SpawnError) {
        let code = code::of_failed_start(error);
        let error = error.to_string();
        self.events.note("start-failed", Some(name), || json!({ "error": error }));
        self.report(name, &format!("could not start: {error}"));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.code = code;
            streams.trouble().start_error = Some(error.into());
        }
    }

    fn exited(&mut self, name: &str, exit: &Exit) {
        self.alive -= 1;
        let pid = self.streams.get(name).map(|streams| streams.pid);
        self.events.note("exited", Some(name), || {
            let (code, seconds) = (exit.code(), exit.wall_time.as_secs_f64());
            json!({ "pid": pid, "code": code, "signal": exit.signal().map(words::signal_name), "text": exit.to_string(), "seconds": seconds })
        });
        self.report(name, &words::exited(exit));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.remains = false;
            (streams.code, streams.exited_at) = (code::of_exit(exit), clock::now());
        }
        if self.streams.get(name).is_some_and(|streams| streams.removed) {
            self.forget(name);
        }
    }

    fn ready(&mut self, name: &str) {
        self.events.note("ready", Some(name), || Value::Null);
        let Some(streams) = self.streams.get_mut(name) else { return };
        if let Some(trouble) = &mut streams.trouble {
            (trouble.fault, trouble.check) = (None, None);
        }
        if streams.tells_readiness {
            self.report(name, "ready");
        }
    }

    fn unready(&mut self, name: &str) {
        self.events.note("unready", Some(name), || Value::Null);
        self.report(name, "not ready any more");
    }

    fn fault(&mut self, name: &str, fault: &Fault) {
        self.events.note("fault", Some(name), || json!({ "error": fault.to_string() }));
        self.report(name, &format!("does not work: {fault}"));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.trouble().fault = Some(fault.to_string().into());
        }
    }

    fn said(&mut self, _: &str, _: &str) {}

    fn check_failed(&mut self, name: &str, why: &dyn fmt::Display) {
        if let Some(streams) = self.streams.get_mut(name) {
            streams.trouble().check = Some(why.to_string().into());
        }
    }

    fn store_refused(&mut self, name: &str) {
        self.report(name, "asks for its descriptors to be kept (FDSTORE=1), which is not done here");
    }

    fn message_refused(&mut self, name: &str, count: usize) {
        let Some(streams) = self.streams.get_mut(name) else { return };
        let foreign = &mut streams.trouble().foreign;
        let before = *foreign;
        let all = before.saturating_add(count as u64);
        *foreign = all;
        // Anybody may send any number of them, so the reports become rarer.
        if before.checked_ilog2() != all.checked_ilog2() {
            let messages = if all == 1 { "a message" } else { "messages" };
            self.report(name, &format!("dropped {messages} that others have sent in its name, {all} so far"));
        }
    }

    fn helper_failed(&mut self, name: &str, error: &SpawnError) {
        self.report(name, &error.to_string());
    }

    fn essential_ended(&mut self, name: &str, _: Option<&Exit>) {
        let code = self.streams.get(name).map_or(1, |streams| streams.code);
        self.essential.get_or_insert((name.to_owned(), code));
    }

    fn group_failed(&mut self, group: &str) {
        self.say(&format!("group {} has given up", visible(group)));
    }

    fn rolled(&mut self, broken: Option<&str>) {
        if let Some(name) = broken {
            self.report(name, "has not come back; those after it are not restarted");
            self.broken = Some(name.to_owned());
        }
    }

    fn restarting(&mut self, name: &str, delay: Duration) {
        self.events.note("restarting", Some(name), || json!({ "delay": delay.as_secs_f64() }));
        self.report(name, &words::restarting(delay));
    }

    fn terminating(&mut self, name: &str, signal: i32) {
        self.events.note("terminating", Some(name), || json!({ "signal": words::signal_name(signal) }));
        self.report(name, &words::terminating(signal));
    }

    fn killing(&mut self, name: &str) {
        self.events.note("killing", Some(name), || Value::Null);
        self.report(name, words::killing());
    }

    fn pipes_closed(&mut self, name: &str, _: ProcessId) {
        self.report(name, words::pipes_closed());
    }

    fn tree_released(&mut self, name: &str, _: ProcessId) {
        self.report(name, words::tree_released());
    }

    fn killing_leftovers(&mut self, name: &str, leftovers: &Remains) {
        self.report(name, &words::killing_leftovers(leftovers));
    }

    fn tree_remains(&mut self, name: &str, remains: &Remains) {
        self.report(name, &words::tree_remains(remains));
        if let Some(streams) = self.streams.get_mut(name) {
            streams.remains = true;
        }
    }

    fn tree_gone(&mut self, name: &str, certain: bool) {
        let remained = self.streams.get_mut(name).is_some_and(|streams| std::mem::take(&mut streams.remains));
        if let Some(said) = words::tree_gone(certain, remained) {
            self.report(name, said);
        }
    }

    fn changed(&mut self, name: &str, state: State) {
        self.events.note("state", Some(name), || json!({ "state": words::state_name(state, Readiness::Absent) }));
        if let State::Failed { why } = state {
            self.report(name, &format!("has failed: {why}"));
            // It has failed even if its last exit was a success.
            if let Some(streams) = self.streams.get_mut(name) {
                streams.code = streams.code.max(1);
            }
        }
        if matches!(state, State::Exited | State::Failed { .. }) {
            let code = self.streams.get(name).map_or(0, |streams| streams.code);
            self.ended.push((name.to_owned(), code));
        }
        if self.awaited {
            self.changed.push(name.to_owned());
        }
    }

    fn signal_refused(&mut self, name: &str, signal: i32, error: &io::Error) {
        self.report(name, &words::refused(signal, error));
    }
}
