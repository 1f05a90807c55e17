//! Describes what to run: plain data that can be cloned, with the method names of std. It starts
//! nothing and reads nothing of the system.
//!
//! The one rule: a command can be spawned any number of times and means the same each time.

mod conditions;
mod parts;
mod show;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::contain::Contain;
use crate::limit::{Limit, Resource};
use crate::map::Map;
use crate::pty::Pty;
use crate::stdio::Stdio;
use crate::words::Words;
use parts::INHERITED;
pub(crate) use parts::{Attributes, Group, Parts, TreeLimits};

/// A program to run, and the environment in which it runs.
///
/// The methods have the names of [`std::process::Command`] wherever std has one. A clone costs next
/// to nothing, however long the command is. The defaults are:
///
/// | | |
/// | --- | --- |
/// | environment | inherited, as it is when the process is spawned |
/// | stdin | `/dev/null` |
/// | stdout, stderr | pipes that the reactor reads |
/// | other descriptors | none, whatever the host has open |
/// | process group | one of its own, so that a signal reaches the child and everything that it starts |
/// | signals | none blocked, all at their default action |
/// | user, groups, directory, limits | inherited (see [`Reactor::raise_fd_limit`](crate::Reactor::raise_fd_limit)) |
///
/// ```
/// use childminder::Command;
///
/// let mut command = Command::new("sort");
/// command.arg("-n").env("LC_ALL", "C").current_dir("/tmp");
/// assert_eq!(command.get_program(), "sort");
/// ```
#[derive(Clone)]
pub struct Command(Arc<Parts>);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { words, env_clear, env, current_dir, fds, group, contain, parent_death_signal, .. } = self.parts();
        f.debug_struct("Command")
            .field("words", words)
            .field("env_clear", env_clear)
            .field("env", env)
            .field("current_dir", current_dir)
            .field("fds", fds)
            .field("group", group)
            .field("contain", contain)
            .field("parent_death_signal", parent_death_signal)
            .field("attributes", self.parts().attributes())
            .finish()
    }
}

impl Command {
    /// Makes a command that runs `program`, which is a path if it contains a slash, and a name
    /// otherwise.
    ///
    /// A name is looked up in the `PATH` of the *child's* environment (`/bin:/usr/bin` if it has
    /// none), with every spawn method. A relative path is relative to the child's working
    /// directory.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut words = Words::default();
        words.push(program.as_ref());
        Self(Arc::new(Parts {
            words,
            env_clear: false,
            env: Map::new(),
            current_dir: None,
            fds: Map::new(),
            group: Group::Own,
            contain: Contain::default(),
            parent_death_signal: None,
            attributes: None,
        }))
    }

    /// Returns the command of another program that runs with the same user, environment, directory,
    /// limits and containment, but with `/dev/null` for its input and output. `None` if there is no
    /// program.
    pub(crate) fn helper(&self, words: &[OsString], main: Option<NonZeroU32>) -> Option<Self> {
        if words.is_empty() {
            return None;
        }
        let mut helper = self.clone();
        let parts = helper.parts_mut();
        parts.words = Words::default();
        parts.words.extend(words);
        parts.fds = Map::new();
        if let Some(attributes) = &mut parts.attributes {
            (attributes.arg0, attributes.pty, attributes.notify) = (None, None, false);
            attributes.listen.clear();
        }
        helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(pid) = main {
            helper.env("MAINPID", pid.to_string());
        }
        Some(helper)
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }

    fn parts_mut(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }

    pub(crate) fn attributes_mut(&mut self) -> &mut Attributes {
        self.parts_mut().attributes.get_or_insert_with(|| Box::new(INHERITED.clone()))
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.parts_mut().words.push(arg.as_ref());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.parts_mut().words.extend(args);
        self
    }

    /// Sets the name that the program sees as its own (`argv[0]`), instead of the program as given.
    #[doc(alias = "argv0")]
    pub fn arg0(&mut self, arg0: impl AsRef<OsStr>) -> &mut Self {
        self.attributes_mut().arg0 = Some(arg0.as_ref().to_owned());
        self
    }

    /// Sets a variable of the child's environment.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.parts_mut().env.insert(key.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Sets or removes a variable, unless the command sets or removes it itself.
    pub(crate) fn env_by_default(&mut self, key: &str, value: Option<&OsStr>) {
        let key = OsString::from(key);
        if !self.0.env.contains_key(&key) {
            self.parts_mut().env.insert(key, value.map(OsStr::to_owned));
        }
    }

    /// Sets variables of the child's environment.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(&mut self, vars: impl IntoIterator<Item = (K, V)>) -> &mut Self {
        for (key, value) in vars {
            self.env(key, value);
        }
        self
    }

    /// Removes a variable from the child's environment.
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.parts_mut().env.insert(key.as_ref().to_owned(), None);
        self
    }

    /// Starts from an empty environment. This also forgets what earlier calls of [`env`](Self::env)
    /// have set.
    pub fn env_clear(&mut self) -> &mut Self {
        let parts = self.parts_mut();
        parts.env_clear = true;
        parts.env.clear();
        self
    }

    /// Sets the child's working directory. The child enters it after the user has changed, with
    /// that user's rights.
    pub fn current_dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.parts_mut().current_dir = Some(dir.as_ref().into());
        self
    }

    /// Sets the child's stdin.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.fd(0, stdio)
    }

    /// Sets the child's stdout.
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.fd(1, stdio)
    }

    /// Sets the child's stderr.
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.fd(2, stdio)
    }

    /// Gives the child the host's stdin, stdout and stderr, as [`std::process::Command`] does by
    /// default.
    ///
    /// A child of a program in a terminal also stays in the host's process group there, so that
    /// Ctrl-C reaches it and it may read the terminal. Here that is
    /// [`inherit_process_group`](Self::inherit_process_group).
    ///
    /// ```
    /// use childminder::{Child, Command};
    ///
    /// assert!(Child::spawn(Command::new("date").inherit_stdio())?.wait()?.success());
    /// # Ok::<(), childminder::TalkError>(())
    /// ```
    pub fn inherit_stdio(&mut self) -> &mut Self {
        self.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit())
    }

    /// Sets the child's descriptor number `fd` (Twisted's `childFDs`). The spawn refuses a negative
    /// number.
    ///
    /// ```
    /// use childminder::{Command, Event, Reactor, Stdio};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "echo out; echo three >&3"]).stdout(Stdio::null()).fd(3, Stdio::reader());
    /// reactor.spawn_process(&command)?;
    /// let (mut said, mut done) = (Vec::new(), false);
    /// while !done {
    ///     reactor.turn(None, |_, event| match event {
    ///         Event::Data { fd, data, .. } => said.push((fd, data.to_vec())),
    ///         Event::Ended { .. } => done = true,
    ///         _ => {}
    ///     })?;
    /// }
    /// assert_eq!(said, [(3, b"three\n".to_vec())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "childFDs")]
    pub fn fd(&mut self, fd: i32, stdio: impl Into<Stdio>) -> &mut Self {
        self.parts_mut().fds.insert(fd, stdio.into());
        self
    }

    /// Hands a listening socket to the child by systemd's protocol (`sd_listen_fds(3)`).
    ///
    /// The sockets become the child's descriptors 3, 4… in the order of the calls, and
    /// `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` are set accordingly. The host keeps the
    /// socket open across restarts, so no connection is refused in between.
    ///
    /// The spawn refuses a name that contains a colon or a NUL.
    #[doc(alias = "LISTEN_FDS")]
    pub fn listen_fd(&mut self, name: impl Into<String>, socket: impl Into<OwnedFd>) -> &mut Self {
        self.attributes_mut().listen.push((name.into(), Stdio::from(socket.into())));
        self
    }

    /// Hands a listening socket to the child, as [`listen_fd`](Self::listen_fd) does, that a
    /// function of the host opens.
    ///
    /// The function is called at each spawn, with `what`, which also names the socket in errors. It
    /// returns a duplicate of a socket that the host keeps, so that the socket outlives the child.
    /// If it fails, the spawn fails at [`Stage::Open`](crate::Stage::Open), and a later one may
    /// succeed.
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use std::sync::Mutex;
    ///
    /// use childminder::{Command, Reactor};
    ///
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "test $LISTEN_FDS = 1 && test -S /proc/self/fd/3"]);
    /// let kept: Mutex<Option<TcpListener>> = Mutex::new(None);
    /// command.listen_with("web", "127.0.0.1:0", move |address| {
    ///     let mut kept = kept.lock().expect("no panic");
    ///     if kept.is_none() {
    ///         *kept = Some(TcpListener::bind(address.to_str().expect("an address"))?);
    ///     }
    ///     Ok(kept.as_ref().expect("just opened").try_clone()?.into())
    /// });
    /// let mut reactor = Reactor::new()?;
    /// reactor.spawn_process(&command)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "LISTEN_FDS")]
    pub fn listen_with(
        &mut self,
        name: impl Into<String>,
        what: impl Into<PathBuf>,
        open: impl Fn(&Path) -> io::Result<OwnedFd> + Send + Sync + 'static,
    ) -> &mut Self {
        self.attributes_mut().listen.push((name.into(), Stdio::open_with(what, open)));
        self
    }

    /// Sets whether the child can tell its state by systemd's protocol (`sd_notify(3)`). The
    /// default is no.
    ///
    /// Each process gets a socket of its own, whose address is in its variable `NOTIFY_SOCKET`.
    /// What it says there is [`Event::Notified`](crate::Event::Notified), until its exit. Every
    /// process of its tree may say it, and no other process: see
    /// [`Event::NotifyRefused`](crate::Event::NotifyRefused).
    ///
    /// The address is an abstract one, so it leaves no file behind and needs no rights. It is known
    /// only within the network namespace of the host. On systems other than Linux, the spawn fails
    /// (`Unsupported`).
    ///
    /// ```
    /// use childminder::{Command, Event, Reactor};
    ///
    /// # if !cfg!(target_os = "linux") { return Ok(()); }
    /// let mut reactor = Reactor::new()?;
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "echo $NOTIFY_SOCKET"]).notify(true);
    /// reactor.spawn_process(&command)?;
    /// let (mut said, mut ended) = (Vec::new(), false);
    /// while !ended {
    ///     reactor.turn(None, |_, event| match event {
    ///         Event::Data { data, .. } => said.extend_from_slice(data),
    ///         Event::Notified { notice, .. } => println!("ready: {}", notice.ready),
    ///         Event::Ended { .. } => ended = true,
    ///         _ => {}
    ///     })?;
    /// }
    /// assert!(said.starts_with(b"@childminder-"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "NOTIFY_SOCKET")]
    #[doc(alias = "sd_notify")]
    pub fn notify(&mut self, notify: bool) -> &mut Self {
        self.attributes_mut().notify = notify;
        self
    }

    /// Tells the child in its variable `WATCHDOG_USEC` that it has to give a sign of life
    /// (`WATCHDOG=1`) within this time, again and again (`sd_watchdog_enabled(3)`). It only tells
    /// the child so, and only with [`notify`](Self::notify). Programs usually say it after half the
    /// time.
    #[doc(alias = "WATCHDOG_USEC")]
    pub fn watchdog(&mut self, within: Duration) -> &mut Self {
        self.attributes_mut().watchdog = Some(within);
        self
    }

    /// Runs the child on a pseudo-terminal of its own, in a new session.
    ///
    /// The terminal is the child's stdin, stdout, stderr and controlling terminal. The child's
    /// output arrives as data of descriptor 1, and its input is written to descriptor 0. Only
    /// [`stderr`](Self::stderr) can be set apart from it, for example to [`Stdio::piped`].
    ///
    /// Closing both descriptors hangs up: the child gets SIGHUP. Otherwise the terminal ends with
    /// the child, and is read to its end then. A process on the terminal that outlives the child
    /// delays nothing.
    pub fn pty(&mut self, pty: Pty) -> &mut Self {
        self.attributes_mut().pty = Some(pty);
        self
    }

    /// Puts the child into the process group `pgid`. 0 means a new group of its own, which is the
    /// default.
    #[doc(alias = "setpgid")]
    pub fn process_group(&mut self, pgid: i32) -> &mut Self {
        self.parts_mut().group = if pgid == 0 { Group::Own } else { Group::Join(pgid) };
        self
    }

    /// Leaves the child in the host's process group.
    ///
    /// The child then gets the signals that a terminal sends to the host (Ctrl-C), and a signal for
    /// the child's group goes to the child alone.
    pub fn inherit_process_group(&mut self) -> &mut Self {
        self.parts_mut().group = Group::Inherit;
        self
    }

    /// Makes the child the leader of a new session that has no terminal.
    pub fn setsid(&mut self, setsid: bool) -> &mut Self {
        self.parts_mut().group = if setsid { Group::Session } else { Group::Own };
        self
    }

    /// Sets how the child is kept together with everything that it starts. The default is its
    /// process group.
    ///
    /// [`Reactor::containment`](crate::Reactor::containment) tells in advance what a command would
    /// get, and [`Tree::containment`](crate::Tree::containment) tells what a process has got.
    ///
    /// A cgroup adds about the cost of making and removing a directory to the start. The process is
    /// born in the cgroup (`clone3(2)`, Linux 5.7). Where the system refuses that, the process
    /// enters the cgroup before its exec.
    ///
    /// ```
    /// use childminder::{Command, Contain, Event, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let mut command = Command::new("sh");
    /// // In a cgroup the daemon is found although it has a session of its own.
    /// command.args(["-c", "setsid sleep 3 & exit"]).contain(Contain::Auto);
    /// let id = reactor.spawn_process(&command)?;
    /// println!("it is kept together by: {}", reactor.tree(id).expect("it is there").containment());
    /// let mut gone = false;
    /// while !gone {
    ///     reactor.turn(None, |reactor, event| match event {
    ///         Event::Exited { process, .. } => {
    ///             if let Some(mut tree) = reactor.tree(process) {
    ///                 println!("left: {}", tree.members());
    ///                 let _ = tree.kill();
    ///             }
    ///         }
    ///         Event::TreeGone { .. } => gone = true,
    ///         _ => {}
    ///     })?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "CLONE_INTO_CGROUP")]
    pub fn contain(&mut self, contain: Contain) -> &mut Self {
        self.parts_mut().contain = contain;
        self
    }

    /// Runs the child as this user.
    ///
    /// Unless [`gid`](Self::gid) and [`groups`](Self::groups) are set, the group and the
    /// supplementary groups are the user's own, from the system's database. The child never keeps
    /// the host's groups. A host that already runs as this user and group needs no rights for this,
    /// and keeps its groups.
    ///
    /// The user owns the child's ends of its pipes and its pseudo-terminal, so that the child can
    /// open `/dev/stdout` and the like again.
    pub fn uid(&mut self, id: u32) -> &mut Self {
        self.attributes_mut().uid = Some(id);
        self
    }

    /// Runs the child as this group.
    ///
    /// The host's supplementary groups are dropped unless [`groups`](Self::groups) or
    /// [`uid`](Self::uid) sets others. The spawn fails if the host has no right to drop them.
    /// Setting the host's own group changes nothing.
    pub fn gid(&mut self, id: u32) -> &mut Self {
        self.attributes_mut().gid = Some(id);
        self
    }

    /// Sets the child's supplementary groups to exactly these.
    pub fn groups(&mut self, groups: &[u32]) -> &mut Self {
        self.attributes_mut().groups = Some(groups.to_vec());
        self
    }

    /// Sets the child's file mode creation mask.
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.attributes_mut().umask = Some(mask);
        self
    }

    /// Sets the child's scheduling priority, from -20 (highest) to 19 (lowest). A value below the
    /// host's own needs the right to it.
    pub fn nice(&mut self, nice: i32) -> &mut Self {
        self.attributes_mut().nice = Some(nice);
        self
    }

    /// Sets a resource limit of the child (`setrlimit(2)`). It is set before the user changes, so
    /// that a privileged host can raise it.
    ///
    /// ```
    /// use childminder::{Command, Limit, Resource};
    ///
    /// let mut command = Command::new("true");
    /// command.rlimit(Resource::Core, Limit { soft: Some(0), hard: Some(0) });
    /// ```
    #[doc(alias = "setrlimit")]
    pub fn rlimit(&mut self, resource: Resource, limit: Limit) -> &mut Self {
        self.attributes_mut().limits.insert(resource, limit);
        self
    }

    /// Limits the memory of the child and everything that it starts, in bytes, without swap
    /// (`memory.max`, `memory.swap.max` and `memory.oom.group`). At the limit the kernel kills them
    /// all.
    ///
    /// It needs a cgroup (see [`contain`](Self::contain)) and the controller `memory`. Otherwise
    /// the spawn is refused at [`Stage::Limit`](crate::Stage::Limit). To limit the address space of
    /// each process instead, use [`rlimit`](Self::rlimit) with
    /// [`Resource::AddressSpace`](crate::Resource::AddressSpace).
    #[doc(alias = "memory.max")]
    pub fn memory_limit(&mut self, bytes: u64) -> &mut Self {
        self.attributes_mut().tree_limits.memory = Some(bytes);
        self
    }

    /// Limits how many processes and threads the child and everything that it starts can be at the
    /// same time (`pids.max`). At the limit no further one can be started (`EAGAIN`), which
    /// [`Event::ProcessLimit`](crate::Event::ProcessLimit) reports.
    ///
    /// It needs a cgroup (see [`contain`](Self::contain)) and the controller `pids`. Otherwise the
    /// spawn is refused at [`Stage::Limit`](crate::Stage::Limit).
    #[doc(alias = "pids.max")]
    pub fn process_limit(&mut self, count: u64) -> &mut Self {
        self.attributes_mut().tree_limits.processes = Some(count);
        self
    }

    /// Has the tree measured as far as the system allows, if it is in a cgroup.
    pub(crate) fn measured(&mut self) -> &mut Self {
        self.attributes_mut().tree_limits.measured = true;
        self
    }

    /// Makes the kernel send the child this signal when the *thread* that spawned it ends
    /// (`PR_SET_PDEATHSIG`, Linux; refused elsewhere). If the host has already gone before the
    /// child could ask for the signal, the child ends too.
    #[doc(alias = "PR_SET_PDEATHSIG")]
    pub fn parent_death_signal(&mut self, signal: i32) -> &mut Self {
        self.parts_mut().parent_death_signal = Some(signal);
        self
    }
}
