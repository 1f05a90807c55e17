//! A table of the file, and the processes that it stands for: one, or as many as `instances` says.
//! Checks nothing.
//!
//! The one rule: a table is kept as it is written. Its processes are made one by one, when the
//! caller asks for them.

use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use childminder::Policy;

use super::care::Care;
use super::instances::{expand, expand_path, expand_program, numbered};
use super::policy::policy_of;
use super::process::{Look, Output, ProcessConfig, Settings, Stdin};

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

impl Table {
    /// The process of one instance.
    pub(super) fn process(&self, instance: Option<u32>) -> ProcessConfig {
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

impl Stdin {
    /// The stdin of one instance.
    fn expand(&self, base: &Path, instance: Option<u32>) -> Self {
        match self {
            Self::File(path) => Self::File(expand_path(path, base, instance)),
            other => other.clone(),
        }
    }
}
