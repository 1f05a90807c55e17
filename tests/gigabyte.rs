//! Sends one gigabyte through `cat` and back. It comes back unchanged, and only a small part is in
//! memory at a time.
//!
//! The test has its own process, because the kernel counts the peak memory of a process. Every byte
//! is compared with a pattern in which no two blocks are alike.

#[path = "util/guard.rs"]
mod guard;
#[path = "util/left_out.rs"]
mod left_out;

use std::io::{self, Read};
use std::time::Duration;

use childminder::{Command, Event, Feed, Reactor, ReadProducer, Stdio};

const TOTAL: u64 = 1 << 30;
const BLOCK: usize = 64 * 1024;
const LIMIT_KIB: u64 = 8 * 1024;

/// The bytes of all blocks, one after the other.
struct Pattern {
    block: Vec<u8>,
    offset: u64,
}

impl Pattern {
    fn new() -> Self {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut noise = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        };
        Self { block: (0..BLOCK / 8).flat_map(|_| noise()).collect(), offset: 0 }
    }

    /// The next bytes, at most `len`, up to the end of a block. Each block starts with its number.
    fn next(&mut self, len: usize) -> &[u8] {
        let at = (self.offset % BLOCK as u64) as usize;
        let len = len.min(BLOCK - at).min((TOTAL - self.offset) as usize);
        self.block[..8].copy_from_slice(&(self.offset / BLOCK as u64).to_le_bytes());
        self.offset += len as u64;
        &self.block[at..at + len]
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The length is odd, so that blocks and reads do not go in step.
        let piece = self.next(buffer.len().min(60_001));
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_gigabyte_goes_through_cat_and_back() {
    let mut reactor = Reactor::new().unwrap();
    let watchdog = reactor.call_later(Duration::from_secs(120));
    let cat = reactor.spawn_process(Command::new("cat").stdin(Stdio::piped())).unwrap();
    let mut feed = Feed::new(cat, 0);
    feed.register_producer(&mut reactor, ReadProducer::new(Pattern::new())).unwrap();

    let mut expected = Pattern::new();
    let mut most_pending = 0;
    let mut exit = None;
    while exit.is_none() {
        reactor
            .turn(None, |reactor, event| {
                assert!(
                    !matches!(event, Event::Timer(id) if id == watchdog),
                    "only {} bytes came back",
                    expected.offset
                );
                feed.handle(reactor, &event);
                match event {
                    Event::Data { mut data, .. } => {
                        while !data.is_empty() {
                            let at = expected.offset;
                            let piece = expected.next(data.len());
                            assert!(!piece.is_empty(), "more came back than went in");
                            assert!(&data[..piece.len()] == piece, "something else came back from {at} on");
                            data = &data[piece.len()..];
                        }
                    }
                    Event::Ended { exit: how, .. } => exit = Some(*how),
                    _ => {}
                }
                let pending = reactor.process(cat).and_then(|mut cat| cat.pending(0));
                most_pending = most_pending.max(pending.unwrap_or(0));
            })
            .unwrap();
    }

    assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");
    assert!(feed.producer_mut().unwrap().take_error().is_none());
    assert_eq!(expected.offset, TOTAL);
    assert!(most_pending <= BLOCK, "{most_pending} bytes were waiting");
    if cfg!(target_os = "linux") && left_out::needs_the_kernel("memory of its own processes alone") {
        let peak = peak_kib();
        println!("{:?}, peak {peak} KiB", exit.unwrap().wall_time);
        assert!(peak < LIMIT_KIB, "{peak} KiB");
    }
}
