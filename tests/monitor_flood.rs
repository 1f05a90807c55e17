//! Tests a flood of output: every byte is counted, and memory does not grow with it. It is the only
//! test of its file, because peak memory belongs to the process.

#[path = "util/guard.rs"]
mod guard;
#[path = "util/left_out.rs"]
mod left_out;

use std::time::{Duration, Instant};

use childminder::{Command, Exit, Line, Observer, Policy, ProcessMonitor, Reactor, Restart, Service};

#[derive(Default)]
struct Count {
    bytes: u64,
    lines: u64,
    odd: Vec<Vec<u8>>,
    exited: bool,
}

impl Observer for Count {
    fn line(&mut self, line: &Line<'_>) {
        self.bytes += line.bytes.len() as u64;
        self.lines += u64::from(!line.cut);
        if line.bytes != b"y" {
            self.odd.push(line.bytes.to_vec());
        }
    }
    fn exited(&mut self, _: &str, _: &Exit) {
        self.exited = true;
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[allow(clippy::disallowed_methods)]
fn a_hundred_megabytes_pass_through() {
    let mut reactor = Reactor::new().unwrap();
    let mut monitor = ProcessMonitor::with_observer(Count::default());
    let mut once = Policy::default();
    once.restart = Restart::Never;
    let mut flood = Command::new("sh");
    flood.args(["-c", "yes | head -c 100000000; printf end"]);
    monitor.add_process_with(&mut reactor, "flood", &flood, once).unwrap();
    monitor.start_service(&mut reactor);
    let before = peak_kib();
    let watchdog = Instant::now() + Duration::from_secs(600);
    while !monitor.observer().exited {
        assert!(Instant::now() < watchdog, "it goes on: {} lines", monitor.observer().lines);
        let timeout = Some(Duration::from_millis(100));
        reactor.turn(timeout, |reactor, event| _ = monitor.handle(reactor, &event)).unwrap();
    }
    let count = monitor.observer();
    assert_eq!((count.lines, count.bytes), (50_000_001, 50_000_003));
    assert_eq!(count.odd, [b"end"]);
    if left_out::needs_the_kernel("memory of its own processes alone") {
        let grown = peak_kib() - before;
        assert!(grown < 1024, "grown by {grown} KiB");
    }
}
