//! Writes single values as TOML: strings, outputs, limits, steps. Knows no keys but those of the
//! tables that are values.
//!
//! The one rule: what is written reads back as the same value.

use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};

use childminder::Limit;
use childminder::restart::StartLimit;

use super::process::{Look, Output, Rotation};
use super::value::{Id, show_duration, show_max_size};
use crate::cli::safe_path::Creation;

/// As lines of a table. What is not said has no line.
impl Display for Look {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.timestamps {
            Some(Some(stamp)) => writeln!(f, "timestamps = \"{}\"", stamp.name())?,
            Some(None) => writeln!(f, "timestamps = false")?,
            None => {}
        }
        match self.json {
            Some(json) => writeln!(f, "format = \"{}\"", if json { "json" } else { "text" }),
            None => Ok(()),
        }
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => f.write_str("\"prefix\""),
            Self::Null => f.write_str("\"null\""),
            Self::Inherit => f.write_str("\"inherit\""),
            Self::File { path, new, rotation } => {
                let path = path.to_string_lossy();
                write!(f, "{{ file = {}{}{} }}", Quoted(&path), show_rotation(*rotation), show_creation(*new))
            }
            Self::Direct { path, new } => {
                let path = path.to_string_lossy();
                write!(f, "{{ file = {}, direct = true{} }}", Quoted(&path), show_creation(*new))
            }
        }
    }
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => Quoted(name).fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

pub(super) fn show_words(words: &[OsString]) -> String {
    join(words.iter().map(|word| Quoted(&word.to_string_lossy()).to_string()))
}

pub(super) fn show_start_limit(limit: StartLimit) -> String {
    format!("{{ starts = {}, within = \"{}\" }}", limit.starts, show_duration(limit.within))
}

fn show_rotation(Rotation { max_size, keep, max_age, compress }: Rotation) -> String {
    let mut text = format!(", max-size = \"{}\", keep = {keep}", show_max_size(max_size));
    if let Some(age) = max_age {
        text += &format!(", max-age = \"{}\"", show_duration(age));
    }
    if compress {
        text += ", compress = true";
    }
    text
}

pub(super) fn show_creation(new: Creation) -> String {
    let mut text = new.mode.map(|mode| format!(", mode = \"{mode:04o}\"")).unwrap_or_default();
    if new.folders {
        text += ", make-folders = true";
    }
    let uid = new.uid.map(|uid| uid.to_string());
    let gid = new.gid.map(|gid| format!(":{gid}"));
    if uid.is_some() || gid.is_some() {
        text += &format!(", owner = \"{}{}\"", uid.unwrap_or_default(), gid.unwrap_or_default());
    }
    text
}

pub(super) fn show_limit(limit: Limit) -> String {
    let one = |value: Option<u64>| match value {
        None => "\"unlimited\"".to_owned(),
        // An integer of TOML has only 63 bits without the sign.
        Some(value) if i64::try_from(value).is_err() => format!("\"{value}\""),
        Some(value) => value.to_string(),
    };
    if limit.soft == limit.hard {
        one(limit.soft)
    } else {
        format!("{{ soft = {}, hard = {} }}", one(limit.soft), one(limit.hard))
    }
}

pub(super) fn join(parts: impl Iterator<Item = impl Display>) -> String {
    parts.map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

/// A TOML string.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}
