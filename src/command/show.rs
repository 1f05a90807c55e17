//! Shows what a command is set to: the getters, and the line for a shell.
//!
//! It changes nothing and starts nothing. The one rule: a shell that reads the line gets each byte
//! of each word, and a terminal that shows it gets no control character but newlines and tabs.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Command;

impl Command {
    /// Returns the program as given.
    #[must_use]
    pub fn get_program(&self) -> &OsStr {
        self.0.program()
    }

    /// Returns the arguments, without the program's own name.
    pub fn get_args(&self) -> impl ExactSizeIterator<Item = &OsStr> {
        self.0.args()
    }

    /// Returns the user id that the child runs as, if one was set.
    #[must_use]
    pub fn get_uid(&self) -> Option<u32> {
        self.0.attributes().uid
    }

    /// Returns the group id that the child runs as, if one was set.
    #[must_use]
    pub fn get_gid(&self) -> Option<u32> {
        self.0.attributes().gid
    }

    /// Returns the supplementary groups of the child, if they were set.
    #[must_use]
    pub fn get_groups(&self) -> Option<&[u32]> {
        self.0.attributes().groups.as_deref()
    }

    /// Returns the variables that were set, and with `None` the variables that were removed, in the
    /// order in which that was done first. The rest is inherited unless
    /// [`env_clear`](Self::env_clear) was called: see [`get_env_clear`](Self::get_env_clear).
    ///
    /// ```
    /// use childminder::Command;
    ///
    /// let mut command = Command::new("make");
    /// command.env("CC", "clang").env_remove("MAKEFLAGS");
    /// let envs: Vec<_> = command.get_envs().collect();
    /// assert_eq!(envs, [("CC".as_ref(), Some("clang".as_ref())), ("MAKEFLAGS".as_ref(), None)]);
    /// ```
    pub fn get_envs(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.0.env.iter().map(|(key, value)| (key.as_os_str(), value.as_deref()))
    }

    /// Tells whether the child inherits nothing of the host's environment.
    ///
    /// ```
    /// use childminder::Command;
    ///
    /// assert!(!Command::new("env").get_env_clear());
    /// assert!(Command::new("env").env_clear().get_env_clear());
    /// ```
    #[must_use]
    pub fn get_env_clear(&self) -> bool {
        self.0.env_clear
    }

    /// Returns the working directory of the child, or `None` if it is the host's.
    ///
    /// ```
    /// use childminder::Command;
    ///
    /// assert_eq!(Command::new("ls").get_current_dir(), None);
    /// assert_eq!(Command::new("ls").current_dir("/bin").get_current_dir(), Some("/bin".as_ref()));
    /// ```
    #[must_use]
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.0.current_dir.as_deref()
    }
}

/// Displayed as a line that a POSIX shell runs in the same way: the program and its arguments, and
/// the environment and the directory if they were set. Nothing else of the command is shown: no
/// descriptors, user or limits.
///
/// The shell gets each argument byte by byte, whatever is in it. Newlines and tabs appear as they
/// are, within quotes. Other control characters, and bytes that are not UTF-8, are written as
/// numbers, so that the line is harmless on a terminal. The shell of the user need not find the
/// same program, because its `PATH` may be another one. A NUL byte, with which no command can
/// start, is lost in the shell.
///
/// ```
/// use childminder::Command;
///
/// let mut command = Command::new("grep");
/// command.args(["-r", "it's here", "."]).env("LC_ALL", "C").current_dir("/usr/share/doc");
/// assert_eq!(command.to_string(), r"(cd /usr/share/doc && env LC_ALL=C grep -r 'it'\''s here' .)");
/// ```
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.get_program();
        if let Some(dir) = self.get_current_dir() {
            // A shell looks a name up in `CDPATH`, and takes `-` for an option.
            let here = if dir.is_absolute() { "" } else { "./" };
            write!(f, "(cd {here}{} && ", Word(dir.as_os_str()))?;
        }
        let has_env = self.get_env_clear() || self.get_envs().next().is_some();
        if has_env || OWN.split_ascii_whitespace().any(|own| program == own) {
            self.write_env(f)?;
            if program.as_bytes().contains(&b'=') {
                // `env` would take it for a variable.
                f.write_str("sh -c 'exec \"$0\" \"$@\"' ")?;
            }
        }
        match program.as_bytes().contains(&b'=') {
            // Without quotes it would be an assignment.
            true => Quoted(program).fmt(f)?,
            false => Word(program).fmt(f)?,
        }
        self.get_args().try_for_each(|arg| write!(f, " {}", Word(arg)))?;
        f.write_str(if self.get_current_dir().is_some() { ")" } else { "" })
    }
}

impl Command {
    /// Writes the command `env` with the changes of the environment.
    fn write_env(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.get_env_clear() { "env -i " } else { "env " })?;
        for (key, _) in self.get_envs().filter(|(_, value)| value.is_none()) {
            write!(f, "-u {} ", Word(key))?;
        }
        let set = || self.get_envs().filter_map(|(key, value)| Some((key, value?)));
        if set().any(|(key, _)| key.as_bytes().starts_with(b"-")) {
            f.write_str("-- ")?;
        }
        for (key, value) in set() {
            write!(f, "{}={} ", Word(key), Word(value))?;
        }
        Ok(())
    }
}

/// The words that a shell takes for its own instead of looking for a program: its reserved words
/// and the builtins of the usual shells.
const OWN: &str = "! . : [ [[ alias bg bind break builtin caller case cd command compgen complete \
    continue coproc declare dirs disown do done echo elif else enable esac eval exec exit export false \
    fc fg fi for function getopts hash help history if in jobs kill let local logout mapfile popd printf \
    pushd pwd read readarray readonly return select set shift shopt source suspend test then time times \
    trap true type typeset ulimit umask unalias unset until wait while { }";

/// A word of a shell's command, quoted if it has to be.
struct Word<'a>(&'a OsStr);

/// A word of a shell's command, quoted.
struct Quoted<'a>(&'a OsStr);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./,:=@%+".contains(byte);
        match self.0.to_str() {
            Some(text) if !text.is_empty() && text.bytes().all(|byte| is_plain(&byte)) => f.write_str(text),
            _ => Quoted(self.0).fmt(f),
        }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pieces = Pieces { f, inside: None };
        if self.0.is_empty() {
            pieces.enter(Some(Kind::Text))?;
        }
        for chunk in self.0.as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                pieces.push(character)?;
            }
            chunk.invalid().iter().try_for_each(|byte| pieces.push_number(*byte))?;
        }
        pieces.enter(None)
    }
}

/// The pieces of a quoted word: `'text'"$(printf '\033')"\''more text'`.
struct Pieces<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    inside: Option<Kind>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Numbers,
}

impl Pieces<'_, '_> {
    /// Ends the piece and begins one of this kind, unless it is in one already.
    fn enter(&mut self, kind: Option<Kind>) -> fmt::Result {
        if self.inside == kind {
            return Ok(());
        }
        match self.inside {
            Some(Kind::Text) => self.f.write_str("'")?,
            Some(Kind::Numbers) => self.f.write_str("')\"")?,
            None => {}
        }
        self.inside = kind;
        match kind {
            Some(Kind::Text) => self.f.write_str("'"),
            Some(Kind::Numbers) => self.f.write_str("\"$(printf '"),
            None => Ok(()),
        }
    }

    fn push(&mut self, character: char) -> fmt::Result {
        if character == '\'' {
            self.enter(None)?;
            return self.f.write_str("\\'");
        }
        if character.is_control() && !matches!(character, '\n' | '\t') {
            let mut bytes = [0; 4];
            return character.encode_utf8(&mut bytes).bytes().try_for_each(|byte| self.push_number(byte));
        }
        self.enter(Some(Kind::Text))?;
        self.f.write_char(character)
    }

    /// Writes a byte that must not appear as it is. It is no newline, which the shell would drop at
    /// the end of `$(…)`.
    fn push_number(&mut self, byte: u8) -> fmt::Result {
        self.enter(Some(Kind::Numbers))?;
        write!(self.f, "\\{byte:03o}")
    }
}
