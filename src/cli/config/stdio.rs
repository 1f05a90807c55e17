//! Reads what a process has as its stdin, stdout and stderr: the keys of these names, and `tty`.
//! Opens nothing.
//!
//! The one rule: a process that says nothing has `/dev/null` as its stdin, so that none waits for a
//! user who is not there.

use std::fs::Metadata;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::instances::numbers;
use super::process::{Output, Rotation, Stdin};
use super::read::{Reader, Scope};
use super::section::Section;
use super::value::{self, Parsed};
use crate::cli::descriptor::is_inherited;
use crate::cli::paths::is_folder;
use crate::cli::safe_path::Creation;

/// The keys of an output that is a table.
const FILE: [&str; 9] = ["file", "direct", "max-size", "max-age", "keep", "compress", "mode", "owner", "make-folders"];

const STDIN: &str = "\"null\", \"inherit\", \"pipe\", or the path of a file with a slash in it";
const OUTPUT: &str = "\"prefix\", \"null\", \"inherit\", the path of a file with a slash in it, or a table with `file`";

impl Reader<'_, '_> {
    /// The stdin of a process. A terminal is its stdout and its stderr, too.
    pub(super) fn stdin(&mut self, section: &Section<'_>) -> Stdin {
        let stdin = section.read(self.report, "stdin", simple_stdin).unwrap_or(Stdin::Null);
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

    /// The destination of an output. Its path is kept as it is written.
    pub(super) fn output(&mut self, section: &Section<'_>, key: &str, instances: Option<u32>) -> Output {
        let Some(value) = section.value(key) else { return Output::Prefix };
        let output = match value.get_ref() {
            DeValue::Table(table) => self.file(key, value.span(), table),
            other => self.report.check(value.span(), key, other, simple_output(other)),
        };
        let Some(output) = output else { return Output::Prefix };
        for instance in numbers(instances) {
            let placed = output.expand(self.base, instance);
            let Some(path) = placed.path() else { break };
            let there = path.metadata().ok();
            let allowed = match self.shared.own.own(path) {
                Ok(Some(number)) if is_inherited(number) => continue,
                // The descriptor may be open when the supervisor starts.
                Ok(Some(number)) if self.scope == Scope::Machine => {
                    let message = format!(
                        "`{key}` is the descriptor {number}, which is not open here: `up` does not start without it"
                    );
                    self.report.warn(value.span(), message);
                    break;
                }
                Ok(Some(_)) => "a descriptor that was open when this command was started",
                _ if output.path().is_some_and(is_folder) => "a file, not a directory",
                // A file that the process writes itself is opened at each start. A failure there
                // concerns this process alone.
                _ if matches!(placed, Output::File { .. }) && there.as_ref().is_some_and(Metadata::is_dir) => {
                    "a file, not a directory"
                }
                // A file that is not regular cannot be rotated, so its settings need not agree.
                _ if there.is_some_and(|there| !there.is_file()) => continue,
                _ if self.shared.files.get(path).is_some_and(|other| *other != placed) => {
                    "a file of its own, or one with the same settings wherever it is used"
                }
                _ => {
                    self.shared.files.insert(path.to_owned(), placed);
                    continue;
                }
            };
            self.report.add(value.span(), format!("`{key}` is the file {:?}, allowed is {allowed}", path.display()));
            break;
        }
        output
    }

    fn file(&mut self, key: &str, span: Range<usize>, table: &DeTable<'_>) -> Option<Output> {
        let section = Section::new(self.report, &format!("`{key}`"), table, &FILE);
        if section.value("file").is_none() && !section.is_misspelt("file") {
            self.report.add(span, format!("`{key}` is a table without `file`, allowed is {OUTPUT}"));
        }
        let path = section.read(self.report, "file", value::some_text).map(PathBuf::from);
        let direct = section.read(self.report, "direct", value::boolean).unwrap_or(false);
        let default = Rotation::default();
        let rotation = Rotation {
            max_size: section.read(self.report, "max-size", value::max_size).unwrap_or(default.max_size),
            keep: section.read(self.report, "keep", value::keep).unwrap_or(default.keep),
            max_age: section.read(self.report, "max-age", value::duration),
            compress: section.read(self.report, "compress", value::boolean).unwrap_or(default.compress),
        };
        let set = ["max-size", "keep", "max-age", "compress"].into_iter().find_map(|key| section.span(key));
        if let (true, Some(span)) = (direct, set) {
            let message = "rotation of a file with `direct = true`, allowed is it only for files that we write";
            self.report.add(span, message.into());
        }
        let mode = section.read(self.report, "mode", value::mode);
        let (uid, gid) = section.read(self.report, "owner", value::owner).unwrap_or_default();
        let folders = section.read(self.report, "make-folders", value::boolean).unwrap_or(false);
        let new = Creation { mode, uid, gid, folders };
        path.map(|path| if direct { Output::Direct { path, new } } else { Output::File { path, new, rotation } })
    }
}

fn simple_stdin(value: &DeValue<'_>) -> Parsed<Stdin> {
    let text = value::some_text(value).map_err(|_| STDIN)?;
    match text.as_str() {
        "null" => Ok(Stdin::Null),
        "inherit" => Ok(Stdin::Inherit),
        "pipe" => Ok(Stdin::Pipe),
        path if path.contains('/') => Ok(Stdin::File(path.into())),
        _ => Err(STDIN),
    }
}

fn simple_output(value: &DeValue<'_>) -> Parsed<Output> {
    let text = value::some_text(value).map_err(|_| OUTPUT)?;
    match text.as_str() {
        "prefix" => Ok(Output::Prefix),
        "null" => Ok(Output::Null),
        "inherit" => Ok(Output::Inherit),
        path if path.contains('/') => {
            let (new, rotation) = (Creation::default(), Rotation::default());
            Ok(Output::File { path: path.into(), new, rotation })
        }
        _ => Err(OUTPUT),
    }
}
