//! Follows the path of an output file to a file or to an open descriptor, as `/dev/stdout` and
//! links to it are. Opens nothing.
//!
//! The one rule: a path that means one of our own descriptors is followed link by link and never
//! opened. Opening it would make a second open file with a position of its own, and would fail for
//! a socket.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The number of links that the kernel follows.
const MAX_LINKS: usize = 40;

/// The end of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Our own descriptor of this number.
    Own(i32),
    /// A descriptor of another process.
    Foreign,
    /// A file, which need not exist, by its path without links.
    Path(PathBuf),
}

/// Follows `path`, which is absolute, to its end.
pub(crate) fn target(path: &Path) -> Target {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { break };
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if let Some(number) = number(name) {
            if is_own(&folder) {
                return Target::Own(number);
            }
            if folder.starts_with("/proc") {
                return Target::Foreign;
            }
        }
        let real = folder.join(name);
        match fs::read_link(&real) {
            Ok(link) => path = folder.join(link),
            Err(_) => return Target::Path(real),
        }
    }
    Target::Path(path)
}

/// Whether the entries of a folder are our own descriptors. It has links only where /proc is missing.
fn is_own(folder: &Path) -> bool {
    static OWN: OnceLock<[Option<PathBuf>; 2]> = OnceLock::new();
    let [process, descriptors] = OWN.get_or_init(|| ["/proc/self", "/dev/fd"].map(|own| fs::canonicalize(own).ok()));
    // Each thread has a folder, too.
    let is_of_process = process.as_ref().is_some_and(|process| folder.starts_with(process) && folder.ends_with("fd"));
    is_of_process
        || descriptors.as_deref() == Some(folder)
        || ["/proc/self/fd", "/dev/fd"].map(Path::new).contains(&folder)
}

/// The number that a file's name is, as the kernel reads it: without a sign and without a zero in
/// front.
fn number(name: &OsStr) -> Option<i32> {
    let name = name.to_str()?;
    name.parse().ok().filter(|number: &i32| number.to_string() == name)
}

static INHERITED: OnceLock<Vec<i32>> = OnceLock::new();

/// Notes the descriptors that are open now. To be called before the command opens anything.
pub(crate) fn note_inherited() {
    INHERITED.get_or_init(|| {
        let entries = fs::read_dir("/dev/fd").into_iter().flatten().flatten();
        let mut open: Vec<i32> = entries.filter_map(|entry| number(&entry.file_name())).collect();
        // One of the numbers was the descriptor of the folder itself, which is closed now.
        open.retain(|number| *number <= 2 || fs::symlink_metadata(format!("/dev/fd/{number}")).is_ok());
        open
    });
}

/// Whether the command was started with this descriptor. True for every number if
/// [`note_inherited`] was not called: then the answer is not known.
pub(crate) fn is_inherited(number: i32) -> bool {
    INHERITED.get().is_none_or(|open| number <= 2 || open.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn follows_links_to_our_own_descriptors() {
        let dir =
            std::env::temp_dir().canonicalize().unwrap().join(format!("childminder-target-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = fs::File::create(dir.join("file")).unwrap();
        let link = |from: &str, to: &str| {
            symlink(to, dir.join(from)).unwrap();
            dir.join(from)
        };
        let own = format!("/proc/{}/fd/1", std::process::id());
        for path in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "/dev/fd/../fd/1", &own] {
            assert_eq!(target(Path::new(path)), Target::Own(1), "{path}");
        }
        assert_eq!(target(Path::new("/dev/stderr")), Target::Own(2));
        assert_eq!(target(&link("a", "/dev/stdout")), Target::Own(1));
        assert_eq!(target(&link("b", "a")), Target::Own(1));
        assert_eq!(target(&link("c", "../../../../dev/fd/2")), Target::Own(2));
        link("folder", "/proc/self");
        assert_eq!(target(&dir.join("folder/fd/7")), Target::Own(7), "open or not");

        assert_eq!(
            target(Path::new("/proc/1/fd/1")),
            if std::process::id() == 1 { Target::Own(1) } else { Target::Foreign }
        );
        assert_eq!(target(&link("d", "file")), Target::Path(dir.join("file")));
        assert_eq!(target(&link("e", "not-there")), Target::Path(dir.join("not-there")));
        assert_eq!(target(&dir.join("1")), Target::Path(dir.join("1")), "a number, and no descriptor");
        assert_eq!(target(Path::new("/dev/null")), Target::Path("/dev/null".into()));
        assert_eq!(target(Path::new("/dev/fd/01")), target(Path::new("/proc/self/fd/01")));
        assert!(!matches!(target(Path::new("/dev/fd/01")), Target::Own(_)));
        assert!(matches!(target(&link("loop", "loop")), Target::Path(_)));

        // Nothing is noted in this test, or something that was open before the file.
        assert!(is_inherited(1) && (INHERITED.get().is_none() || !is_inherited(file.as_raw_fd())));
        fs::remove_dir_all(&dir).unwrap();
    }
}
