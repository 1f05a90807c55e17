//! The events of a reactor, and the ids that they use.
//!
//! This is plain data. The one rule: data that an event lends belongs to the handler only for the
//! length of its call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::timers::TimerId;
use crate::contain::Remains;
use crate::exit::Exit;
use crate::notify::Notice;
use crate::process::ProcessId;
use crate::slab::Key;

/// An event, lent to the handler of [`Reactor::turn`](crate::Reactor::turn).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A process has written data: at most 256 KiB, and never empty.
    Data {
        /// The process.
        process: ProcessId,
        /// The number of its descriptor.
        fd: i32,
        /// The data, lent from the reactor's read buffer.
        data: &'a [u8],
    },
    /// A pipe to a process is closed, by it or by us. This comes once for each pipe.
    FdClosed {
        /// The process.
        process: ProcessId,
        /// The number of its descriptor.
        fd: i32,
        /// The number of bytes that [`Process::write`](crate::Process::write) took and the pipe did
        /// not.
        lost: usize,
    },
    /// Everything that was waiting for a process's descriptor is written, after a producer had been
    /// asked to rest.
    Drained {
        /// The process.
        process: ProcessId,
        /// The number of its descriptor.
        fd: i32,
    },
    /// A process has exited and is reaped. The data that it wrote before comes later, if it has not
    /// come already.
    Exited {
        /// The process.
        process: ProcessId,
        /// The exit status.
        exit: &'a Exit,
    },
    /// A process has exited and all its pipes are closed. This comes exactly once, and is the last
    /// event of the process except for [`TreeGone`](Self::TreeGone) and
    /// [`TreeRemains`](Self::TreeRemains). [`Reactor::exit_of`](crate::Reactor::exit_of) tells the
    /// exit status for one more turn.
    Ended {
        /// The process.
        process: ProcessId,
        /// The exit status.
        exit: &'a Exit,
    },
    /// The last process of a tree is gone: of everything that a process has started, as far as its
    /// [`Containment`](crate::Containment) goes.
    ///
    /// This comes once for each process, after its [`Exited`](Self::Exited): at once if no process
    /// is left then, and otherwise before or after its [`Ended`](Self::Ended). A zombie counts as
    /// gone.
    TreeGone {
        /// The process.
        process: ProcessId,
        /// Whether the kernel has confirmed it. If not, the system cannot tell: the members of a
        /// group whose leader was reaped are found by its pidfd on Linux 6.9 or later, and `/proc`
        /// tells zombies from living processes.
        certain: bool,
    },
    /// A process's tree is still there two seconds after it was [killed](crate::Tree::kill). This
    /// comes once, and [`TreeGone`](Self::TreeGone) comes when the tree is gone. A member in state
    /// `D` is in a system call that not even SIGKILL interrupts.
    TreeRemains {
        /// The process.
        process: ProcessId,
        /// The processes that are still there.
        remains: &'a Remains,
    },
    /// A process, or something that it has started, could not start another process or thread,
    /// because their number has reached the limit: see
    /// [`Command::process_limit`](crate::Command::process_limit). This comes once, as long as the
    /// process has not exited.
    ProcessLimit {
        /// The process.
        process: ProcessId,
    },
    /// A process was stopped by a signal, such as SIGTSTP, or SIGTTIN because it has read from the
    /// terminal: see [`Reactor::watch_stops`](crate::Reactor::watch_stops).
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
    /// A process of the tree has told its state: see [`Command::notify`](crate::Command::notify).
    /// This does not come after [`Exited`](Self::Exited).
    Notified {
        /// The process that was given the socket. It need not be the sender.
        process: ProcessId,
        /// What the sender has said.
        notice: &'a Notice,
    },
    /// Messages were dropped that had come to the socket of a process: see
    /// [`Command::notify`](crate::Command::notify). This comes at most once in a turn for each
    /// process.
    ///
    /// A message counts only if the kernel names a sender that is the process itself, a member of
    /// its cgroup or of the process group that it leads, or a descendant of it. A sender that is
    /// gone before its message was read can only be found in a cgroup, on Linux 6.17 or later;
    /// programs that exit after their message wait until it was read, as `systemd-notify` does
    /// (`sd_notify_barrier(3)`). A message longer than 4096 bytes is dropped, too.
    ///
    /// A message that comes with descriptors counts only if the process itself has sent it. Before
    /// Linux 6.5, which gives no pidfd of a sender, each message is judged by the number of its
    /// sender alone. The descriptors are closed, which answers a barrier. A small process does
    /// that, because a close may wait for as long as the sender likes (on x86-64 and aarch64;
    /// elsewhere the reactor does it).
    NotifyRefused {
        /// The process that was given the socket.
        process: ProcessId,
        /// The pid of the last of these senders, unless it has none in this PID namespace. It may
        /// belong to another process by now.
        pid: Option<u32>,
        /// The number of messages.
        count: usize,
    },
    /// The program was suspended by [`Reactor::suspend`](crate::Reactor::suspend), and goes on. All
    /// timers were delayed by the length of the suspension. A host that keeps times of its own may
    /// do the same.
    Resumed {
        /// The length of the suspension.
        after: Duration,
    },
    /// A descendant of this program has lost its parent, and is now a child of this program: see
    /// [`Reactor::adopt_orphans`](crate::Reactor::adopt_orphans). This comes once, when the orphan
    /// is found, which may have exited by then. Its reaping causes no event.
    Orphan {
        /// The process id. It may belong to another process as soon as this one is gone.
        pid: u32,
        /// The name of the process.
        name: &'a str,
    },
    /// A timer is due.
    Timer(TimerId),
    /// A watched signal has arrived, once or more often.
    Signal(i32),
    /// A descriptor of the host's has become ready. This is edge-triggered: it is not reported
    /// again before a read or write has returned `WouldBlock`.
    Ready {
        /// The descriptor's id.
        source: SourceId,
        /// Whether it can be read, or is closed at the other end.
        readable: bool,
        /// Whether it can be written.
        writable: bool,
    },
    /// A [`Waker`] was used, once or more often.
    Woken,
}

/// The kind of readiness of a host's descriptor that causes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interest {
    /// It can be read.
    Readable,
    /// It can be written.
    Writable,
    /// Both.
    Both,
}

/// The id of a descriptor of the host's in a reactor: see
/// [`Reactor::register`](crate::Reactor::register). It is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(super) Key);

/// Wakes a reactor from another thread, by the event [`Event::Woken`].
#[derive(Debug, Clone)]
pub struct Waker(pub(super) Arc<mio::Waker>);

impl Waker {
    /// Wakes the reactor, or its next turn if it is not waiting now.
    ///
    /// # Errors
    ///
    /// The system's error. No cause of one is known.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}
