//! Programs that use a known amount of something. They are this test binary itself, in the test
//! `is_a_program`, so that they need no compiler.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::hint::black_box;
use std::time::Duration;

use childminder::Command;

/// The variable that holds the words of the program.
pub(crate) const PROGRAM: &str = "CHILDMINDER_TEST_PROGRAM";

/// A command that runs one of these programs:
///
/// - `burn THREADS`: so many threads compute for ever.
/// - `burn-for MILLIS THREADS`: each thread uses so much CPU time.
/// - `touch MEGABYTES`: it uses so much memory, and exits.
/// - `both MILLIS MEGABYTES`: it uses so much memory, and then so much CPU time.
pub(crate) fn program(words: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "programs::is_a_program", "--nocapture", "--quiet"]).env(PROGRAM, words);
    command
}

/// The command with the program of these words as further arguments.
pub(crate) fn after(mut command: Command, words: &str) -> Command {
    let other = program(words);
    command.arg(other.get_program()).args(other.get_args()).env(PROGRAM, words);
    command
}

#[test]
fn is_a_program() {
    let Ok(words) = std::env::var(PROGRAM) else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let number = |index: usize| words[index].parse::<u64>().expect("a number");
    match words[0] {
        "burn" => burn(number(1), None),
        "burn-for" => burn(number(2), Some(Duration::from_millis(number(1)))),
        "touch" => touch(number(1)),
        "both" => {
            touch(number(2));
            burn(1, Some(Duration::from_millis(number(1))));
        }
        other => panic!("{other}"),
    }
    // The rest of the test program would take memory and time.
    std::process::exit(0);
}

fn burn(threads: u64, time: Option<Duration>) {
    let threads: Vec<_> = (0..threads).map(|_| std::thread::spawn(move || burn_alone(time))).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
}

fn burn_alone(time: Option<Duration>) {
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let mut sum = 0_u64;
    while time.is_none_or(|time| used() < time) {
        for step in 0..100_000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(step));
        }
    }
}

fn touch(megabytes: u64) {
    let memory = vec![1_u8; usize::try_from(megabytes << 20).expect("a size")];
    black_box(&memory);
}
