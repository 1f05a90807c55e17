//! A plug-in for `tests/unload.rs`: a shared library that contains a reactor.

#![allow(unsafe_code)] // an exported name is one

use childminder::{Command, Event, Reactor};

/// Runs a child to its end. Returns its exit code, or -1.
// SAFETY: no other function has this name.
#[unsafe(no_mangle)]
pub extern "C" fn run_a_child() -> i32 {
    run().unwrap_or(-1)
}

fn run() -> Result<i32, Box<dyn std::error::Error>> {
    let mut reactor = Reactor::new()?;
    let waker = reactor.waker()?;
    reactor.spawn_process(Command::new("sh").args(["-c", "echo hello; exit 7"]))?;
    waker.wake()?;
    let mut code = None;
    while code.is_none() {
        reactor.turn(None, |_, event| {
            if let Event::Ended { exit, .. } = event {
                code = Some(exit.code().unwrap_or(-1));
            }
        })?;
    }
    Ok(code.unwrap_or(-1))
}
