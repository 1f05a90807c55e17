//! Finds and reads the files that make up a configuration: one file with the files that it
//! includes, or all files of a folder. Does not interpret them, but for the key `include`.
//!
//! The one rule: the order is the same at each reading: the file itself, then the included ones in
//! the order of `include`, and by name where a pattern or a folder stands for several.

use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::file_name::FileName;
use super::report::Findings;
use super::source::{self, Source, Unreadable};
use crate::cli::glob;

/// The key that names other files.
pub(super) const INCLUDE: &str = "include";
/// The files of a folder that are read.
const OF_FOLDER: &str = "*.toml";

/// What a file may contain besides processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The file that was named: everything.
    Main,
    /// A file that another one includes: neither `[monitor]` nor `include`.
    Included,
    /// A file of a folder: `[monitor]`, if no other file of the folder has it.
    Part,
}

/// A file that has been read.
#[derive(Debug)]
pub(super) struct Document {
    /// The path in messages.
    pub(super) shown: PathBuf,
    /// Absolute.
    pub(super) path: PathBuf,
    /// The folder that relative paths start from. Absolute.
    pub(super) base: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) role: Role,
    pub(super) warning: Option<String>,
}

impl Document {
    pub(super) fn new(shown: &Path, source: Source, role: Role) -> Self {
        let Source { path, bytes, warning } = source;
        let base = path.parent().unwrap_or(&path).to_owned();
        Self { shown: shown.to_owned(), path, base, bytes, role, warning }
    }
}

/// The file of this name, or the files of the folder, without the files that they include. Also
/// returns the absolute path.
pub(super) fn named(file: &FileName) -> Result<(PathBuf, Vec<Document>), Unreadable> {
    let is_folder = file.is_named() && fs::metadata(file.path()).is_ok_and(|there| there.is_dir());
    if !is_folder {
        let source = source::read(file)?;
        return Ok((source.path.clone(), vec![Document::new(file.path(), source, Role::Main)]));
    }
    let path =
        file.absolute().map_err(|error| Unreadable::new(file.path(), format!("cannot be looked for, as {error}")))?;
    let path = path.path().to_owned();
    let names =
        matching(&path, OF_FOLDER).map_err(|error| Unreadable::new(&path, format!("cannot be read: {error}")))?;
    if names.is_empty() {
        return Err(Unreadable::new(&path, format!("is a directory, and no file in it is named {OF_FOLDER}")));
    }
    let read = |name: &String| {
        let shown = file.path().join(name);
        let source = source::read(&FileName::named(shown.clone()))?;
        Ok(Document::new(&shown, source, Role::Part))
    };
    let documents = names.iter().map(read).collect::<Result<_, _>>()?;
    Ok((path, documents))
}

/// All files of a configuration, with the files that they include.
pub(super) fn all(file: &FileName) -> Result<Vec<Document>, Findings> {
    let (_, mut documents) = named(file).map_err(Findings::unreadable)?;
    let mut findings = Findings::default();
    let mut read: Vec<PathBuf> = Vec::new();
    // Only the first one may include others.
    let patterns = documents.first().map(includes).unwrap_or_default();
    let (base, folder) = match documents.first() {
        Some(main) => (main.base.clone(), main.shown.parent().unwrap_or(Path::new("")).to_owned()),
        None => return Ok(documents),
    };
    for pattern in patterns {
        for path in expanded(&base, &pattern) {
            if read.contains(&path) {
                continue;
            }
            match source::read(&FileName::named(base.join(&path))) {
                Ok(source) => documents.push(Document::new(&folder.join(&path), source, Role::Included)),
                Err(error) => findings.append(Findings::unreadable(Unreadable { path: folder.join(&path), ..error })),
            }
            read.push(path);
        }
    }
    if findings.is_empty() { Ok(documents) } else { Err(findings) }
}

/// The patterns of `include`. Mistakes in the text are reported by the one who interprets it.
fn includes(document: &Document) -> Vec<String> {
    let Ok(text) = source::text(&document.bytes) else { return Vec::new() };
    if document.role != Role::Main || !text.contains(INCLUDE) {
        return Vec::new();
    }
    let (root, _) = DeTable::parse_recoverable(&text);
    let list = root.get_ref().get(INCLUDE).map(|value| value.get_ref());
    let list = list.and_then(DeValue::as_array).into_iter().flatten();
    list.filter_map(|element| element.get_ref().as_str().map(str::to_owned)).collect()
}

/// The paths that a pattern stands for. One that is no pattern is itself, whether there is such a
/// file or not.
fn expanded(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if glob::is_glob(name) => {
            let folder = path.parent().unwrap_or(Path::new(""));
            let names = matching(&base.join(folder), name).unwrap_or_default();
            names.iter().map(|name| folder.join(name)).collect()
        }
        _ => vec![path.to_owned()],
    }
}

/// The names in a folder that match a pattern, sorted. As in a shell, `*` matches no name with a
/// dot in front.
fn matching(folder: &Path, pattern: &str) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if glob::matches(pattern, &name) && name.starts_with('.') == pattern.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
