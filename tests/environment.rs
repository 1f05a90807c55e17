//! The environment changes while children are started: each gets one that was there.
//!
//! In a process of its own, since an environment is the whole process's.

#![allow(unsafe_code)] // set_var

mod util;

use std::sync::atomic::{AtomicBool, Ordering};

use childminder::Command;
use util::{COMBINATIONS, World};

/// Also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_child_never_sees_the_environment_half_changed() {
    // SAFETY: this thread is alone yet.
    unsafe { std::env::set_var("CHILDMINDER_STABLE", "yes") };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for number in 0..200 {
                    // SAFETY: all others here read the environment through std alone, whose lock keeps them apart.
                    unsafe { std::env::set_var(format!("CHILDMINDER_{number}"), number.to_string()) };
                }
                for number in 0..200 {
                    // SAFETY: as above.
                    unsafe { std::env::remove_var(format!("CHILDMINDER_{number}")) };
                }
            }
        });
        let _stop = Stop(&stop);
        for methods in COMBINATIONS {
            let mut world = World::new(methods);
            for _ in 0..100 {
                let said = world.output(&Command::new("/usr/bin/env"));
                let names: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
                let mut once = names.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), names.len(), "twice: {said}");
                assert!(said.contains("CHILDMINDER_STABLE=yes\n"), "{said}");
            }
        }
    });
}
