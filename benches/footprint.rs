//! Measures an idle supervisor: its memory, its wake-ups, and the size of the command's binary.
//! Each supervisor is this program again, in a process of its own, and links nothing that it does
//! not need.
//!
//! The one rule: a supervisor is measured from outside, by the kernel's figures.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command as StdCommand, Stdio as StdStdio};
use std::time::Duration;

use childminder::{Command, Event, ProcessMonitor, Reactor, Service};
use support::raw::{Loop, Spec};
use support::{Bench, Target, outside, program, rest};

/// The variable that makes this program a supervisor: `kind count program`.
const ROLE: &str = "CHILDMINDER_BENCH_SUPERVISOR";

/// The name of a contestant.
const NOTHING: &str = "the same program without a child";

/// Plays a supervisor of idle children. It prints "up" once all of them run, and goes on until it
/// is killed.
fn supervise(role: &str) {
    let mut words = role.splitn(3, ' ');
    let mut word = || words.next().expect("three words");
    let (kind, count, path) = (word(), word().parse::<usize>().expect("a number"), word());
    match kind {
        "childminder" => {
            let mut reactor = Reactor::new().expect("reactor");
            let mut monitor = ProcessMonitor::new();
            let mut command = Command::new(path);
            command.arg("idle").parent_death_signal(libc::SIGKILL);
            for number in 0..count {
                monitor.add_process(&mut reactor, number.to_string(), &command).expect("add");
            }
            monitor.start_service(&mut reactor);
            println!("up");
            reactor.run(|reactor, event: Event<'_>| _ = monitor.handle(reactor, &event)).expect("run");
        }
        "raw" => {
            let mut raw = Loop::new();
            let mut spec = Spec::new(Path::new(path), &["idle"], [false, true, true]);
            spec.die_with_parent = true;
            for _ in 0..count {
                raw.spawn(&spec);
            }
            println!("up");
            loop {
                raw.turn(|_| {}, |_| {});
            }
        }
        // This is what any program of this size costs without a child.
        "nothing" => {
            println!("up");
            loop {
                std::thread::park();
            }
        }
        _ => unreachable!("{kind}"),
    }
}

/// A process that is killed, together with its children, when this value is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Program {
    /// Starts a supervisor.
    fn start(kind: &str, count: usize, path: &Path) -> Self {
        let mut command = StdCommand::new(std::env::current_exe().expect("own path"));
        command.env(ROLE, format!("{kind} {count} {}", path.display())).stdout(StdStdio::piped());
        let mut child = command.spawn().expect("supervisor");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("line");
        assert_eq!(line, "up\n");
        rest(Duration::from_millis(100));
        Self(child)
    }

    /// Starts another program.
    fn other() -> Self {
        Self(StdCommand::new("sleep").arg("infinity").spawn().expect("sleep"))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return supervise(&role);
    }
    let mut bench = Bench::new("footprint");
    let Some(path) = program::build() else { return };
    // Pages that the linker has just written count as dirty until they are on the disk.
    let own = std::env::current_exe().and_then(fs::File::open);
    own.and_then(|file| file.sync_all()).expect("own program on the disk");
    let (few, many) = (bench.size(100, 10), bench.size(1000, 30));
    let measure = |kind: &'static str, count: usize| {
        let [dirty, pss] = outside::memory(Program::start(kind, count, &path).pid());
        let [more, _] = outside::memory(Program::start(kind, many, &path).pid());
        [dirty, pss, (more - dirty) / (many - count) as f64]
    };
    let [dirty, pss, each] = bench.contest(
        ["private dirty memory with 100 idle children, KiB", "PSS, KiB", "private dirty memory a further child, KiB"],
        5,
        &mut [
            ("childminder", &mut || measure("childminder", few)),
            ("raw loop", &mut || measure("raw", few)),
            (NOTHING, &mut || measure("nothing", 0)),
        ],
    );
    let us = "childminder monitor";
    let of = |contest: &support::Contest| contest.of("childminder").to_vec();
    for contest in [&dirty, &pss] {
        bench.ratio(contest, "childminder", "raw loop", Target::None);
        bench.ratio(contest, "childminder", NOTHING, Target::None);
    }
    bench.figure("private dirty memory, 100 idle children", us, "KiB", &of(&dirty), Target::AtMost(250.0));
    bench.figure("PSS, 100 idle children", us, "KiB", &of(&pss), Target::AtMost(700.0));
    bench.figure("private dirty memory, each further child", us, "KiB", &of(&each), Target::AtMost(1.0));

    // The pages of the C library count by their share, and other machines run more programs than a
    // machine for tests.
    let _others: Vec<Program> = (0..20).map(|_| Program::other()).collect();
    let pss_of = |kind, count| outside::memory(Program::start(kind, count, &path).pid())[1];
    let [pss] = bench.contest(
        ["PSS beside 20 programs that use the C library, KiB"],
        5,
        &mut [("childminder", &mut || [pss_of("childminder", few)]), (NOTHING, &mut || [pss_of("nothing", 0)])],
    );
    bench.figure(
        "PSS, 100 idle children, beside 20 programs that use the C library",
        us,
        "KiB",
        &of(&pss),
        Target::AtMost(700.0),
    );
    bench.ratio(&pss, "childminder", NOTHING, Target::None);

    let supervisor = Program::start("childminder", few, &path);
    let before = outside::switches(supervisor.pid());
    rest(Duration::from_secs(bench.size(20, 1) as u64));
    let wakeups = outside::switches(supervisor.pid()) - before;
    bench.figure("wake-ups in 20 s, 100 idle children", us, "", &[wakeups], Target::AtMost(0.0));

    if let Some(file) = outside::binary().and_then(|path| fs::metadata(path).ok()) {
        let size = file.len() as f64 / 1e6;
        bench.figure("the command's binary", "childminder command", "MB", &[size], Target::AtMost(1.0));
    }
    bench.finish();
}
