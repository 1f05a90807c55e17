//! Producers feed a child from a source that is too large to hold in memory, at the pace of the
//! child.
//!
//! This is a layer over the reactor's events, after Twisted's `registerProducer`. It is handed each
//! event, and the reactor does not know it. The one rule: a pull producer is asked for more only
//! when nothing is waiting, so the feed never holds more than one of its pieces.

use std::io::{self, IoSlice, Read};
use std::time::Duration;

use crate::error::{AlreadyRegistered, WriteError};
use crate::process::ProcessId;
use crate::reactor::timers::TimerId;
use crate::reactor::{Event, Reactor};

/// The number of bytes that a [`ReadProducer`] reads at once: as much as a Linux pipe holds.
const BLOCK: usize = 64 * 1024;
/// How often a pull producer is asked in one turn, so that a child that takes everything at once
/// does not delay the others.
const ASKS: usize = 4;

/// A source of data for a child: Twisted's `IPushProducer` and `IPullProducer`.
///
/// A *pull* producer is asked for each piece: [`resume_producing`](Self::resume_producing) writes
/// one piece, and is called again when that is in the pipe. A *push* producer has data at times of
/// its own, and the host writes it with [`Feed::write`]. The push producer is paused when more than
/// the high-water mark is waiting, and resumed when all of it is written.
///
/// This push producer carries the output of one child to another, and makes the first one wait for
/// the second:
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
    /// Tells whether it is a push producer. The default is a pull producer.
    fn streaming(&self) -> bool {
        false
    }

    /// Called when the pipe has room.
    ///
    /// A pull producer writes one piece of data. If it writes nothing, it is not asked again until
    /// something else that was written is drained. A push producer may go on.
    fn resume_producing(&mut self, consumer: &mut Consumer<'_>);

    /// Called when too much is waiting: a push producer must rest until it is resumed. It is called
    /// once and not at every write.
    fn pause_producing(&mut self, _reactor: &mut Reactor) {}

    /// Called when the child or the host has closed the pipe, so that no more data is wanted.
    ///
    /// This is the last call. A producer that was unregistered before does not get it.
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

/// The pipe that a producer writes to: Twisted's `IConsumer`, lent to
/// [`Producer::resume_producing`].
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
    /// Writes to the child, as [`Process::write`](crate::Process::write) does.
    ///
    /// # Errors
    ///
    /// As [`Process::write`](crate::Process::write).
    pub fn write(&mut self, data: &[u8]) -> Result<bool, WriteError> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    /// Writes several pieces to the child, as
    /// [`Process::write_vectored`](crate::Process::write_vectored) does.
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

    /// Ends the production: the producer is unregistered when its method returns.
    pub fn unregister_producer(&mut self) {
        self.finished = true;
    }

    /// Closes the pipe once the producer is unregistered and everything is written.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Returns the reactor, for a producer that does more than write.
    pub fn reactor(&mut self) -> &mut Reactor {
        self.reactor
    }

    /// Returns the process that the pipe belongs to.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Returns the number of the pipe's descriptor in the child.
    #[must_use]
    pub fn fd(&self) -> i32 {
        self.fd
    }
}

/// Connects a producer to a pipe of a process. There is one for each pipe. The host owns it and
/// hands it every event.
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
    /// Kept after it has finished, so that the host can ask it for its result.
    producer: Option<P>,
    registered: bool,
    /// Whether a push producer was told to rest.
    paused: bool,
    /// Whether the pipe is to be closed when there is no producer any more.
    closing: bool,
    /// The timer with which a pull producer goes on in the next turn.
    next: Option<TimerId>,
}

impl<P: Producer> Feed<P> {
    /// Makes a feed for the pipe that we write as the process's descriptor `fd`. It has no producer
    /// yet.
    #[must_use]
    pub fn new(process: ProcessId, fd: i32) -> Self {
        Self { process, fd, producer: None, registered: false, paused: false, closing: false, next: None }
    }

    /// Connects a producer to the pipe (Twisted's `registerProducer`).
    ///
    /// A pull producer is resumed at once. If there is no such pipe, or it is already closed, the
    /// producer is stopped at once, which is not an error.
    ///
    /// # Errors
    ///
    /// [`AlreadyRegistered`] if there is a producer that has neither finished nor been
    /// unregistered. No method of the new one is called then.
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

    /// Disconnects the producer from the pipe and returns it (Twisted's `unregisterProducer`), even
    /// if it has finished. If [`close`](Self::close) was called before, the pipe is closed now.
    #[doc(alias = "unregisterProducer")]
    pub fn unregister_producer(&mut self, reactor: &mut Reactor) -> Option<P> {
        self.finish(reactor);
        self.producer.take()
    }

    /// Returns the producer, even if it has finished.
    pub fn producer_mut(&mut self) -> Option<&mut P> {
        self.producer.as_mut()
    }

    /// Writes data of a push producer, as [`Process::write`](crate::Process::write) does, and
    /// pauses the producer if more than the high-water mark is then waiting.
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

    /// Closes the pipe once there is no producer any more and everything is written (Twisted's
    /// `closeStdin` with a producer).
    pub fn close(&mut self, reactor: &mut Reactor) {
        self.closing = true;
        if !self.registered {
            self.close_if_asked(reactor);
        }
    }

    /// Takes an event and drives the producer by it.
    ///
    /// Returns `true` if the event was for this feed alone. Other code also needs to see that the
    /// pipe is closed or the process has ended, so the feed returns `false` for these.
    pub fn handle(&mut self, reactor: &mut Reactor, event: &Event<'_>) -> bool {
        match *event {
            Event::Drained { process, fd } if (process, fd) == (self.process, self.fd) => {
                if self.pulls() {
                    // If there is a timer, it will go on in any case.
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
                // The host may have written in the meantime.
                if self.notify_drained(reactor) == Some(false) {
                    self.pull(reactor);
                }
                true
            }
            Event::FdClosed { process, fd, .. } if (process, fd) == (self.process, self.fd) => {
                self.stop(reactor);
                false
            }
            Event::Ended { process, .. } if process == self.process => {
                self.stop(reactor);
                false
            }
            _ => false,
        }
    }

    /// Tells whether there is a pull producer.
    fn pulls(&self) -> bool {
        self.registered && self.producer.as_ref().is_some_and(|producer| !producer.streaming())
    }

    /// Asks a pull producer for as much as the pipe takes, within one turn's share.
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

    /// Tells whether anything is waiting, in which case `Drained` will arrive. `None` means that
    /// there is no pipe, and that `FdClosed` has arrived or will arrive.
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

    /// Tells a push producer to rest, unless it was already told.
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
        if self.detach(reactor) {
            self.close_if_asked(reactor);
        }
    }

    fn stop(&mut self, reactor: &mut Reactor) {
        if self.detach(reactor) {
            if let Some(producer) = &mut self.producer {
                producer.stop_producing(reactor);
            }
        }
    }

    /// Disconnects the producer. Returns whether there was one.
    fn detach(&mut self, reactor: &mut Reactor) -> bool {
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

/// The result of asking a producer.
struct Asked {
    wrote: bool,
    full: bool,
}

/// A pull producer of everything that a [`Read`] gives, in blocks of 64 KiB.
///
/// It closes the pipe at the end of the source, and also at an error, which it keeps: see
/// [`take_error`](Self::take_error).
///
/// It reads on the reactor's thread, so a source that blocks delays everything. `WouldBlock` is an
/// error like any other.
#[derive(Debug)]
pub struct ReadProducer<R> {
    source: R,
    block: Vec<u8>,
    error: Option<io::Error>,
}

impl<R: Read> ReadProducer<R> {
    /// Makes a producer of what `source` gives.
    pub fn new(source: R) -> Self {
        Self { source, block: Vec::new(), error: None }
    }

    /// Returns the error because of which the source could not be read to its end, if there was
    /// one.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Returns the source.
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
        // A pipe that is already being closed takes no more data either.
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
