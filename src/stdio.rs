//! Describes what a child can have at its descriptors: plain data, which opens nothing.
//!
//! The one rule: a given descriptor stays open as long as a command holds it, so that it can be
//! given again.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that a child has at one of its descriptors.
///
/// Besides the constructors, `From` accepts anything that holds a descriptor: a file, an end of a
/// pipe, a socket. The child gets a duplicate, and the host's own stays open as long as the command
/// (or a clone) lives. So the reader of a pipe sees its end only when the command is dropped, too.
///
/// The open file is the child's as it is. A socket or pipe that is non-blocking in the host is
/// non-blocking in the child.
///
/// ```
/// use std::process;
///
/// use childminder::{Command, RunToEnd};
///
/// let mut echo = process::Command::new("echo").arg("hello").stdout(process::Stdio::piped()).spawn()?;
/// let mut upper = Command::new("tr");
/// upper.args(["a-z", "A-Z"]).stdin(echo.stdout.take().expect("a pipe"));
/// assert_eq!(RunToEnd::new(&upper).run()?.stdout, b"HELLO\n");
/// echo.wait()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Stdio(pub(crate) Source);

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Piped,
    Reader,
    Writer,
    Null,
    Inherit,
    Closed,
    SameAs(i32),
    Given(Arc<OwnedFd>),
    Append(Arc<Path>),
    OpenWith(Arc<Path>, Opener),
}

/// A function of the host that opens a file at each spawn.
#[derive(Clone)]
pub(crate) struct Opener(pub(crate) Arc<Open>);

type Open = dyn Fn(&Path) -> io::Result<OwnedFd> + Send + Sync;

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

impl Stdio {
    /// A pipe. We write the one at descriptor 0, and read those at all others.
    #[must_use]
    pub fn piped() -> Self {
        Self(Source::Piped)
    }

    /// A pipe that we read and the child writes (Twisted's `"r"`).
    #[must_use]
    pub fn reader() -> Self {
        Self(Source::Reader)
    }

    /// A pipe that we write and the child reads (Twisted's `"w"`).
    #[must_use]
    pub fn writer() -> Self {
        Self(Source::Writer)
    }

    /// `/dev/null`.
    #[must_use]
    pub fn null() -> Self {
        Self(Source::Null)
    }

    /// The host's descriptor of the same number, as it is when the process is spawned.
    ///
    /// If the host has it closed then, the spawn fails (`EBADF`), because the child would find it
    /// closed, or would find in its place the next file that it opens. Use [`closed`](Self::closed)
    /// if that is meant. Descriptors 0, 1 and 2 never belong to a reactor, even if the host has
    /// closed its own.
    #[must_use]
    pub fn inherit() -> Self {
        Self(Source::Inherit)
    }

    /// Nothing: the descriptor is closed in the child.
    #[must_use]
    pub fn closed() -> Self {
        Self(Source::Closed)
    }

    /// The same file as the child's descriptor `fd`, like the shell's `2>&1`:
    /// `.stderr(Stdio::same_as(1))`. The spawn refuses an `fd` that is itself a `same_as`.
    #[must_use]
    pub fn same_as(fd: i32) -> Self {
        Self(Source::SameAs(fd))
    }

    /// A descriptor that the host keeps, too.
    ///
    /// ```
    /// use std::fs::File;
    /// use std::os::fd::OwnedFd;
    /// use std::sync::Arc;
    ///
    /// use childminder::{Command, Stdio};
    ///
    /// let null: Arc<OwnedFd> = Arc::new(File::open("/dev/null")?.into());
    /// let mut command = Command::new("cat");
    /// command.stdin(Stdio::shared(Arc::clone(&null)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn shared(fd: Arc<OwnedFd>) -> Self {
        Self(Source::Given(fd))
    }

    /// A file that the child appends to by itself, for a log that does not go through the host.
    ///
    /// The file is opened at each spawn: after `logrotate(8)` has renamed it, the next process
    /// writes to a new one. A relative path is relative to the host's working directory.
    ///
    /// The host opens the file with its own rights, and creates it with mode 0666 less its umask.
    /// If two descriptors of a child name the same file, it is opened twice; since both append,
    /// neither overwrites the output of the other. A spawn never waits for the reader of a named
    /// pipe.
    ///
    /// Symbolic links are followed. If the host has more rights than a user who may write in one of
    /// the folders of the path, that user can direct the child's output into any file. Such a host
    /// opens the file itself, in its own safe way, with [`open_with`](Self::open_with).
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, the spawn fails at [`Stage::Open`](crate::Stage::Open) with
    /// the path in the message. The errno is `ENXIO` for a named pipe that no process reads, and
    /// for a socket.
    ///
    /// ```
    /// use childminder::{Command, Reactor, Stage, Stdio};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let mut command = Command::new("true");
    /// command.stdout(Stdio::append("/no/such/folder/web.log"));
    /// let error = reactor.spawn_process(&command).unwrap_err();
    /// assert_eq!(error.stage(), Stage::Open);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn append(path: impl Into<PathBuf>) -> Self {
        Self(Source::Append(path.into().into()))
    }

    /// A file that a function of the host opens at each spawn. The function gets the path.
    ///
    /// The child gets the open file as it is: blocking or not, appending or not. The spawn calls
    /// the function and waits for it.
    ///
    /// # Errors
    ///
    /// If the function fails, the spawn fails at [`Stage::Open`](crate::Stage::Open) with the path
    /// and the function's error.
    ///
    /// ```
    /// use std::fs::File;
    /// use std::os::unix::fs::OpenOptionsExt;
    ///
    /// use childminder::{Command, Stdio};
    ///
    /// let mut command = Command::new("date");
    /// command.stdout(Stdio::open_with("/var/log/date.log", |path| {
    ///     let mut options = File::options();
    ///     options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    ///     Ok(options.open(path)?.into())
    /// }));
    /// ```
    #[must_use]
    pub fn open_with(
        path: impl Into<PathBuf>,
        open: impl Fn(&Path) -> io::Result<OwnedFd> + Send + Sync + 'static,
    ) -> Self {
        Self(Source::OpenWith(path.into().into(), Opener(Arc::new(open))))
    }
}

/// Anything that holds a descriptor and can give it away: a [`File`](std::fs::File), an end of
/// [`std::io::pipe`], the [`ChildStdout`](std::process::ChildStdout) of another child, a socket.
impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(fd: T) -> Self {
        Self::shared(Arc::new(fd.into()))
    }
}
