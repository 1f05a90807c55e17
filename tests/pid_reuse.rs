//! Somebody else reaps our child, and the host's next child gets its number: that one's exit is the host's.

#![cfg(target_os = "linux")]

mod embed_util;

use std::fs;

use childminder::{Command, Event, Reactor, ReapMethod, SpawnMethod, Stdio};

use embed_util::{await_zombie, fork, wait_for, watchdog};

const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
/// Others on the machine start processes too, and may be quicker.
const TRIES: usize = 1_000;

#[test]
fn a_reused_number_is_not_ours() {
    watchdog(60);
    let mut reactor = Reactor::with_methods(SpawnMethod::Vfork, ReapMethod::Pidfd).unwrap();
    for _ in 0..TRIES {
        let id = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
        let mut cat = reactor.process(id).unwrap();
        let pid = i32::try_from(cat.pid().unwrap()).unwrap();
        cat.close_stdin();
        assert_eq!(wait_for(pid).unwrap(), 0, "stolen");
        if let Err(error) = fs::write(LAST_PID, (pid - 1).to_string()) {
            println!("left out, since it takes root: {error}");
            return;
        }
        let theirs = fork(|| 7);
        await_zombie(theirs);

        let (mut exit, mut ended) = (None, false);
        while !ended {
            let handler = |_: &mut Reactor, event: Event<'_>| match event {
                Event::Exited { exit: how, .. } => exit = Some(*how),
                Event::Ended { .. } => ended = true,
                _ => {}
            };
            reactor.turn(None, handler).unwrap();
        }
        assert_eq!(exit.unwrap().status, None);
        assert_eq!(libc::WEXITSTATUS(wait_for(theirs).expect("it is the host's")), 7);
        if theirs == pid {
            return;
        }
    }
    println!("left out, since the number was never to be had");
}
