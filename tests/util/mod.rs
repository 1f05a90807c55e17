//! The tools that the tests of this folder share: the four ways to run a child, a log of all
//! events, and readers of /proc.
//!
//! The one rule: every wait has a deadline, and no wait is a sleep.

#![allow(dead_code)] // each test file takes what it needs

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use childminder::{Command, Contain, Event, Exit, Process, ProcessId, Reactor, ReapMethod, SpawnMethod};

pub(crate) mod guard;
pub(crate) mod left_out;

#[allow(unused_imports)]
pub(crate) use left_out::{left_out, needs_descriptors, needs_limits, needs_root, needs_the_kernel};

/// Both ways to spawn, each with both ways to reap.
pub(crate) const COMBINATIONS: [(SpawnMethod, ReapMethod); 4] = [
    (SpawnMethod::Vfork, ReapMethod::Pidfd),
    (SpawnMethod::Vfork, ReapMethod::Sigchld),
    (SpawnMethod::Fork, ReapMethod::Pidfd),
    (SpawnMethod::Fork, ReapMethod::Sigchld),
];

/// Makes four tests of each function: `name::vfork_pidfd`, `name::vfork_sigchld`,
/// `name::fork_pidfd`, `name::fork_sigchld`. The argument is a [`World`], or another type that can
/// be made from a combination.
#[allow(unused_macros)]
macro_rules! on_all_combinations {
    ($($(#[$meta:meta])* fn $name:ident($world:ident: &mut $World:ident) $body:block)*) => { $(
        $(#[$meta])*
        mod $name {
            use super::*;
            fn body($world: &mut $World) $body
            #[test]
            fn vfork_pidfd() { body(&mut $World::new(COMBINATIONS[0])) }
            #[test]
            fn vfork_sigchld() { body(&mut $World::new(COMBINATIONS[1])) }
            #[test]
            fn fork_pidfd() { body(&mut $World::new(COMBINATIONS[2])) }
            #[test]
            fn fork_sigchld() { body(&mut $World::new(COMBINATIONS[3])) }
        }
    )* };
}
#[allow(unused_imports)]
pub(crate) use on_all_combinations;

/// Longer than any wait here takes on the slowest machine.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

#[allow(clippy::disallowed_methods)] // the watchdog's clock
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// If this variable is `cgroup`, the worlds of the tests start their processes in cgroups, where
/// cgroups are available. So the whole suite can be run at both strengths. The tests in the files
/// `contain*` choose for themselves.
const STRENGTH: &str = "CHILDMINDER_TEST_STRENGTH";

/// Whether the worlds start their processes in cgroups.
pub(crate) fn in_cgroups() -> bool {
    let test = std::env::current_exe().unwrap_or_default();
    let chooses = test.file_name().is_some_and(|name| name.to_string_lossy().starts_with("contain"));
    !chooses && std::env::var_os(STRENGTH).is_some_and(|strength| strength == "cgroup")
}

/// The command, with the containment that the tests shall use.
pub(crate) fn contained(command: &Command) -> Command {
    let mut command = command.clone();
    if in_cgroups() {
        command.contain(Contain::Auto);
    }
    command
}

/// One event, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Data(i32, Vec<u8>),
    Closed(i32, usize),
    Drained(i32),
    Exited(Exit),
    Ended(Exit),
}

/// All events, in their order.
#[derive(Debug, Default)]
pub(crate) struct Log(pub(crate) Vec<(ProcessId, What)>);

impl Log {
    pub(crate) fn note(&mut self, event: &Event<'_>) {
        let (process, what) = match *event {
            Event::Data { process, fd, data } => (process, What::Data(fd, data.to_vec())),
            Event::FdClosed { process, fd, lost } => (process, What::Closed(fd, lost)),
            Event::Drained { process, fd } => (process, What::Drained(fd)),
            Event::Exited { process, exit } => (process, What::Exited(*exit)),
            Event::Ended { process, exit } => (process, What::Ended(*exit)),
            _ => return,
        };
        self.0.push((process, what));
    }

    pub(crate) fn of(&self, id: ProcessId) -> impl Iterator<Item = &What> {
        self.0.iter().filter(move |(process, _)| *process == id).map(|(_, what)| what)
    }

    pub(crate) fn data(&self, id: ProcessId, wanted: i32) -> Vec<u8> {
        let mut all = Vec::new();
        for what in self.of(id) {
            if let What::Data(fd, data) = what {
                if *fd == wanted {
                    all.extend_from_slice(data);
                }
            }
        }
        all
    }

    pub(crate) fn text(&self, id: ProcessId, fd: i32) -> String {
        String::from_utf8(self.data(id, fd)).expect("UTF-8")
    }

    /// The number of bytes that were lost when this pipe was closed, once it is closed.
    pub(crate) fn closed(&self, id: ProcessId, wanted: i32) -> Option<usize> {
        self.of(id).find_map(|what| match what {
            What::Closed(fd, lost) if *fd == wanted => Some(*lost),
            _ => None,
        })
    }

    pub(crate) fn drained(&self, id: ProcessId) -> usize {
        self.of(id).filter(|what| matches!(what, What::Drained(_))).count()
    }

    pub(crate) fn exit(&self, id: ProcessId) -> Option<Exit> {
        self.of(id).find_map(|what| if let What::Exited(exit) = what { Some(*exit) } else { None })
    }

    pub(crate) fn ended(&self, id: ProcessId) -> bool {
        self.of(id).any(|what| matches!(what, What::Ended(_)))
    }

    /// Checks what holds for every process that has ended. There is one `Exited` and one `Ended`,
    /// which comes last and tells the same exit. Each pipe is closed once, and no data of it comes
    /// afterwards.
    #[track_caller]
    pub(crate) fn expect_in_order(&self, id: ProcessId) {
        let all: Vec<&What> = self.of(id).collect();
        let exits: Vec<&Exit> =
            all.iter().filter_map(|what| if let What::Exited(exit) = what { Some(exit) } else { None }).collect();
        assert_eq!(exits.len(), 1, "not one exit: {all:?}");
        assert_eq!(all.last(), Some(&&What::Ended(*exits[0])), "Ended is not the last: {all:?}");
        assert_eq!(all.iter().filter(|what| matches!(what, What::Ended(_))).count(), 1, "not one end: {all:?}");
        let mut closed = BTreeSet::new();
        for what in &all {
            match what {
                What::Closed(fd, _) => assert!(closed.insert(*fd), "closed twice: {all:?}"),
                What::Data(fd, data) => {
                    assert!(!closed.contains(fd), "data after the close: {all:?}");
                    assert!(!data.is_empty() && data.len() <= 256 * 1024);
                }
                _ => {}
            }
        }
    }
}

/// A reactor and the log of its events.
pub(crate) struct World {
    pub(crate) reactor: Reactor,
    pub(crate) log: Log,
}

/// The exit and the output of a process that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) exit: Exit,
}

impl World {
    #[track_caller]
    pub(crate) fn new((spawn, reap): (SpawnMethod, ReapMethod)) -> Self {
        Self { reactor: Reactor::with_methods(spawn, reap).expect("a reactor"), log: Log::default() }
    }

    #[track_caller]
    pub(crate) fn spawn(&mut self, command: &Command) -> ProcessId {
        let deadline = now() + WATCHDOG;
        let command = contained(command);
        loop {
            match self.reactor.spawn_process(&command) {
                Ok(id) => return id,
                // A child of another test has the newly written script still open, until its exec.
                Err(error) if error.io_error().kind() == std::io::ErrorKind::ExecutableFileBusy && now() < deadline => {
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn process(&mut self, id: ProcessId) -> Process<'_> {
        self.reactor.process(id).expect("it has not ended")
    }

    /// Takes one turn. `hook` gets each event after it was logged.
    #[track_caller]
    pub(crate) fn turn_with(&mut self, timeout: Duration, mut hook: impl FnMut(&mut Reactor, &Event<'_>)) {
        let log = &mut self.log;
        let turned = self.reactor.turn(Some(timeout), |reactor, event| {
            log.note(&event);
            hook(reactor, &event);
        });
        turned.expect("a turn");
    }

    /// Takes turns until the log shows what is wanted. Fails when the watchdog's time is over.
    #[track_caller]
    pub(crate) fn until(&mut self, wanted: impl FnMut(&Log) -> bool) {
        self.until_with(|_, _| {}, wanted);
    }

    #[track_caller]
    pub(crate) fn until_with(
        &mut self,
        mut hook: impl FnMut(&mut Reactor, &Event<'_>),
        mut wanted: impl FnMut(&Log) -> bool,
    ) {
        let deadline = now() + WATCHDOG;
        while !wanted(&self.log) {
            let left = deadline.saturating_duration_since(now());
            assert!(!left.is_zero(), "nothing came of it: {:?}", Brief(&self.log));
            self.turn_with(left, &mut hook);
        }
    }

    #[track_caller]
    pub(crate) fn until_said(&mut self, id: ProcessId, fd: i32, text: &str) {
        self.until(|log| String::from_utf8_lossy(&log.data(id, fd)).contains(text));
    }

    #[track_caller]
    pub(crate) fn until_ended(&mut self, id: ProcessId) -> Outcome {
        self.until(|log| log.ended(id));
        self.log.expect_in_order(id);
        assert!(self.reactor.process(id).is_none());
        let exit = self.log.exit(id).expect("its exit");
        Outcome { out: self.log.text(id, 1), err: self.log.text(id, 2), exit }
    }

    /// Runs the command to its end.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &Command) -> Outcome {
        let id = self.spawn(command);
        self.until_ended(id)
    }

    /// Runs the command to its end and returns its output. Fails unless it succeeds with an empty
    /// stderr.
    #[track_caller]
    pub(crate) fn output(&mut self, command: &Command) -> String {
        let outcome = self.run(command);
        assert!(outcome.exit.success() && outcome.err.is_empty(), "{outcome:?}");
        outcome.out
    }

    /// Takes turns that do not wait, so that all pending events are logged.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        for _ in 0..3 {
            self.turn_with(Duration::ZERO, |_, _| {});
        }
    }
}

/// The log without the data, so that a message stays readable.
struct Brief<'a>(&'a Log);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brief = self.0.0.iter().map(|(id, what)| match what {
            What::Data(fd, data) => format!("{id:?} data {fd} {} bytes", data.len()),
            other => format!("{id:?} {other:?}"),
        });
        f.debug_list().entries(brief).finish()
    }
}

/// The command that runs a shell script.
pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// A field of /proc/<pid>/status.
#[track_caller]
pub(crate) fn status_field(pid: &str, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc/<pid>/status");
    field_of(&status, field)
}

/// A field of the text of /proc/<pid>/status.
#[track_caller]
pub(crate) fn field_of(status: &str, field: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

/// The descriptors that this process has open.
pub(crate) fn open_fds() -> BTreeSet<i32> {
    let listed: Vec<i32> = fs::read_dir("/proc/self/fd")
        .expect("/proc/self/fd")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    // The descriptor of the listing itself is closed by now.
    listed.into_iter().filter(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()).collect()
}

/// The children of this process, as (pid, state). The state `Z` is a zombie.
pub(crate) fn children() -> Vec<(i32, char)> {
    children_of(std::process::id())
}

pub(crate) fn children_of(parent: u32) -> Vec<(i32, char)> {
    let parent = parent.to_string();
    let all = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == parent).then_some((pid, state))
    })
    .collect()
}

/// The number of threads of this process.
pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("/proc/self/task").count()
}

/// A folder for one test alone. It is removed when this value is dropped.
pub(crate) struct TempDir(pub(crate) std::path::PathBuf);

impl TempDir {
    #[track_caller]
    pub(crate) fn new(name: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = guard::folder().join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path.canonicalize().expect("its path"))
    }

    /// Makes a file with this mode.
    #[track_caller]
    pub(crate) fn file(&self, name: &str, content: &str, mode: u32) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its rights");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
