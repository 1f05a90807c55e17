//! Tests a monitor that other threads control. Each request has an answer, even if the reactor or
//! the monitor is gone.

mod embed_util;

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use childminder::restart::{Policy, State};
use childminder::{
    Command, Controlled, Event, Handle, HandleError, Line, MonitorError, Observer, ProcessMonitor, Reactor, Service,
};

use embed_util::{METHODS, children, open_fds, watchdog};

/// An observer that ignores everything.
struct Quiet;

impl Observer for Quiet {
    fn line(&mut self, _: &Line<'_>) {}
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

fn unknown(name: &str) -> HandleError {
    HandleError::Monitor(MonitorError::Unknown(name.to_owned()))
}

/// The requests of one thread about one name. Each answer is exact, whatever the other threads do.
fn life_of_a_process(handle: &Handle<Quiet>, name: &str) {
    let pid = || handle.status(name).unwrap().unwrap().pid;
    assert_eq!(handle.start_process(name), Err(unknown(name)));
    handle.add_process(name, &sleeper()).unwrap();
    assert_eq!(
        handle.add_process(name, &sleeper()),
        Err(HandleError::Monitor(MonitorError::Duplicate(name.to_owned())))
    );
    let first = pid().unwrap();
    handle.restart_process(name).unwrap();
    let mut second = pid();
    while second.is_none() || second == Some(first) {
        second = pid();
    }
    assert_eq!(handle.status(name).unwrap().unwrap().restarts, 1);
    handle.stop_process(name).unwrap();
    while handle.status(name).unwrap().unwrap().state != State::Stopped {}
    handle.start_process(name).unwrap();
    assert!(pid().is_some());
    handle.remove_process(name).unwrap();
    assert_eq!(handle.status(name).unwrap(), None);
}

// This is a single test, because it looks at the children and descriptors of the whole process.
#[test]
fn answers_every_request() {
    watchdog(120);
    let before = open_fds();
    for (spawn, reap) in METHODS {
        // The reactor is made here and runs in another thread.
        let mut reactor = Reactor::with_methods(spawn, reap).unwrap();
        let monitor = ProcessMonitor::with_observer(Quiet);
        let (mut monitor, handle) = Controlled::new(&mut reactor, monitor).unwrap();
        let runs = thread::spawn(move || reactor.run_service(&mut monitor));
        // The service is running once it has answered.
        assert_eq!(handle.statuses(), Ok(Vec::new()));
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let handle = handle.clone();
                thread::spawn(move || life_of_a_process(&handle, &number.to_string()))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        // The first policy is valid, and the second one is not.
        let mut policy = Policy::default();
        handle.add_process_with("a", &sleeper(), policy.clone()).unwrap();
        policy.max_restart_delay = Duration::ZERO;
        let refused = handle.add_process_with("b", &sleeper(), policy);
        assert!(matches!(refused, Err(HandleError::Monitor(MonitorError::Policy(_)))));
        assert_eq!(handle.call(|monitor, _| monitor.names().count()), Ok(1));

        handle.shut_down().unwrap();
        runs.join().unwrap().unwrap();
        assert_eq!(handle.status("a"), Err(HandleError::Gone));
        assert_eq!(handle.add_process("a", &sleeper()), Err(HandleError::Gone));
        assert_eq!(handle.shut_down(), Err(HandleError::Gone));
    }
    assert_eq!(children(), []);

    nobody_is_left_waiting();
    panics_are_the_reactors();
    taken_back();
    assert_eq!(open_fds(), before);
}

/// The request is in the queue when the reactor or the monitor is dropped. The caller gets an
/// error.
fn nobody_is_left_waiting() {
    for reactor_first in [true, false] {
        for _ in 0..100 {
            let mut reactor = Reactor::new().unwrap();
            let (monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::new()).unwrap();
            let (asking, asked) = channel();
            let caller = thread::spawn(move || {
                asking.send(()).unwrap();
                handle.statuses()
            });
            asked.recv().unwrap();
            // The other one of the two stays.
            if reactor_first {
                drop(reactor);
                assert_eq!(caller.join().unwrap(), Err(HandleError::Gone));
                drop(monitor);
            } else {
                drop(monitor);
                assert_eq!(caller.join().unwrap(), Err(HandleError::Gone));
                drop(reactor);
            }
        }
    }
}

/// A request that panics has no answer, and the monitor and the handles go on.
fn panics_are_the_reactors() {
    let mut reactor = Reactor::new().unwrap();
    let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::new()).unwrap();
    let caller = thread::spawn(move || {
        std::panic::set_hook(Box::new(|_| {}));
        let answer = handle.call(|_, _| panic!("as asked"));
        let _ = std::panic::take_hook();
        (answer, handle.statuses())
    });
    let mut panicked = false;
    while !caller.is_finished() {
        let turn = std::panic::AssertUnwindSafe(|| {
            let handler = |reactor: &mut Reactor, event: Event<'_>| {
                monitor.handle(reactor, &event);
            };
            reactor.turn(Some(Duration::from_millis(10)), handler).unwrap();
        });
        panicked |= std::panic::catch_unwind(turn).is_err();
    }
    assert!(panicked);
    let (answer, statuses): (Result<(), _>, _) = caller.join().unwrap();
    assert_eq!((answer, statuses), (Err(HandleError::Gone), Ok(Vec::new())));
}

/// The reactor goes on without the handles.
fn taken_back() {
    let mut reactor = Reactor::new().unwrap();
    let before = open_fds();
    for _ in 0..100 {
        let (monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::new()).unwrap();
        assert_eq!(monitor.into_monitor(&mut reactor).names().count(), 0);
        assert_eq!(handle.statuses(), Err(HandleError::Gone));
    }
    assert_eq!(open_fds(), before);
}
