//! One turn: the wait, and then what happened, in its order.
//!
//! Edge-triggered: read until `WouldBlock` or remember. The one rule: nothing is taken off a list before its turn has come, since a
//! handler may panic and the host go on.

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

/// One read, and a source's share of a turn: a noisy child must not make the quiet ones wait. As much as its pipe holds, so that
/// whatever it has filled is emptied at once: it writes on while the others are read, and we seldom meet it at the same pipe.
const BUFFER: usize = LARGE_PIPE;
/// Reads of one source in one turn where each brings little: the lines of a terminal, the last words of a child and their end.
const READS: usize = 2;

/// What the poll said of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    source: Key,
    readable: bool,
    writable: bool,
    /// Closed at the other end.
    gone: bool,
}

/// A turn under way: its events and its read buffer are out of the reactor, which the handler has in its hands.
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
            // In the midst of a read: the poll will not tell of what is left.
            self.reactor.read_again(process, fd);
        }
    }
}

impl Turn<'_> {
    pub(super) fn take(
        &mut self,
        timeout: Option<Duration>,
        handler: &mut dyn FnMut(&mut Reactor, Event<'_>),
    ) -> io::Result<()> {
        let timeout = if self.reactor.has_work() {
            Some(Duration::ZERO)
        } else {
            let due = self.reactor.next_due().map(|deadline| deadline.saturating_duration_since(clock()));
            timeout.into_iter().chain(due).min()
        };
        let Some(events) = &mut self.events else { return Ok(()) };
        let polled = self.reactor.poll.poll(events, timeout);
        self.reactor.woke = clock();
        self.reactor.living = None;
        let polled = match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            Err(error) => {
                events.clear();
                self.reactor.look_at_everything();
                Err(explain("cannot wait for events", error))
            }
            Ok(()) => Ok(()),
        };
        self.reactor.full = events.iter().count() >= EVENTS;
        let mark = self.reactor.timers.begin_turn();

        let suspensions = stops::suspensions();
        self.take_in();
        self.reactor.tell_stops(handler);
        self.dispatch(handler);
        // Each with what it has left to read. Of many that died at once the first can be started again before the last is
        // read.
        self.bury_dead(handler);
        self.read_ready(handler);
        self.tell_notices(handler);
        self.bury_dead(handler);
        self.reactor.settle_trees(handler);
        #[cfg(target_os = "linux")]
        self.reactor.settle_orphans(handler);
        while let Some(signal) = self.reactor.come.pop_front() {
            if signal != libc::SIGCHLD || self.reactor.sigchld.for_host {
                handler(self.reactor, Event::Signal(signal));
            }
        }
        while let Some(id) = self.reactor.timers.pop_due(self.reactor.woke, mark) {
            handler(self.reactor, Event::Timer(id));
        }
        // Whatever came before these has been told now.
        self.reactor.suspensions = self.reactor.suspensions.max(suspensions);
        polled
    }

    /// Remembers what the poll said, all of it before the first handler runs.
    fn take_in(&mut self) {
        let reactor = &mut *self.reactor;
        for event in self.events.iter().flatten() {
            let source = Key::from_usize(event.token().0);
            match reactor.sources.get(source) {
                None => {}
                // The wake-up was all there is to it.
                #[cfg(target_os = "linux")]
                Some(Source::Alarm) => {}
                Some(Source::Signals) => {
                    // The pipe is emptied before anything that it may be about: a signal that comes meanwhile is a new byte.
                    reactor.come.extend(reactor.signals.as_mut().map(Signals::drain).unwrap_or_default());
                }
                Some(Source::Pidfd { process }) => reactor.dead.push_back(process),
                #[cfg(target_os = "linux")]
                Some(Source::Guard) => reactor.guard.ended = true,
                Some(Source::Tree { process }) => reactor.trees.stir(process, reactor.woke),
                Some(Source::Waker | Source::Pipe { .. } | Source::Host) => {
                    let gone = event.is_error() || event.is_read_closed() || event.is_write_closed();
                    let (readable, writable) = (event.is_readable(), event.is_writable());
                    reactor.ready.push_back(Ready { source, readable, writable, gone });
                }
            }
        }
        if reactor.come.contains(&libc::SIGCHLD) || reactor.sweep {
            reactor.sweep = true;
            #[cfg(target_os = "linux")]
            if let Some(orphans) = &mut reactor.orphans {
                orphans.stirred = true;
            }
            reactor.find_stops();
        }
        reactor.find_dead();
    }

    /// Hands out what needs no read, and puts the rest on the list of those to read.
    fn dispatch(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        while let Some(Ready { source, readable, writable, gone }) = self.reactor.ready.pop_front() {
            match self.reactor.sources.get(source) {
                Some(Source::Waker) => handler(self.reactor, Event::Woken),
                Some(Source::Pipe { process, fd }) => self.reactor.pipe_ready(process, fd, gone, handler),
                Some(Source::Host) => {
                    let source = SourceId(source);
                    handler(self.reactor, Event::Ready { source, readable: readable || gone, writable });
                }
                // Closed by a handler in this very turn; the others are never among them.
                _ => {}
            }
        }
    }

    /// Reads what is readable: each source its share, and those that have more come again in the next turn.
    fn read_ready(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        for _ in 0..self.reactor.sources.ready_len() {
            let Some(key) = self.reactor.sources.pop_ready() else { break };
            self.need_buffer();
            if let Some(Source::Pipe { process, fd }) = self.reactor.sources.get(key) {
                let reader = self.reactor.processes.get_mut(process).and_then(|child| child.reader(fd));
                // Else it was read with its process's death.
                if reader.is_some_and(|reader| std::mem::take(&mut reader.queued)) {
                    self.reactor.read(process, fd, &mut self.buffer, handler);
                }
            }
        }
    }

    /// Not before there is something to read: many a supervisor only waits.
    fn need_buffer(&mut self) {
        if self.buffer.is_empty() {
            // Zeroed by the kernel, page by page as far as they are used.
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

    fn bury_dead(&mut self, handler: &mut dyn FnMut(&mut Reactor, Event<'_>)) {
        while let Some(process) = self.reactor.dead.front().copied() {
            self.need_buffer();
            self.reactor.bury(process, &mut self.buffer, handler);
            self.reactor.dead.pop_front();
        }
    }
}

impl Reactor {
    /// The poll has failed: everything that it could have told of is looked at, so that nothing is lost
    /// and nobody waits for it.
    fn look_at_everything(&mut self) {
        self.come.extend(self.signals.as_mut().map(Signals::drain).unwrap_or_default());
        self.find_stops();
        let ended = self.processes.iter().filter(|(_, child)| child.has_ended());
        self.dead.extend(ended.map(|(key, _)| key));
        self.trees.stir_all(self.woke);
        let all = self.sources.iter().filter(|(_, source)| matches!(source, Source::Pipe { .. } | Source::Host));
        let ready = all.map(|(source, _)| Ready { source, readable: true, writable: true, gone: false });
        self.ready.extend(ready);
    }

    /// The poll has something to say of a pipe of ours.
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
        // A hang-up without data is no proof that nothing is left: the kernel looks at the data first, and at the writers after.
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

    /// Reads a pipe's share of a turn.
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
                // The last of it may have been read just before the pause.
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

    /// Has the next turn go on reading a pipe.
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
            self.dead.push_back(process);
        }
        handler(self, Event::FdClosed { process: ProcessId(process), fd, lost });
    }

    /// `Ended`, if nothing else is to be told of this process.
    pub(super) fn end_if_over(&mut self, process: Key, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        if self.processes.get(process).is_some_and(Child::is_over) {
            if let Some(exit) = self.processes.remove(process).and_then(|child| child.exit().copied()) {
                handler(self, Event::Ended { process: ProcessId(process), exit: &exit });
            }
        }
    }
}
