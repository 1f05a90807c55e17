//! Something that is started, runs, and is stopped; and what twistd does with it.
//!
//! Knows nothing of processes. The one rule: stopping takes time, and whoever asked for it learns when it is done.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::contain::LAST_WAIT;
use crate::job_control::{Request, Requests, ending_signals, other_ending_signals};
use crate::reactor::{Event, Patience, Reactor, end_program, that_end_program};
use crate::sys;

/// Something that a program runs for as long as it runs itself: Twisted's `IService`, with an end.
pub trait Service {
    /// What it is called; for people and for [`MultiService::service_named`].
    fn name(&self) -> Option<&str> {
        None
    }

    /// Whether it has been started, and not been told to stop since.
    fn is_running(&self) -> bool;

    /// Whether nothing of it is left: it is not running, and all that it had started has ended.
    fn is_down(&self) -> bool;

    /// Does what has to be done before the program gives up its rights, such as binding to a low port. Called before
    /// [`start_service`](Self::start_service), if at all.
    ///
    /// # Errors
    ///
    /// What went wrong; the service is not started then.
    fn privileged_start_service(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        let _ = reactor;
        Ok(())
    }

    /// Starts it. No effect if it is running.
    fn start_service(&mut self, reactor: &mut Reactor);

    /// Has it stop. [`is_down`](Self::is_down) says when it has.
    fn stop_service(&mut self, reactor: &mut Reactor);

    /// Has it stop without any more patience.
    fn kill_service(&mut self, reactor: &mut Reactor);

    /// Takes an event. `false` if it was not meant for this service.
    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool;

    /// All events of a turn have been handled. This is the place for what is to be done once for all of them, such as
    /// writing out what they have brought: a turn may have a thousand. [`Reactor::run_service`] calls it, also after the
    /// start and after a stop that no event has asked for. A loop of your own calls it after [`Reactor::turn`].
    fn turn_ended(&mut self, reactor: &mut Reactor) {
        let _ = reactor;
    }
}

/// Several services as one: started in their order, stopped in the reverse one.
///
/// ```
/// use childminder::{Command, MultiService, ProcessMonitor, Reactor, Service};
///
/// let mut reactor = Reactor::new()?;
/// let mut database = ProcessMonitor::new();
/// database.add_process(&mut reactor, "database", Command::new("sleep").arg("60"))?;
/// let mut web = ProcessMonitor::new();
/// web.add_process(&mut reactor, "web", Command::new("sleep").arg("60"))?;
///
/// let mut all = MultiService::new();
/// all.add_service(&mut reactor, database);
/// all.add_service(&mut reactor, web);
/// reactor.stop(); // so that this example ends
/// reactor.run_service(&mut all)?;
/// assert!(all.is_down());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct MultiService {
    services: Vec<Box<dyn Service + Send>>,
    running: bool,
}

impl MultiService {
    /// One without any services yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service behind those that there are; it is started at once if this one is running.
    pub fn add_service(&mut self, reactor: &mut Reactor, mut service: impl Service + Send + 'static) {
        if self.running {
            service.start_service(reactor);
        }
        self.services.push(Box::new(service));
    }

    /// The first service of this name.
    pub fn service_named(&mut self, name: &str) -> Option<&mut (dyn Service + Send + 'static)> {
        self.services.iter_mut().find(|service| service.name() == Some(name)).map(Box::as_mut)
    }
}

impl Service for MultiService {
    fn is_running(&self) -> bool {
        self.running
    }

    fn is_down(&self) -> bool {
        !self.running && self.services.iter().all(|service| service.is_down())
    }

    fn privileged_start_service(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        self.services.iter_mut().try_for_each(|service| service.privileged_start_service(reactor))
    }

    fn start_service(&mut self, reactor: &mut Reactor) {
        self.running = true;
        for service in &mut self.services {
            service.start_service(reactor);
        }
    }

    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.running = false;
        for service in self.services.iter_mut().rev() {
            service.stop_service(reactor);
        }
    }

    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.running = false;
        for service in self.services.iter_mut().rev() {
            service.kill_service(reactor);
        }
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        self.services.iter_mut().any(|service| service.handle(reactor, event))
    }

    fn turn_ended(&mut self, reactor: &mut Reactor) {
        for service in &mut self.services {
            service.turn_ended(reactor);
        }
    }
}

impl fmt::Debug for MultiService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.services.iter().map(|service| service.name()).collect();
        f.debug_struct("MultiService").field("services", &names).field("running", &self.running).finish()
    }
}

/// The signals that stop a service even if the host watches them itself.
const ALWAYS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// Without a wait that works: from one look at everything to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Reactor {
    /// Starts a service, runs until a signal asks for the end or [`stop`](Self::stop) is called, has the
    /// service stop, and returns when it is down: what twistd does, except that it waits for the end. A
    /// second signal, more than 0.2 s after the first, kills what is left at once; what is still left 2 s
    /// later is left to itself.
    ///
    /// | signal | what it does |
    /// | --- | --- |
    /// | SIGTERM, SIGINT, SIGQUIT | asks for the end, also if the host watches it itself; SIGINT and SIGQUIT not if they were ignored from the start |
    /// | SIGHUP, and every other one that would end the program | asks for the end, unless the host watches, handles, ignores or blocks it |
    /// | SIGKILL, and a fault of the program (SIGSEGV, `abort` and the like) | ends the program, and leaves its processes, unless there is a [guard](Self::kill_trees_at_death) |
    ///
    /// A signal of the second row that the host handles by the time it comes is the host's. The signals are
    /// watched for the length of the call; before and afterwards they do what the host had them do.
    ///
    /// # Errors
    ///
    /// What the privileged start said, or what the system says of watching signals; nothing was started
    /// then. Also what the system says of the wait, if that fails for five seconds: the service is then
    /// stopped without it, by looking at everything again and again. `TimedOut` if the service is not down 2 s
    /// after it was killed by a second signal; [`Status::refusal`](crate::Status::refusal) says why.
    pub fn run_service(&mut self, service: &mut (impl Service + ?Sized)) -> io::Result<()> {
        let mut ours = ending_signals(self);
        ours.append(&mut other_ending_signals(self));
        let mut requests = Requests::default();
        let result = self.watch(&ours).and_then(|()| self.run_watched(service, &ours, &mut requests));
        let late = self.release_signals(&ours);
        if !requests.are_any() {
            // What has come too late for the service is still meant for this program.
            late.into_iter().for_each(end_program);
        }
        result
    }

    fn run_watched(
        &mut self,
        service: &mut (impl Service + ?Sized),
        ours: &[i32],
        requests: &mut Requests,
    ) -> io::Result<()> {
        service.privileged_start_service(self)?;
        service.start_service(self);
        service.turn_ended(self);
        let (mut stopping, mut last_moment) = (false, None);
        let (mut patience, mut failure) = (Patience::default(), None);
        while !(stopping && service.is_down() && self.end_orphans()) {
            let time_left = last_moment.map(|at: Instant| at.saturating_duration_since(self.now()));
            if time_left == Some(Duration::ZERO) {
                let what = format!("what was killed is still there after {} s", LAST_WAIT.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            if self.take_stop() && !stopping {
                stopping = true;
                service.stop_service(self);
                service.turn_ended(self);
                continue;
            }
            let mut handler = |reactor: &mut Self, event: Event<'_>| match event {
                Event::Signal(signal)
                    if ALWAYS.contains(&signal)
                        || ours.contains(&signal) && !that_end_program(vec![signal]).is_empty() =>
                {
                    match requests.hear(reactor.now()) {
                        Some(Request::Stop) if !stopping => {
                            stopping = true;
                            service.stop_service(reactor);
                        }
                        Some(_) => {
                            last_moment.get_or_insert(reactor.now() + LAST_WAIT);
                            service.kill_service(reactor);
                            reactor.kill_orphans();
                        }
                        None => {}
                    }
                }
                event => {
                    service.handle(reactor, &event);
                }
            };
            if let Err(error) = self.turn_patiently(&mut patience, time_left, &mut handler) {
                // Nothing helps. What is looked at in each turn has to do for a stop.
                if failure.replace(error).is_none() && !stopping {
                    stopping = true;
                    service.stop_service(self);
                }
                sys::fd::pause(LOOK_AGAIN);
            }
            service.turn_ended(self);
        }
        failure.map_or(Ok(()), Err)
    }
}
