//! Control of a running supervisor from the shell: the protocol, its server in the supervisor, and
//! its clients. The server knows nothing of processes: it hands out requests and takes answers.
//!
//! The one rule: whatever a client sends or does not read, it can lose no more than its own
//! connection.

pub(super) mod client;
mod connection;
mod lock;
mod place;
pub(super) mod protocol;
pub(super) mod send;
pub(super) mod server;
mod show;
mod socket;
mod supervisor;
pub(super) mod table;
#[cfg(target_os = "linux")]
mod watch;

pub(super) use lock::Lock;
pub(super) use server::{ClientId, Server};
