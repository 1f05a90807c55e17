//! Tests that one file has one `childminder up`, and so has one socket, whatever files are removed.
//! No other user can keep it from starting.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use up_util::{Folder, NOBODY, Nobody, PROGRAM, Up, left_out, needs_root, run, until};

const TEXT: &str = "[monitor]\nsocket = \"s\"\n[process.web]\ncommand = [\"sleep\", \"1000\"]\n";
const SLEEPS: &str = "[process.web]\ncommand = [\"sleep\", \"1000\"]\n";

/// A helper of a test, which is killed when this value is dropped.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `up` in a folder that has a file already.
fn start(folder: Folder, mut command: Command) -> Up {
    command.arg("up").current_dir(&folder.0).stdin(Stdio::null());
    command.stdout(fs::File::create(folder.join("out")).unwrap());
    command.stderr(fs::File::create(folder.join("err")).unwrap());
    let mut up = Up { child: command.spawn().unwrap(), folder };
    up.wait_for_socket();
    up
}

fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[track_caller]
fn expect_refusal(said: &(i32, String), place: &str, pid: i32) {
    assert_eq!(said.0, 125, "{}", said.1);
    assert!(said.1.ends_with(&format!("{place}: another instance is running, pid {pid}\n")), "{}", said.1);
}

#[test]
fn of_one_file_when_all_else_is_swept_away() {
    let folder = Folder::new();
    fs::create_dir(folder.join("tmp")).unwrap();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"tmp/s\"\n{SLEEPS}"));
    let mut up = Up { child: Command::new(PROGRAM).arg("up").current_dir(&folder.0).spawn().unwrap(), folder };
    up.wait_for_socket_at(&up.folder.join("tmp/s"));
    // A stopped supervisor can make nothing anew.
    up.signal(Signal::STOP);
    sweep(&up.folder.join("tmp"));
    expect_refusal(&up.fails(&["up"]), "/childminder.toml", up.pid());
    // The file is locked under another name, too.
    fs::hard_link(up.folder.join("childminder.toml"), up.folder.join("other.toml")).unwrap();
    expect_refusal(&up.fails(&["up", "-c", "other.toml"]), "/other.toml", up.pid());
    up.signal(Signal::CONT);
    until("the socket", || up.folder.join("tmp/s").exists().then_some(()));
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
    assert_eq!(fs::read_dir(up.folder.join("tmp")).unwrap().count(), 0, "left behind");
}

#[test]
fn of_one_socket_when_it_is_swept_away() {
    let up = Up::start(SLEEPS);
    up.folder.write("other.toml", "[monitor]\nsocket = \"s\"\n[process]\n");
    up.signal(Signal::STOP);
    fs::remove_file(up.socket()).unwrap();
    let (code, said) = up.fails(&["up", "-c", "other.toml"]);
    up.signal(Signal::CONT);
    expect_refusal(&(code, said), "/s", up.pid());
    // Other files that were removed come back as well.
    until("the socket", || up.socket().exists().then_some(()));
    fs::remove_file(up.folder.join("s.lock")).unwrap();
    fs::remove_file(up.socket()).unwrap();
    until("the socket and its lock", || (up.socket().exists() && up.folder.join("s.lock").exists()).then_some(()));
    up.signal(Signal::STOP);
    fs::remove_file(up.socket()).unwrap();
    let (code, said) = up.fails(&["up", "-c", "other.toml"]);
    up.signal(Signal::CONT);
    expect_refusal(&(code, said), "/s", up.pid());
    let lock = fs::metadata(up.folder.join("s.lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600);
    until("the socket", || UnixStream::connect(up.socket()).ok());
    let lock = up.folder.join("s.lock");
    up.ok(&["shutdown", "--wait"]);
    until("the end of the lock", || (!lock.exists()).then_some(()));
}

// Editors write a new file and rename it.
#[test]
fn of_a_file_that_an_editor_has_replaced() {
    let up = Up::start(SLEEPS);
    let replace = |processes: &str| {
        up.folder.write("new", processes);
        fs::rename(up.folder.join("new"), up.folder.join("childminder.toml")).unwrap();
    };
    let inode = fs::metadata(up.folder.join("childminder.toml")).unwrap().ino();
    replace(TEXT);
    assert_ne!(fs::metadata(up.folder.join("childminder.toml")).unwrap().ino(), inode);
    expect_refusal(&up.fails(&["up"]), "/s", up.pid());
    up.ok(&["reload"]);
    expect_refusal(&up.fails(&["up"]), "/childminder.toml", up.pid());
    // This holds even if the next start would use another socket.
    replace(&format!("[monitor]\nsocket = \"moved\"\n{SLEEPS}"));
    up.ok(&["reload", "--socket", "s"]);
    expect_refusal(&up.fails(&["up"]), "/childminder.toml", up.pid());
    up.ok(&["shutdown", "--wait", "--socket", "s"]);
}

// A file that cannot be written has no lock, so the lock of the socket must be enough.
#[test]
fn of_a_file_that_cannot_be_written() {
    let Some(nobody) = Nobody::new() else { return };
    let mut up = start_as_nobody(nobody);
    let lock = up.folder.join("s.lock");
    assert_eq!(fs::metadata(&lock).unwrap().uid(), NOBODY);
    fs::remove_file(up.socket()).unwrap();
    let (code, said) = as_nobody(&up.folder, &["up"]);
    expect_refusal(&(code, said), "/s", up.pid());
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
}

/// Starts `up` as nobody, with a file that belongs to root.
fn start_as_nobody(nobody: Nobody) -> Up {
    nobody.folder.write("childminder.toml", TEXT);
    let mut command = Command::new(&nobody.program);
    command.uid(NOBODY).gid(NOBODY);
    start(nobody.folder, command)
}

fn as_nobody(folder: &Folder, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(folder.join("childminder"));
    command.args(args).current_dir(&folder.0).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), up_util::text(&output.stderr))
}

#[test]
fn of_another_user_s_file() {
    let Some(nobody) = Nobody::new() else { return };
    let file = nobody.folder.join("childminder.toml");
    fs::write(&file, TEXT).unwrap();
    std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(&nobody.program);
    command.uid(NOBODY).gid(NOBODY);
    let mut up = start(nobody.folder, command);
    up.signal(Signal::STOP);
    fs::remove_file(up.socket()).unwrap();
    let (code, said) = run(&up.folder, &["up", "-c", file.to_str().unwrap()]);
    up.signal(Signal::CONT);
    assert!(code == 125 && said.contains("childminder.toml: another instance is running, pid"), "{code} {said}");
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
}

// The other user may read the file and its folder, and write to /tmp.
#[test]
fn another_user_cannot_keep_it_from_starting() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    folder.write("childminder.toml", TEXT);
    folder.write("s.lock", "");
    fs::set_permissions(folder.join("s.lock"), fs::Permissions::from_mode(0o666)).unwrap();
    std::os::unix::fs::chown(folder.join("s.lock"), Some(NOBODY), Some(NOBODY)).unwrap();
    let script = "
import fcntl, os, struct, sys
held = []
for name in ['.', 'childminder.toml', 's.lock']:
    fd = os.open(name, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    if name != '.':
        fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 0, 0, 0))
    held.append(fd)
fd = os.open('s.lock', os.O_RDWR)
print('held', flush=True)
sys.stdin.read()
";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).current_dir(&folder.0).uid(NOBODY).gid(NOBODY);
    let Ok(child) = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        left_out("there is no python3");
        return;
    };
    let mut python = Kill(child);
    let mut said = String::new();
    BufReader::new(python.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n");
    let up = start(folder, Command::new(PROGRAM));
    // There is no socket name that others could take or connect to either.
    let own: Vec<String> = fs::read_dir(format!("/proc/{}/fd", up.pid()))
        .unwrap()
        .filter_map(|fd| {
            fs::read_link(fd.unwrap().path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let sockets = sockets.lines().filter(|line| own.iter().any(|inode| line.split(' ').any(|word| word == inode)));
    let sockets: Vec<_> = sockets.collect();
    assert!(!sockets.is_empty() && sockets.iter().all(|line| !line.contains('@')), "{sockets:#?}");
    up.shutdown();
}

// These containers share a network, and have files of their own at the same path.
#[test]
fn containers_do_not_refuse_each_other() {
    let inside = |folder: &Folder, namespaces: &[&str]| {
        let script = format!(
            "mount -t tmpfs none {0} && cd {0} && printf '%s' \"$TEXT\" > childminder.toml
             {PROGRAM} up & up=$!
             while ! {PROGRAM} status; do kill -0 $up || exit; sleep 0.05; done
             echo up; read wait; kill $up; wait",
            folder.0.display()
        );
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-c", &script]).env("TEXT", TEXT).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "up"), "{namespaces:?}: it did not start");
        child
    };
    let folder = Folder::new();
    if !Command::new("unshare").args(["-m", "-p", "-f", "--mount-proc", "true"]).status().is_ok_and(|it| it.success()) {
        left_out("no namespaces can be made");
        return;
    }
    for namespaces in [&["-m"][..], &["-m", "-p", "-f", "--mount-proc"]] {
        let containers = [inside(&folder, namespaces), inside(&folder, namespaces)];
        for mut container in containers {
            drop(container.stdin.take());
            container.wait().unwrap();
        }
    }
}
