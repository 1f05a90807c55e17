//! What holds for every process that the commands run.
//!
//! The one rule: a process of a supervisor has nobody at a terminal to ask.

use childminder::Command;

/// Gives the process a session of its own, without a terminal, and has it end with us if nothing can be
/// done for it any more.
///
/// On our terminal a process that asks for a password would be stopped by the kernel, for good. Without a
/// terminal it gets its error at once. The kernel kills it if we are killed by SIGKILL, or by a fault of
/// our own; every other end of ours stops it in order.
pub(crate) fn confine(command: &mut Command) {
    command.setsid(true);
    #[cfg(target_os = "linux")]
    command.parent_death_signal(libc::SIGKILL);
}
