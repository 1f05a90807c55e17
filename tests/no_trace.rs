//! Makes, uses and drops a thousand reactors. Descriptors, threads, memory and signals are as
//! before.

#![cfg(target_os = "linux")]

mod embed_util;

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use childminder::{
    Command, Controlled, Event, Interest, Line, Observer, ProcessMonitor, Reactor, ReapMethod, Service, SpawnMethod,
    Stdio,
};

use embed_util::{METHODS, children, dispositions, needs_the_kernel, open_fds, rounds, rss, threads, watchdog};

/// The memory that the allocator may keep, in KiB.
const SLACK: u64 = 1024;

struct Quiet;

impl Observer for Quiet {
    fn line(&mut self, _: &Line<'_>) {}
}

/// Makes everything that a reactor can hold. A part of it is still held when the reactor is
/// dropped.
fn cycle((spawn, reap): (SpawnMethod, ReapMethod)) -> io::Result<()> {
    let mut reactor = Reactor::with_methods(spawn, reap)?;
    let (ours, _theirs) = UnixStream::pair()?;
    reactor.register(ours, Interest::Both)?;
    reactor.waker()?.wake()?;
    reactor.arm_fd()?;
    reactor.call_later(Duration::from_secs(1000));
    let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::with_observer(Quiet))?;
    monitor.monitor_mut().add_process(&mut reactor, "sleeper", Command::new("sleep").arg("1000")).unwrap();
    monitor.start_service(&mut reactor);
    let cat = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
    assert!(reactor.process(cat).unwrap().write(0, b"hello").unwrap());
    reactor.process(cat).unwrap().close_stdin();
    assert!(reactor.spawn_process(&Command::new("/nonexistent")).is_err());
    monitor.stop_service(&mut reactor);
    while !monitor.is_down() || reactor.processes().next().is_some() {
        let handler = |reactor: &mut Reactor, event: Event<'_>| {
            monitor.handle(reactor, &event);
        };
        reactor.turn(None, handler)?;
    }
    drop(reactor);
    drop(monitor);
    assert!(handle.statuses().is_err());
    Ok(())
}

/// This is a single test, because it looks at the whole process. The methods with pidfds come
/// first, because they change no signal's action at all.
#[test]
fn nothing_is_left() {
    watchdog(1200);
    let native = needs_the_kernel("memory of its own processes alone");
    let cycles = 10 * rounds();
    let untouched = dispositions();
    for methods in [METHODS[0], METHODS[2], METHODS[1], METHODS[3]] {
        // The first cycles leave what is kept for good: buffers of the allocator, and the inbox for
        // the signals.
        for _ in 0..50 {
            cycle(methods).unwrap();
        }
        let state = || (open_fds(), threads(), dispositions(), children());
        let (before, memory) = (state(), rss());
        for _ in 0..cycles {
            cycle(methods).unwrap();
        }
        let memory_after = rss();
        println!(
            "{methods:?}: {} descriptors, {} threads, {memory} KiB before and {memory_after} after",
            before.0.len(),
            before.1
        );
        assert_eq!(state(), before);
        assert!(!native || memory_after <= memory + SLACK, "{memory} KiB before, {memory_after} after");
        assert_eq!(dispositions(), untouched);
    }
    watched_signals(cycles, native);
    assert_eq!(dispositions(), untouched);
}

fn watched_signals(cycles: usize, native: bool) {
    let cycle = || {
        let mut reactor = Reactor::new().unwrap();
        reactor.watch_signal(libc::SIGUSR1).unwrap();
        reactor.watch_signal(libc::SIGUSR2).unwrap();
        reactor.unwatch_signal(libc::SIGUSR1);
    };
    for _ in 0..50 {
        cycle();
    }
    let (fds, memory) = (open_fds(), rss());
    for _ in 0..cycles {
        cycle();
    }
    assert_eq!(open_fds(), fds);
    assert!(!native || rss() <= memory + SLACK);
}
