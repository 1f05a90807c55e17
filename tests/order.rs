//! Tests the order of real processes: which one waits for which, which goes down with which,
//! groups, limits, and rolling restarts.
//!
//! The one rule: the order in which things happen is read from the diary, not from clocks.

mod monitor_util;

use std::sync::Arc;
use std::time::Duration;

use childminder::restart::{StartLimit, State, WhyFailed};
use childminder::simulation::{Imagined, Run, Step, simulate_all};
use childminder::{Command, Group, Order, Policy, Readiness, Ready, Restart, Service, Strategy, Watch, When};
use monitor_util::{IDLE, STUBBORN, Told, World, each_way, long_backoff, no_instant_deaths, now, sh, short_kill_time};

/// Says at descriptor 3 that it is ready when it gets SIGUSR1.
const READY_ON_SIGNAL: &str = "trap 'echo >&3' USR1; echo ready; while :; do sleep 1000 & wait; done";

fn ready_by_fd() -> Watch {
    let mut watch = Watch::default();
    watch.ready = Ready::Fd(3);
    watch
}

fn at_once() -> Watch {
    let mut watch = Watch::default();
    watch.ready = Ready::Started;
    watch
}

fn job() -> Policy {
    let mut policy = no_instant_deaths();
    policy.restart = Restart::Never;
    policy
}

fn wait_for(names: &[(&str, &str)]) -> Order {
    let mut order = Order::new();
    for (name, on) in names {
        order.after(*name, *on, When::Ready);
    }
    order
}

fn require(names: &[(&str, &str)]) -> Order {
    let mut order = Order::new();
    for (name, on) in names {
        order.requires(*name, *on, When::Ready);
    }
    order
}

/// The names in the order in which this was reported of them.
fn names(world: &World, kind: &str) -> Vec<String> {
    let told = world.monitor.observer().0.iter().filter(|(_, told)| told.kind() == kind);
    told.map(|(_, told)| match told {
        Told::Started { name, .. } | Told::Exited { name, .. } | Told::Terminating { name, .. } => name.clone(),
        other => panic!("{other:?}"),
    })
    .collect()
}

fn is_waiting(world: &World, name: &str) -> bool {
    matches!(world.state(name), State::Waiting { .. })
}

fn is_running(world: &World, name: &str) -> bool {
    matches!(world.state(name), State::Running { .. })
}

#[test]
fn a_process_starts_when_the_one_before_it_is_ready() {
    each_way(|world| {
        world.add("web", &sh(IDLE));
        world.add("db", &sh(READY_ON_SIGNAL));
        world.watch("db", ready_by_fd());
        world.order(&wait_for(&[("web", "db")]));
        world.start();
        world.until_ready("db", 1);
        assert!(is_waiting(world, "web"));
        assert_eq!(world.monitor.waits_for("web"), ["db, which is not ready yet"]);
        assert_eq!(world.monitor.status("db").unwrap().readiness, Readiness::Pending);
        let db = world.monitor.status("db").unwrap().process.unwrap();
        world.reactor.process(db).unwrap().signal(libc::SIGUSR1).unwrap();
        world.until_ready("web", 1);
        assert_eq!(world.monitor.waits_for("web"), [""; 0]);
        assert_eq!(world.monitor.status("db").unwrap().readiness, Readiness::Ready);
        // What it writes there is no line.
        assert_eq!(world.lines("db"), ["[db] ready"]);
        world.stop();
        world.until_down();
        assert_eq!(names(world, "exited"), ["web", "db"]);
        world.expect_no_timer();
    });
}

#[test]
fn a_stop_waits_for_those_that_depend_on_it() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.add_with(name, &sh(if name == "c" { STUBBORN } else { IDLE }), short_kill_time());
        world.watch(name, at_once());
    }
    world.order(&wait_for(&[("b", "a"), ("c", "b")]));
    world.start();
    assert_eq!(names(&world, "started"), ["a", "b", "c"]);
    world.until_ready("c", 1);
    world.stop();
    assert_eq!(names(&world, "terminating"), ["c"]);
    assert_eq!(world.monitor.waits_for("b"), ["c, which has to stop first"]);
    world.until_down();
    assert_eq!(names(&world, "exited"), ["c", "b", "a"]);
}

#[test]
fn a_kill_waits_for_nobody() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.add(name, &sh(STUBBORN));
        world.watch(name, at_once());
    }
    world.order(&require(&[("b", "a")]));
    world.start();
    world.until_ready("b", 1);
    world.stop();
    world.monitor.kill_service(&mut world.reactor);
    assert_eq!((world.count("killing", "a"), world.count("killing", "b")), (1, 1));
    world.until_down();
}

#[test]
fn what_requires_another_goes_down_with_it_and_comes_back() {
    each_way(|world| {
        for name in ["db", "web", "other"] {
            world.add(name, &sh(IDLE));
            world.watch(name, at_once());
        }
        let mut order = require(&[("web", "db")]);
        order.after("other", "db", When::Ready);
        world.order(&order);
        world.start();
        for name in ["db", "web", "other"] {
            world.until_ready(name, 1);
        }
        let db = world.monitor.status("db").unwrap().process.unwrap();
        world.reactor.process(db).unwrap().signal(libc::SIGKILL).unwrap();
        world.until_ready("web", 2);
        assert_eq!(world.story("db"), ["started", "ready", "exited", "restarting", "started", "ready"]);
        assert_eq!(world.story("web"), ["started", "ready", "terminating", "exited", "restarting", "started", "ready"]);
        assert_eq!(world.story("other"), ["started", "ready"], "it only starts after it");
        // A stop for good takes it down as well, and it waits until the other one is there again.
        world.stop_process("db");
        world.until_stopped("db");
        assert!(is_waiting(world, "web"));
        assert_eq!(world.monitor.waits_for("web"), ["db, which is stopped"]);
        assert!(is_running(world, "other"));
        world.start_process("db");
        world.until_ready("web", 3);
        world.stop();
        world.until_down();
    });
}

#[test]
fn a_start_starts_what_it_requires() {
    let mut world = World::new();
    for name in ["web", "app", "db"] {
        world.add(name, &sh(IDLE));
        world.watch(name, at_once());
    }
    world.order(&require(&[("web", "app"), ("app", "db")]));
    world.start_process("web");
    assert_eq!(names(&world, "started"), ["db", "app", "web"]);
    world.stop_process("db");
    world.until_stopped("db");
    assert_eq!(names(&world, "exited"), ["web", "app", "db"]);
    assert!(is_waiting(&world, "web") && is_waiting(&world, "app"));
    world.stop_process("web");
    assert_eq!(world.state("web"), State::Stopped);
}

#[test]
fn a_job_has_to_succeed_first() {
    let mut world = World::new();
    world.add_with("migrate", &sh("exit ${CODE:-3}"), job());
    world.add("web", &sh(IDLE));
    let mut order = Order::new();
    order.after("web", "migrate", When::Completed);
    world.order(&order);
    world.start();
    world.until_told("exited", "migrate", 1);
    assert_eq!(world.monitor.waits_for("web"), ["migrate, which has exited without success"]);
    world.remove("migrate");
    world.add_with("migrate", &sh("true"), job());
    world.order(&order);
    world.start_process("migrate");
    world.until_ready("web", 1);
}

#[test]
fn mistakes_are_told_all_at_once() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.add(name, &sh(IDLE));
    }
    let mut order = wait_for(&[("a", "b"), ("b", "c"), ("c", "a"), ("a", "nobody"), ("b", "b")]);
    order.group(Group::new("a", Strategy::All, ["b", "x"]));
    order.group(Group::new("g", Strategy::All, ["b"]));
    order.starts_per_second(0);
    let error = world.monitor.set_order(&mut world.reactor, &order).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`a` refers to `nobody`, which does not exist\n\
         the name of group `a` is taken\n\
         `a` refers to `x`, which does not exist\n\
         `b` is in two groups, or twice in one\n\
         the limit of starts per second allows no start\n\
         these wait for each other: `a` for `b` for `c` for `a`\n\
         these wait for each other: `b` for `b`"
    );
    world.start();
    assert_eq!(names(&world, "started").len(), 3, "no order is in force");
}

#[test]
fn a_group_restarts_all_or_the_rest() {
    each_way(|world| {
        for (strategy, restarted) in [(Strategy::Each, ""), (Strategy::All, "a c"), (Strategy::Rest, "c")] {
            for name in ["a", "b", "c"] {
                world.add(name, &sh(IDLE));
                world.watch(name, at_once());
            }
            let mut order = wait_for(&[("b", "a"), ("c", "b")]);
            order.group(Group::new("pool", strategy, ["a", "b", "c"]));
            world.order(&order);
            world.start();
            for name in ["a", "b", "c"] {
                world.until_ready(name, 1);
            }
            let b = world.monitor.status("b").unwrap().process.unwrap();
            world.monitor.observer_mut().0.clear();
            world.reactor.process(b).unwrap().signal(libc::SIGKILL).unwrap();
            let again: Vec<&str> = restarted.split_whitespace().collect();
            world.until("all are back", |world| {
                world.count("started", "b") == 1 && again.iter().all(|name| world.count("started", name) == 1)
            });
            let exits = names(world, "exited");
            assert_eq!(exits.iter().map(String::as_str).filter(|name| *name != "b").collect::<Vec<_>>(), {
                let mut reverse = again.clone();
                reverse.reverse();
                reverse
            });
            let mut starts = again.clone();
            starts.push("b");
            starts.sort_unstable();
            assert_eq!(names(world, "started"), starts, "{strategy:?}");
            world.stop();
            world.until_down();
            for name in ["a", "b", "c"] {
                world.remove(name);
            }
            world.monitor.observer_mut().0.clear();
        }
    });
}

#[test]
fn a_group_gives_up_when_its_limit_is_reached() {
    let mut world = World::new();
    world.add("stable", &sh(IDLE));
    world.add("crashes", &sh("exit 7"));
    world.add("outside", &sh(IDLE));
    let mut inner = Group::new("inner", Strategy::Each, ["crashes", "stable"]);
    inner.limit = Some(StartLimit { starts: 3, within: Duration::from_secs(100) });
    let mut order = Order::new();
    order.group(inner).group(Group::new("outer", Strategy::All, ["inner", "outside"])).essential("outer");
    world.order(&order);
    world.start();
    world.until_told("essential ended", "outer", 1);
    assert_eq!(world.count("started", "crashes"), 4);
    let group = State::Failed { why: WhyFailed::Group };
    world.until("all have failed", |world| {
        ["stable", "crashes", "outside"].iter().all(|name| world.state(name) == group)
    });
    assert_eq!(world.count("group failed", "inner"), 1);
    assert_eq!(world.count("group failed", "outer"), 1);
    // A request starts it anew.
    world.start_process("stable");
    assert!(is_running(&world, "stable"));
}

#[test]
fn a_process_that_is_started_too_often_has_failed() {
    let mut world = World::new();
    let mut policy = no_instant_deaths();
    policy.restart_limit = Some(StartLimit { starts: 3, within: Duration::from_secs(100) });
    policy.fatal_codes = vec![9];
    world.add_with("crashes", &sh("exit 7"), policy.clone());
    world.add_with("fatal", &sh("exit 9"), policy);
    let mut order = Order::new();
    order.essential("fatal");
    world.order(&order);
    world.start();
    world.until("it has failed", |world| world.state("crashes") == State::Failed { why: WhyFailed::TooManyStarts });
    assert_eq!(world.count("started", "crashes"), 3);
    world.until_told("essential ended", "fatal", 1);
    let ended = world.told("fatal").last().unwrap().1.clone();
    assert_eq!(ended, Told::EssentialEnded { name: "fatal".into(), code: Some(9) });
    assert_eq!(world.state("fatal"), State::Failed { why: WhyFailed::FatalExit });
    world.monitor.reset_process(&mut world.reactor, "crashes").unwrap();
    assert_eq!(world.state("crashes"), State::Stopped);
    world.start_process("crashes");
    world.until("it has failed again", |world| matches!(world.state("crashes"), State::Failed { .. }));
    assert_eq!(world.count("started", "crashes"), 6);
    world.stop();
    world.until_down();
}

#[test]
fn starts_are_spread_out_first_come_first_served() {
    let mut world = World::new();
    let all: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    for name in &all {
        world.add(name, &sh(IDLE));
    }
    let mut order = Order::new();
    order.starts_per_second(10);
    world.order(&order);
    let begun = now();
    world.start();
    assert_eq!(world.monitor.waits_for("p7"), ["its turn, because few processes may start at once"]);
    world.until("all run", |world| all.iter().all(|name| is_running(world, name)));
    let took = now() - begun;
    assert!(took >= Duration::from_millis(690), "{took:?}");
    assert_eq!(names(&world, "started"), all);
}

#[test]
fn few_starts_are_under_way_at_once() {
    let mut world = World::new();
    for number in 0..6 {
        let name = format!("p{number}");
        world.add(&name, &sh("echo ready; sleep 0.02; echo >&3; exec sleep 1000"));
        world.watch(&name, ready_by_fd());
    }
    let mut order = Order::new();
    order.starts_under_way(2);
    world.order(&order);
    world.start();
    let mut most = 0;
    world.until("all are ready", |world| {
        let pending = world.monitor.statuses().filter(|status| status.readiness == Readiness::Pending).count();
        most = most.max(pending);
        world.monitor.statuses().all(|status| status.readiness == Readiness::Ready)
    });
    assert_eq!(most, 2);
}

#[test]
fn a_rolling_restart_takes_one_after_the_other() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.add(name, &sh("echo ready; echo >&3; exec sleep 1000"));
        world.watch(name, ready_by_fd());
    }
    world.start();
    for name in ["a", "b", "c"] {
        world.until_told("ready", name, 1);
    }
    world.monitor.observer_mut().0.clear();
    world.monitor.restart_rolling(&mut world.reactor, &["a", "b", "c"]).unwrap();
    let mut away = 0;
    world.until("it is over", |world| {
        let ready = world.monitor.statuses().filter(|status| status.readiness == Readiness::Ready).count();
        away = away.max(3 - ready);
        world.count("rolled", "nobody") == 1
    });
    assert_eq!(away, 1);
    assert_eq!(names(&world, "started"), ["a", "b", "c"]);
}

#[test]
fn a_rolling_restart_ends_with_the_first_that_does_not_come_back() {
    let mut world = World::new();
    let mut once = no_instant_deaths();
    once.restart_limit = Some(StartLimit { starts: 1, within: Duration::from_secs(100) });
    once.threshold = Duration::from_secs(100);
    world.add("a", &sh(IDLE));
    world.add_with("b", &sh("test -e /nowhere || exit 3"), once);
    world.add("c", &sh(IDLE));
    world.start_process("a");
    world.start_process("c");
    world.until_ready("c", 1);
    world.monitor.restart_rolling(&mut world.reactor, &["a", "b", "c"]).unwrap();
    world.until_told("rolled", "b", 1);
    assert_eq!((world.count("started", "a"), world.count("started", "c")), (2, 1));
}

/// A box that is started, in which one process dies, and that is stopped: the starts and exits of
/// the processes, in order, in virtual time.
fn imagined(names: &[String], order: &Order, dies: &str) -> Vec<(String, bool)> {
    let ten = Duration::from_secs(10);
    let processes = names.iter().map(|name| {
        let dies = name == dies;
        let mut process = Imagined::new(name, move |run| if dies && run == 1 { Run::Fails(ten) } else { Run::Stays });
        process.ready = Ready::Started;
        process.policy = no_instant_deaths();
        process
    });
    let course = simulate_all(processes, order, 2 * ten).unwrap();
    let step = |(_, name, step): &(Duration, Arc<str>, Step)| match step {
        Step::Start { .. } => Some((name.to_string(), true)),
        Step::Exit { .. } => Some((name.to_string(), false)),
        _ => None,
    };
    course.steps().iter().filter_map(step).collect()
}

/// The same with real processes.
fn real(names: &[String], order: &Order, dies: &str) -> Vec<(String, bool)> {
    let mut world = World::new();
    for name in names {
        world.add(name, Command::new("sleep").arg("1000"));
        world.watch(name, at_once());
    }
    world.order(order);
    world.start();
    assert!(names.iter().all(|name| is_running(&world, name)));
    let process = world.monitor.status(dies).unwrap().process.unwrap();
    world.reactor.process(process).unwrap().signal(libc::SIGKILL).unwrap();
    world.until("all are back", |world| {
        world.count("exited", dies) == 1 && names.iter().all(|name| is_running(world, name))
    });
    world.stop();
    world.until_down();
    let step = |(_, told): &(_, Told)| match told {
        Told::Started { name, .. } => Some((name.clone(), true)),
        Told::Exited { name, .. } => Some((name.clone(), false)),
        _ => None,
    };
    world.monitor.observer().0.iter().filter_map(step).collect()
}

#[test]
fn real_processes_start_and_stop_in_the_order_of_the_simulation() {
    let mut seed = 1_u64;
    let mut below = |limit: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % limit
    };
    for _ in 0..200 {
        let names: Vec<String> = (0..2 + below(5)).map(|number| format!("p{number}")).collect();
        let mut order = Order::new();
        // Whether one process depends on another, if only by others.
        let mut depends = vec![vec![false; names.len()]; names.len()];
        for number in 1..names.len() {
            for _ in 0..below(3) {
                let on = below(number as u64) as usize;
                match below(2) {
                    0 => order.requires(&*names[number], &*names[on], When::Ready),
                    _ => order.after(&*names[number], &*names[on], When::Started),
                };
                let through = depends[on].clone();
                depends[number][on] = true;
                depends[number].iter_mut().zip(through).for_each(|(depends, through)| *depends |= through);
            }
        }
        if below(2) == 0 {
            let strategy = [Strategy::All, Strategy::Rest][below(2) as usize];
            order.group(Group::new("group", strategy, names.iter().map(String::as_str)));
        }
        let dies = &names[below(names.len() as u64) as usize];
        let (imagined, real) = (imagined(&names, &order, dies), real(&names, &order, dies));
        let of = |trace: &[(String, bool)], pair: [&String; 2]| -> Vec<(String, bool)> {
            trace.iter().filter(|(name, _)| pair.contains(&name)).cloned().collect()
        };
        for (one, name) in names.iter().enumerate() {
            assert_eq!(of(&imagined, [name, name]), of(&real, [name, name]), "{order:?}, {dies} dies");
            for (_, on) in names.iter().enumerate().filter(|(other, _)| depends[one][*other]) {
                assert_eq!(of(&imagined, [name, on]), of(&real, [name, on]), "{order:?}, {dies} dies");
            }
        }
    }
}

#[test]
fn a_new_order_replaces_the_old_one() {
    let mut world = World::new();
    world.add("web", &sh(IDLE));
    world.add("db", &sh(READY_ON_SIGNAL));
    world.watch("db", ready_by_fd());
    world.order(&wait_for(&[("web", "db")]));
    world.start();
    assert!(is_waiting(&world, "web"));
    world.order(&Order::new());
    world.until_ready("web", 1);
}

#[test]
fn a_stop_that_is_taken_back_does_not_hold_up_its_group() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.add_with(name, &sh(if name == "c" { STUBBORN } else { IDLE }), short_kill_time());
        world.watch(name, at_once());
    }
    let mut order = wait_for(&[("c", "b")]);
    order.group(Group::new("pair", Strategy::All, ["a", "b"]));
    world.order(&order);
    world.start();
    for name in ["a", "b", "c"] {
        world.until_ready(name, 1);
    }
    world.stop_process("c");
    world.stop_process("b");
    assert_eq!(world.monitor.waits_for("b"), ["c, which has to stop first"]);
    let a = world.monitor.status("a").unwrap().process.unwrap();
    world.reactor.process(a).unwrap().signal(libc::SIGKILL).unwrap();
    world.until_told("exited", "a", 1);
    world.start_process("b");
    world.until("both are back", |world| world.count("started", "a") == 2 && world.count("started", "b") == 2);
}

#[test]
fn waiting_in_vain_is_seen() {
    let mut world = World::new();
    world.add_with("job", &sh("exit 1"), job());
    world.add("db", &sh(IDLE));
    world.watch("db", ready_by_fd());
    for name in ["web", "proxy", "other"] {
        world.add(name, &sh(IDLE));
    }
    let mut order = wait_for(&[("proxy", "web"), ("other", "db")]);
    order.after("web", "job", When::Completed);
    world.order(&order);
    world.start();
    world.until_told("exited", "job", 1);
    let vain = ["web", "proxy", "other", "db"].map(|name| world.monitor.waits_in_vain(name));
    assert_eq!(vain, [true, true, false, false]);
}

#[test]
fn an_essential_group_is_over_with_its_last_process() {
    let mut world = World::new();
    for (name, script) in [("a", "exit 0"), ("b", "exit 4")] {
        world.add_with(name, &sh(script), job());
    }
    let mut order = Order::new();
    order.after("b", "a", When::Completed);
    order.group(Group::new("jobs", Strategy::Each, ["a", "b"])).essential("jobs");
    world.order(&order);
    world.start();
    world.until_told("essential ended", "jobs", 1);
    let ended = world.told("jobs").last().unwrap().1.clone();
    assert_eq!(ended, Told::EssentialEnded { name: "jobs".into(), code: Some(4) });
}

#[test]
fn restarts_because_of_others_are_no_failures() {
    let mut world = World::new();
    let mut policy = no_instant_deaths();
    policy.restart_limit = Some(StartLimit { starts: 2, within: Duration::from_secs(100) });
    world.add("db", &sh(IDLE));
    world.add_with("web", &sh(IDLE), policy);
    world.watch("db", at_once());
    world.order(&require(&[("web", "db")]));
    world.start();
    for count in 1..6 {
        world.until_ready("web", count);
        world.restart_process("db");
        world.until("web is another one", |world| world.count("started", "web") > count);
    }
    assert!(is_running(&world, "web"));
}

#[test]
fn one_rolling_restart_at_a_time() {
    let mut world = World::new();
    world.add("a", &sh(READY_ON_SIGNAL));
    world.watch("a", ready_by_fd());
    world.start();
    world.until_ready("a", 1);
    world.monitor.restart_rolling(&mut world.reactor, &["a"]).unwrap();
    let refused = world.monitor.restart_rolling(&mut world.reactor, &["a"]).unwrap_err();
    assert_eq!(refused.to_string(), "a rolling restart is under way already");
}

#[test]
fn a_new_order_goes_on_counting_the_deaths_of_a_group() {
    let mut world = World::new();
    world.add("a", &sh("exit 1"));
    let mut policy = long_backoff();
    policy.min_restart_delay = Duration::from_secs(1000);
    world.add_with("b", &sh("exit 1"), policy.clone());
    world.add_with("c", &sh("exit 1"), policy);
    let mut group = Group::new("all", Strategy::Each, ["b", "c"]);
    group.limit = Some(StartLimit { starts: 1, within: Duration::from_secs(1000) });
    let mut order = Order::new();
    order.group(group);
    world.order(&order);
    world.start_process("b");
    world.until_told("exited", "b", 1);
    order.after("a", "b", When::Started);
    world.order(&order);
    world.start_process("c");
    world.until_told("group failed", "all", 1);
}
