//! The system's process table, as `/proc` shows it (`proc(5)`).
//!
//! Decides nothing, and reads only. The one rule: what cannot be told is `None`, never a guess.

use std::collections::HashSet;
use std::fs;

/// The process groups that have a living member, at one moment: a zombie is not one. A member that
/// comes later is the child of one that was there, so a group that is not among them is over, unless
/// its leader was started after the look.
#[derive(Debug)]
pub(crate) struct Living(Option<HashSet<i32>>);

impl Living {
    pub(crate) fn look() -> Self {
        let processes = is_ours().then(|| fs::read_dir("/proc").ok()).flatten();
        let groups = processes.map(|processes| {
            let stats = processes.flatten().filter_map(|process| {
                process.file_name().to_str()?.parse::<u32>().ok()?;
                fs::read(process.path().join("stat")).ok()
            });
            stats.filter_map(|stat| group_of_living(&stat)).collect::<HashSet<i32>>()
        });
        // A /proc without any process is no process table.
        Self(groups.filter(|groups| !groups.is_empty()))
    }

    /// Whether the group has a living member, where that can be told.
    pub(crate) fn has(&self, group: i32) -> Option<bool> {
        self.0.as_ref().map(|groups| groups.contains(&group))
    }
}

/// Whether `/proc` numbers the processes as this one does: not if it is that of another PID namespace (`pid_namespaces(7)`).
fn is_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

/// When a process was started, in clock ticks since the boot. With the pid it tells a process from
/// another one that has got its number.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    if !is_ours() {
        return None;
    }
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    fields(&stat)?.nth(19)?.parse().ok()
}

/// The process group that a line of `/proc/PID/stat` tells of, unless it is a dead one's.
fn group_of_living(stat: &[u8]) -> Option<i32> {
    let mut fields = fields(stat)?;
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(group)
}

/// What follows the name in a line of `/proc/PID/stat`, from the state on. The name may hold anything,
/// but nothing after it holds a parenthesis.
fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let after_name = stat.rsplit(|byte| *byte == b')').next()?;
    Some(std::str::from_utf8(after_name).ok()?.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_group_of_a_living_one() {
        assert_eq!(group_of_living(b"17 (a) b) S 1 42 42 0 -1"), Some(42));
        assert_eq!(group_of_living(b"17 (a) Z 1 42 42 0 -1"), None);
        assert_eq!(group_of_living(b""), None);
        assert_eq!(group_of_living(b"17 (a) S"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn knows_when_we_were_started() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).is_some_and(|ticks| ticks > 0));
        assert!(start_time(own) > start_time(1), "the first process is older");
        assert_eq!(start_time(i32::MAX), None);
    }
}
