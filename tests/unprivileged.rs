//! Tests a host whose children change their user, and a host without rights. It needs root, and
//! prints why it is skipped otherwise. It is one test in a process of its own, because it is about
//! the whole process.

#![allow(unsafe_code)]

#[path = "util/nobody.rs"]
mod nobody;
mod util;

use childminder::{Command, Stage};
use nobody::{NOBODY, as_nobody};
use util::{COMBINATIONS, World, field_of, needs_root};

fn status() -> Command {
    let mut command = Command::new("cat");
    command.arg("/proc/self/status");
    command
}

fn dumpable() -> i32 {
    // SAFETY: prctl touches no memory here.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

/// A host loses its dumpable flag when a child that shares its memory changes its user. The flag
/// has to be restored, even if two threads spawn such children at once. Without rights, no child
/// can change its user.
#[test]
fn without_rights_and_dumpable() {
    if !needs_root() {
        return;
    }
    // SAFETY: prctl touches no memory here.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        world.output(status().uid(NOBODY));
        let mut failing = Command::new("/no/such");
        world.reactor.spawn_process(failing.uid(NOBODY)).unwrap_err();
        assert_eq!(dumpable(), 1);
    }
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut world = World::new(COMBINATIONS[0]);
                    let mut failing = Command::new("/no/such");
                    for _ in 0..20 {
                        world.reactor.spawn_process(failing.uid(NOBODY)).unwrap_err();
                    }
                });
            }
        });
        assert_eq!(dumpable(), 1);
    }
    for combination in COMBINATIONS {
        as_nobody(move || {
            let mut world = World::new(combination);
            let refused = |world: &mut World, command: &Command, stage| {
                let error = world.reactor.spawn_process(command).unwrap_err();
                assert_eq!((error.stage(), error.io_error().raw_os_error()), (stage, Some(libc::EPERM)), "{error}");
                assert!(error.to_string().contains("user id 65534"), "{error}");
            };
            refused(&mut world, status().uid(1), Stage::Setgroups);
            refused(&mut world, status().uid(0).gid(0).groups(&[]), Stage::Setgroups);
            refused(&mut world, status().gid(1), Stage::Setgroups);
            refused(&mut world, status().groups(&[1]), Stage::Setgroups);
            // A host may set the ids that it has already. Twisted's host may not.
            for command in [status().uid(NOBODY), status().uid(NOBODY).gid(NOBODY)] {
                let said = world.output(command);
                assert_eq!(field_of(&said, "Uid"), [NOBODY.to_string().as_str(); 4].join("\t"));
            }
            assert_eq!(dumpable(), 1);
        });
    }
}
