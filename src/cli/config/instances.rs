//! Turns the tables of the file into processes. A table with `instances` stands for several of
//! them. Checks nothing.
//!
//! The one rule: a table is kept as it is written. Its processes are made one by one, when the
//! caller asks for them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use childminder::Policy;

use super::care::{Care, policy_of};
use super::{Config, Look, Output, ProcessConfig, Settings};
use crate::cli::paths;

/// The placeholder for the number of an instance.
const INSTANCE: &str = "{instance}";

/// One table of the file, without mistakes. Its paths are as they are written.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// The folder that relative paths start from.
    pub(super) base: Rc<Path>,
    /// The number of instances, if the table sets it.
    pub(super) instances: Option<u32>,
    pub(super) settings: Settings,
    pub(super) policy: Arc<Policy>,
    pub(super) autostart: bool,
    pub(super) raw: bool,
    pub(super) look: Look,
    pub(super) recent: Option<u32>,
    /// How it is watched, and what it waits for, if the table says anything about it.
    pub(super) care: Option<Rc<Care>>,
}

impl Config {
    /// All processes in the order of the file. The instances of a table follow each other.
    pub(crate) fn processes(&self) -> impl Iterator<Item = ProcessConfig> {
        self.tables.iter().flat_map(|table| numbers(table.instances).map(|instance| table.process(instance)))
    }

    /// The same as [`processes`](Self::processes), but each table is dropped as soon as its
    /// processes are made.
    pub(crate) fn into_processes(self) -> impl Iterator<Item = ProcessConfig> {
        let tables = self.tables.into_iter();
        tables.flat_map(|table| numbers(table.instances).map(move |instance| table.process(instance)))
    }
}

impl Table {
    fn process(&self, instance: Option<u32>) -> ProcessConfig {
        ProcessConfig {
            name: numbered(&self.name, instance).into(),
            settings: self.settings.expand(&self.base, instance).into(),
            policy: policy_of(&self.policy, &self.base, instance),
            autostart: self.autostart,
            raw: self.raw,
            look: self.look,
            recent: self.recent,
            watch: self.care.as_ref().and_then(|care| care.watch(&self.base, instance)),
            care: self.care.clone(),
        }
    }
}

/// The numbers of a table's instances, or a single `None` if the table sets no `instances`.
pub(super) fn numbers(instances: Option<u32>) -> impl Iterator<Item = Option<u32>> {
    let none = instances.is_none().then_some(None);
    (1..=instances.unwrap_or(0)).map(Some).chain(none)
}

/// The name of one instance.
pub(super) fn numbered(name: &str, instance: Option<u32>) -> String {
    instance.map_or_else(|| name.to_owned(), |number| format!("{name}:{number}"))
}

pub(super) fn expand(text: &str, instance: Option<u32>) -> String {
    instance.map_or_else(|| text.to_owned(), |number| text.replace(INSTANCE, &number.to_string()))
}

/// The path of one instance.
pub(super) fn expand_path(path: &Path, base: &Path, instance: Option<u32>) -> PathBuf {
    paths::resolve(base, Path::new(&expand(&path.to_string_lossy(), instance)))
}

/// The program of one instance. A program with a slash in it becomes an absolute path. Any other
/// stays a name that the process looks up in its `PATH`.
pub(super) fn expand_program(program: &str, base: &Path, instance: Option<u32>) -> OsString {
    match program.contains('/') {
        true => expand_path(Path::new(program), base, instance).into(),
        false => expand(program, instance).into(),
    }
}

impl Output {
    /// The output of one instance.
    pub(super) fn expand(&self, base: &Path, instance: Option<u32>) -> Self {
        match self {
            Self::File { path, new, rotation } => {
                Self::File { path: expand_path(path, base, instance), new: *new, rotation: *rotation }
            }
            Self::Direct { path, new } => Self::Direct { path: expand_path(path, base, instance), new: *new },
            Self::Prefix | Self::Null | Self::Inherit => self.clone(),
        }
    }
}

impl Settings {
    fn expand_command(&self, base: &Path, instance: Option<u32>) -> Vec<OsString> {
        let mut written = self.command.iter().map(|part| part.to_string_lossy());
        let program = written.next().map(|program| expand_program(&program, base, instance));
        program.into_iter().chain(written.map(|arg| expand(&arg, instance).into())).collect()
    }

    /// The settings of one instance.
    pub(super) fn expand(&self, base: &Path, instance: Option<u32>) -> Self {
        let environment = self.environment.iter().map(|(name, value)| (name.clone(), expand(value, instance)));
        Self {
            command: self.expand_command(base, instance),
            directory: self.directory.as_ref().map(|directory| expand_path(directory, base, instance)),
            environment: environment.collect(),
            clear_environment: self.clear_environment,
            user: self.user.clone(),
            group: self.group.clone(),
            groups: self.groups.clone(),
            umask: self.umask,
            limits: self.limits.clone(),
            stdin: self.stdin.expand(base, instance),
            stdout: self.stdout.expand(base, instance),
            stderr: self.stderr.expand(base, instance),
            listen: self.listen.iter().map(|listener| listener.expand(base, instance)).collect(),
            contain: self.contain,
        }
    }
}
