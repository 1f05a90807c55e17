//! Looks up users and groups through the C library, from whatever source the host is set up for
//! (files, LDAP). Changes no user.
//!
//! The one rule: every text is copied out of the C library's buffer before a lookup returns.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::command::Command;

/// The settings of a command that need an answer from the system. They are here because the command
/// itself is plain data and asks for nothing.
impl Command {
    /// Runs the child as the user with this name, with that user's group and supplementary groups.
    /// The user is looked up now. If no user has that name, it may be a number, as for `chown(1)`.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such user; otherwise the error of the system's database.
    ///
    /// ```
    /// use childminder::Command;
    ///
    /// assert!(Command::new("id").user("root").is_ok());
    /// assert!(Command::new("id").user("no-such-user").is_err());
    /// ```
    pub fn user(&mut self, name: &str) -> io::Result<&mut Self> {
        let user = by_name_or_number(name)?;
        self.take_on(&user);
        Ok(self)
    }

    /// Runs the child as the user with this name and with that user's environment:
    /// [`user`](Self::user) and [`user_env`](Self::user_env) together, which is what systemd's
    /// `User=` does.
    ///
    /// # Errors
    ///
    /// The errors of [`user`](Self::user). After an error, nothing is changed.
    ///
    /// ```
    /// use childminder::{Command, RunToEnd};
    ///
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "echo $HOME"]).run_as("root")?;
    /// # if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
    /// assert_eq!(RunToEnd::new(&command).run()?.stdout, b"/root\n");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "User=")]
    pub fn run_as(&mut self, name: &str) -> io::Result<&mut Self> {
        let user = by_name_or_number(name)?;
        self.take_on(&user);
        self.take_surroundings(Some(&user));
        Ok(self)
    }

    /// Gives the child the HOME, USER, LOGNAME and SHELL of the user with this name, which may be a
    /// number as for [`user`](Self::user). The user is looked up now. A variable that the command
    /// itself [sets](Self::env) or [removes](Self::env_remove) stays so, whichever call comes
    /// first. Nothing else in the environment changes; start from [`env_clear`](Self::env_clear) to
    /// keep the host's variables out. For a number without an entry in the user database the four
    /// variables are removed, because the host's values do not belong to that user.
    ///
    /// # Errors
    ///
    /// The errors of [`user`](Self::user), except for such a number. After an error, nothing is
    /// changed.
    ///
    /// ```
    /// use childminder::Command;
    ///
    /// let mut command = Command::new("make");
    /// command.env("HOME", "/build").user_env("root")?; // SHELL is root's, HOME is not
    /// assert!(command.user_env("no-such-user").is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn user_env(&mut self, name: &str) -> io::Result<&mut Self> {
        match by_name_or_number(name) {
            Ok(user) => self.take_surroundings(Some(&user)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.parse::<u32>().is_ok() => {
                self.take_surroundings(None);
            }
            Err(error) => return Err(error),
        }
        Ok(self)
    }

    /// Runs the child with the group of this name, which is looked up now. Otherwise it is the same
    /// as [`gid`](Self::gid).
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such group; otherwise the error of the system's database.
    pub fn group(&mut self, name: &str) -> io::Result<&mut Self> {
        Ok(self.gid(group_by_name(name)?))
    }

    fn take_surroundings(&mut self, user: Option<&User>) {
        self.env_by_default("HOME", user.map(|user| &*user.home));
        self.env_by_default("USER", user.map(|user| &*user.name));
        self.env_by_default("LOGNAME", user.map(|user| &*user.name));
        self.env_by_default("SHELL", user.map(|user| &*user.shell));
    }

    fn take_on(&mut self, user: &User) {
        if (user.uid, user.gid) != own_ids() {
            self.groups(&user.groups);
        }
        self.uid(user.uid).gid(user.gid);
    }
}

/// A user with all of its groups.
pub(crate) struct User {
    name: OsString,
    home: OsString,
    shell: OsString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

impl User {
    /// The user's groups, with `gid` in place of the user's own (as for `initgroups(3)`).
    pub(crate) fn groups_with(self, gid: u32) -> Vec<u32> {
        let own = self.gid;
        let mut groups: Vec<_> = self.groups.into_iter().filter(|group| *group != own && *group != gid).collect();
        groups.insert(0, gid);
        groups
    }
}

/// The user with this name or, if there is none, the user with this number.
fn by_name_or_number(name: &str) -> io::Result<User> {
    match (by_name(name), name.parse()) {
        (Err(error), Ok(uid)) if error.kind() == io::ErrorKind::NotFound => by_id(uid),
        (user, _) => user,
    }
}

/// The user with this name.
pub(crate) fn by_name(name: &str) -> io::Result<User> {
    let c_name = CString::new(name)?;
    find(&format!("no user `{name}`"), |entry, buffer, found| {
        // SAFETY: all pointers are to memory that outlives the call, and the length is that of the
        // buffer.
        unsafe { libc::getpwnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), found) }
    })
}

/// The user with this number.
pub(crate) fn by_id(uid: u32) -> io::Result<User> {
    find(
        &format!("user id {uid} has no entry in the user database; set its group and groups, too"),
        |entry, buffer, found| {
            // SAFETY: all pointers are to memory that outlives the call, and the length is that of
            // the buffer.
            unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), found) }
        },
    )
}

/// The number of the group with this name.
pub(crate) fn group_by_name(name: &str) -> io::Result<u32> {
    let c_name = CString::new(name)?;
    let mut buffer = vec![0; 1024];
    let mut entry = MaybeUninit::<libc::group>::zeroed();
    let mut found = ptr::null_mut();
    loop {
        // SAFETY: all pointers are to memory that outlives the call, and the length is that of the
        // buffer.
        let error = unsafe {
            libc::getgrnam_r(c_name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        match error {
            libc::ERANGE if buffer.len() < MAX_ENTRY => buffer.resize(buffer.len() * 4, 0),
            0 if found.is_null() => return Err(io::Error::new(io::ErrorKind::NotFound, format!("no group `{name}`"))),
            // SAFETY: an entry that was found has been filled in.
            0 => return Ok(unsafe { entry.assume_init() }.gr_gid),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The effective user and group of this process.
pub(crate) fn own_ids() -> (u32, u32) {
    // SAFETY: geteuid touches no memory and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: getegid touches no memory and cannot fail.
    let gid = unsafe { libc::getegid() };
    (uid, gid)
}

/// Whether this process may neither execute a file at this path nor enter a folder there.
pub(crate) fn is_denied_to_us(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: `path` is a C string.
    let result = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, super::BY_EFFECTIVE_USER) };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EACCES)
}

/// The largest entry that is read, in bytes. No real entry is larger.
const MAX_ENTRY: usize = 1 << 20;

fn find(
    missing: &str,
    lookup: impl Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> i32,
) -> io::Result<User> {
    let mut buffer = vec![0; 1024];
    let mut entry = MaybeUninit::<libc::passwd>::zeroed();
    let mut found = ptr::null_mut();
    loop {
        match lookup(entry.as_mut_ptr(), &mut buffer, &raw mut found) {
            libc::ERANGE if buffer.len() < MAX_ENTRY => buffer.resize(buffer.len() * 4, 0),
            0 if found.is_null() => return Err(io::Error::new(io::ErrorKind::NotFound, missing)),
            0 => break,
            // getpwnam_r(3) lists these codes as "not found" on some systems, besides 0.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => {
                return Err(io::Error::new(io::ErrorKind::NotFound, missing));
            }
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
    // SAFETY: an entry that was found has been filled in. Its strings are in `buffer`, which still
    // exists.
    let entry = unsafe { entry.assume_init() };
    // SAFETY: pw_name is a C string in `buffer`.
    let name = unsafe { CStr::from_ptr(entry.pw_name) };
    Ok(User {
        name: OsStr::from_bytes(name.to_bytes()).to_owned(),
        // SAFETY: pw_dir is null or a C string in `buffer`.
        home: unsafe { text_or(entry.pw_dir, "/") },
        // SAFETY: pw_shell is null or a C string in `buffer`.
        shell: unsafe { text_or(entry.pw_shell, "/bin/sh") },
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        groups: groups_of(name, entry.pw_gid)?,
    })
}

/// Copies a text of the database. If it is empty, the default of passwd(5) takes its place.
///
/// # Safety
///
/// `text` is null or a pointer to a C string.
unsafe fn text_or(text: *const libc::c_char, default: &str) -> OsString {
    if text.is_null() {
        return default.into();
    }
    // SAFETY: our caller guarantees this, and the null pointer has been handled.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    if bytes.is_empty() { default.into() } else { OsStr::from_bytes(bytes).to_owned() }
}

fn groups_of(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
        // SAFETY: `groups` has room for `count` numbers, and the name is a C string.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid as _, groups.as_mut_ptr().cast(), &raw mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if groups.len() >= MAX_ENTRY {
            return Err(io::Error::other("too many groups"));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_root_and_nobody_else() {
        let root = by_name("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(by_id(0).unwrap().groups, root.groups);
        assert!(root.groups.contains(&0));
        assert_eq!(group_by_name("root").unwrap(), 0);
        for error in [by_name("no-such-user").err(), by_id(4_000_000).err(), group_by_name("no-such-group").err()] {
            assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
        }
        assert!(by_name("nul\0byte").is_err());
    }
}
