//! The command: it parses the command line, runs one of the subcommands and sets the exit code.
//! Runs no process itself.
//!
//! The one rule: a mistake in the command line is reported in one line, with exit code 2, before
//! anything is started.

mod acl;
mod check;
mod child;
mod clock;
mod code;
pub(crate) mod config;
mod control;
mod descriptor;
mod dress;
mod listen;
mod measure;
mod output;
mod paths;
mod peer;
mod prompt;
mod reference;
mod run;
mod safe_path;
mod screen;
mod signals;
mod text;
mod up;
mod user;
mod waiting;
mod words;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use control::{client, send};
use lexopt::{Arg, Parser};

const HELP: &str = "\
childminder runs, watches and restarts processes.

usage: childminder run [OPTION]... [--] COMMAND [ARG]...   one process
       childminder measure [OPTION]... [--] COMMAND...     measures and limits runs; has a --help
       childminder up [OPTION]...                          all processes of a file; has a --help
       childminder check [OPTION]...                       reports the mistakes of the file, or its settings
       childminder status | start | stop | restart | signal | reset | reload | reopen | shutdown |
                   logs | events | send | attach           each talks to `up`, and has a --help
       childminder completions SHELL | man                 what a shell completes, and the manual page

childminder run:

  -t, --threshold SECS         a run shorter than this is an instant death (1)
  -k, --killtime SECS          the time from SIGTERM to SIGKILL (5)
  -m, --minrestartdelay SECS   the wait after the first instant death; it doubles with each further one (1)
  -M, --maxrestartdelay SECS   the longest wait (3600)
      --name NAME              the mark of its lines (the program's base name)
      --cwd DIR                its working directory
      --env KEY=VALUE          a variable added to its environment; may be repeated
      --clear-env              starts from an empty environment
      --raw                    a terminal gets its control characters as they are
      --timestamps[=CLOCK]     puts the time in front of each line: `local` (the default), `utc` or `monotonic`
      --user USER[:GROUP]      the user it runs as, by name or number; a number that is not in
                               the user database needs the group
      --restart WHEN           `always` (the default), `on-failure` or `never`
      --contain HOW            what keeps it and all that it starts together: `cgroup`, `group` (its process group),
                               or `auto` (the default), the first of these that can be had

This command prints each line of the process as `[NAME] line`. The process has a session of its own, without a terminal,
and its stdin is /dev/null. SIGTERM, SIGINT (Ctrl-C), SIGQUIT, a closed terminal and any other signal that would end
this command, except SIGPIPE and SIGXFSZ, stop the process and end this command with 0; a second one, at least 0.2 s
later, kills it. SIGPIPE and SIGXFSZ do nothing. SIGHUP restarts the process, SIGUSR1 writes its status to stderr, and
SIGTSTP (Ctrl-Z) suspends this command and the process until `fg`.

What the process has started is stopped with it, and if this command is killed, all of it is killed. As the first
process of a container this command is the parent of each process that has lost its own, and reaps it.

With `--restart never` this command ends with its child, and with `on-failure` as soon as the child succeeds: with the
child's exit code, 128+N for signal N, 127 if it was not found, 126 if it is not executable. With `never` that is so
also if a signal has ended it. Exit code 2 means a mistake
in the command line, and 125 any other failure of this command.

  -h, --help                   this text
  -V, --version                the version
";

/// The exit code for a failure of our own.
const FAILURE: u8 = 125;

/// The reason why the command was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// Something failed.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Other(message) => f.write_str(message),
        }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(format!("{error}; try --help"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// Runs the command line.
pub(crate) fn main(arguments: Parser) -> ExitCode {
    match dispatch(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                Failure::Other(_) => FAILURE,
            })
        }
    }
}

fn dispatch(mut arguments: Parser) -> Result<u8, Failure> {
    match arguments.next()? {
        Some(Arg::Short('h') | Arg::Long("help")) => output::say(HELP)?,
        Some(Arg::Short('V') | Arg::Long("version")) => {
            output::say(concat!("childminder ", env!("CARGO_PKG_VERSION"), "\n"))?
        }
        Some(Arg::Value(command)) if command == "run" => return run::main(arguments),
        Some(Arg::Value(command)) if command == "up" => return up::main(arguments),
        Some(Arg::Value(command)) => return short_lived(&command.to_string_lossy(), arguments),
        Some(other) => return Err(other.unexpected().into()),
        None => return Err(Failure::Usage("no command given; try --help".into())),
    };
    Ok(0)
}

/// Runs a command that does not run for months. It is not inlined, so that the stack of a
/// supervisor has no room for it.
#[inline(never)]
fn short_lived(command: &str, arguments: Parser) -> Result<u8, Failure> {
    match command {
        "measure" => measure::main(arguments),
        "check" => check::main(arguments),
        "completions" | "man" => reference::main(command, arguments),
        _ if client::COMMANDS.contains(&command) => client::main(command, arguments),
        _ if send::COMMANDS.contains(&command) => send::main(command, arguments),
        _ => {
            let known =
                [&["run", "up", "check", "completions", "man"], &client::COMMANDS[..], &send::COMMANDS].concat();
            let near = config::nearest(command, &known).map(|near| format!("the nearest one is `{near}`; "));
            let message = format!("no such command: {command}; {}try --help", near.unwrap_or_default());
            Err(Failure::Usage(message))
        }
    }
}

/// The path after an option.
fn path_of(arguments: &mut Parser, option: &str) -> Result<OsString, Failure> {
    let path = arguments.value()?;
    if path.is_empty() { Err(Failure::Usage(format!("--{option} is empty"))) } else { Ok(path) }
}
