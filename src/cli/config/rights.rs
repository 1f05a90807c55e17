//! The rights of the user who runs this command. Changes nothing.
//!
//! The one rule: the system is asked, and no right is guessed from owners and modes.

use std::path::Path;

use childminder::{Command, Limit, Resource};
use rustix::fs::{Access, access};
use rustix::process::{getegid, geteuid, getgroups, getrlimit};

use super::Settings;
use super::value::Id;
use crate::cli::safe_path::Creation;

/// The name of this user in messages.
pub(super) fn who() -> String {
    format!("user id {}", geteuid().as_raw())
}

pub(super) fn may_execute(file: &Path) -> bool {
    access(file, Access::EXEC_OK).is_ok()
}

pub(super) fn may_enter(folder: &Path) -> bool {
    access(folder, Access::EXEC_OK).is_ok()
}

pub(super) fn may_write(file: &Path) -> bool {
    access(file, Access::WRITE_OK).is_ok()
}

pub(super) fn may_make_files_in(folder: &Path) -> bool {
    access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether this user may make files of this owner.
pub(super) fn may_give(new: Creation) -> bool {
    let is_own_user = new.uid.is_none_or(|uid| uid == geteuid().as_raw());
    let is_own_group = new.gid.is_none_or(|gid| {
        gid == getegid().as_raw() || getgroups().is_ok_and(|groups| groups.iter().any(|own| own.as_raw() == gid))
    });
    geteuid().is_root() || is_own_user && is_own_group
}

/// The key that asks for a change of user or groups that only root may make, and the change in
/// words.
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

/// This process's own hard limit, if it is lower than the wanted one and may not be raised.
pub(super) fn lower_hard_limit(resource: Resource, limit: Limit) -> Option<u64> {
    if geteuid().is_root() {
        return None;
    }
    hard_limit(resource).filter(|own| limit.hard.is_none_or(|wanted| wanted > *own))
}

/// This process's own hard limit; `None` is no limit.
fn hard_limit(resource: Resource) -> Option<u64> {
    use rustix::process::Resource as Raw;
    let raw = match resource {
        Resource::AddressSpace => Raw::As,
        Resource::Core => Raw::Core,
        Resource::Cpu => Raw::Cpu,
        Resource::Data => Raw::Data,
        Resource::FileSize => Raw::Fsize,
        Resource::Memlock => Raw::Memlock,
        Resource::OpenFiles => Raw::Nofile,
        Resource::Processes => Raw::Nproc,
        Resource::ResidentSet => Raw::Rss,
        Resource::Stack => Raw::Stack,
        // The limits that only Linux has.
        _ => return None,
    };
    getrlimit(raw).maximum
}
