//! `childminder completions` and `childminder man`: what shells complete, and the manual page. Both
//! are made from the help texts.
//!
//! The one rule: nothing about an option is written here, but how the supervisor is chosen. What a
//! help text does not say, a shell does not complete and the manual does not have.

mod manual;
mod pages;
mod shells;

use lexopt::{Arg, Parser, ValueExt};

use super::failure::Failure;
use super::output;
use pages::{COMPLETIONS, MAN};

/// Runs one of the two commands.
pub(super) fn main(command: &str, mut arguments: Parser) -> Result<u8, Failure> {
    let mut shell = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => {
                output::say(if command == "man" { MAN } else { COMPLETIONS })?;
                return Ok(0);
            }
            Arg::Value(value) if command == "completions" && shell.is_none() => shell = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let text = match shell.as_deref() {
        _ if command == "man" => manual::man(),
        Some("bash") => shells::bash(),
        Some("zsh") => shells::zsh(),
        Some("fish") => shells::fish(),
        Some(other) => {
            return Err(Failure::Usage(format!("no completions for `{other}`; bash, zsh and fish are known")));
        }
        None => return Err(Failure::Usage("for which shell? bash, zsh or fish".into())),
    };
    output::say(&text)?;
    Ok(0)
}
