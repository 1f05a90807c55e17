//! Tests zombies in a process group that are not reaped: they do not count as members. The test has
//! its own process, because it makes itself the parent of orphans.

mod monitor_util;

#[path = "util/apart.rs"]
mod apart;

use std::time::Duration;

use monitor_util::{World, group, no_instant_deaths, sh};

const HIDDEN: [&str; 5] = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$0\" \"$@\""];
/// Runs a command that sees the /proc of the outer namespace.
const NAMESPACE: [&str; 4] = ["unshare", "-p", "-f", "--kill-child"];

/// The call that makes a program the parent of orphans.
const CALL: &str = "prctl(PR_SET_CHILD_SUBREAPER)";

/// Makes this process like the first process of a container that reaps only its own children.
fn become_the_orphans_parent() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
}

#[test]
fn a_stop_does_not_wait_for_zombies() {
    if !monitor_util::needs_the_kernel(CALL) {
        return;
    }
    become_the_orphans_parent();
    let mut world = World::new();
    world.add_with("it", &sh("sleep 1000 & echo ready; exec sleep 1000"), no_instant_deaths());
    world.start();
    world.until_ready("it", 1);
    let pid = world.pid("it");
    world.stop();
    // There is no report of a kill, because the kill time is far away.
    world.until_down();
    assert_eq!(world.story("it"), ["started", "terminating", "exited"]);
    assert_eq!(group(pid).len(), 0, "they live");
}

// If zombies cannot be told from living members, the group is killed twice, and the stop ends.
#[test]
fn without_a_process_table_a_stop_ends_after_two_kills() {
    if !monitor_util::needs_root() || !monitor_util::needs_the_kernel(CALL) {
        return;
    }
    apart::expect_apart_in(&HIDDEN, "without_a_process_table_a_stop_ends_after_two_kills", || {
        become_the_orphans_parent();
        let mut world = World::new();
        let mut policy = no_instant_deaths();
        policy.kill_time = Duration::from_secs(2);
        world.add_with("it", &sh("sleep 1000 & echo ready; exec sleep 1000"), policy);
        world.start();
        world.until_ready("it", 1);
        world.stop();
        world.until_down();
        let story = ["started", "terminating", "exited", "killing", "killing", "tree unknown"];
        // Otherwise the group is killed, and cannot be reached any more, as soon as its leader has
        // ended.
        let told = if monitor_util::reaches_leftovers(world.reap) { 6 } else { 3 };
        assert_eq!(world.story("it"), story[..told]);
    });
}

#[test]
fn the_process_table_of_another_namespace_is_none() {
    if !monitor_util::needs_root() {
        return;
    }
    apart::expect_apart_in(&NAMESPACE, "the_process_table_of_another_namespace_is_none", || {
        let mut world = World::new();
        let mut policy = no_instant_deaths();
        policy.kill_time = Duration::from_secs(1);
        let saves = "(trap 'sleep 0.2; echo saved; exit' TERM; echo ready; while :; do sleep 0.02; done)";
        world.add_with("it", &sh(&format!("{saves} & exec sleep 1000")), policy);
        world.start();
        world.until_ready("it", 1);
        world.stop();
        world.until_down();
        if !monitor_util::reaches_leftovers(world.reap) {
            // Without a process table, it is killed as soon as the leader has ended.
            return monitor_util::left_out("what is left of a group can be reached from Linux 6.9 on");
        }
        // That table has no such group, although it had a living member.
        assert!(world.lines("it").contains(&"[it] saved"), "{:?}", world.lines("it"));
    });
}
