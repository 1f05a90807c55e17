//! Measures restarts, starts and stops: the time from an exit to the first byte of the replacement,
//! and hundreds of processes at once. The hundreds go through the monitor with its policy.
//!
//! The one rule: a latency comes from the children's own time stamps, so that no contestant
//! measures itself.

mod support;

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use childminder::{Command, Event, Exit, Line, Observer, Policy, ProcessMonitor, Reactor, Restart, Service, Stdio};
use support::raw::{Loop, Spawner, Spec};
use support::{Bench, Target, clock, median, micros, program, raw, rest};

/// The variable that makes this program the killer. Its value is the number of exits.
const KILLER: &str = "CHILDMINDER_BENCH_KILLER";

/// Plays the killer of children that write time stamps. It has a process of its own, because a host
/// of one thread must not get a second one.
fn kill(deaths: usize) {
    let file = |fd: BorrowedFd<'_>| File::from(fd.try_clone_to_owned().expect("dup"));
    let (mut stamps, mut trigger) = (file(std::io::stdin().as_fd()), file(std::io::stdout().as_fd()));
    let mut stamp = move || {
        let mut bytes = [0; 8];
        stamps.read_exact(&mut bytes).expect("stamp");
        u64::from_ne_bytes(bytes)
    };
    stamp();
    let mut times = Vec::new();
    for _ in 0..deaths {
        // All contestants sleep, and no time stamp wakes one during the measurement.
        rest(Duration::from_millis(1));
        trigger.write_all(b"!").expect("trigger");
        rest(Duration::from_millis(2));
        let (death, birth) = (stamp(), stamp());
        times.push((birth - death) as f64 / 1e3);
    }
    trigger.write_all(b"!").expect("trigger");
    stamp();
    eprintln!("{}", median(&times));
}

/// The two pipes of the children that write time stamps: one byte in makes a child exit, and eight
/// bytes out are a time.
struct Stamps {
    path: PathBuf,
    deaths: usize,
    their_stdin: OwnedFd,
    their_stdout: OwnedFd,
    trigger: File,
    stamps: File,
}

impl Stamps {
    fn new(path: &Path, deaths: usize) -> Self {
        let (their_stdin, trigger) = raw::pipe();
        let (stamps, their_stdout) = raw::pipe();
        let (their_stdin, their_stdout) = (their_stdin.into(), their_stdout.into());
        Self { path: path.into(), deaths, their_stdin, their_stdout, trigger, stamps }
    }

    /// The median time from an exit to the first byte of the next child, in microseconds. `run`
    /// starts a child that writes time stamps, replaces it `deaths` times, and returns when the
    /// last one has exited.
    fn measure(&self, run: impl FnOnce(&Self)) -> [f64; 1] {
        let mut killer = std::process::Command::new(std::env::current_exe().expect("own path"));
        killer.env(KILLER, self.deaths.to_string()).stderr(std::process::Stdio::piped());
        killer.stdin(self.stamps.try_clone().expect("dup")).stdout(self.trigger.try_clone().expect("dup"));
        let killer = killer.spawn().expect("killer");
        run(self);
        let said = killer.wait_with_output().expect("killer").stderr;
        let said = String::from_utf8_lossy(&said);
        [said.trim().parse().unwrap_or_else(|_| panic!("the killer: {said}"))]
    }

    fn ours(&self, reactor: &mut Reactor) {
        let dup = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("dup"));
        let mut command = Command::new(&self.path);
        command.arg("stamp").stdin(dup(&self.their_stdin)).stdout(dup(&self.their_stdout)).stderr(Stdio::null());
        reactor.spawn_process(&command).expect("spawn");
        let mut left = self.deaths + 1;
        while left > 0 {
            let turned = reactor.turn(None, |reactor, event| {
                if matches!(event, Event::Exited { .. }) {
                    left -= 1;
                    if left > 0 {
                        reactor.spawn_process(&command).expect("spawn");
                    }
                }
            });
            turned.expect("turn");
        }
    }

    fn spec(&self) -> Spec {
        let mut spec = Spec::new(&self.path, &["stamp"], [false; 3]);
        // It starts in the same way, because a copy of ten thousand descriptors would be no limit.
        spec.unshare = true;
        spec.files = [Some(self.their_stdin.as_raw_fd()), Some(self.their_stdout.as_raw_fd()), None];
        spec
    }

    /// The limit for a program that waits for more than one child.
    fn epoll(&self, raw: &mut Loop) {
        let spec = self.spec();
        for _ in 0..=self.deaths {
            raw.spawn(&spec);
            let mut over = false;
            while !over {
                raw.turn(|_| over = true, |_| {});
            }
        }
    }

    /// The limit: a thread that only waits for this one child.
    fn blocked(&self, spawner: &mut Spawner) {
        let spec = self.spec();
        for _ in 0..=self.deaths {
            let (pid, _) = spawner.spawn(&spec);
            raw::wait_blocking(pid);
        }
    }

    fn std(&self) {
        let mut command = std::process::Command::new(&self.path);
        let null = std::process::Stdio::null;
        command.arg("stamp").stdin(self.their_stdin.try_clone().expect("dup"));
        command.stdout(self.their_stdout.try_clone().expect("dup")).stderr(null());
        for _ in 0..=self.deaths {
            command.spawn().expect("spawn").wait().expect("wait");
        }
    }

    fn tokio(&self, runtime: &tokio::runtime::Runtime) {
        let mut command = tokio::process::Command::new(&self.path);
        let null = std::process::Stdio::null;
        command.arg("stamp").stdin(self.their_stdin.try_clone().expect("dup"));
        command.stdout(self.their_stdout.try_clone().expect("dup")).stderr(null());
        runtime.block_on(async {
            for _ in 0..=self.deaths {
                command.spawn().expect("spawn").wait().await.expect("wait");
            }
        });
    }
}

/// Counts the reports of the monitor.
#[derive(Default)]
struct Count {
    started: usize,
    exited: usize,
    lines: usize,
}

impl Observer for Count {
    fn line(&mut self, _: &Line<'_>) {
        self.lines += 1;
    }
    fn started(&mut self, _: &str, _: u32) {
        self.started += 1;
    }
    fn exited(&mut self, _: &str, _: &Exit) {
        self.exited += 1;
    }
    fn restarting(&mut self, _: &str, _: Duration) {}
    fn terminating(&mut self, _: &str, _: i32) {}
    fn killing(&mut self, _: &str) {}
}

/// Takes turns until the observer has counted enough.
fn until(reactor: &mut Reactor, monitor: &mut ProcessMonitor<Count>, enough: impl Fn(&Count) -> bool) {
    while !enough(monitor.observer()) {
        reactor.turn(None, |reactor, event| _ = monitor.handle(reactor, &event)).expect("turn");
    }
}

fn monitor(restart: Restart, kill_time: Duration) -> ProcessMonitor<Count> {
    let mut monitor = ProcessMonitor::with_observer(Count::default());
    let mut policy = Policy::default();
    (policy.threshold, policy.kill_time, policy.restart) = (Duration::ZERO, kill_time, restart);
    monitor.set_policy(policy).expect("policy");
    monitor
}

/// Three times in milliseconds: until all are started, until all are back after a kill at once, and
/// until all are stopped.
fn ours(path: &Path, count: usize) -> [f64; 3] {
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = monitor(Restart::Always, Duration::from_secs(5));
    let mut command = Command::new(path);
    command.arg("idle");
    for number in 0..count {
        monitor.add_process(&mut reactor, number.to_string(), &command).expect("add");
    }
    let start = clock();
    monitor.start_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.started == count);
    let started = micros(start);
    let pids: Vec<u32> = monitor.statuses().filter_map(|status| status.pid).collect();
    let start = clock();
    for pid in pids {
        raw::kill(pid as i32, libc::SIGKILL);
    }
    until(&mut reactor, &mut monitor, |seen| seen.started == 2 * count);
    let back = micros(start);
    let start = clock();
    monitor.stop_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.exited == 2 * count);
    [started, back, micros(start)].map(|time| time / 1e3)
}

fn by_hand(path: &Path, count: usize) -> [f64; 3] {
    let mut raw = Loop::new();
    let spec = Spec::new(path, &["idle"], [false, true, true]);
    let start = clock();
    for _ in 0..count {
        raw.spawn(&spec);
    }
    let started = micros(start);
    let start = clock();
    for pid in raw.pids() {
        raw::kill(pid, libc::SIGKILL);
    }
    let mut back = 0;
    while back < count {
        let died = |raw: &mut Loop| {
            raw.spawn(&spec);
            back += 1;
        };
        raw.turn(died, |_| {});
    }
    let all_back = micros(start);
    let start = clock();
    for pid in raw.pids() {
        raw::kill(pid, libc::SIGTERM);
    }
    let mut dead = 0;
    while dead < count {
        raw.turn(|_| dead += 1, |_| {});
    }
    [started, all_back, micros(start)].map(|time| time / 1e3)
}

fn threads(path: &Path, count: usize) -> [f64; 3] {
    let piped = std::process::Stdio::piped;
    let (stop, spawns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let pids = Arc::new(Mutex::new(vec![0; count]));
    let start = clock();
    let all: Vec<_> = (0..count)
        .map(|number| {
            let (stop, spawns, pids) = (Arc::clone(&stop), Arc::clone(&spawns), Arc::clone(&pids));
            let mut command = std::process::Command::new(path);
            command.arg("idle").stdin(std::process::Stdio::null()).stdout(piped()).stderr(piped());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut child = command.spawn().expect("spawn");
                    pids.lock().expect("lock")[number] = child.id() as i32;
                    spawns.fetch_add(1, Ordering::SeqCst);
                    child.wait().expect("wait");
                }
            })
        })
        .collect();
    let reach = |wanted: usize| {
        while spawns.load(Ordering::SeqCst) < wanted {
            rest(Duration::from_micros(200));
        }
    };
    reach(count);
    let started = micros(start);
    let start = clock();
    for pid in pids.lock().expect("lock").clone() {
        raw::kill(pid, libc::SIGKILL);
    }
    reach(2 * count);
    let back = micros(start);
    let start = clock();
    stop.store(true, Ordering::SeqCst);
    for pid in pids.lock().expect("lock").clone() {
        raw::kill(pid, libc::SIGTERM);
    }
    for thread in all {
        thread.join().expect("join");
    }
    [started, back, micros(start)].map(|time| time / 1e3)
}

fn tokio(path: &Path, count: usize) -> [f64; 3] {
    let piped = std::process::Stdio::piped;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (stop, spawns) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let pids = Rc::new(std::cell::RefCell::new(vec![0; count]));
        let woken = Rc::new(tokio::sync::Notify::new());
        let start = clock();
        let mut tasks = Vec::new();
        for number in 0..count {
            let (stop, spawns, pids) = (Rc::clone(&stop), Rc::clone(&spawns), Rc::clone(&pids));
            let woken = Rc::clone(&woken);
            let mut command = tokio::process::Command::new(path);
            command.arg("idle").stdin(std::process::Stdio::null()).stdout(piped()).stderr(piped());
            tasks.push(tokio::task::spawn_local(async move {
                while !stop.get() {
                    let mut child = command.spawn().expect("spawn");
                    pids.borrow_mut()[number] = child.id().expect("pid") as i32;
                    spawns.set(spawns.get() + 1);
                    woken.notify_one();
                    child.wait().await.expect("wait");
                }
            }));
        }
        while spawns.get() < count {
            woken.notified().await;
        }
        let started = micros(start);
        let start = clock();
        for pid in pids.borrow().iter() {
            raw::kill(*pid, libc::SIGKILL);
        }
        while spawns.get() < 2 * count {
            woken.notified().await;
        }
        let back = micros(start);
        let start = clock();
        stop.set(true);
        for pid in pids.borrow().iter() {
            raw::kill(*pid, libc::SIGTERM);
        }
        for task in tasks {
            task.await.expect("task");
        }
        [started, back, micros(start)].map(|time| time / 1e3)
    })
}

/// The time in milliseconds from the kill time until a child that ignores SIGTERM is dead and
/// reaped.
fn escalation(path: &Path) -> f64 {
    const KILL_TIME: Duration = Duration::from_millis(100);
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = monitor(Restart::Never, KILL_TIME);
    let mut command = Command::new(path);
    command.arg("deaf");
    monitor.add_process(&mut reactor, "deaf", &command).expect("add");
    monitor.start_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.lines == 1);
    let start = clock();
    monitor.stop_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.exited == 1);
    micros(start) / 1e3 - KILL_TIME.as_secs_f64() * 1e3
}

fn main() {
    if let Ok(deaths) = std::env::var(KILLER) {
        return kill(deaths.parse().expect("a number"));
    }
    let mut bench = Bench::new("restart");
    let Some(path) = program::build() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");

    let mut reactor = Reactor::new().expect("reactor");
    let (mut spawner, mut raw) = (Spawner::new(), Loop::new());
    let mut idle = Command::new(&path);
    idle.arg("idle").stdout(Stdio::null()).stderr(Stdio::null());
    let mut started = Vec::new();
    let stamps = Stamps::new(&path, bench.size(100, 2));
    for idlers in [0, 1000, 10_000] {
        while started.len() < bench.size(idlers, idlers / 100) {
            started.push(reactor.spawn_process(&idle).expect("spawn"));
        }
        let [latency] = bench.contest(
            [format!("death to the replacement's first byte beside {idlers} idle children, median, µs").as_str()],
            15,
            &mut [
                ("childminder", &mut || stamps.measure(|stamps| stamps.ours(&mut reactor))),
                ("thread blocked in waitpid", &mut || stamps.measure(|stamps| stamps.blocked(&mut spawner))),
                ("thread in epoll with a pidfd", &mut || stamps.measure(|stamps| stamps.epoll(&mut raw))),
                ("std thread", &mut || stamps.measure(|stamps| stamps.std())),
                ("tokio", &mut || stamps.measure(|stamps| stamps.tokio(&runtime))),
            ],
        );
        bench.ratio(&latency, "childminder", "thread blocked in waitpid", Target::AtMost(1.15));
        bench.ratio(&latency, "childminder", "thread in epoll with a pidfd", Target::None);
        bench.ratio(&latency, "childminder", "tokio", Target::None);
    }
    for id in started {
        if let Some(mut process) = reactor.process(id) {
            process.signal(libc::SIGKILL).expect("kill");
        }
    }
    while reactor.processes().next().is_some() {
        reactor.turn(None, |_, _| {}).expect("turn");
    }

    let hundreds = [(500, "500"), (1000, "1,000")].map(|(count, what)| {
        let titles = ["started", "killed at once, all back", "stopped"];
        (bench.size(count, 10), what, titles.map(|title| format!("{what} {title}, ms")))
    });
    for (count, what, titles) in &hundreds {
        let count = *count;
        let [starts, backs, stops] = bench.contest(
            titles.each_ref().map(String::as_str),
            7,
            &mut [
                ("childminder monitor", &mut || ours(&path, count)),
                ("raw loop", &mut || by_hand(&path, count)),
                ("tokio", &mut || tokio(&path, count)),
            ],
        );
        let (start, back, stop) = match *what {
            "500" => (Target::AtMost(1.15), Target::None, Target::AtMost(1.2)),
            _ => (Target::None, Target::AtMost(1.2), Target::None),
        };
        bench.ratio(&starts, "childminder monitor", "raw loop", start);
        bench.ratio(&starts, "childminder monitor", "tokio", Target::AtMost(1.0));
        bench.ratio(&backs, "childminder monitor", "raw loop", back);
        bench.ratio(&backs, "childminder monitor", "tokio", Target::None);
        bench.ratio(&stops, "childminder monitor", "raw loop", stop);
    }

    // This comes last, because a program that has ever had another thread copies its environment
    // for each child.
    for (count, _, titles) in &hundreds {
        bench.contest(titles.each_ref().map(String::as_str), 7, &mut [("std threads", &mut || threads(&path, *count))]);
    }

    let late: Vec<f64> = (0..bench.size(15, 1)).map(|_| escalation(&path)).collect();
    bench.figure(
        "a deaf child is dead after its kill time by",
        "childminder monitor",
        "ms",
        &late,
        Target::AtMost(2.0),
    );
    bench.finish();
}
