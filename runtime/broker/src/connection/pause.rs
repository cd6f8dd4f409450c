//! A breath for subscribers that are behind.
//!
//! A publisher that floods would make the queue of every subscriber overflow, also of one that only had to wait
//! for the processor. So when a queue is half full, the publisher's connection takes no more packets until the
//! queue is down to a quarter. A subscriber that gets there within [`FREE`] sets the pace. For slower ones there
//! is an allowance that grows by a tenth of the time that passes, up to [`MOST`]: they cannot delay a publisher,
//! and with it its other subscribers, by more than that.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::session::Session;

/// The greatest allowance.
const MOST: Duration = Duration::from_millis(50);
/// What a subscriber may take at any time: some hundred thousand messages a second fit.
const FREE: Duration = Duration::from_millis(1);
/// The allowance grows by this part of the time.
const PART: u32 = 10;

/// A publisher's pauses.
pub(super) struct Pause {
    /// Whom it waits for, since when.
    waiting: Option<(Arc<Session>, Instant)>,
    allowance: Duration,
    /// When the allowance was as much.
    counted: Instant,
    /// Made at the first pause, then used again.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { waiting: None, allowance: MOST, counted: Instant::now(), timer: None }
    }

    /// Whether the publisher waits.
    pub(super) fn is_active(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether it could wait now.
    pub(super) fn is_allowed(&self) -> bool {
        self.allowance >= FREE
    }

    /// Waits for `session`. `false`: it has waited too much lately.
    pub(super) fn begin(&mut self, session: Arc<Session>) -> bool {
        let now = Instant::now();
        self.allowance = MOST.min(self.allowance + now.duration_since(self.counted) / PART);
        self.counted = now;
        if !self.is_allowed() {
            return false;
        }
        let until = now + FREE + self.allowance;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(until),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.waiting = Some((session, now));
        true
    }

    /// Looks whether the wait is over, in a queue of `limit` messages. Gives whether it has just ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limit: usize) -> bool {
        let Some((session, since)) = &self.waiting else { return false };
        let over = session.outbox().await_room(cx.waker(), limit / 4)
            || self.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(cx) != Poll::Pending);
        if over {
            let now = Instant::now();
            let beyond = now.duration_since(*since).saturating_sub(FREE);
            self.allowance = self.allowance.saturating_sub(beyond);
            self.counted = now;
            self.waiting = None;
        }
        over
    }
}
