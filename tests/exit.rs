//! Tests how processes end: exit status, resource usage, the order of events, groups, and ids. It
//! uses real programs and changes nothing of this process.

mod util;

use std::time::Duration;

use childminder::{Command, Event, Limit, Reactor, Remains, Resource, SignalError, Stdio};
use util::{COMBINATIONS, What, World, on_all_combinations, sh};

/// A shell that writes its own pid and the pid of a child of its own. With `open`, that child keeps
/// the shell's descriptors.
fn with_grandchild(open: bool) -> Command {
    let to = if open { "" } else { ">/dev/null 2>&1" };
    let mut command = sh(&format!("sleep 1000 {to} & echo $!; read go; exit 5"));
    command.stdin(Stdio::piped());
    command
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']))
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = util::now() + util::WATCHDOG;
    while !is_so() {
        assert!(util::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[track_caller]
fn until_dead(pid: i32) {
    until("its death", || !alive(pid));
}

/// Returns the exit of the shell, and the pid of its child, which may have outlived it.
#[track_caller]
fn end_with_grandchild(
    world: &mut World,
    command: &Command,
    before: impl FnOnce(&mut World, childminder::ProcessId),
) -> (childminder::ProcessId, i32) {
    let id = world.spawn(command);
    world.until_said(id, 1, "\n");
    before(world, id);
    world.process(id).write(0, b"go\n").unwrap();
    world.until(|log| log.exit(id).is_some());
    let pid = world.log.text(id, 1).trim().parse().unwrap();
    (id, pid)
}

on_all_combinations! {
    // Twisted: normalTermination, abnormalTermination, test_timelyProcessExited.
    fn status(world: &mut World) {
        let exit = world.run(&Command::new("true")).exit;
        assert!(exit.success());
        assert_eq!((exit.code(), exit.signal(), exit.core_dumped(), exit.requested), (Some(0), None, false, None));
        for code in [1, 3, 126, 127, 255] {
            let exit = world.run(&sh(&format!("exit {code}"))).exit;
            assert_eq!((exit.code(), exit.signal(), exit.success()), (Some(code), None, false));
            assert_eq!(exit.to_string(), format!("exit status {code}"));
        }
    }

    // A restart of one process need not wait for what the others have left to read.
    fn of_many_that_died_at_once_each_is_told_with_its_last_words(world: &mut World) {
        let ids: Vec<_> = (0..8).map(|_| world.spawn(&sh("echo words"))).collect();
        for id in &ids {
            until_dead(world.process(*id).pid().unwrap().try_into().unwrap());
        }
        world.until(|log| ids.iter().all(|id| log.ended(*id)));
        for id in &ids {
            world.log.expect_in_order(*id);
        }
        let first = world.log.0.iter().position(|(_, what)| matches!(what, What::Exited(_))).unwrap();
        let last = world.log.0.iter().rposition(|(_, what)| matches!(what, What::Data(..))).unwrap();
        assert!(first < last, "{:?}", world.log);
    }

    // Twisted: test_processExitedWithSignal, signalHUP, INT, KILL, TERM.
    fn signals(world: &mut World) {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGKILL, libc::SIGTERM, libc::SIGUSR1] {
            let mut command = Command::new("sleep");
            let id = world.spawn(command.arg("1000"));
            world.process(id).signal(signal).unwrap();
            let exit = world.until_ended(id).exit;
            assert_eq!((exit.code(), exit.signal(), exit.requested), (None, Some(signal), Some(signal)));
        }
        // The host has not requested this one.
        let exit = world.run(&sh("kill -TERM $$")).exit;
        assert_eq!((exit.signal(), exit.requested), (Some(libc::SIGTERM), None));
        // A stop and a continue are no exit.
        let mut command = Command::new("cat");
        let id = world.spawn(command.stdin(Stdio::piped()));
        world.process(id).signal(libc::SIGSTOP).unwrap();
        world.settle();
        world.process(id).signal(libc::SIGCONT).unwrap();
        world.process(id).write(0, b"still here").unwrap();
        world.process(id).close_stdin();
        let outcome = world.until_ended(id);
        assert_eq!((outcome.out.as_str(), outcome.exit.success()), ("still here", true));
        // Neither signal could have ended it.
        assert_eq!(outcome.exit.requested, None);
    }

    fn core_flag(world: &mut World) {
        if !util::needs_limits() {
            return;
        }
        let dir = util::TempDir::new("core");
        let mut command = sh("kill -ABRT $$");
        command.current_dir(&dir.0);
        let exit = world.run(command.rlimit(Resource::Core, Limit { soft: Some(0), hard: Some(0) })).exit;
        assert_eq!((exit.signal(), exit.core_dumped()), (Some(libc::SIGABRT), false));
        if std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().trim() != "core" || !util::needs_root() {
            util::left_out("a core file would not be found in the folder of the process");
            return;
        }
        let exit = world.run(command.rlimit(Resource::Core, Limit { soft: None, hard: None })).exit;
        assert_eq!((exit.signal(), exit.core_dumped()), (Some(libc::SIGABRT), true));
        assert_eq!(exit.to_string(), "signal 6 (SIGABRT), core dumped");
    }

    fn usage_and_wall_time(world: &mut World) {
        let before = util::now();
        let script = "import os, time; a = bytearray(b'x') * 150_000_000\nwhile time.process_time() < .1 or os.times().user < .03: pass\ntime.sleep(.05)";
        let mut command = Command::new("/usr/bin/env");
        let exit = world.run(command.args(["python3", "-c", script])).exit;
        let around = before.elapsed();
        assert!(exit.success());
        let usage = exit.usage;
        assert!(usage.cpu_time() >= Duration::from_millis(100) && usage.user_time > Duration::ZERO, "{exit:?}");
        assert!(exit.wall_time >= usage.cpu_time().min(Duration::from_millis(150)) && exit.wall_time <= around, "{exit:?} {around:?}");
        assert!((150_000_000..2_000_000_000).contains(&usage.max_rss), "{exit:?}");
        assert!(usage.minor_faults > 1000 && usage.voluntary_switches > 0, "{exit:?}");
    }

    // Output that was written before an exit is reported before it, even if the child writes and
    // exits in the middle of its first turn.
    fn last_words(world: &mut World) {
        let dir = util::TempDir::new("last-words");
        let mut command = sh("echo one; : > one; read go; echo two; : > two; read go; printf last");
        let id = world.spawn(command.current_dir(&dir.0).stdin(Stdio::piped()));
        let pid = world.process(id).pid().unwrap() as i32;
        until("one", || dir.0.join("one").exists());
        world.until_with(
            |reactor, event| {
                let Event::Data { data: b"one\n" | b"two\n", .. } = event else { return };
                reactor.process(id).unwrap().write(0, b"go\n").unwrap();
                match event {
                    Event::Data { data: b"one\n", .. } => until("two", || dir.0.join("two").exists()),
                    _ => until_dead(pid),
                }
            },
            |log| log.ended(id),
        );
        let told = world.log.of(id).filter_map(|what| match what {
            What::Data(1, data) => Some(data.as_slice()),
            What::Exited(_) => Some(b"exited"),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), [&b"one\n"[..], b"two\n", b"last", b"exited"]);
    }

    // The order of events, and what can be asked at each one. Twisted: test_unsetPid,
    // test_processTransportInterface.
    fn order(world: &mut World) {
        let mut command = sh("echo out; echo err >&2; exit 4");
        command.stdin(Stdio::piped());
        let id = world.spawn(&command);
        let pid = world.process(id).pid();
        assert!(pid.is_some());
        assert_eq!((world.process(id).id(), world.process(id).exit()), (id, None));
        let mut seen = Vec::new();
        world.until_with(
            |reactor, event| match event {
                Event::Exited { process, exit } => {
                    let mut process = reactor.process(*process).expect("it has not ended");
                    assert_eq!((process.pid(), process.exit()), (None, Some(*exit)));
                    assert!(matches!(process.signal(libc::SIGTERM), Err(SignalError::AlreadyExited)));
                    seen.push("exited");
                }
                // Twisted: test_process_unregistered_before_protocol_ended_callback.
                Event::Ended { process, .. } => {
                    assert!(reactor.process(*process).is_none());
                    assert_eq!(reactor.processes().count(), 0);
                    seen.push("ended");
                }
                _ => {}
            },
            |log| log.ended(id),
        );
        assert_eq!(seen, ["exited", "ended"]);
        let outcome = world.until_ended(id);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("out\n", "err\n"));
        for fd in 0..3 {
            assert_eq!(world.log.closed(id, fd), Some(0));
        }
    }

    // Twisted: test_spawnProcessEarlyIsReaped. Only a turn reports the exit, even if the process
    // has exited long before.
    fn an_early_death(world: &mut World) {
        let mut command = Command::new("true");
        command.stdin(Stdio::closed()).stdout(Stdio::closed()).stderr(Stdio::closed());
        let id = world.spawn(&command);
        let pid = world.process(id).pid().unwrap() as i32;
        until_dead(pid);
        // It has exited, and spawning another process reports nothing either.
        let other = world.spawn(&command);
        assert!(world.log.0.is_empty());
        assert!(world.reactor.process(id).is_some());
        assert_eq!(world.process(id).pid(), Some(pid as u32));
        // The zombie still accepts signals, as it does from kill(2).
        world.process(id).signal(libc::SIGTERM).unwrap();
        assert!(world.until_ended(id).exit.success());
        assert!(world.until_ended(other).exit.success());
    }

    // All pipes are closed long before the exit. Twisted: test_linger.
    fn pipes_closed_before_the_exit(world: &mut World) {
        let mut command = sh("exec 0<&- 1>&- 2>&-; read go <&3; exit 6");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        world.until(|log| (0..3).all(|fd| log.closed(id, fd).is_some()));
        assert_eq!(world.log.exit(id), None);
        world.process(id).write(3, b"go\n").unwrap();
        assert_eq!(world.until_ended(id).exit.code(), Some(6));
    }

    // The exit is reported at once, and the end when the pipes are closed. Twisted:
    // test_processExited, test_processEnded.
    fn a_grandchild_holds_the_pipes(world: &mut World) {
        let (id, pid) = end_with_grandchild(world, &with_grandchild(true), |_, _| {});
        world.settle();
        assert_eq!((world.log.exit(id).unwrap().code(), world.log.ended(id)), (Some(5), false));
        assert_eq!(world.log.closed(id, 1), None);
        assert!(world.process(id).exit().is_some());
        assert!(matches!(world.process(id).signal(0), Err(SignalError::AlreadyExited)));
        world.process(id).close_all();
        assert!(!world.log.ended(id));
        assert_eq!(world.until_ended(id).exit.code(), Some(5));
        util_kill(pid);
    }

    // Output that the grandchild writes later is still reported.
    fn a_grandchild_goes_on_talking(world: &mut World) {
        let mut command = sh("(read a <&3; echo late; read b <&3) & echo early; exit 5");
        command.fd(3, Stdio::writer());
        let id = world.spawn(&command);
        world.until(|log| log.exit(id).is_some());
        world.process(id).write(3, b"a\n").unwrap();
        world.until_said(id, 1, "late\n");
        assert!(!world.log.ended(id));
        world.process(id).write(3, b"b\n").unwrap();
        assert_eq!(world.until_ended(id).out, "early\nlate\n");
    }

    // A signal reaches the group, with all processes that the process has started.
    fn signals_reach_the_group(world: &mut World) {
        let id = world.spawn(&with_grandchild(true));
        world.until_said(id, 1, "\n");
        let pid = world.log.text(id, 1).trim().parse().unwrap();
        assert!(alive(pid));
        world.process(id).terminate_group(libc::SIGTERM).unwrap();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.signal(), exit.requested), (Some(libc::SIGTERM), Some(libc::SIGTERM)));
        until_dead(pid);
    }

    fn kill_group_at_exit(world: &mut World) {
        let id = world.spawn(&with_grandchild(false));
        world.until_said(id, 1, "\n");
        world.process(id).kill_group_at_exit(true);
        world.process(id).write(0, b"go\n").unwrap();
        let outcome = world.until_ended(id);
        assert_eq!(outcome.exit.code(), Some(5));
        until_dead(outcome.out.trim().parse().unwrap());
    }

    fn without_that_the_group_goes_on(world: &mut World) {
        let (id, pid) = end_with_grandchild(world, &with_grandchild(false), |_, _| {});
        world.until_ended(id);
        assert!(alive(pid));
        util_kill(pid);
    }

    // Ids are never used twice.
    fn stale_ids(world: &mut World) {
        let first = world.spawn(&Command::new("true"));
        world.until_ended(first);
        let mut command = Command::new("cat");
        let second = world.spawn(command.stdin(Stdio::piped()));
        assert_ne!(first, second);
        assert!(world.reactor.process(first).is_none());
        assert_eq!(world.reactor.processes().collect::<Vec<_>>(), [second]);
        world.process(second).close_all();
        world.until_ended(second);
        let other = World::new(COMBINATIONS[0]).spawn(&Command::new("true"));
        assert!(world.reactor.process(other).is_none());
    }

    // A process goes on after its reactor is dropped.
    fn dropping_the_reactor(world: &mut World) {
        let dir = util::TempDir::new("drop");
        let fifo = dir.0.join("fifo");
        assert!(world.run(Command::new("mkfifo").arg(&fifo)).exit.success());
        let mut command = sh("read end; echo alive > fifo");
        command.stdin(Stdio::piped()).current_dir(&dir.0);
        let id = world.spawn(&command);
        assert!(world.process(id).pid().is_some());
        world.reactor = World::new(COMBINATIONS[0]).reactor;
        assert_eq!(std::fs::read_to_string(fifo).unwrap(), "alive\n");
    }

    // Children of other code are not reaped.
    #[allow(clippy::zombie_processes)] // it is waited for
    fn others_children(world: &mut World) {
        let mut other = std::process::Command::new("sh").args(["-c", "exit 9"]).spawn().unwrap();
        until_dead(other.id() as i32);
        assert!(world.run(&Command::new("true")).exit.success());
        assert!(world.run(&Command::new("true")).exit.success());
        assert_eq!(other.wait().unwrap().code(), Some(9));
    }

    // 25 processes exit at once. Twisted: TwoProcesses test_kill.
    fn many_at_once(world: &mut World) {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let ids: Vec<_> = (0..25).map(|_| world.spawn(&command)).collect();
        for id in &ids {
            world.process(*id).signal(libc::SIGTERM).unwrap();
        }
        for id in ids {
            assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGTERM));
        }
    }

    // Processes are spawned while others exit, so that slots are used again.
    fn in_a_row(world: &mut World) {
        let (mut started, mut last) = (1, world.spawn(&sh("exit 1")));
        world.until_with(
            |reactor, event| {
                if let Event::Ended { process, exit } = event {
                    assert_eq!((*process, exit.code()), (last, Some(started)));
                    if started < 50 {
                        started += 1;
                        last = reactor.spawn_process(&sh(&format!("exit {started}"))).unwrap();
                    }
                }
            },
            |log| log.0.iter().filter(|(_, what)| matches!(what, What::Ended(_))).count() == 50,
        );
    }
}

/// Kills a process that a test has left over.
fn util_kill(pid: i32) {
    assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    until_dead(pid);
}

/// The signal reaches the leftover members of a group, and no other process.
#[test]
fn what_is_left_of_a_group() {
    for combination in [COMBINATIONS[0], COMBINATIONS[2]] {
        let mut world = World::new(combination);
        let (id, pid) = end_with_grandchild(&mut world, &with_grandchild(true), |_, _| {});
        let Some(mut tree) = world.reactor.tree(id) else {
            util::left_out("what is left of a group can be reached from Linux 6.9 on");
            util_kill(pid);
            return;
        };
        let Remains::Members(members) = tree.members() else { panic!("nobody") };
        assert_eq!(members.iter().map(|member| member.pid).collect::<Vec<_>>(), [u32::try_from(pid).unwrap()]);
        tree.signal(libc::SIGKILL).unwrap();
        let gone = std::cell::Cell::new(false);
        let hook = |_: &mut Reactor, event: &Event<'_>| {
            gone.set(gone.get() || matches!(event, Event::TreeGone { certain: true, .. }));
        };
        world.until_with(hook, |log| gone.get() && log.ended(id));
        assert!(!alive(pid) && world.reactor.tree(id).is_none(), "the dead are nobody, reaped or not");
    }
}
