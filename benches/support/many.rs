//! Measures the processor time of the command with a hundred, a thousand and ten thousand services,
//! to see whether the cost of an action depends only on the services that it concerns.
//!
//! Each service is kept together in its cgroup, as by default, or by its process group alone.
//!
//! The one rule: each figure is the cost for one service or for one event, so that it is the same
//! for all counts if the cost grows with the work.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{Bench, Target, clock, median, micros, outside, raw, rest};
use super::{Contestant, Folder, GROUPS, LIVED, OURS, Supervisor};

const COUNTS: [usize; 3] = [100, 1_000, 10_000];
/// The title of each figure.
const WHAT: [&str; 7] = [
    "start of a service",
    "status of a service among all",
    "request about one service",
    "death and restart of a service",
    "reload without a change, of a service",
    "line of a service",
    "stop of a service",
];
const LINES: usize = 2_000;

/// Configures the command with all these services, whose output is not read, and one service that
/// writes lines.
fn cgroups(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    config(folder, count, "auto")
}

fn groups(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    config(folder, count, "group")
}

fn config(Folder { path, service, word }: &Folder, count: usize, contain: &str) -> Vec<Vec<String>> {
    let path = path.display();
    let text = format!(
        "[monitor]\nsocket = '{path}/socket'\n\
         [process.writer]\ncommand = ['{service}', 'drip', '100', '{LINES}']\nautostart = false\nrestart = 'never'\n\
         [process.service]\ncommand = ['{service}', '{word}']\ninstances = {count}\nstdout = 'null'\nstderr = 'null'\n\
         contain = '{contain}'\n"
    );
    write(&path, text)
}

fn write(folder: &impl std::fmt::Display, text: String) -> Vec<Vec<String>> {
    let file = format!("{folder}/childminder.toml");
    std::fs::write(&file, text).expect("file");
    vec![vec!["up".into(), "-c".into(), file]]
}

/// Configures tables that each write to a file of their own.
fn with_files(Folder { path, service, word }: &Folder, count: usize) -> Vec<Vec<String>> {
    let path = path.display();
    let table = |number| {
        format!(
            "[process.service-{number}]\ncommand = ['{service}', '{word}']\nstdout = {{ file = '{path}/{number}.log' }}\n"
        )
    };
    let tables: String = (0..count).map(table).collect();
    write(&path, format!("[monitor]\nsocket = '{path}/socket'\n{tables}"))
}

/// Configures one table with this many instances.
fn with_instances(Folder { path, service, word }: &Folder, count: usize) -> Vec<Vec<String>> {
    let path = path.display();
    let table = format!("[process.service]\ncommand = ['{service}', '{word}']\ninstances = {count}\n");
    write(&path, format!("[monitor]\nsocket = '{path}/socket'\n{table}"))
}

/// A connection to a supervisor.
struct Client(BufReader<UnixStream>);

impl Client {
    fn new(supervisor: &Supervisor) -> Self {
        Self(BufReader::new(UnixStream::connect(supervisor.folder.path.join("socket")).expect("socket")))
    }

    fn ask(&mut self, request: &str) {
        self.0.get_mut().write_all(format!("{{\"version\": 1, {request}}}\n").as_bytes()).expect("request");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("answer");
        assert!(answer.contains("\"ok\":true"), "{answer}");
    }
}

/// The microseconds of the supervisor's processor time that `work` takes.
fn cost(supervisor: &Supervisor, work: impl FnOnce()) -> f64 {
    let cpu = || raw::process_cpu(supervisor.pids[0]);
    let before = cpu();
    work();
    (cpu() - before).as_secs_f64() * 1e6
}

/// The figures of one supervisor, in the order of [`WHAT`].
fn measure(contestant: &Contestant, service: &Path, count: usize) -> Option<[f64; 7]> {
    let mut supervisor = Supervisor::start(contestant, service, count)?;
    let started = raw::process_cpu(supervisor.pids[0]).as_secs_f64() * 1e6;
    rest(LIVED);
    let mut client = Client::new(&supervisor);
    let each = |total: f64, number: usize| total / number as f64;
    let mut repeated = |times: usize, request: &str| {
        let work = || (0..times).for_each(|_| client.ask(request));
        each(cost(&supervisor, work), times)
    };
    let status = repeated(5, "\"command\": \"status\"");
    let request = repeated(200, "\"command\": \"status\", \"names\": [\"service:7\"]");
    let reload = repeated(5, "\"command\": \"reload\"");
    let line = cost(&supervisor, || {
        client.ask("\"command\": \"start\", \"names\": [\"writer\"]");
        rest(Duration::from_micros(LINES as u64 * 250));
    });
    let deaths = count.min(200);
    let before = raw::process_cpu(supervisor.pids[0]);
    supervisor.restarts(deaths);
    let death = (raw::process_cpu(supervisor.pids[0]) - before).as_secs_f64() * 1e6;
    let stop = cost(&supervisor, || {
        raw::kill(supervisor.pids[0], libc::SIGTERM);
        raw::wait_unreaped(supervisor.pids[0]);
    });
    Some([
        each(started, count),
        each(status, count),
        request,
        each(death, deaths),
        each(reload, count),
        each(line, LINES),
        each(stop, count),
    ])
}

/// The seconds for a check of a file with so many tables.
fn check(program: &Path, folder: &Folder, count: usize) -> f64 {
    let table =
        |number| format!("[process.service-{number}]\ncommand = ['sleep', '{number}']\nstdout = '/tmp/{number}.log'\n");
    let file = folder.write("check.toml", &(0..count).map(table).collect::<String>());
    let start = clock();
    let status = Command::new(program).args(["check", "-c", &file]).stdout(Stdio::null()).status().expect("check");
    assert!(status.success());
    micros(start) / 1e6
}

pub(super) fn run(mut bench: Bench, service: &Path) {
    let Some(program) = outside::binary() else { return };
    let contestant = |name, configure| Contestant { name, program: program.clone(), configure };
    // A wake-up of another processor would be the larger part of a short request.
    raw::bind(Some(0));
    for (name, configure) in [(OURS, cgroups as fn(&Folder, usize) -> _), (GROUPS, groups)] {
        let contestant = contestant(name, configure);
        let rounds = bench.size(3, 1);
        let mut figures: Vec<[Vec<f64>; WHAT.len()]> = Vec::new();
        'counts: for count in COUNTS {
            let mut all = WHAT.map(|_| Vec::with_capacity(rounds));
            for _ in 0..rounds {
                let Some(figures) = measure(&contestant, service, count) else {
                    eprintln!("left out: {count} services, for which this machine has no room");
                    break 'counts;
                };
                all.iter_mut().zip(figures).for_each(|(all, figure)| all.push(figure));
            }
            figures.push(all);
        }
        for (index, what) in WHAT.iter().enumerate() {
            for (all, count) in figures.iter().zip(COUNTS) {
                bench.figure(what, name, &format!("µs, {count} services"), &all[index], Target::None);
            }
            let Some(few) = figures.first().map(|all| median(&all[index])) else { continue };
            for (all, count) in figures.iter().zip(COUNTS).skip(1) {
                let ratios: Vec<f64> = all[index].iter().map(|figure| figure / few).collect();
                let what = format!("{what}, {count}");
                bench.figure(&what, name, &format!("× that of {}", COUNTS[0]), &ratios, Target::AtMost(1.3));
            }
        }
    }
    raw::bind(None);
    let cpu = |configure| {
        let supervisor =
            Supervisor::start(&contestant(OURS, configure), service, bench.size(2_000, 100)).expect("start");
        raw::process_cpu(supervisor.pids[0]).as_secs_f64()
    };
    let ratios: Vec<f64> = (0..bench.size(3, 1)).map(|_| cpu(with_files) / cpu(with_instances)).collect();
    bench.figure("start of 2,000 tables with a file each", OURS, "× 2,000 instances", &ratios, Target::AtMost(1.3));
    let seconds = check(&program, &Folder::new(service), 10_000);
    bench.figure("check of 10,000 tables", OURS, "s", &[seconds], Target::AtMost(1.0));
    bench.finish();
}
