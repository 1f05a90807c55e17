//! The instances of a table: their numbers and their names, and what is written with the number of
//! an instance in it. Checks nothing.
//!
//! The one rule: without a number, a text stays as it is written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::paths;

/// The placeholder for the number of an instance.
const INSTANCE: &str = "{instance}";

/// The numbers of a table's instances, or a single `None` if the table sets no `instances`.
pub(super) fn numbers(instances: Option<u32>) -> impl Iterator<Item = Option<u32>> {
    let none = instances.is_none().then_some(None);
    (1..=instances.unwrap_or(0)).map(Some).chain(none)
}

/// The name of one instance.
pub(super) fn numbered(name: &str, instance: Option<u32>) -> String {
    instance.map_or_else(|| name.to_owned(), |number| format!("{name}:{number}"))
}

pub(super) fn expand(text: &str, instance: Option<u32>) -> String {
    instance.map_or_else(|| text.to_owned(), |number| text.replace(INSTANCE, &number.to_string()))
}

/// The path of one instance.
pub(super) fn expand_path(path: &Path, base: &Path, instance: Option<u32>) -> PathBuf {
    paths::resolve(base, Path::new(&expand(&path.to_string_lossy(), instance)))
}

/// The program of one instance. A program with a slash in it becomes an absolute path. Any other
/// stays a name that the process looks up in its `PATH`.
pub(super) fn expand_program(program: &str, base: &Path, instance: Option<u32>) -> OsString {
    match program.contains('/') {
        true => expand_path(Path::new(program), base, instance).into(),
        false => expand(program, instance).into(),
    }
}

/// The program of one instance with its arguments.
pub(super) fn expand_words(words: &[String], base: &Path, instance: Option<u32>) -> Arc<Vec<OsString>> {
    let (program, args) = words.split_first().map_or((None, &[][..]), |(program, args)| (Some(program), args));
    let program = program.map(|program| expand_program(program, base, instance));
    Arc::new(program.into_iter().chain(args.iter().map(|arg| expand(arg, instance).into())).collect())
}
