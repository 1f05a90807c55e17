//! The values of options that several subcommands have. Starts nothing and opens nothing.
//!
//! The one rule: a mistake names the option, what it wants and what it got.

use std::ffi::OsString;
use std::time::Duration;

use lexopt::Parser;

use super::config::parse_duration;
use super::failure::Failure;

/// The path after an option.
pub(super) fn path_of(arguments: &mut Parser, option: &str) -> Result<OsString, Failure> {
    let path = arguments.value()?;
    if path.is_empty() { Err(Failure::Usage(format!("--{option} is empty"))) } else { Ok(path) }
}

/// Reads the number of seconds after an option.
pub(super) fn seconds(arguments: &mut Parser, option: &str) -> Result<Duration, Failure> {
    let value = arguments.value()?;
    let number = value.to_str().and_then(|text| text.parse::<f64>().ok());
    let seconds = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    seconds.or_else(|| parse_duration(value.to_str()?)).ok_or_else(|| {
        let value = value.to_string_lossy();
        Failure::Usage(format!("--{option} wants a number of seconds, or a time such as 500ms or 1m30s, not `{value}`"))
    })
}
