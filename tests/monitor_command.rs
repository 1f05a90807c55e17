//! Tests a new command for a process that a monitor already keeps running.

mod monitor_util;

use childminder::restart::State;
use childminder::{MonitorError, Readiness, Ready, Watch};
use monitor_util::{IDLE, all_instant_deaths, contained, each_way, long_backoff, sh};

// A process that runs goes on. The next one is the new command's, and the history stays.
#[test]
fn the_next_start_uses_a_new_command() {
    each_way(|world| {
        world.add("web", &sh("echo old; read x; exit 3"));
        world.add("idle", &sh(IDLE));
        world.start();
        world.until_told("exited", "web", 1);
        world.until_told("started", "web", 2);
        let (pid, idle) = (world.pid("web"), world.pid("idle"));
        world.monitor.set_command("web", &contained(&sh("echo new; exec sleep 1000"))).unwrap();
        world.monitor.set_command("idle", &contained(&sh("echo new; exec sleep 1000"))).unwrap();
        world.until("the old command ends", |world| world.lines("web").contains(&"[web] new"));
        assert_ne!(world.pid("web"), pid);
        let status = world.monitor.status("web").unwrap();
        assert_eq!(status.last_exit.and_then(|exit| exit.code()), Some(3));
        assert!(status.restarts >= 2, "{status:?}");
        assert_eq!(world.pid("idle"), idle);
        world.restart_process("idle");
        world.until("the new command", |world| world.lines("idle").contains(&"[idle] new"));
        assert_eq!(world.monitor.status("idle").unwrap().restarts, 1);
        let names: Vec<_> = world.monitor.names().map(str::to_owned).collect();
        assert_eq!(names, ["web", "idle"], "it keeps its place");
        let unknown = world.monitor.set_command("db", &sh("true"));
        assert_eq!(unknown, Err(MonitorError::Unknown("db".into())));
    });
}

// A process that waits for its restart waits on, and one that is stopped stays so.
#[test]
fn a_new_command_starts_nothing() {
    each_way(|world| {
        world.add_with("web", &sh("exit 3"), long_backoff());
        world.add("stopped", &sh(IDLE));
        world.start();
        world.until_told("restarting", "web", 1);
        world.stop_process("stopped");
        world.until_stopped("stopped");
        let waits = world.state("web");
        assert!(matches!(waits, State::BackingOff { .. }), "{waits:?}");
        for name in ["web", "stopped"] {
            world.monitor.set_command(name, &contained(&sh("echo new; exec sleep 1000"))).unwrap();
        }
        assert_eq!((world.state("web"), world.state("stopped")), (waits, State::Stopped));
        for name in ["web", "stopped"] {
            world.start_process(name);
            world.until("the new command", |world| world.lines(name).contains(&&*format!("[{name}] new")));
        }
    });
}

// What tells that a process is ready holds for the new command, too.
#[test]
fn a_new_command_is_watched() {
    each_way(|world| {
        world.add_with("web", &sh("echo >&3; exec sleep 1000"), all_instant_deaths());
        let mut watch = Watch::default();
        watch.ready = Ready::Fd(3);
        world.watch("web", watch);
        world.start();
        world.until_told("ready", "web", 1);
        world.monitor.set_command("web", &contained(&sh("echo new; echo >&3; exec sleep 1000"))).unwrap();
        world.restart_process("web");
        world.until_told("ready", "web", 2);
        assert_eq!(world.lines("web"), ["[web] new"]);
        assert_eq!(world.monitor.status("web").unwrap().readiness, Readiness::Ready);
    });
}
