//! Writes the effective settings as a file again. Prints nothing by itself.
//!
//! The one rule: the text reads back as equal settings, from any folder, unless values are hidden.

use std::ffi::OsString;
use std::fmt::{self, Display, Formatter, Write};

use childminder::restart::{StopAction, StopScope};
use childminder::{Check, Leftovers, Limit, Policy, Probe, Ready, Watch};

use super::links::show_start_limit;

use super::SocketPath;
use super::stdin::Stdin;
use super::value::{Id, show_contain, show_duration, show_kill_or_leave, show_max_size, show_restart, show_stop_scope};
use super::{Config, Look, Output, ProcessConfig, Rotation, Settings, Table};
use crate::cli::safe_path::Creation;

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
        writeln!(f, "stop-signal = \"{}\"", show_signal(policy.stop_signal))?;
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
            writeln!(f, "reload-signal = \"{}\"", show_signal(signal))?;
        }
        writeln!(f, "autostart = {}\nraw = {}", self.autostart, self.raw)?;
        if let Some(recent) = self.recent {
            writeln!(f, "recent = {recent}")?;
        }
        write!(f, "{}", self.look)
    }
}

fn show_signal(signal: i32) -> String {
    childminder::signal::name(signal).unwrap_or_else(|| signal.to_string())
}

fn show_words(words: &[OsString]) -> String {
    join(words.iter().map(|word| Quoted(&word.to_string_lossy()).to_string()))
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
            StopAction::Signal(signal) => format!("signal = \"{}\"", show_signal(*signal)),
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

/// As lines of a table. What is not said has no line.
impl Display for Look {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.timestamps {
            Some(Some(stamp)) => writeln!(f, "timestamps = \"{}\"", stamp.name())?,
            Some(None) => writeln!(f, "timestamps = false")?,
            None => {}
        }
        match self.json {
            Some(json) => writeln!(f, "format = \"{}\"", if json { "json" } else { "text" }),
            None => Ok(()),
        }
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => f.write_str("\"prefix\""),
            Self::Null => f.write_str("\"null\""),
            Self::Inherit => f.write_str("\"inherit\""),
            Self::File { path, new, rotation } => {
                let path = path.to_string_lossy();
                write!(f, "{{ file = {}{}{} }}", Quoted(&path), show_rotation(*rotation), show_creation(*new))
            }
            Self::Direct { path, new } => {
                let path = path.to_string_lossy();
                write!(f, "{{ file = {}, direct = true{} }}", Quoted(&path), show_creation(*new))
            }
        }
    }
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => Quoted(name).fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

fn show_rotation(Rotation { max_size, keep, max_age, compress }: Rotation) -> String {
    let mut text = format!(", max-size = \"{}\", keep = {keep}", show_max_size(max_size));
    if let Some(age) = max_age {
        text += &format!(", max-age = \"{}\"", show_duration(age));
    }
    if compress {
        text += ", compress = true";
    }
    text
}

pub(super) fn show_creation(new: Creation) -> String {
    let mut text = new.mode.map(|mode| format!(", mode = \"{mode:04o}\"")).unwrap_or_default();
    if new.folders {
        text += ", make-folders = true";
    }
    let uid = new.uid.map(|uid| uid.to_string());
    let gid = new.gid.map(|gid| format!(":{gid}"));
    if uid.is_some() || gid.is_some() {
        text += &format!(", owner = \"{}{}\"", uid.unwrap_or_default(), gid.unwrap_or_default());
    }
    text
}

fn show_limit(limit: Limit) -> String {
    let one = |value: Option<u64>| match value {
        None => "\"unlimited\"".to_owned(),
        // An integer of TOML has only 63 bits without the sign.
        Some(value) if i64::try_from(value).is_err() => format!("\"{value}\""),
        Some(value) => value.to_string(),
    };
    if limit.soft == limit.hard {
        one(limit.soft)
    } else {
        format!("{{ soft = {}, hard = {} }}", one(limit.soft), one(limit.hard))
    }
}

pub(super) fn join(parts: impl Iterator<Item = impl Display>) -> String {
    parts.map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

/// A TOML string.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}
