//! What one publisher and its subscribers share: how far each of them is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Bits of a message's number that count; above them stands who published it.
const COUNT_BITS: u32 = 48;

/// The number that the message `sequence` of the publisher `source` carries.
pub(super) fn sourced(source: usize, sequence: u64) -> u64 {
    (source as u64) << COUNT_BITS | sequence
}

/// Who published the message with this number, and its place among his.
pub(super) fn source_of(number: u64) -> (usize, u64) {
    ((number >> COUNT_BITS) as usize, number & ((1 << COUNT_BITS) - 1))
}

/// A stream of messages from one publisher to its subscribers.
///
/// The publisher may be at most `lead` messages ahead of its subscribers: that closes the loop at QoS 0,
/// where nothing is acknowledged, and keeps every broker's queues bounded, so that throughput is what comes
/// out at the far end and not what a queue can swallow.
#[derive(Debug)]
pub struct Flow {
    lead: u64,
    fan_out: u64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    received: AtomicU64,
    misordered: AtomicU64,
    /// The publisher waits until `received` reaches this; `u64::MAX` while it does not wait.
    resume_at: AtomicU64,
    resume: Notify,
    stop: AtomicBool,
}

impl Flow {
    /// A flow to `fan_out` subscribers, whose publisher may be `lead` messages ahead.
    pub fn new(fan_out: usize, lead: u64) -> Self {
        Self {
            lead,
            fan_out: fan_out as u64,
            sent: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            received: AtomicU64::new(0),
            misordered: AtomicU64::new(0),
            resume_at: AtomicU64::new(u64::MAX),
            resume: Notify::new(),
            stop: AtomicBool::new(false),
        }
    }

    /// How many more messages the publisher may send now.
    pub fn room(&self) -> u64 {
        let arrived = self.received.load(Ordering::Acquire) / self.fan_out;
        (arrived + self.lead).saturating_sub(self.sent.load(Ordering::Relaxed))
    }

    /// The publisher has put `count` more messages into its outbox.
    pub fn add_sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    /// The broker has acknowledged `count` more messages (PUBACK, PUBCOMP).
    pub fn add_acknowledged(&self, count: u64) {
        self.acknowledged.fetch_add(count, Ordering::Relaxed);
    }

    /// A subscriber has received `count` more messages, `misordered` of them not the next one.
    pub fn add_received(&self, count: u64, misordered: u64) {
        if misordered > 0 {
            self.misordered.fetch_add(misordered, Ordering::Relaxed);
        }
        let total = self.received.fetch_add(count, Ordering::AcqRel) + count;
        if total >= self.resume_at.load(Ordering::Acquire) {
            self.resume_at.store(u64::MAX, Ordering::Release);
            self.resume.notify_one();
        }
    }

    /// Ends when half of the lead has arrived, or at [`finish`](Self::finish). Half: waking the publisher
    /// for every message would cost the generator more than the message.
    pub async fn wait_for_room(&self) {
        let sent = self.sent.load(Ordering::Relaxed);
        let target = sent.saturating_sub(self.lead / 2) * self.fan_out;
        self.resume_at.store(target, Ordering::Release);
        // The last message may have arrived before the target was set.
        if self.received.load(Ordering::Acquire) >= target || self.is_finished() {
            return;
        }
        self.resume.notified().await;
    }

    /// Tells the publisher to stop.
    pub fn finish(&self) {
        self.stop.store(true, Ordering::Release);
        self.resume.notify_one();
    }

    /// Whether the publisher has been told to stop.
    pub fn is_finished(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Messages sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages that the broker acknowledged to the publisher.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Deliveries that subscribers received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Deliveries that there should be for what was sent.
    pub fn expected(&self) -> u64 {
        self.sent() * self.fan_out
    }

    /// Deliveries that were not the next one of their subscriber (lost before, or out of order, or twice).
    pub fn misordered(&self) -> u64 {
        self.misordered.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_publisher_stops_at_its_lead_and_resumes_at_half_of_it() {
        let flow = Flow::new(2, 10);
        assert_eq!(flow.room(), 10);
        flow.add_sent(10);
        assert_eq!(flow.room(), 0);
        let mut waiting = std::pin::pin!(flow.wait_for_room());
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_ready()));
        assert!(!now.await);
        flow.add_received(9, 0);
        let now = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_ready()));
        assert!(!now.await, "9 of 20 deliveries are less than half");
        flow.add_received(1, 0);
        waiting.await;
        assert_eq!(flow.room(), 5);
    }

    #[test]
    fn a_number_tells_who_published_and_how_much_before() {
        assert_eq!(source_of(sourced(9, 1_234_567)), (9, 1_234_567));
        assert_eq!(sourced(0, 7), 7, "one publisher alone just counts");
    }

    #[tokio::test]
    async fn a_waiting_publisher_is_woken_by_the_end() {
        let flow = Flow::new(1, 1);
        flow.add_sent(1);
        flow.finish();
        flow.wait_for_room().await;
        assert!(flow.is_finished());
    }
}
