//! Telling a connection from elsewhere that it has to go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Whether a connection has to go, because others need its place. One task waits for it.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    happened: AtomicBool,
    waker: AtomicWaker,
}

impl Eviction {
    /// The connection has to go.
    pub(crate) fn evict(&self) {
        self.happened.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it has to.
    pub(crate) fn has_happened(&self) -> bool {
        self.happened.load(Ordering::Acquire)
    }

    /// Ready when it has to.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_happened() {
            self.waker.register(cx.waker());
        }
        // It may have happened before the waker was there.
        if self.has_happened() { Poll::Ready(()) } else { Poll::Pending }
    }
}
