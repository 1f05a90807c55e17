//! Hears what processes say on their `NOTIFY_SOCKET`.
//!
//! The one rule: every message is kept, the refused ones too, so that a test can say that there was
//! no other.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::time::Duration;

use childminder::{Command, Event, Notice, ProcessId, Stdio};

use crate::speaker::words;
use crate::util::{self, TempDir, World};

/// What was said and what was refused, for one process each.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) notices: Vec<(ProcessId, Notice)>,
    pub(crate) refused: Vec<(ProcessId, Option<u32>, usize)>,
}

impl Heard {
    pub(crate) fn note(&mut self, event: &Event<'_>) {
        match *event {
            Event::Notified { process, notice } => self.notices.push((process, notice.clone())),
            Event::NotifyRefused { process, pid, count } => self.refused.push((process, pid, count)),
            _ => {}
        }
    }

    pub(crate) fn statuses(&self) -> Vec<&str> {
        self.notices.iter().filter_map(|(_, notice)| notice.status.as_deref()).collect()
    }

    pub(crate) fn is_ready(&self, id: ProcessId) -> bool {
        self.notices.iter().any(|(process, notice)| *process == id && notice.ready)
    }

    pub(crate) fn count(&self) -> usize {
        self.refused.iter().map(|(_, _, count)| count).sum()
    }
}

/// Takes turns until the process has ended.
#[track_caller]
pub(crate) fn hear(world: &mut World, id: ProcessId) -> Heard {
    let mut heard = Heard::default();
    world.until_with(|_, event| heard.note(event), |log| log.ended(id));
    heard
}

#[track_caller]
pub(crate) fn hear_until(world: &mut World, heard: &mut Heard, mut wanted: impl FnMut(&Heard) -> bool) {
    let end = util::now() + util::WATCHDOG;
    while !wanted(heard) {
        assert!(util::now() < end, "nothing came of it: {heard:?}");
        world.turn_with(Duration::from_millis(50), |_, event| heard.note(event));
    }
}

/// A script with a daemon, which speaks when the shell that has started it is gone.
pub(crate) fn daemon(dir: &TempDir) -> String {
    let gate = dir.0.join("gate");
    let gate = gate.display();
    let words = words(&["wait", "say READY=1", "barrier"]);
    format!("mkfifo {gate}; (setsid {words} <{gate} >/dev/null 2>&1 &); : >{gate}; read x")
}

/// The address of the socket of a process that runs its program.
#[track_caller]
pub(crate) fn address_of(world: &mut World, id: ProcessId) -> String {
    let environment = std::fs::read(format!("/proc/{}/environ", world.process(id).pid().unwrap())).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    let address = variables.find_map(|variable| variable.strip_prefix(b"NOTIFY_SOCKET=")).unwrap();
    String::from_utf8(address.to_owned()).unwrap()
}

/// Starts a shell whose child speaks and is reaped before anything is read.
#[track_caller]
pub(crate) fn start_with_reaped_speaker(
    world: &mut World,
    dir: &TempDir,
    command: impl Fn(&str) -> Command,
) -> ProcessId {
    let done = dir.0.join("done");
    let _ = std::fs::remove_file(&done);
    let script = format!("setsid -w {} >&2; : > {}; read x", words(&["say READY=1"]), done.display());
    let id = world.reactor.spawn_process(command(&script).stdin(Stdio::piped()).notify(true)).expect("a process");
    let end = util::now() + util::WATCHDOG;
    while !done.exists() {
        assert!(util::now() < end, "it does not speak");
        std::thread::yield_now();
    }
    id
}

/// Whether a message with descriptors, such as a barrier, can be read without receiving them.
/// qemu-user makes room for them that the program has not asked for.
#[track_caller]
pub(crate) fn leaves_descriptors_out() -> bool {
    util::needs_the_kernel("recvmsg that receives no descriptors where there is no room for them")
}

/// The version of the kernel.
pub(crate) fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}
