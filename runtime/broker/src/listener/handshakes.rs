//! Connections that have not sent CONNECT yet: who waits longest gives way to who comes.
//!
//! A client needs a few round trips for its handshakes; one that means harm takes all the time there is. So when there are
//! too many, the oldest is closed and not the newest: somebody who holds thousands of them open keeps nobody out.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// All of them, by the order in which they came.
pub(super) struct Handshakes {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    by_number: BTreeMap<u64, Arc<Notify>>,
}

/// The place of one connection among them.
pub(super) struct Place {
    number: u64,
    lost: Arc<Notify>,
}

impl Handshakes {
    /// At most `most` at once, and at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), waiting: Mutex::default() }
    }

    /// A connection begins; `true`: the oldest had to give way to it.
    pub(super) fn begin(&self) -> (Place, bool) {
        let lost = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        let full = waiting.by_number.len() >= self.most;
        let oldest = if full { waiting.by_number.pop_first() } else { None };
        waiting.by_number.insert(number, Arc::clone(&lost));
        drop(waiting);
        if let Some((_, oldest)) = oldest {
            oldest.notify_one();
        }
        (Place { number, lost }, full)
    }

    /// A connection has sent CONNECT or has ended.
    pub(super) fn end(&self, place: &Place) {
        self.waiting.lock().by_number.remove(&place.number);
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.waiting.lock().by_number.len()
    }
}

impl Place {
    /// Ends when the connection has to give way.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let lost = Arc::clone(&self.lost);
        async move { lost.notified().await }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let handshakes = Handshakes::new(2);
        let (first, early) = handshakes.begin();
        let (second, _) = handshakes.begin();
        assert!(!early && first.lost().now_or_never().is_none());
        let (third, full) = handshakes.begin();
        assert!(full && first.lost().now_or_never().is_some(), "the first one has to go");
        assert!(second.lost().now_or_never().is_none() && third.lost().now_or_never().is_none());
        handshakes.end(&second);
        let (_fourth, full) = handshakes.begin();
        assert!(!full && third.lost().now_or_never().is_none(), "there was room");
        assert_eq!(handshakes.count(), 2);
        handshakes.end(&first);
        assert_eq!(handshakes.count(), 2, "who has gone already takes nobody with it");
    }
}
