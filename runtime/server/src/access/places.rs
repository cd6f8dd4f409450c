//! How many wait for the same thing: a bound for each, so that one who comes often does not take every place.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

/// Places that are taken, by a hash that is keyed anew in every process.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hash: RandomState,
    taken: Mutex<HashMap<u64, u32>>,
}

/// A place; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    key: u64,
}

impl Places {
    /// One of `most` places of `key`; `None`: all are taken.
    pub(super) fn take(&self, key: impl Hash, most: u32) -> Option<Place> {
        let key = self.0.hash.hash_one(key);
        let mut taken = self.0.taken.lock();
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        taken.insert(key, count + 1);
        Some(Place { places: self.clone(), key })
    }
}

impl Place {
    /// How many places of its key are taken, with this one.
    pub(super) fn taken(&self) -> u32 {
        self.places.0.taken.lock().get(&self.key).copied().unwrap_or(0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.taken.lock();
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            // Nothing is kept of those that nobody waits for.
            _ => drop(taken.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_given_up() {
        let places = Places::default();
        let one = places.take("a", 2);
        let two = places.take("a", 2);
        assert!(one.is_some() && places.take("a", 2).is_none());
        assert_eq!(two.as_ref().map(Place::taken), Some(2));
        let other = places.take("b", 2);
        assert!(other.is_some());
        drop(one);
        assert!(places.take("a", 2).is_some());
        drop((two, other));
        assert!(places.0.taken.lock().is_empty());
    }
}
