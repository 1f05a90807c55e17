//! Tests signals to children. It raises none in this process.

mod util;

use childminder::{Command, SignalError, Stdio, signal};
use util::{COMBINATIONS, World, on_all_combinations, sh};

/// A shell that writes the names of the signals that it gets, and ends at `quit` on its stdin, or
/// when this process is gone.
fn listener(names: &[&str]) -> Command {
    let traps: String = names.iter().map(|name| format!("trap 'echo {name}' {name}; ")).collect();
    // A signal makes `read` fail, as the end of stdin does.
    let next = "read line || kill -0 $PPID";
    let mut command = sh(&format!("{traps} echo ready; while {next}; do test \"$line\" != quit || exit 0; done"));
    command.stdin(Stdio::piped());
    command
}

on_all_combinations! {
    // All signals can be sent by number and by name.
    fn by_number_and_by_name(world: &mut World) {
        for number in (1..=64).filter(|number| !(32..libc::SIGRTMIN()).contains(number)) {
            let name = signal::name(number).expect("a name");
            for name in [name.as_str(), name.trim_start_matches("SIG"), &number.to_string(), &name.to_lowercase()] {
                assert_eq!(signal::from_name(name), Some(number), "{name}");
            }
        }
        let mut command = Command::new("sleep");
        for name in ["SIGUSR2", "alrm", "RTMIN+1", "13"] {
            let number = signal::from_name(name).unwrap();
            let id = world.spawn(command.args(["1000"]));
            world.process(id).signal(number).unwrap();
            assert_eq!(world.until_ended(id).exit.signal(), Some(number), "{name}");
        }
    }

    // The signal reaches only the process.
    fn handled_by_the_child(world: &mut World) {
        let id = world.spawn(&listener(&["HUP", "USR1"]));
        world.until_said(id, 1, "ready\n");
        world.process(id).signal(libc::SIGUSR1).unwrap();
        world.process(id).write(0, b"\n").unwrap();
        world.until_said(id, 1, "USR1\n");
        world.process(id).signal_group(libc::SIGHUP).unwrap();
        world.process(id).write(0, b"\n").unwrap();
        world.until_said(id, 1, "HUP\n");
        world.process(id).signal(0).unwrap();
        world.process(id).write(0, b"quit\n").unwrap();
        let outcome = world.until_ended(id);
        assert_eq!(outcome.out, "ready\nUSR1\nHUP\n");
        // It is the last signal that was sent. Signal 0 requests nothing.
        assert_eq!((outcome.exit.code(), outcome.exit.requested), (Some(0), Some(libc::SIGHUP)));
    }

    // Twisted: killExited, killExitedButNotDetected, killErrorInKill.
    fn after_the_exit(world: &mut World) {
        let id = world.spawn(&sh("sleep 1000 & echo $!; exit 0"));
        world.until_said(id, 1, "\n");
        world.until(|log| log.exit(id).is_some());
        let left = world.log.text(id, 1);
        for signal in [0, libc::SIGTERM, libc::SIGKILL, -1, 9999] {
            let error = world.process(id).signal(signal).unwrap_err();
            assert!(matches!(error, SignalError::AlreadyExited), "{error:?}");
            assert_eq!(error.to_string(), "the process has already exited");
        }
        // The group can be reached or not, but there is never an error of another kind.
        match world.process(id).kill_group() {
            Ok(()) => {}
            Err(error) => {
                assert!(matches!(error, SignalError::AlreadyExited), "{error:?}");
                assert!(std::process::Command::new("kill").args(["-KILL", left.trim()]).status().unwrap().success());
            }
        }
        assert_eq!(world.until_ended(id).exit.requested, None);
    }

    // Twisted: killErrorInKill.
    fn invalid_numbers(world: &mut World) {
        let mut command = Command::new("cat");
        let id = world.spawn(command.stdin(Stdio::piped()));
        for signal in [-1, 65, 9999, i32::MIN] {
            for error in [world.process(id).signal(signal).unwrap_err(), world.process(id).signal_group(signal).unwrap_err()] {
                match error {
                    SignalError::Os(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
                    other => panic!("{other:?}"),
                }
            }
        }
        world.process(id).close_stdin();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.code(), exit.requested), (Some(0), None));
    }

    // A stopped process does not act on SIGTERM unless it is continued.
    fn terminate_a_stopped_group(world: &mut World) {
        let mut command = Command::new("sleep");
        let id = world.spawn(command.arg("1000"));
        world.process(id).signal_group(libc::SIGSTOP).unwrap();
        world.process(id).terminate_group(libc::SIGTERM).unwrap();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.signal(), exit.requested), (Some(libc::SIGTERM), Some(libc::SIGTERM)));
    }

    // A child in the host's group gets the signals for its group alone.
    fn a_child_in_our_group(world: &mut World) {
        let mut command = listener(&["USR1"]);
        let id = world.spawn(command.inherit_process_group());
        world.until_said(id, 1, "ready\n");
        // The signal reaches only the child. The group is ours, and this process lives.
        world.process(id).signal_group(libc::SIGUSR1).unwrap();
        world.process(id).write(0, b"quit\n").unwrap();
        assert_eq!(world.until_ended(id).out, "ready\nUSR1\n");
        let mut command = Command::new("sleep");
        let id = world.spawn(command.arg("1000").inherit_process_group());
        world.process(id).kill_group().unwrap();
        assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGKILL));
    }

    // hygiene.rs tests the counterpart of Twisted's childSignalHandling.
    fn a_child_that_will_not(world: &mut World) {
        let mut command = sh("trap '' TERM; echo ready; while :; do read line || exit; done");
        let id = world.spawn(command.stdin(Stdio::piped()));
        world.until_said(id, 1, "ready\n");
        world.process(id).terminate_group(libc::SIGTERM).unwrap();
        world.settle();
        assert_eq!(world.log.exit(id), None);
        world.process(id).kill_group().unwrap();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.signal(), exit.requested), (Some(libc::SIGKILL), Some(libc::SIGKILL)));
    }
}
