//! A slab with keys that stay safe after their entries are removed: values in numbered slots, each
//! of which counts its uses.
//!
//! It never shrinks, keeps no order, and does not look into its values. The one rule: the
//! generation of a slot only counts up, and a slot that has no generation left is never used again.

use std::num::NonZeroU32;

const HALF_BITS: u32 = usize::BITS / 2;

/// The largest number that fits half of a `usize`.
const HALF_MAX: u32 = (usize::MAX >> HALF_BITS) as u32;

/// Names one entry of a [`Slab`] for ever. After the entry's removal the key reaches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    slot: u32,
    /// It is never 0, so that an optional key is no larger than a key.
    generation: NonZeroU32,
}

impl Key {
    /// Returns a key that no slab gives out, because its generation is all ones.
    pub(crate) const fn unused(slot: u32) -> Self {
        Self { slot, generation: NonZeroU32::MAX }
    }

    pub(crate) const fn slot(self) -> u32 {
        self.slot
    }

    /// Returns the slot and the generation in half of the bits each, to serve as a token.
    ///
    /// This is lossless for keys of a `Slab<T>` with the default `MAX`. Those never have a
    /// generation of all ones, so tokens whose upper half is all ones are free for other uses.
    pub(crate) const fn to_usize(self) -> usize {
        (self.generation.get() as usize) << HALF_BITS | self.slot as usize
    }

    /// The reverse of [`Key::to_usize`]. Any number makes a key, which need not reach an entry.
    pub(crate) const fn from_usize(token: usize) -> Self {
        let slot = token as u32 & HALF_MAX;
        match NonZeroU32::new((token >> HALF_BITS) as u32) {
            Some(generation) => Self { slot, generation },
            None => Self::unused(slot),
        }
    }
}

/// A generational slab. `MAX` is the last slot, and the generation at which a slot is retired. The
/// default is what [`Key::to_usize`] has room for.
#[derive(Debug)]
pub(crate) struct Slab<T, const MAX: u32 = HALF_MAX> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: NonZeroU32,
    value: Option<T>,
}

impl<T, const MAX: u32> Slab<T, MAX> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Stores `value`, in the slot that was freed last if there is one.
    ///
    /// # Panics
    ///
    /// When all of the `MAX + 1` slots are taken or retired, like a vector that can grow no more.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = self.entries.len();
                assert!(slot <= MAX as usize, "no slot left");
                self.entries.push(Entry { generation: NonZeroU32::MIN, value: None });
                slot as u32
            }
        };
        let entry = &mut self.entries[slot as usize];
        entry.value = Some(value);
        self.len += 1;
        Key { slot, generation: entry.generation }
    }

    /// Returns the key that the next [`insert`](Self::insert) will give out, for a value that has
    /// to know its own.
    pub(crate) fn next_key(&self) -> Key {
        match self.free.last() {
            Some(slot) => Key { slot: *slot, generation: self.entries[*slot as usize].generation },
            None => Key { slot: self.entries.len() as u32, generation: NonZeroU32::MIN },
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.slot as usize)?;
        entry.value.as_ref().filter(|_| entry.generation == key.generation)
    }

    /// Returns the value in a slot, and its key.
    pub(crate) fn in_slot(&self, slot: u32) -> Option<(Key, &T)> {
        let entry = self.entries.get(slot as usize)?;
        entry.value.as_ref().map(|value| (Key { slot, generation: entry.generation }, value))
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        entry.value.as_mut().filter(|_| entry.generation == key.generation)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.slot as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        // The generation of a used slot is always below MAX, so it grows by one. At MAX the slot is
        // retired.
        entry.generation = entry.generation.saturating_add(1);
        if entry.generation.get() < MAX {
            self.free.push(key.slot);
        }
        self.len -= 1;
        Some(value)
    }

    /// Iterates in the order of the slots, which is not the order of insertion.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0..).zip(&self.entries).filter_map(|(slot, entry)| {
            let generation = entry.generation;
            Some((Key { slot, generation }, entry.value.as_ref()?))
        })
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_never_reaches_a_newer_entry() {
        let mut slab: Slab<&str> = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot, old.slot);
        assert_ne!(new, old);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn any_key_may_be_asked_for() {
        let mut slab: Slab<u8> = Slab::new();
        let key = slab.insert(1);
        slab.remove(key);
        let vacant = Key { generation: key.generation.saturating_add(1), ..key };
        let max = Key::from_usize(usize::MAX);
        for key in [key, vacant, max, Key::from_usize(1), Key::from_usize(0), Key::unused(key.slot)] {
            assert_eq!(slab.get(key), None);
            assert_eq!(slab.get_mut(key), None);
            assert_eq!(slab.remove(key), None);
        }
        assert_eq!(slab.len(), 0);
    }

    #[test]
    fn a_slot_out_of_generations_is_retired() {
        let mut slab: Slab<u32, 3> = Slab::new();
        let mut keys = Vec::new();
        // Four slots of two generations.
        for value in 0..8 {
            let key = slab.insert(value);
            assert!(key.slot <= 3 && key.generation.get() < 3);
            assert_eq!(slab.remove(key), Some(value));
            keys.push(key);
        }
        assert!(keys.iter().all(|key| slab.get(*key).is_none()));
        assert!((0..4).all(|slot| slab.get(Key::unused(slot)).is_none()));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 8);
        assert_eq!(slab.len(), 0);
    }

    #[test]
    #[should_panic(expected = "no slot left")]
    fn no_key_is_handed_out_that_does_not_fit() {
        let mut slab: Slab<u32, 3> = Slab::new();
        for value in 0..5 {
            slab.insert(value);
        }
    }

    #[test]
    fn keys_survive_as_tokens() {
        for slot in [0, 1, HALF_MAX - 1, HALF_MAX] {
            for generation in [1, 2, HALF_MAX - 1] {
                let key = Key { slot, generation: NonZeroU32::new(generation).unwrap() };
                assert_eq!(Key::from_usize(key.to_usize()), key);
                assert!(key.to_usize() >> HALF_BITS < HALF_MAX as usize);
            }
        }
        for token in [usize::MAX / 3, usize::MAX - 1, usize::MAX] {
            assert_eq!(Key::from_usize(token).to_usize(), token);
        }
        assert_eq!(Key::from_usize(1), Key::unused(1));
        assert_eq!(size_of::<Option<Key>>(), size_of::<Key>());
    }

    #[test]
    fn iterates_over_what_is_there() {
        let mut slab: Slab<u32> = Slab::new();
        let keys: Vec<Key> = (0..4).map(|value| slab.insert(value)).collect();
        slab.remove(keys[1]);
        let found: Vec<_> = slab.iter().map(|(key, value)| (key, *value)).collect();
        assert_eq!(found, [(keys[0], 0), (keys[2], 2), (keys[3], 3)]);
        assert_eq!(slab.len(), 3);
    }
}
