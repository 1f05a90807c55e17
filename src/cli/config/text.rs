//! Warns of variables and placeholders in texts where nothing replaces them. Pure: only the text is
//! an input.
//!
//! The one rule: there is no warning where another program may replace them, such as a shell in the
//! command.

use std::ops::Range;

use toml::de::DeValue;

use super::expand::literal_dollar;
use super::report::{Report, nearest};
use super::section::Section;

/// Programs that take a script after an option such as `-c`. The names are without the digits of a
/// version.
const INTERPRETERS: &[&str] = &[
    "sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "tcsh", "zsh", "su", "runuser", "script",
    "flock", "node", "perl", "php", "python", "ruby", "tclsh",
];
/// Programs that interpret `$` and `{}` in any of their arguments.
const READERS: &[&str] =
    &["awk", "gawk", "mawk", "envsubst", "expect", "jq", "make", "parallel", "sed", "ssh", "tmux", "watch"];

/// The kind of program that reads a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A program that replaces nothing, or the system itself.
    Plain,
    /// A shell or another interpreter.
    Script,
    /// The file itself, in which variables are replaced.
    Expanded,
}

/// Warns of the texts in one table. `numbered` says whether the table has `instances`.
pub(super) fn table(report: &mut Report<'_>, section: &Section<'_>, numbered: bool) {
    let value = |key| section.value(key).map(|value| (value.span(), value.get_ref()));
    let mut see = |(span, value): (Range<usize>, &DeValue<'_>), kind| {
        if let Some(text) = value.as_str() {
            check(report, &span, text, kind, numbered);
        }
    };
    let command = value("command").and_then(|(_, command)| command.as_array());
    let (mut behind_interpreter, mut behind_reader, mut behind_option) = (false, false, false);
    for part in command.into_iter().flatten() {
        let is_script = behind_reader || behind_interpreter && behind_option;
        see((part.span(), part.get_ref()), if is_script { Kind::Script } else { Kind::Plain });
        let text = part.get_ref().as_str().unwrap_or_default();
        behind_interpreter |= INTERPRETERS.contains(&name_of(text));
        behind_reader |= READERS.contains(&name_of(text));
        behind_option = takes_script(text);
    }
    value("shell").into_iter().for_each(|shell| see(shell, Kind::Script));
    value("directory").into_iter().for_each(|directory| see(directory, Kind::Plain));
    for (_, variable) in value("environment").and_then(|(_, table)| table.as_table()).into_iter().flatten() {
        see((variable.span(), variable.get_ref()), Kind::Expanded);
    }
    if let Some((span, files)) = value("environment-file") {
        see((span, files), Kind::Plain);
        for file in files.as_array().into_iter().flatten() {
            see((file.span(), file.get_ref()), Kind::Plain);
        }
    }
    for output in ["stdout", "stderr"].into_iter().filter_map(value) {
        let file = output.1.as_table().and_then(|table| table.get("file"));
        see(file.map_or(output, |file| (file.span(), file.get_ref())), Kind::Plain);
    }
}

/// Warns of a path in `[monitor]`.
pub(super) fn path(report: &mut Report<'_>, span: &Range<usize>, path: &str) {
    check(report, span, path, Kind::Plain, false);
}

/// Warns of a path of a table. `numbered` says whether the table has `instances`.
pub(super) fn numbered_path(report: &mut Report<'_>, span: &Range<usize>, path: &str, numbered: bool) {
    check(report, span, path, Kind::Plain, numbered);
}

fn check(report: &mut Report<'_>, span: &Range<usize>, text: &str, kind: Kind, numbered: bool) {
    let mut warn = |what: &str, why: &str| report.warn(span.clone(), format!("`{what}` stays as it is written: {why}"));
    match kind {
        Kind::Plain => {
            if let Some(variable) = variable(text) {
                warn(&variable.escape_debug().to_string(), "only `shell` and `environment` replace variables");
            }
        }
        Kind::Expanded => {
            if let Some(dollar) = literal_dollar(text) {
                warn(&dollar, "only `$NAME` and `${NAME:-DEFAULT}` are replaced; `$$` is a dollar");
            }
        }
        Kind::Script => {}
    }
    if kind != Kind::Script && (text == "~" || text.starts_with("~/")) {
        warn("~", "only `shell` replaces it");
    }
    let placeholder = placeholders(text).find(|name| match *name {
        "instance" => !numbered,
        name => kind != Kind::Script || nearest(&name.to_ascii_lowercase(), &["instance"]).is_some(),
    });
    match placeholder {
        None => {}
        Some("instance") => warn("{instance}", "the table has no `instances`"),
        Some(name) => warn(&format!("{{{name}}}"), "only `{instance}` is replaced"),
    }
}

/// The name of a program, without its folder and the digits of its version.
fn name_of(program: &str) -> &str {
    let name = program.rsplit('/').next().unwrap_or_default();
    name.trim_end_matches(|char: char| char.is_ascii_digit() || char == '.')
}

/// Whether the argument after this one is a script for an interpreter: `-c`, `-e`, `-lc`.
fn takes_script(option: &str) -> bool {
    let is_short = option.starts_with('-') && option.ends_with(['c', 'e', 'r']) && !option.starts_with("--");
    is_short || ["--eval", "--command"].contains(&option)
}

/// The first shell variable in a text: `$NAME` in capitals, or anything of the form `${NAME}`.
pub(super) fn variable(text: &str) -> Option<&str> {
    text.match_indices('$').find_map(|(at, _)| {
        let rest = &text[at + 1..];
        if text[..at].ends_with(['\\', '$']) {
            return None;
        }
        let length = match rest.strip_prefix('{') {
            Some(inner) => inner.starts_with(is_first).then(|| inner.find('}')).flatten().map(|end| end + 2),
            None => Some(word(rest)).filter(|name| !name.contains(|c: char| c.is_ascii_lowercase())).map(str::len),
        };
        length.filter(|length| *length > 0).map(|length| &text[at..at + 1 + length])
    })
}

/// The names within `{name}`, except in `${name}`, `%{name}` and the like, which mean something
/// else.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('{').filter_map(|(at, _)| {
        let (name, after) = text[at + 1..].split_once('}')?;
        let is_name = name.starts_with(is_first) && name.chars().all(|c| is_part(c) || c == '-');
        let is_other = text[..at].ends_with(['$', '%', '#', '{', '\\']) || after.starts_with('}');
        (is_name && !is_other).then_some(name)
    })
}

/// The name of a variable at the start of a text. It is empty if there is none.
fn word(text: &str) -> &str {
    let end = text.find(|char| !is_part(char)).unwrap_or(text.len());
    if text.starts_with(is_first) { &text[..end] } else { "" }
}

fn is_first(char: char) -> bool {
    char.is_ascii_alphabetic() || char == '_'
}

fn is_part(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_variable_when_it_sees_one() {
        for (text, found) in [
            ("$HOME", Some("$HOME")),
            ("a:$A_1/b", Some("$A_1")),
            ("$5 $$ $ $X", Some("$X")),
            ("${x}", Some("${x}")),
            ("x${X:-y z}", Some("${X:-y z}")),
            ("ß$ÄX", None),
            ("pa$word", None),
            ("$Word", None),
            ("$2b$12$Kix3", None),
            ("$$HOME \\$HOME \\${x} $${x}", None),
            ("${", None),
            ("${}", None),
            ("${1}", None),
            ("$", None),
            ("", None),
        ] {
            assert_eq!(variable(text), found, "{text:?}");
        }
    }

    #[test]
    fn knows_a_placeholder_when_it_sees_one() {
        for (text, found) in [
            ("{a}{b-c}", &["a", "b-c"][..]),
            ("x{instance}", &["instance"]),
            ("{} { a } {a,b} {1} {a b} {\"a\":1}", &[]),
            ("${a} %{a} #{a} {{a}} \\{a}", &[]),
            ("{a", &[]),
            ("{ß}", &[]),
        ] {
            assert_eq!(placeholders(text).collect::<Vec<_>>(), found, "{text:?}");
        }
    }

    #[test]
    fn knows_who_reads_scripts() {
        for (program, name) in
            [("sh", "sh"), ("/bin/bash", "bash"), ("python3.13", "python"), ("php8", "php"), ("3", "")]
        {
            assert_eq!(name_of(program), name, "{program}");
        }
        assert!(["-c", "-elc", "-e", "-r", "--eval"].into_iter().all(takes_script));
        assert!(!["", "-", "c", "-x", "--cc", "-cx"].into_iter().any(takes_script));
    }
}
