//! The shared parts of the benches: contestants that take turns, medians with their spread, and one
//! line and one row for each result. The exit code says nothing about the figures.
//!
//! The one rule: contestants are measured in turn, round by round, and a ratio compares two figures
//! of the same round.

#![allow(dead_code)] // no bench uses all of it

#[path = "../../tests/util/guard.rs"]
pub(crate) mod guard;
pub(crate) mod outside;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod readme;

use std::time::{Duration, Instant};

/// The one place where the benches read the clock.
#[allow(clippy::disallowed_methods)]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// Lets everything come to rest before the next measurement.
#[allow(clippy::disallowed_methods)]
pub(crate) fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

pub(crate) fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// The limit for a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// The figure is only for comparison.
    None,
}

impl Target {
    /// The text of the target, whether `value` meets it, and the text of the value. That has one
    /// more digit if it would look the same as the limit and is not.
    fn judge(self, value: f64) -> (String, &'static str, String) {
        let (limit, text, met) = match self {
            Self::AtMost(limit) => (limit, format!("at most {limit}"), value <= limit),
            Self::AtLeast(limit) => (limit, format!("at least {limit}"), value >= limit),
            Self::None => return (String::new(), "", short(value)),
        };
        let shown = short(value);
        let shown = if !met && shown.parse() == Ok(limit) { format!("{value:.3}") } else { shown };
        (text, if met { "met" } else { "**missed**" }, shown)
    }
}

/// A bench that is running.
#[derive(Debug)]
pub(crate) struct Bench {
    name: &'static str,
    test: bool,
    readme: bool,
    rows: Vec<String>,
}

impl Bench {
    /// With `--test`, everything runs once and as small as possible. With `--readme`, the tables of
    /// results in the two READMEs are updated. Other arguments, which cargo passes, are ignored.
    pub(crate) fn new(name: &'static str) -> Self {
        let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
        println!("\n== {name}");
        raw::raise_fd_limit();
        Self { name, test: asked("--test"), readme: asked("--readme"), rows: Vec::new() }
    }

    /// The size for a measurement, or the one for `--test`.
    pub(crate) fn size(&self, full: usize, test: usize) -> usize {
        if self.test { test } else { full }
    }

    /// Runs the contestants in turn and prints the results. Each contestant returns `K` figures in
    /// a round, which are named by `titles`.
    pub(crate) fn contest<const K: usize>(
        &self,
        titles: [&str; K],
        rounds: usize,
        contestants: &mut [(&str, &mut dyn FnMut() -> [f64; K])],
    ) -> [Contest; K] {
        let rounds = self.size(rounds, 1);
        let mut contests = titles.map(|title| Contest {
            title: title.into(),
            names: contestants.iter().map(|(name, _)| (*name).into()).collect(),
            samples: vec![Vec::new(); contestants.len()],
        });
        for round in 0..rounds {
            for offset in 0..contestants.len() {
                // The order rotates, so that no contestant is always the first.
                let index = (round + offset) % contestants.len();
                let figures = contestants[index].1();
                for (contest, figure) in contests.iter_mut().zip(figures) {
                    contest.samples[index].push(figure);
                }
            }
        }
        for contest in &contests {
            contest.print();
        }
        contests
    }

    /// Adds the ratio of two contestants, round by round.
    pub(crate) fn ratio(&mut self, contest: &Contest, name: &str, versus: &str, target: Target) {
        println!(
            "ABS\t{}\t{name}\t{:.3}\t{versus}\t{:.3}",
            contest.title,
            median(contest.of(name)),
            median(contest.of(versus))
        );
        let pairs = contest.of(name).iter().zip(contest.of(versus));
        let ratios: Vec<f64> = pairs.map(|(one, other)| one / other).collect();
        self.result(&contest.title, name, &format!("× {versus}"), &ratios, target);
    }

    /// Adds a figure by itself, in `unit`.
    pub(crate) fn figure(&mut self, what: &str, name: &str, unit: &str, samples: &[f64], target: Target) {
        self.result(what, name, unit, samples, target);
    }

    fn result(&mut self, what: &str, name: &str, unit: &str, samples: &[f64], target: Target) {
        let Spread { median, low, high } = spread(samples);
        let (limit, met, median) = target.judge(median);
        let range = format!("{}–{}", short(low), short(high));
        println!("RESULT\t{}\t{what}\t{name}\t{median}\t{range}\t{unit}\t{limit}\t{met}", self.name);
        self.rows.push(format!("| {} | {what} | {name} | {median} ({range}) {unit} | {limit} | {met} |", self.name));
    }

    /// Writes the tables of results if `--readme` was given. Call it last.
    pub(crate) fn finish(self) {
        if self.readme && !self.test {
            match readme::update(self.name, &self.rows) {
                Ok(()) => println!("benches/README.md: {} rows", self.rows.len()),
                Err(error) => eprintln!("the tables of results: {error}"),
            }
        }
    }
}

/// The figures of some contestants, one for each round.
#[derive(Debug)]
pub(crate) struct Contest {
    title: String,
    names: Vec<String>,
    samples: Vec<Vec<f64>>,
}

impl Contest {
    pub(crate) fn of(&self, name: &str) -> &[f64] {
        let index = self.names.iter().position(|known| known == name);
        index.map_or(&[], |index| &self.samples[index])
    }

    fn print(&self) {
        println!("\n{}", self.title);
        for (name, samples) in self.names.iter().zip(&self.samples) {
            let Spread { median, low, high } = spread(samples);
            println!("  {name:<34} {:>9}   ({}–{})", short(median), short(low), short(high));
        }
    }
}

struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

/// The median and the quartiles.
fn spread(samples: &[f64]) -> Spread {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at =
        |quarter: usize| sorted.get((sorted.len().saturating_sub(1) * quarter + 2) / 4).copied().unwrap_or(f64::NAN);
    Spread { median: at(2), low: at(1), high: at(3) }
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    spread(samples).median
}

pub(crate) fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get((samples.len() * percent / 100).min(samples.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Formats three significant digits, which is more than a shared machine warrants.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        small if small > 0.0 && small < 0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}
