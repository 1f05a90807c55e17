//! From tables to settings: the keys of the file, their defaults, and what must hold between them.
//!
//! The one rule: a table is checked as it is written, once, before it is multiplied into instances.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use childminder::{Limit, Policy, Resource};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::instances::{Table, expand_path, numbered, numbers};
use super::report::{self, Errors, Report};
use super::section::{POLICY, Section};
use super::value::{self, Parsed};
use super::{Config, Output, Settings, syntax};
use crate::cli::descriptor::{Target, is_inherited, target};

pub(super) const PROCESS: [&str; 14] = [
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
];

const COMMAND: &str = "a list of strings: the program and its arguments; see also `shell`";
const OUTPUT: &str = "\"prefix\", \"null\", \"inherit\", the path of a file with a slash in it, or a table with `file`";
const MAX_SIZE: u64 = 10 << 20;
const KEEP: u32 = 5;

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
    let mut reader = Reader { report: &mut report, base, names: HashMap::new(), files: HashMap::new() };
    let config = reader.config(root.get_ref(), text.len());
    if report.is_sound() { Ok(config) } else { Err(report.into_errors(file)) }
}

struct Reader<'r, 't> {
    report: &'r mut Report<'t>,
    /// The folder that relative paths count from.
    base: &'r Path,
    /// All names up to now, and the table each one is from.
    names: HashMap<String, Rc<str>>,
    /// All files that are written to up to now.
    files: HashMap<PathBuf, Output>,
}

impl Reader<'_, '_> {
    fn config(&mut self, root: &DeTable<'_>, end: usize) -> Config {
        let root = Section::new(self.report, "the file", root, &["monitor", "process"]);
        let mut socket = None;
        let mut defaults = (Policy::default(), true);
        if let Some(table) = root.table(self.report, "monitor", "a table") {
            let known = [&["socket"], &POLICY[..]].concat();
            let monitor = Section::new(self.report, "[monitor]", table, &known);
            let before = self.report.count();
            socket = monitor.read(self.report, "socket", value::some_text).map(|socket| self.base.join(socket));
            defaults = self.policy(&monitor, &defaults);
            defaults.1 = self.report.count() == before;
        }
        let mut tables = Vec::new();
        if let Some(table) = root.table(self.report, "process", "a table for each process, such as [process.web]") {
            let mut written = Vec::new();
            for (name, table) in table {
                report::insert_by(&mut written, (name, table), |(name, _)| name.span().start);
            }
            let ends: Vec<_> = written.iter().skip(1).map(|(name, _)| name.span().start).chain([end]).collect();
            for ((name, table), end) in written.into_iter().zip(ends) {
                tables.extend(self.process(name, table, end, &defaults));
            }
        }
        Config { socket, base: self.base.to_owned(), tables }
    }

    /// The policy of a table, and whether it and its defaults are sound.
    fn policy(&mut self, section: &Section<'_>, (defaults, sound): &(Policy, bool)) -> (Policy, bool) {
        let before = self.report.count();
        let policy = section.policy(self.report, defaults);
        if *sound && self.report.count() == before {
            section.check_policy(self.report, &policy);
        }
        (policy, *sound)
    }

    /// One table, which ends before `end`.
    fn process(
        &mut self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        end: usize,
        defaults: &(Policy, bool),
    ) -> Option<Table> {
        let name = key.get_ref();
        let place = format!("[process.{}]", name.escape_debug());
        let table = value.get_ref().as_table().ok_or("a table with `command` or `shell`");
        let table = self.report.check(value.span(), name, value.get_ref(), table)?;
        let section = Section::new(self.report, &place, table, &[&PROCESS, &POLICY[..]].concat());
        let instances = section.read(self.report, "instances", value::instances);
        // The last is the longest.
        if name.is_empty() || !is_name(&numbered(name, instances)) {
            let allowed = "allowed are 1 to 64 letters, digits and any of \"-_.:@+\", with no \"-\" in front";
            self.report.add(key.span(), format!("`{}` as a name, {allowed}", name.escape_debug()));
        }
        let settings = Settings {
            command: self.command(&section, key.span().start..key.span().end, end),
            directory: section.read(self.report, "directory", |value| {
                let directory = PathBuf::from(value::some_text(value)?);
                let exists = |instance| expand_path(&directory, self.base, instance).is_dir();
                if numbers(instances).all(exists) { Ok(directory) } else { Err("a directory that exists") }
            }),
            environment: self.environment(&section),
            clear_environment: section.read(self.report, "clear-environment", value::boolean).unwrap_or(false),
            user: section.read(self.report, "user", value::user),
            group: section.read(self.report, "group", value::group),
            groups: section.list(self.report, "groups", "a list of groups", value::group),
            umask: section.read(self.report, "umask", value::umask),
            limits: self.limits(&section),
            stdout: self.output(&section, "stdout", instances),
            stderr: self.output(&section, "stderr", instances),
        };
        let (policy, _) = self.policy(&section, defaults);
        let autostart = section.read(self.report, "autostart", value::boolean).unwrap_or(true);
        self.check_names(name, place.into(), key.span(), instances);
        Some(Table { name: name.to_string(), instances, settings, policy: policy.into(), autostart })
    }

    /// Sees to it that no instance of this table has the name of another.
    fn check_names(&mut self, name: &str, place: Rc<str>, span: Range<usize>, instances: Option<u32>) {
        for name in numbers(instances).map(|instance| numbered(name, instance)) {
            if let Some(other) = self.names.get(&name) {
                let message = format!("the name `{}` again, allowed is one that {other} has not", name.escape_debug());
                return self.report.add(span, message);
            }
            self.names.insert(name, Rc::clone(&place));
        }
    }

    fn command(&mut self, section: &Section<'_>, name: Range<usize>, end: usize) -> Vec<String> {
        let command = section.list(self.report, "command", COMMAND, value::text);
        let shell = section.read(self.report, "shell", value::some_text);
        match (section.span("command"), section.span("shell")) {
            (Some(command), Some(shell)) if !self.report.is_spoiled(&name) => {
                let later = if command.start < shell.start { shell } else { command };
                self.report.add(later, "both `command` and `shell`, allowed is one of them".into());
            }
            // It may be there, behind what cannot be read.
            (None, None) if self.report.is_spoiled(&(name.start..end)) => {}
            (None, None) if section.is_misspelt("command") || section.is_misspelt("shell") => {}
            (None, None) => self.report.add(name, "neither `command` nor `shell`, allowed is one of them".into()),
            _ => {}
        }
        if let (Some(command), Some(value)) = (&command, section.value("command")) {
            let program = command.first().filter(|program| !program.trim().is_empty());
            self.report.check(value.span(), "command", value.get_ref(), program.ok_or(COMMAND));
        }
        match shell {
            Some(shell) => vec!["/bin/sh".into(), "-c".into(), shell],
            None => command.unwrap_or_default(),
        }
    }

    fn environment(&mut self, section: &Section<'_>) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = Vec::new();
        let table = section.table(self.report, "environment", "a table of strings");
        for (name, value) in table.into_iter().flatten() {
            if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) {
                let found = name.get_ref().escape_debug();
                self.report.add(name.span(), format!("`{found}` as a variable, allowed is a name without = and NUL"));
            }
            let text = self.report.check(value.span(), name.get_ref(), value.get_ref(), value::text(value.get_ref()));
            let name = name.get_ref().to_string();
            let at = environment.partition_point(|(known, _)| *known < name);
            environment.insert(at, (name, text.unwrap_or_default()));
        }
        environment
    }

    fn limits(&mut self, section: &Section<'_>) -> Vec<(Resource, Limit)> {
        let Some(table) = section.table(self.report, "limits", "a table of limits, such as { nofile = 1024 }") else {
            return Vec::new();
        };
        let known: Vec<_> = Resource::ALL.iter().map(|resource| resource.name()).collect();
        let section = Section::new(self.report, "`limits`", table, &known);
        let limit = |resource: &Resource| {
            section.read(self.report, resource.name(), value::limit).map(|limit| (*resource, limit))
        };
        Resource::ALL.iter().filter_map(limit).collect()
    }

    /// Where the output goes, its path as it is written.
    fn output(&mut self, section: &Section<'_>, key: &str, instances: Option<u32>) -> Output {
        let Some(value) = section.value(key) else { return Output::Prefix };
        let output = match value.get_ref() {
            DeValue::Table(table) => self.file(key, value.span(), table),
            other => self.report.check(value.span(), key, other, simple_output(other)),
        };
        let Some(output) = output else { return Output::Prefix };
        for instance in numbers(instances) {
            let placed = output.expand(self.base, instance);
            let Some(path) = placed.path() else { break };
            let folder_exists = || path.parent().is_some_and(Path::is_dir) && !path.is_dir();
            let allowed = match target(path) {
                Target::Own(number) if is_inherited(number) => continue,
                Target::Own(_) => "a descriptor that was open when this command was started",
                // A file that the process writes itself is opened at each start. If that fails, it
                // concerns this process alone.
                _ if matches!(placed, Output::File { .. }) && !folder_exists() => "a file in a directory that exists",
                // Of what cannot be rotated, the settings need not be the same.
                _ if path.metadata().is_ok_and(|there| !there.is_file()) => continue,
                _ if self.files.get(path).is_some_and(|other| *other != placed) => {
                    "a file of its own, or one with the same `direct`, `max-size` and `keep` wherever it is used"
                }
                _ => {
                    self.files.insert(path.to_owned(), placed);
                    continue;
                }
            };
            self.report.add(value.span(), format!("`{key}` is the file {:?}, allowed is {allowed}", path.display()));
            break;
        }
        output
    }

    fn file(&mut self, key: &str, span: Range<usize>, table: &DeTable<'_>) -> Option<Output> {
        let section = Section::new(self.report, &format!("`{key}`"), table, &["file", "direct", "max-size", "keep"]);
        if section.value("file").is_none() && !section.is_misspelt("file") {
            self.report.add(span, format!("`{key}` is a table without `file`, allowed is {OUTPUT}"));
        }
        let path = section.read(self.report, "file", value::some_text).map(PathBuf::from);
        let direct = section.read(self.report, "direct", value::boolean).unwrap_or(false);
        let max_size = section.read(self.report, "max-size", value::size).unwrap_or(MAX_SIZE);
        let keep = section.read(self.report, "keep", value::keep).unwrap_or(KEEP);
        if let (true, Some(span)) = (direct, section.span("max-size").or_else(|| section.span("keep"))) {
            let message = "rotation of a file with `direct = true`, allowed is it only for files that we write";
            self.report.add(span, message.into());
        }
        path.map(|path| if direct { Output::Direct { path } } else { Output::File { path, max_size, keep } })
    }
}

fn simple_output(value: &DeValue<'_>) -> Parsed<Output> {
    let text = value::some_text(value).map_err(|_| OUTPUT)?;
    match text.as_str() {
        "prefix" => Ok(Output::Prefix),
        "null" => Ok(Output::Null),
        "inherit" => Ok(Output::Inherit),
        path if path.contains('/') => Ok(Output::File { path: path.into(), max_size: MAX_SIZE, keep: KEEP }),
        _ => Err(OUTPUT),
    }
}

/// Whether it can be typed in a shell, is no glob and no option, and leaves the status table in order.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-')
}
