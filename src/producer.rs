//! Producers: from a source that is too large to hold to a child that takes what it likes.
//!
//! A layer over the reactor's events, after Twisted's `registerProducer`: it is handed each event, and the reactor knows nothing
//! of it. The one rule: a pull producer is asked for more only when nothing waits, so no more than it gives at once is ever held.

use std::io::{self, IoSlice, Read};
use std::time::Duration;

use crate::error::{AlreadyRegistered, WriteError};
use crate::process::ProcessId;
use crate::reactor::timers::TimerId;
use crate::reactor::{Event, Reactor};

/// What a [`ReadProducer`] reads at once: as much as a Linux pipe holds.
const BLOCK: usize = 64 * 1024;
/// How often a pull producer is asked in one turn: a child that takes all at once must not make the others wait.
const ASKS: usize = 4;

/// Something that has data for a child: Twisted's `IPushProducer` and `IPullProducer`.
///
/// A *pull* producer is asked for each piece: [`resume_producing`](Self::resume_producing) writes one, and comes again when that is in
/// the pipe. A *push* producer has data when it likes, and the host writes it with [`Feed::write`]; it is told to rest when more
/// than the high-water mark is waiting, and to go on when all of it is written.
///
/// A push producer, which carries what one child prints to another and has the first one wait for the second:
///
/// ```
/// use childminder::{Command, Consumer, Event, Feed, ProcessId, Producer, Reactor, Stdio};
///
/// struct Stdout(ProcessId);
///
/// impl Producer for Stdout {
///     fn streaming(&self) -> bool {
///         true
///     }
///     fn resume_producing(&mut self, consumer: &mut Consumer<'_>) {
///         if let Some(mut source) = consumer.reactor().process(self.0) {
///             source.resume(1);
///         }
///     }
///     fn pause_producing(&mut self, reactor: &mut Reactor) {
///         if let Some(mut source) = reactor.process(self.0) {
///             source.pause(1);
///         }
///     }
///     fn stop_producing(&mut self, reactor: &mut Reactor) {
///         if let Some(mut source) = reactor.process(self.0) {
///             source.close(1);
///         }
///     }
/// }
///
/// let mut reactor = Reactor::new()?;
/// let seq = reactor.spawn_process(Command::new("seq").arg("50000"))?;
/// let wc = reactor.spawn_process(Command::new("wc").arg("-l").stdin(Stdio::piped()))?;
/// let mut feed = Feed::new(wc, 0);
/// feed.register_producer(&mut reactor, Stdout(seq))?;
/// let mut counted = String::new();
/// reactor.run(|reactor, event| {
///     if feed.handle(reactor, &event) {
///         return;
///     }
///     match event {
///         Event::Data { process, fd: 1, data } if process == seq => {
///             let _ = feed.write(reactor, data);
///         }
///         Event::FdClosed { process, fd: 1, .. } if process == seq => {
///             feed.close(reactor);
///             feed.unregister_producer(reactor);
///         }
///         Event::Data { process, data, .. } if process == wc => counted += &String::from_utf8_lossy(data),
///         Event::Ended { process, .. } if process == wc => reactor.stop(),
///         _ => {}
///     }
/// })?;
/// assert_eq!(counted.trim(), "50000");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Producer {
    /// Whether it is a push producer; a pull producer, if not said otherwise.
    fn streaming(&self) -> bool {
        false
    }

    /// The pipe has room. A pull producer writes one piece of data; one that writes nothing is not asked again until something
    /// else that was written is drained. A push producer may go on.
    fn resume_producing(&mut self, consumer: &mut Consumer<'_>);

    /// Too much is waiting: a push producer must rest until it is resumed. Told once, not at every write.
    fn pause_producing(&mut self, _reactor: &mut Reactor) {}

    /// Nobody wants any more: the pipe is closed, by the child or by the host. The last word, and no word at all to a producer that was
    /// unregistered before.
    fn stop_producing(&mut self, reactor: &mut Reactor);
}

impl<P: Producer + ?Sized> Producer for Box<P> {
    fn streaming(&self) -> bool {
        (**self).streaming()
    }

    fn resume_producing(&mut self, consumer: &mut Consumer<'_>) {
        (**self).resume_producing(consumer);
    }

    fn pause_producing(&mut self, reactor: &mut Reactor) {
        (**self).pause_producing(reactor);
    }

    fn stop_producing(&mut self, reactor: &mut Reactor) {
        (**self).stop_producing(reactor);
    }
}

/// The pipe that a producer writes to: Twisted's `IConsumer`, lent to [`Producer::resume_producing`].
#[derive(Debug)]
pub struct Consumer<'a> {
    reactor: &'a mut Reactor,
    process: ProcessId,
    fd: i32,
    wrote: bool,
    full: bool,
    finished: bool,
    closing: bool,
}

impl Consumer<'_> {
    /// Writes to the child, as [`Process::write`](crate::Process::write).
    ///
    /// # Errors
    ///
    /// As [`Process::write`](crate::Process::write).
    pub fn write(&mut self, data: &[u8]) -> Result<bool, WriteError> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    /// Writes several pieces to the child, as [`Process::write_vectored`](crate::Process::write_vectored).
    ///
    /// # Errors
    ///
    /// As [`Process::write`](crate::Process::write).
    pub fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> Result<bool, WriteError> {
        let mut process = self.reactor.process(self.process).ok_or(WriteError::NoPipe { fd: self.fd })?;
        let may_go_on = process.write_vectored(self.fd, pieces)?;
        self.wrote |= pieces.iter().any(|piece| !piece.is_empty());
        self.full |= !may_go_on;
        Ok(may_go_on)
    }

    /// It was all: the producer is unregistered when it returns.
    pub fn unregister_producer(&mut self) {
        self.finished = true;
    }

    /// Has the pipe closed once the producer is unregistered and all is written.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// The reactor, for a producer that has more to do than to write.
    pub fn reactor(&mut self) -> &mut Reactor {
        self.reactor
    }

    /// The process that the pipe belongs to.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> i32 {
        self.fd
    }
}

/// Ties a producer to a pipe of a process. One for each pipe; the host owns it and hands it every event.
///
/// A source of any size reaches a slow child in bounded memory:
///
/// ```
/// use childminder::{Command, Event, Feed, ReadProducer, Reactor, Stdio};
/// use std::io::Read;
///
/// let source = std::io::repeat(b'\n').take(1_000_000);
///
/// let mut reactor = Reactor::new()?;
/// let wc = reactor.spawn_process(Command::new("wc").arg("-l").stdin(Stdio::piped()))?;
/// let mut feed = Feed::new(wc, 0);
/// feed.register_producer(&mut reactor, ReadProducer::new(source))?;
/// let mut counted = String::new();
/// reactor.run(|reactor, event| {
///     if feed.handle(reactor, &event) {
///         return;
///     }
///     match event {
///         Event::Data { data, .. } => counted += &String::from_utf8_lossy(data),
///         Event::Ended { .. } => reactor.stop(),
///         _ => {}
///     }
/// })?;
/// assert_eq!(counted.trim(), "1000000");
/// assert!(feed.producer_mut().unwrap().take_error().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Feed<P> {
    process: ProcessId,
    fd: i32,
    /// Kept when it has finished, so that it can be asked how.
    producer: Option<P>,
    registered: bool,
    /// A push producer was told to rest.
    paused: bool,
    /// The pipe is to be closed when there is no producer any more.
    closing: bool,
    /// A pull producer goes on in the next turn.
    next: Option<TimerId>,
}

impl<P: Producer> Feed<P> {
    /// For the pipe that we write as the process's descriptor `fd`; without a producer as yet.
    #[must_use]
    pub fn new(process: ProcessId, fd: i32) -> Self {
        Self { process, fd, producer: None, registered: false, paused: false, closing: false, next: None }
    }

    /// Ties a producer to the pipe (Twisted's `registerProducer`). A pull producer is resumed at once. If there is no such pipe, or
    /// it is closed already, the producer is stopped at once, which is no error.
    ///
    /// # Errors
    ///
    /// [`AlreadyRegistered`] if there is one that has neither finished nor been unregistered; the new one hears nothing.
    #[doc(alias = "registerProducer")]
    pub fn register_producer(&mut self, reactor: &mut Reactor, producer: P) -> Result<(), AlreadyRegistered> {
        if self.registered {
            return Err(AlreadyRegistered);
        }
        let producer = self.producer.insert(producer);
        self.paused = false;
        if reactor.process(self.process).and_then(|mut process| process.pending(self.fd)).is_none() {
            producer.stop_producing(reactor);
            return Ok(());
        }
        self.registered = true;
        if !producer.streaming() {
            self.pull(reactor);
        }
        Ok(())
    }

    /// Parts the producer from the pipe and gives it back (Twisted's `unregisterProducer`), also one that has finished. A
    /// close that was asked for meanwhile is carried out.
    #[doc(alias = "unregisterProducer")]
    pub fn unregister_producer(&mut self, reactor: &mut Reactor) -> Option<P> {
        self.finish(reactor);
        self.producer.take()
    }

    /// The producer, also when it has finished.
    pub fn producer_mut(&mut self) -> Option<&mut P> {
        self.producer.as_mut()
    }

    /// Writes what a push producer has, as [`Process::write`](crate::Process::write); pauses the producer if more than the high-water
    /// mark is waiting then.
    ///
    /// # Errors
    ///
    /// As [`Process::write`](crate::Process::write).
    pub fn write(&mut self, reactor: &mut Reactor, data: &[u8]) -> Result<bool, WriteError> {
        let mut process = reactor.process(self.process).ok_or(WriteError::NoPipe { fd: self.fd })?;
        let may_go_on = process.write(self.fd, data)?;
        if !may_go_on {
            self.pause(reactor);
        }
        if self.pulls() && self.next.is_none() {
            self.pull_when_drained(reactor);
        }
        Ok(may_go_on)
    }

    /// Closes the pipe once there is no producer any more and all is written (Twisted's `closeStdin` with a producer).
    pub fn close(&mut self, reactor: &mut Reactor) {
        self.closing = true;
        if !self.registered {
            self.close_if_asked(reactor);
        }
    }

    /// Carries the producer on. `true`: the event was this feed's alone. That the pipe is closed or the process has ended is also
    /// everybody else's, so that is `false`.
    pub fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Drained { process, fd } if (process, fd) == (self.process, self.fd) => {
                if self.pulls() {
                    // With a timer under way it goes on in any case.
                    if self.next.is_none() {
                        self.pull(reactor);
                    }
                } else if self.registered && std::mem::take(&mut self.paused) && self.produce(reactor).full {
                    self.pause(reactor);
                }
                true
            }
            Event::Timer(id) if self.next == Some(id) => {
                self.next = None;
                // The host may have written meanwhile.
                if self.notify_drained(reactor) == Some(false) {
                    self.pull(reactor);
                }
                true
            }
            Event::FdClosed { process, fd, .. } if (process, fd) == (self.process, self.fd) => {
                self.lose(reactor);
                false
            }
            Event::Ended { process, .. } if process == self.process => {
                self.lose(reactor);
                false
            }
            _ => false,
        }
    }

    /// Whether there is a pull producer.
    fn pulls(&self) -> bool {
        self.registered && self.producer.as_ref().is_some_and(|producer| !producer.streaming())
    }

    /// Asks a pull producer for as much as the pipe takes, within a turn's share.
    fn pull(&mut self, reactor: &mut Reactor) {
        for _ in 0..ASKS {
            let asked = self.produce(reactor);
            if !self.registered || !asked.wrote || self.notify_drained(reactor) != Some(false) {
                return;
            }
        }
        self.pull_when_drained(reactor);
    }

    fn pull_when_drained(&mut self, reactor: &mut Reactor) {
        if self.notify_drained(reactor) == Some(false) {
            self.next = Some(reactor.call_later(Duration::ZERO));
        }
    }

    /// Whether anything is waiting, in which case `Drained` will come; `None` if there is no pipe, and `FdClosed` comes or came.
    fn notify_drained(&self, reactor: &mut Reactor) -> Option<bool> {
        reactor.process(self.process)?.notify_drained(self.fd).ok()
    }

    fn produce(&mut self, reactor: &mut Reactor) -> Asked {
        let Some(producer) = &mut self.producer else { return Asked { wrote: false, full: false } };
        let (process, fd) = (self.process, self.fd);
        let mut consumer =
            Consumer { reactor, process, fd, wrote: false, full: false, finished: false, closing: false };
        producer.resume_producing(&mut consumer);
        let Consumer { reactor, wrote, full, finished, closing, .. } = consumer;
        self.closing |= closing;
        if finished {
            self.finish(reactor);
        }
        Asked { wrote, full }
    }

    /// Tells a push producer to rest, unless it does already.
    fn pause(&mut self, reactor: &mut Reactor) {
        if !self.registered || self.paused {
            return;
        }
        if let Some(producer) = self.producer.as_mut().filter(|producer| producer.streaming()) {
            self.paused = true;
            producer.pause_producing(reactor);
        }
    }

    fn finish(&mut self, reactor: &mut Reactor) {
        if self.part(reactor) {
            self.close_if_asked(reactor);
        }
    }

    fn lose(&mut self, reactor: &mut Reactor) {
        if self.part(reactor) {
            if let Some(producer) = &mut self.producer {
                producer.stop_producing(reactor);
            }
        }
    }

    /// Whether there was a producer.
    fn part(&mut self, reactor: &mut Reactor) -> bool {
        if let Some(id) = self.next.take() {
            reactor.cancel_timer(id);
        }
        std::mem::take(&mut self.registered)
    }

    fn close_if_asked(&mut self, reactor: &mut Reactor) {
        if std::mem::take(&mut self.closing) {
            if let Some(mut process) = reactor.process(self.process) {
                process.close_after_flush(self.fd);
            }
        }
    }
}

/// What a producer did when it was asked.
struct Asked {
    wrote: bool,
    full: bool,
}

/// A pull producer of all that a [`Read`] gives, in blocks of 64 KiB. Closes the pipe at its end, and also at an error, which is
/// kept: see [`take_error`](Self::take_error).
///
/// It reads on the reactor's thread: a source that blocks makes everything wait. `WouldBlock` is an error like any other.
#[derive(Debug)]
pub struct ReadProducer<R> {
    source: R,
    block: Vec<u8>,
    error: Option<io::Error>,
}

impl<R: Read> ReadProducer<R> {
    /// Will produce what `source` gives.
    pub fn new(source: R) -> Self {
        Self { source, block: Vec::new(), error: None }
    }

    /// Why the source could not be read to its end, if it could not.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// The source again.
    pub fn into_inner(self) -> R {
        self.source
    }

    fn read(&mut self) -> usize {
        self.block.resize(BLOCK, 0);
        loop {
            match self.source.read(&mut self.block) {
                Ok(len) => return len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.error = Some(error);
                    return 0;
                }
            }
        }
    }
}

impl<R: Read> Producer for ReadProducer<R> {
    fn resume_producing(&mut self, consumer: &mut Consumer<'_>) {
        let len = self.read();
        // A pipe that is being closed already wants no more, either.
        if len == 0 || consumer.write(&self.block[..len]).is_err() {
            self.block = Vec::new();
            consumer.close();
            consumer.unregister_producer();
        }
    }

    fn stop_producing(&mut self, _reactor: &mut Reactor) {
        self.block = Vec::new();
    }
}
