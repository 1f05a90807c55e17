//! Random inputs, both the ones that the kernel's state allows and the ones that make no sense.
//!
//! These tests check only what holds in every state. The one rule: the numbers come from a fixed
//! seed, so a failure repeats.

use super::*;

/// Knuth's linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn policy(&mut self) -> Policy {
        Policy {
            restart: self.pick(&[Restart::Always, Restart::OnFailure, Restart::Never]),
            threshold: secs(self.below(3)),
            kill_time: secs(self.below(4)),
            min_restart_delay: secs(self.below(3)),
            max_restart_delay: secs(2 + self.below(9)),
            ..Policy::default()
        }
    }
}

/// Checks what holds in every state.
fn check_state(it: &Lifecycle) {
    let has_deadline = matches!(it.state(), S::BackingOff { .. } | S::Stopping { .. });
    assert_eq!(it.deadline().is_some(), has_deadline);
    assert!(it.delay >= it.policy.min_restart_delay);
    assert!(it.delay <= it.policy.max_restart_delay);
}

/// A process and the leftover members of its group, as the kernel would have them.
struct Kernel {
    alive: bool,
    /// Whether members of its group have outlived it.
    stragglers: bool,
}

/// Passes in one input that the kernel's state allows, and carries out the resulting actions.
fn step(it: &mut Lifecycle, now: Instant, input: I, kernel: &mut Kernel, random: &mut Random) {
    let mut input = Some(input);
    for round in 0.. {
        let Some(told) = input.take() else { break };
        assert!(round < 10, "no end of it: {:?}", it.state());
        match told {
            I::Exited { group_left, .. } => (kernel.alive, kernel.stragglers) = (false, group_left),
            I::GroupGone => kernel.stragglers = false,
            I::Spawned => kernel.alive = true,
            _ => {}
        }
        match it.handle(now, told) {
            Some(Action::Spawn) => {
                assert!(!kernel.alive, "a second process beside a living one");
                assert_eq!(it.state(), S::Starting);
                input = Some(random.pick(&[I::Spawned, I::Spawned, I::SpawnFailed]));
            }
            Some(Action::Terminate) => assert!(kernel.alive || kernel.stragglers, "nobody to terminate"),
            Some(Action::Kill) => assert!(kernel.alive || kernel.stragglers, "nobody to kill"),
            None => {}
        }
    }
    check_state(it);
    let runs = match it.state() {
        S::Running { .. } => true,
        S::Stopping { leader, .. } => leader == Leader::Alive,
        _ => false,
    };
    assert_eq!(runs, kernel.alive, "{:?}", it.state());
    if it.state() == S::Stopped {
        assert!(!kernel.stragglers, "somebody is left");
    }
}

#[test]
fn a_random_life_keeps_its_invariants() {
    let mut random = Random(1);
    for _ in 0..if cfg!(miri) { 3 } else { 300 } {
        let mut it = Lifecycle::new(random.policy());
        let mut now = World::new(Policy::default()).now;
        let mut kernel = Kernel { alive: false, stragglers: false };
        for _ in 0..200 {
            now += Duration::from_millis(500 * random.below(4));
            if let (Some(deadline), true) = (it.deadline(), random.flip()) {
                now = now.max(deadline);
            }
            let mut possible = vec![I::Start, I::Stop, I::Restart, I::Kill];
            possible.extend([I::Timeout; 4]);
            if kernel.alive {
                possible.extend([exited(random.flip(), random.flip()); 6]);
            }
            if kernel.stragglers {
                possible.extend([I::GroupGone; 3]);
            }
            let input = random.pick(&possible);
            step(&mut it, now, input, &mut kernel, &mut random);
            if random.below(50) == 0 {
                it.set_policy(random.policy());
                check_state(&it);
            }
        }
        // A stop leads to `Stopped` once the process is gone, and nothing is started in between.
        step(&mut it, now, I::Stop, &mut kernel, &mut random);
        if kernel.alive && random.flip() {
            now = it.deadline().map_or(now, |deadline| now.max(deadline));
            step(&mut it, now, I::Timeout, &mut kernel, &mut random);
        }
        if kernel.alive {
            let end = exited(random.flip(), random.flip());
            step(&mut it, now, end, &mut kernel, &mut random);
        }
        if kernel.stragglers {
            now = now.max(it.deadline().unwrap());
            step(&mut it, now, I::Timeout, &mut kernel, &mut random);
            step(&mut it, now, I::GroupGone, &mut kernel, &mut random);
        }
        assert_eq!((it.state(), it.deadline()), (S::Stopped, None));
    }
}

#[test]
fn impossible_inputs_do_no_harm() {
    let inputs = [
        I::Start,
        I::Stop,
        I::Restart,
        I::Kill,
        I::Spawned,
        I::SpawnFailed,
        CRASH,
        CRASH_LEFT,
        DONE,
        DONE_LEFT,
        I::GroupGone,
        I::Timeout,
    ];
    let mut random = Random(2);
    for _ in 0..100 {
        let mut it = Lifecycle::new(random.policy());
        let epoch = World::new(Policy::default()).now;
        for _ in 0..if cfg!(miri) { 20 } else { 500 } {
            // The clock is not monotonic either.
            let now = epoch + Duration::from_millis(random.below(20_000));
            it.handle(now, random.pick(&inputs));
            check_state(&it);
        }
    }
}
