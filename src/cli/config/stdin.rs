//! What a process has as its stdin. Opens nothing by itself.
//!
//! The one rule: a process that says nothing has `/dev/null`, so that none waits for a user who is
//! not there.

use std::path::{Path, PathBuf};

use childminder::{Command, Pty, Stdio};
use toml::de::DeValue;

use super::instances::expand_path;
use super::read::Reader;
use super::section::Section;
use super::value::{self, Parsed, some_text};
use crate::cli::safe_path;

const STDIN: &str = "\"null\", \"inherit\", \"pipe\", or the path of a file with a slash in it";

/// The stdin of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// `/dev/null`.
    Null,
    /// Our own stdin.
    Inherit,
    /// A pipe, which `childminder send` writes to.
    Pipe,
    /// A file that is opened at each start. Absolute.
    File(PathBuf),
    /// A terminal of its own, which is its stdout and its stderr, too.
    Terminal,
}

impl Stdin {
    pub(super) fn parse(value: &DeValue<'_>) -> Parsed<Self> {
        let text = some_text(value).map_err(|_| STDIN)?;
        match text.as_str() {
            "null" => Ok(Self::Null),
            "inherit" => Ok(Self::Inherit),
            "pipe" => Ok(Self::Pipe),
            path if path.contains('/') => Ok(Self::File(path.into())),
            _ => Err(STDIN),
        }
    }

    /// The stdin of one instance.
    pub(super) fn expand(&self, base: &Path, instance: Option<u32>) -> Self {
        match self {
            Self::File(path) => Self::File(expand_path(path, base, instance)),
            other => other.clone(),
        }
    }

    /// Gives the stdin to a command. A terminal takes the place of stdout and stderr.
    pub(super) fn apply(&self, command: &mut Command) {
        match self {
            Self::Null => {}
            Self::Inherit => drop(command.stdin(Stdio::inherit())),
            Self::Pipe => drop(command.stdin(Stdio::piped())),
            Self::File(path) => drop(command.stdin(Stdio::open_with(path, safe_path::open_to_read))),
            Self::Terminal => drop(command.pty(Pty::new().plain_newlines())),
        }
    }

    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }
}

impl Reader<'_, '_> {
    /// The stdin of a process. A terminal is its stdout and its stderr, too.
    pub(super) fn stdin(&mut self, section: &Section<'_>) -> Stdin {
        let stdin = section.read(self.report, "stdin", Stdin::parse).unwrap_or(Stdin::Null);
        if !section.read(self.report, "tty", value::boolean).unwrap_or(false) {
            return stdin;
        }
        for key in ["stdin", "stderr"] {
            if let Some(span) = section.span(key) {
                self.report.add(span, format!("both `tty` and `{key}`, allowed is one of them"));
            }
        }
        let passes_us = |value: &DeValue<'_>| match value {
            DeValue::Table(table) => table.get("direct").is_none_or(|direct| direct.get_ref().as_bool() != Some(true)),
            value => !matches!(value.as_str(), Some("null" | "inherit")),
        };
        if let Some(value) = section.value("stdout").filter(|value| !passes_us(value.get_ref())) {
            let message = "`tty` with such a `stdout`, allowed are \"prefix\" and a file that we write";
            self.report.add(value.span(), message.into());
        }
        Stdin::Terminal
    }
}
