//! A map for a handful of things: pairs in the order in which they came.
//!
//! A tree would take half a kilobyte for its first entry. The one rule: few enough to be looked at one after another.

/// Keys with a value each, at most once.
#[derive(Debug, Clone)]
pub(crate) struct Map<K, V>(Vec<(K, V)>);

impl<K: PartialEq, V> Map<K, V> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets a key's value, in the place of one that it had.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.keys().any(|known| known == key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_value_and_keeps_its_place() {
        let mut map = Map::new();
        for (key, value) in [("a", 1), ("b", 2), ("a", 3)] {
            map.insert(key, value);
        }
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&"a", &3), (&"b", &2)]);
        assert!(map.contains_key(&"b"));
        map.clear();
        assert!(!map.contains_key(&"a"));
    }
}
