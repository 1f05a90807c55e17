//! Measures output: the way from bytes over lines to an observer, against bare reads, and how long
//! a noisy child keeps quiet children waiting.
//!
//! The one rule: every byte and every line that was written is counted, or the figure is void.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use childminder::{Command, Exit, Line, Observer, Policy, ProcessMonitor, Reactor, Restart, Service, Stdio};
use support::raw::{Loop, Spec};
use support::{Bench, Target, clock, micros, percentile, program, raw};

#[derive(Default)]
struct Count {
    bytes: usize,
    exited: usize,
    /// If set, the time from the writing of each stamped line to its arrival here, in microseconds.
    delays: Option<Vec<f64>>,
}

impl Observer for Count {
    fn line(&mut self, line: &Line<'_>) {
        self.bytes += line.bytes.len() + 1;
        if let (Some(delays), 23) = (&mut self.delays, line.bytes.len()) {
            let digits = line.bytes[..16].iter().rev();
            let stamp = digits.fold(0, |sum, letter| sum << 4 | u64::from(letter - b'a'));
            delays.push(raw::monotonic().saturating_sub(stamp) as f64 / 1e3);
        }
    }
    fn started(&mut self, _: &str, _: u32) {}
    fn exited(&mut self, _: &str, _: &Exit) {
        self.exited += 1;
    }
    fn restarting(&mut self, _: &str, _: Duration) {}
    fn terminating(&mut self, _: &str, _: i32) {}
    fn killing(&mut self, _: &str) {}
}

fn monitor() -> ProcessMonitor<Count> {
    let mut monitor = ProcessMonitor::with_observer(Count::default());
    let mut policy = Policy::default();
    policy.restart = Restart::Never;
    monitor.set_policy(policy).expect("policy");
    monitor
}

/// Runs turns until the observer has got enough.
fn until(reactor: &mut Reactor, monitor: &mut ProcessMonitor<Count>, enough: impl Fn(&Count) -> bool) {
    while !enough(monitor.observer()) {
        reactor.turn(None, |reactor, event| _ = monitor.handle(reactor, &event)).expect("turn");
    }
}

/// The megabytes a second from this many children together.
fn ours(path: &Path, children: usize, mebibytes: usize) -> [f64; 1] {
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = monitor();
    let mut command = Command::new(path);
    command.arg("flood").arg(mebibytes.to_string()).stderr(Stdio::null());
    for number in 0..children {
        monitor.add_process(&mut reactor, number.to_string(), &command).expect("add");
    }
    let all = children * program::written(mebibytes);
    let start = clock();
    monitor.start_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.bytes == all);
    [all as f64 / micros(start)]
}

/// The figure for blocking reads of one pipe, and nothing else.
fn bare(path: &Path, mebibytes: usize, pipe_size: Option<i32>) -> [f64; 1] {
    let mut command = std::process::Command::new(path);
    command.arg("flood").arg(mebibytes.to_string()).stdout(std::process::Stdio::piped());
    let start = clock();
    let mut child = command.spawn().expect("spawn");
    let mut pipe = child.stdout.take().expect("stdout");
    if let Some(size) = pipe_size {
        raw::set_pipe_size(pipe.as_raw_fd(), size);
    }
    let (mut buffer, mut all) = (vec![0; 65_536], 0);
    loop {
        match pipe.read(&mut buffer).expect("read") {
            0 => break,
            len => all += len,
        }
    }
    let took = micros(start);
    child.wait().expect("wait");
    assert_eq!(all, program::written(mebibytes));
    [all as f64 / took]
}

/// The figure for a loop of epoll and reads until a pipe is empty, or with `fair` one read of each
/// ready pipe. `split` also searches the newlines. The second figure is the most that was read from
/// one child while all others waited, in mebibytes.
fn by_hand(path: &Path, children: usize, mebibytes: usize, fair: bool, split: bool) -> (f64, f64) {
    let mut raw = Loop::new();
    raw.fair = fair;
    let mebibytes_text = mebibytes.to_string();
    let spec = Spec::new(path, &["flood", &mebibytes_text], [false, true, false]);
    let start = clock();
    for _ in 0..children {
        raw.spawn(&spec);
    }
    let (mut read, mut dead) = (0, 0);
    let all = children * program::written(mebibytes);
    let mut took = 0.0;
    while dead < children {
        raw.turn(
            |_| dead += 1,
            |data| {
                read += data.len();
                if split {
                    raw::each_line(data, |line| _ = std::hint::black_box(line));
                }
            },
        );
        if read == all && took == 0.0 {
            took = micros(start);
        }
    }
    assert_eq!(read, all);
    (all as f64 / took, raw.longest as f64 / 1_048_576.0)
}

/// The delays of the lines of many quiet children, in microseconds: the 99th percentile and the
/// median.
fn delays(path: &Path, quiet: usize, lines: usize, noisy: bool) -> [f64; 2] {
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = monitor();
    monitor.observer_mut().delays = Some(Vec::new());
    let mut command = Command::new(path);
    command.args(["drip", "200000"]).arg(lines.to_string()).stderr(Stdio::null());
    for number in 0..quiet {
        monitor.add_process(&mut reactor, number.to_string(), &command).expect("add");
    }
    if noisy {
        let mut command = Command::new(path);
        command.args(["flood", "100000000"]).stderr(Stdio::null());
        monitor.add_process(&mut reactor, "noisy", &command).expect("add");
    }
    monitor.start_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.exited == quiet);
    monitor.kill_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.exited == quiet + usize::from(noisy));
    let mut delays = monitor.observer_mut().delays.take().unwrap_or_default();
    assert_eq!(delays.len(), quiet * lines);
    [percentile(&mut delays, 99), percentile(&mut delays, 50)]
}

/// The processor time that a child which writes directly to a file costs us, in microseconds, from
/// its start to its exit.
fn direct(path: &Path, mebibytes: usize) -> f64 {
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = monitor();
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    let mut command = Command::new(path);
    command.arg("flood").arg(mebibytes.to_string()).stdout(null).stderr(Stdio::null());
    monitor.add_process(&mut reactor, "direct", &command).expect("add");
    let before = raw::thread_cpu();
    monitor.start_service(&mut reactor);
    until(&mut reactor, &mut monitor, |seen| seen.exited == 1);
    (raw::thread_cpu() - before).as_secs_f64() * 1e6
}

fn main() {
    let mut bench = Bench::new("lines");
    let Some(path) = program::build() else { return };

    let mebibytes = bench.size(1000, 4);
    let [one] = bench.contest(
        ["one child's 100-byte lines, MB/s"],
        7,
        &mut [
            ("childminder monitor", &mut || ours(&path, 1, mebibytes)),
            ("bare read", &mut || bare(&path, mebibytes, None)),
            ("bare read of a 256 KiB pipe", &mut || bare(&path, mebibytes, Some(256 * 1024))),
        ],
    );
    bench.ratio(&one, "childminder monitor", "bare read", Target::AtLeast(0.9));
    bench.ratio(&one, "childminder monitor", "bare read of a 256 KiB pipe", Target::None);

    let (children, mebibytes) = (bench.size(100, 5), bench.size(20, 1));
    let mut longest = Vec::new();
    let mut greedy = || {
        let (speed, most) = by_hand(&path, children, mebibytes, false, false);
        longest.push(most);
        [speed]
    };
    let [many] = bench.contest(
        ["100 children's 100-byte lines, MB/s"],
        15,
        &mut [
            ("childminder monitor", &mut || ours(&path, children, mebibytes)),
            ("bare epoll and read", &mut greedy),
            ("bare epoll, one read each", &mut || [by_hand(&path, children, mebibytes, true, false).0]),
            ("bare epoll, read and memchr", &mut || [by_hand(&path, children, mebibytes, false, true).0]),
        ],
    );
    bench.ratio(&many, "childminder monitor", "bare epoll and read", Target::AtLeast(0.9));
    bench.ratio(&many, "childminder monitor", "bare epoll, one read each", Target::None);
    bench.ratio(&many, "childminder monitor", "bare epoll, read and memchr", Target::None);
    bench.figure(
        "read of one of 100 children while 99 wait, the most",
        "bare epoll and read",
        "MiB",
        &longest,
        Target::None,
    );

    let (quiet, lines) = (bench.size(1000, 10), bench.size(10, 2));
    let [late, usual] = bench.contest(
        ["1,000 quiet children's lines come late by, 99th percentile, µs", "the same, median, µs"],
        5,
        &mut [
            ("beside a noisy one", &mut || delays(&path, quiet, lines, true)),
            ("by themselves", &mut || delays(&path, quiet, lines, false)),
        ],
    );
    let noisy = late.of("beside a noisy one").to_vec();
    bench.figure(
        "a quiet line beside a noisy child, 99th percentile",
        "childminder monitor",
        "µs",
        &noisy,
        Target::AtMost(1000.0),
    );
    bench.ratio(&usual, "beside a noisy one", "by themselves", Target::None);

    let mebibytes = bench.size(1000, 4);
    let spent: Vec<f64> = (0..bench.size(7, 1)).map(|_| direct(&path, mebibytes)).collect();
    bench.figure(
        "our processor time for 1,000 MiB of direct output",
        "childminder monitor",
        "µs",
        &spent,
        Target::AtMost(1000.0),
    );
    bench.finish();
}
