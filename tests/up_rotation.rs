//! Tests what `childminder up` does around output files: missing folders, and rotated files that
//! are too old.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;

use up_util::{Folder, Up, run, until};

#[test]
fn missing_folders_are_made_on_request() {
    let process = |name: &str, more: &str| {
        format!(
            "[process.{name}]\nshell = \"echo {name}; exec sleep 1000\"\nstdout = {{ file = \"./logs/{name}/x.log\"{more} }}\n"
        )
    };
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        &format!(
            "[monitor]\nsocket = \"s\"\n{}{}{}{}",
            process("made", ", make-folders = true"),
            process("direct", ", make-folders = true, direct = true"),
            process("not", ""),
            process("nor", ", direct = true"),
        ),
    );
    let (code, said) = run(&folder, &["check"]);
    assert!(code == 0 && said.lines().count() == 2, "{said}");
    let up = Up::start_in(folder, &{
        let text =
            process("made", ", make-folders = true") + &process("direct", ", make-folders = true, direct = true");
        text + &process("not", "") + &process("nor", ", direct = true")
    });
    up.until_read("logs/made/x.log", "made\n");
    up.until_read("logs/direct/x.log", "direct\n");
    // The default says what is missing, and starts the others.
    for name in ["not", "nor"] {
        let said = up.until_read("err", &format!("logs/{name}/x.log"));
        let line = said.lines().find(|line| line.contains(&format!("logs/{name}/x.log"))).unwrap();
        assert!(line.contains("its folder does not exist; `make-folders = true` makes it"), "{line}");
    }
    assert!(!up.folder.join("logs/not").exists());
    assert_eq!(up.status("not")["state"], "running");
    up.shutdown();
}

#[test]
fn old_rotated_files_are_removed() {
    let folder = Folder::new();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86_400);
    for number in 1..=5 {
        let file = fs::File::create(folder.join(&format!("x.log.{number}"))).unwrap();
        if number > 2 {
            file.set_modified(old).unwrap();
        }
    }
    let up = Up::start_in(
        folder,
        "[process.a]\nshell = \"echo start; exec sleep 1000\"\n\
         stdout = { file = \"./x.log\", max-size = \"1KiB\", keep = 9, max-age = \"2d\" }\n",
    );
    up.until_read("x.log", "start\n");
    let there = |number: u32| up.folder.join(&format!("x.log.{number}")).exists();
    until("the old ones gone", || (!there(3) && !there(4) && !there(5)).then_some(()));
    assert!(there(1) && there(2));
    up.shutdown();
}
