//! Tests that the tests and benches are there which the guide's chapter on platforms names.

#[path = "util/guard.rs"]
mod guard;

use std::path::Path;

const CHAPTER: &str = include_str!("../src/guide/platforms.md");

#[test]
fn each_promise_names_tests_that_are_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = CHAPTER.lines().skip_while(|line| !line.starts_with("| promise |")).skip(2);
    let rows: Vec<&str> = table.take_while(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let is_there = |kind: &str| folder.join(kind).join(name).with_extension("rs").exists();
            assert!(is_there("tests") || is_there("benches"), "{name} of {row}");
        }
    }
}
