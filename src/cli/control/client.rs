//! `childminder status` and the other client commands. Each sends one request to a running
//! supervisor and prints its answer, for people or for programs.
//!
//! The one rule: the exit code tells what happened. 0 means that the request was carried out, 1
//! that it was refused or that the supervisor was not reached, 2 that the command line was wrong,
//! and 125 that no supervisor answers. `status` ends with 3 if a process is not up.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};

use super::place::Place;
use super::protocol::{self, Action, Query, Request};
use super::show::{self, Style};
use super::supervisor::{self, PATIENCE, Supervisor};
use crate::cli::config::{FileName, parse_duration};
use crate::cli::dress::Stamp;
use crate::cli::failure::Failure;
use crate::cli::options::path_of;
use crate::cli::{clock, output, user, words};

/// The longest wait if the command line sets none.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The commands that a supervisor carries out.
pub(crate) const COMMANDS: [&str; 11] =
    ["status", "start", "stop", "restart", "signal", "reload", "reopen", "shutdown", "logs", "events", "reset"];
/// The exit code of `status` if a process is not up, as that of supervisorctl.
const NOT_UP: u8 = 3;
/// The commands that concern the supervisor as a whole.
const WITHOUT_NAMES: [&str; 2] = ["reopen", "shutdown"];

/// The parsed command line.
#[derive(Debug)]
struct Arguments {
    request: Request,
    place: Place,
    /// A user that the supervisor may run as, besides root and our own user.
    owner: Option<u32>,
    style: Style,
    watch: bool,
    /// Whether only the waiting processes are shown, with what they wait for.
    waiting: bool,
}

/// Runs one of [`COMMANDS`].
pub(crate) fn main(command: &str, arguments: Parser) -> Result<u8, Failure> {
    let Some(Arguments { request, place, owner, style, watch, waiting }) = parse(command, arguments)? else {
        output::say(&help(command))?;
        return Ok(0);
    };
    let mut supervisor = Supervisor::connect(&place, owner)?;
    if watch {
        return style.watch(&mut supervisor, &request.to_line());
    }
    let shows_progress = request.wait.is_some() && !style.json && io::stderr().is_terminal();
    let start = supervisor::now();
    supervisor.send(&request.to_line());
    let mut answer = supervisor.receive(Some(start + PATIENCE))?;
    loop {
        if let Some(progress) = answer.get("progress") {
            if shows_progress {
                show::progress(progress);
            }
        } else if answer.get("event").is_some() {
            if !style.event(answer)? {
                return Ok(0);
            }
        } else if answer.get("line").is_none() {
            break;
        } else if !style.line(&answer)? {
            return Ok(0);
        }
        let deadline = match (request.action, request.wait) {
            (Action::Events, _) => None,
            (Action::Logs(query), _) if query.follow => None,
            (_, Some(wait)) => Some(start + wait + PATIENCE),
            // This was a line of a log. Printing it may have taken any time, so the wait starts
            // anew.
            (_, None) => Some(supervisor::now() + PATIENCE),
        };
        answer = supervisor.receive(deadline)?;
    }
    if answer["ok"] != true {
        style.refused(&answer)?;
        return Ok(1);
    }
    if let (Action::Shutdown, Some(timeout)) = (request.action, request.wait) {
        let is_gone = supervisor.wait_for_end(start + timeout) && !supervisor::is_served(&place);
        if !is_gone {
            output::complain(&format!("not down within {} s", words::seconds(timeout)));
        }
        return Ok(u8::from(!is_gone));
    }
    if matches!(request.action, Action::Status { .. }) && show::processes(&answer).is_none() {
        return Err(supervisor.is_none());
    }
    match show::processes(&answer).filter(|_| waiting) {
        Some(processes) => style.waiting(processes)?,
        None => style.done(request.action, &answer)?,
    }
    let all_up = show::processes(&answer).is_none_or(|processes| processes.iter().all(show::is_up));
    Ok(if all_up { 0 } else { NOT_UP })
}

fn parse(command: &str, mut arguments: Parser) -> Result<Option<Arguments>, Failure> {
    let (mut names, mut all, mut wait, mut timeout) = (Vec::new(), false, false, None);
    let (mut json, mut watch, mut tree, mut signal) = (false, false, false, None);
    let (mut rolling, mut waiting) = (false, false);
    let (mut query, mut both, mut stamp) = (Query::default(), false, None);
    let (mut socket, mut file, mut owner) = (None, FileName::default(), None);
    let changes = matches!(command, "start" | "stop" | "restart" | "reload" | "shutdown");
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Long("socket") => socket = Some(PathBuf::from(path_of(&mut arguments, "socket")?)),
            Arg::Long("owner") => owner = Some(owner_of(&arguments.value()?.string()?)?),
            Arg::Short('c') | Arg::Long("config") => file = FileName::named(path_of(&mut arguments, "config")?.into()),
            Arg::Long("json") => json = true,
            Arg::Long("tree") if command == "status" => tree = true,
            Arg::Long("watch") if command == "status" => watch = true,
            Arg::Short('f') | Arg::Long("follow") if command == "logs" => query.follow = true,
            Arg::Short('n') | Arg::Long("lines") if command == "logs" => {
                let lines = arguments.value()?.string()?;
                let mistake = || Failure::Usage(format!("-n wants a number of lines, not `{lines}`"));
                query.lines = Some(lines.parse().ok().ok_or_else(mistake)?);
            }
            Arg::Long("since") if command == "logs" => query.since = since(&arguments.value()?.string()?)?,
            Arg::Long(stream @ ("stdout" | "stderr")) if command == "logs" => {
                let stream = Some(if stream == "stderr" { 2 } else { 1 });
                both |= query.stream.is_some() && query.stream != stream;
                query.stream = stream;
            }
            Arg::Long("timestamps") if command == "logs" => {
                stamp = Some(Stamp::of_option(arguments.optional_value())?);
                if stamp == Some(Stamp::Monotonic) {
                    return Err(Failure::Usage("--timestamps wants local or utc here, not `monotonic`".into()));
                }
            }
            Arg::Long("rolling") if command == "restart" => rolling = true,
            Arg::Long("waiting") if command == "status" => waiting = true,
            Arg::Long("wait") if changes => wait = true,
            Arg::Long("timeout") if changes => timeout = Some(duration(&arguments.value()?.string()?)?),
            Arg::Long("all") if !WITHOUT_NAMES.contains(&command) => all = true,
            Arg::Value(name) if command == "signal" && signal.is_none() => {
                signal = Some(protocol::signal(&name.string()?).map_err(Failure::Usage)?);
            }
            Arg::Value(name) if !WITHOUT_NAMES.contains(&command) => names.push(name.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if both {
        query.stream = None;
    }
    let usage = |message: &str| Err(Failure::Usage(message.into()));
    let action = match (command, signal) {
        ("status", _) => Action::Status { tree },
        ("start", _) => Action::Start,
        ("stop", _) => Action::Stop,
        ("restart", _) => Action::Restart { rolling },
        ("reset", _) => Action::Reset,
        ("reload", _) => Action::Reload,
        ("reopen", _) => Action::Reopen,
        ("shutdown", _) => Action::Shutdown,
        ("logs", _) => Action::Logs(query),
        ("events", _) => Action::Events,
        (_, Some(signal)) => Action::Signal(signal),
        (_, None) => return usage("which signal?"),
    };
    if names.is_empty()
        && !all
        && !matches!(command, "status" | "logs" | "events" | "reload")
        && !WITHOUT_NAMES.contains(&command)
    {
        return usage("which processes? NAME… or --all");
    }
    if tree && names.is_empty() && !all {
        return usage("--tree of which processes? NAME… or --all");
    }
    if all && !names.is_empty() {
        return usage("either NAME… or --all");
    }
    if timeout.is_some() && !wait {
        return usage("--timeout goes with --wait");
    }
    let wait = wait.then_some(timeout.unwrap_or(TIMEOUT));
    // With progress the first answer comes at once, and shows that the supervisor is there.
    let progress = wait.is_some() || query.follow;
    let request = Request { names, all, wait, progress, ..Request::new(action) };
    let place = Place::find(socket, &file)?;
    Ok(Some(Arguments { request, place, owner, style: Style::new(json, stamp), watch, waiting }))
}

pub(super) fn owner_of(text: &str) -> Result<u32, Failure> {
    user::uid(text).map_err(|error| Failure::Usage(format!("--owner {text}: {error}")))
}

fn duration(text: &str) -> Result<Duration, Failure> {
    parse_duration(text).ok_or_else(|| Failure::Usage(format!("--timeout wants a duration such as 5s, not `{text}`")))
}

/// The earliest time that `logs` shows, in milliseconds since 1970.
fn since(text: &str) -> Result<u64, Failure> {
    let ago = parse_duration(text).and_then(|ago| u64::try_from(ago.as_millis()).ok());
    let time = ago.map(|ago| clock::now().saturating_sub(ago)).or_else(|| clock::parse(text));
    time.ok_or_else(|| {
        let allowed = "a time such as 10m (ago), 2026-11-26 or 2026-11-26T07:20:00+01:00";
        Failure::Usage(format!("--since wants {allowed}, not `{text}`"))
    })
}

/// The help of one of [`COMMANDS`].
pub(crate) fn help(command: &str) -> String {
    let (what, arguments, options) = match command {
        "status" => (
            "shows the state of processes",
            " [NAME... | --all]",
            "      --waiting       shows only the processes that wait, and what for
      --tree          shows also each process that belongs to one: its number, state, memory and name
      --watch         draws it again every second, until Ctrl-C\n",
        ),
        "start" => ("starts processes", " NAME... | --all", WAIT_FOR_START),
        "stop" => ("stops processes, until they are started again", " NAME... | --all", WAIT_FOR_STOP),
        "restart" => ("stops processes and starts them again", " NAME... | --all", RESTART),
        "reset" => (
            "forgets earlier failures of processes; one that has failed is stopped, and can be started",
            " NAME... | --all",
            "",
        ),
        "signal" => (
            "sends a signal, by its name or number, to processes, not to their process groups",
            " SIGNAL NAME... | --all",
            "",
        ),
        "reload" => (
            "reads the file again; only what has changed is touched. With NAME, it sends the process its\n`reload-signal`, by \
             which it reads its own configuration again",
            " [NAME... | --all]",
            WAIT_FOR_START,
        ),
        "reopen" => ("closes the output files; the next line opens them anew, as after logrotate(8)", "", ""),
        "shutdown" => ("stops all processes and the supervisor; a second time kills them", "", WAIT_FOR_STOP),
        "events" => {
            ("prints each change of a process as a line of JSON, as it happens, until Ctrl-C", " [NAME... | --all]", "")
        }
        _ => ("prints the last lines that processes have written", " [NAME... | --all]", LOGS),
    };
    let names = if arguments.is_empty() { "" } else { "In NAME, `*` stands for any characters and `?` for one.\n" };
    let mistakes = match command {
        "reload" => {
            "1 if it was refused, as for a file with mistakes, or not reached, 2 for a mistake in the command line"
        }
        "status" => {
            "3 if one of those asked for does not run, 1 if it was refused, 2 for a mistake in the command line or the file"
        }
        _ => "1 if it was refused or not reached, 2 for a mistake in the command line or about the socket in the file",
    };
    let every = if arguments.contains("--all") { "      --all           all processes\n" } else { "" };
    let zero = if command == "status" { "all of them run" } else { "it is done" };
    format!(
        "childminder {command} {what}.\n\nusage: childminder {command} [OPTION]...{arguments}\n\n{options}{every}\
         \x20     --json          prints JSON, for programs\n\
         \x20     --socket PATH   where the supervisor listens (default: what the file says)\n\
         \x20     --owner USER    trusts a supervisor of this user, too, beside root's and your own\n\
         \x20 -c, --config FILE   the supervisor's file (childminder.toml)\n\
         \x20 -h, --help          this text\n\n{names}\
         It ends with 0 if {zero},\n{mistakes},\n\
         and 125 if no supervisor answers, or for another failure.\n"
    )
}

const LOGS: &str =
    "  -f, --follow        goes on with those to come, until Ctrl-C; a NAME with `*` may match later processes only
  -n, --lines NUMBER  only the last lines of each process
      --since TIME    only lines since then: 10m (ago), 2026-11-26, or 2026-11-26T07:20:00+01:00
      --stdout        only lines of stdout
      --stderr        only lines of stderr
      --timestamps[=CLOCK]  puts the time in front of each line: `local` (the default) or `utc`
";
const WAIT_FOR_START: &str =
    "      --wait          waits until they are ready, or have run for their threshold, or have succeeded sooner
      --timeout TIME  waits at most so long, such as 5s or 2m (60s)
";
const RESTART: &str = "      --rolling       one after the other: the next one when the last one is ready
      --wait          waits until they are ready, or have run for their threshold, or have succeeded sooner
      --timeout TIME  waits at most so long, such as 5s or 2m (60s)
";
const WAIT_FOR_STOP: &str = "      --wait          waits until they are down
      --timeout TIME  waits at most so long, such as 5s or 2m (60s)
";
