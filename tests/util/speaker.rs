//! A program that tells its state on its `NOTIFY_SOCKET`. It is the test's own binary, which runs
//! the test `children::speaker` with a list of steps.
//!
//! The one rule: the kernel adds the credentials, and the program claims nothing about itself.

#![allow(unsafe_code)]
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use childminder::Command;

const STEPS: &str = "CHILDMINDER_TEST_STEPS";

/// The command that carries out the steps: see [`run`].
pub(crate) fn speaker(steps: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("its own path"));
    command.args(["--exact", "children::speaker", "-q"]).env(STEPS, steps.join("|")).notify(true);
    command
}

/// A shell's words that carry out the steps in another process of the shell's.
pub(crate) fn words(steps: &[&str]) -> String {
    let own = std::env::current_exe().expect("its own path");
    format!("env {STEPS}='{}' '{}' --exact children::speaker -q", steps.join("|"), own.display())
}

/// Carries out the steps, if this process was started for that.
pub(crate) fn run() {
    let Ok(steps) = std::env::var(STEPS) else { return };
    for step in steps.split('|') {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            // What stands between two lines of the message is a semicolon here.
            "say" => say(rest.replace(';', "\n").as_bytes(), 0),
            "long" => say(&vec![b'x'; rest.parse().expect("a number")], 0),
            "send" => say(b"STATUS=with descriptors", rest.parse().expect("a number")),
            "print" => print(rest),
            "barrier" => {
                let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
                send(&address(), b"BARRIER=1", &[writer]);
                assert_eq!(std::fs::File::from(reader).read(&mut [0]).expect("the answer"), 0);
                print("answered");
            }
            "wait" => drop(std::io::stdin().read_to_end(&mut Vec::new())),
            // Again and again, from one process.
            "repeat" => loop {
                say(rest.replace(';', "\n").as_bytes(), 0);
                std::thread::park_timeout(std::time::Duration::from_millis(50));
            },
            "stay" => loop {
                std::thread::park();
            },
            other => panic!("no step: {other}"),
        }
    }
    std::process::exit(0);
}

fn print(text: &str) {
    let mut stdout = std::io::stdout();
    stdout.write_all(format!("{text}\n").as_bytes()).expect("stdout");
    stdout.flush().expect("stdout");
}

fn address() -> String {
    std::env::var("NOTIFY_SOCKET").expect("the address")
}

fn say(text: &[u8], descriptors: usize) {
    let null = || std::fs::File::open("/dev/null").expect("/dev/null").into();
    send(&address(), text, &(0..descriptors).map(|_| null()).collect::<Vec<_>>());
}

/// Sends a message to an address in the form of `NOTIFY_SOCKET`.
#[track_caller]
pub(crate) fn send(address: &str, text: &[u8], descriptors: &[OwnedFd]) {
    let name = address.strip_prefix('@').expect("an abstract address");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect_addr(&SocketAddr::from_abstract_name(name).expect("a name")).expect("to connect");
    if descriptors.is_empty() {
        socket.send(text).expect("to send");
        return;
    }
    let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let bytes = size_of_val(&numbers[..]);
    let mut control = vec![0_u64; 64];
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    // SAFETY: a msghdr of zeros is valid.
    let mut header = unsafe { std::mem::zeroed::<libc::msghdr>() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    let room = unsafe { libc::CMSG_SPACE(bytes as u32) } as usize;
    assert!(room <= size_of_val(&control[..]));
    header.msg_controllen = room as _;
    // SAFETY: the header has a room for control messages.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: there is room for a header.
    let first = unsafe { &mut *first };
    first.cmsg_level = libc::SOL_SOCKET;
    first.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: CMSG_LEN only computes.
    first.cmsg_len = unsafe { libc::CMSG_LEN(bytes as u32) } as _;
    // SAFETY: the data follows the header.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: there is room for the numbers.
    unsafe { data.copy_from(numbers.as_ptr().cast(), bytes) };
    // SAFETY: the header leads to the text and to the control message, which are still there.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) };
    assert_eq!(sent, text.len() as isize, "{}", std::io::Error::last_os_error());
}
