//! Tests a process that runs as another user by now and may not be signalled any more. A call that
//! waits for it returns, and reports it. The test needs root, to make a program that becomes root.

#![cfg(target_os = "linux")]

#[path = "util/nobody.rs"]
mod nobody;
mod util;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use childminder::{Child, Command, Event, Reactor, Remains, RunError, RunToEnd, SignalError, TalkError};
use nobody::as_nobody;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use util::{COMBINATIONS, TempDir, needs_root, now};

/// A program that every user may run, and that runs another one as root.
#[track_caller]
fn becomes_root() -> Option<(TempDir, PathBuf)> {
    if !needs_root() {
        return None;
    }
    let folder = TempDir::new("root");
    let program = folder.file("becomes-root", "", 0o755);
    fs::copy("/usr/bin/setpriv", &program).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    Some((folder, program))
}

#[test]
fn a_run_to_the_end_gives_it_up() {
    let Some((_folder, program)) = becomes_root() else { return };
    for (spawn, reap) in COMBINATIONS {
        let program = program.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        as_nobody(move || {
            let mut command = Command::new(program);
            command.args(["--reuid=0", "--regid=0", "--clear-groups", "sleep", "1000"]);
            let (second, start) = (Duration::from_secs(1), now());
            let run = RunToEnd::new(&command).timeout(second).kill_time(Duration::ZERO).methods(spawn, reap);
            sender.send((run.run().unwrap_err(), start.elapsed())).unwrap();
        });
        let (error, time) = receiver.recv().unwrap();
        let RunError::StillRunning { pid, refusal: Some(_) } = error else { panic!("{error}") };
        assert_eq!(error.to_string(), format!("cannot kill process {pid}: Operation not permitted (os error 1)"));
        assert!(time >= Duration::from_secs(3) && time < util::WATCHDOG, "{time:?}");
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.terminating_signal(), Some(Signal::KILL.as_raw()));
    }
}

// A tree that cannot be killed is reported by the names of its members, and watched until it is
// gone.
#[test]
fn a_tree_that_is_still_there_is_told_of() {
    let Some((_folder, program)) = becomes_root() else { return };
    let (sender, receiver) = std::sync::mpsc::channel();
    let (answer, killed) = std::sync::mpsc::channel();
    let killer = std::thread::spawn(move || {
        let pid: u32 = receiver.recv().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        answer.send(()).unwrap();
    });
    as_nobody(move || {
        let mut world = util::World::new(COMBINATIONS[0]);
        let mut command = Command::new(program);
        command.args(["--reuid=0", "--regid=0", "--clear-groups", "sleep", "1000"]);
        let id = world.spawn(&command);
        let end = now() + util::WATCHDOG;
        while !world.reactor.tree(id).unwrap().members().to_string().contains("sleep") {
            assert!(now() < end);
        }
        let start = now();
        let refused = world.reactor.tree(id).unwrap().kill().unwrap_err();
        assert!(matches!(refused, SignalError::Os(_)), "{refused}");
        // A second kill reports nothing again.
        let _ = world.reactor.tree(id).unwrap().kill();
        let (remains, gone) = (std::cell::RefCell::new(Vec::new()), std::cell::Cell::new(None));
        let hook = |_: &mut Reactor, event: &Event<'_>| match *event {
            Event::TreeRemains { remains: who, .. } => {
                assert!(start.elapsed() >= Duration::from_secs(2));
                let Remains::Members(members) = who else { panic!("{who}") };
                assert_eq!(members[0].name, "sleep");
                remains.borrow_mut().push(members[0].pid);
                sender.send(members[0].pid).unwrap();
                killed.recv().unwrap();
            }
            Event::TreeGone { certain, .. } => gone.set(Some(certain)),
            _ => {}
        };
        world.until_with(hook, |log| gone.get().is_some() && log.exit(id).is_some());
        assert_eq!((remains.into_inner().len(), gone.get()), (1, Some(true)));
    });
    killer.join().unwrap();
}

#[cfg(feature = "cli")]
mod command {
    use std::os::unix::fs::chown;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::thread;

    use super::*;
    use nobody::NOBODY;

    const PROGRAM: &str = env!("CARGO_BIN_EXE_childminder");

    /// Runs a command that waits at the first signal. At a second one, which must not come at once,
    /// it ends and reports the processes that are left.
    #[track_caller]
    fn ends_at_the_second_signal(folder: &TempDir, mut command: Command) {
        let read = |name: &str| fs::read_to_string(folder.0.join(name)).unwrap_or_default();
        let until = |what: &str, is_so: &mut dyn FnMut() -> bool| {
            let start = now();
            while !is_so() {
                assert!(start.elapsed() < util::WATCHDOG, "never: {what}: {}", read("err"));
                thread::park_timeout(Duration::from_millis(10));
            }
        };
        chown(&folder.0, Some(NOBODY), Some(NOBODY)).unwrap();
        let err = fs::File::create(folder.0.join("err")).unwrap();
        command.current_dir(&folder.0).uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stderr(err);
        let mut child = command.spawn().unwrap();
        let term = |child: &Child| kill_process(Pid::from_child(child), Signal::TERM).unwrap();
        until("a start", &mut || read("pid").ends_with('\n'));
        term(&child);
        until("a refusal", &mut || read("err").contains("cannot send SIGKILL: Operation not permitted"));
        assert!(child.try_wait().unwrap().is_none());
        term(&child);
        until("the end", &mut || child.try_wait().unwrap().is_some());
        let pid = read("pid").trim().to_owned();
        let (said, code) = (read("err"), child.wait().unwrap().code());
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        assert_eq!(code, Some(125), "{said}");
        assert!(said.contains(&format!("[it] left running (pid {pid}): Operation not permitted")), "{said}");
        assert!(said.ends_with("childminder: what was killed is still there after 2 s\n"), "{said}");
    }

    fn script(program: &std::path::Path) -> String {
        format!("exec {} --reuid=0 --regid=0 --clear-groups sh -c 'echo $$ > pid; exec sleep 1000'", program.display())
    }

    #[test]
    fn up_gives_it_up() {
        let Some((folder, program)) = becomes_root() else { return };
        let text = script(&program);
        let file = format!(
            "[monitor]\nsocket = \"s\"\nkill-time = \"300ms\"\n[process.it]\nshell = \"{text}\"\ndirectory = \".\"\n"
        );
        folder.file("childminder.toml", &file, 0o644);
        let mut command = Command::new(PROGRAM);
        command.arg("up");
        ends_at_the_second_signal(&folder, command);
    }

    #[test]
    fn run_gives_it_up() {
        let Some((folder, program)) = becomes_root() else { return };
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--name", "it", "--killtime", "0.3", "--", "sh", "-c", &script(&program)]);
        ends_at_the_second_signal(&folder, command);
    }
}

// In a pipeline it does not protect the others.
#[test]
fn the_rest_of_a_pipeline_is_killed() {
    let Some((_folder, program)) = becomes_root() else { return };
    const TIME: &str = "1001.25";
    let (sender, receiver) = std::sync::mpsc::channel();
    as_nobody(move || {
        let mut stays = Command::new(program);
        stays.args(["--reuid=0", "--regid=0", "--clear-groups", "sleep", TIME]);
        let mut sleep = Command::new("sleep");
        let child = Child::pipeline(&[stays, sleep.arg("1000").clone()]).unwrap();
        child.set_time_limit(Some(util::WATCHDOG));
        let end = now() + util::WATCHDOG;
        let is_root = |pid: &i32| {
            let of = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            of("cmdline") == format!("sleep\0{TIME}\0") && of("status").contains("\nUid:\t0\t0\t0\t0")
        };
        let pid = loop {
            assert!(now() < end);
            if let Some(pid) = util::children().into_iter().map(|(pid, _)| pid).find(is_root) {
                break pid;
            }
        };
        let refused = child.kill().unwrap_err();
        assert!(matches!(refused, TalkError::Signal { error: SignalError::Os(_), .. }), "{refused}");
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        sender.send(pid).unwrap();
        // It waits for two seconds, and gives up.
        drop(child);
    });
    let pid = Pid::from_raw(receiver.recv().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.terminating_signal(), Some(Signal::KILL.as_raw()));
}
