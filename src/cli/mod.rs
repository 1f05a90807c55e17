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
mod failure;
mod glob;
mod help;
mod listen;
mod measure;
mod options;
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

use std::process::ExitCode;

use control::{client, send};
use failure::{FAILURE, Failure};
use help::HELP;
use lexopt::{Arg, Parser};

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
