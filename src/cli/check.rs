//! `childminder check`: what is wrong with the file, or what it comes to.
//!
//! The one rule: nothing is started and nothing is made.

use lexopt::{Arg, Parser};

use super::config::{Config, FileName, Look};
use super::{Failure, descriptor, output, path_of};

const HELP: &str = "\
childminder check prints each mistake in the file of `childminder up`, with line and column. It also warns of what may
keep a process from running and can be mended until the start, such as a program or a folder that is missing or a right
that its user does not have, and of a `$NAME` that nothing replaces.

usage: childminder check [-c FILE] [--effective]

  -c, --config FILE   the file (childminder.toml)
      --effective     prints every setting, defaults and instances too, as a file again
  -h, --help          this text

It ends with 0 if the file has no mistakes, and with 2 otherwise.
";

pub(super) fn main(mut arguments: Parser) -> Result<u8, Failure> {
    descriptor::note_inherited();
    let mut file = FileName::default();
    let mut effective = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('c') | Arg::Long("config") => file = FileName::named(path_of(&mut arguments, "config")?.into()),
            Arg::Long("effective") => effective = true,
            Arg::Short('h') | Arg::Long("help") => {
                output::say(HELP)?;
                return Ok(0);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    match Config::load(&file, Look::Machine) {
        Ok((config, warnings)) => {
            if !warnings.is_empty() {
                output::complain_plainly(&warnings.to_string());
            }
            if effective {
                output::say(&config.to_string())?;
            }
            Ok(0)
        }
        Err(errors) => {
            output::complain_plainly(&errors.to_string());
            Ok(2)
        }
    }
}
