//! The messages of the commands about a process. Prints nothing.
//!
//! The one rule: each message has one place, so that `run` and `up` use the same words.

use std::time::{Duration, Instant};

use childminder::restart::State;
use childminder::{Exit, Member, Readiness, Remains, Status, signal};

pub(crate) fn started(pid: u32) -> String {
    format!("started, pid {pid}")
}

pub(crate) fn exited(exit: &Exit) -> String {
    format!("exited: {exit}, after {} s, {} s CPU", millis(exit.wall_time), millis(exit.usage.cpu_time()))
}

pub(crate) fn restarting(delay: Duration) -> String {
    if delay.is_zero() {
        return "restarting now".into();
    }
    format!("restarting in {} s", seconds(delay))
}

/// Seconds with as many digits as needed, at most three after the point: `90`, `0.5`.
pub(crate) fn seconds(time: Duration) -> String {
    millis(time).trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds with three digits after the point. It avoids the floating-point formatting of std, which
/// is large.
fn millis(time: Duration) -> String {
    let millis = time.saturating_add(Duration::from_micros(500)).as_millis();
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// The reason why a command has ended although no user ended it.
pub(crate) fn stopped_because(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::TimedOut => error.to_string(),
        _ => format!("{error}; what was running has been stopped"),
    }
}

/// The message about a process that has lost its parent, if this command is the first process of a
/// container.
pub(crate) fn orphan(pid: u32, name: &str) -> String {
    format!("pid {pid} ({name}) has lost its parent, and is reaped here when it ends")
}

/// The message that a killed command will leave descendants of its processes running, because there
/// is no guard.
pub(crate) fn no_guard(error: &std::io::Error) -> String {
    format!(
        "cannot start the guard: {error}; if this command is killed, what its processes have started is left running"
    )
}

/// The message about a process that could not be ended.
pub(crate) fn left_running(status: &Status<'_>) -> String {
    let pid = status.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!("left running{pid}: {}", status.refusal.unwrap_or("it was killed, and is still there"))
}

pub(crate) const HANGUP: &str = "the terminal was closed; stopping";

/// The state of a process, and how long it has been in it.
pub(crate) fn status(status: &Status<'_>, now: Instant) -> String {
    let lasting = |since: Instant| seconds(now.saturating_duration_since(since));
    let doing = match (status.state, status.pid) {
        (State::Running { since }, Some(pid)) => format!("running for {} s, pid {pid}", lasting(since)),
        (State::BackingOff { until, .. }, _) => {
            format!("backing off, restart in {} s", seconds(until.saturating_duration_since(now)))
        }
        (State::Stopping { since, .. }, _) => format!("stopping for {} s", lasting(since)),
        (State::Exited, _) => "exited".into(),
        _ => "stopped".into(),
    };
    let last = status.last_exit.map(|exit| format!(", last exit: {exit}")).unwrap_or_default();
    format!("{doing}, restarts: {}{last}", status.restarts)
}

/// The state of a process in one word, as clients get it.
pub(crate) fn state_name(state: State, readiness: Readiness) -> &'static str {
    match (state, readiness) {
        (State::Stopped, _) => "stopped",
        (State::Waiting { .. }, _) => "waiting",
        (State::BackingOff { .. }, _) => "backing-off",
        (State::Stopping { .. }, _) => "stopping",
        (State::Exited, _) => "exited",
        (State::Failed { .. }, _) => "failed",
        (_, Readiness::Pending) => "starting",
        (_, Readiness::Ready) => "ready",
        // No request comes while a process starts, so a start is always complete here.
        _ => "running",
    }
}

pub(crate) fn terminating(number: i32) -> String {
    format!("terminating, {} sent", signal_name(number))
}

/// The reason why a process that is stopping is still there: the system's error for a signal to it.
pub(crate) fn not_signalled(error: &str) -> String {
    format!("it cannot be signalled: {error}")
}

/// The reason why a killed process is still there.
pub(crate) fn still_there(time: Duration) -> String {
    format!("it was killed, and is still there {} s after the stop began", seconds(time))
}

pub(crate) fn killing() -> &'static str {
    "killed, SIGKILL sent"
}

pub(crate) fn pipes_closed() -> &'static str {
    "the pipes of an earlier process were still open and are closed now; what leftover processes write there is lost"
}

pub(crate) fn tree_released() -> &'static str {
    "more than eight earlier processes have left processes behind; those of the earliest one are not watched any more"
}

pub(crate) fn killing_leftovers(leftovers: &Remains) -> String {
    match leftovers {
        Remains::Members(members) => format!("killing the processes that it left behind: {}", list(members)),
        _ => "killing what it may have left behind".into(),
    }
}

/// What a kill has not ended, two seconds later.
pub(crate) fn tree_remains(remains: &Remains) -> String {
    match remains {
        Remains::Members(members) => format!("still there 2 s after SIGKILL: {}", list(members)),
        _ => "cannot tell whether all of its processes are gone 2 s after SIGKILL".into(),
    }
}

/// Whether the leftover processes are gone, or `None` if that is already clear.
pub(crate) fn tree_gone(certain: bool, remained: bool) -> Option<&'static str> {
    match (certain, remained) {
        (false, _) => Some("cannot tell whether all processes that it left behind are gone"),
        (true, true) => Some("the processes that were still there are gone now"),
        (true, false) => None,
    }
}

/// How many processes are named at most.
const NAMED: usize = 10;

/// `pid 123 (sleep), pid 124 (cat)`
fn list(members: &[Member]) -> String {
    let named: Vec<String> =
        members.iter().take(NAMED).map(|member| format!("pid {} ({})", member.pid, member.name)).collect();
    let more = match members.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    named.join(", ") + &more
}

pub(crate) fn refused(number: i32, error: &std::io::Error) -> String {
    format!("cannot send {}: {error}", signal_name(number))
}

/// The consequence for the lines of a file that cannot be written.
pub(crate) const LINES_WAIT: &str = "lines wait until it can be written, and are dropped if they become too many";

/// The start of a message: `1 line was` or `2 lines were`.
pub(crate) fn lines_were(count: u64) -> String {
    if count == 1 { "1 line was".into() } else { format!("{count} lines were") }
}

/// The name of a signal, or its number if it has none.
pub(crate) fn signal_name(number: i32) -> String {
    signal::name(number).unwrap_or_else(|| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_short_and_rounded() {
        let said = [0, 500_000, 1_000_400, 1_000_500, 90_000_000].map(|micros| seconds(Duration::from_micros(micros)));
        assert_eq!(said, ["0", "0.5", "1", "1.001", "90"]);
        assert_eq!(seconds(Duration::MAX), "18446744073709551615.999");
    }

    #[test]
    fn who_is_left_is_told_once_and_not_at_length() {
        assert_eq!(killing_leftovers(&Remains::Unknown), "killing what it may have left behind");
        assert_eq!(tree_gone(true, false), None);
        assert!(tree_gone(false, false).is_some_and(|said| said.starts_with("cannot tell")));
        assert!(tree_gone(true, true).is_some_and(|said| said.ends_with("gone now")));
        assert!(tree_remains(&Remains::Unknown).starts_with("cannot tell"));
    }
}
