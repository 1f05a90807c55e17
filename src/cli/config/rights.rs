//! The rights of the user who runs this command, and of the users of processes. Changes no file.
//!
//! The one rule: every answer comes from the system, and none is guessed from owners and modes.

use std::path::Path;

use childminder::{Command, Limit, Resource};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{Gid, Uid, getegid, geteuid, getgid, getgroups, getuid};

use super::process::Settings;
use super::value::Id;
use crate::cli::safe_path::Creation;

/// The name of this user in messages.
pub(super) fn who() -> String {
    format!("user id {}", geteuid().as_raw())
}

pub(super) fn may_execute(file: &Path) -> bool {
    may(file, Access::EXEC_OK)
}

pub(super) fn may_enter(folder: &Path) -> bool {
    may(folder, Access::EXEC_OK)
}

pub(super) fn may_write(file: &Path) -> bool {
    may(file, Access::WRITE_OK)
}

pub(super) fn may_make_files_in(folder: &Path) -> bool {
    may(folder, Access::WRITE_OK | Access::EXEC_OK)
}

/// Android cannot ask for the rights of the effective user.
#[cfg(not(target_os = "android"))]
const BY_EFFECTIVE_USER: AtFlags = AtFlags::EACCESS;
#[cfg(target_os = "android")]
const BY_EFFECTIVE_USER: AtFlags = AtFlags::empty();

fn may(path: &Path, access: Access) -> bool {
    match accessat(CWD, path, access, BY_EFFECTIVE_USER) {
        // Linux before 5.8 can only answer for the real user, and a sandbox may refuse the newer
        // call by either of these.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let is_real = getuid() == geteuid() && getgid() == getegid();
            !is_real || accessat(CWD, path, access, AtFlags::empty()).is_ok()
        }
        result => result.is_ok(),
    }
}

/// The first folder on the way to a file that this user may not enter.
pub(super) fn closed_folder(file: &Path) -> Option<&Path> {
    let folders: Vec<_> = file.ancestors().skip(1).collect();
    folders.into_iter().rev().find(|folder| folder.is_dir() && !may_enter(folder))
}

/// The user and the groups of a process.
struct Ids {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Ids {
    /// `None` if the process has the same ids as this command, or if its ids cannot be determined.
    fn of(settings: &Settings) -> Option<Self> {
        if settings.user.is_none() && settings.group.is_none() && settings.groups.is_none() {
            return None;
        }
        let mut entry = Command::new("");
        let of_user = settings.user.as_ref().map(|user| (user.uid(), entry.user(&user.to_text())));
        let (uid, gid, mut groups) = match of_user {
            None => (geteuid().as_raw(), getegid().as_raw(), Vec::new()),
            Some((_, Ok(entry))) => (entry.get_uid()?, entry.get_gid()?, entry.get_groups()?.to_vec()),
            // A user without an entry needs a group.
            Some((uid, Err(_))) => (uid.ok()?, settings.group.as_ref()?.gid().ok()?, Vec::new()),
        };
        let given = settings.group.as_ref().map(Id::gid).transpose().ok()?;
        if given.is_some() {
            groups.retain(|group| *group != gid);
        }
        if let Some(given) = &settings.groups {
            groups = given.iter().map(Id::gid).collect::<Result<_, _>>().ok()?;
        }
        Some(Self { uid, gid: given.unwrap_or(gid), groups })
    }
}

/// Calls `ask` with the rights that a process of these settings will have, as far as this command
/// may take them on; otherwise with its own.
///
/// Only the effective user of this thread changes meanwhile, so that the other user cannot send
/// signals to it.
#[cfg(target_os = "linux")]
pub(super) fn as_user_of<T>(settings: &Settings, ask: impl FnOnce() -> T) -> T {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let Some(Ids { uid, gid, groups }) = Ids::of(settings).filter(|_| geteuid().is_root()) else { return ask() };
    let Ok(own_groups) = getgroups() else { return ask() };
    let (own_uid, own_gid) = (geteuid(), getegid());
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    if set_thread_groups(&groups).is_err() {
        return ask();
    }
    // If one of these calls is refused, the check uses the rights that this thread has by then.
    let _ = set_thread_res_gid(own_gid, Gid::from_raw(gid), own_gid)
        .and_then(|()| set_thread_res_uid(own_uid, Uid::from_raw(uid), own_uid));
    let answer = ask();
    set_thread_res_uid(own_uid, own_uid, own_uid)
        .and_then(|()| set_thread_res_gid(own_gid, own_gid, own_gid))
        .and_then(|()| set_thread_groups(&own_groups))
        .expect("the real user may become the effective one again");
    answer
}

#[cfg(not(target_os = "linux"))]
pub(super) fn as_user_of<T>(_: &Settings, ask: impl FnOnce() -> T) -> T {
    ask()
}

/// Whether this user may make files with this owner.
pub(super) fn may_give(new: Creation) -> bool {
    let is_own_user = new.uid.is_none_or(|uid| uid == geteuid().as_raw());
    let is_own_group = new.gid.is_none_or(|gid| {
        gid == getegid().as_raw() || getgroups().is_ok_and(|groups| groups.iter().any(|own| own.as_raw() == gid))
    });
    geteuid().is_root() || is_own_user && is_own_group
}

/// The key that asks for a change of user or groups that only root may make, and a description of
/// the change.
pub(super) fn change_of_user(settings: &Settings) -> Option<(&'static str, &'static str)> {
    if geteuid().is_root() {
        return None;
    }
    let mut command = Command::new("");
    settings.apply_user(&mut command).ok()?;
    if command.get_uid().is_some_and(|uid| uid != geteuid().as_raw()) {
        return Some(("user", "become another user"));
    }
    if command.get_gid().is_some_and(|gid| gid != getegid().as_raw()) {
        return Some((if settings.group.is_some() { "group" } else { "user" }, "take on another group"));
    }
    settings.groups.is_some().then_some(("groups", "change its groups"))
}

/// Whether the user is a number without an entry in the user database, and no `group` is given.
pub(super) fn lacks_group(settings: &Settings) -> bool {
    match (&settings.user, &settings.group) {
        (Some(Id::Number(uid)), None) if *uid != geteuid().as_raw() => Command::new("").user(&uid.to_string()).is_err(),
        _ => false,
    }
}

/// This process's own hard limit, if it is lower than the wanted one and this user may not raise
/// it.
pub(super) fn lower_hard_limit(resource: Resource, limit: Limit) -> Option<u64> {
    if geteuid().is_root() {
        return None;
    }
    // A sandbox may refuse the question.
    let own = resource.current_limit().ok()?.hard;
    own.filter(|own| limit.hard.is_none_or(|wanted| wanted > *own))
}
