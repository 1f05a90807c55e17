//! One turn of the reactor: the wait, and then the events in their order.
//!
//! It starts no process. The poll is edge-triggered, so a pipe is read until `WouldBlock`, or put
//! on the ready list again. The one rule: an entry is taken off a list only when it is handled,
//! because a handler may panic and the host may continue.

use std::io;
use std::time::Duration;

use mio::Events;

use super::event::{Event, SourceId};
use super::signals::Signals;
use super::{EVENTS, Reactor, clock, stops};
use crate::error::explain;
use crate::process::{Child, LARGE_PIPE, Notice, ProcessId, Read};
use crate::slab::Key;
use crate::sources::Source;

/// The bytes of one read, which are also a source's share of a turn, so that a noisy child does not
/// delay the quiet ones. It is as much as a pipe holds, so one read empties a full pipe. The child
/// can then write while the others are read, and we seldom use the pipe at the same moment.
const BUFFER: usize = LARGE_PIPE;
/// The reads of one source in one turn if each returns little: the lines of a terminal, or the last
/// output of a child and its end.
const READS: usize = 2;

/// The report of the poll about a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    source: Key,
    readable: bool,
    writable: bool,
    /// Whether it is closed at the other end.
    gone: bool,
}

/// A turn that is running. It holds the events and the read buffer while the handler holds the
/// reactor.
pub(super) struct Turn<'a> {
    pub(super) reactor: &'a mut Reactor,
    pub(super) events: Option<Events>,
    pub(super) buffer: Vec<u8>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.reactor.events = self.events.take();
        self.reactor.buffer = std::mem::take(&mut self.buffer);
        if let Some((process, fd)) = self.reactor.reading.take() {
            // The handler has panicked during a read, and the poll will not report the rest.
            self.reactor.read_again(process, fd);
        }
        if let Some(process) = self.reactor.hearing.take() {
            self.reactor.notify_ready(process);
        }
    }
}

impl Turn<'_> {
    pub(super) fn take(
        &mut self,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(&mut Reactor, Event<'_>),
    ) -> io::Result<()> {
        // Only what is due before the poll is called is fired after its events. Otherwise a timer
        // that has become due while the program was stopped would overtake what had happened before
        // that.
        let mut asked = clock();
        let timeout = if self.reactor.has_work() {
            Some(Duration::ZERO)
        } else {
            let due = self.reactor.next_due().map(|deadline| deadline.saturating_duration_since(asked));
            timeout.into_iter().chain(due).min()
        };
        let Some(events) = &mut self.events else { return Ok(()) };
        let mut polled = self.reactor.poll.poll(events, timeout);
        let nothing = match &polled {
            Ok(()) => events.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        };
        if nothing && timeout != Some(Duration::ZERO) {
            // The wait is over because a timer is due, or because of a signal.
            asked = clock();
            polled = self.reactor.poll.poll(events, Some(Duration::ZERO));
        }
        self.reactor.woke = clock();
        self.reactor.living = None;
        let ended_before = self.reactor.ended.len();
        let polled = match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            Err(error) => {
                events.clear();
                self.reactor.check_everything();
                Err(explain("cannot wait for events", error))
            }
            Ok(()) => Ok(()),
        };
        self.reactor.full = events.iter().count() >= EVENTS;
        let mark = self.reactor.timers.begin_turn();

        let suspensions = stops::suspensions();
        self.note_poll();
        self.reactor.tell_stops(handler);
        self.dispatch(handler);
        #[cfg(target_os = "linux")]
        self.reactor.settle_discards();
        // The rest of each child's output is read just before it is reaped. So if many exit at
        // once, the first can be started again before the last is read.
        self.reap_exited(handler);
        self.read_ready(handler);
        self.tell_notices(handler);
        self.reap_exited(handler);
        self.reactor.settle_trees(handler);
        #[cfg(target_os = "linux")]
        self.reactor.settle_orphans(handler);
        while let Some(signal) = self.reactor.arrived_signals.pop_front() {
            if signal != libc::SIGCHLD || self.reactor.sigchld.for_host {
                handler(self.reactor, Event::Signal(signal));
            }
        }
        while let Some(id) = self.reactor.timers.pop_due(asked, mark) {
            handler(self.reactor, Event::Timer(id));
        }
        // All signals from before these suspensions have been reported now.
        self.reactor.suspensions = self.reactor.suspensions.max(suspensions);
        self.reactor.ended.drain(..ended_before);
        self.reactor.ended.shrink_to(EVENTS);
        polled
    }

    /// Notes everything that the poll has reported, before the first handler runs.
    fn note_poll(&mut self) {
        let reactor = &mut *self.reactor;
        for event in self.events.iter().flatten() {
            let source = Key::from_usize(event.token().0);
            match reactor.sources.get(source) {
                None => {}
                // The wake-up was its only effect.
                #[cfg(target_os = "linux")]
                Some(Source::Alarm) => {}
                Some(Source::Signals) => {
                    // The pipe is emptied before its signals are handled. A signal that arrives in
                    // the meantime is a new byte.
                    reactor.arrived_signals.extend(reactor.signals.as_mut().map(Signals::drain).unwrap_or_default());
                }
                Some(Source::Pidfd { process }) => reactor.exited.push_back(process),
                #[cfg(target_os = "linux")]
                Some(Source::Guard) => reactor.guard.ended = true,
                #[cfg(target_os = "linux")]
                Some(Source::Discard) => reactor.discards.stirred = true,
                Some(Source::Notify { process }) => reactor.notify_ready(process),
                Some(Source::Tree { process }) => reactor.trees.stir(process, reactor.woke),
                Some(Source::Limit { process }) => reactor.trees.limits.push(process),
                Some(Source::Waker | Source::Pipe { .. } | Source::Host) => {
                    let gone = event.is_error() || event.is_read_closed() || event.is_write_closed();
                    let (readable, writable) = (event.is_readable(), event.is_writable());
                    reactor.ready.push_back(Ready { source, readable, writable, gone });
                }
            }
        }
        if reactor.arrived_signals.contains(&libc::SIGCHLD) || reactor.sweep {
            reactor.sweep = true;
            #[cfg(target_os = "linux")]
            if let Some(orphans) = &mut reactor.orphans {
                orphans.stirred = true;
            }
            reactor.find_stops();
        }
        reactor.find_exited();
    }

    /// Hands out the events that need no read, and puts the readable pipes on the ready list.
    fn dispatch(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        while let Some(Ready { source, readable, writable, gone }) = self.reactor.ready.pop_front() {
            match self.reactor.sources.get(source) {
                Some(Source::Waker) => handler(self.reactor, Event::Woken),
                Some(Source::Pipe { process, fd }) => self.reactor.pipe_ready(process, fd, gone, handler),
                Some(Source::Host) => {
                    let source = SourceId(source);
                    handler(self.reactor, Event::Ready { source, readable: readable || gone, writable });
                }
                // A handler has closed it in this turn. The other kinds are never in this list.
                _ => {}
            }
        }
    }

    /// Reads the pipes on the ready list, each for its share. One that has more is read on in the
    /// next turn.
    fn read_ready(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        for _ in 0..self.reactor.sources.ready_len() {
            let Some(key) = self.reactor.sources.pop_ready() else { break };
            self.need_buffer();
            match self.reactor.sources.get(key) {
                Some(Source::Pipe { process, fd }) => {
                    let reader = self.reactor.processes.get_mut(process).and_then(|child| child.reader(fd));
                    // Otherwise it was read when its process exited.
                    if reader.is_some_and(|reader| std::mem::take(&mut reader.queued)) {
                        self.reactor.read(process, fd, &mut self.buffer, handler);
                    }
                }
                Some(Source::Notify { process }) => self.reactor.read_notify(process, &mut self.buffer, handler),
                _ => {}
            }
        }
    }

    /// Allocates the buffer when it is first needed, because many supervisors only wait.
    fn need_buffer(&mut self) {
        if self.buffer.is_empty() {
            // The kernel zeroes it, page by page as far as it is used.
            self.buffer = vec![0; BUFFER];
        }
    }

    fn tell_notices(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        for _ in 0..self.reactor.notices.len() {
            match self.reactor.notices.pop_front() {
                Some(Notice::Closed { process, fd, lost }) => {
                    if let Some(child) = self.reactor.processes.get_mut(process) {
                        child.reported();
                    }
                    self.reactor.emit_closed(process, fd, lost, handler);
                }
                Some(Notice::Drained { process, fd }) => {
                    handler(self.reactor, Event::Drained { process: ProcessId(process), fd });
                }
                None => break,
            }
        }
    }

    fn reap_exited(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        while let Some(process) = self.reactor.exited.front().copied() {
            self.need_buffer();
            self.reactor.reap(process, &mut self.buffer, handler);
            self.reactor.exited.pop_front();
        }
    }
}

impl Reactor {
    /// Checks everything that the poll could have reported, after it has failed, so that no event
    /// is lost or delayed.
    fn check_everything(&mut self) {
        self.arrived_signals.extend(self.signals.as_mut().map(Signals::drain).unwrap_or_default());
        self.find_stops();
        #[cfg(target_os = "linux")]
        {
            self.discards.stirred = true;
        }
        let inboxes = self.processes.iter().filter(|(_, child)| child.inbox.is_some()).map(|(process, _)| process);
        inboxes.collect::<Vec<_>>().into_iter().for_each(|process| self.notify_ready(process));
        let ended = self.processes.iter().filter(|(_, child)| child.may_have_ended());
        self.exited.extend(ended.map(|(key, _)| key));
        self.trees.stir_all(self.woke);
        let limited = self.processes.iter().filter(|(_, child)| child.process_limit().is_some());
        self.trees.limits.extend(limited.map(|(key, _)| key));
        let all = self.sources.iter().filter(|(_, source)| matches!(source, Source::Pipe { .. } | Source::Host));
        let ready = all.map(|(source, _)| Ready { source, readable: true, writable: true, gone: false });
        self.ready.extend(ready);
    }

    /// Handles a report of the poll about a pipe of ours.
    fn pipe_ready(&mut self, process: Key, fd: i32, gone: bool, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        let Some(child) = self.processes.get_mut(process) else { return };
        let Some(reader) = child.reader(fd) else {
            match child.flush(fd, gone, &mut self.sources) {
                Some(Notice::Closed { process, fd, lost }) => self.emit_closed(process, fd, lost, handler),
                Some(Notice::Drained { process, fd }) => {
                    handler(self, Event::Drained { process: ProcessId(process), fd });
                }
                None => {}
            }
            return;
        };
        if gone {
            reader.hang_up();
        }
        // A hang-up without data does not prove that nothing is left: the kernel checks the data
        // first, and the writers afterwards.
        if reader.paused {
            if reader.is_over() {
                child.close(fd, &mut self.sources);
                self.emit_closed(process, fd, 0, handler);
            }
        } else if !reader.queued {
            reader.queued = true;
            self.sources.push_ready(reader.source);
        }
    }

    /// Reads a pipe for its share of a turn.
    pub(super) fn read(
        &mut self,
        process: Key,
        fd: i32,
        buffer: &mut [u8],
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) {
        self.reading = Some((process, fd));
        self.read_share(process, fd, buffer, handler);
        self.reading = None;
    }

    fn read_share(&mut self, process: Key, fd: i32, buffer: &mut [u8], handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        for _ in 0..READS {
            let Some(reader) = self.processes.get_mut(process).and_then(|child| child.reader(fd)) else { return };
            let read = match reader.paused {
                // The last data may have been read just before the pause.
                true if reader.is_over() => Read::End,
                true => Read::Empty,
                false => reader.read(buffer),
            };
            match read {
                Read::Empty => return,
                Read::Refused => break,
                Read::Data { len, more } => {
                    handler(self, Event::Data { process: ProcessId(process), fd, data: &buffer[..len] });
                    if !more {
                        return;
                    }
                    if len == buffer.len() {
                        break;
                    }
                }
                Read::End => {
                    if let Some(child) = self.processes.get_mut(process) {
                        child.close(fd, &mut self.sources);
                    }
                    self.emit_closed(process, fd, 0, handler);
                    return;
                }
            }
        }
        self.read_again(process, fd);
    }

    /// Makes the next turn go on reading a pipe.
    pub(super) fn read_again(&mut self, process: Key, fd: i32) {
        if let Some(reader) = self.processes.get_mut(process).and_then(|child| child.reader(fd)) {
            if !reader.queued {
                reader.queued = true;
                self.sources.push_ready(reader.source);
            }
        }
    }

    fn emit_closed(&mut self, process: Key, fd: i32, lost: usize, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        if self.processes.get(process).is_some_and(Child::is_over) {
            self.exited.push_back(process);
        }
        handler(self, Event::FdClosed { process: ProcessId(process), fd, lost });
    }

    /// Reports `Ended`, if nothing else is left to report of this process.
    pub(super) fn end_if_over(&mut self, process: Key, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        if self.processes.get(process).is_some_and(Child::is_over) {
            if let Some(exit) = self.processes.remove(process).and_then(Child::into_exit) {
                let told = *exit;
                self.ended.push((process, exit));
                handler(self, Event::Ended { process: ProcessId(process), exit: &told });
            }
        }
    }
}
