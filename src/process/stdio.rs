//! Opens the files of a child: its own ones and our ends of the pipes, as the command's settings
//! ask.
//!
//! It starts nothing. The one rule: if the spawn does not happen, dropping [`Files`] closes
//! everything that was opened.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, fchown};
use std::path::Path;

use crate::command::Parts;
use crate::error::{SpawnError, Stage};
use crate::map::Map;
use crate::stdio::{Opener, Source, Stdio};
use crate::sys;
use crate::sys::spawn::ChildFile;

/// The descriptors of a command that sets none.
static DEFAULTS: &[(i32, Stdio)] = &[(0, Stdio(Source::Null)), (1, Stdio(Source::Piped)), (2, Stdio(Source::Piped))];

/// The direction of a pipe of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Reader,
    Writer,
    /// The end of a terminal, which we read.
    Terminal,
}

/// All files of a spawn.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// Our ends, by the child's descriptor.
    pub(super) ours: Vec<(i32, OwnedFd, Side)>,
    theirs: Map<i32, Theirs<'a>>,
    /// The user that the child becomes.
    owner: Option<u32>,
    /// Whether the child's descriptor 0 becomes its controlling terminal.
    pub(super) terminal: bool,
}

#[derive(Debug)]
enum Theirs<'a> {
    Opened(OwnedFd),
    Lent(BorrowedFd<'a>),
    SameAs(i32),
}

impl<'a> Files<'a> {
    pub(super) fn open(command: &'a Parts, null: BorrowedFd<'a>) -> Result<Self, SpawnError> {
        let fail = |stage, error| SpawnError::new(command.program().to_owned(), stage, error);
        let refuse = |what| fail(Stage::Command, io::Error::new(io::ErrorKind::InvalidInput, what));
        let owner = command.attributes().uid;
        let mut files = Self { ours: Vec::new(), theirs: Map::new(), owner, terminal: false };

        match command.attributes().pty {
            Some(_) if command.fds.keys().any(|fd| (0..2).contains(fd)) => {
                return Err(refuse("descriptors 0 and 1 are the pseudo-terminal's"));
            }
            Some(pty) => files.open_terminal(pty).map_err(|error| fail(Stage::Pipe, error))?,
            None => {
                for (fd, stdio) in DEFAULTS {
                    if !command.fds.contains_key(fd) {
                        files.add(command, *fd, stdio, null)?;
                    }
                }
            }
        }
        for (fd, stdio) in command.fds.iter() {
            if *fd < 0 {
                return Err(refuse("a descriptor with a negative number"));
            }
            files.add(command, *fd, stdio, null)?;
        }
        for (fd, (_, socket)) in (3..).zip(&command.attributes().listen) {
            if files.theirs.contains_key(&fd) {
                return Err(refuse("a descriptor that is also a listening socket's"));
            }
            files.add(command, fd, socket, null)?;
        }
        for (_, theirs) in files.theirs.iter() {
            if let Theirs::SameAs(other) = theirs {
                if !matches!(files.theirs.get(other), Some(Theirs::Opened(_) | Theirs::Lent(_))) {
                    return Err(refuse("a descriptor that is to be the same as one that there is not"));
                }
            }
        }
        Ok(files)
    }

    /// Returns the files that the child gets.
    pub(super) fn for_child(&self) -> Vec<ChildFile<'_>> {
        let file = |fd| match self.theirs.get(&fd)? {
            Theirs::Opened(file) => Some(file.as_fd()),
            Theirs::Lent(file) => Some(*file),
            Theirs::SameAs(_) => None,
        };
        let targets = self.theirs.iter();
        targets
            .filter_map(|(fd, theirs)| match theirs {
                Theirs::SameAs(other) => Some((*fd, file(*other)?)),
                Theirs::Opened(_) | Theirs::Lent(_) => Some((*fd, file(*fd)?)),
            })
            .collect()
    }

    fn add(&mut self, command: &Parts, fd: i32, stdio: &'a Stdio, null: BorrowedFd<'a>) -> Result<(), SpawnError> {
        let opened = |result: io::Result<Theirs<'a>>| {
            result.map_err(|error| SpawnError::new(command.program().to_owned(), Stage::Pipe, error))
        };
        let theirs = match &stdio.0 {
            Source::Piped if fd == 0 => opened(self.open_writer(fd))?,
            Source::Writer => opened(self.open_writer(fd))?,
            Source::Piped | Source::Reader => opened(self.open_reader(fd))?,
            Source::Null => Theirs::Lent(null),
            Source::Closed => return Ok(()),
            Source::SameAs(other) => Theirs::SameAs(*other),
            Source::Given(file) => Theirs::Lent(file.as_fd()),
            Source::Append(path) => Theirs::Opened(named(command, path, sys::fd::open_to_append(path))?),
            Source::OpenWith(path, Opener(open)) => {
                let file = open(path).and_then(sys::fd::above_stdio);
                Theirs::Opened(named(command, path, file)?)
            }
            Source::Inherit => match sys::fd::of_the_host(fd) {
                Some(file) => Theirs::Lent(file),
                None => {
                    let error = io::Error::from_raw_os_error(libc::EBADF);
                    let hint = Some("it is to be inherited, and the host has it closed".into());
                    let error = SpawnError::new(command.program().to_owned(), Stage::Dup2, error);
                    return Err(error.on(format!("to descriptor {fd}")).with_hint(hint));
                }
            },
        };
        self.theirs.insert(fd, theirs);
        Ok(())
    }

    fn open_reader(&mut self, fd: i32) -> io::Result<Theirs<'a>> {
        let (ours, theirs) = sys::fd::pipe()?;
        self.set_owner(&theirs);
        self.ours.push((fd, ours, Side::Reader));
        Ok(Theirs::Opened(theirs))
    }

    fn open_writer(&mut self, fd: i32) -> io::Result<Theirs<'a>> {
        let (theirs, ours) = sys::fd::pipe()?;
        self.set_owner(&theirs);
        self.ours.push((fd, ours, Side::Writer));
        Ok(Theirs::Opened(theirs))
    }

    /// Makes the child's user the owner of a pipe or a terminal. Otherwise a child that changes its
    /// user could not open `/dev/stdout` or its terminal again.
    fn set_owner(&self, file: &OwnedFd) {
        if self.owner.is_some() {
            // If the host may not do this, the child has the file all the same.
            let _ = fchown(file, self.owner, None);
        }
    }

    /// Opens a terminal. Its master is read as descriptor 1 and written as descriptor 0.
    fn open_terminal(&mut self, pty: crate::pty::Pty) -> io::Result<()> {
        let (master, slave) = sys::pty::open(pty)?;
        self.set_owner(&slave);
        self.ours.push((0, master.try_clone()?, Side::Writer));
        self.ours.push((1, master, Side::Terminal));
        self.theirs.insert(0, Theirs::Opened(slave));
        self.theirs.insert(1, Theirs::SameAs(0));
        self.theirs.insert(2, Theirs::SameAs(0));
        self.terminal = true;
        Ok(())
    }
}

/// Returns the file, or the error of its open with its path.
fn named(command: &Parts, path: &Path, file: io::Result<OwnedFd>) -> Result<OwnedFd, SpawnError> {
    file.map_err(|error| {
        let hint = open_hint(path, &error);
        SpawnError::new(command.program().to_owned(), Stage::Open, error).on(path).with_hint(hint)
    })
}

/// Explains the errno of a failed open if the kind of the file is the reason.
fn open_hint(path: &Path, error: &io::Error) -> Option<String> {
    if error.raw_os_error() != Some(libc::ENXIO) {
        return None;
    }
    let kind = path.metadata().ok()?.file_type();
    let hint = if kind.is_fifo() { "no process reads this named pipe" } else { "it is a socket" };
    (kind.is_fifo() || kind.is_socket()).then(|| hint.into())
}
