//! `childminder measure`: runs a command once or several times, with limits, and tells what it
//! used.
//!
//! It keeps nothing running and restarts nothing. The one rule: what cannot be had is refused
//! before anything starts, and each run that has started is reported, however it ended.

mod arguments;
mod report;
mod table;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};

use childminder::{
    Command, Contain, CpuSet, Event, Finished, JobControl, Limits, Reactor, Request, RunError, RunMany, Stage, Stdio,
    Strength,
};
use lexopt::Parser;

use super::failure::{FAILURE, Failure};
use super::output::{self, Output};
use super::{child, screen, signals};
use arguments::{Arguments, Json};

pub(super) const HELP: &str = "\
childminder measure runs a command, limits it, and tells what it used with everything that it started.

usage: childminder measure [OPTION]... [--] COMMAND [ARG]...

      --wall SECS           the longest time; then SIGTERM, and SIGKILL after the kill time
      --cpu [SOFT:]SECS     the CPU time of all its processes together; then SIGKILL, and SIGTERM at SOFT
      --memory SIZE         the memory of all its processes together, without swap, such as 512M
      --processes N         the number of processes and threads at the same time
      --output-limit SIZE   the bytes that it may write to stdout and stderr
      --kill-time SECS      the time from SIGTERM to SIGKILL (5)
      --cores LIST          the processors that it may use, such as 0-3,6
      --runs N              the number of runs (1)
      --jobs N              the number of runs side by side, each on cores of its own (1)
      --input FILE          its stdin, opened anew for each run
      --stdout FILE         its stdout, appended by each run; the file is emptied first
      --stderr FILE         the same for its stderr
      --json FILE           writes the figures as JSON; `-` is stdout, and its stdout then goes to stderr
  -q, --quiet               no table and no progress
  -h, --help                this text

What is not redirected is passed through, except that a terminal is no stdin: the keyboard belongs to this command.
When a run ends, everything that it has started and left behind is killed. The limits of CPU time, memory and
processes need a cgroup; a limit that cannot be had is refused, and nothing is started. SIGINT (Ctrl-C) and SIGTERM
stop the runs, and a second one, at least 0.2 s later, kills them.

The table on stderr has a line for each run. `covers` tells what the figures count: the whole tree, the process with
the descendants that were waited for (reaped), or the process alone (leader).

The exit code of one run is the command's, 128+N for signal N, 124 if a time limit ended it, 127 if it was not found,
126 if it is not executable. If another limit ended it, the command's 0 becomes 1. The exit code of several runs is 0 if
all succeeded, and 1 otherwise. Exit code 2 means a mistake in the command line, and 125 any other failure of this
command, among them a limit that cannot be had.
";

/// The exit code of a run that a time limit has ended.
const TIME_LIMIT: u8 = 124;

/// Runs the command line.
pub(super) fn main(parser: Parser) -> Result<u8, Failure> {
    let Some(arguments) = arguments::parse(parser)? else {
        output::say(HELP)?;
        return Ok(0);
    };
    let mut json = match &arguments.json {
        Some(Json::File(path)) => Some(create(path)?),
        Some(Json::Stdout) | None => None,
    };
    let mut copies = Copies::new(&arguments)?;
    let command = command(&arguments, copies.is_some())?;
    let sets = arguments.cpu_sets()?;

    let mut reactor = Reactor::new()?;
    let mut control = JobControl::new(&mut reactor)?;
    // Without a cgroup, a guard would keep us from measuring the memory of a small program. The
    // kernel kills the process itself in any case.
    if reactor.containment(&command).strength() == Strength::Cgroup {
        // If other processes are in our cgroup, its controllers are not available.
        let _ = reactor.enter_leaf_cgroup();
        if let Some(problem) = child::kill_trees_at_death(&mut reactor) {
            output::complain(&problem);
        }
    }
    let many = RunMany::new(std::iter::repeat_n(command, arguments.runs))
        .limits(arguments.limits)
        .kill_time(arguments.kill_time)
        .output_limit(0);
    let mut many = match &sets {
        Some(sets) => many.cpu_sets(sets.clone()),
        None => many.jobs(arguments.jobs),
    };
    let mut progress = Progress::new(&arguments);
    let (mut all, mut is_stopped) = (Vec::new(), false);
    if let Some(copies) = &mut copies {
        copies.watch(&mut reactor);
    }
    many.start(&mut reactor);
    loop {
        while let Some(finished) = many.next_finished() {
            all.push(finished);
        }
        if many.is_over() {
            break;
        }
        progress.show(all.len(), many.running());
        reactor.turn(None, |reactor, event| match control.handle(reactor, &event) {
            Some(request @ (Request::Stop | Request::Kill)) => {
                is_stopped = true;
                many.stop(reactor, request);
            }
            _ if copies.as_mut().is_some_and(|copies| copies.handle(reactor, &event)) => {}
            _ => _ = many.handle(reactor, &event),
        })?;
    }
    progress.clear();
    if is_stopped {
        // One more of the same signals must not keep the figures from being written.
        signals::block();
    }
    control.release(&mut reactor);
    if let Some(copies) = &mut copies {
        copies.finish(&reactor);
    }
    drop(reactor);
    all.sort_by_key(|finished| finished.index);

    let set_of = |finished: &Finished| Some(sets.as_ref()?.get(finished.slot?)?.to_string());
    match (&arguments.json, &mut json) {
        (Some(Json::File(path)), Some(file)) => {
            let written = file.write_all(report::json(&all, set_of).as_bytes());
            written.map_err(|error| Failure::Other(format!("--json {}: {error}", path.display())))?;
        }
        (Some(Json::Stdout), _) => _ = output::say(&report::json(&all, set_of))?,
        _ => {}
    }
    let lines = table::lines(&all);
    if !arguments.quiet && !lines.is_empty() {
        if io::stderr().is_terminal() {
            let _ = io::stderr().write_all(fresh_line().as_bytes());
        }
        output::complain_plainly(&lines.join("\n"));
    }
    for problem in report::problems(&all) {
        output::complain(&problem);
    }
    Ok(exit_code(&all))
}

/// The command of every run.
fn command(arguments: &Arguments, is_copied: bool) -> Result<Command, Failure> {
    let mut command = child::command(&arguments.program, None);
    command.args(&arguments.args).contain(Contain::Auto).own_peak(true);
    child::confine(&mut command, true);
    command.stdin(match &arguments.input {
        Some(path) => {
            open(path)?;
            Stdio::open_with(path.clone(), |path| Ok(File::open(path)?.into()))
        }
        None if io::stdin().is_terminal() => Stdio::null(),
        None => Stdio::inherit(),
    });
    if is_copied {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    } else {
        command.stdout(given(arguments.stdout_of_child()?)).stderr(given(arguments.stderr_of_child()?));
    }
    if let Some(cores) = &arguments.cores {
        command.cpus(cores);
    }
    Ok(command)
}

fn given(file: Option<OwnedFd>) -> Stdio {
    file.map_or_else(Stdio::inherit, Stdio::from)
}

fn open(path: &std::path::Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::Other(format!("{}: {error}", path.display())))
}

fn create(path: &std::path::Path) -> Result<File, Failure> {
    let created = File::options().append(true).create(true).open(path).and_then(|file| {
        // A pipe or a device has no length.
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(file)
    });
    created.map_err(|error| Failure::Other(format!("{}: {error}", path.display())))
}

impl Arguments {
    /// Returns the file for the stdout of the runs, unless it is our own.
    fn stdout_of_child(&self) -> Result<Option<OwnedFd>, Failure> {
        match &self.stdout {
            Some(path) => Ok(Some(create(path)?.into())),
            // Our own stdout is for the figures alone.
            None if self.json == Some(Json::Stdout) => Ok(Some(io::stderr().as_fd().try_clone_to_owned()?)),
            None => Ok(None),
        }
    }

    fn stderr_of_child(&self) -> Result<Option<OwnedFd>, Failure> {
        self.stderr.as_ref().map(|path| Ok(create(path)?.into())).transpose()
    }

    /// Returns the processors of each slot, or `None` if there is only one slot.
    fn cpu_sets(&self) -> Result<Option<Vec<CpuSet>>, Failure> {
        if self.jobs == 1 {
            return Ok(None);
        }
        let mut machine = childminder::Topology::of_this_machine()?;
        if let Some(cores) = &self.cores {
            machine = machine.restricted_to(cores);
        }
        machine.split(self.jobs).map(Some).map_err(|error| Failure::Usage(format!("--jobs: {error}")))
    }
}

/// The outputs of the runs, copied by us, because their bytes are limited.
struct Copies {
    out: Output,
    err: Output,
    /// The number of bytes that each run may write.
    limit: u64,
    /// The number of bytes that each run has written.
    written: Vec<(childminder::ProcessId, u64)>,
}

impl Copies {
    /// Returns `None` if the outputs need not be copied.
    fn new(arguments: &Arguments) -> Result<Option<Self>, Failure> {
        let Limits { output: Some(limit), .. } = arguments.limits else { return Ok(None) };
        let of = |file: Option<OwnedFd>, own: fn() -> io::Result<Output>| file.map_or_else(own, Output::of);
        let out = of(arguments.stdout_of_child()?, Output::stdout)?;
        let err = of(arguments.stderr_of_child()?, Output::stderr)?;
        Ok(Some(Self { out, err, limit, written: Vec::new() }))
    }

    fn watch(&mut self, reactor: &mut Reactor) {
        self.out.watch(reactor);
        self.err.watch(reactor);
    }

    /// Writes what a run has written, up to the limit. Returns whether the event was meant for the
    /// outputs alone.
    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        if let Event::Data { process, fd, data } = *event {
            let index = self.written.iter().position(|(known, _)| *known == process);
            let index = index.unwrap_or_else(|| {
                self.written.push((process, 0));
                self.written.len() - 1
            });
            let written = &mut self.written[index].1;
            let room = usize::try_from(self.limit.saturating_sub(*written)).unwrap_or(usize::MAX);
            let output = if fd == 2 { &mut self.err } else { &mut self.out };
            output.push(&None, &[&data[..data.len().min(room)]]);
            *written = written.saturating_add(data.len() as u64);
        }
        if let Event::Ended { process, .. } = *event {
            self.written.retain(|(known, _)| *known != process);
        }
        let is_ours = self.out.handle(reactor, event) || self.err.handle(reactor, event);
        self.out.flush();
        self.err.flush();
        is_ours
    }

    fn finish(&mut self, reactor: &Reactor) {
        self.out.finish(reactor, None);
        self.err.finish(reactor, None);
        for report in [self.out.final_report(), self.err.final_report()].into_iter().flatten() {
            output::complain(&report);
        }
    }
}

/// The line that tells how far several runs are, if stderr is a terminal.
struct Progress {
    runs: usize,
    shown: Option<(usize, usize)>,
    is_wanted: bool,
}

impl Progress {
    fn new(arguments: &Arguments) -> Self {
        let is_wanted = arguments.runs > 1 && !arguments.quiet && io::stderr().is_terminal();
        Self { runs: arguments.runs, shown: None, is_wanted }
    }

    fn show(&mut self, done: usize, running: usize) {
        if self.is_wanted && self.shown.replace((done, running)) != Some((done, running)) {
            // The next output of a run comes in its place.
            self.write(&format!("{}{done} of {} runs are over, {running} in progress\r", fresh_line(), self.runs));
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            self.write("\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // The runs are not held up by a terminal that is gone.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Moves a terminal to the start of an empty line: this one, if the cursor is in its first column,
/// or else the next one. What a run has written without a newline stays.
fn fresh_line() -> String {
    format!("{}\r\x1b[K", " ".repeat(screen::columns(io::stderr()) - 1))
}

fn exit_code(all: &[Finished]) -> u8 {
    let [one] = all else { return u8::from(!all.iter().all(Finished::success)) };
    match &one.result {
        Ok(output) if report::is_time_limit(output.ended_by) => TIME_LIMIT,
        Ok(output) => match (output.exit.code(), output.exit.signal()) {
            // It has exited before it could be killed, or has caught SIGTERM.
            (Some(0), _) if report::is_limit(output.ended_by) => 1,
            (Some(code), _) => u8::try_from(code).unwrap_or(FAILURE),
            (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(FAILURE),
            (None, None) => FAILURE,
        },
        Err(RunError::Spawn(error)) if error.stage() == Stage::Exec => {
            if error.io_error().kind() == io::ErrorKind::NotFound { 127 } else { 126 }
        }
        Err(_) => FAILURE,
    }
}
