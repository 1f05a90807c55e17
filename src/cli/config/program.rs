//! Checks whether the program of a process could be started now. Starts nothing.
//!
//! The one rule: the search is the same as at the start, in the `PATH` and the folder that the
//! process will have.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::process::Settings;
use super::rights;

/// The `PATH` of a process that has none. The library uses the same.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// The number of bytes of a script that the kernel reads to find its interpreter.
const FIRST_LINE: u64 = 256;

/// The reason why a file cannot be executed.
enum Trouble {
    Missing,
    /// The rest of a sentence about the file, such as "is a directory".
    Other(String),
}

impl Trouble {
    fn into_clause(self) -> String {
        match self {
            Self::Missing => "does not exist".into(),
            Self::Other(clause) => clause,
        }
    }
}

/// The program of these settings and the reason why it cannot be started, if there is one. The
/// check uses the rights of this thread.
pub(super) fn problem(settings: &Settings) -> Option<String> {
    let program = settings.command.first()?;
    find(program, settings).err().map(|problem| format!("{program:?}{problem}"))
}

/// Looks for a program as execvp(3) does. The error is the rest of a sentence about the program.
fn find(program: &OsStr, settings: &Settings) -> Result<(), String> {
    let folder = settings.directory.as_deref().unwrap_or(Path::new(""));
    if program.as_bytes().contains(&b'/') {
        let found = startable(&folder.join(program), settings);
        return found.map_err(|trouble| format!(", which {}", trouble.into_clause()));
    }
    let search_path = search_path(settings);
    let mut first = None;
    for entry in env::split_paths(&search_path) {
        let path = folder.join(entry).join(program);
        match startable(&path, settings) {
            Ok(()) => return Ok(()),
            Err(Trouble::Missing) => {}
            Err(Trouble::Other(clause)) if first.is_none() => {
                first = Some(format!(", found as {path:?}, which {clause}"));
            }
            Err(Trouble::Other(_)) => {}
        }
    }
    Err(first.unwrap_or_else(|| format!(", which is in no folder of its PATH, {}", search_path.to_string_lossy())))
}

/// Whether the supervisor itself finds a program of this name in its `PATH`.
pub(super) fn is_ours(program: &str) -> bool {
    let search_path = env::var_os("PATH").unwrap_or(DEFAULT_PATH.into());
    env::split_paths(&search_path).any(|entry| executable(&entry.join(program)).is_ok())
}

/// The `PATH` that the process will have.
fn search_path(settings: &Settings) -> OsString {
    let own = settings.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.into());
    let inherited = if settings.clear_environment { None } else { env::var_os("PATH") };
    own.or(inherited).unwrap_or(DEFAULT_PATH.into())
}

fn startable(path: &Path, settings: &Settings) -> Result<(), Trouble> {
    executable(path)?;
    // A file that can be executed but not read is a compiled program, because a script has to be
    // readable.
    let Ok(line) = first_line(path) else { return Ok(()) };
    let Some(line) = line.strip_prefix(b"#!") else {
        let is_program = line.starts_with(b"\x7fELF") || !cfg!(target_os = "linux");
        let clause = "is neither a program nor a script with a `#!` line";
        return if is_program { Ok(()) } else { Err(Trouble::Other(clause.into())) };
    };
    interpreter(line, settings).map_err(|clause| Trouble::Other(format!("has the interpreter {clause}")))
}

fn executable(path: &Path) -> Result<(), Trouble> {
    let file = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Trouble::Missing,
        io::ErrorKind::PermissionDenied => match rights::closed_folder(path) {
            Some(folder) => Trouble::Other(format!("{} cannot reach, as it may not enter {folder:?}", rights::who())),
            None => Trouble::Other(format!("{} cannot look at: {error}", rights::who())),
        },
        _ => Trouble::Other(format!("cannot be looked at: {error}")),
    })?;
    let other = |clause: &str| Err(Trouble::Other(clause.into()));
    if file.is_dir() {
        return other("is a directory");
    }
    if !file.is_file() {
        return other("is not a regular file");
    }
    if file.mode() & 0o111 == 0 {
        return other("is not executable");
    }
    if !rights::may_execute(path) {
        return Err(Trouble::Other(format!("{} may not execute", rights::who())));
    }
    Ok(())
}

/// Checks the interpreter in a script's first line. The error names it and says what is wrong with
/// it.
fn interpreter(line: &[u8], settings: &Settings) -> Result<(), String> {
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty()).map(OsStr::from_bytes);
    let Some(interpreter) = words.next() else { return Err("of a `#!` line that names none".into()) };
    let folder = settings.directory.as_deref().unwrap_or(Path::new(""));
    executable(&folder.join(interpreter))
        .map_err(|trouble| format!("{interpreter:?}, which {}", trouble.into_clause()))?;
    if Path::new(interpreter).file_name() != Some(OsStr::new("env")) {
        return Ok(());
    }
    // env(1) looks up the next word in its PATH, unless the word is an option or a variable.
    let Some(program) = words.find(|word| *word != "-S") else { return Ok(()) };
    if program.as_bytes().starts_with(b"-") || program.as_bytes().contains(&b'=') {
        return Ok(());
    }
    find(program, settings).map_err(|problem| format!("{program:?}{problem}"))
}

fn first_line(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut line = Vec::new();
    BufReader::new(file.take(FIRST_LINE)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(line)
}
