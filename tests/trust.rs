//! Tests that root runs no file that other users may have written. `check`, `up`, a reload and the
//! clients have to agree about it.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};

use up_util::{Folder, NOBODY, PROGRAM, Up, left_out, needs_root, run, text, until};

const FILE: &str = "[monitor]\nsocket = \"s\"\n[process]\n";

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
    if !needs_root() {
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
    if !needs_root() {
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
        let (code, said) = run(&up.folder, &["reload", "--socket", "s"]);
        assert!(code == 0 && said.ends_with(&warning), "{code} {said}");
        until("the warning again", || (up.folder.read("err").matches(&warning).count() == 2).then_some(()));
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

// A user who may write to any folder on the way may put another folder in the place of the next
// one.
#[test]
fn each_folder_on_the_way_counts() {
    if !needs_root() {
        return;
    }
    let (outer, inner) = (Folder::new(), Folder::new());
    fs::create_dir_all(outer.join("a/b")).unwrap();
    fs::write(outer.join("a/b/childminder.toml"), FILE).unwrap();
    symlink(outer.join("a"), inner.join("link")).unwrap();
    let direct = outer.join("a/b/childminder.toml");
    let linked = inner.join("link/b/childminder.toml");
    let check = |path: &std::path::Path| run(&inner, &["check", "-c", path.to_str().unwrap()]);
    for path in [&direct, &linked] {
        assert_eq!(check(path), (0, String::new()));
    }
    let set = |path: &std::path::Path, uid: u32, gid: u32, mode: u32| {
        chown(path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (folder, uid, gid, mode, code, said) in [
        (&outer.0, 0, 0, 0o777, 2, "others may write to the folder {} (mode 0777), and root would run what they write"),
        (&outer.join("a"), 0, 100, 0o775, 2, "a group may write to the folder {} (group id 100, mode 0775), and"),
        (&outer.join("a"), NOBODY, 0, 0o755, 0, "warning: the folder {} belongs to user id 65534, and root runs what"),
        // In a sticky folder nobody replaces a folder of root's.
        (&outer.join("a"), 0, 0, 0o1777, 0, ""),
        (&outer.join("a"), NOBODY, 0, 0o1777, 0, "warning: the folder {} belongs to user id 65534"),
    ] {
        set(folder, uid, gid, mode);
        for path in [&direct, &linked] {
            let expected = said.replace("{}", folder.to_str().unwrap());
            let (found, text) = check(path);
            assert!(
                found == code && text.contains(&expected) && (!said.is_empty() || text.is_empty()),
                "{found} {text}"
            );
        }
        set(folder, 0, 0, 0o755);
    }
    // The folder of a link counts, and so does its owner.
    set(&inner.0, 0, 0, 0o777);
    let said = format!("others may write to the folder {} (mode 0777)", inner.0.display());
    assert!(check(&linked).1.contains(&said) && check(&direct).0 == 0);
    set(&inner.0, 0, 0, 0o1777);
    assert_eq!(check(&linked), (0, String::new()));
    std::os::unix::fs::lchown(inner.join("link"), Some(NOBODY), Some(NOBODY)).unwrap();
    let said = format!("the symbolic link {} belongs to user id 65534", inner.join("link").display());
    assert!(check(&linked).1.contains(&said), "{}", check(&linked).1);
}

// The bits of the group say that somebody may write by the list, and not who.
#[test]
fn an_access_control_list_may_let_others_write() {
    let set = |path: &std::path::Path, entry: &str| {
        let set = Command::new("setfacl").args(["-m", entry]).arg(path).stderr(Stdio::null()).status();
        set.is_ok_and(|status| status.success())
    };
    if !needs_root() {
        return;
    }
    let folder = place((0, 0, 0o644), ROOTS);
    let file = folder.join("childminder.toml");
    if !set(&file, "u:65534:r") {
        left_out("there is no setfacl, or the file system has no access control lists");
        return;
    }
    assert_eq!(run(&folder, &["check"]), (0, String::new()));
    assert!(set(&file, "u:65534:rw"));
    expect_refusal(&folder, &[], "an access control list may let others write to it (mode 0664), and root would run");
    let folder = place((0, 0, 0o644), ROOTS);
    assert!(set(&folder.0, "u:65534:rwx"));
    expect_refusal(&folder, &["-c", "childminder.toml"], "an access control list may let others write to its folder");
}

#[test]
fn the_user_of_sudo_is_trusted() {
    if !needs_root() {
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
