use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;
use crate::left_out::{left_out, needs_root};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = crate::guard::folder().join(format!("safe-path-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn link(&self, from: &str, to: &str) -> PathBuf {
        symlink(to, self.join(from)).unwrap();
        self.join(from)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn own(path: impl AsRef<Path>) -> Option<i32> {
    match find(path.as_ref()).unwrap() {
        Target::Own(number) => Some(number),
        Target::Place(_) => None,
    }
}

#[test]
fn one_folder_after_the_other_hides_no_descriptor_of_ours() {
    let (dir, other) = (Dir::new("own-finder"), Dir::new("own-finder-other"));
    fs::write(dir.join("file"), "").unwrap();
    let link = dir.link("link", "/proc/self/fd/1");
    let to_other = dir.link("to-other", other.0.to_str().unwrap());
    dir.link("away", other.join("file").to_str().unwrap());
    other.link("stdout", "/dev/stdout");
    let mut finder = OwnFinder::default();
    let mut own = |path: PathBuf| finder.own(&path).unwrap();
    for _ in 0..2 {
        assert_eq!([dir.join("file"), dir.join("new"), dir.join("away")].map(&mut own), [None; 3]);
        assert_eq!(
            [link.clone(), to_other.join("file"), to_other.join("stdout")].map(&mut own),
            [Some(1), None, Some(1)]
        );
        assert_eq!(
            ["/dev/stdout", "/dev/null", "/dev/fd/1", "/dev/stderr"].map(|path| own(path.into())),
            [Some(1), None, Some(1), Some(2)]
        );
    }
    assert!(finder.own(&dir.join("missing/file")).is_err());
}

/// The path without links of the place that a path leads to.
#[track_caller]
fn real(path: impl AsRef<Path>) -> PathBuf {
    match find(path.as_ref()).unwrap() {
        Target::Place(place) => place.folder.real.join(place.name),
        Target::Own(number) => panic!("our descriptor {number}"),
    }
}

#[test]
fn follows_links_to_our_own_descriptors() {
    let dir = Dir::new("own");
    File::create(dir.join("file")).unwrap();
    let process = format!("/proc/{}/fd/1", std::process::id());
    for path in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "/dev/fd/../fd/1", &process] {
        assert_eq!(own(path), Some(1), "{path}");
    }
    assert_eq!(own("/dev/stderr"), Some(2));
    assert_eq!(own(dir.link("a", "/dev/stdout")), Some(1));
    assert_eq!(own(dir.link("b", "a")), Some(1));
    assert_eq!(own(dir.link("c", "../../../../dev/fd/2")), Some(2));
    dir.link("folder", "/proc/self");
    assert_eq!(own(dir.join("folder/fd/7")), Some(7), "open or not");

    assert_eq!(real(dir.link("d", "file")), dir.join("file"));
    assert_eq!(real(dir.link("e", "not-there")), dir.join("not-there"));
    assert_eq!(real(dir.join("1")), dir.join("1"), "a number, and no descriptor");
    assert_eq!(real("/dev/null"), Path::new("/dev/null"));
    for path in ["/dev/fd/01", "/proc/self/fd/01"] {
        assert_eq!(own(path), None, "{path}");
    }
    fs::create_dir(dir.join("x")).unwrap();
    assert_eq!(real(dir.join("./x/../x/../file")), dir.join("file"));
}

#[test]
fn errors_are_those_of_the_system() {
    let dir = Dir::new("errors");
    File::create(dir.join("file")).unwrap();
    let error = |path: &Path| match find(path) {
        Err(error) => error.raw_os_error(),
        Ok(Target::Place(place)) => place.open(Creation::default()).unwrap_err().raw_os_error(),
        Ok(Target::Own(number)) => panic!("our descriptor {number}"),
    };
    assert_eq!(error(&dir.join("no/log")), Some(libc::ENOENT));
    assert_eq!(error(&dir.join("file/log")), Some(libc::ENOTDIR));
    assert_eq!(error(&dir.link("loop", "loop")), Some(libc::ELOOP));
    assert_eq!(error(&dir.link("lost", "no/where")), Some(libc::ENOENT));
    for folder in [&dir.0, &dir.join("."), Path::new("/"), Path::new("/..")] {
        assert_eq!(error(folder), Some(libc::EISDIR), "{folder:?}");
    }
    assert_eq!(error(&dir.join("no/..")), Some(libc::ENOENT));
    assert_eq!(error(&dir.join(&"x".repeat(300))), Some(libc::ENAMETOOLONG));
}

#[test]
fn an_open_file_of_another_process_is_followed_by_the_kernel() {
    let dir = Dir::new("foreign");
    let log = File::create(dir.join("log")).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").stdout(log).spawn().unwrap();
    let path = format!("/proc/{}/fd/1", child.id());
    let place = match find(Path::new(&path)).unwrap() {
        Target::Place(place) => place,
        Target::Own(number) => panic!("our descriptor {number}"),
    };
    assert!(!place.can_be_renamed());
    let through = format!("/proc/{}/cwd/Cargo.toml", child.id());
    assert!(matches!(find(Path::new(&through)), Ok(Target::Place(_))));
    fs::remove_file(dir.join("log")).unwrap();
    io::Write::write_all(&mut place.open(Creation::default()).unwrap(), b"there\n").unwrap();
    let said = fs::read_to_string(&path).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(said, "there\n");
}

/// Each folder of a path counts, not only the last one.
#[test]
fn what_lies_below_a_folder_of_somebody_else_is_in_doubt() {
    if !needs_root() {
        return;
    }
    let dir = Dir::new("below");
    fs::create_dir_all(dir.join("theirs/ours")).unwrap();
    dir.link("theirs/ours/link", "/dev/null");
    dir.link("theirs/ours/../../outside", "theirs/ours/link");
    assert_eq!(real(dir.join("outside")), Path::new("/dev/null"));
    chown(dir.join("theirs"), Some(12_345), Some(12_345)).unwrap();
    for path in ["theirs/ours/link", "outside", "theirs/ours/../ours/link"] {
        let said = find(&dir.join(path)).unwrap_err().to_string();
        let link = dir.join("theirs/ours/link");
        assert_eq!(said, format!("{} is a symbolic link that user id 12345 may have put there", link.display()));
    }
    // A link of our own leads out of it.
    let log = dir.join("theirs/../log");
    assert_eq!(real(log), dir.join("log"));
}

#[test]
fn an_access_control_list_of_a_folder_puts_it_in_doubt() {
    let dir = Dir::new("listed");
    let link = dir.link("link", "/dev/null");
    let set = std::process::Command::new("setfacl").args(["-m", "u:12345:rwx"]).arg(&dir.0).output();
    if !set.is_ok_and(|set| set.status.success()) {
        return left_out("there is no setfacl, or the file system has no access control lists");
    }
    let said = find(&link).unwrap_err().to_string();
    assert!(said.ends_with("that a user of its folder's access control list may have put there"), "{said}");
}

#[test]
fn a_new_file_that_cannot_be_given_away_is_removed() {
    let dir = Dir::new("away");
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
    let Target::Place(place) = find(&dir.join("log")).unwrap() else { panic!("a descriptor") };
    let new = Creation { mode: Some(0o640), uid: Some(u32::MAX - 7), gid: None, folders: false };
    let given = place.open(new);
    match given {
        // Root may give files away.
        Ok(_) => assert!(geteuid().is_root()),
        Err(error) => {
            assert!(error.to_string().starts_with("it cannot be given its owner: "), "{error}");
            assert!(!dir.join("log").exists());
        }
    }
}
