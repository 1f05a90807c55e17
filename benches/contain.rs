//! Measures the cost of a cgroup for a process: at its start, at its stop, and while nothing
//! happens. The limit is the same process in its process group alone. The benchmark needs the right
//! to make cgroups in the cgroup of this program.
//!
//! The one rule: the kernel's time for making and removing a directory is measured separately.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as StdCommand, Stdio as StdStdio};
use std::time::Duration;

use childminder::{Command, Contain, Event, Limit, Log, Observer, ProcessMonitor, Reactor, Resource, Service, Stdio};
use childminder::{Exit, Line, Strength};
use support::{Bench, Target, clock, micros, outside, program, rest};

/// The variable that makes this program an idle host: `strength count program`.
const ROLE: &str = "CHILDMINDER_BENCH_CONTAINED";

/// The command of the benchmark of spawns: three pipes, a session, and two limits.
fn command(path: &Path, contain: Contain) -> Command {
    let mut command = Command::new(path);
    command.stdin(Stdio::piped()).setsid(true).contain(contain);
    for (resource, value) in [(Resource::Core, 0), (Resource::OpenFiles, 1024)] {
        command.rlimit(resource, Limit { soft: Some(value), hard: Some(value) });
    }
    command
}

/// Two times in microseconds: of the call alone, and until the tree is empty.
fn start(reactor: &mut Reactor, command: &Command, count: usize) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for _ in 0..count {
        let start = clock();
        reactor.spawn_process(command).expect("spawn");
        sums[0] += micros(start);
        let (mut ended, mut gone) = (false, false);
        while !(ended && gone) {
            let turned = reactor.turn(None, |_, event| match event {
                Event::Ended { .. } => ended = true,
                Event::TreeGone { .. } => gone = true,
                _ => {}
            });
            turned.expect("turn");
        }
        sums[1] += micros(start);
    }
    sums.map(|sum| sum / count as f64)
}

/// Two times in microseconds: to make a directory, and to make and remove it.
fn directory(path: &Path, count: usize) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for _ in 0..count {
        let start = clock();
        fs::create_dir(path).expect("mkdir");
        sums[0] += micros(start);
        fs::remove_dir(path).expect("rmdir");
        sums[1] += micros(start);
    }
    sums.map(|sum| sum / count as f64)
}

/// An observer that ignores everything.
struct Silent;

impl Observer for Silent {
    fn line(&mut self, _: &Line<'_>) {}
    fn started(&mut self, _: &str, _: u32) {}
    fn exited(&mut self, _: &str, _: &Exit) {}
    fn terminating(&mut self, _: &str, _: i32) {}
    fn tree_gone(&mut self, _: &str, _: bool) {}
}

/// The time in milliseconds until `count` processes are stopped.
fn stop(path: &Path, contain: Contain, count: usize) -> f64 {
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = ProcessMonitor::with_observer(Silent);
    let mut command = Command::new(path);
    command.arg("idle").contain(contain).stdout(Stdio::null()).stderr(Stdio::null());
    for number in 0..count {
        monitor.add_process(&mut reactor, number.to_string(), &command).expect("add");
    }
    monitor.start_service(&mut reactor);
    rest(Duration::from_millis(100));
    let start = clock();
    monitor.stop_service(&mut reactor);
    while !monitor.is_down() {
        reactor.turn(None, |reactor, event| _ = monitor.handle(reactor, &event)).expect("turn");
    }
    micros(start) / 1e3
}

/// Plays a host of idle children with a guard.
fn idle(role: &str) {
    let mut words = role.splitn(3, ' ');
    let mut word = || words.next().expect("three words");
    let contain = if word() == "cgroup" { Contain::Cgroup } else { Contain::Group };
    let (count, path) = (word().parse::<usize>().expect("a number"), word());
    let mut reactor = Reactor::new().expect("reactor");
    reactor.kill_trees_at_death(true).expect("guard");
    let mut monitor = ProcessMonitor::with_observer(Log::default());
    for number in 0..count {
        let mut command = Command::new(path);
        command.arg("idle").contain(contain);
        monitor.add_process(&mut reactor, number.to_string(), &command).expect("add");
    }
    reactor.call_later(Duration::ZERO);
    monitor.start_service(&mut reactor);
    println!("up");
    reactor.run(|reactor, event: Event<'_>| _ = monitor.handle(reactor, &event)).expect("run");
}

/// A host in a process of its own. Its guard kills its children.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

impl Host {
    fn start(strength: &str, count: usize, path: &Path) -> Self {
        let mut command = StdCommand::new(std::env::current_exe().expect("own path"));
        command.env(ROLE, format!("{strength} {count} {}", path.display())).stdout(StdStdio::piped());
        let mut child = command.spawn().expect("host");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("line");
        assert_eq!(line, "up\n");
        rest(Duration::from_millis(300));
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// The pid of the child that has a guard's name.
    fn guard(&self) -> Option<i32> {
        let mut pids =
            fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains("(child-guard)") && stat.contains(&format!(") S {} ", self.pid()))
        };
        pids.find(ours)
    }
}

/// The directory of the reactor's cgroups, according to a child's entry in /proc.
fn home(reactor: &mut Reactor, path: &Path) -> Option<PathBuf> {
    let mut command = Command::new(path);
    command.arg("idle").contain(Contain::Cgroup);
    let id = reactor.spawn_process(&command).ok()?;
    let pid = reactor.process(id)?.pid()?;
    let found = outside::cgroup_of(pid);
    let _ = reactor.tree(id)?.kill();
    let mut gone = false;
    while !gone {
        reactor.turn(None, |_, event| gone |= matches!(event, Event::TreeGone { .. })).ok()?;
    }
    found?.parent().map(Path::to_owned)
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return idle(&role);
    }
    let mut bench = Bench::new("contain");
    let Some(path) = program::build() else { return };
    let (mut plain, mut contained) = (Reactor::new().expect("reactor"), Reactor::new().expect("reactor"));
    let foreseen = contained.containment(&command(&path, Contain::Cgroup));
    let Some(home) = home(&mut contained, &path).filter(|_| foreseen.strength() == Strength::Cgroup) else {
        println!("left out, since there is no cgroup to be had: {foreseen}");
        return bench.finish();
    };
    println!("{foreseen}, in {}", home.display());

    let count = bench.size(200, 3);
    let (in_group, in_cgroup) = (command(&path, Contain::Group), command(&path, Contain::Cgroup));
    let [calls, cycles] = bench.contest(
        ["spawn call: 3 pipes, setsid, 2 limits, µs", "spawn until nobody is left, µs"],
        9,
        &mut [
            ("group", &mut || start(&mut plain, &in_group, count)),
            ("cgroup", &mut || start(&mut contained, &in_cgroup, count)),
            ("mkdir, and mkdir and rmdir", &mut || directory(&home.join("bench"), count)),
        ],
    );
    for (contest, what) in [(&calls, "mkdir"), (&cycles, "mkdir and rmdir")] {
        let directories = contest.of("mkdir, and mkdir and rmdir");
        let rounds = contest.of("group").iter().zip(contest.of("cgroup")).zip(directories);
        let ratios: Vec<f64> = rounds.map(|((group, cgroup), directory)| (cgroup - directory) / group).collect();
        let title =
            if what == "mkdir" { "spawn call into a cgroup" } else { "spawn into a cgroup until nobody is left" };
        bench.figure(&format!("{title}, without {what}"), "childminder", "× group", &ratios, Target::AtMost(1.25));
        bench.ratio(contest, "cgroup", "group", Target::None);
    }

    let count = bench.size(1000, 10);
    let [stops] = bench.contest(
        ["1,000 idle processes stopped, ms"],
        5,
        &mut [
            ("group", &mut || [stop(&path, Contain::Group, count)]),
            ("cgroup", &mut || [stop(&path, Contain::Cgroup, count)]),
        ],
    );
    bench.ratio(&stops, "cgroup", "group", Target::AtMost(1.2));

    let count = bench.size(100, 3);
    for strength in ["group", "cgroup"] {
        let host = Host::start(strength, count, &path);
        let guard = host.guard().expect("its guard");
        let before = outside::switches(host.pid()) + outside::switches(guard);
        rest(Duration::from_secs(bench.size(20, 1) as u64));
        let wakeups = outside::switches(host.pid()) + outside::switches(guard) - before;
        let what = format!("wake-ups in 20 s, 100 idle children in a {strength} each, with a guard");
        bench.figure(&what, "childminder monitor", "", &[wakeups], Target::AtMost(0.0));
        let memory = outside::private(guard);
        let what = format!("private memory of the guard of 100 children in a {strength} each");
        bench.figure(&what, "childminder", "KiB", &[memory], Target::AtMost(150.0));
    }
    bench.finish();
}
