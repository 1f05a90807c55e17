use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::*;
use crate::left_out::needs_a_usual_pipe;

fn sized(max_size: u64, keep: u32) -> Rotation {
    Rotation { max_size, keep, ..Rotation::default() }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("childminder-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn log(&self, max_size: u64, keep: u32) -> LogFile<char> {
        LogFile::new(self.path("web.log").into(), Creation::default(), sized(max_size, keep))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| format!("({})", error.kind()))
    }

    /// The bytes of all files of `web.log`, the oldest first, and the size of the largest file.
    fn all(&self) -> (Vec<u8>, usize) {
        let mut names = vec![self.path("web.log")];
        while self.path(&format!("web.log.{}", names.len())).exists() {
            names.push(self.path(&format!("web.log.{}", names.len())));
        }
        let files: Vec<Vec<u8>> = names.iter().rev().map(|name| fs::read(name).unwrap()).collect();
        (files.concat(), files.iter().map(Vec::len).max().unwrap())
    }

    fn make_fifo(&self, name: &str) -> PathBuf {
        let made = std::process::Command::new("mkfifo").arg(self.path(name)).status().unwrap();
        assert!(made.success());
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[allow(clippy::disallowed_methods)]
fn epoch() -> Instant {
    Instant::now()
}

/// Pushes a whole line. With `>` in front it is a piece that continues the line before, and with
/// `<` at the end it has no newline.
fn push(log: &mut LogFile<char>, stream: char, text: &str) {
    let (continued, text) = text.strip_prefix('>').map_or((false, text), |text| (true, text));
    let (newline, text) = text.strip_suffix('<').map_or((true, text), |text| (false, text));
    log.push(stream, &author(stream), Piece { bytes: text.as_bytes(), continued, newline });
}

/// The author of a stream.
fn author(stream: char) -> Author {
    Some(stream.to_string().into())
}

fn write(log: &mut LogFile<char>, now: Instant, lines: &[&str]) -> Option<String> {
    for line in lines {
        push(log, 'a', line);
    }
    log.flush(now)
}

#[test]
fn rotates_between_lines_and_keeps_so_many() {
    let (folder, now) = (Folder::new("rotate"), epoch());
    let mut log = folder.log(8, 2);
    assert_eq!(write(&mut log, now, &["one", "two", "three", "four", "exactly", "six"]), None);
    assert_eq!(folder.read("web.log"), "six\n");
    assert_eq!(folder.read("web.log.1"), "exactly\n");
    assert_eq!(folder.read("web.log.2"), "four\n");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
}

#[test]
fn files_behind_a_free_number_stay_where_they_are() {
    let (folder, now) = (Folder::new("gap"), epoch());
    for number in [1, 2, 4] {
        fs::write(folder.path(&format!("web.log.{number}")), number.to_string()).unwrap();
    }
    write(&mut folder.log(5, 10), now, &["one", "two"]);
    let read = [1, 2, 3, 4, 5].map(|number| folder.read(&format!("web.log.{number}")));
    assert_eq!(read, ["one\n", "1", "2", "4", "(entity not found)"]);
    assert_eq!(folder.read("web.log"), "two\n");
}

#[test]
fn compressed_files_count_if_they_are_made() {
    let (folder, now) = (Folder::new("compressed"), epoch());
    let old = SystemTime::now() - Duration::from_secs(100);
    for compress in [true, false] {
        for name in ["1", "2.gz", "3", "4.gz", "4"] {
            let path = folder.path(&format!("web.log.{name}"));
            fs::write(&path, name).unwrap();
            if name.starts_with('4') {
                File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
            }
        }
        let (max_size, keep, max_age) = (4, 4, Some(Duration::from_secs(60)));
        let rotation = Rotation { max_size, keep, max_age, compress };
        let mut log = LogFile::new(folder.path("web.log").into(), Creation::default(), rotation);
        write(&mut log, now, &["new"]);
        assert_eq!(log.take_rotated(), compress);
        write(&mut log, now, &["two"]);
        assert_eq!(log.take_rotated(), compress);
        let names = ["1", "2", "3.gz", "4", "4.gz"].map(|name| folder.read(&format!("web.log.{name}")));
        let gone = || "(entity not found)".to_owned();
        let expected = match compress {
            true => ["new\n".into(), "1".into(), "2.gz".into(), "3".into(), gone()],
            // The files of another program stay as they are.
            false => ["new\n".into(), "1".into(), gone(), gone(), "4.gz".into()],
        };
        assert_eq!(names, expected, "{compress}");
        fs::read_dir(&folder.0).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
    }
}

#[test]
fn keeps_none_if_told_so() {
    let (folder, now) = (Folder::new("none"), epoch());
    let mut log = folder.log(8, 0);
    write(&mut log, now, &["one", "two", "three"]);
    assert_eq!(folder.read("web.log"), "three\n");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn pieces_of_a_line_are_one_line() {
    let (folder, now) = (Folder::new("pieces"), epoch());
    let mut log = folder.log(1000, 1);
    write(&mut log, now, &["one <", ">two <"]);
    write(&mut log, now, &[">three", "cut <"]);
    push(&mut log, 'b', "between");
    write(&mut log, now, &[">rest", "last words<"]);
    assert_eq!(
        folder.read("web.log"),
        "one two three\ncut \nbetween\nrest\nlast words",
        "no newline of ours at the end"
    );
    write(&mut log, now, &["next"]);
    assert!(folder.read("web.log").ends_with("rest\nlast words\nnext\n"));
}

#[test]
fn what_was_there_before_is_not_glued() {
    let (folder, now) = (Folder::new("before"), epoch());
    for (before, after) in [("", "new\n"), ("old\n", "old\nnew\n"), ("old", "old\nnew\n")] {
        fs::write(folder.path("web.log"), before).unwrap();
        write(&mut folder.log(1000, 1), now, &["new"]);
        assert_eq!(folder.read("web.log"), after);
    }
    // The file is full up to the last byte.
    fs::write(folder.path("web.log"), "12345678").unwrap();
    write(&mut folder.log(8, 1), now, &["new"]);
    assert_eq!((folder.read("web.log.1"), folder.read("web.log")), ("12345678".into(), "new\n".into()));
    // Another file is put there while a line is under way.
    let mut log = folder.log(1000, 1);
    write(&mut log, now, &["one <"]);
    fs::rename(folder.path("web.log"), folder.path("old")).unwrap();
    fs::write(folder.path("web.log"), "other").unwrap();
    write(&mut log, now, &[">two"]);
    assert_eq!((folder.read("old"), folder.read("web.log")), ("new\none ".into(), "other\ntwo\n".into()));
}

#[test]
fn a_line_longer_than_a_file_goes_on_in_the_next() {
    let (folder, now) = (Folder::new("longer"), epoch());
    let mut log = folder.log(10, 100);
    write(&mut log, now, &["a", "0123456789012345678901234", "b"]);
    assert_eq!(folder.read("web.log.3"), "a\n");
    assert_eq!(folder.read("web.log.2"), "012345678");
    assert_eq!(folder.read("web.log.1"), "901234567");
    assert_eq!(folder.read("web.log"), "8901234\nb\n");
    // A line in pieces is cut at a character, although it has no newline.
    write(&mut log, now, &["€€<"]);
    write(&mut log, now, &[">€€€€<"]);
    write(&mut log, now, &[">€"]);
    let (all, largest) = folder.all();
    assert_eq!(String::from_utf8(all).unwrap(), "a\n0123456789012345678901234\nb\n€€€€€€€\n");
    assert_eq!((folder.read("web.log.1"), folder.read("web.log"), largest), ("€€€".into(), "€\n".into(), 10));
}

#[test]
fn a_shorter_line_is_in_one_file() {
    let (folder, now) = (Folder::new("shorter"), epoch());
    let mut log = folder.log(20, 100);
    write(&mut log, now, &["0123456789", "abcd<"]);
    // The length of the line is known only now.
    write(&mut log, now, &[">efghij"]);
    write(&mut log, now, &["next"]);
    assert_eq!(
        (folder.read("web.log.1"), folder.read("web.log")),
        ("0123456789\nabcdefghij\n".into(), "next\n".into())
    );
    // The length of the line is known before the line is written.
    write(&mut log, now, &["0123456789", "abcd<", ">efghij"]);
    assert_eq!(
        (folder.read("web.log.1"), folder.read("web.log")),
        ("next\n0123456789\n".into(), "abcdefghij\n".into())
    );
    // The line is known to be longer than a whole file.
    write(&mut log, now, &["abcd<"]);
    write(&mut log, now, &[">efghijklmnopqrstuvwxyz<"]);
    assert_eq!(
        (folder.read("web.log.1"), folder.read("web.log")),
        ("abcdefghij\nabcdefgh".into(), "ijklmnopqrstuvwxyz".into())
    );
}

#[test]
fn the_files_together_are_what_was_written() {
    let mut seed = 7_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for round in 0..50 {
        let (folder, now) = (Folder::new("together"), epoch());
        let max_size = 1 + random(60);
        let mut log = folder.log(max_size as u64, 10_000);
        let (mut expected, mut continued, mut bound) = (String::new(), false, max_size);
        for _ in 0..random(30) {
            let text = ["a", "ä", "€", "🦀", ""][random(5)].repeat(random(9));
            let newline = text.is_empty() || random(3) == 0;
            log.push('a', &author('a'), Piece { bytes: text.as_bytes(), continued, newline });
            expected += &text;
            expected += if newline { "\n" } else { "" };
            continued = !newline;
            if random(3) == 0 {
                assert_eq!(log.flush(now), None);
            }
        }
        log.flush(now);
        bound += expected.lines().map(|line| line.len() + 1).filter(|length| *length <= max_size).max().unwrap_or(0);
        if !expected.is_empty() {
            let (all, largest) = folder.all();
            assert_eq!(String::from_utf8(all).unwrap(), expected, "{round}");
            assert!(largest <= bound, "{round}: {largest} of {max_size}");
        }
    }
}

#[test]
fn lines_wait_for_a_vanished_folder() {
    let (folder, now) = (Folder::new("vanish"), epoch());
    let inner = folder.path("logs");
    fs::create_dir(&inner).unwrap();
    let mut log = LogFile::new(inner.join("web.log").into(), Creation::default(), sized(1000, 1));
    assert_eq!(write(&mut log, now, &["one", "begun <"]), None);
    fs::remove_dir_all(&inner).unwrap();
    let said = write(&mut log, now, &[">two", "three"]).unwrap();
    let path = inner.join("web.log");
    let why = "its folder does not exist; `make-folders = true` makes it; lines wait until it can be written, and are dropped if they become too many";
    assert_eq!(said, format!("{}: {why}", path.display()));
    assert_eq!(write(&mut log, now, &["four"]), None, "said once");
    assert_eq!(log.retry_at(), Some(now + PAUSE));
    assert_eq!(write(&mut log, now + PAUSE, &["five"]), None, "said once");
    fs::create_dir(&inner).unwrap();
    assert_eq!(write(&mut log, now + PAUSE, &["six"]), None, "not before the pause is over");
    let said = log.flush(now + 2 * PAUSE).unwrap();
    assert!(said.ends_with("can be written again; no line was dropped"), "{said}");
    assert_eq!(folder.read("logs/web.log"), "two\nthree\nfour\nfive\nsix\n");
    assert_eq!((log.retry_at(), log.finish()), (None, None));
}

#[test]
fn what_waits_is_bounded_and_without_a_gap() {
    let (folder, now) = (Folder::new("bounded"), epoch());
    let inner = folder.path("logs");
    let mut log = LogFile::new(inner.join("web.log").into(), Creation::default(), sized(1 << 30, 1));
    let line = "x".repeat(999);
    for _ in 0..70 {
        write(&mut log, now, &[&line]);
    }
    // These lines would fit.
    write(&mut log, now, &["short", "cut <"]);
    push(&mut log, 'b', "between");
    write(&mut log, now, &[">rest", "last <"]);
    assert!(log.pending.len() <= WAITING && log.pending.bytes().ends_with(b"x\n"));
    fs::create_dir(&inner).unwrap();
    let said = log.flush(now + PAUSE).unwrap();
    assert!(said.ends_with("can be written again; 10 lines were dropped: 9 of a, 1 of b"), "{said}");
    // The end of a line is written, though its start was not.
    write(&mut log, now, &[">words", "next"]);
    let written = folder.read("logs/web.log");
    assert_eq!(written, format!("{line}\n").repeat(65) + "words\nnext\n");

    // A line that is too long by itself is cut.
    fs::remove_dir_all(&inner).unwrap();
    write(&mut log, now, &[&"€".repeat(30_000), "short"]);
    fs::create_dir(&inner).unwrap();
    let said = log.flush(now + PAUSE).unwrap();
    assert!(said.ends_with("can be written again; 2 lines were dropped: 2 of a"), "{said}");
    write(&mut log, now, &["next"]);
    assert_eq!(folder.read("logs/web.log"), "€".repeat(WAITING / 3) + "\nnext\n");
}

#[test]
fn what_is_given_up_is_counted_once() {
    let (folder, now) = (Folder::new("once"), epoch());
    let inner = folder.path("logs");
    let log = || LogFile::new(inner.join("web.log").into(), Creation::default(), sized(1000, 1));
    let mut it = log();
    write(&mut it, now, &["one <"]);
    write(&mut it, now, &[">two <"]);
    write(&mut it, now, &[">three", "four <", ">five<"]);
    push(&mut it, 'b', "six");
    write(&mut it, now, &["seven <"]);
    let said = it.finish().unwrap();
    assert!(said.ends_with("web.log: 4 lines were dropped: 3 of a, 1 of b"), "{said}");
    // The last attempt may succeed, or be the first one that fails.
    let mut it = log();
    write(&mut it, now, &["one"]);
    fs::create_dir(&inner).unwrap();
    assert_eq!((it.finish(), folder.read("logs/web.log")), (None, "one\n".into()));
    fs::remove_dir_all(&inner).unwrap();
    let mut it = log();
    push(&mut it, 'a', "two");
    let said = it.finish().unwrap();
    assert!(
        said.ends_with("its folder does not exist; `make-folders = true` makes it; 1 line was dropped: 1 of a"),
        "{said}"
    );
}

#[test]
fn a_file_taken_away_is_made_again() {
    let (folder, now) = (Folder::new("moved"), epoch());
    let mut log = folder.log(1000, 1);
    write(&mut log, now, &["one", "two <"]);
    fs::rename(folder.path("web.log"), folder.path("elsewhere")).unwrap();
    write(&mut log, now, &[">three", "four"]);
    assert_eq!((folder.read("elsewhere"), folder.read("web.log")), ("one\ntwo ".into(), "three\nfour\n".into()));
}

#[test]
fn an_emptied_file_is_written_on() {
    let (folder, now) = (Folder::new("emptied"), epoch());
    let mut log = folder.log(1000, 1);
    write(&mut log, now, &["one", "two <"]);
    File::create(folder.path("web.log")).unwrap();
    write(&mut log, now, &[">three"]);
    assert_eq!(folder.read("web.log"), "three\n");
}

#[test]
fn a_closed_file_is_opened_anew() {
    let (folder, now) = (Folder::new("closed"), epoch());
    let mut log = folder.log(1000, 1);
    write(&mut log, now, &["one <"]);
    // In the same file the line goes on.
    log.close();
    write(&mut log, now, &[">two", "three <"]);
    log.close();
    fs::rename(folder.path("web.log"), folder.path("old")).unwrap();
    push(&mut log, 'a', ">four");
    assert_eq!(
        (log.flush(now), folder.read("old"), folder.read("web.log")),
        (None, "one two\nthree ".into(), "four\n".into())
    );

    // The file is opened anew even if it has just failed.
    let inner = folder.path("logs");
    let mut log = LogFile::new(inner.join("web.log").into(), Creation::default(), sized(1000, 1));
    write(&mut log, now, &["one"]);
    fs::create_dir(&inner).unwrap();
    assert_eq!(write(&mut log, now, &["two"]), None);
    log.close();
    let said = write(&mut log, now, &["three"]).unwrap();
    assert!(said.ends_with("can be written again; no line was dropped"), "{said}");
    assert_eq!(folder.read("logs/web.log"), "one\ntwo\nthree\n");
}

#[test]
fn a_link_stays_and_the_file_behind_it_is_rotated() {
    let (folder, now) = (Folder::new("link"), epoch());
    fs::create_dir(folder.path("disk")).unwrap();
    symlink("disk/real.log", folder.path("web.log")).unwrap();
    let mut log = folder.log(8, 2);
    write(&mut log, now, &["one", "two", "three"]);
    assert!(folder.path("web.log").is_symlink());
    assert_eq!((folder.read("disk/real.log.1"), folder.read("disk/real.log")), ("one\ntwo\n".into(), "three\n".into()));
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2);
}

#[test]
fn what_is_no_file_is_never_rotated() {
    let (folder, now) = (Folder::new("device"), epoch());
    let fifo = folder.make_fifo("fifo");
    let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    for (there, name) in [("/dev/null", "null"), ("fifo", "link")] {
        symlink(there, folder.path(name)).unwrap();
        let mut log = LogFile::new(folder.path(name).into(), Creation::default(), sized(8, 2));
        for _ in 0..10 {
            assert_eq!(write(&mut log, now, &["0123456789", "line"]), None);
        }
        assert!(folder.path(name).is_symlink());
    }
    let mut log = LogFile::new(fifo.clone().into(), Creation::default(), sized(8, 2));
    assert_eq!(write(&mut log, now, &["0123456789", "line"]), None);
    assert!(fifo.metadata().unwrap().file_type().is_fifo());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
    drop(reader);
}

#[test]
fn a_full_disk_drops_lines() {
    let now = epoch();
    let mut log = LogFile::new(Path::new("/dev/full").into(), Creation::default(), sized(1000, 1));
    let said = write(&mut log, now, &["one"]).unwrap();
    assert!(said.starts_with("/dev/full: No space left on device (os error 28); lines wait until "), "{said}");
    assert_eq!(write(&mut log, now, &["two"]), None);
    assert_eq!(log.finish().unwrap(), "/dev/full: 2 lines were dropped: 2 of a");
}

#[test]
fn a_named_pipe_without_a_reader_does_not_block() {
    let (folder, now) = (Folder::new("fifo"), epoch());
    let fifo = folder.make_fifo("web.log");
    let mut log = folder.log(1000, 1);
    let said = write(&mut log, now, &["one"]).unwrap();
    assert!(said.contains("web.log: no process reads this named pipe; lines wait until it can be written"), "{said}");
    let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    let said = write(&mut log, now + PAUSE, &["two"]).unwrap();
    assert!(said.ends_with("can be written again; no line was dropped"), "{said}");
    drop(reader);
    let said = write(&mut log, now + PAUSE, &["three"]).unwrap();
    assert!(said.contains("Broken pipe"), "{said}");
}

#[test]
fn a_slow_reader_loses_whole_lines_and_the_pipe_stays_open() {
    use std::io::Read;

    let (folder, now) = (Folder::new("slow"), epoch());
    let fifo = folder.make_fifo("web.log");
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    if !needs_a_usual_pipe(&reader) {
        return;
    }
    let mut log = folder.log(1000, 1);
    let mut got = Vec::new();
    let mut read = |reader: &mut File| {
        let mut buffer = vec![0; 1 << 20];
        let count = reader.read(&mut buffer).unwrap_or(0);
        got.extend_from_slice(&buffer[..count]);
        count
    };
    let lines: Vec<String> = (0..2000).map(|number| format!("{number:099}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let said = write(&mut log, now, &lines).unwrap();
    assert!(said.contains("web.log: it is read too slowly; lines wait until it can be written"), "{said}");
    // The next line is tried at once, and the recovery is reported when it has lasted.
    assert!(read(&mut reader) > 60_000);
    assert_eq!(write(&mut log, now, &["dropped"]), None);
    assert!(read(&mut reader) > 60_000);
    let said = write(&mut log, now + PAUSE, &["and back"]).unwrap();
    let dropped: usize = said.split_once(" lines were dropped").unwrap().0.rsplit(' ').next().unwrap().parse().unwrap();
    read(&mut reader);
    let got = String::from_utf8(got).unwrap();
    assert_eq!(got.lines().count() + dropped, 2002, "{said}");
    assert!(got.lines().all(|line| line.len() == 99 || line.ends_with("back")), "torn");
    assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "no end of file");
}

#[test]
fn a_torn_line_is_ended_before_the_next() {
    use std::io::Read;

    let (folder, now) = (Folder::new("torn"), epoch());
    let fifo = folder.make_fifo("web.log");
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    if !needs_a_usual_pipe(&reader) {
        return;
    }
    let mut log = folder.log(1000, 1);
    let long = "x".repeat(200_000);
    assert!(write(&mut log, now, &[&long]).is_some());
    let mut buffer = vec![0; 1 << 20];
    let count = reader.read(&mut buffer).unwrap();
    assert_eq!(log.flush(now), None);
    let more = reader.read(&mut buffer[count..]).unwrap();
    let said = write(&mut log, now + PAUSE, &["next"]).unwrap();
    assert!(said.ends_with("; 1 line was dropped: 1 of a"), "{said}");
    let last = reader.read(&mut buffer[count + more..]).unwrap();
    let got = std::str::from_utf8(&buffer[..count + more + last]).unwrap();
    assert_eq!(got.trim_start_matches('x'), "\nnext\n");
    assert_eq!(got.len(), count + WAITING + "\nnext\n".len());
}

#[test]
fn a_socket_is_told_to_be_none_of_ours() {
    let (folder, now) = (Folder::new("socket"), epoch());
    let _listener = UnixListener::bind(folder.path("web.log")).unwrap();
    let said = write(&mut folder.log(8, 1), now, &["0123456789"]).unwrap();
    assert!(said.contains("web.log: it is a socket, which cannot be written as a file; lines wait"), "{said}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
}
