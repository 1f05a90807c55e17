//! Tests the peak memory of a child of a large host: it is the child's own with
//! `Command::own_peak`, and absent otherwise. Such a child is like any other.
//!
//! The one rule: the host has touched a gigabyte before it starts anything.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod util;

use std::fs;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use childminder::{Command, Covers, Figure, RunToEnd, Stdio};
use util::{COMBINATIONS, World, children, field_of, needs_root, sh};

const MEGABYTE: u64 = 1 << 20;

/// Makes the host large, and waits until no other test has children.
fn gigabyte() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static MEMORY: OnceLock<Vec<u8>> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| vec![1; 1 << 30]);
    assert_eq!(std::hint::black_box(memory)[1 << 29], 1);
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A world whose children are started by `vfork`, which the small program needs.
fn world() -> World {
    World::new(COMBINATIONS[0])
}

#[test]
fn a_gigabyte_measures_true_at_less_than_four_megabytes() {
    let _alone = gigabyte();
    let command = |own| {
        let mut command = Command::new("/bin/true");
        command.own_peak(own);
        command
    };
    let output = RunToEnd::new(&command(true)).run().unwrap();
    let Some(Figure { value, covers: Covers::Reaped }) = output.used.peak_memory else { panic!("{output:?}") };
    println!("{value} bytes");
    assert!(value > 100 * 1024 && value < 4 * MEGABYTE, "{value}");
    assert_eq!(value, output.exit.usage.max_rss);

    let output = RunToEnd::new(&command(false)).run().unwrap();
    assert!(output.exit.usage.max_rss >= 1 << 30);
    assert_eq!(output.used.peak_memory, None, "that is the host's");
}

#[test]
fn a_child_that_is_larger_than_its_host_has_a_peak() {
    let _alone = gigabyte();
    // The whole of this memory belongs to the shell.
    let output = RunToEnd::new(&sh("head -c 1300000000 /dev/zero | tail -c 1300000000 >/dev/null")).run().unwrap();
    let peak = output.used.peak_memory.expect("it is larger than this program");
    assert!(peak.value > 1_200_000_000, "{peak:?}");
}

/// The fields of a line of `/proc/PID/stat` from the third on, proc_pid_stat(5).
fn after_the_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(") ").unwrap().1.split(' ').collect()
}

/// The session of this program as /proc tells it: "0" where its leader is outside this PID
/// namespace, as in a container that was started without `setsid`.
fn own_session() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    after_the_name(&stat)[3].to_owned()
}

#[test]
fn it_is_like_any_other_child() {
    let _alone = gigabyte();
    let mut world = world();
    // What the reactor keeps open of its cgroups is open after the first child.
    world.output(&sh("true"));
    let before = util::open_fds();
    for setsid in [false, true] {
        let mut command = sh("cat /proc/$$/status /proc/$$/stat; ls -1v /proc/$$/fd; echo err >&2; cat; exit 7");
        command.arg0("name").own_peak(true).setsid(setsid).stdin(Stdio::piped()).fd(7, Stdio::null()).nice(3);
        let id = world.spawn(&command);
        let pid = world.process(id).pid().unwrap();
        world.process(id).write(0, b"input\n").unwrap();
        world.process(id).close_stdin();
        let outcome = world.until_ended(id);
        assert_eq!((outcome.exit.code(), &outcome.err[..]), (Some(7), "err\n"));
        assert!(outcome.out.ends_with("0\n1\n2\n7\ninput\n"), "{}", outcome.out);
        let said = &outcome.out;
        assert_eq!(field_of(said, "Pid"), pid.to_string());
        assert_eq!(field_of(said, "PPid"), std::process::id().to_string());
        let stat = said.lines().find(|line| line.starts_with(&format!("{pid} ("))).unwrap();
        let fields = after_the_name(stat);
        let session = if setsid { pid.to_string() } else { own_session() };
        assert_eq!((fields[2], fields[3]), (&pid.to_string()[..], &session[..]), "{stat}");
        assert_eq!(fields[16], "3", "nice: {stat}");
    }
    let said = world.output(Command::new("cat").arg("/proc/self/status").own_peak(true));
    assert!(["SigBlk", "SigIgn", "SigCgt"].iter().all(|field| field_of(&said, field) == "0000000000000000"), "{said}");
    assert_eq!(children(), [], "the starter is reaped");
    // The small program stays open for the next child.
    assert!(util::open_fds().len() <= before.len() + 1);
}

#[test]
fn its_errors_are_those_of_any_other() {
    let _alone = gigabyte();
    let mut world = world();
    let folder = util::TempDir::new("errors");
    let script = folder.file("script", "echo $0 \"$@\"", 0o755);
    for (program, dir) in [("/no/such", None), ("no-such", None), ("/etc/passwd", None), ("true", Some("/no/such"))]
        .into_iter()
        .chain([(script.to_str().unwrap(), None)])
    {
        let mut command = Command::new(program);
        dir.map(|dir| command.current_dir(dir).get_program());
        let mut error = |own: bool| world.reactor.spawn_process(command.own_peak(own)).unwrap_err().to_string();
        assert_eq!(error(true), error(false));
        assert_eq!(children(), []);
    }
}

#[test]
fn the_path_is_searched() {
    let _alone = gigabyte();
    let mut world = world();
    let folder = util::TempDir::new("path");
    folder.file("first/tool", "no program", 0o644);
    folder.file("second/tool", "#!/bin/sh\necho \"$0 $1 $WORD\"", 0o755);
    let path = format!("/no/such:{0}/first:{0}/second:/bin", folder.0.display());
    let mut command = Command::new("tool");
    command.arg("argument").env("PATH", &path).env("WORD", "word").own_peak(true);
    assert_eq!(world.output(&command), format!("{}/second/tool argument word\n", folder.0.display()));
}

#[test]
fn it_has_another_user_and_dies_with_its_host() {
    let _alone = gigabyte();
    let mut world = world();
    if !needs_root() {
        return;
    }
    let mut command = Command::new("cat");
    command.arg("/proc/self/status").uid(65534).gid(65534).own_peak(true).no_new_privs(true);
    let said = world.output(&command);
    assert_eq!(field_of(&said, "Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(field_of(&said, "Groups"), "65534");
    assert_eq!(field_of(&said, "NoNewPrivs"), "1");
    let dumpable = fs::metadata("/proc/self/mem").map(|file| std::os::unix::fs::MetadataExt::uid(&file)).unwrap();
    assert_eq!(dumpable, 0);

    // The signal comes when the thread ends that has started the child.
    let mut command = Command::new("sleep");
    command.arg("1000").parent_death_signal(libc::SIGUSR1).own_peak(true);
    let (id, mut world) = std::thread::spawn(move || {
        let id = world.spawn(&command);
        (id, world)
    })
    .join()
    .unwrap();
    assert_eq!(world.until_ended(id).exit.signal(), Some(libc::SIGUSR1));
}

#[test]
fn signals_reach_it() {
    let _alone = gigabyte();
    let mut world = world();
    let mut command = sh("trap 'echo heard; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    let id = world.spawn(command.own_peak(true));
    world.until_said(id, 1, "ready");
    world.process(id).terminate_group(libc::SIGTERM).unwrap();
    let outcome = world.until_ended(id);
    assert_eq!((outcome.exit.code(), &outcome.out[..]), (Some(5), "ready\nheard\n"));
}
