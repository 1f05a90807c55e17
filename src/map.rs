//! A map for a few entries: pairs in the order in which they were inserted.
//!
//! It does not hash or sort: a tree would take half a kilobyte for its first entry. The one rule: a
//! map holds so few entries that a linear search is cheap.

/// The number of entries up to which a map takes no more room than it needs. Most maps have one or
/// two.
const FEW: usize = 4;

/// Keys with one value each.
#[derive(Debug, Clone)]
pub(crate) struct Map<K, V>(Vec<(K, V)>);

impl<K: PartialEq, V> Map<K, V> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets the value of a key, which keeps its place. Returns the old value.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.get_mut(&key) {
            Some(old) => Some(std::mem::replace(old, value)),
            None => {
                if self.0.len() < FEW {
                    self.0.reserve_exact(1);
                }
                self.0.push((key, value));
                None
            }
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
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
        assert_eq!([("a", 1), ("b", 2), ("a", 3)].map(|(key, value)| map.insert(key, value)), [None, None, Some(1)]);
        assert_eq!((map.get(&"a"), map.get(&"c")), (Some(&3), None));
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&"a", &3), (&"b", &2)]);
        assert!(map.contains_key(&"b"));
        map.clear();
        assert!(!map.contains_key(&"a"));
    }
}
