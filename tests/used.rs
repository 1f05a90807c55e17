//! Tests the figures of a run against independent witnesses: the files of the cgroup above the
//! run's own, its `memory.peak` read from outside, and GNU time.
//!
//! The one rule: a figure agrees with its witness within one percent, 10 ms or 1 MB.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/kernel.rs"]
mod kernel;
#[path = "util/programs.rs"]
mod programs;

use std::fs;
use std::time::Duration;

use cgroups::{Part, with_part};
use childminder::{Command, Contain, Covers, EndedBy, Output, Reactor, RunMany, RunToEnd, Used};
use programs::{after, program};
use util::{WATCHDOG, left_out, now, sh};

const MEGABYTE: u64 = 1 << 20;

const DAEMON: &str = "both 1000 200";

/// A daemon that nobody waits for uses a second and 200 MB. The leader waits for the end of its
/// output.
fn daemon() -> Command {
    after(sh("(setsid \"$0\" \"$@\" &) | cat"), DAEMON)
}

/// Ten programs with their names.
fn programs() -> Vec<(&'static str, &'static str, Command)> {
    let plain = |name, command| (name, "", command);
    let words = |name, words| (name, words, program(words));
    vec![
        ("a daemon that nobody waits for", DAEMON, daemon()),
        words("four threads", "burn-for 250 4"),
        plain("a hundred forks", sh("i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i + 1)); done")),
        plain("a sleeper", sh("exec sleep 0.3")),
        plain("a gigabyte of output", sh("exec head -c 1000000000 /dev/zero")),
        words("much memory", "touch 300"),
        words("one thread", "burn-for 300 1"),
        plain("nothing", Command::new("/bin/true")),
        plain("an end by a signal", sh("kill -KILL $$")),
        plain("a pipeline", sh("seq 50000 | sort -R | sort -n | tail -n 1")),
    ]
}

fn agree(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= Duration::from_millis(10).max(other / 100)
}

/// The microseconds of a key of a file.
fn micros(text: &str, key: &str) -> Duration {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the key");
    Duration::from_micros(line.trim().parse().expect("a number"))
}

/// Runs a command in a cgroup below the part. `look` is called when the run is over and its cgroup
/// is still there.
fn run(part: &Part, mut command: Command, look: impl FnOnce()) -> Output {
    command.contain(Contain::Cgroup).own_peak(true);
    run_with(part, RunMany::new([command]).output_limit(0), look)
}

fn run_with(part: &Part, mut many: RunMany<impl Iterator<Item = Command>>, look: impl FnOnce()) -> Output {
    let mut reactor = part.reactor();
    let end = now() + WATCHDOG;
    many.start(&mut reactor);
    loop {
        if let Some(finished) = many.next_finished() {
            look();
            return finished.result.unwrap();
        }
        assert!(now() < end);
        reactor.turn(Some(WATCHDOG), |reactor, event| _ = many.handle(reactor, &event)).unwrap();
    }
}

#[test]
fn ten_programs_in_cgroups() {
    with_part("ten_programs_in_cgroups", |part| {
        part.switch_on();
        let has_memory = fs::metadata(part.0.join("memory.peak")).is_ok();
        if !has_memory {
            left_out("the controller memory is not available in version 2");
        }
        for (name, words, command) in programs() {
            let above = || micros(&fs::read_to_string(part.0.join("cpu.stat")).unwrap(), "usage_usec");
            let (before, mut peak) = (above(), None);
            let output = run(part, command.clone(), || {
                let file = part.cgroups()[0].join("memory.peak");
                peak = fs::read_to_string(file).ok().map(|text| text.trim().parse::<u64>().unwrap());
            });
            let witness = above() - before;
            let cpu = output.used.cpu_time().expect("the CPU time");
            println!("{name}: CPU {:?} ({witness:?}), peak {:?} ({peak:?})", cpu.value, output.used.peak_memory);
            assert_eq!(cpu.covers, Covers::Tree, "{name}");
            assert!(agree(cpu.value, witness), "{name}: {:?}, and it was {witness:?}", cpu.value);
            match (output.used.peak_memory, peak) {
                (Some(found), Some(peak)) => {
                    assert_eq!(found.covers, Covers::Tree, "{name}");
                    assert!(found.value.abs_diff(peak) <= MEGABYTE.max(peak / 100), "{name}: {found:?}, {peak}");
                }
                (None, None) if !kernel::OWN_PEAK && !has_memory => {}
                (found, None) => {
                    assert!(!has_memory && output.used.covers() == Some(Covers::Reaped), "{name}");
                    // A daemon that nobody waits for is left out, and this is what the answer says.
                    expect_time_to_agree(name, words, &command, found.expect("a peak").value);
                }
                (None, Some(_)) => panic!("{name}: no peak"),
            }
        }
        let daemon = run(part, daemon(), || {});
        assert!(daemon.used.cpu_time().unwrap().value >= Duration::from_secs(1), "{:?}", daemon.used);
        assert!(!has_memory || daemon.used.peak_memory.unwrap().value >= 200 * MEGABYTE);
    });
}

// The figures of a tree that was stopped are read from its cgroup, too.
#[test]
fn a_run_that_was_stopped_is_measured_with_its_tree() {
    with_part("a_run_that_was_stopped_is_measured_with_its_tree", |part| {
        let mut command = Command::new("sleep");
        command.arg("1000").contain(Contain::Cgroup);
        let many = RunMany::new([command]).timeout(Duration::from_millis(100));
        let output = run_with(part, many, || {});
        assert_eq!(output.ended_by, EndedBy::Asked);
        assert_eq!(output.used.cpu_time().unwrap().covers, Covers::Tree, "{:?}", output.used);
    });
}

/// Compares the peak of the largest process with that of GNU time.
#[track_caller]
fn expect_time_to_agree(name: &str, words: &str, command: &Command, peak: u64) {
    let mut time = std::process::Command::new("/usr/bin/time");
    time.args(["-q", "-f", "%M"]).arg(command.get_program()).args(command.get_args());
    let output = time.env(programs::PROGRAM, words).stdout(std::process::Stdio::null()).output();
    let Ok(output) = output else { return left_out("GNU time is not installed") };
    let said = String::from_utf8_lossy(&output.stderr);
    let kilobytes: u64 = said.lines().last().and_then(|line| line.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    // The peak of one program is not the same each time.
    let slack = 2 * MEGABYTE;
    assert!((kilobytes * 1024).abs_diff(peak) <= slack.max(peak / 100), "{name}: {peak}, and it was {kilobytes} KiB");
}

#[test]
fn without_a_cgroup_the_daemon_is_left_out_and_the_answer_says_so() {
    let output = RunToEnd::new(daemon().own_peak(true)).run().unwrap();
    let cpu = output.used.cpu_time().unwrap();
    assert_eq!((cpu.covers, output.used.covers()), (Covers::Reaped, Some(Covers::Reaped)));
    assert!(cpu.value < Duration::from_millis(500), "{cpu:?}");
    let peak = output.used.peak_memory;
    assert_eq!(peak.is_some(), kernel::OWN_PEAK);
    assert!(peak.is_none_or(|peak| peak.value < 50 * MEGABYTE), "{peak:?}");
    assert_eq!((output.used.pressure, output.used.peak_processes), (None, None));
    // What was waited for is counted.
    let waited = after(sh("\"$0\" \"$@\"; :"), "both 300 100");
    let output = RunToEnd::new(waited.clone().own_peak(true)).run().unwrap();
    assert!(output.used.cpu_time().unwrap().value >= Duration::from_millis(300), "{:?}", output.used);
    assert!(output.used.peak_memory.is_none_or(|peak| peak.value >= 100 * MEGABYTE), "{:?}", output.used);
}

#[test]
fn a_process_that_runs_is_measured_by_itself() {
    let mut reactor = Reactor::new().unwrap();
    let mut command = after(sh("\"$0\" \"$@\"; echo ready; exec sleep 1000"), "both 100 50");
    let id = reactor.spawn_process(command.contain(Contain::Group)).unwrap();
    let (mut said, end) = (false, now() + WATCHDOG);
    while !said {
        assert!(now() < end);
        let turned = reactor.turn(Some(WATCHDOG), |_, event| {
            if let childminder::Event::Data { data, .. } = event {
                said |= data.windows(5).any(|part| part == b"ready");
            }
        });
        turned.unwrap();
    }
    for used in [reactor.tree(id).unwrap().used(), reactor.process(id).unwrap().used()] {
        assert_eq!(used.covers(), Some(Covers::Leader));
        // The program that it has waited for is not in it.
        assert!(used.cpu_time().unwrap().value < Duration::from_millis(90), "{used:?}");
        assert!(used.peak_memory.unwrap().value < 40 * MEGABYTE, "{used:?}");
    }
    reactor.tree(id).unwrap().kill().unwrap();
    let mut after = None;
    while after.is_none() {
        assert!(now() < end);
        let turned = reactor.turn(Some(WATCHDOG), |reactor, event| {
            if let childminder::Event::Exited { process, .. } = event {
                after = reactor.process(process).map(|process| process.used());
            }
        });
        turned.unwrap();
    }
    // From then on its number may belong to another process.
    assert_eq!(after, Some(Used::default()));
}
