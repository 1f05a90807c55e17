//! Tests the output files of `childminder up` in folders of other users. Links, pipes and files of
//! theirs are refused, and nothing waits for them. Most of it needs root.
#![cfg(feature = "cli")]

mod up_util;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use up_util::{Folder, NOBODY, Nobody, Up, needs_root, run, until};

/// A user that the supervisor does not trust, and a group with the same number.
const BOB: u32 = 12_345;
const MALLORY: u32 = 12_346;

/// A script that writes each line by itself, so that its lines can be told from any others.
const TALKER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// Makes a folder that belongs to this user.
fn folder_of(folder: &Folder, name: &str, user: u32, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(user), Some(user)).unwrap();
    path
}

fn link_of(user: u32, to: impl AsRef<Path>, link: &Path) {
    symlink(to, link).unwrap();
    lchown(link, Some(user), Some(user)).unwrap();
}

fn make_fifo(path: &Path, user: u32) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    chown(path, Some(user), Some(user)).unwrap();
}

/// A process of Bob's that writes to this file, either through us or itself.
fn talker(name: &str, file: &str, extra: &str) -> String {
    format!(
        "[process.{name}]\nshell = \"{TALKER}\"\nuser = {BOB}\ngroup = {BOB}\nmin-restart-delay = \"50ms\"\n\
         max-restart-delay = \"50ms\"\nstdout = {{ file = \"{file}\"{extra} }}\n"
    )
}

const DIRECT: &str = ", direct = true";

#[track_caller]
fn until_start_error(up: &Up, name: &str, part: &str) {
    until(part, || up.status(name)["start_error"].as_str()?.contains(part).then_some(()));
}

#[test]
fn a_link_in_a_folder_of_the_service_is_not_followed() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    fs::create_dir(folder.join("system")).unwrap();
    folder.write("system/file", "untouched\n");
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    link_of(BOB, "../system", &logs.join("sub"));
    let mut text = String::new();
    for (name, extra) in [("file", ""), ("direct", DIRECT)] {
        link_of(BOB, "../system/file", &logs.join(format!("link.{name}")));
        link_of(BOB, "/dev/stdout", &logs.join(format!("out.{name}")));
        // A link that root has made is refused, too, because Bob could have moved it there from
        // somewhere else.
        symlink("../system/file", logs.join(format!("roots.{name}"))).unwrap();
        for kind in ["link", "out", "roots", "sub/new"] {
            text += &talker(&format!("{}-{name}", kind.replace('/', "-")), &format!("./logs/{kind}.{name}"), extra);
        }
    }
    let good = format!("[process.good]\nshell = \"{TALKER}\"\nstdout = \"./good.log\"\n");
    let mut up = Up::start_in(folder, &(text + &good));
    for kind in ["link", "out", "roots", "sub-new"] {
        let said = |name: &str| {
            let link = if kind == "sub-new" { "sub".to_owned() } else { format!("{kind}.{name}") };
            format!("logs/{link} is a symbolic link that user id {BOB} may have put there")
        };
        until_start_error(&up, &format!("{kind}-direct"), &said("direct"));
        let path = format!("logs/{}.file: ", kind.replace('-', "/"));
        let err = up.until_read("err", &path);
        let line = err.lines().find(|line| line.contains(&path)).unwrap();
        let part =
            format!("{}; lines wait until it can be written, and are dropped if they become too many", said("file"));
        assert!(line.ends_with(&part), "{line}");
    }
    assert_eq!(up.folder.read("system/file"), "untouched\n");
    assert_eq!(fs::read_dir(up.folder.join("system")).unwrap().count(), 1);
    assert_eq!(up.folder.read("out"), "");
    until("a good log", || up.folder.read("good.log").contains("1\n").then_some(()));
    // The log is written as soon as there is no link.
    fs::remove_file(logs.join("link.file")).unwrap();
    until("the log", || up.folder.read("logs/link.file").contains('\n').then_some(()));
    up.until_read("err", "logs/link.file: can be written again; ");
    up.ok(&["shutdown", "--wait"]);
    up.wait();
}

#[test]
fn a_log_that_is_replaced_by_a_link_is_let_go() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    folder.write("secret", "untouched\n");
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    let secret = folder.join("secret");
    let mut up = Up::start_in(folder, &talker("web", "./logs/web.log", ""));
    until("the log", || up.folder.read("logs/web.log").contains('\n').then_some(()));
    fs::rename(logs.join("web.log"), logs.join("moved")).unwrap();
    link_of(BOB, "../secret", &logs.join("web.log"));
    up.until_read("err", "web.log is a symbolic link");
    up.ok(&["reopen"]);
    up.ok(&["shutdown", "--wait"]);
    up.wait();
    assert_eq!(fs::read_to_string(secret).unwrap(), "untouched\n");
}

/// Bob replaces the log again and again while it is written, rotated, and opened by starts.
#[test]
fn no_exchange_in_time_makes_anything_else_a_log() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    fs::create_dir(folder.join("system")).unwrap();
    folder.write("system/log", "untouched\n");
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    let sub = folder_of(&folder, "logs/sub", BOB, 0o755);
    fs::write(logs.join("file"), "").unwrap();
    link_of(BOB, "../system/log", &logs.join("link"));
    link_of(BOB, "../system", &logs.join("folder-link"));
    make_fifo(&logs.join("fifo"), BOB);
    let _reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(logs.join("fifo")).unwrap();
    let quick = format!(
        "[process.quick]\nshell = \"echo quick\"\nuser = {BOB}\ngroup = {BOB}\nthreshold = 0\n\
                         min-restart-delay = \"10ms\"\nmax-restart-delay = \"10ms\"\n\
                         stdout = {{ file = \"./logs/log\", direct = true }}\n"
    );
    let talker = |name: &str, file: &str| talker(name, file, ", max-size = 100, keep = 2").replace("sleep 0.05", ":");
    let text = quick + &talker("web", "./logs/web.log") + &talker("below", "./logs/sub/log");
    let up = Up::start_in(folder, &text);
    let exchange = |from: &Path, to: &Path| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let _ = rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags);
    };
    let round = || {
        for name in ["link", "fifo", "file"] {
            exchange(&logs.join(name), &logs.join("web.log"));
            exchange(&logs.join(name), &logs.join("log"));
        }
        exchange(&logs.join("folder-link"), &sub);
    };
    (0..800).for_each(|_| round());
    until("a link to be met", || {
        round();
        up.folder.read("err").contains("is a symbolic link that").then_some(())
    });
    // The process still runs, and has written to nothing else.
    up.status("web");
    assert_eq!(up.folder.read("system/log"), "untouched\n");
    assert_eq!(fs::read_dir(up.folder.join("system")).unwrap().count(), 1);
}

#[test]
fn a_named_pipe_in_a_folder_of_the_service_is_no_log() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    let mut readers = Vec::new();
    for name in ["read", "unread", "direct-read", "direct-unread"] {
        make_fifo(&logs.join(name), BOB);
        if !name.ends_with("unread") {
            let flags = libc::O_NONBLOCK;
            readers.push(File::options().read(true).custom_flags(flags).open(logs.join(name)).unwrap());
        }
    }
    let text = ["read", "unread"].map(|name| {
        talker(name, &format!("./logs/{name}"), "")
            + &talker(&format!("direct-{name}"), &format!("./logs/direct-{name}"), DIRECT)
    });
    let up = Up::start_in(folder, &text.concat());
    let (code, said) = run(&up.folder, &["check"]);
    assert_eq!(code, 0);
    for name in ["read", "direct-read", "direct-unread", "unread"] {
        let part = format!("logs/{name}\", and it is a named pipe that user id {BOB} may have put there");
        assert!(said.contains(&part), "{said}");
    }
    let why = format!("it is a named pipe that user id {BOB} may have put there");
    up.until_read("err", &format!("logs/read: {why}"));
    until_start_error(&up, "direct-read", &why);
    up.until_read("err", "logs/unread: no process reads this named pipe");
    until_start_error(&up, "direct-unread", "no process reads this named pipe");
    up.ok(&["reload"]);
    for mut reader in readers {
        use std::io::Read;
        let read = reader.read(&mut [0; 100]);
        assert!(matches!(read, Ok(0)) || read.is_err(), "{read:?}");
    }
    up.shutdown();
}

#[test]
fn a_hard_link_in_a_folder_of_the_service_is_no_log() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    folder.write("secret", "untouched\n");
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    for name in ["web.log", "direct.log"] {
        fs::hard_link(folder.join("secret"), logs.join(name)).unwrap();
    }
    // A file of Bob's own may have any number of links.
    fs::write(logs.join("own.log"), "").unwrap();
    chown(logs.join("own.log"), Some(BOB), Some(BOB)).unwrap();
    fs::hard_link(logs.join("own.log"), logs.join("own.link")).unwrap();
    let text = talker("web", "./logs/web.log", "") + &talker("direct", "./logs/direct.log", DIRECT);
    let up = Up::start_in(folder, &(text + &talker("own", "./logs/own.log", "")));
    let why = format!("it has other names (hard links), and user id {BOB} may have put it there");
    up.until_read("err", &format!("logs/web.log: {why}"));
    until_start_error(&up, "direct", &why);
    until("the log", || up.folder.read("logs/own.link").contains('\n').then_some(()));
    assert_eq!(up.folder.read("secret"), "untouched\n");
    up.shutdown();
}

#[test]
fn what_the_administrator_has_linked_is_followed() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    // One link is like /var/log on another disk, and one folder is writable for everybody, as /tmp
    // is.
    fs::create_dir(folder.join("data")).unwrap();
    symlink("data", folder.join("log")).unwrap();
    fs::create_dir(folder.join("tmp")).unwrap();
    fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink(folder.join("data/linked.log"), folder.join("tmp/roots.log")).unwrap();
    symlink("/dev/stdout", folder.join("tmp/stdout")).unwrap();
    symlink("../log", folder.join("data/round")).unwrap();
    make_fifo(&folder.join("tmp/fifo"), 0);
    link_of(MALLORY, folder.join("data/mallory.log"), &folder.join("tmp/mallorys.log"));
    fs::write(folder.join("tmp/stranger.log"), "").unwrap();
    chown(folder.join("tmp/stranger.log"), Some(MALLORY), Some(MALLORY)).unwrap();
    make_fifo(&folder.join("tmp/mallorys-fifo"), MALLORY);
    let mut reader =
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(folder.join("tmp/mallorys-fifo")).unwrap();
    let files = [
        ("a", "./log/./round/../a.log"),
        ("b", "./tmp/roots.log"),
        ("c", "./tmp/stdout"),
        ("d", "./tmp/new.log"),
        ("e", "./tmp/mallorys.log"),
        ("f", "./tmp/stranger.log"),
        ("g", "./tmp/fifo"),
        ("h", "./tmp/mallorys-fifo"),
    ];
    let up = Up::start_in(folder, &files.map(|(name, file)| talker(name, file, ", max-size = 20, keep = 2")).concat());
    for file in ["a.log", "data/linked.log.1", "out", "tmp/new.log.1"] {
        until(file, || up.folder.read(file).contains('\n').then_some(()));
    }
    assert!(up.folder.join("tmp/roots.log").is_symlink() && up.folder.join("tmp/stdout").is_symlink());
    up.until_read("err", &format!("mallorys.log is a symbolic link that user id {MALLORY} may have put there"));
    up.until_read("err", &format!("tmp/stranger.log: it belongs to user id {MALLORY}"));
    up.until_read("err", "tmp/fifo: no process reads this named pipe");
    up.until_read("err", &format!("it is a named pipe that user id {MALLORY} may have put there"));
    assert!(!up.folder.join("data/mallory.log").exists());
    assert_eq!(up.folder.read("tmp/stranger.log"), "");
    {
        use std::io::Read;
        assert!(!matches!(reader.read(&mut [0; 100]), Ok(1..)));
    }
    up.shutdown();
}

#[test]
fn links_in_folders_that_a_group_may_write_are_not_followed() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    folder.write("target", "");
    for (name, group, mode) in [("theirs", BOB, 0o775), ("ours", 0, 0o775), ("all", 0, 0o777)] {
        let dir = folder.join(name);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(0), Some(group)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        symlink("../target", dir.join("log")).unwrap();
    }
    let up = Up::start_in(
        folder,
        &["theirs", "ours", "all"].map(|name| talker(name, &format!("./{name}/log"), "")).concat(),
    );
    up.until_read("err", &format!("theirs/log is a symbolic link that group id {BOB} may have put there"));
    up.until_read("err", "all/log is a symbolic link that every user may have put there");
    until("the log", || up.folder.read("target").contains('\n').then_some(()));
    assert!(!up.folder.read("err").contains("ours/log"));
    up.shutdown();
}

#[test]
fn a_group_of_one_own_user_is_trusted() {
    let Some(nobody) = Nobody::new() else { return };
    for (name, group) in [("own", NOBODY), ("shared", 7)] {
        let dir = nobody.folder.join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o775)).unwrap();
        chown(&dir, Some(NOBODY), Some(group)).unwrap();
        link_of(NOBODY, "/dev/null", &dir.join("log"));
    }
    let process = |name: &str| format!("[process.{name}]\ncommand = [\"true\"]\nstdout = \"./{name}/log\"\n");
    nobody.folder.write("childminder.toml", &(file_with_socket() + &process("own") + &process("shared")));
    let (code, said) = nobody.run(&[], &["check"]);
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    assert!(said.contains("shared/log is a symbolic link that group id 7 may have put there: its lines"), "{said}");
    // An owner that only root can set does not keep the file from being read either.
    nobody.folder.write(
        "childminder.toml",
        &(file_with_socket() + "[process.a]\ncommand = [\"true\"]\nstdout = { file = \"./log\", owner = \"root\" }\n"),
    );
    let (code, said) = nobody.run(&[], &["check"]);
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    assert!(said.contains("user id 65534 may not make files with its `owner`: its lines wait"), "{said}");
}

fn file_with_socket() -> String {
    "[monitor]\nsocket = \"./s\"\n".into()
}

#[test]
fn rotation_in_a_folder_of_the_service_touches_only_its_names() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    folder.write("secret", "untouched\n");
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    link_of(BOB, "../secret", &logs.join("web.log.1"));
    link_of(BOB, "../secret", &logs.join("web.log.2"));
    let up = Up::start_in(folder, &talker("web", "./logs/web.log", ", max-size = 6, keep = 4"));
    until("two rotations", || {
        (logs.join("web.log.4").is_symlink() && !logs.join("web.log.2").is_symlink()).then_some(())
    });
    until("all to be logs", || (!logs.join("web.log.4").is_symlink()).then_some(()));
    assert_eq!(up.folder.read("secret"), "untouched\n");
    up.shutdown();
}

#[test]
fn new_files_have_the_mode_and_the_owner_that_are_set() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    let logs = folder_of(&folder, "logs", BOB, 0o755);
    fs::write(logs.join("old.log"), "").unwrap();
    fs::set_permissions(logs.join("old.log"), fs::Permissions::from_mode(0o604)).unwrap();
    let set = |owner: &str| format!(", mode = \"0640\", owner = {owner}");
    let text = [
        talker("web", "./logs/web.log", &format!("{}, max-size = 10", set(&format!("\"{BOB}:7\"")))),
        talker("direct", "./logs/direct.log", &(set(&BOB.to_string()) + DIRECT)),
        talker("old", "./logs/old.log", &set("\"nobody\"")),
        talker("group", "./logs/group.log", ", mode = 0o600, owner = \":7\""),
        // In a folder for everybody, a file of another user would be refused.
        talker("tmp", "./tmp/tmp.log", &set(&BOB.to_string())),
    ];
    fs::create_dir(folder.join("tmp")).unwrap();
    fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let up = Up::start_in(folder, &text.concat());
    until("rotated files", || logs.join("web.log.3").exists().then_some(()));
    until("all files", || {
        let all = ["logs/direct.log", "logs/old.log", "logs/group.log", "tmp/tmp.log"];
        all.iter().all(|name| up.folder.read(name).contains('\n')).then_some(())
    });
    let rights = |name: &str| {
        let there = up.folder.join(name).metadata().unwrap();
        (there.mode() & 0o7777, there.uid(), there.gid())
    };
    assert_eq!((rights("logs/web.log.1"), rights("logs/web.log.3")), ((0o640, BOB, 7), (0o640, BOB, 7)));
    assert_eq!(rights("logs/direct.log"), (0o640, BOB, 0));
    assert_eq!(rights("logs/old.log"), (0o604, 0, 0), "a file that is there keeps what it has");
    assert_eq!(rights("logs/group.log"), (0o600, 0, 7));
    assert_eq!(rights("tmp/tmp.log"), (0o640, BOB, 0));
    // The same file is opened again.
    let length = up.folder.read("tmp/tmp.log").len();
    up.ok(&["reopen"]);
    until("more of it", || (up.folder.read("tmp/tmp.log").len() > length).then_some(()));
    assert!(!up.folder.read("err").contains("dropped"), "{}", up.folder.read("err"));
    up.shutdown();
}

#[test]
fn a_wrong_mode_or_owner_is_told_with_its_place() {
    let folder = Folder::new();
    let file = |extra: &str| format!("[process.a]\ncommand = [\"true\"]\nstdout = {{ file = \"./log\", {extra} }}\n");
    let mode = "allowed is a mode in octal without bits above 0777, such as \"0640\" or 0o640";
    let owner = "allowed is \"USER\", \"USER:GROUP\" or \":GROUP\", each a name or a number of this system";
    for (extra, column, allowed) in [
        ("mode = 640", 35, mode),
        ("mode = \"1777\"", 35, mode),
        ("mode = \"rw\"", 35, mode),
        ("owner = \"no-such-user\"", 36, owner),
        ("owner = \"root:no-such-group\"", 36, owner),
        ("owner = \"\"", 36, owner),
        ("owner = \":\"", 36, owner),
        ("owner = -1", 36, owner),
        ("owner = 4294967295", 36, owner),
    ] {
        folder.write("childminder.toml", &file(extra));
        let (code, said) = run(&folder, &["check"]);
        assert_eq!(code, 2, "{extra}");
        assert!(said.contains(&format!("childminder.toml:3:{column}: `")) && said.contains(allowed), "{extra}: {said}");
    }
}

#[test]
fn effective_settings_have_the_mode_and_the_owner() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[process.a]\ncommand = [\"true\"]\nstdout = { file = \"./log\", mode = \"0640\", owner = \"root:7\" }\n\
         stderr = { file = \"./err\", direct = true, mode = 0o600, owner = \":root\" }\n",
    );
    let output = Command::new(up_util::PROGRAM).args(["check", "--effective"]).current_dir(&folder.0).output().unwrap();
    let said = up_util::text(&output.stdout);
    assert!(said.contains("keep = 5, mode = \"0640\", owner = \"0:7\" }"), "{said}");
    assert!(said.contains("direct = true, mode = \"0600\", owner = \":0\" }"), "{said}");
    folder.write("childminder.toml", &said);
    let output = Command::new(up_util::PROGRAM).args(["check", "--effective"]).current_dir(&folder.0).output().unwrap();
    assert_eq!(up_util::text(&output.stdout), said);
}
