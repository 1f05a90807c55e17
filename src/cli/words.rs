//! What the commands say of a process, each thing in one place.

use std::time::Duration;

use childminder::{Exit, signal};

pub(crate) fn started(pid: u32) -> String {
    format!("started, pid {pid}")
}

pub(crate) fn exited(exit: &Exit) -> String {
    let (wall, cpu) = (exit.wall_time.as_secs_f64(), exit.usage.cpu_time().as_secs_f64());
    format!("exited: {exit}, after {wall:.3} s, {cpu:.3} s CPU")
}

pub(crate) fn restarting(delay: Duration) -> String {
    if delay.is_zero() {
        return "restarting now".into();
    }
    let seconds = format!("{:.3}", delay.as_secs_f64());
    format!("restarting in {} s", seconds.trim_end_matches('0').trim_end_matches('.'))
}

pub(crate) fn terminating(number: i32) -> String {
    format!("terminating, {} sent", name(number))
}

pub(crate) fn killing() -> &'static str {
    "killed, SIGKILL sent"
}

pub(crate) fn refused(number: i32, error: &std::io::Error) -> String {
    format!("cannot send {}: {error}", name(number))
}

fn name(number: i32) -> String {
    signal::name(number).unwrap_or_else(|| number.to_string())
}
