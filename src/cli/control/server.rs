//! The control socket in the reactor: clients come, requests go out to the supervisor, answers come back.
//!
//! Carries nothing out. The one rule: no client can hold the others up, or the supervisor: what it may use is counted, and what
//! it does not read is not kept for it for long.

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
use super::socket::{Peer, SocketFile};
#[cfg(target_os = "linux")]
use super::watch::FileWatch;

/// As many clients at a time; when one more comes, the one that has been idle longest goes.
const CLIENTS: usize = 64;
/// Requests in one turn: processes die and write meanwhile, too.
const REQUESTS: usize = 64;
/// When no more connections can be taken, or the socket cannot be made again: until the next try.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at a socket that cannot be watched.
const LOOK: Duration = Duration::from_secs(30);
/// The longest time until the next try to make the socket again; it doubles with each one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A client. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(u64);

/// A descriptor that can be given up for another one.
fn spare() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

#[derive(Debug)]
pub(crate) struct Server {
    listener: Arc<UnixListener>,
    file: SocketFile,
    source: Option<SourceId>,
    #[cfg(target_os = "linux")]
    watch: Option<FileWatch>,
    /// The socket is not there, or not watched: when it is to be tried again, and the pause before that.
    missing: Option<(Instant, Duration)>,
    /// The time of the next look at a socket that is not watched.
    look_at: Option<Instant>,
    /// It has been told that the socket is not watched.
    told_unwatched: bool,
    /// What there is to tell of the socket.
    news: Vec<String>,
    /// In the order in which they came.
    clients: Vec<(ClientId, Connection)>,
    next_id: u64,
    /// Who was served last: the next one is the one behind it.
    last: ClientId,
    /// A descriptor for a client that comes when there is no other left.
    reserve: Option<OwnedFd>,
    /// When there is to be another try to take connections.
    accept_at: Option<Instant>,
    timer: Option<(TimerId, Instant)>,
}

impl Server {
    /// Listens there. Nobody is answered before [`start`](Self::start).
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let (listener, file) = SocketFile::bind(path)?;
        Ok(Self {
            listener: Arc::new(listener),
            file,
            source: None,
            #[cfg(target_os = "linux")]
            watch: None,
            missing: None,
            look_at: None,
            told_unwatched: false,
            news: Vec::new(),
            clients: Vec::new(),
            next_id: 1,
            last: ClientId(0),
            reserve: spare(),
            accept_at: None,
            timer: None,
        })
    }

    /// The path of the socket.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Sees to it that clients find the socket: to be called at the start, and whenever it may have been
    /// taken away. What cannot be done now is tried again.
    pub(crate) fn restore(&mut self, reactor: &mut Reactor) {
        let before = self.missing;
        let restored = self.try_restore(reactor);
        let path = self.file.path().display();
        match (restored, before) {
            (Ok(true), _) => self.news.push(format!("the control socket {path} was taken away; it is there again")),
            (Ok(false), Some(_)) => self.news.push(format!("the control socket {path} is there again")),
            (Ok(false), None) => {}
            (Err(error), None) => self.news.push(format!(
                "the control socket {path} cannot be used: {error}; it is tried again, the processes are looked after"
            )),
            (Err(_), Some(_)) => {}
        }
    }

    /// Whether the socket had to be made anew.
    fn try_restore(&mut self, reactor: &mut Reactor) -> io::Result<bool> {
        let pause = self.missing.map_or(PAUSE, |(_, pause)| (2 * pause).min(LONGEST_PAUSE));
        self.look_at = None;
        // Until all of it is done.
        let before = self.missing.replace((reactor.now() + pause, pause));
        let gone = !self.file.is_there();
        if gone {
            if let Some(source) = self.source.take() {
                reactor.deregister(source);
            }
            #[cfg(target_os = "linux")]
            if let Some(watch) = self.watch.take() {
                watch.end(reactor);
            }
            self.listener = Arc::new(self.file.bind_again()?);
        }
        if self.source.is_none() {
            self.source = Some(reactor.register(Arc::clone(&self.listener), Interest::Readable)?);
        }
        self.missing = None;
        self.keep_in_sight(reactor);
        Ok(gone && before.is_none())
    }

    /// Has the socket watched, or looked at now and again where that is not possible.
    fn keep_in_sight(&mut self, reactor: &mut Reactor) {
        #[cfg(target_os = "linux")]
        {
            if self.watch.is_some() {
                return;
            }
            match FileWatch::new(self.file.path(), reactor) {
                Ok(watch) => {
                    self.watch = Some(watch);
                    return;
                }
                // It was taken away this very moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.look_at = Some(reactor.now() + PAUSE);
                    return;
                }
                Err(_) if self.told_unwatched => {}
                Err(error) => {
                    self.told_unwatched = true;
                    let (path, seconds) = (self.file.path().display(), LOOK.as_secs());
                    self.news.push(format!(
                        "the control socket {path} cannot be watched by inotify: {error}; it is looked at every {seconds} s"
                    ));
                }
            }
        }
        self.look_at = Some(reactor.now() + LOOK);
    }

    /// What there is to tell of the socket since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Takes an event. `false` if it was not meant for this.
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
                if self.missing.map(|(at, _)| at).into_iter().chain(self.look_at).any(|at| at <= now) {
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
        for _ in 0..CLIENTS {
            match self.listener.accept() {
                // What goes wrong with one is that one's loss.
                Ok((stream, _)) => drop(self.admit(reactor, stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if error.raw_os_error().is_some_and(|code| [libc::EINTR, libc::ECONNABORTED].contains(&code)) => {}
                Err(error)
                    if error.raw_os_error().is_some_and(|code| [libc::EMFILE, libc::ENFILE].contains(&code))
                        && (self.reserve.take().is_some() || self.drop_longest_idle(reactor)) => {}
                // No event tells of those that wait.
                Err(_) => {
                    self.accept_at = Some(reactor.now() + PAUSE);
                    return;
                }
            }
        }
        // There may be more of them, without an end: the processes come first.
        self.accept_at = Some(reactor.now());
    }

    fn admit(&mut self, reactor: &mut Reactor, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let refuse = |stream: &UnixStream, why: &str| {
            // It fits into an empty socket buffer, or nobody cares.
            let _ = io::Write::write(&mut &*stream, &protocol::line(protocol::refused(why)));
        };
        if !Peer::of(&stream).is_some_and(Peer::is_trusted) {
            refuse(&stream, "you are neither root nor the user that this supervisor runs as");
            return Ok(());
        }
        if self.clients.len() >= CLIENTS && !self.drop_longest_idle(reactor) {
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

    /// Makes room by the client that has been idle longest. `false` if none is idle.
    fn drop_longest_idle(&mut self, reactor: &mut Reactor) -> bool {
        // What a new client has sent may not have been read yet.
        let idle = self.clients.iter_mut().filter(|(_, client)| client.is_idle() && !client.has_work());
        let Some((id, client)) = idle.min_by_key(|(_, client)| client.active) else { return false };
        let id = *id;
        client.send(&protocol::line(protocol::refused("idle, and there are too many clients")), reactor.now());
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
            // Others may have been waiting for its descriptor.
            self.accept_at = self.accept_at.map(|_| reactor.now());
        }
    }

    /// Whether there may be requests.
    pub(crate) fn has_work(&self) -> bool {
        self.clients.iter().any(|(_, client)| client.has_work())
    }

    /// The requests that are to be answered now, one of each client at most.
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
                    // An empty line asks nothing.
                    Input::Line(line) if line.trim_ascii().is_empty() => continue,
                    // The client has given up, and has said so to who started it.
                    Input::Line(_) if client.is_abandoned() => continue,
                    Input::Line(line) => match Request::parse(&line) {
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

    /// Answers the request of a client.
    pub(crate) fn answer(&mut self, id: ClientId, answer: Object, now: Instant) {
        self.answer_line(id, &protocol::line(answer), now);
    }

    /// [`answer`](Self::answer), by what is a line already.
    pub(crate) fn answer_line(&mut self, id: ClientId, line: &[u8], now: Instant) {
        if let Some(client) = self.client_mut(id) {
            client.busy = false;
            client.send(line, now);
        }
    }

    /// Sends something before the answer. Whether the client is still there to take it; one that leaves too much of it is not.
    pub(crate) fn send_before(&mut self, id: ClientId, object: Object, now: Instant) -> bool {
        let Some(client) = self.client_mut(id) else { return false };
        client.stream(&protocol::line(object), now);
        !client.broken
    }

    /// Whether so much may be sent to a client now as it takes.
    pub(crate) fn is_drained(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(Connection::is_drained)
    }

    /// Whether there is somebody to answer.
    pub(crate) fn is_connected(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| !client.broken)
    }

    /// Whether the client is there, and has not said that this was all.
    pub(crate) fn is_listening(&self, id: ClientId) -> bool {
        self.client(id).is_some_and(|client| !client.broken && !client.has_ended())
    }

    /// Lets those go that are done, and sees to it that those who wait are looked after in time.
    pub(crate) fn settle(&mut self, reactor: &mut Reactor) {
        let over = self.clients.iter().filter(|(_, client)| client.is_over());
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.drop_client(reactor, id);
        }
        self.reserve = self.reserve.take().or_else(spare);
        let now = reactor.now();
        let mut deadline = self.accept_at.into_iter().chain(self.missing.map(|(at, _)| at)).chain(self.look_at).min();
        for (_, client) in &self.clients {
            let due = if client.has_work() { Some(now) } else { client.deadline() };
            deadline = deadline.into_iter().chain(due).min();
        }
        match (deadline, self.timer) {
            // One that is due already comes with the next turn; made anew again and again it never would.
            (Some(at), Some((_, armed))) if at == armed || (at <= now && armed <= now) => return,
            (_, Some((timer, _))) => drop(reactor.cancel_timer(timer)),
            (_, None) => {}
        }
        self.timer = deadline.map(|at| (reactor.call_later(at.saturating_duration_since(now)), at));
    }
}
