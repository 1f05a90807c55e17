//! Tests the control socket of `childminder up`: it comes back when it is removed.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "util/seccomp.rs"]
mod seccomp;
mod up_util;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::process::Signal;
use up_util::{Up, ask_on, connect, until};

const SLEEPS: &str = "[process.web]\ncommand = [\"sleep\", \"1000\"]\n";

fn is_socket(up: &Up) -> bool {
    fs::symlink_metadata(up.socket()).is_ok_and(|there| there.file_type().is_socket())
}

#[test]
fn it_comes_back_by_itself_and_clients_stay_connected() {
    let mut up = Up::start(SLEEPS);
    let pid = up.pid_of("web");
    let client = connect(&up.socket());
    let ask = |client| ask_on(client, r#"{"version":1,"command":"status","names":[]}"#).expect("an answer");
    ask(&client);
    for round in 1..=3 {
        match round {
            1 => fs::remove_file(up.socket()).unwrap(),
            2 => fs::rename(up.socket(), up.folder.join("elsewhere")).unwrap(),
            // Another file is put in its place, as by `mv` or `touch`.
            _ => fs::rename(up.folder.join("elsewhere"), up.socket()).unwrap(),
        }
        up.wait_for_socket();
        assert!(is_socket(&up));
        let mode = fs::metadata(up.socket()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        ask(&client);
    }
    let said = up.until_read("err", "was taken away");
    assert!(said.contains("/s was taken away; it is there again"), "{said}");
    assert_eq!(up.pid_of("web"), pid);
    up.shutdown();
}

#[test]
fn it_comes_back_when_its_folder_does() {
    let folder = up_util::Folder::new();
    fs::create_dir(folder.join("run")).unwrap();
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"run/s\"\n{SLEEPS}"));
    let mut command = std::process::Command::new(up_util::PROGRAM);
    command.arg("up").current_dir(&folder.0).stderr(fs::File::create(folder.join("err")).unwrap());
    let mut up = Up { child: command.spawn().unwrap(), folder };
    let socket = up.folder.join("run/s");
    // The socket exists a moment before the supervisor can do without its folder.
    up.wait_for_socket_at(&socket);
    fs::remove_dir_all(up.folder.join("run")).unwrap();
    let said = up.until_read("err", "cannot be used");
    assert!(said.contains("run/s cannot be used: No such file or directory (os error 2); it is tried again"), "{said}");
    // No second supervisor starts meanwhile.
    let (code, said) = up.fails(&["up"]);
    assert!(code == 125 && said.contains("another instance is running"), "{said}");
    fs::create_dir(up.folder.join("run")).unwrap();
    until("the socket", || socket.exists().then_some(()));
    up.until_read("err", "run/s is there again");
    up.ok(&["status"]);
    // SIGHUP does not wait for the next try.
    fs::remove_dir_all(up.folder.join("run")).unwrap();
    until("the loss", || (up.folder.read("err").matches("cannot be used").count() == 2).then_some(()));
    fs::create_dir(up.folder.join("run")).unwrap();
    up.signal(Signal::HUP);
    until("the socket", || UnixStream::connect(&socket).ok());
    up.ok(&["shutdown", "--wait"]);
    assert_eq!(up.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn another_one_s_socket_in_its_place_is_left_alone() {
    let up = Up::start(SLEEPS);
    fs::remove_file(up.socket()).unwrap();
    until("it again", || is_socket(&up).then_some(()));
    let theirs = up.folder.join("theirs");
    let listener = UnixListener::bind(&theirs).unwrap();
    fs::rename(&theirs, up.socket()).unwrap();
    let said = up.until_read("err", "cannot be used");
    let expected = format!("/s cannot be used: somebody listens there already, pid {}; ", std::process::id());
    assert!(said.contains(&expected), "{said}");
    // The other listener ends, and leaves its file behind.
    drop(listener);
    up.signal(Signal::HUP);
    up.until_read("err", "/s is there again");
    up.shutdown();
}

#[test]
fn it_comes_back_while_all_processes_are_stopped() {
    let deaf =
        "[process.deaf]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; echo deaf; while :; do sleep 1000; done\"]\n";
    let mut up = Up::start(&format!("{deaf}kill-time = 1000\n"));
    up.until_read("out", "deaf");
    up.signal(Signal::TERM);
    up.until_state("deaf", "stopping");
    for _ in 0..2 {
        fs::remove_file(up.socket()).unwrap();
        up.wait_for_socket();
        assert!(is_socket(&up));
    }
    // The second one, after so long, kills.
    up.signal(Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
}

// This is like a sandbox, or a user who has no watches left.
#[test]
fn without_inotify_it_comes_back_within_half_a_minute() {
    if !up_util::needs_the_kernel("seccomp filters") {
        return;
    }
    // The refusal applies only to this thread and the processes that it starts.
    let up = std::thread::spawn(|| {
        seccomp::refuse(&[(libc::SYS_inotify_init1, None, libc::EMFILE)]);
        Up::start(SLEEPS)
    });
    let up = up.join().unwrap();
    let said = up.until_read("err", "inotify");
    let expected = format!(
        "the control socket {} cannot be watched by inotify: {}; it is looked at every 30 s\n",
        up.socket().display(),
        std::io::Error::from_raw_os_error(libc::EMFILE)
    );
    assert!(said.contains(&expected), "{said}");
    fs::remove_file(up.socket()).unwrap();
    until("it again", || UnixStream::connect(up.socket()).ok());
    let said = up.shutdown();
    assert_eq!(said.matches("inotify").count(), 1, "{said}");
}
