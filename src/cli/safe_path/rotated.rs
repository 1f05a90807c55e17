//! The files rotated from an output file: `web.log.1`, or `web.log.1.gz` if it was compressed.
//! Opens, renames and removes them. Reads and writes nothing in them.
//!
//! The one rule: what a compressed file stands for is known by the file itself and not by its
//! number, because a rotation may change the numbers in the meantime.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, fchmod, fchown, fstat, futimens, openat,
    renameat, unlinkat,
};
use rustix::io::Errno;

use super::{Creation, FILE, Place, cannot_give, refused};

/// The ends of the names of a rotated file: as it was, and compressed.
const PLAIN: &str = "";
const COMPRESSED: &str = ".gz";
/// The end of the name of a file that is being compressed.
const PART: &str = ".gz.part";

/// The names of rotated files that count.
fn ends(compressed: bool) -> &'static [&'static str] {
    if compressed { &[PLAIN, COMPRESSED] } else { &[PLAIN] }
}

impl Place {
    /// Removes the rotated file with this number, if it was written to for the last time before
    /// this moment. A failure leaves it there. `compressed` tells whether compressed files count,
    /// here and below.
    pub(crate) fn remove_if_older(&self, number: u32, than: SystemTime, compressed: bool) {
        let than = than.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for end in ends(compressed) {
            let name = self.numbered(number, end);
            let Ok(there) = self.folder.look(&name) else { continue };
            if u64::try_from(there.st_mtime).is_ok_and(|written| written < than) {
                let _ = unlinkat(&self.folder.fd, &name, AtFlags::empty());
            }
        }
    }

    /// Whether there is a rotated file with this number.
    pub(crate) fn is_taken(&self, number: u32, compressed: bool) -> bool {
        ends(compressed).iter().any(|end| self.folder.look(&self.numbered(number, end)).is_ok())
    }

    /// Renames the file, or the one with the number `from` appended to its name, to the name with
    /// the number `to`. A file that has that number already is replaced.
    pub(crate) fn renumber(&self, from: Option<u32>, to: u32, compressed: bool) -> io::Result<()> {
        let fd = &self.folder.fd;
        for end in ends(compressed) {
            let new = self.numbered(to, end);
            let old = match from {
                Some(number) => Some(self.numbered(number, end)),
                None => (*end == PLAIN).then(|| self.name.clone()),
            };
            let renamed = old.map_or(Err(Errno::NOENT), |old| renameat(fd, old, fd, &new));
            match renamed {
                // The file with the new number is of the other kind.
                Err(Errno::NOENT) if compressed => match unlinkat(fd, new, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                },
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Opens the oldest of the first `keep` rotated files that is not compressed, and a new file
    /// for its compressed bytes. `None` if there is none. What an earlier attempt has left is
    /// removed.
    ///
    /// The new file has the mode and the owner of the rotated one.
    ///
    /// # Errors
    ///
    /// An error of the system, or a refusal as by [`open`](Self::open).
    pub(crate) fn uncompressed(self, keep: u32) -> io::Result<Option<Uncompressed>> {
        let Some(name) = (1..=keep).rev().map(|number| self.numbered(number, PLAIN)).find(|name| {
            self.folder.look(name).is_ok_and(|there| FileType::from_raw_mode(there.st_mode) == FileType::RegularFile)
        }) else {
            return Ok(None);
        };
        let flags = FILE | OFlags::RDONLY | OFlags::NOFOLLOW;
        let file = File::from(openat(&self.folder.fd, name, flags, Mode::empty())?);
        let there = fstat(&file)?;
        if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
            return Err(refused("it is no regular file".into()));
        }
        self.check(&there, Creation::default())?;
        let part = self.with_end(PART);
        match unlinkat(&self.folder.fd, &part, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = FILE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let to = openat(&self.folder.fd, &part, flags, Mode::from_raw_mode(0o600))?;
        let uncompressed = Uncompressed { place: self, file, there, keep, to: to.into() };
        uncompressed.make_alike().inspect_err(|_| uncompressed.give_up())?;
        Ok(Some(uncompressed))
    }

    fn numbered(&self, number: u32, end: &str) -> OsString {
        self.with_end(&format!(".{number}{end}"))
    }

    fn with_end(&self, end: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(end);
        name
    }
}

/// A rotated file that is being compressed, and the file for its compressed bytes.
#[derive(Debug)]
pub(crate) struct Uncompressed {
    place: Place,
    file: File,
    there: Stat,
    keep: u32,
    to: File,
}

impl Uncompressed {
    /// The file itself, to be read from its start.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The file for its compressed bytes.
    pub(crate) fn to(&self) -> &File {
        &self.to
    }

    /// Gives the compressed file the owner and the mode of this one.
    fn make_alike(&self) -> io::Result<()> {
        let (own, there) = (fstat(&self.to)?, &self.there);
        if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid) {
            let given = fchown(&self.to, Some(Uid::from_raw(there.st_uid)), Some(Gid::from_raw(there.st_gid)));
            given.map_err(|error| cannot_give("owner", error))?;
        }
        let mode = Mode::from_raw_mode(there.st_mode) & Mode::from_raw_mode(0o777);
        fchmod(&self.to, mode).map_err(|error| cannot_give("mode", error))
    }

    /// Puts the compressed file into the place of this one, whatever number that has now. If this
    /// one was removed in the meantime, so is the compressed one.
    ///
    /// # Errors
    ///
    /// An error of the system. The compressed file is removed then.
    pub(crate) fn finish(self) -> io::Result<()> {
        let fd = &self.place.folder.fd;
        let is_this = |name: &OsString| {
            let there = self.place.folder.look(name);
            there.is_ok_and(|there| (there.st_dev, there.st_ino) == (self.there.st_dev, self.there.st_ino))
        };
        let number = (1..=self.keep).find(|number| is_this(&self.place.numbered(*number, PLAIN)));
        let Some(number) = number else {
            self.give_up();
            return Ok(());
        };
        let written = Timespec { tv_sec: self.there.st_mtime as _, tv_nsec: self.there.st_mtime_nsec as _ };
        let done = futimens(&self.to, &Timestamps { last_access: written, last_modification: written })
            .and_then(|()| renameat(fd, self.place.with_end(PART), fd, self.place.numbered(number, COMPRESSED)))
            .and_then(|()| unlinkat(fd, self.place.numbered(number, PLAIN), AtFlags::empty()));
        done.map_err(|error| {
            self.give_up();
            error.into()
        })
    }

    /// Removes the compressed file.
    pub(crate) fn give_up(&self) {
        let _ = unlinkat(&self.place.folder.fd, self.place.with_end(PART), AtFlags::empty());
    }
}
