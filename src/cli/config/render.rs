//! Writes the effective settings as a file again. Prints nothing by itself.
//!
//! The one rule: the text reads back as equal settings, from any folder, unless values are hidden.

use std::fmt::{self, Write};

use childminder::restart::{StopAction, StopScope};
use childminder::{Check, Leftovers, Policy, Probe, Ready, Watch};

use super::configuration::Config;
use super::process::{ProcessConfig, Settings, Stdin};
use super::show::{Quoted, join, show_limit, show_start_limit, show_words};
use super::socket::SocketPath;
use super::table::Table;
use super::value::{show_contain, show_duration, show_kill_or_leave, show_restart, show_stop_scope};
use crate::cli::words;

/// How the values of variables are shown, since they may be secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// Only their lengths. The text does not read back as the same settings.
    Hidden,
    Shown,
}

impl Config {
    /// A file with the same meaning in which every key is spelt out: instances one by one, absolute
    /// paths, and defaults where they apply.
    pub(crate) fn effective(&self, values: Values) -> String {
        let mut text = String::new();
        let has_variables = |table: &Table| !table.settings.environment.is_empty();
        if values == Values::Hidden && self.tables.iter().any(has_variables) {
            text += "# Of variables only the lengths are shown, as --show-environment was not given.\n";
        }
        text += "[monitor]\n";
        match &self.socket {
            Some(SocketPath::At(path)) => text += &format!("socket = {}\n", Quoted(&path.to_string_lossy())),
            Some(SocketPath::None) => text += "socket = false\n",
            None => {}
        }
        if let Some(mode) = self.access.mode {
            text += &format!("socket-mode = \"{mode:04o}\"\n");
        }
        if let Some(gid) = self.access.gid {
            text += &format!("socket-group = {gid}\n");
        }
        if let Some(cgroup) = &self.cgroup {
            text += &format!("cgroup = {}\n", Quoted(&cgroup.to_string_lossy()));
        }
        text += &format!("when-killed = \"{}\"\n", show_kill_or_leave(self.kills_at_death));
        let _ = self.links.write_limit(&mut text);
        text += &format!("{}\n", self.look);
        if self.tables.is_empty() {
            // A file without any process would be a mistake.
            text += "[process]\n";
        }
        for (index, process) in self.processes().enumerate() {
            text += if index > 0 { "\n" } else { "" };
            // Writing to a string does not fail.
            let _ = process.write(&mut text, values);
            if let Some(care) = &process.care {
                let _ = self.links.write_waits(&mut text, care);
            }
        }
        let _ = self.links.write_groups(&mut text);
        text
    }
}

impl ProcessConfig {
    /// Writes the process as a table of the file.
    pub(super) fn write(&self, f: &mut impl Write, values: Values) -> fmt::Result {
        let policy = &self.policy;
        let is_bare = self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        match is_bare {
            true => writeln!(f, "[process.{}]", self.name)?,
            false => writeln!(f, "[process.{}]", Quoted(&self.name))?,
        }
        self.settings.write(f, values)?;
        writeln!(f, "threshold = \"{}\"", show_duration(policy.threshold))?;
        writeln!(f, "kill-time = \"{}\"", show_duration(policy.kill_time))?;
        writeln!(f, "min-restart-delay = \"{}\"", show_duration(policy.min_restart_delay))?;
        writeln!(f, "max-restart-delay = \"{}\"", show_duration(policy.max_restart_delay))?;
        writeln!(f, "restart = \"{}\"", show_restart(policy.restart))?;
        writeln!(f, "stop-signal = \"{}\"", words::signal_name(policy.stop_signal))?;
        match policy.leftovers {
            Leftovers::TakeOver => writeln!(f, "successor = true")?,
            leftovers => writeln!(f, "leftovers = \"{}\"", show_kill_or_leave(leftovers != Leftovers::Leave))?,
        }
        writeln!(f, "stop-scope = \"{}\"", show_stop_scope(policy.stop_scope))?;
        write_policy(f, policy)?;
        if let Some(watch) = &self.watch {
            write_watch(f, watch)?;
        }
        if let Some(signal) = self.care.as_ref().and_then(|care| care.reload_signal) {
            writeln!(f, "reload-signal = \"{}\"", words::signal_name(signal))?;
        }
        writeln!(f, "autostart = {}\nraw = {}", self.autostart, self.raw)?;
        if let Some(recent) = self.recent {
            writeln!(f, "recent = {recent}")?;
        }
        write!(f, "{}", self.look)
    }
}

/// Writes the keys of a policy that most processes do without.
fn write_policy(f: &mut impl Write, policy: &Policy) -> fmt::Result {
    if let Some(limit) = policy.restart_limit {
        writeln!(f, "restart-limit = {}", show_start_limit(limit))?;
    }
    for (key, codes) in [("success-codes", &policy.success_codes), ("fatal-codes", &policy.fatal_codes)] {
        if !codes.is_empty() {
            writeln!(f, "{key} = [{}]", join(codes.iter()))?;
        }
    }
    if policy.jitter > 0 {
        writeln!(f, "jitter = \"{}%\"", policy.jitter)?;
    }
    if policy.stop.is_empty() {
        return Ok(());
    }
    let steps = policy.stop.iter().filter_map(|step| {
        let action = match &step.action {
            StopAction::Signal(signal) => format!("signal = \"{}\"", words::signal_name(*signal)),
            StopAction::Command(words) => format!("command = [{}]", show_words(words)),
            // The file knows no other.
            _ => return None,
        };
        let whom = if step.scope == StopScope::Main { "main" } else { "all" };
        Some(format!("{{ {action}, whom = \"{whom}\", wait = \"{}\" }}", show_duration(step.wait)))
    });
    writeln!(f, "stop = [{}]", join(steps))
}

/// Writes the keys that say how a process is watched.
fn write_watch(f: &mut impl Write, watch: &Watch) -> fmt::Result {
    let ready = match &watch.ready {
        Ready::Started => "\"started\"".to_owned(),
        Ready::Fd(fd) => format!("\"fd:{fd}\""),
        Ready::Notify => "\"notify\"".to_owned(),
        Ready::Line(text) => format!("{{ line = {} }}", Quoted(&String::from_utf8_lossy(text))),
        Ready::Probe(probe) => format!("{{ {} }}", show_probe(probe)),
        _ => "\"threshold\"".to_owned(),
    };
    writeln!(f, "ready = {ready}")?;
    for (key, time) in [("ready-timeout", watch.ready_timeout), ("watchdog", watch.watchdog)] {
        if let Some(time) = time {
            writeln!(f, "{key} = \"{}\"", show_duration(time))?;
        }
    }
    match &watch.health {
        Some(health) => writeln!(f, "health = {{ {}, failures = {} }}", show_probe(&health.probe), health.failures),
        None => Ok(()),
    }
}

fn show_probe(probe: &Probe) -> String {
    let check = match &probe.check {
        Check::Tcp(address) => format!("tcp = \"{address}\""),
        Check::Unix(path) => format!("unix = {}", Quoted(&path.to_string_lossy())),
        Check::Command(words) => format!("command = [{}]", show_words(words)),
        other => format!("command = {}", Quoted(&other.to_string())),
    };
    format!("{check}, interval = \"{}\", timeout = \"{}\"", show_duration(probe.interval), show_duration(probe.timeout))
}

impl Settings {
    /// Writes the keys of a table.
    pub(super) fn write(&self, f: &mut impl Write, values: Values) -> fmt::Result {
        let command = self.command.iter().map(|part| Quoted(&part.to_string_lossy()).to_string());
        writeln!(f, "command = [{}]", join(command))?;
        if let Some(directory) = &self.directory {
            writeln!(f, "directory = {}", Quoted(&directory.to_string_lossy()))?;
        }
        let variables = self.environment.iter().map(|(name, value)| match values {
            Values::Shown => format!("{} = {}", Quoted(name), Quoted(&value.replace('$', "$$"))),
            Values::Hidden => format!("{} = \"({} bytes)\"", Quoted(name), value.len()),
        });
        writeln!(f, "environment = {{{}}}", join(variables))?;
        writeln!(f, "clear-environment = {}", self.clear_environment)?;
        for (key, id) in [("user", &self.user), ("group", &self.group)] {
            if let Some(id) = id {
                writeln!(f, "{key} = {id}")?;
            }
        }
        if let Some(groups) = &self.groups {
            writeln!(f, "groups = [{}]", join(groups.iter()))?;
        }
        if let Some(umask) = self.umask {
            writeln!(f, "umask = \"{umask:03o}\"")?;
        }
        let limits =
            self.limits.iter().map(|(resource, limit)| format!("{} = {}", resource.name(), show_limit(*limit)));
        writeln!(f, "limits = {{{}}}", join(limits))?;
        match self.stdin {
            Stdin::Terminal => writeln!(f, "stdout = {}", self.stdout)?,
            _ => writeln!(f, "stdout = {}\nstderr = {}", self.stdout, self.stderr)?,
        }
        match &self.stdin {
            Stdin::Null => {}
            Stdin::Inherit => writeln!(f, "stdin = \"inherit\"")?,
            Stdin::Pipe => writeln!(f, "stdin = \"pipe\"")?,
            Stdin::File(path) => writeln!(f, "stdin = {}", Quoted(&path.to_string_lossy()))?,
            Stdin::Terminal => writeln!(f, "tty = true")?,
        }
        if !self.listen.is_empty() {
            writeln!(f, "listen = [{}]", join(self.listen.iter()))?;
        }
        writeln!(f, "contain = \"{}\"", show_contain(self.contain))
    }
}
