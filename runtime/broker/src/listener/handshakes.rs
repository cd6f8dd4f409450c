//! Connections that have not sent CONNECT yet: who waits longest gives way to who comes.
//!
//! A client needs a few round trips for its handshakes; one that means harm takes all the time there is. So when there are
//! too many, the oldest is closed and not the newest: somebody who holds thousands of them open keeps nobody out. The same
//! when there are too many connections of both kinds: those of connected clients stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::eviction::Eviction;

/// All of them, by the order in which they came.
pub(super) struct Handshakes {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    by_number: BTreeMap<u64, Arc<Eviction>>,
}

impl Handshakes {
    /// At most `most` at once, and at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), waiting: Mutex::default() }
    }

    /// The connection that is ended by `eviction` begins; gives its number. The oldest may have to give way to it.
    pub(super) fn begin(&self, eviction: &Arc<Eviction>) -> u64 {
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        let full = waiting.by_number.len() >= self.most;
        let oldest = if full { waiting.by_number.pop_first() } else { None };
        waiting.by_number.insert(number, Arc::clone(eviction));
        drop(waiting);
        if let Some((_, oldest)) = oldest {
            oldest.evict();
        }
        number
    }

    /// The connection that has waited longest gives way to one that comes. `false`: all have sent CONNECT.
    pub(super) fn give_way(&self) -> bool {
        let oldest = self.waiting.lock().by_number.pop_first();
        oldest.inspect(|(_, oldest)| oldest.evict()).is_some()
    }

    /// Connection `number` has sent CONNECT or has ended.
    pub(super) fn end(&self, number: u64) {
        self.waiting.lock().by_number.remove(&number);
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.waiting.lock().by_number.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let handshakes = Handshakes::new(2);
        let evictions = [(); 4].map(|()| Arc::<Eviction>::default());
        let gone = || evictions.each_ref().map(|eviction| eviction.has_happened());
        let numbers = [0, 1].map(|n: usize| handshakes.begin(&evictions[n]));
        assert_eq!(gone(), [false; 4]);
        handshakes.begin(&evictions[2]);
        assert_eq!(gone(), [true, false, false, false]);
        handshakes.end(numbers[1]);
        handshakes.begin(&evictions[3]);
        assert_eq!(gone(), [true, false, false, false], "there was room");
        assert_eq!(handshakes.count(), 2);
        handshakes.end(numbers[0]);
        assert_eq!(handshakes.count(), 2, "who has gone already takes nobody with it");
    }
}
