//! Tests `childminder up` as a user sees it: real programs from one file, the destinations of their
//! output, reload, shutdown, and the costs.
#![cfg(feature = "cli")]

mod up_util;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use up_util::{Folder, PROGRAM, Up, is_alive, kill, left_out, now, on_a_terminal, text, until};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The answer of a server to a request. `None` if there is none.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).ok()?;
    Some(text(&buffer[..count]))
}

#[test]
fn nginx_and_redis_from_one_file() {
    let program = |name: &str| {
        ["/usr/sbin", "/usr/bin"].into_iter().map(|dir| format!("{dir}/{name}")).find(|path| Path::new(path).exists())
    };
    let (Some(nginx), Some(redis)) = (program("nginx"), program("redis-server")) else {
        left_out("nginx and redis-server are not installed");
        return;
    };
    let folder = Folder::new();
    // If this test runs as root, the workers of nginx run as nobody.
    fs::set_permissions(&folder.0, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir(folder.join("www")).unwrap();
    folder.write("www/index.html", "served\n");
    let (web, redis_port) = (free_port(), free_port());
    let here = folder.0.display().to_string();
    folder.write(
        "nginx.conf",
        &format!(
            "pid {here}/nginx.pid;\nerror_log stderr;\nevents {{ }}\nhttp {{ access_log off;\nclient_body_temp_path {here}/t1; proxy_temp_path {here}/t2; fastcgi_temp_path {here}/t3; uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5;\nserver {{ listen 127.0.0.1:{web}; root {here}/www; }} }}\n"
        ),
    );
    let file = |level: &str| {
        format!(
            "[process.nginx]\ncommand = [\"{nginx}\", \"-c\", \"{here}/nginx.conf\", \"-g\", \"daemon off;\"]\nstop-signal = \"QUIT\"\n\
             [process.redis]\ncommand = [\"{redis}\", \"--port\", \"{redis_port}\", \"--save\", \"\", \"--unixsocket\", \"{here}/redis.sock\", \"--loglevel\", \"{level}\"]\ndirectory = \"{here}\"\nstdout = \"./redis.log\"\n"
        )
    };
    let up = Up::start_in(folder, &file("notice"));
    let serves = || ask(web, "GET / HTTP/1.0\r\n\r\n").filter(|page| page.ends_with("served\n")).map(drop);
    let pongs = || ask(redis_port, "PING\r\n").filter(|answer| answer == "+PONG\r\n").map(drop);
    until("nginx to serve", serves);
    until("redis to answer", pongs);

    for name in ["nginx", "redis"] {
        let pid = up.pid_of(name);
        kill(pid, Signal::KILL);
        until("another process", || up.status(name)["pid"].as_i64().filter(|new| *new != i64::from(pid)));
    }
    until("nginx to serve again", serves);
    until("redis to answer again", pongs);

    let before = [up.pid_of("nginx"), up.pid_of("redis")];
    up.write_file(&file("warning"));
    assert_eq!(up.ok(&["reload", "--wait"]), "restarted redis\n");
    let after = [up.pid_of("nginx"), up.pid_of("redis")];
    assert!(before[0] == after[0] && before[1] != after[1], "{before:?} {after:?}");
    until("redis to answer as before", pongs);
    serves().unwrap();

    assert!(up.folder.join("redis.sock").exists());
    up.ok(&["shutdown", "--wait"]);
    let left = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            text(&line).contains(&here)
        })
    };
    until("nothing of theirs", || (!left()).then_some(()));
    for gone in ["redis.sock", "nginx.pid", "s"] {
        assert!(!up.folder.join(gone).exists(), "{gone}");
    }
    assert!(TcpStream::connect(("127.0.0.1", web)).is_err());
}

#[test]
fn a_hundred_idle_services_cost_next_to_nothing() {
    if !up_util::needs_the_kernel("threads and memory of its program alone") {
        return;
    }
    // In a group, so that an answer does not give each process the reason why it is in no cgroup. The
    // reason differs from user to user, and the memory of the longest answer stays.
    let up = Up::start("[process.idle]\ncommand = [\"sleep\", \"1000\"]\ninstances = 100\ncontain = \"group\"\n");
    let running = up.statuses().iter().filter(|status| status["state"] == "running").count();
    assert_eq!(running, 100);
    let pid = up.pid();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1, "one thread");
    let child_of =
        |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
    let children = fs::read_dir("/proc").unwrap().flatten();
    let stats = children.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let stats = stats.filter(|stat| !stat.contains(" (child-guard) "));
    assert_eq!(stats.filter_map(child_of).filter(|parent| *parent == pid).count(), 100, "one process, and the guard");

    // The connection of the last command has to be gone before the measurement.
    let switches =
        || read("status").lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>();
    until("the last client to be forgotten", || {
        (fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() < 330).then_some(())
    });
    let mut before = switches();
    until("it to be asleep", || {
        let now = switches();
        let asleep = now == before;
        before = now;
        asleep.then_some(())
    });
    let start = now();
    while start.elapsed() < Duration::from_secs(20) {
        // Time has to pass, because the measurement shows that nothing happens in it.
        std::thread::park_timeout(Duration::from_secs(1));
    }
    assert_eq!(switches(), before, "no wake-up in 20 s");
    // Of what is mapped, a program's and a library's own data is left out: its size depends on how
    // the program was built, and its share on other programs.
    let (mut own, mut is_own) = (0, false);
    for line in read("smaps").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, _, _, _, _] => is_own = true,
            [_, _, _, _, _, path, ..] if line.contains('-') => is_own = path.starts_with('['),
            ["Anonymous:", size, "kB"] if is_own => own += size.parse::<u64>().unwrap(),
            _ => {}
        }
    }
    eprintln!("100 idle services: {own} kB");
    assert!(own > 0 && own <= 380, "{own} kB");
}

#[test]
fn ten_errors_are_ten_located_messages() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsoket = \"s\"\nkill-time = \"5 parsecs\"\n[process.a]\ncommand = []\n[process.b]\ncommand = [\"true\"]\nuser = \"no-such-user\"\nstderr = \"/tmp/\"\n\
         autostart = \"yes\"\nrestart = \"sometimes\"\n[process.c]\nstdout = \"prefix\"\n[process.d]\ncommand = [\"true\"]\ncomand = [\"true\"]\ninstances = 0\n",
    );
    for command in ["check", "up"] {
        let output = Command::new(PROGRAM).arg(command).current_dir(&folder.0).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stdout), "");
        let said = text(&output.stderr);
        let located = |line: &str| {
            let mut parts = line.strip_prefix("childminder.toml:")?.splitn(3, ':');
            let place = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
            Some((place, parts.next()?.to_owned()))
        };
        assert_eq!(said.lines().filter_map(located).count(), said.lines().count(), "{said}");
        assert_eq!(said.lines().count(), 10, "{said}");
        assert!(said.contains("`socket`") && said.contains("`command`"), "the nearest known key: {said}");
    }
    let output = Command::new(PROGRAM).args(["check", "--config", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

const THREE: &str = "
[process.a]
command = [\"sleep\", \"1000\"]
[process.b]
command = [\"sleep\", \"1001\"]
kill-time = \"5s\"
[process.c]
command = [\"sleep\", \"1002\"]
";

#[test]
fn a_reload_touches_only_what_changed() {
    let up = Up::start(THREE);
    let pids = |up: &Up| ["a", "b", "c"].map(|name| up.status(name)["pid"].as_i64());
    let before = pids(&up);
    assert_eq!(up.ok(&["reload", "--wait"]), "");
    assert_eq!(pids(&up), before);

    // The policy does not cause a restart. Removed, added and changed processes are each handled.
    up.write_file("[process.d]\ncommand = [\"sleep\", \"1003\"]\n[process.a]\ncommand = [\"sleep\", \"1000\"]\nenvironment = { NEW = \"1\" }\n[process.b]\ncommand = [\"sleep\", \"1001\"]\nkill-time = \"7s\"\n");
    assert_eq!(up.ok(&["reload", "--wait"]), "added d\nremoved c\nrestarted a\nupdated b\n");
    let after = pids(&up);
    assert!(after[0].is_some() && after[0] != before[0] && after[1] == before[1] && after[2].is_none(), "{after:?}");
    assert!(!is_alive(before[2].unwrap() as i32));
    let names: Vec<_> = up.statuses().iter().map(|status| status["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["d", "a", "b"], "in the order of the file");

    // A stopped process stays stopped, with its new settings.
    up.ok(&["stop", "d", "--wait"]);
    up.write_file("[process.d]\ncommand = [\"sleep\", \"2003\"]\n[process.a]\ncommand = [\"sleep\", \"1000\"]\nenvironment = { NEW = \"1\" }\n[process.b]\ncommand = [\"sleep\", \"1001\"]\nkill-time = \"7s\"\n");
    up.signal(Signal::HUP);
    up.until_read("err", "reloaded: restarted d");
    assert_eq!(up.status("d")["state"], "stopped");

    let before = pids(&up);
    up.write_file("[process.a]\ncommand = []\nkil-time = 3\n");
    let (code, said) = up.fails(&["reload"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("nothing is changed")
            && said.contains("childminder.toml:5:")
            && said.contains("childminder.toml:6:")
            && said.lines().count() == 3,
        "{said}"
    );
    up.signal(Signal::HUP);
    up.until_read("err", "not reloaded:");
    assert_eq!(pids(&up), before);
    up.shutdown();
}

#[test]
fn a_signal_stops_all_and_a_second_one_kills() {
    let mut up = Up::start(THREE);
    let pids = ["a", "b", "c"].map(|name| up.pid_of(name));
    up.signal(Signal::INT);
    assert_eq!(up.wait().code(), Some(0));
    assert!(!pids.into_iter().any(is_alive) && !up.socket().exists());

    let mut up = Up::start(
        "[process.stubborn]\nshell = \"trap '' TERM; echo ready; while :; do sleep 0.05; done\"\nkill-time = \"1h\"\n",
    );
    up.until_read("out", "[stubborn] ready");
    let pid = up.pid_of("stubborn");
    up.signal(Signal::TERM);
    up.until_state("stubborn", "stopping");
    let (code, said) = up.fails(&["start", "stubborn"]);
    assert_eq!((code, &*said), (1, "childminder: shutting down\n"));
    // It comes too late to count as the second half of the first signal.
    until("the end of the supervisor", || {
        up.signal(Signal::TERM);
        up.child.try_wait().unwrap()
    });
    assert_eq!(up.wait().code(), Some(0));
    assert!(!is_alive(pid));

    let up = Up::start(
        "[process.stubborn]\nshell = \"trap '' TERM; echo ready; while :; do sleep 0.05; done\"\nkill-time = \"1h\"\n",
    );
    up.until_read("out", "[stubborn] ready");
    let (code, said) = up.fails(&["shutdown", "--wait", "--timeout", "100ms"]);
    assert_eq!((code, &*said), (1, "childminder: not down within 0.1 s\n"));
    up.shutdown();
}

#[test]
fn output_goes_where_the_file_says() {
    let up = Up::start(
        "[process.n]\nshell = \"echo out {instance} $N; echo err {instance} >&2; exec sleep 1000\"\ninstances = 2\nenvironment = { N = \"<{instance}>\" }\n\
         [process.file]\nshell = \"seq 1 1000; echo end; exec sleep 1000\"\nstdout = { file = \"./file.log\", max-size = \"1k\", keep = 2 }\n\
         [process.direct]\nshell = \"echo direct; echo too >&2; exec sleep 1000\"\nstdout = { file = \"./direct.log\", direct = true }\nstderr = \"null\"\n\
         [process.inherit]\nshell = \"echo as it is; exec sleep 1000\"\nstdout = \"inherit\"\n",
    );
    for line in ["[n:1] out 1 <1>\n", "[n:2] out 2 <2>\n", "\nas it is\n"] {
        // The newline in front makes the first line look like the others.
        until(line, || format!("\n{}", up.folder.read("out")).contains(line).then_some(()));
    }
    up.until_read("err", "[n:2] err 2\n");
    up.until_read("file.log", "end\n");
    up.until_read("direct.log", "direct\n");
    let rotated = [up.folder.read("file.log.2"), up.folder.read("file.log.1"), up.folder.read("file.log")];
    assert!(rotated.iter().all(|file| file.len() <= 1024));
    let joined = rotated.concat();
    let numbers: Vec<u32> = joined.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.last() == Some(&1000), "{joined}");
    assert!(!up.folder.join("file.log.3").exists());
    assert!(!up.folder.read("err").contains("too\n"));
    up.shutdown();
}

#[test]
fn a_vanished_folder_stops_nothing_and_is_told_once() {
    let folder = Folder::new();
    fs::create_dir(folder.join("logs")).unwrap();
    let up = Up::start_in(
        folder,
        "[process.a]\nshell = \"while :; do echo line; sleep 0.05; done\"\nstdout = \"./logs/a.log\"\n",
    );
    let pid = up.pid_of("a");
    up.until_read("logs/a.log", "line\n");
    fs::remove_dir_all(up.folder.join("logs")).unwrap();
    up.until_read("err", "lines wait until it can be written");
    fs::create_dir(up.folder.join("logs")).unwrap();
    let err = up.until_read("err", "can be written again; ");
    assert_eq!(err.matches("lines wait until").count(), 1, "{err}");
    up.until_read("logs/a.log", "line\n");
    assert_eq!(up.pid_of("a"), pid);
}

#[test]
fn a_log_at_its_size_limit_stops_nothing() {
    let mut up = Up::start(
        "[process.a]\nshell = \"while [ ! -e go ]; do sleep 0.02; done; seq 1000; echo said >&2; exec sleep 1000\"\n\
         directory = \".\"\nstdout = \"./a.log\"\nstderr = \"./err.log\"\n",
    );
    let limit = Rlimit { current: Some(1024), maximum: None };
    rustix::process::prlimit(Pid::from_raw(up.pid()), Resource::Fsize, limit).unwrap();
    up.folder.write("go", "");
    up.until_read("err.log", "said\n");
    up.until_read("err", "lines wait until it can be written");
    assert_eq!(up.folder.read("a.log").len(), 1024);
    assert!(up.child.try_wait().unwrap().is_none());
    up.until_state("a", "running");
}

#[test]
fn who_reads_nothing_makes_only_those_wait_that_write_to_it() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.loud]\ncommand = [\"yes\", \"0123456789\"]\n[process.filed]\nshell = \"while :; do echo line; sleep 0.05; done\"\nstdout = \"./filed.log\"\n",
    );
    let mut command = Command::new(PROGRAM);
    command.arg("up").current_dir(&folder.0).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let mut up = Up { folder, child };
    up.wait_for_socket();
    let cpu = || up.status("loud")["cpu"].as_f64().unwrap();
    // `yes` uses its processor as long as its output is read.
    let (mut last, mut same) = (-1.0, 0);
    until("loud to wait", || {
        let now = cpu();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same > 10).then_some(())
    });
    let written = up.folder.read("filed.log").len();
    until("filed to go on", || (up.folder.read("filed.log").len() > written).then_some(()));
    let pid = up.pid_of("loud");
    up.ok(&["restart", "loud", "--wait"]);
    assert_ne!(up.pid_of("loud"), pid);
    drop(up.child.stdout.take());
    let after = up.folder.read("filed.log").len();
    until("filed to go on without a reader", || (up.folder.read("filed.log").len() > after).then_some(()));
    up.shutdown();
}

#[test]
fn a_terminal_has_colours_progress_and_a_screen() {
    let folder = Folder::new();
    let processes = "[process.web]\nshell = \"echo hello; exec sleep 1000\"\n[process.idle]\ncommand = [\"sleep\", \"1000\"]\ninstances = 30\n";
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{processes}"));
    let drawn = on_a_terminal(&folder.0, &["up"], &["\x1b[36m[web]\x1b[0m hello\r\n"]);
    for part in
        ["childminder: starting, 30 of 31", "\r\x1b[K", "childminder: started 31 of 31\r\n", "childminder: stopping, "]
    {
        assert!(drawn.contains(part), "{part:?} in {drawn}");
    }

    let up = Up::start_in(folder, processes);
    let drawn = on_a_terminal(&up.folder.0, &["status", "--watch"], &["\x1b[H", "… and 10 more"]);
    let screen = drawn.split("\x1b[H").find(|screen| screen.contains("idle:20")).unwrap();
    let screen =
        ["\x1b[J", "\x1b[K", "\x1b[32m", "\x1b[0m"].iter().fold(screen.to_owned(), |it, code| it.replace(code, ""));
    let lines: Vec<&str> = screen.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[0].ends_with("PEAK"), "{screen}");
    assert!(lines[1].starts_with("web      running"), "{screen}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80) && lines.len() <= 24, "{screen}");
    let plain = up.ok(&["status", "web"]);
    assert!(!plain.contains('\x1b') && plain.lines().count() == 2, "{plain}");
}

#[test]
fn a_file_without_a_limit_is_never_rotated() {
    // This is more than the default limit.
    let up = Up::start(
        "[process.a]\nshell = \"yes 0123456789 | head -n 1200000; exec sleep 1000\"\nstdout = { file = \"./log\", max-size = \"unlimited\" }\n",
    );
    let log = up.folder.join("log");
    until("all of it", || fs::metadata(&log).ok().filter(|log| log.len() == 13_200_000));
    assert!(!up.folder.join("log.1").exists());
    up.shutdown();
}
