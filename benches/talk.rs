//! Measures a talk with a child: a pipeline beside the shell's, a question and its answer and much
//! data in both directions beside std with threads, and how soon a run that is cancelled is over.
//!
//! The one rule: each contestant moves the same bytes through the same programs.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process;
use std::time::Duration;

use childminder::{Cancel, Child, Command, RunToEnd};
use support::{Bench, Target, clock};

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = clock();
    run();
    (clock() - start).as_secs_f64()
}

/// Three programs that move so many megabytes, in MB/s.
fn pipeline(megabytes: usize) -> [f64; 1] {
    let count = format!("{megabytes}000000");
    let stages = [command(&["head", "-c", &count, "/dev/zero"]), command(&["cat"]), command(&["wc", "-c"])];
    let run = || {
        let said = Child::pipeline(&stages).expect("start").output().expect("end").check().expect("success");
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), count);
    };
    [megabytes as f64 / seconds(run)]
}

fn shell_pipeline(megabytes: usize) -> [f64; 1] {
    let count = format!("{megabytes}000000");
    let script = format!("head -c {count} /dev/zero | cat | wc -c");
    let run = || {
        let said = process::Command::new("sh").args(["-c", &script]).output().expect("sh");
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), count);
    };
    [megabytes as f64 / seconds(run)]
}

/// The time of a line to `cat` and back, in microseconds.
fn answers(rounds: usize) -> [f64; 1] {
    let cat = Child::spawn(&Command::new("cat")).expect("cat");
    let run = || {
        for _ in 0..rounds {
            cat.write("question\n").expect("room");
            assert_eq!(cat.read_line().expect("a line").as_deref(), Some("question"));
        }
    };
    [seconds(run) * 1e6 / rounds as f64]
}

fn std_cat() -> process::Child {
    let piped = process::Stdio::piped;
    process::Command::new("cat").stdin(piped()).stdout(piped()).spawn().expect("cat")
}

fn std_answers(rounds: usize) -> [f64; 1] {
    let mut cat = std_cat();
    let (mut input, output) = (cat.stdin.take().expect("stdin"), cat.stdout.take().expect("stdout"));
    let mut output = BufReader::new(output);
    let run = || {
        for _ in 0..rounds {
            input.write_all(b"question\n").expect("room");
            let mut line = String::new();
            output.read_line(&mut line).expect("a line");
            assert_eq!(line, "question\n");
        }
    };
    let took = seconds(run);
    drop(input);
    cat.wait().expect("its exit");
    [took * 1e6 / rounds as f64]
}

const PIECE: usize = 64 * 1024;

/// So many pieces to `cat` and back, in MB/s: one thread writes, and one reads.
fn both_ways(pieces: usize) -> [f64; 1] {
    let run = || {
        let cat = Child::spawn(&Command::new("cat")).expect("cat");
        cat.set_buffer_limit(16 * PIECE);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let piece = vec![b'x'; PIECE];
                (0..pieces).for_each(|_| cat.write(&piece).expect("room"));
                cat.close_stdin();
            });
            read_all(cat.stdout(), pieces);
        });
        assert!(cat.wait().expect("its exit").success());
    };
    [(pieces * PIECE) as f64 / 1e6 / seconds(run)]
}

fn read_all(mut output: impl Read, pieces: usize) {
    let (mut count, mut buffer) = (0, vec![0; PIECE]);
    loop {
        match output.read(&mut buffer).expect("output") {
            0 => break,
            read => count += read,
        }
    }
    assert_eq!(count, pieces * PIECE);
}

fn std_both_ways(pieces: usize) -> [f64; 1] {
    let run = || {
        let mut cat = std_cat();
        let (mut input, output) = (cat.stdin.take().expect("stdin"), cat.stdout.take().expect("stdout"));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let piece = vec![b'x'; PIECE];
                (0..pieces).for_each(|_| input.write_all(&piece).expect("room"));
            });
            read_all(output, pieces);
        });
        assert!(cat.wait().expect("its exit").success());
    };
    [(pieces * PIECE) as f64 / 1e6 / seconds(run)]
}

/// The time from the request of another thread to the return of the run, in milliseconds.
fn cancelled() -> [f64; 1] {
    let cancel = Cancel::new();
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            std::thread::park_timeout(Duration::from_millis(20));
            let now = clock();
            cancel.cancel();
            now
        });
        let sleep = command(&["sleep", "1000"]);
        RunToEnd::new(&sleep).cancelled_by(&cancel).run().expect("its end");
        asking.join().expect("the time")
    });
    [(clock() - asked).as_secs_f64() * 1e3]
}

fn std_killed() -> [f64; 1] {
    let mut sleep = process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    std::thread::park_timeout(Duration::from_millis(20));
    let asked = clock();
    sleep.kill().expect("kill");
    sleep.wait().expect("its exit");
    [(clock() - asked).as_secs_f64() * 1e3]
}

fn main() {
    let mut bench = Bench::new("talk");
    let megabytes = bench.size(2000, 10);
    let [speed] = bench.contest(
        ["head | cat | wc, MB/s"],
        11,
        &mut [("childminder pipeline", &mut || pipeline(megabytes)), ("sh", &mut || shell_pipeline(megabytes))],
    );
    bench.ratio(&speed, "childminder pipeline", "sh", Target::AtLeast(0.95));
    let rounds = bench.size(5000, 10);
    let [time] = bench.contest(
        ["a line to cat and back, µs"],
        11,
        &mut [("childminder child", &mut || answers(rounds)), ("std", &mut || std_answers(rounds))],
    );
    bench.ratio(&time, "childminder child", "std", Target::None);
    let pieces = bench.size(8000, 10);
    let [speed] = bench.contest(
        ["data to cat and back, MB/s"],
        7,
        &mut [("childminder child", &mut || both_ways(pieces)), ("std, two threads", &mut || std_both_ways(pieces))],
    );
    bench.ratio(&speed, "childminder child", "std, two threads", Target::None);
    let [time] = bench.contest(
        ["from a request of another thread to the end, ms"],
        51,
        &mut [("childminder, cancelled", &mut cancelled), ("std, killed by its own thread", &mut std_killed)],
    );
    bench.ratio(&time, "childminder, cancelled", "std, killed by its own thread", Target::None);
    bench.finish();
}
