//! A breath for subscribers that are behind.
//!
//! A publisher that floods would make the queue of every subscriber overflow, also of one that only had to wait
//! for the processor. So when a queue is half full, and the publisher has more to send already, its connection takes no
//! more packets until the queue is down to a quarter. A subscriber that gets there within [`FREE`] sets the pace. For slower ones there
//! is an allowance that grows by a tenth of the time that passes, up to [`MOST`]: they cannot delay a publisher,
//! and with it its other subscribers, by more than that. One that is slow by itself runs out of
//! [patience](crate::session::patience) and is not waited for any more, and one that takes nothing at all for [`STEP`] is stuck: it
//! is not waited for again until it has taken something.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::limits::QueueLimits;
use crate::session::Session;

/// The greatest allowance.
const MOST: Duration = Duration::from_millis(50);
/// What a subscriber may take at any time: some hundred thousand messages a second fit.
const FREE: Duration = Duration::from_millis(1);
/// The allowance grows by this part of the time.
const PART: u32 = 10;
/// A subscriber that has taken nothing for so long is stuck.
const STEP: Duration = Duration::from_millis(5);

/// A subscriber and how many messages it had taken when it was last looked at.
struct Seen {
    session: Arc<Session>,
    progress: u64,
}

impl Seen {
    fn new(session: Arc<Session>) -> Self {
        let progress = session.outbox().progress();
        Self { session, progress }
    }

    /// Whether it has taken anything since the last look.
    fn has_moved(&mut self) -> bool {
        let before = std::mem::replace(&mut self.progress, self.session.outbox().progress());
        self.progress != before
    }
}

struct Wait {
    subscriber: Seen,
    /// What its progress was when the wait began.
    begun_at: u64,
    since: Instant,
    until: Instant,
}

/// A publisher's pauses.
pub(super) struct Pause {
    /// Number of the publisher's connection.
    connection: u64,
    /// Since when the publisher has been busy without a pause, and how many packets it has sent since.
    busy_since: Option<Instant>,
    sent: u32,
    /// What a packet costs it.
    each: Duration,
    wait: Option<Wait>,
    /// The last subscriber that was stuck.
    stuck: Option<Seen>,
    allowance: Duration,
    /// When the allowance was as much.
    counted: Instant,
    /// Made at the first pause, then used again.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub(super) fn new(connection: u64) -> Self {
        Self {
            connection,
            busy_since: None,
            sent: 0,
            each: Duration::ZERO,
            wait: None,
            stuck: None,
            allowance: MOST,
            counted: Instant::now(),
            timer: None,
        }
    }

    /// The publisher is served, at this time.
    pub(super) fn busy(&mut self, now: Instant) {
        self.busy_since.get_or_insert(now);
    }

    /// The publisher has nothing to send.
    pub(super) fn idle(&mut self) {
        self.busy_since = None;
        self.sent = 0;
    }

    /// The publisher has sent `packets`.
    pub(super) fn sent(&mut self, packets: usize) {
        self.sent = self.sent.saturating_add(u32::try_from(packets).unwrap_or(u32::MAX));
    }

    /// Whether the publisher waits.
    pub(super) fn is_active(&self) -> bool {
        self.wait.is_some()
    }

    /// Whether it could wait now.
    pub(super) fn is_allowed(&self) -> bool {
        self.allowance >= FREE
    }

    /// Waits for `session`. `false`: it has waited too much lately, or the session's client is stuck.
    pub(super) fn begin(&mut self, session: Arc<Session>) -> bool {
        let now = Instant::now();
        self.allowance = MOST.min(self.allowance + now.duration_since(self.counted) / PART);
        self.counted = now;
        if !self.is_allowed() {
            return false;
        }
        if let Some(stuck) = &mut self.stuck
            && Arc::ptr_eq(&stuck.session, &session)
        {
            if !stuck.has_moved() {
                return false;
            }
            self.stuck = None;
        }
        let patience = {
            let outbox = session.outbox();
            if !outbox.patience.is_left() {
                return false;
            }
            outbox.patience.left()
        };
        if let Some(since) = self.busy_since
            && self.sent > 0
        {
            let each = now.duration_since(since) / self.sent;
            self.each = if self.each.is_zero() { each } else { (self.each * 3 + each) / 4 };
        }
        let until = now + (FREE + self.allowance).min(patience);
        self.sleep_until(until.min(now + STEP));
        let subscriber = Seen::new(session);
        self.wait = Some(Wait { begun_at: subscriber.progress, subscriber, since: now, until });
        true
    }

    fn sleep_until(&mut self, at: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// Looks whether the wait is over, in a queue within `limits`. Gives whether it has just ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limits: QueueLimits<'_>) -> bool {
        loop {
            let Some(wait) = &mut self.wait else { return false };
            let has_room = wait.subscriber.session.outbox().await_room(self.connection, cx.waker(), limits);
            if has_room {
                self.end();
                return true;
            }
            let timer = self.timer.as_mut();
            if timer.is_some_and(|timer| timer.as_mut().poll(cx) == Poll::Pending) {
                return false;
            }
            let (now, until) = (Instant::now(), wait.until);
            let is_stuck = !wait.subscriber.has_moved();
            if is_stuck || now >= until {
                if let Some(wait) = self.end()
                    && is_stuck
                {
                    self.stuck = Some(wait.subscriber);
                }
                return true;
            }
            self.sleep_until(until.min(now + STEP));
        }
    }

    fn end(&mut self) -> Option<Wait> {
        let wait = self.wait.take()?;
        let now = Instant::now();
        let time = now.duration_since(wait.since);
        let mut outbox = wait.subscriber.session.outbox();
        outbox.forget_publisher(self.connection);
        let taken = outbox.progress().wrapping_sub(wait.begun_at);
        // What was taken before comes back when its connection ends.
        let taken = if taken > u64::MAX / 2 { 0 } else { taken };
        outbox.patience.waited(time, taken, self.each);
        drop(outbox);
        self.allowance = self.allowance.saturating_sub(time.saturating_sub(FREE));
        self.counted = now;
        self.busy_since = Some(now);
        self.sent = 0;
        Some(wait)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tidegate_event::QoS;

    use super::*;
    use crate::limits::budget::Budget;
    use crate::session::delivery::Source;
    use crate::session::{test_delivery, test_message};

    /// A session whose queue has 100 messages.
    fn crowded() -> Arc<Session> {
        let session = Arc::new(Session::new(1, "slow".into(), 1, 0));
        session.outbox().connect();
        (0..100).for_each(|id| push(&session, id));
        session
    }

    fn push(session: &Session, id: u128) {
        let delivery = test_delivery(test_message("t", QoS::AtMostOnce, id), Source::Live);
        let (mut outbox, budget) = (session.outbox(), budget());
        if outbox.len() < 100 {
            outbox.push(delivery, &budget);
        }
    }

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(usize::MAX))
    }

    fn poll(pause: &mut Pause, cx: &mut Context<'_>) -> bool {
        pause.poll(cx, QueueLimits { messages: 100, bytes: usize::MAX, budget: &budget() })
    }

    /// A publisher waited up to 52 ms now and then for a subscriber that took nothing at all, and each publisher
    /// that had waited left its task behind in that subscriber's queue.
    #[tokio::test]
    async fn a_stuck_subscriber_is_waited_for_once_and_remembers_nobody() {
        let session = crowded();
        let mut pause = Pause::new(7);
        let begun = Instant::now();
        assert!(pause.begin(Arc::clone(&session)));
        poll_fn(|cx| if poll(&mut pause, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(begun.elapsed() >= STEP);
        assert!(pause.allowance >= MOST - 4 * STEP, "it cost {:?}", MOST - pause.allowance);
        assert!(!pause.begin(Arc::clone(&session)), "still stuck");
        assert!(session.outbox().relieved_after_taking().is_empty());
        assert!(pause.begin(session), "it has taken something");
    }

    #[tokio::test]
    async fn a_publisher_that_goes_away_while_it_waits_is_forgotten() {
        let session = crowded();
        let mut pause = Pause::new(7);
        assert!(pause.begin(Arc::clone(&session)));
        poll_fn(|cx| {
            assert!(!poll(&mut pause, cx));
            Poll::Ready(())
        })
        .await;
        drop(pause);
        assert!(session.outbox().relieved_after_taking().is_empty());
    }

    /// It was waited for up to 51 ms at once, a tenth of the time for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_subscriber_that_is_slow_for_good_causes_no_pauses_after_a_short_time() {
        const MS: Duration = Duration::from_millis(1);
        let session = crowded();
        let slow = Arc::clone(&session);
        let taking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(MS).await;
                // One message a millisecond at most.
                slow.outbox().take(&mut VecDeque::new(), 1);
            }
        });
        let mut pause = Pause::new(7);
        let (mut id, mut pauses) = (100, Vec::new());
        let begun = Instant::now();
        while begun.elapsed() < 400 * MS {
            pause.busy(Instant::now());
            // Much faster than that; what finds no place is dropped.
            for _ in 0..20 {
                id += 1;
                push(&session, id);
            }
            pause.sent(20);
            let limits = QueueLimits { messages: 100, bytes: usize::MAX, budget: &budget() };
            let crowded = session.outbox().is_crowded(limits);
            let paused = Instant::now();
            if crowded && pause.begin(Arc::clone(&session)) {
                poll_fn(|cx| if poll(&mut pause, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
                pauses.push((paused.duration_since(begun), paused.elapsed()));
            }
            tokio::time::sleep(MS / 10).await;
        }
        taking.abort();
        let all: Duration = pauses.iter().map(|(_, time)| *time).sum();
        assert!(!pauses.is_empty() && all < 150 * MS, "it learns: {pauses:?}");
        assert!(pauses.iter().all(|(at, _)| *at < 250 * MS), "and stays so: {pauses:?}");
    }

    impl crate::session::outbox::Outbox {
        fn relieved_after_taking(&mut self) -> Vec<std::task::Waker> {
            self.take(&mut VecDeque::new(), usize::MAX);
            self.relieved()
        }
    }
}
