//! Tests the order of the calls of a ProcessProtocol, which Twisted promises, and the cases in
//! which Twisted's own fails.

mod util;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use childminder::{
    Command, Event, Exit, Process, ProcessId, ProcessProtocol, ProtocolResult, Protocols, Reactor, Stdio,
};
use util::{COMBINATIONS, World, on_all_combinations};

type Log = Arc<Mutex<Vec<String>>>;

/// Logs every call. A call in `fails` returns an error, and a call in `panics` panics.
#[derive(Default)]
struct Recorder {
    log: Log,
    fails: &'static [&'static str],
    panics: &'static [&'static str],
}

impl Recorder {
    fn note(&self, call: &str, more: &str) -> ProtocolResult {
        self.log.lock().unwrap().push(format!("{call}{more}"));
        assert!(!self.panics.contains(&call), "{call} panics on purpose");
        if self.fails.contains(&call) { Err(format!("{call} fails on purpose").into()) } else { Ok(()) }
    }
}

fn text(data: &[u8]) -> String {
    format!(" {:?}", String::from_utf8_lossy(data))
}

impl ProcessProtocol for Recorder {
    fn connection_made(&mut self, process: &mut Process<'_>) -> ProtocolResult {
        assert!(process.pid().is_some());
        self.note("made", "")
    }

    fn out_received(&mut self, _process: &mut Process<'_>, data: &[u8]) -> ProtocolResult {
        self.note("out", &text(data))
    }

    fn err_received(&mut self, _process: &mut Process<'_>, data: &[u8]) -> ProtocolResult {
        self.note("err", &text(data))
    }

    fn in_connection_lost(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        self.note("in lost", "")
    }

    fn out_connection_lost(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        self.note("out lost", "")
    }

    fn err_connection_lost(&mut self, _process: &mut Process<'_>) -> ProtocolResult {
        self.note("err lost", "")
    }

    fn process_exited(&mut self, process: &mut Process<'_>, exit: &Exit) -> ProtocolResult {
        assert_eq!(process.exit(), Some(exit));
        self.note("exited", &format!(" {exit}"))
    }

    fn process_ended(&mut self, reactor: &mut Reactor, id: ProcessId, exit: &Exit) -> ProtocolResult {
        assert!(reactor.process(id).is_none());
        self.note("ended", &format!(" {exit}"))
    }
}

/// Takes turns until `done`. Fails if that takes too long. `done` also runs for events that belong
/// to no protocol.
#[track_caller]
fn turn_until(reactor: &mut Reactor, protocols: &mut Protocols, mut done: impl FnMut(&mut Reactor) -> bool) {
    let watchdog = reactor.call_later(Duration::from_secs(30));
    while !done(reactor) {
        reactor
            .turn(None, |reactor, event| {
                assert!(!matches!(event, Event::Timer(id) if id == watchdog), "nothing more happens");
                let about_a_process =
                    !matches!(event, Event::Timer(_) | Event::Drained { .. } | Event::TreeGone { .. });
                assert_eq!(protocols.handle(reactor, &event), about_a_process);
            })
            .unwrap();
    }
    reactor.cancel_timer(watchdog);
}

#[track_caller]
fn turn_to_the_end(reactor: &mut Reactor, protocols: &mut Protocols) {
    while !protocols.is_empty() {
        turn_until(reactor, protocols, |reactor| reactor.processes().next().is_none());
    }
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped());
    command
}

/// The log of one protocol for one script, whose stdin is closed at once.
#[track_caller]
fn run(world: &mut World, script: &str) -> Vec<String> {
    let reactor = &mut world.reactor;
    let mut protocols = Protocols::new();
    let log = Log::default();
    let recorder = Recorder { log: Arc::clone(&log), ..Recorder::default() };
    let id = protocols.spawn_process(reactor, &sh(script), recorder).unwrap();
    reactor.process(id).unwrap().close_stdin();
    turn_to_the_end(reactor, &mut protocols);
    let log = log.lock().unwrap();
    log.clone()
}

fn count(log: &[String], call: &str) -> usize {
    log.iter().filter(|said| said.starts_with(call)).count()
}

fn output(log: &[String], call: &str) -> String {
    let prefix = format!("{call} \"");
    log.iter().filter_map(|said| said.strip_prefix(&prefix)?.strip_suffix('"')).collect()
}

on_all_combinations! {
    // Only connection_made comes from inside the call, even if the process has exited by then.
    fn connection_made_and_nothing_else_comes_before_spawn_returns(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let log = Log::default();
        let recorder = Recorder { log: Arc::clone(&log), ..Recorder::default() };
        let mut command = Command::new("true");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        protocols.spawn_process(reactor, &command, recorder).unwrap();
        assert_eq!(*log.lock().unwrap(), ["made"]);
        // The first process has exited by the time at which this one has ended.
        let other = Recorder::default();
        let mut wait = sh("exit 0");
        wait.stdin(Stdio::null());
        protocols.spawn_process(reactor, &wait, other).unwrap();
        assert_eq!(*log.lock().unwrap(), ["made"]);
        turn_to_the_end(reactor, &mut protocols);
        assert_eq!(*log.lock().unwrap(), ["made", "exited exit status 0", "ended exit status 0"]);
    }

    fn a_protocol_whose_process_cannot_start_hears_nothing(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let log = Log::default();
        let recorder = Recorder { log: Arc::clone(&log), ..Recorder::default() };
        assert!(protocols.spawn_process(reactor, &Command::new("/no/such/program"), recorder).is_err());
        assert!(protocols.is_empty());
        assert!(log.lock().unwrap().is_empty());
    }

    // Each call comes once, the end comes last, and both report the same exit with its status.
    fn each_call_comes_once_and_the_end_last(world: &mut World) {
        let log = run(world, "echo one; echo two >&2; exit 3");
        assert_eq!(log[0], "made");
        assert_eq!(output(&log, "out"), "one\\n");
        assert_eq!(output(&log, "err"), "two\\n");
        for call in ["made", "in lost", "out lost", "err lost", "exited exit status 3", "ended exit status 3"] {
            assert_eq!(count(&log, call), 1, "{call} in {log:?}");
        }
        assert_eq!(log.last().unwrap(), "ended exit status 3");
        for stream in ["out", "err"] {
            let data = log.iter().rposition(|said| said.starts_with(&format!("{stream} \""))).unwrap();
            let lost = log.iter().position(|said| *said == format!("{stream} lost")).unwrap();
            assert!(data < lost, "{log:?}");
        }
    }

    fn a_signal_is_told_of_as_such(world: &mut World) {
        let log = run(world, "kill -KILL $$");
        assert_eq!(count(&log, "exited signal 9 (SIGKILL)"), 1, "{log:?}");
        assert_eq!(log.last().unwrap(), "ended signal 9 (SIGKILL)");
    }

    // The child closes one descriptor after the other. Twisted: test_process.
    fn each_lost_connection_is_told_of_when_it_is_lost(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let log = Log::default();
        let recorder = Recorder { log: Arc::clone(&log), ..Recorder::default() };
        let script = "read a; exec 1>&-; read a; exec 2>&-; read a; exec 0<&-; read a <&3; exit 23";
        let id = protocols.spawn_process(reactor, sh(script).fd(3, Stdio::writer()), recorder).unwrap();
        for (fd, lost) in [(0, "out lost"), (0, "err lost"), (0, "in lost"), (3, "ended exit status 23")] {
            assert_eq!(count(&log.lock().unwrap(), lost), 0);
            reactor.process(id).unwrap().write(fd, b"\n").unwrap();
            turn_until(reactor, &mut protocols, |_| count(&log.lock().unwrap(), lost) == 1);
        }
        let told = ["made", "out lost", "err lost", "in lost", "exited exit status 23", "ended exit status 23"];
        assert_eq!(*log.lock().unwrap(), told);
    }
}

/// Logs calls about descriptors above 2.
struct Numbers(Log);

impl ProcessProtocol for Numbers {
    fn child_data_received(&mut self, _process: &mut Process<'_>, fd: i32, data: &[u8]) -> ProtocolResult {
        self.0.lock().unwrap().push(format!("{fd}{}", text(data)));
        Ok(())
    }

    fn child_connection_lost(&mut self, _process: &mut Process<'_>, fd: i32) -> ProtocolResult {
        self.0.lock().unwrap().push(format!("{fd} lost"));
        Ok(())
    }

    fn out_received(&mut self, _process: &mut Process<'_>, _data: &[u8]) -> ProtocolResult {
        panic!("child_data_received decides who is called")
    }
}

on_all_combinations! {
    // Twisted: ProcessProtocolTests.
    fn other_descriptors_come_by_number(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let log = Log::default();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo five >&5"]).stderr(Stdio::null()).fd(5, Stdio::reader());
        protocols.spawn_process(reactor, &command, Numbers(Arc::clone(&log))).unwrap();
        turn_to_the_end(reactor, &mut protocols);
        let mut log = log.lock().unwrap().clone();
        log.sort();
        assert_eq!(log, ["1 \"out\\n\"", "1 lost", "5 \"five\\n\"", "5 lost"]);
    }

    // The exit is reported while another process holds the pipes. The end comes when these are
    // closed, after their data.
    fn a_grandchild_that_holds_the_pipes_delays_the_end_and_not_the_exit(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let log = Log::default();
        let recorder = Recorder { log: Arc::clone(&log), ..Recorder::default() };
        let script = "exec 3<&0; (read a <&3; echo late) & exit 0";
        let id = protocols.spawn_process(reactor, &sh(script), recorder).unwrap();
        turn_until(reactor, &mut protocols, |_| count(&log.lock().unwrap(), "exited") == 1);
        assert_eq!(*log.lock().unwrap(), ["made", "exited exit status 0"]);
        let mut process = reactor.process(id).expect("it has not ended");
        assert_eq!(process.pid(), None);
        process.write(0, b"\n").unwrap();
        turn_to_the_end(reactor, &mut protocols);
        let log = log.lock().unwrap();
        let place = |call: &str| log.iter().position(|said| said == call);
        assert!(place("out \"late\\n\"").is_some_and(|data| Some(data) < place("out lost")), "{log:?}");
        assert_eq!(log.last().unwrap(), "ended exit status 0");
        assert_eq!(log.len(), 7, "{log:?}");
    }

    // An error or a panic in any call closes no pipe. Twisted: test_processExitedRaises,
    // errorInProcessEnded.
    fn an_error_or_a_panic_breaks_nothing_else(world: &mut World) {
        const CALLS: &[&str] = &["made", "out", "err", "in lost", "out lost", "err lost", "exited", "ended"];
        for (fails, panics) in [(CALLS, &[][..]), (&[][..], CALLS)] {
            let reactor = &mut world.reactor;
            let mut protocols = Protocols::new();
            let log = Log::default();
            let recorder = Recorder { log: Arc::clone(&log), fails, panics };
            let script = sh("echo 1; read a; echo 2; echo 3 >&2; exit 4");
            let id = protocols.spawn_process(reactor, &script, recorder).unwrap();
            turn_until(reactor, &mut protocols, |_| count(&log.lock().unwrap(), "out") == 1);
            // If the pipe were closed, SIGPIPE would end the process at the second line.
            reactor.process(id).unwrap().write(0, b"\n").unwrap();
            turn_to_the_end(reactor, &mut protocols);
            let log = log.lock().unwrap();
            assert_eq!(output(&log, "out"), "1\\n2\\n", "{log:?}");
            assert_eq!(output(&log, "err"), "3\\n", "{log:?}");
            for call in ["made", "in lost", "out lost", "err lost", "exited exit status 4", "ended exit status 4"] {
                assert_eq!(count(&log, call), 1, "{call} in {log:?}");
            }
            assert_eq!(log.last().unwrap(), "ended exit status 4");
        }
    }

    fn a_panicking_protocol_does_not_harm_another(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let mut logs = Vec::new();
        for n in 0..10 {
            let log = Log::default();
            let panics: &[&str] = if n % 2 == 0 { &["out", "exited", "ended"] } else { &[] };
            let recorder = Recorder { log: Arc::clone(&log), panics, ..Recorder::default() };
            let id = protocols.spawn_process(reactor, &sh("cat"), recorder).unwrap();
            let mut process = reactor.process(id).unwrap();
            process.write(0, b"hello").unwrap();
            process.close_stdin();
            logs.push(log);
        }
        turn_to_the_end(reactor, &mut protocols);
        for log in logs {
            let log = log.lock().unwrap().clone();
            assert_eq!(output(&log, "out"), "hello");
            assert_eq!(log.last().unwrap(), "ended exit status 0");
        }
    }
}

/// Writes from a callback, as Twisted's test_echo does.
struct Echo {
    sent: usize,
    received: usize,
    exit: Arc<Mutex<Option<(usize, Exit)>>>,
}

impl ProcessProtocol for Echo {
    fn connection_made(&mut self, process: &mut Process<'_>) -> ProtocolResult {
        process.write(0, &vec![b'x'; self.sent])?;
        Ok(())
    }

    fn out_received(&mut self, process: &mut Process<'_>, data: &[u8]) -> ProtocolResult {
        self.received += data.len();
        if self.received >= self.sent {
            process.close_stdin();
        }
        Ok(())
    }

    fn process_ended(&mut self, _reactor: &mut Reactor, _id: ProcessId, exit: &Exit) -> ProtocolResult {
        *self.exit.lock().unwrap() = Some((self.received, *exit));
        Ok(())
    }
}

on_all_combinations! {
    // Twisted: test_echo.
    fn what_is_written_by_a_protocol_comes_back(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let exit = Arc::new(Mutex::new(None));
        let echo = Echo { sent: 70_000, received: 0, exit: Arc::clone(&exit) };
        protocols.spawn_process(reactor, &sh("cat"), echo).unwrap();
        turn_to_the_end(reactor, &mut protocols);
        let (received, exit) = exit.lock().unwrap().unwrap();
        assert_eq!(received, 70_000);
        assert!(exit.success());
    }

    // One process has no protocol.
    fn other_processes_are_left_to_the_host(world: &mut World) {
        let reactor = &mut world.reactor;
        let mut protocols = Protocols::new();
        let id = reactor.spawn_process(Command::new("echo").arg("hello")).unwrap();
        let watchdog = reactor.call_later(Duration::from_secs(30));
        let mut ended = false;
        while !ended {
            reactor
                .turn(None, |reactor, event| {
                    assert!(!matches!(event, Event::Timer(timer) if timer == watchdog));
                    assert!(!protocols.handle(reactor, &event));
                    ended |= matches!(event, Event::Ended { process, .. } if process == id);
                })
                .unwrap();
        }
    }
}
