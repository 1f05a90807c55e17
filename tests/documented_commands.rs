//! Runs every example of `childminder up` in the README and in the guide as it is printed there.
//! Numbers and spaces may differ.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, Stdio};

use up_util::{Folder, PROGRAM, Up, ask_on, connect, on_a_terminal, text, until};

const README: &str = include_str!("../README.md");
const CHAPTER: &str = include_str!("../src/guide/up.md");

/// The fenced blocks of this language after the mark.
fn blocks(document: &'static str, language: &str) -> Vec<&'static str> {
    let (_, chapter) = document.split_once("run by tests/documented_commands.rs. -->").expect("the mark");
    let parts = chapter.split("```").skip(1).step_by(2);
    parts.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// The part of an output that is the same in each run.
fn essence(output: &str) -> String {
    let word =
        |word: &str| if word.starts_with(|c: char| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() };
    let line = |line: &str| match line.starts_with("[{") || line.starts_with("{\"") {
        // Of JSON, each number is one.
        true => {
            let parts = line.split(|c: char| c.is_ascii_digit() || c == '.');
            parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
        }
        false => line.split_whitespace().map(word).collect::<Vec<_>>().join(" "),
    };
    output.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The commands, each with its printed output.
fn examples(document: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut examples = Vec::new();
    for block in blocks(document, "console") {
        for example in block.strip_prefix("$ ").unwrap().split("\n$ ") {
            examples.push(example.split_once('\n').unwrap_or((example, "")));
        }
    }
    examples
}

#[test]
fn every_command_does_what_the_readme_says() {
    expect_examples(README, 6);
}

#[test]
fn every_command_does_what_the_guide_says() {
    expect_examples(CHAPTER, 16);
}

#[track_caller]
fn expect_examples(document: &'static str, least: usize) {
    let folder = Folder::new();
    folder.write("childminder.toml", blocks(document, "toml")[0]);
    let mut up: Option<Up> = None;
    let mut folder = Some(folder);
    let bin = std::path::Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let examples = examples(document);
    assert!(examples.len() >= least, "{examples:?}");
    for (command, expected) in examples {
        let here = |up: &Option<Up>, folder: &Option<Folder>| match (up, folder) {
            (Some(up), _) => up.folder.0.clone(),
            (None, Some(folder)) => folder.0.clone(),
            (None, None) => unreachable!("one of them has it"),
        };
        if command == "childminder up" {
            let folder = folder.take().unwrap();
            let output = |name: &str| Stdio::from(std::fs::File::create(folder.join(name)).unwrap());
            let mut command = Command::new(PROGRAM);
            command.arg("up").current_dir(&folder.0).stdout(output("out")).stderr(output("err"));
            let child = command.spawn().unwrap();
            let started = up.insert(Up { folder, child });
            for line in expected.lines() {
                until(line, || {
                    let said = essence(&(started.folder.read("out") + &started.folder.read("err")));
                    said.lines().any(|said| said == essence(line)).then_some(())
                });
            }
            continue;
        }
        if command.ends_with("--watch") {
            let args: Vec<&str> = command.split(' ').skip(1).collect();
            on_a_terminal(&here(&up, &folder), &args, &["NAME", "clock"]);
            continue;
        }
        let run = || {
            let output =
                Command::new("sh").args(["-c", command]).env("PATH", &path).current_dir(here(&up, &folder)).output();
            let output = output.unwrap();
            essence(&(text(&output.stdout) + &text(&output.stderr)))
        };
        if ["status", "logs"].iter().any(|looks| command.contains(looks)) {
            // The state may take a moment to be as printed.
            let mut last = String::new();
            until(&format!("{command}\n{expected}"), || {
                last = run();
                (last == essence(expected)).then_some(())
            });
        } else {
            assert_eq!(run(), essence(expected), "{command}");
        }
    }
    let mut up = up.unwrap();
    assert_eq!(up.wait().code(), Some(0));
}

/// The blocks of this language in a chapter, wherever they stand.
fn all_blocks(chapter: &'static str, language: &str) -> Vec<&'static str> {
    let blocks = chapter.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

#[test]
fn every_file_and_environment_file_of_the_guide_has_no_mistake() {
    let environment = all_blocks(CHAPTER, "text").into_iter().find(|block| block.contains("export ")).unwrap();
    let files = all_blocks(CHAPTER, "toml");
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let folder = Folder::new();
        folder.write("app.env", environment);
        std::fs::create_dir(folder.join("conf.d")).unwrap();
        folder.write("conf.d/a.toml", "[process.a]\ncommand = [\"true\"]\n");
        folder.write("childminder.toml", file);
        let output = Command::new(PROGRAM).arg("check").current_dir(&folder.0).output().unwrap();
        let said = text(&output.stderr);
        assert!(output.status.success() && !said.contains("app.env"), "{said}\n{file}");
    }
}

#[test]
fn the_protocol_is_as_the_guide_says() {
    let processes = blocks(CHAPTER, "toml")[0].split_once("[process.worker]").unwrap().1;
    let up = Up::start(&format!("[process.worker]\nautostart = false\n{processes}"));
    let stream = connect(&up.socket());
    let lines: Vec<&str> = blocks(CHAPTER, "json")[0].lines().collect();
    for pair in lines.chunks(2) {
        let answer = ask_on(&stream, pair[0]).unwrap().to_string();
        assert_eq!(essence(&answer), essence(pair[1]), "{}", pair[0]);
    }
}
