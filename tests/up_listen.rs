//! Tests the sockets that `childminder up` opens for its processes and keeps over their restarts.
//!
//! The one rule: a client that finds a socket of a running supervisor is never refused.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use up_util::{Folder, NOBODY, Up, WATCHDOG, needs_root, run, until};

mod children {
    use super::*;

    /// A server for the processes of the tests. It tells each client its pid.
    #[test]
    fn server() {
        if std::env::var_os("LISTEN_FDS").is_none() {
            return;
        }
        let pid = std::process::id().to_string();
        assert_eq!(std::env::var("LISTEN_PID").unwrap(), pid);
        let socket = childminder::inherited_fd(3).unwrap();
        // `accept` is the same for all kinds of sockets.
        let socket = TcpListener::from(socket);
        loop {
            let client = match rustix::net::accept(&socket) {
                Ok(client) => fs::File::from(client),
                Err(error) => panic!("{error}"),
            };
            // A client may have gone.
            let _ = (&client).write_all(format!("{pid}\n").as_bytes());
        }
    }
}

/// A table that runs the server.
fn server(name: &str, listen: &str, rest: &str) -> String {
    let own = std::env::current_exe().unwrap();
    format!(
        "[process.{name}]\ncommand = [{own:?}, \"--exact\", \"children::server\", \"-q\"]\nthreshold = \"1ms\"\n\
         min-restart-delay = \"10ms\"\nlisten = {listen}\n{rest}\n"
    )
}

/// A port without a listener.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The pid that the server tells. 0 if it has gone meanwhile.
#[track_caller]
fn ask(mut client: impl Read) -> i32 {
    let mut said = String::new();
    match client.read_to_string(&mut said) {
        Ok(_) => said.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
        Err(error) => panic!("{error}"),
    }
}

fn tcp(port: u16) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(WATCHDOG)).unwrap();
    client
}

fn unix(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(WATCHDOG)).unwrap();
    client
}

/// Clients connect a thousand times a second while the server is restarted fifty times.
#[test]
fn no_client_is_refused_over_fifty_restarts() {
    let port = free_port();
    let up = Up::start(&server("it", &format!("[\"tcp:127.0.0.1:{port}\"]"), ""));
    up.until_state("it", "running");
    let (stop, served, pids) = (AtomicBool::new(false), AtomicUsize::new(0), std::sync::Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        let _stop = OnDrop(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let pid = ask(tcp(port));
                    if pid > 0 {
                        served.fetch_add(1, Ordering::SeqCst);
                        pids.lock().unwrap().insert(pid);
                    }
                    // Four clients, each 250 times a second.
                    std::thread::park_timeout(Duration::from_millis(4));
                }
            });
        }
        for _ in 0..50 {
            let (before, pid) = (served.load(Ordering::SeqCst), up.pid_of("it"));
            up.ok(&["restart", "it"]);
            until("a new server", || up.status("it")["pid"].as_i64().filter(|new| *new != i64::from(pid)));
            until("a client that is served", || (served.load(Ordering::SeqCst) > before).then_some(()));
        }
    });
    assert!(pids.into_inner().unwrap().len() > 25, "the clients have met the new servers");
    up.shutdown();
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_client_waits_for_a_server_that_is_down() {
    let up = Up::start(&server("it", "[\"unix:x.sock\"]", ""));
    let path = up.folder.join("x.sock");
    let first = until("the server", || path.exists().then(|| ask(unix(&path))));
    assert_eq!(first, up.pid_of("it"));
    let there = fs::metadata(&path).unwrap();
    up.ok(&["stop", "--wait", "it"]);
    let client = unix(&path);
    up.ok(&["start", "it"]);
    let second = ask(client);
    assert!(second > 0 && second != first, "{first} {second}");
    // A reload that changes something else of the process restarts it on the same socket.
    up.write_file(&server("it", "[\"unix:x.sock\"]", "umask = \"077\""));
    up.ok(&["reload", "--wait"]);
    until("a new server", || Some(ask(unix(&path))).filter(|pid| *pid != second && *pid > 0));
    assert_eq!(there.ino(), fs::metadata(&path).unwrap().ino());
    // Without the key, it is closed.
    up.write_file("[process.it]\ncommand = [\"sleep\", \"1000\"]\n");
    up.ok(&["reload", "--wait"]);
    until("the end of the socket", || (!path.exists()).then_some(()));
}

#[test]
fn it_goes_with_its_process() {
    let port = free_port();
    let both = format!("[\"unix:x.sock\", \"tcp:127.0.0.1:{port}\"]");
    let up = Up::start(&(server("it", &both, "") + "[process.other]\ncommand = [\"sleep\", \"1000\"]\n"));
    let path = up.folder.join("x.sock");
    until("the server", || path.exists().then(|| ask(unix(&path))));
    // The second socket is descriptor 4, from which this server accepts nothing.
    drop(tcp(port));
    up.write_file("[process.other]\ncommand = [\"sleep\", \"1000\"]\n");
    up.ok(&["reload", "--wait"]);
    until("the end of the socket", || (!path.exists()).then_some(()));
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    up.shutdown();
}

#[test]
fn instances_share_it() {
    let up = Up::start(&server("it", "[{ unix = \"x.sock\", name = \"web\" }]", "instances = 2"));
    let pids: BTreeSet<i32> = [up.until_state("it:1", "running"), up.until_state("it:2", "running")]
        .iter()
        .map(|status| status["pid"].as_i64().unwrap() as i32)
        .collect();
    for pid in &pids {
        until("its variables", || {
            let variables = fs::read(format!("/proc/{pid}/environ")).unwrap();
            up_util::text(&variables).contains("\0LISTEN_FDNAMES=web\0").then_some(())
        });
    }
    let (path, mut served) = (up.folder.join("x.sock"), BTreeSet::new());
    until("both", || {
        served.insert(ask(unix(&path)));
        (served == pids).then_some(())
    });
}

#[test]
fn its_file_has_its_mode_and_owner() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    let listen = format!("[{{ unix = \"x.sock\", mode = \"0620\", owner = \"{NOBODY}:{NOBODY}\" }}, \"unix:y.sock\"]");
    let up = Up::start_in(folder, &server("it", &listen, ""));
    let path = up.folder.join("x.sock");
    until("the server", || path.exists().then(|| ask(unix(&path))));
    let there = fs::metadata(&path).unwrap();
    assert_eq!((there.mode() & 0o777, there.uid(), there.gid()), (0o620, NOBODY, NOBODY));
    let umask = fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
    let umask = umask.lines().find_map(|line| line.strip_prefix("Umask:\t")).unwrap();
    let umask = u32::from_str_radix(umask, 8).unwrap();
    assert_eq!(fs::metadata(up.folder.join("y.sock")).unwrap().mode() & 0o777, 0o666 & !umask);
    assert!(up.shutdown().contains("[it] started"));
}

// What a dead process has left is replaced. A living one is an error, until it is gone.
#[test]
fn only_a_deserted_socket_is_replaced() {
    let folder = Folder::new();
    let path = folder.join("x.sock");
    let port = free_port();
    let busy = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let living = UnixListener::bind(&path).unwrap();
    let both = server("it", "[\"unix:x.sock\"]", "max-restart-delay = \"50ms\"")
        + &server("web", &format!("[\"tcp:127.0.0.1:{port}\"]"), "max-restart-delay = \"50ms\"");
    let up = Up::start_in(folder, &both);
    let error = until("an error", || up.status("it")["start_error"].as_str().map(str::to_owned));
    let expected = format!("open unix:{}: somebody listens there already, pid {}", path.display(), std::process::id());
    assert!(error.contains(&expected), "{error}");
    let error = until("an error", || up.status("web")["start_error"].as_str().map(str::to_owned));
    let in_use = std::io::Error::from_raw_os_error(libc::EADDRINUSE);
    assert!(error.contains(&format!("open tcp:127.0.0.1:{port}: {in_use}")), "{error}");
    drop((living, busy));
    let pid = until("a server", || UnixStream::connect(&path).ok().map(ask).filter(|pid| *pid > 0));
    assert_eq!(pid, up.pid_of("it"));
    until("a server", || TcpStream::connect(("127.0.0.1", port)).ok().map(ask).filter(|pid| *pid > 0));
    // The supervisor is killed, and its successor takes over.
    let mut up = up;
    up.signal(Signal::KILL);
    up.wait();
    until("the end of the server", || UnixStream::connect(&path).is_err().then_some(()));
    assert!(path.exists());
    let folder = std::mem::replace(&mut up.folder, Folder::new());
    let up = Up::start_in(folder, &both);
    until("a server", || UnixStream::connect(&path).ok().map(ask).filter(|pid| *pid > 0));
    up.shutdown();
    assert!(!path.exists());
}

#[test]
fn a_file_is_never_replaced() {
    let folder = Folder::new();
    folder.write("x.sock", "precious");
    let up = Up::start_in(folder, &server("it", "[\"unix:x.sock\"]", ""));
    let error = until("an error", || up.status("it")["start_error"].as_str().map(str::to_owned));
    assert!(error.contains("there is a file already, and it is no socket"), "{error}");
    assert_eq!(up.folder.read("x.sock"), "precious");
    let (code, said) = run(&up.folder, &["check"]);
    assert_eq!(code, 0);
    assert!(said.contains("there is a file already, which is no socket: the process cannot be started"), "{said}");
}

#[test]
fn a_link_of_another_user_is_not_followed() {
    if !needs_root() {
        return;
    }
    let folder = Folder::new();
    for name in ["theirs", "secret"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    symlink(folder.join("secret"), folder.join("theirs/link")).unwrap();
    std::os::unix::fs::lchown(folder.join("theirs/link"), Some(NOBODY), Some(NOBODY)).unwrap();
    std::os::unix::fs::chown(folder.join("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let up = Up::start_in(
        folder,
        &(server("it", "[\"unix:theirs/link/x.sock\"]", "") + &server("ok", "[\"unix:theirs/x.sock\"]", "")),
    );
    let error = until("an error", || up.status("it")["start_error"].as_str().map(str::to_owned));
    assert!(error.contains(&format!("is a symbolic link that user id {NOBODY} may have put there")), "{error}");
    assert_eq!(fs::read_dir(up.folder.join("secret")).unwrap().count(), 0);
    let path = up.folder.join("theirs/x.sock");
    until("the server", || UnixStream::connect(&path).ok().map(ask).filter(|pid| *pid > 0));
    // A socket whose file was removed is opened anew at the next start.
    fs::remove_file(&path).unwrap();
    up.ok(&["restart", "--wait", "ok"]);
    until("the server", || UnixStream::connect(&path).ok().map(ask).filter(|pid| *pid > 0));
}
