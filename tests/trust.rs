//! Tests that root runs no file that other users may have written. `check`, `up`, a reload and the
//! clients have to agree about it.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};

use up_util::{Folder, NOBODY, PROGRAM, Up, run, text};

const FILE: &str = "[monitor]\nsocket = \"s\"\n[process]\n";

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root has something to lose");
    }
    is_root
}

/// A folder with a file. Each of both has this owner, group and mode.
fn place(file: (u32, u32, u32), folder: (u32, u32, u32)) -> Folder {
    let it = Folder::new();
    it.write("childminder.toml", FILE);
    for (path, (uid, gid, mode)) in [(it.join("childminder.toml"), file), (it.0.clone(), folder)] {
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    it
}

const ROOTS: (u32, u32, u32) = (0, 0, 0o755);

#[track_caller]
fn expect_refusal(folder: &Folder, args: &[&str], part: &str) {
    for command in ["check", "up", "status"] {
        let (code, said) = run(folder, &[&[command], args].concat());
        let start = format!("{}/childminder.toml: ", folder.0.display());
        assert!(code == 2 && said.contains(&start) && said.contains(part), "{command} {args:?}: {code} {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn what_others_may_write_is_refused() {
    if !is_root() {
        return;
    }
    for args in [&[][..], &["-c", "childminder.toml"]] {
        for mode in [0o666, 0o646, 0o602] {
            let folder = place((0, 0, mode), ROOTS);
            expect_refusal(&folder, args, &format!("others may write to it (mode {mode:04o})"));
        }
        expect_refusal(&place((0, 100, 0o664), ROOTS), args, "a group may write to it (group id 100, mode 0664)");
        expect_refusal(&place((NOBODY, 100, 0o664), ROOTS), args, "a group may write to it");
        // A user who may write to the folder may put another file in its place.
        let its_folder = "others may write to its folder (mode 0777)";
        expect_refusal(&place((0, 0, 0o644), (0, 0, 0o777)), args, its_folder);
        expect_refusal(
            &place((0, 0, 0o644), (0, 100, 0o775)),
            args,
            "a group may write to its folder (group id 100, mode 0775)",
        );
        // The group of root is trusted like root, as a user's own group is like the user.
        assert_eq!(run(&place((0, 0, 0o664), (0, 0, 0o775)), &[&["check"], args].concat()), (0, String::new()));
        // In a sticky folder, no user can replace the files of others.
        assert_eq!(run(&place((0, 0, 0o644), (0, 0, 0o1777)), &[&["check"], args].concat()), (0, String::new()));
    }
}

#[test]
fn what_belongs_to_another_user_is_run_only_if_it_is_named() {
    if !is_root() {
        return;
    }
    let theirs = (NOBODY, NOBODY, 0o644);
    for (file, folder, what) in [
        (theirs, ROOTS, "it belongs to user id 65534"),
        (theirs, (NOBODY, NOBODY, 0o755), "it belongs to user id 65534"),
        ((0, 0, 0o644), (NOBODY, NOBODY, 0o755), "its folder belongs to user id 65534"),
    ] {
        let folder = place(file, folder);
        expect_refusal(&folder, &[], &format!("{what}, and root would run what that user writes; `-c "));
        let (code, said) = run(&folder, &["check", "-c", "childminder.toml"]);
        let warning = format!("childminder.toml: warning: {what}, and root runs what that user writes\n");
        assert!(code == 0 && said.ends_with(&warning), "{code} {said}");
        // `up` prints the same warning, and runs.
        let mut command = Command::new(PROGRAM);
        command.args(["up", "-c", "childminder.toml"]).current_dir(&folder.0);
        let child = child_with_output(&mut command, &folder);
        let mut up = Up { child, folder };
        up.wait_for_socket();
        up.until_read("err", &warning);
        up.ok(&["status", "-c", "childminder.toml"]);
        // A reload checks the file again.
        fs::set_permissions(up.folder.join("childminder.toml"), fs::Permissions::from_mode(0o666)).unwrap();
        let (code, said) = up.fails(&["reload", "--socket", "s"]);
        assert!(code == 1 && said.contains("childminder.toml: others may write to it (mode 0666)"), "{code} {said}");
        up.ok(&["shutdown", "--wait", "--socket", "s"]);
        assert_eq!(up.wait().code(), Some(0));
    }
    // In /tmp, any user may have made the file.
    let folder = place(theirs, (0, 0, 0o1777));
    expect_refusal(
        &folder,
        &["-c", "childminder.toml"],
        "it belongs to user id 65534, and others may write to its folder",
    );
    // A link does not help either.
    let links = place((0, 0, 0o644), ROOTS);
    fs::remove_file(links.join("childminder.toml")).unwrap();
    symlink(folder.join("childminder.toml"), links.join("childminder.toml")).unwrap();
    expect_refusal(
        &links,
        &["-c", "childminder.toml"],
        "it belongs to user id 65534, and others may write to its folder",
    );
    expect_refusal(&links, &[], "it belongs to user id 65534");
}

fn child_with_output(command: &mut Command, folder: &Folder) -> std::process::Child {
    let output = |name: &str| Stdio::from(fs::File::create(folder.join(name)).unwrap());
    command.stdin(Stdio::null()).stdout(output("out")).stderr(output("err")).spawn().unwrap()
}

#[test]
fn the_user_of_sudo_is_trusted() {
    if !is_root() {
        return;
    }
    let folder = place((NOBODY, NOBODY, 0o664), (NOBODY, NOBODY, 0o775));
    for (uid, code) in [("65534", 0), ("1", 2), ("x", 2)] {
        let output = Command::new(PROGRAM).arg("check").env("SUDO_UID", uid).current_dir(&folder.0).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{uid}: {}", text(&output.stderr));
    }
}

#[test]
fn others_than_root_are_not_asked() {
    let Some(nobody) = up_util::Nobody::new() else { return };
    nobody.folder.write("childminder.toml", FILE);
    fs::set_permissions(nobody.folder.join("childminder.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(nobody.run(&[], &["check"]), (0, String::new()));
}
