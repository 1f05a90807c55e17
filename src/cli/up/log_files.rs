//! The output files of all processes. Each path has one file, however many processes write to it,
//! and the file is closed when no process writes to it any more. Knows no processes.
//!
//! The one rule: the work at the end of a turn costs only the files that have something to write.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use super::end::Piece;
use super::files::LogFile;
use crate::cli::config::Rotation;
use crate::cli::safe_path::{Creation, Uncompressed};
use crate::cli::waiting::Author;

/// The id of a file. It is valid while the file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(usize);

#[derive(Debug)]
pub(super) struct LogFiles<S> {
    files: Vec<Option<Used<S>>>,
    free: Vec<usize>,
    by_path: HashMap<Rc<Path>, usize>,
    /// The files that were written in this turn or have something to write.
    busy: Vec<usize>,
    /// The files that may have rotated files to compress.
    rotated: Vec<usize>,
}

#[derive(Debug)]
struct Used<S> {
    file: LogFile<S>,
    /// The number of streams that write to it.
    users: usize,
    /// Whether it is in `busy`.
    busy: bool,
}

impl<S: PartialEq> LogFiles<S> {
    pub(super) fn new() -> Self {
        Self { files: Vec::new(), free: Vec::new(), by_path: HashMap::new(), busy: Vec::new(), rotated: Vec::new() }
    }

    /// Adds a stream that writes to a file. From now on the file is made and rotated with these
    /// settings.
    pub(super) fn open(&mut self, path: &Path, new: Creation, rotation: Rotation) -> FileId {
        if let Some(index) = self.by_path.get(path) {
            if let Some(Some(used)) = self.files.get_mut(*index) {
                used.file.set(new, rotation);
                used.users += 1;
            }
            return FileId(*index);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        let path: Rc<Path> = path.into();
        self.by_path.insert(Rc::clone(&path), index);
        self.files[index] = Some(Used { file: LogFile::new(path, new, rotation), users: 1, busy: false });
        FileId(index)
    }

    /// Removes a stream from a file, and closes the file if no stream is left. Returns a message if
    /// lines are lost.
    pub(super) fn close(&mut self, id: FileId) -> Option<String> {
        let used = self.files.get_mut(id.0)?.as_mut()?;
        used.users -= 1;
        if used.users > 0 {
            return None;
        }
        let mut used = self.files[id.0].take()?;
        self.by_path.remove(used.file.path());
        if used.busy {
            self.busy.retain(|busy| *busy != id.0);
        }
        self.free.push(id.0);
        used.file.finish()
    }

    /// Takes a line, or a piece of one. Like every method that writes, it returns a message at a
    /// failure and at the recovery.
    pub(super) fn push(
        &mut self,
        id: FileId,
        stream: S,
        author: &Author,
        piece: Piece<'_>,
        now: Instant,
    ) -> Option<String> {
        let file = self.busy(id)?;
        file.push(stream, author, piece);
        file.relieve(now)
    }

    /// Takes whole lines, each with its newline.
    pub(super) fn push_lines(&mut self, id: FileId, author: &Author, lines: &[u8], now: Instant) -> Option<String> {
        let file = self.busy(id)?;
        file.push_lines(author, lines, now).or_else(|| file.relieve(now))
    }

    fn busy(&mut self, id: FileId) -> Option<&mut LogFile<S>> {
        let used = self.files.get_mut(id.0)?.as_mut()?;
        if !std::mem::replace(&mut used.busy, true) {
            self.busy.push(id.0);
        }
        Some(&mut used.file)
    }

    /// Writes the lines of a turn. Returns when to call it again even if nothing is pushed until
    /// then.
    pub(super) fn flush(&mut self, now: Instant, mut say: impl FnMut(String)) -> Option<Instant> {
        let mut retry_at = None;
        let Self { files, busy, rotated, .. } = self;
        busy.retain(|index| {
            let Some(Some(used)) = files.get_mut(*index) else { return false };
            used.file.flush(now).into_iter().for_each(&mut say);
            if used.file.take_rotated() {
                rotated.push(*index);
            }
            let again = used.file.retry_at();
            retry_at = again.into_iter().chain(retry_at).min();
            used.busy = again.is_some();
            used.busy
        });
        retry_at
    }

    /// The next rotated file to compress, or the error of opening it, with the path of its file.
    pub(super) fn next_uncompressed(&mut self) -> Option<(Rc<Path>, io::Result<Uncompressed>)> {
        while let Some(index) = self.rotated.pop() {
            let Some(Some(used)) = self.files.get(index) else { continue };
            if let Some(next) = used.file.uncompressed().transpose() {
                return Some((Rc::clone(used.file.path()), next));
            }
        }
        None
    }

    /// Notes that this file may have further rotated files to compress.
    pub(super) fn note_rotated(&mut self, path: &Path) {
        self.rotated.extend(self.by_path.get(path));
    }

    /// All files, for rare work.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut LogFile<S>> {
        self.files.iter_mut().flatten().map(|used| &mut used.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(files: &mut LogFiles<u8>, path: &Path) -> FileId {
        files.open(path, Creation::default(), Rotation::default())
    }

    #[test]
    fn a_path_is_one_file_until_its_last_stream_is_gone() {
        let mut files = LogFiles::<u8>::new();
        let [a, b] = ["/a", "/b"].map(|path| open(&mut files, Path::new(path)));
        assert_eq!(open(&mut files, Path::new("/a")), a);
        assert_ne!(a, b);
        files.close(a);
        assert_eq!((files.all().count(), files.by_path.len()), (2, 2));
        files.close(a);
        assert_eq!((files.all().count(), files.by_path.len()), (1, 1));
        // The slot is used again for another file.
        assert_eq!(open(&mut files, Path::new("/c")), a);
        assert_eq!((files.files.len(), files.all().count()), (2, 2));
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn the_end_of_a_turn_touches_only_files_with_something_to_write() {
        let now = Instant::now();
        let folder = std::env::temp_dir().join(format!("childminder-log-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut files = LogFiles::<u8>::new();
        let ids: Vec<_> = (0..100).map(|number| open(&mut files, &folder.join(number.to_string()))).collect();
        let missing = open(&mut files, &folder.join("missing/file"));
        assert!(files.busy.is_empty());
        let piece = Piece { bytes: b"line", continued: false, newline: true };
        for _ in 0..3 {
            assert_eq!(files.push(ids[7], 1, &None, piece, now), None);
            files.push(missing, 1, &None, piece, now);
        }
        assert_eq!(files.busy.len(), 2);
        let mut said = Vec::new();
        assert!(files.flush(now, |what| said.push(what)).is_some_and(|retry_at| retry_at > now));
        assert_eq!((said.len(), files.busy.len()), (1, 1), "{said:?}");
        assert_eq!(std::fs::read(folder.join("7")).unwrap(), b"line\nline\nline\n");
        assert!(files.close(missing).is_some_and(|said| said.contains("3 lines were dropped")));
        assert!(files.busy.is_empty());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
