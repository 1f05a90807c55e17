//! Tests other code in the host that waits for children or handles signals. No exit of ours is
//! lost, and none of the host's is taken.
//!
//! Each case, by each method, is a process of its own: this file runs itself. `cargo test --test
//! coexistence -- name` runs the cases whose name contains `name`.

mod embed_util;

use std::future::Future;
use std::process::{ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake};
use std::{env, pin, process, thread};

use childminder::{Command, Event, Exit, ProcessId, Reactor, ReapMethod, SpawnMethod, Stdio};

use embed_util::{
    METHODS, call_handler, children, drop_copy, exits_with, finish, fork, mask, rounds, run, set_action, steal,
    wait_for, watchdog,
};

type Case = fn(Reactor, ReapMethod);

const CASES: [(&str, Case); 17] = [
    ("host_handler_before", host_handler_before),
    ("host_handler_after_that_calls_ours", host_handler_after_that_calls_ours),
    ("host_handler_after_that_forgets_ours", host_handler_after_that_forgets_ours),
    ("host_ignores_sigchld_before", host_ignores_sigchld_before),
    ("host_ignores_sigchld_after", host_ignores_sigchld_after),
    ("another_thread_reaps_everybody", another_thread_reaps_everybody),
    ("host_uses_std_process", host_uses_std_process),
    ("host_uses_tokio", host_uses_tokio),
    ("host_uses_async_process", host_uses_async_process),
    ("several_reactors_in_several_threads", several_reactors_in_several_threads),
    ("several_reactors_in_one_thread", several_reactors_in_one_thread),
    ("made_in_one_thread_and_run_in_another", made_in_one_thread_and_run_in_another),
    ("the_thread_that_spawned_ends", the_thread_that_spawned_ends),
    ("signals_blocked_in_some_threads", signals_blocked_in_some_threads),
    ("host_reads_and_is_not_interrupted", host_reads_and_is_not_interrupted),
    ("host_forks_without_exec", host_forks_without_exec),
    ("host_forks_and_drops_the_copy", host_forks_and_drops_the_copy),
];

/// The cases that only pidfds can handle: a host that replaces our handler, or ignores SIGCHLD,
/// after our reactor was made.
const PIDFD_ONLY: [&str; 2] = ["host_handler_after_that_forgets_ours", "host_ignores_sigchld_after"];

const CASE: &str = "CHILDMINDER_TEST_CASE";

fn main() -> ExitCode {
    if let Ok(case) = env::var(CASE) {
        let (name, methods) = case.split_once('/').unwrap();
        let (spawn, reap) = METHODS[methods.parse::<usize>().unwrap()];
        let (_, case) = CASES.into_iter().find(|(known, _)| *known == name).unwrap();
        watchdog(1200);
        case(Reactor::with_methods(spawn, reap).unwrap(), reap);
        assert_eq!(children(), [], "somebody is left");
        return ExitCode::SUCCESS;
    }
    let filter = env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    for (name, _) in CASES.into_iter().filter(|(name, _)| name.contains(&filter)) {
        // The four ways run at the same time.
        let itself = |number| {
            let mut itself = process::Command::new(env::current_exe().unwrap());
            itself.env(CASE, format!("{name}/{number}")).spawn().unwrap()
        };
        let borne = |number: &usize| METHODS[*number].1 == ReapMethod::Pidfd || !PIDFD_ONLY.contains(&name);
        let running: Vec<_> =
            (0..METHODS.len()).filter(borne).map(|number| (METHODS[number], itself(number))).collect();
        for ((spawn, reap), mut child) in running {
            let status = child.wait().unwrap();
            println!("test {name} ({spawn:?}, {reap:?}) ... {}", if status.success() { "ok" } else { "FAILED" });
            failed += usize::from(!status.success());
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The exits of each round: by 0, by 1, by 7 and by a signal.
const CODES: [Option<i32>; 4] = [Some(0), Some(1), Some(7), None];

fn commands() -> [Command; 4] {
    CODES.map(|code| match code {
        Some(code) => exits_with(code),
        None => {
            let mut command = Command::new("sh");
            command.args(["-c", "kill -9 $$"]);
            command
        }
    })
}

/// Runs one round, all processes at once. Each must exit once and then end once. Returns the exits.
fn round(reactor: &mut Reactor, commands: &[Command]) -> Vec<Exit> {
    let ids: Vec<ProcessId> = commands.iter().map(|command| reactor.spawn_process(command).unwrap()).collect();
    let (mut exits, mut ended) = (vec![None; ids.len()], 0);
    while ended < ids.len() {
        let handler = |_: &mut Reactor, event: Event<'_>| match event {
            Event::Exited { process, exit } => {
                let index = ids.iter().position(|id| *id == process).unwrap();
                assert!(exits[index].replace(*exit).is_none(), "told twice");
            }
            Event::Ended { process, .. } => {
                let index = ids.iter().position(|id| *id == process).unwrap();
                assert!(exits[index].is_some(), "ended and not exited");
                ended += 1;
            }
            _ => {}
        };
        reactor.turn(None, handler).unwrap();
    }
    exits.into_iter().flatten().collect()
}

fn is_exact(exits: &[Exit]) -> bool {
    let expected = CODES.iter().map(|code| (*code, if code.is_none() { Some(libc::SIGKILL) } else { None }));
    exits.iter().map(|exit| (exit.code(), exit.signal())).eq(expected)
}

fn exact_rounds(reactor: &mut Reactor, rounds: usize) {
    let commands = commands();
    for number in 0..rounds {
        let exits = round(reactor, &commands);
        assert!(is_exact(&exits), "round {number}: {exits:?}");
    }
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static FORMER: AtomicUsize = AtomicUsize::new(0);

extern "C" fn host_handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    call_handler(FORMER.load(Ordering::SeqCst), signal, info, context);
}

fn install_host_handler() -> usize {
    let flags = libc::SA_SIGINFO | libc::SA_RESTART;
    set_action(libc::SIGCHLD, host_handler as *const () as usize, flags)
}

/// Every exit has raised the signal, though several at once may have raised only one.
fn host_was_called() {
    assert!(CALLS.load(Ordering::SeqCst) >= rounds());
}

fn host_handler_before(reactor: Reactor, _: ReapMethod) {
    install_host_handler();
    let mut reactor = reactor;
    exact_rounds(&mut reactor, rounds());
    host_was_called();
    drop(reactor);
    let before = CALLS.load(Ordering::SeqCst);
    assert!(process::Command::new("true").status().unwrap().success());
    assert!(CALLS.load(Ordering::SeqCst) > before, "the host's handler is called after our time too");
}

fn host_handler_after_that_calls_ours(mut reactor: Reactor, _: ReapMethod) {
    exact_rounds(&mut reactor, 1);
    let mut former = action_of_sigchld();
    FORMER.store(former, Ordering::SeqCst);
    former = install_host_handler();
    assert_eq!(former, FORMER.load(Ordering::SeqCst));
    exact_rounds(&mut reactor, rounds());
    host_was_called();
}

fn action_of_sigchld() -> usize {
    embed_util::dispositions()
        .into_iter()
        .find(|(signal, ..)| *signal == libc::SIGCHLD)
        .map_or(0, |(_, handler, _)| handler)
}

/// Only pidfds can handle this case.
fn host_handler_after_that_forgets_ours(mut reactor: Reactor, _: ReapMethod) {
    exact_rounds(&mut reactor, 1);
    install_host_handler();
    exact_rounds(&mut reactor, rounds());
    host_was_called();
}

/// The kernel reaps for a host that ignores SIGCHLD. The exits are reported, and their statuses are
/// unknown. A reactor that needs SIGCHLD takes it, and then knows the statuses.
fn host_ignores_sigchld_before(mut reactor: Reactor, reap: ReapMethod) {
    set_action(libc::SIGCHLD, libc::SIG_IGN, 0);
    if reap == ReapMethod::Sigchld {
        exact_rounds(&mut reactor, rounds());
    } else {
        unknown_rounds(&mut reactor);
        assert_eq!(action_of_sigchld(), libc::SIG_IGN, "it is the host's");
    }
}

/// Only pidfds can handle this case.
fn host_ignores_sigchld_after(mut reactor: Reactor, _: ReapMethod) {
    exact_rounds(&mut reactor, 1);
    set_action(libc::SIGCHLD, libc::SIG_IGN, 0);
    unknown_rounds(&mut reactor);
    assert_eq!(action_of_sigchld(), libc::SIG_IGN, "it is the host's");
}

fn unknown_rounds(reactor: &mut Reactor) {
    let commands = commands();
    for _ in 0..rounds() {
        let exits = round(reactor, &commands);
        assert!(exits.iter().all(|exit| exit.status.is_none() && !exit.success()), "{exits:?}");
    }
}

/// Another thread waits for any child and reaps some of ours. All exits are reported. The status of
/// a reaped one is unknown, and the others are exact.
fn another_thread_reaps_everybody(mut reactor: Reactor, reap: ReapMethod) {
    let over = Arc::new(AtomicBool::new(false));
    let thief = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut taken = 0;
            while !over.load(Ordering::SeqCst) {
                match steal() {
                    Some(_) => taken += 1,
                    None => thread::yield_now(),
                }
            }
            taken
        }
    });
    let commands = commands();
    let mut unknown = 0;
    for _ in 0..rounds() {
        for (exit, code) in round(&mut reactor, &commands).into_iter().zip(CODES) {
            match exit.status {
                Some(_) => assert_eq!(exit.code(), code),
                None => unknown += 1,
            }
        }
    }
    over.store(true, Ordering::SeqCst);
    let taken = thief.join().unwrap();
    let untouched = action_of_sigchld() == libc::SIG_DFL;
    assert_eq!(untouched, reap == ReapMethod::Pidfd);
    assert_eq!(taken, unknown);
    println!("    taken by the other thread: {taken} of {}", rounds() * CODES.len());
}

/// Our children and the host's run at the same time, in two threads. Then ours run while the host's
/// runtime starts and stops.
fn side_by_side(mut reactor: Reactor, host: impl FnOnce(Sender<()>) + Send + 'static) {
    let (started, starts) = channel();
    let host = thread::spawn(move || host(started));
    starts.recv().unwrap();
    let mut done = 0;
    while done < rounds() || !host.is_finished() {
        exact_rounds(&mut reactor, 1);
        done += 1;
    }
    host.join().unwrap();
}

fn check_host(code: Option<i32>, status: ExitStatus) {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.code(), code);
    assert_eq!(status.signal(), if code.is_none() { Some(libc::SIGKILL) } else { None });
}

const SCRIPTS: [&str; 4] = ["exit 0", "exit 1", "exit 7", "kill -9 $$"];

fn host_uses_std_process(reactor: Reactor, _: ReapMethod) {
    side_by_side(reactor, |started| {
        started.send(()).unwrap();
        for _ in 0..rounds() {
            let children = SCRIPTS.map(|script| process::Command::new("sh").args(["-c", script]).spawn().unwrap());
            for (mut child, code) in children.into_iter().zip(CODES) {
                check_host(code, child.wait().unwrap());
            }
        }
    });
}

fn host_uses_tokio(reactor: Reactor, _: ReapMethod) {
    side_by_side(reactor, |started| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async move {
            started.send(()).unwrap();
            for _ in 0..rounds() {
                let children =
                    SCRIPTS.map(|script| tokio::process::Command::new("sh").args(["-c", script]).spawn().unwrap());
                for (mut child, code) in children.into_iter().zip(CODES) {
                    check_host(code, child.wait().await.unwrap());
                }
            }
        });
    });
}

fn host_uses_async_process(reactor: Reactor, _: ReapMethod) {
    side_by_side(reactor, |started| {
        block_on(async move {
            started.send(()).unwrap();
            for _ in 0..rounds() {
                let children =
                    SCRIPTS.map(|script| async_process::Command::new("sh").args(["-c", script]).spawn().unwrap());
                for (mut child, code) in children.into_iter().zip(CODES) {
                    check_host(code, child.status().await.unwrap());
                }
            }
        });
    });
}

/// A minimal executor.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn methods_of(reap: ReapMethod) -> [(SpawnMethod, ReapMethod); 2] {
    [(SpawnMethod::Vfork, reap), (SpawnMethod::Fork, reap)]
}

fn several_reactors_in_several_threads(mut reactor: Reactor, reap: ReapMethod) {
    let start = Arc::new(Barrier::new(4));
    let others: Vec<_> = (0..3)
        .map(|number| {
            let start = Arc::clone(&start);
            thread::spawn(move || {
                let (spawn, reap) = methods_of(reap)[number % 2];
                let mut reactor = Reactor::with_methods(spawn, reap).unwrap();
                start.wait();
                exact_rounds(&mut reactor, rounds());
            })
        })
        .collect();
    start.wait();
    exact_rounds(&mut reactor, rounds());
    for other in others {
        other.join().unwrap();
    }
}

/// Both reactors get a signal, but only one gets an exit.
fn several_reactors_in_one_thread(mut first: Reactor, reap: ReapMethod) {
    let (spawn, reap) = methods_of(reap)[0];
    let mut second = Reactor::with_methods(spawn, reap).unwrap();
    for _ in 0..rounds() {
        let theirs = second.spawn_process(&exits_with(7)).unwrap();
        let ours = first.spawn_process(&exits_with(1)).unwrap();
        assert_eq!(finish(&mut first, ours).code(), Some(1));
        assert_eq!(finish(&mut second, theirs).code(), Some(7));
    }
}

fn made_in_one_thread_and_run_in_another(reactor: Reactor, _: ReapMethod) {
    let mut reactor = reactor;
    for _ in 0..rounds() {
        let id = reactor.spawn_process(&exits_with(7)).unwrap();
        let there = thread::spawn(move || {
            assert_eq!(finish(&mut reactor, id).code(), Some(7));
            exact_rounds(&mut reactor, 1);
            reactor
        });
        reactor = there.join().unwrap();
    }
}

/// Children outlive the thread that spawned them, and are still ours.
fn the_thread_that_spawned_ends(reactor: Reactor, _: ReapMethod) {
    let mut reactor = reactor;
    for _ in 0..rounds() {
        let there = thread::spawn(move || {
            let id = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
            (reactor, id)
        });
        let (back, id) = there.join().unwrap();
        reactor = back;
        let mut cat = reactor.process(id).unwrap();
        cat.write(0, b"still there").unwrap();
        cat.close_stdin();
        let (mut said, mut exit) = (Vec::new(), None);
        while exit.is_none() {
            let handler = |_: &mut Reactor, event: Event<'_>| match event {
                Event::Data { data, .. } => said.extend_from_slice(data),
                Event::Ended { exit: how, .. } => exit = Some(*how),
                _ => {}
            };
            reactor.turn(None, handler).unwrap();
        }
        assert!(exit.unwrap().success());
        assert_eq!(said, b"still there");
    }
}

/// The reactor's own thread has all signals blocked, and SIGCHLD needs one thread that has not.
/// Children start with no signal blocked.
fn signals_blocked_in_some_threads(mut reactor: Reactor, _: ReapMethod) {
    let (end, ended): (Sender<()>, Receiver<()>) = channel();
    let open = thread::spawn(move || ended.recv());
    let all: Vec<i32> = (1..=64).filter(|signal| *signal != libc::SIGALRM).collect();
    mask(libc::SIG_SETMASK, &all);
    exact_rounds(&mut reactor, rounds());
    let mut grep = Command::new("grep");
    grep.args(["-q", "^SigBlk:[[:space:]]*0*$", "/proc/self/status"]);
    assert!(run(&mut reactor, &grep).success());
    drop(end);
    assert!(open.join().unwrap().is_err());
}

/// A child exits while the host's only thread is in a system call, which is not interrupted.
/// Twisted: test_systemCallUninterruptedByChildExit.
fn host_reads_and_is_not_interrupted(mut reactor: Reactor, _: ReapMethod) {
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    for _ in 0..rounds() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        // The script exits when this process sleeps, which is in the read. If it sleeps a little
        // before that, another round will hit the read. If this process is killed, the file is gone
        // and neither script goes on looking.
        let state = format!("/proc/{}/status", thread.display());
        let script = format!("while [ -e {state} ] && ! grep -q '^State:.S' {state}; do :; done; exit 7");
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let first = reactor.spawn_process(&command).unwrap();
        let pid = reactor.process(first).unwrap().pid().unwrap();
        let state = format!("/proc/{pid}/status");
        let script = format!("while [ -e {state} ] && ! grep -q '^State:.Z' {state}; do :; done; echo dead");
        command = Command::new("sh");
        command.args(["-c", &script]).stdout(std::os::fd::OwnedFd::from(theirs));
        let second = reactor.spawn_process(&command).unwrap();
        drop(command);
        let mut said = [0; 5];
        // This is one system call. Only `read_exact` would repeat it after an interruption.
        assert_eq!(std::io::Read::read(&mut ours, &mut said).unwrap(), 5);
        assert_eq!(said, *b"dead\n");
        let mut codes = Vec::new();
        while codes.len() < 2 {
            let handler = |_: &mut Reactor, event: Event<'_>| {
                if let Event::Ended { process, exit } = event {
                    codes.push((process == second, exit.code()));
                }
            };
            reactor.turn(None, handler).unwrap();
        }
        codes.sort_unstable();
        assert_eq!(codes, [(false, Some(7)), (true, Some(0))]);
    }
}

/// A copy of the host that lives during the round holds copies of all descriptors, including the
/// pidfds and our ends of the pipes.
fn host_forks_without_exec(mut reactor: Reactor, _: ReapMethod) {
    let commands = commands();
    for number in 0..rounds() {
        let sleeper = reactor.spawn_process(Command::new("sleep").arg("1000")).unwrap();
        let (until, hold) = rustix::pipe::pipe().unwrap();
        let copy = fork(|| {
            if number % 2 == 0 {
                // The writing end is open in the copy too, so it takes a byte to end this read.
                let _ = rustix::io::read(&until, &mut [0]);
            }
            9
        });
        reactor.process(sleeper).unwrap().kill_group().unwrap();
        assert_eq!(finish(&mut reactor, sleeper).signal(), Some(libc::SIGKILL));
        let exits = round(&mut reactor, &commands);
        assert!(is_exact(&exits), "{exits:?}");
        rustix::io::write(&hold, b"x").unwrap();
        assert_eq!(libc::WEXITSTATUS(wait_for(copy).unwrap()), 9);
    }
}

/// The copy cleans up as a program that ends does. What it shares with the original stays
/// unchanged.
fn host_forks_and_drops_the_copy(mut reactor: Reactor, _: ReapMethod) {
    for _ in 0..rounds() {
        let sleeper = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
        let timer = reactor.call_later(std::time::Duration::ZERO);
        let copy = fork(|| {
            drop_copy(&reactor);
            0
        });
        assert_eq!(libc::WEXITSTATUS(wait_for(copy).unwrap()), 0);
        assert!(reactor.timer_deadline(timer).is_some());
        reactor.process(sleeper).unwrap().close_stdin();
        assert!(finish(&mut reactor, sleeper).success());
        exact_rounds(&mut reactor, 1);
    }
}
