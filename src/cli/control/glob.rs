//! Names with `*` (any run of characters) and `?` (any one). Nothing else is special.
//!
//! The one rule: time at most pattern times name, whatever somebody sends.

/// Whether this means more than the name that it is.
pub(crate) fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether all of `name` is what `pattern` means.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    // Where to go on from if what follows the last `*` does not fit: only the last one matters.
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
