//! Measures the cost of an exit: the processor time of the supervising thread, with one exit a
//! millisecond, depending on the number of other living children. Another thread kills the
//! children.
//!
//! The one rule: only the exits are counted, not the starts of the children that exit.

mod support;

use std::path::Path;
use std::time::Duration;

use childminder::{Command, Event, Reactor, ReapMethod, SpawnMethod, Stdio};
use support::raw::{Loop, Spec};
use support::{Bench, Contest, Target, program, raw, rest};

/// Kills the children with these pids, one a millisecond, in the background.
fn executioner(pids: Vec<i32>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for pid in pids {
            raw::kill(pid, libc::SIGKILL);
            rest(Duration::from_millis(1));
        }
    })
}

/// The processor time of this thread for each exit, in microseconds. `wait` waits for at least one
/// exit a call.
fn cost(pids: Vec<i32>, mut wait: impl FnMut() -> usize) -> [f64; 1] {
    let deaths = pids.len();
    let killer = executioner(pids);
    let before = raw::thread_cpu();
    let mut dead = 0;
    while dead < deaths {
        dead += wait();
    }
    let spent = raw::thread_cpu() - before;
    killer.join().expect("killer");
    [spent.as_secs_f64() * 1e6 / deaths as f64]
}

fn ours(path: &Path, method: ReapMethod, live: usize, deaths: usize) -> [f64; 1] {
    let mut reactor = Reactor::with_methods(SpawnMethod::default(), method).expect("reactor");
    let mut command = Command::new(path);
    command.arg("idle").stdout(Stdio::null()).stderr(Stdio::null());
    let ids: Vec<_> = (0..live + deaths).map(|_| reactor.spawn_process(&command).expect("spawn")).collect();
    let pids: Vec<i32> = ids.iter().filter_map(|id| reactor.process(*id)?.pid()).map(|pid| pid as i32).collect();
    let turn = |reactor: &mut Reactor| {
        let mut dead = 0;
        reactor.turn(None, |_, event| dead += usize::from(matches!(event, Event::Exited { .. }))).expect("turn");
        dead
    };
    let cost = cost(spread_out(&pids, deaths), || turn(&mut reactor));
    let mut left = live;
    for id in ids {
        if let Some(mut process) = reactor.process(id) {
            process.signal(libc::SIGKILL).expect("kill");
        }
    }
    while left > 0 {
        left -= turn(&mut reactor);
    }
    cost
}

fn by_hand(path: &Path, live: usize, deaths: usize) -> [f64; 1] {
    let mut raw = Loop::new();
    let spec = Spec::new(path, &["idle"], [false; 3]);
    for _ in 0..live + deaths {
        raw.spawn(&spec);
    }
    let turn = |raw: &mut Loop| {
        let mut dead = 0;
        raw.turn(|_| dead += 1, |_| {});
        dead
    };
    let cost = cost(spread_out(&raw.pids(), deaths), || turn(&mut raw));
    let mut left = live;
    for pid in raw.pids() {
        raw::kill(pid, libc::SIGKILL);
    }
    while left > 0 {
        left -= turn(&mut raw);
    }
    cost
}

/// The way of most supervisors: SIGCHLD writes to a pipe, and then every child is asked.
fn sweep(path: &Path, live: usize, deaths: usize) -> [f64; 1] {
    use std::io::Read;
    let (mut read, write) = std::os::unix::net::UnixStream::pair().expect("pair");
    let handler = signal_hook::low_level::pipe::register(libc::SIGCHLD, write).expect("handler");
    let mut spawner = raw::Spawner::new();
    let spec = Spec::new(path, &["idle"], [false; 3]);
    let mut pids: Vec<i32> = (0..live + deaths).map(|_| spawner.spawn(&spec).0).collect();
    let victims = spread_out(&pids, deaths);
    let mut bytes = [0; 1024];
    let mut turn = || {
        let _ = read.read(&mut bytes).expect("read");
        let before = pids.len();
        pids.retain(|pid| !raw::wait_nohang(*pid));
        before - pids.len()
    };
    let cost = cost(victims, &mut turn);
    signal_hook::low_level::unregister(handler);
    for pid in pids {
        raw::kill(pid, libc::SIGKILL);
        raw::wait_blocking(pid);
    }
    cost
}

fn tokio(path: &Path, live: usize, deaths: usize) -> [f64; 1] {
    use std::cell::Cell;
    use std::rc::Rc;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    let dead = Rc::new(Cell::new(0));
    let woken = Rc::new(tokio::sync::Notify::new());
    let mut pids = Vec::new();
    let mut tasks = Vec::new();
    let start = || {
        let mut command = tokio::process::Command::new(path);
        let null = std::process::Stdio::null;
        command.arg("idle").stdin(null()).stdout(null()).stderr(null()).spawn().expect("spawn")
    };
    local.block_on(&runtime, async {
        for _ in 0..live + deaths {
            let mut child = start();
            pids.push(child.id().expect("pid") as i32);
            let (dead, woken) = (Rc::clone(&dead), Rc::clone(&woken));
            tasks.push(tokio::task::spawn_local(async move {
                child.wait().await.expect("wait");
                dead.set(dead.get() + 1);
                woken.notify_one();
            }));
        }
        // All children are being waited for before the first one exits.
        tokio::task::yield_now().await;
    });
    let cost = cost(spread_out(&pids, deaths), || {
        local.block_on(&runtime, woken.notified());
        dead.take()
    });
    for pid in pids {
        raw::kill(pid, libc::SIGKILL);
    }
    local.block_on(&runtime, async {
        for task in tasks {
            task.await.expect("task");
        }
    });
    cost
}

/// `count` of these pids, spread over the whole list.
fn spread_out(pids: &[i32], count: usize) -> Vec<i32> {
    let step = pids.len() / count;
    pids.iter().step_by(step.max(1)).take(count).copied().collect()
}

fn main() {
    let mut bench = Bench::new("reap");
    let Some(path) = program::build() else { return };
    let deaths = bench.size(300, 5);
    let [few, some, many] = [100, 1000, 10_000].map(|live| bench.size(live, 20));

    let [deaths_few_many] = bench.contest(
        ["processor time of a death, one a millisecond, µs"],
        5,
        &mut [
            ("childminder, 100 live", &mut || ours(&path, ReapMethod::Pidfd, few, deaths)),
            ("childminder, 10,000 live", &mut || ours(&path, ReapMethod::Pidfd, many, deaths)),
            ("raw loop, 10,000 live", &mut || by_hand(&path, many, deaths)),
        ],
    );
    bench.ratio(&deaths_few_many, "childminder, 10,000 live", "childminder, 100 live", Target::AtMost(1.5));
    bench.ratio(&deaths_few_many, "childminder, 10,000 live", "raw loop, 10,000 live", Target::None);

    let [deaths_some]: [Contest; 1] = bench.contest(
        ["processor time of a death, one a millisecond, 1,000 live, µs"],
        5,
        &mut [
            ("childminder", &mut || ours(&path, ReapMethod::Pidfd, some, deaths)),
            ("childminder by SIGCHLD", &mut || ours(&path, ReapMethod::Sigchld, some, deaths)),
            ("waitpid sweep", &mut || sweep(&path, some, deaths)),
            ("raw loop", &mut || by_hand(&path, some, deaths)),
            ("tokio", &mut || tokio(&path, some, deaths)),
        ],
    );
    bench.ratio(&deaths_some, "childminder", "waitpid sweep", Target::AtMost(0.5));
    for versus in ["raw loop", "tokio"] {
        bench.ratio(&deaths_some, "childminder", versus, Target::None);
    }
    bench.finish();
}
