//! The tables of results in `benches/README.md` and in the README. `cargo bench -- --readme`
//! updates them. Nothing outside the marks of the two files is touched.
//!
//! The one rule: a bench replaces its own rows and keeps the rows of the others.

use std::fs;
use std::io;
use std::process::Command;

const ALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/README.md");
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- benches: begin -->";
const END: &str = "<!-- benches: end -->";

/// The order of the rows, whichever bench ran last.
const BENCHES: [&str; 13] = [
    "spawn",
    "contain",
    "reap",
    "restart",
    "timers",
    "lines",
    "monitor",
    "footprint",
    "supervisors",
    "files",
    "mass",
    "many",
    "run many",
];

/// The rows of the README: the title of a figure, and the other contestant or the unit. All are
/// childminder's own figures.
const HEADLINES: [(&str, &str); 11] = [
    ("spawn call: 3 pipes, setsid, 2 limits, µs", "× raw vfork-like loop"),
    ("spawn call: 3 pipes, setsid, 2 limits, µs", "× std pre_exec"),
    ("spawn call: 3 pipes, setsid, 2 limits, 2 GiB of touched heap, µs", "× std pre_exec"),
    ("spawn into a cgroup until nobody is left, without mkdir and rmdir", "× group"),
    ("death to the replacement's first byte beside 1000 idle children, median, µs", "× thread blocked in waitpid"),
    ("processor time of a death, one a millisecond, µs", "× childminder, 100 live"),
    ("1,000 killed at once, all back, ms", "× raw loop"),
    ("one child's 100-byte lines, MB/s", "× bare read"),
    ("100 children's 100-byte lines, MB/s", "× bare epoll and read"),
    ("private dirty memory, 100 idle children", "KiB"),
    ("PSS, 100 idle instances of one service", "in 1 process"),
];

pub(crate) fn update(bench: &str, rows: &[String]) -> io::Result<()> {
    let machine = machine();
    let text = fs::read_to_string(ALL)?;
    let old = between(&text)?;
    let is_of = |row: &str, bench: &str| row.starts_with(&format!("| {bench} |"));
    let mut all: Vec<&str> = old.lines().filter(|row| !is_of(row, bench)).collect();
    all.extend(rows.iter().map(String::as_str));
    let sorted: Vec<&str> =
        BENCHES.iter().flat_map(|bench| all.iter().filter(|row| is_of(row, bench)).copied()).collect();
    let head = "| bench | what | contestant | median (quartiles) | target | |\n| --- | --- | --- | --- | --- | --- |";
    fs::write(ALL, text.replacen(old, &format!("\n{machine}\n\n{head}\n{}\n", sorted.join("\n")), 1))?;

    let headlines: Vec<String> =
        HEADLINES.iter().filter_map(|headline| sorted.iter().find_map(|row| short(row, *headline))).collect();
    let text = fs::read_to_string(README)?;
    let old = between(&text)?;
    let head = "| what | median (quartiles) | target | |\n| --- | --- | --- | --- |";
    fs::write(README, text.replacen(old, &format!("\n{machine}\n\n{head}\n{}\n", headlines.join("\n")), 1))
}

/// The text between the two marks.
fn between(text: &str) -> io::Result<&str> {
    let missing = || io::Error::other(format!("the marks {BEGIN} and {END} are not there"));
    let (_, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    rest.split_once(END).map(|(between, _)| between).ok_or_else(missing)
}

/// The row in the short form of the README, if it belongs to this headline.
fn short(row: &str, (what, beside): (&str, &str)) -> Option<String> {
    let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let [_, title, name, figures, target, met] = cells[..] else { return None };
    let is_meant = title == what && name.starts_with("childminder") && figures.ends_with(beside);
    is_meant.then(|| format!("| {title} | {figures} | {target} | {met} |"))
}

/// A description of the machine, the tools and the date.
fn machine() -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map_or_else(|_| "?".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let cpu = cpu.and_then(|line| line.split(": ").nth(1)).unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}: {cores} × {cpu}, {}, {}, childminder {}. Run again by `cargo bench -- --readme`.",
        said("date", &["+%F"]),
        said("uname", &["-sr"]),
        said("rustc", &["--version"]),
        env!("CARGO_PKG_VERSION"),
    )
}
