//! How fast one client may send: a bucket for messages and one for bytes.
//!
//! A bucket holds what may be sent in one second. A client that empties one is not read from until there is something
//! in it again: what it sends waits on its own side. Nothing that it has sent is lost.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::config::BrokerConfig;

/// What a bucket holds, as time: a burst of that much is taken at once.
const BURST: Duration = Duration::from_secs(1);
/// A client that was stopped goes on when it may send for that long: a timer for each message would cost more.
const REST: Duration = Duration::from_millis(5);

/// Which limit a client has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Exceeded {
    Messages,
    Bytes,
}

/// When all that was sent so far would have been sent at the greatest rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: u64,
    sent_by: Instant,
}

impl Bucket {
    /// `None`: without a limit.
    fn new(per_second: u64, now: Instant) -> Option<Self> {
        (per_second > 0).then_some(Self { per_second, sent_by: now })
    }

    /// Takes `amount` out. Gives until when nothing more may be taken, if it is empty.
    fn take(&mut self, amount: u64, now: Instant) -> Option<Instant> {
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(HOUR));
        self.sent_by = self.sent_by.max(now) + cost;
        (self.sent_by > now + BURST).then(|| self.sent_by + REST - BURST)
    }
}

/// No packet is so large that it would cost more, at any rate worth a limit.
const HOUR: u64 = 3_600_000_000_000;

/// What one client has sent lately.
pub(crate) struct Rate {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    until: Option<Instant>,
    /// Made at the first stop, then used again.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Rate {
    /// `None`: there are no limits.
    pub(crate) fn new(config: &BrokerConfig) -> Option<Box<Self>> {
        let now = Instant::now();
        let messages = Bucket::new(config.max_message_rate, now);
        let bytes = Bucket::new(config.max_byte_rate, now);
        (messages.is_some() || bytes.is_some())
            .then(|| Box::new(Self { messages, bytes, until: None, timer: None }))
    }

    /// A limit of what is looked up for a client.
    pub(crate) fn of_look_ups(per_second: u64) -> Self {
        Self { messages: None, bytes: Bucket::new(per_second, Instant::now()), until: None, timer: None }
    }

    /// So much more was looked up.
    pub(crate) fn looked_up(&mut self, count: usize) {
        self.bytes(count);
    }

    /// The client has sent a PUBLISH.
    pub(crate) fn message(&mut self) -> Option<Exceeded> {
        let now = Instant::now();
        let until = self.messages.as_mut()?.take(1, now);
        self.stop(until, Exceeded::Messages)
    }

    /// The client has sent `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Option<Exceeded> {
        let now = Instant::now();
        let until = self.bytes.as_mut()?.take(count as u64, now);
        self.stop(until, Exceeded::Bytes)
    }

    /// Gives why, unless it was stopped already.
    fn stop(&mut self, until: Option<Instant>, why: Exceeded) -> Option<Exceeded> {
        let until = until?;
        let fresh = self.until.is_none();
        self.until = self.until.max(Some(until));
        fresh.then_some(why)
    }

    /// Whether the client is not to be read from.
    pub(crate) fn is_stopped(&self) -> bool {
        self.until.is_some()
    }

    /// Looks whether the client may go on. Gives whether it just may.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(until) = self.until else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        let over = timer.as_mut().poll(cx) == Poll::Ready(());
        if over {
            self.until = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_bucket_lets_a_second_pass_at_once_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start).unwrap();
        assert!((0..100).all(|_| bucket.take(1, start).is_none()));
        let until = bucket.take(1, start).unwrap();
        assert_eq!(until - start, Duration::from_millis(10) + REST);
        let later = start + Duration::from_millis(500);
        assert!((0..49).all(|_| bucket.take(1, later).is_none()));
        assert!(bucket.take(1, later).is_some());
        assert!(Bucket::new(0, start).is_none());
        // One packet that is larger than a second's worth passes, and is paid for.
        let mut bytes = Bucket::new(1_000, start).unwrap();
        let until = bytes.take(10_000, start).unwrap();
        assert_eq!(until - start, Duration::from_secs(9) + REST);
    }

    #[tokio::test]
    async fn look_ups_stop_when_there_were_too_many_in_a_second() {
        let mut look_ups = Rate::of_look_ups(1_000);
        look_ups.looked_up(900);
        assert!(!look_ups.is_stopped());
        look_ups.looked_up(200);
        assert!(look_ups.is_stopped());
        std::future::poll_fn(|cx| if look_ups.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(!look_ups.is_stopped());
    }

    #[tokio::test]
    async fn a_client_that_sends_too_fast_is_stopped_and_goes_on() {
        let config = BrokerConfig { max_message_rate: 100, ..BrokerConfig::default() };
        let mut rate = Rate::new(&config).unwrap();
        let begun = Instant::now();
        let sent = (1..200).find(|_| rate.message().is_some()).unwrap();
        assert!((101..=110).contains(&sent), "{sent}");
        assert_eq!(rate.message(), None, "it is counted once a stop");
        assert_eq!(rate.bytes(1 << 30), None, "there is no such limit");
        assert!(rate.is_stopped());
        std::future::poll_fn(|cx| if rate.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(begun.elapsed() >= Duration::from_millis(25));
        assert!(!rate.is_stopped());
        assert!(Rate::new(&BrokerConfig::default()).is_none());
    }
}
