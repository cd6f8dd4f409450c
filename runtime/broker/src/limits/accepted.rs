//! Memory of what clients have sent and handlers are not done with, of all connections together.
//!
//! Every client has a read-ahead of its own; many clients whose handlers are slow at once have many. When there is too
//! much, who has more than a little waiting is not read from until it has less: its own handlers' answers wake it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What a client may have in any case, bytes.
const FREE: usize = 64 * 1024;
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

    /// A connection has `own` bytes waiting now.
    #[inline]
    pub(crate) fn settle(&self, share: &mut Share, own: usize) {
        if own.abs_diff(share.0) >= STEP || own == 0 && share.0 > 0 {
            if own > share.0 {
                self.used.fetch_add(own - share.0, Ordering::Relaxed);
            } else {
                self.used.fetch_sub(share.0 - own, Ordering::Relaxed);
            }
            share.0 = own;
        }
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
}
