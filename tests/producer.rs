//! Tests producers for a pipe to a child, with real programs.

mod util;

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use childminder::{
    AlreadyRegistered, Command, Consumer, Event, Exit, Feed, ProcessId, Producer, Reactor, ReadProducer, Stdio,
    WriteError,
};
use util::{COMBINATIONS, World, on_all_combinations};

/// Takes turns until `handler` returns `true`. Fails if that takes too long.
#[track_caller]
fn turn_until(reactor: &mut Reactor, mut handler: impl FnMut(&mut Reactor, &Event<'_>) -> bool) {
    let watchdog = reactor.call_later(Duration::from_secs(30));
    let mut done = false;
    while !done {
        reactor
            .turn(None, |reactor, event| {
                assert!(!matches!(event, Event::Timer(id) if id == watchdog), "nothing more happens");
                done |= handler(reactor, &event);
            })
            .unwrap();
    }
    reactor.cancel_timer(watchdog);
}

/// A child that copies its stdin, but only after it got a line on descriptor 3.
fn waiting_cat(reactor: &mut Reactor) -> ProcessId {
    let mut command = Command::new("sh");
    command.args(["-c", "read line <&3; exec cat"]).stdin(Stdio::piped()).fd(3, Stdio::writer());
    reactor.spawn_process(&command).unwrap()
}

fn let_go(reactor: &mut Reactor, process: ProcessId) {
    reactor.process(process).unwrap().write(3, b"\n").unwrap();
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn add(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn all(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, what: &str) -> usize {
        self.all().iter().filter(|said| **said == what).count()
    }
}

/// Writes its pieces one at a time, and logs the calls that it gets.
struct Scripted {
    log: Log,
    streaming: bool,
    pieces: Vec<Vec<u8>>,
}

impl Scripted {
    fn push(log: &Log) -> Self {
        Self { log: log.clone(), streaming: true, pieces: Vec::new() }
    }

    fn pull(log: &Log, pieces: &[&[u8]]) -> Self {
        let pieces = pieces.iter().rev().map(|piece| piece.to_vec()).collect();
        Self { log: log.clone(), streaming: false, pieces }
    }
}

impl Producer for Scripted {
    fn streaming(&self) -> bool {
        self.streaming
    }

    fn resume_producing(&mut self, consumer: &mut Consumer<'_>) {
        self.log.add("resume");
        match self.pieces.pop() {
            Some(piece) => {
                consumer.write(&piece).unwrap();
            }
            None if self.streaming => {}
            None => consumer.unregister_producer(),
        }
    }

    fn pause_producing(&mut self, _reactor: &mut Reactor) {
        self.log.add("pause");
    }

    fn stop_producing(&mut self, _reactor: &mut Reactor) {
        self.log.add("stop");
    }
}

on_all_combinations! {
    // Without stdin, a producer has no use.
    fn without_a_pipe_a_producer_is_stopped_at_once(world: &mut World) {
        let reactor = &mut world.reactor;
        let process = reactor.spawn_process(&Command::new("true")).unwrap();
        let log = Log::default();
        let mut feed = Feed::new(process, 0);
        feed.register_producer(reactor, Scripted::pull(&log, &[b"a"])).unwrap();
        assert_eq!(log.all(), ["stop"]);
        // It is not registered, so another producer can be.
        feed.register_producer(reactor, Scripted::push(&log)).unwrap();
        assert_eq!(log.all(), ["stop", "stop"]);
        turn_until(reactor, |reactor, event| {
            assert!(!feed.handle(reactor, event));
            matches!(event, Event::Ended { .. })
        });
        assert_eq!(log.all(), ["stop", "stop"]);
    }

    // There can be only one producer at a time.
    fn a_second_producer_is_refused(world: &mut World) {
        let reactor = &mut world.reactor;
        let process = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
        let (first, second) = (Log::default(), Log::default());
        let mut feed = Feed::new(process, 0);
        feed.register_producer(reactor, Scripted::push(&first)).unwrap();
        let refused = feed.register_producer(reactor, Scripted::push(&second));
        let _: AlreadyRegistered = refused.unwrap_err();
        assert!(feed.unregister_producer(reactor).is_some());
        feed.register_producer(reactor, Scripted::push(&second)).unwrap();
        feed.unregister_producer(reactor);
        reactor.process(process).unwrap().close_stdin();
        turn_until(reactor, |reactor, event| {
            feed.handle(reactor, event);
            matches!(event, Event::Ended { .. })
        });
        // Neither of them got a call.
        assert_eq!((first.all(), second.all()), (vec![], vec![]));
    }

    // A push producer is paused once, above the high-water mark, and resumed when all is written.
    fn a_push_producer_is_paused_once_and_resumed_when_drained(world: &mut World) {
        let reactor = &mut world.reactor;
        let process = waiting_cat(reactor);
        let log = Log::default();
        let mut feed = Feed::new(process, 0);
        feed.register_producer(reactor, Scripted::push(&log)).unwrap();
        assert_eq!(log.all(), [] as [&str; 0], "a push producer begins by itself");

        // The data fills the pipe first, and then exactly the room up to the mark.
        let mut sent = 0;
        while reactor.process(process).unwrap().pending(0) == Some(0) {
            assert!(feed.write(reactor, &[b'x'; 4096]).unwrap());
            sent += 4096;
        }
        let pending = reactor.process(process).unwrap().pending(0).unwrap();
        let rest = vec![b'x'; 64 * 1024 - pending];
        assert!(feed.write(reactor, &rest).unwrap(), "65536 bytes are not above the mark");
        assert_eq!(log.count("pause"), 0);
        for _ in 0..3 {
            assert!(!feed.write(reactor, b"x").unwrap());
        }
        assert_eq!(log.all(), ["pause"], "once, not at every write");
        sent += rest.len() + 3;

        let_go(reactor, process);
        let mut received = 0;
        turn_until(reactor, |reactor, event| {
            if feed.handle(reactor, event) {
                return false;
            }
            if let Event::Data { data, .. } = event {
                received += data.len();
            }
            received == sent && log.count("resume") == 1
        });
        assert_eq!(log.all(), ["pause", "resume"]);
        feed.close(reactor);
        assert!(feed.write(reactor, b"y").is_ok(), "closed only when the producer is gone");
        feed.unregister_producer(reactor);
        assert!(matches!(feed.write(reactor, b"z"), Err(WriteError::NoPipe { .. } | WriteError::Closing { .. })));
        turn_until(reactor, |reactor, event| {
            feed.handle(reactor, event);
            if let Event::Data { data, .. } = event {
                received += data.len();
            }
            matches!(event, Event::Ended { .. })
        });
        assert_eq!(received, sent + 1);
    }

    // A pull producer is resumed at once, and again whenever all is written, also far below the
    // high-water mark.
    fn a_pull_producer_is_resumed_at_each_drain(world: &mut World) {
        let reactor = &mut world.reactor;
        let process = waiting_cat(reactor);
        let log = Log::default();
        let mut feed = Feed::new(process, 0);
        // This is more than the pipe takes, but less than the mark above that.
        let block = vec![b'x'; 100_000];
        feed.register_producer(reactor, Scripted::pull(&log, &[&block, &block, b"end"])).unwrap();
        assert_eq!(log.all(), ["resume"]);
        let pending = reactor.process(process).unwrap().pending(0).unwrap();
        assert!(pending > 0 && pending < 64 * 1024, "{pending}");
        // The close waits for the data.
        feed.close(reactor);
        let_go(reactor, process);
        let mut received = Vec::new();
        turn_until(reactor, |reactor, event| {
            feed.handle(reactor, event);
            if let Event::Data { data, .. } = event {
                received.extend_from_slice(data);
            }
            matches!(event, Event::Ended { .. })
        });
        assert_eq!(log.all(), ["resume"; 4]);
        assert_eq!(received.len(), 200_003);
        assert!(received.ends_with(b"end"));
    }

    // The child closes its end.
    fn a_child_that_closes_its_stdin_stops_the_producer_once(world: &mut World) {
        for streaming in [true, false] {
            let reactor = &mut world.reactor;
            let mut command = Command::new("sh");
            command.args(["-c", "exec 0<&-; echo closed; read line <&3"]).stdin(Stdio::piped()).fd(3, Stdio::writer());
            let process = reactor.spawn_process(&command).unwrap();
            let log = Log::default();
            let mut feed = Feed::new(process, 0);
            let endless = vec![b'x'; 1 << 20];
            let mut producer = Scripted::pull(&log, &[&endless, &endless]);
            producer.streaming = streaming;
            feed.register_producer(reactor, producer).unwrap();
            let mut lost = None;
            turn_until(reactor, |reactor, event| {
                feed.handle(reactor, event);
                if let Event::FdClosed { fd: 0, lost: bytes, .. } = event {
                    lost = Some(*bytes);
                    assert_eq!(log.count("stop"), 1);
                    let_go(reactor, process);
                }
                matches!(event, Event::Ended { .. })
            });
            assert_eq!(log.count("stop"), 1, "{:?}", log.all());
            assert_eq!(lost.unwrap() > 0, !streaming);
            assert_eq!(feed.write(reactor, b"x"), Err(WriteError::NoPipe { fd: 0 }));
        }
    }
}

/// A pull producer that has no data at first.
struct Hesitant(Log);

impl Producer for Hesitant {
    fn resume_producing(&mut self, consumer: &mut Consumer<'_>) {
        self.0.add("resume");
        if self.0.count("resume") > 1 {
            consumer.close();
            consumer.unregister_producer();
        }
    }

    fn stop_producing(&mut self, _reactor: &mut Reactor) {
        self.0.add("stop");
    }
}

on_all_combinations! {
    fn a_pull_producer_without_data_is_not_asked_over_and_over(world: &mut World) {
        let reactor = &mut world.reactor;
        let process = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
        let log = Log::default();
        let mut feed = Feed::new(process, 0);
        feed.register_producer(reactor, Hesitant(log.clone())).unwrap();
        let timer = reactor.call_later(Duration::from_millis(30));
        turn_until(reactor, |reactor, event| {
            feed.handle(reactor, event);
            matches!(event, Event::Timer(id) if *id == timer)
        });
        assert_eq!(log.all(), ["resume"]);
        feed.write(reactor, b"from the host").unwrap();
        turn_until(reactor, |reactor, event| {
            feed.handle(reactor, event);
            matches!(event, Event::Ended { .. })
        });
        assert_eq!(log.all(), ["resume", "resume"]);
    }
}

/// Feeds `source` to `sh -c script`. Returns its output, its exit, the greatest number of waiting
/// bytes, and the error of the source.
fn feed_to<R: Read>(world: &mut World, source: R, script: &str) -> (Vec<u8>, Exit, usize, Option<io::Error>) {
    let reactor = &mut world.reactor;
    let process = reactor.spawn_process(Command::new("sh").args(["-c", script]).stdin(Stdio::piped())).unwrap();
    let mut feed = Feed::new(process, 0);
    feed.register_producer(reactor, ReadProducer::new(source)).unwrap();
    let (mut received, mut exit, mut most) = (Vec::new(), None, 0);
    turn_until(reactor, |reactor, event| {
        feed.handle(reactor, event);
        most = most.max(reactor.process(process).and_then(|mut process| process.pending(0)).unwrap_or(0));
        match event {
            Event::Data { data, .. } => received.extend_from_slice(data),
            Event::Ended { exit: how, .. } => exit = Some(**how),
            _ => {}
        }
        exit.is_some()
    });
    (received, exit.unwrap(), most, feed.producer_mut().unwrap().take_error())
}

on_all_combinations! {
    fn a_large_source_reaches_a_slow_child_in_bounded_memory(world: &mut World) {
        let source = io::repeat(b'x').take(20_000_000);
        let (received, exit, most, error) = feed_to(world, source, "dd bs=512 count=2000 >/dev/null 2>&1; wc -c");
        let received: u64 = String::from_utf8(received).unwrap().trim().parse().unwrap();
        assert!(received > 18_000_000, "{received}");
        assert!(exit.success() && error.is_none());
        assert!(most <= 64 * 1024, "{most}");
    }

    fn an_empty_source_is_an_end_of_file(world: &mut World) {
        let (received, exit, ..) = feed_to(world, io::empty(), "cat; echo done");
        assert_eq!(received, b"done\n");
        assert!(exit.success());
    }
}

struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += 1;
        match self.0 {
            1 => Err(io::ErrorKind::Interrupted.into()),
            2 => {
                buffer[..4].copy_from_slice(b"some");
                Ok(4)
            }
            _ => Err(io::Error::other("the disk is gone")),
        }
    }
}

on_all_combinations! {
    fn a_read_error_ends_the_input_and_is_kept(world: &mut World) {
        let (received, exit, _, error) = feed_to(world, Failing(0), "cat");
        assert_eq!(received, b"some");
        assert!(exit.success());
        assert_eq!(error.unwrap().to_string(), "the disk is gone");
    }

    fn a_child_that_takes_all_does_not_starve_the_others(world: &mut World) {
        let reactor = &mut world.reactor;
        let swallow =
            reactor.spawn_process(Command::new("sh").args(["-c", "exec cat >/dev/null"]).stdin(Stdio::piped())).unwrap();
        let mut feed = Feed::new(swallow, 0);
        feed.register_producer(reactor, ReadProducer::new(io::repeat(0))).unwrap();
        let quiet = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
        reactor.process(quiet).unwrap().write(0, b"ping").unwrap();
        let mut pongs = 0;
        turn_until(reactor, |reactor, event| {
            if feed.handle(reactor, event) {
                return false;
            }
            match event {
                Event::Data { process, .. } if *process == quiet => {
                    pongs += 1;
                    reactor.process(quiet).unwrap().write(0, b"ping").unwrap();
                }
                _ => {}
            }
            pongs == 50
        });
        for process in [swallow, quiet] {
            reactor.process(process).unwrap().kill_group().unwrap();
        }
        let mut left = 2;
        turn_until(reactor, |reactor, event| {
            feed.handle(reactor, event);
            left -= i32::from(matches!(event, Event::Ended { .. }));
            left == 0
        });
    }

    // The last byte, the end of file and the pause come in one turn.
    fn an_end_of_file_behind_the_last_byte_is_seen_while_paused(world: &mut World) {
        let reactor = &mut world.reactor;
        let command = Command::new("echo");
        let process = reactor.spawn_process(&command).unwrap();
        turn_until(reactor, |reactor, event| {
            if let Event::Data { .. } = event {
                reactor.process(process).unwrap().pause_all();
            }
            matches!(event, Event::Ended { .. })
        });
    }
}
