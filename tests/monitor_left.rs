//! The descriptors that are held for processes which others have left behind.
//!
//! A file of its own, because it counts the descriptors of the whole test process.

mod monitor_util;

use std::fs;

use monitor_util::{Dir, each_way, group, leaving, no_instant_deaths, sh};

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A process that lives on from its 20th start. Each one leaves a process behind in its group,
/// which holds no pipe and ends when it is told to.
fn quiet_leaver(dir: &Dir) -> childminder::Command {
    let mut command = sh("n=0; [ ! -e n ] || read n <n; n=$((n+1)); echo $n >n; [ -p end ] || mkfifo end
         (echo $$ >left-$n; : <end) </dev/null >/dev/null 2>&1 &
         until [ -s left-$n ]; do sleep 0.01; done
         [ $n -lt 20 ] || { echo ready; exec sleep 1000; }");
    command.current_dir(dir.path("."));
    command
}

/// The groups in which somebody is left.
fn groups_left(dir: &Dir) -> usize {
    let groups = (1..=20).map(|n| fs::read_to_string(dir.path(&format!("left-{n}"))).unwrap());
    groups.filter(|pid| !group(pid.trim().parse().unwrap()).is_empty()).count()
}

#[test]
fn leftover_processes_are_watched_by_descriptors_for_the_last_few_only() {
    each_way(|world| {
        let dir = Dir::new("quiet-leaver");
        let before = open_descriptors();
        world.add_with("it", &quiet_leaver(&dir), leaving(no_instant_deaths()));
        world.start();
        world.until_ready("it", 1);
        assert_eq!(groups_left(&dir), 20);
        let (watched, released) = (world.monitor.status("it").unwrap().left.len(), world.count("tree released", "it"));
        // Two for each group and one for each cgroup, those of the running process, and the three
        // of the reactor's own cgroup.
        let open = open_descriptors() - before;
        let trees = if monitor_util::in_cgroups() { 8 + 3 } else { 8 * 2 };
        assert!(open <= trees + 4, "{open}");
        let unknown = match (monitor_util::in_cgroups(), monitor_util::reaches_leftovers(world.reap)) {
            (true, _) => {
                assert_eq!((watched, released), (19, 11));
                0
            }
            (false, true) => {
                assert_eq!((watched, released), (8, 11));
                11
            }
            // Nothing leads to what is left of a group.
            (false, false) => {
                assert_eq!((watched, released), (0, 0));
                0
            }
        };
        assert_eq!(world.count("tree unknown", "it"), unknown);
        // This wakes all who wait to open it.
        drop(fs::File::create(dir.path("end")).unwrap());
        world.until("all that are left to be gone", |world| world.monitor.status("it").unwrap().left.is_empty());
        world.until("all others to be gone", |_| groups_left(&dir) == 1);
        assert_eq!(world.count("tree unknown", "it"), unknown);
    });
}
