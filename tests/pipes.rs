//! Tests the pipes: writing, reading, closing and pausing. Real programs are at the other end, and
//! nothing of this process changes.

mod util;

use std::io::IoSlice;

use childminder::{Command, Event, Stdio, WriteError};
use util::{COMBINATIONS, Outcome, World, on_all_combinations, sh};

fn cat() -> Command {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped());
    command
}

/// Bytes in which a missing or doubled one shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

on_all_combinations! {
    // Twisted: test_write, test_writeSequence, test_writeToChild, test_stdio.
    fn write(world: &mut World) {
        let id = world.spawn(&cat());
        assert!(world.process(id).write(0, b"one ").unwrap());
        let pieces = [b"two ".as_slice(), b"", b"three "];
        assert!(world.process(id).write_vectored(0, &pieces.map(IoSlice::new)).unwrap());
        assert!(world.process(id).write_vectored(0, &[]).unwrap());
        assert!(world.process(id).write(0, b"").unwrap());
        let many: Vec<IoSlice<'_>> = (0..3000).map(|_| IoSlice::new(b"x")).collect();
        assert!(world.process(id).write_vectored(0, &many).unwrap());
        world.process(id).close_stdin();
        let outcome = world.until_ended(id);
        assert_eq!(outcome.out, format!("one two three {}", "x".repeat(3000)));
        assert!(outcome.exit.success());
        assert_eq!(world.log.closed(id, 0), Some(0));
    }

    // Nothing is dropped without an error. Twisted: test_writeToChildBadFileDescriptor.
    fn write_to_nothing(world: &mut World) {
        let id = world.spawn(&cat());
        assert_eq!(world.process(id).write(13, b"x"), Err(WriteError::NoPipe { fd: 13 }));
        assert_eq!(world.process(id).write(1, b"x"), Err(WriteError::NoPipe { fd: 1 }));
        assert_eq!(world.process(id).pending(13), None);
        assert_eq!(world.process(id).set_high_water(13, 1), Err(WriteError::NoPipe { fd: 13 }));
        world.process(id).close(0);
        assert_eq!(world.process(id).write(0, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        // Without a pipe, these calls have no effect.
        world.process(id).close(13);
        world.process(id).close(0);
        world.process(id).close_after_flush(13);
        world.process(id).pause(13);
        world.process(id).resume(13);
        assert!(world.until_ended(id).exit.success());
    }

    // 70 kB go there and back, and a handler closes stdin. Twisted: test_echo.
    fn echo_70_kb(world: &mut World) {
        let data = pattern(70_000);
        let id = world.spawn(&cat());
        world.process(id).write(0, &data).unwrap();
        let mut seen = 0;
        world.until_with(
            |reactor, event| {
                if let Event::Data { process, data, .. } = event {
                    seen += data.len();
                    if seen == 70_000 {
                        reactor.process(*process).unwrap().close_stdin();
                    }
                }
            },
            |log| log.ended(id),
        );
        assert!(world.log.data(id, 1) == data);
        assert!(world.log.exit(id).unwrap().success());
        world.log.expect_in_order(id);
    }

    // All data arrives, and a write after the close is refused.
    fn a_slow_reader_gets_all(world: &mut World) {
        let data = pattern(300_000);
        let mut command = sh("read go <&3; cat");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        assert!(!world.process(id).write(0, &data).unwrap());
        world.process(id).close_stdin();
        assert_eq!(world.process(id).write(0, b"b"), Err(WriteError::Closing { fd: 0 }));
        let pending = world.process(id).pending(0).unwrap();
        assert!(pending > 200_000 && pending < 300_000, "{pending}");
        world.settle();
        assert_eq!(world.process(id).pending(0), Some(pending));
        world.process(id).write(3, b"go\n").unwrap();
        world.until(|log| log.ended(id));
        assert!(world.log.data(id, 1) == data);
        assert_eq!(world.log.closed(id, 0), Some(0));
        assert_eq!(world.log.drained(id), 0);
        world.log.expect_in_order(id);
    }

    // A write asks for a pause above the high-water mark, not at it, and `Drained` comes once when
    // all is written.
    fn high_water_and_drained(world: &mut World) {
        let mut command = sh("read go <&3; cat >/dev/null");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        // This fills the pipe itself.
        let mut room = 0;
        while world.process(id).pending(0) == Some(0) {
            assert!(world.process(id).write(0, &[0; 1000]).unwrap());
            room += 1000;
        }
        let pending = world.process(id).pending(0).unwrap();
        assert!(world.process(id).write(0, &vec![0; 65_536 - pending]).unwrap(), "at the mark, after {room}");
        assert!(!world.process(id).write(0, b"!").unwrap());
        assert!(!world.process(id).write(0, b"!").unwrap());
        assert_eq!(world.process(id).pending(0), Some(65_538));
        world.settle();
        assert_eq!(world.log.drained(id), 0);
        world.process(id).write(3, b"go\n").unwrap();
        world.until(|log| log.drained(id) == 1);
        assert_eq!(world.process(id).pending(0), Some(0));
        // Below the mark there is no event.
        world.process(id).set_high_water(0, 1_000_000).unwrap();
        assert!(world.process(id).write(0, &vec![0; 500_000]).unwrap());
        world.process(id).close_stdin();
        world.until_ended(id);
        assert_eq!(world.log.drained(id), 1);
    }

    // With a high-water mark of 0, any byte that does not fit into the pipe asks for a pause.
    fn no_buffer_wanted(world: &mut World) {
        let id = world.spawn(&cat());
        world.process(id).set_high_water(0, 0).unwrap();
        assert!(world.process(id).write(0, b"fits").unwrap());
        assert!(!world.process(id).write(0, &vec![0; 100_000]).unwrap());
        world.until(|log| log.drained(id) == 1);
        world.process(id).close_stdin();
        world.until_ended(id);
        assert_eq!(world.log.data(id, 1).len(), 100_004);
    }

    // The close is noticed without a write. A write is no error then, but a loss that is reported
    // in bytes.
    fn the_child_closes_its_stdin(world: &mut World) {
        let mut command = sh("exec 0<&-; echo closed; read go <&3");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        world.until(|log| log.closed(id, 0).is_some());
        assert_eq!(world.log.closed(id, 0), Some(0));
        assert_eq!(world.log.exit(id), None);
        assert_eq!(world.process(id).write(0, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        world.process(id).write(3, b"go\n").unwrap();
        world.until_ended(id);
    }

    // The write itself gets EPIPE.
    fn a_write_to_a_gone_reader(world: &mut World) {
        let mut command = sh("exec 0<&-; echo closed; read go <&3");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer());
        let id = world.spawn(&command);
        let mut wrote = None;
        world.until_with(
            |reactor, event| {
                // The write is in the same turn, most likely before the close is reported.
                if let (Event::Data { process, fd: 1, .. }, None) = (event, wrote) {
                    wrote = Some(reactor.process(*process).unwrap().write(0, b"lost!"));
                }
            },
            |log| log.closed(id, 0).is_some() && !log.data(id, 1).is_empty(),
        );
        match wrote {
            Some(Ok(false)) => assert_eq!(world.log.closed(id, 0), Some(5)),
            // A child of another test had the other end, too, until its exec, or the close was
            // reported before the data.
            Some(Ok(true) | Err(WriteError::NoPipe { fd: 0 })) | None => assert_eq!(world.log.closed(id, 0), Some(0)),
            other => panic!("{other:?}"),
        }
        world.process(id).write(3, b"go\n").unwrap();
        world.until_ended(id);
    }

    // Lost data is reported in bytes: by an exit, by a close of ours, and by a close after a flush
    // that is not possible.
    fn lost_bytes(world: &mut World) {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::piped()).fd(3, Stdio::writer()).fd(4, Stdio::writer());
        let id = world.spawn(&command);
        for fd in [0, 3, 4] {
            assert!(!world.process(id).write(fd, &[7; 300_000]).unwrap());
        }
        let pending = world.process(id).pending(0).unwrap();
        world.process(id).close(3);
        world.process(id).close_after_flush(4);
        assert_eq!(world.log.closed(id, 3), None, "told from inside a call");
        world.until(|log| log.closed(id, 3).is_some());
        assert_eq!(world.log.closed(id, 3), Some(pending));
        world.process(id).signal(libc::SIGKILL).unwrap();
        world.until_ended(id);
        assert_eq!(world.log.closed(id, 0), Some(pending));
        assert_eq!(world.log.closed(id, 4), Some(pending));
    }

    // Twisted: ClosingPipesTests test_stdout, test_stderr.
    fn closing_ours_gives_epipe(world: &mut World) {
        // The script writes again and again, because a child of another test may have our end, too,
        // until its exec.
        for fd in [1, 2] {
            let mut command = sh(&format!("read go; trap '' PIPE; while echo x >&{fd}; do :; done; exit 42"));
            command.stdin(Stdio::piped());
            let id = world.spawn(&command);
            world.process(id).close(fd);
            world.until(|log| log.closed(id, fd).is_some());
            world.process(id).write(0, b"go\n").unwrap();
            let outcome = world.until_ended(id);
            assert_eq!(outcome.exit.code(), Some(42));
            assert_eq!(world.log.data(id, fd), b"");
        }
        let mut command = sh("read go; while :; do echo x; done");
        command.stdin(Stdio::piped());
        let id = world.spawn(&command);
        world.process(id).close_after_flush(1);
        world.process(id).write(0, b"go\n").unwrap();
        assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGPIPE));
    }

    // Every pipe is closed, also those above 2. Twisted: test_close, test_processEnded.
    fn close_all(world: &mut World) {
        let mut command = sh("read a; read b <&3; cat >/dev/null; test \"$a$b\" = xy");
        command.stdin(Stdio::piped()).fd(3, Stdio::writer()).fd(5, Stdio::reader());
        let first = world.spawn(&command);
        let second = world.spawn(&command);
        for id in [first, second] {
            world.process(id).write(0, b"x\n").unwrap();
            world.process(id).write(3, b"y\n").unwrap();
            world.process(id).close_all();
            world.process(id).close_all();
            let outcome = world.until_ended(id);
            assert!(outcome.exit.success(), "{outcome:?}");
            for fd in [0, 1, 2, 3, 5] {
                assert_eq!(world.log.closed(id, fd), Some(0));
            }
        }
    }

    // Twisted: test_childConnectionLost.
    fn closed_one_after_another(world: &mut World) {
        let mut command = sh("exec 2>&-; read a; exec 1>&-; read b; exit 0");
        command.stdin(Stdio::piped());
        let id = world.spawn(&command);
        world.until(|log| log.closed(id, 2).is_some());
        assert_eq!(world.log.closed(id, 1), None);
        world.process(id).write(0, b"a\n").unwrap();
        world.until(|log| log.closed(id, 1).is_some());
        assert_eq!((world.log.closed(id, 0), world.log.exit(id)), (None, None));
        world.process(id).write(0, b"b\n").unwrap();
        assert!(world.until_ended(id).exit.success());
    }

    // The child waits during the pause, and no data is lost. Twisted: test_pauseAndResumeProducing.
    fn pause_and_resume(world: &mut World) {
        let mut command = sh("head -c 1000000 /dev/zero; echo done >&2");
        command.stdin(Stdio::null());
        let id = world.spawn(&command);
        world.process(id).pause(1);
        world.process(id).pause(1);
        for _ in 0..20 {
            world.turn_with(std::time::Duration::from_millis(1), |_, _| {});
        }
        assert_eq!((world.log.data(id, 1).len(), world.log.text(id, 2).as_str()), (0, ""));
        assert_eq!(world.process(id).bytes_read(1), Some(0));
        world.process(id).resume(1);
        world.process(id).resume(1);
        let mut paused = 0;
        // The pauses come again and again, in the middle of the data.
        world.until_with(
            |reactor, event| {
                if let Event::Data { process, fd: 1, .. } = event {
                    paused += 1;
                    let mut process = reactor.process(*process).unwrap();
                    process.pause_all();
                    if paused % 2 == 0 {
                        process.resume_all();
                    } else {
                        reactor.call_later(std::time::Duration::ZERO);
                    }
                }
                if let Event::Timer(_) = event {
                    if let Some(mut process) = reactor.process(id) {
                        process.resume_all();
                    }
                }
            },
            |log| log.ended(id),
        );
        assert_eq!(world.log.data(id, 1).len(), 1_000_000);
        assert_eq!(world.log.text(id, 2), "done\n");
        world.log.expect_in_order(id);
    }

    // These blocks never fill the pipe to the last byte. A process that writes little keeps its
    // pipe's size.
    fn a_flood_gets_a_larger_pipe(world: &mut World) {
        let sizes = |world: &mut World, work: &str| {
            let script = format!(
                "import fcntl, os, sys\nsize = lambda: fcntl.fcntl(1, 1032)\nbefore = size()\n{work}\nprint(before, size(), file=sys.stderr)"
            );
            let mut command = Command::new("python3");
            let id = world.spawn(command.args(["-c", &script]));
            assert!(world.until_ended(id).exit.success());
            let sizes: Vec<u32> = world.log.text(id, 2).split_whitespace().map(|size| size.parse().unwrap()).collect();
            (sizes[0], sizes[1])
        };
        let (before, after) = sizes(world, "for _ in range(400): os.write(1, b'x' * 65500)");
        // Without root, the size depends on the room that this user's other pipes leave.
        if util::needs_root() && util::needs_the_kernel("rights of root over the size of pipes") {
            assert_eq!((before, after), (65_536, 262_144));
        }
        let (before, after) = sizes(world, "for _ in range(100): os.write(1, b'x')");
        assert_eq!(before, after);
    }

    // Each read returns one packet, however large the buffer is.
    fn packets_are_not_lost(world: &mut World) {
        let script = "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)\n\
                      for number in range(9): os.write(1, b'%d\\n' % number)";
        let mut command = Command::new("python3");
        assert_eq!(world.output(command.args(["-c", script])), "0\n1\n2\n3\n4\n5\n6\n7\n8\n");
    }

    // An exit and an end of file without data before it are noticed during a pause.
    fn the_end_while_paused(world: &mut World) {
        let mut command = sh("read go; exit 3");
        command.stdin(Stdio::piped());
        let id = world.spawn(&command);
        world.process(id).pause_all();
        world.settle();
        world.process(id).write(0, b"go\n").unwrap();
        assert_eq!(world.until_ended(id).exit.code(), Some(3));
    }

    // The same holds if the pause comes when the end of file is known already.
    fn paused_at_the_last_data(world: &mut World) {
        let id = world.spawn(&sh("echo last; exit 3"));
        // Both the data and the end are there before the first read.
        let pid = world.process(id).pid().unwrap();
        let deadline = util::now() + util::WATCHDOG;
        while !util::status_field(&pid.to_string(), "State").starts_with('Z') {
            assert!(util::now() < deadline);
            std::thread::yield_now();
        }
        world.until_with(
            |reactor, event| {
                if let Event::Data { process, .. } = event {
                    reactor.process(*process).unwrap().pause_all();
                }
            },
            |log| log.ended(id),
        );
        assert_eq!(world.log.text(id, 1), "last\n");
        world.log.expect_in_order(id);
    }

    // Unread data waits for the resume, and so does the end. The exit does not.
    fn data_and_the_end_while_paused(world: &mut World) {
        let id = world.spawn(&sh("echo unread; exit 3"));
        world.process(id).pause_all();
        world.until(|log| log.exit(id).is_some());
        world.until(|log| log.closed(id, 2).is_some());
        world.settle();
        assert_eq!((world.log.data(id, 1).len(), world.log.closed(id, 1), world.log.ended(id)), (0, None, false));
        world.process(id).resume_all();
        assert_eq!(world.until_ended(id).out, "unread\n");
    }

    // Data that was written before an exit is never lost.
    fn data_before_the_death(world: &mut World) {
        for len in [1, 4096, 65_536, 65_537, 200_000, 1_000_000] {
            let mut command = sh(&format!("head -c {len} /dev/zero; kill -9 $$"));
            command.stderr(Stdio::null());
            let id = world.spawn(&command);
            world.until_ended(id);
            assert_eq!(world.log.data(id, 1).len(), len);
        }
    }

    // A process with much output does not keep the others waiting.
    fn a_flood_beside_a_drip(world: &mut World) {
        let mut flood = Command::new("cat");
        let flood = world.spawn(flood.arg("/dev/zero"));
        world.until(|log| !log.data(flood, 1).is_empty());
        let mut turns = 0;
        let drip = world.spawn(&sh("for i in 1 2 3 4 5; do echo $i; done"));
        let deadline = util::now() + util::WATCHDOG;
        while !world.log.ended(drip) {
            world.log.0.retain(|(id, _)| *id != flood);
            world.turn_with(util::WATCHDOG, |_, _| {});
            turns += 1;
            assert!(util::now() < deadline, "{turns}");
        }
        assert_eq!(world.log.text(drip, 1), "1\n2\n3\n4\n5\n");
        assert!(world.process(flood).bytes_read(1).unwrap() > 0);
        world.process(flood).kill_group().unwrap();
        world.until(|log| log.ended(flood));
    }

    // This is Twisted's test_process with five stages, 25 at once: test_manyProcesses.
    fn many_processes(world: &mut World) {
        let script = "read a; echo 1 $a; exec 1>&-; read b; echo 2 $b >&2; exec 2>&-; read c; exit 23";
        let mut command = sh(script);
        command.stdin(Stdio::piped());
        let ids: Vec<_> = (0..25).map(|_| world.spawn(&command)).collect();
        for id in &ids {
            world.process(*id).write(0, b"x\n").unwrap();
        }
        world.until_with(
            |reactor, event| {
                if let Event::FdClosed { process, fd: 1 | 2, .. } = event {
                    if let Some(mut process) = reactor.process(*process) {
                        let _ = process.write(0, b"y\n");
                    }
                }
            },
            |log| ids.iter().all(|id| log.ended(*id)),
        );
        for id in ids {
            let Outcome { out, err, exit } = world.until_ended(id);
            assert_eq!((out.as_str(), err.as_str(), exit.code()), ("1 x\n", "2 y\n", Some(23)));
        }
    }

    // A handler closes the pipe that is being read.
    fn closed_from_within_its_data(world: &mut World) {
        let mut command = Command::new("yes");
        command.stderr(Stdio::null());
        let id = world.spawn(&command);
        world.until_with(
            |reactor, event| {
                if let Event::Data { process, fd, .. } = event {
                    reactor.process(*process).unwrap().close(*fd);
                }
            },
            |log| log.ended(id),
        );
        assert_eq!(world.log.exit(id).unwrap().signal(), Some(libc::SIGPIPE));
        assert_eq!(world.log.of(id).filter(|what| matches!(what, util::What::Data(..))).count(), 1);
        world.log.expect_in_order(id);
    }

    // A panic of a handler loses nothing but its event.
    fn a_panic_in_the_handler(world: &mut World) {
        let mut command = sh("head -c 500000 /dev/zero; cat");
        command.stdin(Stdio::piped());
        let mut ids: Vec<_> = (0..4).map(|_| world.spawn(&command)).collect();
        for id in &ids {
            world.process(*id).write(0, &[0; 200_000]).unwrap();
            world.process(*id).close_stdin();
        }
        let terminal = world.spawn(sh("seq 1 100").pty(childminder::Pty::new().raw()));
        ids.push(terminal);
        let mut events = 0;
        let deadline = util::now() + util::WATCHDOG;
        let log = &mut world.log;
        while !ids.iter().all(|id| log.ended(*id)) {
            assert!(util::now() < deadline, "something was lost");
            let turn = std::panic::AssertUnwindSafe(|| {
                world.reactor.turn(Some(util::WATCHDOG), |_, event| {
                    log.note(&event);
                    events += 1;
                    std::panic::resume_unwind(Box::new("on purpose"));
                })
            });
            let _ = std::panic::catch_unwind(turn);
        }
        for id in &ids {
            assert_eq!(log.data(*id, 1).len(), if *id == terminal { 292 } else { 700_000 });
            log.expect_in_order(*id);
        }
        assert!(events > 20, "{events}");
    }
}
