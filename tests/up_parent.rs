//! Tests what `childminder up` tells the service manager that has started it.
//!
//! The one rule: it tells nothing that is not so, and never waits for the manager.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use childminder::{Event, Reactor, Watchdog};
use rustix::process::Signal;
use up_util::{Folder, PROGRAM, Up, WATCHDOG, now, until};

const TWO: &str = "[process.one]\ncommand = [\"sleep\", \"1000\"]\n[process.two]\ncommand = [\"sleep\", \"1000\"]\n";

/// A service manager with a socket in the folder.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(folder: &Folder) -> Self {
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, heard: Vec::new() }
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            self.heard.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
        }
    }

    /// Waits for a message that contains this, and returns the message.
    #[track_caller]
    fn until(&mut self, part: &str) -> String {
        until(part, || {
            self.read();
            self.heard.iter().find(|message| message.contains(part)).cloned()
        })
    }
}

/// Starts the supervisor in a folder with a `notify` socket.
fn start(folder: Folder, processes: &str, variables: &[(&str, &str)]) -> Up {
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{processes}"));
    let output = |name: &str| Stdio::from(File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null()).stdout(output("out")).stderr(output("err"));
    command.env("NOTIFY_SOCKET", folder.join("notify")).envs(variables.iter().copied());
    let child = command.spawn().unwrap();
    Up { folder, child }
}

#[test]
fn it_is_ready_reloads_and_stops() {
    let folder = Folder::new();
    let mut manager = Manager::new(&folder);
    let mut up = start(folder, TWO, &[]);
    assert_eq!(manager.until("READY=1"), "READY=1\nSTATUS=2 of 2 processes run");
    up.wait_for_socket();
    up.ok(&["stop", "--wait", "two"]);
    manager.until("STATUS=1 of 2 processes run");

    manager.heard.clear();
    up.write_file("[process.one]\ncommand = [\"sleep\", \"1000\"]\n");
    up.signal(Signal::HUP);
    let reloading = manager.until("RELOADING=1");
    let microseconds = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(microseconds.parse::<u64>().unwrap() > 0);
    assert_eq!(manager.until("READY=1"), "READY=1\nSTATUS=1 of 1 processes run");
    // A file with a mistake is a reload, too.
    manager.heard.clear();
    up.write_file("nonsense");
    up.signal(Signal::HUP);
    manager.until("READY=1");
    assert_eq!(manager.heard.len(), 2, "{:?}", manager.heard);

    manager.heard.clear();
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
    manager.read();
    assert_eq!(manager.heard, ["STOPPING=1\n", "STATUS=0 of 1 processes run"]);
}

// It waits for what starts by itself, but not for what fails.
#[test]
fn it_is_ready_when_its_processes_are() {
    let folder = Folder::new();
    let mut manager = Manager::new(&folder);
    let slow = "[process.slow]\nshell = \"until test -e go; do sleep 0.02; done; echo now; sleep 1000\"\n\
                ready = { line = \"now\" }\ndirectory = \".\"\n";
    let after = "[process.after]\ncommand = [\"sleep\", \"1000\"]\nafter = [\"slow\"]\n";
    let bad = "[process.bad]\ncommand = [\"false\"]\n[process.none]\ncommand = [\"./none\"]\n";
    let manual = "[process.manual]\ncommand = [\"true\"]\nautostart = false\nafter = [\"slow\"]\n";
    let mut up = start(folder, &format!("{slow}{after}{bad}{manual}"), &[]);
    up.wait_for_socket();
    up.until_state("slow", "starting");
    up.until_state("bad", "backing-off");
    manager.until("STATUS=1 of 5 processes run");
    assert!(!manager.heard.iter().any(|message| message.contains("READY")), "{:?}", manager.heard);
    up.folder.write("go", "");
    manager.until("READY=1");
    assert_eq!(up.status("slow")["state"], "ready");
    up.until_state("after", "running");
}

#[test]
fn its_processes_do_not_get_the_socket() {
    let folder = Folder::new();
    let mut manager = Manager::new(&folder);
    let script =
        "[process.it]\nshell = \"env > variables.new; mv variables.new variables; sleep 1000\"\ndirectory = \".\"\n";
    let up = start(folder, script, &[("WATCHDOG_USEC", "50000000")]);
    manager.until("READY=1");
    let variables = up.until_read("variables", "PATH=");
    assert!(!variables.contains("NOTIFY_SOCKET") && !variables.contains("WATCHDOG"), "{variables}");
}

// A manager that reads nothing holds up nothing, and hears in the end that all is up.
#[test]
fn a_full_queue_delays_only_the_message() {
    let folder = Folder::new();
    let mut manager = Manager::new(&folder);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    let full = (0..).take_while(|_| filler.send_to(b"x", folder.join("notify")).is_ok()).count();
    let mut up = start(folder, TWO, &[("WATCHDOG_USEC", "20000")]);
    up.wait_for_socket();
    up.ok(&["stop", "--wait", "two"]);
    manager.until("READY=1");
    assert_eq!(manager.heard.iter().take_while(|message| *message == "x").count(), full);
    manager.until("STATUS=1 of 2 processes run");
    manager.until("WATCHDOG=1");
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
}

// A manager that is gone is reported once.
#[test]
fn nobody_hears_it() {
    let folder = Folder::new();
    let mut up = start(folder, TWO, &[("WATCHDOG_USEC", "20000")]);
    up.wait_for_socket();
    up.ok(&["restart", "--wait", "one"]);
    let said = up.shutdown();
    let complaint = "cannot tell the state to the service manager at NOTIFY_SOCKET: No such file or directory";
    assert_eq!(said.matches(complaint).count(), 1, "{said}");
}

// The library hears the command, and both sides agree.
#[test]
fn a_reactor_hears_it() {
    let folder = Folder::new();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{TWO}"));
    let mut reactor = Reactor::new().unwrap();
    let mut command = childminder::Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).notify(true).watchdog(Duration::from_millis(100));
    let id = reactor.spawn_process(&command).unwrap();
    let (mut ready, mut alive, mut stopping, mut ended, mut asked) = (0, 0, 0, false, false);
    let end = now() + WATCHDOG;
    while !ended {
        assert!(now() < end, "ready {ready}, alive {alive}, stopping {stopping}");
        reactor
            .turn(Some(Duration::from_secs(1)), |_, event| match event {
                Event::Notified { process, notice } => {
                    assert_eq!(process, id);
                    ready += usize::from(notice.ready);
                    stopping += usize::from(notice.stopping);
                    alive += usize::from(notice.watchdog == Some(Watchdog::Alive));
                }
                Event::NotifyRefused { .. } => panic!("{event:?}"),
                Event::Ended { .. } => ended = true,
                _ => {}
            })
            .unwrap();
        if ready > 0 && alive > 2 && !std::mem::replace(&mut asked, true) {
            reactor.process(id).unwrap().signal(libc::SIGTERM).unwrap();
        }
    }
    assert_eq!((ready, stopping), (1, 1));
}
