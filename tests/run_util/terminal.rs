//! The command on a terminal of 80 columns, with what it has said there.
//!
//! The one rule: a key is pressed only when the screen shows the state that the test waits for.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::time::Duration;

use childminder::{Command, Event, ProcessId, Pty, Reactor};

use crate::run_util::WATCHDOG;

pub(crate) struct Terminal {
    pub(crate) reactor: Reactor,
    pub(crate) process: ProcessId,
    pub(crate) said: String,
    /// The exit code, once the command has exited.
    pub(crate) code: Option<i32>,
    /// Whether it has also said all that it says.
    is_over: bool,
}

impl Terminal {
    pub(crate) fn start(subcommand: &str, args: &[&str]) -> Self {
        let mut reactor = Reactor::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_childminder"));
        command.arg(subcommand).args(args).pty(Pty::new().size(24, 80));
        let process = reactor.spawn_process(&command).unwrap();
        Self { reactor, process, said: String::new(), code: None, is_over: false }
    }

    pub(crate) fn pid(&mut self) -> u32 {
        self.reactor.process(self.process).and_then(|process| process.pid()).unwrap()
    }

    pub(crate) fn type_in(&mut self, keys: &[u8]) {
        if let Some(mut process) = self.reactor.process(self.process) {
            process.write(0, keys).unwrap();
        }
    }

    /// Waits until the command has exited and said everything. Returns the exit code.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.until(|terminal| terminal.is_over);
        self.code
    }

    /// Waits until this has come so many times.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str, times: usize) {
        self.until(|terminal| terminal.said.matches(text).count() >= times);
    }

    #[track_caller]
    pub(crate) fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = self.reactor.now() + WATCHDOG;
        while !done(self) {
            let left = end.saturating_duration_since(self.reactor.now());
            assert!(!left.is_zero() && !self.is_over, "it said: {}", self.said);
            self.turn(left);
        }
    }

    pub(crate) fn turn(&mut self, time: Duration) {
        let (said, code, is_over) = (&mut self.said, &mut self.code, &mut self.is_over);
        let turned = self.reactor.turn(Some(time), |_, event| match event {
            Event::Data { data, .. } => said.push_str(&String::from_utf8_lossy(data)),
            Event::Exited { exit, .. } => *code = exit.code().or(Some(-1)),
            Event::Ended { .. } => *is_over = true,
            _ => {}
        });
        turned.unwrap();
    }
}
