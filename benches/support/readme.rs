//! The README's table of results: kept by `cargo bench -- --readme`, not by hand.
//!
//! Touches nothing outside its two marks. The one rule: a bench replaces its own rows and leaves the others' alone.

use std::fs;
use std::io;
use std::process::Command;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- benches: begin -->";
const END: &str = "<!-- benches: end -->";
const HEAD: &str =
    "| bench | what | contestant | median (quartiles) | target | |\n| --- | --- | --- | --- | --- | --- |\n";

/// In this order, whichever ran last.
const BENCHES: [&str; 10] =
    ["spawn", "contain", "reap", "restart", "timers", "lines", "monitor", "footprint", "supervisors", "many"];

pub(crate) fn update(bench: &str, rows: &[String]) -> io::Result<()> {
    let text = fs::read_to_string(FILE)?;
    let missing = || io::Error::other(format!("the marks {BEGIN} and {END} are not there"));
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (table, after) = rest.split_once(END).ok_or_else(missing)?;
    let is_of = |row: &str, bench: &str| row.starts_with(&format!("| {bench} |"));
    let mut all: Vec<&str> = table.lines().filter(|row| !is_of(row, bench)).collect();
    all.extend(rows.iter().map(String::as_str));
    let sorted: Vec<&str> =
        BENCHES.iter().flat_map(|bench| all.iter().filter(|row| is_of(row, bench)).copied()).collect();
    let machine = machine();
    fs::write(FILE, format!("{before}{BEGIN}\n{machine}\n\n{HEAD}{}\n{END}{after}", sorted.join("\n")))
}

/// Where, with what and when.
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
