//! A monitor that other threads can talk to.
//!
//! Decides nothing and keeps no thread: what a thread asks for is carried out in a turn of the reactor, by whoever takes it. The
//! one rule: a caller waits for its answer, the reactor for nobody; and no answer is owed once the reactor or the monitor is gone.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command::Command;
use crate::exit::Exit;
use crate::monitor::restart::{Policy, State};
use crate::monitor::{Log, MonitorError, Observer, ProcessMonitor, Status};
use crate::reactor::{Event, Interest, Reactor, SourceId};
use crate::service::Service;
use crate::sys;

/// What a thread wants done. Dropped without having been done, it drops the sender of its answer, which the caller notices.
type Request<O> = Box<dyn FnOnce(&mut ProcessMonitor<O>, &mut Reactor) + Send>;

/// What the handles and the monitor share.
struct Shared<O> {
    /// `None` once there is nobody left who would answer.
    requests: Mutex<Option<Vec<Request<O>>>>,
    /// The bell's button. Its other end is open as long as there are requests to be had.
    button: UnixStream,
}

impl<O> Shared<O> {
    fn requests(&self) -> MutexGuard<'_, Option<Vec<Request<O>>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let unanswered = self.requests().take();
        // Outside of the lock: it may be any code of the host's.
        drop(unanswered);
    }
}

/// The end where it rings. One is the reactor's and one the monitor's: when either is dropped, nobody can answer any more.
struct Bell<O> {
    shared: Arc<Shared<O>>,
    stream: Arc<UnixStream>,
}

impl<O> AsFd for Bell<O> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<O> Drop for Bell<O> {
    fn drop(&mut self) {
        // Before the stream is closed: who finds the requests open may ring.
        self.shared.close();
    }
}

/// A [`ProcessMonitor`] that other threads control by a [`Handle`]. It is a [`Service`] as the monitor is.
///
/// ```
/// use std::thread;
///
/// use childminder::{Command, Controlled, ProcessMonitor, Reactor};
///
/// let mut reactor = Reactor::new()?;
/// let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::new())?;
/// let reactor = thread::spawn(move || reactor.run_service(&mut monitor));
///
/// handle.add_process("web", Command::new("sleep").arg("60"))?;
/// handle.start_process("web")?;
/// assert!(handle.status("web")?.unwrap().pid.is_some());
/// handle.shut_down()?;
/// reactor.join().unwrap()?;
/// assert!(handle.status("web").is_err()); // nobody there any more
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Controlled<O: Observer = Log> {
    monitor: ProcessMonitor<O>,
    source: SourceId,
    bell: Bell<O>,
}

impl<O: Observer + 'static> Controlled<O> {
    /// Makes a monitor controllable on this reactor, and the first handle to it, which can be cloned.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`: it takes two descriptors.
    pub fn new(reactor: &mut Reactor, monitor: ProcessMonitor<O>) -> io::Result<(Self, Handle<O>)> {
        let (button, stream) = sys::fd::socket_pair()?;
        let (shared, stream) = (Arc::new(Shared { requests: Mutex::new(Some(Vec::new())), button }), Arc::new(stream));
        let bell = Bell { shared: Arc::clone(&shared), stream: Arc::clone(&stream) };
        let theirs = Bell { shared: Arc::clone(&shared), stream };
        let source = reactor.register(theirs, Interest::Readable)?;
        Ok((Self { monitor, source, bell }, Handle { shared }))
    }
}

impl<O: Observer> Controlled<O> {
    /// The monitor itself, for the thread that has it.
    #[must_use]
    pub fn monitor(&self) -> &ProcessMonitor<O> {
        &self.monitor
    }

    /// The monitor itself, for the thread that has it.
    pub fn monitor_mut(&mut self) -> &mut ProcessMonitor<O> {
        &mut self.monitor
    }

    /// Takes the monitor back from the handles, which say [`HandleError::Gone`] from now on. A host whose reactor outlives its monitors
    /// does so; otherwise the two descriptors stay open as long as the reactor.
    #[must_use]
    pub fn into_monitor(self, reactor: &mut Reactor) -> ProcessMonitor<O> {
        reactor.deregister(self.source);
        self.monitor
    }

    /// Empties the bell, then does what was asked for: a request that comes meanwhile rings again.
    fn serve(&mut self, reactor: &mut Reactor) {
        let mut rings = [0; 64];
        while matches!((&*self.bell.stream).read(&mut rings), Ok(1..)) {}
        let requests = self.bell.shared.requests().as_mut().map(std::mem::take).unwrap_or_default();
        for request in requests {
            request(&mut self.monitor, reactor);
        }
    }
}

impl<O: Observer> Service for Controlled<O> {
    fn name(&self) -> Option<&str> {
        self.monitor.name()
    }

    fn is_running(&self) -> bool {
        self.monitor.is_running()
    }

    fn is_down(&self) -> bool {
        self.monitor.is_down()
    }

    fn privileged_start_service(&mut self, reactor: &mut Reactor) -> io::Result<()> {
        self.monitor.privileged_start_service(reactor)
    }

    fn start_service(&mut self, reactor: &mut Reactor) {
        self.monitor.start_service(reactor);
    }

    fn stop_service(&mut self, reactor: &mut Reactor) {
        self.monitor.stop_service(reactor);
    }

    fn kill_service(&mut self, reactor: &mut Reactor) {
        self.monitor.kill_service(reactor);
    }

    fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match event {
            Event::Ready { source, .. } if *source == self.source => {
                self.serve(reactor);
                true
            }
            event => self.monitor.handle(reactor, event),
        }
    }
}

impl<O: Observer> fmt::Debug for Controlled<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Controlled").field(&self.monitor).finish()
    }
}

/// Controls a monitor from other threads: see [`Controlled`].
///
/// Each call waits until a turn of the reactor has carried it out, and returns what came of it. Never call one on the thread that
/// takes the turns: it would wait for itself.
pub struct Handle<O = Log> {
    shared: Arc<Shared<O>>,
}

/// Why a [`Handle`] has no good news.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The reactor or the monitor is gone, and with it whoever could have done what was asked for, or could answer.
    Gone,
    /// The monitor did not do it.
    Monitor(MonitorError),
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the monitor or its reactor is gone"),
            Self::Monitor(error) => error.fmt(f),
        }
    }
}

impl Error for HandleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Gone => None,
            // Displayed as itself, so its own source is the next one.
            Self::Monitor(error) => error.source(),
        }
    }
}

impl From<MonitorError> for HandleError {
    fn from(error: MonitorError) -> Self {
        Self::Monitor(error)
    }
}

/// What is known of one process, as an answer to another thread: an owned [`Status`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// Its name.
    pub name: String,
    /// What it is doing, and since or until when.
    pub state: State,
    /// The process's number in the system, while there is one. It may be gone when you read it.
    pub pid: Option<u32>,
    /// How often it has been started again, for whatever reason.
    pub restarts: u64,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// While it is stopping: why the last signal could not be sent to all of it.
    pub refusal: Option<String>,
}

impl From<Status<'_>> for ProcessStatus {
    fn from(status: Status<'_>) -> Self {
        let Status { name, state, pid, restarts, last_exit, refusal, .. } = status;
        let (last_exit, refusal) = (last_exit.copied(), refusal.map(str::to_owned));
        Self { name: name.to_owned(), state, pid, restarts, last_exit, refusal }
    }
}

impl<O: Observer + 'static> Handle<O> {
    /// Has the reactor's thread call `request` in its next turn, and returns what that returned: for whatever has no method of
    /// its own here. The reactor stands still meanwhile. A panic in it is the reactor's thread's; the caller gets [`HandleError::Gone`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`] if the reactor or the monitor was dropped before the request was carried out.
    pub fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut ProcessMonitor<O>, &mut Reactor) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        let (answer, answered) = channel();
        let request = move |monitor: &mut ProcessMonitor<O>, reactor: &mut Reactor| {
            // A caller that is gone needs no answer.
            let _ = answer.send(request(monitor, reactor));
        };
        {
            let mut requests = self.shared.requests();
            requests.as_mut().ok_or(HandleError::Gone)?.push(Box::new(request));
            // Under the lock, so that the other end is still open. If it is full, the bell is ringing already.
            ring(&self.shared.button);
        }
        answered.recv().map_err(|_| HandleError::Gone)
    }

    /// As [`ProcessMonitor::add_process`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or what the monitor says.
    pub fn add_process(&self, name: impl Into<String>, command: &Command) -> Result<(), HandleError> {
        let (name, command) = (name.into(), command.clone());
        Ok(self.call(move |monitor, reactor| monitor.add_process(reactor, name, &command))??)
    }

    /// As [`ProcessMonitor::add_process_with`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or what the monitor says.
    pub fn add_process_with(
        &self,
        name: impl Into<String>,
        command: &Command,
        policy: Policy,
    ) -> Result<(), HandleError> {
        let (name, command) = (name.into(), command.clone());
        Ok(self.call(move |monitor, reactor| monitor.add_process_with(reactor, name, &command, policy))??)
    }

    /// As [`ProcessMonitor::remove_process`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or what the monitor says.
    pub fn remove_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.remove_process(reactor, &name))??)
    }

    /// As [`ProcessMonitor::start_process`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or what the monitor says.
    pub fn start_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.start_process(reactor, &name))??)
    }

    /// As [`ProcessMonitor::stop_process`]: the answer comes when the process was asked to stop, not when it has.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or what the monitor says.
    pub fn stop_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.stop_process(reactor, &name))??)
    }

    /// As [`ProcessMonitor::restart_process`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or what the monitor says.
    pub fn restart_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.restart_process(reactor, &name))??)
    }

    /// What is known of a process; `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`].
    pub fn status(&self, name: impl Into<String>) -> Result<Option<ProcessStatus>, HandleError> {
        let name = name.into();
        self.call(move |monitor, _| monitor.status(&name).map(ProcessStatus::from))
    }

    /// What is known of all processes, in the order in which they were added.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`].
    pub fn statuses(&self) -> Result<Vec<ProcessStatus>, HandleError> {
        self.call(|monitor, _| monitor.statuses().map(ProcessStatus::from).collect())
    }

    /// Has [`Reactor::run_service`] (or [`Reactor::run`]) stop, as [`Reactor::stop`] does on its own thread. Join that thread to
    /// know when all is down.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`].
    pub fn shut_down(&self) -> Result<(), HandleError> {
        self.call(|_, reactor| reactor.stop())
    }
}

/// One byte, if there is room for it.
fn ring(mut button: &UnixStream) {
    while button.write(&[1]).is_err_and(|error| error.kind() == ErrorKind::Interrupted) {}
}

impl<O> Clone for Handle<O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<O> fmt::Debug for Handle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.shared.requests().is_some();
        f.debug_struct("Handle").field("open", &open).finish()
    }
}
