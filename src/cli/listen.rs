//! Sockets that listen for a process and outlive it. The supervisor opens each one before the first
//! start that needs it, and hands it to every process that names it.
//!
//! Accepts no connections. The one rule: a socket stays open as long as a command names it, so that
//! no connection is refused between two runs of a process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use childminder::Command;

use super::safe_path::{self, Creation, SocketFile, Target};

/// The number of connections that wait until the process accepts them. The kernel may allow fewer
/// (`net.core.somaxconn`).
const QUEUE: i32 = 4096;

/// A socket of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Its name in `LISTEN_FDNAMES`.
    pub(crate) name: String,
    pub(crate) socket: Socket,
}

/// What a socket is. Two listeners with the same one share the socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Socket {
    pub(crate) address: Address,
    /// The mode and the owner of a file.
    pub(crate) new: Creation,
}

/// The address of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    /// Absolute.
    Unix(PathBuf),
}

/// As it is written in the file.
impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The sockets that commands name.
#[derive(Debug, Default)]
pub(crate) struct Listeners(RefCell<HashMap<Socket, Weak<Kept>>>);

impl Listeners {
    /// Adds sockets to a command, which opens them at its first start.
    pub(crate) fn add(&self, command: &mut Command, listeners: &[Listener]) {
        for Listener { name, socket } in listeners {
            let kept = self.kept(socket);
            command.listen_with(name.as_str(), socket.address.to_string(), move |_| kept.duplicate());
        }
    }

    fn kept(&self, socket: &Socket) -> Arc<Kept> {
        let mut all = self.0.borrow_mut();
        if let Some(kept) = all.get(socket).and_then(Weak::upgrade) {
            return kept;
        }
        all.retain(|_, kept| kept.strong_count() > 0);
        let kept = Arc::new(Kept { socket: socket.clone(), open: Mutex::default() });
        all.insert(socket.clone(), Arc::downgrade(&kept));
        kept
    }
}

/// A socket that is opened when it is first needed, and closed when no command names it any more.
#[derive(Debug)]
struct Kept {
    socket: Socket,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    /// It is removed together with this.
    file: Option<SocketFile>,
}

impl Kept {
    fn duplicate(&self) -> io::Result<OwnedFd> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // No client can connect to a socket whose file was removed.
        let is_lost = |open: &mut Open| open.file.as_ref().is_some_and(SocketFile::is_gone);
        drop(open.take_if(is_lost));
        let open = match &mut *open {
            Some(open) => open,
            none => none.insert(self.socket.open()?),
        };
        open.fd.try_clone()
    }
}

impl Socket {
    fn open(&self) -> io::Result<Open> {
        let (fd, file) = match &self.address {
            Address::Tcp(address) => (TcpListener::bind(address)?.into(), None),
            Address::Unix(path) => {
                let (fd, file) = listen_at(path, self.new)?;
                (fd, Some(file))
            }
        };
        rustix::net::listen(&fd, QUEUE)?;
        Ok(Open { fd, file })
    }
}

fn listen_at(path: &Path, new: Creation) -> io::Result<(OwnedFd, SocketFile)> {
    match safe_path::find(path)? {
        Target::Own(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is a descriptor of this command")),
        Target::Place(place) => place.bind(path, new),
    }
}
