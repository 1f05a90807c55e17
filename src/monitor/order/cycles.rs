//! Finds the ways round in a graph of names.
//!
//! It knows no processes. The one rule: it takes time in proportion to the edges, and no stack.

use std::collections::HashMap;

/// Returns one way round for each set of names that wait for each other.
pub(super) fn find<'a>(edges: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Vec<String>> {
    let mut next: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut names = Vec::new();
    for (name, on) in edges {
        next.entry(name).or_insert_with(|| {
            names.push(name);
            Vec::new()
        });
        if let Some(list) = next.get_mut(name) {
            list.push(on);
        }
    }
    let mut found = Vec::new();
    // Names are on the path, or finished, or neither.
    let mut finished: HashMap<&str, bool> = HashMap::new();
    for start in names {
        let mut path: Vec<(&str, usize)> = Vec::new();
        let mut enter = Some(start);
        loop {
            if let Some(name) = enter.take() {
                match finished.get(name) {
                    Some(true) => {}
                    Some(false) => {
                        let from = path.iter().position(|(on_path, _)| *on_path == name).unwrap_or_default();
                        found.push(path[from..].iter().map(|(name, _)| (*name).to_owned()).collect());
                    }
                    None => {
                        finished.insert(name, false);
                        path.push((name, 0));
                    }
                }
            }
            let Some((name, index)) = path.last_mut() else { break };
            match next.get(name).and_then(|list| list.get(*index)) {
                Some(on) => {
                    *index += 1;
                    enter = Some(*on);
                }
                None => {
                    finished.insert(*name, true);
                    path.pop();
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_round_is_found() {
        let find = |edges: &[(&'static str, &'static str)]| find(edges.iter().copied());
        assert!(find(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]).is_empty());
        assert_eq!(find(&[("a", "a")]), [["a"]]);
        assert_eq!(find(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")]), [["a", "b", "c"]]);
        assert_eq!(find(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]), [["a", "b"], ["c", "d"]]);
    }

    #[test]
    fn a_long_chain_takes_no_stack() {
        let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        let chain = names.windows(2).map(|pair| (&*pair[0], &*pair[1]));
        assert!(find(chain.clone()).is_empty());
        let closed = find(chain.chain([("99999", "0")]));
        assert_eq!(closed.iter().map(Vec::len).collect::<Vec<_>>(), [100_000]);
    }
}
