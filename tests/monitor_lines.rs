//! Tests the output of processes as lines. It uses real programs.
//!
//! The one rule: every byte appears exactly once.

mod monitor_util;

use childminder::{Command, Exit, Line, Observer, Policy, ProcessMonitor, Reactor, Restart, Service};
use monitor_util::{Dir, WATCHDOG, each_way, now, sh};

/// The lines that were reported.
#[derive(Debug, Default)]
struct Lines {
    /// (fd, bytes, continued, cut)
    all: Vec<(i32, Vec<u8>, bool, bool)>,
    /// The bytes of stdout, put together from the lines.
    written: Vec<u8>,
    exits: usize,
}

impl Observer for Lines {
    fn line(&mut self, line: &Line<'_>) {
        self.all.push((line.fd, line.bytes.to_vec(), line.continued, line.cut));
        if line.fd == 1 {
            self.written.extend_from_slice(line.bytes);
            self.written.extend_from_slice(if line.newline { b"\n" } else { b"" });
        }
    }
    fn exited(&mut self, _: &str, _: &Exit) {
        self.exits += 1;
    }
}

fn lines_of(command: &Command, max_line: Option<usize>) -> Vec<(i32, Vec<u8>, bool, bool)> {
    run(command, max_line).all
}

/// Runs a program once, to its end.
fn run(command: &Command, max_line: Option<usize>) -> Lines {
    run_for(Lines::default(), |lines| lines.exits > 0, command, max_line)
}

fn run_for<O: Observer + Default>(
    observer: O,
    has_exited: impl Fn(&O) -> bool,
    command: &Command,
    max_line: Option<usize>,
) -> O {
    let mut reactor = Reactor::new().unwrap();
    let mut monitor = ProcessMonitor::with_observer(observer);
    let mut once = Policy::default();
    once.restart = Restart::Never;
    if let Some(bytes) = max_line {
        monitor.set_max_line(bytes);
    }
    monitor.add_process_with(&mut reactor, "it", command, once).unwrap();
    monitor.start_service(&mut reactor);
    let end = now() + WATCHDOG;
    while !has_exited(monitor.observer()) || reactor.processes().count() > 0 {
        assert!(now() < end, "it goes on");
        let timeout = Some(std::time::Duration::from_millis(100));
        reactor.turn(timeout, |reactor, event| _ = monitor.handle(reactor, &event)).unwrap();
    }
    std::mem::take(monitor.observer_mut())
}

fn whole(text: &[u8]) -> (i32, Vec<u8>, bool, bool) {
    (1, text.to_vec(), false, false)
}

// There is no extra empty line at the end, whether or not there is a newline, and an empty line is
// reported.
#[test]
fn the_last_line_is_told_once() {
    assert_eq!(lines_of(&sh("printf 'one\\ntwo\\n'"), None), [whole(b"one"), whole(b"two")]);
    assert_eq!(lines_of(&sh("printf 'one\\ntwo'"), None), [whole(b"one"), whole(b"two")]);
    assert_eq!(lines_of(&sh("printf '\\n\\n'"), None), [whole(b""), whole(b"")]);
    assert_eq!(lines_of(&sh("true"), None), []);
    assert_eq!(lines_of(&sh("printf x; kill -9 $$"), None), [whole(b"x")]);
}

#[test]
fn all_bytes_pass() {
    let lines = lines_of(&sh("printf 'a\\000b\\r\\n\\377\\376\\n\\303\\244'"), None);
    assert_eq!(lines, [whole(b"a\0b\r"), whole(b"\xff\xfe"), whole(b"\xc3\xa4")]);
}

#[test]
fn stdout_and_stderr_are_two_streams() {
    let mut lines = lines_of(&sh("printf out; printf err >&2; printf put; printf or >&2"), None);
    lines.sort();
    assert_eq!(lines, [(1, b"output".to_vec(), false, false), (2, b"error".to_vec(), false, false)]);
}

#[test]
fn a_long_line_comes_in_pieces_and_the_stream_goes_on() {
    let lines = lines_of(&sh("head -c 1048577 /dev/zero; echo; echo after"), None);
    let (after, pieces) = lines.split_last().unwrap();
    assert_eq!(after, &whole(b"after"));
    assert_eq!(pieces.len(), 65);
    assert!(pieces[..64].iter().all(|(_, bytes, _, cut)| bytes.len() == 16384 && *cut));
    assert_eq!(pieces[64], (1, vec![0], true, false));
    assert!(!pieces[0].2 && pieces[1..].iter().all(|(_, _, continued, _)| *continued));
    assert!(pieces.iter().all(|(_, bytes, ..)| bytes.iter().all(|byte| *byte == 0)));
}

#[test]
fn the_limit_can_be_set() {
    let cut = |text: &[u8], continued, cut| (1, text.to_vec(), continued, cut);
    let expected = [cut(b"abc", false, true), cut(b"def", true, true), cut(b"g", true, false), whole(b"xyz")];
    assert_eq!(lines_of(&sh("echo abcdefg; echo xyz"), Some(3)), expected);
    assert_eq!(lines_of(&sh("echo ab"), Some(0)), [cut(b"a", false, true), cut(b"b", true, false)]);
}

#[test]
fn the_lines_say_what_was_written() {
    for (script, written) in [
        ("printf 'one\\n\\nlonger\\nlast'", &b"one\n\nlonger\nlast"[..]),
        ("printf 'one\\n\\nlonger\\nlast\\n'", b"one\n\nlonger\nlast\n"),
        ("printf '\\342\\202\\254\\342\\202\\254\\n'", "€€\n".as_bytes()),
        ("true", b""),
    ] {
        assert_eq!(run(&sh(script), Some(5)).written.escape_ascii().to_string(), written.escape_ascii().to_string());
    }
}

/// Takes lines as many at once as there are.
#[derive(Debug, Default)]
struct Whole {
    written: Vec<u8>,
    calls: usize,
    longest: usize,
    exited: bool,
}

impl Observer for Whole {
    fn line(&mut self, line: &Line<'_>) {
        self.calls += 1;
        self.longest = self.longest.max(line.bytes.len());
        self.written.extend_from_slice(line.bytes);
        self.written.extend_from_slice(if line.newline { b"\n" } else { b"" });
    }
    fn lines(&mut self, lines: &childminder::Lines<'_>) {
        self.calls += 1;
        assert_eq!((lines.name, lines.fd, lines.bytes.last()), ("it", 1, Some(&b'\n')));
        let mut one_by_one = Vec::new();
        lines.for_each(|line| {
            assert!(line.newline && !line.continued && !line.cut && line.process == lines.process);
            self.longest = self.longest.max(line.bytes.len());
            one_by_one.extend_from_slice(line.bytes);
            one_by_one.push(b'\n');
        });
        assert!(one_by_one == lines.bytes);
        self.written.extend_from_slice(lines.bytes);
    }
    fn exited(&mut self, _: &str, _: &Exit) {
        self.exited = true;
    }
}

#[test]
fn an_observer_may_take_many_lines_at_once() {
    let script = "seq 1 30000; printf '\\n\\n'; head -c 5000 /dev/zero | tr '\\0' x; echo; seq 1 30000; printf end";
    let expected = std::process::Command::new("sh").args(["-c", script]).output().unwrap().stdout;
    for max_line in [None, Some(100), Some(5)] {
        let whole = run_for(Whole::default(), |whole| whole.exited, &sh(script), max_line);
        assert!(whole.written == expected, "{max_line:?}");
        assert_eq!(whole.longest, max_line.unwrap_or(5000));
        assert!(whole.calls < 60_000 / 10, "{} calls for 60,000 lines", whole.calls);
    }
}

#[test]
fn no_character_is_cut() {
    let long = "€".repeat(8000);
    let mut command = sh("printf %s \"$LONG\"; echo");
    command.env("LONG", &long);
    let pieces = lines_of(&command, None);
    let lengths: Vec<usize> = pieces.iter().map(|(_, bytes, ..)| bytes.len()).collect();
    assert_eq!(lengths, [16383, 24_000 - 16383]);
    let text: String = pieces.iter().map(|(_, bytes, ..)| std::str::from_utf8(bytes).unwrap()).collect();
    assert_eq!(text, long);
}

// A limit that is set while a process runs does not apply to that process.
#[test]
fn a_new_limit_is_for_new_processes() {
    let mut world = monitor_util::World::new();
    let mut command = sh("echo ready; read x; echo $x >&2; exec sleep 1000");
    command.stdin(childminder::Stdio::piped());
    world.add("it", &command);
    world.start();
    world.until_ready("it", 1);
    world.monitor.set_max_line(3);
    let process = world.monitor.status("it").unwrap().process.unwrap();
    world.reactor.process(process).unwrap().write(0, b"abcdefg\n").unwrap();
    world.until("its word", |world| world.lines("it").len() == 2);
    assert_eq!(world.lines("it")[1], "[it] abcdefg");
}

// Output that was written before an exit is never lost, and is reported before the exit.
#[test]
fn the_last_words_come_before_the_exit() {
    each_way(|world| {
        let mut once = monitor_util::no_instant_deaths();
        once.restart = Restart::Never;
        world.add_with("it", &sh("seq 1 20000; printf end; exit 3"), once);
        world.start();
        world.until_told("exited", "it", 1);
        let lines = world.lines("it");
        assert_eq!((lines.len(), lines[0], lines[19_999], lines[20_000]), (20_001, "[it] 1", "[it] 20000", "[it] end"));
        assert!(matches!(world.told("it").last(), Some((_, monitor_util::Told::Exited { .. }))));
    });
}

// This holds even if another process holds the pipe. Its later output is a line of its own.
#[test]
fn the_last_words_do_not_wait_for_the_pipe() {
    each_way(|world| {
        let mut command = sh("(read x <&3; echo later) & printf last; exit 3");
        command.fd(3, childminder::Stdio::writer());
        world.add_with("it", &command, monitor_util::leaving(monitor_util::long_backoff()));
        world.start();
        let process = world.monitor.status("it").unwrap().process.unwrap();
        world.until_told("exited", "it", 1);
        assert_eq!(world.lines("it"), ["[it] last"]);
        world.reactor.process(process).unwrap().close(3);
        world.until("the later word", |world| world.lines("it") == ["[it] last", "[it] later"]);
    });
}

#[test]
fn pipes_of_an_orderly_process_are_never_closed_early() {
    each_way(|world| {
        let dir = Dir::new("orderly");
        let mut command = sh("n=1; until mkdir $n 2>/dev/null; do n=$((n+1)); done; echo line $n
                              [ $n -lt 20 ] || { echo ready; exec sleep 1000; }");
        command.current_dir(dir.path("."));
        world.add("it", &command);
        world.start();
        world.until_ready("it", 1);
        assert_eq!((world.lines("it").len(), world.count("pipes closed", "it")), (21, 0));
    });
}

#[test]
fn what_is_left_of_a_removed_process_is_still_heard() {
    if monitor_util::in_cgroups() {
        monitor_util::left_out("the removal of a process ends everything in its cgroup");
        return;
    }
    each_way(|world| {
        let dir = Dir::new("removed");
        let script =
            "setsid sh -c 'echo ready; until [ -e go ]; do sleep 0.02; done; echo late; printf last' & exec sleep 1000";
        let mut command = sh(script);
        command.current_dir(dir.path("."));
        world.add("it", &command);
        world.start();
        world.until_ready("it", 1);
        world.remove("it");
        world.until_told("exited", "it", 1);
        std::fs::write(dir.path("go"), "").unwrap();
        world.until_told("line", "it", 3);
        assert_eq!(world.lines("it"), ["[it] ready", "[it] late", "[it] last"]);
    });
}
