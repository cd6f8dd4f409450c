//! Memory of what clients have sent and handlers are not done with, of all connections together.
//!
//! Every client has a read-ahead of its own; many clients whose handlers are slow at once have many. When there is too
//! much, who has more than a little waiting is not read from until it has less: its own handlers' answers wake it. Nor is
//! the rest of a large packet read while nearly all is used, whoever sends it: it looks again a little later.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What a client may have in any case, bytes.
pub(crate) const FREE: usize = 64 * 1024;
/// The same of a CONNECT: nobody knows yet who sends it.
const FREE_CONNECT: usize = 4 * 1024;
/// In what steps it is counted.
const STEP: usize = 16 * 1024;

/// What all clients have waiting.
pub(crate) struct Accepted {
    limit: usize,
    used: AtomicUsize,
}

/// One connection's part of it.
#[derive(Debug, Default)]
pub(crate) struct Share(usize);

impl Accepted {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Whether a connection with `own` bytes waiting may be read from.
    #[inline]
    pub(crate) fn admits(&self, own: usize) -> bool {
        own <= FREE || self.used.load(Ordering::Relaxed) < self.limit
    }

    /// Whether a client whose CONNECT takes `bytes` may go on.
    pub(crate) fn admits_connect(&self, bytes: usize) -> bool {
        bytes <= FREE_CONNECT || self.used.load(Ordering::Relaxed) < self.limit
    }

    /// Whether the rest of a packet that is larger than [`FREE`] may be read. However little is allowed, one at a time may.
    pub(crate) fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < (self.limit - self.limit / 8).max(1)
    }

    /// A connection has `own` bytes waiting now.
    #[inline]
    pub(crate) fn settle(&self, share: &mut Share, own: usize) {
        if own.abs_diff(share.0) >= STEP || own == 0 && share.0 > 0 {
            self.set(share, own);
        }
    }

    /// The same, counted even when it is little.
    pub(crate) fn set(&self, share: &mut Share, own: usize) {
        if own > share.0 {
            self.used.fetch_add(own - share.0, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(share.0 - own, Ordering::Relaxed);
        }
        share.0 = own;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_much_waits_while_all_have_too_much() {
        let accepted = Accepted::new(300_000);
        let (mut one, mut two) = (Share::default(), Share::default());
        accepted.settle(&mut one, 200_000);
        assert!(accepted.admits(200_000));
        accepted.settle(&mut two, 100_000);
        assert!(!accepted.admits(200_000) && !accepted.admits(100_000) && accepted.admits(FREE));
        assert!(!accepted.admits_connect(FREE) && accepted.admits_connect(FREE_CONNECT));
        // Little changes are not counted, the end is.
        accepted.settle(&mut one, 190_000);
        assert!(!accepted.admits(190_000));
        accepted.settle(&mut one, 150_000);
        assert!(accepted.admits(150_000));
        accepted.settle(&mut one, 1_000);
        accepted.settle(&mut one, 0);
        accepted.settle(&mut two, 0);
        assert_eq!(accepted.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_rest_of_a_large_packet_waits_until_there_is_room() {
        let accepted = Accepted::new(80_000);
        let mut share = Share::default();
        accepted.settle(&mut share, 69_000);
        assert!(accepted.has_room());
        accepted.set(&mut share, 75_000);
        assert!(!accepted.has_room());
        accepted.settle(&mut share, 0);
        assert!(accepted.has_room() && Accepted::new(0).has_room());
    }
}
