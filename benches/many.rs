//! Measures many short jobs, eight at a time: the time for each from the first start to the last
//! result. The limit is the same work in a loop on the system calls.
//!
//! The one rule: all contestants run the same program, on `/dev/null`, and learn each exit status.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio as StdStdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use childminder::{Command, RunMany, Stdio};
use support::raw::{Loop, Spec};
use support::{Bench, Target, clock, micros, program, raw};

/// The number of jobs at a time.
const JOBS: usize = 8;

/// The time for each job in microseconds.
fn each(count: usize, run: impl FnOnce() -> usize) -> [f64; 1] {
    let start = clock();
    assert_eq!(run(), count, "a result is missing");
    #[allow(clippy::cast_precision_loss)] // a few thousand
    [micros(start) / count as f64]
}

fn ours(command: &Command, count: usize) -> usize {
    let mut done = 0;
    let many = RunMany::new(std::iter::repeat_n(command.clone(), count)).jobs(JOBS);
    many.run(|finished| done += usize::from(finished.success())).expect("a loop");
    done
}

fn by_hand(raw: &mut Loop, spec: &Spec, count: usize) -> usize {
    let (mut left, mut done) = (count, 0);
    for _ in 0..JOBS.min(left) {
        raw.spawn(spec);
        left -= 1;
    }
    while done < count {
        let died = |raw: &mut Loop| {
            done += 1;
            if left > 0 {
                raw.spawn(spec);
                left -= 1;
            }
        };
        raw.turn(died, |_| {});
    }
    done
}

fn threads(path: &Path, count: usize) -> usize {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                let mut command = std::process::Command::new(path);
                command.stdin(StdStdio::null()).stdout(StdStdio::null()).stderr(StdStdio::null());
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    if command.status().expect("spawn").success() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    done.into_inner()
}

fn tokio(runtime: &tokio::runtime::Runtime, path: &Path, count: usize) -> usize {
    let local = tokio::task::LocalSet::new();
    let next = std::rc::Rc::new(std::cell::Cell::new(0));
    local.block_on(runtime, async {
        let tasks: Vec<_> = (0..JOBS)
            .map(|_| {
                let (next, mut command) = (next.clone(), tokio::process::Command::new(path));
                command.stdin(StdStdio::null()).stdout(StdStdio::null()).stderr(StdStdio::null());
                tokio::task::spawn_local(async move {
                    let mut done = 0;
                    while next.replace(next.get() + 1) < count {
                        done += usize::from(command.status().await.expect("spawn").success());
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.expect("a task");
        }
        done
    })
}

fn xargs(path: &Path, count: usize) -> usize {
    let mut xargs = std::process::Command::new("xargs");
    xargs.args(["-P", &JOBS.to_string(), "-I", "{}"]).arg(path);
    let mut child = xargs.stdin(StdStdio::piped()).stdout(StdStdio::null()).spawn().expect("xargs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all("\n".repeat(count).replace('\n', "x\n").as_bytes()).expect("lines");
    drop(input);
    if child.wait().expect("xargs").success() { count } else { 0 }
}

fn main() {
    let mut bench = Bench::new("run many");
    let Some(path) = program::build() else { return };
    let count = bench.size(10_000, 20);
    let mut command = Command::new(&path);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut spec = Spec::new(&path, &[], [false; 3]);
    spec.unshare = true;
    let mut raw_loop = Loop::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    for (title, processor) in
        [("short job, 8 at a time, on one processor, µs", Some(0)), ("short job, 8 at a time, µs", None)]
    {
        raw::bind(processor);
        let [contest] = bench.contest(
            [title],
            7,
            &mut [
                ("childminder", &mut || each(count, || ours(&command, count))),
                ("raw loop", &mut || each(count, || by_hand(&mut raw_loop, &spec, count))),
                ("std and 8 threads", &mut || each(count, || threads(&path, count))),
                ("tokio", &mut || each(count, || tokio(&runtime, &path, count))),
                ("xargs -P", &mut || each(count, || xargs(&path, count))),
            ],
        );
        bench.ratio(&contest, "childminder", "raw loop", Target::AtMost(1.15));
        for other in ["std and 8 threads", "tokio", "xargs -P"] {
            bench.ratio(&contest, "childminder", other, Target::AtMost(1.0));
        }
    }
    bench.finish();
}
