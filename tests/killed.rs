//! Tests that a test process leaves no process and no file behind, however it ends. `util/guard.rs`
//! describes how its guard does that.
//!
//! The one rule: a test process that is killed here starts without the mark of this process, so
//! that its own guard has to do the work.

#![cfg(target_os = "linux")]

#[path = "util/cargo.rs"]
mod cargo;
mod util;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as StdCommand;
use std::time::Duration;

use childminder::{Command, Limit, ProcessId, Resource};
use rustix::process::Pid;

use util::guard::{self, GUARD, mark_of, pids};
use util::{COMBINATIONS, WATCHDOG, World, needs_root, now};

/// The variable that says how [`victim`] ends. Without it, `victim` does nothing.
const ENDS_BY: &str = "CHILDMINDER_TEST_ENDS_BY";
/// A variable that most children of a victim inherit, so that they can be found without the mark,
/// too.
const VICTIM: &str = "CHILDMINDER_TEST_VICTIM";

/// Waits until a condition is true.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = now() + WATCHDOG;
    while !is_so() {
        assert!(now() < end, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The time when a process was started, unless it has ended. Together with the pid this is unique.
fn start_of(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    (!rest.starts_with(['Z', 'X'])).then(|| rest.split(' ').nth(19).unwrap_or_default().to_owned())
}

/// The living processes that have this variable in their environment.
fn with_variable(name: &str, value: &str) -> HashSet<Pid> {
    let wanted = format!("{name}={value}");
    let has_it = |pid: &Pid| {
        let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    pids().filter(has_it).filter(|pid| start_of(*pid).is_some()).collect()
}

/// A test process that will be killed.
struct Victim {
    world: World,
    /// The process that this test has started: the test process, or a shell that waits for it.
    process: ProcessId,
    /// The value of [`VICTIM`].
    name: String,
    /// The test process, once it has a mark.
    pid: Option<Pid>,
    mark: u64,
    /// The processes with its mark or its variable that have been seen, with their starts.
    seen: HashSet<(Pid, String)>,
}

impl Victim {
    fn start(command: &mut Command) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let none = Limit { soft: None, hard: None };
        command.env(VICTIM, &name).rlimit(Resource::Locks, none).parent_death_signal(libc::SIGKILL);
        let mut world = World::new(COMBINATIONS[0]);
        let process = world.spawn(command);
        Self { world, process, name, pid: None, mark: 0, seen: HashSet::new() }
    }

    /// Signals the process that this test has started, and no other.
    fn signal(&mut self, signal: i32) {
        self.world.process(self.process).signal(signal).unwrap();
    }

    fn has_ended(&mut self) -> bool {
        self.world.settle();
        self.world.log.exit(self.process).is_some()
    }

    /// Notes the processes that run now. The first one with a mark is the test process.
    fn look(&mut self) {
        let mut all = with_variable(VICTIM, &self.name);
        let marked = all.iter().find_map(|pid| mark_of(*pid).map(|mark| (*pid, mark)));
        if let (None, Some((pid, mark))) = (self.pid, marked) {
            (self.pid, self.mark) = (Some(pid), mark);
        }
        if self.pid.is_some() {
            all.extend(pids().filter(|pid| mark_of(*pid) == Some(self.mark)));
        }
        self.seen.extend(all.into_iter().filter_map(|pid| Some((pid, start_of(pid)?))));
    }

    /// The folder of its temporary files.
    fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(guard::name(self.mark))
    }

    /// Waits until none of its processes and files are left. Remaining ones are removed, and the
    /// test fails.
    #[track_caller]
    fn expect_nothing_left(&mut self, what: &str) {
        self.world.until(|log| log.ended(self.process));
        let (mark, name) = (self.mark.to_string(), self.name.clone());
        let left = || -> Vec<String> {
            let seen = self.seen.iter().filter(|(pid, start)| start_of(*pid).as_ref() == Some(start));
            let mut left: HashSet<Pid> = seen.map(|(pid, _)| *pid).collect();
            left.extend(with_variable(VICTIM, &name));
            left.extend(with_variable(GUARD, &mark));
            left.extend(pids().filter(|pid| mark_of(*pid) == Some(self.mark) && start_of(*pid).is_some()));
            left.into_iter().map(describe).chain(self.folder().exists().then(|| "its folder".to_owned())).collect()
        };
        let end = now() + WATCHDOG;
        while !left().is_empty() {
            assert!(now() < end, "{what} has left behind: {:#?}", left());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// If the guard has failed, this does the guard's work.
impl Drop for Victim {
    fn drop(&mut self) {
        while self.mark != 0 && guard::kill_all(self.mark) > 0 {}
        let _ = fs::remove_dir_all(self.folder());
    }
}

fn describe(pid: Pid) -> String {
    let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    format!("{} {}", pid.as_raw_nonzero(), command.replace('\0', " "))
}

/// The children that a test process is most likely to leave behind, and a temporary file.
#[allow(clippy::zombie_processes)] // the children are left behind on purpose
fn zoo() {
    let folder = guard::folder().join("zoo");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), "content").unwrap();
    let sh = |script: &str| {
        let mut command = StdCommand::new("/bin/sh");
        command.args(["-c", script]);
        command
    };
    let mut bare = StdCommand::new("/bin/sleep");
    bare.arg("1000").env_clear();
    let mut commands = vec![
        sh("trap '' HUP INT TERM; while :; do :; done"),
        sh("while :; do sleep 0.01; done"),
        sh("setsid sleep 1000 & setsid env -i /bin/sleep 1000 & exit"),
        sh("kill -STOP $$"),
        bare,
    ];
    if needs_root() {
        let mut others = StdCommand::new("/bin/sleep");
        std::os::unix::process::CommandExt::uid(others.arg("1000").env_clear(), 65_534);
        commands.push(others);
    }
    for command in &mut commands {
        command.spawn().unwrap();
    }
    let mut reactor = childminder::Reactor::new().unwrap();
    let mut on_a_terminal = util::sh("trap '' HUP; while :; do sleep 0.01; done");
    reactor.spawn_process(on_a_terminal.pty(childminder::Pty::new())).unwrap();
    std::mem::forget(reactor);
}

/// Plays a test that starts children and does not end as planned. It is no test by itself.
#[test]
fn victim() {
    let Some(end) = std::env::var_os(ENDS_BY) else { return };
    zoo();
    // Each of them carries the mark of this process, and each script has reached its loop.
    let mark = guard::mark().expect("a mark");
    until("the children run", || {
        let children = pids().filter(|pid| mark_of(*pid) == Some(mark) && start_of(*pid).is_some()).count();
        children >= if needs_root() { 10 } else { 9 }
    });
    println!("ready");
    match end.to_str() {
        Some("the end of the test") => {}
        Some("a failed assertion") => panic!("as planned"),
        Some("an abort") => std::process::abort(),
        _ => loop {
            std::thread::park();
        },
    }
}

/// The shell commands that run the victim. The second command of `AND_WAIT` keeps the shell from
/// executing the victim in its own place.
const DIRECTLY: &str = r#"exec "$0" --exact victim --nocapture"#;
const AND_WAIT: &str = r#""$0" --exact victim --nocapture; exit"#;

#[test]
fn nothing_is_left_however_a_test_process_ends() {
    let signals = [("SIGKILL", libc::SIGKILL), ("SIGINT", libc::SIGINT), ("SIGTERM", libc::SIGTERM)];
    let own_ends = ["the end of the test", "a failed assertion", "an abort"];
    let mut cases: Vec<_> = signals.map(|(name, signal)| (name, DIRECTLY, Some(signal))).to_vec();
    cases.extend(own_ends.map(|name| (name, DIRECTLY, None)));
    cases.push(("the end of cargo", AND_WAIT, Some(libc::SIGKILL)));
    for (name, script, signal) in cases {
        let mut command = util::sh(script);
        command.arg(std::env::current_exe().unwrap()).env(ENDS_BY, name).env("CARGO", "this test");
        let mut victim = Victim::start(&mut command);
        if let Some(signal) = signal {
            victim.world.until_said(victim.process, 1, "ready\n");
            victim.look();
            assert!(victim.seen.len() >= 8, "{name}: {:?}", victim.seen);
            assert!(victim.folder().join("zoo/file").exists());
            victim.signal(signal);
        } else {
            until("the mark of the victim", || {
                victim.look();
                victim.pid.is_some()
            });
        }
        victim.expect_nothing_left(name);
    }
}

/// Test binaries of this folder whose children go on for long by themselves.
const TESTS: &[&str] =
    &["coexistence", "monitor", "monitor_stop", "nesting", "pty", "run_to_end", "service", "signals"];
const TESTS_OF_THE_COMMAND: &[&str] = &["control", "control_hostile", "run", "run_output", "up"];

/// Has cargo build these tests, as it has done already when it runs all tests. Returns `None`, and
/// records it, if this user has no cargo.
#[track_caller]
fn build(tests: &[&str]) -> Option<Vec<PathBuf>> {
    let mut cargo = cargo::cargo("test");
    cargo.args(["--no-run", "--message-format=json"]);
    cargo.args(tests.iter().flat_map(|test| ["--test", test]));
    if cfg!(feature = "cli") {
        cargo.args(["--features", "cli"]);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = match cargo.output() {
        Ok(output) => output,
        Err(error) => {
            util::left_out(&format!("cargo cannot be run: {error}"));
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let built = messages.lines().filter(|line| line.contains(r#""kind":["test"]"#));
    let path = |line: &str| Some(line.split_once(r#""executable":""#)?.1.split_once('"')?.0.into());
    Some(built.filter_map(path).collect())
}

#[test]
fn nothing_is_left_of_the_tests_that_are_killed() {
    let of_the_command = if cfg!(feature = "cli") { TESTS_OF_THE_COMMAND } else { &[] };
    let tests = [TESTS, of_the_command].concat();
    let Some(built) = build(&tests) else { return };
    assert_eq!(built.len(), tests.len(), "{built:?}");
    let mut killed = 0;
    // The kill comes as soon as this many processes of the test have been seen.
    for moment in [1, 3, 10] {
        for test in &built {
            let mut command = Command::new(test);
            command.stdout(childminder::Stdio::null()).stderr(childminder::Stdio::null()).env("CARGO", "this test");
            let mut victim = Victim::start(&mut command);
            until("a test to kill", || {
                victim.look();
                victim.seen.len() >= moment || victim.has_ended()
            });
            if !victim.has_ended() {
                killed += 1;
                victim.signal(libc::SIGKILL);
            }
            victim.expect_nothing_left(&format!("{}, killed at {moment}", test.display()));
        }
    }
    assert!(killed > built.len(), "only {killed} were killed");
}

/// A test without a guard would leave its children behind.
#[test]
fn each_test_and_each_bench_has_a_guard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let with_guard =
        ["mod util;", "mod embed_util;", "mod monitor_util;", "mod run_util;", "mod up_util;", "mod guard;"];
    for (folder, wanted) in [("tests", &with_guard[..]), ("benches", &["mod support;"])] {
        let files = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        // The test that counts what the others have left out starts nothing.
        let files = files.filter(|path| !path.ends_with("zz_left_out.rs"));
        for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
            let text = fs::read_to_string(&file).unwrap();
            let has_it = text.lines().any(|line| wanted.contains(&line));
            assert!(has_it, "{} needs one of {wanted:?}", file.display());
        }
    }
}
