//! The settings of all files together, as plain data. Reads no file and starts nothing.
//!
//! The one rule: the settings need no further check.

use std::path::PathBuf;
use std::time::Duration;

use childminder::Order;

use super::instances::numbers;
use super::links::Links;
use super::process::{Look, ProcessConfig};
use super::socket::{Access, SocketPath};
use super::table::Table;

/// The settings of the whole file.
#[derive(Debug)]
pub(crate) struct Config {
    /// The file itself, or the first one of a folder. Absolute.
    pub(crate) file: PathBuf,
    /// The control socket, if the file sets it.
    pub(crate) socket: Option<SocketPath>,
    /// Who may use it besides root and our own user.
    pub(crate) access: Access,
    /// Whether the processes are killed if the supervisor is.
    pub(crate) kills_at_death: bool,
    /// The directory in which the cgroups of the processes are made, if the file sets it. Absolute.
    pub(crate) cgroup: Option<PathBuf>,
    /// The time between the request to stop and SIGKILL for everything that has no kill time of its
    /// own.
    pub(crate) kill_time: Duration,
    /// How our own messages are written, and the lines of processes that do not say it.
    pub(crate) look: Look,
    /// The order of the processes.
    pub(crate) order: Order,
    pub(super) links: Links,
    pub(super) tables: Vec<Table>,
}

impl Config {
    /// All processes in the order of the file. The instances of a table follow each other.
    pub(crate) fn processes(&self) -> impl Iterator<Item = ProcessConfig> {
        self.tables.iter().flat_map(|table| numbers(table.instances).map(|instance| table.process(instance)))
    }

    /// The same as [`processes`](Self::processes), but each table is dropped as soon as its
    /// processes are made.
    pub(crate) fn into_processes(self) -> impl Iterator<Item = ProcessConfig> {
        let tables = self.tables.into_iter();
        tables.flat_map(|table| numbers(table.instances).map(move |instance| table.process(instance)))
    }
}
