//! Tests whose messages are heard of a process that is in a cgroup: those of its cgroup, and no
//! others.
//!
//! The one rule: names and numbers prove nothing.

#![cfg(target_os = "linux")]

mod util;

#[path = "util/apart.rs"]
mod apart;
#[path = "util/cgroups.rs"]
mod cgroups;
#[path = "util/heard.rs"]
mod heard;
#[path = "util/speaker.rs"]
mod speaker;

use cgroups::with_part;
use childminder::{Contain, ProcessId, Stdio};
use heard::{Heard, address_of, daemon, hear, hear_until, kernel, leaves_descriptors_out, start_with_reaped_speaker};
use speaker::{send, words};
use util::{COMBINATIONS, TempDir, World, sh};

mod children {
    /// The program that speaks, for the children of the tests.
    #[test]
    fn speaker() {
        super::speaker::run();
    }
}

/// Runs a test in a part of the cgroup hierarchy, once for each way to spawn and to reap.
#[track_caller]
fn in_cgroups(name: &str, test: impl Fn(&mut World)) {
    with_part(name, |part| {
        for combination in COMBINATIONS {
            let mut world = World::new(combination);
            world.reactor.set_cgroup_parent(&part.0);
            test(&mut world);
        }
    });
}

#[track_caller]
fn start_in_cgroup(world: &mut World, script: &str) -> ProcessId {
    let mut command = sh(script);
    command.stdin(Stdio::piped()).contain(Contain::Cgroup).notify(true);
    world.reactor.spawn_process(&command).expect("a process in a cgroup")
}

#[test]
fn a_daemon_in_a_cgroup_is_heard() {
    if !leaves_descriptors_out() {
        return;
    }
    in_cgroups("a_daemon_in_a_cgroup_is_heard", |world| {
        let dir = TempDir::new("daemon");
        let script = daemon(&dir);
        let id = start_in_cgroup(world, &script);
        let mut heard = Heard::default();
        hear_until(world, &mut heard, |heard| heard.is_ready(id));
        assert_eq!(heard.refused, []);
        send_as_stranger(world, id, &mut heard);
        world.process(id).close_stdin();
        world.until_ended(id);
    });
}

/// Sends a message as this process, which is in no cgroup of the reactor's.
#[track_caller]
fn send_as_stranger(world: &mut World, id: ProcessId, heard: &mut Heard) {
    send(&address_of(world, id), b"READY=1", &[]);
    hear_until(world, heard, |heard| heard.count() == 1);
}

#[test]
fn a_member_of_a_cgroup_below_is_heard() {
    if !leaves_descriptors_out() {
        return;
    }
    in_cgroups("a_member_of_a_cgroup_below_is_heard", |world| {
        let own = "/mnt$(sed -n 's/^0:://p' /proc/self/cgroup)/below";
        let enter = format!("mkdir {own}; echo 0 > {own}/cgroup.procs");
        let speak = words(&["say READY=1", "barrier"]);
        let id = start_in_cgroup(world, &format!("(setsid sh -c '{enter}; exec \"$0\" \"$@\"' {speak} &); read x"));
        let mut heard = Heard::default();
        hear_until(world, &mut heard, |heard| heard.is_ready(id));
        assert_eq!(heard.refused, []);
        world.process(id).close_stdin();
        world.until_ended(id);
    });
}

// Names alone do not make a cgroup the process's own.
#[test]
fn a_cgroup_of_the_same_name_is_another_one() {
    if !leaves_descriptors_out() {
        return;
    }
    in_cgroups("a_cgroup_of_the_same_name_is_another_one", |world| {
        let id = start_in_cgroup(world, "echo $NOTIFY_SOCKET; cat /proc/self/cgroup; read x");
        world.until_said(id, 1, "0::");
        let said = world.log.text(id, 1);
        let (_, own) = said.trim().rsplit_once("0::").unwrap();
        let names: Vec<_> = own.rsplit('/').take(2).collect();
        let fake =
            format!("/mnt/{}/fake/{}/{}", own.trim_start_matches('/').rsplit_once('/').unwrap().0, names[1], names[0]);
        let speak = words(&["say READY=1", "barrier"]);
        let address = said.lines().next().unwrap();
        let script = format!("mkdir -p {fake} && echo 0 >{fake}/cgroup.procs && NOTIFY_SOCKET={address} {speak}");
        let other = world.spawn(&sh(&script));
        let heard = hear(world, other);
        assert_eq!((heard.notices.len(), heard.count()), (0, 1), "{heard:?} {}", world.log.text(other, 2));
        let below = fake.split_once("/fake").unwrap().0;
        for path in [&fake, fake.rsplit_once('/').unwrap().0, &format!("{below}/fake")] {
            std::fs::remove_dir(path).unwrap();
        }
        world.process(id).close_stdin();
        world.until_ended(id);
    });
}

// The kernel keeps the cgroup of a process that is gone since Linux 6.15, and passes on a pidfd of
// it since 6.17.
#[test]
fn a_member_of_a_cgroup_is_heard_after_its_end() {
    in_cgroups("a_member_of_a_cgroup_is_heard_after_its_end", |world| {
        let dir = TempDir::new("gone");
        let id = start_with_reaped_speaker(world, &dir, |script| {
            let mut command = sh(script);
            command.contain(Contain::Cgroup);
            command
        });
        let mut heard = Heard::default();
        hear_until(world, &mut heard, |heard| heard.is_ready(id) || heard.count() > 0);
        let expected = if kernel() >= (6, 17) { (1, 0) } else { (0, 1) };
        assert_eq!((heard.notices.len(), heard.count()), expected);
        world.process(id).close_stdin();
        world.until_ended(id);
    });
}
