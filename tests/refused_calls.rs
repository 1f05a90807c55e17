//! Makes each system call of a spawn fail once. Each step fails with the right error and leaves
//! nothing behind. refusals.rs tests failures through real limits. It is one test in a process of
//! its own, because it counts the open descriptors of the whole process.

#![cfg(all(target_os = "linux", target_endian = "little"))]

#[path = "util/seccomp.rs"]
mod seccomp;
mod util;

use childminder::{Command, IoPriority, Limit, Pty, Resource, Scheduler, Stage, Stdio, Topology};
use seccomp::{Refused, refuse};
use util::{COMBINATIONS, World, needs_root, open_fds};

fn command(how: impl FnOnce(&mut Command) -> &mut Command) -> Command {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::piped());
    how(&mut command);
    command
}

// On x86 and arm, these names belong to older calls for 16-bit ids.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgid, SYS_setgroups, SYS_setuid};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{SYS_setgid32 as SYS_setgid, SYS_setgroups32 as SYS_setgroups, SYS_setuid32 as SYS_setuid};

/// The calls that make a child. musl has `fork` for its fork, where there is that call.
#[cfg(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm"))]
const CLONES: [libc::c_long; 3] = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork];
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "arm")))]
const CLONES: [libc::c_long; 2] = [libc::SYS_clone, libc::SYS_clone3];

/// A command, the calls that are refused to it, and the step that must report the error.
fn cases() -> Vec<(Command, Vec<Refused>, Stage)> {
    let plain = || command(|c| c);
    let on_terminal = || {
        let mut command = Command::new("/bin/true");
        command.pty(Pty::new());
        command
    };
    #[allow(clippy::unnecessary_cast)] // its type differs between C libraries
    let core = libc::RLIMIT_CORE as u32;
    let limit = Limit { soft: Some(0), hard: Some(0) };
    let cpus = Topology::of_this_machine().unwrap().cpus();
    let mut all = vec![
        (plain(), vec![(libc::SYS_pipe2, None, libc::ENFILE)], Stage::Pipe),
        (plain(), vec![(libc::SYS_epoll_ctl, None, libc::ENOSPC)], Stage::Pipe),
        (on_terminal(), vec![(libc::SYS_ioctl, Some((1, libc::TIOCSCTTY as u32)), libc::EPERM)], Stage::Terminal),
        (on_terminal(), vec![(libc::SYS_ioctl, Some((1, libc::TIOCGPTPEER as u32)), libc::ENFILE)], Stage::Pipe),
        (plain(), CLONES.map(|call| (call, None, libc::EAGAIN)).to_vec(), Stage::Clone),
        (plain(), vec![(libc::SYS_setpgid, None, libc::EACCES)], Stage::Setpgid),
        (command(|c| c.setsid(true)), vec![(libc::SYS_setsid, None, libc::EPERM)], Stage::Setsid),
        (command(|c| c.nice(19)), vec![(libc::SYS_setpriority, None, libc::EACCES)], Stage::Nice),
        (
            command(|c| c.rlimit(Resource::Core, limit)),
            vec![(libc::SYS_prlimit64, Some((1, core)), libc::EPERM)],
            Stage::Rlimit,
        ),
        (command(|c| c.current_dir("/")), vec![(libc::SYS_chdir, None, libc::EIO)], Stage::Chdir),
        (
            command(|c| c.parent_death_signal(libc::SIGTERM)),
            vec![(libc::SYS_prctl, Some((0, libc::PR_SET_PDEATHSIG as u32)), libc::EINVAL)],
            Stage::ParentDeath,
        ),
        // The call "succeeds" and returns 0 as the parent's pid, which means that the parent has
        // exited in between.
        (command(|c| c.parent_death_signal(libc::SIGTERM)), vec![(libc::SYS_getppid, None, 0)], Stage::ParentDeath),
        (plain(), vec![(libc::SYS_execve, None, libc::ENOMEM)], Stage::Exec),
        (command(|c| c.own_peak(true)), vec![(libc::SYS_execve, None, libc::ENOMEM)], Stage::Exec),
        (command(|c| c.cpus(&cpus)), vec![(libc::SYS_sched_setaffinity, None, libc::EPERM)], Stage::Affinity),
        (command(|c| c.memory_nodes(&[0])), vec![(libc::SYS_set_mempolicy, None, libc::ENOSYS)], Stage::MemoryPolicy),
        (command(|c| c.no_aslr(true)), vec![(libc::SYS_personality, None, libc::EPERM)], Stage::Personality),
        (
            command(|c| c.scheduler(Scheduler::Batch)),
            vec![(libc::SYS_sched_setscheduler, None, libc::EPERM)],
            Stage::Scheduler,
        ),
        (
            command(|c| c.io_priority(IoPriority::Idle)),
            vec![(libc::SYS_ioprio_set, None, libc::EPERM)],
            Stage::IoPriority,
        ),
        (
            command(|c| c.no_new_privs(true)),
            vec![(libc::SYS_prctl, Some((0, libc::PR_SET_NO_NEW_PRIVS as u32)), libc::EINVAL)],
            Stage::NoNewPrivs,
        ),
        // Signals cannot be blocked in the first case. In the second, they cannot be unblocked
        // again, in the child and in the host.
        (plain(), vec![(libc::SYS_rt_sigprocmask, None, libc::EPERM)], Stage::Sigmask),
        (plain(), vec![(libc::SYS_rt_sigprocmask, Some((0, libc::SIG_SETMASK as u32)), libc::EPERM)], Stage::Sigmask),
    ];
    if needs_root() {
        let user = || command(|c| c.uid(7).gid(7).groups(&[7]));
        // A user with too many processes gets EAGAIN.
        all.push((user(), vec![(SYS_setgroups, None, libc::ENOMEM)], Stage::Setgroups));
        all.push((user(), vec![(SYS_setgid, None, libc::EPERM)], Stage::Setgid));
        all.push((user(), vec![(SYS_setuid, None, libc::EAGAIN)], Stage::Setuid));
    }
    all
}

/// Runs the command once, so that everything that a spawn keeps for the next one is open before the
/// comparison.
fn warm(world: &mut World, command: &Command) {
    assert!(world.run(command).exit.success());
    world.log.0.clear();
}

// Twisted: WithForkError, ForkErrorCloseFDs, ErrorInPipe, ClosePTY.
#[test]
fn each_step_fails_whole() {
    if !util::needs_the_kernel("seccomp filters") {
        return;
    }
    for (command, refused, stage) in cases() {
        for combination in COMBINATIONS {
            let errno = if refused[0].2 == 0 { libc::ESRCH } else { refused[0].2 };
            std::thread::scope(|scope| {
                let there = scope.spawn(|| {
                    let mut world = World::new(combination);
                    warm(&mut world, &command);
                    let before = open_fds();
                    refuse(&refused);
                    for _ in 0..3 {
                        let error = world.reactor.spawn_process(&command).expect_err(&format!("{stage:?}"));
                        let got = (error.stage(), error.io_error().raw_os_error());
                        assert_eq!(got, (stage, Some(errno)), "{combination:?}: {error}");
                        assert_eq!(open_fds(), before, "{combination:?}: {error}");
                        assert_eq!(util::children(), [], "{combination:?}: {error}");
                    }
                    assert_eq!(world.reactor.processes().count(), 0);
                    world.settle();
                    assert!(world.log.0.is_empty(), "{:?}", world.log);
                });
                if let Err(panic) = there.join() {
                    std::panic::resume_unwind(panic);
                }
            });
        }
    }
}
