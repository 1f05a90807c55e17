//! The settings of one process, as plain data. Reads no file and starts nothing.
//!
//! The one rule: everything of a process that goes into its command is in [`Settings`], which a
//! reload compares. A process whose settings are equal runs on.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use childminder::{Command, Contain, Limit, Policy, Pty, Resource, Stdio, Watch};

use super::care::Care;
use super::value::Id;
use crate::cli::child;
use crate::cli::dress::{Dress, Stamp};
use crate::cli::listen::{Listener, Listeners};
use crate::cli::safe_path::{self, Creation, Target};

/// One process, or one instance of a table with `instances`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProcessConfig {
    /// Unique within the file. It consists of letters, digits and `-_.:@+`, so that it needs no
    /// quoting in a shell and is no glob.
    pub(crate) name: Arc<str>,
    /// The settings that a running process cannot take over.
    pub(crate) settings: Rc<Settings>,
    /// The rules by which it is restarted and stopped. They can change while it runs.
    pub(crate) policy: Arc<Policy>,
    /// Whether it is started together with the supervisor.
    pub(crate) autostart: bool,
    /// Whether control characters in its output reach our terminal unchanged.
    pub(crate) raw: bool,
    /// How its lines are written.
    pub(crate) look: Look,
    /// The number of bytes of its last lines that are remembered, if the file says it.
    pub(crate) recent: Option<u32>,
    /// How the monitor knows that it is ready and well, if the file says anything about it.
    pub(crate) watch: Option<Watch>,
    /// What else the file says about that, and what the process waits for.
    pub(crate) care: Option<Rc<Care>>,
}

/// How the lines of a process, or our own messages, are written. `None` means that the file does
/// not say it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// The time in front of a line: `Some(None)` for none.
    pub(crate) timestamps: Option<Option<Stamp>>,
    pub(crate) json: Option<bool>,
}

impl Look {
    /// This look, with a default for what it does not say.
    pub(crate) fn or(self, default: Self) -> Self {
        Self { timestamps: self.timestamps.or(default.timestamps), json: self.json.or(default.json) }
    }

    pub(crate) fn dress(self) -> Dress {
        Dress { stamp: self.timestamps.flatten(), json: self.json.unwrap_or(false) }
    }
}

/// The program and the environment in which it runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The program and its arguments; never empty. A program with a slash in it is absolute. A
    /// `shell` is stored as `/bin/sh -c …`.
    pub(crate) command: Vec<OsString>,
    pub(crate) directory: Option<PathBuf>,
    /// Sorted by name; each name appears once.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) clear_environment: bool,
    pub(crate) user: Option<Id>,
    pub(crate) group: Option<Id>,
    pub(crate) groups: Option<Vec<Id>>,
    pub(crate) umask: Option<u32>,
    /// Sorted; each resource appears once.
    pub(crate) limits: Vec<(Resource, Limit)>,
    pub(crate) stdin: Stdin,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    /// The sockets that it gets, which are opened once and outlive it.
    pub(crate) listen: Vec<Listener>,
    /// The means by which the process and all its descendants are kept together.
    pub(crate) contain: Contain,
}

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

/// The destination of a process's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Our own output, with the name in front of each line.
    Prefix,
    /// `/dev/null`.
    Null,
    /// Our own output, which the process inherits and writes to itself.
    Inherit,
    /// A file that we write and rotate.
    File {
        /// Absolute.
        path: PathBuf,
        new: Creation,
        rotation: Rotation,
    },
    /// A file that the process is given and writes to itself.
    Direct {
        /// Absolute.
        path: PathBuf,
        new: Creation,
    },
}

/// How a file is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// In bytes. The file is rotated before it would grow larger than this.
    pub(crate) max_size: u64,
    /// The number of rotated files that are kept.
    pub(crate) keep: u32,
    /// The age from which rotated files are removed.
    pub(crate) max_age: Option<Duration>,
    /// Whether rotated files are compressed.
    pub(crate) compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_size: 10 << 20, keep: 5, max_age: None, compress: false }
    }
}

impl ProcessConfig {
    /// The command that the settings describe. Opens no files: a file that the process writes
    /// itself is opened at each start.
    fn command(&self, kills_at_death: bool, listeners: &Listeners) -> io::Result<Command> {
        let settings = &self.settings;
        let (program, args) = settings.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = child::command(program, settings.user.as_ref().map(Id::uid).transpose()?);
        command.args(args);
        if settings.clear_environment {
            command.env_clear();
        }
        command.envs(settings.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &settings.directory {
            command.current_dir(directory);
        }
        settings.apply_user(&mut command)?;
        if let Some(umask) = settings.umask {
            command.umask(umask);
        }
        for (resource, limit) in &settings.limits {
            command.rlimit(*resource, *limit);
        }
        child::confine(&mut command, kills_at_death);
        listeners.add(&mut command, &settings.listen);
        command.contain(settings.contain);
        settings.stdin.apply(&mut command);
        if settings.stdin != Stdin::Terminal {
            settings.stdout.apply(&mut command, 1)?;
            settings.stderr.apply(&mut command, 2)?;
        }
        Ok(command)
    }
}

/// Makes commands. Consecutive processes with equal settings share one command, as instances mostly
/// do.
#[derive(Debug)]
pub(crate) struct Commands {
    /// Whether the processes are killed if the supervisor is.
    kills_at_death: bool,
    listeners: Rc<Listeners>,
    last: Option<(Rc<Settings>, Command)>,
}

impl Commands {
    pub(crate) fn new(kills_at_death: bool, listeners: Rc<Listeners>) -> Self {
        Self { kills_at_death, listeners, last: None }
    }

    /// The command of a process.
    ///
    /// # Errors
    ///
    /// A user or a group no longer exists.
    pub(crate) fn of(&mut self, process: &ProcessConfig) -> io::Result<Command> {
        let settings = &process.settings;
        if let Some((_, command)) = self.last.as_ref().filter(|(last, _)| last == settings) {
            return Ok(command.clone());
        }
        let command = process.command(self.kills_at_death, &self.listeners)?;
        self.last = Some((Rc::clone(settings), command.clone()));
        Ok(command)
    }
}

impl Settings {
    pub(super) fn apply_user(&self, command: &mut Command) -> io::Result<()> {
        match (&self.user, &self.group) {
            (Some(Id::Name(name)), None) => {
                command.user(name)?;
            }
            // `uid` and `gid` set the ids by number, so that the user's own group is not among the
            // groups if another group is given.
            (user, group) => {
                if let Some(user) = user {
                    command.uid(user.uid()?);
                }
                if let Some(group) = group {
                    command.gid(group.gid()?);
                }
            }
        }
        if let Some(user) = &self.user {
            // The user's entry in the database sets HOME and the like, unless the file sets them.
            command.user_env(&user.to_text())?;
        }
        if let Some(groups) = &self.groups {
            command.groups(&groups.iter().map(Id::gid).collect::<io::Result<Vec<_>>>()?);
        }
        Ok(())
    }
}

impl Stdin {
    /// Gives the stdin to a command. A terminal takes the place of stdout and stderr.
    fn apply(&self, command: &mut Command) {
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

impl Output {
    /// Gives the output to a command as its descriptor `fd`, which is a pipe by default.
    fn apply(&self, command: &mut Command, fd: i32) -> io::Result<()> {
        let stdio = match self {
            Self::Prefix | Self::File { .. } => return Ok(()),
            Self::Null => Stdio::null(),
            Self::Inherit => Stdio::inherit(),
            Self::Direct { path, new } => match safe_path::find(path) {
                Ok(Target::Own(number)) => childminder::inherited_fd(number)?.into(),
                _ => {
                    let new = *new;
                    Stdio::open_with(path, move |path| safe_path::open_for_child(path, new))
                }
            },
        };
        command.fd(fd, stdio);
        Ok(())
    }

    /// The mode and the owner of its file, if it goes to a file.
    pub(super) fn creation(&self) -> Creation {
        match self {
            Self::File { new, .. } | Self::Direct { new, .. } => *new,
            _ => Creation::default(),
        }
    }

    /// The file that it goes to, if any.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } | Self::Direct { path, .. } => Some(path),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::tests::only_process;
    use super::*;

    #[test]
    fn the_command_runs_as_described() {
        let folder = crate::guard::folder().join("config");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("out");
        let text = format!(
            "[process.a]\nshell = \"echo $A $(pwd) $(umask) $(ulimit -c) $B; echo err >&2\"\ndirectory = \"/\"\n\
             umask = \"027\"\nlimits = {{ core = 0 }}\nenvironment = {{ A = \"1\" }}\nclear-environment = true\n\
             stdout = {{ file = {file:?}, direct = true }}\nstderr = \"null\"\n"
        );
        let command = Commands::new(true, Rc::default()).of(&only_process(&text)).unwrap();
        let mut reactor = childminder::Reactor::new().unwrap();
        reactor.spawn_process(&command).unwrap();
        let mut ended = false;
        while !ended {
            let timeout = Some(Duration::from_secs(20));
            let mut turned = false;
            let handle = |_: &mut childminder::Reactor, event: childminder::Event<'_>| {
                turned = true;
                ended |= matches!(event, childminder::Event::Ended { .. });
            };
            reactor.turn(timeout, handle).unwrap();
            assert!(turned, "no event in 20 s");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "1 / 0027 0\n");
        fs::remove_dir_all(&folder).unwrap();
    }
}
