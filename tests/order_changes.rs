//! Tests what becomes of an order when processes are removed, replaced, given another policy, or
//! found at fault.
//!
//! The one rule: what is removed or replaced is certain to go.

mod monitor_util;

use std::time::Duration;

use childminder::restart::{StartLimit, State, WhyFailed};
use childminder::{Group, Order, Ready, Restart, Service, Strategy, Watch, When};
use monitor_util::{IDLE, World, long_backoff, no_instant_deaths, sh};

fn at_once() -> Watch {
    let mut watch = Watch::default();
    watch.ready = Ready::Started;
    watch
}

/// A process `web` that requires `db`. Both run.
fn pair() -> (World, Order) {
    let mut world = World::new();
    world.add("web", &sh(IDLE));
    world.add("db", &sh(IDLE));
    world.watch("db", at_once());
    let mut order = Order::new();
    order.requires("web", "db", When::Ready);
    world.order(&order);
    world.start();
    world.until_ready("web", 1);
    (world, order)
}

#[test]
fn a_new_policy_that_ends_a_wait_leaves_the_process_down() {
    let mut world = World::new();
    world.add_with("crashes", &sh("exit 3"), long_backoff());
    world.start();
    world.until("it backs off", |world| matches!(world.state("crashes"), State::BackingOff { .. }));
    let mut never = long_backoff();
    never.restart = Restart::Never;
    world.monitor.set_process_policy(&mut world.reactor, "crashes", never).unwrap();
    assert_eq!(world.state("crashes"), State::Exited);
    world.stop();
    assert!(world.monitor.is_down());
}

#[test]
fn a_process_that_is_replaced_goes_after_those_that_require_it() {
    let (mut world, order) = pair();
    let old = world.pid("db");
    world.remove("db");
    world.add("db", &sh("echo another; exec sleep 1000"));
    world.watch("db", at_once());
    world.order(&order);
    world.start_process("db");
    world.until("both are back", |world| world.count("started", "web") == 2);
    assert_ne!(world.pid("db"), old);
    world.until("it is the new command", |world| world.lines("db").contains(&"[db] another"));
    let told = |kind, name| world.last(kind, name);
    assert!(told("exited", "web") <= told("terminating", "db"));
    world.stop();
    world.until_down();
}

#[test]
fn a_removed_process_goes_although_a_new_order_knows_nothing_of_it() {
    let (mut world, _) = pair();
    let old = world.pid("db");
    world.remove("db");
    world.order(&Order::new());
    world.until_dead(old);
    world.until("the other one is back", |world| world.count("started", "web") == 2);
    world.stop();
    world.until_down();
}

#[test]
fn a_rolling_restart_leaves_out_what_is_stopped_meanwhile() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.add(name, &sh(IDLE));
        world.watch(name, at_once());
    }
    world.start();
    world.until_ready("c", 1);
    world.monitor.restart_rolling(&mut world.reactor, &["a", "b", "c"]).unwrap();
    world.stop_process("b");
    world.until("all but it are restarted", |world| {
        world.count("started", "c") == 2 && world.state("b") == State::Stopped
    });
    assert_eq!((world.state("b"), world.count("started", "b")), (State::Stopped, 1));
    world.stop();
    world.until_down();
}

#[test]
fn a_job_that_is_stopped_for_a_fault_has_not_completed() {
    let mut world = World::new();
    let mut once = no_instant_deaths();
    once.restart = Restart::Never;
    world.add_with("job", &sh("trap 'exit 0' TERM; while :; do sleep 0.05; done"), once);
    let mut watch = Watch::default();
    watch.ready = Ready::Notify;
    watch.ready_timeout = Some(Duration::from_millis(300));
    world.watch("job", watch);
    world.add("next", &sh(IDLE));
    let mut order = Order::new();
    order.after("next", "job", When::Completed);
    world.order(&order);
    world.start();
    world.until("the job is over", |world| world.state("job") == State::Exited);
    assert!(matches!(world.state("next"), State::Waiting { .. }));
    assert_eq!(world.monitor.waits_for("next"), ["job, which has exited without success"]);
    world.stop();
    world.until_down();
}

#[test]
fn a_group_hears_that_a_process_has_failed_after_a_fault() {
    let mut world = World::new();
    let mut limited = no_instant_deaths();
    limited.restart_limit = Some(StartLimit { starts: 1, within: Duration::from_secs(100) });
    world.add_with("hangs", &sh(IDLE), limited);
    let mut watch = Watch::default();
    watch.ready = Ready::Notify;
    watch.ready_timeout = Some(Duration::from_millis(300));
    world.watch("hangs", watch);
    world.add("other", &sh(IDLE));
    let mut order = Order::new();
    order.group(Group::new("pool", Strategy::All, ["hangs", "other"]));
    world.order(&order);
    world.start();
    let group = State::Failed { why: WhyFailed::Group };
    world.until("the group has given up", |world| world.state("other") == group);
    assert_eq!(world.state("hangs"), State::Failed { why: WhyFailed::TooManyStarts });
    assert_eq!(world.count("group failed", "pool"), 1);
}
