//! Tests the host's own children and descriptors beside the monitor's. It is the only test of its
//! file, because an inheritable descriptor belongs to the whole process.

mod monitor_util;

use std::process::{Child, Command as StdCommand, Stdio as StdStdio};
use std::time::Duration;

use monitor_util::{World, each_way, sh};

fn exits(code: u8) -> Child {
    StdCommand::new("sh").args(["-c", &format!("exit {code}")]).spawn().unwrap()
}

fn waits() -> Child {
    StdCommand::new("sh").args(["-c", "read x; exit $x"]).stdin(StdStdio::piped()).spawn().unwrap()
}

fn answer(child: &mut Child, code: &str) {
    use std::io::Write;
    child.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
}

const INNER: &str = "CHILDMINDER_TEST_INNER";

#[test]
fn the_host_keeps_its_children_and_its_descriptors() {
    if std::env::var_os(INNER).is_none() {
        // The inner process has a descriptor that is not close-on-exec, as a careless library opens
        // it.
        let mut inner = StdCommand::new("sh");
        inner.args(["-c", "exec 9</dev/null; exec \"$0\""]).arg(std::env::current_exe().unwrap());
        assert!(inner.env(INNER, "1").status().unwrap().success());
        return;
    }
    let seen = StdCommand::new("sh").args(["-c", "[ -e /proc/self/fd/9 ]"]).status().unwrap();
    assert!(seen.success(), "the host's own children get it");

    each_way(|world: &mut World| {
        // Two children of the host are older. One exits before the monitor's children, and one
        // while they do.
        let (mut before, mut asked) = (exits(11), waits());
        world.until_dead(before.id());
        world.add("crashes", &sh("exit 1"));
        world.add("looks", &sh("ls /proc/self/fd | tr '\\n' ' '; echo; exec sleep 1000"));
        world.start();
        let mut during = exits(12);
        world.until_told("started", "crashes", 10);
        world.until_dead(during.id());
        answer(&mut asked, "13\n");
        world.until_dead(asked.id());
        world.until_told("started", "crashes", 20);
        // `ls` reads the directory through descriptor 3.
        world.until("what it sees", |world| !world.lines("looks").is_empty());
        assert_eq!(world.lines("looks")[0].trim_end(), "[looks] 0 1 2 3");
        let mut waited_for = exits(14);
        assert_eq!(waited_for.wait().unwrap().code(), Some(14));
        assert_eq!(during.wait().unwrap().code(), Some(12));
        world.stop();
        world.until_down();
        let mut after = exits(15);
        world.reactor.turn(Some(Duration::ZERO), |_, _| {}).unwrap();
        assert_eq!(after.wait().unwrap().code(), Some(15));
        assert_eq!(before.wait().unwrap().code(), Some(11));
        assert_eq!(asked.wait().unwrap().code(), Some(13));
    });
}
