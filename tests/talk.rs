//! Tests a child in calls that wait: what it says, how long a call waits, full pipes in both
//! directions, several threads, pipelines, and that nothing is left behind.

mod util;

use std::io::{Read, Write};
use std::sync::Barrier;
use std::task::Poll;
use std::time::Duration;

use childminder::{
    Child, Command, Conversation, Event, Pty, Reactor, ReapMethod, SpawnMethod, Stage, Stdio, TalkError,
};
use util::{COMBINATIONS, WATCHDOG, now, on_all_combinations, sh};

/// One way to spawn and one to reap.
#[derive(Clone, Copy)]
struct Methods((SpawnMethod, ReapMethod));

impl Methods {
    fn new(methods: (SpawnMethod, ReapMethod)) -> Self {
        Self(methods)
    }

    fn pipeline(self, commands: &[Command]) -> Result<Child, TalkError> {
        let (spawn, reap) = self.0;
        let commands: Vec<_> = commands.iter().map(util::contained).collect();
        let child = Child::on(Reactor::with_methods(spawn, reap).unwrap(), &commands)?;
        child.set_time_limit(Some(WATCHDOG));
        Ok(child)
    }

    #[track_caller]
    fn spawn(self, command: &Command) -> Child {
        self.pipeline(std::slice::from_ref(command)).unwrap()
    }

    #[track_caller]
    fn sh(self, script: &str) -> Child {
        self.spawn(&sh(script))
    }
}

fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// The state of a process in the words of `proc(5)`, or nothing if there is no such process.
fn state(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.map_or_else(|_| String::new(), |status| util::field_of(&status, "State"))
}

/// Whether a process exists that is not a zombie.
fn is_alive(pid: u32) -> bool {
    !matches!(state(pid).chars().next(), None | Some('Z'))
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = now() + WATCHDOG;
    while !is_so() {
        assert!(now() < deadline, "it did not come true in time");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// How often the tests of dead-locks repeat themselves, and the bytes in each direction.
fn rounds() -> usize {
    std::env::var("CHILDMINDER_TEST_TALK_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

fn bytes() -> usize {
    std::env::var("CHILDMINDER_TEST_TALK_BYTES").map_or(8_000_000, |bytes| bytes.parse().unwrap())
}

/// A time limit that the child never keeps. It is short, because the call lasts as long.
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

on_all_combinations! {
    fn a_talk(methods: &mut Methods) {
        let child = methods.sh("while read a b; do echo $((a + b)); echo next >&2; done; exit 4");
        for (question, answer) in [("20 22\n", "42"), ("1 2\n", "3")] {
            child.write(question).unwrap();
            assert_eq!(child.read_line().unwrap().as_deref(), Some(answer));
            assert_eq!(child.stderr().read_line().unwrap().as_deref(), Some("next"));
        }
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(child.wait().unwrap().code(), Some(4));
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(4));
        assert_eq!((child.read_line().unwrap(), child.stderr().read_line().unwrap()), (None, None));
        assert_eq!(child.pid(), None);
    }

    fn what_it_says_is_taken_in_the_pieces_that_are_asked_for(methods: &mut Methods) {
        let mut command = sh("printf 'one\\ntwo;three\\r\\n\\nfi\\377ve'; printf three >&3");
        let child = methods.spawn(command.fd(3, Stdio::reader()));
        assert_eq!(child.read_line().unwrap().as_deref(), Some("one"));
        assert_eq!(child.read_until(";").unwrap(), b"two;");
        assert_eq!(child.read_line().unwrap().as_deref(), Some("three\r"));
        assert_eq!(child.read_line().unwrap().as_deref(), Some(""));
        let found = child.expect(&["v", "i"]).unwrap();
        assert_eq!((found.index, &found.before[..], &found.text()[..]), (1, &b"f"[..], "f"));
        let mut two = [0; 2];
        child.stdout().read_exact(&mut two).unwrap();
        assert_eq!(&two, b"\xffv");
        assert_eq!(child.read_line().unwrap().as_deref(), Some("e"));
        assert_eq!(child.read_line().unwrap(), None);
        assert_eq!(child.fd(3).read_to_end().unwrap(), b"three");
        assert_eq!(child.fd(9).read_to_end().unwrap(), b"");
    }

    fn a_call_waits_at_most_for_the_time_limit(methods: &mut Methods) {
        let child = methods.sh("printf 'Pass'; read a; printf word:; read b; exit 3");
        assert_eq!(child.read_until("Pa").unwrap(), b"Pa");
        child.set_time_limit(SHORT);
        let error = child.expect(&["word:", "done\n"]).unwrap_err();
        let right = r#"`sh`: "word:" or "done\n" did not come within 20ms; unread is "ss""#;
        assert_eq!(error.to_string(), right);
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
        // Nothing was taken, and the call can be made again.
        child.set_time_limit(Some(WATCHDOG));
        child.write("\n").unwrap();
        assert_eq!(child.read_until("word:").unwrap(), b"ssword:");
        child.write("\n").unwrap();
        let error = child.read_until("never").unwrap_err();
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::UnexpectedEof);
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let error = child.read_until("never").unwrap_err().to_string();
        assert_eq!(error, r#"`sh`: the output has ended without "never" (exit status 3); unread is nothing"#);
        let error = child.write("x").unwrap_err().to_string();
        assert_eq!(error, "cannot write to `sh`: it has no open stdin; 1 bytes were not taken");
    }

    fn pipes_that_are_full_in_both_directions_hold_up_nothing(methods: &mut Methods) {
        let input: Vec<u8> = (0..bytes()).map(|index| (index % 251) as u8).collect();
        for _ in 0..rounds() {
            // In one thread: all is written before anything is read.
            let child = methods.sh("exec cat");
            child.write(&input).unwrap();
            let said = child.output().unwrap().check().unwrap();
            assert_eq!((said.stdout.len(), said.stdout == input), (input.len(), true));
            // In two threads, in little memory.
            let child = methods.sh("exec cat");
            child.set_buffer_limit(100_000);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    input.chunks(1 << 20).for_each(|piece| child.write(piece).unwrap());
                    child.close_stdin();
                });
                let (mut count, mut buffer) = (0, vec![0; 1 << 16]);
                loop {
                    let read = child.stdout().read(&mut buffer).unwrap();
                    if read == 0 {
                        break;
                    }
                    assert!(buffer[..read] == input[count..count + read]);
                    count += read;
                }
                assert_eq!(count, input.len());
            });
            assert!(child.wait().unwrap().success());
        }
    }

    fn a_child_that_does_not_take_part_holds_up_nobody(methods: &mut Methods) {
        let input = vec![b'x'; 300_000];
        for _ in 0..rounds() {
            // It never reads.
            let child = methods.sh("exec sleep 1000");
            child.set_time_limit(SHORT);
            let error = child.write(&input).unwrap_err();
            assert!(matches!(error, TalkError::TimedOut { .. }), "{error}");
            // It never writes.
            let error = child.read_line().unwrap_err();
            assert!(matches!(error, TalkError::TimedOut { .. }), "{error}");
            let error = child.wait().unwrap_err().to_string();
            assert_eq!(error, "`sh`: its exit did not come within 20ms; unread is nothing");
            drop(child);
            // It closes one side.
            let child = methods.sh("exec >&-; exec 2>&-; exec sleep 1000");
            assert_eq!((child.read_line().unwrap(), child.stderr().read_line().unwrap()), (None, None));
            let child = methods.sh("exec <&-; echo closed; exec sleep 1000");
            assert_eq!(child.read_line().unwrap().as_deref(), Some("closed"));
            let error = child.write(&input).unwrap_err();
            // A child of another thread may still hold the reading end until its own exec.
            assert!(matches!(error, TalkError::Write { lost: 100_000.., .. }), "{error}");
            // It floods, and nobody reads.
            let child = methods.sh("exec yes");
            child.set_time_limit(SHORT);
            child.set_buffer_limit(1_000_000);
            let error = child.write(&input).unwrap_err();
            assert!(matches!(error, TalkError::TimedOut { .. }), "{error}");
            assert!(matches!(child.wait().unwrap_err(), TalkError::TimedOut { .. }));
            child.set_time_limit(Some(WATCHDOG));
            let error = child.read_until("no").unwrap_err().to_string();
            assert!(error.starts_with(r#"`sh`: "no" is not in the "#), "{error}");
            assert_eq!(child.read_until("y\n").unwrap(), b"y\n");
            // It exits while another process holds its pipes.
            let child = methods.sh("sleep 1000 & echo $!; exit 5");
            let holder = child.read_line().unwrap().unwrap().parse().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(5));
            kill(holder);
            assert_eq!(child.read_line().unwrap(), None);
        }
    }

    fn several_threads_wait_ask_and_signal(methods: &mut Methods) {
        let child = methods.sh("trap 'echo hup' HUP; echo ready; while :; do read a || sleep 0.01; done");
        assert_eq!(child.read_line().unwrap().as_deref(), Some("ready"));
        let start = Barrier::new(7);
        std::thread::scope(|scope| {
            let waiting = [(), ()].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    child.wait_timeout(WATCHDOG).unwrap().unwrap().signal()
                })
            });
            let reading = [(), ()].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    // What its sleep says about the signal is of no interest.
                    child.stderr().read_to_end().unwrap();
                    child.read_line().unwrap()
                })
            });
            let asking = [(), ()].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    while child.try_wait().unwrap().is_none() {
                        assert!(child.pid().is_some() || child.try_wait().unwrap().is_some());
                    }
                })
            });
            start.wait();
            child.signal(libc::SIGHUP).unwrap();
            child.signal(libc::SIGHUP).unwrap();
            // One of the readers has it. The other one gets the end of the output.
            child.kill().unwrap();
            assert_eq!(waiting.map(|thread| thread.join().unwrap()), [Some(9), Some(9)]);
            let lines = reading.map(|thread| thread.join().unwrap());
            assert!(lines.iter().all(|line| line.as_deref().is_none_or(|line| line == "hup")));
            asking.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    fn a_kill_by_another_thread_ends_every_wait(methods: &mut Methods) {
        let child = methods.sh("echo ready; exec sleep 1000");
        assert_eq!(child.read_line().unwrap().as_deref(), Some("ready"));
        std::thread::scope(|scope| {
            let waits = [
                scope.spawn(|| child.read_line().unwrap().is_none()),
                scope.spawn(|| child.read_until("x").is_err()),
                scope.spawn(|| child.wait_timeout(WATCHDOG).unwrap().is_some()),
                scope.spawn(|| child.write(vec![0; 1 << 20]).is_err()),
            ];
            let started = now();
            child.kill().unwrap();
            assert!(waits.into_iter().all(|thread| thread.join().unwrap()));
            assert!(started.elapsed() < WATCHDOG / 2);
        });
    }

    fn a_pipeline_is_one_thing(methods: &mut Methods) {
        let stages = [sh("echo first >&2; cat; exit 3"), sh("sort -n; echo second >&2"), sh("tail -n 2; exit 5")];
        let child = methods.pipeline(&stages).unwrap();
        child.write("30\n4\n100\n").unwrap();
        let said = child.output().unwrap();
        assert_eq!(said.programs, ["sh", "sh", "sh"]);
        assert_eq!((said.stdout, said.pipes_left_open), (b"30\n100\n".to_vec(), false));
        assert_eq!(String::from_utf8(said.stderr).unwrap(), "first\nsecond\n");
        assert_eq!(said.exits.iter().map(|exit| exit.code()).collect::<Vec<_>>(), [Some(3), Some(0), Some(5)]);
        assert_eq!(said.exit.code(), Some(5));
        // A stage that ends early ends those before it by SIGPIPE, as in a shell.
        let said = methods.pipeline(&[sh("exec yes"), sh("exec cat"), sh("exec head -n 1")]).unwrap().output().unwrap();
        assert_eq!(said.exits.iter().map(|exit| exit.signal()).collect::<Vec<_>>(), [Some(13), Some(13), None]);
        assert_eq!(said.stdout, b"y\n");
        let error = methods.pipeline(&[sh("exit 2"), sh("true")]).unwrap().output().unwrap().check().unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed: exit status 2");
        // A signal reaches all of them.
        let child = methods.pipeline(&[sh("exec sleep 1000"), sh("exec sleep 1000"), sh("exec sleep 1000")]).unwrap();
        child.signal(libc::SIGUSR1).unwrap();
        let said = child.output().unwrap();
        assert!(said.exits.iter().all(|exit| exit.signal() == Some(libc::SIGUSR1)), "{:?}", said.exits);
    }

    fn a_pipeline_that_cannot_be_started_leaves_nobody(methods: &mut Methods) {
        let folder = util::TempDir::new("pipeline");
        for broken in 0..3 {
            let pids = |stage: usize| folder.0.join(format!("{broken}-{stage}"));
            let stages: Vec<Command> = (0..3)
                .map(|stage| match stage == broken {
                    true => Command::new("/no/such/program"),
                    false => sh(&format!("echo $$ >{}; exec sleep 1000", pids(stage).display())),
                })
                .collect();
            let error = methods.pipeline(&stages).unwrap_err();
            let TalkError::Spawn(error) = error else { panic!("{error}") };
            assert_eq!((error.stage(), error.program().to_str()), (Stage::Exec, Some("/no/such/program")));
            // Those before it may have been killed before they could write their pids.
            for pid in (0..broken).filter_map(|stage| std::fs::read_to_string(pids(stage)).ok()) {
                assert!(!exists(pid.trim().parse().unwrap_or(u32::MAX)), "{pid}");
            }
        }
        let TalkError::Spawn(error) = methods.pipeline(&[]).unwrap_err() else { panic!() };
        assert_eq!(error.to_string(), "cannot start ``: command: the pipeline has no command");
    }

    fn nothing_is_left_when_it_is_dropped(methods: &mut Methods) {
        let child = methods.sh("trap '' TERM HUP INT; sleep 1000 & echo $$ $!; wait; wait");
        let line = child.read_line().unwrap().unwrap();
        let pids: Vec<u32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert!(pids.iter().all(|pid| exists(*pid)));
        drop(child);
        assert!(!exists(pids[0]));
        // The second one is reaped by somebody else.
        until(|| !is_alive(pids[1]));
    }

    fn a_stop_asks_first(methods: &mut Methods) {
        let child = methods.sh("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        assert_eq!(child.read_line().unwrap().as_deref(), Some("ready"));
        assert_eq!(child.stop(WATCHDOG).unwrap().code(), Some(7));
        assert_eq!(child.read_line().unwrap().as_deref(), Some("bye"));
        assert_eq!(child.stop(WATCHDOG).unwrap().code(), Some(7));
        let child = methods.sh("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        assert_eq!(child.read_line().unwrap().as_deref(), Some("ready"));
        assert_eq!(child.stop(Duration::from_millis(20)).unwrap().signal(), Some(9));
    }

    fn a_daemon_that_it_leaves_behind_goes_on(methods: &mut Methods) {
        let child = methods.sh("sleep 1000 & echo $!");
        let daemon: u32 = child.read_line().unwrap().unwrap().parse().unwrap();
        let said = child.output().unwrap();
        assert!(said.exit.success() && said.pipes_left_open);
        assert!(is_alive(daemon));
        kill(daemon);
    }

    fn threads_that_only_wait_sleep(methods: &mut Methods) {
        let child = methods.sh("read a; echo answer; echo more >&2; exec sleep 1000");
        std::thread::scope(|scope| {
            let waiting = [(); 4].map(|()| {
                scope.spawn(|| {
                    assert_eq!(child.wait_timeout(Duration::from_millis(300)).unwrap(), None);
                    // Its own time on a processor, in nanoseconds.
                    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
                    times.split(' ').next().unwrap().parse::<u64>().unwrap()
                })
            });
            child.write("go\n").unwrap();
            let busy: Vec<u64> = waiting.map(|thread| thread.join().unwrap()).into();
            assert!(busy.iter().sum::<u64>() < 100_000_000, "{busy:?}");
        });
        assert_eq!(child.read_line().unwrap().as_deref(), Some("answer"));
    }

    fn a_write_that_has_timed_out_can_go_on(methods: &mut Methods) {
        // It reads nothing until it is continued.
        let child = methods.sh("kill -STOP $$; exec cat");
        let pid = child.pid().unwrap();
        // A SIGCONT that came before its stop would have no effect.
        until(|| state(pid).starts_with('T'));
        let input: Vec<u8> = (0..2_000_000).map(|index| (index % 251) as u8).collect();
        child.set_time_limit(SHORT);
        let TalkError::TimedOut { not_taken, wanted, .. } = child.write(&input).unwrap_err() else { panic!() };
        // The pipe has room for less than half of it.
        assert!(not_taken >= 1_000_000, "{not_taken}");
        assert_eq!(wanted, format!("room for {not_taken} of 2000000 bytes of input"));
        child.set_time_limit(Some(WATCHDOG));
        child.signal(libc::SIGCONT).unwrap();
        child.write(&input[input.len() - not_taken..]).unwrap();
        child.write("abc").unwrap();
        let said = child.output().unwrap().stdout;
        assert_eq!((said.len(), said == [&input[..], b"abc"].concat()), (2_000_003, true));
    }

    fn a_stream_that_was_paused_goes_on(methods: &mut Methods) {
        let child = methods.sh("i=0; while [ $i -lt 60 ]; do printf '%3000d\n' $i; i=$((i + 1)); done");
        child.set_buffer_limit(4096);
        // All that fits is there.
        child.wait_timeout(Duration::from_millis(20)).unwrap();
        let lines = std::iter::from_fn(|| child.read_line().unwrap()).map(|line| line.trim().parse::<u32>().unwrap());
        assert!(lines.eq(0..60));
    }

    fn an_error_shows_why(methods: &mut Methods) {
        let child = methods.sh("echo starting; echo fatal >&2; exit 9");
        let error = child.read_until("ready").unwrap_err().to_string();
        let right = r#"`sh`: the output has ended without "ready" (exit status 9); unread is "starting\n"; stderr is "fatal\n""#;
        assert_eq!(error, right);
        let child = methods.sh("echo waiting >&2; exec sleep 1000");
        child.stderr().read_until("w").unwrap();
        child.set_time_limit(SHORT);
        let error = child.read_line().unwrap_err().to_string();
        assert_eq!(error, r#"`sh`: a line did not come within 20ms; unread is nothing; stderr is "aiting\n""#);
        let error = std::io::Error::from(child.signal(1000).unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    }

    fn what_has_exited_by_itself_keeps_its_daemon(methods: &mut Methods) {
        let child = methods.sh("sleep 1000 >/dev/null 2>&1 & echo $!; read a");
        let daemon: u32 = child.read_line().unwrap().unwrap().parse().unwrap();
        let pid = child.pid().unwrap();
        child.close_stdin();
        // It has exited, and no turn has seen it.
        until(|| !is_alive(pid));
        drop(child);
        assert!(is_alive(daemon));
        kill(daemon);
    }

    fn only_an_echo_is_taken_out(methods: &mut Methods) {
        let child = methods.sh("exec cat");
        child.set_plain(true);
        child.write("hello\n").unwrap();
        assert_eq!(child.read_line().unwrap().as_deref(), Some("hello"));
        let script = "read a; echo $a; printf '> '; read b";
        for pty in [Pty::new().echo(false), Pty::new().raw()] {
            let child = methods.spawn(sh(script).pty(pty));
            child.set_plain(true);
            child.write("5\n").unwrap();
            assert_eq!(child.expect(&["> "]).unwrap().text(), "5\n");
        }
        let child = methods.spawn(sh("stty -echo; printf 'ready> '; read a; printf '> %s' \"$a\"; read b").pty(Pty::new()));
        child.set_plain(true);
        child.expect(&["ready> "]).unwrap();
        child.write("> 5\n").unwrap();
        child.expect(&["> > 5"]).unwrap();
    }

    fn a_terminal_gets_its_end_of_file_once(methods: &mut Methods) {
        // After an unfinished line, too.
        let child = methods.spawn(Command::new("cat").pty(Pty::new()));
        child.write("abc").unwrap();
        assert!(child.wait().unwrap().success());
        let child = methods.spawn(sh("cat >/dev/null; echo two; read a || echo end").pty(Pty::new()));
        child.close_stdin();
        assert_eq!(child.read_line().unwrap().as_deref(), Some("two\r"));
        child.close_stdin();
        child.set_time_limit(SHORT);
        assert!(child.read_line().is_err());
        child.set_time_limit(Some(WATCHDOG));
        child.write("\n").unwrap();
        assert!(child.wait().unwrap().success());
        let child = methods.spawn(sh("stty eof ^X; echo set; cat").pty(Pty::new()));
        child.expect(&["set"]).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn all_exits_of_a_pipeline(methods: &mut Methods) {
        let child = methods.pipeline(&[sh("cat; exit 3"), sh("cat; exit 4"), sh("exec cat")]).unwrap();
        writeln!(&child, "{}", 42).unwrap();
        assert_eq!(child.read_line().unwrap().as_deref(), Some("42"));
        let exits: Vec<_> = child.wait_all().unwrap().iter().map(|exit| exit.code()).collect();
        assert_eq!(exits, [Some(3), Some(4), Some(0)]);
    }

    fn a_terminal_without_its_noise(methods: &mut Methods) {
        let mut command = sh("stty -a; printf '\\033[1mname?\\033[0m '; read a; echo \"hello $a\"; read b");
        let child = methods.spawn(command.pty(Pty::new().size(40, 200)));
        child.set_plain(true);
        let modes = child.expect(&["name? "]).unwrap();
        assert!(modes.text().contains("columns 200") && !modes.text().contains('\r'), "{modes:?}");
        child.write("Ann\n").unwrap();
        assert_eq!(child.read_line().unwrap().as_deref(), Some("hello Ann"));
        // Ctrl-D is the end of its input.
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}

/// The same on a reactor that has other processes, too.
#[test]
fn a_talk_on_the_hosts_own_reactor() {
    let mut reactor = Reactor::new().unwrap();
    let other = reactor.spawn_process(&sh("while :; do echo noise; done")).unwrap();
    let mut talk = Conversation::new(&mut reactor, sh("read a; echo got $a; exit 3").stdin(Stdio::piped())).unwrap();
    let mut noise = 0_usize;
    talk.write(&mut reactor, b"it\n").unwrap();
    let mut state = (&mut talk, &mut noise);
    type State<'a> = (&'a mut Conversation, &'a mut usize);
    let handle = |(talk, noise): &mut State<'_>, reactor: &mut Reactor, event: Event<'_>| match event {
        Event::Data { process, data, .. } if process == other => **noise += data.len(),
        event => talk.handle(reactor, event),
    };
    let line = reactor.turn_until(Some(WATCHDOG), &mut state, handle, |(talk, _), reactor| talk.poll_line(reactor, 1));
    assert_eq!(line.unwrap(), Some(Some("got it".into())));
    let exit = reactor.turn_until(Some(WATCHDOG), &mut state, handle, |(talk, _), _| talk.poll_exit()).unwrap();
    assert_eq!(exit.unwrap().code(), Some(3));
    let more =
        |(_, noise): &mut State<'_>, _: &mut Reactor| if **noise > 1000 { Poll::Ready(()) } else { Poll::Pending };
    assert_eq!(reactor.turn_until(Some(WATCHDOG), &mut state, handle, more).unwrap(), Some(()));
    let never = |_: &mut State<'_>, _: &mut Reactor| Poll::<()>::Pending;
    assert_eq!(reactor.turn_until(Some(Duration::from_millis(20)), &mut state, handle, never).unwrap(), None);
    reactor.tree(other).unwrap().kill().unwrap();
    let gone = |_: &mut State<'_>, reactor: &mut Reactor| {
        if reactor.process(other).is_none() { Poll::Ready(()) } else { Poll::Pending }
    };
    assert_eq!(reactor.turn_until(Some(WATCHDOG), &mut state, handle, gone).unwrap(), Some(()));
}

/// What else runs on the host's reactor is not touched by a pipeline that cannot be started.
#[test]
fn a_pipeline_that_cannot_be_started_takes_no_events() {
    let mut reactor = Reactor::new().unwrap();
    let mut talk = Conversation::new(&mut reactor, &sh("echo important; exec sleep 1000")).unwrap();
    let timer = reactor.call_later(Duration::ZERO);
    let pid = reactor.process(talk.processes().next().unwrap()).unwrap().pid().unwrap();
    until(|| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n"));
    let commands = [sh("exec sleep 1000"), Command::new("/no/such")];
    Conversation::pipeline(&mut reactor, &commands).unwrap_err();
    assert_eq!(reactor.processes().count(), 1);
    let mut state = (&mut talk, false);
    let handle = |(talk, fired): &mut (&mut Conversation, bool), reactor: &mut Reactor, event: Event<'_>| {
        *fired |= matches!(event, Event::Timer(id) if id == timer);
        talk.handle(reactor, event);
    };
    let line = reactor.turn_until(Some(WATCHDOG), &mut state, handle, |(talk, _), reactor| talk.poll_line(reactor, 1));
    assert_eq!(line.unwrap(), Some(Some("important".into())));
    assert!(state.1);
    talk.kill(&mut reactor).unwrap();
    let exit = reactor.turn_until(Some(WATCHDOG), &mut talk, Conversation::handle, |talk, _| talk.poll_exit());
    assert_eq!(exit.unwrap().unwrap().signal(), Some(9));
}
