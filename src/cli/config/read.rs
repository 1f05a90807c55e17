//! From tables to settings: the keys of the file, their defaults, and what must hold between them.
//!
//! The one rule: a table is checked as it is written, once, before it is multiplied into instances.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use childminder::{Policy, Resource};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Errors, Report};
use super::section::{POLICY, Section};
use super::value::{self, Parsed};
use super::{Config, Output, ProcessConfig, Settings, syntax};

const PROCESS: [&str; 15] = [
    "command",
    "shell",
    "directory",
    "environment",
    "clear-environment",
    "user",
    "group",
    "groups",
    "umask",
    "limits",
    "autostart",
    "instances",
    "stdout",
    "stderr",
    // One more place, so that the policy's keys follow.
    POLICY[0],
];

const OUTPUT: &str = "\"prefix\", \"null\", \"inherit\", the path of a file with a slash in it, or a table with `file`";
const MAX_SIZE: u64 = 10 << 20;
const KEEP: u32 = 5;

/// What stands for the number of an instance.
const INSTANCE: &str = "{instance}";

pub(super) fn config(file: &Path, base: &Path, bytes: &[u8]) -> Result<Config, Errors> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let sound = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let text = String::from_utf8_lossy(sound);
            let mut report = Report::new(&text);
            report.add(text.len()..text.len(), "bytes that are no UTF-8, allowed is text in UTF-8".into());
            return Err(report.into_errors(file));
        }
    };
    let mut report = Report::new(text);
    let mended = syntax::without_bare_keys(&mut report, text);
    let root = syntax::parse(&mut report, &mended);
    let config = Reader { report: &mut report, base, taken: BTreeMap::new() }.config(root.get_ref(), text.len());
    if report.is_sound() { Ok(config) } else { Err(report.into_errors(file)) }
}
