//! What connections of a client that have ended still hold: packets that were accepted and wait for their
//! handlers.
//!
//! The client's next connection counts them as its own, so that a client which reconnects again and again while a
//! store is down cannot have more accepted than one that stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

/// Bytes held by the ended connections of one client id, all together.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    bytes: AtomicUsize,
    /// The connection that waits for them to become fewer.
    waiting: Mutex<Option<Waker>>,
}

impl Unfinished {
    /// How many there are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Wakes `waker` when they become fewer.
    pub(crate) fn wake_later(&self, waker: &Waker) {
        *self.waiting.lock() = Some(waker.clone());
    }
}

/// The part of one ended connection; gone when it is dropped.
#[derive(Debug)]
pub(super) struct Part {
    whole: Arc<Unfinished>,
    bytes: usize,
}

impl Part {
    pub(super) fn new(whole: Arc<Unfinished>) -> Self {
        Self { whole, bytes: 0 }
    }

    /// The part is now of so many bytes.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.whole.bytes.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            self.whole.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            let waiting = self.whole.waiting.lock().take();
            if let Some(waker) = waiting {
                waker.wake();
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_leave_nothing_behind() {
        let whole = Arc::new(Unfinished::default());
        let (mut one, mut two) = (Part::new(Arc::clone(&whole)), Part::new(Arc::clone(&whole)));
        one.set(10);
        two.set(5);
        assert_eq!(whole.bytes(), 15);
        one.set(3);
        assert_eq!(whole.bytes(), 8);
        drop(one);
        drop(two);
        assert_eq!(whole.bytes(), 0);
    }
}
