//! What is remembered of many who come and go, in a table that does not grow.

use std::hash::{BuildHasher as _, Hash, RandomState};

use parking_lot::Mutex;

/// Entries that a key may be kept in: whoever wants to push one out needs to know the keys of the hash.
const WAYS: usize = 8;

/// One value a key, for as many keys as there is room for; whoever was not asked about for longest goes first.
///
/// Keys are told apart by 64 bits of a hash that is keyed anew in every process.
#[derive(Debug)]
pub struct Recent<T> {
    hash: RandomState,
    table: Mutex<Table<T>>,
}

/// Made when the first key of a set comes: a table that is not used takes next to no memory.
type Set<T> = Option<Box<[Entry<T>; WAYS]>>;

#[derive(Debug)]
struct Table<T> {
    sets: Box<[Set<T>]>,
    /// Counts uses.
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry<T> {
    hash: u64,
    /// When it was used last; 0: never.
    used: u64,
    value: T,
}

impl<T: Copy + Default> Recent<T> {
    /// A table for at least `keys` keys.
    pub fn new(keys: usize) -> Self {
        let sets = keys.div_ceil(WAYS).max(1);
        let sets = (0..sets).map(|_| None).collect();
        Self { hash: RandomState::new(), table: Mutex::new(Table { sets, clock: 0 }) }
    }

    /// The value of `key`, if it is remembered.
    pub fn get(&self, key: impl Hash) -> Option<T> {
        let hash = self.hash.hash_one(key);
        let table = self.table.lock();
        let set = table.sets.get(place(hash, table.sets.len()))?.as_ref()?;
        set.iter().find(|entry| entry.used > 0 && entry.hash == hash).map(|entry| entry.value)
    }

    /// Has `change` change the value of `key`, which is the default one when it is not remembered; gives what that gives.
    pub fn update<R>(&self, key: impl Hash, change: impl FnOnce(&mut T) -> R) -> R {
        let hash = self.hash.hash_one(key);
        let mut table = self.table.lock();
        table.clock += 1;
        let clock = table.clock;
        let place = place(hash, table.sets.len());
        let mut absent = T::default();
        let Some(set) = table.sets.get_mut(place) else { return change(&mut absent) };
        let set = set.get_or_insert_with(|| Box::new([Entry::default(); WAYS]));
        let known = set.iter().position(|entry| entry.used > 0 && entry.hash == hash);
        let oldest = || set.iter().enumerate().min_by_key(|(_, entry)| entry.used).map(|(at, _)| at);
        let Some(entry) = known.or_else(oldest).and_then(|at| set.get_mut(at)) else {
            return change(&mut absent);
        };
        if known.is_none() {
            *entry = Entry { hash, ..Entry::default() };
        }
        entry.used = clock;
        change(&mut entry.value)
    }
}

/// Which of `sets` sets is the one of `hash`.
fn place(hash: u64, sets: usize) -> usize {
    // The upper half of the product: as even as the hash is, for any number of sets.
    usize::try_from((u128::from(hash) * sets as u128) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_updated_in_place() {
        let recent = Recent::<u32>::new(1_000);
        for key in 0..100 {
            recent.update(key, |value| *value += key);
        }
        recent.update(7, |value| *value += 1);
        assert_eq!(recent.get(7), Some(8));
        assert_eq!(recent.get(99), Some(99));
        assert_eq!(recent.get(100), None, "what is only asked about is not remembered");
        assert_eq!(recent.get("7"), None);
    }

    #[test]
    fn a_full_table_forgets_who_was_not_seen_for_longest() {
        let recent = Recent::<u32>::new(WAYS);
        for key in 0..WAYS as u32 {
            recent.update(key, |value| *value = 1);
        }
        recent.update(0u32, |value| *value += 1);
        recent.update(WAYS as u32, |value| *value += 1);
        assert_eq!(recent.get(0u32), Some(2), "it was seen again");
        assert_eq!(recent.get(1u32), None);
        assert_eq!(recent.get(WAYS as u32), Some(1), "a new key starts from nothing");
        for key in 0..10_000u32 {
            recent.update(key, |value| *value += 1);
        }
        let table = recent.table.lock();
        assert_eq!(table.sets.len(), 1);
    }
}
