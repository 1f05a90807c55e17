//! Tests children on a pseudo-terminal. The terminal is the child's, and this process does not use
//! it as its own.

mod util;

use childminder::{Command, Event, Pty, Stage, Stdio, WriteError};
use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetwinsize};
use util::{COMBINATIONS, World, on_all_combinations, sh};

fn on_pty(mut command: Command, pty: Pty) -> Command {
    command.pty(pty);
    command
}

fn pty_sh(script: &str) -> Command {
    on_pty(sh(script), Pty::new())
}

on_all_combinations! {
    // The terminal is stdin, stdout, stderr and the controlling terminal, in a session of its own.
    // Twisted: test_openingTTY, mockForkTTY.
    fn controlling_terminal(world: &mut World) {
        let script = "tty; test -t 0 -a -t 1 -a -t 2 && echo all; echo seen >/dev/tty; ls -1v /proc/$$/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$";
        let outcome = world.run(&pty_sh(script));
        let lines: Vec<&str> = outcome.out.split("\r\n").collect();
        assert!(lines[0].starts_with("/dev/pts/"), "{outcome:?}");
        // The output is data of descriptor 1, with the line ends of the terminal.
        assert_eq!(lines[1..6], ["all", "seen", "0", "1", "2"], "{outcome:?}");
        // A shell that controls jobs has its terminal at descriptor 10 as well. This one does not.
        assert_eq!(lines[6], format!("{0} {0}", lines[7]), "{outcome:?}");
        assert_eq!(outcome.err, "");
    }

    // Signals have their defaults, and nothing else is open. There is a pipe beside the terminal.
    fn beside_a_pipe(world: &mut World) {
        let mut command = pty_sh("echo screen; echo pipe >&3; cat /proc/self/status >&3");
        command.fd(3, Stdio::reader());
        let id = world.spawn(&command);
        let outcome = world.until_ended(id);
        assert_eq!(outcome.out, "screen\r\n");
        let said = world.log.text(id, 3);
        assert!(said.starts_with("pipe\n"));
        for field in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(util::field_of(&said, field), "0".repeat(16), "{field}");
        }
    }

    // Twisted: test_badArgs.
    fn its_own_descriptors_are_taken(world: &mut World) {
        for fd in 0..2 {
            let mut command = pty_sh("true");
            command.fd(fd, Stdio::null());
            let error = world.reactor.spawn_process(&command).unwrap_err();
            assert_eq!(error.stage(), Stage::Command);
            assert!(error.to_string().contains("pseudo-terminal's"), "{error}");
        }
    }

    // stderr can be a pipe of its own, or anything else. The rest is the terminal.
    fn stderr_apart(world: &mut World) {
        let script = "test -t 0 -a -t 1 && echo screen; test -t 2 || echo apart >&2; echo seen >/dev/tty";
        let mut command = pty_sh(script);
        command.stderr(Stdio::piped());
        let outcome = world.run(&command);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("screen\r\nseen\r\n", "apart\n"));
        command.stderr(Stdio::null());
        let outcome = world.run(&command);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("screen\r\nseen\r\n", ""));
        // A program that keeps only stderr open does not keep the terminal open.
        let mut command = pty_sh("exec sh -c 'echo last; exec >&- <&-; echo apart >&2'");
        command.stderr(Stdio::piped());
        let outcome = world.run(&command);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("last\r\n", "apart\n"));
        command.stderr(Stdio::same_as(1));
        assert_eq!(world.run(&pty_sh("echo both >&2")).out, "both\r\n");
    }

    // The host can ask the terminal for its modes, its size and its foreground group, until it is
    // closed.
    fn the_terminal_itself(world: &mut World) {
        if !util::needs_the_kernel("ioctl TCGETS2, which rustix uses") {
            return;
        }
        let script = "trap 'stty size' WINCH; stty -icanon; echo ready; until [ \"$line\" ]; do read line; done";
        let id = world.spawn(&on_pty(sh(script), Pty::new().echo(false).size(24, 80)));
        world.until_said(id, 1, "ready");
        let process = world.process(id);
        let terminal = process.terminal().unwrap();
        let modes = tcgetattr(terminal).unwrap().local_modes;
        assert!(!modes.intersects(LocalModes::ECHO | LocalModes::ICANON), "{modes:?}");
        let leader = tcgetpgrp(terminal).unwrap().as_raw_nonzero().get().unsigned_abs();
        assert_eq!(leader, process.pid().unwrap());
        let mut size = tcgetwinsize(terminal).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
        size.ws_row = 30;
        tcsetwinsize(terminal, size).unwrap();
        world.until_said(id, 1, "30 80");
        // Its input ends with the process, although nothing reads its output any more.
        world.process(id).close(1);
        assert!(world.process(id).terminal().is_none());
        world.process(id).kill_group().unwrap();
        world.until_ended(id);

        let id = world.spawn(&sh("exec sleep 1000"));
        assert!(world.process(id).terminal().is_none());
        world.process(id).kill_group().unwrap();
        world.until(|log| log.ended(id));
    }

    // The terminal echoes the input, and ends lines with CR LF.
    fn echo_on(world: &mut World) {
        let id = world.spawn(&on_pty(Command::new("cat"), Pty::new()));
        world.process(id).write(0, b"hello\n").unwrap();
        world.until_said(id, 1, "hello\r\nhello\r\n");
        // Control-D on an empty line ends the input.
        world.process(id).write(0, b"\x04").unwrap();
        let outcome = world.until_ended(id);
        assert!(outcome.exit.success(), "{outcome:?}");
        assert_eq!(outcome.out, "hello\r\nhello\r\n");
    }

    // Twisted has no such option.
    fn echo_off(world: &mut World) {
        let id = world.spawn(&on_pty(Command::new("cat"), Pty::new().echo(false)));
        world.process(id).write(0, b"hello\n\x04").unwrap();
        assert_eq!(world.until_ended(id).out, "hello\r\n");
    }

    fn raw(world: &mut World) {
        let all: Vec<u8> = (0..=255).collect();
        let id = world.spawn(&on_pty(sh("echo ready; head -c 256"), Pty::new().raw()));
        world.until_said(id, 1, "ready\n");
        world.process(id).write(0, &all).unwrap();
        world.until(|log| log.ended(id));
        assert_eq!(world.log.data(id, 1)[6..], all);
        world.log.expect_in_order(id);
    }

    // A raw terminal takes far more input than its buffers hold, at the pace of the reader.
    fn much_input(world: &mut World) {
        let mut command = on_pty(sh("echo ready; read go <&3; head -c 300000 | cksum"), Pty::new().raw());
        command.fd(3, Stdio::writer());
        let id = world.spawn(&command);
        world.until_said(id, 1, "ready\n");
        let data: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
        assert!(!world.process(id).write(0, &data).unwrap());
        assert!(world.process(id).pending(0).unwrap() > 200_000);
        world.process(id).write(3, b"go\n").unwrap();
        world.until(|log| log.ended(id));
        let mut cksum = Command::new("cksum");
        let check = world.spawn(cksum.stdin(Stdio::piped()));
        world.process(check).write(0, &data).unwrap();
        world.process(check).close_stdin();
        let expected = world.until_ended(check).out;
        assert_eq!(world.log.text(id, 1), format!("ready\n{expected}"));
        assert_eq!(world.log.drained(id), 1);
    }

    // The terminal has a size, which can change.
    fn size(world: &mut World) {
        let id = world.spawn(&pty_sh("trap 'stty size' WINCH; stty size; echo ready; while :; do sleep 0.01; done"));
        world.until_said(id, 1, "24 80\r\nready\r\n");
        world.process(id).resize(50, 132).unwrap();
        world.until_said(id, 1, "50 132\r\n");
        world.process(id).kill_group().unwrap();
        world.until_ended(id);
        let outcome = world.run(&on_pty(sh("stty size"), Pty::new().size(7, 11)));
        assert_eq!(outcome.out, "7 11\r\n");
        let mut command = Command::new("cat");
        let id = world.spawn(command.stdin(Stdio::piped()));
        assert_eq!(world.process(id).resize(1, 1).unwrap_err().kind(), std::io::ErrorKind::NotConnected);
        world.process(id).close_stdin();
        world.until_ended(id);
    }

    // The child learns that its terminal is gone. Twisted: TwoProcesses test_closePty.
    fn hang_up(world: &mut World) {
        let mut command = pty_sh("trap 'echo hup >&3; exit 7' HUP; echo ready; while :; do read line || sleep .01; done");
        command.fd(3, Stdio::reader());
        let id = world.spawn(&command);
        world.until_said(id, 1, "ready\r\n");
        world.process(id).close(0);
        world.process(id).close(1);
        assert_eq!(world.process(id).write(0, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        assert_eq!(world.until_ended(id).exit.code(), Some(7));
        assert_eq!(world.log.text(id, 3), "hup\n");
        // A reader may see the end of the terminal before the signal comes.
        let id = world.spawn(&pty_sh("echo ready; exec sleep 1000"));
        world.until_said(id, 1, "ready\r\n");
        world.process(id).close_all();
        assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGHUP));
    }

    // Closing only the way in does not hang the terminal up.
    fn the_way_in_alone(world: &mut World) {
        let mut command = pty_sh("echo ready; read go <&3; echo still here; exit 4");
        command.fd(3, Stdio::writer());
        let id = world.spawn(&command);
        world.until_said(id, 1, "ready\r\n");
        world.process(id).close_stdin();
        world.process(id).write(3, b"go\n").unwrap();
        let outcome = world.until_ended(id);
        assert_eq!((outcome.out.as_str(), outcome.exit.code()), ("ready\r\nstill here\r\n", Some(4)));
    }

    // The end of file of a terminal is EIO, and no output before it is lost.
    fn all_output(world: &mut World) {
        let mut command = Command::new("seq");
        command.args(["1", "20000"]);
        let outcome = world.run(&on_pty(command, Pty::new()));
        let expected: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
        assert!(outcome.out == expected, "{} bytes of {}", outcome.out.len(), expected.len());
        assert!(outcome.exit.success());
    }

    // No output is lost during a pause either.
    fn all_output_after_a_pause(world: &mut World) {
        let id = world.spawn(&pty_sh("seq 1 500"));
        world.process(id).pause(1);
        world.until(|log| log.exit(id).is_some());
        world.settle();
        assert!(!world.log.ended(id));
        world.process(id).resume(1);
        let expected: String = (1..=500).map(|number| format!("{number}\r\n")).collect();
        assert_eq!(world.until_ended(id).out, expected);
        let id = world.spawn(&pty_sh("read line"));
        world.process(id).pause_all();
        world.process(id).signal(libc::SIGKILL).unwrap();
        world.until_ended(id);
    }

    // A grandchild that holds the terminal does not delay the end.
    fn a_grandchild_holds_the_terminal(world: &mut World) {
        for script in ["sleep 1000 & echo $!; read line", "trap '' HUP; sleep 1000 & echo $!; read line"] {
            let id = world.spawn(&pty_sh(script));
            world.until_said(id, 1, "\r\n");
            world.process(id).write(0, b"go\n").unwrap();
            let outcome = world.until_ended(id);
            assert!(outcome.exit.success());
            // The first one has been killed by the hang-up, or will be. The other one ignores it.
            let pid = outcome.out.lines().next().unwrap().trim();
            let killed = std::process::Command::new("kill").args(["-KILL", pid]).output().unwrap();
            assert!(killed.status.success() || !script.contains("trap"));
        }
    }

    // The end does not come when the child has closed its descriptors. It can still exit by itself,
    // and open /dev/tty again.
    fn all_descriptors_closed(world: &mut World) {
        let mut command = pty_sh("exec 0<&- 1>&- 2>&-; read go <&3; seq 1 5000 >/dev/tty; read go <&3; exit 4");
        command.fd(3, Stdio::writer());
        let id = world.spawn(&command);
        world.process(id).write(3, b"go\n").unwrap();
        world.until_said(id, 1, "\n5000\r\n");
        assert_eq!((world.log.closed(id, 0), world.log.closed(id, 1)), (None, None));
        world.process(id).write(3, b"go\n").unwrap();
        assert_eq!(world.until_ended(id).exit.code(), Some(4));
    }

    // These are normalTermination, abnormalTermination, signalHUP, INT, KILL and TERM on a
    // terminal. Twisted: TwoProcesses test_killPty.
    fn ends(world: &mut World) {
        assert_eq!(world.run(&pty_sh("exit 0")).exit.code(), Some(0));
        assert_eq!(world.run(&pty_sh("exit 1")).exit.code(), Some(1));
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGKILL, libc::SIGTERM] {
            let mut command = Command::new("sleep");
            command.arg("1000");
            let id = world.spawn(&on_pty(command, Pty::new()));
            world.process(id).signal(signal).unwrap();
            assert_eq!(world.until_ended(id).exit.signal(), Some(signal));
        }
    }

    // Control-C is pressed on the terminal.
    fn control_c(world: &mut World) {
        let id = world.spawn(&pty_sh("echo ready; read line"));
        world.until_said(id, 1, "ready\r\n");
        world.process(id).write(0, b"\x03").unwrap();
        let exit = world.until_ended(id).exit;
        assert_eq!((exit.signal(), exit.requested), (Some(libc::SIGINT), None));
    }

    // The error is the same as without a terminal, and nothing is written to the terminal. Twisted:
    // executionError.
    fn failure(world: &mut World) {
        let error = world.reactor.spawn_process(&on_pty(Command::new("/no/such"), Pty::new())).unwrap_err();
        assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Exec, Some(libc::ENOENT)));
        world.settle();
        assert!(world.log.0.is_empty());
    }

    // A handler closes the terminal at its first output.
    fn closed_from_within_its_data(world: &mut World) {
        let mut command = Command::new("yes");
        command.arg("y");
        let id = world.spawn(&on_pty(command, Pty::new()));
        world.until_with(
            |reactor, event| {
                if let Event::Data { process, .. } = event {
                    reactor.process(*process).unwrap().close_all();
                }
            },
            |log| log.ended(id),
        );
        assert_eq!(world.log.closed(id, 0), Some(0));
        assert!(world.log.exit(id).unwrap().signal().is_some() || world.log.exit(id).unwrap().code() == Some(1));
        world.log.expect_in_order(id);
    }
}
