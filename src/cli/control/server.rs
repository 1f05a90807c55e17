//! The control socket in the reactor. It accepts clients, hands their requests to the supervisor,
//! and sends the answers. It carries out no request itself.
//!
//! The one rule: no client can hold up the supervisor or another client. Everything that a client
//! may use is limited, and output that it does not read is not kept for long.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use childminder::{Event, Interest, Reactor, SourceId, TimerId};

use super::connection::{Connection, Input};
use super::protocol::{self, MAX_REQUEST, Object, Request};
use super::socket::SocketFile;
#[cfg(target_os = "linux")]
use super::watch::FileWatch;
use crate::cli::config::Access;
use crate::cli::peer::Peer;

/// The number of clients at a time. If another one comes, the one that has been idle longest is
/// dropped.
const CLIENTS: usize = 64;
/// The number of requests in one turn, so that exits and output of processes are handled in
/// between.
const REQUESTS: usize = 64;
/// The pause before the next try to accept connections, or to make the socket again. If no
/// descriptor is free, a client has so much time to send a request before it is dropped for another
/// one.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause between two checks of a socket that cannot be watched.
const CHECK_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause between two tries to make the socket again. The pause doubles with each try.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The id of a client. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(u64);

/// A descriptor that can be closed to make room for another one.
fn spare() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

#[derive(Debug)]
pub(crate) struct Server {
    /// `None` as long as it has not been made.
    listener: Option<Arc<UnixListener>>,
    /// `None` if there is to be no socket.
    file: Option<SocketFile>,
    source: Option<SourceId>,
    #[cfg(target_os = "linux")]
    watch: Option<FileWatch>,
    /// Whether the socket is only checked, because the end is near.
    is_ending: bool,
    /// What is left of the watch then.
    #[cfg(target_os = "linux")]
    ended: Option<Arc<OwnedFd>>,
    /// The time of the next try, and the pause before it, if the socket is missing or could not be
    /// registered.
    missing: Option<(Instant, Duration)>,
    /// The time of the next check of a socket that is not watched.
    check_at: Option<Instant>,
    /// Whether the message that the socket is not watched has been given.
    unwatched_reported: bool,
    /// Messages about the socket that have not been taken yet.
    messages: Vec<String>,
    /// In the order of their connections.
    clients: Vec<(ClientId, Connection)>,
    next_id: u64,
    /// The client that was served last. The next turn starts with the client after it.
    last: ClientId,
    /// A spare descriptor, used for a client that connects when no other descriptor is left.
    reserve: Option<OwnedFd>,
    /// The time of the next try to accept connections.
    accept_at: Option<Instant>,
    timer: Option<(TimerId, Instant)>,
}

impl Server {
    /// Listens at this path, if there is to be a socket. No client is answered before
    /// [`restore`](Self::restore), which also makes a socket that cannot be made now.
    ///
    /// # Errors
    ///
    /// Another process listens there, or there is a file that is no socket.
    pub(crate) fn bind(path: Option<&Path>, access: Access) -> io::Result<Self> {
        let (listener, file) = match path.map(|path| (SocketFile::bind(path, access), path)) {
            None => (None, None),
            Some((Ok((listener, file)), _)) => (Some(Arc::new(listener)), Some(file)),
            Some((Err(error), _))
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists) =>
            {
                return Err(error);
            }
            Some((Err(_), path)) => (None, Some(SocketFile::unbound(path, access))),
        };
        Ok(Self {
            listener,
            file,
            source: None,
            #[cfg(target_os = "linux")]
            watch: None,
            is_ending: false,
            #[cfg(target_os = "linux")]
            ended: None,
            missing: None,
            check_at: None,
            unwatched_reported: false,
            messages: Vec::new(),
            clients: Vec::new(),
            next_id: 1,
            last: ClientId(0),
            reserve: spare(),
            accept_at: None,
            timer: None,
        })
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(SocketFile::path)
    }

    /// Who may use the socket, if there is to be one.
    pub(crate) fn access(&self) -> Option<Access> {
        self.file.as_ref().map(SocketFile::access)
    }

    /// Makes the socket available to clients. Call it at the start, and whenever the socket may
    /// have been removed. A failure is tried again later.
    pub(crate) fn restore(&mut self, reactor: &mut Reactor) {
        let Some(path) = self.path().map(Path::to_owned) else { return };
        let path = path.display();
        let before = self.missing;
        let restored = self.try_restore(reactor);
        match (restored, before) {
            (Ok(true), _) => self.messages.push(format!("the control socket {path} was taken away; it is there again")),
            (Ok(false), Some(_)) => self.messages.push(format!("the control socket {path} is there again")),
            (Ok(false), None) => {}
            (Err(error), None) => self.messages.push(format!(
                "the control socket {path} cannot be used: {error}; it is tried again, the processes are looked after"
            )),
            (Err(_), Some(_)) => {}
        }
    }

    /// Tries to make the socket available. Returns whether it had to be made anew after it was
    /// lost.
    fn try_restore(&mut self, reactor: &mut Reactor) -> io::Result<bool> {
        let pause = self.missing.map_or(PAUSE, |(_, pause)| (2 * pause).min(LONGEST_PAUSE));
        self.check_at = None;
        // It counts as missing until all steps have succeeded.
        let before = self.missing.replace((reactor.now() + pause, pause));
        let Some(file) = &mut self.file else { return Ok(false) };
        let gone = !file.is_there();
        if gone {
            if let Some(source) = self.source.take() {
                reactor.deregister(source);
            }
            #[cfg(target_os = "linux")]
            if let Some(watch) = self.watch.take() {
                watch.end(reactor);
            }
            self.listener = Some(Arc::new(file.bind_again()?));
        }
        if let (None, Some(listener)) = (self.source, &self.listener) {
            self.source = Some(reactor.register(Arc::clone(listener), Interest::Readable)?);
        }
        self.missing = None;
        self.watch_or_check(reactor);
        Ok(gone && before.is_none())
    }

    /// Ends the watch of the socket early, so that the drop of the server does not wait for the
    /// kernel. Until then the socket is checked every second.
    pub(crate) fn prepare_end(&mut self, reactor: &mut Reactor) {
        self.is_ending = true;
        #[cfg(target_os = "linux")]
        if let Some(watch) = self.watch.take() {
            self.ended = Some(watch.end_early(reactor));
            self.watch_or_check(reactor);
        }
    }

    /// Has the socket watched, or checked from time to time if it cannot be watched.
    fn watch_or_check(&mut self, reactor: &mut Reactor) {
        #[cfg(target_os = "linux")]
        if !self.is_ending {
            let (None, Some(file)) = (&self.watch, &self.file) else { return };
            match FileWatch::new(file.path(), reactor) {
                Ok(watch) => {
                    self.watch = Some(watch);
                    return;
                }
                // The socket was removed this very moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.check_at = Some(reactor.now() + PAUSE);
                    return;
                }
                Err(_) if self.unwatched_reported => {}
                Err(error) => {
                    self.unwatched_reported = true;
                    let (path, seconds) = (file.path().display(), CHECK_PAUSE.as_secs());
                    self.messages.push(format!(
                        "the control socket {path} cannot be watched by inotify: {error}; it is looked at every {seconds} s"
                    ));
                }
            }
        }
        self.check_at = Some(reactor.now() + if self.is_ending { PAUSE } else { CHECK_PAUSE });
    }

    /// The messages about the socket since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }

    /// Handles an event. `false` if the event was not meant for this server.
    pub(crate) fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Ready { source, .. } if self.source == Some(source) => self.accept(reactor),
            #[cfg(target_os = "linux")]
            Event::Ready { source, .. } if self.watch.as_ref().is_some_and(|watch| watch.is(source)) => {
                if let Some(watch) = &self.watch {
                    watch.drain();
                }
                self.restore(reactor);
            }
            Event::Ready { source, readable, writable } => {
                let client = self.clients.iter_mut().map(|(_, client)| client).find(|client| client.source == source);
                let Some(client) = client else { return false };
                let now = reactor.now();
                if readable {
                    client.set_readable();
                    if client.busy {
                        client.read(now);
                    }
                }
                if writable {
                    client.flush(now);
                }
            }
            Event::Timer(id) if self.timer.is_some_and(|(timer, _)| timer == id) => {
                self.timer = None;
                let now = reactor.now();
                if self.accept_at.is_some_and(|at| at <= now) {
                    self.accept(reactor);
                }
                if self.missing.map(|(at, _)| at).into_iter().chain(self.check_at).any(|at| at <= now) {
                    self.restore(reactor);
                }
                for (_, client) in &mut self.clients {
                    client.check(now);
                }
            }
            _ => return false,
        }
        true
    }

    fn accept(&mut self, reactor: &mut Reactor) {
        self.accept_at = None;
        let Some(listener) = self.listener.clone() else { return };
        for _ in 0..CLIENTS {
            match listener.accept() {
                // A failure with one client concerns that client alone.
                Ok((stream, _)) => drop(self.admit(reactor, stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if error.raw_os_error().is_some_and(|code| [libc::EINTR, libc::ECONNABORTED].contains(&code)) => {}
                Err(error)
                    if error.raw_os_error().is_some_and(|code| [libc::EMFILE, libc::ENFILE].contains(&code))
                        && (self.reserve.take().is_some() || self.drop_longest_idle(reactor, PAUSE)) => {}
                // No event announces the connections that wait already.
                Err(_) => {
                    self.accept_at = Some(reactor.now() + PAUSE);
                    return;
                }
            }
        }
        // There may be more connections, even without end. The processes come first.
        self.accept_at = Some(reactor.now());
    }

    fn admit(&mut self, reactor: &mut Reactor, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let refuse = |stream: &UnixStream, why: &str| {
            // The line fits into an empty socket buffer. A failure is ignored.
            let _ = io::Write::write(&mut &*stream, &protocol::line(protocol::refused(why)));
        };
        if !self.file.as_ref().is_some_and(|file| file.trusts(Peer::of(&stream))) {
            refuse(&stream, "you are neither root nor the user that this supervisor runs as");
            return Ok(());
        }
        if self.clients.len() >= CLIENTS && !self.drop_longest_idle(reactor, Duration::ZERO) {
            refuse(&stream, "too many clients");
            return Ok(());
        }
        let stream = Arc::new(stream);
        let source = match reactor.register(Arc::clone(&stream), Interest::Both) {
            Ok(source) => source,
            Err(error) => {
                refuse(&stream, &format!("the supervisor cannot wait for requests now: {error}"));
                return Ok(());
            }
        };
        let id = ClientId(self.next_id);
        self.next_id += 1;
        self.clients.push((id, Connection::new(source, stream, reactor.now())));
        Ok(())
    }

    /// Makes room by dropping the client that has been idle longest. `false` if none has been idle
    /// for so long.
    fn drop_longest_idle(&mut self, reactor: &mut Reactor, least: Duration) -> bool {
        let now = reactor.now();
        let idle_for = |client: &Connection| now.saturating_duration_since(client.active);
        // A client whose first request has not been read yet does not count as idle.
        let is_idle = |client: &Connection| client.is_idle() && !client.has_work() && idle_for(client) >= least;
        let idle = self.clients.iter_mut().filter(|(_, client)| is_idle(client));
        let Some((id, client)) = idle.min_by_key(|(_, client)| client.active) else { return false };
        let id = *id;
        client.send(&protocol::line(protocol::refused("idle, and there are too many clients")), now);
        self.drop_client(reactor, id);
        true
    }

    fn client(&self, id: ClientId) -> Option<&Connection> {
        self.clients.iter().find(|(known, _)| *known == id).map(|(_, client)| client)
    }

    fn client_mut(&mut self, id: ClientId) -> Option<&mut Connection> {
        self.clients.iter_mut().find(|(known, _)| *known == id).map(|(_, client)| client)
    }

    fn drop_client(&mut self, reactor: &mut Reactor, id: ClientId) {
        if let Some(index) = self.clients.iter().position(|(known, _)| *known == id) {
            reactor.deregister(self.clients.remove(index).1.source);
            // Waiting connections may have needed the descriptor that is free now.
            self.accept_at = self.accept_at.map(|_| reactor.now());
        }
    }

    /// Whether a client may have sent a request.
    pub(crate) fn has_work(&self) -> bool {
        self.clients.iter().any(|(_, client)| client.has_work())
    }

    /// The requests that the supervisor should answer now, at most one of each client.
    pub(crate) fn requests(&mut self, now: Instant) -> Vec<(ClientId, Request)> {
        let mut requests = Vec::new();
        let next = self.clients.partition_point(|(id, _)| *id <= self.last);
        let (served, after) = self.clients.split_at_mut(next);
        let mut looked_at = 0;
        for (id, client) in after.iter_mut().chain(served) {
            let id = *id;
            while looked_at < REQUESTS && requests.len() < CLIENTS {
                let Some(input) = client.next(now) else { break };
                looked_at += 1;
                self.last = id;
                let refusal = match input {
                    // An empty line is no request.
                    Input::Line(line) if line.trim_ascii().is_empty() => continue,
                    // The client has given up, and has reported that to its user.
                    Input::Line(_) if client.is_abandoned() => continue,
                    Input::Line(line) => match Request::parse(&line) {
                        // This client would keep the spare descriptor from all others.
                        Ok(request) if request.action.follows() && self.reserve.is_none() => {
                            "the supervisor has no file descriptor left for a client that stays".into()
                        }
                        Ok(request) => {
                            client.busy = true;
                            requests.push((id, request));
                            break;
                        }
                        Err(error) => error,
                    },
                    Input::TooLong => format!("a request is at most {MAX_REQUEST} bytes"),
                };
                client.send(&protocol::line(protocol::refused(&refusal)), now);
            }
        }
        requests
    }

    /// Sends the answer to the request of a client.
    pub(crate) fn answer(&mut self, id: ClientId, answer: Object, now: Instant) {
        self.answer_line(id, &protocol::line(answer), now);
    }

    /// The same as [`answer`](Self::answer), for an answer that is a line already.
    pub(crate) fn answer_line(&mut self, id: ClientId, line: &[u8], now: Instant) {
        if let Some(client) = self.client_mut(id) {
            client.busy = false;
            client.send(line, now);
        }
    }

    /// Sends an object before the answer. Returns whether the client is still connected; a client
    /// that leaves too much unread is not.
    pub(crate) fn send_before(&mut self, id: ClientId, object: Object, now: Instant) -> bool {
        let Some(client) = self.client_mut(id) else { return false };
        client.stream(&protocol::line(object), now);
        !client.broken
    }

    /// Whether the client has taken all output.
    pub(crate) fn is_drained(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(Connection::is_drained)
    }

    /// Whether the client is still connected.
    pub(crate) fn is_connected(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| !client.broken)
    }

    /// Whether the client is connected, and has not closed its sending end.
    pub(crate) fn is_listening(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| !client.broken && !client.has_ended())
    }

    /// Drops the clients that are done, and sets the timer for the earliest deadline of the others.
    pub(crate) fn settle(&mut self, reactor: &mut Reactor) {
        let over = self.clients.iter().filter(|(_, client)| client.is_over());
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.drop_client(reactor, id);
        }
        self.reserve = self.reserve.take().or_else(spare);
        let now = reactor.now();
        let mut deadline = self.accept_at.into_iter().chain(self.missing.map(|(at, _)| at)).chain(self.check_at).min();
        for (_, client) in &self.clients {
            let due = if client.has_work() { Some(now) } else { client.deadline() };
            deadline = deadline.into_iter().chain(due).min();
        }
        match (deadline, self.timer) {
            // A timer that is due already fires in the next turn. Made anew each time, it never
            // would.
            (Some(at), Some((_, armed))) if at == armed || (at <= now && armed <= now) => return,
            (_, Some((timer, _))) => drop(reactor.cancel_timer(timer)),
            (_, None) => {}
        }
        self.timer = deadline.map(|at| (reactor.call_later(at.saturating_duration_since(now)), at));
    }
}
