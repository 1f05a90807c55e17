//! Tests the users and groups of children. It needs root, and prints why it is skipped otherwise.
//! unprivileged.rs tests a host without rights.

mod util;

use childminder::{Command, Stage, Stdio};
use util::{COMBINATIONS, World, field_of, needs_root, on_all_combinations};

const NOBODY: u32 = 65_534;
/// A number that no user has.
const STRANGER: u32 = 4_000_123;

/// The uids, gids and groups of the child, according to the kernel.
#[track_caller]
fn ids(world: &mut World, command: &Command) -> (String, String, String) {
    let said = world.output(command);
    let field = |name| field_of(&said, name).split_whitespace().collect::<Vec<_>>().join(" ");
    (field("Uid"), field("Gid"), field("Groups"))
}

fn status() -> Command {
    let mut command = Command::new("cat");
    command.arg("/proc/self/status");
    command
}

fn four(id: u32) -> String {
    format!("{id} {id} {id} {id}")
}

fn passwd(uid: u32) -> (String, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string())).expect("an entry");
    let mut fields = line.split(':');
    (fields.next().unwrap().to_owned(), fields.nth(2).unwrap().parse().unwrap())
}

on_all_combinations! {
    // With the uid alone, the child has the user's own group and groups, and none of root's.
    // Twisted: test_changeUID.
    fn a_user(world: &mut World) {
        if !needs_root() {
            return;
        }
        let (_, gid) = passwd(NOBODY);
        let (uids, gids, groups) = ids(world, status().uid(NOBODY));
        assert_eq!((uids, gids), (four(NOBODY), four(gid)));
        assert!(!groups.split(' ').any(|group| group == "0"), "{groups}");
        assert!(groups.split(' ').any(|group| group == gid.to_string()), "{groups}");
        // The same holds for the user's name.
        let (name, _) = passwd(NOBODY);
        let by_name = ids(world, status().user(&name).unwrap());
        assert_eq!(by_name, ids(world, status().uid(NOBODY)));
    }

    // HOME and the like follow the user, unless the command sets them.
    fn surroundings(world: &mut World) {
        if !needs_root() {
            return;
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.split(':').nth(2) == Some("65534")).expect("an entry");
        let fields: Vec<&str> = line.split(':').collect();
        let (name, home, shell) = (fields[0], fields[5], fields[6]);
        let command = || util::sh("echo $HOME $USER $LOGNAME $SHELL");
        for user in [name, "65534"] {
            let mut command = command();
            command.env("OTHER", "1").run_as(user).unwrap();
            assert_eq!(world.output(&command), format!("{home} {name} {name} {shell}\n"));
            assert_eq!(command.get_uid(), Some(NOBODY));
        }
        let mut before = command();
        before.env("HOME", "/mine").env_remove("SHELL").run_as(name).unwrap();
        let mut after = command();
        after.run_as(name).unwrap().env("HOME", "/mine").env_remove("SHELL");
        for command in [&before, &after] {
            assert_eq!(world.output(command), format!("/mine {name} {name}\n"));
        }
        let mut cleared = command();
        cleared.env_clear().run_as(name).unwrap().env("PATH", "/bin:/usr/bin");
        assert_eq!(world.output(&cleared), format!("{home} {name} {name} {shell}\n"));
        // Variables that are unknown for a user are not taken from the host.
        let mut stranger = util::sh("echo ${HOME-none} ${USER-none} $LOGNAME ${SHELL-none}");
        stranger.env("LOGNAME", "mine").uid(STRANGER).gid(7).user_env(&STRANGER.to_string()).unwrap();
        assert_eq!(world.output(&stranger), "none none mine none\n");
        let mut unchanged = Command::new("true");
        assert!(unchanged.user_env("no-such-user").is_err());
        assert!(unchanged.run_as("no-such-user").is_err() && unchanged.get_uid().is_none());
        // This changes only the ids, and nothing in the environment.
        let host = std::env::var("HOME").unwrap_or_default();
        let mut ids = util::sh("echo $HOME");
        assert_eq!(world.output(ids.user(name).unwrap()), format!("{host}\n"));
    }

    // With the gid alone, no supplementary groups are left. Twisted: test_changeGID.
    fn a_group(world: &mut World) {
        if !needs_root() {
            return;
        }
        assert_eq!(ids(world, status().gid(7)), (four(0), four(7), String::new()));
    }

    // The command sets a user and a group.
    fn both(world: &mut World) {
        if !needs_root() {
            return;
        }
        let (uids, gids, groups) = ids(world, status().uid(NOBODY).gid(7));
        assert_eq!((uids, gids), (four(NOBODY), four(7)));
        assert!(groups.split(' ').any(|group| group == "7") && !groups.split(' ').any(|group| group == "0"), "{groups}");
        assert_eq!(ids(world, status().uid(NOBODY).gid(7).groups(&[9, 8])), (four(NOBODY), four(7), "8 9".into()));
        assert_eq!(ids(world, status().groups(&[])), (four(0), four(0), String::new()));
        assert_eq!(ids(world, status().groups(&[5])), (four(0), four(0), "5".into()));
    }

    // The user is in no database.
    fn a_stranger(world: &mut World) {
        if !needs_root() {
            return;
        }
        for command in [status().uid(STRANGER), status().uid(STRANGER).groups(&[7])] {
            let error = world.reactor.spawn_process(command).unwrap_err();
            assert_eq!(error.stage(), Stage::User);
            assert_eq!(error.io_error().kind(), std::io::ErrorKind::NotFound);
            assert!(error.to_string().contains("4000123"), "{error}");
        }
        assert_eq!(ids(world, status().uid(STRANGER).gid(7)), (four(STRANGER), four(7), String::new()));
        assert_eq!(ids(world, status().uid(STRANGER).gid(7).groups(&[8])), (four(STRANGER), four(7), "8".into()));
        assert_eq!(Command::new("id").user("no-such-user").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }

    // The ids are the ones that the host has already.
    fn ourselves(world: &mut World) {
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| field_of(&own, name).split_whitespace().collect::<Vec<_>>().join(" ");
        let id = |name: &str| field(name).split(' ').nth(1).unwrap().parse().unwrap();
        let expected = (field("Uid"), field("Gid"), field("Groups"));
        assert_eq!(ids(world, status().uid(id("Uid"))), expected);
        assert_eq!(ids(world, status().gid(id("Gid"))), expected);
        assert_eq!(ids(world, status().uid(id("Uid")).gid(id("Gid"))), expected);
    }

    // The program is executed with the rights of the user.
    fn rights_on_the_way(world: &mut World) {
        if !needs_root() {
            return;
        }
        let dir = util::TempDir::new("rights");
        let secret = dir.file("secret/file", "x", 0o600);
        std::os::unix::fs::chown(secret.parent().unwrap(), Some(0), Some(0)).unwrap();
        std::fs::set_permissions(secret.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let program = dir.file("secret/program", "#!/bin/sh\n", 0o755);
        let mut command = Command::new(program);
        let error = world.reactor.spawn_process(command.uid(NOBODY)).unwrap_err();
        assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Exec, Some(libc::EACCES)));
    }

    // Nothing of the host changes. Twisted: mockFork… SetUid.
    fn the_host_stays_what_it_is(world: &mut World) {
        if !needs_root() {
            return;
        }
        let fields = || {
            let said = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            ["Uid", "Gid", "Groups", "CapEff", "SigBlk"].map(|field| field_of(&said, field))
        };
        let before = fields();
        world.output(status().uid(NOBODY));
        // A spawn that fails after the change of user changes nothing of the host either.
        let mut command = Command::new("/no/such");
        world.reactor.spawn_process(command.uid(NOBODY)).unwrap_err();
        assert_eq!(fields(), before);
    }

    // Another user can use its own terminal. Twisted: PTYSetUid.
    fn a_user_on_a_terminal(world: &mut World) {
        if !needs_root() {
            return;
        }
        let mut command = util::sh("id -u; id -g; test -t 0 && echo seen >/dev/tty");
        let outcome = world.run(command.uid(NOBODY).gid(7).pty(childminder::Pty::new()));
        assert_eq!((outcome.out.as_str(), outcome.exit.code()), ("65534\r\n7\r\nseen\r\n", Some(0)));
    }

    // The pipes belong to the child's user, so that it can open `/dev/stdout` and the like again.
    fn pipes_can_be_opened_again(world: &mut World) {
        if !needs_root() {
            return;
        }
        let script = "read line </dev/stdin; echo $line >/dev/stdout; echo err >/dev/stderr; echo three >/dev/fd/3; \
                      stat -Lc '%u %a' /dev/fd/0 /dev/fd/1 /dev/fd/2 /dev/fd/3";
        let mut command = util::sh(script);
        command.uid(NOBODY).stdin(Stdio::piped()).fd(3, Stdio::reader());
        let id = world.spawn(&command);
        world.process(id).write(0, b"in\n").unwrap();
        let outcome = world.until_ended(id);
        assert_eq!((outcome.err.as_str(), world.log.text(id, 3)), ("err\n", "three\n".into()));
        assert_eq!(outcome.out, format!("in\n{}", "65534 600\n".repeat(4)));
    }

    fn enters_its_directory_with_its_own_rights(world: &mut World) {
        if !needs_root() {
            return;
        }
        let folder = util::TempDir::new("closed");
        folder.file("inner/file", "", 0o644);
        std::fs::set_permissions(&folder.0, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let mut command = Command::new("true");
        command.current_dir(folder.0.join("inner"));
        world.run(&command);
        let error = world.reactor.spawn_process(command.uid(NOBODY)).unwrap_err();
        assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Chdir, Some(libc::EACCES)), "{error}");
    }

    fn its_terminal_can_be_opened_again(world: &mut World) {
        if !needs_root() {
            return;
        }
        let mut command = util::sh("echo by name >$(tty); echo again >/dev/stderr; stat -c %u $(tty)");
        let outcome = world.run(command.uid(NOBODY).pty(childminder::Pty::new()));
        assert_eq!(outcome.out, "by name\r\nagain\r\n65534\r\n");
    }

    // The parent death signal survives the change of user, which clears it.
    fn parent_death_signal(world: &mut World) {
        if !needs_root() {
            return;
        }
        let mut command = Command::new("sleep");
        command.arg("1000").uid(NOBODY).parent_death_signal(libc::SIGUSR1);
        let id = std::thread::scope(|scope| {
            scope.spawn(|| world.reactor.spawn_process(&command).unwrap()).join().unwrap()
        });
        assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGUSR1));
    }
}
