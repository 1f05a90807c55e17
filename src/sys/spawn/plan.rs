//! The plan of a spawn: everything that the child needs, computed in the parent.
//!
//! It reads the command, the environment and the user database, and starts nothing. The one rule:
//! what can be refused is refused here, before there is a child.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{self, BufRead};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Instant;

#[cfg(target_os = "linux")]
use super::starter::Start;
use super::{conditions::Conditions, denied::Who, environment::each_if_alone, failure::Failure, order::ChildFile};
use crate::command::{Group, Parts};
use crate::error::{SpawnError, Stage};
use crate::limit::{Limit, Resource};
use crate::signal;
use crate::sys::{bytes::find_byte, cgroup, limit, user, wait};

/// The directories in which a program without a slash is searched for if the child has no `PATH`.
/// Twisted and glibc use the same ones.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The child's side of a spawn, ready to be carried out without any further decision.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) argv: Strings,
    pub(super) env: Strings,
    /// The paths to exec, in the order in which they are tried.
    pub(super) paths: Strings,
    pub(super) moves: Vec<Move>,
    /// The numbers of the child's descriptors.
    pub(super) targets: Vec<RawFd>,
    pub(super) group: Group,
    pub(super) terminal: bool,
    pub(super) umask: Option<libc::mode_t>,
    pub(super) nice: Option<i32>,
    /// Boxed because few commands set any.
    pub(super) conditions: Option<Box<Conditions>>,
    pub(super) limits: Vec<(i32, limit::Raw)>,
    pub(super) dir: Option<CString>,
    pub(super) groups: Option<Vec<libc::gid_t>>,
    pub(super) gid: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) parent_death_signal: Option<i32>,
    /// The pid of the parent, if the child asks for a signal at the parent's death.
    pub(super) parent: Option<i32>,
    /// The place for the digits of `LISTEN_PID`, which only the child knows.
    pub(super) listen_pid: Option<*mut u8>,
    /// The socket of the guard that the child registers with, and its number there.
    pub(super) guard: Option<(RawFd, u32)>,
    /// The directory of the cgroup that the child is made in.
    pub(super) born_in: Option<RawFd>,
    /// The `cgroup.procs` of the cgroup that the child enters by itself.
    pub(super) entrance: Option<OwnedFd>,
    /// The start through the starter, if the child executes that.
    #[cfg(target_os = "linux")]
    pub(super) start: Option<Start>,
    /// The place for the time of the exec in memory that the parent sees, or null.
    pub(super) stamp: *mut Option<Instant>,
}

/// A descriptor of the child, and the descriptor of ours that it is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) target: RawFd,
    pub(super) source: RawFd,
    /// Whether the source's number is another move's target, so that the source has to be moved
    /// away first.
    pub(super) clashes: bool,
}

impl Plan {
    pub(super) fn new(
        command: &Parts,
        files: &[ChildFile<'_>],
        terminal: bool,
        nofile: Option<Limit>,
        notify: Option<&OsStr>,
    ) -> Result<Self, SpawnError> {
        let program = command.program();
        let refuse = |what: String| {
            let error = io::Error::new(io::ErrorKind::InvalidInput, what);
            SpawnError::new(program.to_owned(), Stage::Command, error)
        };
        if program.is_empty() {
            return Err(refuse("the program's name is empty".into()));
        }
        let nul = |what: &str| refuse(format!("a NUL byte in {what}"));

        let attributes = command.attributes();
        let arg0 = attributes.arg0.as_deref().unwrap_or(program);
        let (bytes, count) =
            command.args().chain([arg0]).fold((0, 0), |(bytes, count), arg| (bytes + arg.len() + 1, count + 1));
        let mut argv = Strings::with_room(bytes, count);
        argv.push(&[arg0.as_bytes()]).map_err(|Nul| nul("the program's name"))?;
        for arg in command.args() {
            argv.push(&[arg.as_bytes()]).map_err(|Nul| nul("an argument"))?;
        }
        argv.finish();

        let (mut env, path) = environment(command).map_err(refuse)?;
        env.push_notify(command, notify).map_err(|Nul| nul("the address of the notify socket"))?;
        let listen_pid = env.push_listen(command).map_err(refuse)?;
        env.finish();

        let mut paths = Strings::with_room(program.len() + 1, 1);
        candidates(program, path.as_deref(), &mut paths).map_err(|Nul| nul("the program's name or PATH"))?;
        paths.finish();

        let dir = command.current_dir.as_ref().map(|dir| CString::new(dir.as_os_str().as_bytes()));
        let dir = dir.transpose().map_err(|_| nul("the working directory"))?;
        if attributes.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
            return Err(refuse("a nice value outside -20 to 19".into()));
        }
        if command.parent_death_signal.is_some_and(|number| !(1..=signal::max()).contains(&number)) {
            return Err(refuse("a parent-death signal that is no signal".into()));
        }
        if command.parent_death_signal.is_some() && !cfg!(target_os = "linux") {
            return Err(refuse("this system has no parent-death signal".into()));
        }
        if matches!(command.group, Group::Join(pgid) if pgid < 0) {
            return Err(refuse("a negative process group".into()));
        }

        let conditions = attributes.conditions.are_any().then(|| Conditions::new(&attributes.conditions)).transpose();
        let conditions = conditions.map_err(|what| refuse(what.into()))?.map(Box::new);
        let mut limits: Vec<_> =
            attributes.limits.iter().map(|(resource, value)| (resource.raw(), limit::raw(*value))).collect();
        if let (Some(before), false) = (nofile, attributes.limits.contains_key(&Resource::OpenFiles)) {
            limits.push((Resource::OpenFiles.raw(), limit::raw(before)));
        }
        let (uid, gid, groups) = credentials(command)?;
        let moves = moves(files);
        Ok(Self {
            argv,
            env,
            paths,
            targets: moves.iter().map(|one| one.target).collect(),
            moves,
            group: if terminal { Group::Session } else { command.group },
            terminal,
            umask: attributes.umask.map(|mask| mask as libc::mode_t),
            nice: attributes.nice,
            conditions,
            limits,
            dir,
            groups,
            gid,
            uid,
            parent_death_signal: command.parent_death_signal,
            parent: command.parent_death_signal.map(|_| wait::own_pid()),
            listen_pid,
            guard: None,
            born_in: None,
            entrance: None,
            #[cfg(target_os = "linux")]
            start: None,
            stamp: ptr::null_mut(),
        })
    }

    /// Makes the child enter the cgroup of this directory itself.
    pub(super) fn enter(&mut self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        self.entrance = Some(cgroup::open_at(cgroup, c"cgroup.procs", libc::O_WRONLY)?);
        Ok(())
    }

    /// Returns the error for a failure of the parent.
    pub(super) fn explain_ours(&self, command: &Parts, stage: Stage, error: io::Error) -> SpawnError {
        SpawnError::new(command.program().to_owned(), stage, error)
    }

    /// Whether the child changes its user or group. With shared memory, that costs the host its
    /// dumpable flag.
    #[cfg(target_os = "linux")]
    pub(super) fn changes_credentials(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.groups.is_some()
    }

    /// Returns the user and the groups of the child.
    fn who(&self) -> Who<'_> {
        let (uid, gid) = user::own_ids();
        Who { uid: self.uid.unwrap_or(uid), gid: self.gid.unwrap_or(gid), groups: self.groups.as_deref() }
    }

    /// Returns the error for a failure of the child.
    pub(super) fn explain(&self, command: &Parts, failure: Failure) -> SpawnError {
        let stage = failure.stage();
        let error = SpawnError::new(command.program().to_owned(), stage, io::Error::from_raw_os_error(failure.errno));
        match stage {
            Stage::Exec => {
                let path = self.paths.get(failure.subject);
                let hint = exec_hint(command, path, failure.errno, &self.who());
                if path == command.program() {
                    error.with_hint(hint)
                } else if failure.errno == libc::ENOENT {
                    // If several paths were tried, none of them is to blame, unless its file
                    // exists.
                    let there = self
                        .paths
                        .iter()
                        .find_map(|path| Some((path, exec_hint(command, path, libc::ENOENT, &self.who())?)));
                    match there {
                        Some((path, hint)) => error.on(path).with_hint(Some(hint)),
                        None => error.with_hint(Some("it is in no directory of its PATH".into())),
                    }
                } else {
                    error.on(path).with_hint(hint)
                }
            }
            Stage::Wait => explain_wait(command, failure),
            Stage::Chdir => error.on(command.current_dir.as_deref().unwrap_or(Path::new(""))),
            Stage::Dup2 => error.on(format!("to descriptor {}", failure.subject)),
            Stage::Rlimit => {
                let resource = Resource::ALL.iter().find(|resource| resource.raw() == failure.subject);
                error.on(resource.map_or("?", |resource| resource.name()))
            }
            Stage::Affinity => {
                let cpus = &command.attributes().conditions.cpus;
                error.on(cpus.as_ref().map_or_else(String::new, ToString::to_string))
            }
            Stage::Setuid | Stage::Setgid | Stage::Setgroups if failure.errno == libc::EPERM => {
                let (uid, _) = user::own_ids();
                error.with_hint(Some(format!("this process runs as user id {uid}, which may not become another user")))
            }
            _ => error,
        }
    }
}

/// Returns the error for a child that did not reach its exec.
pub(super) fn explain_wait(command: &Parts, failure: Failure) -> SpawnError {
    let (kind, what) = match failure.errno {
        libc::ECANCELED => (io::ErrorKind::Interrupted, "a signal has stopped it on its way"),
        libc::EINTR => (io::ErrorKind::Interrupted, "a signal asked the host to end, and it was not there yet"),
        _ => (io::ErrorKind::TimedOut, "it was not there in time"),
    };
    let stuck = failure.stuck().map(|pid| format!("process {pid} was killed and is not gone yet"));
    SpawnError::new(command.program().to_owned(), Stage::Wait, io::Error::new(kind, what)).with_hint(stuck)
}

/// C strings one after another in one allocation, and the null-terminated array of pointers to them
/// that exec wants. The pointers to strings that were lent come first.
#[derive(Debug)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    pub(super) pointers: Vec<*const libc::c_char>,
}

/// More variables than most environments have.
const MANY: usize = 64;

/// The error for a NUL byte in a string.
struct Nul;

impl Strings {
    /// Makes room for so many bytes in so many strings. It grows if there are more.
    fn with_room(bytes: usize, count: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), starts: Vec::with_capacity(count), pointers: Vec::new() }
    }

    fn push(&mut self, parts: &[&[u8]]) -> Result<(), Nul> {
        if parts.iter().any(|part| find_byte(0, part).is_some()) {
            return Err(Nul);
        }
        self.append(parts);
        Ok(())
    }

    /// Adds a string that stays where it is until the exec.
    fn lend(&mut self, string: &CStr) {
        if self.pointers.is_empty() {
            self.pointers.reserve(MANY);
        }
        self.pointers.push(string.as_ptr());
    }

    /// Does what [`push`](Self::push) does, for bytes that were a C string before.
    fn append(&mut self, parts: &[&[u8]]) {
        self.starts.push(self.bytes.len());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
    }

    /// Adds the pointers. Nothing may be pushed after this, because the pointers would dangle.
    fn finish(&mut self) {
        let pointers = self.starts.iter().map(|start| self.bytes[*start..].as_ptr().cast());
        self.pointers.extend(pointers.chain([ptr::null()]));
    }

    fn get(&self, index: i32) -> &OsStr {
        usize::try_from(index).ok().and_then(|index| self.iter().nth(index)).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = &OsStr> {
        self.bytes.split(|byte| *byte == 0).map(OsStr::from_bytes)
    }

    /// Adds `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    fn push_notify(&mut self, command: &Parts, address: Option<&OsStr>) -> Result<(), Nul> {
        let Some(address) = address else { return Ok(()) };
        self.push(&[b"NOTIFY_SOCKET=", address.as_bytes()])?;
        if let Some(within) = command.attributes().watchdog {
            self.push(&[b"WATCHDOG_USEC=", within.as_micros().to_string().as_bytes()])?;
        }
        Ok(())
    }

    /// Adds `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` if there are sockets to pass on. It
    /// returns the place for the digits of the pid.
    fn push_listen(&mut self, command: &Parts) -> Result<Option<*mut u8>, String> {
        const PID: &[u8] = b"LISTEN_PID=";
        let listen = &command.attributes().listen;
        if listen.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = listen.iter().map(|(name, _)| name.as_str()).collect();
        if names.iter().any(|name| name.contains(':')) {
            return Err("a colon in the name of a listening socket".into());
        }
        let names = names.join(":");
        self.push(&[b"LISTEN_FDNAMES=", names.as_bytes()]).map_err(|Nul| "a NUL byte in a socket's name")?;
        self.push(&[b"LISTEN_FDS=", listen.len().to_string().as_bytes()]).map_err(|Nul| "")?;
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(PID);
        // Room for any pid and the NUL after it. It is all zero until the child writes its digits.
        let digits = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 12]);
        Ok(Some(self.bytes[digits..].as_mut_ptr()))
    }
}

/// Returns the child's environment, still to be finished, and its `PATH`.
///
/// Inherited variables are lent if this is the only thread. Otherwise they are copied under the
/// lock of `std::env`, because another thread might change and free the C library's own array while
/// the child's exec reads it. They are also copied if the child changes its user: that user could
/// stop the child before its exec, so that we give it up and might change the array ourselves.
fn environment(command: &Parts) -> Result<(Strings, Option<OsString>), String> {
    let mut env = Strings::with_room(0, 0);
    let mut path = None;
    // If the child has sockets of its own, the host's variables are left out, because they would be
    // found first.
    let (listens, notifies) = (!command.attributes().listen.is_empty(), command.attributes().notify);
    let is_ours = |key: &OsStr| {
        (listens && ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].iter().any(|name| key == *name))
            || (notifies && ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].iter().any(|name| key == *name))
    };
    if !command.env_clear {
        let mut inherits = |key: &OsStr, value: &OsStr| {
            // A name that is empty, or that starts with "=", as std allows, is never looked up.
            let is_odd = key.is_empty() || key.as_bytes().starts_with(b"=");
            if is_odd || is_ours(key) || command.env.keys().any(|known| known == key) {
                return false;
            }
            if key == "PATH" && path.is_none() {
                path = Some(value.to_owned());
            }
            true
        };
        let attributes = command.attributes();
        let stays = attributes.uid.is_none() && attributes.gid.is_none() && attributes.groups.is_none();
        let lent = stays
            && each_if_alone(|variable| {
                let bytes = variable.to_bytes();
                if let Some(end) = find_byte(b'=', bytes) {
                    if inherits(OsStr::from_bytes(&bytes[..end]), OsStr::from_bytes(&bytes[end + 1..])) {
                        env.lend(variable);
                    }
                }
            });
        if !lent {
            // A buffer that grows leaves its smaller copies behind in the allocator. Most
            // environments fit.
            env = Strings::with_room(4096, MANY);
            for (key, value) in std::env::vars_os() {
                if inherits(&key, &value) {
                    env.append(&[key.as_bytes(), b"=", value.as_bytes()]);
                }
            }
        }
    }
    for (key, value) in command.env.iter() {
        let Some(value) = value.as_ref().filter(|_| !is_ours(key)) else { continue };
        if key.is_empty() || find_byte(b'=', key.as_bytes()).is_some() {
            return Err(format!("an environment variable with the name {key:?}"));
        }
        let pushed = env.push(&[key.as_bytes(), b"=", value.as_bytes()]);
        pushed.map_err(|Nul| format!("a NUL byte in the environment variable {key:?}"))?;
        if key == "PATH" {
            path = Some(value.clone());
        }
    }
    Ok((env, path))
}

/// Pushes the paths to try, in the way of execvp(3).
fn candidates(program: &OsStr, path: Option<&OsStr>, paths: &mut Strings) -> Result<(), Nul> {
    let program = program.as_bytes();
    if find_byte(b'/', program).is_some() {
        return paths.push(&[program]);
    }
    for dir in path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|byte| *byte == b':') {
        // In POSIX, an empty entry is the working directory.
        let separator: &[u8] = if dir.is_empty() || dir.ends_with(b"/") { b"" } else { b"/" };
        // execvp(3) passes over an entry that is too long for a path. The kernel would end the
        // search there.
        if dir.len() + separator.len() + program.len() < libc::PATH_MAX as usize {
            paths.push(&[dir, separator, program])?;
        }
    }
    Ok(())
}

/// Returns the moves, sorted by target, and marks the sources that have to be moved away first.
fn moves(files: &[ChildFile<'_>]) -> Vec<Move> {
    let is_target = |fd| files.iter().any(|(target, _)| *target == fd);
    let mut moves = Vec::with_capacity(files.len());
    for (target, source) in files {
        let (target, source) = (*target, source.as_raw_fd());
        let at = moves.partition_point(|known: &Move| known.target < target);
        moves.insert(at, Move { target, source, clashes: source != target && is_target(source) });
    }
    moves
}

type Credentials = (Option<u32>, Option<u32>, Option<Vec<libc::gid_t>>);

/// Returns the ids to set. There are none if the host has the wanted ids already, so that no right
/// is needed. A child that changes its user does not keep the host's groups.
fn credentials(command: &Parts) -> Result<Credentials, SpawnError> {
    let attributes = command.attributes();
    let (uid, gid) = (attributes.uid, attributes.gid);
    if uid.is_none() && gid.is_none() && attributes.groups.is_none() {
        return Ok((None, None, None));
    }
    let (own_uid, own_gid) = user::own_ids();
    if attributes.groups.is_none() && uid.is_none_or(|uid| uid == own_uid) && gid.is_none_or(|gid| gid == own_gid) {
        return Ok((None, None, None));
    }
    let lookup =
        |uid| user::by_id(uid).map_err(|error| SpawnError::new(command.program().to_owned(), Stage::User, error));
    let (gid, groups) = match (uid, gid, &attributes.groups) {
        (_, gid @ Some(_), Some(groups)) => (gid, Some(groups.clone())),
        (None, gid, groups) => (gid, Some(groups.clone().unwrap_or_default())),
        (Some(uid), Some(gid), None) => match user::by_id(uid) {
            Ok(user) => (Some(gid), Some(user.groups_with(gid))),
            Err(_) => (Some(gid), Some(Vec::new())),
        },
        (Some(uid), None, groups) => {
            let user = lookup(uid)?;
            (Some(user.gid), Some(groups.clone().unwrap_or(user.groups)))
        }
    };
    Ok((uid, gid, groups))
}

/// Returns a hint about what the errno of exec does not say.
fn exec_hint(command: &Parts, path: &OsStr, errno: i32, who: &Who<'_>) -> Option<String> {
    let path = match &command.current_dir {
        Some(dir) => dir.join(path),
        None => PathBuf::from(path),
    };
    match errno {
        libc::EACCES => {
            let there = path.metadata();
            if there.as_ref().is_ok_and(|there| there.is_dir()) {
                Some("it is a directory".into())
            } else if there.is_ok_and(|there| there.is_file() && there.mode() & 0o111 == 0) {
                Some("the file is not executable".into())
            } else {
                Some(who.denial(&path))
            }
        }
        libc::ENOENT => interpreter(&path).map(|name| format!("the file is there; its interpreter `{name}` is not")),
        libc::ENOEXEC => Some("neither a program for this machine nor a script with a `#!` line".into()),
        _ => None,
    }
}

/// Returns the interpreter that the first line of a script names.
fn interpreter(path: &Path) -> Option<String> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let mut line = Vec::new();
    io::BufReader::new(io::Read::take(file, 256)).read_until(b'\n', &mut line).ok()?;
    let Some(rest) = line.strip_prefix(b"#!") else {
        return Some("(dynamic loader)".into());
    };
    // "\r" does not separate words, because the kernel takes it for a part of the name.
    let name = rest.split(|byte| b" \t\n".contains(byte)).find(|word| !word.is_empty()).unwrap_or_default();
    Some(String::from_utf8_lossy(name).escape_debug().to_string())
}
