//! Tests a host in which every thread blocks SIGCHLD, as hosts do that read it from a signalfd. The
//! test runs its own program again under `env --block-signal`, because the test harness has a
//! thread of its own.

mod util;

use childminder::{Command, Event, Reactor, ReapMethod, SpawnMethod};
use util::{COMBINATIONS, World, sh, status_field};

/// This variable is set in the program that is run again.
const BLOCKED: &str = "CHILDMINDER_TEST_BLOCKED";

#[test]
fn deaths_are_seen_all_the_same() {
    if std::env::var_os(BLOCKED).is_some() {
        return with_all_blocked();
    }
    let mut world = World::new(COMBINATIONS[0]);
    let mut command = Command::new("env");
    let own = std::env::current_exe().unwrap();
    command.arg("--block-signal").arg(own).args(["--exact", "deaths_are_seen_all_the_same", "--nocapture"]);
    let outcome = world.run(command.env(BLOCKED, "1"));
    assert!(outcome.exit.success(), "{outcome:?}");
    assert!(outcome.out.contains("1 passed"), "{outcome:?}");
}

fn with_all_blocked() {
    assert_ne!(status_field("self", "SigBlk"), "0".repeat(16));
    for combination in COMBINATIONS {
        assert_eq!(World::new(combination).run(&sh("exit 3")).exit.code(), Some(3));
    }
    // A signal that the host watches arrives, too.
    let mut reactor = Reactor::with_methods(SpawnMethod::Vfork, ReapMethod::Pidfd).unwrap();
    reactor.watch_signal(libc::SIGUSR1).unwrap();
    reactor.spawn_process(&sh(&format!("kill -USR1 {}", std::process::id()))).unwrap();
    let (deadline, mut come) = (util::now() + util::WATCHDOG, false);
    while !come {
        assert!(util::now() < deadline, "no signal");
        let turned =
            reactor.turn(Some(util::WATCHDOG), |_, event| come |= matches!(event, Event::Signal(libc::SIGUSR1)));
        turned.unwrap();
    }
}
