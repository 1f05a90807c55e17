//! Tests what is written to the log crate. It is the only test of its file, because the crate has
//! one logger a process.

mod monitor_util;

use std::sync::Mutex;

use childminder::{Policy, ProcessMonitor, Reactor, ReapMethod, Restart, Service};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use monitor_util::{WATCHDOG, now, sh};

/// A log record: level, target, text, key-values.
type Logged = (Level, String, String, Vec<(String, String)>);

static LOGGED: Mutex<Vec<Logged>> = Mutex::new(Vec::new());

struct Capture;

#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

impl Log for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let mut pairs = Pairs::default();
        record.key_values().visit(&mut pairs).unwrap();
        let logged = (record.level(), record.target().to_owned(), record.args().to_string(), pairs.0);
        LOGGED.lock().unwrap().push(logged);
    }
    fn flush(&self) {}
}

/// A log record of one target: level, text, key-values.
type Part = (Level, String, Vec<(String, String)>);

fn logged(target: &str) -> Vec<Part> {
    let all = LOGGED.lock().unwrap();
    all.iter()
        .filter(|(_, of, ..)| of == target)
        .map(|(level, _, text, pairs)| (*level, text.clone(), pairs.clone()))
        .collect()
}

#[test]
fn lines_and_lives_are_logged() {
    log::set_logger(&Capture).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let mut reactor = Reactor::new().unwrap();
    let mut monitor = ProcessMonitor::new();
    monitor.set_max_line(8);
    let mut policy = Policy::default();
    policy.restart = Restart::OnFailure;
    policy.threshold = std::time::Duration::from_secs(1000);
    policy.min_restart_delay = std::time::Duration::from_secs(3);
    let script = "echo 'it {} %s'; printf '\\377?\\n' >&2; echo 123456789; kill -9 $$";
    monitor.add_process_with(&mut reactor, "web", &sh(script), policy.clone()).unwrap();
    let missing = childminder::Command::new("/nonexistent/program");
    monitor.add_process_with(&mut reactor, "none", &missing, policy.clone()).unwrap();
    let leaver = sh("sleep 1000 </dev/null >/dev/null 2>&1 & \
                     until read name </proc/$!/comm && [ $name = sleep ]; do :; done; echo $!");
    monitor.add_process_with(&mut reactor, "leaver", &leaver, policy.clone()).unwrap();
    monitor.add_process(&mut reactor, "deaf", &sh(monitor_util::STUBBORN)).unwrap();
    monitor.start_service(&mut reactor);
    let end = now() + WATCHDOG;
    let mut turn = |monitor: &mut ProcessMonitor| {
        assert!(now() < end, "{:#?}", LOGGED.lock().unwrap());
        let timeout = Some(std::time::Duration::from_millis(100));
        reactor.turn(timeout, |reactor, event| _ = monitor.handle(reactor, &event)).unwrap();
    };
    let waits =
        |name| logged("childminder::monitor").iter().any(|(_, text, _)| *text == format!("[{name}] restarting in 3s"));
    let ready = || logged("childminder::process").iter().any(|(_, text, _)| text == "[deaf] ready");
    let reaches = monitor_util::reaches_leftovers(ReapMethod::Pidfd);
    // Where nothing leads to a group without its leader, the group is killed before the exit is
    // told.
    let last = if reaches { "[leaver] all processes that it left behind are gone" } else { "[leaver] exited: " };
    let left = || logged("childminder::monitor").iter().any(|(_, text, _)| text.starts_with(last));
    while !(waits("web") && ready() && left()) {
        turn(&mut monitor);
    }
    let mut reactor = reactor;
    monitor.stop_service(&mut reactor);
    monitor.kill_service(&mut reactor);
    while !monitor.is_down() {
        assert!(now() < end);
        reactor.turn(None, |reactor, event| _ = monitor.handle(reactor, &event)).unwrap();
    }

    let pairs = |stream: &str, line: &str| {
        vec![("name".into(), "web".into()), ("stream".into(), stream.into()), ("line".into(), line.to_owned())]
    };
    let mut lines = logged("childminder::process");
    lines.retain(|(_, text, _)| text.starts_with("[web"));
    let err = lines.iter().position(|(_, text, _)| text == r"[web] \xff?").expect("the line of stderr");
    assert_eq!(lines.remove(err), (Level::Info, r"[web] \xff?".into(), pairs("stderr", r"\xff?")));
    assert_eq!(
        lines,
        [
            (Level::Info, "[web] it {} %s".into(), pairs("stdout", "it {} %s")),
            (Level::Info, "[web] 12345678".into(), pairs("stdout", "12345678")),
            (Level::Info, "[web+] 9".into(), pairs("stdout", "9")),
        ]
    );

    let lives = logged("childminder::monitor");
    let of = |name: &str| {
        let mine = lives.iter().filter(|(.., pairs)| pairs[0] == ("name".to_owned(), name.to_owned()));
        mine.map(|(level, text, _)| (*level, text.clone())).collect::<Vec<_>>()
    };
    let web = of("web");
    assert!(web[0].1.starts_with("[web] started, pid "), "{web:?}");
    assert!(web[1].1.starts_with("[web] exited: signal 9 (SIGKILL), after "), "{web:?}");
    assert_eq!(web[2..], [(Level::Debug, "[web] restarting in 3s".into())]);
    let none = of("none");
    assert!(none[0].0 == Level::Warn && none[0].1.contains("/nonexistent/program"), "{none:?}");
    let line = logged("childminder::process").into_iter().find(|(_, text, _)| text.starts_with("[leaver] ")).unwrap().1;
    let pid = line.strip_prefix("[leaver] ").unwrap();
    if reaches {
        let (level, killing) = of("leaver")[2].clone();
        // Its state may be any.
        let killing = killing.rsplit_once(" (").unwrap().0;
        let expected = format!("[leaver] killing the processes that it left behind: 1: {pid} sleep");
        assert_eq!((level, killing), (Level::Info, &*expected));
    }
    let deaf: Vec<String> = of("deaf").into_iter().map(|(_, text)| text).collect();
    assert_eq!(deaf[1..3], ["[deaf] terminating (SIGTERM)", "[deaf] killing"]);
}
