//! Counts what the tests have left out, and why. Its name makes it the last of a run.

#[path = "util/left_out.rs"]
mod left_out;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

fn main() {
    let file = left_out::file();
    let text = fs::read_to_string(&file).unwrap_or_default();
    // The suite may have run more than once since the last count.
    let records: BTreeSet<&str> = text.lines().collect();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &records {
        *reasons.entry(record.split_once(": ").map_or(*record, |(_, why)| why)).or_default() += 1;
    }
    match records.len() {
        0 => println!("\nno test left anything out\n"),
        1 => println!("\n1 test left something out:"),
        count => println!("\n{count} tests left something out:"),
    }
    let mut sorted: Vec<_> = reasons.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (why, count) in sorted {
        println!("{count:>5} {why}");
    }
    // A file that somebody has named is theirs: they may want to read it.
    if std::env::var_os(left_out::FILE).is_none() {
        let _ = fs::remove_file(&file);
    }
}
