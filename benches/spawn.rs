//! Measures the start of a process: the time of the call, and the time until the process is reaped
//! and its pipes are closed. The limit is the same work with bare system calls.
//!
//! The one rule: all contestants start the same program with the same files.

mod support;

use std::os::fd::OwnedFd;
use std::process::Stdio as StdStdio;

use childminder::{Command, Event, Limit, Reactor, Resource, Stdio};
use support::raw::{Loop, Spec};
use support::{Bench, Target, clock, micros, program, raw};

const RLIMITS: [(Resource, i32, u64); 2] =
    [(Resource::Core, libc::RLIMIT_CORE as i32, 0), (Resource::OpenFiles, libc::RLIMIT_NOFILE as i32, 1024)];

fn limits() -> Vec<(i32, libc::rlimit)> {
    RLIMITS.iter().map(|(_, raw, value)| (*raw, libc::rlimit { rlim_cur: *value, rlim_max: *value })).collect()
}

/// Two times in microseconds: of the call alone, and until all is over.
fn ours(reactor: &mut Reactor, command: &Command, count: usize) -> [f64; 2] {
    average(count, || {
        let start = clock();
        reactor.spawn_process(command).expect("spawn");
        let called = micros(start);
        let mut over = false;
        while !over {
            let turned = reactor.turn(None, |_, event| over |= matches!(event, Event::Ended { .. }));
            turned.expect("turn");
        }
        [called, micros(start)]
    })
}

fn by_hand(raw: &mut Loop, spec: &Spec, count: usize) -> [f64; 2] {
    average(count, || {
        let start = clock();
        raw.spawn(spec);
        let called = micros(start);
        let mut over = false;
        while !over {
            raw.turn(|_| over = true, |_| {});
        }
        [called, micros(start)]
    })
}

fn std(command: &mut std::process::Command, count: usize) -> [f64; 2] {
    average(count, || {
        let start = clock();
        let mut child = command.spawn().expect("spawn");
        let called = micros(start);
        child.wait().expect("wait");
        drop(child);
        [called, micros(start)]
    })
}

fn tokio(runtime: &tokio::runtime::Runtime, command: &mut tokio::process::Command, count: usize) -> [f64; 2] {
    runtime.block_on(async {
        let mut sums = [0.0; 2];
        for _ in 0..count {
            let start = clock();
            let mut child = command.spawn().expect("spawn");
            sums[0] += micros(start);
            child.wait().await.expect("wait");
            drop(child);
            sums[1] += micros(start);
        }
        sums.map(|sum| sum / count as f64)
    })
}

fn average(count: usize, mut once: impl FnMut() -> [f64; 2]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for _ in 0..count {
        let [first, second] = once();
        sums = [sums[0] + first, sums[1] + second];
    }
    sums.map(|sum| sum / count as f64)
}

fn main() {
    let mut bench = Bench::new("spawn");
    let Some(path) = program::build() else { return };
    let count = bench.size(200, 3);
    // A fork copies the page tables of all memory that the host has touched. A small host has this
    // much.
    let _host = std::hint::black_box(vec![1_u8; 6 << 20]);
    let mut reactor = Reactor::new().expect("reactor");
    let (mut raw, mut second_raw) = (Loop::new(), Loop::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");

    let mut plain = Command::new(&path);
    plain.stdin(Stdio::piped());
    let mut full = plain.clone();
    full.setsid(true);
    for (resource, _, value) in RLIMITS {
        full.rlimit(resource, Limit { soft: Some(value), hard: Some(value) });
    }
    let mut spec = Spec::new(&path, &[], [true; 3]);
    (spec.setsid, spec.limits) = (true, limits());
    let mut unsharing = Spec::new(&path, &[], [true; 3]);
    (unsharing.setsid, unsharing.limits, unsharing.unshare) = (true, limits(), true);
    let mut posix_spawn = std::process::Command::new(&path);
    posix_spawn.stdin(StdStdio::piped()).stdout(StdStdio::piped()).stderr(StdStdio::piped());
    let mut forked = std::process::Command::new(&path);
    forked.stdin(StdStdio::piped()).stdout(StdStdio::piped()).stderr(StdStdio::piped());
    raw::with_pre_exec(&mut forked, limits());
    let mut tokio_command = tokio::process::Command::new(&path);
    tokio_command.stdin(StdStdio::piped()).stdout(StdStdio::piped()).stderr(StdStdio::piped());

    let [calls, cycles] = bench.contest(
        ["spawn call: 3 pipes, setsid, 2 limits, µs", "spawn to reaped: 3 pipes, setsid, 2 limits, µs"],
        9,
        &mut [
            ("childminder", &mut || ours(&mut reactor, &full, count)),
            ("raw vfork-like loop", &mut || by_hand(&mut raw, &spec, count)),
            ("raw, own table of files", &mut || by_hand(&mut second_raw, &unsharing, count)),
            ("std pre_exec", &mut || std(&mut forked, count)),
        ],
    );
    for contest in [&calls, &cycles] {
        bench.ratio(contest, "childminder", "raw, own table of files", Target::None);
        bench.ratio(contest, "childminder", "raw vfork-like loop", Target::AtMost(1.10));
        bench.ratio(contest, "childminder", "std pre_exec", Target::AtMost(0.40));
        bench.ratio(contest, "raw vfork-like loop", "std pre_exec", Target::None);
    }

    let mut raw = Loop::new();
    let mut plain_spec = Spec::new(&path, &[], [true; 3]);
    let [calls, cycles] = bench.contest(
        ["spawn call: 3 pipes, µs", "spawn to reaped: 3 pipes, µs"],
        9,
        &mut [
            ("childminder", &mut || ours(&mut reactor, &plain, count)),
            ("raw vfork-like loop", &mut || by_hand(&mut raw, &plain_spec, count)),
            ("std posix_spawn", &mut || std(&mut posix_spawn, count)),
            ("tokio", &mut || tokio(&runtime, &mut tokio_command, count)),
        ],
    );
    for contest in [&calls, &cycles] {
        bench.ratio(contest, "childminder", "std posix_spawn", Target::None);
        bench.ratio(contest, "childminder", "tokio", Target::None);
    }

    let count = bench.size(100, 2);
    let mut raw = Loop::new();
    let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
    let files = bench.size(15_000, 100);
    let many = || (0..files).map(|_| null.try_clone().expect("descriptor")).collect::<Vec<_>>();
    plain_spec.unshare = true;
    let mut second = Reactor::new().expect("reactor");
    let [calls, cycles] = bench.contest(
        [
            "spawn call: 3 pipes, setsid, 2 limits, 15,000 descriptors open, µs",
            "spawn to reaped: 3 pipes, setsid, 2 limits, 15,000 descriptors open, µs",
        ],
        5,
        &mut [
            ("childminder", &mut || {
                let _open = many();
                ours(&mut reactor, &full, count)
            }),
            ("childminder without them", &mut || ours(&mut second, &full, count)),
            ("raw vfork-like loop", &mut || {
                let _open = many();
                by_hand(&mut raw, &spec, count)
            }),
            ("std pre_exec", &mut || {
                let _open = many();
                std(&mut forked, count)
            }),
        ],
    );
    for contest in [&calls, &cycles] {
        bench.ratio(contest, "childminder", "childminder without them", Target::AtMost(1.5));
        bench.ratio(contest, "childminder", "raw vfork-like loop", Target::None);
    }

    let bytes = bench.size(2 << 30, 16 << 20);
    let mut raw = Loop::new();
    let [calls] = bench.contest(
        ["spawn call: 3 pipes, setsid, 2 limits, 2 GiB of touched heap, µs"],
        5,
        &mut [
            ("childminder", &mut || {
                let _heap = std::hint::black_box(vec![1_u8; bytes]);
                [ours(&mut reactor, &full, count)[0]]
            }),
            ("childminder without it", &mut || [ours(&mut second, &full, count)[0]]),
            ("raw vfork-like loop", &mut || {
                let _heap = std::hint::black_box(vec![1_u8; bytes]);
                [by_hand(&mut raw, &unsharing, count)[0]]
            }),
            ("std pre_exec", &mut || {
                let _heap = std::hint::black_box(vec![1_u8; bytes]);
                [std(&mut forked, 3)[0]]
            }),
        ],
    );
    bench.ratio(&calls, "childminder", "childminder without it", Target::AtMost(1.2));
    bench.ratio(&calls, "childminder", "std pre_exec", Target::None);

    // This comes last, because from now on the environment is copied for each child.
    let count = bench.size(200, 3);
    std::thread::spawn(std::thread::park);
    let [calls] = bench.contest(
        ["spawn call: 3 pipes, setsid, 2 limits, in a host with another thread, µs"],
        9,
        &mut [
            ("childminder", &mut || [ours(&mut reactor, &full, count)[0]]),
            ("raw vfork-like loop", &mut || [by_hand(&mut raw, &spec, count)[0]]),
            ("std pre_exec", &mut || [std(&mut forked, count)[0]]),
        ],
    );
    bench.ratio(&calls, "childminder", "raw vfork-like loop", Target::None);
    bench.ratio(&calls, "childminder", "std pre_exec", Target::None);
    bench.finish();
}
