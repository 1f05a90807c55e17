//! What the user who runs this may do, and who that is. Changes nothing.
//!
//! The one rule: it asks the system, except where root may do everything that a setting can ask for.

use std::path::Path;

use childminder::{Command, Limit, Resource};
use rustix::fs::{Access, access};
use rustix::process::{getegid, geteuid, getrlimit};

use super::Settings;
use super::value::Id;

/// Who runs this, for a message.
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

/// The key that asks for another user or group than only root can give a process, and what it would take.
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

/// Whether the user is a number that needs a `group` beside it, because the user database does not know it.
pub(super) fn lacks_group(settings: &Settings) -> bool {
    match (&settings.user, &settings.group) {
        (Some(Id::Number(uid)), None) if *uid != geteuid().as_raw() => Command::new("").user(&uid.to_string()).is_err(),
        _ => false,
    }
}

/// The hard limit that keeps a process from being given this one, if anything does.
pub(super) fn lower_hard_limit(resource: Resource, limit: Limit) -> Option<u64> {
    if geteuid().is_root() {
        return None;
    }
    hard_limit(resource).filter(|own| limit.hard.is_none_or(|wanted| wanted > *own))
}

/// Our own hard limit, if there is one.
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
        // Those of one system alone.
        _ => return None,
    };
    getrlimit(raw).maximum
}
