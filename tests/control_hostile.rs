//! Tests `childminder up` against garbage, floods, and clients that read nothing or never leave.
//!
//! The one rule: no service is touched that no request has named.
#![cfg(feature = "cli")]

mod up_util;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use up_util::{Up, ask_on, connect, until};

const STATUS: &str = r#"{"version":1,"command":"status"}"#;

/// Two services that no request names, one that is named all the time, and two that crash.
const SERVICES: &str = "
[process.precious]
command = [\"sleep\", \"1000\"]
[process.asleep]
command = [\"sleep\", \"1000\"]
autostart = false
[process.toy]
command = [\"sleep\", \"1000\"]
[process.crash]
shell = \"echo crashing; sleep 0.02; exit 1\"
threshold = 0
[process.loud]
shell = \"seq 1 300; sleep 0.01\"
threshold = 0
stdout = { file = \"./loud.log\", max-size = \"20k\", keep = 2 }
";

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// A line that is no request, or a request that must be refused or does no harm.
    fn message(&mut self) -> Vec<u8> {
        match self.below(7) {
            0 => (0..self.below(200)).map(|_| self.below(256) as u8).collect(),
            1 => {
                let sound = r#"{"version":1,"command":"stop","names":["toy"]}"#.as_bytes();
                sound[..self.below(sound.len())].to_vec()
            }
            2 => self
                .pick(&["{}", "[]", "null", "\"stop\"", "1e999", "{\"version\":1}", "\0\0\0", "\u{feff}{}", "{\"a\":"])
                .into(),
            3 => self.pick(&["[", "{\"a\":", "\""]).repeat(self.below(3000)).into_bytes(),
            4 => {
                let mut object = json!({ "version": 1 });
                for _ in 0..self.below(5) {
                    let key = self.pick(&["version", "command", "names", "all", "wait", "signal", "follow", "x"]);
                    object[key] = match self.below(5) {
                        0 => json!(self.below(3)),
                        1 => json!([1, "*", null]),
                        2 => json!(self.pick(&["start", "stop", "restart", "status", "9", "halt"])),
                        3 => Value::Null,
                        _ => json!({ "names": ["*"] }),
                    };
                }
                // None of these commands may have an effect.
                object["names"] = json!({ "not": "a list" });
                object.to_string().into_bytes()
            }
            5 => {
                let command = self.pick(&["start", "stop", "restart", "signal"]);
                let name =
                    self.pick(&["nobody", "PRECIOUS", "precious ", "prec", "", "pre\\u0000cious", "../precious", "??"]);
                json!({ "version": 1, "command": command, "names": [name], "signal": "KILL" }).to_string().into_bytes()
            }
            _ => STATUS.into(),
        }
    }
}

/// Whether this answers a request or refuses it. Each line has an answer, as long as the connection
/// lasts.
fn is_answer(answer: &Value) -> bool {
    answer["version"] == 1 && (answer["ok"] == true || answer["error"].is_string())
}

#[test]
fn a_thousand_messages_and_twenty_clients_touch_nothing_else() {
    let up = Up::start(SERVICES);
    let precious = up.pid_of("precious");
    let socket = up.socket();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|number| {
                let (socket, over) = (&socket, &over);
                scope.spawn(move || {
                    let mut done = 0;
                    let mut stream = connect(socket);
                    while !over.load(Ordering::Relaxed) || done < 20 {
                        let command = ["status", "start", "stop", "restart", "logs"][(done + number) % 5];
                        let request = json!({ "version": 1, "command": command, "names": ["toy"], "wait": 30 });
                        // The lines of a log come before its answer. A toy writes none.
                        let answer = ask_on(&stream, &request.to_string()).expect("an answer");
                        assert!(is_answer(&answer), "{answer}");
                        done += 1;
                        if done % 10 == 0 {
                            stream = connect(socket);
                        }
                    }
                })
            })
            .collect();

        let mut random = Random(7);
        let mut stream = connect(&socket);
        for number in 0..1000 {
            let mut message = random.message();
            message.retain(|byte| *byte != b'\n');
            if message.trim_ascii().is_empty() {
                message = b"?".to_vec();
            }
            message.push(b'\n');
            stream.write_all(&message).unwrap();
            let mut answer = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                answer.push(byte[0]);
            }
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert!(is_answer(&answer), "{answer}");
            if number % 50 == 0 {
                // The client sends half a line and disconnects.
                stream.write_all(b"{\"version\":1,\"command\":\"sto").unwrap();
                stream = connect(&socket);
            }
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    assert_eq!(up.pid_of("precious"), precious);
    assert_eq!(up.status("precious")["restarts"], 0);
    let asleep = up.status("asleep");
    assert!(asleep["state"] == "stopped" && asleep["last_exit"].is_null(), "{asleep}");
    until("restarts of what crashes", || (up.status("crash")["restarts"].as_u64() > Some(5)).then_some(()));
    until("two old files", || up.folder.join("loud.log.2").exists().then_some(()));
    assert!(!up.folder.join("loud.log.3").exists());
    let err = up.shutdown();
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn a_line_of_a_megabyte_is_refused_and_the_next_one_answered() {
    let up = Up::start(SERVICES);
    let mut stream = connect(&up.socket());
    stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
    let refusal = ask_on(&stream, "").unwrap();
    assert_eq!(refusal["error"], "a request is at most 65536 bytes");
    assert!(is_answer(&ask_on(&stream, STATUS).unwrap()));
    // Many requests at once are answered one by one and in order.
    let batch = format!("{STATUS}\n{{}}\n").repeat(200);
    stream.write_all(batch.as_bytes()).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&stream));
    for number in 0..400 {
        let answer: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(answer["ok"], number % 2 == 0);
    }
}

#[test]
fn a_refusal_quotes_no_control_characters() {
    let up = Up::start(SERVICES);
    let stream = connect(&up.socket());
    for (request, error) in [
        (
            json!({ "version": 1, "command": "stop", "names": ["to\u{1b}y"] }),
            r"there is no process `to\x1by`; the nearest one is `toy`",
        ),
        (json!({ "version": 1, "command": "to\ry" }), r"unknown command `to\ry`"),
        (
            json!({ "version": 1, "command": "signal", "names": ["toy"], "signal": "\u{9b}" }),
            r"unknown signal `\u{9b}`",
        ),
    ] {
        assert_eq!(ask_on(&stream, &request.to_string()).unwrap()["error"], error);
    }
}

#[test]
fn idle_clients_make_room() {
    let up = Up::start(SERVICES);
    let idle: Vec<UnixStream> = (0..200).map(|_| connect(&up.socket())).collect();
    assert!(up.status("precious")["state"] == "running");
    let mut refused = 0;
    for mut stream in &idle {
        stream.set_nonblocking(true).unwrap();
        let mut buffer = [0; 200];
        refused += usize::from(stream.read(&mut buffer).is_ok_and(|count| {
            assert!(up_util::text(&buffer[..count]).contains("too many clients"));
            true
        }));
    }
    assert!(refused >= 200 - 64, "{refused}");
    // The descriptors of these clients are free again.
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap().count();
    assert!(fds() < 150, "{}", fds());
    drop(idle);
    until("all of them to be forgotten", || (fds() < 60).then_some(()));
}

#[test]
fn who_does_not_read_is_dropped_and_costs_little() {
    let up = Up::start(
        "[process.flood]\nshell = \"while [ ! -e go ]; do sleep 0.02; done; exec yes 0123456789012345678901234567890123456789\"\nstdout = { file = \"./flood.log\", max-size = \"100k\", keep = 1 }\ndirectory = \".\"\n",
    );
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", up.pid())).unwrap().count();
    let before = fds();
    // One client follows the logs and never reads, and one sends requests and never reads.
    let mut followers: Vec<UnixStream> = (0..5).map(|_| connect(&up.socket())).collect();
    for stream in &mut followers {
        stream.write_all(b"{\"version\":1,\"command\":\"logs\",\"follow\":true}\n").unwrap();
    }
    let mut asking = connect(&up.socket());
    asking.set_nonblocking(true).unwrap();
    while asking.write(format!("{STATUS}\n").as_bytes()).is_ok() {}
    // All of them are clients now.
    assert_eq!(up.status("flood")["state"], "running");
    up.folder.write("go", "");
    until("the flood to be rotated", || up.folder.join("flood.log.1").exists().then_some(()));
    // The file of the flood, and the client that asks. A follower that reads from now on would not
    // be dropped.
    until("the followers to be dropped", || (fds() <= before + 2).then_some(()));
    // The dropped connections end with a whole message, and nothing comes after it.
    for mut stream in followers {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(all.len() < 2 << 20, "{}", all.len());
    }
    assert_eq!(up.status("flood")["state"], "running");
    if up_util::needs_the_kernel("memory of its own processes alone") {
        assert!(resident() < 20_000, "{} kB", resident());
    }
}
