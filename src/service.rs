//! Services, which are started, run and stopped with the program, and the main loop that twistd
//! runs for them.
//!
//! It does not know processes. The one rule: a stop takes time, so every stop is a request, and
//! [`Service::is_down`] tells when it is done.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::contain::LAST_WAIT;
use crate::job_control::{Request, Requests, ending_signals, other_ending_signals};
use crate::reactor::{Event, Patience, Reactor, end_program, that_end_program};
use crate::sys;

/// Something that runs for as long as the program: Twisted's `IService`, with an end.
pub trait Service {
    /// Returns its name, for people and for [`MultiService::service_named`].
    fn name(&self) -> Option<&str> {
        None
    }

    /// Tells whether it has been started and not been told to stop since.
    fn is_running(&self) -> bool;

    /// Tells whether nothing of it is left: it is not running, and everything that it started has
    /// ended.
    fn is_down(&self) -> bool;

    /// Does what has to be done before the program gives up its privileges, such as binding a low
    /// port. If it is called, it is called before [`start_service`](Self::start_service).
    ///
    /// # Errors
    ///
    /// The cause of the failure. The service is not started then.
    fn privileged_start_service(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        let _ = reactor;
        Ok(())
    }

    /// Starts the service. This has no effect if it is running.
    fn start_service(&mut self, reactor: &mut Reactor);

    /// Asks the service to stop. [`is_down`](Self::is_down) tells when it has stopped.
    fn stop_service(&mut self, reactor: &mut Reactor);

    /// Makes the service stop at once.
    fn kill_service(&mut self, reactor: &mut Reactor);

    /// Takes an event. Returns `false` if it was not meant for this service.
    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool;

    /// Called when all events of a turn have been handled.
    ///
    /// This is the place for work that is done once for all of them, such as writing out what they
    /// brought: a turn may have a thousand. [`Reactor::run_service`] calls it, also after the start
    /// and after a stop that no event has requested. A loop of your own calls it after
    /// [`Reactor::turn`].
    fn turn_ended(&mut self, reactor: &mut Reactor) {
        let _ = reactor;
    }
}

/// Several services as one. They are started in their order and stopped in the reverse order.
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
    /// Makes one without services.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service after the others. It is started at once if this one is running.
    pub fn add_service(&mut self, reactor: &mut Reactor, mut service: impl Service + Send + 'static) {
        if self.running {
            service.start_service(reactor);
        }
        self.services.push(Box::new(service));
    }

    /// Returns the first service of this name.
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

/// The pause between two checks of everything, if the wait does not work.
const CHECK_PAUSE: Duration = Duration::from_millis(20);

impl Reactor {
    /// Runs a service until the program is to end, and returns when the service is down.
    ///
    /// It starts the service, runs until a signal asks for the end or [`stop`](Self::stop) is
    /// called, and stops the service. This is what twistd does, except that it waits for the end. A
    /// second signal, more than 0.2 s after the first, kills what is left at once. What is still
    /// left 2 s later is left to itself.
    ///
    /// | signal | what it does |
    /// | --- | --- |
    /// | SIGTERM, SIGINT, SIGQUIT | asks for the end, even if the host watches it itself; SIGINT and SIGQUIT do not if they were ignored from the start |
    /// | SIGHUP, and every other signal that would end the program | asks for the end, unless the host watches, handles, ignores or blocks it |
    /// | SIGKILL, and a fault of the program (SIGSEGV, `abort` and the like) | ends the program and leaves its processes running, unless there is a [guard](Self::kill_trees_at_death) |
    ///
    /// If the host has a handler for a signal of the second row by the time it arrives, the signal
    /// is the host's. The signals are watched for the length of the call. Before and afterwards
    /// they do what the host has set.
    ///
    /// # Errors
    ///
    /// An error of the privileged start or of watching the signals: nothing was started then. An
    /// error of the wait, if that fails for five seconds: the service is then stopped without the
    /// wait, by checking everything again and again. `TimedOut` if the service is not down 2 s
    /// after a second signal has killed it; [`Status::refusal`](crate::Status::refusal) tells why.
    pub fn run_service(&mut self, service: &mut (impl Service + ?Sized)) -> io::Result<()> {
        let mut ours = ending_signals(self);
        ours.append(&mut other_ending_signals(self));
        let mut requests = Requests::default();
        let result = self.watch(&ours).and_then(|()| self.run_watched(service, &ours, &mut requests));
        let late = self.release_signals(&ours);
        if !requests.are_any() {
            // A signal that arrived too late for the service is still meant for this program.
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
                // The wait does not recover. What each turn checks without it is enough for a stop.
                if failure.replace(error).is_none() && !stopping {
                    stopping = true;
                    service.stop_service(self);
                }
                sys::fd::pause(CHECK_PAUSE);
            }
            service.turn_ended(self);
        }
        failure.map_or(Ok(()), Err)
    }
}
