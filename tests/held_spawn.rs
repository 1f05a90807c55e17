//! Tests children that are delayed on their way to their exec, by a user who may signal them or by
//! a file system that does not answer. The host gets its answer in time, and no process is left.

mod util;

#[path = "util/apart.rs"]
mod apart;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, thread};

use apart::expect_apart;
use childminder::{Command, Event, Reactor, Stage};
use rustix::process::{
    DumpableBehavior, Pid, Signal, dumpable_behavior, kill_process, kill_process_group, set_dumpable_behavior,
};
use util::{COMBINATIONS, TempDir, WATCHDOG, World, children, children_of, needs_root, now, on_all_combinations};

/// No other process uses these users, so that "all processes of this user" are those of one test.
const USERS: u32 = 3_111_000_000;
static TESTS: AtomicU32 = AtomicU32::new(0);
/// The variable with this name sets the number of spawns.
const SPAWNS: &str = "CHILDMINDER_TEST_HELD_SPAWNS";
const HOST: &str = "CHILDMINDER_TEST_HELD_HOST";

/// A helper of a test, which is killed when this value is dropped.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes every process that opens the file for reading wait as long as this helper lives. The
/// helper has a lease (`fcntl(2)`) and does not give it back.
fn lease(path: &Path) -> Helper {
    let script = "import fcntl, os, signal, sys\n\
                  fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                  fcntl.fcntl(fd, 10, signal.SIGURG)\n\
                  fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                  print('leased', flush=True)\n\
                  sys.stdin.read()\n";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut helper = Helper(python.spawn().expect("python3"));
    let mut line = String::new();
    BufReader::new(helper.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "leased\n");
    helper
}

/// A program in a folder of its own.
fn program(name: &str, script: &str) -> (TempDir, Command) {
    let folder = TempDir::new(name);
    let program = folder.file("program", &format!("#!/bin/sh\n{script}\n"), 0o755);
    (folder, Command::new(program))
}

/// Runs the present test once more, as a process that leads a group of its own and shall start this
/// program. Returns the process and its lines.
fn host(program: &Path) -> (Helper, impl Iterator<Item = String>) {
    let name = thread::current().name().unwrap().to_owned();
    let mut host = std::process::Command::new(env::current_exe().unwrap());
    host.args(["--exact", &name, "--nocapture"]).env(HOST, program).stdout(Stdio::piped()).process_group(0);
    let mut host = Helper(host.spawn().unwrap());
    let lines = BufReader::new(host.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    (host, lines)
}

#[track_caller]
fn no_answer(world: &mut World, own_peak: bool) {
    let (folder, mut command) = program("held", "echo hello");
    let lease = lease(&folder.0.join("program"));
    command.current_dir(&folder.0).own_peak(own_peak);
    world.reactor.set_spawn_timeout(Duration::from_millis(200));
    let start = now();
    let error = world.reactor.spawn_process(&command).unwrap_err();
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!((error.stage(), error.io_error().kind()), (Stage::Wait, std::io::ErrorKind::TimedOut), "{error}");
    assert!(error.to_string().ends_with("program`: wait for its exec: it was not there in time"), "{error}");
    // The child had reached its folder, and is gone now.
    let is_there = |pid: i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder.0);
    assert!(!children().iter().any(|(pid, _)| is_there(*pid)));
    drop(lease);
    // What nothing holds up may take its time on a busy machine.
    world.reactor.set_spawn_timeout(WATCHDOG);
    assert_eq!(world.output(&command), "hello\n");
}

on_all_combinations! {
    // The user stops all of its processes again and again, including the ones on their way to their
    // exec.
    fn stopped_by_its_own_user(world: &mut World) {
        if !needs_root() {
            return;
        }
        let user = USERS + TESTS.fetch_add(1, Ordering::Relaxed);
        let mut sibling = std::process::Command::new("sh");
        sibling.args(["-c", "while :; do kill -STOP -1; done"]).uid(user).gid(user).stderr(Stdio::null());
        let _sibling = Helper(sibling.spawn().unwrap());
        let (mut held, mut spawned) = (0, 0);
        let count: usize = env::var(SPAWNS).map_or(100, |count| count.parse().unwrap());
        while spawned < count {
            let before = now();
            let mut command = Command::new("true");
            // Each of the two ways is stopped.
            command.uid(user).gid(user).groups(&[]).own_peak(spawned % 2 == 1);
            let result = world.reactor.spawn_process(&command);
            assert!(before.elapsed() < Duration::from_secs(5), "held up for {:?}", before.elapsed());
            match result {
                Ok(id) => {
                    // Its program is stopped, too.
                    world.process(id).kill_group().unwrap();
                    world.until_ended(id);
                    world.log.0.clear();
                }
                Err(error) => {
                    assert_eq!(error.stage(), Stage::Wait, "{error}");
                    assert!(error.to_string().ends_with("a signal has stopped it on its way"), "{error}");
                    held += 1;
                }
            }
            spawned += 1;
        }
        eprintln!("{held} of {spawned} were stopped on their way");
        assert_eq!(world.output(&util::sh("echo hello")), "hello\n");
    }

    fn a_file_system_that_does_not_answer(world: &mut World) {
        for own_peak in [false, true] {
            no_answer(world, own_peak);
        }
    }

    fn who_is_only_slow_gets_there(world: &mut World) {
        let (folder, command) = program("slow", "echo hello");
        let lease = lease(&folder.0.join("program"));
        let waker = thread::spawn(move || {
            thread::park_timeout(Duration::from_millis(300));
            drop(lease);
        });
        let start = now();
        let id = world.spawn(&command);
        assert!(start.elapsed() >= Duration::from_millis(250), "{:?}: it was never held up", start.elapsed());
        assert_eq!(world.until_ended(id).out, "hello\n");
        waker.join().unwrap();
    }

    // A request to end reaches the host during such a spawn. The host is a process of its own, so
    // that the signal is for it alone.
    fn the_host_is_asked_to_end(world: &mut World) {
        if let Ok(program) = env::var(HOST) {
            world.reactor.watch_signal(libc::SIGTERM).unwrap();
            println!("ready");
            let start = now();
            let error = world.reactor.spawn_process(&Command::new(program)).unwrap_err();
            let heard = Cell::new(false);
            while !heard.get() {
                world.turn_with(WATCHDOG, |_, event| heard.set(matches!(event, Event::Signal { .. })));
            }
            println!("heard after {} s: {error}", start.elapsed().as_secs());
            return;
        }
        let (folder, _) = program("asked", "echo hello");
        let program = folder.0.join("program");
        let _lease = lease(&program);
        let (host, mut lines) = host(&program);
        assert!(lines.by_ref().any(|line| line == "ready"));
        kill_process(Pid::from_child(&host.0), Signal::TERM).unwrap();
        let said = lines.by_ref().find(|line| line.starts_with("heard")).unwrap();
        assert!(["2", "3", "4"].iter().any(|time| said.starts_with(&format!("heard after {time} s"))), "{said}");
        assert!(said.contains("a signal asked the host to end"), "{said}");
    }

    // Ctrl-Z reaches a child that stays in the host's group. Both stop, but only after the exec.
    fn ctrl_z_strikes_after_the_exec(world: &mut World) {
        if let Ok(program) = env::var(HOST) {
            world.reactor.watch_signal(libc::SIGTSTP).unwrap();
            world.reactor.watch_stops().unwrap();
            println!("ready");
            let id = world.spawn(Command::new(program).inherit_process_group().parent_death_signal(libc::SIGKILL));
            let (heard, stopped) = (Cell::new(false), Cell::new(false));
            let note = |_: &mut Reactor, event: &Event<'_>| match event {
                Event::Signal(libc::SIGTSTP) => heard.set(true),
                Event::Stopped { signal: libc::SIGTSTP, .. } => stopped.set(true),
                _ => {}
            };
            world.until_with(note, |_| heard.get() && stopped.get());
            world.process(id).signal(libc::SIGKILL).unwrap();
            world.until_ended(id);
            println!("both stop");
            return;
        }
        let (folder, _) = program("ctrl-z", "exec sleep 1000");
        let program = folder.0.join("program");
        let lease = lease(&program);
        let (mut host, mut lines) = host(&program);
        assert!(lines.by_ref().any(|line| line == "ready"));
        let pid = host.0.id();
        let start = now();
        while children_of(pid).is_empty() {
            assert!(start.elapsed() < WATCHDOG, "no child");
        }
        kill_process_group(Pid::from_child(&host.0), Signal::TSTP).unwrap();
        drop(lease);
        assert!(lines.any(|line| line == "both stop"));
        host.0.wait().unwrap();
    }

    // A child in a system call that not even SIGKILL ends is left alone, and is gone when the call
    // is over.
    fn a_child_that_cannot_be_killed(world: &mut World) {
        if !needs_root() {
            return;
        }
        let folder = TempDir::new("fuse");
        let Some(silent) = Silent::mount(world, &folder.0) else { return };
        world.reactor.set_spawn_timeout(Duration::from_millis(100));
        let start = now();
        let error = world.reactor.spawn_process(&Command::new(folder.0.join("program"))).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let said = error.to_string();
        let pid: i32 = said.split_whitespace().skip_while(|word| *word != "(process").nth(1).unwrap().parse().unwrap();
        assert!(said.ends_with("was killed and is not gone yet)"), "{said}");
        assert!(children().iter().any(|(child, _)| *child == pid));
        // Meanwhile other processes are started as usual, however busy the machine is.
        world.reactor.set_spawn_timeout(WATCHDOG);
        assert_eq!(world.output(&util::sh("echo hello")), "hello\n");
        drop(silent);
        let deadline = now() + WATCHDOG;
        while children().iter().any(|(child, _)| *child == pid) {
            assert!(now() < deadline, "{pid} is still there");
            assert_eq!(world.output(&util::sh("echo hello")), "hello\n");
        }
    }
}

// Such a child may have another user by then, and still uses the host's memory. That user may not
// read the memory there.
#[test]
fn the_user_of_a_stuck_child_may_not_read_the_host() {
    if !needs_root() || !util::needs_the_kernel("children in their host's memory") {
        return;
    }
    expect_apart("the_user_of_a_stuck_child_may_not_read_the_host", || {
        let mut world = World::new(COMBINATIONS[0]);
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        let folder = TempDir::new("stuck");
        let Some(silent) = Silent::mount(&mut world, &folder.0) else { return };
        world.reactor.set_spawn_timeout(Duration::from_millis(100));
        let mut command = Command::new(folder.0.join("program"));
        let error = world.reactor.spawn_process(command.uid(USERS).gid(USERS).groups(&[])).unwrap_err();
        assert!(error.to_string().ends_with("was killed and is not gone yet)"), "{error}");
        world.reactor.set_spawn_timeout(WATCHDOG);
        assert_ne!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        assert_eq!(world.output(&util::sh("echo hello")), "hello\n");
        assert_ne!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        drop(silent);
        let deadline = now() + WATCHDOG;
        while dumpable_behavior().unwrap() != DumpableBehavior::Dumpable {
            assert!(now() < deadline, "it never comes back");
            assert_eq!(world.output(&util::sh("echo hello")), "hello\n");
        }
    });
}

/// A file system that accepts every request and answers none except the first one, which mounts it.
struct Silent {
    folder: std::path::PathBuf,
    device: File,
    reader: Option<thread::JoinHandle<()>>,
}

impl Silent {
    #[track_caller]
    fn mount(world: &mut World, folder: &Path) -> Option<Self> {
        let Ok(mut device) = File::options().read(true).write(true).open("/dev/fuse") else {
            util::left_out("there is no /dev/fuse");
            return None;
        };
        let mut mount = Command::new("mount");
        mount
            .args(["-i", "-t", "fuse", "-o", "fd=3,rootmode=40000,user_id=0,group_id=0,allow_other", "silent"])
            .arg(folder);
        mount.fd(3, std::os::fd::OwnedFd::from(device.try_clone().unwrap()));
        let done = world.run(&mount).exit;
        if !done.success() {
            util::left_out("FUSE cannot be mounted");
            return None;
        }
        let mut request = [0; 65_536];
        assert!(device.read(&mut request).unwrap() >= 40);
        // The answer is a fuse_out_header, then a fuse_init_out of version 7.31 that asks for
        // nothing.
        let mut answer = [0_u8; 16 + 64];
        answer[..4].copy_from_slice(&80_u32.to_ne_bytes());
        answer[8..16].copy_from_slice(&request[8..16]);
        answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
        answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
        answer[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
        device.write_all(&answer).unwrap();
        let mut asked = device.try_clone().unwrap();
        let reader = thread::spawn(move || while asked.read(&mut request).is_ok() {});
        Some(Self { folder: folder.to_owned(), device, reader: Some(reader) })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // This ends the file system at once, and all calls that wait for it.
        let mut umount = std::process::Command::new("umount");
        umount.stderr(Stdio::null()).arg(&self.folder);
        let _ = umount.arg("-f").status();
        let _ = umount.arg("-l").status();
        let _ = self.device.flush();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
