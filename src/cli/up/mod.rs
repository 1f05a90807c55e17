//! `childminder up`: runs several processes from one file and keeps them running, under the control
//! of a socket. Decides nothing about restarts. The monitor does that.
//!
//! The one rule: the processes are watched, whatever happens to the file, to the output and to the
//! clients.
//!
//! A condition before a process counts as up (readiness, dependencies, health) belongs into `waits`
//! and `reload`, where states are checked. What a process reports about itself beside stdout and
//! stderr belongs into `reporter`.

mod commands;
mod compress;
mod console;
mod end;
mod ends;
mod events;
mod files;
mod input;
mod log_files;
mod logs;
mod parent;
mod prompt;
mod recent;
mod reload;
mod reporter;
mod status;
mod streams;
mod waits;

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::restart::State;
use childminder::{Event, Exit, ProcessId, ProcessMonitor, Reactor, Service, Status};
use lexopt::{Arg, Parser, ValueExt};

use super::config::{Commands, Config, FileName, Fingerprint, Look, ProcessConfig, Scope, SocketPath};
use super::control::Lock;
use super::control::Server;
use super::dress::Stamp;
use super::failure::Failure;
use super::listen::Listeners;
use super::options::path_of;
use super::prompt::Prompts;
use super::signals::{self, Signals, Wish};
use super::{child, descriptor, output, words};
use compress::Compressor;
use console::Console;
use ends::{Ends, ExitWhen};
use events::Subscriber;
use input::Attached;
use logs::Log;
use parent::Parent;
use reporter::Reporter;
use waits::Waits;

/// The time that readers of our outputs get for the rest of the output once all processes are down.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// If more processes than this start or stop on a terminal, they are shown as progress.
const MANY: usize = 10;

pub(super) const HELP: &str = "\
childminder up runs the processes of a file, and keeps them running.

usage: childminder up [OPTION]...

  -c, --config FILE          the file, or a folder with *.toml files (childminder.toml)
      --exit-when WHICH      ends when `all` processes have ended, when the `first` has, or when one has `failed`
      --timestamps[=CLOCK]   puts the time in front of each line: `local` (the default), `utc` or `monotonic`
  -h, --help                 this text

SIGTERM, SIGINT (Ctrl-C), SIGQUIT, a closed terminal and any other signal that would end this command, except SIGPIPE
and SIGXFSZ, stop all processes and end it with 0; a second one, at least 0.2 s later, kills them. SIGPIPE and SIGXFSZ
do nothing. SIGHUP reads the file again and touches only what has changed, SIGUSR1 writes the status to stderr, SIGUSR2
closes the output files, which the next line opens anew, and SIGTSTP (Ctrl-Z) suspends this command and the processes
until `fg`. `childminder status` and the other subcommands talk to it. The stdin of the processes is /dev/null, unless
the file says otherwise. If this command is killed, its processes and all that they have started are killed, too, unless
the file says otherwise (`when-killed`). As the first process of a container it is the parent of each process that has
lost its own, reaps it, and ends it in the end.

A process has ended when it exited by itself, or could not be started, and is not to be restarted. With `--exit-when
all` the exit code is that of the first process that failed, or 0; otherwise it is that of the process that ended. It is
128 + N for signal N, 127 for a program that was not found, and 126 for one that is not executable. Exit code 2 means a
mistake in the file or in the command line, and 125 any other failure.
";

/// Runs the processes of the file.
pub(super) fn main(arguments: Parser) -> Result<u8, Failure> {
    let (mut reactor, mut up) = match prepare(arguments)? {
        Prepared::Supervisor(reactor, up) => (reactor, up),
        Prepared::Nothing(code) => return Ok(code),
    };
    // What the reading of the file has taken. The tables that grow with the starts then grow into
    // memory that is not in use before they need it.
    childminder::trim_heap();
    let result = reactor.run_service(&mut *up);
    // The readers of our outputs have a moment left. A signal that comes now must not change the
    // exit code.
    signals::block();
    up.say_left();
    let deadline = reactor.now() + LAST_WORDS;
    up.read_rest(&mut reactor, deadline);
    up.give_up_compression(&mut reactor);
    up.reporter().finish(&reactor, deadline);
    let code = up.ends.code.unwrap_or(0);
    drop(up);
    drop(reactor);
    result.map(|()| code).map_err(|error| Failure::Other(words::stopped_because(&error)))
}

/// What the command line and the file ask for.
enum Prepared {
    Supervisor(Box<Reactor>, Box<Up>),
    /// The exit code, if there is nothing to run.
    Nothing(u8),
}

/// Reads the command line and the file. It is not inlined, so that the stack of the supervisor has
/// no room for what this takes.
#[inline(never)]
fn prepare(mut arguments: Parser) -> Result<Prepared, Failure> {
    descriptor::note_inherited();
    let mut file = FileName::default();
    let (mut ends, mut look) = (Ends::default(), Look::default());
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('c') | Arg::Long("config") => file = FileName::named(path_of(&mut arguments, "config")?.into()),
            Arg::Long("timestamps") => {
                look.timestamps = Some(Some(Stamp::of_option(arguments.optional_value())?));
            }
            Arg::Long("exit-when") => {
                let which = arguments.value()?.string()?;
                let mistake = || Failure::Usage(format!("--exit-when wants all, first or failed, not `{which}`"));
                ends.when = Some(ExitWhen::parse(&which).ok_or_else(mistake)?);
            }
            Arg::Short('h') | Arg::Long("help") => {
                output::say(HELP)?;
                return Ok(Prepared::Nothing(0));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let absolute = file.absolute();
    let config = match Config::load(&file, Scope::Start) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                output::complain_plainly(&warnings.to_string());
            }
            config
        }
        Err(errors) => {
            output::complain_plainly(&errors.to_string());
            return Ok(Prepared::Nothing(2));
        }
    };
    let mut reactor = Box::new(Reactor::new()?);
    let mut up = Box::new(Up::new(&mut reactor, absolute?, config, look)?);
    up.ends = ends;
    Ok(Prepared::Supervisor(reactor, up))
}

/// The supervisor: the monitor, and what connects it to the file, the clients and the signals.
#[derive(Debug)]
struct Up {
    file: FileName,
    /// In the order of the file at its last reading.
    processes: Vec<KnownProcess>,
    /// The lock that keeps another supervisor from running the file.
    lock: Option<Lock>,
    signals: Signals,
    /// It is started and stopped by name, never as a whole, because not all processes start by
    /// themselves.
    monitor: ProcessMonitor<Reporter>,
    server: Server,
    waits: Waits,
    /// The service manager that has started this command, if it wants to know our state.
    parent: Option<Box<Parent>>,
    /// The sockets of the processes.
    listeners: Rc<Listeners>,
    logs: Vec<Log>,
    subscribers: Vec<Subscriber>,
    attached: Vec<Attached>,
    prompts: Prompts,
    compressor: Compressor,
    ends: Ends,
    /// What the command line says of how lines are written.
    look: Look,
    /// The names of the processes that start with the service.
    autostart: Vec<Arc<str>>,
    /// Whether the processes are killed when this command is killed.
    kills_at_death: bool,
    /// The folder in which the cgroups of the processes are made, if the file sets one.
    cgroup: Option<PathBuf>,
    stage: Stage,
}

/// The part of a process's settings that the monitor does not keep.
#[derive(Debug)]
struct KnownProcess {
    name: Arc<str>,
    fingerprint: Fingerprint,
    /// The signal that makes it read its own configuration again.
    reload_signal: Option<i32>,
}

impl KnownProcess {
    fn new(process: &ProcessConfig) -> Self {
        let reload_signal = process.care.as_ref().and_then(|care| care.reload_signal);
        Self { name: Arc::clone(&process.name), fingerprint: process.fingerprint(), reload_signal }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Running,
    Stopping,
    /// All processes are down, and only earlier output is still passed on.
    Over,
}

impl Up {
    /// Adds all processes and starts none.
    fn new(reactor: &mut Reactor, file: FileName, config: Config, look: Look) -> Result<Self, Failure> {
        let lock = Lock::on_configuration(&config.file);
        let lock = lock.map_err(|held| Failure::Other(format!("{}: {held}", config.file.display())))?;
        let path = SocketPath::of(config.socket.clone());
        let server = Server::bind(path.as_deref(), config.access).map_err(|error| {
            let path = path.unwrap_or_default();
            Failure::Other(format!("cannot listen at {}: {error}", path.display()))
        })?;
        // If the limit stays lower, only fewer processes fit.
        let _ = reactor.raise_fd_limit();
        let console = Console::new(reactor)?;
        let signals = Signals::watch(reactor)?;
        let mut monitor = ProcessMonitor::with_observer(Reporter::new(console, reactor.now()));
        monitor.observer_mut().set_look(look.or(config.look));
        child::adopt_orphans(reactor, config.kill_time)?;
        if let Some(cgroup) = &config.cgroup {
            reactor.set_cgroup_parent(cgroup);
        }
        if config.kills_at_death {
            let problem = child::kill_trees_at_death(reactor);
            problem.into_iter().for_each(|problem| monitor.observer_mut().say(&problem));
        }
        let mut processes = Vec::new();
        let mut autostart = Vec::new();
        let (kills_at_death, cgroup, order) = (config.kills_at_death, config.cgroup.clone(), config.order.clone());
        let listeners = Rc::<Listeners>::default();
        let mut commands = Commands::new(kills_at_death, Rc::clone(&listeners));
        for process in config.into_processes() {
            let failed = |error: &dyn std::fmt::Display| Failure::Other(format!("[{}] {error}", process.name));
            let command = commands.of(&process).map_err(|error| failed(&error))?;
            let policy = Arc::clone(&process.policy);
            let added = monitor.add_process_with(reactor, Arc::clone(&process.name), &command, policy);
            added.map_err(|error| failed(&error))?;
            monitor.observer_mut().set(reactor, &process);
            if process.watch.is_some() {
                let set = monitor.set_watch(reactor, &process.name, process.watch.clone());
                set.map_err(|error| failed(&error))?;
            }
            processes.push(KnownProcess::new(&process));
            if process.autostart {
                autostart.push(process.name);
            }
        }
        processes.shrink_to_fit();
        monitor.set_order(reactor, &order).map_err(|error| Failure::Other(error.to_string()))?;
        Ok(Self {
            file,
            processes,
            autostart,
            lock,
            signals,
            monitor,
            server,
            waits: Waits::default(),
            parent: Parent::new(reactor),
            listeners,
            logs: Vec::new(),
            subscribers: Vec::new(),
            attached: Vec::new(),
            prompts: Prompts::default(),
            compressor: Compressor::default(),
            ends: Ends::default(),
            look,
            kills_at_death,
            cgroup,
            stage: Stage::New,
        })
    }

    fn reporter(&mut self) -> &mut Reporter {
        self.monitor.observer_mut()
    }

    /// Starts these processes one after the other.
    fn start_all(&mut self, reactor: &mut Reactor, names: &[impl AsRef<str>]) {
        let many = names.len() > MANY && self.reporter().console.shows_progress();
        self.reporter().quiet_starts = many;
        for (index, name) in names.iter().enumerate() {
            if many {
                let progress = format!("starting, {index} of {}", names.len());
                self.reporter().console.set_progress(Some(progress));
                self.reporter().console.flush();
            }
            let _ = self.monitor.start_process(reactor, name.as_ref());
            self.reporter().console.relieve();
        }
        if many {
            let running = names.iter().filter(|name| self.process(name.as_ref()).is_some()).count();
            let console = &mut self.reporter().console;
            console.set_progress(None);
            console.say(&format!("started {running} of {}", names.len()));
            self.reporter().quiet_starts = false;
        }
    }

    /// The running process of this name.
    fn process(&self, name: &str) -> Option<ProcessId> {
        self.monitor.status(name).and_then(|status| status.process)
    }

    /// Whether this exit is a success, by the policy of the process.
    fn is_success(&self, name: &str, exit: &Exit) -> bool {
        let counts =
            |code| self.monitor.process_policy(name).is_some_and(|policy| policy.success_codes.contains(&code));
        exit.success() || exit.code().is_some_and(counts)
    }

    /// Reports at the end the processes that could not be stopped.
    fn say_left(&mut self) {
        let is_left = |status: &Status<'_>| matches!(status.state, State::Stopping { .. });
        let left = self.monitor.statuses().filter(is_left);
        let said: Vec<_> = left.map(|status| format!("[{}] {}", status.name, words::left_running(&status))).collect();
        for line in said {
            self.reporter().console.say(&line);
        }
    }

    fn show_stopping(&mut self) {
        let all = self.processes.len();
        if self.stage == Stage::Stopping && all > MANY {
            let left = self.reporter().alive;
            let progress = (left > 0).then(|| format!("stopping, {left} of {all} left"));
            self.reporter().console.set_progress(progress);
        }
    }

    fn heed(&mut self, reactor: &mut Reactor, wish: Wish) {
        match wish {
            Wish::Reload => {
                self.server.restore(reactor);
                self.reload_and_tell(reactor);
            }
            Wish::Hangup => {
                self.reporter().say(words::HANGUP);
                reactor.stop();
            }
            Wish::Status => self.say_status(reactor),
            // If suspending fails, the processes just go on.
            Wish::Suspend => drop(reactor.suspend()),
            Wish::Reopen => self.reporter().reopen(reactor.now()),
            Wish::Nothing => {}
        }
    }

    /// Does after each event what cannot wait for the end of the turn.
    fn after_event(&mut self, reactor: &mut Reactor) {
        // This comes before any flush, which may end the hold and with it the pause of all
        // processes.
        while let Some((process, fd)) = self.reporter().unheld.pop() {
            if let Some(mut process) = reactor.process(process).filter(|_| self.stage != Stage::Over) {
                process.pause(fd);
            }
        }
        if self.reporter().is_overfull() {
            self.settle_logs(reactor);
            self.settle_events(reactor);
            self.reporter().flush(reactor.now());
            self.hold_or_release(reactor);
        }
    }

    /// Runs at the end of a turn, and after work that no event has caused.
    fn settle(&mut self, reactor: &mut Reactor) {
        self.execute_requests(reactor);
        self.after_event(reactor);
        self.look_for_end(reactor);
        self.settle_waits(reactor);
        self.settle_logs(reactor);
        self.settle_events(reactor);
        self.settle_attached(reactor);
        self.show_stopping();
        self.settle_parent(reactor);
        for news in self.server.take_news() {
            self.reporter().say(&news);
        }
        self.reporter().settle(reactor);
        self.settle_compression(reactor);
        self.hold_or_release(reactor);
        self.server.settle(reactor);
    }

    /// Reads what the processes have left in their pipes, at the end, so that it is passed on or
    /// counted as dropped.
    fn read_rest(&mut self, reactor: &mut Reactor, deadline: Instant) {
        self.stage = Stage::Over;
        for id in reactor.processes().collect::<Vec<_>>() {
            if let Some(mut process) = reactor.process(id) {
                process.resume_all();
            }
        }
        let mut more = true;
        while std::mem::take(&mut more) && reactor.now() < deadline {
            let turned = reactor.turn(Some(Duration::ZERO), |reactor, event| {
                more |= matches!(event, Event::Data { .. });
                self.handle(reactor, &event);
            });
            self.settle(reactor);
            more &= turned.is_ok();
        }
    }

    /// Stops reading the processes that write to an output of ours that is full, and reads them
    /// again when it is empty.
    fn hold_or_release(&mut self, reactor: &mut Reactor) {
        if self.stage == Stage::Over {
            return;
        }
        if !self.reporter().console.update_holds() {
            return;
        }
        let statuses = self.monitor.statuses();
        let named: HashMap<_, _> = statuses.filter_map(|status| Some((status.process?, status.name))).collect();
        let reporter = self.monitor.observer();
        for id in reactor.processes().collect::<Vec<_>>() {
            let Some(mut process) = reactor.process(id) else { continue };
            for fd in [1, 2] {
                // A process without a name has exited, and other processes hold its pipes. Their
                // destination is unknown.
                let held = match named.get(&id) {
                    Some(name) => reporter.console_index(name, fd).is_some_and(|index| reporter.console.is_held(index)),
                    None => reporter.console.is_any_held(),
                };
                if held {
                    process.pause(fd);
                } else {
                    process.resume(fd);
                }
            }
        }
    }
}

impl Service for Up {
    fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    fn is_down(&self) -> bool {
        self.stage != Stage::Running && self.monitor.is_down()
    }

    fn start_service(&mut self, reactor: &mut Reactor) {
        self.stage = Stage::Running;
        self.server.restore(reactor);
        let names = std::mem::take(&mut self.autostart);
        self.parent_awaits(&names);
        self.start_all(reactor, &names);
        drop(names);
        childminder::trim_heap();
        self.after_event(reactor);
    }

    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.stage = Stage::Stopping;
        self.server.prepare_end(reactor);
        self.monitor.stop_service(reactor);
        self.after_event(reactor);
    }

    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.stage = Stage::Stopping;
        self.server.prepare_end(reactor);
        self.monitor.kill_service(reactor);
        self.after_event(reactor);
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        self.reporter().now = reactor.now();
        let handled = match (self.signals.hear(reactor, event), event) {
            (Some(wish), _) => {
                self.heed(reactor, wish);
                true
            }
            (None, Event::Orphan { pid, name }) => {
                self.reporter().say(&words::orphan(*pid, name));
                true
            }
            (None, Event::Timer(id))
                if self.wait_timer(reactor, *id) || self.parent_timer(reactor, *id) || self.prompt_timer(*id) =>
            {
                true
            }
            _ if self.heed_compression(event) => true,
            _ if self.server.handle(reactor, event) => {
                // Which client may be dropped for another one is known only when all clients have
                // been heard.
                self.settle(reactor);
                return true;
            }
            _ => {
                if !self.attached.is_empty() {
                    self.pass_to_attached(reactor, event);
                }
                if self.reporter().console.shows_progress() {
                    self.look_for_prompt(reactor, event);
                }
                self.reporter().handle(reactor, event) || self.monitor.handle(reactor, event)
            }
        };
        self.after_event(reactor);
        handled
    }

    fn turn_ended(&mut self, reactor: &mut Reactor) {
        self.settle(reactor);
    }
}
