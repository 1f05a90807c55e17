//! Tests a sandbox that refuses the newer system calls. Everything works without them, by the
//! slower ways. It is one test in a process of its own, because a refusal is remembered for good.

#![cfg(all(target_os = "linux", target_endian = "little"))]

#[path = "util/seccomp.rs"]
mod seccomp;
mod util;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use childminder::{Command, Event, Stdio};
use util::{COMBINATIONS, TempDir, World, sh};

#[test]
fn without_close_range_and_pidfds() {
    if !util::needs_the_kernel("seccomp filters") {
        return;
    }
    seccomp::refuse(&[libc::SYS_close_range, libc::SYS_pidfd_open].map(|call| (call, None, libc::EPERM)));
    let dir = TempDir::new("sandbox");
    let _filler: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
    let open = |name: &str| -> Arc<OwnedFd> { Arc::new(File::open(dir.file(name, name, 0o600)).unwrap().into()) };
    let (a, b, c) = (open("a"), open("b"), open("c"));
    // The very first spawn of the process is refused half-way, with a ring of high descriptor
    // numbers.
    let mut ring = Command::new("sh");
    ring.args(["-c", r#"for fd in "$@"; do cat /proc/$$/fd/$fd; done; ls -1v /proc/$$/fd; :"#, "sh"]);
    // One slot is taken by stdout, so two descriptors of the ring have been moved by then.
    ring.stdin(Stdio::closed()).stderr(Stdio::closed());
    let mut listed = vec![1];
    for (target, file) in [(&a, &c), (&b, &a), (&c, &b)] {
        let target = target.as_raw_fd();
        assert!(target >= 64);
        ring.fd(target, Stdio::shared(Arc::clone(file))).arg(target.to_string());
        listed.push(target);
    }
    listed.sort_unstable();
    let listed: String = listed.iter().map(|fd| format!("{fd}\n")).collect();
    for combination in COMBINATIONS {
        let mut world = World::new(combination);
        assert_eq!(world.output(&ring), format!("cab{listed}"));
        let error = world.reactor.spawn_process(&Command::new("/no/such")).unwrap_err();
        assert_eq!(error.io_error().raw_os_error(), Some(libc::ENOENT));
        let ids: Vec<_> = (0..10).map(|code| (code, world.spawn(&sh(&format!("exit {code}"))))).collect();
        for (code, id) in ids {
            assert_eq!(world.until_ended(id).exit.code(), Some(code));
        }
        let mut command = sh("sleep 1000 >/dev/null 2>&1 & echo $!; read go; exit 5");
        let id = world.spawn(command.stdin(Stdio::piped()));
        world.until_said(id, 1, "\n");
        world.process(id).kill_group_at_exit(true);
        world.process(id).write(0, b"go\n").unwrap();
        world.until_with(
            |reactor, event| {
                if let Event::Exited { process, .. } = event {
                    // A process that started in a cgroup can be reached nevertheless.
                    assert!(util::in_cgroups() || reactor.tree(*process).is_none());
                }
            },
            |log| log.ended(id),
        );
        let left = world.log.text(id, 1);
        let deadline = util::now() + util::WATCHDOG;
        while std::fs::read_to_string(format!("/proc/{}/stat", left.trim())).is_ok_and(|stat| !stat.contains(") Z")) {
            assert!(util::now() < deadline, "it lives");
            std::thread::yield_now();
        }
        let id = world.spawn(Command::new("sleep").arg("1000"));
        world.process(id).kill_group().unwrap();
        assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGKILL));
    }
}
