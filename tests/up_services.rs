//! Tests `childminder up` with programs of others: PostgreSQL, Redis and nginx from one file, in
//! their order, each ready by another sign, and nginx on a socket that is kept.
//!
//! The one rule: what is missing on this machine is recorded as left out.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod up_util;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use up_util::{Folder, NOBODY, Up, WATCHDOG, kill, left_out, needs_root, text, until};

/// The folder of PostgreSQL's programs.
fn postgres() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|folder| folder.join(program).exists())
}

/// A folder with an empty database and the files of the others. Returns the processes and the port
/// of nginx, too.
fn prepare(bin: &Path) -> (Folder, String, u16) {
    let folder = Folder::new();
    let own = folder.join("db");
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.args(["-D", "data", "-U", "test", "--auth=trust", "--no-sync", "--no-instructions"]);
    let made = initdb.current_dir(&own).uid(NOBODY).gid(NOBODY).env("LC_ALL", "C").output().unwrap();
    assert!(made.status.success(), "{}{}", text(&made.stdout), text(&made.stderr));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    folder.write(
        "nginx.conf",
        &format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr notice;\nevents {{}}\n\
             http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 well; }} }} }}\n"
        ),
    );
    let (bin, place) = (bin.display(), folder.0.display());
    let services = format!(
        r#"
[process.web]
command = ["nginx", "-p", "{place}", "-c", "{place}/nginx.conf", "-e", "stderr"]
environment = {{ NGINX = "3;", PATH = "/usr/sbin:/usr/bin:/bin" }}
listen = ["tcp:127.0.0.1:{port}"]
ready = {{ line = "start worker processes" }}
requires = ["cache"]
min-restart-delay = "100ms"

[process.cache]
command = ["redis-server", "--port", "0", "--unixsocket", "{place}/cache.sock", "--save", "", "--dir", "{place}"]
ready = {{ unix = "cache.sock", interval = "50ms" }}
requires = ["db"]
min-restart-delay = "100ms"

[process.db]
command = ["{bin}/postgres", "-D", "data", "-k", "{place}/db", "-h", "", "-F"]
directory = "db"
kill-time = "30s"
user = {NOBODY}
group = {NOBODY}
stop-signal = "INT"
min-restart-delay = "100ms"
ready = {{ command = ["{bin}/pg_isready", "-q", "-h", "{place}/db"], interval = "50ms" }}
"#
    );
    (folder, services, port)
}

fn ask(port: u16) -> String {
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("it is never refused");
    client.set_read_timeout(Some(WATCHDOG)).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut said = String::new();
    // A server that is killed resets the connection.
    let _ = client.read_to_string(&mut said);
    said
}

const NAMES: [&str; 3] = ["db", "cache", "web"];

fn until_all_ready(up: &Up) -> [i64; 3] {
    until("all of them ready", || {
        let statuses = up.statuses();
        let pid = |name: &str| {
            let status = statuses.iter().find(|status| status["name"] == name)?;
            if status["state"] == "ready" { status["pid"].as_i64() } else { None }
        };
        Some([pid(NAMES[0])?, pid(NAMES[1])?, pid(NAMES[2])?])
    })
}

/// Checks that these parts are in the text in this order.
#[track_caller]
fn expect_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in its place in {text}"));
        rest = after;
    }
}

#[test]
fn three_services_in_their_order() {
    let Some(bin) = postgres() else { return left_out("it takes PostgreSQL") };
    if !exists("nginx") || !exists("redis-server") {
        return left_out("it takes nginx and Redis");
    }
    if !needs_root() {
        return;
    }
    let (folder, services, port) = prepare(&bin);
    let up = Up::start_in(folder, &services);
    let first = until_all_ready(&up);
    expect_order(
        &up.folder.read("err"),
        &["[db] started", "[db] ready", "[cache] started", "[cache] ready", "[web] started", "[web] ready"],
    );
    assert!(ask(port).ends_with("well"));

    // What requires a process goes down with it, and comes back after it.
    let mut before = first;
    for (index, name) in NAMES.iter().enumerate() {
        let said = up.folder.read("err").len();
        kill(i32::try_from(before[index]).unwrap(), Signal::KILL);
        let after = until("new processes", || {
            let now = until_all_ready(&up);
            (now[index..].iter().zip(&before[index..]).all(|(now, before)| now != before)).then_some(now)
        });
        assert_eq!(after[..index], before[..index], "{name} takes only those with it that require it");
        let said = up.folder.read("err").split_off(said);
        let order: Vec<_> = NAMES[index..].iter().map(|name| format!("[{name}] started")).collect();
        expect_order(&said, &order.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(ask(port).ends_with("well"));
        before = after;
    }
    let said = up.folder.read("err").len();
    let end = up.shutdown().split_off(said);
    expect_order(&end, &["[web] exited", "[cache] exited", "[db] exited"]);
}
