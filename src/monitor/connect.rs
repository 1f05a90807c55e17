//! Asks whether a server accepts connections: it connects, sends nothing, and closes.
//!
//! It waits for nothing, because the reactor does that, and the caller's timer limits the time. It
//! resolves no names. The one rule: no call here waits for a server.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::reactor::{Interest, Reactor, SourceId};
use crate::sys;

/// The state of a question.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The answer comes with [`Event::Ready`](crate::Event::Ready) for this question's source.
    Pending(Connect),
    /// The server has accepted the connection, which is closed again.
    Accepted,
    /// No server accepts connections there. A server whose queue of connections is full gives
    /// `WouldBlock` on a Unix socket, and no answer on TCP.
    Refused(io::Error),
}

/// A question to which there is no answer yet.
#[derive(Debug)]
pub(crate) struct Connect {
    /// It is closed when the reactor forgets its copy of this.
    socket: Arc<OwnedFd>,
    source: SourceId,
    tcp: bool,
}

impl Connect {
    /// Begins to connect to a TCP server. On one machine, most answers are there at once.
    pub(crate) fn tcp(reactor: &mut Reactor, address: SocketAddr) -> Progress {
        Self::start(reactor, mio::net::TcpStream::connect(address).map(OwnedFd::from), true)
    }

    /// Connects to a Unix socket. The answer is there at once, unless the file system delays it.
    pub(crate) fn unix(reactor: &mut Reactor, path: &Path) -> Progress {
        Self::start(reactor, mio::net::UnixStream::connect(path).map(OwnedFd::from), false)
    }

    fn start(reactor: &mut Reactor, opened: io::Result<OwnedFd>, tcp: bool) -> Progress {
        let socket = match opened.and_then(sys::fd::above_stdio) {
            Ok(socket) => Arc::new(socket),
            Err(error) => return Progress::Refused(error),
        };
        match answer(&socket, tcp) {
            Some(answer) => answer.into(),
            None => match reactor.register(Arc::clone(&socket), Interest::Writable) {
                Ok(source) => Progress::Pending(Self { socket, source, tcp }),
                Err(error) => Progress::Refused(error),
            },
        }
    }

    /// Returns the source whose readiness brings the answer.
    pub(crate) fn source(&self) -> SourceId {
        self.source
    }

    /// Looks for the answer, after the source has become ready.
    pub(crate) fn look(self, reactor: &mut Reactor) -> Progress {
        match answer(&self.socket, self.tcp) {
            Some(answer) => {
                self.give_up(reactor);
                answer.into()
            }
            None => Progress::Pending(self),
        }
    }

    /// Closes the connection, if there is one. A server that has not accepted it yet may see it all
    /// the same.
    pub(crate) fn give_up(self, reactor: &mut Reactor) {
        reactor.deregister(self.source);
    }
}

impl From<io::Result<()>> for Progress {
    fn from(answer: io::Result<()>) -> Self {
        answer.map_or_else(Self::Refused, |()| Self::Accepted)
    }
}

/// Returns the answer, if it is there.
fn answer(socket: &OwnedFd, tcp: bool) -> Option<io::Result<()>> {
    if !tcp {
        // The kernel answers at once.
        return Some(Ok(()));
    }
    // A duplicate, because the stream closes what it has.
    let stream = match socket.try_clone() {
        Ok(copy) => TcpStream::from(copy),
        Err(error) => return Some(Err(error)),
    };
    if let Some(error) = stream.take_error().unwrap_or_else(Some) {
        return Some(Err(error));
    }
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(own), Ok(peer)) if own == peer => {
            // The system has given the socket the port of the server as its own, and it is
            // connected to itself. A plain close would keep the port from the server for a minute.
            sys::net::reset_at_close(socket);
            Some(Err(io::ErrorKind::ConnectionRefused.into()))
        }
        (_, Ok(_)) => Some(Ok(())),
        (_, Err(error)) if error.kind() == io::ErrorKind::NotConnected => None,
        (_, Err(error)) => Some(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::reactor::Event;

    /// Takes turns until there is an answer, or until a timer says that it takes too long.
    fn ask(
        reactor: &mut Reactor,
        start: impl FnOnce(&mut Reactor) -> Progress,
        limit: Duration,
    ) -> Option<io::Result<()>> {
        let mut progress = start(reactor);
        let timer = reactor.call_later(limit);
        loop {
            let probe = match progress {
                Progress::Accepted => return Some(Ok(())),
                Progress::Refused(error) => return Some(Err(error)),
                Progress::Pending(probe) => probe,
            };
            let (mut ready, mut late) = (false, false);
            let note = |_: &mut _, event: Event<'_>| match event {
                Event::Ready { source, .. } => ready |= source == probe.source(),
                Event::Timer(id) => late |= id == timer,
                _ => {}
            };
            reactor.turn(None, note).unwrap();
            if late {
                probe.give_up(reactor);
                return None;
            }
            progress = if ready { probe.look(reactor) } else { Progress::Pending(probe) };
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_tcp_server_accepts_or_not() {
        let mut reactor = Reactor::new().unwrap();
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(server) = TcpListener::bind(local) else { continue };
            let address = server.local_addr().unwrap();
            for _ in 0..10 {
                assert!(ask(&mut reactor, |reactor| Connect::tcp(reactor, address), LONG).unwrap().is_ok());
            }
            // It sees a connection that ends without any data.
            let (mut seen, _) = server.accept().unwrap();
            assert_eq!(io::Read::read(&mut seen, &mut [0]).unwrap(), 0);
            drop(seen);
            drop(server);
            let error = ask(&mut reactor, |reactor| Connect::tcp(reactor, address), LONG).unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_unix_server_accepts_or_not() {
        let mut reactor = Reactor::new().unwrap();
        let folder = std::env::temp_dir().join(format!("childminder-probe-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let mut kind = |path: &Path| {
            let answer = ask(&mut reactor, |reactor| Connect::unix(reactor, path), LONG);
            answer.unwrap().map_err(|error| error.kind())
        };
        assert_eq!(kind(&path), Err(io::ErrorKind::NotFound));
        let server = UnixListener::bind(&path).unwrap();
        assert_eq!(kind(&path), Ok(()));
        rustix::net::listen(&server, 0).unwrap();
        // The first connection is still in the queue.
        assert_eq!(kind(&path), Err(io::ErrorKind::WouldBlock));
        drop(server);
        assert_eq!(kind(&path), Err(io::ErrorKind::ConnectionRefused));
        assert_eq!(kind(Path::new(&"x".repeat(200))), Err(io::ErrorKind::InvalidInput));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_callers_timer_ends_the_wait() {
        let mut reactor = Reactor::new().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&server, 0).unwrap();
        let address = server.local_addr().unwrap();
        let limit = Duration::from_millis(50);
        let mut limits = (0..10).map(|_| ask(&mut reactor, |reactor| Connect::tcp(reactor, address), limit));
        assert!(limits.any(|answer| answer.is_none()), "its queue takes them all");
        assert!(format!("{reactor:?}").contains("hosts: 0"), "{reactor:?}");
    }
}
