//! Members of a group that have died and that nobody reaps: they are nobody. A process of its own, since it makes itself the
//! parent of orphans.

mod monitor_util;

use monitor_util::{World, group, patient, sh};

/// As the first process of a container that reaps nobody but its own.
fn become_the_orphans_parent() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
}

#[test]
fn a_stop_does_not_wait_for_zombies() {
    become_the_orphans_parent();
    let mut world = World::new();
    world.add_with("it", &sh("sleep 1000 & echo ready; exec sleep 1000"), patient());
    world.start();
    world.until_ready("it", 1);
    let pid = world.pid("it");
    world.stop();
    // Without a word of killing: the kill time is far away.
    world.until_down();
    assert_eq!(world.story("it"), ["started", "terminating", "exited"]);
    assert_eq!(group(pid).len(), 0, "they live");
}
