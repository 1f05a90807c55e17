//! The command `childminder`. All of it is in `cli`, on the library's public interface.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, unused_variables, reason = "some parts serve what only Linux has")
)]

mod cli;
#[cfg(test)]
#[path = "../tests/util/guard.rs"]
mod guard;
#[cfg(test)]
#[path = "../tests/util/left_out.rs"]
mod left_out;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(lexopt::Parser::from_env())
}
