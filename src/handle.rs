//! A monitor that other threads can control.
//!
//! It decides nothing and starts no thread: the thread that takes the reactor's turns carries out
//! the requests of the others. The one rule: a caller may wait for its answer, and the reactor
//! waits for no caller. A caller whose reactor or monitor is dropped gets an error instead of an
//! answer.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::command::Command;
use crate::exit::Exit;
use crate::io_error::into_io_error;
use crate::monitor::restart::{Policy, State};
use crate::monitor::{Log, MonitorError, Observer, ProcessMonitor, Status};
use crate::reactor::{Event, Interest, Reactor, SourceId};
use crate::service::Service;
use crate::sys;

/// A request of a thread. If it is dropped without having been called, it drops the sender of its
/// answer, which wakes the caller with an error.
type Request<O> = Box<dyn FnOnce(&mut ProcessMonitor<O>, &mut Reactor, &mut Vec<Wait<O>>) + Send>;

/// The wait of a thread for a state of the monitor. It returns whether it is over. If it is dropped
/// before, it wakes its caller with an error, as a request does.
type Wait<O> = Box<dyn FnMut(&ProcessMonitor<O>) -> bool + Send>;

/// What the threads have asked for and what is not answered.
struct Open<O> {
    requests: Vec<Request<O>>,
    waits: VecDeque<Wait<O>>,
}

/// The state that the handles and the monitor share.
struct Shared<O> {
    /// `None` once nothing is left that could answer.
    open: Mutex<Option<Open<O>>>,
    /// The writing end of the bell. The reading end is open as long as `open` is `Some`.
    button: UnixStream,
}

impl<O> Shared<O> {
    fn open(&self) -> MutexGuard<'_, Option<Open<O>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let unanswered = self.open().take();
        // Dropped outside of the lock, because it may run any code of the host's.
        drop(unanswered);
    }
}

/// The reading end. The reactor has one bell and the monitor another. When either is dropped, no
/// request can be answered any more.
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
        // Closed before the stream: a caller that finds the requests open writes to the button.
        self.shared.close();
    }
}

/// A [`ProcessMonitor`] that other threads control through a [`Handle`]. It is a [`Service`], as
/// the monitor is.
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
/// assert!(handle.status("web").is_err()); // the monitor is gone
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Controlled<O: Observer = Log> {
    monitor: ProcessMonitor<O>,
    source: SourceId,
    bell: Bell<O>,
    /// Whether any thread waits for a state.
    waited_for: bool,
}

impl<O: Observer + 'static> Controlled<O> {
    /// Registers a monitor on this reactor for control by other threads, and returns it with its
    /// first handle, which can be cloned.
    ///
    /// # Errors
    ///
    /// `EMFILE` or `ENFILE`, since it takes two descriptors.
    pub fn new(reactor: &mut Reactor, monitor: ProcessMonitor<O>) -> io::Result<(Self, Handle<O>)> {
        let (button, stream) = sys::fd::socket_pair()?;
        let open = Mutex::new(Some(Open { requests: Vec::new(), waits: VecDeque::new() }));
        let (shared, stream) = (Arc::new(Shared { open, button }), Arc::new(stream));
        let bell = Bell { shared: Arc::clone(&shared), stream: Arc::clone(&stream) };
        let theirs = Bell { shared: Arc::clone(&shared), stream };
        let source = reactor.register(theirs, Interest::Readable)?;
        Ok((Self { monitor, source, bell, waited_for: false }, Handle { shared }))
    }
}

impl<O: Observer> Controlled<O> {
    /// The monitor itself, for the thread that owns it.
    #[must_use]
    pub fn monitor(&self) -> &ProcessMonitor<O> {
        &self.monitor
    }

    /// The monitor itself, for the thread that owns it.
    pub fn monitor_mut(&mut self) -> &mut ProcessMonitor<O> {
        &mut self.monitor
    }

    /// Takes the monitor back from the handles, whose calls fail with [`HandleError::Gone`] from
    /// now on.
    ///
    /// A host whose reactor outlives its monitors needs this. Without it, the two descriptors stay
    /// open as long as the reactor.
    #[must_use]
    pub fn into_monitor(self, reactor: &mut Reactor) -> ProcessMonitor<O> {
        reactor.deregister(self.source);
        self.monitor
    }

    /// Empties the bell before it takes the requests, so that a request that arrives in between
    /// rings again.
    fn serve(&mut self, reactor: &mut Reactor) {
        let mut rings = [0; 64];
        while matches!((&*self.bell.stream).read(&mut rings), Ok(1..)) {}
        let requests = self.bell.shared.open().as_mut().map(|open| std::mem::take(&mut open.requests));
        let mut waits = Vec::new();
        for request in requests.unwrap_or_default() {
            request(&mut self.monitor, reactor, &mut waits);
        }
        self.keep(waits);
    }

    /// Answers the threads whose states are reached.
    fn check_waits(&mut self) {
        if !self.waited_for {
            return;
        }
        let count = self.bell.shared.open().as_ref().map_or(0, |open| open.waits.len());
        for _ in 0..count {
            // One at a time and outside of the lock: it is the host's code, and may panic.
            let next = self.bell.shared.open().as_mut().and_then(|open| open.waits.pop_front());
            let Some(mut wait) = next else { break };
            if !wait(&self.monitor) {
                self.keep([wait]);
            }
        }
        self.keep([]);
    }

    /// Keeps these waits where a drop of the reactor ends them.
    fn keep(&mut self, waits: impl IntoIterator<Item = Wait<O>>) {
        if let Some(open) = self.bell.shared.open().as_mut() {
            open.waits.extend(waits);
            self.waited_for = !open.waits.is_empty();
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
            Event::Ready { source, .. } if *source == self.source => self.serve(reactor),
            event if !self.monitor.handle(reactor, event) => return false,
            _ => {}
        }
        self.check_waits();
        true
    }

    fn turn_ended(&mut self, reactor: &mut Reactor) {
        self.monitor.turn_ended(reactor);
        self.check_waits();
    }
}

impl<O: Observer> fmt::Debug for Controlled<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Controlled").field(&self.monitor).finish()
    }
}

/// Controls a monitor from other threads: see [`Controlled`].
///
/// Each call waits until a turn of the reactor has carried it out, and returns the result. Never
/// call one on the thread that takes the turns: it would wait for itself. Only
/// [`post`](Self::post) does not wait.
pub struct Handle<O = Log> {
    shared: Arc<Shared<O>>,
}

/// An error returned by a method of [`Handle`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The reactor or the monitor was dropped, so nothing can carry out the request or answer it.
    Gone,
    /// The monitor refused the request.
    Monitor(MonitorError),
    /// The state was not reached within the timeout: see [`Handle::wait_until`].
    TimedOut,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the monitor or its reactor is gone"),
            Self::Monitor(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the monitor did not reach the state in time"),
        }
    }
}

impl Error for HandleError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Gone | Self::TimedOut => None,
            // The error is displayed in place of this one, so the next source is its own.
            Self::Monitor(error) => error.source(),
        }
    }
}

into_io_error!(HandleError, |error| match error {
    HandleError::Gone => ErrorKind::NotConnected,
    HandleError::Monitor(error) => error.kind(),
    HandleError::TimedOut => ErrorKind::TimedOut,
});

impl From<MonitorError> for HandleError {
    fn from(error: MonitorError) -> Self {
        Self::Monitor(error)
    }
}

/// The status of one process as an answer to another thread: an owned [`Status`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// The name of the process.
    pub name: String,
    /// What the process is doing, and since or until when.
    pub state: State,
    /// The process id, while there is a process. It may be gone when you read it.
    pub pid: Option<u32>,
    /// How often the process has been started again, for whatever reason.
    pub restarts: u64,
    /// How the last process of this name ended.
    pub last_exit: Option<Exit>,
    /// Why the last signal could not be sent to all of its processes, while it is stopping.
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
    /// Makes the reactor's thread call `request` in its next turn, and returns the result.
    ///
    /// This is for everything that has no method of its own here. The reactor waits while `request`
    /// runs. A panic in it happens on the reactor's thread, and the caller gets
    /// [`HandleError::Gone`].
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`] if the reactor or the monitor was dropped before the request was
    /// carried out.
    pub fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut ProcessMonitor<O>, &mut Reactor) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        let (answer, answered) = channel();
        self.post(move |monitor, reactor| {
            // This fails only if the caller is gone, which then needs no answer.
            let _ = answer.send(request(monitor, reactor));
        })?;
        answered.recv().map_err(|_| HandleError::Gone)
    }

    /// Makes the reactor's thread call `request` in its next turn, and does not wait for that. It
    /// can be called on any thread, also on that of the reactor. The request can pass on its
    /// result, for example through a channel. If the reactor is dropped before, it is dropped
    /// uncalled.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`] if the reactor or the monitor was dropped.
    ///
    /// ```
    /// use std::sync::mpsc::channel;
    /// use std::thread;
    ///
    /// use childminder::{Command, Controlled, ProcessMonitor, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::new())?;
    /// let (answer, answered) = channel();
    /// handle.post(move |monitor, reactor| {
    ///     let added = monitor.add_process(reactor, "web", Command::new("sleep").arg("60"));
    ///     answer.send(added).expect("it is received below");
    ///     reactor.stop();
    /// })?;
    /// reactor.run_service(&mut monitor)?;
    /// answered.recv().expect("the request was called")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post(
        &self,
        request: impl FnOnce(&mut ProcessMonitor<O>, &mut Reactor) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.send(Box::new(move |monitor, reactor, _| request(monitor, reactor)))
    }

    /// Waits until `condition` returns something, and returns that. Gives up after `timeout`, if
    /// there is one.
    ///
    /// The reactor's thread calls `condition` at once, and then after each event of the monitor and
    /// at the end of each turn. It takes no time of its own: nothing is called while nothing
    /// happens. Other requests can be made at the same time.
    ///
    /// # Errors
    ///
    /// [`HandleError::TimedOut`], or [`HandleError::Gone`] if the reactor or the monitor was
    /// dropped before.
    ///
    /// ```
    /// use std::thread;
    /// use std::time::Duration;
    ///
    /// use childminder::restart::{Policy, Restart, State};
    /// use childminder::{Command, Controlled, ProcessMonitor, Reactor};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let (mut monitor, handle) = Controlled::new(&mut reactor, ProcessMonitor::new())?;
    /// let reactor = thread::spawn(move || reactor.run_service(&mut monitor));
    ///
    /// let once = Policy::builder().restart(Restart::Never).build()?;
    /// handle.add_process_with("job", Command::new("sh").args(["-c", "exit 3"]), once)?;
    /// let exit = handle.wait_until(Some(Duration::from_secs(60)), |monitor| {
    ///     let job = monitor.status("job")?;
    ///     if job.state == State::Exited { job.last_exit.copied() } else { None }
    /// })?;
    /// assert_eq!(exit.code(), Some(3));
    /// handle.shut_down()?;
    /// reactor.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_until<T: Send + 'static>(
        &self,
        timeout: Option<Duration>,
        mut condition: impl FnMut(&ProcessMonitor<O>) -> Option<T> + Send + 'static,
    ) -> Result<T, HandleError> {
        let (answer, answered) = channel();
        let here = Arc::new(());
        let caller = Arc::downgrade(&here);
        let mut wait = move |monitor: &ProcessMonitor<O>| {
            let given_up = caller.strong_count() == 0;
            let reached = if given_up { None } else { condition(monitor) };
            given_up || reached.is_some_and(|reached| answer.send(reached).is_ok())
        };
        self.send(Box::new(move |monitor, _, waits| {
            if !wait(monitor) {
                waits.push(Box::new(wait));
            }
        }))?;
        let reached = match timeout {
            Some(timeout) => answered.recv_timeout(timeout),
            None => answered.recv().map_err(RecvTimeoutError::from),
        };
        reached.map_err(|error| match error {
            RecvTimeoutError::Disconnected => HandleError::Gone,
            RecvTimeoutError::Timeout => {
                drop(here);
                // The reactor drops the wait, unless it is gone.
                let _ = self.post(|_, _| {});
                HandleError::TimedOut
            }
        })
    }

    fn send(&self, request: Request<O>) -> Result<(), HandleError> {
        let mut open = self.shared.open();
        open.as_mut().ok_or(HandleError::Gone)?.requests.push(request);
        // Under the lock, so that the other end is still open. If it is full, the bell is ringing
        // already.
        ring(&self.shared.button);
        Ok(())
    }

    /// Adds a process, as [`ProcessMonitor::add_process`] does.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or the monitor's error.
    pub fn add_process(&self, name: impl Into<String>, command: &Command) -> Result<(), HandleError> {
        let (name, command) = (name.into(), command.clone());
        Ok(self.call(move |monitor, reactor| monitor.add_process(reactor, name, &command))??)
    }

    /// Adds a process with a policy, as [`ProcessMonitor::add_process_with`] does.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or the monitor's error.
    pub fn add_process_with(
        &self,
        name: impl Into<String>,
        command: &Command,
        policy: Policy,
    ) -> Result<(), HandleError> {
        let (name, command) = (name.into(), command.clone());
        Ok(self.call(move |monitor, reactor| monitor.add_process_with(reactor, name, &command, policy))??)
    }

    /// Removes a process, as [`ProcessMonitor::remove_process`] does.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or the monitor's error.
    pub fn remove_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.remove_process(reactor, &name))??)
    }

    /// Starts a process, as [`ProcessMonitor::start_process`] does.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or the monitor's error.
    pub fn start_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.start_process(reactor, &name))??)
    }

    /// Stops a process, as [`ProcessMonitor::stop_process`] does. The call returns when the process
    /// has been asked to stop, not when it has stopped.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or the monitor's error.
    pub fn stop_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.stop_process(reactor, &name))??)
    }

    /// Restarts a process, as [`ProcessMonitor::restart_process`] does.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`], or the monitor's error.
    pub fn restart_process(&self, name: impl Into<String>) -> Result<(), HandleError> {
        let name = name.into();
        Ok(self.call(move |monitor, reactor| monitor.restart_process(reactor, &name))??)
    }

    /// Returns the status of a process, or `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`].
    pub fn status(&self, name: impl Into<String>) -> Result<Option<ProcessStatus>, HandleError> {
        let name = name.into();
        self.call(move |monitor, _| monitor.status(&name).map(ProcessStatus::from))
    }

    /// Returns the status of all processes, in the order in which they were added.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`].
    pub fn statuses(&self) -> Result<Vec<ProcessStatus>, HandleError> {
        self.call(|monitor, _| monitor.statuses().map(ProcessStatus::from).collect())
    }

    /// Makes [`Reactor::run_service`] (or [`Reactor::run`]) stop, as [`Reactor::stop`] does on its
    /// own thread. Join that thread to know when everything is down.
    ///
    /// # Errors
    ///
    /// [`HandleError::Gone`].
    pub fn shut_down(&self) -> Result<(), HandleError> {
        self.call(|_, reactor| reactor.stop())
    }
}

/// Writes one byte, if there is room for it.
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
        let open = self.shared.open().is_some();
        f.debug_struct("Handle").field("open", &open).finish()
    }
}
