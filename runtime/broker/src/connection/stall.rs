//! The clock of a client that does not take what it is sent.
//!
//! Keep-alive says whether a client sends; one that sends and never reads holds its output, its queue and its place for
//! ever. So a connection ends whose socket has taken nothing for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Ends a connection that has something to write of which nothing is taken.
pub(super) struct Stall {
    limit: Duration,
    /// Whether anything was taken since the clock was set.
    moved: bool,
    /// There is none while nothing waits, and not moved with every write: when it fires, it is set anew.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Nothing may be taken for `limit`, or up to twice as long; zero: for ever.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, moved: false, timer: None }
    }

    /// The socket has taken something.
    #[inline]
    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// Nothing waits to be written.
    #[inline]
    pub(super) fn rest(&mut self) {
        self.moved = true;
        if self.timer.as_ref().is_some_and(|timer| timer.is_elapsed()) {
            self.timer = None;
        }
    }

    /// Ready when what waits has waited for too long. Call it only while something waits.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.limit.is_zero() {
            return Poll::Pending;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| {
            self.moved = false;
            Box::pin(tokio::time::sleep(limit))
        });
        while timer.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn it_fires_when_nothing_was_taken_for_as_long_as_may_be() {
        let mut stall = Stall::new(LIMIT);
        let start = Instant::now();
        poll_fn(|cx| stall.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_little_now_and_then_stays() {
        let mut stall = Stall::new(LIMIT);
        for _ in 0..20 {
            let late =
                tokio::time::timeout(LIMIT - Duration::from_secs(1), poll_fn(|cx| stall.poll_expired(cx)));
            assert!(late.await.is_err());
            stall.moved();
        }
        // All was taken, and long afterwards something waits again.
        stall.rest();
        tokio::time::advance(10 * LIMIT).await;
        stall.rest();
        let start = Instant::now();
        poll_fn(|cx| stall.poll_expired(cx)).await;
        assert!(start.elapsed() >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_means_no_clock() {
        let mut stall = Stall::new(Duration::ZERO);
        let late = tokio::time::timeout(100 * LIMIT, poll_fn(|cx| stall.poll_expired(cx)));
        assert!(late.await.is_err());
    }
}
