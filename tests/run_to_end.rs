//! Tests one call that runs a whole process: output, input, limits, time-outs, pipes that other
//! processes hold, and a comparison of its figures with GNU time's.

mod util;

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use childminder::{Cancel, Command, EndedBy, Output, Pty, ReapMethod, RunError, RunToEnd, SpawnMethod, Stage, Stdio};
use util::{COMBINATIONS, on_all_combinations, sh};

/// One way to spawn and one to reap, which is all that a harness uses of a reactor.
#[derive(Clone, Copy)]
struct Harness((SpawnMethod, ReapMethod));

impl Harness {
    fn new(methods: (SpawnMethod, ReapMethod)) -> Self {
        Self(methods)
    }

    fn run_to_end(self, command: &Command) -> RunToEnd<'_> {
        let (spawn, reap) = self.0;
        RunToEnd::new(command).methods(spawn, reap)
    }

    #[track_caller]
    fn run(self, command: &Command) -> Output {
        let command = command.clone();
        within_30_s(move || self.run_to_end(&command).run().unwrap())
    }
}

/// Fails instead of hanging, because a call that blocks is under test here.
#[track_caller]
fn within_30_s<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(what()));
    match receiver.recv_timeout(Duration::from_secs(30)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not come back"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().err().unwrap_or_else(|| Box::new("no result")))
        }
    }
}

/// How long something is waited for that never comes.
const WAIT: Duration = Duration::from_millis(20);

/// Gives the command another stdout, and returns a function that waits for a line from there.
fn told(command: &mut Command) -> impl FnOnce() + use<> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    command.stdout(writer);
    move || {
        let mut line = String::new();
        BufReader::new(std::fs::File::from(reader)).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
}

on_all_combinations! {
    fn returns_what_it_said_and_how_it_ended(harness: &mut Harness) {
        let output = harness.run(&sh("echo out; echo err >&2; exit 3"));
        assert_eq!(output.exit.code(), Some(3));
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert!(!output.timed_out && !output.pipes_left_open);
        assert_eq!(output.exit.requested, None);
    }

    fn feeds_more_than_a_pipe_holds_in_both_directions(harness: &mut Harness) {
        let harness = *harness;
        let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = input.clone();
        let output = within_30_s(move || harness.run_to_end(&Command::new("cat")).input(&input[..]).run().unwrap());
        assert!(output.stdout == expected);
        assert!(output.exit.success());
    }

    fn an_input_that_nobody_reads_is_no_error(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || harness.run_to_end(&sh("exec head -c 3")).input(io::repeat(b'x')).run().unwrap());
        assert_eq!(output.stdout, b"xxx");
        assert!(output.exit.success() && !output.pipes_left_open);
    }

    fn without_an_input_stdin_is_at_its_end(harness: &mut Harness) {
        for stdin in [Stdio::null(), Stdio::piped()] {
            let output = harness.run(sh("cat; echo done").stdin(stdin));
            assert_eq!(output.stdout, b"done\n");
        }
    }
}

struct Failing(bool);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.0, true) {
            return Err(io::Error::other("the disk is gone"));
        }
        buffer[..4].copy_from_slice(b"some");
        Ok(4)
    }
}

on_all_combinations! {
    fn an_input_that_cannot_be_read_is_an_error_and_kills(harness: &mut Harness) {
        let harness = *harness;
        for read_before in [false, true] {
            let result = within_30_s(move || {
                // The process would go on for ever after the end of its input.
                harness.run_to_end(&sh("trap '' TERM; cat; exec sleep 1234")).input(Failing(read_before)).run()
            });
            match result {
                Err(RunError::Input(error)) => assert_eq!(error.to_string(), "the disk is gone"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn a_program_that_there_is_not_is_an_error(harness: &mut Harness) {
        match harness.run_to_end(&Command::new("/no/such/program")).run() {
            Err(RunError::Spawn(error)) => assert_eq!(error.stage(), Stage::Exec),
            other => panic!("{other:?}"),
        }
    }

    fn output_beyond_the_limit_is_counted_and_dropped(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("head -c 3000000 /dev/zero; printf 1234567890 >&2");
            harness.run_to_end(&command).output_limit(1000).run().unwrap()
        });
        assert_eq!((output.stdout.len(), output.stdout_dropped), (1000, 2_999_000));
        assert_eq!((&output.stderr[..], output.stderr_dropped), (&b"1234567890"[..], 0));
        assert!(output.exit.success());
    }

    fn a_time_out_terminates_the_group_and_keeps_the_output(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("echo before; sleep 1234 & sleep 1234");
            harness.run_to_end(&command).timeout(Duration::from_secs(1)).run().unwrap()
        });
        assert!(output.timed_out && !output.pipes_left_open);
        assert_eq!(output.exit.signal(), Some(libc::SIGTERM));
        assert_eq!(output.exit.requested, Some(libc::SIGTERM));
        assert_eq!(output.stdout, b"before\n");
        assert!(output.exit.wall_time >= Duration::from_secs(1));
    }

    fn what_ignores_the_request_is_killed(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("trap '' TERM; echo ready; while :; do sleep 1234; done");
            let run = harness.run_to_end(&command).timeout(Duration::from_secs(1)).kill_time(Duration::from_millis(100));
            run.run().unwrap()
        });
        assert!(output.timed_out && !output.pipes_left_open);
        assert_eq!(output.exit.signal(), Some(libc::SIGKILL));
        assert_eq!(output.exit.requested, Some(libc::SIGKILL));
    }

    fn a_stopped_process_acts_on_the_request(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("trap 'echo asked; exit 7' TERM; kill -STOP $$; exit 8");
            harness.run_to_end(&command).timeout(Duration::from_secs(1)).kill_time(Duration::from_secs(20)).run().unwrap()
        });
        assert_eq!(output.exit.code(), Some(7));
        assert_eq!(output.stdout, b"asked\n");
    }

    /// The leader obeys, and a member of its group does not. The kill closes the member's pipe, so
    /// that this process sees the end of file.
    fn members_that_outlive_a_timed_out_leader_are_killed(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("(trap '' TERM; echo ready; while :; do sleep 1234; done) & wait");
            let run = harness.run_to_end(&command).timeout(Duration::from_secs(1)).kill_time(Duration::from_millis(200));
            run.drain_time(Duration::from_secs(20)).run().unwrap()
        });
        assert!(output.timed_out && !output.pipes_left_open);
        assert_eq!(output.exit.signal(), Some(libc::SIGTERM));
        assert_eq!(output.stdout, b"ready\n");
    }
}

/// Kills the grandchild that a test has left, by the pid that it printed first.
fn kill_the_one_that_is_left(harness: Harness, output: &Output) {
    let pid = String::from_utf8_lossy(&output.stdout).lines().next().unwrap().to_owned();
    let kill = harness.run(&sh(&format!("kill -KILL {pid}")));
    assert!(kill.exit.success(), "it was left to itself");
}

on_all_combinations! {
    fn a_grandchild_that_holds_the_pipes_holds_up_nobody(harness: &mut Harness) {
        let output = harness.run(&sh("sleep 1234 & echo $!; head -c 50000 /dev/zero; exit 5"));
        assert_eq!(output.exit.code(), Some(5));
        assert!(output.pipes_left_open && !output.timed_out);
        assert!(output.stdout.len() > 50_000, "all that it wrote itself is there");
        kill_the_one_that_is_left(*harness, &output);
    }

    fn a_grandchild_that_never_stops_writing_holds_up_nobody(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("yes & echo $! >&2; printf last >&2; exit 5");
            harness.run_to_end(&command).output_limit(100).drain_time(Duration::ZERO).run().unwrap()
        });
        assert_eq!(output.exit.code(), Some(5));
        // It ends by itself, because its pipe is broken now.
        assert!(output.pipes_left_open);
        assert!(output.stderr.ends_with(b"\nlast"));
    }

    fn a_grandchild_that_is_soon_done_is_waited_for(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let command = sh("(sleep 0.05; echo late) & exit 0");
            harness.run_to_end(&command).drain_time(Duration::from_secs(20)).run().unwrap()
        });
        assert_eq!(output.stdout, b"late\n");
        assert!(!output.pipes_left_open);
    }

    fn runs_on_a_pseudo_terminal(harness: &mut Harness) {
        let harness = *harness;
        let output = within_30_s(move || {
            let mut command = sh("test -t 0 && cat");
            harness.run_to_end(command.pty(Pty::new().echo(false))).input("hello\n\u{4}".as_bytes()).run().unwrap()
        });
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\r\n");
        assert!(output.exit.success());
    }
}

const TIME: &str = "/usr/bin/time";

/// The figures that GNU time reports for a run.
struct Timed {
    user: f64,
    system: f64,
    max_rss_kib: u64,
    signal: Option<i32>,
    code: Option<i32>,
}

/// Returns `None`, and records it, if there is no GNU time.
#[track_caller]
fn timed(harness: Harness, command: &Command) -> Option<(Timed, Output)> {
    if !Path::new(TIME).exists() {
        util::left_out(&format!("there is no {TIME}"));
        return None;
    }
    let mut time = Command::new(TIME);
    time.arg("-v").arg(command.get_program()).args(command.get_args()).env("LC_ALL", "C");
    let output = harness.run(&time);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let find =
        |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(|value| value.trim().to_owned());
    let number = |name| find(name).unwrap_or_else(|| panic!("no {name} in {text}")).parse::<f64>().unwrap();
    let signal = find("Command terminated by signal").map(|number| number.parse().unwrap());
    let timed = Timed {
        user: number("User time (seconds):"),
        system: number("System time (seconds):"),
        max_rss_kib: find("Maximum resident set size (kbytes):").unwrap().parse().unwrap(),
        signal,
        code: find("Exit status:").map(|code| code.parse().unwrap()).filter(|_| signal.is_none()),
    };
    Some((timed, output))
}

#[track_caller]
fn assert_close(ours: f64, theirs: f64, tolerance: f64, what: &str) {
    assert!((ours - theirs).abs() <= tolerance, "{what}: {ours} here, {theirs} by {TIME}");
}

on_all_combinations! {
    fn cpu_agrees_with_gnu_time(harness: &mut Harness) {
        let command = sh("i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; head -c 200000000 /dev/zero >/dev/null");
        let Some((theirs, both)) = timed(*harness, &command) else { return };
        // Both have measured the same run. GNU time adds next to nothing to it but its own exec,
        // and cuts its figures to 10 ms.
        let usage = both.exit.usage;
        assert!(usage.cpu_time() > Duration::from_millis(50), "{usage:?}");
        let tolerance = ((theirs.user + theirs.system) / 50.0).max(0.03);
        assert_close(usage.user_time.as_secs_f64(), theirs.user, tolerance, "user time of one run");
        assert_close(usage.system_time.as_secs_f64(), theirs.system, tolerance, "system time of one run");
        // This is another run of the same work. It needs more time on a machine that has more to
        // do.
        let ours = harness.run(&command).exit.usage.cpu_time().as_secs_f64();
        let theirs = theirs.user + theirs.system;
        assert!(ours < theirs * 3.0 && theirs < ours * 3.0, "CPU of two runs: {ours} here, {theirs} by {TIME}");
    }

    fn the_signal_that_asks_it_to_end_can_be_chosen(harness: &mut Harness) {
        let mut command = sh("trap 'exit 7' USR1; trap '' TERM; echo ready; while :; do sleep 0.01; done");
        let is_ready = told(&mut command);
        let cancel = Cancel::new();
        let harness = *harness;
        let run = || harness.run_to_end(&command).stop_signal(libc::SIGUSR1).cancelled_by(&cancel).run().unwrap();
        let output = std::thread::scope(|scope| {
            let run = scope.spawn(run);
            is_ready();
            cancel.cancel();
            run.join().unwrap()
        });
        assert_eq!((output.exit.code(), output.ended_by), (Some(7), EndedBy::Asked));
        for signal in [0, -1, 1000] {
            let error = harness.run_to_end(&command).interrupted_by(&[signal]).run().unwrap_err();
            assert!(matches!(error, RunError::NotASignal { signal: number } if number == signal), "{error}");
            let error = harness.run_to_end(&command).stop_signal(signal).run().unwrap_err();
            assert_eq!(error.to_string(), format!("it was not started: {signal} is not a signal for this"));
        }
    }

    fn another_thread_ends_it(harness: &mut Harness) {
        let cancel = Cancel::new();
        let mut quiet = sh("echo ready; exec sleep 1000");
        let mut stubborn = sh("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        let are_ready = [told(&mut quiet), told(&mut stubborn)];
        std::thread::scope(|scope| {
            let runs = [(&quiet, libc::SIGTERM), (&stubborn, libc::SIGKILL)].map(|(command, signal)| {
                let harness = *harness;
                let cancel = &cancel;
                let run = move || harness.run_to_end(command).kill_time(WAIT).cancelled_by(cancel).run().unwrap();
                (scope.spawn(run), signal)
            });
            are_ready.into_iter().for_each(|is_ready| is_ready());
            cancel.cancel();
            for (run, signal) in runs {
                let output = run.join().unwrap();
                assert_eq!((output.exit.signal(), output.ended_by), (Some(signal), EndedBy::Asked));
                assert!(matches!(output.check(), Err(RunError::Failed { ended_by: EndedBy::Asked, .. })));
            }
        });
        // It stays, and nothing is started any more.
        let error = harness.run_to_end(&quiet).cancelled_by(&cancel).run().unwrap_err();
        assert_eq!(error.to_string(), "it was not started: it was cancelled before");
    }

    fn an_input_that_never_comes_does_not_hold_up_the_time_out(harness: &mut Harness) {
        let (read, _write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut command = Command::new("cat");
        command.stdin(read);
        let run = harness.run_to_end(&command).timeout(WAIT).run().unwrap();
        assert!(run.timed_out);
        let error = run.check().unwrap_err().to_string();
        assert_eq!(error, "it was ended (wall): signal 15 (SIGTERM)");
        let error = harness.run(&sh("echo no >&2; exit 3")).check().unwrap_err().to_string();
        assert_eq!(error, r#"it failed: exit status 3; stderr is "no\n""#);
    }

    fn peak_memory_agrees_with_gnu_time(harness: &mut Harness) {
        if !util::needs_the_kernel("memory of its own processes alone") {
            return;
        }
        // This is far more than the memory of this process, with which the peak of a child starts.
        // One case is a single buffer, and the other is data that waits in a pipeline.
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "of=/dev/null", "bs=96M", "count=1"]);
        let tail = sh("head -c 64000000 /dev/zero | tail -c 64000000 | wc -c");
        // The memory of `tail` depends on the pieces of its input, so two runs of it may differ.
        for (command, least, same_again) in [(dd, 96 << 20, true), (tail, 64_000_000, false)] {
            let Some((theirs, both)) = timed(*harness, &command) else { return };
            let ours = harness.run(&command);
            assert_eq!((ours.exit.code(), theirs.code), (Some(0), Some(0)));
            let mib = 1024.0 * 1024.0;
            let rss = ours.exit.usage.max_rss;
            assert!(rss >= least, "{rss}");
            if same_again {
                assert_close(rss as f64 / mib, theirs.max_rss_kib as f64 / 1024.0, 2.0, "peak of two runs");
            }
            assert_close(both.exit.usage.max_rss as f64 / mib, theirs.max_rss_kib as f64 / 1024.0, 0.1, "peak of one run");
        }
    }

    fn the_exit_agrees_with_gnu_time(harness: &mut Harness) {
        let commands =
            [Command::new("true"), Command::new("false"), sh("exit 42"), sh("kill -KILL $$"), sh("kill -TERM $$")];
        for command in commands {
            let Some((theirs, _)) = timed(*harness, &command) else { return };
            let ours = harness.run(&command).exit;
            assert_eq!((ours.code(), ours.signal()), (theirs.code, theirs.signal), "{command:?}");
        }
    }
}
