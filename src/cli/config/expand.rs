//! Replaces variables in the values of `environment`. Pure: the caller looks the variables up.
//!
//! The one rule: `$$` is a dollar, `$NAME` and `${NAME}` are the value of a variable that must be
//! set, `${NAME:-default}` has a default for one that is not set or empty, and any other `$` stays.

use std::borrow::Cow;

/// The reason why a text cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// This variable is not set.
    Unset(String),
    /// A `${` that is not followed by a name and its end.
    Unclosed,
}

/// The text with its variables replaced.
pub(super) fn expand<'a>(text: &'a str, look_up: &dyn Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, Problem> {
    if !text.contains('$') {
        return Ok(text.into());
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded += before;
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let name = name_at(inner);
            let end = if name.is_empty() { None } else { end_of_brace(inner) };
            let end = end.ok_or(Problem::Unclosed)?;
            let value = look_up(name);
            match (&inner[name.len()..end], value) {
                ("", Some(value)) => expanded += &value,
                ("", None) => return Err(Problem::Unset(name.to_owned())),
                (default, value) => {
                    let default = default.strip_prefix(":-").ok_or(Problem::Unclosed)?;
                    match value.filter(|value| !value.is_empty()) {
                        Some(value) => expanded += &value,
                        None => expanded += &expand(default, look_up)?,
                    }
                }
            }
            rest = &inner[end + 1..];
        } else {
            let name = name_at(rest);
            match look_up(name) {
                _ if name.is_empty() => expanded.push('$'),
                Some(value) => expanded += &value,
                None => return Err(Problem::Unset(name.to_owned())),
            }
            rest = &rest[name.len()..];
        }
    }
    expanded += rest;
    Ok(expanded.into())
}

/// A `$` that stays as it is, with the character behind it, although a shell would replace it.
pub(super) fn literal_dollar(text: &str) -> Option<String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        let next = after.chars().next();
        match next {
            Some('$') => rest = &after[1..],
            Some(next) if "(0123456789@*#?-!".contains(next) => return Some(format!("${next}")),
            _ => rest = after,
        }
    }
    None
}

/// The name of a variable at the start of a text. It is empty if there is none.
fn name_at(text: &str) -> &str {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let end = text.find(|char| !is_part(char)).unwrap_or(text.len());
    if text.starts_with(|char: char| char.is_ascii_digit()) { "" } else { &text[..end] }
}

/// The place of the brace that closes a `{` in front of this text.
fn end_of_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    text.bytes().position(|byte| {
        open += i32::from(byte == b'{') - i32::from(byte == b'}');
        open == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".into()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$A".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$A", "a"),
            ("x${A}y$A.z", "xaya.z"),
            ("$$A $$$$ $", "$A $$ $"),
            ("$5 $(x) $ß", "$5 $(x) $ß"),
            ("$EMPTY|${EMPTY}|${EMPTY:-x}", "||x"),
            ("${B:-}|${B:-$A}|${B:-{instance}}|${B:-${C:-d}}", "|a|{instance}|d"),
            ("$DOLLAR", "$A"),
        ] {
            assert_eq!(expand(text, &look_up).as_deref(), Ok(expected), "{text:?}");
        }
        for (text, problem) in [
            ("$B", Problem::Unset("B".into())),
            ("${B}", Problem::Unset("B".into())),
            ("pa$word", Problem::Unset("word".into())),
            ("${", Problem::Unclosed),
            ("${}", Problem::Unclosed),
            ("${A", Problem::Unclosed),
            ("${A?x}", Problem::Unclosed),
            ("${1}", Problem::Unclosed),
        ] {
            assert_eq!(expand(text, &look_up), Err(problem), "{text:?}");
        }
    }

    #[test]
    fn what_a_shell_would_replace_is_seen() {
        assert_eq!(literal_dollar("a $(date)"), Some("$(".into()));
        assert_eq!(literal_dollar("$$( $1"), Some("$1".into()));
        assert_eq!(literal_dollar("$A $ $$ 5$"), None);
    }
}
