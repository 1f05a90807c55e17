//! Warns of what may keep a process from running although the file has no mistakes. Such a problem
//! depends on the machine, and may be solved before the start. Changes nothing that stays.
//!
//! The one rule: a warning concerns one process or one of its files, and `up` starts all the
//! others.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use childminder::{Command, Contain, Reactor, Strength};

use super::instances::numbers;
use super::process::{Output, Settings};
use super::report::{Report, describe};
use super::section::Section;
use super::table::Table;
use super::{program, rights, text};
use crate::cli::safe_path::Creation;
use crate::cli::{safe_path, words};

/// What follows if there is no socket.
const NO_CLIENT: &str = "no client reaches `up` until it can be made";

/// Adds the warnings about one table.
pub(super) fn table(report: &mut Report<'_>, section: &Section<'_>, table: &Table, base: &Path) {
    text::table(report, section, table.instances.is_some());
    rights(report, section, &table.settings);
    // Each key is reported once for all instances.
    let mut told = Vec::new();
    let mut last = None;
    for instance in numbers(table.instances) {
        let settings = table.settings.expand(base, instance);
        if last.as_ref() == Some(&settings) {
            continue;
        }
        for (key, message) in problems(section, &settings) {
            if let (false, Some(span)) = (told.contains(&key), place(section, key)) {
                told.push(key);
                report.warn(span, message);
            }
        }
        last = Some(settings);
    }
}

/// The place of a message about the value of a key. For `command`, it is the program.
fn place(section: &Section<'_>, key: &str) -> Option<Range<usize>> {
    let value = section.value(key)?;
    let program = || value.get_ref().as_array()?.iter().next();
    Some(program().unwrap_or(value).span())
}

fn problems(section: &Section<'_>, settings: &Settings) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    let command = if section.value("shell").is_some() { "shell" } else { "command" };
    let (program, closed) = rights::as_user_of(settings, || {
        let closed = settings.directory.as_ref().is_some_and(|directory| !rights::may_enter(directory));
        (program::problem(settings), closed.then(rights::who))
    });
    if let Some(problem) = program {
        problems.push((command, format!("`{command}` starts {problem}")));
    }
    if let Some(directory) = &settings.directory {
        let ours = || (!rights::may_enter(directory)).then(|| format!("may not be entered by {}", rights::who()));
        // The supervisor's rights are used to enter the folder.
        let message = match (folder_problem(directory).or_else(ours), closed) {
            (Some(problem), _) => Some(format!("{problem}: the process cannot be started there")),
            (None, Some(who)) => Some(format!(
                "may not be entered by {who}: the process is started there, and may not open anything in it"
            )),
            (None, None) => None,
        };
        if let Some(message) = message {
            problems.push(("directory", format!("`directory` is {directory:?}, which {message}")));
        }
    }
    if let Some(path) = settings.stdin.path() {
        if let Err(error) = safe_path::open_to_read(path) {
            let message = format!("`stdin` is the file {path:?}, which cannot be read: {error}");
            problems.push(("stdin", format!("{message}: the process cannot be started until it can")));
        }
    }
    for (key, output) in [("stdout", &settings.stdout), ("stderr", &settings.stderr)] {
        if let (Some(path), Some(problem)) = (output.path(), output_problem(output)) {
            problems.push((key, format!("`{key}` is the file {path:?}, and {problem}")));
        } else if matches!(output, Output::File { rotation, .. } if rotation.compress) && !program::is_ours("gzip") {
            let problem = "there is no program `gzip` in PATH: rotated files stay as they are";
            problems.push((key, format!("`{key}` has `compress = true`, and {problem}")));
        }
    }
    problems
}

/// The problem with a folder, if any, as the rest of a sentence.
fn folder_problem(folder: &Path) -> Option<String> {
    match fs::metadata(folder) {
        Ok(there) if there.is_dir() => None,
        Ok(_) => Some("is not a directory".into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("does not exist".into()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Some("is not a directory".into()),
        Err(error) => Some(format!("cannot be looked at ({error})")),
    }
}

/// The reason why an output file cannot be written, if there is one, and its consequence.
fn output_problem(output: &Output) -> Option<String> {
    let path = output.path()?;
    let folder = path.parent()?;
    let who = rights::who();
    let is_made = output.creation().folders && !folder.exists();
    let problem = if let Some(problem) = folder_problem(folder).filter(|_| !is_made) {
        format!("its folder {problem}")
    } else if let Some(refusal) = safe_path::refusal(path, output.creation()) {
        refusal
    } else if !rights::may_give(output.creation()) {
        format!("{who} may not make files with its `owner`")
    } else if path.is_dir() {
        "it is a directory".into()
    } else if path.exists() {
        if !rights::may_write(path) {
            format!("{who} may not write to it")
        } else if matches!(output, Output::File { .. }) && path.is_file() && !rights::may_make_files_in(folder) {
            return Some(format!("{who} may not make files in its folder: it cannot be rotated"));
        } else {
            return None;
        }
    } else if !is_made && !rights::may_make_files_in(folder) {
        format!("{who} may not make files in its folder")
    } else {
        return None;
    };
    Some(match output {
        Output::Direct { .. } => format!("{problem}: the process cannot be started until it can be written"),
        _ => format!("{problem}: its {}", words::LINES_WAIT),
    })
}

/// Warns of a user, a group or a limit that a process cannot be given.
fn rights(report: &mut Report<'_>, section: &Section<'_>, settings: &Settings) {
    let found = |key| section.value(key).map(|value| (value.span(), describe(value.get_ref())));
    if let Some((key, what)) = rights::change_of_user(settings) {
        if let Some((span, found)) = found(key) {
            report.warn(span, format!("`{key}` is {found}, and {} may not {what}", rights::who()));
        }
    }
    if let (true, Some((span, found))) = (rights::lacks_group(settings), found("user")) {
        let message = format!("`user` is {found}, which is not in the user database: it needs a `group`, too");
        report.warn(span, message);
    }
    let limits = section.value("limits").and_then(|limits| limits.get_ref().as_table());
    for (resource, limit) in &settings.limits {
        let value = limits.and_then(|limits| limits.get(resource.name()));
        if let (Some(own), Some(value)) = (rights::lower_hard_limit(*resource, *limit), value) {
            let (name, found) = (resource.name(), describe(value.get_ref()));
            let message = format!("`{name}` is {found}, and {} may not raise it above {own}", rights::who());
            report.warn(value.span(), message);
        }
    }
}

/// The reason why no process can have a cgroup here, if there is one. `parent` is the directory
/// that the file sets. The check makes a directory and removes it.
pub(super) fn no_cgroup(parent: Option<&Path>) -> Option<String> {
    let mut reactor = Reactor::new().ok()?;
    if let Some(parent) = parent {
        reactor.set_cgroup_parent(parent);
    }
    let containment = reactor.containment(Command::new("").contain(Contain::Cgroup));
    if containment.strength() == Strength::Cgroup { None } else { containment.reason().map(str::to_owned) }
}

/// The reason why a socket on which a process listens cannot be made, if there is one.
pub(super) fn listener_problem(path: &Path, new: Creation) -> Option<String> {
    let folder = path.parent()?;
    let no_socket = fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket());
    if no_socket {
        Some("there is a file already, which is no socket".into())
    } else if let Some(problem) = folder_problem(folder) {
        Some(format!("its folder {problem}"))
    } else if !rights::may_make_files_in(folder) {
        Some(format!("{} may not make files in its folder", rights::who()))
    } else if !rights::may_give(new) {
        Some(format!("{} may not make files with its `owner`", rights::who()))
    } else {
        None
    }
}

/// Adds a mistake if there is another file at the path of the socket, and a warning if the socket
/// cannot be made there now. `what` names the socket in the message.
pub(super) fn socket(report: &mut Report<'_>, span: Range<usize>, what: &str, path: &Path) {
    let folder = path.parent().unwrap_or(path);
    let no_socket = fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket());
    if no_socket {
        report.add(span, format!("{what} is {path:?}, and there is a file already, which is no socket"));
    } else if let Some(problem) = folder_problem(folder) {
        report.warn(span, format!("{what} is {path:?}, and its folder {problem}: {NO_CLIENT}"));
    } else if !rights::may_make_files_in(folder) {
        let who = rights::who();
        report.warn(span, format!("{what} is {path:?}, and {who} may not make files in its folder: {NO_CLIENT}"));
    }
}
