//! Tests signals in a host that has handlers of its own, before, during and after our watch.
//! Signals belong to the whole process.
//!
//! The one rule: a test that raises a signal runs in a process of its own.

#[path = "util/apart.rs"]
mod apart;
mod embed_util;

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use apart::expect_apart;
use childminder::{Command, Event, JobControl, ProcessMonitor, Reactor, RunError, RunToEnd, Service};
use embed_util::{call_handler, dispositions, now, set_action, with_all_blocked};
use rustix::process::{Pid, Signal, kill_process};

const HOST: &str = "CHILDMINDER_TEST_SIGNAL_HOST";

fn run_true() {
    assert!(RunToEnd::new(&Command::new("true")).run().unwrap().exit.success());
}

fn raise(signal: i32) {
    signal_hook::low_level::raise(signal).unwrap();
}

/// Sends a signal to the process from outside of the thread, as Ctrl-C does.
fn send(signal: Signal) {
    kill_process(rustix::process::getpid(), signal).unwrap();
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static FORMER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn count_and_call_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    call_handler(FORMER.load(Ordering::SeqCst), signal, info, context);
}

// The signals interrupt each other's handlers, on a stack that has room for few.
#[test]
fn all_signals_at_once_are_heard() {
    expect_apart("all_signals_at_once_are_heard", || {
        let mut reactor = Reactor::new().unwrap();
        let mut left = vec![libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM];
        if embed_util::needs_the_kernel("signal with each number") {
            left.extend(libc::SIGRTMIN()..=libc::SIGRTMAX());
        }
        left.iter().for_each(|signal| reactor.watch_signal(*signal).unwrap());
        with_all_blocked(|| left.iter().for_each(|signal| raise(*signal)));
        while !left.is_empty() {
            let heard = |_: &mut Reactor, event: Event<'_>| match event {
                Event::Signal(signal) => left.retain(|other| *other != signal),
                other => panic!("{other:?}"),
            };
            reactor.turn(Some(Duration::from_secs(30)), heard).unwrap();
        }
    });
}

#[test]
fn a_run_leaves_the_actions_as_they_were() {
    expect_apart("a_run_leaves_the_actions_as_they_were", || {
        set_action(libc::SIGINT, count as *const () as usize, libc::SA_SIGINFO);
        set_action(libc::SIGQUIT, libc::SIG_IGN, 0);
        let before = dispositions();
        run_true();
        assert_eq!(dispositions(), before);
        let mut reactor = Reactor::new().unwrap();
        JobControl::new(&mut reactor).unwrap().release(&mut reactor);
        assert_eq!(dispositions(), before);
    });
}

// This is like a host that has run `git rev-parse` first.
#[test]
fn tokio_hears_ctrl_c_after_a_run() {
    expect_apart("tokio_hears_ctrl_c_after_a_run", || {
        run_true();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (key, heard) = (tokio::signal::ctrl_c(), Arc::new(AtomicBool::new(false)));
            let pressed = thread::spawn({
                let heard = Arc::clone(&heard);
                move || {
                    while !heard.load(Ordering::SeqCst) {
                        thread::park_timeout(Duration::from_millis(10));
                        // Before tokio has its handler, the signal would end this process.
                        if embed_util::is_handled(libc::SIGINT) {
                            send(Signal::INT);
                        }
                    }
                }
            });
            key.await.unwrap();
            heard.store(true, Ordering::SeqCst);
            pressed.join().unwrap();
            // After a run in between, the signal still goes to tokio.
            run_true();
            let key = tokio::signal::ctrl_c();
            thread::spawn(|| send(Signal::INT));
            key.await.unwrap();
        });
    });
}

#[test]
fn signal_hook_s_handler_that_comes_later_is_the_host_s() {
    expect_apart("signal_hook_s_handler_that_comes_later_is_the_host_s", || {
        let mut reactor = Reactor::new().unwrap();
        reactor.watch_signal(libc::SIGTERM).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGTERM, Arc::clone(&flag)).unwrap();
        let heard = |reactor: &mut Reactor| {
            let mut heard = false;
            reactor.turn(Some(Duration::ZERO), |_, event| heard |= matches!(event, Event::Signal(15))).unwrap();
            heard
        };
        raise(libc::SIGTERM);
        assert!(flag.swap(false, Ordering::SeqCst) && heard(&mut reactor));
        assert!(reactor.unwatch_signal(libc::SIGTERM));
        raise(libc::SIGTERM);
        assert!(flag.swap(false, Ordering::SeqCst) && !heard(&mut reactor));
        // The signal belongs to the host now, and no run takes it away.
        run_true();
        raise(libc::SIGTERM);
        assert!(flag.swap(false, Ordering::SeqCst));
        reactor.watch_signal(libc::SIGTERM).unwrap();
        raise(libc::SIGTERM);
        assert!(flag.load(Ordering::SeqCst) && heard(&mut reactor));
    });
}

#[test]
fn a_handler_that_calls_ours_and_goes_leaves_the_default() {
    expect_apart("a_handler_that_calls_ours_and_goes_leaves_the_default", || {
        let mut reactor = Reactor::new().unwrap();
        reactor.watch_signal(libc::SIGUSR1).unwrap();
        let ours = set_action(libc::SIGUSR1, count_and_call_on as *const () as usize, libc::SA_SIGINFO);
        FORMER.store(ours, Ordering::SeqCst);
        let mut hear = |calls: usize| {
            raise(libc::SIGUSR1);
            let mut heard = 0;
            reactor
                .turn(Some(Duration::ZERO), |_, event| heard += usize::from(matches!(event, Event::Signal(10))))
                .unwrap();
            assert_eq!((heard, CALLS.load(Ordering::SeqCst)), (1, calls));
        };
        hear(1);
        hear(2);
        reactor.unwatch_signal(libc::SIGUSR1);
        raise(libc::SIGUSR1);
        assert_eq!(CALLS.load(Ordering::SeqCst), 3);
        // The host removes all handlers. When the signal is watched again, our handler has to be
        // installed again.
        set_action(libc::SIGUSR1, libc::SIG_DFL, 0);
        reactor.watch_signal(libc::SIGUSR1).unwrap();
        raise(libc::SIGUSR1);
        reactor.unwatch_signal(libc::SIGUSR1);
        assert!(!embed_util::is_handled(libc::SIGUSR1));
    });
}

#[test]
fn two_reactors_hear_the_same_signal_and_the_last_one_takes_the_handler_away() {
    expect_apart("two_reactors_hear_the_same_signal_and_the_last_one_takes_the_handler_away", || {
        let mut reactors = [Reactor::new().unwrap(), Reactor::new().unwrap()];
        for reactor in &mut reactors {
            reactor.watch_signal(libc::SIGUSR1).unwrap();
        }
        raise(libc::SIGUSR1);
        for reactor in &mut reactors {
            let mut heard = 0;
            reactor
                .turn(Some(Duration::ZERO), |_, event| heard += usize::from(matches!(event, Event::Signal(10))))
                .unwrap();
            assert_eq!(heard, 1);
        }
        let [one, other] = reactors;
        drop(one);
        assert!(embed_util::is_handled(libc::SIGUSR1));
        drop(other);
        assert!(!embed_util::is_handled(libc::SIGUSR1));
    });
}

/// Runs the test with this name in a process of its own, with its output on a pipe.
fn host(name: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
    let mut host =
        itself.args(["--exact", name, "--nocapture"]).env(HOST, name).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    (host, lines)
}

/// Whether this process is the host of this test. If so, it makes sure that Ctrl-C has an effect,
/// even if the tests were started in the background and have inherited it as ignored.
fn is_host(name: &str) -> bool {
    let is_host = std::env::var(HOST).is_ok_and(|host| host == name);
    if is_host {
        set_action(libc::SIGINT, libc::SIG_DFL, 0);
    }
    is_host
}

fn signal(host: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(host.id()).unwrap()).unwrap(), signal).unwrap();
}

// Ctrl-C comes at any moment of consecutive runs, and ends the program each time.
#[test]
fn no_ctrl_c_is_swallowed() {
    const NAME: &str = "no_ctrl_c_is_swallowed";
    if is_host(NAME) {
        println!("ready");
        loop {
            if let Err(error) = RunToEnd::new(&Command::new("true")).run() {
                println!("{error}");
            }
        }
    }
    let rounds = 100;
    let mut swallowed = 0;
    for round in 0..rounds {
        let (mut host, mut lines) = host(NAME);
        assert!(lines.any(|line| line.unwrap() == "ready"));
        // Each round has another moment.
        thread::park_timeout(Duration::from_micros(5_000 + 97 * round));
        signal(&host, Signal::INT);
        let start = now();
        let status = loop {
            if let Some(status) = host.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_secs(5) {
                swallowed += 1;
                host.kill().unwrap();
            }
            thread::park_timeout(Duration::from_millis(1));
        };
        assert!(matches!(status.signal(), Some(libc::SIGINT | libc::SIGKILL)), "{status}");
    }
    assert_eq!(swallowed, 0, "of {rounds}");
}

// Two runs are in two threads. The one that is over first leaves the other one its time.
#[test]
fn two_runs_are_both_ended_before_their_program() {
    const NAME: &str = "two_runs_are_both_ended_before_their_program";
    if is_host(NAME) {
        let runs = ["0", "0.5"].map(|time| {
            let script = format!(
                "trap 'sleep {time}; echo done {time}; exit 0' TERM; echo up; while kill -0 $PPID; do sleep 0.01; done"
            );
            let mut command = Command::new("sh");
            command.args(["-c", &script]).stdout(childminder::Stdio::inherit());
            thread::spawn(move || RunToEnd::new(&command).run())
        });
        for run in runs {
            let interrupted = matches!(run.join().unwrap(), Err(RunError::Interrupted { signal: libc::SIGTERM }));
            println!("interrupted {interrupted}");
        }
        return;
    }
    let (mut host, lines) = host(NAME);
    let mut lines = lines.map(Result::unwrap);
    for _ in 0..2 {
        assert!(lines.any(|line| line == "up"));
    }
    signal(&host, Signal::TERM);
    let said: Vec<String> = lines.collect();
    assert_eq!(host.wait().unwrap().signal(), Some(libc::SIGTERM), "{said:?}");
    assert!(said.contains(&"done 0".into()) && said.contains(&"done 0.5".into()), "{said:?}");
}

// The signals that interrupt a run can be chosen.
#[test]
fn a_run_is_interrupted_by_the_chosen_signals() {
    const NAME: &str = "a_run_is_interrupted_by_the_chosen_signals";
    if is_host(NAME) {
        let script = "trap 'echo asked; exit' TERM; echo up; while kill -0 $PPID; do sleep 0.01; done; echo alone";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(childminder::Stdio::inherit()).stderr(childminder::Stdio::null());
        let _ = RunToEnd::new(&command).interrupted_by(&[libc::SIGUSR1]).run();
        unreachable!("the signal ends the program");
    }
    for (sent, said) in [(Signal::USR1, "asked"), (Signal::TERM, "alone")] {
        let (mut host, lines) = host(NAME);
        let mut lines = lines.map(Result::unwrap);
        assert!(lines.any(|line| line == "up"));
        signal(&host, sent);
        assert_eq!(host.wait().unwrap().signal(), Some(sent.as_raw()));
        assert_eq!(lines.last().as_deref(), Some(said));
    }
}

// A fault's signal that another process sends is like any other signal. A real fault ends the
// program.
#[test]
fn a_sent_sigabrt_stops_the_service_and_an_abort_aborts() {
    const NAME: &str = "a_sent_sigabrt_stops_the_service_and_an_abort_aborts";
    if is_host(NAME) {
        let mut reactor = Reactor::new().unwrap();
        let mut monitor = ProcessMonitor::new();
        monitor.add_process(&mut reactor, "it", Command::new("sleep").arg("1000")).unwrap();
        let mut service = Telling { monitor };
        for _ in 0..2 {
            reactor.run_service(&mut service).unwrap();
            println!("stopped");
        }
        reactor.watch_signal(libc::SIGABRT).unwrap();
        std::process::abort();
    }
    let (mut host, lines) = host(NAME);
    let mut lines = lines.map(Result::unwrap);
    for sent in [Signal::ABORT, Signal::SYS] {
        let pid = lines.find_map(|line| Some(line.strip_prefix("started ")?.to_owned())).unwrap();
        signal(&host, sent);
        assert!(lines.any(|line| line == "stopped"), "{sent:?}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    assert_eq!(host.wait().unwrap().signal(), Some(libc::SIGABRT));
}

/// A service that prints the pid of its process.
struct Telling {
    monitor: ProcessMonitor,
}

impl Service for Telling {
    fn is_running(&self) -> bool {
        self.monitor.is_running()
    }
    fn is_down(&self) -> bool {
        self.monitor.is_down()
    }
    fn start_service(&mut self, reactor: &mut Reactor) {
        self.monitor.start_service(reactor);
        println!("started {}", self.monitor.status("it").and_then(|it| it.pid).unwrap());
    }
    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.monitor.stop_service(reactor);
    }
    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.monitor.kill_service(reactor);
    }
    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        self.monitor.handle(reactor, event)
    }
}
