//! The command `childminder`. All of it is in `cli`, on the library's public interface.

mod cli;
#[cfg(test)]
#[path = "../tests/util/guard.rs"]
mod guard;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(lexopt::Parser::from_env())
}
