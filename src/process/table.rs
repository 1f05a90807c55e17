//! Reads the system's process table, as `/proc` shows it (`proc(5)`).
//!
//! It decides nothing and changes nothing. The one rule: the answer is `None`, and never a guess,
//! if the system does not show it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::contain::Member;
use crate::sys;
use crate::used::{Covers, Figure, Used};

/// How many scans are made in a row before an incomplete one must do.
const LOOKS: u32 = 3;
/// How many times a scan continues with the processes that were started in the meantime.
const ROUNDS: u32 = 20;
/// How many such processes it reads each time at most.
const NEW: i32 = 1000;
/// The number from which the kernel counts again after the highest one (`RESERVED_PIDS`).
const RESERVED: u64 = 300;

/// How many scans have begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// A moment in the order of scans and kills: see [`Living::has`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Returns a moment before every scan that begins from now on.
    pub(crate) fn now() -> Self {
        Self(BEGUN.load(Ordering::SeqCst))
    }
}

/// A scan for the process groups that have a living member. A zombie does not count.
///
/// `/proc` is not read in one moment. While it is read, a process can fork a child whose number was
/// already passed, and exit before its own number is reached. So a scan continues with the numbers
/// that were given out during it, until there are no new ones. A group that was not seen then is
/// empty. It is also empty if all of its members had been killed before the scan, since none of
/// them could start a process.
#[derive(Debug)]
pub(crate) struct Living {
    /// The living members of each group that were seen, by the group's number. A member may be in
    /// the list twice.
    groups: Option<HashMap<i32, Vec<i32>>>,
    /// The groups that have a zombie.
    dead: HashSet<i32>,
    began: u64,
    /// Whether no process that was started during the scan was missed.
    complete: bool,
    looks: u32,
}

impl Living {
    pub(crate) fn look() -> Self {
        let began = BEGUN.fetch_add(1, Ordering::SeqCst);
        let mut living = Self { groups: None, dead: HashSet::new(), began, complete: false, looks: 1 };
        let (forks_before, mut last) = (forks(), last_pid());
        let Some(processes) = is_ours().then(|| fs::read_dir("/proc").ok()).flatten() else { return living };
        let mut groups = HashMap::new();
        for process in processes.flatten() {
            if let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) {
                living.note(pid, &mut groups);
            }
        }
        for _ in 0..ROUNDS {
            let (Some(before), Some(now)) = (last, last_pid()) else { break };
            if before == now {
                let forks = forks().zip(forks_before).map(|(now, before)| now.saturating_sub(before));
                // A round through all numbers would look like no new process.
                let numbers = pid_max().map(|max| max.saturating_sub(RESERVED));
                living.complete = forks.zip(numbers).is_some_and(|(forks, numbers)| forks < numbers / 4);
                break;
            }
            if !(before..before.saturating_add(NEW)).contains(&now) {
                break;
            }
            (before + 1..=now).for_each(|pid| living.note(pid, &mut groups));
            last = Some(now);
        }
        // A `/proc` that shows no process is not a process table.
        living.groups = Some(groups).filter(|groups| !groups.is_empty());
        living
    }

    fn note(&mut self, pid: i32, groups: &mut HashMap<i32, Vec<i32>>) {
        let stat = read_stat(pid);
        match stat.as_deref().and_then(state_and_group) {
            Some(('Z' | 'X' | 'x', group)) => _ = self.dead.insert(group),
            Some((_, group)) => groups.entry(group).or_default().push(pid),
            None => {}
        }
    }

    /// Tells whether the group has a living member, or `None` if the system cannot tell. `killed`
    /// is when all of its members were killed.
    pub(crate) fn has(&mut self, group: i32, killed: Option<Moment>) -> Option<bool> {
        loop {
            if self.groups.as_ref()?.contains_key(&group) {
                return Some(true);
            }
            if self.complete || killed.is_some_and(|killed| self.began >= killed.0) {
                return Some(false);
            }
            if self.looks >= LOOKS {
                // A member may have been missed.
                return Some(true);
            }
            *self = Self { looks: self.looks + 1, ..Self::look() };
        }
    }

    /// Returns a living member of the group, if one was seen.
    pub(crate) fn member(&self, group: i32) -> Option<i32> {
        self.groups.as_ref()?.get(&group)?.last().copied()
    }

    /// Those members of the group that were seen and that are still alive and in it. `None` where
    /// that cannot be told.
    pub(crate) fn members(&self, group: i32) -> Option<Vec<Member>> {
        let mut pids = self.groups.as_ref()?.get(&group).cloned().unwrap_or_default();
        pids.sort_unstable();
        pids.dedup();
        let stats = pids.iter().filter_map(|pid| read_stat(*pid));
        Some(stats.filter(|stat| is_living(stat, group)).filter_map(|stat| member(&stat)).collect())
    }

    /// Tells whether a zombie of the group was seen.
    pub(crate) fn has_dead(&self, group: i32) -> bool {
        self.dead.contains(&group)
    }
}

/// Returns the number that was given out last to a process or thread of this PID namespace.
fn last_pid() -> Option<i32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Returns the limit below which the kernel gives out numbers.
fn pid_max() -> Option<u64> {
    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

/// Returns how many processes and threads the system has started since its boot, in all PID
/// namespaces.
fn forks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("processes "))?.trim().parse().ok()
}

/// Tells whether `/proc` numbers the processes as this process does. It does not if it shows
/// another PID namespace (`pid_namespaces(7)`).
fn is_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

/// Reads a file of a process.
fn read(pid: i32, file: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/{file}")).ok()
}

fn read_stat(pid: i32) -> Option<Vec<u8>> {
    read(pid, "stat")
}

/// Returns when a process was started, in clock ticks since the boot. Together with the pid this
/// tells a process from a later one with the same number.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    if !is_ours() {
        return None;
    }
    let stat = read_stat(pid)?;
    fields(&stat)?.nth(19)?.parse().ok()
}

/// Tells whether a process has exited and is unreaped, or `None` if the system cannot tell.
pub(crate) fn is_zombie(pid: i32) -> Option<bool> {
    let stat = is_ours().then(|| read_stat(pid)).flatten()?;
    state_and_group(&stat).map(|(state, _)| matches!(state, 'Z' | 'X' | 'x'))
}

/// Tells whether a process is alive and in this group.
pub(crate) fn is_living_member(pid: i32, group: i32) -> bool {
    let stat = read_stat(pid);
    stat.is_some_and(|stat| is_living(&stat, group))
}

fn is_living(stat: &[u8], group: i32) -> bool {
    state_and_group(stat).is_some_and(|(state, found)| found == group && !matches!(state, 'Z' | 'X' | 'x'))
}

/// Returns the process group of a process, living or zombie.
pub(crate) fn group_of(pid: i32) -> Option<i32> {
    let stat = is_ours().then(|| read_stat(pid)).flatten()?;
    state_and_group(&stat).map(|(_, group)| group)
}

/// Tells whether a process descends from another one by a chain of living parents that is no longer
/// than `depth`. A process whose parent has exited belongs to another parent.
pub(crate) fn descends(pid: i32, ancestor: i32, depth: u32) -> bool {
    let Some(mut stat) = is_ours().then(|| parent_and_start(pid)).flatten() else { return false };
    for _ in 0..depth {
        let (parent, started) = stat;
        if parent == ancestor {
            return true;
        }
        match parent_and_start(parent) {
            // No process is older than its parent, so the number has not changed hands.
            Some(next) if parent > 1 && next.1 <= started => stat = next,
            _ => return false,
        }
    }
    false
}

fn parent_and_start(pid: i32) -> Option<(i32, u64)> {
    let stat = read_stat(pid)?;
    let mut fields = fields(&stat)?;
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

/// Returns the path of the cgroup v2 of a process, living or zombie.
pub(crate) fn cgroup_of(pid: i32) -> Option<String> {
    let text = is_ours().then(|| read(pid, "cgroup")).flatten()?;
    let text = String::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Returns what `/proc` says of these processes. It leaves out zombies and processes that are gone.
pub(crate) fn members(pids: &[i32]) -> Vec<Member> {
    if !is_ours() {
        return Vec::new();
    }
    let members = pids.iter().filter_map(|pid| member(&read_stat(*pid)?));
    members.filter(|member| !matches!(member.state, 'Z' | 'X' | 'x')).collect()
}

/// Returns the children of this program with zombies, or `None` if the system cannot tell.
#[cfg(target_os = "linux")]
pub(crate) fn children() -> Option<Vec<i32>> {
    if !is_ours() {
        return None;
    }
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    let lists: Option<Vec<String>> =
        threads.map(|thread| fs::read_to_string(thread.path().join("children")).ok()).collect();
    if let Some(lists) = lists.filter(|lists| !lists.is_empty()) {
        return Some(lists.iter().flat_map(|list| list.split_ascii_whitespace()).flat_map(str::parse).collect());
    }
    // This kernel does not have those lists.
    let own = i32::try_from(std::process::id()).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    let is_ours = |pid: &i32| {
        let stat = read_stat(*pid);
        let parent = stat.as_deref().and_then(fields).and_then(|mut fields| fields.nth(1)?.parse::<i32>().ok());
        parent == Some(own)
    };
    Some(pids.filter(is_ours).collect())
}

/// Returns the name of a process, living or zombie.
#[cfg(target_os = "linux")]
pub(crate) fn name(pid: i32) -> Option<String> {
    let name = read(pid, "comm")?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}

/// Returns what a process has used itself, as far as that is shown.
pub(crate) fn used(pid: i32) -> Used {
    fn leader<T>(value: T) -> Figure<T> {
        Figure { value, covers: Covers::Leader }
    }
    let mut used = Used::default();
    if !is_ours() {
        return used;
    }
    let stat = read_stat(pid).unwrap_or_default();
    let number = |index: usize| fields(&stat)?.nth(index)?.parse::<u64>().ok();
    let time = |ticks: u64| leader(Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / sys::clock_ticks())));
    (used.user_time, used.system_time) = (number(11).map(time), number(12).map(time));
    (used.minor_faults, used.major_faults) = (number(7).map(leader), number(9).map(leader));
    used.peak_memory = read(pid, "status").and_then(|status| sys::memory::peak_in(&status)).map(leader);
    used
}

/// Parses a line of `/proc/PID/stat`.
fn member(stat: &[u8]) -> Option<Member> {
    let start = stat.iter().position(|byte| *byte == b'(')?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let name = String::from_utf8_lossy(stat.get(start + 1..end)?).into_owned();
    let pid = std::str::from_utf8(stat.get(..start)?).ok()?.trim().parse().ok()?;
    let mut fields = fields(stat)?;
    let state = fields.next()?.chars().next()?;
    let pages: u64 = fields.nth(20)?.parse().ok()?;
    Some(Member { pid, name, state, memory: pages * sys::page_size() })
}

/// Returns the state and the process group from a line of `/proc/PID/stat`.
fn state_and_group(stat: &[u8]) -> Option<(char, i32)> {
    let mut fields = fields(stat)?;
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

/// Returns the fields after the name in a line of `/proc/PID/stat`, beginning with the state. The
/// name may hold any byte, but nothing after it holds a parenthesis.
fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let after_name = stat.rsplit(|byte| *byte == b')').next()?;
    Some(std::str::from_utf8(after_name).ok()?.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_state_and_the_group() {
        assert_eq!(state_and_group(b"17 (a) b) S 1 42 42 0 -1"), Some(('S', 42)));
        assert_eq!(state_and_group(b"17 (a) Z 1 42 42 0 -1"), Some(('Z', 42)));
        assert_eq!(state_and_group(b""), None);
        assert_eq!(state_and_group(b"17 (a) S"), None);
    }

    #[test]
    fn what_was_not_seen_is_over_only_if_nobody_could_have_come() {
        let now = Moment::now();
        let mut living = Living { complete: false, looks: LOOKS, ..Living::look() };
        let (none, own) = (i32::MAX, i32::try_from(std::process::id()).unwrap());
        assert_eq!(living.has(none, None), Some(true));
        assert_eq!(living.has(none, Some(Moment::now())), Some(true), "killed after the look");
        assert_eq!(living.has(none, Some(now)), Some(false), "killed before it");
        living.complete = true;
        assert_eq!(living.has(none, None), Some(false));
        living.groups = None;
        assert_eq!(living.has(own, None), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn knows_when_we_were_started() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).is_some_and(|ticks| ticks > 0));
        assert!(start_time(own) > start_time(1), "the first process is older");
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn follows_the_parents() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (parent, started) = parent_and_start(own).unwrap();
        assert_eq!(Some(started), start_time(own));
        assert!(descends(own, parent, 1) && !descends(own, parent, 0));
        assert!(!descends(own, own, 50) && !descends(own, i32::MAX, 50) && !descends(i32::MAX, own, 50));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reads_what_a_process_is() {
        use std::io::{Read, Write};
        use std::process::{Command, Stdio};

        // Some emulators show a process less of itself than of others.
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        cat.stdin.as_ref().unwrap().write_all(b"x").unwrap();
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let [member] = &members(&[cat.id().try_into().unwrap(), i32::MAX])[..] else { panic!("one member") };
        assert_eq!((member.pid, &*member.name), (cat.id(), "cat"));
        assert!(member.memory > 100 * 1024 && matches!(member.state, 'R' | 'S'), "{member:?}");
        drop(cat.stdin.take());
        assert!(cat.wait().unwrap().success());
    }
}
