//! Tests a handler that panics and a host that catches the panic, for example at the border to C.
//! The next turns report the remaining events.

mod embed_util;

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use childminder::{Command, Event, Interest, ProcessId, Reactor, Stdio};

use embed_util::{METHODS, watchdog};

#[derive(Default)]
struct Told {
    data: usize,
    closed: usize,
    exited: usize,
    ended: usize,
}

const CHILDREN: usize = 20;
/// This is more than a pipe holds, so that both directions take several turns.
const BYTES: usize = 300_000;

// This is a single test, because it raises a signal.
#[test]
fn nothing_is_lost() {
    watchdog(300);
    for (spawn, reap) in METHODS {
        let mut reactor = Reactor::with_methods(spawn, reap).unwrap();
        reactor.watch_signal(libc::SIGUSR1).unwrap();
        reactor.watch_signal(libc::SIGUSR2).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let source = reactor.register(ours, Interest::Readable).unwrap();
        std::io::Write::write_all(&mut theirs, b"x").unwrap();
        reactor.waker().unwrap().wake().unwrap();
        let timers = [reactor.call_later(Duration::ZERO), reactor.call_later(Duration::ZERO)];
        let mut told: HashMap<ProcessId, Told> = HashMap::new();
        for _ in 0..CHILDREN {
            let id = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
            let mut cat = reactor.process(id).unwrap();
            let _ = cat.write(0, &vec![b'x'; BYTES]).unwrap();
            cat.close_after_flush(0);
            told.insert(id, Told::default());
        }
        for signal in ["-USR1", "-USR2"] {
            let pid = std::process::id().to_string();
            assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        }

        let (mut signals, mut ready, mut woken, mut fired) = (0, 0, 0, 0);
        while told.values().any(|told| told.ended == 0) || fired < timers.len() || signals < 2 {
            let turn = AssertUnwindSafe(|| {
                // Each event is noted, and then the handler panics.
                let handler = |_: &mut Reactor, event: Event<'_>| {
                    match event {
                        Event::Data { process, data, .. } => told.get_mut(&process).unwrap().data += data.len(),
                        Event::FdClosed { process, .. } => told.get_mut(&process).unwrap().closed += 1,
                        Event::Exited { process, .. } => told.get_mut(&process).unwrap().exited += 1,
                        Event::Ended { process, .. } => told.get_mut(&process).unwrap().ended += 1,
                        Event::Signal(_) => signals += 1,
                        Event::Ready { source: id, .. } => ready += usize::from(id == source),
                        Event::Woken => woken += 1,
                        Event::Timer(_) => fired += 1,
                        _ => {}
                    }
                    resume_unwind(Box::new("as it goes"));
                };
                reactor.turn(None, handler).unwrap();
            });
            let _ = catch_unwind(turn);
        }
        assert!(reactor.processes().next().is_none());
        assert_eq!((signals, ready, woken, fired), (2, 1, 1, 2));
        for told in told.values() {
            assert_eq!((told.data, told.closed, told.exited, told.ended), (BYTES, 3, 1, 1));
        }
    }
}
