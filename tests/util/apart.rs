//! Runs a test in a process of its own, because it changes something of the whole process, such as
//! its signals.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::process::ExitStatus;
use std::sync::mpsc;
use std::time::Duration;

const SCENARIO: &str = "CHILDMINDER_TEST_SCENARIO";
/// The variable that sets the longest time for such a process, in seconds. A test that is run with
/// its full counts needs longer.
const PATIENCE: &str = "CHILDMINDER_TEST_PATIENCE";

fn patience() -> Duration {
    Duration::from_secs(std::env::var(PATIENCE).map_or(60, |seconds| seconds.parse().unwrap()))
}

/// Whether this process is one that a test has made for itself.
pub(crate) fn is_apart() -> bool {
    std::env::var_os(SCENARIO).is_some()
}

/// Runs `body` in a process of its own and returns how that process ended. `name` is the name of
/// the test. In the new process the result is `None`.
pub(crate) fn apart(name: &str, body: impl FnOnce()) -> Option<ExitStatus> {
    apart_in(&["env"], name, body)
}

/// The same as [`apart`], but the words of `around` are put in front of the command. They must run
/// the rest of the command line.
fn apart_in(around: &[&str], name: &str, body: impl FnOnce()) -> Option<ExitStatus> {
    if std::env::var_os(SCENARIO).is_some_and(|scenario| scenario == name) {
        body();
        return None;
    }
    let mut command = std::process::Command::new(around[0]);
    command.args(&around[1..]).arg(std::env::current_exe().unwrap());
    let mut child = command.args(["--exact", name, "--nocapture"]).env(SCENARIO, name).spawn().unwrap();
    let pid = child.id().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait().unwrap()));
    match receiver.recv_timeout(patience()) {
        Ok(status) => Some(status),
        Err(_) => {
            let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
            panic!("{name} does not end");
        }
    }
}

/// The same as [`apart`], but fails if the process does not succeed.
#[track_caller]
pub(crate) fn expect_apart(name: &str, body: impl FnOnce()) {
    expect_apart_in(&["env"], name, body);
}

/// The same as [`apart_in`], but fails if the process does not succeed.
#[track_caller]
pub(crate) fn expect_apart_in(around: &[&str], name: &str, body: impl FnOnce()) {
    let status = apart_in(around, name, body);
    assert!(status.is_none_or(|status| status.success()), "{status:?}");
}
