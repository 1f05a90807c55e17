//! `childminder status` and the others: one request to a running supervisor, and its answer for people or programs.
//!
//! The one rule: what the exit code says is true: 0 is done, 1 is refused or not reached, 2 is asked in the wrong way, 125 is nobody
//! to ask.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::protocol::{self, Action, Request};
use super::{socket, table};
use crate::cli::config::{Config, DEFAULT_FILE, parse_duration};
use crate::cli::{Failure, config, output, paths, words};

/// How long a wait takes at most, if nobody says.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the supervisor may be busy otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two pictures of `--watch`.
const REDRAW: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The commands that are done by a supervisor.
pub(crate) const COMMANDS: [&str; 9] =
    ["status", "start", "stop", "restart", "signal", "reload", "reopen", "shutdown", "logs"];
/// Those that are about the supervisor as a whole.
const WITHOUT_NAMES: [&str; 3] = ["reload", "reopen", "shutdown"];

/// What the command line says.
#[derive(Debug)]
struct Arguments {
    request: Request,
    socket: Place,
    json: bool,
    watch: bool,
}

/// Does one of [`COMMANDS`].
pub(crate) fn main(command: &str, arguments: Parser) -> Result<u8, Failure> {
    let Some(arguments) = parse(command, arguments)? else {
        output::say(&help(command))?;
        return Ok(0);
    };
    let mut connection = Connection::open(&arguments)?;
    if arguments.watch {
        return watch(&mut connection, &arguments);
    }
    connection.send(&arguments.request)?;
    let answer = loop {
        let answer = connection.receive()?;
        if let Some(progress) = answer.get("progress") {
            show_progress(progress);
        } else if answer.get("line").is_none() {
            break answer;
        } else if !show_line(&answer, arguments.json)? {
            return Ok(0);
        }
    };
    if answer["ok"] != true {
        if arguments.json {
            output::say(&format!("{answer}\n"))?;
        } else {
            output::complain(answer["error"].as_str().unwrap_or("it was refused without a reason"));
            for line in answer["errors"].as_array().into_iter().flatten().filter_map(|line| line.as_str()) {
                output::complain_plainly(line);
            }
        }
        return Ok(1);
    }
    if arguments.request.action == Action::Shutdown {
        if let Some(timeout) = arguments.request.wait {
            return connection.wait_for_end(&arguments.socket.path, timeout);
        }
    }
    show(&arguments, &answer)?;
    Ok(0)
}

fn parse(command: &str, mut arguments: Parser) -> Result<Option<Arguments>, Failure> {
    let (mut names, mut all, mut wait, mut timeout) = (Vec::new(), false, false, None);
    let (mut json, mut watch, mut follow, mut signal) = (false, false, false, None);
    let (mut socket, mut file) = (None, None);
    let changes = matches!(command, "start" | "stop" | "restart" | "reload" | "shutdown");
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Long("socket") => socket = Some(PathBuf::from(arguments.value()?)),
            Arg::Short('c') | Arg::Long("config") => file = Some(PathBuf::from(arguments.value()?)),
            Arg::Long("json") => json = true,
            Arg::Long("watch") if command == "status" => watch = true,
            Arg::Short('f') | Arg::Long("follow") if command == "logs" => follow = true,
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
    let usage = |message: &str| Err(Failure::Usage(message.into()));
    let action = match (command, signal) {
        ("status", _) => Action::Status,
        ("start", _) => Action::Start,
        ("stop", _) => Action::Stop,
        ("restart", _) => Action::Restart,
        ("reload", _) => Action::Reload,
        ("reopen", _) => Action::Reopen,
        ("shutdown", _) => Action::Shutdown,
        ("logs", _) => Action::Logs { follow },
        (_, Some(signal)) => Action::Signal(signal),
        (_, None) => return usage("which signal?"),
    };
    if names.is_empty() && !all && !matches!(command, "status" | "logs") && !WITHOUT_NAMES.contains(&command) {
        return usage("which processes? NAME… or --all");
    }
    if all && !names.is_empty() {
        return usage("either NAME… or --all");
    }
    if timeout.is_some() && !wait {
        return usage("--timeout goes with --wait");
    }
    let wait = wait.then_some(timeout.unwrap_or(TIMEOUT));
    let progress = wait.is_some() && !json && io::stderr().is_terminal();
    let request = Request { action, names, all, wait, progress };
    let given = socket.map(|path| Place { path, default_because: None });
    let socket = given.map_or_else(|| find_socket(file), Ok)?;
    config::socket::check_length(&socket.path).map_err(|what| Failure::Usage(format!("the socket is {what}")))?;
    Ok(Some(Arguments { request, socket, json, watch }))
}

fn duration(text: &str) -> Result<Duration, Failure> {
    parse_duration(text).ok_or_else(|| Failure::Usage(format!("--timeout wants a duration such as 5s, not `{text}`")))
}

/// The place where the supervisor listens, as its file says or by default.
fn find_socket(file: Option<PathBuf>) -> Result<Place, Failure> {
    let (file, given) = file.map_or((PathBuf::from(DEFAULT_FILE), false), |file| (file, true));
    let default = |why: String| Place { path: config::socket::default_path(), default_because: Some(why) };
    match Config::find_socket(&file) {
        Ok((_, Some(path))) => Ok(Place { path, default_because: None }),
        Ok((file, None)) => Ok(default(format!("{} sets no `socket`", file.display()))),
        Err(error) if error.is_missing && !given => Ok(default(format!("there is no {}", error.path.display()))),
        // The file may name another supervisor, and the default one must not get its requests.
        Err(error) => Err(Failure::Usage(error.to_string())),
    }
}

/// The socket at which a supervisor is looked for.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// The reason for the default path, if it is that.
    default_because: Option<String>,
}

struct Connection {
    stream: BufReader<UnixStream>,
    /// The socket's path in messages.
    place: String,
}

impl Connection {
    fn open(arguments: &Arguments) -> Result<Self, Failure> {
        let Place { path, default_because } = &arguments.socket;
        // The path is used as it is written: in full it may be too long for a socket.
        let shown = match paths::absolute(path) {
            Ok(path) => path.display().to_string(),
            Err(error) => format!("{} ({error})", path.display()),
        };
        let stream = socket::connect_to(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let why = default_because.as_ref().map(|why| format!(" (the default, as {why})"));
                let why = why.unwrap_or_default();
                Failure::Other(format!("no supervisor is running at {shown}{why}"))
            }
            _ => Failure::Other(format!("{shown}: {error}")),
        })?;
        let follows = arguments.request.action == Action::Logs { follow: true };
        let patience = PATIENCE + arguments.request.wait.unwrap_or_default();
        stream.set_read_timeout((!follows).then_some(patience))?;
        Ok(Self { stream: BufReader::new(stream), place: shown })
    }

    fn send(&mut self, request: &Request) -> Result<(), Failure> {
        // A refusal may be there to be read even if this fails.
        let _ = self.stream.get_mut().write_all(&request.to_line());
        Ok(())
    }

    fn receive(&mut self) -> Result<Value, Failure> {
        let mut line = Vec::new();
        let failed = |what: &str| Failure::Other(format!("{}: {what}", self.place));
        match self.stream.read_until(b'\n', &mut line) {
            Ok(0) => Err(failed("the supervisor has gone")),
            Ok(_) => serde_json::from_slice(&line).map_err(|_| failed("what answers there is no supervisor")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(failed("the supervisor does not answer")),
            Err(error) => Err(failed(&error.to_string())),
        }
    }

    /// Until the supervisor is gone.
    fn wait_for_end(&mut self, socket: &Path, timeout: Duration) -> Result<u8, Failure> {
        self.stream.get_mut().set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        let result = self.stream.read_until(b'\n', &mut Vec::new());
        if result.is_err() || socket::connect_to(socket).is_ok() {
            output::complain(&format!("not down within {} s", words::seconds(timeout)));
            return Ok(1);
        }
        Ok(0)
    }
}

fn show(arguments: &Arguments, answer: &Value) -> io::Result<()> {
    let processes = answer["processes"].as_array();
    match (arguments.request.action, processes) {
        (Action::Status, Some(processes)) if arguments.json => {
            let objects: Vec<String> = processes.iter().map(Value::to_string).collect();
            output::say(&format!("[{}]\n", objects.join(",\n ")))?;
        }
        (Action::Status, Some(processes)) => {
            let width = io::stdout().is_terminal().then(|| terminal_size().0);
            output::say(&(table::lines(processes, width).join("\n") + "\n"))?;
        }
        (Action::Logs { .. }, _) => {}
        _ if arguments.json => _ = output::say(&format!("{answer}\n"))?,
        (Action::Reload, _) => {
            for key in ["added", "removed", "restarted", "updated"] {
                let names = answer[key].as_array().into_iter().flatten().filter_map(Value::as_str);
                let names: Vec<&str> = names.collect();
                if !names.is_empty() {
                    output::say(&format!("{key} {}\n", names.join(", ")))?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn show_progress(progress: &Value) {
    let (done, of) = (progress["done"].as_u64().unwrap_or(0), progress["of"].as_u64().unwrap_or(0));
    let end = if done >= of { "\r\x1b[K" } else { "" };
    let _ = write!(io::stderr(), "\r\x1b[K{done} of {of}{end}");
}

/// Whether anybody still reads.
fn show_line(line: &Value, json: bool) -> io::Result<bool> {
    let text = if json {
        format!("{line}\n")
    } else {
        let mark = if line["continued"] == true { "+" } else { "" };
        format!("[{}{mark}] {}\n", line["name"].as_str().unwrap_or("?"), line["line"].as_str().unwrap_or_default())
    };
    output::say(&text)
}

/// Draws again and again, until somebody has seen enough.
fn watch(connection: &mut Connection, arguments: &Arguments) -> Result<u8, Failure> {
    let terminal = io::stdout().is_terminal();
    if terminal {
        output::say("\x1b[2J")?;
    }
    loop {
        connection.send(&arguments.request)?;
        let answer = connection.receive()?;
        let Some(processes) = answer["processes"].as_array() else {
            output::complain(answer["error"].as_str().unwrap_or_default());
            return Ok(1);
        };
        let picture = if arguments.json {
            format!("{}\n", answer["processes"])
        } else if terminal {
            let (columns, rows) = terminal_size();
            let mut lines = table::lines(processes, Some(columns));
            if lines.len() >= rows {
                let hidden = lines.len() - rows.saturating_sub(2);
                lines.truncate(rows.saturating_sub(2));
                lines.push(format!("… and {hidden} more"));
            }
            // Line by line over the last picture, so that nothing flickers.
            format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
        } else {
            table::lines(processes, None).join("\n") + "\n\n"
        };
        if !output::say(&picture)? {
            return Ok(0);
        }
        // The end of the supervisor is to be seen at once.
        let mut fds = [PollFd::new(connection.stream.get_ref(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&REDRAW));
    }
}

/// Columns and rows.
fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

fn help(command: &str) -> String {
    let (what, arguments, options) = match command {
        "status" => (
            "shows the state of processes",
            " [NAME]...",
            "      --watch         draws it again every second, until Ctrl-C\n",
        ),
        "start" => ("starts processes", " NAME... | --all", WAIT),
        "stop" => ("stops processes, until they are started again", " NAME... | --all", WAIT),
        "restart" => ("stops processes and starts them again", " NAME... | --all", WAIT),
        "signal" => ("sends a signal to processes, not to their process groups", " SIGNAL NAME... | --all", ""),
        "reload" => ("reads the file again; only what has changed is touched", "", WAIT),
        "reopen" => ("has the output files opened anew", "", ""),
        "shutdown" => ("stops all processes and the supervisor; a second time kills them", "", WAIT),
        _ => (
            "prints the last lines that processes have written",
            " [NAME]...",
            "  -f, --follow        goes on with those to come, until Ctrl-C\n",
        ),
    };
    let names = if arguments.is_empty() { "" } else { "In NAME, `*` stands for any characters and `?` for one.\n" };
    format!(
        "childminder {command} {what}.\n\nusage: childminder {command} [OPTION]...{arguments}\n\n{options}\
         \x20     --json          prints JSON, for programs\n\
         \x20     --socket PATH   where the supervisor listens (default: what the file says)\n\
         \x20 -c, --config FILE   the supervisor's file (childminder.toml)\n\
         \x20 -h, --help          this text\n\n{names}\
         It ends with 0 if it is done, 1 if it was refused or not reached, 2 for a mistake in the command line, and 125 if\n\
         there is no supervisor, or for another failure.\n"
    )
}

const WAIT: &str = "      --wait          waits until it is done
      --timeout TIME  waits at most so long, such as 5s or 2m (60s)
";
