//! Measures the command while services write lines, beside a loop that reads and writes and does
//! nothing else, and beside supervisord.
//!
//! The one rule: the kernel tells how much of what was written has arrived, and what it took.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::support::{Bench, Target, outside, program, raw, rest};
use super::{Contestant, Folder, LIVED, OURS, Supervisor, millis};

const LOOP: &str = "bare loop";
const SUPERVISORD: &str = "supervisord";
/// The option that makes this program the loop: the word `files` or `one`, the number of services,
/// the folder of their files, and their words follow.
pub(super) const OPTION: &str = "--files-loop";
/// What all services write together.
const MEBIBYTES: usize = 500;

/// Makes the pipe for which the services wait, and returns the words of a service.
fn words(Folder { path, service, .. }: &Folder, count: usize) -> [String; 5] {
    let inside = |name: &str| path.join(name).display().to_string();
    raw::mkfifo(&path.join("go"));
    [service.clone(), "later".into(), inside("signs"), inside("go"), (MEBIBYTES / count).to_string()]
}

/// Configures instances that each write to a file of their own.
fn up(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let path = folder.path.display();
    with(folder, count, &format!("stdout = {{ file = '{path}/{{instance}}.log', max-size = 'unlimited' }}\n"))
}

/// Configures instances that write to the command's stdout, with a mark before each line.
fn up_console(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let words = with(folder, count, "").remove(0).join(" ");
    let program = outside::binary().expect("the command");
    vec![vec!["-c".into(), format!("exec {} {words} >{}/1.log", program.display(), folder.path.display())]]
}

fn with(folder: &Folder, count: usize, more: &str) -> Vec<Vec<String>> {
    let (path, words) = (folder.path.display(), words(folder, count));
    let text = format!(
        "[monitor]\nsocket = '{path}/socket'\n[process.service]\ncommand = {words:?}\ninstances = {count}\n{more}"
    );
    vec![vec!["up".into(), "-c".into(), folder.write("childminder.toml", &text)]]
}

fn supervisord(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let (path, words) = (folder.path.display(), words(folder, count).join(" "));
    let text = format!(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={path}/pid\n\
         [program:service]\ncommand={words}\nnumprocs={count}\nprocess_name=%(process_num)d\nstartsecs=0\n\
         stdout_logfile={path}/%(process_num)d.log\nstdout_logfile_maxbytes=0\nstderr_logfile=NONE\n"
    );
    vec![vec!["-c".into(), folder.write("supervisord.conf", &text)]]
}

fn bare(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let (path, service) = (folder.path.display().to_string(), words(folder, count));
    let first = [OPTION.into(), "files".into(), count.to_string(), path];
    vec![first.into_iter().chain(service).collect()]
}

fn bare_console(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let mut words = bare(folder, count);
    words[0][1] = "one".into();
    words
}

/// Plays the loop: one read of each pipe that has something, and one write of it.
pub(super) fn play(words: Vec<String>) {
    let [kind, count, folder, program, arguments @ ..] = &words[..] else { panic!("too few words") };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut spec = raw::Spec::new(Path::new(program), &arguments, [false, true, false]);
    spec.setsid = true;
    let mut spawner = raw::Spawner::new();
    let waiting = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let mut pairs: Vec<(OwnedFd, File)> = Vec::new();
    for number in 0..count.parse().expect("a number") {
        let pipe = spawner.spawn(&spec).1[1].take().expect("a pipe");
        epoll::add(&waiting, &pipe, epoll::EventData::new_u64(number), epoll::EventFlags::IN).expect("add");
        let name = if kind == "files" { number + 1 } else { 1 };
        let file = OpenOptions::new().append(true).create(true).open(format!("{folder}/{name}.log"));
        pairs.push((pipe, file.expect("file")));
    }
    let (mut events, mut buffer) = (Vec::with_capacity(128), vec![0; 65_536]);
    loop {
        events.clear();
        epoll::wait(&waiting, spare_capacity(&mut events), None).expect("wait");
        for event in &events {
            let event: &epoll::Event = event;
            let (pipe, file) = &pairs[event.data.u64() as usize];
            let read = rustix::io::read(pipe, &mut buffer[..]).expect("read");
            std::io::Write::write_all(&mut &*file, &buffer[..read]).expect("write");
        }
    }
}

/// The bytes that have arrived in the files.
fn arrived(folder: &Folder) -> u64 {
    let entries = fs::read_dir(&folder.path).expect("folder").map(|entry| entry.expect("entry"));
    let logs = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
    logs.map(|log| log.metadata().expect("file").len()).sum()
}

/// The megabytes a second from the start of all writers to the last byte in a file, and the seconds
/// of processor time for a gigabyte.
fn measure(contestant: &Contestant, service: &Path, count: usize) -> [f64; 2] {
    let mut supervisor = Supervisor::start(contestant, service, count).expect("start");
    rest(LIVED);
    let cpu = |supervisor: &Supervisor| raw::process_cpu(supervisor.pids[0]).as_secs_f64();
    let before = cpu(&supervisor);
    let start = raw::monotonic();
    let _go = OpenOptions::new().write(true).open(supervisor.folder.path.join("go")).expect("go");
    for _ in 0..count {
        supervisor.sign().expect("a writer that has written everything");
    }
    let written = (count * program::written(MEBIBYTES / count)) as u64;
    // The last pipe may hold something.
    while arrived(&supervisor.folder) < written {
        rest(Duration::from_micros(200));
    }
    let took = millis(start, raw::monotonic());
    rest(LIVED); // the marks of the console
    [written as f64 / took / 1e3, (cpu(&supervisor) - before) / (written as f64 / 1e9)]
}

pub(super) fn run(mut bench: Bench, service: &Path) {
    let Some(binary) = outside::binary() else { return };
    let own = std::env::current_exe().expect("own path");
    let ours = Contestant { name: OURS, program: binary, configure: up };
    let bare = Contestant { name: LOOP, program: own.clone(), configure: bare };
    let console = Contestant { name: OURS, program: "/bin/sh".into(), configure: up_console };
    let bare_console = Contestant { name: LOOP, program: own, configure: bare_console };
    let supervisord = Contestant::all().into_iter().find(|contestant| contestant.name == SUPERVISORD);
    let supervisord = supervisord.map(|found| Contestant { configure: self::supervisord, ..found });
    for (count, what) in [(1, "one writer"), (100, "100 writers")] {
        let titles = ["MB/s", "s of processor time for a GB"].map(|title| format!("lines of {what} to files, {title}"));
        let titles = titles.each_ref().map(String::as_str);
        let (mut one, mut two) = (|| measure(&ours, service, count), || measure(&bare, service, count));
        let mut three = || measure(supervisord.as_ref().expect("installed"), service, count);
        let mut contestants: Vec<(&str, &mut dyn FnMut() -> [f64; 2])> = vec![(OURS, &mut one), (LOOP, &mut two)];
        if supervisord.is_some() {
            contestants.push((SUPERVISORD, &mut three));
        }
        let [rate, cpu] = bench.contest(titles, 9, &mut contestants);
        bench.ratio(&rate, OURS, LOOP, Target::AtLeast(0.95));
        bench.ratio(&cpu, OURS, LOOP, Target::AtMost(1.2));
        if supervisord.is_some() {
            bench.ratio(&rate, OURS, SUPERVISORD, Target::AtLeast(1.0));
            bench.ratio(&cpu, OURS, SUPERVISORD, Target::AtMost(1.0));
        }
        let titles = ["MB/s", "s of processor time for a GB"]
            .map(|title| format!("lines of {what} to the console with marks, {title}"));
        let titles = titles.each_ref().map(String::as_str);
        let (mut one, mut two) = (|| measure(&console, service, count), || measure(&bare_console, service, count));
        let [_, cpu] = bench.contest(titles, 9, &mut [(OURS, &mut one), (LOOP, &mut two)]);
        bench.ratio(&cpu, OURS, LOOP, Target::AtMost(1.5));
    }
    bench.finish();
}
