//! Tests what `childminder up` does around output files: missing folders, and rotated files that
//! are too old or are compressed.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use up_util::{Folder, PROGRAM, Up, is_alive, run, text, until};

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

/// A process that writes a numbered line of 100 bytes whenever it reads one.
const ECHO: &str = "stdin = \"pipe\"\nshell = 'n=0; while read x; do n=$((n+1)); printf \"%099d\\n\" $n; done'\n";

fn compressing(more: &str) -> String {
    format!("[process.a]\n{ECHO}stdout = {{ file = \"./x.log\", max-size = \"1000\", compress = true{more} }}\n")
}

/// Has the process write so many more lines, and waits until they are in the file.
fn write(up: &Up, so_far: &mut u32, count: u32) {
    for _ in 0..count {
        *so_far += 1;
        let mut send = Command::new(PROGRAM);
        send.args(["send", "a"]).current_dir(&up.folder.0).stdin(Stdio::piped());
        let mut send = send.spawn().unwrap();
        send.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(send.wait().unwrap().success());
        up.until_read("x.log", &format!("{:099}\n", *so_far));
    }
}

/// The text of a compressed file, as gzip(1) reads it.
fn unzipped(folder: &Folder, name: &str) -> String {
    let output = Command::new("gzip").args(["-dc"]).arg(folder.join(name)).output().unwrap();
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn lines(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|number| format!("{number:099}\n")).collect()
}

/// The rotated files of `x.log`.
fn rotated(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(&folder.0).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("x.log."));
    names.sort();
    names
}

#[track_caller]
fn until_rotated(folder: &Folder, names: &[&str]) {
    until(&format!("{names:?}"), || (rotated(folder) == names).then_some(()));
}

#[test]
fn rotated_files_are_compressed_and_counted() {
    let folder = Folder::new();
    // A file of logrotate has the name of one of ours, and one beside it has not.
    folder.write("x.log.gz", "somebody else's");
    let up = Up::start_in(folder, &compressing(", keep = 3, mode = \"0640\""));
    let mut so_far = 0;
    write(&up, &mut so_far, 11);
    until_rotated(&up.folder, &["x.log.1.gz", "x.log.gz"]);
    assert_eq!(unzipped(&up.folder, "x.log.1.gz"), lines(1..=10));
    let mode = fs::metadata(up.folder.join("x.log.1.gz")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    for number in 2..=5 {
        write(&up, &mut so_far, 10);
        let first = |age: u32| 10 * (number - age) + 1;
        let names: Vec<String> = (1..=number.min(3)).map(|age| format!("x.log.{age}.gz")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("x.log.gz");
        until_rotated(&up.folder, &names);
        for age in 1..=number.min(3) {
            assert_eq!(unzipped(&up.folder, &format!("x.log.{age}.gz")), lines(first(age)..=first(age) + 9));
        }
    }
    assert_eq!(up.folder.read("x.log.gz"), "somebody else's");
    up.shutdown();
}

/// A `gzip` that comes before the machine's own and does this first.
fn with_gzip(folder: &Folder, does: &str) -> String {
    fs::create_dir(folder.join("bin")).unwrap();
    let gzip = folder.join("bin/gzip");
    folder.write("bin/gzip", &format!("#!/bin/sh\n{does}\nPATH=${{PATH#*:}} exec gzip \"$@\"\n"));
    fs::set_permissions(gzip, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap())
}

fn start_with_path(folder: Folder, processes: &str, path: &str) -> Up {
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n\n{processes}"));
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).env("PATH", path);
    let child = command.stdin(Stdio::null()).stdout(output("out")).stderr(output("err")).spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    up
}

#[test]
fn a_rotation_may_come_while_a_file_is_compressed() {
    let folder = Folder::new();
    let path =
        with_gzip(&folder, &format!("cd {:?}; echo $$ >>runs; while ! [ -e go ]; do sleep 0.02; done", folder.0));
    let up = start_with_path(folder, &compressing(""), &path);
    let mut so_far = 0;
    write(&up, &mut so_far, 11);
    up.until_read("runs", "\n");
    // Two rotations come in the meantime, and the supervisor does its work.
    write(&up, &mut so_far, 20);
    assert_eq!(rotated(&up.folder), ["x.log.1", "x.log.2", "x.log.3", "x.log.gz.part"]);
    let gzip: i32 = up.folder.read("runs").trim().parse().unwrap();
    let stat = fs::read_to_string(format!("/proc/{gzip}/stat")).unwrap();
    let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned();
    assert_eq!(nice, "19", "{stat}");
    up.folder.write("go", "");
    until_rotated(&up.folder, &["x.log.1.gz", "x.log.2.gz", "x.log.3.gz"]);
    for age in 1..=3 {
        let first = 10 * (3 - age) + 1;
        assert_eq!(unzipped(&up.folder, &format!("x.log.{age}.gz")), lines(first..=first + 9));
    }
    // One at a time.
    assert_eq!(up.folder.read("runs").lines().count(), 3);
    up.shutdown();
}

#[test]
fn a_file_that_rotates_out_while_it_is_compressed_leaves_nothing() {
    let folder = Folder::new();
    let path = with_gzip(&folder, &format!("cd {:?}; echo x >>runs; while ! [ -e go ]; do sleep 0.02; done", folder.0));
    let up = start_with_path(folder, &compressing(", keep = 1"), &path);
    let mut so_far = 0;
    write(&up, &mut so_far, 11);
    up.until_read("runs", "x");
    write(&up, &mut so_far, 10);
    up.folder.write("go", "");
    until_rotated(&up.folder, &["x.log.1.gz"]);
    assert_eq!(unzipped(&up.folder, "x.log.1.gz"), lines(11..=20));
    up.shutdown();
}

#[test]
fn the_end_of_the_supervisor_leaves_whole_files_and_the_next_one_goes_on() {
    for killed in [false, true] {
        let folder = Folder::new();
        let path =
            with_gzip(&folder, &format!("cd {:?}; echo $$ >>runs; while ! [ -e go ]; do sleep 0.02; done", folder.0));
        let mut up = start_with_path(folder, &compressing(""), &path);
        let mut so_far = 0;
        write(&up, &mut so_far, 11);
        let gzip: i32 = up.until_read("runs", "\n").trim().parse().unwrap();
        up.signal(if killed { Signal::KILL } else { Signal::TERM });
        up.wait();
        until("the end of gzip", || (!is_alive(gzip)).then_some(()));
        let left = if killed { &["x.log.1", "x.log.gz.part"][..] } else { &["x.log.1"] };
        assert_eq!(rotated(&up.folder), left);
        assert_eq!(up.folder.read("x.log.1"), lines(1..=10));
        up.folder.write("go", "");
        // The next supervisor has no old socket in its way.
        let folder = std::mem::replace(&mut up.folder, Folder::new());
        drop(up);
        let up = start_with_path(folder, &compressing(""), &path);
        let mut so_far = 0;
        write(&up, &mut so_far, 1);
        until_rotated(&up.folder, &["x.log.1.gz"]);
        assert_eq!(unzipped(&up.folder, "x.log.1.gz"), lines(1..=10));
        up.shutdown();
    }
}

#[test]
fn a_failure_to_compress_is_told_once_and_leaves_the_file() {
    let folder = Folder::new();
    let path = with_gzip(&folder, &format!("if ! [ -e {:?} ]; then echo no room >&2; exit 3; fi", folder.join("go")));
    let up = start_with_path(folder, &compressing(""), &path);
    let mut so_far = 0;
    write(&up, &mut so_far, 21);
    let said = up.until_read("err", "gzip has failed: exit status 3; no room");
    assert!(said.contains("x.log: a rotated file stays as it is"), "{said}");
    until_rotated(&up.folder, &["x.log.1", "x.log.2"]);
    // The next rotation compresses all of them.
    up.folder.write("go", "");
    write(&up, &mut so_far, 10);
    until_rotated(&up.folder, &["x.log.1.gz", "x.log.2.gz", "x.log.3.gz"]);
    let said = up.shutdown();
    assert_eq!(said.matches("gzip has failed").count(), 1, "{said}");
}

#[test]
fn a_missing_gzip_is_told_by_check_and_by_up() {
    let folder = Folder::new();
    folder.write("childminder.toml", &compressing(""));
    let mut check = Command::new(PROGRAM);
    let output = check.arg("check").current_dir(&folder.0).env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(said.contains("`stdout` has `compress = true`, and there is no program `gzip` in PATH"), "{said}");
    let up = start_with_path(folder, &compressing("").replace("read x", "read -r x"), "/nowhere");
    let mut so_far = 0;
    write(&up, &mut so_far, 11);
    up.until_read("err", "gzip has failed: cannot start `gzip`");
    assert_eq!(rotated(&up.folder), ["x.log.1"]);
    up.shutdown();
}
