use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::*;

/// A console whose stdout is /dev/null.
fn console(reactor: &mut Reactor, err: impl Into<OwnedFd>) -> Console {
    let null = File::options().write(true).open("/dev/null").unwrap();
    Console::with(reactor, Output::of(null.into()).unwrap(), Output::of(err.into()).unwrap()).unwrap()
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer)
}

/// Writes this many messages within one turn. Returns the output that is expected in the end.
fn burst(console: &mut Console, count: usize) -> String {
    let message = |number: usize| format!("[a-process-with-a-long-name:{number}] terminating, SIGTERM sent");
    (0..count).for_each(|number| console.say(&message(number)));
    (0..count).map(|number| format!("childminder: {}\n", message(number))).collect()
}

#[test]
fn a_burst_of_messages_to_a_file_is_all_there() {
    let mut reactor = Reactor::new().unwrap();
    let folder = crate::guard::folder().join("console");
    fs::create_dir_all(&folder).unwrap();
    let mut console = console(&mut reactor, File::create(folder.join("err")).unwrap());
    let expected = burst(&mut console, 20_000);
    console.flush();
    assert!(fs::read_to_string(folder.join("err")).unwrap() == expected);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_burst_of_messages_to_a_reader_that_reads_is_all_there() {
    let mut reactor = Reactor::new().unwrap();
    let (mut reader, writer) = pipe();
    let mut console = console(&mut reactor, writer);
    let expected = burst(&mut console, 20_000);
    console.flush();
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let deadline = reactor.now() + Duration::from_secs(60);
    console.finish(&reactor, deadline);
    drop(console);
    drop(reactor);
    assert!(read.join().unwrap() == expected);
}

#[test]
fn messages_that_nobody_reads_are_counted() {
    let mut reactor = Reactor::new().unwrap();
    let (mut reader, writer) = pipe();
    let mut console = console(&mut reactor, writer);
    let line = "x".repeat(9_986);
    for _ in 0..2000 {
        console.say(&line);
    }
    console.flush();
    let mut buffer = vec![0; 1 << 20];
    let (mut text, mut last) = (String::new(), String::new());
    while !last.contains("lines were dropped") {
        let length = reader.read(&mut buffer).unwrap();
        text += std::str::from_utf8(&buffer[..length]).unwrap();
        last = text.lines().next_back().unwrap_or_default().to_owned();
        console.flush();
    }
    let (kept, lost) = (text.lines().count() - 1, last.strip_prefix("childminder: stderr: can be written again; "));
    let lost: usize = lost.unwrap().split_once(' ').unwrap().0.parse().unwrap();
    assert_eq!((kept + lost, text.ends_with(&format!("dropped: {lost} of our own\n"))), (2000, true), "{last}");
    assert!(kept > 1600, "16 MiB of them wait");
}
