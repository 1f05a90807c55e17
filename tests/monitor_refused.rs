//! Tests that a process that we may not signal is reported. The test runs in a process of its own,
//! because a thread of it gives up its rights.

#[path = "util/guard.rs"]
mod guard;
#[path = "util/left_out.rs"]
mod left_out;
#[path = "util/nobody.rs"]
mod nobody;

use std::io;
use std::time::Duration;

use childminder::{Command, Observer, ProcessMonitor, Reactor, Service};

#[derive(Default)]
struct Refusals(Vec<(i32, Option<i32>)>);

impl Observer for Refusals {
    fn signal_refused(&mut self, name: &str, signal: i32, error: &io::Error) {
        assert_eq!(name, "root's");
        self.0.push((signal, error.raw_os_error()));
    }
}

#[test]
fn a_signal_that_is_refused_is_told() {
    if !left_out::needs_root() {
        return;
    }
    let mut reactor = Reactor::new().unwrap();
    let mut monitor = ProcessMonitor::with_observer(Refusals::default());
    monitor.add_process(&mut reactor, "root's", Command::new("sleep").arg("1000")).unwrap();
    monitor.start_service(&mut reactor);
    let pid = monitor.status("root's").and_then(|status| status.pid).unwrap();
    nobody::as_nobody(move || {
        monitor.stop_service(&mut reactor);
        assert_eq!(monitor.observer().0, [(15, Some(1))]);
        assert!(!monitor.is_down());
        monitor.kill_service(&mut reactor);
        assert_eq!(monitor.observer().0, [(15, Some(1)), (9, Some(1))]);
        // The refused signals have had no effect.
        reactor.turn(Some(Duration::ZERO), |reactor, event| assert!(!monitor.handle(reactor, &event))).unwrap();
        assert!(!monitor.is_down());
    });
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
