//! Compares whole supervisors with the same services: the command, runsv, s6-supervise, supervisord
//! and twistd, as far as they are installed. Measures restarts, starts and costs, and no other
//! features.
//!
//! The one rule: no supervisor reports its own figures. The services' own time stamps tell when
//! they start, and the kernel tells the rest.
//!
//! With `--many`, only the command is measured, with up to ten thousand services: `cargo bench
//! --bench supervisors -- --many`. With `--mass`, it is measured beside a bare loop when all of its
//! services are killed or stopped at once. With `--files`, it is measured beside a bare loop and
//! supervisord while services write lines that go to files.

#[path = "support/files.rs"]
mod files;
#[path = "support/many.rs"]
mod many;
#[path = "support/mass.rs"]
mod mass;
mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::raw::{Spawner, Spec};
use support::{Bench, Target, guard, median, outside, program, raw, rest};

const OURS: &str = "childminder command";
/// The command, if a process group alone keeps each service together.
const GROUPS: &str = "childminder command, groups";

/// childminder, twistd, runsv and s6-supervise restart a service at once only if it has lived for a
/// second.
const LIVED: Duration = Duration::from_millis(1200);

/// A supervisor whose services send no sign of life for so long does not work.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A supervisor program, and how it is configured.
struct Contestant {
    name: &'static str,
    program: PathBuf,
    /// Writes the supervisor's configuration into the folder, and returns the arguments of each
    /// process that it takes.
    configure: fn(&Folder, usize) -> Vec<Vec<String>>,
}

impl Contestant {
    /// The installed supervisors, with their usual settings except the ones that make them restart
    /// at once.
    fn all() -> Vec<Self> {
        let installed = |names: &[&str]| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut found = std::env::split_paths(&path).flat_map(|dir| names.iter().map(move |name| dir.join(name)));
            let found = found.find(|program| program.is_file());
            if found.is_none() {
                eprintln!("left out: {} is not installed", names[0]);
            }
            found
        };
        let add = |name, program: Option<PathBuf>, configure| Some(Self { name, program: program?, configure });
        let all = [
            add(OURS, outside::binary(), up),
            // runsvdir and s6-svscan are left out. They only start and watch these, and take no
            // part in a restart.
            add("runsv", installed(&["runsv"]), runsv),
            add("s6-supervise", installed(&["s6-supervise"]), s6),
            add("supervisord", installed(&["supervisord"]), supervisord),
            // The second name is Debian's.
            add("twistd", installed(&["twistd", "twistd3"]), twistd),
        ];
        all.into_iter().flatten().collect()
    }
}

/// A temporary folder with the services' program and their pipe. It is removed at the drop.
struct Folder {
    path: PathBuf,
    /// The path of the services' program: a short name without a space in it.
    service: String,
    /// The argument of the services' program.
    word: String,
}

impl Folder {
    fn new(program: &Path) -> Self {
        let path = guard::folder_in(&memory_or_disk()).join(raw::monotonic().to_string());
        fs::create_dir(&path).expect("temporary folder");
        let inside = |name: &str| path.join(name).display().to_string();
        let (service, word) = (inside("service"), format!("at:{}", inside("signs")));
        let folder = Self { path, service, word };
        symlink(program, &folder.service).expect("link");
        raw::mkfifo(&folder.signs());
        folder
    }

    fn signs(&self) -> PathBuf {
        self.path.join("signs")
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path.join(name);
        fs::write(&path, text).expect("file");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}

/// The folders of runsv and s6-supervise belong into memory, as with `/run` in real use. On a disk
/// they take twice the time.
fn memory_or_disk() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let memory = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        let is_there = words.next() == Some("/dev/shm") && words.next() == Some("tmpfs");
        is_there && words.next().is_some_and(|options| !options.contains("noexec"))
    });
    if memory { "/dev/shm".into() } else { std::env::temp_dir() }
}

/// `childminder up`.
fn up(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let Folder { path, service, word } = folder;
    let path = path.display();
    let text = format!(
        "[monitor]\nsocket = '{path}/socket'\n[process.service]\ncommand = ['{service}', '{word}']\ninstances = {count}\n"
    );
    vec![vec!["up".into(), "-c".into(), folder.write("childminder.toml", &text)]]
}

/// runsv takes a process and a folder for each service.
fn runsv(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    folders(folder, count, "at", &[])
}

/// s6-supervise takes the same. It restarts a service at once if the service has reported that it
/// is ready, and any other service after a second.
fn s6(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    folders(folder, count, "ready", &[("notification-fd", "3\n")])
}

/// `run` is usually a shell script. Here the service itself is the script's interpreter, so that no
/// shell is measured.
fn folders(folder: &Folder, count: usize, mode: &str, files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let run = format!("#!{} {mode}:{}\n", folder.service, folder.signs().display());
    let one = |number: usize| {
        let name = number.to_string();
        fs::create_dir(folder.path.join(&name)).expect("service folder");
        let run = folder.write(&format!("{name}/run"), &run);
        fs::set_permissions(run, Permissions::from_mode(0o755)).expect("permissions");
        for (file, text) in files {
            folder.write(&format!("{name}/{file}"), text);
        }
        vec![folder.path.join(name).display().to_string()]
    };
    (0..count).map(one).collect()
}

/// supervisord with the socket for supervisorctl. Its loop waits for up to a second in each turn,
/// unless something else happens. It does so before it starts anything, and between an exit and the
/// restart, which are two turns of the loop. No setting changes that.
fn supervisord(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let Folder { path, service, word } = folder;
    let path = path.display();
    let text = format!(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={path}/pid\n\
         [unix_http_server]\nfile={path}/socket\n\
         [rpcinterface:supervisor]\n\
         supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
         [program:service]\ncommand={service} {word}\nnumprocs={count}\nprocess_name=%(process_num)d\n\
         startsecs=0\nautorestart=true\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
    );
    vec![vec!["-c".into(), folder.write("supervisord.conf", &text)]]
}

/// twistd with the ProcessMonitor that `twistd procmon` makes. That command takes one process only.
fn twistd(folder: &Folder, count: usize) -> Vec<Vec<String>> {
    let Folder { service, word, .. } = folder;
    let text = format!(
        "from twisted.application.service import Application\n\
         from twisted.runner.procmon import ProcessMonitor\n\
         application = Application('services')\n\
         monitor = ProcessMonitor()\n\
         monitor.setServiceParent(application)\n\
         for number in range({count}):\n    monitor.addProcess(str(number), ['{service}', '{word}'])\n"
    );
    vec![vec!["-n".into(), "--pidfile=".into(), "-y".into(), folder.write("services.tac", &text)]]
}

/// A running supervisor, in as many processes as it takes. It is killed with its services at the
/// drop.
struct Supervisor {
    folder: Folder,
    signs: File,
    /// Keeps the pipe open while no service has it open.
    open: Option<File>,
    pids: Vec<i32>,
    services: Vec<i32>,
    /// The time from the first exec to the last service's first sign of life, in milliseconds.
    start: f64,
}

impl Supervisor {
    /// Starts a supervisor. `None` if not all services start.
    fn start(contestant: &Contestant, service: &Path, count: usize) -> Option<Self> {
        let folder = Folder::new(service);
        let processes = (contestant.configure)(&folder, count);
        let signs = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(folder.signs()).expect("signs");
        let open = OpenOptions::new().write(true).open(folder.signs()).ok();
        let (pids, services) = (Vec::with_capacity(processes.len()), Vec::with_capacity(count));
        let mut started = Self { folder, signs, open, pids, services, start: 0.0 };
        let spec = |args: &Vec<String>| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            // Their output is not read.
            let mut spec = Spec::new(&contestant.program, &args, [false; 3]);
            spec.die_with_parent = true;
            spec
        };
        let specs: Vec<Spec> = processes.iter().map(spec).collect();
        let mut spawner = Spawner::new();
        let exec = raw::monotonic();
        for spec in &specs {
            started.pids.push(spawner.spawn(spec).0);
        }
        for _ in 0..count {
            let (time, service) = started.sign()?;
            started.services.push(service);
            started.start = started.start.max(millis(exec, time));
        }
        Some(started)
    }

    /// The time of the next service's first sign of life, and its pid.
    fn sign(&mut self) -> Option<(u64, i32)> {
        if poll(&mut [PollFd::new(&self.signs, PollFlags::IN)], Some(&PATIENCE)).ok()? == 0 {
            return None;
        }
        let mut bytes = [0; 16];
        self.signs.read_exact(&mut bytes).ok()?;
        let number = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Some((number(0), number(8) as i32))
    }

    /// The median of the times from a service's SIGKILL to its replacement's first sign of life, in
    /// milliseconds, among services that have lived long enough. Each service is killed once.
    fn restarts(&mut self, deaths: usize) -> f64 {
        let mut times = Vec::new();
        for victim in self.services.clone().into_iter().take(deaths) {
            // Everything is asleep then, and all messages about the last restart are written.
            rest(Duration::from_millis(20));
            let killed = raw::monotonic();
            raw::kill(victim, libc::SIGKILL);
            let (time, _) = self.sign().expect("a replacement");
            times.push(millis(killed, time));
        }
        median(&times)
    }

    fn pss(&self) -> f64 {
        self.pids.iter().map(|pid| outside::memory(*pid)[1]).sum()
    }

    /// The context switches and the milliseconds of processor time so far.
    fn work(&self) -> [f64; 2] {
        let cpu: Duration = self.pids.iter().map(|pid| raw::process_cpu(*pid)).sum();
        [self.pids.iter().map(|pid| outside::switches(*pid)).sum(), cpu.as_secs_f64() * 1e3]
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // A service that starts from now on finds no pipe and exits. The others exit with their
        // supervisor.
        let _ = fs::remove_file(self.folder.signs());
        for pid in &self.pids {
            raw::kill(*pid, libc::SIGKILL);
            raw::wait_blocking(*pid);
        }
        // The pipe ends when the last service has exited.
        self.open = None;
        let mut rest = [0; 4096];
        loop {
            let ready = poll(&mut [PollFd::new(&self.signs, PollFlags::IN)], Some(&PATIENCE));
            match self.signs.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return eprintln!("services are left: {ready:?}, {error}"),
            }
        }
    }
}

/// The milliseconds between two stamps.
fn millis(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

fn main() {
    for (option, play) in [(mass::OPTION, mass::play as fn(_)), (files::OPTION, files::play)] {
        let words: Vec<String> = std::env::args().skip_while(|arg| arg != option).skip(1).collect();
        if !words.is_empty() {
            return play(words);
        }
    }
    let Some(service) = program::build() else { return };
    let special = [("many", many::run as fn(_, _)), ("mass", mass::run), ("files", files::run)];
    for (name, run) in special {
        if std::env::args().any(|arg| arg.strip_prefix("--") == Some(name)) {
            return run(Bench::new(name), &service);
        }
    }
    let mut bench = Bench::new("supervisors");
    let mut contestants = Contestant::all();
    // One run without measurement reads everything from disk, and finds the supervisors that do not
    // work here.
    contestants.retain(|contestant| {
        let works = Supervisor::start(contestant, &service, 1).is_some();
        if !works {
            eprintln!("left out: {} starts nothing here", contestant.name);
        }
        works
    });
    if contestants.is_empty() {
        return;
    }
    let start = |contestant: &Contestant, count| match Supervisor::start(contestant, &service, count) {
        Some(supervisor) => supervisor,
        None => panic!("{} does not start {count} services", contestant.name),
    };

    let (count, deaths) = (bench.size(100, 5), bench.size(3, 1));
    let measure = |contestant: &Contestant| {
        let mut supervisor = start(contestant, count);
        rest(LIVED);
        let pss = supervisor.pss();
        [supervisor.restarts(deaths), supervisor.start, pss]
    };
    let mut measures: Vec<_> = contestants.iter().map(|contestant| move || measure(contestant)).collect();
    let names = contestants.iter().map(|contestant| contestant.name);
    let mut runs: Vec<(&str, &mut dyn FnMut() -> [f64; 3])> = Vec::new();
    for (name, run) in names.zip(&mut measures) {
        runs.push((name, run));
    }
    let titles = [
        "one of 100 services killed to its replacement's first sign of life, ms",
        "exec to 100 services alive, ms",
        "PSS with 100 idle instances of one service, KiB",
    ];
    let [restarts, starts, pss] = bench.contest(titles, 5, &mut runs);
    if contestants.iter().any(|contestant| contestant.name == OURS) {
        for contest in [&restarts, &starts] {
            for other in contestants.iter().filter(|contestant| contestant.name != OURS) {
                bench.ratio(contest, OURS, other.name, Target::None);
            }
        }
    }

    // They run at the same time, because they sleep and do not share their occasional work.
    let idlers: Vec<_> = contestants.iter().map(|contestant| (contestant.name, start(contestant, count))).collect();
    rest(LIVED);
    let before: Vec<_> = idlers.iter().map(|(_, supervisor)| supervisor.work()).collect();
    rest(Duration::from_secs(bench.size(10, 1) as u64));
    let work = |((name, supervisor), before): (&(&'static str, Supervisor), [f64; 2])| {
        let [switches, cpu] = supervisor.work();
        (*name, supervisor.pids.len(), switches - before[0], cpu - before[1])
    };
    let idle: Vec<_> = idlers.iter().zip(before).map(work).collect();
    drop(idlers);
    for (name, processes, ..) in &idle {
        let unit = if *processes == 1 { "KiB in 1 process".into() } else { format!("KiB in {processes} processes") };
        let target = if *name == OURS { Target::AtMost(1024.0) } else { Target::None };
        bench.figure("PSS, 100 idle instances of one service", name, &unit, pss.of(name), target);
    }
    for (name, _, switches, _) in &idle {
        bench.figure("wake-ups in 10 s, 100 idle services", name, "", &[*switches], Target::None);
    }
    for (name, _, _, cpu) in &idle {
        bench.figure("processor time in 10 s, 100 idle services", name, "ms", &[*cpu], Target::None);
    }
    bench.finish();
}
