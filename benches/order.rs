//! Measures what an order costs: a box of processes that wait for each other, beside the same
//! processes that do not.
//!
//! The one rule: each contestant starts the same processes and waits until all of them are ready.

mod support;

use childminder::{Command, Order, Policy, ProcessMonitor, Reactor, Readiness, Ready, Service, Watch, When};
use support::{Bench, Target, clock, raw};

/// The length of the chain in a box of 200.
const CHAIN: usize = 50;

/// An order for this many processes, by their numbers: in each 200 of them a chain of 50, a
/// diamond, and the rest behind the first one.
fn order(count: usize) -> Order {
    let mut order = Order::new();
    for first in (0..count).step_by(200) {
        let mut after = |name: usize, on: usize| {
            if first + name < count {
                order.requires((first + name).to_string(), (first + on).to_string(), When::Ready);
            }
        };
        (1..CHAIN).for_each(|number| after(number, number - 1));
        let [top, left, right, bottom] = [CHAIN, CHAIN + 1, CHAIN + 2, CHAIN + 3];
        [(left, top), (right, top), (bottom, left), (bottom, right)].into_iter().for_each(|(name, on)| after(name, on));
        (CHAIN + 4..200).for_each(|number| after(number, 0));
    }
    order
}

/// Starts this many processes, and stops them again. Returns the time until all are ready in
/// milliseconds, and the processor time of it for each in microseconds.
fn start(count: usize, order: &Order) -> [f64; 2] {
    let mut reactor = Reactor::new().expect("reactor");
    let mut monitor = ProcessMonitor::new();
    let mut policy = Policy::default();
    policy.kill_time = std::time::Duration::from_secs(60);
    monitor.set_policy(policy).expect("policy");
    let mut command = Command::new("/bin/sleep");
    command.arg("1000").stdout(childminder::Stdio::null()).stderr(childminder::Stdio::null());
    for number in 0..count {
        monitor.add_process(&mut reactor, number.to_string(), &command).expect("name");
        let mut watch = Watch::default();
        watch.ready = Ready::Started;
        monitor.set_watch(&mut reactor, &number.to_string(), watch).expect("name");
    }
    monitor.set_order(&mut reactor, order).expect("order");
    let (begun, cpu) = (clock(), raw::thread_cpu());
    monitor.start_service(&mut reactor);
    let (took, cpu) = (clock() - begun, raw::thread_cpu() - cpu);
    assert!(monitor.statuses().all(|status| status.readiness == Readiness::Ready));
    monitor.kill_service(&mut reactor);
    while !monitor.is_down() {
        let turn = |reactor: &mut Reactor, event: childminder::Event<'_>| _ = monitor.handle(reactor, &event);
        reactor.turn(None, turn).expect("turn");
    }
    [took.as_secs_f64() * 1e3, cpu.as_secs_f64() * 1e6 / count as f64]
}

fn main() {
    let mut bench = Bench::new("order");
    let (few, many) = (bench.size(200, 60), bench.size(2000, 60));
    let [whole, each] = bench.contest(
        ["200 started, with a chain of 50 and a diamond, ms", "the same, processor time of each, µs"],
        15,
        &mut [
            ("childminder monitor", &mut || start(few, &order(few))),
            ("without order", &mut || start(few, &Order::new())),
        ],
    );
    bench.ratio(&whole, "childminder monitor", "without order", Target::AtMost(1.1));
    bench.ratio(&each, "childminder monitor", "without order", Target::AtMost(1.1));
    let [each] = bench.contest(
        ["processor time of a start in an ordered box, µs"],
        7,
        &mut [
            ("childminder monitor, 2,000", &mut || [start(many, &order(many))[1]]),
            ("childminder monitor, 200", &mut || [start(few, &order(few))[1]]),
        ],
    );
    bench.ratio(&each, "childminder monitor, 2,000", "childminder monitor, 200", Target::AtMost(1.3));
    bench.finish();
}
