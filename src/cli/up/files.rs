//! Files that we write for our processes: whole lines, rotated by size. Knows no processes, and speaks only through the trouble it returns.
//!
//! The one rule: no file ever stops supervision. What cannot be written now is dropped and counted, and the next line after
//! a pause tries again, from the opening on.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From a failure to the next attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// Room for lines on their way to the file that is kept for the next ones.
const KEPT: usize = 4096;

/// One file, and those rotated from it: `web.log`, `web.log.1` (the last one), `web.log.2`…
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    keep: u32,
    file: Option<File>,
    /// Lines of this turn.
    pending: Vec<u8>,
    /// Since the last failure; what was dropped since the first.
    trouble: Option<Trouble>,
    /// A failure has left a part of a line at the file's end.
    torn: bool,
}

#[derive(Debug)]
struct Trouble {
    retry_at: Instant,
    dropped: u64,
}

impl LogFile {
    /// Opens nothing yet.
    pub(super) fn new(path: PathBuf, max_size: u64, keep: u32) -> Self {
        Self { path, max_size, keep, file: None, pending: Vec::new(), trouble: None, torn: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// New limits, from the next line on.
    pub(super) fn set_limits(&mut self, max_size: u64, keep: u32) {
        self.max_size = max_size;
        self.keep = keep;
    }

    /// Takes a line; a newline is added.
    pub(super) fn push(&mut self, line: &[u8]) {
        self.pending.extend_from_slice(line);
        self.pending.push(b'\n');
    }

    /// Writes what was pushed. What there is to say of it: the first failure, and the recovery.
    pub(super) fn flush(&mut self, now: Instant) -> Option<String> {
        if self.pending.is_empty() {
            return None;
        }
        if let Some(trouble) = self.trouble.as_mut().filter(|trouble| now < trouble.retry_at) {
            trouble.dropped += lines(&self.pending);
            self.pending.clear();
            return None;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut written = 0;
        let result = self.write(&pending, &mut written);
        let said = match result {
            Ok(()) => self.trouble.take().map(|trouble| {
                let Trouble { dropped, .. } = trouble;
                format!("{}: can be written again; {dropped} lines were dropped", self.path.display())
            }),
            Err(error) => {
                let rest = pending.get(written..).unwrap_or_default();
                self.torn |= written > 0 && pending.get(written - 1) != Some(&b'\n');
                self.failed(now, lines(rest), &error)
            }
        };
        pending.clear();
        if pending.capacity() <= KEPT {
            self.pending = pending;
        }
        said
    }

    fn failed(&mut self, now: Instant, dropped: u64, error: &io::Error) -> Option<String> {
        // From the opening on: what was open may be what is wrong.
        self.file = None;
        let retry_at = now + PAUSE;
        match &mut self.trouble {
            Some(trouble) => {
                trouble.retry_at = retry_at;
                trouble.dropped += dropped;
                None
            }
            None => {
                self.trouble = Some(Trouble { retry_at, dropped });
                Some(format!("{}: {error}; lines are dropped until it can be written", self.path.display()))
            }
        }
    }

    fn write(&mut self, data: &[u8], written: &mut usize) -> io::Result<()> {
        while *written < data.len() {
            let rest = &data[*written..];
            let size = self.open()?;
            let room = usize::try_from(self.max_size.saturating_sub(size)).unwrap_or(usize::MAX);
            let whole = |end: usize| rest[..end].iter().rposition(|byte| *byte == b'\n').map(|newline| newline + 1);
            let piece = match whole(rest.len().min(room)) {
                Some(piece) => piece,
                // A line longer than a whole file gets one of its own.
                None if size == 0 => rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1),
                None => {
                    self.rotate()?;
                    continue;
                }
            };
            if let Some(file) = &self.file {
                if self.torn {
                    let mut newline: &File = file;
                    newline.write_all(b"\n")?;
                    self.torn = false;
                }
                write_counting(file, &rest[..piece], written)?;
            }
        }
        Ok(())
    }

    /// Sees to it that the file is open, anew if it is not the one of this name any more. Its size.
    fn open(&mut self) -> io::Result<u64> {
        let open = match (self.file.take(), fs::metadata(&self.path)) {
            (Some(file), Ok(there)) if is_same(&file.metadata()?, &there) => file,
            // Non-blocking matters where somebody has put a named pipe.
            _ => {
                let mut options = File::options();
                options.append(true).create(true).mode(0o666).custom_flags(libc::O_NONBLOCK).open(&self.path)?
            }
        };
        let size = open.metadata()?.len();
        self.file = Some(open);
        Ok(size)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.torn = false;
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            absent_is_fine(fs::rename(self.rotated(number), self.rotated(number + 1)))?;
        }
        absent_is_fine(fs::rename(&self.path, self.rotated(1)))
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn write_counting(mut file: &File, mut data: &[u8], written: &mut usize) -> io::Result<()> {
    while !data.is_empty() {
        match file.write(data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *written += count;
                data = &data[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many lines this is, a torn one counted as one.
fn lines(data: &[u8]) -> u64 {
    data.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = crate::guard::folder().join(format!("files-{name}"));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap_or_else(|error| format!("({})", error.kind()))
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

    fn write(log: &mut LogFile, now: Instant, lines: &[&str]) -> Option<String> {
        for line in lines {
            log.push(line.as_bytes());
        }
        log.flush(now)
    }

    #[test]
    fn rotates_between_lines_and_keeps_so_many() {
        let (folder, now) = (Folder::new("rotate"), epoch());
        let mut log = LogFile::new(folder.0.join("web.log"), 8, 2);
        assert_eq!(write(&mut log, now, &["one", "two", "three", "four", "longer than a file", "six"]), None);
        assert_eq!(folder.read("web.log"), "six\n");
        assert_eq!(folder.read("web.log.1"), "longer than a file\n");
        assert_eq!(folder.read("web.log.2"), "four\n");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 3);
    }

    #[test]
    fn keeps_none_if_told_so() {
        let (folder, now) = (Folder::new("none"), epoch());
        let mut log = LogFile::new(folder.0.join("web.log"), 8, 0);
        write(&mut log, now, &["one", "two", "three"]);
        assert_eq!(folder.read("web.log"), "three\n");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    }

    #[test]
    fn a_vanished_folder_drops_lines_and_recovers() {
        let (folder, now) = (Folder::new("vanish"), epoch());
        let inner = folder.0.join("logs");
        fs::create_dir(&inner).unwrap();
        let mut log = LogFile::new(inner.join("web.log"), 1000, 1);
        assert_eq!(write(&mut log, now, &["one"]), None);
        fs::remove_dir_all(&inner).unwrap();
        let said = write(&mut log, now, &["two", "three"]).unwrap();
        assert!(said.contains("web.log: ") && said.contains("lines are dropped"), "{said}");
        assert_eq!(write(&mut log, now, &["four"]), None, "said once");
        assert_eq!(write(&mut log, now + PAUSE, &["five"]), None, "said once");
        fs::create_dir(&inner).unwrap();
        assert_eq!(write(&mut log, now + PAUSE, &["six"]), None, "not before the pause is over");
        let said = write(&mut log, now + 2 * PAUSE, &["seven"]).unwrap();
        assert!(said.ends_with("can be written again; 5 lines were dropped"), "{said}");
        assert_eq!(folder.read("logs/web.log"), "seven\n");
    }

    #[test]
    fn a_file_taken_away_is_made_again() {
        let (folder, now) = (Folder::new("moved"), epoch());
        let mut log = LogFile::new(folder.0.join("web.log"), 1000, 1);
        write(&mut log, now, &["one"]);
        fs::rename(folder.0.join("web.log"), folder.0.join("elsewhere")).unwrap();
        write(&mut log, now, &["two"]);
        assert_eq!((folder.read("elsewhere"), folder.read("web.log")), ("one\n".into(), "two\n".into()));
    }

    #[test]
    fn a_full_disk_drops_lines() {
        let now = epoch();
        let mut log = LogFile::new("/dev/full".into(), 1000, 1);
        assert!(write(&mut log, now, &["one"]).unwrap().contains("lines are dropped"));
        assert_eq!(write(&mut log, now, &["two"]), None);
    }

    #[test]
    fn a_named_pipe_without_a_reader_does_not_block() {
        let (folder, now) = (Folder::new("fifo"), epoch());
        let path = folder.0.join("web.log");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let mut log = LogFile::new(path, 1000, 1);
        assert!(write(&mut log, now, &["one"]).unwrap().contains("lines are dropped"));
    }
}
