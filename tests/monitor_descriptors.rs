//! Tests the file descriptors for a process that leaves processes with its pipes behind at each
//! exit. It has its own file, because it counts the descriptors of the whole test process.

mod monitor_util;

use std::fs;

use monitor_util::{Dir, World, each_way, leaving, no_instant_deaths, sh};

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A process that does not exit any more from its 14th start on. Each earlier one leaves a process
/// behind, outside of its group, which holds stdout and stderr and writes when it is told to.
fn leaver(dir: &Dir) -> childminder::Command {
    // The shell itself does what it can, because a spawn takes long on a slow machine.
    let mut command = sh("n=0; [ -p go ] && read n <count || mkfifo go; n=$((n+1)); echo $n >count
         setsid sh -c \": >left-$n; : <go; echo heard $n; exec sleep 1000\" &
         until [ -e left-$n ]; do sleep 0.01; done
         [ $n -lt 14 ] || { echo ready; exec sleep 1000; }");
    command.current_dir(dir.path("."));
    command
}

#[test]
fn pipes_that_leftover_processes_hold_are_kept_for_the_last_few_only() {
    each_way(|world| {
        let dir = Dir::new("leaver");
        let before = open_descriptors();
        world.add_with("it", &leaver(&dir), leaving(no_instant_deaths()));
        world.start();
        world.until_ready("it", 1);
        world.until_told("pipes closed", "it", 5);
        // There are two pipes and perhaps a pidfd for the running process and for each of the eight
        // before it. There is also what is left of the last one's group, until it is checked.
        let open = open_descriptors() - before;
        // In cgroups there are also the descriptors that report the end of the last eight trees
        // that are left, and the three of the reactor's own cgroup.
        let trees = if monitor_util::in_cgroups() { 8 + 3 } else { 1 };
        assert!(open <= 9 * 3 + trees, "{open}");
        let go = fs::File::create(dir.path("go")).unwrap();
        world.until("all nine to be heard", |world| heard(world).len() >= 9);
        let mut heard = heard(world);
        heard.sort_unstable();
        assert_eq!(heard, (6..=14).collect::<Vec<_>>());
        assert_eq!(world.count("pipes closed", "it"), 5);
        drop(go);
    });
}

/// The numbers of the processes that have written.
fn heard(world: &World) -> Vec<u32> {
    let lines = world.lines("it").into_iter();
    lines.filter_map(|line| line.strip_prefix("[it] heard ")?.parse().ok()).collect()
}
