//! Tests programs that run processes on a real terminal, under a real shell with job control:
//! Ctrl-C, Ctrl-Z and `fg`. Each host is this file run once more, on a pseudo-terminal.
//!
//! The one rule: a key is pressed only when the screen shows the state that the test waits for.

#![cfg(target_os = "linux")]

mod util;

use std::cell::RefCell;
use std::time::Duration;
use std::{env, fs};

use childminder::{
    Command, Event, JobControl, ProcessId, Pty, Reactor, ReapMethod, Request, RunError, RunToEnd, Service, SpawnMethod,
    Stdio,
};
use util::{COMBINATIONS, WATCHDOG, World, now, on_all_combinations, sh};

const HOST: &str = "CHILDMINDER_TEST_TERMINAL_HOST";

/// The role of this process if it is the host. Otherwise the test that runs the host goes on.
fn is_host() -> Option<String> {
    env::var(HOST).ok()
}

/// A terminal with a program on it, and its screen.
struct Terminal {
    world: World,
    id: ProcessId,
    /// The length of the part of the screen that was checked.
    seen: usize,
}

impl Terminal {
    fn run(command: &mut Command) -> Self {
        let mut world = World::new(COMBINATIONS[0]);
        let id = world.spawn(command.pty(Pty::new().size(50, 200)));
        Self { world, id, seen: 0 }
    }

    /// A shell with job control, and with a prompt that cannot be taken for other output.
    fn shell() -> Self {
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "-i"]).env("PS1", "ready> ").env("HISTFILE", "").env("TERM", "dumb");
        let mut terminal = Self::run(&mut command);
        terminal.until("ready> ");
        terminal
    }

    /// The line that runs the test with this name once more, as a host.
    fn itself(test: &str, how: &str) -> String {
        let program = env::current_exe().unwrap();
        format!("{HOST}={how} {} --exact {test} --nocapture", program.display())
    }

    fn type_in(&mut self, text: &str) {
        self.world.process(self.id).write(0, text.as_bytes()).unwrap();
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.world.log.data(self.id, 1)[self.seen..]).into_owned()
    }

    /// Waits until this text appears after everything that was waited for before. Returns the
    /// output up to it.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        let start = now();
        loop {
            let screen = self.screen();
            if let Some(at) = screen.find(text) {
                self.seen += at + text.len();
                return screen[..at].to_owned();
            }
            assert!(start.elapsed() < WATCHDOG && !self.world.log.ended(self.id), "no {text:?} in {screen:?}");
            self.world.turn_with(Duration::from_millis(200), |_, _| {});
        }
    }
}

/// The state letter of a process, if the process exists.
fn state(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[track_caller]
fn until_state(pid: &str, wanted: impl Fn(Option<char>) -> bool) {
    let start = now();
    while !wanted(state(pid)) {
        assert!(start.elapsed() < WATCHDOG, "{pid} is {:?}", state(pid));
        std::thread::yield_now();
    }
}

fn gone(state: Option<char>) -> bool {
    matches!(state, None | Some('Z' | 'X'))
}

// Eight short jobs run at a time, and Ctrl-Z comes at any moment, also while one of them is
// starting.

fn eight_jobs(method: SpawnMethod) {
    let mut reactor = Reactor::with_methods(method, ReapMethod::Pidfd).unwrap();
    let mut control = JobControl::new(&mut reactor).unwrap();
    println!("host runs");
    let mut over = false;
    while !(over && reactor.processes().next().is_none()) {
        while !over && reactor.processes().count() < 8 {
            let job = Command::new("true");
            reactor.spawn_process(&job).unwrap();
        }
        reactor
            .turn(None, |reactor, event| {
                over |= control.handle(reactor, &event).is_some();
                match event {
                    Event::Resumed { .. } => println!("host goes on"),
                    Event::Exited { exit, .. } => assert!(exit.success(), "{exit}"),
                    _ => {}
                }
            })
            .unwrap();
    }
    println!("host ends");
}

fn a_hundred_presses(test: &str, method: SpawnMethod) {
    if is_host().is_some() {
        return eight_jobs(method);
    }
    let mut terminal = Terminal::shell();
    terminal.type_in(&format!("{}\n", Terminal::itself(test, "1")));
    terminal.until("host runs");
    for _ in 0..100 {
        terminal.type_in("\x1a");
        terminal.until("Stopped");
        terminal.until("ready> ");
        terminal.type_in("fg\n");
        terminal.until("host goes on");
    }
    terminal.type_in("\x03");
    terminal.until("host ends");
    terminal.until("ready> ");
    terminal.type_in("exit\n");
    let shown = terminal.world.until_ended(terminal.id);
    assert!(shown.exit.success(), "{shown:?}");
}

#[test]
fn a_hundred_presses_vfork() {
    a_hundred_presses("a_hundred_presses_vfork", SpawnMethod::Vfork);
}

#[test]
fn a_hundred_presses_fork() {
    a_hundred_presses("a_hundred_presses_fork", SpawnMethod::Fork);
}

// Two reactors of a program get the signal of the same key. The program stops once.

fn two_reactors() {
    let mut pairs = [(); 2].map(|()| {
        let mut reactor = Reactor::new().unwrap();
        let control = JobControl::new(&mut reactor).unwrap();
        (reactor, control)
    });
    println!("host runs");
    let mut over = false;
    while !over {
        for (reactor, control) in &mut pairs {
            let handler = |reactor: &mut Reactor, event: Event<'_>| {
                over |= control.handle(reactor, &event).is_some();
                if matches!(event, Event::Resumed { .. }) {
                    println!("host goes on");
                }
            };
            reactor.turn(Some(Duration::from_millis(10)), handler).unwrap();
        }
    }
    println!("host ends");
}

#[test]
fn two_reactors_stop_their_program_once() {
    if is_host().is_some() {
        return two_reactors();
    }
    let mut terminal = Terminal::shell();
    terminal.type_in(&format!("{}\n", Terminal::itself("two_reactors_stop_their_program_once", "1")));
    terminal.until("host runs");
    for _ in 0..5 {
        terminal.type_in("\x1a");
        terminal.until("Stopped");
        terminal.until("ready> ");
        terminal.type_in("fg\n");
        terminal.until("host goes on");
    }
    terminal.type_in("\x03");
    let shown = terminal.until("host ends");
    assert!(!shown.contains("Stopped"), "{shown}");
    terminal.type_in("exit\n");
    terminal.world.until_ended(terminal.id);
}

// The jobs stop with their host, and so does the kill time.

fn stands_still() {
    let mut reactor = Reactor::new().unwrap();
    let mut control = JobControl::new(&mut reactor).unwrap();
    let mut monitor = childminder::ProcessMonitor::new();
    let mut policy = childminder::Policy::default();
    policy.kill_time = Duration::from_secs(3);
    let script = "trap 'echo saving; sleep 0.5; echo saved; exit 0' TERM; echo job $$; while :; do sleep 0.05; done";
    let mut command = sh(script);
    command.stdout(Stdio::inherit());
    monitor.add_process_with(&mut reactor, "job", &command, policy).unwrap();
    monitor.start_service(&mut reactor);
    let timer = reactor.call_later(Duration::from_secs(1000));
    let before = reactor.timer_deadline(timer).unwrap();
    let mut asked = false;
    while !(asked && monitor.is_down()) {
        reactor
            .turn(None, |reactor, event| {
                if control.handle(reactor, &event) == Some(Request::Stop) {
                    asked = true;
                    monitor.stop_service(reactor);
                }
                monitor.handle(reactor, &event);
                if let Event::Resumed { after } = event {
                    assert_eq!(reactor.timer_deadline(timer).unwrap() - before, after);
                    println!("stood still for {} ms", after.as_millis());
                }
            })
            .unwrap();
    }
    println!("job ended: {:?}", monitor.status("job").unwrap().last_exit.unwrap().to_string());
}

#[test]
fn a_kill_time_stands_still() {
    if is_host().is_some() {
        return stands_still();
    }
    let mut terminal = Terminal::shell();
    terminal.type_in(&format!("{}\n", Terminal::itself("a_kill_time_stands_still", "1")));
    terminal.until("job ");
    let pid = terminal.until("\r\n");
    terminal.type_in("\x03");
    terminal.until("saving");
    terminal.type_in("\x1a");
    terminal.until("Stopped");
    // In the state D, the shell waits in vfork(2) for a child that was stopped before its exec.
    let stands_still = |state| matches!(state, Some('T' | 'D'));
    until_state(&pid, stands_still);
    // This is longer than the kill time.
    let start = now();
    while start.elapsed() < Duration::from_secs(4) {
        assert!(stands_still(state(&pid)));
        terminal.world.turn_with(Duration::from_millis(100), |_, _| {});
    }
    terminal.type_in("fg\n");
    let shown = terminal.until("job ended: \"exit status 0\"");
    assert!(shown.contains("saved") && shown.contains("stood still for 4"), "{shown}");
    terminal.type_in("exit\n");
    terminal.world.until_ended(terminal.id);
}

// A run to the end stops its process when it is interrupted.

fn runs_to_the_end(how: &str) {
    let deaf = if how == "deaf" { "trap '' TERM; " } else { "" };
    let mut command = sh(&format!("{deaf}sleep 1000 & echo job $! $$; wait; wait"));
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let output = RunToEnd::new(&command).kill_time(Duration::from_secs(1000)).run();
    println!("host goes on: {output:?}");
}

#[test]
fn ctrl_c_ends_a_run_to_the_end_with_its_host() {
    if let Some(how) = is_host() {
        return runs_to_the_end(&how);
    }
    for how in ["willing", "deaf"] {
        let mut command = Command::new("sh");
        let line = Terminal::itself("ctrl_c_ends_a_run_to_the_end_with_its_host", how);
        let mut terminal = Terminal::run(command.args(["-c", &format!("{HOST}={how}; exec env {line}")]));
        terminal.until("job ");
        let pids: Vec<String> = terminal.until("\r\n").split(' ').map(str::to_owned).collect();
        terminal.type_in("\x03");
        if how == "deaf" {
            // A second signal at once counts as an echo. A later one kills.
            let start = now();
            while !pids.iter().all(|pid| gone(state(pid))) {
                assert!(start.elapsed() < WATCHDOG, "they live");
                terminal.type_in("\x03");
                terminal.world.turn_with(Duration::from_millis(50), |_, _| {});
            }
        }
        let outcome = terminal.world.until_ended(terminal.id);
        assert_eq!(outcome.exit.signal(), Some(libc::SIGINT), "{how}: {outcome:?}");
        for pid in pids {
            assert!(gone(state(&pid)), "{how}: {pid} is left");
        }
    }
}

// Signals that the host handles, ignores or blocks are left to the host.

fn handles_it_itself() {
    let mut reactor = Reactor::new().unwrap();
    reactor.watch_signal(libc::SIGINT).unwrap();
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let mut command = sh("echo job $$; exec sleep 1");
            RunToEnd::new(command.stdout(Stdio::inherit())).run()
        });
        let mut interrupted = false;
        while !interrupted {
            reactor.turn(None, |_, event| interrupted |= matches!(event, Event::Signal(libc::SIGINT))).unwrap();
        }
        println!("host was told");
        run.join().unwrap()
    });
    match result {
        // The signal was watched before the run began.
        Ok(output) => println!("it came to its end: {}", output.exit),
        Err(RunError::Interrupted { signal }) => println!("interrupted by {signal}"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn a_signal_that_another_part_handles_is_an_error() {
    if is_host().is_some() {
        return handles_it_itself();
    }
    let mut command = Command::new("sh");
    let line = Terminal::itself("a_signal_that_another_part_handles_is_an_error", "1");
    let mut terminal = Terminal::run(command.args(["-c", &format!("exec env {line}")]));
    terminal.until("job ");
    terminal.type_in("\x03");
    terminal.until("host was told");
    terminal.until("interrupted by 2");
    assert!(terminal.world.until_ended(terminal.id).exit.success());
}

// The next test is about stops and continuations of single processes.

on_all_combinations! {
    fn stops_are_events(world: &mut World) {
        world.reactor.watch_stops().unwrap();
        let mut command = Command::new("cat");
        let id = world.spawn(command.stdin(Stdio::piped()));
        let told = RefCell::new(Vec::new());
        for (signal, expected) in [(libc::SIGSTOP, 1), (libc::SIGCONT, 2), (libc::SIGTSTP, 3), (libc::SIGCONT, 4)] {
            world.process(id).signal(signal).unwrap();
            let note = |_: &mut Reactor, event: &Event<'_>| match event {
                Event::Stopped { process, signal } => told.borrow_mut().push((*process, *signal)),
                Event::Continued { process } => told.borrow_mut().push((*process, 0)),
                _ => {}
            };
            world.until_with(note, |_| told.borrow().len() == expected);
        }
        let signals = [libc::SIGSTOP, 0, libc::SIGTSTP, 0];
        assert_eq!(told.into_inner(), signals.map(|signal| (id, signal)));
        world.process(id).close_stdin();
        assert!(world.until_ended(id).exit.success());
        let id = world.spawn(&Command::new("true"));
        assert!(world.until_ended(id).exit.success(), "an exit is still told");
    }
}

// The kernel stops a process of another group that reads from the terminal, and the host gets an
// event.

fn asks_the_terminal() {
    let mut reactor = Reactor::new().unwrap();
    reactor.watch_stops().unwrap();
    let id = reactor.spawn_process(&sh("read answer < /dev/tty")).unwrap();
    let mut over = false;
    while !over {
        reactor
            .turn(None, |reactor, event| match event {
                Event::Stopped { process, signal } if process == id => {
                    println!("it was stopped by {signal}");
                    reactor.process(id).unwrap().kill_group().unwrap();
                }
                Event::Ended { .. } => over = true,
                _ => {}
            })
            .unwrap();
    }
}

#[test]
fn who_asks_the_terminal_is_seen_to_stand_still() {
    if is_host().is_some() {
        return asks_the_terminal();
    }
    let mut terminal = Terminal::shell();
    terminal.type_in(&format!("{}\n", Terminal::itself("who_asks_the_terminal_is_seen_to_stand_still", "1")));
    terminal.until(&format!("it was stopped by {}", libc::SIGTTIN));
    terminal.until("ready> ");
    terminal.type_in("exit\n");
    terminal.world.until_ended(terminal.id);
}
