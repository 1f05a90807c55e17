//! Tests the lines of processes that a host runs without a monitor.

mod util;

use childminder::{Event, LineReceiver, ProcessId, Stdio};
use util::{COMBINATIONS, World, on_all_combinations, sh};

/// The pieces of one descriptor: the bytes, and whether the piece is continued, cut, and followed by
/// a newline.
type Pieces = Vec<(ProcessId, i32, String, [bool; 3])>;

/// Takes turns until the host has seen what it wants. Returns what the lines were.
#[track_caller]
fn lines_until(world: &mut World, lines: &mut LineReceiver, done: impl Fn(&util::Log, &Pieces) -> bool) -> Pieces {
    let seen = std::cell::RefCell::new(Pieces::new());
    world.until_with(
        |reactor, event| {
            let taken = lines.handle(reactor, event, |line| {
                let text = String::from_utf8_lossy(line.bytes).into_owned();
                let pieces = [line.continued, line.cut, line.newline];
                seen.borrow_mut().push((line.process, line.fd, text, pieces));
            });
            assert_eq!(taken, matches!(event, Event::Data { .. }), "the rest is for the host, too");
        },
        |log| done(log, &seen.borrow()),
    );
    seen.into_inner()
}

const WHOLE: [bool; 3] = [false, false, true];

on_all_combinations! {
    // Each descriptor of each process has its own lines. A long one is cut, and the last one needs
    // no newline.
    fn the_lines_of_two_processes(world: &mut World) {
        let mut lines = LineReceiver::new();
        lines.set_max_line(4);
        let one = world.spawn(&sh("echo one; printf 'on'; echo err >&2; printf 'e\n\nabcdefghi\nlast'"));
        let two = world.spawn(sh("printf 'two' >&3; printf two").fd(3, Stdio::reader()));
        lines.add(one, "one");
        lines.add(two, "two");
        let all = lines_until(world, &mut lines, |log, _| log.ended(one) && log.ended(two));
        let of = |process, fd| -> Vec<(&str, [bool; 3])> {
            let pieces = all.iter().filter(|(id, number, ..)| (*id, *number) == (process, fd));
            pieces.map(|(_, _, text, how)| (text.as_str(), *how)).collect()
        };
        let cut = [("abcd", [false, true, false]), ("efgh", [true, true, false]), ("i", [true, false, true])];
        let mut expected = vec![("one", WHOLE), ("one", WHOLE), ("", WHOLE)];
        expected.extend(cut);
        expected.push(("last", [false; 3]));
        assert_eq!(of(one, 1), expected);
        assert_eq!(of(one, 2), [("err", WHOLE)]);
        assert_eq!((of(two, 1), of(two, 3)), (vec![("two", [false; 3])], vec![("two", [false; 3])]));
    }

    // A last line comes with the exit, although another process still holds the pipe. What that one
    // writes comes, too.
    fn a_last_line_does_not_wait_for_the_pipe(world: &mut World) {
        let mut lines = LineReceiver::new();
        let id = world.spawn(sh("printf last; (read x <&3; echo $x) & exit 3").fd(3, Stdio::writer()));
        lines.add(id, "it");
        let last = lines_until(world, &mut lines, |log, _| log.exit(id).is_some());
        assert_eq!(last, [(id, 1, "last".to_owned(), [false; 3])]);
        assert!(!world.log.ended(id));
        world.process(id).write(3, b"more\n").unwrap();
        world.process(id).close(3);
        let more = lines_until(world, &mut lines, |log, _| log.ended(id));
        assert_eq!(more, [(id, 1, "more".to_owned(), WHOLE)]);
    }

    // A prompt is no line yet, and can be seen.
    fn a_prompt_can_be_seen(world: &mut World) {
        let mut lines = LineReceiver::new();
        let id = world.spawn(sh("echo hello; printf 'name? '; read x; echo $x").stdin(Stdio::piped()));
        lines.add(id, "it");
        assert_eq!(lines.unfinished_line(id, 1), None);
        let first = lines_until(world, &mut lines, |log, _| log.text(id, 1).ends_with("? "));
        assert_eq!(first, [(id, 1, "hello".to_owned(), WHOLE)]);
        assert_eq!(lines.unfinished_line(id, 1), Some(&b"name? "[..]));
        world.process(id).write(0, b"x\n").unwrap();
        let rest = lines_until(world, &mut lines, |log, _| log.ended(id));
        assert_eq!(rest, [(id, 1, "name? x".to_owned(), WHOLE)]);
        assert_eq!(lines.unfinished_line(id, 1), None);
    }

    // Processes that were not added are not taken.
    fn others_are_left_alone(world: &mut World) {
        let mut lines = LineReceiver::new();
        let id = world.spawn(&sh("echo hello"));
        world.until_with(
            |reactor, event| assert!(!lines.handle(reactor, event, |line| panic!("{line}"))),
            |log| log.ended(id),
        );
    }
}
