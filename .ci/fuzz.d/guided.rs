//! What the guided parts of the fuzzer call: the parsers themselves, each against a plain model or
//! against itself.
//!
//! This file becomes a module of a copy of the sources, in which everything is visible, and which
//! is built with coverage. Each function takes bytes, and panics if something is wrong.

use std::path::Path;
use std::time::Duration;

use crate::cli::config::{Scope, read, render::Values};
use crate::cli::control::glob;
use crate::cli::control::protocol::Request;
use crate::lines::{Escaped, LineBuffer};

/// No message brings characters that a terminal obeys, or more lines than it has findings.
fn check_message(message: &str) {
    assert!(!message.chars().any(|char| char.is_control() && char != '\t'), "a control character in {message:?}");
}

/// The configuration: mistakes have their place, and what is accepted reads back as the same from
/// what it comes to.
pub fn file(data: &[u8]) {
    let name = Path::new("the-file");
    // The machine is looked at now and then only, as that takes longer than all the rest.
    let scope = if data.len() % 16 == 0 { Scope::Machine } else { Scope::Text };
    let config = match read::config(name, Path::new("/nowhere"), data, scope) {
        Ok((config, _)) => config,
        Err(findings) => {
            let lines = data.split(|byte| *byte == b'\n').count();
            let said = findings.to_string();
            assert!(!said.is_empty(), "refused without a reason");
            for finding in said.split('\n') {
                check_message(finding);
                let mut place = finding.strip_prefix("the-file:").expect("the file's name").splitn(3, ':');
                let mut number = || place.next().and_then(|number| number.parse::<usize>().ok());
                let line = number().expect("a line");
                assert!((1..=lines).contains(&line) && number().is_some_and(|column| column > 0), "{finding}");
            }
            return;
        }
    };
    if config.processes().count() > 100 {
        return;
    }
    let text = config.effective(Values::Shown);
    let again = read::config(name, Path::new("/elsewhere"), text.as_bytes(), Scope::Text);
    let (again, _) = again.unwrap_or_else(|findings| panic!("does not read back: {findings}\n{text}"));
    assert!(config.processes().eq(again.processes()), "reads back as something else:\n{text}");
    assert_eq!((config.socket.as_ref(), &text), (again.socket.as_ref(), &again.effective(Values::Shown)));
}

/// Requests: what is accepted reads back as the same from what the client would send, what is
/// refused says why in short.
pub fn requests(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        let request = match Request::parse(line) {
            Ok(request) => request,
            Err(error) => {
                check_message(&error);
                assert!(!error.is_empty() && error.len() < 500, "{error}");
                continue;
            }
        };
        let mut again = Request::parse(&request.to_line()).expect("it was accepted before");
        // Seconds are written with a fraction, and that not to the last nanosecond.
        let difference = request.wait.unwrap_or_default().abs_diff(again.wait.unwrap_or_default());
        assert!(difference < Duration::from_micros(1) && request.wait.is_some() == again.wait.is_some());
        again.wait = request.wait;
        assert_eq!(request, again);
        for pair in request.names.windows(2) {
            let [pattern, name] = [&pair[0], &pair[1]].map(|text| text.as_bytes());
            if pattern.len() * name.len() <= 200 {
                assert_eq!(glob::matches(&pair[0], &pair[1]), fits(pattern, name), "{pair:?}");
            }
        }
    }
}

/// What a pattern means, as one would say it.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], _) => name.is_empty(),
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|taken| fits(rest, &name[taken..])),
        ([b'?', rest @ ..], [_, after @ ..]) => fits(rest, after),
        ([byte, rest @ ..], [first, after @ ..]) => byte == first && fits(rest, after),
        (_, []) => false,
    }
}

/// A piece, its `continued`, `cut` and `newline`.
type Piece = (Vec<u8>, bool, bool, bool);

/// Lines: the first two bytes say how long a line may be and in which pieces the others come.
pub fn lines(data: &[u8]) {
    let [length, step, stream @ ..] = data else { return };
    let max = 1 + usize::from(*length) % 40;
    let mut buffer = LineBuffer::new(max);
    let mut found: Vec<Piece> = Vec::new();
    fn one(piece: crate::lines::Piece<'_>) -> Piece {
        (piece.bytes.to_vec(), piece.continued, piece.cut, piece.newline)
    }
    let mut sink = |run: crate::lines::Run<'_>| match run {
        crate::lines::Run::Lines(lines) => {
            let lines = lines.strip_suffix(b"\n").expect("whole lines").split(|byte| *byte == b'\n');
            found.extend(lines.map(|line| (line.to_vec(), false, false, true)));
        }
        crate::lines::Run::Piece(piece) => found.push(one(piece)),
    };
    let mut rest = stream;
    let mut size = usize::from(*step);
    while !rest.is_empty() {
        // All sizes that a byte has, in an order without a pattern.
        size = size * 29 % 257;
        let (chunk, after) = rest.split_at(rest.len().min(size));
        buffer.push(chunk, &mut sink);
        rest = after;
        size = size.max(1);
    }
    buffer.finish(&mut |piece| found.push(one(piece)));
    assert_eq!(found, pieces(stream, max));

    let shown = Escaped(stream).to_string();
    assert!(String::from_utf8_lossy(stream) == shown || shown.contains("\\x"));
    assert!(std::str::from_utf8(stream).map_or(shown.len() > stream.len(), |text| text == shown));
}

/// The pieces of a whole stream.
fn pieces(stream: &[u8], max: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let last = lines.pop().unwrap_or_default();
    let ended = lines.into_iter().map(|line| (line, true));
    for (mut line, newline) in ended.chain((!last.is_empty()).then_some((last, false))) {
        let mut continued = false;
        while line.len() > max {
            let (piece, rest) = line.split_at(max - started(line, max));
            pieces.push((piece.to_vec(), continued, true, false));
            (line, continued) = (rest, true);
        }
        pieces.push((line.to_vec(), continued, false, newline));
    }
    pieces
}

/// How many bytes before `at` belong to a character that goes on at `at`, by the table of
/// well-formed sequences in the Unicode standard (3-7). None, if the piece would be empty then.
fn started(line: &[u8], at: usize) -> usize {
    let is_part = |start: usize| {
        let first = line[start];
        let (length, second) = match first {
            0xc2..=0xdf => (2, 0x80..=0xbf),
            0xe0 => (3, 0xa0..=0xbf),
            0xe1..=0xec | 0xee..=0xef => (3, 0x80..=0xbf),
            0xed => (3, 0x80..=0x9f),
            0xf0 => (4, 0x90..=0xbf),
            0xf1..=0xf3 => (4, 0x80..=0xbf),
            0xf4 => (4, 0x80..=0x8f),
            _ => return false,
        };
        let continues = (start + 1..=at).all(|index| {
            let allowed = if index == start + 1 { second.clone() } else { 0x80..=0xbf };
            allowed.contains(&line[index])
        });
        at < start + length && continues
    };
    (1..=3).find(|count| *count < at && is_part(at - count)).unwrap_or(0)
}
