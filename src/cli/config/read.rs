//! Turns the tables of the file into settings: the keys, their defaults, and the conditions between
//! them.
//!
//! The one rule: a table is checked once, as it is written, before it is multiplied into instances.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use childminder::{Contain, Limit, Policy, Resource};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::care::{CARE, Care};
use super::configuration::Config;
use super::documents::{Document, INCLUDE, Role};
use super::env_file::Variables;
use super::instances::{numbered, numbers};
use super::links::Links;
use super::policy::{self, POLICY};
use super::process::{Look, Output, Settings};
use super::report::{self, Findings, Report};
use super::section::Section;
use super::socket::{self, Access, SocketPath};
use super::source::{self, NotText};
use super::table::Table;
use super::{syntax, text, value, warnings};
use crate::cli::paths;
use crate::cli::safe_path::{Creation, OwnFinder};

const ROOT: [&str; 4] = ["monitor", "process", "group", INCLUDE];
/// The keys of `[monitor]` besides those of a [`Policy`].
pub(super) const MONITOR: [&str; 10] = [
    "socket",
    "socket-mode",
    "socket-group",
    "when-killed",
    "cgroup",
    "contain",
    "timestamps",
    "format",
    "recent",
    "start-limit",
];

/// The keys of a process that are not read elsewhere.
pub(super) const PROCESS: [&str; 23] = [
    "command",
    "shell",
    "directory",
    "environment",
    "environment-file",
    "clear-environment",
    "user",
    "group",
    "groups",
    "umask",
    "limits",
    "autostart",
    "instances",
    "stdin",
    "tty",
    "stdout",
    "stderr",
    "listen",
    "raw",
    "contain",
    "timestamps",
    "format",
    "recent",
];

const COMMAND: &str = "a list of strings: the program and its arguments; see also `shell`";
const NO_PROCESS: &str = "there is no process in the file; allowed are tables such as [process.web], or an empty table \
                          [process] if there shall be none";

/// The settings in these files, with the warnings that `scope` asks for.
pub(super) fn config(documents: &[Document], scope: Scope) -> Result<(Config, Findings), Findings> {
    let texts: Vec<_> = documents.iter().map(|document| source::text(&document.bytes)).collect();
    let mut reports: Vec<_> = texts.iter().map(new_report).collect();
    let mended: Vec<_> = texts.iter().zip(&mut reports).map(|(text, report)| mend(text, report)).collect();
    let roots: Vec<_> = mended
        .iter()
        .zip(&mut reports)
        .map(|(text, report)| text.as_deref().map(|text| syntax::parse(report, text)))
        .collect();
    let mut shared = Shared::default();
    let parsed = documents.iter().zip(&mut reports).zip(&roots).enumerate();
    let mut parsed: Vec<_> = parsed.filter_map(|(index, pair)| Some((index, pair.0, pair.1.as_ref()?))).collect();
    // The defaults of all tables come first.
    parsed.sort_by_key(|(.., root)| !root.get_ref().contains_key("monitor"));
    let mut tables: Vec<Vec<Table>> = documents.iter().map(|_| Vec::new()).collect();
    for (index, (document, report), root) in parsed {
        let end = report.len();
        let (base, shown) = (document.base.as_path().into(), document.shown.as_path());
        let shared = &mut shared;
        let mut reader = Reader { report, document: index, base: &document.base, rc_base: base, shown, scope, shared };
        tables[index] = reader.document(root.get_ref(), end, document.role);
    }
    // The file may have been cut off or not be written yet. Such a file must not stop every
    // process.
    let end = reports.first().map_or(0, Report::len);
    let is_missing = !shared.has_processes && roots.iter().all(Option::is_some);
    if let Some(report) = reports.first_mut().filter(|report| is_missing && !report.is_spoiled(&(0..end))) {
        report.add(end..end, NO_PROCESS.into());
    }
    let all: Vec<&Table> = tables.iter().flatten().collect();
    let (order, mistakes) = shared.links.order(&all, |name| shared.names.contains_key(name));
    // A name may be unknown only because its table cannot be read.
    if reports.iter().all(|report| report.count() == 0) {
        mistakes.into_iter().for_each(|mistake| reports[mistake.document].add(mistake.span, mistake.message));
    }
    let mut findings = Findings::default();
    for (report, document) in reports.into_iter().zip(documents) {
        findings.append(report.finish(&document.shown));
        findings.warn_first(&document.shown, document.warning.clone());
    }
    findings.append(shared.findings);
    let findings = findings.into_result()?;
    let config = Config {
        file: documents.first().map(|document| document.path.clone()).unwrap_or_default(),
        socket: shared.socket,
        access: shared.access,
        kills_at_death: shared.kills_at_death,
        cgroup: shared.cgroup,
        kill_time: shared.defaults.0.kill_time,
        look: shared.look,
        order,
        links: shared.links,
        tables: tables.into_iter().flatten().collect(),
    };
    Ok((config, findings))
}

/// What is checked besides the text of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Only the text.
    Text,
    /// Also what the supervisor needs for its own start: the place of its socket.
    Start,
    /// Also everything that the processes need, for the warnings.
    Machine,
}

type Text<'t> = Result<Cow<'t, str>, NotText<'t>>;

/// A report on a text. A text that is no text is a mistake.
fn new_report<'t>(text: &'t Text<'_>) -> Report<'t> {
    match text {
        Ok(text) => Report::new(text),
        Err(NotText { before, message }) => {
            let mut report = Report::new(before);
            report.add(before.len()..before.len(), (*message).into());
            report
        }
    }
}

/// The text without the lines that the parser does not understand. `None` if it is no text.
fn mend<'t>(text: &'t Text<'_>, report: &mut Report<'_>) -> Option<Cow<'t, str>> {
    text.as_ref().ok().map(|text| syntax::without_bare_keys(report, text))
}

/// The path of the socket, if one of the files sets it. The error holds the mistakes that hide the
/// socket; all others are ignored.
pub(super) fn socket(documents: &[Document]) -> Result<Option<SocketPath>, Findings> {
    let mut findings = Findings::default();
    for document in documents {
        let text = source::text(&document.bytes);
        let mut report = new_report(&text);
        let before = match &text {
            Ok(text) => text,
            Err(NotText { before, .. }) => before,
        };
        let mended = syntax::without_bare_keys(&mut report, before);
        let root = syntax::parse(&mut report, &mended);
        let root = Section::new(&mut report, "the file", root.get_ref(), &ROOT);
        let monitor = root.table(&mut report, "monitor", "a table");
        let socket = monitor.and_then(|monitor| {
            let monitor = monitor_section(&mut report, monitor);
            let written = monitor.value("socket").filter(|value| !report.is_spoiled(&value.span()));
            written.and_then(|_| monitor.read(&mut report, "socket", value::socket))
        });
        match socket {
            Some(SocketPath::At(path)) => return Ok(Some(SocketPath::At(paths::resolve(&document.base, &path)))),
            Some(SocketPath::None) => return Ok(socket),
            None => {}
        }
        findings.append(report.finish(&document.shown));
    }
    findings.into_result().map(|_| None)
}

/// Reads one file.
pub(super) struct Reader<'r, 't> {
    pub(super) report: &'r mut Report<'t>,
    /// The number of the file.
    document: usize,
    /// The folder that relative paths start from, twice: as a reference, and to be kept.
    pub(super) base: &'r Path,
    rc_base: Rc<Path>,
    /// The path of the file in messages.
    pub(super) shown: &'r Path,
    pub(super) scope: Scope,
    pub(super) shared: &'r mut Shared,
}

/// What the files of a configuration share.
pub(super) struct Shared {
    socket: Option<SocketPath>,
    access: Access,
    kills_at_death: bool,
    /// The policy of all processes that set none, and whether it is free of mistakes.
    defaults: (Arc<Policy>, bool),
    contain: Contain,
    look: Look,
    recent: Option<u32>,
    /// The file with `[monitor]`, if one has been read.
    monitor: Option<PathBuf>,
    /// Whether there is a table for processes, even an empty one.
    has_processes: bool,
    /// All names so far, each with the table that it comes from and the file.
    names: HashMap<String, (Rc<str>, Rc<Path>)>,
    /// All output files so far.
    pub(super) files: HashMap<PathBuf, Output>,
    /// All sockets in the file system that processes listen on so far.
    pub(super) sockets: HashMap<PathBuf, Creation>,
    pub(super) own: OwnFinder,
    /// The directory in which cgroups are made, if a file sets it.
    cgroup: Option<PathBuf>,
    /// The reason why no cgroup can be made, once a check has asked for it.
    no_cgroup: OnceCell<Option<String>>,
    /// The environment files that have been read, and what was found in them.
    pub(super) environment_files: HashMap<PathBuf, Variables>,
    links: Links,
    pub(super) findings: Findings,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            socket: None,
            access: Access::default(),
            kills_at_death: true,
            defaults: (Arc::default(), true),
            contain: Contain::Auto,
            look: Look::default(),
            recent: None,
            monitor: None,
            has_processes: false,
            names: HashMap::new(),
            files: HashMap::new(),
            sockets: HashMap::new(),
            own: OwnFinder::default(),
            cgroup: None,
            no_cgroup: OnceCell::new(),
            environment_files: HashMap::new(),
            links: Links::default(),
            findings: Findings::default(),
        }
    }
}

impl Reader<'_, '_> {
    /// Reads all tables of a file, whose text ends at `end`.
    fn document(&mut self, root: &DeTable<'_>, end: usize, role: Role) -> Vec<Table> {
        let root = Section::new(self.report, "the file", root, &ROOT);
        let is_first = self.shared.monitor.is_none();
        let monitor = self.monitor_of(&root, role);
        if is_first && monitor.is_none_or(|table| !table.contains_key("socket")) && role != Role::Included {
            self.default_socket(root.span("monitor").unwrap_or(0..0));
        }
        if let Some(table) = monitor {
            self.shared.monitor = Some(self.shown.to_owned());
            let monitor = monitor_section(self.report, table);
            let before = self.report.count();
            self.shared.socket = self.socket(&monitor);
            let mode = monitor.read(self.report, "socket-mode", value::mode);
            let group = monitor.read(self.report, "socket-group", value::group);
            self.shared.access = Access { mode, gid: group.and_then(|group| group.gid().ok()) };
            let kills = monitor.read(self.report, "when-killed", value::kill_or_leave);
            self.shared.kills_at_death = kills.unwrap_or(true);
            self.shared.cgroup = self.cgroup(&monitor);
            self.shared.contain = self.contain(&monitor, Contain::Auto);
            self.shared.look = look(self.report, &monitor);
            self.shared.recent = monitor.read(self.report, "recent", value::recent);
            self.shared.links.read_limit(self.report, &monitor);
            let mut defaults = self.policy(&monitor, &(Arc::default(), true));
            defaults.1 = self.report.count() == before;
            self.shared.defaults = defaults;
        }
        if let Some(include) = root.span(INCLUDE) {
            let list =
                root.list(self.report, INCLUDE, "a list of files, such as [\"conf.d/*.toml\"]", value::some_text);
            if list.is_some() && role != Role::Main {
                self.report.add(include, "`include`, allowed is it only in the file that -c names".into());
            }
        }
        let mut tables = Vec::new();
        let (defaults, contain) = (self.shared.defaults.clone(), self.shared.contain);
        if let Some(table) = root.table(self.report, "process", "a table for each process, such as [process.web]") {
            let written: Vec<_> = report::in_order(table.iter().collect(), |(name, _)| name.span().start).collect();
            let ends: Vec<_> = written.iter().skip(1).map(|(name, _)| name.span().start).chain([end]).collect();
            for ((name, table), end) in written.into_iter().zip(ends) {
                tables.extend(self.process(name, table, end, &defaults, contain));
            }
        }
        if let Some(table) = root.table(self.report, "group", "a table for each group, such as [group.web]") {
            for (name, value) in report::in_order(table.iter().collect(), |(name, _)| name.span().start) {
                let group = value.get_ref().as_table().ok_or("a table with `members`");
                if let Some(group) = self.report.check(value.span(), name.get_ref(), value.get_ref(), group) {
                    let place = (&**name.get_ref(), name.span());
                    self.shared.links.read_group(self.report, self.document, place, group);
                }
            }
        }
        self.shared.has_processes |= root.value("process").is_some() || root.is_misspelt("process");
        tables
    }

    /// The table `[monitor]`, if this file may have one.
    fn monitor_of<'d>(&mut self, root: &Section<'d>, role: Role) -> Option<&'d DeTable<'d>> {
        let table = root.table(self.report, "monitor", "a table")?;
        let span = root.span("monitor").unwrap_or(0..0);
        match &self.shared.monitor {
            _ if role == Role::Included => {
                self.report.add(span, "[monitor], allowed is it only in the file that includes this one".into());
                None
            }
            Some(other) => {
                let message = format!("[monitor] again, allowed is one for all files, and {} has it", other.display());
                self.report.add(span, message);
                None
            }
            None => Some(table),
        }
    }

    fn socket(&mut self, monitor: &Section<'_>) -> Option<SocketPath> {
        let SocketPath::At(written) = monitor.read(self.report, "socket", value::socket)? else {
            return Some(SocketPath::None);
        };
        let span = monitor.value("socket")?.span();
        let path = paths::resolve(self.base, &written);
        match socket::check_length(&path) {
            Err(what) => self.report.add(span, format!("`socket` is {what}")),
            Ok(()) => {
                if self.scope >= Scope::Machine {
                    text::path(self.report, &span, &written.to_string_lossy());
                }
                if self.scope >= Scope::Start {
                    warnings::socket(self.report, span, "`socket`", &path);
                }
            }
        }
        Some(SocketPath::At(path))
    }

    fn cgroup(&mut self, monitor: &Section<'_>) -> Option<PathBuf> {
        let written = monitor.read(self.report, "cgroup", value::some_text)?;
        let span = monitor.value("cgroup")?.span();
        let path = paths::resolve(self.base, Path::new(&written));
        if self.scope >= Scope::Machine {
            text::path(self.report, &span, &written);
            if let Some(reason) = self.shared.no_cgroup.get_or_init(|| warnings::no_cgroup(Some(&path))) {
                self.report.warn(span, format!("`cgroup` is {written:?}, and no process can have one there: {reason}"));
            }
        }
        Some(path)
    }

    /// The `contain` of a table, or the default.
    fn contain(&mut self, section: &Section<'_>, default: Contain) -> Contain {
        let contain = section.read(self.report, "contain", value::contain).unwrap_or(default);
        if let (Scope::Machine, Contain::Cgroup, Some(value)) = (self.scope, contain, section.value("contain")) {
            if let Some(reason) =
                self.shared.no_cgroup.get_or_init(|| warnings::no_cgroup(self.shared.cgroup.as_deref()))
            {
                let message = format!("`contain` is \"cgroup\", and no process can be started in one here: {reason}");
                self.report.warn(value.span(), message);
            }
        }
        contain
    }

    fn default_socket(&mut self, span: Range<usize>) {
        match socket::check_default() {
            Err(message) => self.report.add(span, message),
            Ok(path) if self.scope >= Scope::Start => warnings::socket(self.report, span, "the default socket", &path),
            Ok(_) => {}
        }
    }

    /// The policy of a table, and whether the table and the defaults are free of mistakes.
    fn policy(&mut self, section: &Section<'_>, (defaults, sound): &(Arc<Policy>, bool)) -> (Arc<Policy>, bool) {
        let before = self.report.count();
        let policy = policy::read(self.report, section, defaults, self.base);
        if *sound && self.report.count() == before {
            policy::check(self.report, section, &policy);
        }
        // Most tables say nothing of it, and share the one that there is.
        (if policy == **defaults { Arc::clone(defaults) } else { policy.into() }, *sound)
    }

    /// One table. Its text ends before `end`.
    fn process(
        &mut self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        end: usize,
        defaults: &(Arc<Policy>, bool),
        contain: Contain,
    ) -> Option<Table> {
        let name = key.get_ref();
        let before = self.report.count();
        let place = format!("[process.{}]", name.escape_debug());
        let table = value.get_ref().as_table().ok_or("a table with `command` or `shell`");
        let table = self.report.check(value.span(), name, value.get_ref(), table)?;
        let section = Section::new(self.report, &place, table, &[&PROCESS, &CARE[..], &POLICY[..]].concat());
        let instances = section.read(self.report, "instances", value::instances);
        // The name of the last instance is the longest.
        if name.is_empty() || !is_name(&numbered(name, instances)) {
            let allowed = "allowed are 1 to 64 letters, digits and any of \"-_.:@+\", with no \"-\" in front";
            self.report.add(key.span(), format!("`{}` as a name, {allowed}", name.escape_debug()));
        }
        let settings = Settings {
            command: self.command(&section, key.span().start..key.span().end, end),
            directory: section.read(self.report, "directory", value::some_text).map(PathBuf::from),
            environment: self.environment(&section),
            clear_environment: section.read(self.report, "clear-environment", value::boolean).unwrap_or(false),
            user: section.read(self.report, "user", value::user),
            group: section.read(self.report, "group", value::group),
            groups: section.list(self.report, "groups", "a list of groups", value::group),
            umask: section.read(self.report, "umask", value::umask),
            limits: self.limits(&section),
            stdin: self.stdin(&section),
            stdout: self.output(&section, "stdout", instances),
            stderr: self.output(&section, "stderr", instances),
            listen: self.listen(&section, instances),
            contain: self.contain(&section, contain),
        };
        let (policy, _) = self.policy(&section, defaults);
        let autostart = section.read(self.report, "autostart", value::boolean).unwrap_or(true);
        self.check_names(name, place.into(), key.span(), instances);
        let raw = section.read(self.report, "raw", value::boolean).unwrap_or(false);
        let look = look(self.report, &section);
        let recent = section.read(self.report, "recent", value::recent).or(self.shared.recent);
        let (care, waits) = Care::read(self.report, &section).unzip();
        if care.as_ref().is_some_and(Care::reads_lines) {
            let is_read = |output: &Output| matches!(output, Output::Prefix | Output::File { .. });
            if !is_read(&settings.stdout) && !is_read(&settings.stderr) {
                let span = section.span("ready").unwrap_or(key.span());
                self.report
                    .add(span, "`ready` is a line of its output, allowed is that only where we read its output".into());
            }
        }
        self.check_sockets(&section, &settings.listen, care.as_ref());
        self.shared.links.add(self.document, name, instances, waits.unwrap_or_default());
        let (name, base, care) = (name.to_string(), Rc::clone(&self.rc_base), care.map(Rc::new));
        let table = Table { name, base, instances, settings, policy, autostart, raw, look, recent, care };
        // A warning about a table with a mistake might only follow from the mistake.
        if self.scope == Scope::Machine && self.report.count() == before {
            warnings::table(self.report, &section, &table, self.base);
        }
        Some(table)
    }

    /// Reports a mistake if an instance of this table has the name of another process.
    fn check_names(&mut self, name: &str, place: Rc<str>, span: Range<usize>, instances: Option<u32>) {
        let file: Rc<Path> = self.shown.into();
        for name in numbers(instances).map(|instance| numbered(name, instance)) {
            if let Some((other, file)) = self.shared.names.get(&name) {
                let file = if **file == *self.shown { String::new() } else { format!(" of {}", file.display()) };
                let name = name.escape_debug();
                let message = format!("the name `{name}` again, allowed is one that {other}{file} has not");
                return self.report.add(span, message);
            }
            self.shared.names.insert(name, (Rc::clone(&place), Rc::clone(&file)));
        }
    }

    fn command(&mut self, section: &Section<'_>, name: Range<usize>, end: usize) -> Vec<OsString> {
        let command = section.list(self.report, "command", COMMAND, value::text);
        let shell = section.read(self.report, "shell", value::some_text);
        match (section.span("command"), section.span("shell")) {
            (Some(command), Some(shell)) if !self.report.is_spoiled(&name) => {
                let later = if command.start < shell.start { shell } else { command };
                self.report.add(later, "both `command` and `shell`, allowed is one of them".into());
            }
            // The key may be there, in the part of the text that cannot be read.
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
            Some(shell) => vec!["/bin/sh".into(), "-c".into(), shell.into()],
            None => command.unwrap_or_default().into_iter().map(OsString::from).collect(),
        }
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
}

/// Whether this can be typed in a shell, is neither a glob nor an option, and fits into the status
/// table.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-')
}

/// The table `[monitor]`.
fn monitor_section<'t>(report: &mut Report<'_>, table: &'t DeTable<'t>) -> Section<'t> {
    Section::new(report, "[monitor]", table, &[&MONITOR, &POLICY[..]].concat())
}

/// How lines are written, as far as a table says it.
fn look(report: &mut Report<'_>, section: &Section<'_>) -> Look {
    let timestamps = section.read(report, "timestamps", value::timestamps);
    Look { timestamps, json: section.read(report, "format", value::format) }
}
