//! The CPU time and the memory of a living process, from procfs. They are missing where there is no
//! procfs.
//!
//! The one rule: a figure that cannot be read is left out and never guessed.

use std::fs;
use std::time::Duration;

/// The CPU time and the peak memory of a process without its children.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu: Option<Duration>,
    /// In bytes.
    pub(super) peak_memory: Option<u64>,
}

impl Usage {
    /// The usage of a process that has not been reaped, so that no other process can have its pid.
    pub(super) fn of(pid: u32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        Self { cpu: cpu(&read("stat"), rustix::param::clock_ticks_per_second()), peak_memory: peak(&read("status")) }
    }
}

/// Reads `/proc/PID/stat`. The name, in brackets, may hold anything, brackets and spaces too.
fn cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(") ")?;
    // utime and stime, the 14th and the 15th field of the line.
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?;
    Some(Duration::from_millis(ticks.checked_mul(1000)? / ticks_per_second.max(1)))
}

/// Reads `/proc/PID/status`. A zombie has no such line.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_procfs_writes() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194560 100 0 0 0 123 77 0 0 20 0 1 0 100 1 2 3\n";
        assert_eq!(cpu(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(peak("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    1688 kB\n"), Some(1688 * 1024));
        for broken in ["", "1 (x", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b"] {
            assert_eq!(cpu(broken, 100), None);
            assert_eq!(peak(broken), None);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn knows_of_ourselves() {
        let usage = Usage::of(std::process::id());
        assert!(usage.cpu.is_some() && usage.peak_memory > Some(100_000), "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), Usage::default());
    }
}
