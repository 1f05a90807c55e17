//! What a reactor has to say, and the names of what it speaks of.
//!
//! Plain data. The one rule: what is lent here is the handler's for the length of its call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::timers::TimerId;
use crate::contain::Remains;
use crate::exit::Exit;
use crate::process::ProcessId;
use crate::slab::Key;

/// Something that has happened: lent to the handler of [`Reactor::turn`](crate::Reactor::turn).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A process has written something. At most 256 KiB, and never empty.
    Data {
        /// Who.
        process: ProcessId,
        /// At which of its descriptors.
        fd: i32,
        /// What. Lent from the reactor's read buffer.
        data: &'a [u8],
    },
    /// A pipe to a process is closed, by it or by us: once for each pipe.
    FdClosed {
        /// Whose.
        process: ProcessId,
        /// Its descriptor.
        fd: i32,
        /// How many bytes were taken by [`Process::write`](crate::Process::write) and not by the pipe.
        lost: usize,
    },
    /// All is written that was waiting for a process's descriptor, and a producer had been asked to rest.
    Drained {
        /// Whose.
        process: ProcessId,
        /// Its descriptor.
        fd: i32,
    },
    /// A process has exited and is reaped. What it wrote before is still coming, if it has not come already.
    Exited {
        /// Who.
        process: ProcessId,
        /// How.
        exit: &'a Exit,
    },
    /// A process has exited and all its pipes are closed. It comes exactly once, and is the last event of this process, but for
    /// [`TreeGone`](Self::TreeGone) and [`TreeRemains`](Self::TreeRemains).
    Ended {
        /// Who.
        process: ProcessId,
        /// How it exited.
        exit: &'a Exit,
    },
    /// The last one of a process's tree is gone: of all that it has started, as far as its
    /// [`Containment`](crate::Containment) goes. It comes once for each process, after its [`Exited`](Self::Exited): at once if nobody is
    /// left then, and otherwise before or after its [`Ended`](Self::Ended). A dead one that nobody has reaped is gone.
    TreeGone {
        /// The process.
        process: ProcessId,
        /// The kernel has said so. If not, the system cannot tell: the members of a group whose leader was reaped are found by
        /// its pidfd on Linux 6.9 or later, and the dead are told from the living by `/proc`.
        certain: bool,
    },
    /// Two seconds after a process's tree was [killed](crate::Tree::kill) it is still there. It is told once, and
    /// [`TreeGone`](Self::TreeGone) comes when it is gone. A member in state `D` is in a system call that not even SIGKILL interrupts.
    TreeRemains {
        /// The process.
        process: ProcessId,
        /// Who is still there.
        remains: &'a Remains,
    },
    /// A process was stopped by a signal, such as SIGTSTP, or SIGTTIN because it has asked the terminal:
    /// see [`Reactor::watch_stops`](crate::Reactor::watch_stops).
    Stopped {
        /// The process.
        process: ProcessId,
        /// The number of the signal.
        signal: i32,
    },
    /// A process that was stopped has been continued by SIGCONT.
    Continued {
        /// The process.
        process: ProcessId,
    },
    /// The program was stopped by [`Reactor::suspend`](crate::Reactor::suspend), and goes on. All timers
    /// were put off by the time that it stood still. Whoever keeps times of its own may do the same.
    Resumed {
        /// How long it stood still.
        after: Duration,
    },
    /// A descendant of this program has lost its parent, and is a child of this program now: see
    /// [`Reactor::adopt_orphans`](crate::Reactor::adopt_orphans). It is told once, when it is found, and may be dead by then. It
    /// is reaped without another word.
    Orphan {
        /// Its number in the system. It may be another process's as soon as this one is gone.
        pid: u32,
        /// Its name.
        name: &'a str,
    },
    /// The time of a timer has come.
    Timer(TimerId),
    /// A watched signal has come, once or more often.
    Signal(i32),
    /// A descriptor of the host's has become ready. Edge-triggered: not told again before a read or write said `WouldBlock`.
    Ready {
        /// Which.
        source: SourceId,
        /// It can be read, or is closed at the other end.
        readable: bool,
        /// It can be written.
        writable: bool,
    },
    /// A [`Waker`] was used, once or more often.
    Woken,
}

/// What the host wants to know of a descriptor of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interest {
    /// When it can be read.
    Readable,
    /// When it can be written.
    Writable,
    /// Both.
    Both,
}

/// A descriptor of the host's in a reactor: see [`Reactor::register`](crate::Reactor::register). Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(super) Key);

/// Wakes a reactor from another thread: [`Event::Woken`] comes.
#[derive(Debug, Clone)]
pub struct Waker(pub(super) Arc<mio::Waker>);

impl Waker {
    /// Wakes the reactor, or its next turn if it is not waiting now.
    ///
    /// # Errors
    ///
    /// What the system says; nothing is known that would make it say anything.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}
