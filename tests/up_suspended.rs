//! Tests that a supervisor that was stopped by SIGSTOP hears what its processes have said meanwhile
//! before it finds them silent.
//!
//! The one rule: the process says all the time that it is alive.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "util/speaker.rs"]
mod speaker;
mod up_util;

use std::time::Duration;

use rustix::process::Signal;
use up_util::{Up, now, until};

mod children {
    /// The program that speaks, for the children of the tests.
    #[test]
    fn speaker() {
        super::speaker::run();
    }
}

#[test]
fn signs_of_life_count_that_came_while_the_supervisor_was_stopped() {
    // One process, because a sender that has ended cannot be proved to belong to the tree.
    let alive = speaker::words(&["repeat READY=1;WATCHDOG=1"]);
    let up = Up::start(&format!("[process.a]\nshell = '''exec {alive}'''\nready = \"notify\"\nwatchdog = \"2s\"\n"));
    up.until_state("a", "ready");
    let pid = up.pid_of("a");
    up.signal(Signal::STOP);
    let stopped = now();
    until("the interval is over", || (now().duration_since(stopped) > Duration::from_millis(2500)).then_some(()));
    up.signal(Signal::CONT);
    assert_eq!(up.status("a")["state"], "ready");
    assert_eq!(up.pid_of("a"), pid);
    let log = up.shutdown();
    assert!(!log.contains("no sign of life"), "{log}");
}
