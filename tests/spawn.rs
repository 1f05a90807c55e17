//! Tests what a child gets: descriptors, arguments, environment, directory, group and limits. It
//! asks the child itself, or /proc, and changes nothing of this process.

mod util;

use std::fs::{self, File};
use std::io::{Read, Seek, Write, read_to_string};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Arc;

use childminder::{Command, Limit, Resource, Stage, Stdio};
use util::{COMBINATIONS, TempDir, World, field_of, on_all_combinations, sh};

/// A script that lists the descriptors of its shell.
const LIST: &str = "ls -v /proc/$$/fd; :";

on_all_combinations! {
    // The child has only the descriptors that it was given. Its stdin is /dev/null.
    fn default_descriptors(world: &mut World) {
        assert_eq!(world.output(&sh(LIST)), "0\n1\n2\n");
        assert_eq!(world.output(&sh("readlink /proc/$$/fd/0")), "/dev/null\n");
        assert_eq!(world.output(&Command::new("cat")), "");
    }

    // Twisted: test_FD.
    fn any_map(world: &mut World) {
        let script = "read a; read b <&3; echo out $a >&1; echo four $b >&4; exec 4>&-; read c <&5 || echo eof";
        let mut command = sh(script);
        command
            .stdin(Stdio::writer())
            .stdout(Stdio::reader())
            .fd(3, Stdio::writer())
            .fd(4, Stdio::reader())
            .fd(5, Stdio::writer());
        let id = world.spawn(&command);
        world.process(id).write(0, b"zero\n").unwrap();
        world.process(id).write(3, b"three\n").unwrap();
        world.until(|log| log.closed(id, 4).is_some());
        assert_eq!(world.log.closed(id, 5), None);
        assert_eq!(world.log.text(id, 4), "four three\n");
        world.process(id).close(5);
        let outcome = world.until_ended(id);
        assert_eq!(outcome.out, "out zero\neof\n");
        assert!(outcome.exit.success());
    }

    // The child has no descriptor at all.
    fn none_at_all(world: &mut World) {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::closed()).stdout(Stdio::closed()).stderr(Stdio::closed());
        let id = world.spawn(&command);
        let listing = format!("/proc/{}/fd", world.process(id).pid().unwrap());
        let deadline = util::now() + util::WATCHDOG;
        // The program loader opens some descriptors for a moment.
        while fs::read_dir(&listing).unwrap().count() > 0 {
            assert!(util::now() < deadline, "it has descriptors");
            std::thread::yield_now();
        }
        world.process(id).signal(libc::SIGKILL).unwrap();
        world.until_ended(id);
        let mut command = Command::new("true");
        command.stdin(Stdio::closed()).stdout(Stdio::closed()).stderr(Stdio::closed());
        assert!(world.run(&command).exit.success());
    }

    // Twisted: test_stderr.
    fn stderr_into_stdout(world: &mut World) {
        let mut command = sh("echo one; echo two >&2; echo three");
        command.stderr(Stdio::same_as(1));
        let outcome = world.run(&command);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("one\ntwo\nthree\n", ""));
        let mut command = sh("echo one; echo two >&7");
        command.stdout(Stdio::same_as(7)).stderr(Stdio::null()).fd(7, Stdio::reader());
        let id = world.spawn(&command);
        world.until_ended(id);
        assert_eq!(world.log.text(id, 7), "one\ntwo\n");
    }

    // Descriptors are swapped, shared, and moved away and back. Twisted: GetFileActionsTests.
    fn given_files(world: &mut World) {
        let dir = TempDir::new("given");
        let open = |name: &str| -> Arc<OwnedFd> {
            let path = dir.file(name, &format!("{name}\n"), 0o600);
            Arc::new(File::options().read(true).append(true).open(path).unwrap().into())
        };
        let (a, b, c) = (open("a"), open("b"), open("c"));
        let number = |fd: &Arc<OwnedFd>| std::os::fd::AsRawFd::as_raw_fd(&**fd);
        // Each file is given at the number that another one has in the host, in a ring, and all of
        // them once more. The shell's `<&` only knows descriptors of one digit, so the script asks
        // the kernel.
        let mut command = Command::new("sh");
        command.args(["-c", r#"for fd in "$@"; do cat /proc/$$/fd/$fd; done"#, "sh"]);
        let map = [(number(&a), &b, "b"), (number(&b), &c, "c"), (number(&c), &a, "a"), (50, &a, "a"), (51, &b, "b"), (52, &a, "a")];
        let mut expected = String::new();
        for (target, file, name) in map {
            command.fd(target, Stdio::shared(Arc::clone(file))).arg(target.to_string());
            expected += &format!("{name}\n");
        }
        assert_eq!(world.output(&command), expected);
        // A command means the same each time.
        assert_eq!(world.output(&command.clone()), expected);
        // A file that is given at its own number stays where it is.
        let mut command = sh(&format!("cat /proc/$$/fd/{}", number(&a)));
        command.fd(number(&a), Stdio::shared(Arc::clone(&a)));
        assert_eq!(world.output(&command), "a\n");
    }

    // The caller's file stays open, and its position is where the child left it.
    fn a_file_as_stdout(world: &mut World) {
        let dir = TempDir::new("stdout");
        let path = dir.file("log", "", 0o600);
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        let mut command = sh("echo hello; echo world >&2");
        command.stdout(file.try_clone().unwrap()).stderr(Stdio::same_as(1));
        assert!(world.run(&command).exit.success());
        file.write_all(b"mine\n").unwrap();
        file.rewind().unwrap();
        let mut said = String::new();
        file.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello\nworld\nmine\n");
    }

    // Whatever holds a descriptor in std can be a child's file: a pipe of another child, a socket.
    fn the_types_of_std(world: &mut World) {
        let mut source = process::Command::new("sh");
        source.args(["-c", "echo out; echo err >&2"]).stdout(process::Stdio::piped()).stderr(process::Stdio::piped());
        let mut source = source.spawn().unwrap();
        let mut sink = process::Command::new("cat");
        sink.stdin(process::Stdio::piped()).stdout(process::Stdio::piped());
        let mut sink = sink.spawn().unwrap();

        let (unix, theirs) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut command = sh("cat; cat <&3; echo unix >&4; echo tcp >&5; echo sink >&6");
        command.stdin(source.stdout.take().unwrap()).fd(3, source.stderr.take().unwrap());
        command.fd(4, theirs).fd(5, tcp).fd(6, sink.stdin.take().unwrap());
        assert_eq!(world.output(&command), "out\nerr\n");
        // Until then the command holds the ends that were given.
        drop(command);
        assert_eq!(read_to_string(unix).unwrap(), "unix\n");
        assert_eq!(read_to_string(listener.accept().unwrap().0).unwrap(), "tcp\n");
        assert_eq!(read_to_string(sink.stdout.take().unwrap()).unwrap(), "sink\n");
        assert!(source.wait().unwrap().success() && sink.wait().unwrap().success());
    }

    // The highest number is the highest possible one, and both paths must find room for their own
    // descriptors. Twisted: test_openFileDescriptors.
    fn high_numbers(world: &mut World) {
        let limit: i32 = field_of_limits("Max open files").min(i32::MAX as u64) as i32;
        for target in [200, 1023, limit - 1] {
            let mut command = sh(&format!("{LIST}; echo high > /proc/$$/fd/{target}"));
            command.fd(target, Stdio::reader());
            let id = world.spawn(&command);
            let outcome = world.until_ended(id);
            assert_eq!(outcome.out, format!("0\n1\n2\n{target}\n"), "{outcome:?}");
            assert_eq!(world.log.text(id, target), "high\n");
        }
        let mut command = Command::new("true");
        command.fd(limit, Stdio::null());
        let error = world.reactor.spawn_process(&command).unwrap_err();
        assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Dup2, Some(libc::EBADF)));
    }

    // There are more high descriptors than low slots.
    fn many_descriptors(world: &mut World) {
        let _filler: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let mut command = sh("for fd in 3 4 5 6 7 8 9; do eval \"echo $fd >&$fd\"; done; ls -v /proc/$$/fd; :");
        for fd in 3..40 {
            command.fd(fd, Stdio::reader());
        }
        let id = world.spawn(&command);
        let outcome = world.until_ended(id);
        let expected: String = (0..40).map(|fd| format!("{fd}\n")).collect();
        assert_eq!(outcome.out, expected);
        for fd in 3..10 {
            assert_eq!(world.log.text(id, fd), format!("{fd}\n"));
            assert_eq!(world.log.closed(id, fd), Some(0));
        }
    }

    // A descriptor that is given at its own number is inheritable, even if it was not before.
    // Twisted: test_inheritableConflict.
    fn inherited(world: &mut World) {
        let file = File::open("/dev/zero").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let mut command = sh(&format!("readlink /proc/$$/fd/{number}"));
        command.fd(number, Stdio::inherit());
        assert_eq!(world.output(&command), "/dev/zero\n");
        let mut command = Command::new("true");
        command.fd(9999, Stdio::inherit());
        let error = world.reactor.spawn_process(&command).unwrap_err();
        assert_eq!((error.stage(), error.io_error().raw_os_error()), (Stage::Dup2, Some(libc::EBADF)));
    }

    fn socket_activation(world: &mut World) {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = "echo $LISTEN_FDS $LISTEN_FDNAMES; test $LISTEN_PID = $$ && echo mine; ls /proc/$$/fd; \
                      readlink /proc/$$/fd/3 /proc/$$/fd/4";
        let mut command = sh(script);
        // Variables that the host has inherited, or that the command sets, must not come first.
        command.envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "7"), ("LISTEN_FDNAMES", "x")]);
        command.listen_fd("web", first.try_clone().unwrap()).listen_fd("api", second.try_clone().unwrap());
        let inode = |socket: &TcpListener| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
            fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string()
        };
        let expected = format!("2 web:api\nmine\n0\n1\n2\n3\n4\n{}\n{}\n", inode(&first), inode(&second));
        assert_eq!(world.output(&command), expected);
        assert_eq!(world.output(&command), expected);
        let mut command = Command::new("env");
        command.envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "7"), ("LISTEN_FDNAMES", "x")]).listen_fd("web", first);
        let said = world.output(&command);
        assert_eq!(said.lines().filter(|line| line.starts_with("LISTEN_")).count(), 3, "{said}");
        assert!(said.contains("LISTEN_FDS=1\n") && said.contains("LISTEN_FDNAMES=web\n"), "{said}");
    }

    // Twisted: test_commandLine, test_processCommandLineArguments.
    fn arguments(world: &mut World) {
        let odd = ["", " ", "\t\t\"\\", "'\"'\\n", "$HOME", "*", "-c", "ünï", "\n"];
        let mut command = Command::new("printf");
        command.arg("<%s>").args(odd);
        let expected: String = odd.iter().map(|arg| format!("<{arg}>")).collect();
        assert_eq!(world.output(&command), expected);
        let mut command = sh("echo $0");
        command.arg0("another");
        assert_eq!(world.output(&command), "another\n");
    }

    // Twisted: test_environment….
    fn environment(world: &mut World) {
        let mut command = Command::new("/usr/bin/env");
        let lines = |said: &str| {
            let mut lines: Vec<String> = said.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        let own = |name: &str| std::env::var(name).unwrap();
        let said = world.output(&command);
        assert!(said.contains(&format!("PATH={}\n", own("PATH"))), "{said}");
        command.env("CHILDMINDER_A", "1").env("PATH", "/nowhere").env_remove("HOME");
        let said = lines(&world.output(&command));
        assert!(said.contains(&"CHILDMINDER_A=1".into()) && said.contains(&"PATH=/nowhere".into()));
        assert!(!said.iter().any(|line| line.starts_with("HOME=")));
        command.env_clear().env("B", "two words=x").env("A", "");
        assert_eq!(lines(&world.output(&command)), ["A=", "B=two words=x"]);
        command.env_clear();
        assert_eq!(world.output(&command), "");
    }

    // The search uses the child's PATH, whatever else the command sets.
    fn path_of_the_child(world: &mut World) {
        let dir = TempDir::new("path");
        dir.file("first/prog", "#!/bin/sh\necho first\n", 0o644);
        dir.file("second/prog", "#!/bin/sh\necho second $PWD\n", 0o755);
        dir.file("third/prog", "#!/bin/sh\necho third\n", 0o755);
        let root = dir.0.display();
        let mut command = Command::new("prog");
        command.env("PATH", format!("{root}/none:{root}/first:{root}/second:{root}/third"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(world.output(&command), format!("second {}\n", here.display()));
        command.current_dir(dir.0.join("third"));
        assert_eq!(world.output(&command), format!("second {root}/third\n"));
        // Relative entries start from the child's directory, and an empty entry is that directory.
        for path in ["../third", "", "/none:", ":/none", "."] {
            command.env("PATH", path);
            assert_eq!(world.output(&command), "third\n", "{path:?}");
        }
        // An entry that is longer than a path can be is skipped, as by execvp(3).
        let long = "x".repeat(5000);
        command.env("PATH", format!("/{long}:{root}/second"));
        assert_eq!(world.output(&command), format!("second {root}/third\n"));
        command.env("PATH", format!("/{long}"));
        let error = world.reactor.spawn_process(&command).unwrap_err();
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOENT), "{error}");
        assert!(error.to_string().contains("in no directory of its PATH"), "{error}");
        // Without a PATH, the search uses /bin:/usr/bin.
        let mut command = Command::new("true");
        assert_eq!(world.output(command.env_clear()), "");
    }

    // Twisted: test_shebang.
    fn directory(world: &mut World) {
        let dir = TempDir::new("cwd");
        dir.file("sub/prog", "#!/bin/sh\npwd\n", 0o755);
        let mut command = Command::new("sub/prog");
        command.current_dir(&dir.0);
        assert_eq!(world.output(&command), format!("{}\n", dir.0.display()));
        let mut command = Command::new("./prog");
        command.current_dir(dir.0.join("sub"));
        assert_eq!(world.output(&command), format!("{}/sub\n", dir.0.display()));
    }

    fn groups_and_sessions(world: &mut World) {
        // pid, parent, group, session
        let ids = |said: &str| -> Vec<i32> {
            let (_, rest) = said.rsplit_once(") ").unwrap();
            let pid = said.split(' ').next().unwrap();
            let rest: Vec<&str> = rest.split(' ').collect();
            [pid, rest[1], rest[2], rest[3]].map(|number| number.parse().unwrap()).into()
        };
        // Another program reads it, because an emulator makes up the file of its own process.
        let own = format!("/proc/{}/stat", process::id());
        let own = ids(&world.output(Command::new("cat").arg(own)));
        let mut command = Command::new("cat");
        command.arg("/proc/self/stat");
        let child = ids(&world.output(&command));
        assert_eq!(child[1..], [own[0], child[0], own[3]]);
        let child = ids(&world.output(command.clone().inherit_process_group()));
        assert_eq!(child[1..], [own[0], own[2], own[3]]);
        let child = ids(&world.output(command.clone().setsid(true)));
        assert_eq!(child[1..], [own[0], child[0], child[0]]);
        let child = ids(&world.output(command.clone().setsid(true).process_group(0)));
        assert_eq!(child[1..], [own[0], child[0], own[3]]);
        let mut leader = Command::new("cat");
        let leader = world.spawn(leader.stdin(Stdio::piped()));
        let pgid = world.process(leader).pid().unwrap() as i32;
        let child = ids(&world.output(command.clone().process_group(pgid)));
        assert_eq!(child[1..], [own[0], pgid, own[3]]);
        world.process(leader).close_stdin();
        world.until_ended(leader);
    }

    fn umask_and_nice(world: &mut World) {
        let mut command = sh("umask; nice");
        command.umask(0o027).nice(19);
        assert_eq!(world.output(&command), "0027\n19\n");
        command.umask(0);
        assert_eq!(world.output(&command), "0000\n19\n");
    }

    // Every limit is set, soft and hard.
    fn limits(world: &mut World) {
        if !util::needs_limits() || !util::needs_the_kernel("limits of memory") {
            return;
        }
        let hard_now: Vec<Option<u64>> = Resource::ALL.iter().map(|one| limits_of_proc(one.name()).1).collect();
        let mut command = Command::new("cat");
        command.arg("/proc/self/limits");
        for (resource, hard) in Resource::ALL.iter().zip(&hard_now) {
            let hard = hard.unwrap_or(1 << 40);
            command.rlimit(*resource, Limit { soft: Some(hard - hard / 8), hard: Some(hard) });
        }
        let said = world.output(&command);
        for (resource, hard) in Resource::ALL.iter().zip(&hard_now) {
            let hard = hard.unwrap_or(1 << 40);
            assert_eq!(parse_limit(&said, resource.name()), (Some(hard - hard / 8), Some(hard)), "{resource:?}\n{said}");
        }
        let mut command = sh("ulimit -c");
        assert_eq!(world.output(command.rlimit(Resource::Core, Limit { soft: Some(0), hard: None.or(hard_now[1]) })), "0\n");
    }

    // When the thread that spawned it ends, the child gets the signal.
    fn parent_death_signal(world: &mut World) {
        let mut command = Command::new("sleep");
        command.arg("1000").parent_death_signal(libc::SIGUSR1);
        let id = std::thread::scope(|scope| {
            scope.spawn(|| world.reactor.spawn_process(&command).unwrap()).join().unwrap()
        });
        let outcome = world.until_ended(id);
        assert_eq!(outcome.exit.signal(), Some(libc::SIGUSR1));
        assert_eq!(outcome.exit.requested, None);
    }

    // The host is clean here. hygiene.rs tests an untidy one.
    fn signals_are_clean(world: &mut World) {
        let mut command = Command::new("cat");
        command.arg("/proc/self/status");
        let said = world.output(&command);
        for field in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
            assert_eq!(field_of(&said, field).trim_start_matches('0'), "", "{field} in {said}");
        }
    }

    // A filter runs in another directory. Twisted: test_process.
    fn gzip(world: &mut World) {
        let mut command = sh("gzip -c | gunzip -c");
        command.stdin(Stdio::piped()).current_dir("/tmp");
        let id = world.spawn(&command);
        let text = "some text\n".repeat(1000);
        world.process(id).write(0, text.as_bytes()).unwrap();
        world.process(id).close_stdin();
        assert_eq!(world.until_ended(id).out, text);
    }

    // A handler spawns a process, and the handler of that one another.
    fn from_a_handler(world: &mut World) {
        let first = world.spawn(&sh("echo 0"));
        let mut ids = vec![first];
        world.until_with(
            |reactor, event| {
                if let childminder::Event::Exited { .. } = event {
                    if ids.len() < 5 {
                        ids.push(reactor.spawn_process(&sh(&format!("echo {}", ids.len()))).unwrap());
                    }
                }
            },
            |log| log.0.iter().filter(|(_, what)| matches!(what, util::What::Ended(_))).count() == 5,
        );
        for (number, id) in ids.iter().enumerate() {
            assert_eq!(world.log.text(*id, 1), format!("{number}\n"));
            world.log.expect_in_order(*id);
        }
    }
}

fn field_of_limits(name: &str) -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    line[26..].split_whitespace().next().unwrap().parse().unwrap_or(u64::MAX)
}

fn limits_of_proc(name: &str) -> (Option<u64>, Option<u64>) {
    parse_limit(&fs::read_to_string("/proc/self/limits").unwrap(), name)
}

/// The soft and the hard limit in the text of /proc/<pid>/limits.
fn parse_limit(said: &str, name: &str) -> (Option<u64>, Option<u64>) {
    let long = match name {
        "as" => "Max address space",
        "core" => "Max core file size",
        "cpu" => "Max cpu time",
        "data" => "Max data size",
        "fsize" => "Max file size",
        "locks" => "Max file locks",
        "memlock" => "Max locked memory",
        "msgqueue" => "Max msgqueue size",
        "nice" => "Max nice priority",
        "nofile" => "Max open files",
        "nproc" => "Max processes",
        "rss" => "Max resident set",
        "rtprio" => "Max realtime priority",
        "rttime" => "Max realtime timeout",
        "sigpending" => "Max pending signals",
        "stack" => "Max stack size",
        other => panic!("{other}"),
    };
    let line = said.lines().find(|line| line.starts_with(long)).unwrap();
    let mut values = line[long.len()..].split_whitespace().map(|value| value.parse().ok());
    (values.next().unwrap(), values.next().unwrap())
}
