//! Loads, uses and unloads a shared library with a reactor in it, a hundred times. Nothing of it is
//! left. With pidfds no signal handler is installed, so there is none that could point to where the
//! library was. A static program, as with musl, loads no libraries.

#![cfg(all(target_os = "linux", not(target_feature = "crt-static")))]

#[path = "util/cargo.rs"]
mod cargo;
mod embed_util;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use cargo::{cargo, outputs};
use embed_util::{children, dispositions, open_fds, plugin, rounds, threads, watchdog};

/// Builds the library. Cargo has built it with all tests, but not with this one alone. Returns
/// `None`, and records it, if that is not possible.
fn build() -> Option<PathBuf> {
    let library = outputs().join("debug/examples/libunloadable.so");
    match cargo("build").args(["--example", "unloadable"]).status() {
        Ok(built) => assert!(built.success()),
        // Another user, or another machine, may have the tests without cargo.
        Err(_) if library.exists() => {}
        Err(error) => {
            embed_util::left_out(&format!("cargo cannot be run: {error}"));
            return None;
        }
    }
    Some(library)
}

fn is_mapped() -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains("libunloadable")
}

#[test]
fn a_plugin_can_be_unloaded() {
    watchdog(300);
    let Some(library) = build() else { return };
    let state = || (open_fds(), threads(), dispositions(), children());
    let before = state();
    for _ in 0..rounds() {
        let loaded = plugin::load(&library);
        // The library's thread-local data goes with the thread, and keeps the library loaded until
        // then.
        let code = thread::scope(|scope| scope.spawn(|| loaded.call("run_a_child")).join().unwrap());
        assert_eq!(code, 7);
        assert!(is_mapped());
        drop(loaded);
        assert!(!is_mapped());
    }
    // A thread that was joined may take a moment to go.
    while threads() != before.1 {
        thread::yield_now();
    }
    assert_eq!(state(), before);
    // No handler is left for this signal.
    assert!(Command::new("true").status().unwrap().success());
}
