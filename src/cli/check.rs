//! `childminder check`: prints the mistakes in the file, or the settings that it results in.
//!
//! The one rule: no process is started, and nothing that a check makes is left behind.

use lexopt::{Arg, Parser};

use super::config::{Config, FileName, Scope, Values};
use super::failure::Failure;
use super::options::path_of;
use super::{descriptor, output};

pub(super) const HELP: &str = "\
childminder check prints each mistake in the file of `childminder up`, with line and column. It also warns of what may
keep a process from running and can be mended until the start, such as a program or a folder that is missing or a right
that its user does not have, and of a `$NAME` that nothing replaces.

usage: childminder check [-c FILE] [--effective [--show-environment]]

  -c, --config FILE        the file (childminder.toml)
      --effective          prints every setting that has a value, by the file or by default, one table for each
                           instance, as a file again; of variables only the lengths
      --show-environment   prints the values of variables, too
  -h, --help               this text

For root, a file that others may write, or replace in a folder on the way to it, is a mistake, and so is one of another
user that was not named by -c.

It ends with 0 if the file has no mistakes, and with 2 otherwise.
";

pub(super) fn main(mut arguments: Parser) -> Result<u8, Failure> {
    descriptor::note_inherited();
    let mut file = FileName::default();
    let (mut effective, mut values) = (false, Values::Hidden);
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('c') | Arg::Long("config") => file = FileName::named(path_of(&mut arguments, "config")?.into()),
            Arg::Long("effective") => effective = true,
            Arg::Long("show-environment") => values = Values::Shown,
            Arg::Short('h') | Arg::Long("help") => {
                output::say(HELP)?;
                return Ok(0);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if values == Values::Shown && !effective {
        return Err(Failure::Usage("--show-environment goes with --effective".into()));
    }
    match Config::load(&file, Scope::Machine) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                output::complain_plainly(&warnings.to_string());
            }
            if effective {
                output::say(&config.effective(values))?;
            }
            Ok(0)
        }
        Err(errors) => {
            output::complain_plainly(&errors.to_string());
            Ok(2)
        }
    }
}
