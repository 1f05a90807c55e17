//! Matches names with patterns in which `*` stands for any characters and `?` for one. No other
//! character is special.
//!
//! The one rule: the time is at most the length of the pattern times the length of the name,
//! whatever a client sends.

/// Whether a pattern can match other names than the one that it is.
pub(crate) fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether `pattern` matches the whole of `name`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    // The place to go on from if what follows the last `*` does not match. Earlier ones do not
    // matter.
    let mut last_star = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                last_star = Some((at, in_name));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => match &mut last_star {
                Some((star, taken)) => {
                    *taken += 1;
                    (at, in_name) = (*star + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn says_what_fits() {
        for (pattern, name) in [
            ("web", "web"),
            ("*", ""),
            ("*", "web"),
            ("web*", "web"),
            ("w*b", "web"),
            ("w?b", "web"),
            ("*-?", "web-1"),
            ("*a*b*c*", "xxaxxbxxcxx"),
            ("**", "web"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "web"), ("we", "web"), ("web?", "web"), ("?", ""), ("*x", "web"), ("WEB", "web"), ("[w]eb", "web")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(1000), &"a".repeat(999)));
    }
}
