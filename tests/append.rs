//! Tests files that a child appends to itself. They are opened at each spawn, in the same way on
//! both spawn paths, and opening one never waits.

mod util;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use childminder::{Command, SpawnError, Stage, Stdio};
use util::{COMBINATIONS, TempDir, World, on_all_combinations, sh};

/// A script whose stdout and stderr go to these files.
fn to(script: &str, out: &Path, err: &Path) -> Command {
    let mut command = sh(script);
    command.stdout(Stdio::append(out)).stderr(Stdio::append(err));
    command
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("({error})"))
}

fn refused(world: &mut World, command: &Command) -> SpawnError {
    let error = world.reactor.spawn_process(command).expect_err("a file that cannot be opened");
    assert_eq!(error.stage(), Stage::Open);
    error
}

fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

on_all_combinations! {
    fn each_spawn_opens_the_file_of_that_name(world: &mut World) {
        let dir = TempDir::new("append");
        let (log, old) = (dir.0.join("log"), dir.0.join("log.1"));
        let command = to("echo out; echo err >&2; echo out", &log, &log);
        assert!(!log.exists(), "opened before the spawn");
        world.run(&command);
        world.run(&command);
        assert_eq!(read(&log), "out\nerr\nout\nout\nerr\nout\n");
        fs::rename(&log, &old).unwrap();
        world.run(&command);
        assert_eq!((read(&old).len(), read(&log)), (24, "out\nerr\nout\n".to_owned()));
        fs::remove_file(&log).unwrap();
        world.run(&command);
        assert_eq!(read(&log), "out\nerr\nout\n");
        // A clone of the command opens the file, too.
        world.run(&command.clone());
        assert_eq!(read(&log).len(), 24);
    }

    fn a_new_file_has_the_rights_that_the_umask_leaves(world: &mut World) {
        let dir = TempDir::new("append");
        let (log, probe) = (dir.0.join("log"), dir.0.join("probe"));
        fs::write(&probe, "").unwrap();
        world.run(&to("true", &log, &log));
        assert_eq!(log.metadata().unwrap().mode(), probe.metadata().unwrap().mode());
        // An existing file keeps its mode.
        fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
        world.run(&to("true", &log, &log));
        assert_eq!(log.metadata().unwrap().mode() & 0o777, 0o600);
    }

    fn the_child_has_it_blocking_and_appending(world: &mut World) {
        let dir = TempDir::new("append");
        let log = dir.0.join("log");
        let mut command = to("cat /proc/self/fdinfo/1; echo; exec ls /proc/self/fd", &log, &log);
        command.stderr(Stdio::append("/dev/null"));
        world.run(&command);
        let text = read(&log);
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags").trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        let kept = libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK;
        assert_eq!(flags & kept, libc::O_WRONLY | libc::O_APPEND, "{flags:o}");
        let fds: Vec<&str> = text.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
        assert_eq!(fds, ["0", "1", "2", "3"], "3 is the folder that ls reads");
    }

    fn a_file_that_cannot_be_opened_is_named(world: &mut World) {
        let dir = TempDir::new("append");
        let missing = dir.0.join("no").join("log");
        let error = refused(world, &to("true", &missing, &missing));
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOENT));
        let expected = format!("cannot start `sh`: open {}: No such file or directory (os error 2)", missing.display());
        assert_eq!(error.to_string(), expected);
        let error = refused(world, &to("true", &dir.0.join("log"), &dir.0));
        assert_eq!(error.io_error().raw_os_error(), Some(libc::EISDIR));
        // As soon as the file can be opened, the same command starts.
        fs::create_dir(missing.parent().unwrap()).unwrap();
        assert!(world.run(&to("echo there", &missing, &missing)).exit.success());
        assert_eq!(read(&missing), "there\n");
    }

    fn a_named_pipe_is_not_waited_for(world: &mut World) {
        let dir = TempDir::new("append");
        let pipe = dir.0.join("pipe");
        make_fifo(&pipe);
        // This is more than the pipe holds, so the child waits for the reader.
        let command = to("yes | head -c 200000", &pipe, &dir.0.join("err"));
        let error = refused(world, &command);
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENXIO));
        let expected = format!("open {}: No such device or address (os error 6) (no process reads this named pipe)", pipe.display());
        assert!(error.to_string().ends_with(&expected), "{error}");

        let reader = world.spawn(sh("exec cat \"$PIPE\"").env("PIPE", &pipe));
        let end = util::now() + util::WATCHDOG;
        let writer = loop {
            match world.reactor.spawn_process(&command) {
                Ok(id) => break id,
                Err(error) => assert!(error.stage() == Stage::Open && util::now() < end, "{error}"),
            }
        };
        world.until(|log| log.ended(reader) && log.ended(writer));
        assert_eq!(world.log.data(reader, 1).len(), 200_000);
        assert!(world.log.exit(writer).unwrap().success());
    }

    fn a_socket_is_no_file(world: &mut World) {
        let dir = TempDir::new("append");
        let path = dir.0.join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = refused(world, &to("true", &path, &path));
        assert!(error.to_string().ends_with("(os error 6) (it is a socket)"), "{error}");
    }

    fn the_host_can_open_it_itself(world: &mut World) {
        let dir = TempDir::new("append");
        let log = dir.0.join("log");
        let mut command = sh("echo out");
        command.stdout(Stdio::open_with(&log, |path| {
            let error = || std::io::Error::other("it is not to be opened");
            if path.exists() { Err(error()) } else { Ok(fs::File::create(path)?.into()) }
        }));
        assert!(world.run(&command).exit.success());
        assert_eq!(read(&log), "out\n");
        let error = refused(world, &command.clone());
        let expected = format!("cannot start `sh`: open {}: it is not to be opened", log.display());
        assert_eq!(error.to_string(), expected);
    }

    fn another_descriptor_can_be_one(world: &mut World) {
        let dir = TempDir::new("append");
        let log = dir.0.join("log");
        let mut command = sh("echo three >&3; echo one");
        command.fd(3, Stdio::append(&log)).stdout(Stdio::same_as(3));
        assert!(world.run(&command).exit.success());
        assert_eq!(read(&log), "three\none\n");
    }
}

#[test]
fn an_inherited_descriptor_is_the_same_open_file() {
    use std::io::{Seek, Write};
    use std::os::fd::AsRawFd;

    let dir = TempDir::new("inherited");
    let mut file = fs::File::create(dir.0.join("file")).unwrap();
    file.write_all(b"four").unwrap();
    let copy = childminder::inherited_fd(file.as_raw_fd()).unwrap();
    assert!(copy.as_raw_fd() > 2);
    assert_eq!(fs::File::from(copy).stream_position().unwrap(), 4);
    for closed in [-1, 100_000] {
        assert_eq!(childminder::inherited_fd(closed).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
