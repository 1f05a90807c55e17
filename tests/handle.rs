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
    waits_until_a_state_is_reached();
    posts_do_not_wait();
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

/// The pid of a process, once it runs.
fn pid(name: &'static str) -> impl Fn(&ProcessMonitor<Quiet>) -> Option<u32> + Send + 'static {
    move |monitor| monitor.status(name)?.pid
}

/// A wait for a state ends with the state, with its timeout, or with the reactor or the monitor.
fn waits_until_a_state_is_reached() {
    for (spawn, reap) in METHODS {
        let mut reactor = Reactor::with_methods(spawn, reap).unwrap();
        let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::with_observer(Quiet)).unwrap();
        let runs = thread::spawn(move || reactor.run_service(&mut monitor));
        assert_eq!(handle.wait_until(None, |_| Some(7)), Ok(7), "it holds already");
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let handle = handle.clone();
                thread::spawn(move || handle.wait_until(None, pid("late")))
            })
            .collect();
        let (dropped, is_dropped) = channel::<()>();
        let never = handle.wait_until(Some(Duration::from_millis(20)), move |_| {
            let _ = &dropped;
            None::<()>
        });
        assert_eq!(never, Err(HandleError::TimedOut));
        // The reactor lets go of what nobody waits for.
        assert!(is_dropped.recv().is_err());
        handle.add_process("late", &sleeper()).unwrap();
        let pids: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
        assert!(pids.iter().all(|pid| *pid == pids[0]));
        handle.restart_process("late").unwrap();
        let next = handle.wait_until(None, move |monitor| monitor.status("late")?.pid.filter(|pid| *pid != pids[0]));
        assert!(next.is_ok());
        // A change that the request itself makes is seen without an event.
        let gone = thread::spawn({
            let handle = handle.clone();
            move || handle.wait_until(None, |monitor| monitor.status("late").is_none().then_some(()))
        });
        handle.remove_process("late").unwrap();
        assert_eq!(gone.join().unwrap(), Ok(()));

        let waiting = thread::spawn({
            let handle = handle.clone();
            move || handle.wait_until(None, pid("never"))
        });
        handle.shut_down().unwrap();
        runs.join().unwrap().unwrap();
        assert_eq!(waiting.join().unwrap(), Err(HandleError::Gone));
        assert_eq!(handle.wait_until(None, pid("never")), Err(HandleError::Gone));
    }
    // One of the two stays.
    for reactor_first in [true, false] {
        let mut reactor = Reactor::new().unwrap();
        let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::with_observer(Quiet)).unwrap();
        let waiting = thread::spawn(move || handle.wait_until(None, pid("never")));
        while !has_waits(&mut reactor, &mut monitor) {}
        if reactor_first {
            drop(reactor);
            assert_eq!(waiting.join().unwrap(), Err(HandleError::Gone));
            drop(monitor);
        } else {
            drop(monitor);
            assert_eq!(waiting.join().unwrap(), Err(HandleError::Gone));
            drop(reactor);
        }
    }
}

/// Takes a turn, and tells whether a request has arrived in it.
fn has_waits(reactor: &mut Reactor, monitor: &mut Controlled<Quiet>) -> bool {
    let mut arrived = false;
    reactor.turn(None, |reactor, event| arrived |= monitor.handle(reactor, &event)).unwrap();
    arrived
}

/// A posted request is carried out without anybody waiting, also for the reactor's own thread.
fn posts_do_not_wait() {
    let mut reactor = Reactor::new().unwrap();
    let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::with_observer(Quiet)).unwrap();
    let (told, tells) = channel();
    for number in 0..100 {
        let told = told.clone();
        handle.post(move |monitor, _| told.send((number, monitor.names().count())).unwrap()).unwrap();
    }
    assert!(tells.try_recv().is_err());
    while !has_waits(&mut reactor, &mut monitor) {}
    assert_eq!(tells.try_iter().collect::<Vec<_>>(), (0..100).map(|number| (number, 0)).collect::<Vec<_>>());
    let uncalled = told.clone();
    handle.post(move |_, _| uncalled.send((0, 0)).unwrap()).unwrap();
    drop((reactor, told));
    assert!(tells.recv().is_err(), "it is dropped uncalled");
    assert_eq!(handle.post(|_, _| {}), Err(HandleError::Gone));
}
