//! What the processes of a cgroup have used together, as the kernel's files tell (`cgroups(7)`).
//!
//! It reads and sets no limit. The one rule: a file that is not there, or that says something else
//! than expected, makes its figure absent, never zero.

use std::os::fd::AsFd;
use std::time::Duration;

use super::Cgroup;
use crate::sys::cgroup;
use crate::used::{Covers, Figure, Pressure, Used};

impl Cgroup {
    /// Returns the CPU time of all that ever were members: in user mode, and in the kernel. It
    /// needs no controller.
    pub(crate) fn cpu_time(&self) -> Option<(Duration, Duration)> {
        let stat = self.read("cpu.stat")?;
        Some((micros(&stat, "user_usec")?, micros(&stat, "system_usec")?))
    }

    /// Replaces the figures that the cgroup knows of the whole tree.
    pub(crate) fn measure(&self, used: &mut Used) {
        if let Some((user, system)) = self.cpu_time() {
            used.user_time = Some(tree(user));
            used.system_time = Some(tree(system));
        }
        if let Some(peak) = self.read("memory.peak").as_deref().and_then(number) {
            used.peak_memory = Some(tree(peak));
        }
        used.peak_processes = self.read("pids.peak").as_deref().and_then(number).map(tree);
        // A cgroup that has done no I/O has an empty file.
        if let Some(io) = self.read("io.stat") {
            used.bytes_read = Some(tree(sum_of(&io, "rbytes=")));
            used.bytes_written = Some(tree(sum_of(&io, "wbytes=")));
        }
        let pressure = |file| micros(&self.read(file)?.replace('=', " "), "total");
        let pressures = (pressure("cpu.pressure"), pressure("memory.pressure"), pressure("io.pressure"));
        if let (Some(cpu), Some(memory), Some(io)) = pressures {
            used.pressure = Some(Pressure { cpu, memory, io });
        }
    }

    /// Returns how many processes the kernel has killed because the memory limit was reached.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.read("memory.events.local").and_then(|events| field(&events, "oom_kill")).unwrap_or(0)
    }

    fn read(&self, file: &str) -> Option<String> {
        cgroup::read_at(self.home.dir.as_fd(), &self.file(file)).ok()
    }
}

fn tree<T>(value: T) -> Figure<T> {
    Figure { value, covers: Covers::Tree }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Returns the number after a word.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != name);
    words.nth(1)?.parse().ok()
}

fn micros(text: &str, name: &str) -> Option<Duration> {
    field(text, name).map(Duration::from_micros)
}

/// Returns the sum of the numbers with this key, of all devices.
fn sum_of(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_files() {
        let stat = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnice_usec 0\n";
        assert_eq!(micros(stat, "user_usec"), Some(Duration::from_secs(1)));
        assert_eq!(micros(stat, "nr_periods"), None);
        let io = "8:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n8:0 rbytes=1 wbytes=7 rios=0 wios=1\n";
        assert_eq!((sum_of(io, "rbytes="), sum_of(io, "wbytes="), sum_of("", "rbytes=")), (4097, 7, 0));
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((field(events, "oom_kill"), field(events, "max")), (Some(2), Some(12)));
        assert_eq!(number("max\n"), None);
    }
}
