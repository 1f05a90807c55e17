//! `childminder run`: runs one process and keeps it running.
//!
//! The one rule: the child is watched, whatever happens to our own output.

mod console;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use childminder::restart::State;
use childminder::{
    Command, Contain, Event, Leftovers, Policy, PolicyError, ProcessMonitor, Reactor, Restart, Service, Strength,
    TimerId,
};
use lexopt::{Arg, Parser, ValueExt};

use super::config::parse_contain;
use super::dress::{Dress, Stamp};
use super::failure::Failure;
use super::help::HELP;
use super::options::{path_of, seconds};
use super::output::{self, time_left};
use super::prompt::Prompts;
use super::signals::{self, Signals, Wish};
use super::text::visible;
use super::{child, paths, user, words};
use console::Console;

/// The time for reading the pipes of an exited child, which other processes may still hold open.
const GRACE: Duration = Duration::from_millis(50);

/// The time that readers of our outputs get for the rest of the output after a signal to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The settings of the command line.
#[derive(Debug)]
struct Arguments {
    name: String,
    command: Command,
    policy: Policy,
    /// Whether a terminal gets the child's control characters as they are.
    raw: bool,
    /// The time in front of each line.
    dress: Dress,
    /// How the child and all that it starts are kept together.
    contain: Contain,
}

/// Runs the command on the rest of the command line.
pub(super) fn main(arguments: Parser) -> Result<u8, Failure> {
    let Some(Arguments { name, command, policy, raw, dress, contain }) = parse(arguments)? else {
        output::say(HELP)?;
        return Ok(0);
    };
    let mut reactor = Reactor::new()?;
    let mut console = Console::new(&name, policy.restart, raw, dress)?;
    console.out.watch(&mut reactor);
    console.err.watch(&mut reactor);
    let signals = Signals::watch(&mut reactor)?;
    if let Some(problem) = child::kill_trees_at_death(&mut reactor) {
        console.say(&problem);
    }
    child::adopt_orphans(&mut reactor, policy.kill_time)?;

    let restart = policy.restart;
    if contain == Contain::Cgroup {
        let containment = reactor.containment(&command);
        if let (true, Some(reason)) = (containment.strength() < Strength::Cgroup, containment.reason()) {
            return Err(Failure::Other(format!("--contain cgroup: {reason}")));
        }
    }
    let mut monitor = ProcessMonitor::with_observer(console);
    let added = monitor.add_process_with(&mut reactor, name.as_str(), &command, policy);
    added.map_err(|error| Failure::Other(error.to_string()))?;
    let mut run = Run {
        monitor,
        name,
        restart,
        signals,
        code: None,
        over: None,
        done: false,
        held: false,
        reads_rest: false,
        prompts: Prompts::default(),
    };
    if let Err(error) = reactor.run_service(&mut run) {
        run.say_left();
        return Err(Failure::Other(words::stopped_because(&error)));
    }
    let deadline = match run.done {
        // The command ends with its child, like a filter, however long its reader takes.
        true => {
            Signals::release(&mut reactor);
            None
        }
        // The command has to end because of a signal, and a further one must not change the exit
        // code.
        false => {
            signals::block();
            Some(reactor.now() + LAST_WORDS)
        }
    };
    // Output from before the end is still read, even if there was no room for it until now.
    if !run.done {
        run.read_rest(&mut reactor, deadline)?;
    }
    while run.held {
        run.turn(&mut reactor, None)?;
    }
    run.monitor.observer_mut().finish(&reactor, deadline);
    // A signal that comes now must not change the exit code.
    signals::block();
    drop(reactor);
    // The child of a command that never starts another one is the only one it stands for.
    let code = run.code.or((restart == Restart::Never).then(|| run.monitor.observer().code));
    Ok(code.unwrap_or(0))
}

/// Reads the command line. `None` if it only asks for help.
fn parse(mut arguments: Parser) -> Result<Option<Arguments>, Failure> {
    let mut policy = Policy::default();
    // Leftover processes of the child go on beside the next child.
    policy.leftovers = Leftovers::Leave;
    let (mut name, mut cwd, mut user) = (None, None, None);
    let (mut env, mut clear_env, mut raw) = (Vec::new(), false, false);
    let (mut min, mut max) = (None, None);
    let (mut contain, mut dress) = (Contain::Auto, Dress::default());
    let program = loop {
        match arguments.next()? {
            Some(Arg::Short('t') | Arg::Long("threshold")) => policy.threshold = seconds(&mut arguments, "threshold")?,
            Some(Arg::Short('k') | Arg::Long("killtime")) => policy.kill_time = seconds(&mut arguments, "killtime")?,
            Some(Arg::Short('m') | Arg::Long("minrestartdelay")) => {
                min = Some(seconds(&mut arguments, "minrestartdelay")?);
            }
            Some(Arg::Short('M') | Arg::Long("maxrestartdelay")) => {
                max = Some(seconds(&mut arguments, "maxrestartdelay")?);
            }
            Some(Arg::Long("name")) => name = Some(arguments.value()?.string()?),
            Some(Arg::Long("cwd")) => cwd = Some(path_of(&mut arguments, "cwd")?),
            Some(Arg::Long("env")) => env.push(variable(&arguments.value()?)?),
            Some(Arg::Long("clear-env")) => clear_env = true,
            Some(Arg::Long("raw")) => raw = true,
            Some(Arg::Long("timestamps")) => dress.stamp = Some(Stamp::of_option(arguments.optional_value())?),
            Some(Arg::Long("user")) => user = Some(arguments.value()?.string()?),
            Some(Arg::Long("contain")) => contain = self::contain(&arguments.value()?.string()?)?,
            Some(Arg::Long("restart")) => policy.restart = restart(&arguments.value()?.string()?)?,
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(None),
            Some(Arg::Value(program)) => break program,
            Some(other) => return Err(other.unexpected().into()),
            None => return Err(Failure::Usage("no command to run; try --help".into())),
        }
    };
    if program.is_empty() {
        return Err(Failure::Usage("the command to run is empty".into()));
    }
    policy.min_restart_delay = min.unwrap_or(policy.min_restart_delay);
    policy.max_restart_delay = max.unwrap_or(policy.max_restart_delay);
    policy.validate().map_err(|error| Failure::Usage(policy_mistake(error, min.is_some(), max.is_some())))?;
    if let Some(name) = &name {
        check_name(name)?;
    }
    let name = name.unwrap_or_else(|| visible(&base_name(&program)).into_owned());

    // A relative program is relative to the current folder, as --cwd is, and not to --cwd.
    let program = match program.as_bytes().contains(&b'/') {
        true => absolute(&program, "")?.into(),
        false => program,
    };
    let user = user.as_deref().map(User::find).transpose()?;
    let mut command = child::command(program, user.as_ref().map(|user| user.uid));
    command.args(arguments.raw_args()?);
    if clear_env {
        command.env_clear();
    }
    command.envs(env);
    if let Some(dir) = cwd {
        command.current_dir(absolute(&dir, "--cwd ")?);
    }
    if let Some(user) = user {
        user.run(&mut command)?;
    }
    child::confine(&mut command, true);
    command.contain(contain);
    Ok(Some(Arguments { name, command, policy, raw, dress, contain }))
}

/// The absolute form of a path of the command line. `option` is the option in front of it.
fn absolute(path: &OsStr, option: &str) -> Result<PathBuf, Failure> {
    paths::absolute(Path::new(path))
        .map_err(|error| Failure::Other(format!("{option}{}: {error}", path.to_string_lossy())))
}

/// The message for a wrong policy. `min` and `max` tell whether the options -m and -M were given.
fn policy_mistake(error: PolicyError, min: bool, max: bool) -> String {
    let default = |given: bool| if given { "" } else { " (the default)" };
    let advice = match (min, max) {
        (false, _) => "; give -m, too",
        (_, false) => "; give -M, too",
        (true, true) => "",
    };
    match error {
        PolicyError::MinAboveMax { min: shortest, max: longest } => format!(
            "--minrestartdelay {shortest:?}{} is above --maxrestartdelay {longest:?}{}{advice}",
            default(min),
            default(max)
        ),
        PolicyError::MaxTooShort { max } => format!("--maxrestartdelay {max:?} is too short"),
        other => other.to_string(),
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    match visible(name) {
        _ if name.is_empty() => Err(Failure::Usage("--name is empty".into())),
        shown if shown != name => Err(Failure::Usage(format!("--name `{shown}` has control characters in it"))),
        _ => Ok(()),
    }
}

fn variable(text: &OsStr) -> Result<(OsString, OsString), Failure> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(end) if end > 0 => {
            Ok((OsStr::from_bytes(&bytes[..end]).to_owned(), OsStr::from_bytes(&bytes[end + 1..]).to_owned()))
        }
        _ => Err(Failure::Usage(format!("--env wants KEY=VALUE, not `{}`", text.to_string_lossy()))),
    }
}

fn restart(text: &str) -> Result<Restart, Failure> {
    match text {
        "always" => Ok(Restart::Always),
        "on-failure" => Ok(Restart::OnFailure),
        "never" => Ok(Restart::Never),
        _ => Err(Failure::Usage(format!("--restart wants always, on-failure or never, not `{text}`"))),
    }
}

fn contain(text: &str) -> Result<Contain, Failure> {
    let wanted = || Failure::Usage(format!("--contain wants auto, cgroup or group, not `{text}`"));
    parse_contain(text).ok_or_else(wanted)
}

fn base_name(program: &OsString) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// The argument of `--user USER[:GROUP]`. Each part is a name or a number.
struct User<'a> {
    text: &'a str,
    name: &'a str,
    group: Option<&'a str>,
    uid: u32,
}

impl<'a> User<'a> {
    fn find(text: &'a str) -> Result<Self, Failure> {
        let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
        if name.is_empty() {
            return Err(mistake(text, "the user is empty"));
        }
        if group.is_some_and(str::is_empty) {
            return Err(mistake(text, "the group is empty"));
        }
        let uid = user::uid(name).map_err(|error| mistake(text, &error.to_string()))?;
        Ok(Self { text, name, group, uid })
    }

    fn run(&self, command: &mut Command) -> Result<(), Failure> {
        let unknown = |error: std::io::Error| mistake(self.text, &error.to_string());
        if command.user(self.name).is_err() {
            // With a group, the user need not be in the user database.
            if self.group.is_none() {
                let what = format!("it is not in the user database; give its group, too: {}:GROUP", self.uid);
                return Err(mistake(self.text, &what));
            }
            command.uid(self.uid);
        }
        match self.group.map(|group| (group, user::number(group))) {
            None => {}
            Some((_, Some(gid))) => drop(command.gid(gid)),
            Some((group, None)) => drop(command.group(group).map_err(unknown)?),
        }
        command.user_env(self.name).map_err(unknown)?;
        Ok(())
    }
}

fn mistake(user: &str, what: &str) -> Failure {
    Failure::Usage(format!("--user {user}: {what}"))
}

/// The monitor, and the ways in which this command ends.
struct Run {
    monitor: ProcessMonitor<Console>,
    name: String,
    restart: Restart,
    signals: Signals,
    /// Set when the command ends with its child.
    code: Option<u8>,
    /// Set when the child has exited. Until this timer expires, its pipes are still read.
    over: Option<TimerId>,
    /// Whether the command ends because of its child and not because of a signal.
    done: bool,
    /// Whether the children are not read, because our own output is not read.
    held: bool,
    /// Whether they are read in any case, because a signal ends the command.
    reads_rest: bool,
    prompts: Prompts,
}

impl Run {
    /// Reports at the end why the process could not be stopped.
    fn say_left(&mut self) {
        let Some(status) = self.monitor.status(&self.name) else { return };
        let said = matches!(status.state, State::Stopping { .. }).then(|| words::left_running(&status));
        if let Some(said) = said {
            let console = self.monitor.observer_mut();
            console.report(&self.name, &said);
            console.flush();
        }
    }

    /// Runs at the end of a turn, or earlier if too much is waiting.
    fn settle(&mut self, reactor: &mut Reactor) {
        self.monitor.observer_mut().flush();
        self.hold_or_release(reactor);
        let Some(status) = self.monitor.status(&self.name) else { return };
        let over = match self.restart {
            Restart::Always => false,
            Restart::OnFailure if self.monitor.observer().gives_up() => true,
            _ => status.state == State::Exited,
        };
        if over && self.monitor.is_running() && self.code.is_none() {
            self.code = Some(self.monitor.observer().code);
            self.over = Some(reactor.call_later(GRACE));
        }
        if self.code.is_some() && reactor.processes().next().is_none() {
            self.end(reactor);
        }
    }

    fn heed(&mut self, reactor: &mut Reactor, wish: Wish) {
        match wish {
            // There is nothing to restart. Only the readers of the output are waited for.
            Wish::Reload if self.code.is_some() => reactor.stop(),
            Wish::Reload => self.monitor.restart_all(reactor),
            Wish::Hangup => {
                self.monitor.observer_mut().say(words::HANGUP);
                reactor.stop();
            }
            Wish::Status => self.say_status(reactor),
            // If suspending fails, the processes just go on.
            Wish::Suspend => drop(reactor.suspend()),
            // This command has no output files.
            Wish::Reopen | Wish::Nothing => {}
        }
    }

    fn say_status(&mut self, reactor: &Reactor) {
        let Some(status) = self.monitor.status(&self.name) else { return };
        let said = words::status(&status, reactor.now());
        self.monitor.observer_mut().report(&self.name, &said);
    }

    /// Runs one turn. Returns whether there was anything to read.
    fn turn(&mut self, reactor: &mut Reactor, timeout: Option<Duration>) -> std::io::Result<bool> {
        let mut read = false;
        reactor.turn(timeout, |reactor, event| {
            read |= matches!(event, Event::Data { .. });
            self.handle(reactor, &event);
        })?;
        self.settle(reactor);
        Ok(read)
    }

    /// Reads the rest in the children's pipes, so that it is passed on or counted as dropped.
    fn read_rest(&mut self, reactor: &mut Reactor, deadline: Option<Instant>) -> std::io::Result<()> {
        self.reads_rest = true;
        self.hold_or_release(reactor);
        while self.turn(reactor, Some(Duration::ZERO))? && time_left(reactor, deadline) != Some(Duration::ZERO) {}
        Ok(())
    }

    fn hold_or_release(&mut self, reactor: &mut Reactor) {
        let console = self.monitor.observer();
        let (full, empty) = (console.is_full(), console.out.is_empty() && console.err.is_empty());
        let hold = full && !self.reads_rest;
        if hold || (self.held && (empty || self.reads_rest)) {
            for id in reactor.processes().collect::<Vec<_>>() {
                if let Some(mut process) = reactor.process(id) {
                    if hold {
                        process.pause_all();
                    } else {
                        process.resume_all();
                    }
                }
            }
            self.held = hold;
        }
    }

    /// Shows the line that the child has begun, if this is the timer for it.
    fn prompt_timer(&mut self, timer: TimerId) -> bool {
        let Some((process, fd)) = self.prompts.quiet(timer) else { return false };
        let text = self.monitor.unfinished_line(process, fd).map(<[u8]>::to_vec);
        if let (Some(text), true) = (text, self.monitor.is_running()) {
            if self.monitor.observer_mut().set_unfinished(&self.name, &text, fd) {
                self.prompts.set_shown((process, fd));
            }
        }
        true
    }

    /// Ends the command, unless the pipes could not be read because our output is full.
    fn grace_is_over(&mut self, reactor: &mut Reactor) {
        if self.held {
            self.over = Some(reactor.call_later(GRACE));
        } else {
            self.end(reactor);
        }
    }

    fn end(&mut self, reactor: &mut Reactor) {
        self.done = true;
        reactor.stop();
    }
}

impl Service for Run {
    fn is_running(&self) -> bool {
        self.monitor.is_running()
    }

    fn is_down(&self) -> bool {
        self.monitor.is_down()
    }

    fn start_service(&mut self, reactor: &mut Reactor) {
        self.monitor.start_service(reactor);
    }

    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.monitor.stop_service(reactor);
    }

    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.monitor.kill_service(reactor);
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        let handled = match (self.signals.hear(reactor, event), event) {
            (Some(wish), _) => {
                self.heed(reactor, wish);
                true
            }
            (None, Event::Orphan { pid, name }) => {
                self.monitor.observer_mut().say(&words::orphan(*pid, name));
                true
            }
            (None, Event::Timer(id)) if self.over == Some(*id) => {
                self.grace_is_over(reactor);
                true
            }
            (None, Event::Timer(id)) if self.prompt_timer(*id) => true,
            _ => {
                let running = self.monitor.is_running();
                let console = self.monitor.observer_mut();
                if console.shows_unfinished() && self.prompts.note(reactor, event, running) {
                    console.clear_unfinished();
                }
                console.out.handle(reactor, event)
                    || console.err.handle(reactor, event)
                    || self.monitor.handle(reactor, event)
            }
        };
        // The exit code is taken at the exit: a signal in the same turn stops the monitor.
        if self.monitor.observer().is_full() || matches!(event, Event::Exited { .. }) {
            self.settle(reactor);
        }
        handled
    }

    fn turn_ended(&mut self, reactor: &mut Reactor) {
        self.settle(reactor);
    }
}
