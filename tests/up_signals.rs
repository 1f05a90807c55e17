//! Tests every way in which a signal can end `childminder up` and `childminder run`, or ask them
//! for something. No process is left without a supervisor.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use childminder::{Event, Pty, Reactor};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use up_util::{Folder, PROGRAM, Up, WATCHDOG, is_alive, needs_the_kernel, now, text, until};

/// A script that reports that it was asked to end, and needs a moment to end.
const GOES: &str = "trap 'sleep 0.05; echo bye >> bye; exit 0' TERM; echo $$ > pid; while :; do sleep 0.02; done";

fn file() -> String {
    format!("[monitor]\nsocket = \"s\"\n[process.it]\nshell = \"{GOES}\"\ndirectory = \".\"\n")
}

/// The command in a folder of its own, and the pid of its child.
fn start(command: &str) -> (Up, i32) {
    let folder = Folder::new();
    folder.write("childminder.toml", &file());
    let arguments: &[&str] = if command == "up" { &["up"] } else { &["run", "--name", "it", "--", "sh", "-c", GOES] };
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
    let child = command.spawn().unwrap();
    let up = Up { folder, child };
    let pid = pid_in(&up);
    (up, pid)
}

fn pid_in(up: &Up) -> i32 {
    until("a pid", || up.folder.read("pid").strip_suffix('\n')?.parse().ok())
}

fn raise(up: &Up, signal: i32) {
    // The program exists until it has been waited for.
    let status = Command::new("kill").args([&format!("-{signal}"), &up.pid().to_string()]).status().unwrap();
    assert!(status.success());
}

/// The signals in a field of the command's status.
fn signals(up: &Up, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

#[test]
fn each_signal_that_would_end_it_stops_all_in_order() {
    let signals = [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGXCPU,
        // As faults of its own, these signals would end the command at once. Sent by another
        // process, they ask it to end like any other.
        libc::SIGABRT,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGRTMIN(),
        libc::SIGRTMIN() + 3,
        libc::SIGRTMAX(),
    ];
    let all = needs_the_kernel("signal with each number");
    for command in ["up", "run"] {
        for signal in signals.into_iter().filter(|signal| all || *signal < libc::SIGRTMIN()) {
            let (mut up, pid) = start(command);
            raise(&up, signal);
            assert_eq!(up.wait().code(), Some(0), "{command}, signal {signal}: {}", up.folder.read("err"));
            assert!(!is_alive(pid), "{command}, signal {signal}");
            assert_eq!(up.folder.read("bye"), "bye\n", "{command}, signal {signal}");
        }
    }
}

// All processes are down, and the reader of the output gets a moment for the rest of it.
#[test]
fn a_further_signal_does_not_change_the_exit_code_of_one_that_is_leaving() {
    if !needs_the_kernel("mask of the signals that its program alone has blocked") {
        return;
    }
    const FLOODS: &str = "echo $$ > pid; exec yes";
    for command in ["up", "run"] {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGALRM, libc::SIGPWR, libc::SIGRTMIN()] {
            let folder = Folder::new();
            let file = "[monitor]\nsocket = \"s\"\n[process.it]\ndirectory = \".\"\n";
            folder.write("childminder.toml", &format!("{file}shell = \"{FLOODS}\"\n"));
            let arguments: &[&str] = if command == "up" { &["up"] } else { &["run", "--", "sh", "-c", FLOODS] };
            let err = fs::File::create(folder.join("err")).unwrap();
            let mut program = Command::new(PROGRAM);
            program.args(arguments).current_dir(&folder.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(err);
            let child = program.spawn().unwrap();
            let mut up = Up { folder, child };
            let pid = pid_in(&up);
            // The pipe is full, so that all others wait for its reader.
            until("a flood that waits", || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
                (stat.contains("(yes) S")).then_some(())
            });
            up.signal(Signal::TERM);
            until("the end of its process", || (!is_alive(pid)).then_some(()));
            until("a blocked signal", || (signals(&up, "SigBlk") & (1 << (signal - 1)) != 0).then_some(()));
            raise(&up, signal);
            let status = up.wait();
            assert_eq!(status.code(), Some(0), "{command}, signal {signal}: {status}, {}", up.folder.read("err"));
        }
    }
}

#[test]
fn signals_all_the_time_leave_the_exit_code() {
    for command in ["up", "run"] {
        for _ in 0..10 {
            let (mut up, pid) = start(command);
            let begun = now();
            let status = loop {
                if let Some(status) = up.child.try_wait().unwrap() {
                    break status;
                }
                assert!(begun.elapsed() < WATCHDOG, "{command} does not end: {}", up.folder.read("err"));
                up.signal(Signal::TERM);
            };
            assert_eq!(status.code(), Some(0), "{command}: {status}, {}", up.folder.read("err"));
            assert!(!is_alive(pid));
        }
    }
}

// Some signals cannot be caught, or should not be. The kernel kills the processes then.
#[test]
fn a_fault_of_its_own_takes_them_along() {
    for command in ["up", "run"] {
        for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGBUS] {
            use std::os::unix::process::ExitStatusExt;
            let (mut up, pid) = start(command);
            // Rust's handler for stack overflows swallows the first SIGSEGV or SIGBUS that is no
            // fault.
            let status = until("its end", || {
                raise(&up, signal);
                up.child.try_wait().unwrap()
            });
            assert_eq!(status.signal(), Some(signal), "{command}");
            until("its end", || (!is_alive(pid)).then_some(()));
        }
    }
}

// The command reports its end, and no process is left running.
#[test]
fn out_of_memory_takes_them_along() {
    if !needs_the_kernel("limits of memory") {
        return;
    }
    let (mut up, pid) = start("up");
    let limit = Rlimit { current: Some(16 << 20), maximum: None };
    prlimit(Pid::from_raw(up.pid()), Resource::As, limit).unwrap();
    let others: String = (0..60_000).map(|n| format!("[process.p{n}]\ncommand = [\"true\"]\n")).collect();
    up.folder.write("childminder.toml", &(file() + &others));
    raise(&up, libc::SIGHUP);
    use std::os::unix::process::ExitStatusExt;
    let status = up.wait();
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    assert!(up.folder.read("err").contains("memory allocation of "), "{}", up.folder.read("err"));
    until("its end", || (!is_alive(pid)).then_some(()));
}

#[test]
fn others_end_nothing() {
    for command in ["up", "run"] {
        let (mut up, pid) = start(command);
        for signal in [libc::SIGUSR2, libc::SIGPIPE, libc::SIGXFSZ, libc::SIGWINCH, libc::SIGURG, libc::SIGCONT] {
            raise(&up, signal);
        }
        raise(&up, libc::SIGUSR1);
        let said = up.until_read("err", "running");
        assert!(said.contains(&pid.to_string()), "{said}");
        if command == "up" {
            let row = said.lines().find(|line| line.starts_with("childminder: it ")).unwrap();
            assert!(row.contains("running") && row.contains(&pid.to_string()), "{said}");
        } else {
            assert!(said.contains("[it] running for "), "{said}");
        }
        assert!(is_alive(pid));
        raise(&up, libc::SIGTERM);
        assert_eq!(up.wait().code(), Some(0));
    }
}

/// A command on a terminal of its own.
struct OnTerminal {
    reactor: Reactor,
    id: childminder::ProcessId,
    shown: Vec<u8>,
    ended: Option<childminder::Exit>,
}

impl OnTerminal {
    fn start(folder: &Folder, program: &str, args: &[&str]) -> Self {
        let mut reactor = Reactor::new().unwrap();
        let mut command = childminder::Command::new(program);
        command.args(args).current_dir(&folder.0).env("PS1", "ready> ").env("TERM", "dumb").env("HISTFILE", "");
        let id = reactor.spawn_process(command.pty(Pty::new().size(50, 150))).unwrap();
        Self { reactor, id, shown: Vec::new(), ended: None }
    }

    fn turn(&mut self) {
        let (shown, ended) = (&mut self.shown, &mut self.ended);
        let handler = |_: &mut Reactor, event: Event<'_>| match event {
            Event::Data { data, .. } => shown.extend_from_slice(data),
            Event::Exited { exit, .. } => *ended = Some(*exit),
            _ => {}
        };
        self.reactor.turn(Some(Duration::from_millis(50)), handler).unwrap();
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = now();
        while !done(self) {
            assert!(start.elapsed() < WATCHDOG, "never: {what}: {}", text(&self.shown));
            self.turn();
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.reactor.process(self.id).unwrap().write(0, keys.as_bytes()).unwrap();
    }

    fn close(&mut self) {
        // The end of its shell may have closed it already.
        if let Some(mut process) = self.reactor.process(self.id) {
            process.close_all();
        }
    }
}

// A closed terminal is not a request to read the file again.
#[test]
fn a_closed_terminal_stops_all() {
    for command in ["up", "run"] {
        let folder = Folder::new();
        folder.write("childminder.toml", &file());
        let arguments: &[&str] =
            if command == "up" { &["up"] } else { &["run", "--name", "it", "--", "sh", "-c", GOES] };
        let mut terminal = OnTerminal::start(&folder, PROGRAM, arguments);
        terminal.until("a start", |_| folder.read("pid").ends_with('\n'));
        let pid: i32 = folder.read("pid").trim().parse().unwrap();
        // Without a closed terminal, SIGHUP is that request.
        let own = terminal.reactor.process(terminal.id).unwrap().pid().unwrap();
        terminal.reactor.process(terminal.id).unwrap().signal(libc::SIGHUP).unwrap();
        let expected = if command == "up" { "reloaded: nothing has changed" } else { "[it] restarting now" };
        terminal.until("a reload", |terminal| text(&terminal.shown).contains(expected));
        let pid = if command == "up" {
            pid
        } else {
            terminal.until("another start", |_| folder.read("pid").trim().parse().is_ok_and(|new: i32| new != pid));
            folder.read("pid").trim().parse().unwrap()
        };
        let before = folder.read("bye").len();
        terminal.close();
        terminal.until("the end", |terminal| terminal.ended.is_some());
        assert_eq!(terminal.ended.unwrap().code(), Some(0), "{command} ({own})");
        assert!(!is_alive(pid), "{command}");
        assert!(folder.read("bye").len() > before, "{command}: it was not asked");
    }
}

#[test]
fn under_nohup_it_outlives_its_terminal() {
    let folder = Folder::new();
    folder.write("childminder.toml", &file());
    let script = format!("nohup {PROGRAM} up > out 2> err & echo $! > up; wait");
    let mut terminal = OnTerminal::start(&folder, "sh", &["-c", &script]);
    terminal.until("a start", |_| folder.read("pid").ends_with('\n') && folder.read("up").ends_with('\n'));
    let number = |name: &str| folder.read(name).trim().parse::<i32>().unwrap();
    let (up, pid) = (number("up"), number("pid"));
    terminal.close();
    terminal.until("the end of the shell", |terminal| terminal.ended.is_some());
    let asked = Command::new(PROGRAM).args(["status", "it"]).current_dir(&folder.0).output().unwrap();
    assert!(text(&asked.stdout).contains(&pid.to_string()), "{asked:?}");
    assert!(is_alive(up) && is_alive(pid));
    let done = Command::new(PROGRAM).args(["shutdown", "--wait"]).current_dir(&folder.0).status().unwrap();
    assert!(done.success() && !is_alive(pid));
}

// A shell without job control starts its background jobs with both signals ignored.
#[test]
fn in_the_background_of_a_script_ctrl_c_ends_nothing() {
    let folder = Folder::new();
    folder.write("childminder.toml", &file());
    let script = format!("{PROGRAM} up > out 2> err & echo $! > up; wait");
    let mut shell = Command::new("sh").args(["-c", &script]).current_dir(&folder.0).spawn().unwrap();
    let number = |name: &str| until(name, || folder.read(name).strip_suffix('\n')?.parse::<i32>().ok());
    let (up, pid) = (number("up"), number("pid"));
    for signal in [Signal::INT, Signal::QUIT, Signal::USR1] {
        up_util::kill(up, signal);
    }
    until("the status", || folder.read("err").contains("NAME").then_some(()));
    assert!(is_alive(up) && is_alive(pid));
    up_util::kill(up, Signal::TERM);
    assert_eq!(shell.wait().unwrap().code(), Some(0));
    assert!(!is_alive(pid));
}

/// Starts `up` in the background of an interactive shell on a terminal. Returns its pid, too.
fn in_the_background(folder: &Folder, then: &str) -> (OnTerminal, i32) {
    folder.write("childminder.toml", &file());
    let mut terminal = OnTerminal::start(folder, "bash", &["--norc", "--noprofile", "-i"]);
    terminal.type_in(&format!("{PROGRAM} up > out 2> err & echo $! > up; {then}\n"));
    terminal.until("a start", |_| folder.read("pid").ends_with('\n') && folder.read("up").ends_with('\n'));
    let up = folder.read("up").trim().parse().unwrap();
    (terminal, up)
}

// Its terminal has gone without a signal, and a later SIGHUP has nothing to do with that.
#[test]
fn long_after_its_terminal_sighup_is_the_wish_to_reload() {
    let folder = Folder::new();
    let (mut terminal, up) = in_the_background(&folder, "disown");
    terminal.type_in("exit\n");
    terminal.until("the end of the shell", |terminal| terminal.ended.is_some());
    terminal.close();
    let start = now();
    while start.elapsed() < Duration::from_secs(3) {
        terminal.turn();
    }
    for count in 1..=2 {
        up_util::kill(up, Signal::HUP);
        until("a reload", || {
            let said = folder.read("err");
            assert!(!said.contains("terminal was closed"), "{said}");
            (said.matches("reloaded: nothing has changed").count() == count).then_some(())
        });
    }
    up_util::kill(up, Signal::TERM);
    until("the end", || (!is_alive(up)).then_some(()));
}

// Some terminals send SIGHUP first and close then.
#[test]
fn a_terminal_that_is_closed_after_its_signal_stops_all() {
    let folder = Folder::new();
    let (mut terminal, up) = in_the_background(&folder, "disown");
    up_util::kill(up, Signal::HUP);
    until("a reload", || folder.read("err").contains("reloaded").then_some(()));
    terminal.close();
    until("the end", || (!is_alive(up)).then_some(()));
    assert!(folder.read("err").contains("the terminal was closed; stopping"), "{}", folder.read("err"));
    assert_eq!(folder.read("bye"), "bye\n");
}

// Ctrl-Z stops all processes, and a kill time, too. `fg` continues them.
#[test]
fn ctrl_z_stops_all_and_fg_continues_them() {
    let folder = Folder::new();
    let script = "trap 'sleep 0.5; echo saved >> bye; exit 0' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    folder.write(
        "childminder.toml",
        &format!(
            "[monitor]\nsocket = \"s\"\n[process.it]\nshell = \"{script}\"\ndirectory = \".\"\nkill-time = \"2s\"\n"
        ),
    );
    let mut terminal = OnTerminal::start(&folder, "bash", &["--norc", "--noprofile", "-i"]);
    terminal.type_in(&format!("{PROGRAM} up\n"));
    terminal.until("a start", |_| folder.read("pid").ends_with('\n'));
    let pid: i32 = folder.read("pid").trim().parse().unwrap();
    let stands_still = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // In the state D, the shell waits in vfork(2) for a child that was stopped before its exec.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 'D']))
    };
    terminal.type_in("\x03");
    terminal.until("the stop", |terminal| text(&terminal.shown).contains("terminating, SIGTERM sent"));
    terminal.type_in("\x1a");
    terminal.until("Stopped", |terminal| text(&terminal.shown).contains("Stopped") && stands_still());
    let start = now();
    while start.elapsed() < Duration::from_secs(3) {
        assert!(stands_still());
        terminal.turn();
    }
    terminal.type_in("fg\n");
    terminal.until("the end", |_| !is_alive(pid));
    assert_eq!(folder.read("bye"), "saved\n", "{}", text(&terminal.shown));
    terminal.type_in("exit\n");
    terminal.until("the end of the shell", |terminal| terminal.ended.is_some());
}

// sudo, ssh and git ask for a password in this way. They get an error at once, and nothing stops.
#[test]
fn a_process_that_asks_the_terminal_has_none() {
    for command in ["up", "run"] {
        let folder = Folder::new();
        let script = "if read answer < /dev/tty; then echo got it; else echo no terminal > asked; fi; exec sleep 1000";
        folder.write(
            "childminder.toml",
            &format!("[monitor]\nsocket = \"s\"\n[process.it]\nshell = \"{script}\"\ndirectory = \".\"\n"),
        );
        let arguments: &[&str] = if command == "up" { &["up"] } else { &["run", "--", "sh", "-c", script] };
        let mut terminal = OnTerminal::start(&folder, PROGRAM, arguments);
        terminal.until("an answer", |_| folder.read("asked") == "no terminal\n");
        terminal.type_in("\x03");
        terminal.until("the end", |terminal| terminal.ended.is_some());
        assert_eq!(terminal.ended.unwrap().code(), Some(0), "{command}");
    }
}
